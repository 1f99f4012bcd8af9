package gateway_test

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
	"github.com/semel-dev/semel/gateway"
	"github.com/semel-dev/semel/sqlite"
)

type Greet struct {
	Name string `json:"name"`
}

type Greeting struct {
	Text string `json:"text"`
}

func greet(_ context.Context, _ *semel.Unit[sqlite.Tx], g Greet) (Greeting, error) {
	return Greeting{"Hello, " + g.Name}, nil
}

// The same request sent twice has one effect and one answer.
func Example() {
	dir, err := os.MkdirTemp("", "gateway")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	store, err := sqlite.Open(ctx, filepath.Join(dir, "greetings.db"), nil)
	if err != nil {
		log.Fatal(err)
	}
	defer store.Close()

	engine := semel.New(store, nil)
	semel.Handle(engine, "greet", greet, nil)

	g := gateway.New(engine, &gateway.Options{
		Authenticate: func(r *http.Request) (gateway.Identity, error) {
			name, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
			if !ok {
				return gateway.Identity{}, gateway.Challenge("Bearer")
			}
			return gateway.Identity{Principal: name}, nil // look the token up, in a real system
		},
	})
	g.Bind("PUT /greetings/{name}/{key}", "greet")

	ended := make(chan error, 1)
	go func() { ended <- engine.Run(ctx) }()
	server := httptest.NewServer(g)
	defer server.Close()

	for range 2 {
		r, _ := http.NewRequest("PUT", server.URL+"/greetings/Alice/7c4f1d", nil)
		r.Header.Set("Authorization", "Bearer alice")
		response, err := server.Client().Do(r)
		if err != nil {
			log.Fatal(err)
		}
		body, _ := io.ReadAll(response.Body)
		response.Body.Close()
		fmt.Printf("%d %s replayed: %t\n", response.StatusCode, body, response.Header.Get("Idempotent-Replayed") == "true")
	}
	cancel()
	if err := <-ended; err != nil {
		log.Fatal(err)
	}
	// Output:
	// 200 {"text":"Hello, Alice"} replayed: false
	// 200 {"text":"Hello, Alice"} replayed: true
}
