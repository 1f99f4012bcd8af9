package js_test

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/semel-dev/semel"
	"github.com/semel-dev/semel/gateway"
	"github.com/semel-dev/semel/internal/leak"
	"github.com/semel-dev/semel/js"
	"github.com/semel-dev/semel/sqlite"
)

func TestMain(m *testing.M) { leak.Main(m) }

// A bank is a small service on a real store behind a real server, and between
// it and its callers a network with faults.
type bank struct {
	t        *testing.T
	url      string
	store    *sqlite.Store
	stopping chan struct{}
	gates    sync.Map // by name, what a held command waits for

	mu       sync.Mutex
	requests []request
	fault    func(request) fault // nil for none; called with the mutex held
	cut      chan struct{}       // closed to cut all streams, and replaced
}

// A request is what the server saw of one, before any fault.
type request struct {
	at                        time.Time
	who, method, path         string
	key, lastEventID, address string
	number                    int // of this method and path from this caller with this key, from 1
}

// A fault is what happens to one request.
type fault int

const (
	none fault = iota
	loseRequest
	loseReply
	overloaded // 503 with Retry-After
	unauthorized
	noStream // 404
	loginPage
	held // until the gate "network" is opened
)

type deposit struct {
	Account string `json:"account"`
	Cents   int64  `json:"cents"`
	Gate    string `json:"gate,omitempty"` // waits until it is opened
}

func (d deposit) Subject() string { return "account/" + d.Account }

type receipt struct {
	Balance int64 `json:"balance"`
}

func open(t *testing.T) *bank {
	t.Helper()
	store, err := sqlite.Open(t.Context(), filepath.Join(t.TempDir(), "bank.db"), nil)
	if err != nil {
		t.Fatal(err)
	}
	err = store.Update(t.Context(), func(ctx context.Context, tx sqlite.Tx) error {
		_, err := tx.ExecContext(ctx, `CREATE TABLE deposits (account TEXT NOT NULL, cents INTEGER NOT NULL)`)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	quiet := slog.New(slog.DiscardHandler)
	engine := semel.New(store, &semel.Options{Logger: quiet})
	b := &bank{t: t, store: store, stopping: make(chan struct{}), cut: make(chan struct{})}
	b.handle(engine)
	g := gateway.New(engine, &gateway.Options{Authenticate: authenticate, Logger: quiet, Prefix: "/api", Wait: 2 * time.Second})
	g.Bind("PUT /accounts/{account}/deposits/{key}", "deposit")
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- engine.Run(ctx) }()
	<-engine.Ready()
	server := httptest.NewUnstartedServer(b.serve(g))
	server.Config.ErrorLog = log.New(io.Discard, "", 0) // connections are cut on purpose
	server.Start()
	b.url = server.URL
	t.Cleanup(func() {
		cancel()
		close(b.stopping)
		if err := <-ended; err != nil {
			t.Error(err)
		}
		server.CloseClientConnections()
		server.Close()
		if err := store.Close(); err != nil {
			t.Error(err)
		}
	})
	return b
}

func (b *bank) handle(engine *semel.Engine[sqlite.Tx]) {
	semel.Handle(engine, "deposit", func(ctx context.Context, u *semel.Unit[sqlite.Tx], d deposit) (r receipt, err error) {
		if d.Cents <= 0 {
			return r, semel.Reject("nothing", "a deposit of %d is none", d.Cents)
		}
		if d.Gate != "" {
			select {
			case <-b.gate(d.Gate):
			case <-b.stopping:
			case <-ctx.Done():
				return r, ctx.Err()
			}
		}
		if _, err = u.Tx.ExecContext(ctx, `INSERT INTO deposits VALUES (?, ?)`, d.Account, d.Cents); err != nil {
			return r, err
		}
		err = u.Tx.QueryRowContext(ctx, `SELECT sum(cents) FROM deposits WHERE account = ?`, d.Account).Scan(&r.Balance)
		return r, err
	}, &semel.HandleOptions{Solo: true}) // what waits at a gate holds up nobody else
}

func (b *bank) gate(name string) chan struct{} {
	gate, _ := b.gates.LoadOrStore(name, make(chan struct{}))
	return gate.(chan struct{})
}

func authenticate(r *http.Request) (gateway.Identity, error) {
	name, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer secret-of-")
	if !ok {
		return gateway.Identity{}, errors.New("no token")
	}
	return gateway.Identity{Principal: name}, nil
}

// serve is the page, the client's files, and the gateway behind its faults.
func (b *bank) serve(g http.Handler) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("/js/", http.StripPrefix("/js/", http.FileServerFS(js.Files)))
	mux.Handle("/test/", http.StripPrefix("/test/", http.FileServerFS(os.DirFS("test"))))
	mux.HandleFunc("GET /balance/{account}", func(w http.ResponseWriter, r *http.Request) {
		count, cents := b.effects(r.PathValue("account"))
		fmt.Fprintf(w, `{"count":%d,"cents":%d}`, count, cents)
	})
	mux.HandleFunc("POST /gates/{gate}", func(_ http.ResponseWriter, r *http.Request) { b.release(r.PathValue("gate")) })
	mux.HandleFunc("/api/", func(w http.ResponseWriter, r *http.Request) { b.pass(g, w, r) })
	return mux
}

func (b *bank) pass(g http.Handler, w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	r.Body = io.NopCloser(bytes.NewReader(body))
	what, cut := b.notice(r)
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	r = r.WithContext(ctx)
	switch what {
	case loseRequest:
		panic(http.ErrAbortHandler)
	case loseReply:
		g.ServeHTTP(httptest.NewRecorder(), r)
		panic(http.ErrAbortHandler)
	case overloaded:
		w.Header().Set("Retry-After", "1")
		http.Error(w, "overloaded", http.StatusServiceUnavailable)
	case unauthorized:
		http.Error(w, "who are you", http.StatusUnauthorized)
	case noStream:
		http.Error(w, "no such thing", http.StatusNotFound)
	case held:
		select {
		case <-b.gate("network"):
		case <-b.stopping:
		}
		g.ServeHTTP(w, r)
	case loginPage:
		fmt.Fprint(w, "<html>please pay for this network</html>")
	default:
		if r.URL.Path == "/api/operations/events" {
			ended := make(chan struct{})
			defer close(ended)
			go func() {
				select {
				case <-cut:
					cancel()
				case <-ended:
				}
			}()
			defer func() {
				if r.Context().Err() != nil {
					panic(http.ErrAbortHandler)
				}
			}()
		}
		g.ServeHTTP(w, r)
	}
}

func (b *bank) notice(r *http.Request) (fault, chan struct{}) {
	b.mu.Lock()
	defer b.mu.Unlock()
	what := request{
		at: time.Now(), who: strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer secret-of-"), method: r.Method,
		path: strings.TrimPrefix(r.URL.Path, "/api"), key: r.Header.Get("Idempotency-Key"), lastEventID: r.Header.Get("Last-Event-ID"),
		address: r.RemoteAddr, number: 1,
	}
	for _, earlier := range b.requests {
		if earlier.who == what.who && earlier.method == what.method && earlier.path == what.path && earlier.key == what.key {
			what.number++
		}
	}
	b.requests = append(b.requests, what)
	if b.fault == nil {
		return none, b.cut
	}
	return b.fault(what), b.cut
}

// afflict sets the faults from here on.
func (b *bank) afflict(f func(request) fault) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.fault = f
}

func (b *bank) cutStreams() {
	b.mu.Lock()
	defer b.mu.Unlock()
	close(b.cut)
	b.cut = make(chan struct{})
}

func (b *bank) release(gate string) {
	defer func() { _ = recover() }() // it is open already
	close(b.gate(gate))
}

// seen returns the requests so far that match.
func (b *bank) seen(match func(request) bool) (found []request) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, r := range b.requests {
		if match(r) {
			found = append(found, r)
		}
	}
	return found
}

// sends returns the requests so far that sent a command with the key.
func (b *bank) sends(key string) []request {
	return b.seen(func(r request) bool {
		return r.method != "GET" && (r.key == key || strings.HasSuffix(r.path, "/"+key))
	})
}

// effects returns how many deposits an account has, and their sum.
func (b *bank) effects(account string) (count, cents int64) {
	var sum sql.NullInt64
	row := b.store.Reader().QueryRowContext(context.Background(), `SELECT count(*), sum(cents) FROM deposits WHERE account = ?`, account)
	if err := row.Scan(&count, &sum); err != nil {
		b.t.Error(err)
	}
	return count, sum.Int64
}

// once checks that an account has exactly so many deposits of 100.
func (b *bank) once(account string, want int64) {
	b.t.Helper()
	if count, cents := b.effects(account); count != want || cents != 100*want {
		b.t.Errorf("account %q has %d deposits of %d cents in all; want %d of 100 each", account, count, cents, want)
	}
}

// poll looks again and again: browsers and Node are other processes.
func poll(t *testing.T, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	late := time.After(patience)
	for !ok() {
		select {
		case <-tick.C:
		case <-late:
			t.Fatalf("after %s it is still not so: %s", patience, what)
		}
	}
}

const patience = 30 * time.Second
