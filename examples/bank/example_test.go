package bank_test

import (
	"context"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"

	"github.com/semel-dev/semel"
	"github.com/semel-dev/semel/examples/bank"
	"github.com/semel-dev/semel/gateway"
	"github.com/semel-dev/semel/sqlite"
)

// A bank from the file to the answer, and a withdrawal that is sent twice.
func Example() {
	dir, err := os.MkdirTemp("", "bank")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	ctx, stop := context.WithCancel(context.Background())
	store, err := sqlite.Open(ctx, filepath.Join(dir, "bank.db"), nil)
	if err != nil {
		log.Fatal(err)
	}
	defer store.Close()
	if err := bank.Create(ctx, store); err != nil {
		log.Fatal(err)
	}
	engine := semel.New(store, nil)
	bank.Register(engine)
	routes := bank.Routes(gateway.New(engine, &gateway.Options{Authenticate: bank.Authenticate}), store.Reader())
	ended := make(chan error)
	go func() { ended <- engine.Run(ctx) }()
	<-engine.Ready()

	server := httptest.NewServer(routes)
	put := func(path, body string) {
		request, err := http.NewRequest(http.MethodPut, server.URL+path, strings.NewReader(body))
		if err != nil {
			log.Fatal(err)
		}
		request.Header.Set("Authorization", "Bearer alice")
		request.Header.Set("Content-Type", "application/json")
		answer, err := server.Client().Do(request)
		if err != nil {
			log.Fatal(err)
		}
		defer answer.Body.Close()
		text, _ := io.ReadAll(answer.Body)
		fmt.Printf("%d %s replayed: %t\n", answer.StatusCode, text, answer.Header.Get("Idempotent-Replayed") == "true")
	}
	put("/commands/open/key-1", `{"account":"alice"}`)
	put("/accounts/alice/deposits/key-2", `{"cents":5000}`)
	put("/accounts/alice/withdrawals/key-3", `{"cents":2000}`)
	put("/accounts/alice/withdrawals/key-3", `{"cents":2000}`) // once more, the same

	server.Close()
	stop()
	if err := <-ended; err != nil {
		log.Fatal(err)
	}
	// Output:
	// 201 {"balance":0} replayed: false
	// 200 {"balance":5000} replayed: false
	// 200 {"balance":3000} replayed: false
	// 200 {"balance":3000} replayed: true
}
