package demo

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"sync"
	"time"
)

const (
	// startPatience is for a worker that is to take commands.
	startPatience = 30 * time.Second
	// drainPatience is for a worker that is to end by itself.
	drainPatience = 15 * time.Second
	// hopeless is how many workers in a row may die before they are ready.
	hopeless = 5
)

// worker supervises the bank's server: a real process of its own, so that it
// can be killed as a machine kills, and started again at once.
type worker struct {
	command []string // program and arguments
	log     io.Writer
	changed func()
	client  *http.Client

	mu       sync.Mutex
	process  *exec.Cmd
	stdin    io.Closer // closing it asks the worker to drain
	base     string    // "" unless it takes commands
	restarts int
	stopping bool
	ready    chan struct{} // closed while base is set
	ended    chan struct{} // closed when supervision has ended
	err      error         // why, if not because it was stopped
}

func newWorker(command []string, log io.Writer, changed func()) *worker {
	return &worker{
		command: command, log: log, changed: changed,
		client: &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}},
		ready:  make(chan struct{}),
		ended:  make(chan struct{}),
	}
}

// supervise runs one worker after the other until stop is called.
func (w *worker) supervise() {
	defer close(w.ended)
	for deaths := 0; deaths < hopeless; {
		served, err := w.runOne()
		w.mu.Lock()
		stopping := w.stopping
		if stopping && !died(err) || !served && deaths == hopeless-1 {
			w.err = err
		}
		if !stopping {
			w.restarts++
		}
		w.mu.Unlock()
		w.changed()
		if stopping {
			return
		}
		if served {
			deaths = 0
		} else {
			deaths++
		}
	}
}

// died reports whether a worker's end is none of its own doing: it was killed,
// which is what the demo is about, or never started.
func died(err error) bool {
	var exit *exec.ExitError
	return errors.Is(err, errStopped) || errors.As(err, &exit) && !exit.Exited()
}

var errStopped = errors.New("stopped before it started")

// runOne runs a worker to its end and reports whether it ever took commands.
func (w *worker) runOne() (served bool, err error) {
	process, stdout, err := w.start()
	if err != nil {
		return false, err
	}
	lines := bufio.NewScanner(stdout)
	if lines.Scan() {
		if _, base, ok := strings.Cut(lines.Text(), "http://"); ok {
			served = w.awaitReady("http://" + base)
		}
	}
	_, _ = io.Copy(io.Discard, stdout) // until it ends
	err = process.Wait()
	w.mu.Lock()
	if w.base != "" {
		w.base, w.ready = "", make(chan struct{})
	}
	w.process = nil
	w.mu.Unlock()
	if err != nil {
		err = fmt.Errorf("worker %d: %w", process.Process.Pid, err)
	}
	return served, err
}

func (w *worker) start() (*exec.Cmd, io.Reader, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.stopping {
		return nil, nil, errStopped
	}
	process := exec.Command(w.command[0], w.command[1:]...)
	process.Env = os.Environ()
	process.Stderr = w.log
	stdin, err := process.StdinPipe()
	if err != nil {
		return nil, nil, err
	}
	stdout, err := process.StdoutPipe()
	if err != nil {
		return nil, nil, err
	}
	if err := process.Start(); err != nil {
		return nil, nil, fmt.Errorf("starting the worker: %w", err)
	}
	w.process, w.stdin = process, stdin
	return process, stdout, nil
}

// awaitReady asks until the worker takes commands, or can no longer be asked.
func (w *worker) awaitReady(base string) bool {
	ctx, cancel := context.WithTimeout(context.Background(), startPatience)
	defer cancel()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		status, err := w.ask(ctx, http.MethodGet, base+"/readyz", nil, nil)
		if status == http.StatusOK {
			break
		}
		if err != nil && status == 0 {
			return false // it has died, or does not answer
		}
		select {
		case <-ctx.Done():
			return false
		case <-tick.C:
		}
	}
	w.mu.Lock()
	w.base = base
	close(w.ready)
	w.mu.Unlock()
	w.changed()
	return true
}

// target returns where the worker is, if it takes commands.
func (w *worker) target() (string, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.base, w.base != ""
}

// await waits until the worker takes commands.
func (w *worker) await(ctx context.Context) error {
	w.mu.Lock()
	ready := w.ready
	w.mu.Unlock()
	select {
	case <-ready:
		return nil
	case <-w.ended:
		return fmt.Errorf("the worker does not start: %w", w.failure())
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (w *worker) failure() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.err
}

// kill ends the worker as a power cut would; supervise starts the next one.
func (w *worker) kill() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.process == nil {
		return errors.New("the worker is not running")
	}
	return w.process.Process.Kill()
}

// stop asks the worker to drain, waits for its end, and returns how it ended.
func (w *worker) stop() error {
	w.mu.Lock()
	w.stopping = true
	if w.process != nil {
		_ = w.stdin.Close()
	}
	w.mu.Unlock()
	timer := time.NewTimer(drainPatience)
	defer timer.Stop()
	select {
	case <-w.ended:
	case <-timer.C:
		_ = w.kill()
		<-w.ended
		return fmt.Errorf("the worker did not drain within %v", drainPatience)
	}
	return w.failure()
}

type workerState struct {
	PID      int  `json:"pid"`
	Up       bool `json:"up"`
	Restarts int  `json:"restarts"`
}

func (w *worker) state() workerState {
	w.mu.Lock()
	defer w.mu.Unlock()
	s := workerState{Up: w.base != "", Restarts: w.restarts}
	if w.process != nil {
		s.PID = w.process.Process.Pid
	}
	return s
}

// hook calls one of the worker's demo hooks.
func (w *worker) hook(ctx context.Context, path string, question, answer any) error {
	base, up := w.target()
	if !up {
		return errDown
	}
	status, err := w.ask(ctx, http.MethodPost, base+path, question, answer)
	if err == nil && status/100 != 2 {
		err = fmt.Errorf("the worker's hook %s answered %d", path, status)
	}
	return err
}

// ask makes one request with JSON both ways. The status is 0 if there was no
// answer at all.
func (w *worker) ask(ctx context.Context, method, url string, question, answer any) (status int, err error) {
	body, err := json.Marshal(question)
	if err != nil {
		return 0, err
	}
	r, err := http.NewRequestWithContext(ctx, method, url, bytes.NewReader(body))
	if err != nil {
		return 0, err
	}
	in, err := w.client.Do(r)
	if err != nil {
		return 0, err
	}
	defer in.Body.Close()
	if answer == nil || in.StatusCode/100 != 2 {
		return in.StatusCode, nil
	}
	return in.StatusCode, json.NewDecoder(in.Body).Decode(answer)
}
