package client_test

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/semel-dev/semel"
	"github.com/semel-dev/semel/client"
	"github.com/semel-dev/semel/gateway"
	"github.com/semel-dev/semel/sqlite"
)

type withdraw struct {
	Account string `json:"account"`
	Cents   int64  `json:"cents"`
}

func (w withdraw) Subject() string { return "account/" + w.Account }

type balance struct {
	Balance int64 `json:"balance"`
}

// take writes a line that no constraint keeps from being written twice.
func take(ctx context.Context, u *semel.Unit[sqlite.Tx], w withdraw) (balance, error) {
	if w.Cents > 100 {
		return balance{}, semel.Reject("insufficient_funds", "%s cannot cover %d cents", w.Account, w.Cents)
	}
	op := u.Operation()
	if _, err := u.Tx.ExecContext(ctx, `INSERT INTO ledger (operation, cents) VALUES (?, ?)`, op.ID.String(), w.Cents); err != nil {
		return balance{}, err
	}
	var left int64
	err := u.Tx.QueryRowContext(ctx, `UPDATE accounts SET cents = cents - ? WHERE id = ? RETURNING cents`, w.Cents, w.Account).Scan(&left)
	return balance{left}, err
}

// bank serves the real gateway, engine and store, and returns its address and
// a way to read the tables.
func bank(t *testing.T) (base string, reader *sql.DB) {
	t.Helper()
	store, err := sqlite.Open(t.Context(), filepath.Join(t.TempDir(), "bank.db"), nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := store.Close(); err != nil {
			t.Errorf("closing the store: %v", err)
		}
	})
	err = store.Update(t.Context(), func(ctx context.Context, tx sqlite.Tx) error {
		for _, statement := range []string{
			`CREATE TABLE ledger (operation TEXT NOT NULL, cents INTEGER NOT NULL)`,
			`CREATE TABLE accounts (id TEXT PRIMARY KEY, cents INTEGER NOT NULL)`,
			`INSERT INTO accounts VALUES ('alice', 1000000), ('bob', 1000000)`,
		} {
			if _, err := tx.ExecContext(ctx, statement); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	engine := semel.New(store, nil)
	semel.Handle(engine, "withdraw", take, nil)
	g := gateway.New(engine, &gateway.Options{Authenticate: func(r *http.Request) (gateway.Identity, error) {
		if r.Header.Get("Authorization") != "Bearer teller" {
			return gateway.Identity{}, gateway.Challenge("Bearer")
		}
		return gateway.Identity{Principal: "teller"}, nil
	}})
	g.Bind("PUT /accounts/{account}/withdrawals/{key}", "withdraw")
	ctx, stop := context.WithCancel(context.WithoutCancel(t.Context()))
	ended := make(chan error, 1)
	go func() { ended <- engine.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			t.Errorf("the engine ended with: %v", err)
		}
	})
	select {
	case <-engine.Ready():
	case err := <-ended:
		ended <- nil
		t.Fatalf("the engine does not start: %v", err)
	}
	server := httptest.NewServer(g)
	t.Cleanup(server.Close)
	return server.URL, store.Reader()
}

// Faults of the network between client and gateway.
const (
	none = iota
	requestLost
	replyLost
	replyCut
	sentTwice
	overloaded
	hurried // the caller's wait is taken away, so that it has to poll
	faults
)

// A lossy proxy does one fault at random to most requests.
type lossy struct {
	pass  *httputil.ReverseProxy
	count [faults]atomic.Int64
}

func newLossy(to *url.URL, transport *http.Transport) *lossy {
	l := &lossy{}
	l.pass = &httputil.ReverseProxy{
		Transport: transport,
		Rewrite:   func(r *httputil.ProxyRequest) { r.SetURL(to) },
		ErrorHandler: func(http.ResponseWriter, *http.Request, error) {
			panic(http.ErrAbortHandler)
		},
	}
	return l
}

func (l *lossy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	fault := rand.N(faults)
	l.count[fault].Add(1)
	switch fault {
	case requestLost:
		panic(http.ErrAbortHandler)
	case overloaded:
		w.Header().Set("Retry-After", "0")
		w.WriteHeader(503)
		return
	case hurried:
		r.Header.Set("Prefer", "respond-async")
	case replyLost, replyCut:
		reply := httptest.NewRecorder()
		l.pass.ServeHTTP(reply, r)
		if fault == replyCut {
			w.Header().Set("Content-Length", fmt.Sprint(reply.Body.Len()))
			w.WriteHeader(reply.Code)
			w.Write(reply.Body.Bytes()[:reply.Body.Len()/2])
			http.NewResponseController(w).Flush()
		}
		panic(http.ErrAbortHandler)
	case sentTwice:
		body, err := io.ReadAll(r.Body)
		if err != nil {
			panic(http.ErrAbortHandler)
		}
		var both sync.WaitGroup
		for _, to := range []http.ResponseWriter{w, httptest.NewRecorder()} {
			both.Go(func() {
				defer func() { _ = recover() }() // the client may have gone
				again := r.Clone(r.Context())
				again.Body = io.NopCloser(bytes.NewReader(body))
				l.pass.ServeHTTP(to, again)
			})
		}
		both.Wait()
		return
	}
	l.pass.ServeHTTP(w, r)
}

// TestEveryCallHasOneEffect sends withdrawals to the real thing through a
// network that loses, cuts and doubles, and counts the lines in the ledger.
func TestEveryCallHasOneEffect(t *testing.T) {
	t.Parallel()
	const calls, callers = 240, 12
	base, reader := bank(t)
	to, err := url.Parse(base)
	if err != nil {
		t.Fatal(err)
	}
	transport := &http.Transport{}
	t.Cleanup(transport.CloseIdleConnections)
	network := newLossy(to, transport)
	proxy := httptest.NewServer(network)
	t.Cleanup(proxy.Close)
	c, err := client.New(proxy.URL, &client.Options{
		Authorize: func(r *http.Request) error { r.Header.Set("Authorization", "Bearer teller"); return nil },
		Tries:     60,
		Budget:    client.NoBudget,
		Wait:      semel.Backoff{First: time.Millisecond, Most: 5 * time.Millisecond},
		// The gateway asks who polls to stay away for a second at a time.
		MaxRetryAfter: 10 * time.Millisecond,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)

	var mu sync.Mutex
	seen := map[string]balance{} // by operation
	rejected := map[string]bool{}
	var workers sync.WaitGroup
	for w := range callers {
		workers.Go(func() {
			for i := range calls / callers {
				r := request(w, i)
				reply, err := c.Send(t.Context(), r)
				var no *client.Rejected
				mu.Lock()
				switch {
				case errors.As(err, &no):
					rejected[no.Operation] = true
					if no.Code != "insufficient_funds" || no.Operation == "" {
						t.Errorf("rejected as %+v", no)
					}
				case err != nil:
					t.Errorf("withdrawal %d/%d: %v", w, i, err)
				default:
					var b balance
					if err := reply.Decode(&b); err != nil {
						t.Errorf("withdrawal %d/%d: %v", w, i, err)
					}
					seen[reply.Operation] = b
				}
				mu.Unlock()
			}
		})
	}
	workers.Wait()

	if len(seen)+len(rejected) != calls || len(rejected) == 0 {
		t.Errorf("%d operations took effect and %d were rejected, want %d together", len(seen), len(rejected), calls)
	}
	for fault := range faults {
		if network.count[fault].Load() < 10 {
			t.Errorf("fault %d happened only %d times", fault, network.count[fault].Load())
		}
	}
	checkLedger(t, reader, seen)
}

// request makes the n-th command of a caller: by name or by route, and every
// tenth one for too much.
func request(caller, n int) client.Request {
	account := []string{"alice", "bob"}[n%2]
	cents := int64(1 + n%3)
	if n%10 == 9 {
		cents = 1000
	}
	if n%4 < 2 {
		return client.Request{
			Path: "/accounts/" + account + "/withdrawals/{key}",
			Key:  fmt.Sprintf("caller-%d/%d", caller, n),
			Body: map[string]int64{"cents": cents},
		}
	}
	return client.Request{Command: "withdraw", Body: withdraw{account, cents}}
}

func checkLedger(t *testing.T, reader *sql.DB, seen map[string]balance) {
	t.Helper()
	rows, err := reader.QueryContext(t.Context(), `SELECT operation, count(*), sum(cents) FROM ledger GROUP BY operation`)
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	operations, total := 0, int64(0)
	for rows.Next() {
		var operation string
		var lines, cents int64
		if err := rows.Scan(&operation, &lines, &cents); err != nil {
			t.Fatal(err)
		}
		operations, total = operations+1, total+cents
		if _, known := seen[operation]; lines != 1 || !known {
			t.Errorf("operation %s took effect %d times, answered: %v", operation, lines, known)
		}
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	if operations != len(seen) {
		t.Errorf("%d operations in the ledger, %d answered with success", operations, len(seen))
	}
	var left int64
	if err := reader.QueryRowContext(t.Context(), `SELECT sum(cents) FROM accounts`).Scan(&left); err != nil {
		t.Fatal(err)
	}
	if left != 2_000_000-total {
		t.Errorf("%d cents are left, want %d", left, 2_000_000-total)
	}
}

// TestGivenUpAndTakenUp: after all tries failed, the error's key finds out
// what became of the intention.
func TestGivenUpAndTakenUp(t *testing.T) {
	t.Parallel()
	base, reader := bank(t)
	to, err := url.Parse(base)
	if err != nil {
		t.Fatal(err)
	}
	transport := &http.Transport{}
	t.Cleanup(transport.CloseIdleConnections)
	network := newLossy(to, transport)
	var broken atomic.Bool
	broken.Store(true)
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if broken.Load() {
			network.pass.ServeHTTP(httptest.NewRecorder(), r)
			panic(http.ErrAbortHandler)
		}
		network.pass.ServeHTTP(w, r)
	}))
	t.Cleanup(proxy.Close)
	c, err := client.New(proxy.URL, &client.Options{
		Authorize: func(r *http.Request) error { r.Header.Set("Authorization", "Bearer teller"); return nil },
		Tries:     3,
		Wait:      atOnce,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	_, err = c.Call(t.Context(), "withdraw", withdraw{"alice", 30}, nil)
	var e *client.Error
	if !errors.As(err, &e) || !errors.Is(err, client.ClassReset) {
		t.Fatalf("error %v, want a broken connection", err)
	}
	broken.Store(false)
	reply, err := c.Send(t.Context(), client.Request{Command: "withdraw", Key: e.Key, Body: withdraw{"alice", 30}})
	if err != nil {
		t.Fatal(err)
	}
	id := semel.Command{Principal: "teller", Name: "withdraw", Key: e.Key}.ID().String()
	if !reply.Replayed || string(reply.Body) != `{"balance":999970}` || reply.Operation != id {
		t.Errorf("reply %+v, body %s, want the replay of operation %s", reply, reply.Body, id)
	}
	if _, err := c.Send(t.Context(), client.Request{Command: "withdraw", Key: e.Key, Body: withdraw{"alice", 31}}); !errors.Is(err, semel.ErrKeyReused) {
		t.Errorf("the same key for another amount: %v", err)
	}
	checkLedger(t, reader, map[string]balance{id: {999970}})
}
