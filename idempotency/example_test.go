package idempotency_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"

	"github.com/semel-dev/semel"
	"github.com/semel-dev/semel/idempotency"
	"github.com/semel-dev/semel/sqlite"
)

// pay is a handler as any other. It takes the transaction from the context, so
// that its effect and its answer are stored together.
func pay(w http.ResponseWriter, r *http.Request) {
	u, ok := idempotency.Unit[sqlite.Tx](r.Context())
	if !ok {
		http.Error(w, "no transaction", http.StatusInternalServerError)
		return
	}
	var number int64
	err := u.Tx.QueryRowContext(r.Context(), `INSERT INTO payments (item) VALUES (?) RETURNING number`, r.FormValue("item")).Scan(&number)
	if err != nil {
		http.Error(w, "try again", http.StatusInternalServerError)
		return
	}
	w.WriteHeader(http.StatusCreated)
	fmt.Fprintf(w, "payment %d", number)
}

func principal(r *http.Request) (idempotency.Identity, error) {
	user, _, ok := r.BasicAuth() // a real server checks the password
	if !ok {
		return idempotency.Identity{}, idempotency.Challenge(`Basic realm="shop"`)
	}
	return idempotency.Identity{Principal: user}, nil
}

// running opens a store with a table of payments and starts an engine on it.
func running() (engine *semel.Engine[sqlite.Tx], stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	dir, err := os.MkdirTemp("", "semel-example-")
	if err != nil {
		panic(err)
	}
	store, err := sqlite.Open(ctx, filepath.Join(dir, "shop.db"), nil)
	if err != nil {
		panic(err)
	}
	err = store.Update(ctx, func(ctx context.Context, tx sqlite.Tx) error {
		_, err := tx.ExecContext(ctx, `CREATE TABLE payments (number INTEGER PRIMARY KEY, item TEXT NOT NULL)`)
		return err
	})
	if err != nil {
		panic(err)
	}
	engine = semel.New(store, nil)
	ended := make(chan error, 1)
	go func() { ended <- engine.Run(ctx) }()
	return engine, func() {
		cancel()
		if err := <-ended; err != nil {
			panic(err)
		}
		store.Close()
		os.RemoveAll(dir)
	}
}

// The same request twice: one effect, one answer. Another request under its
// key is refused.
func Example() {
	engine, stop := running()
	defer stop()
	once := idempotency.New(engine, &idempotency.Options{Authenticate: principal, Required: true})
	mux := http.NewServeMux()
	mux.Handle("POST /payments", once(http.HandlerFunc(pay)))
	server := httptest.NewServer(mux)
	defer server.Close()

	for _, form := range []string{"item=tea", "item=tea", "item=cake"} {
		request, err := http.NewRequest("POST", server.URL+"/payments", strings.NewReader(form))
		if err != nil {
			panic(err)
		}
		request.SetBasicAuth("alice", "")
		request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		request.Header.Set("Idempotency-Key", "8e03978e-40d5") // made before the first send, and kept
		response, err := server.Client().Do(request)
		if err != nil {
			panic(err)
		}
		body, err := io.ReadAll(response.Body)
		response.Body.Close()
		if err != nil {
			panic(err)
		}
		if response.StatusCode >= 400 {
			body = nil
		}
		fmt.Printf("%d %q replayed=%q\n", response.StatusCode, body, response.Header.Get("Idempotent-Replayed"))
	}
	// Output:
	// 201 "payment 1" replayed=""
	// 201 "payment 1" replayed="true"
	// 422 "" replayed=""
}

// A whole router can stand behind the middleware. Requests without a key, and
// safe ones, are passed on to it as they are.
func ExampleNew() {
	engine, stop := running()
	defer stop()
	router := http.NewServeMux()
	router.HandleFunc("POST /payments", pay)
	router.HandleFunc("GET /payments", func(w http.ResponseWriter, r *http.Request) {
		_, ok := idempotency.Unit[sqlite.Tx](r.Context())
		fmt.Println("reading, with a unit:", ok)
	})
	handler := idempotency.New(engine, &idempotency.Options{Authenticate: principal})(router)

	for _, method := range []string{"POST", "POST", "GET"} {
		r := httptest.NewRequest(method, "/payments?item=tea", nil)
		r.SetBasicAuth("alice", "")
		r.Header.Set("Idempotency-Key", "1")
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, r)
		fmt.Println(method, w.Code, w.Body)
	}
	// Output:
	// POST 201 payment 1
	// POST 201 payment 1
	// reading, with a unit: false
	// GET 200
}
