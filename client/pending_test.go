package client_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/semel-dev/semel"
	"github.com/semel-dev/semel/client"
)

// pendingFile opens a pending file that is closed when the test ends.
func pendingFile(t *testing.T, path string, o *client.PendingOptions) *client.PendingFile {
	t.Helper()
	if o == nil {
		o = &client.PendingOptions{Logger: slog.New(slog.DiscardHandler)}
	}
	f, err := client.OpenPending(path, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := f.Close(); err != nil {
			t.Errorf("closing the pending file: %v", err)
		}
	})
	return f
}

// running runs the client's sender until the returned function is called.
func running(t *testing.T, c *client.Client) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	ended := make(chan error, 1)
	go func() { ended <- c.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	t.Cleanup(stop)
	return stop
}

func submit(t *testing.T, c *client.Client, r client.Request) *client.Pending {
	t.Helper()
	p, err := c.Submit(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// states lists what is in the store as "key state".
func states(c *client.Client) string {
	var b strings.Builder
	for _, p := range c.List() {
		fmt.Fprintf(&b, "%s %s\n", p.Key, p.State)
	}
	return strings.TrimSpace(b.String())
}

// unreachable is a network on which nobody listens.
var unreachable = &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) {
	return nil, &net.OpError{Op: "dial", Net: "tcp", Err: os.NewSyscallError("connect", syscall.ECONNREFUSED)}
}}

// offline returns a client that reaches nobody.
func offline(t *testing.T, f *client.PendingFile) *client.Client {
	t.Helper()
	c, err := client.New("http://bank.test", &client.Options{Pending: f, HTTP: &http.Client{Transport: unreachable}, Budget: client.NoBudget})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// TestSubmittedSurvives: what was submitted, tried or answered in one process
// is there in the next.
func TestSubmittedSurvives(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "pending")
		f := pendingFile(t, path, nil)
		c := offline(t, f)
		submit(t, c, client.Request{Command: "withdraw", Key: "one", Body: withdraw{"alice", 30}, Header: http.Header{"X-Reason": {"rent"}}})
		submit(t, c, client.Request{Path: "/accounts/bob/withdrawals/{key}", Key: "two", Body: map[string]int{"cents": 5}})
		submit(t, c, client.Request{Command: "withdraw", Key: "three", Body: withdraw{"alice", 1000}})
		if err := c.Cancel("three"); err != nil {
			t.Fatal(err)
		}
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("mode %v, %v; want 0600", info.Mode(), err)
		}
		stop := running(t, c)
		pass(time.Hour)
		stop()
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}

		s := &script{steps: []http.HandlerFunc{answer(200, `{"balance":70}`, "Set-Cookie", "session=secret"), problem(409, "operation-rejected", "no")}}
		f = pendingFile(t, path, nil)
		c = connect(t, s.ServeHTTP, client.Options{Pending: f, Senders: 1})
		if got, want := states(c), "one waiting\ntwo waiting\nthree canceled"; got != want {
			t.Errorf("after the restart:\n%s\nwant\n%s", got, want)
		}
		running(t, c)
		if err := c.Drain(t.Context(), nil); err != nil {
			t.Fatal(err)
		}
		seen := s.requests()
		if len(seen) != 2 || seen[0].header.Get("Idempotency-Key") != `"one"` || seen[0].body != `{"account":"alice","cents":30}` ||
			seen[0].header.Get("X-Reason") != "rent" || seen[1].method != "PUT" || seen[1].path != "/accounts/bob/withdrawals/two" {
			t.Errorf("sent %+v", seen)
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
		if data, err := os.ReadFile(path); err != nil || strings.Contains(string(data), "secret") {
			t.Errorf("the file has a cookie in it: %v", err)
		}

		f = pendingFile(t, path, nil)
		c = offline(t, f)
		if got, want := states(c), "one completed\ntwo rejected\nthree canceled"; got != want {
			t.Errorf("after the second restart:\n%s\nwant\n%s", got, want)
		}
		checkOutcomes(t, c)
		for _, p := range c.List() {
			if err := c.Acknowledge(p.Key); err != nil {
				t.Error(err)
			}
		}
		if got := states(c); got != "" {
			t.Errorf("acknowledged, and still there: %s", got)
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
		if c := offline(t, pendingFile(t, path, nil)); states(c) != "" {
			t.Errorf("acknowledged, and there again: %s", states(c))
		}
	})
}

func checkOutcomes(t *testing.T, c *client.Client) {
	t.Helper()
	reply, err := c.Await(t.Context(), &client.Pending{Key: "one"})
	var b balance
	if err != nil || reply.Decode(&b) != nil || b.Balance != 70 || !reply.Done || reply.Status != 200 {
		t.Errorf("reply %+v, %v", reply, err)
	}
	_, err = c.Await(t.Context(), &client.Pending{Key: "two"})
	var no *client.Rejected
	if !errors.As(err, &no) || no.Reason != "no" || no.Key != "two" {
		t.Errorf("rejected as %v", err)
	}
	if _, err = c.Await(t.Context(), &client.Pending{Key: "three"}); !errors.Is(err, client.ClassCanceled) {
		t.Errorf("canceled as %v", err)
	}
	if _, err = c.Await(t.Context(), &client.Pending{Key: "four"}); !errors.Is(err, semel.ErrNotFound) {
		t.Errorf("never submitted: %v", err)
	}
}

// TestHoursWithoutServer: nothing is given up, nothing is lost, and the server
// is not run over when it is back.
func TestHoursWithoutServer(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const intentions, hours = 300, 7
		var dials, most, now atomic.Int64
		back := time.Now().Add(hours * time.Hour)
		s := &script{steps: []http.HandlerFunc{func(w http.ResponseWriter, r *http.Request) {
			most.Store(max(most.Load(), now.Add(1)))
			defer now.Add(-1)
			after(10*time.Millisecond, answer(200, `{}`))(w, r)
		}}}
		w := &wire{conns: make(chan net.Conn), closed: make(chan struct{})}
		server := &http.Server{Handler: s}
		served := make(chan error)
		go func() { served <- server.Serve(w) }()
		transport := &http.Transport{DialContext: func(ctx context.Context, n, a string) (net.Conn, error) {
			if time.Now().Before(back) {
				dials.Add(1)
				return unreachable.DialContext(ctx, n, a)
			}
			return w.dial(ctx, n, a)
		}}
		defer func() { server.Close(); <-served; transport.CloseIdleConnections() }()
		c, err := client.New("http://bank.test", &client.Options{HTTP: &http.Client{Transport: transport}, Budget: &client.Budget{},
			Pending: pendingFile(t, filepath.Join(t.TempDir(), "pending"), nil)})
		if err != nil {
			t.Fatal(err)
		}
		running(t, c)
		for i := range intentions {
			submit(t, c, client.Request{Command: "withdraw", Key: fmt.Sprint(i)})
		}
		var last client.Progress
		if err := c.Drain(t.Context(), func(p client.Progress) { last = p }); err != nil {
			t.Fatal(err)
		}
		if last.Completed != intentions || last.Open() != 0 || len(s.requests()) != intentions {
			t.Errorf("%+v after %d requests", last, len(s.requests()))
		}
		if n := dials.Load(); n < hours*60 || n > hours*60*10 {
			t.Errorf("%d tries in %d hours without a server", n, hours)
		}
		if most.Load() > 8 {
			t.Errorf("%d requests at a time, want 8 at most", most.Load())
		}
		if late := time.Since(back); late > 2*time.Minute {
			t.Errorf("drained %v after the server was back", late)
		}
		t.Logf("%d tries in %d hours; %d intentions were drained %v after it was back", dials.Load(), hours, intentions, time.Since(back))
	})
}

// TestWhatHoldsAndWhatEnds has one step of the server for each intention.
func TestWhatHoldsAndWhatEnds(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name  string
		steps []http.HandlerFunc
		want  client.PendingState
		tries int
		err   string
	}{
		{"a new token", []http.HandlerFunc{answer(401, ""), answer(401, ""), answer(200, `{}`)}, client.PendingCompleted, 3, ""},
		{"overloaded for long", append(repeat(40, answer(503, "", "Retry-After", "60")), answer(200, `{}`)), client.PendingCompleted, 41, ""},
		{"a proxy's page", []http.HandlerFunc{answer(200, "<html>"), answer(200, `{}`)}, client.PendingCompleted, 2, ""},
		{"forbidden", []http.HandlerFunc{answer(403, "")}, client.PendingFailed, 1, "withdraw: 403 Forbidden"},
		{"forbidden after a loss", []http.HandlerFunc{lost, answer(403, "")}, client.PendingFailed, 2,
			"withdraw: stopped after 2 tries: connection closed before the answer (×1); 403 Forbidden (×1)"},
		{"reused", []http.HandlerFunc{problem(422, "idempotency-key-reused", "")}, client.PendingFailed, 1, "withdraw: 422 idempotency-key-reused"},
		{"failed there", []http.HandlerFunc{problem(500, "operation-failed", "poison")}, client.PendingFailed, 1, "withdraw: the operation failed: poison"},
		{"accepted for hours", append(append([]http.HandlerFunc{accepted}, repeat(500, open)...), completed), client.PendingCompleted, 502, ""},
		{"accepted, then lost", []http.HandlerFunc{accepted, lost, open, answer(502, ""), completed}, client.PendingCompleted, 5, ""},
		{"accepted, then gone", []http.HandlerFunc{accepted, problem(404, "operation-not-found", "")}, client.PendingFailed, 2, "withdraw: 404 operation-not-found"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := &script{steps: tt.steps}
				path := filepath.Join(t.TempDir(), "pending")
				f := pendingFile(t, path, nil)
				c := connect(t, s.ServeHTTP, client.Options{Pending: f})
				running(t, c)
				p := submit(t, c, client.Request{Command: "withdraw"})
				_, err := c.Await(t.Context(), p)
				if got := c.List()[0]; got.State != tt.want || got.Tries != tt.tries {
					t.Errorf("%s after %d tries, want %s after %d", got.State, got.Tries, tt.want, tt.tries)
				}
				if tt.err == "" && err != nil || tt.err != "" && (err == nil || err.Error() != tt.err) {
					t.Errorf("error %v, want %q", err, tt.err)
				}
			})
		})
	}
}

func repeat(n int, h http.HandlerFunc) []http.HandlerFunc {
	steps := make([]http.HandlerFunc, n)
	for i := range steps {
		steps[i] = h
	}
	return steps
}

// TestLongOperationsDoNotHoldUp: what is accepted and takes hours leaves room
// for what is new.
func TestLongOperationsDoNotHoldUp(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := connect(t, func(w http.ResponseWriter, r *http.Request) {
			switch {
			case r.Method == "GET":
				after(20*time.Second, open)(w, r)
			case strings.HasSuffix(r.URL.Path, "slow"):
				accepted(w, r)
			default:
				answer(200, `{}`)(w, r)
			}
		}, client.Options{Senders: 2})
		stop := running(t, c)
		for range 20 {
			submit(t, c, client.Request{Command: "slow"})
		}
		synctest.Wait()
		start := time.Now()
		if _, err := c.Await(t.Context(), submit(t, c, client.Request{Command: "fast"})); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(start); took > time.Second {
			t.Errorf("a fast one took %v behind slow ones", took)
		}
		stop()
		if n := len(c.List()); n != 20 {
			t.Errorf("%d are left, want the 20 slow ones", n)
		}
	})
}

func TestCancel(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := &script{steps: []http.HandlerFunc{lost, answer(503, "")}}
		path := filepath.Join(t.TempDir(), "pending")
		f := pendingFile(t, path, nil)
		c := connect(t, s.ServeHTTP, client.Options{Pending: f})
		submit(t, c, client.Request{Command: "withdraw", Key: "unsent"})
		if err := errors.Join(c.Cancel("unsent"), c.Cancel("unsent")); err != nil {
			t.Errorf("canceling what was not sent: %v", err)
		}
		if err := c.Cancel("unknown"); !errors.Is(err, semel.ErrNotFound) {
			t.Errorf("canceling what is not there: %v", err)
		}
		submit(t, c, client.Request{Command: "withdraw", Key: "sent"})
		if err := c.Acknowledge("sent"); err == nil {
			t.Error("what is not done was acknowledged")
		}
		stop := running(t, c)
		pass(time.Minute)
		stop()
		if err := c.Cancel("sent"); !errors.Is(err, client.ErrMayHaveHappened) {
			t.Errorf("canceling what was sent: %v", err)
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
		c = offline(t, pendingFile(t, path, nil))
		if err := c.Cancel("sent"); !errors.Is(err, client.ErrMayHaveHappened) {
			t.Errorf("canceling what an earlier process has sent: %v", err)
		}
		for _, r := range s.requests() {
			if r.header.Get("Idempotency-Key") != `"sent"` {
				t.Errorf("sent %v", r.header)
			}
		}
	})
}

func TestDeadline(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		soon := time.Now().Add(time.Hour)
		c := offline(t, nil)
		running(t, c)
		_, err := c.Await(t.Context(), submit(t, c, client.Request{Command: "withdraw", Deadline: soon}))
		if !errors.Is(err, client.ClassDeadline) || !errors.Is(err, client.ClassRefused) || !strings.Contains(err.Error(), "not sent before its deadline") {
			t.Errorf("error %v", err)
		}
		if late := time.Since(soon); late < 0 || late > time.Minute {
			t.Errorf("given up %v after the deadline", late)
		}
		s := &script{steps: []http.HandlerFunc{lost}}
		c = connect(t, s.ServeHTTP, client.Options{})
		running(t, c)
		_, err = c.Await(t.Context(), submit(t, c, client.Request{Command: "withdraw", Deadline: time.Now().Add(time.Hour)}))
		if !errors.Is(err, client.ClassDeadline) || !strings.Contains(err.Error(), "it may have happened") {
			t.Errorf("error %v", err)
		}
		_, err = c.Send(t.Context(), client.Request{Command: "withdraw", Deadline: time.Now().Add(-time.Second)})
		if !errors.Is(err, client.ClassDeadline) {
			t.Errorf("sent after its deadline: %v", err)
		}
	})
}

// TestSendIsKept: with a pending store Send says no more than it knows, and
// what it gave up is sent on.
func TestSendIsKept(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := &script{steps: append(repeat(3, lost), answer(200, `{"balance":70}`))}
		c := connect(t, s.ServeHTTP, client.Options{Tries: 3, Wait: atOnce, Pending: pendingFile(t, filepath.Join(t.TempDir(), "pending"), nil)})
		r := client.Request{Command: "withdraw", Key: "k", Body: withdraw{"alice", 30}}
		_, err := c.Send(t.Context(), r)
		var e *client.Error
		if !errors.As(err, &e) || !e.Kept || e.Count != 3 || states(c) != "k sending" {
			t.Fatalf("error %+v, store: %s", err, states(c))
		}
		other := r
		other.Body = withdraw{"alice", 31}
		if _, err := c.Submit(t.Context(), other); !errors.Is(err, semel.ErrKeyReused) {
			t.Errorf("the key for another amount: %v", err)
		}
		running(t, c)
		reply, err := c.Await(t.Context(), submit(t, c, r)) // the same intention, not a second one
		if err != nil || string(reply.Body) != `{"balance":70}` || len(s.requests()) != 4 {
			t.Errorf("reply %+v, error %v after %d requests", reply, err, len(s.requests()))
		}
		if again, err := c.Send(t.Context(), r); err != nil || again.Status != 200 || len(s.requests()) != 4 {
			t.Errorf("reply %+v, error %v after %d requests: want what is stored", again, err, len(s.requests()))
		}
		if reply, err := c.Send(t.Context(), client.Request{Command: "withdraw", Key: "l"}); err != nil || !reply.Done || states(c) != "k completed" {
			t.Errorf("reply %+v, error %v, store: %s; want that an outcome told is forgotten", reply, err, states(c))
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := c.Submit(ctx, r); !errors.Is(err, context.Canceled) {
			t.Errorf("submitted with an ended context: %v", err)
		}
		if err := c.Run(t.Context()); err == nil || !strings.Contains(err.Error(), "running already") {
			t.Errorf("a second Run: %v", err)
		}
	})
}

func TestPendingFileRefuses(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, "pending")
	f := pendingFile(t, path, nil)
	c := offline(t, f)
	_, err := client.OpenPending(path, nil)
	refused(t, "a second owner", err, "in use by another client")
	_, err = client.New("http://bank.test", &client.Options{Pending: f})
	refused(t, "a second client", err, "has a client already")
	for _, name := range []string{"Authorization", "cookie", "X-API-Key"} {
		_, err = c.Submit(t.Context(), client.Request{Command: "withdraw", Header: http.Header{name: {"secret"}}})
		refused(t, name, err, "would be written to the pending file")
	}
	small := pendingFile(t, filepath.Join(dir, "small"), &client.PendingOptions{MaxBytes: 500})
	_, err = offline(t, small).Submit(t.Context(), client.Request{Command: "withdraw", Body: strings.Repeat("x", 1000)})
	refused(t, "more than there is room for", err, "the pending store is full")
	if !errors.Is(err, client.ErrPendingFull) {
		t.Errorf("%v is not ErrPendingFull", err)
	}
	submit(t, c, client.Request{Command: "withdraw", Key: "k"})
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	_, err = c.Submit(t.Context(), client.Request{Command: "withdraw"})
	refused(t, "a closed file", err, "closed")
	f = pendingFile(t, path, nil)
	_, err = client.New("http://other.test", &client.Options{Pending: f})
	refused(t, "another server", err, "http://bank.test")
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	moved := pendingFile(t, path, &client.PendingOptions{Moved: true})
	if c, err := client.New("http://user:password@other.test", &client.Options{Pending: moved}); err != nil || states(c) != "k waiting" || moved.Server != "http://other.test" {
		t.Errorf("moved to %q: %v", moved.Server, err)
	}
	_, err = client.OpenPending(filepath.Join(dir, "no", "such"), nil)
	refused(t, "no directory", err, "no such file")
	_, err = client.OpenPending(dir, nil)
	refused(t, "a directory", err, "directory")
	for name, data := range map[string]string{"text": "dear diary", "zeros": strings.Repeat("\x00", 10000)} {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(data), 0o644); err != nil {
			t.Fatal(err)
		}
		_, err = client.OpenPending(path, nil)
		refused(t, name, err, "is not a pending file")
		if got, err := os.ReadFile(path); err != nil || string(got) != data {
			t.Errorf("%s was changed: %v", name, err)
		}
	}
}

func refused(t *testing.T, what string, err error, want string) {
	t.Helper()
	if err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("%s: error %v, want one with %q", what, err, want)
	}
}

// pass lets virtual time go by.
func pass(d time.Duration) { <-time.After(d) }
