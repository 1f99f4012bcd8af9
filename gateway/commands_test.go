package gateway_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/semel-dev/semel"
	"github.com/semel-dev/semel/gateway"
)

// sameAnswer compares what a repeat promises: status, headers and bytes.
func sameAnswer(t *testing.T, first, repeat answer) {
	t.Helper()
	if first.status != repeat.status || first.body != repeat.body {
		t.Errorf("the repeat got %d %s, the first %d %s", repeat.status, repeat.body, first.status, first.body)
	}
	if got := repeat.header.Get("Idempotent-Replayed"); got != "true" {
		t.Errorf("the repeat is marked %q", got)
	}
	a, b := first.header.Clone(), repeat.header.Clone()
	for _, h := range []http.Header{a, b} {
		h.Del("Date")
		h.Del("Idempotent-Replayed")
	}
	if !reflect.DeepEqual(a, b) {
		t.Errorf("headers differ:\nfirst  %v\nrepeat %v", a, b)
	}
}

func TestCreatedIsRepeatedExactly(t *testing.T) {
	t.Parallel()
	b := open(t, nil)
	const body = `{"account": "al ice", "cents": 500}`
	first := b.do("alice", "POST", "/commands/deposit", body, "Idempotency-Key: k1", "Content-Type: application/json")
	id := semel.Command{Principal: "alice", Name: "deposit", Key: "k1"}.ID().String()
	for name, want := range map[string]string{
		"Content-Type": "application/json", "X-Operation": "operations/" + id, "X-Resource": "accounts/al%20ice",
		"Location": "/accounts/al%20ice", "Vary": "Prefer", "Idempotent-Replayed": "",
		"X-Content-Type-Options": "nosniff", "Cache-Control": "no-store",
	} {
		if got := first.header.Get(name); got != want {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
	if first.status != 201 || first.body != `{"balance":500}` {
		t.Fatalf("got %d %s", first.status, first.body)
	}
	// Another encoding of the same request, quoted key, and the other route.
	sameAnswer(t, first, b.do("alice", "POST", "/commands/deposit", `{"cents":500,"account":"al\u0020ice"}`, `Idempotency-Key: "k1"`))
	sameAnswer(t, first, b.do("alice", "PUT", "/commands/deposit/k1", body))
	sameAnswer(t, first, b.do("alice", "PUT", "/commands/deposit/k1", body, "Idempotency-Key: k1"))
	if calls, cents := b.calls.Load(), b.balance("al ice"); calls != 1 || cents != 500 {
		t.Errorf("the handler was called %d times, the balance is %d", calls, cents)
	}
	second := b.do("alice", "PUT", "/commands/deposit/k2", body)
	if second.status != 200 || second.body != `{"balance":1000}` || second.header.Get("Location") != "" || second.header.Get("X-Resource") == "" {
		t.Errorf("another key got %d %s %v", second.status, second.body, second.header)
	}
}

func TestRejectionIsRepeatedExactly(t *testing.T) {
	t.Parallel()
	b := open(t, nil)
	for command, status := range map[string]int{"refuse": 409, "teapot": 418} {
		first := b.do("alice", "PUT", "/commands/"+command+"/k", "{}")
		if slug, _ := first.problem(); first.status != status || slug != "operation-rejected" {
			t.Errorf("%s: got %d %s", command, first.status, first.body)
		}
		sameAnswer(t, first, b.do("alice", "PUT", "/commands/"+command+"/k", ""))
	}
}

func TestFailureKeepsItsReasonInside(t *testing.T) {
	t.Parallel()
	b := open(t, nil)
	a := b.do("alice", "PUT", "/commands/break/k", "{}")
	if slug, _ := a.problem(); a.status != 500 || slug != "operation-failed" || !strings.Contains(a.body, `"disposition":"terminal"`) {
		t.Errorf("got %d %s", a.status, a.body)
	}
	again := b.do("alice", "PUT", "/commands/break/k", "{}")
	if again.status != 500 || again.body != a.body || again.header.Get("Idempotent-Replayed") != "" {
		t.Errorf("again: %d %s %v", again.status, again.body, again.header)
	}
	link := "/" + a.header.Get("X-Operation")
	read := b.do("alice", "GET", link, "")
	if op := read.operation(t); read.status != 200 || op.State != "failed" || !op.Done || op.Error.Code == "" {
		t.Errorf("the operation is %d %s", read.status, read.body)
	}
	stream := b.stream("alice", link+"/events")
	said := a.body + read.body + b.do("alice", "GET", "/operations", "").body + stream.must().data
	if strings.Contains(said, "hunter2") {
		t.Errorf("the error's text reached the client: %s", said)
	}
}

func TestRefusals(t *testing.T) {
	t.Parallel()
	b := open(t, func(o *gateway.Options, _ *semel.Options) { o.MaxBody, o.MaxHeader = 200, 2000 })
	b.do("alice", "PUT", "/commands/deposit/used", `{"account":"a","cents":1}`)
	const valid = `{"account":"a","cents":1}`
	long := strings.Repeat("k", 256)
	for _, tt := range []struct {
		name    string
		request []string // method, path, body, headers
		status  int
		slug    string
		detail  string // part of it
	}{
		{"no key", []string{"POST", "/commands/deposit", valid}, 400, "idempotency-key-missing", "Idempotency-Key"},
		{"two keys", []string{"POST", "/commands/deposit", valid, "Idempotency-Key: a", "Idempotency-Key: b"}, 400, "idempotency-key-invalid", "2 times"},
		{"long key", []string{"POST", "/commands/deposit", valid, "Idempotency-Key: " + long}, 400, "idempotency-key-invalid", "256 bytes"},
		{"long key in the path", []string{"PUT", "/commands/deposit/" + long, valid}, 400, "idempotency-key-invalid", "256 bytes"},
		{"space in the path's key", []string{"PUT", "/commands/deposit/a%20b", valid}, 400, "idempotency-key-invalid", "0x20"},
		{"two different keys", []string{"PUT", "/commands/deposit/a", valid, "Idempotency-Key: b"}, 400, "idempotency-key-invalid", `"b"`},
		{"reused", []string{"PUT", "/commands/deposit/used", `{"account":"a","cents":2}`}, 422, "idempotency-key-reused", "new key"},
		{"unknown command", []string{"PUT", "/commands/withdarw/k", valid}, 404, "unknown-command", `"withdarw"`},
		{"cut short", []string{"PUT", "/commands/deposit/k", `{"account":"a"`}, 400, "malformed-body", "byte 14"},
		{"twice the same member", []string{"PUT", "/commands/deposit/k", `{"account":"a","cents":1,"cents":2}`}, 400, "malformed-body", `"cents"`},
		{"two values", []string{"PUT", "/commands/deposit/k", valid + valid}, 400, "malformed-body", "byte"},
		{"wrong type", []string{"PUT", "/commands/deposit/k", `{"account":"a","cents":"1"}`}, 400, "invalid-command", "cents"},
		{"unknown member", []string{"PUT", "/commands/deposit/k", `{"account":"a","cents":1,"dollars":2}`}, 400, "invalid-command", `"dollars"`},
		{"invalid value", []string{"PUT", "/commands/deposit/k", `{"account":"a","cents":-7}`}, 400, "invalid-command", "cents is -7"},
		{"not JSON", []string{"PUT", "/commands/deposit/k", valid, "Content-Type: text/plain"}, 415, "unsupported-media-type", "text/plain"},
		{"too large", []string{"PUT", "/commands/deposit/k", strings.Repeat(" ", 300)}, 413, "payload-too-large", "300 bytes"},
		{"large headers", []string{"PUT", "/commands/deposit/k", valid, "X-Correlation-ID: " + strings.Repeat("x", 2000)}, 431, "headers-too-large", "2000"},
		{"wrong method", []string{"DELETE", "/commands/deposit/k", ""}, 405, "method-not-allowed", "PUT"},
		{"nowhere", []string{"GET", "/nowhere", ""}, 404, "not-found", "/nowhere"},
		{"unclean path", []string{"PUT", "/commands//deposit/k", valid}, 404, "not-found", "//"},
		{"no operation", []string{"GET", "/operations/aaaaaaaaaaaaaaaaaaaaaaaaaa", ""}, 404, "operation-not-found", "aaaaa"},
		{"no operation's id", []string{"GET", "/operations/x", ""}, 404, "operation-not-found", `"x"`},
		{"no operation's stream", []string{"GET", "/operations/aaaaaaaaaaaaaaaaaaaaaaaaaa/events", ""}, 404, "operation-not-found", ""},
		{"no state", []string{"GET", "/operations?state=odd", ""}, 400, "invalid-query", `"odd"`},
	} {
		a := b.do("alice", tt.request[0], tt.request[1], tt.request[2], tt.request[3:]...)
		slug, detail := a.problem()
		if a.status != tt.status || slug != tt.slug || !strings.Contains(detail, tt.detail) {
			t.Errorf("%s: got %d %s, want %d %s with %q", tt.name, a.status, a.body, tt.status, tt.slug, tt.detail)
		}
	}
	if a := b.do("alice", "DELETE", "/commands/deposit/k", ""); a.header.Get("Allow") != "PUT" {
		t.Errorf("Allow is %q", a.header.Get("Allow"))
	}
	// Nothing of all this was stored under the key.
	if a := b.do("alice", "PUT", "/commands/deposit/k", valid); a.status != 200 || a.header.Get("Idempotent-Replayed") != "" {
		t.Errorf("after the refusals: %d %s %v", a.status, a.body, a.header)
	}
}

func TestBodyOfUnknownLengthIsLimited(t *testing.T) {
	t.Parallel()
	b := open(t, func(o *gateway.Options, _ *semel.Options) { o.MaxBody = 100 })
	r := b.request(t.Context(), "alice", "PUT", "/commands/deposit/k", strings.Repeat(" ", 101))
	r.ContentLength = -1
	response, err := b.client.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	response.Body.Close()
	if response.StatusCode != 413 {
		t.Errorf("got %d", response.StatusCode)
	}
}

func TestExpiredKeyIsNeverRunAgain(t *testing.T) {
	t.Parallel()
	b := open(t, func(_ *gateway.Options, o *semel.Options) { o.Window = time.Millisecond })
	const body = `{"account":"a","cents":1}`
	b.do("alice", "PUT", "/commands/deposit/k", body)
	var a answer
	eventually(t, "the key expires", func() bool {
		a = b.do("alice", "PUT", "/commands/deposit/k", body)
		return a.status != 200 && a.status != 201
	})
	if slug, _ := a.problem(); a.status != 410 || slug != "idempotency-key-expired" {
		t.Errorf("got %d %s", a.status, a.body)
	}
	if cents := b.balance("a"); cents != 1 {
		t.Errorf("the balance is %d", cents)
	}
}

// eventually waits for a condition of the outside world.
func eventually(t *testing.T, what string, condition func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(20 * time.Second)
	for !condition() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("not within 20 s: %s", what)
		}
	}
}

func TestConcurrentDuplicatesHaveOneEffect(t *testing.T) {
	t.Parallel()
	b := open(t, nil)
	for round := range 20 {
		key := fmt.Sprintf("/commands/deposit/k%d", round)
		answers := make([]answer, 5)
		var all sync.WaitGroup
		for i := range answers {
			all.Go(func() { answers[i] = b.do("alice", "PUT", key, `{"account":"a","cents":10}`) })
		}
		all.Wait()
		firsts := 0
		for _, a := range answers {
			if a.status != answers[0].status || a.body != answers[0].body || a.header.Get("X-Operation") != answers[0].header.Get("X-Operation") {
				t.Errorf("answers differ: %d %s, and %d %s", a.status, a.body, answers[0].status, answers[0].body)
			}
			if a.header.Get("Idempotent-Replayed") == "" {
				firsts++
			}
		}
		if want := int64(round+1) * 10; firsts != 1 || b.balance("a") != want {
			t.Fatalf("round %d: %d answers are not marked as repeats, the balance is %d, want %d", round, firsts, b.balance("a"), want)
		}
	}
}

func TestAsyncAndLongPoll(t *testing.T) {
	t.Parallel()
	b := open(t, nil)
	const body = `{"Gate":"g"}`
	a := b.do("alice", "PUT", "/commands/hold/k", body, "Prefer: respond-async")
	op := a.operation(t)
	path := "/operations/" + op.ID
	for name, want := range map[string]string{
		"Location": path, "Operation-Location": b.url + path, "X-Operation": path[1:],
		"Retry-After": "1", "Preference-Applied": "respond-async", "Vary": "Prefer",
	} {
		if got := a.header.Get(name); got != want {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
	if a.status != 202 || op.Done || op.Name != "hold" {
		t.Errorf("got %d %s", a.status, a.body)
	}
	if again := b.do("alice", "PUT", "/commands/hold/k", body, "Prefer: respond-async"); again.status != 202 ||
		again.header.Get("Idempotent-Replayed") != "true" || again.operation(t).ID != op.ID {
		t.Errorf("again: %d %s", again.status, again.body)
	}
	// A wait that passes answers with the operation as it stands.
	short := b.do("alice", "GET", path, "", "Prefer: wait=1")
	if short.status != 200 || short.operation(t).Done || short.header.Get("Preference-Applied") != "wait=1" || short.header.Get("ETag") != "" {
		t.Errorf("short poll: %d %s %v", short.status, short.body, short.header)
	}
	polls := make(chan answer)
	go func() { polls <- b.do("alice", "GET", path, "", "Prefer: wait=30") }()
	go func() { polls <- b.do("alice", "PUT", "/commands/hold/k", body, "Prefer: wait=30") }()
	b.release("g")
	for range 2 {
		switch a := <-polls; {
		case a.status != 200:
			t.Errorf("got %d %s", a.status, a.body)
		case a.body == `"released"`: // the command's answer
			if a.header.Get("Idempotent-Replayed") != "true" {
				t.Errorf("the repeat is not marked: %v", a.header)
			}
		default:
			if op := a.operation(t); op.State != "completed" || string(op.Result) != `"released"` {
				t.Errorf("long poll: %s", a.body)
			}
		}
	}
}

func TestWaitIsCapped(t *testing.T) {
	t.Parallel()
	b := open(t, func(o *gateway.Options, _ *semel.Options) { o.Wait, o.MaxWait = 50*time.Millisecond, time.Second })
	a := b.do("alice", "PUT", "/commands/hold/k", `{"Gate":"g"}`)
	if a.status != 202 || a.header.Get("Preference-Applied") != "" {
		t.Errorf("without a preference: %d %v", a.status, a.header)
	}
	a = b.do("alice", "PUT", "/commands/hold/k", `{"Gate":"g"}`, "Prefer: wait=3600")
	if a.status != 202 || a.header.Get("Preference-Applied") != "wait=1" {
		t.Errorf("with a long wait: %d %v", a.status, a.header)
	}
	b.release("g")
}

// TestWaitOutlivesTheWriteTimeout: a server's write timeout counts from the
// request, and would cut the answer to whoever waits longer.
func TestWaitOutlivesTheWriteTimeout(t *testing.T) {
	t.Parallel()
	b := open(t, nil)
	server := httptest.NewUnstartedServer(b.gateway)
	server.Config.WriteTimeout = 300 * time.Millisecond
	server.Start()
	t.Cleanup(server.Close)
	a := b.do("alice", "PUT", server.URL+"/commands/hold/k", `{"Gate":"g"}`, "Prefer: wait=1")
	if a.status != 202 {
		t.Errorf("the command got %d %s", a.status, a.body)
	}
	if a := b.do("alice", "GET", a.header.Get("Operation-Location"), "", "Prefer: wait=1"); a.status != 200 {
		t.Errorf("the long poll got %d %s", a.status, a.body)
	}
	b.release("g")
}

func TestHead(t *testing.T) {
	t.Parallel()
	b := open(t, nil)
	path := "/" + b.do("alice", "PUT", "/commands/refuse/k", "").header.Get("X-Operation")
	for _, path := range []string{path, path + "/events", "/operations", "/operations/events"} {
		if a := b.do("alice", "HEAD", path, ""); a.status != 200 || a.body != "" {
			t.Errorf("HEAD %s: %d %q", path, a.status, a.body)
		}
	}
}

func TestDoneOperationIsNotSentTwice(t *testing.T) {
	t.Parallel()
	b := open(t, nil)
	path := "/" + b.do("alice", "PUT", "/commands/refuse/k", "").header.Get("X-Operation")
	first := b.do("alice", "GET", path, "")
	tag := first.header.Get("ETag")
	if first.status != 200 || tag == "" || first.header.Get("Cache-Control") != "private, no-cache" {
		t.Fatalf("got %d %v", first.status, first.header)
	}
	if a := b.do("alice", "GET", path, "", "If-None-Match: "+tag); a.status != 304 || a.body != "" {
		t.Errorf("with its tag: %d %s", a.status, a.body)
	}
	if a := b.do("alice", "GET", path, "", `If-None-Match: "other"`); a.status != 200 || a.body != first.body {
		t.Errorf("with another tag: %d %s", a.status, a.body)
	}
}

func TestCanceled(t *testing.T) {
	t.Parallel()
	b := open(t, nil)
	const body = `{"Gate":"g"}`
	b.do("alice", "PUT", "/commands/hold/first", body, "Prefer: respond-async")
	second := b.do("alice", "PUT", "/commands/hold/second", body, "Prefer: respond-async").operation(t)
	id, err := semel.ParseID(second.ID)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.engine.Cancel(t.Context(), "", "alice", id); err != nil {
		t.Fatal(err)
	}
	a := b.do("alice", "PUT", "/commands/hold/second", body)
	if slug, _ := a.problem(); a.status != 409 || slug != "operation-canceled" || a.header.Get("Idempotent-Replayed") != "true" {
		t.Errorf("got %d %s %v", a.status, a.body, a.header)
	}
	if op := b.do("alice", "GET", "/operations/"+second.ID, "").operation(t); op.State != "canceled" || op.Error.Code != "canceled" {
		t.Errorf("the operation is %+v", op)
	}
	b.release("g")
}

func TestStoppedEngine(t *testing.T) {
	t.Parallel()
	b := open(t, nil)
	path := "/" + b.do("alice", "PUT", "/commands/refuse/k", "").header.Get("X-Operation")
	b.stop()
	a := b.do("alice", "PUT", "/commands/refuse/k", "")
	if slug, _ := a.problem(); a.status != 503 || slug != "unavailable" || a.header.Get("Retry-After") != "1" {
		t.Errorf("a command got %d %s", a.status, a.body)
	}
	if a := b.do("alice", "GET", path, ""); a.status != 200 {
		t.Errorf("reading got %d %s", a.status, a.body)
	}
}

func TestCorrelation(t *testing.T) {
	t.Parallel()
	b := open(t, nil)
	const parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	a := b.do("alice", "PUT", "/commands/correlation/k", "", "X-Correlation-ID: flow-7", "Traceparent: "+parent,
		"X-Connection-ID: c1", "Accept-Language: de-AT, en;q=0.5", "X-Retry-Count: 3")
	want := `{"id":"flow-7","userId":"alice","traceId":"0af7651916cd43dd8448eb211c80319c","spanContext":"` + parent +
		`","connectionId":"c1","name":"correlation","origin":"/commands/correlation/k","culture":"de-AT","retries":3,"createdAt":"`
	if !strings.HasPrefix(a.body, want) {
		t.Errorf("the correlation is %s, want %s…", a.body, want)
	}
	// What is malformed is left out, and keeps no command from being taken.
	a = b.do("alice", "PUT", "/commands/correlation/k2", "", "X-Correlation-ID: a b", "Traceparent: x", "Accept-Language: *", "X-Retry-Count: -1")
	id := strings.TrimPrefix(a.header.Get("X-Operation"), "operations/")
	want = `{"id":"` + id + `","userId":"alice","name":"correlation","origin":"/commands/correlation/k2","createdAt":"`
	if a.status != 200 || !strings.HasPrefix(a.body, want) {
		t.Errorf("the correlation is %s, want %s…", a.body, want)
	}
	if read := b.do("alice", "GET", "/operations/"+id, ""); !strings.Contains(read.body, `"correlationId":"`+id+`"`) {
		t.Errorf("the operation is %s", read.body)
	}
}
