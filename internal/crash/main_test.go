package crash

import (
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/semel-dev/semel/internal/leak"
)

var (
	roundsFlag  = flag.Int("crash.rounds", 50, "how often TestRandomKills kills the program (10 with -short unless given)")
	seedFlag    = flag.Uint64("crash.seed", 0, "seed of every choice; 0 takes one of the clock")
	resultsFlag = flag.String("crash.results", "", "file that TestRandomKills writes its counts to, as JSON")
)

// programs are built when they are first needed and shared by all tests.
var programs struct {
	sync.Mutex
	dir string
}

var (
	sound  = sync.OnceValues(func() (string, error) { return build("semel") })
	broken = sync.OnceValues(func() (string, error) { return build("semel-broken", "-tags", "broken") })
)

func build(name string, args ...string) (path string, err error) {
	programs.Lock()
	defer programs.Unlock()
	if err := readModule(); err != nil {
		return "", err
	}
	if programs.dir == "" {
		if programs.dir, err = os.MkdirTemp("", "semel-crash-"); err != nil {
			return "", err
		}
	}
	path = filepath.Join(programs.dir, name)
	cmd := exec.Command("go", append(append([]string{"build"}, args...), "-o", path, "../../cmd/semel")...)
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", errors.Join(fmt.Errorf("building the program: %w", err), errors.New(string(out)))
	}
	return path, nil
}

// readModule reads the module's directories. The go command notes that, and so
// does not take the tests' results from its cache when the program's code has
// changed, of which this package imports only a part.
func readModule() error {
	return filepath.WalkDir("../..", func(path string, entry fs.DirEntry, err error) error {
		if err == nil && entry.IsDir() && (strings.HasPrefix(entry.Name(), ".git") || entry.Name() == "docs") {
			return filepath.SkipDir
		}
		return err
	})
}

// run runs the tests and removes the programs.
type run struct{ *testing.M }

func (r run) Run() int {
	defer func() { _ = os.RemoveAll(programs.dir) }() // "" removes nothing
	return r.M.Run()
}

func TestMain(m *testing.M) {
	// Most of the time is spent waiting for disks and deadlines.
	_ = flag.Set("test.parallel", "4") // the command line comes later, and wins
	leak.Main(run{m})
}

var clockSeed = uint64(time.Now().UnixNano())

func seed() uint64 {
	if *seedFlag != 0 {
		return *seedFlag
	}
	return clockSeed
}

// dice returns a source of choices that is the same for the same seed and name.
func dice(name string, number int) *rand.Rand {
	h := seed()
	for _, c := range []byte(name) {
		h = (h ^ uint64(c)) * 0x100000001b3
	}
	return rand.New(rand.NewPCG(h, uint64(number)))
}
