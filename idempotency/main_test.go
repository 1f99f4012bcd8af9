package idempotency_test

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/semel-dev/semel"
	"github.com/semel-dev/semel/idempotency"
	"github.com/semel-dev/semel/internal/leak"
	"github.com/semel-dev/semel/sqlite"
)

var quiet = slog.New(slog.DiscardHandler)

func TestMain(m *testing.M) {
	if mode := os.Getenv(childMode); mode != "" {
		child(mode) // until it is killed
	}
	leak.Main(m)
}

// A shop is handlers behind the middleware, on a real store and a real server.
type shop struct {
	t      *testing.T
	store  *sqlite.Store
	engine *semel.Engine[sqlite.Tx]
	server *httptest.Server
	client *http.Client
	stop   func()

	calls      atomic.Int64 // of any handler
	apartCalls atomic.Int64 // of the one whose effect is elsewhere
	gates      sync.Map     // by name, what a held request waits for
}

func open(t *testing.T, change func(*idempotency.Options)) *shop {
	t.Helper()
	s := &shop{t: t}
	store, err := sqlite.Open(t.Context(), filepath.Join(t.TempDir(), "shop.db"), nil)
	if err != nil {
		t.Fatal(err)
	}
	s.store = store
	if err := createOrders(t.Context(), store); err != nil {
		t.Fatal(err)
	}
	s.engine = semel.New(store, &semel.Options{Logger: quiet})
	o := &idempotency.Options{Authenticate: authenticate, Logger: quiet}
	if change != nil {
		change(o)
	}
	mux := http.NewServeMux()
	once := idempotency.New(s.engine, o)
	for pattern, h := range s.handlers() {
		mux.Handle(pattern, once(h))
	}
	s.server = httptest.NewUnstartedServer(mux)
	s.server.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	s.server.Start()
	s.client = &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 64}}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.engine.Run(ctx) }()
	<-s.engine.Ready()
	s.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(func() {
		s.stop()
		s.client.CloseIdleConnections()
		s.server.Close()
		if err := store.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func createOrders(ctx context.Context, store *sqlite.Store) error {
	return store.Update(ctx, func(ctx context.Context, tx sqlite.Tx) error {
		_, err := tx.ExecContext(ctx, `CREATE TABLE IF NOT EXISTS orders (number INTEGER PRIMARY KEY, item TEXT NOT NULL)`)
		return err
	})
}

// order writes an order in the given transaction.
func order(r *http.Request, item string) (number int64, err error) {
	u, ok := idempotency.Unit[sqlite.Tx](r.Context())
	if !ok {
		return 0, fmt.Errorf("the request for %q has no unit", item)
	}
	err = u.Tx.QueryRowContext(r.Context(), `INSERT INTO orders (item) VALUES (?) RETURNING number`, item).Scan(&number)
	return number, err
}

// authenticate takes "Bearer tenant/principal" or "Bearer principal".
func authenticate(r *http.Request) (idempotency.Identity, error) {
	name, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	if !ok {
		return idempotency.Identity{}, fmt.Errorf("no token: %w", idempotency.Challenge(`Bearer realm="shop"`))
	}
	if name == "down" {
		return idempotency.Identity{}, fmt.Errorf("users: %w", semel.ErrUnavailable)
	}
	tenant, principal, ok := strings.Cut(name, "/")
	if !ok {
		tenant, principal = "", name
	}
	return idempotency.Identity{Tenant: tenant, Principal: principal}, nil
}

func (s *shop) gate(name string) chan struct{} {
	gate, _ := s.gates.LoadOrStore(name, make(chan struct{}))
	return gate.(chan struct{})
}

// orders counts the orders that are committed.
func (s *shop) orders() (n int) {
	s.t.Helper()
	if err := s.store.Reader().QueryRowContext(s.t.Context(), `SELECT count(*) FROM orders`).Scan(&n); err != nil {
		s.t.Fatal(err)
	}
	return n
}

// A sent request's answer.
type answered struct {
	status   int
	header   http.Header
	body     string
	replayed bool
}

func (s *shop) send(method, path, body string, header ...string) (answered, error) {
	r, err := http.NewRequestWithContext(s.t.Context(), method, s.server.URL+path, strings.NewReader(body))
	if err != nil {
		return answered{}, err
	}
	r.Header.Set("Authorization", "Bearer alice")
	for i := 0; i < len(header); i += 2 {
		if header[i+1] == "" {
			r.Header.Del(header[i])
			continue
		}
		r.Header.Set(header[i], header[i+1])
	}
	response, err := s.client.Do(r)
	if err != nil {
		return answered{}, err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	return answered{response.StatusCode, response.Header, string(text), response.Header.Get("Idempotent-Replayed") == "true"}, err
}

func (s *shop) must(method, path, body string, header ...string) answered {
	s.t.Helper()
	a, err := s.send(method, path, body, header...)
	if err != nil {
		s.t.Fatal(err)
	}
	return a
}
