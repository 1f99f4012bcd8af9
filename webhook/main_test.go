package webhook

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/semel-dev/semel"
	"github.com/semel-dev/semel/internal/leak"
	"github.com/semel-dev/semel/sqlite"
)

func TestMain(m *testing.M) { leak.Main(m) }

var quiet = slog.New(slog.DiscardHandler)

var loopback = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}

// A sale is the command whose outcomes are told.
type sale struct {
	Article string `json:"article"`
	Answer  string `json:"answer,omitempty"` // "no" and "never" are a rejection and a failure
}

func (s sale) Subject() string { return "article/" + s.Article }

type sold struct {
	Receipt string `json:"receipt"`
}

func sell(_ context.Context, u *semel.Unit[sqlite.Tx], s sale) (sold, error) {
	switch s.Answer {
	case "no":
		return sold{}, semel.Reject("sold_out", "no %s is left", s.Article)
	case "never":
		return sold{}, semel.TerminalError(errors.New("password=hunter2"))
	}
	op := u.Operation()
	return sold{"<" + op.Key + ">"}, nil
}

// A shop is an engine with a sender on a store of its own.
type shop struct {
	t      *testing.T
	path   string
	store  *sqlite.Store
	engine *semel.Engine[sqlite.Tx]
	sender *Sender[sqlite.Tx]
	stop   func() // ends both and closes the store
}

// options names one endpoint for everybody.
func options(url, secret string) *Options {
	return &Options{
		Endpoints: func(context.Context, string, string) ([]Endpoint, error) {
			return []Endpoint{{ID: "main", URL: url, Secrets: []string{secret}}}, nil
		},
		Logger: quiet, Insecure: true, Allow: loopback, Poll: 100 * time.Millisecond,
	}
}

// hasty makes retries quick, for tests on real sockets.
func hasty(o *Options, attempts int) *Options {
	o.Retry = semel.Retry{Attempts: attempts, Wait: semel.Backoff{First: -1}}
	return o
}

// open makes a shop that does not run yet. With transport, requests go there.
func open(t *testing.T, path string, o *Options, transport http.RoundTripper) *shop {
	t.Helper()
	return openWith(t, path, o, &semel.Options{Logger: quiet}, transport)
}

func openWith(t *testing.T, path string, o *Options, eo *semel.Options, transport http.RoundTripper) *shop {
	t.Helper()
	store, err := sqlite.Open(context.Background(), path, nil)
	if err != nil {
		t.Fatal(err)
	}
	s := &shop{t: t, path: path, store: store, engine: semel.New(store, eo)}
	semel.Handle(s.engine, "sell", sell, nil)
	if s.sender, err = New(context.Background(), s.engine, store, o); err != nil {
		t.Fatal(err)
	}
	if transport != nil {
		s.sender.client.Transport = transport
	}
	return s
}

// run runs engine and sender until stop, or the test's end.
func (s *shop) run() *shop {
	s.t.Helper()
	working, endWork := context.WithCancel(context.Background())
	following, endFollow := context.WithCancel(context.Background())
	ended := make(chan error, 2)
	go func() { ended <- s.engine.Run(working) }()
	go func() { ended <- s.sender.Run(following) }()
	<-s.engine.Ready()
	s.stop = sync.OnceFunc(func() {
		endWork()
		if err := <-ended; err != nil {
			s.t.Error(err)
		}
		endFollow()
		if err := <-ended; err != nil {
			s.t.Error(err)
		}
		if err := s.store.Close(); err != nil {
			s.t.Error(err)
		}
	})
	s.t.Cleanup(s.stop)
	return s
}

func (s *shop) sell(key, body string) *semel.Operation {
	s.t.Helper()
	answer, err := s.engine.Submit(context.Background(), semel.Command{
		Tenant: "acme", Principal: "alice", Name: "sell", Key: key, Body: json.RawMessage(body),
	}, semel.SubmitOptions{})
	if err != nil {
		s.t.Fatal(err)
	}
	return answer.Operation
}

// deliveries lists all of them, by acceptance.
func (s *shop) deliveries() []*semel.Operation {
	s.t.Helper()
	ops, err := s.engine.Operations(context.Background(), semel.OperationQuery{All: true, ByAcceptance: true, Name: Command, Limit: 10_000})
	if err != nil {
		s.t.Fatal(err)
	}
	return ops
}

// settled waits until there are n deliveries and all are done.
func (s *shop) settled(n int) []*semel.Operation {
	s.t.Helper()
	var ops []*semel.Operation
	until(s.t, func() bool {
		ops = s.deliveries()
		return len(ops) >= n && !slices.ContainsFunc(ops, func(op *semel.Operation) bool { return !op.State.Done() })
	})
	return ops
}

// read waits until the follower's stored position is at the end of the log.
func (s *shop) read() {
	s.t.Helper()
	until(s.t, func() bool {
		head, err := s.store.Head(context.Background())
		if err != nil {
			s.t.Fatal(err)
		}
		return position(s.t, s.store) == head
	})
}

func position(t *testing.T, store *sqlite.Store) int64 {
	t.Helper()
	followers, err := store.Followers(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range followers {
		if f.Name == Follower {
			return f.Position
		}
	}
	t.Fatalf("there is no follower %q among %v", Follower, followers)
	return 0
}

// until looks every few milliseconds, or seconds of virtual time, whether
// something has come about.
func until(t *testing.T, is func() bool) {
	t.Helper()
	every := 5 * time.Millisecond
	if time.Now().Year() == 2000 { // in a bubble
		every = 2 * time.Second
	}
	tick := time.NewTicker(every)
	defer tick.Stop()
	for range 24_000 { // two minutes: the machine may be busy
		if is() {
			return
		}
		<-tick.C
	}
	t.Fatal("what was waited for did not come about")
}

// A request is what a receiver got.
type request struct {
	at     time.Time
	header http.Header
	body   string
}

func (r request) id() string { return r.header.Get("webhook-id") }

// event reads the part of the body that tests look at.
func (r request) event(t *testing.T) (e struct {
	Type string
	Data struct {
		ID, State string
		Result    json.RawMessage
		Error     struct{ Code, Reason string }
	}
}) {
	t.Helper()
	if err := json.Unmarshal([]byte(r.body), &e); err != nil {
		t.Fatalf("the body %s is no JSON: %v", r.body, err)
	}
	return e
}

// A receiver keeps what it gets, and answers as it is told.
type receiver struct {
	mu     sync.Mutex
	got    []request
	answer func(n int, w http.ResponseWriter, r *http.Request) // n counts from 1; nil is 200
}

func (rc *receiver) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return // the sender gave up
	}
	rc.mu.Lock()
	rc.got = append(rc.got, request{time.Now(), r.Header.Clone(), string(body)})
	n, answer := len(rc.got), rc.answer
	rc.mu.Unlock()
	if answer != nil {
		answer(n, w, r)
	}
}

func (rc *receiver) requests() []request {
	rc.mu.Lock()
	defer rc.mu.Unlock()
	return slices.Clone(rc.got)
}

func (rc *receiver) answers(f func(n int, w http.ResponseWriter, r *http.Request)) {
	rc.mu.Lock()
	defer rc.mu.Unlock()
	rc.answer = f
}

func status(code int) func(int, http.ResponseWriter, *http.Request) {
	return func(_ int, w http.ResponseWriter, _ *http.Request) { w.WriteHeader(code) }
}

// ids returns the ids that came, each once, in the order of their first coming.
func (rc *receiver) ids() (ids []string) {
	for _, r := range rc.requests() {
		if !slices.Contains(ids, r.id()) {
			ids = append(ids, r.id())
		}
	}
	return ids
}

// serve puts a receiver on a real socket.
func serve(t *testing.T, rc http.Handler) *httptest.Server {
	t.Helper()
	server := httptest.NewServer(rc)
	t.Cleanup(server.Close)
	return server
}

// A wire is a listener whose connections are pipes, for virtual time.
type wire struct {
	conns  chan net.Conn
	closed chan struct{}
}

func (w *wire) Accept() (net.Conn, error) {
	select {
	case c := <-w.conns:
		return c, nil
	case <-w.closed:
		return nil, net.ErrClosed
	}
}

func (w *wire) Close() error   { close(w.closed); return nil }
func (w *wire) Addr() net.Addr { return &net.IPAddr{} }

func (w *wire) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	ours, theirs := net.Pipe()
	select {
	case w.conns <- theirs:
		return ours, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// virtual runs a test in a bubble of virtual time, with a receiver at the end
// of pipes, to which the transport leads.
func virtual(t *testing.T, handler http.Handler, f func(t *testing.T, path string, transport http.RoundTripper)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w := &wire{make(chan net.Conn), make(chan struct{})}
		server := &http.Server{Handler: handler}
		ended := make(chan error, 1)
		go func() { ended <- server.Serve(w) }()
		transport := &http.Transport{DialContext: w.dial}
		t.Cleanup(func() {
			transport.CloseIdleConnections()
			if err := server.Close(); err != nil {
				t.Error(err)
			}
			<-ended
		})
		f(t, filepath.Join(t.TempDir(), "shop.db"), transport)
	})
}

// copyOf writes what a crash at this moment would leave behind.
func copyOf(path, to string) (err error) {
	db, err := sql.Open("sqlite", path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	if _, err := db.Exec(`VACUUM INTO ?`, to); err != nil {
		return fmt.Errorf("copying %q: %w", path, err)
	}
	return nil
}
