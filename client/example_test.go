package client_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
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

// An http.Client that is there already insists under a key of the intention's.
func ExampleTransport() {
	var keys []string
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		keys = append(keys, r.Header.Get("Idempotency-Key"))
		if len(keys) == 1 {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	}))
	defer server.Close()

	shop := &http.Client{Transport: &client.Transport{}}
	ctx := client.WithKey(context.Background(), "order-4711") // stored with the order
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, server.URL+"/payments", strings.NewReader(`{"cents":30}`))
	if err != nil {
		fmt.Println(err)
		return
	}
	response, err := shop.Do(r)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer response.Body.Close()
	fmt.Println(response.StatusCode, keys)
	// Output: 200 ["order-4711" "order-4711"]
}

// What was submitted while the server was away is in the file, and is sent by
// another process when it is back.
func ExampleClient_Submit() {
	dir, err := os.MkdirTemp("", "pending")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer os.RemoveAll(dir)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, `{"balance": 70}`)
	}))
	defer server.Close()
	open := func() (*client.PendingFile, *client.Client, error) {
		pending, err := client.OpenPending(filepath.Join(dir, "withdrawals"), nil)
		if err != nil {
			return nil, nil, err
		}
		bank, err := client.New(server.URL, &client.Options{Pending: pending})
		return pending, bank, err
	}

	pending, bank, err := open()
	if err != nil {
		fmt.Println(err)
		return
	}
	withdrawal := client.Request{Command: "withdraw", Key: "rent-may", Body: []byte(`{"account":"alice","cents":30}`)}
	if _, err := bank.Submit(context.Background(), withdrawal); err != nil {
		fmt.Println(err)
		return
	}
	pending.Close() // the process ends here, and has not sent anything

	pending, bank, err = open()
	if err != nil {
		fmt.Println(err)
		return
	}
	defer pending.Close()
	defer bank.Close()
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- bank.Run(ctx) }()
	for _, p := range bank.List() {
		reply, err := bank.Await(ctx, p)
		if err != nil {
			fmt.Println(err)
			continue
		}
		fmt.Printf("%s: %s\n", p.Key, reply.Body)
		bank.Acknowledge(p.Key)
	}
	stop()
	fmt.Println(<-ended, len(bank.List()))
	// Output:
	// rent-may: {"balance": 70}
	// <nil> 0
}
