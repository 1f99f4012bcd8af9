package bank_test

import (
	"context"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"

	"github.com/semel-dev/semel"
	"github.com/semel-dev/semel/examples/bank"
	"github.com/semel-dev/semel/gateway"
	"github.com/semel-dev/semel/internal/leak"
	"github.com/semel-dev/semel/sqlite"
)

func TestMain(m *testing.M) { leak.Main(m) }

// A branch is a bank that is open for one test.
type branch struct {
	store  *sqlite.Store
	engine *semel.Engine[sqlite.Tx]
	routes http.Handler
}

func openBranch(t *testing.T) *branch {
	t.Helper()
	store, err := sqlite.Open(t.Context(), filepath.Join(t.TempDir(), "bank.db"), nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := bank.Create(t.Context(), store); err != nil {
		t.Fatal(err)
	}
	quiet := slog.New(slog.NewTextHandler(io.Discard, nil))
	engine := semel.New(store, &semel.Options{Logger: quiet})
	bank.Register(engine)
	ctx, cancel := context.WithCancel(context.Background())
	ran := make(chan error, 1)
	go func() { ran <- engine.Run(ctx) }()
	<-engine.Ready()
	t.Cleanup(func() {
		cancel()
		if err := <-ran; err != nil {
			t.Errorf("the engine ended with: %v", err)
		}
		if err := store.Close(); err != nil {
			t.Error(err)
		}
	})
	g := gateway.New(engine, &gateway.Options{Authenticate: bank.Authenticate, Logger: quiet})
	return &branch{store, engine, bank.Routes(g, store.Reader())}
}

// ask makes one request as "me" and returns its status and body.
func (b *branch) ask(method, path, body string) (int, string) {
	w := b.send(method, path, body)
	return w.Code, strings.TrimSpace(w.Body.String())
}

func (b *branch) send(method, path, body string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, path, strings.NewReader(body))
	r.Header.Set("Authorization", "Bearer me")
	if body != "" {
		r.Header.Set("Content-Type", "application/json")
	}
	w := httptest.NewRecorder()
	b.routes.ServeHTTP(w, r)
	return w
}

// must makes a request that has to succeed.
func (b *branch) must(t *testing.T, method, path, body string) string {
	t.Helper()
	status, answer := b.ask(method, path, body)
	if status/100 != 2 {
		t.Fatalf("%s %s %s: %d %s", method, path, body, status, answer)
	}
	return answer
}

// fund opens accounts with so many cents in each.
func (b *branch) fund(t *testing.T, cents string, accounts ...string) {
	t.Helper()
	for _, a := range accounts {
		b.must(t, "PUT", "/commands/open/open-"+a, `{"account":"`+a+`"}`)
		b.must(t, "PUT", "/accounts/"+a+"/deposits/fund-"+a, `{"cents":`+cents+`}`)
	}
}

// damage changes the database behind the bank's back.
func (b *branch) damage(t *testing.T, statement string) {
	t.Helper()
	err := b.store.Update(t.Context(), func(ctx context.Context, tx sqlite.Tx) error {
		_, err := tx.ExecContext(ctx, statement)
		return err
	})
	if err != nil {
		t.Fatalf("%s: %v", statement, err)
	}
}
