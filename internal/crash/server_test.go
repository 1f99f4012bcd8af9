package crash

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"regexp"
	"syscall"
	"time"

	"github.com/semel-dev/semel/internal/crashpoint"
)

// slow is how long a real process may take for what is quick: a start, a drain.
const slow = 60 * time.Second

// A launch says how the program is started.
type launch struct {
	program string
	data    string
	window  time.Duration
	step    string // done wrong, in a program that was built for it
	crash   string // a point and a passage, as in SEMEL_CRASH
	log     string // file that standard error is appended to
}

// A server is the program while it serves.
type server struct {
	cmd    *exec.Cmd
	base   string
	client *http.Client
	found  chan string   // gets its address
	died   chan struct{} // closed when the process has ended and was waited for
}

var address = regexp.MustCompile(`http://\S+`)

// begin starts the program and returns at once.
func begin(l launch) (*server, error) {
	log, err := os.OpenFile(l.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	defer log.Close() // the child has its own
	args := []string{"serve", "--addr", "127.0.0.1:0", "--data", l.data}
	if l.window > 0 {
		args = append(args, "--window", l.window.String())
	}
	s := &server{cmd: exec.Command(l.program, args...), found: make(chan string, 1), died: make(chan struct{})}
	s.cmd.Env = append(os.Environ(), crashpoint.Variable+"="+l.crash, "SEMEL_BROKEN="+l.step)
	s.cmd.Stderr = log
	s.client = &http.Client{Transport: s.transport(), Timeout: slow}
	stdout, err := s.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := s.cmd.Start(); err != nil {
		return nil, err
	}
	go func() {
		defer close(s.died)
		for lines := bufio.NewScanner(stdout); lines.Scan(); {
			if base := address.FindString(lines.Text()); base != "" {
				select {
				case s.found <- base:
				default:
				}
			}
		}
		_ = s.cmd.Wait() // how it ended is read off its state
	}()
	return s, nil
}

// start returns when the program takes commands.
func start(ctx context.Context, l launch) (*server, error) {
	s, err := begin(l)
	if err != nil {
		return nil, err
	}
	if err := s.waitReady(ctx); err != nil {
		s.kill()
		return nil, fmt.Errorf("starting %s: %w; see %s", l.program, err, l.log)
	}
	return s, nil
}

// transport never dials a process that has ended: another one may have been
// given its port.
func (s *server) transport() *http.Transport {
	var d net.Dialer
	return &http.Transport{
		MaxIdleConnsPerHost: 64,
		DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			if s.dead() {
				return nil, errors.New("the program has ended")
			}
			return d.DialContext(ctx, network, addr)
		},
	}
}

func (s *server) waitReady(ctx context.Context) error {
	late := time.NewTimer(slow)
	defer late.Stop()
	select {
	case s.base = <-s.found:
	case <-s.died:
		return fmt.Errorf("it ended at once: %s", s.cmd.ProcessState)
	case <-late.C:
		return fmt.Errorf("it printed no address within %s", slow)
	}
	return poll(ctx, slow, func() (bool, error) {
		if s.dead() {
			return false, fmt.Errorf("it ended before it was ready: %s", s.cmd.ProcessState)
		}
		r, err := s.client.Get(s.base + "/readyz")
		if err != nil {
			return false, nil
		}
		return r.StatusCode == http.StatusOK, r.Body.Close()
	})
}

func (s *server) dead() bool {
	select {
	case <-s.died:
		return true
	default:
		return false
	}
}

// kill ends the process as a power cut would, and waits for its end.
func (s *server) kill() {
	_ = s.cmd.Process.Kill() // it may have ended by itself
	<-s.died
	s.client.CloseIdleConnections()
}

// killed reports whether the process ended by SIGKILL.
func (s *server) killed() bool {
	status, ok := s.cmd.ProcessState.Sys().(syscall.WaitStatus)
	return ok && status.Signaled() && status.Signal() == syscall.SIGKILL
}

// drain asks the process to end and returns how it did not do so well.
func (s *server) drain() error {
	// Connections that were dialled and never used would hold up the end for
	// five seconds: the server cannot know that nothing is on its way.
	s.client.CloseIdleConnections()
	if err := s.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	late := time.NewTimer(slow)
	defer late.Stop()
	select {
	case <-s.died:
	case <-late.C:
		s.kill()
		return fmt.Errorf("it did not end within %s of SIGTERM", slow)
	}
	if !s.cmd.ProcessState.Success() {
		return fmt.Errorf("it ended with %s after SIGTERM", s.cmd.ProcessState)
	}
	return nil
}

var errLate = errors.New("it took too long")

// poll asks until the answer is yes, an error, or late.
func poll(ctx context.Context, patience time.Duration, ask func() (bool, error)) error {
	ctx, cancel := context.WithTimeoutCause(ctx, patience, errLate)
	defer cancel()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		if ok, err := ask(); ok || err != nil {
			return err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}
