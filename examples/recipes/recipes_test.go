package recipes_test

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/gin-gonic/gin"
	"github.com/semel-dev/semel"
	"github.com/semel-dev/semel/examples/recipes"
	"github.com/semel-dev/semel/idempotency"
	"github.com/semel-dev/semel/internal/leak"
	"github.com/semel-dev/semel/sqlite"
)

func TestMain(m *testing.M) {
	gin.SetMode(gin.TestMode)
	leak.Main(m)
}

// routers are the recipes, and each router as a whole behind the middleware.
var routers = map[string]func(recipes.Middleware) http.Handler{
	"chi":        recipes.Chi,
	"echo":       recipes.Echo,
	"gin":        recipes.Gin,
	"whole chi":  func(once recipes.Middleware) http.Handler { return once(recipes.Chi(passing)) },
	"whole echo": func(once recipes.Middleware) http.Handler { return once(recipes.Echo(passing)) },
	"whole gin":  func(once recipes.Middleware) http.Handler { return once(recipes.Gin(passing)) },
}

func passing(h http.Handler) http.Handler { return h }

// A shop is a router on a real store.
type shop struct {
	t      *testing.T
	engine *semel.Engine[sqlite.Tx]
	store  *sqlite.Store
	router http.Handler
}

func open(t *testing.T, name string) *shop {
	t.Helper()
	store, err := sqlite.Open(t.Context(), filepath.Join(t.TempDir(), "shop.db"), nil)
	if err != nil {
		t.Fatal(err)
	}
	err = store.Update(t.Context(), func(ctx context.Context, tx sqlite.Tx) error {
		_, err := tx.ExecContext(ctx, `CREATE TABLE orders (number INTEGER PRIMARY KEY AUTOINCREMENT, item TEXT NOT NULL)`)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	quiet := slog.New(slog.DiscardHandler)
	engine := semel.New(store, &semel.Options{Logger: quiet})
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- engine.Run(ctx) }()
	<-engine.Ready()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		if err := store.Close(); err != nil {
			t.Error(err)
		}
	})
	o := &idempotency.Options{Required: true, Logger: quiet, Authenticate: func(r *http.Request) (idempotency.Identity, error) {
		user, _, _ := r.BasicAuth()
		return idempotency.Identity{Principal: user}, nil
	}}
	if name == "chi" {
		o.Route = recipes.ChiRoute
	}
	return &shop{t, engine, store, routers[name](idempotency.New(engine, o))}
}

func (s *shop) order(item, key string) *httptest.ResponseRecorder {
	r := httptest.NewRequest("POST", "/orders/"+item, nil)
	r.SetBasicAuth("alice", "")
	r.Header.Set("Idempotency-Key", key)
	w := httptest.NewRecorder()
	s.router.ServeHTTP(w, r)
	return w
}

func (s *shop) check(w *httptest.ResponseRecorder, status int, body string, replayed bool) {
	s.t.Helper()
	if w.Code != status || body != "" && w.Body.String() != body || (w.Header().Get("Idempotent-Replayed") == "true") != replayed {
		s.t.Errorf("%d %q %v, want %d %q, replayed %t", w.Code, w.Body, w.Header(), status, body, replayed)
	}
}

func (s *shop) orders() (n int) {
	s.t.Helper()
	if err := s.store.Reader().QueryRowContext(s.t.Context(), `SELECT count(*) FROM orders`).Scan(&n); err != nil {
		s.t.Fatal(err)
	}
	return n
}

func TestRouters(t *testing.T) {
	for name := range routers {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := open(t, name)
			first := s.order("tea", "1")
			s.check(first, 201, "", false)
			again := s.order("tea", "1")
			s.check(again, 201, first.Body.String(), true)
			if kind := again.Header().Get("Content-Type"); kind == "" || kind != first.Header().Get("Content-Type") {
				t.Errorf("the repeat has the content type %q, the first %q", kind, first.Header().Get("Content-Type"))
			}
			no := s.order("unicorn", "2")
			s.check(no, 409, "", false)
			s.check(s.order("unicorn", "2"), 409, no.Body.String(), true)
			s.check(s.order("tea", ""), 400, "", false)
			if s.orders() != 1 {
				t.Errorf("%d orders", s.orders())
			}
			if _, err := s.engine.Operation(t.Context(), "", "alice", semel.Command{Principal: "alice", Name: route(name), Key: "1"}.ID()); err != nil {
				t.Errorf("the key is not scoped by %q: %v", route(name), err)
			}
		})
	}
}

// route is what the key is scoped by.
func route(name string) string {
	switch name {
	case "chi":
		return "POST /orders/{item}"
	case "echo", "gin":
		return "POST /orders/:item"
	}
	return "POST /orders/tea" // the router has not matched yet
}

// TestFailuresAreNotKept: an error that the router itself turns into an answer
// is seen by the middleware.
func TestFailuresAreNotKept(t *testing.T) {
	for name := range routers {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := open(t, name)
			rename := func(from, to string) {
				err := s.store.Update(t.Context(), func(ctx context.Context, tx sqlite.Tx) error {
					_, err := tx.ExecContext(ctx, `ALTER TABLE `+from+` RENAME TO `+to)
					return err
				})
				if err != nil {
					t.Fatal(err)
				}
			}
			rename("orders", "away")
			for range 2 {
				s.check(s.order("tea", "1"), 500, "", false)
			}
			rename("away", "orders")
			s.check(s.order("tea", "1"), 201, "", false)
			if s.orders() != 1 {
				t.Errorf("%d orders", s.orders())
			}
		})
	}
}

// TestSecondCall: when another request spoils the transaction, the handler is
// called again, and answers as the first time.
func TestSecondCall(t *testing.T) {
	for name := range routers {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := open(t, name)
			deadline := time.Now().Add(time.Minute)
			placed := 0
			for round := 0; !t.Failed() && (s.engine.Stats().Careful == 0 || round < 3); round++ {
				if time.Now().After(deadline) {
					t.Fatal("no transaction was ever rolled back for another's sake")
				}
				s.round(round)
				placed += 4
			}
			if s.orders() != placed {
				t.Errorf("%d orders, want %d", s.orders(), placed)
			}
		})
	}
}

// round sends requests that meet in one transaction, which the unicorns spoil.
func (s *shop) round(n int) {
	held, open := make(chan struct{}), make(chan struct{})
	var all sync.WaitGroup
	all.Go(func() {
		hold := semel.Command{Principal: "test", Name: "hold", Key: fmt.Sprint(n)}
		_, _, err := semel.Do(s.t.Context(), s.engine, hold, func(context.Context, *semel.Unit[sqlite.Tx]) (int, error) {
			close(held)
			<-open
			return 0, nil
		})
		if err != nil {
			s.t.Error(err)
		}
	})
	<-held
	for i := range 4 {
		all.Go(func() {
			w := s.order("tea", fmt.Sprintf("tea-%d-%d", n, i))
			if s.check(w, 201, "", false); w.Body.Len() == 0 {
				s.t.Error("the answer is empty")
			}
		})
		all.Go(func() { s.check(s.order("unicorn", fmt.Sprintf("unicorn-%d-%d", n, i)), 409, "", false) })
	}
	close(open)
	all.Wait()
}
