package client_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/semel-dev/semel/client"
)

// A roundTripper answers without a network.
type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// played answers from the script, and fails where a step is lost.
func played(s *script) roundTripper {
	return func(r *http.Request) (response *http.Response, err error) {
		w := httptest.NewRecorder()
		if r.Body == nil {
			r.Body = http.NoBody
		}
		defer func() {
			if recover() != nil {
				err = fmt.Errorf("the wire: %w", syscall.ECONNRESET)
			}
			_ = r.Body.Close()
		}()
		s.ServeHTTP(w, r)
		return w.Result(), nil
	}
}

func TestTransport(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("x", 100)
	for _, tt := range []struct {
		name      string
		transport client.Transport
		method    string
		body      io.Reader
		key       string // in the context
		header    string // Idempotency-Key
		steps     []http.HandlerFunc
		status    int    // 0 for an error
		err       string // its text, without method and URL
		tries     int
	}{
		{"GET", client.Transport{}, "GET", nil, "", "", []http.HandlerFunc{lost, answer(503, ""), answer(200, "{}")}, 200, "", 3},
		{"POST without a key", client.Transport{}, "POST", strings.NewReader("{}"), "", "", []http.HandlerFunc{lost}, 0, "the wire: connection reset by peer", 1},
		{"PUT without a key", client.Transport{}, "PUT", strings.NewReader("{}"), "", "", []http.HandlerFunc{answer(503, "")}, 503, "", 1},
		{"DELETE without a key", client.Transport{}, "DELETE", nil, "", "", []http.HandlerFunc{answer(500, "")}, 500, "", 1},
		{"key in the context", client.Transport{}, "POST", strings.NewReader("{}"), `a"b`, "", []http.HandlerFunc{lost, answer(201, "{}")}, 201, "", 2},
		{"key in the header", client.Transport{}, "PATCH", strings.NewReader("{}"), "other", "bare", []http.HandlerFunc{lost, answer(200, "{}")}, 200, "", 2},
		{"new keys", client.Transport{NewKeys: true}, "DELETE", nil, "", "", []http.HandlerFunc{lost, answer(204, "")}, 204, "", 2},
		{"a body without GetBody", client.Transport{}, "POST", io.MultiReader(strings.NewReader(long)), "k", "", []http.HandlerFunc{lost, lost, answer(200, "{}")}, 200, "", 3},
		{"a body that is too long", client.Transport{MaxBody: 99}, "POST", io.MultiReader(strings.NewReader(long)), "k", "", []http.HandlerFunc{answer(503, "")}, 503, "", 1},
		{"no redirect is a failure", client.Transport{}, "GET", nil, "", "", []http.HandlerFunc{answer(304, "")}, 304, "", 1},
		{"final", client.Transport{}, "GET", nil, "", "", []http.HandlerFunc{lost, answer(404, "no")}, 404, "", 2},
		{"opened by a policy", client.Transport{ByClass: map[client.Class]client.Policy{client.ClassConflict: client.Fixed(0)}}, "POST", nil, "k", "",
			[]http.HandlerFunc{answer(409, ""), answer(200, "{}")}, 200, "", 2},
		{"closed by a policy", client.Transport{ByClass: map[client.Class]client.Policy{client.ClassServer: client.Never}}, "GET", nil, "", "",
			[]http.HandlerFunc{lost, answer(503, "")}, 503, "", 2},
		{"an outcome", client.Transport{}, "POST", nil, "k", "", []http.HandlerFunc{problem(500, "operation-failed", "poison")}, 500, "", 1},
		{"all lost", client.Transport{Tries: 3}, "GET", nil, "", "", []http.HandlerFunc{lost}, 0, "the wire: connection reset by peer", 3},
		{"the last one is an answer", client.Transport{Tries: 3}, "GET", nil, "", "", []http.HandlerFunc{lost, lost, answer(503, "busy")}, 503, "", 3},
		{"the last one is none", client.Transport{Tries: 3}, "GET", nil, "", "", []http.HandlerFunc{answer(503, ""), answer(503, ""), lost}, 0,
			"GET /x: gave up after 3 tries: 503 Service Unavailable (×2); the wire: connection reset by peer (×1)", 3},
		{"no time for more", client.Transport{MaxElapsed: 5 * time.Second}, "GET", nil, "", "", []http.HandlerFunc{answer(429, "", "Retry-After", "9")}, 429, "", 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := &script{steps: tt.steps}
				transport := tt.transport
				transport.Base, transport.Budget = played(s), client.NoBudget
				ctx := t.Context()
				if tt.key != "" {
					ctx = client.WithKey(ctx, tt.key)
				}
				r, err := http.NewRequestWithContext(ctx, tt.method, "http://bank.test/x", tt.body)
				if err != nil {
					t.Fatal(err)
				}
				if tt.header != "" {
					r.Header.Set("Idempotency-Key", tt.header)
				}
				before := r.Header.Clone()
				response, err := (&http.Client{Transport: &transport}).Do(r)
				var outer *url.Error
				switch {
				case tt.status > 0 && err != nil:
					t.Fatal(err)
				case tt.status > 0:
					if text, err := io.ReadAll(response.Body); response.StatusCode != tt.status || err != nil || tt.status == 500 && tt.body == nil && tt.key != "" && !strings.Contains(string(text), "poison") {
						t.Errorf("%d %q, %v; want %d with its body", response.StatusCode, text, err, tt.status)
					}
				case !errors.As(err, &outer) || outer.Err.Error() != tt.err || !errors.Is(err, syscall.ECONNRESET):
					t.Errorf("error %v, want %s", err, tt.err)
				}
				checkTries(t, s.requests(), tt.tries, tt.key, tt.header)
				if fmt.Sprint(before) != fmt.Sprint(r.Header) {
					t.Errorf("the request was changed: %v", r.Header)
				}
			})
		})
	}
}

// checkTries: as many as wanted, all the same.
func checkTries(t *testing.T, seen []received, tries int, key, header string) {
	t.Helper()
	if len(seen) != tries {
		t.Errorf("%d tries, want %d", len(seen), tries)
	}
	for i, r := range seen {
		got := r.header.Get("Idempotency-Key")
		switch {
		case header != "" && got != header,
			header == "" && key != "" && got != `"`+strings.ReplaceAll(key, `"`, `\"`)+`"`,
			got != seen[0].header.Get("Idempotency-Key"), r.body != seen[0].body:
			t.Errorf("try %d: key %s, body %q", i+1, got, r.body)
		}
	}
}

func TestTransportCanceled(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := &script{steps: []http.HandlerFunc{answer(503, "", "Retry-After", "30")}}
		c := &http.Client{Transport: &client.Transport{Base: played(s), Budget: client.NoBudget}}
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(10*time.Second, cancel)
		r, err := http.NewRequestWithContext(ctx, "GET", "http://bank.test/x", nil)
		if err != nil {
			t.Fatal(err)
		}
		_, err = c.Do(r)
		if !errors.Is(err, context.Canceled) || !errors.Is(err, client.ClassServer) || !errors.Is(err, client.ClassCanceled) {
			t.Errorf("error %v, want both what failed and that it was canceled", err)
		}
		r, err = http.NewRequestWithContext(client.WithKey(t.Context(), "a\nb"), "POST", "http://bank.test/x", nil)
		if err != nil {
			t.Fatal(err)
		}
		if _, err = c.Do(r); err == nil || !strings.Contains(err.Error(), "key") || len(s.requests()) != 1 {
			t.Errorf("a key that is none: %v", err)
		}
	})
}

// TestBudget: a server that always fails gets a tenth more than what is asked
// of it and what time alone earns, whoever asks.
func TestBudget(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		budget := &client.Budget{Floor: 1, Saved: 20}
		s := &script{steps: []http.HandlerFunc{answer(503, "")}}
		c := connect(t, s.ServeHTTP, client.Options{Wait: atOnce, Budget: budget})
		get := &http.Client{Transport: &client.Transport{Base: played(s), Budget: budget, Wait: atOnce}}
		const seconds, each = 100, 10
		refused := 0
		for range seconds {
			for i := range each {
				if i%2 == 0 {
					response, err := get.Get("http://bank.test/x")
					if err != nil || response.StatusCode != 503 {
						t.Fatal(err)
					}
					continue
				}
				_, err := c.Call(t.Context(), "withdraw", nil, nil)
				if !errors.Is(err, client.ClassServer) {
					t.Fatal(err)
				}
				if errors.Is(err, client.ClassBudget) {
					refused++
				}
			}
			pass(time.Second)
		}
		first := seconds * each
		if most, n := first+first/10+20+seconds+1, len(s.requests()); n > most || n < first+first/10 {
			t.Errorf("%d requests for %d first ones, want %d at most", n, first, most)
		}
		if refused < first/4 {
			t.Errorf("only %d errors name the budget", refused)
		}
		t.Logf("%d requests for %d first ones", len(s.requests()), first)
		// When it is well again, so are the callers, and what is left is saved up.
		s.steps = []http.HandlerFunc{answer(200, "{}")}
		if _, err := c.Call(t.Context(), "withdraw", nil, nil); err != nil {
			t.Error(err)
		}
	})
}
