package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/semel-dev/semel/internal/leak"
)

// patience is how long a real process may take for anything.
const patience = 30 * time.Second

func TestMain(m *testing.M) { leak.Main(m) }

// binary is the real program, built by TestProgram.
var binary string

// TestProgram builds the program and uses it as people do.
func TestProgram(t *testing.T) {
	binary = filepath.Join(t.TempDir(), "semel")
	build := exec.CommandContext(t.Context(), "go", "build", "-o", binary, ".")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("building the program: %v\n%s", err, out)
	}
	t.Run("command line", commandLine)
	t.Run("serve", func(t *testing.T) {
		t.Run("drains", serveDrains)
		t.Run("comes back", serveComesBack)
		t.Run("refuses what it cannot serve", serveRefuses)
	})
	t.Run("call", func(t *testing.T) {
		t.Run("codes", callCodes)
		t.Run("queue", callQueue)
	})
	t.Run("verify", func(t *testing.T) {
		t.Run("sound", verifySound)
		t.Run("damage", verifyDamage)
	})
	t.Run("demo", func(t *testing.T) {
		t.Run("check", demoCheck)
		t.Run("by hand", demoByHand)
		t.Run("leaves nothing behind", demoLeavesNothing)
	})
}

// execute runs the program to its end.
func execute(t *testing.T, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, binary, args...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatalf("semel %s: %v", strings.Join(args, " "), err)
	}
	return cmd.ProcessState.ExitCode(), out.String(), errs.String()
}

// A process is the program while it runs and serves.
type process struct {
	*exec.Cmd
	base string // http://host:port

	out    sync.WaitGroup
	stdout bytes.Buffer // after out
	stderr bytes.Buffer // after the end
}

var address = regexp.MustCompile(`http://127\.0\.0\.1:\d+`)

// start runs the program until it has printed an address.
func start(t *testing.T, args ...string) *process {
	t.Helper()
	p := &process{Cmd: exec.Command(binary, args...)}
	p.Stderr = &p.stderr
	out, err := p.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if p.ProcessState == nil {
			_ = p.Process.Kill()
			p.out.Wait()
			_ = p.Wait()
		}
		if t.Failed() {
			t.Logf("%s\nstdout: %s\nstderr: %s", strings.Join(args, " "), &p.stdout, &p.stderr)
		}
	})
	found := make(chan string, 1)
	p.out.Go(func() {
		lines := bufio.NewScanner(out)
		for lines.Scan() {
			p.stdout.WriteString(lines.Text() + "\n")
			if a := address.FindString(lines.Text()); a != "" {
				select {
				case found <- a:
				default:
				}
			}
		}
		close(found)
	})
	select {
	case p.base = <-found:
		if p.base == "" {
			t.Fatal("it ended before it printed an address")
		}
	case <-time.After(patience):
		t.Fatal("it printed no address")
	}
	return p
}

// serveBank starts a server on data and waits until it takes commands.
func serveBank(t *testing.T, data string) *process {
	t.Helper()
	p := start(t, "serve", "--addr", "127.0.0.1:0", "--data", data)
	until(t, "it is ready", func() bool { status, _ := p.ask("GET", "/readyz", ""); return status == 200 })
	return p
}

// end waits for the end of the process and returns its exit code.
func (p *process) end(t *testing.T) int {
	t.Helper()
	timer := time.AfterFunc(patience, func() { _ = p.Process.Kill() })
	defer timer.Stop()
	p.out.Wait()
	_ = p.Wait() // the exit code says it
	return p.ProcessState.ExitCode()
}

// visitor keeps no connections: a server that is gone must look gone.
var visitor = &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: patience}

// ask makes one request as the visitor; status 0 means no answer.
func (p *process) ask(method, path, body string) (status int, answer string) {
	r, err := http.NewRequest(method, p.base+path, strings.NewReader(body))
	if err != nil {
		return 0, err.Error()
	}
	r.Header.Set("Authorization", "Bearer visitor")
	r.Header.Set("Content-Type", "application/json")
	in, err := visitor.Do(r)
	if err != nil {
		return 0, err.Error()
	}
	defer in.Body.Close()
	text, err := io.ReadAll(in.Body)
	if err != nil {
		return 0, err.Error()
	}
	return in.StatusCode, string(text)
}

// must makes a request that has to succeed.
func (p *process) must(t *testing.T, method, path, body string) string {
	t.Helper()
	status, answer := p.ask(method, path, body)
	if status/100 != 2 {
		t.Fatalf("%s %s: %d %s", method, path, status, answer)
	}
	return answer
}

// fund opens alice's account with 100.00 and takes 25.00 out.
func (p *process) fund(t *testing.T) {
	t.Helper()
	p.must(t, "PUT", "/commands/open/1", `{"account":"alice"}`)
	p.must(t, "PUT", "/accounts/alice/deposits/2", `{"cents":10000}`)
	p.must(t, "PUT", "/accounts/alice/withdrawals/3", `{"cents":2500}`)
}

// until polls what another process does.
func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.After(patience)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-deadline:
			t.Fatalf("waited for %v in vain: %s", patience, what)
		case <-tick.C:
		}
	}
}
