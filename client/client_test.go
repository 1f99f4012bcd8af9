package client_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/semel-dev/semel"
	"github.com/semel-dev/semel/client"
)

// A wire is a network in memory: real HTTP over it runs in a bubble of
// virtual time.
type wire struct {
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func (w *wire) Accept() (net.Conn, error) {
	select {
	case c := <-w.conns:
		return c, nil
	case <-w.closed:
		return nil, net.ErrClosed
	}
}

func (w *wire) Close() error {
	w.once.Do(func() { close(w.closed) })
	return nil
}

func (w *wire) Addr() net.Addr { return &net.UnixAddr{Name: "wire", Net: "unix"} }

func (w *wire) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	near, far := net.Pipe()
	select {
	case w.conns <- far:
		return near, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// connect returns a client of a handler that is served over a wire.
func connect(t *testing.T, h http.HandlerFunc, o client.Options) *client.Client {
	t.Helper()
	w := &wire{conns: make(chan net.Conn), closed: make(chan struct{})}
	server := &http.Server{Handler: h}
	ended := make(chan error)
	go func() { ended <- server.Serve(w) }()
	// On a reused connection the transport would send some requests again by
	// itself, and the scripts count.
	transport := &http.Transport{DialContext: w.dial, DisableKeepAlives: true}
	t.Cleanup(func() {
		transport.CloseIdleConnections()
		if err := server.Close(); err != nil {
			t.Errorf("closing the server: %v", err)
		}
		<-ended
	})
	if o.HTTP == nil {
		o.HTTP = &http.Client{}
	}
	o.HTTP.Transport = transport
	if o.Budget == nil {
		o.Budget = client.NoBudget // the process's own runs by another clock
	}
	c, err := client.New("http://bank.test", &o)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// A script answers the n-th request with its n-th step, and all later ones
// with the last. It keeps what it was sent.
type script struct {
	steps []http.HandlerFunc

	mu   sync.Mutex
	seen []received
}

type received struct {
	at           time.Time
	method, path string
	header       http.Header
	body         string
}

func (s *script) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	s.mu.Lock()
	n := len(s.seen)
	s.seen = append(s.seen, received{time.Now(), r.Method, r.URL.EscapedPath(), r.Header.Clone(), string(body)})
	s.mu.Unlock()
	s.steps[min(n, len(s.steps)-1)](w, r)
}

func (s *script) requests() []received {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.seen
}

// lost closes the connection instead of answering.
func lost(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }

// silent holds the answer until the client has gone.
func silent(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }

// after answers like h, but only after d.
func after(d time.Duration, h http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		select {
		case <-time.After(d):
			h(w, r)
		case <-r.Context().Done():
		}
	}
}

// answer writes a status, headers given as pairs, and a body.
func answer(status int, body string, header ...string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		if status >= 400 && strings.HasPrefix(body, "{") {
			w.Header().Set("Content-Type", "application/problem+json")
		}
		for i := 0; i < len(header); i += 2 {
			w.Header().Set(header[i], header[i+1])
		}
		w.WriteHeader(status)
		io.WriteString(w, body)
	}
}

func problem(status int, kind, detail string) http.HandlerFunc {
	body, _ := json.Marshal(map[string]any{"type": semel.ProblemTypes + kind, "title": "t", "status": status, "detail": detail})
	return answer(status, string(body))
}

var (
	operation = semel.Command{Principal: "p", Name: "withdraw", Key: "k"}.ID()
	accepted  = answer(202, `{"done":false}`, "X-Operation", "operations/"+operation.String(), "Location", "/operations/"+operation.String())
	open      = answer(200, fmt.Sprintf(`{"id":%q,"state":"running","done":false}`, operation))
	completed = answer(200, fmt.Sprintf(`{"id":%q,"state":"completed","done":true,"resource":"accounts/alice","result":{"balance":70},"position":"9007199254740993"}`, operation))
)

var atOnce = semel.Backoff{First: -1}

func TestKeyIsMadeOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := &script{steps: []http.HandlerFunc{lost, problem(503, "overloaded", ""), answer(201, `{"balance":70}`, "Idempotent-Replayed", "true", "X-Resource", "accounts/alice")}}
		authorized := 0
		c := connect(t, s.ServeHTTP, client.Options{Authorize: func(r *http.Request) error {
			authorized++
			r.Header.Set("Authorization", fmt.Sprintf("Bearer token-%d", authorized))
			return nil
		}})
		var result struct{ Balance int }
		reply, err := c.Call(t.Context(), "withdraw", map[string]any{"cents": 30}, &result)
		if err != nil {
			t.Fatal(err)
		}
		if result.Balance != 70 || reply.Status != 201 || !reply.Replayed || !reply.Done || reply.Tries != 3 || reply.Resource != "accounts/alice" {
			t.Errorf("result %+v of reply %+v", result, reply)
		}
		if err := semel.CheckKey(reply.Key); err != nil || len(reply.Key) < 20 {
			t.Errorf("key %q is not a good one: %v", reply.Key, err)
		}
		requests := s.requests()
		if len(requests) != 3 {
			t.Fatalf("%d requests, want 3", len(requests))
		}
		for i, r := range requests {
			if got, want := r.header.Get("Idempotency-Key"), `"`+reply.Key+`"`; got != want {
				t.Errorf("try %d has key %s, want %s", i+1, got, want)
			}
			if r.method != "POST" || r.path != "/commands/withdraw" || r.body != `{"cents":30}` || r.header.Get("Prefer") != "wait=20" {
				t.Errorf("try %d: %+v", i+1, r)
			}
			if got := r.header.Get("X-Retry-Count"); i > 0 && got != fmt.Sprint(i) || i == 0 && got != "" {
				t.Errorf("try %d says it is retry %q", i+1, got)
			}
			if got, want := r.header.Get("Authorization"), fmt.Sprintf("Bearer token-%d", i+1); got != want {
				t.Errorf("try %d is authorised by %q, want %q", i+1, got, want)
			}
		}
		again, err := c.Call(t.Context(), "withdraw", nil, nil)
		if err != nil || again.Key == reply.Key {
			t.Errorf("a second call has key %q and error %v; it is another intention", again.Key, err)
		}
	})
}

func TestRoutes(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		request            client.Request
		method, path, body string
		key, prefer        string
	}{
		{client.Request{Command: "a/b", Key: `q"\`}, "POST", "/commands/a%2Fb", "{}", `"q\"\\"`, "wait=20"},
		{client.Request{Path: "/accounts/alice/withdrawals/{key}", Key: "k/1", Body: []byte(`{"cents": 1}`)},
			"PUT", "/accounts/alice/withdrawals/k%2F1", `{"cents": 1}`, "", "wait=20"},
		{client.Request{Method: "PATCH", Path: "accounts/alice", Key: "k", Body: json.RawMessage(`{}`), Async: true},
			"PATCH", "/accounts/alice", "{}", `"k"`, "respond-async"},
	} {
		synctest.Test(t, func(t *testing.T) {
			s := &script{steps: []http.HandlerFunc{answer(200, `{}`)}}
			tt.request.Header = http.Header{"X-Flow": {"f"}, "Prefer": {"mine"}}
			reply, err := connect(t, s.ServeHTTP, client.Options{}).Send(t.Context(), tt.request)
			if err != nil {
				t.Fatal(err)
			}
			r := s.requests()[0]
			if r.method != tt.method || r.path != tt.path || r.body != tt.body || reply.Key != tt.request.Key {
				t.Errorf("sent %s %s %s, reply with key %q", r.method, r.path, r.body, reply.Key)
			}
			if got := r.header.Get("Idempotency-Key"); got != tt.key {
				t.Errorf("%s: Idempotency-Key %s, want %s", tt.path, got, tt.key)
			}
			if r.header.Get("Prefer") != tt.prefer || r.header.Get("X-Flow") != "f" || r.header.Get("Content-Type") != "application/json" {
				t.Errorf("%s: header %v", tt.path, r.header)
			}
		})
	}
}

func TestRefusedBeforeSending(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ base, want string }{
		{"bank.test", "want http"}, {"ftp://bank.test", "want http"}, {"http://", "a host"}, {"http://bank.test?x=1", "no query"},
		{"http://u:secret@bank.test#x", "xxxxx"}, {"http://bad host", "base URL"},
	} {
		if _, err := client.New(tt.base, nil); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("New(%q): %v, want an error with %q", tt.base, err, tt.want)
		}
	}
	for _, o := range []client.Options{{Tries: -1}, {MaxAnswer: -1}, {Poll: time.Minute}, {TryTimeout: time.Second, Poll: time.Second}} {
		if _, err := client.New("http://bank.test", &o); err == nil {
			t.Errorf("options %+v are taken", o)
		}
	}
	c, err := client.New("http://bank.test/", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for _, r := range []client.Request{
		{}, {Command: "a", Path: "/b"}, {Command: "a", Key: "no spaces"}, {Command: "a", Key: strings.Repeat("k", 256)},
		{Command: "a", Body: func() {}},
	} {
		var e *client.Error
		if _, err := c.Send(t.Context(), r); err == nil || errors.As(err, &e) {
			t.Errorf("%+v: %v, want an error before any try", r, err)
		}
	}
}

func TestResultThatDoesNotFit(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := connect(t, answer(200, `{"balance":"much"}`), client.Options{})
		var result struct{ Balance int }
		reply, err := c.Call(t.Context(), "withdraw", nil, &result)
		if reply == nil || !reply.Done || !errors.Is(err, client.ClassMalformed) || reply.Tries != 1 {
			t.Errorf("reply %+v, error %v; want both, after one try", reply, err)
		}
	})
}

func TestCallersDoNotHoldEachOtherUp(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := connect(t, func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/commands/slow" {
				answer(503, "", "Retry-After", "50")(w, r)
				return
			}
			answer(200, `{}`)(w, r)
		}, client.Options{Tries: 2, Wait: atOnce})
		start := time.Now()
		slow := make(chan error)
		go func() {
			_, err := c.Call(t.Context(), "slow", nil, nil)
			slow <- err
		}()
		synctest.Wait() // the slow one is in its wait
		for range 20 {
			if _, err := c.Call(t.Context(), "fast", nil, nil); err != nil {
				t.Fatal(err)
			}
		}
		if took := time.Since(start); took != 0 {
			t.Errorf("the fast calls took %v of virtual time, want none", took)
		}
		if err := <-slow; !errors.Is(err, client.ClassServer) || time.Since(start) != 50*time.Second {
			t.Errorf("the slow call: %v after %v", err, time.Since(start))
		}
	})
}
