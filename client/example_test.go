package client_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"sync/atomic"

	"github.com/semel-dev/semel"
	"github.com/semel-dev/semel/client"
)

// The first reply is lost. The client sends again with the same key, and gets
// the answer that the server had stored for it.
func ExampleClient_Call() {
	var requests atomic.Int32
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if requests.Add(1) == 1 {
			panic(http.ErrAbortHandler) // the money is out, and nobody knows
		}
		w.Header().Set("Idempotent-Replayed", "true")
		io.WriteString(w, `{"balance": 70}`)
	}))
	defer server.Close()

	bank, err := client.New(server.URL, &client.Options{
		Authorize: func(r *http.Request) error {
			r.Header.Set("Authorization", "Bearer alice")
			return nil
		},
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer bank.Close()

	var receipt struct {
		Balance int64 `json:"balance"`
	}
	body := map[string]any{"account": "alice", "cents": 30}
	reply, err := bank.Call(context.Background(), "withdraw", body, &receipt)
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println("balance", receipt.Balance, "replayed", reply.Replayed, "tries", reply.Tries)
	// Output: balance 70 replayed true tries 2
}

// When all tries have failed, the error says how, and carries the key with
// which the same intention is taken up later.
func ExampleErrors() {
	var requests atomic.Int32
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch n := requests.Add(1); {
		case n == 1:
			panic(http.ErrAbortHandler)
		case n <= 4:
			w.WriteHeader(http.StatusServiceUnavailable)
		default:
			io.WriteString(w, `{"balance": 70}`)
		}
	}))
	defer server.Close()
	bank, err := client.New(server.URL, &client.Options{Tries: 4, Wait: semel.Backoff{First: -1}})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer bank.Close()

	withdrawal := client.Request{Command: "withdraw", Body: []byte(`{"account":"alice","cents":30}`)}
	_, err = bank.Send(context.Background(), withdrawal)
	fmt.Println(err)
	fmt.Println("was a connection lost?", errors.Is(err, client.ClassReset))

	var failed *client.Errors
	if errors.As(err, &failed) {
		withdrawal.Key = failed.Key // the same intention, not a second one
	}
	reply, err := bank.Send(context.Background(), withdrawal)
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Printf("later: %s\n", reply.Body)
	// Output:
	// withdraw: gave up after 4 tries: connection closed before the answer (×1); 503 Service Unavailable (×3)
	// was a connection lost? true
	// later: {"balance": 70}
}

// A business no is an outcome, not a failure: it is final and never retried.
func ExampleRejected() {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/problem+json")
		w.WriteHeader(http.StatusConflict)
		fmt.Fprintf(w, `{"type": "%soperation-rejected", "code": "insufficient_funds", "detail": "alice cannot cover 30 cents"}`, semel.ProblemTypes)
	}))
	defer server.Close()
	bank, err := client.New(server.URL, nil)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer bank.Close()

	_, err = bank.Call(context.Background(), "withdraw", map[string]any{"account": "alice", "cents": 30}, nil)
	var no *client.Rejected
	if errors.As(err, &no) {
		fmt.Println(no.Code, "-", no.Reason)
	}
	// Output: insufficient_funds - alice cannot cover 30 cents
}
