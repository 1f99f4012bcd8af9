package gateway_test

import (
	"bufio"
	"bytes"
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/semel-dev/semel"
	"github.com/semel-dev/semel/gateway"
	"github.com/semel-dev/semel/internal/leak"
	"github.com/semel-dev/semel/sqlite"
)

var quiet = slog.New(slog.DiscardHandler)

func TestMain(m *testing.M) { leak.Main(m) }

// A bank is a small service on a real store behind a real server.
type bank struct {
	t       *testing.T
	url     string
	gateway *gateway.Gateway
	engine  *semel.Engine[sqlite.Tx]
	store   *sqlite.Store
	client  *http.Client
	stop    func() // ends the engine and waits for it

	stopping chan struct{} // closed by stop

	calls   atomic.Int64 // of the handler of deposit
	gates   sync.Map     // by name, what a held command waits for
	revoked sync.Map     // principals who may send nothing any more
}

type deposit struct {
	Account string `json:"account"`
	Cents   int64  `json:"cents"`
}

func (d deposit) Subject() string { return "account/" + d.Account }

func (d deposit) Validate() error {
	if d.Cents <= 0 {
		return fmt.Errorf("cents is %d; a deposit is more than 0", d.Cents)
	}
	return nil
}

// A hold runs until its gate is opened; others of the same gate queue behind.
type hold struct{ Gate string }

func (h hold) Subject() string { return "gate/" + h.Gate }

type receipt struct {
	Balance int64 `json:"balance"`
}

type deposited struct{ Cents int64 }

// open starts a bank and stops it when the test ends.
func open(t *testing.T, change func(*gateway.Options, *semel.Options)) *bank {
	t.Helper()
	b := &bank{t: t, stopping: make(chan struct{})}
	options := &gateway.Options{Authenticate: authenticate, Authorize: b.authorize, Logger: quiet}
	engineOptions := &semel.Options{Logger: quiet}
	if change != nil {
		change(options, engineOptions)
	}
	store, err := sqlite.Open(t.Context(), filepath.Join(t.TempDir(), "bank.db"), nil)
	if err != nil {
		t.Fatal(err)
	}
	b.store = store
	err = store.Update(t.Context(), func(ctx context.Context, tx sqlite.Tx) error {
		_, err := tx.ExecContext(ctx, `CREATE TABLE accounts (id TEXT PRIMARY KEY, cents INTEGER NOT NULL)`)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	b.engine = semel.New(store, engineOptions)
	b.handle()
	b.handleSecrets()
	b.gateway = gateway.New(b.engine, options)
	b.run()
	server := httptest.NewServer(b.gateway)
	b.url = server.URL
	b.client = &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 64}}
	t.Cleanup(func() {
		b.stop()
		b.client.CloseIdleConnections()
		server.CloseClientConnections()
		server.Close()
		if err := store.Close(); err != nil {
			t.Error(err)
		}
	})
	return b
}

func (b *bank) run() {
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- b.engine.Run(ctx) }()
	<-b.engine.Ready()
	b.stop = sync.OnceFunc(func() {
		cancel()
		close(b.stopping)
		if err := <-ended; err != nil {
			b.t.Error(err)
		}
	})
}

func authenticate(r *http.Request) (gateway.Identity, error) {
	name, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	if !ok {
		return gateway.Identity{}, fmt.Errorf("no token: %w", gateway.Challenge(`Bearer realm="bank"`))
	}
	tenant, principal, ok := strings.Cut(name, "/")
	if !ok {
		tenant, principal = "", name
	}
	return gateway.Identity{Tenant: tenant, Principal: principal}, nil
}

func (b *bank) authorize(_ context.Context, who gateway.Identity, command string) error {
	if _, revoked := b.revoked.Load(who.Principal); revoked {
		return errors.New("revoked")
	}
	return nil
}

func (b *bank) handle() {
	semel.Handle(b.engine, "deposit", func(ctx context.Context, u *semel.Unit[sqlite.Tx], d deposit) (receipt, error) {
		b.calls.Add(1)
		var r receipt
		err := u.Tx.QueryRowContext(ctx, `INSERT INTO accounts VALUES (?, ?)
			ON CONFLICT (id) DO UPDATE SET cents = cents + excluded.cents RETURNING cents`, d.Account, d.Cents).Scan(&r.Balance)
		u.Emit(deposited{d.Cents})
		if r.Balance == d.Cents {
			u.Created("accounts/" + d.Account)
		} else {
			u.Changed("accounts/" + d.Account)
		}
		return r, err
	}, nil)
	semel.Handle(b.engine, "refuse", func(context.Context, *semel.Unit[sqlite.Tx], struct{}) (receipt, error) {
		return receipt{}, semel.Reject("insufficient_funds", "you have %d cents", 3)
	}, nil)
	semel.Handle(b.engine, "teapot", func(context.Context, *semel.Unit[sqlite.Tx], struct{}) (receipt, error) {
		return receipt{}, &semel.Rejection{Code: "teapot", Reason: "short and stout", Status: 418}
	}, nil)
	semel.Handle(b.engine, "break", func(context.Context, *semel.Unit[sqlite.Tx], struct{}) (receipt, error) {
		return receipt{}, semel.TerminalError(errors.New("password=hunter2"))
	}, nil)
	semel.Handle(b.engine, "correlation", func(_ context.Context, u *semel.Unit[sqlite.Tx], _ struct{}) (semel.Correlation, error) {
		return u.Correlation(), nil
	}, nil)
	semel.Handle(b.engine, "text", func(_ context.Context, _ *semel.Unit[sqlite.Tx], c struct{ Size int }) (string, error) {
		return strings.Repeat("x", c.Size), nil
	}, nil)
	semel.Handle(b.engine, "complain", func(_ context.Context, _ *semel.Unit[sqlite.Tx], c struct{ Size int }) (string, error) {
		return "", semel.Reject("complaint", "%s", strings.Repeat("x", c.Size))
	}, nil)
	semel.Handle(b.engine, "hold", func(ctx context.Context, _ *semel.Unit[sqlite.Tx], h hold) (string, error) {
		select {
		case <-b.gate(h.Gate):
			return "released", nil
		case <-b.stopping: // whatever is held, or will be, lets go
			return "stopped", nil
		case <-ctx.Done():
			return "", ctx.Err()
		}
	}, &semel.HandleOptions{Solo: true})
}

func (b *bank) gate(name string) chan struct{} {
	gate, _ := b.gates.LoadOrStore(name, make(chan struct{}))
	return gate.(chan struct{})
}

func (b *bank) release(name string) {
	gate := b.gate(name)
	select {
	case <-gate:
	default:
		close(gate)
	}
}

func (b *bank) balance(account string) (cents int64) {
	b.t.Helper()
	err := b.store.Reader().QueryRowContext(b.t.Context(), `SELECT cents FROM accounts WHERE id = ?`, account).Scan(&cents)
	if err != nil && !errors.Is(err, sql.ErrNoRows) {
		b.t.Fatal(err)
	}
	return cents
}

// An answer is a response that was read to its end.
type answer struct {
	status int
	header http.Header
	body   string
}

// problem returns the slug and the detail of problem details.
func (a answer) problem() (slug, detail string) {
	var p struct{ Type, Title, Detail string }
	if a.header.Get("Content-Type") != "application/problem+json" || json.Unmarshal([]byte(a.body), &p) != nil || p.Title == "" {
		return "", ""
	}
	return strings.TrimPrefix(p.Type, semel.ProblemTypes), p.Detail
}

// operation reads the parts of an operation resource that tests look at.
func (a answer) operation(t *testing.T) (op operation) {
	t.Helper()
	if err := json.Unmarshal([]byte(a.body), &op); err != nil || op.ID == "" {
		t.Fatalf("%d %s is not an operation: %v", a.status, a.body, err)
	}
	return op
}

type operation struct {
	ID, Name, State string
	Done            bool
	Result          json.RawMessage
	Error           struct{ Code, Reason string }
}

// do sends one request. A path that begins with "/" is relative to the bank;
// headers are "Name: value".
func (b *bank) do(who, method, path, body string, headers ...string) answer {
	b.t.Helper()
	response, err := b.client.Do(b.request(b.t.Context(), who, method, path, append([]string{body}, headers...)...))
	if err != nil {
		b.t.Fatal(err)
	}
	defer response.Body.Close()
	read, err := io.ReadAll(response.Body)
	if err != nil {
		b.t.Fatal(err)
	}
	return answer{response.StatusCode, response.Header, string(read)}
}

// request makes a request. What may follow the path is the body, then headers.
func (b *bank) request(ctx context.Context, who, method, path string, more ...string) *http.Request {
	b.t.Helper()
	var body io.Reader
	if len(more) > 0 && more[0] != "" {
		body = bytes.NewReader([]byte(more[0]))
	}
	if strings.HasPrefix(path, "/") {
		path = b.url + path
	}
	r, err := http.NewRequestWithContext(ctx, method, path, body)
	if err != nil {
		b.t.Fatal(err)
	}
	if who != "" {
		r.Header.Set("Authorization", "Bearer "+who)
	}
	for _, header := range more[min(1, len(more)):] {
		name, value, _ := strings.Cut(header, ": ")
		r.Header.Add(name, value)
	}
	return r
}

// An event is one server-sent event; a comment has only its text as data.
type event struct {
	name string
	id   string
	data string
}

func (e event) position() int64 {
	n, _ := strconv.ParseInt(e.id, 10, 64)
	return n
}

// A reader reads a stream of server-sent events.
type reader struct {
	t        *testing.T
	response *http.Response
	scanner  *bufio.Scanner
}

// stream opens a stream that is given up after half a minute.
func (b *bank) stream(who, path string, headers ...string) *reader {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.t.Context(), 30*time.Second)
	b.t.Cleanup(cancel)
	response, err := b.client.Do(b.request(ctx, who, "GET", path, append([]string{""}, headers...)...))
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() { response.Body.Close() })
	if response.StatusCode != 200 || response.Header.Get("Content-Type") != "text/event-stream" {
		b.t.Fatalf("GET %s: %d %v", path, response.StatusCode, response.Header)
	}
	scanner := bufio.NewScanner(response.Body)
	scanner.Buffer(nil, 1<<20)
	return &reader{b.t, response, scanner}
}

// next returns the next event that is not a comment; ok is false at the end.
func (r *reader) next() (e event, ok bool) {
	for {
		e, ok = r.any()
		if !ok || e.name != "" {
			return e, ok
		}
	}
}

// must returns the next event, which is there.
func (r *reader) must() event {
	r.t.Helper()
	e, ok := r.next()
	if !ok {
		r.t.Fatalf("the stream ended: %v", r.scanner.Err())
	}
	return e
}

// any returns the next event or comment.
func (r *reader) any() (e event, ok bool) {
	for r.scanner.Scan() {
		field, value, _ := strings.Cut(r.scanner.Text(), ": ")
		switch field {
		case "event":
			e.name = value
		case "id":
			e.id = value
		case "data", "":
			if r.scanner.Text() != "" {
				e.data = value
			}
		}
		if r.scanner.Text() == "" && (e.name != "" || e.data != "") {
			return e, true
		}
	}
	return event{}, false
}

func (r *reader) close() { r.response.Body.Close() }
