package webhook

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/semel-dev/semel"
	"github.com/semel-dev/semel/gateway"
	"github.com/semel-dev/semel/sqlite"
)

// TestDelivers sends every kind of outcome over TLS, and compares the body
// with what the caller reads from the gateway.
func TestDelivers(t *testing.T) {
	t.Parallel()
	rc := &receiver{}
	server := httptest.NewTLSServer(rc)
	t.Cleanup(server.Close)
	older, newer := NewSecret(), NewSecret()
	o := options(server.URL+"/hook?token=1", newer)
	o.Insecure = false
	o.RootCAs = server.Client().Transport.(*http.Transport).TLSClientConfig.RootCAs
	o.Endpoints = func(_ context.Context, tenant, principal string) ([]Endpoint, error) {
		if tenant != "acme" || principal != "alice" {
			return nil, errors.New("nobody else has sold anything")
		}
		return []Endpoint{
			{ID: "all", URL: server.URL + "/all", Secrets: []string{newer, older}},
			{ID: "bad news", URL: server.URL + "/bad", Secrets: []string{newer}, Events: []string{semel.EventRejected, semel.EventFailed}},
			{ID: "other commands", URL: server.URL + "/other", Secrets: []string{newer}, Commands: []string{"buy"}},
		}, nil
	}
	s := open(t, filepath.Join(t.TempDir(), "shop.db"), o, nil).run()
	g := gateway.New(s.engine, &gateway.Options{
		Authenticate: func(*http.Request) (gateway.Identity, error) {
			return gateway.Identity{Tenant: "acme", Principal: "alice"}, nil
		},
		Logger: quiet,
	})

	sales := []*semel.Operation{
		s.sell("1", `{"article":"tea"}`), s.sell("2", `{"article":"tea","answer":"no"}`), s.sell("3", `{"article":"tea","answer":"never"}`),
	}
	s.settled(5)
	got := rc.requests()
	if len(got) != 5 {
		t.Fatalf("%d requests came, want 3 to one endpoint and 2 to the other", len(got))
	}
	for i, op := range sales {
		w := httptest.NewRecorder()
		g.ServeHTTP(w, httptest.NewRequest("GET", "/operations/"+op.ID.String(), nil))
		want := `{"type":"operation.` + string(op.State) + `","timestamp":"` + op.DoneAt.UTC().Format("2006-01-02T15:04:05.000000Z") +
			`","data":` + w.Body.String() + `}`
		seen := 0
		for _, r := range got {
			if err := Verify(r.header, []byte(r.body), []string{older, newer}, 0); err != nil {
				t.Error(err)
			}
			if strings.Contains(r.body, "hunter2") {
				t.Error("a webhook shows the text of an error")
			}
			if r.body == want {
				seen++
			}
		}
		if expected := min(i+1, 2); seen != expected {
			t.Errorf("%d requests had the body of sale %d, want %d: %s", seen, i+1, expected, want)
		}
	}
	for _, r := range got {
		if r.header.Get("Content-Type") != "application/json" || !strings.HasPrefix(r.id(), "msg_") {
			t.Errorf("headers %v", r.header)
		}
	}
	if ids := rc.ids(); len(ids) != 5 {
		t.Errorf("%d ids for 5 deliveries", len(ids))
	}
}

// TestRetries fails some attempts in virtual time.
func TestRetries(t *testing.T) {
	t.Parallel()
	secret := NewSecret()
	rc := &receiver{answer: func(n int, w http.ResponseWriter, r *http.Request) {
		switch n {
		case 1:
			w.WriteHeader(500)
		case 2: // says nothing until the sender gives up
			<-r.Context().Done()
		case 3:
			panic(http.ErrAbortHandler) // drops the connection
		case 4:
			w.Header().Set("Location", "http://elsewhere.example/")
			w.WriteHeader(307)
		}
	}}
	virtual(t, rc, func(t *testing.T, path string, transport http.RoundTripper) {
		o := options("http://receiver.example/", secret)
		s := open(t, path, o, transport).run()
		s.sell("1", `{"article":"tea"}`)
		op := s.settled(1)[0]
		if op.State != semel.Completed || op.Attempts != 5 || string(op.Result) != `{"status":200}` {
			t.Errorf("the delivery is %s after %d attempts with %s", op.State, op.Attempts, op.Result)
		}
		got := rc.requests()
		if len(got) != 5 {
			t.Fatalf("%d requests came, want 5", len(got))
		}
		for i, r := range got {
			if r.body != got[0].body || r.id() != got[0].id() {
				t.Errorf("request %d differs from the first: %s %s", i+1, r.id(), r.body)
			}
		}
		// Each was signed when it was sent: the last is in time now, and the
		// time of none but it is the last's.
		if err := Verify(got[4].header, []byte(got[4].body), []string{secret}, time.Minute); err != nil {
			t.Error(err)
		}
		if after := got[2].at.Sub(got[1].at); after < 15*time.Second || after > 75*time.Second+time.Second {
			t.Errorf("the attempt after the timeout came after %s", after)
		}
		s.stop()
	})
}

// TestRetryAfter is asked to wait for longer than the policy would.
func TestRetryAfter(t *testing.T) {
	t.Parallel()
	rc := &receiver{answer: func(n int, w http.ResponseWriter, _ *http.Request) {
		switch n {
		case 1:
			w.Header().Set("Retry-After", "110")
			w.WriteHeader(503)
		case 2:
			w.Header().Set("Retry-After", time.Now().Add(270*time.Second).UTC().Format(http.TimeFormat))
			w.WriteHeader(429)
		}
	}}
	virtual(t, rc, func(t *testing.T, path string, transport http.RoundTripper) {
		s := open(t, path, options("http://receiver.example/", NewSecret()), transport).run()
		s.sell("1", `{"article":"tea"}`)
		s.settled(1)
		got := rc.requests()
		if len(got) != 3 {
			t.Fatalf("%d requests came, want 3", len(got))
		}
		for i, want := range []time.Duration{2 * time.Minute, 5 * time.Minute} { // rounded up
			if after := got[i+1].at.Sub(got[i].at); after < want || after > want+2*time.Second {
				t.Errorf("attempt %d came after %s, want %s", i+2, after, want)
			}
		}
		s.stop()
	})
}

func TestRetryAfterForms(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for _, tt := range []struct {
		text string
		want time.Duration
		ok   bool
	}{
		{"", 0, false}, {"0", 0, true}, {"7", 7 * time.Second, true}, {"99999999999999999999", 24 * time.Hour, true},
		{"172800", 24 * time.Hour, true}, {"-1", 0, false}, {"1.5", 0, false}, {"soon", 0, false},
		{"Fri, 02 Jan 2026 03:05:05 GMT", time.Minute, true}, {"Thu, 01 Jan 1970 00:00:00 GMT", 0, true},
	} {
		if got, ok := retryAfter(tt.text, now); got != tt.want || ok != tt.ok {
			t.Errorf("%q: got %s, %v, want %s, %v", tt.text, got, ok, tt.want, tt.ok)
		}
	}
}

func FuzzRetryAfter(f *testing.F) {
	f.Add("7")
	f.Add("Fri, 02 Jan 2026 03:05:05 GMT")
	by := waits()
	f.Fuzz(func(t *testing.T, text string) {
		wait, ok := retryAfter(text, time.Now())
		if wait < 0 || !ok && wait != 0 {
			t.Errorf("%q: %s, %v", text, wait, ok)
		}
		if b, known := by[waitClass(wait)]; !known || b.Wait(1) < min(wait, 24*time.Hour) {
			t.Errorf("%q: asked for %s, waits %s", text, wait, b.Wait(1))
		}
	})
}

// TestDeadLetter uses up the attempts, and replays when the receiver is well.
func TestDeadLetter(t *testing.T) {
	t.Parallel()
	rc := &receiver{answer: status(500)}
	server := serve(t, rc)
	s := open(t, filepath.Join(t.TempDir(), "shop.db"), hasty(options(server.URL, NewSecret()), 3), nil).run()
	s.sell("1", `{"article":"tea"}`)
	op := s.settled(1)[0]
	if op.State != semel.Failed || op.Disposition != semel.Exhausted || op.Attempts != 3 {
		t.Fatalf("the delivery is %s (%s) after %d attempts", op.State, op.Disposition, op.Attempts)
	}
	if want := `endpoint "main" answered 500`; op.Reason != want {
		t.Errorf("the reason is %q, want %q", op.Reason, want)
	}
	s.read() // the dead letter is an outcome too, and has no webhook
	rc.answers(nil)
	if _, err := s.engine.Replay(t.Context(), op.ID); err != nil {
		t.Fatal(err)
	}
	if op = s.settled(1)[0]; op.State != semel.Completed {
		t.Errorf("after the replay the delivery is %s: %s", op.State, op.Reason)
	}
	s.read()
	if got := rc.requests(); len(got) != 4 || len(rc.ids()) != 1 || len(s.deliveries()) != 1 {
		t.Errorf("%d requests with %d ids of %d deliveries, want 4, 1 and 1", len(got), len(rc.ids()), len(s.deliveries()))
	}
}

// TestReplayedOperation has a second outcome, and so a second webhook.
func TestReplayedOperation(t *testing.T) {
	t.Parallel()
	rc := &receiver{}
	server := serve(t, rc)
	s := open(t, filepath.Join(t.TempDir(), "shop.db"), options(server.URL, NewSecret()), nil)
	var works atomic.Bool
	semel.Handle(s.engine, "pay", func(context.Context, *semel.Unit[sqlite.Tx], struct{}) (string, error) {
		if !works.Load() {
			return "", semel.TerminalError(errors.New("the bank is closed"))
		}
		return "paid", nil
	}, nil)
	s.run()
	answer, err := s.engine.Submit(t.Context(), semel.Command{Principal: "alice", Name: "pay", Key: "1"}, semel.SubmitOptions{})
	if err != nil {
		t.Fatal(err)
	}
	s.settled(1)
	works.Store(true)
	if _, err := s.engine.Replay(t.Context(), answer.Operation.ID); err != nil {
		t.Fatal(err)
	}
	s.settled(2)
	got := rc.requests()
	if len(got) != 2 || got[0].event(t).Type != semel.EventFailed || got[1].event(t).Type != semel.EventCompleted || len(rc.ids()) != 2 {
		t.Errorf("got %v, want a failure and a completion", got)
	}
}

// TestEndings are deliveries that end at once.
func TestEndings(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name        string
		answer      int
		change      func(e *Endpoint)
		requests    int
		state       semel.State
		disposition semel.Disposition
		reason      string
	}{
		{"gone", 410, nil, 1, semel.Failed, semel.Terminal, `endpoint "main" answered 410: it wants no more`},
		{"no content", 204, nil, 1, semel.Completed, "", ""},
		{"plain http", 200, func(e *Endpoint) { e.URL = strings.Replace(e.URL, "http:", "ftp:", 1) }, 0, semel.Failed, semel.Terminal,
			`endpoint "main": the URL's scheme is "ftp"; https is taken`},
		{"no secret", 200, func(e *Endpoint) { e.Secrets = nil }, 0, semel.Failed, semel.Terminal,
			`endpoint "main": there is no secret to sign with`},
		{"another id", 200, func(e *Endpoint) { e.ID = "new" }, 0, semel.Rejected, "", `endpoint "main" is no longer there`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			rc := &receiver{answer: status(tt.answer)}
			server := serve(t, rc)
			o := options(server.URL, NewSecret())
			var gone, asked atomic.Int64
			o.Gone = func(_ context.Context, tenant, principal, endpoint string) error {
				if tenant == "acme" && principal == "alice" && endpoint == "main" {
					gone.Add(1)
				}
				return nil
			}
			first := o.Endpoints
			o.Endpoints = func(ctx context.Context, tenant, principal string) ([]Endpoint, error) {
				endpoints, err := first(ctx, tenant, principal)
				if asked.Add(1) > 1 && tt.change != nil {
					tt.change(&endpoints[0])
				}
				return endpoints, err
			}
			s := open(t, filepath.Join(t.TempDir(), "shop.db"), hasty(o, 5), nil).run()
			s.sell("1", `{"article":"tea"}`)
			op := s.settled(1)[0]
			if op.State != tt.state || op.Disposition != tt.disposition || op.Reason != tt.reason {
				t.Errorf("the delivery is %s (%s): %s", op.State, op.Disposition, op.Reason)
			}
			if got := rc.requests(); len(got) != tt.requests || (gone.Load() == 1) != (tt.answer == 410) {
				t.Errorf("%d requests, want %d; called Gone %d times", len(got), tt.requests, gone.Load())
			}
		})
	}
}

// TestNotACommand: what callers submit under the command's name sends nothing.
func TestNotACommand(t *testing.T) {
	t.Parallel()
	rc := &receiver{}
	server := serve(t, rc)
	s := open(t, filepath.Join(t.TempDir(), "shop.db"), options(server.URL, NewSecret()), nil).run()
	body, err := json.Marshal(delivery{Tenant: "acme", Principal: "alice", Endpoint: "main", Body: "forged"})
	if err != nil {
		t.Fatal(err)
	}
	answer, err := s.engine.Submit(t.Context(), semel.Command{Principal: "mallory", Name: Command, Key: "1", Body: body}, semel.SubmitOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if op := answer.Operation; op.State != semel.Rejected || op.Code != "not_a_command" {
		t.Errorf("the operation is %s: %s", op.State, op.Reason)
	}
	s.read()
	if got := rc.requests(); len(got) != 0 {
		t.Errorf("%d requests came", len(got))
	}
}

// TestPatience: an old delivery has one attempt, so that the lane of an
// endpoint that is down for good drains.
func TestPatience(t *testing.T) {
	t.Parallel()
	rc := &receiver{answer: status(502)}
	virtual(t, rc, func(t *testing.T, path string, transport http.RoundTripper) {
		o := options("http://receiver.example/", NewSecret())
		o.Retry = semel.Retry{Attempts: 4, Wait: semel.Backoff{First: time.Minute, Fixed: true}}
		o.Patience, o.Concurrency, o.Poll = 150*time.Second, 1, 5*time.Second
		s := open(t, path, o, transport).run()
		for _, key := range []string{"1", "2", "3"} {
			s.sell(key, `{"article":"tea"}`)
		}
		var ops []*semel.Operation
		until(t, func() bool {
			ops = s.deliveries()
			return len(ops) == 3 && ops[2].State.Done()
		})
		want := []struct {
			attempts    int
			disposition semel.Disposition
		}{{4, semel.Terminal}, {1, semel.Terminal}, {1, semel.Terminal}}
		for i, op := range ops {
			if op.State != semel.Failed || op.Attempts != want[i].attempts || op.Disposition != want[i].disposition {
				t.Errorf("delivery %d is %s (%s) after %d attempts: %s", i+1, op.State, op.Disposition, op.Attempts, op.Reason)
			}
		}
		if len(ops) != 3 || !strings.Contains(ops[1].Reason, `not tried again after 2m30s: endpoint "main" answered 502`) {
			t.Errorf("%d deliveries", len(ops))
		}
		s.stop()
	})
}

// TestLargeAnswer: what a receiver sends without end is not read to it.
func TestLargeAnswer(t *testing.T) {
	t.Parallel()
	const most = 64 << 20 // what sockets buffer, many times over
	var sent atomic.Int64
	rc := &receiver{answer: func(_ int, w http.ResponseWriter, _ *http.Request) {
		for chunk := make([]byte, 32<<10); sent.Load() < most; {
			n, err := w.Write(chunk)
			if sent.Add(int64(n)); err != nil {
				return
			}
		}
	}}
	server := serve(t, rc)
	s := open(t, filepath.Join(t.TempDir(), "shop.db"), options(server.URL, NewSecret()), nil).run()
	s.sell("1", `{"article":"tea"}`)
	if op := s.settled(1)[0]; op.State != semel.Completed || sent.Load() >= most {
		t.Errorf("the delivery is %s after %d bytes were taken: %s", op.State, sent.Load(), op.Reason)
	}
}
