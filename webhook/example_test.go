package webhook_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"

	"github.com/semel-dev/semel"
	"github.com/semel-dev/semel/sqlite"
	"github.com/semel-dev/semel/webhook"
)

// receive is the other side. It answers when it has done its work, and would
// store the id with it, to do it once.
func receive(secrets []string, done chan<- string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, 1<<20))
		if err != nil {
			http.Error(w, "the body is too large or was cut off", http.StatusBadRequest)
			return
		}
		if err := webhook.Verify(r.Header, body, secrets, 0); err != nil {
			http.Error(w, "not signed", http.StatusUnauthorized)
			return
		}
		var event struct {
			Type string
			Data struct{ Name, State string }
		}
		if err := json.Unmarshal(body, &event); err != nil {
			http.Error(w, "no JSON", http.StatusBadRequest)
			return
		}
		w.WriteHeader(http.StatusNoContent)
		done <- event.Type + " " + event.Data.Name
	}
}

func Example() {
	ctx, cancel := context.WithCancel(context.Background())
	secret := webhook.NewSecret()
	done := make(chan string)
	receiver := httptest.NewServer(receive([]string{secret}, done))
	defer receiver.Close()

	dir, err := os.MkdirTemp("", "webhook")
	must(err)
	defer os.RemoveAll(dir)
	store, err := sqlite.Open(ctx, filepath.Join(dir, "shop.db"), nil)
	must(err)
	defer store.Close()
	engine := semel.New(store, &semel.Options{Logger: slog.New(slog.DiscardHandler)})
	semel.Handle(engine, "order", func(context.Context, *semel.Unit[sqlite.Tx], struct{ Article string }) (string, error) {
		return "on its way", nil
	}, nil)
	sender, err := webhook.New(ctx, engine, store, &webhook.Options{
		Endpoints: func(_ context.Context, tenant, principal string) ([]webhook.Endpoint, error) {
			return []webhook.Endpoint{{ID: "stock", URL: receiver.URL, Secrets: []string{secret}}}, nil
		},
		// Only because this receiver is on the same machine.
		Insecure: true,
		Allow:    []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")},
	})
	must(err)
	ended := make(chan error, 2)
	go func() { ended <- engine.Run(ctx) }()
	go func() { ended <- sender.Run(ctx) }()

	_, err = engine.Submit(ctx, semel.Command{
		Principal: "alice", Name: "order", Key: "key-1", Body: json.RawMessage(`{"Article": "tea"}`),
	}, semel.SubmitOptions{})
	must(err)
	fmt.Println(<-done)
	cancel()
	must(<-ended)
	must(<-ended)
	// Output:
	// operation.completed order
}

func must(err error) {
	if err != nil {
		panic(err)
	}
}
