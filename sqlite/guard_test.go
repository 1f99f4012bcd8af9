package sqlite

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/semel-dev/semel"
)

func TestLibraryVersion(t *testing.T) {
	t.Parallel()
	for version, ok := range map[string]bool{
		"3.51.3": true, "3.51.4": true, "3.52.0": true, "3.100.0": true, "4.0.0": true, "3.53": true, "3.51.3.1": true,
		"3.51.2": false, "3.51": false, "3.9.99": false, "3.6.23.1": false, "2.99.99": false,
		"": false, "3": false, "three.four.five": false, "3.-1.0": false, "1.2.3.4.5": false,
	} {
		if err := checkLibrary(version); (err == nil) != ok {
			t.Errorf("%q: %v", version, err)
		}
	}
}

const lockVariable = "SEMEL_TEST_LOCK"

// tryLock is what the second process does.
func tryLock(path string) int {
	s, err := Open(context.Background(), path, nil)
	if err != nil {
		fmt.Println(err)
		return 3
	}
	if err := s.Close(); err != nil {
		fmt.Println(err)
		return 4
	}
	return 0
}

func TestOneProcessAtATime(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "semel.db")
	s := reopen(t, path)
	second := func() (string, int) {
		program, err := os.Executable()
		must(t, err)
		cmd := exec.CommandContext(t.Context(), program)
		cmd.Env = append(os.Environ(), lockVariable+"="+path)
		out, _ := cmd.CombinedOutput()
		return string(out), cmd.ProcessState.ExitCode()
	}
	if out, code := second(); code != 3 || !strings.Contains(out, "semel.db-lock") {
		t.Errorf("while the store is open: exit %d, %s", code, out)
	}
	if _, err := Open(t.Context(), path, nil); err == nil {
		t.Error("opened twice in one process")
	}
	link := filepath.Join(t.TempDir(), "link.db")
	must(t, os.Symlink(path, link))
	if _, err := Open(t.Context(), link, nil); err == nil {
		t.Error("opened twice through a symbolic link")
	}
	must(t, s.Close())
	must(t, s.Close())
	if out, code := second(); code != 0 {
		t.Errorf("after Close: exit %d, %s", code, out)
	}
	if _, err := s.Begin(t.Context(), false); !errors.Is(err, errClosed) {
		t.Errorf("Begin after Close: %v", err)
	}
	if _, err := s.Operation(t.Context(), semel.ID{}); err == nil {
		t.Error("Operation after Close: no error")
	}
}

func TestOpenRefuses(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	garbage := filepath.Join(dir, "garbage.db")
	must(t, os.WriteFile(garbage, []byte(strings.Repeat("not a database ", 100)), 0o600))
	for _, path := range []string{"", ":memory:", "file:x.db", filepath.Join(dir, "missing", "x.db"), dir, garbage} {
		if s, err := Open(t.Context(), path, nil); err == nil {
			t.Errorf("Open(%q): no error", path)
			s.Close()
		}
	}
}

func TestOpenTakesAwkwardPaths(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for _, name := range []string{"a b.db", "a?mode=ro.db", "a#b.db", "a%20b.db", "ä.db"} {
		path := filepath.Join(dir, name)
		s := reopen(t, path)
		exec1(t, s, `CREATE TABLE t (x)`)
		if _, err := os.Stat(path); err != nil {
			t.Error(err)
		}
	}
}

func TestNewerSchemaIsRefused(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "semel.db")
	s := reopen(t, path)
	exec1(t, s, `INSERT INTO semel_migrations VALUES (999, 'later', 'x', 0)`)
	must(t, s.Close())
	if _, err := Open(t.Context(), path, nil); err == nil || !strings.Contains(err.Error(), "999") {
		t.Errorf("newer schema: %v", err)
	}
}
