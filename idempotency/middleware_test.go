package idempotency_test

import (
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"

	"github.com/semel-dev/semel"
	"github.com/semel-dev/semel/idempotency"
	"github.com/semel-dev/semel/sqlite"
)

func TestRepeatsGetTheSameAnswer(t *testing.T) {
	t.Parallel()
	s := open(t, func(o *idempotency.Options) { o.Headers = []string{"x-listed"} })
	json := []string{"Idempotency-Key", `"k-1"`, "Content-Type", "application/json", "X-Request-Id", "first"}
	first := s.must("POST", "/orders", `{"item": "tea", "n": 1}`, json...)
	if first.status != 201 || first.replayed || first.header.Get("Set-Cookie") == "" || first.header.Get("X-Request-Id") != "first" {
		t.Fatalf("the first: %+v", first)
	}
	for _, body := range []string{`{"item": "tea", "n": 1}`, ` {"n":1,"item":"t\u0065a"}`} {
		again := s.must("POST", "/orders", body, "Idempotency-Key", "k-1", "Content-Type", "application/json; charset=UTF-8")
		if again.status != 201 || again.body != first.body || !again.replayed {
			t.Errorf("a repeat with %s: %+v, want %+v", body, again, first)
		}
		for _, name := range []string{"Location", "Content-Type", "X-Listed"} {
			if again.header.Get(name) != first.header.Get(name) || again.header.Get(name) == "" {
				t.Errorf("a repeat has %s %q, the first %q", name, again.header.Get(name), first.header.Get(name))
			}
		}
		for _, name := range []string{"Set-Cookie", "X-Request-Id"} {
			if again.header.Get(name) != "" {
				t.Errorf("a repeat has %s %q, which is not listed", name, again.header.Get(name))
			}
		}
	}
	if first.header.Get("X-Listed") != "kept" {
		t.Errorf("a header that was set too late was sent: %q", first.header.Get("X-Listed"))
	}
	if s.calls.Load() != 1 || s.orders() != 1 {
		t.Errorf("%d calls, %d orders", s.calls.Load(), s.orders())
	}
}

func TestAnotherRequestIsRefused(t *testing.T) {
	t.Parallel()
	s := open(t, nil)
	const key, kind, body = "k", "application/json", `{"n":1}`
	if first := s.must("POST", "/orders?b=2&a=1", body, "Idempotency-Key", key, "Content-Type", kind); first.status != 201 {
		t.Fatalf("%+v", first)
	}
	for _, tt := range []struct {
		name, method, path, body, kind string
		want                           int
	}{
		{"sorted otherwise", "POST", "/orders?a=1&b=2", body, kind, 201},
		{"body", "POST", "/orders?a=1&b=2", `{"n":2}`, kind, 422},
		{"no body", "POST", "/orders?a=1&b=2", ``, kind, 422},
		{"number", "POST", "/orders?a=1&b=2", `{"n":1.0}`, kind, 422},
		{"query", "POST", "/orders?a=1&b=3", body, kind, 422},
		{"no query", "POST", "/orders", body, kind, 422},
		{"method", "PUT", "/orders?a=1&b=2", body, kind, 422},
		{"media type", "POST", "/orders?a=1&b=2", body, "text/plain", 422},
		{"no media type", "POST", "/orders?a=1&b=2", body, "", 422},
	} {
		a := s.must(tt.method, tt.path, tt.body, "Idempotency-Key", key, "Content-Type", tt.kind)
		if a.status != tt.want || tt.want == 422 && !strings.Contains(a.body, "idempotency-key-reused") {
			t.Errorf("another %s: %d %s", tt.name, a.status, a.body)
		}
	}
	if s.orders() != 1 {
		t.Errorf("%d orders", s.orders())
	}
	// Another path of the same route is another request; another route has
	// keys of its own.
	if a := s.must("POST", "/status/200", "", "Idempotency-Key", key); a.status != 200 {
		t.Errorf("another route: %+v", a)
	}
	if a := s.must("POST", "/status/201", "", "Idempotency-Key", key); a.status != 422 {
		t.Errorf("another path of the route: %+v", a)
	}
}

// TestTable holds the package's table of what is stored and what is rolled
// back to what happens.
func TestTable(t *testing.T) {
	t.Parallel()
	unkept := map[int]bool{401: true, 403: true, 407: true, 408: true, 413: true, 415: true, 421: true,
		423: true, 425: true, 426: true, 428: true, 429: true, 431: true}
	for _, status := range []int{200, 201, 202, 204, 303, 304, 307, 400, 401, 402, 403, 404, 405, 407, 408, 409, 410, 412,
		413, 415, 418, 421, 422, 423, 424, 425, 426, 428, 429, 431, 451, 499, 500, 502, 503, 599} {
		t.Run(strconv.Itoa(status), func(t *testing.T) {
			t.Parallel()
			s := open(t, nil)
			s.client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
			path := "/status/" + strconv.Itoa(status)
			first := s.must("POST", path, "", "Idempotency-Key", "k")
			again := s.must("POST", path, "", "Idempotency-Key", "k")
			stored := status < 500 && !unkept[status]
			effects := 0
			if status < 400 {
				effects = 1
			}
			if first.status != status || first.replayed || first.header.Get("X-Calls") != "1" {
				t.Errorf("the first is %+v", first)
			}
			if again.status != status || again.replayed != stored || (again.body == first.body) != (stored || first.body == "") {
				t.Errorf("the repeat is %+v after %+v; stored: want %t", again, first, stored)
			}
			if calls := s.calls.Load(); (calls == 1) != stored {
				t.Errorf("%d calls of the handler", calls)
			}
			if s.orders() != effects {
				t.Errorf("%d effects, want %d", s.orders(), effects)
			}
		})
	}
}

func TestFinalCanBeChosen(t *testing.T) {
	t.Parallel()
	s := open(t, func(o *idempotency.Options) { o.Final = func(status int) bool { return status != 409 } })
	for status, want := range map[int]bool{409: false, 429: true, 500: false} {
		path := "/status/" + strconv.Itoa(status)
		s.must("POST", path, "", "Idempotency-Key", path)
		if again := s.must("POST", path, "", "Idempotency-Key", path); again.replayed != want || again.status != status {
			t.Errorf("%d: %+v, want replayed %t", status, again, want)
		}
	}
}

func TestPanicsArePassedOn(t *testing.T) {
	t.Parallel()
	s := open(t, nil)
	for range 2 {
		if a, err := s.send("POST", "/panic", "", "Idempotency-Key", "k"); err == nil {
			t.Errorf("a panic is answered with %+v", a)
		}
	}
	if s.calls.Load() < 2 || s.orders() != 0 {
		t.Errorf("%d calls, %d orders", s.calls.Load(), s.orders())
	}
	// Whoever recovers around the middleware gets the value.
	once := idempotency.New(s.engine, &idempotency.Options{Authenticate: authenticate, Logger: quiet})
	type special struct{ n int }
	defer func() {
		if v := recover(); v != (special{7}) {
			t.Errorf("recovered %v", v)
		}
	}()
	r := httptest.NewRequest("POST", "/", nil)
	r.Header.Set("Idempotency-Key", "k")
	r.Header.Set("Authorization", "Bearer alice")
	once(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic(special{7}) })).ServeHTTP(httptest.NewRecorder(), r)
}

func TestRefusals(t *testing.T) {
	t.Parallel()
	s := open(t, func(o *idempotency.Options) {
		o.Required, o.MaxBody, o.MaxAnswer = true, 100, 100
		o.Authorize = func(_ *http.Request, who idempotency.Identity) error {
			if who.Principal == "mallory" {
				return errors.New("revoked")
			}
			return nil
		}
	})
	for _, tt := range []struct {
		name, path, body string
		header           []string
		status           int
		problem          string
	}{
		{"no key", "/orders", "", nil, 400, "idempotency-key-missing"},
		{"an invalid key", "/orders", "", []string{"Idempotency-Key", `"a`}, 400, "idempotency-key-invalid"},
		{"no credentials", "/orders", "", []string{"Idempotency-Key", "a", "Authorization", ""}, 401, "unauthorized"},
		{"no users", "/orders", "", []string{"Idempotency-Key", "a", "Authorization", "Bearer down"}, 503, "unavailable"},
		{"no principal", "/orders", "", []string{"Idempotency-Key", "a", "Authorization", "Bearer t/"}, 503, "unavailable"},
		{"no permission", "/orders", "", []string{"Idempotency-Key", "a", "Authorization", "Bearer mallory"}, 403, "forbidden"},
		{"a long body", "/orders", strings.Repeat("x", 101), []string{"Idempotency-Key", "a"}, 413, "payload-too-large"},
		{"a long answer", "/text/101", "", []string{"Idempotency-Key", "a"}, 500, "operation-failed"},
	} {
		for range 2 {
			a := s.must("POST", tt.path, tt.body, tt.header...)
			var p struct{ Type, Title, Detail string }
			if err := json.Unmarshal([]byte(a.body), &p); err != nil || a.status != tt.status || a.replayed ||
				p.Type != semel.ProblemTypes+tt.problem || p.Detail == "" || a.header.Get("Content-Type") != "application/problem+json" {
				t.Errorf("%s: %+v, %v", tt.name, a, err)
			}
			if challenge := a.header.Get("WWW-Authenticate"); (challenge == `Bearer realm="shop"`) != (tt.status == 401) {
				t.Errorf("%s: the challenge %q", tt.name, challenge)
			}
		}
	}
	if s.orders() != 0 {
		t.Errorf("%d orders", s.orders())
	}
	// Nothing was stored: the key can be used.
	if a := s.must("POST", "/orders", "x", "Idempotency-Key", "a"); a.status != 201 || a.replayed {
		t.Errorf("after refusals: %+v", a)
	}
	if a := s.must("POST", "/text/100", "", "Idempotency-Key", "longest"); a.status != 200 || len(a.body) != 100 {
		t.Errorf("the longest answer: %+v", a)
	}
}

// A repeat never reaches the handler: the permission is asked for before.
func TestRepeatAfterRevocation(t *testing.T) {
	t.Parallel()
	revoked := false
	s := open(t, func(o *idempotency.Options) {
		o.Authorize = func(*http.Request, idempotency.Identity) error {
			if revoked {
				return errors.New("revoked")
			}
			return nil
		}
	})
	first := s.must("POST", "/orders", "x", "Idempotency-Key", "a")
	revoked = true
	if a := s.must("POST", "/orders", "x", "Idempotency-Key", "a"); a.status != 403 || strings.Contains(a.body, first.body) || a.header.Get("Location") != "" {
		t.Errorf("%+v", a)
	}
}

func TestPassedOnAsTheyAre(t *testing.T) {
	t.Parallel()
	s := open(t, nil)
	for _, tt := range []struct {
		name, method string
		header       []string
	}{
		{"no key", "POST", nil},
		{"a safe method", "GET", []string{"Idempotency-Key", "a"}},
		{"no credentials", "POST", []string{"Authorization", ""}},
	} {
		for range 2 {
			if a := s.must(tt.method, "/orders", "", tt.header...); a.status != http.StatusTeapot || a.replayed {
				t.Errorf("%s: %+v, want that of the handler without a unit", tt.name, a)
			}
		}
	}
	// Within another of its kind the outer one has the key.
	first, again := s.must("POST", "/twice", "x", "Idempotency-Key", "a"), s.must("POST", "/twice", "x", "Idempotency-Key", "a")
	if first.status != 201 || !again.replayed || first.body != again.body || s.orders() != 1 {
		t.Errorf("%+v, %+v", first, again)
	}
}

func TestBodies(t *testing.T) {
	t.Parallel()
	s := open(t, nil)
	every := make([]byte, 256)
	for i := range every {
		every[i] = byte(i)
	}
	for _, replayed := range []bool{false, true} {
		if a := s.must("POST", "/bytes", string(every), "Idempotency-Key", "bytes", "Content-Type", "image/png"); a.body != string(every) || a.replayed != replayed {
			t.Errorf("bytes: %+v", a)
		}
		if a := s.must("POST", "/text/5", "", "Idempotency-Key", "text"); a.body != "xxxxx" || a.replayed != replayed || a.header.Get("Content-Type") != "text/plain; charset=utf-8" {
			t.Errorf("text: %+v", a)
		}
		if a := s.must("POST", "/stream", "", "Idempotency-Key", "stream"); a.body != "false false true true" {
			t.Errorf("what a stream would need: %+v", a)
		}
		// JSON of which readers differ is compared as bytes.
		const twice = `{"a":1,"a":2}`
		if a := s.must("POST", "/orders", twice, "Idempotency-Key", "twice", "Content-Type", "application/json"); a.status != 201 || a.replayed != replayed {
			t.Errorf("a member twice: %+v", a)
		}
		if a := s.must("POST", "/orders", `{"a":`, "Idempotency-Key", "broken", "Content-Type", "application/json"); a.status != 201 || a.replayed != replayed {
			t.Errorf("broken JSON: %+v", a)
		}
	}
	if a := s.must("POST", "/orders", `{"a":1, "a":2}`, "Idempotency-Key", "twice", "Content-Type", "application/json"); a.status != 422 {
		t.Errorf("other bytes: %+v", a)
	}
}

// A body that somebody has read before cannot be compared.
func TestBodyReadBefore(t *testing.T) {
	t.Parallel()
	s := open(t, nil)
	once := idempotency.New(s.engine, &idempotency.Options{Authenticate: authenticate, Logger: quiet})
	h := once(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("the handler was called") }))
	for name, read := range map[string]func(*http.Request){
		"form":  func(r *http.Request) { _ = r.ParseForm() },
		"bytes": func(r *http.Request) { _, _ = r.Body.Read(make([]byte, 100)) },
	} {
		r := httptest.NewRequest("POST", "/", strings.NewReader("a=1"))
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		r.Header.Set("Idempotency-Key", "k")
		r.Header.Set("Authorization", "Bearer alice")
		read(r)
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		if w.Code != 500 || !strings.Contains(w.Body.String(), "operation-failed") {
			t.Errorf("%s: %d %s", name, w.Code, w.Body)
		}
	}
}

// What a handler emits is in the log with its effect and its answer, and its
// operation says what was asked.
func TestEventsAndCorrelation(t *testing.T) {
	t.Parallel()
	s := open(t, nil)
	const trace = "4bf92f3577b34da6a3ce929d0e0e4736"
	for range 2 {
		if a := s.must("POST", "/event", "", "Idempotency-Key", "a"); a.status != 204 || a.body != "" {
			t.Errorf("%+v", a)
		}
	}
	events, err := s.store.Events(t.Context(), 0, 10)
	if err != nil || len(events) != 1 || events[0].Name != "Ordered" {
		t.Errorf("%+v, %v", events, err)
	}
	a := s.must("POST", "/whoami", "", "Idempotency-Key", "b", "Authorization", "Bearer acme/bob",
		"Traceparent", "00-"+trace+"-00f067aa0ba902b7-01")
	if want := "acme/bob b " + trace + " "; a.body != want {
		t.Errorf("%q, want %q", a.body, want)
	}
	c := semel.Command{Tenant: "acme", Principal: "bob", Name: "POST /whoami", Key: "b"}
	if op, err := s.engine.Operation(t.Context(), "acme", "bob", c.ID()); err != nil || op.State != semel.Completed {
		t.Errorf("%+v, %v", op, err)
	}
}

func TestNewWithoutAuthenticate(t *testing.T) {
	t.Parallel()
	for _, o := range []*idempotency.Options{nil, {}} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("New takes %+v", o)
				}
			}()
			idempotency.New[sqlite.Tx](nil, o)
		}()
	}
}

func TestCommandsFromWithin(t *testing.T) {
	t.Parallel()
	s := open(t, nil)
	if a := s.must("POST", "/nested", "", "Idempotency-Key", "a"); a.status != 200 || a.body != "true" {
		t.Errorf("%+v", a)
	}
}

func TestEngineStopped(t *testing.T) {
	t.Parallel()
	s := open(t, nil)
	s.stop()
	if a := s.must("POST", "/orders", "x", "Idempotency-Key", "a"); a.status != 503 || a.header.Get("Retry-After") == "" {
		t.Errorf("%+v", a)
	}
}
