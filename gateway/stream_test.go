package gateway_test

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/semel-dev/semel"
	"github.com/semel-dev/semel/gateway"
)

func TestOutcomesFromNow(t *testing.T) {
	t.Parallel()
	b := open(t, nil)
	b.do("alice", "PUT", "/commands/refuse/before", "")
	stream := b.stream("alice", "/operations/events")
	if got := stream.response.Header.Get("X-Accel-Buffering"); got != "no" {
		t.Errorf("X-Accel-Buffering is %q", got)
	}
	ready := stream.must()
	head, err := b.engine.Head(t.Context())
	if err != nil || ready.name != "ready" || ready.id != strconv.FormatInt(head, 10) {
		t.Errorf("the stream begins with %+v, the head is %d, %v", ready, head, err)
	}
	want := []string{"operation.completed", "operation.rejected", "operation.failed"}
	last := ready.position()
	for i, command := range []string{"correlation", "refuse", "break"} {
		a := b.do("alice", "PUT", "/commands/"+command+"/k", "")
		b.do("bob", "PUT", "/commands/"+command+"/k", "")
		e := stream.must()
		var op operation
		if err := json.Unmarshal([]byte(e.data), &op); err != nil || e.name != want[i] || "operations/"+op.ID != a.header.Get("X-Operation") {
			t.Errorf("%s: got %+v, %v", command, e, err)
		}
		if e.position() <= last {
			t.Errorf("%s: position %s comes after %d", command, e.id, last)
		}
		last = e.position()
	}
}

// TestResumeWithoutLoss reads a stream in pieces, each from where the last one
// ended, while outcomes are produced from several sides.
func TestResumeWithoutLoss(t *testing.T) {
	t.Parallel()
	b := open(t, nil)
	const senders, each = 3, 100
	first := b.stream("alice", "/operations/events") // an empty log, at position 0
	last := first.must().id
	if last != "0" { // without an id, a reader that comes back would start from then
		t.Fatalf("an empty log is at %q", last)
	}
	first.close()
	var all sync.WaitGroup
	for sender := range senders {
		all.Go(func() {
			for i := range each {
				who := "alice"
				if i%4 == 0 {
					b.do("bob", "PUT", fmt.Sprintf("/commands/deposit/%d-%d", sender, i), `{"account":"a","cents":1}`)
				}
				command, body := "deposit", `{"account":"b","cents":1}`
				if i%5 == 0 {
					command, body = "refuse", ""
				}
				b.do(who, "PUT", fmt.Sprintf("/commands/%s/%d-%d", command, sender, i), body)
			}
		})
	}
	random := rand.New(rand.NewPCG(3, 4))
	seen := map[string]bool{}
	for len(seen) < senders*each {
		stream := b.stream("alice", "/operations/events", "Last-Event-ID: "+last)
		if e := stream.must(); e.name != "ready" || e.id != last {
			t.Fatalf("resuming at %s begins with %+v", last, e)
		}
		for range min(1+random.IntN(25), senders*each-len(seen)) {
			e := stream.must()
			before, _ := strconv.ParseInt(last, 10, 64)
			var op operation
			if err := json.Unmarshal([]byte(e.data), &op); err != nil || seen[op.ID] || e.position() <= before {
				t.Fatalf("after %s came %+v, seen: %v, %v", last, e, seen[op.ID], err)
			}
			seen[op.ID] = true
			last = e.id
		}
		stream.close()
	}
	all.Wait()
	for _, id := range b.list("alice", "") {
		if !seen[id] {
			t.Errorf("operation %s was not sent", id)
		}
	}
}

func TestResync(t *testing.T) {
	t.Parallel()
	b := open(t, nil)
	b.do("alice", "PUT", "/commands/refuse/before", "")
	head, err := b.engine.Head(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, last := range []string{"99999", "-1", "x", "1.5"} {
		stream := b.stream("alice", "/operations/events", "Last-Event-ID: "+last)
		e := stream.must()
		var data struct{ Reason string }
		if json.Unmarshal([]byte(e.data), &data); e.name != "resync" || e.position() != head || !strings.Contains(data.Reason, last) {
			t.Errorf("Last-Event-ID %s gives %+v", last, e)
		}
		a := b.do("alice", "PUT", "/commands/refuse/after"+last, "")
		if e := stream.must(); e.name != "operation.rejected" || e.position() <= head || !strings.Contains(e.data, a.header.Get("X-Operation")[11:]) {
			t.Errorf("after the resync comes %+v", e)
		}
		head, _ = b.engine.Head(t.Context())
		stream.close()
	}
}

// TestResyncWhenTooOld comes back after outcomes were cleaned away.
func TestResyncWhenTooOld(t *testing.T) {
	t.Parallel()
	b := open(t, nil)
	b.do("alice", "PUT", "/commands/refuse/old", "")
	b.sweep(30 * 24 * time.Hour)
	kept := b.do("alice", "PUT", "/commands/refuse/new", "")
	stream := b.stream("alice", "/operations/events", "Last-Event-ID: 0")
	if e := stream.must(); e.name != "resync" || e.id != "0" || !strings.Contains(e.data, "no longer all kept") {
		t.Errorf("coming back too late begins with %+v", e)
	}
	e := stream.must()
	if !strings.Contains(e.data, kept.header.Get("X-Operation")[11:]) {
		t.Errorf("what is still kept does not follow: %+v", e)
	}
	stream.close()
	stream = b.stream("alice", "/operations/events", "Last-Event-ID: "+e.id)
	if e := stream.must(); e.name != "ready" {
		t.Errorf("coming back in time begins with %+v", e)
	}
}

// sweep cleans up as it would be done in a while, and finds something.
func (b *bank) sweep(in time.Duration) {
	b.t.Helper()
	if swept := b.sweepAt(in); swept.Expired == 0 {
		b.t.Fatalf("swept %+v", swept)
	}
}

func (b *bank) sweepAt(in time.Duration) semel.Swept {
	b.t.Helper()
	session, err := b.store.Begin(b.t.Context(), false)
	if err != nil {
		b.t.Fatal(err)
	}
	defer session.Rollback()
	now := time.Now().Add(in)
	swept, err := session.Sweep(b.t.Context(), semel.Sweep{Now: now, Youngest: now, Limit: 100, Tombstone: time.Hour})
	if err != nil {
		b.t.Fatal(err)
	}
	if err := session.Commit(b.t.Context()); err != nil {
		b.t.Fatal(err)
	}
	return swept
}

func TestHeartbeat(t *testing.T) {
	t.Parallel()
	b := open(t, func(o *gateway.Options, _ *semel.Options) { o.Heartbeat = 20 * time.Millisecond })
	stream := b.stream("alice", "/operations/events")
	stream.must()
	for range 3 {
		if e, ok := stream.any(); !ok || e.name != "" || e.data != "alive" {
			t.Fatalf("got %+v, %v", e, ok)
		}
	}
}

func TestStreamsEndWithTheEngine(t *testing.T) {
	t.Parallel()
	b := open(t, nil)
	streams := []*reader{b.stream("alice", "/operations/events")}
	a := b.do("alice", "PUT", "/commands/hold/1", `{"Gate":"g"}`, "Prefer: respond-async")
	b.do("alice", "PUT", "/commands/hold/2", `{"Gate":"g"}`, "Prefer: respond-async")
	streams = append(streams, b.stream("alice", a.header.Get("Operation-Location")+"/events"))
	for _, s := range streams {
		s.must()
	}
	b.stop()
	for _, s := range streams {
		for {
			if _, ok := s.any(); !ok {
				break
			}
		}
		if err := s.scanner.Err(); err != nil {
			t.Errorf("the stream broke off: %v", err)
		}
	}
}

func TestOneOperationsEvents(t *testing.T) {
	t.Parallel()
	b := open(t, nil)
	a := b.do("alice", "PUT", "/commands/hold/k", `{"Gate":"g"}`, "Prefer: respond-async")
	path := a.header.Get("Operation-Location") + "/events"
	stream := b.stream("alice", path)
	e := stream.must()
	if (e.name != "operation.accepted" && e.name != "operation.running") || e.id != "" {
		t.Errorf("the stream begins with %+v", e)
	}
	b.release("g")
	var states []string
	for ok := true; ok; {
		states = append(states, e.name)
		last := e
		if e, ok = stream.next(); !ok {
			e = last
		}
	}
	if e.name != "operation.completed" || e.position() == 0 || !strings.Contains(e.data, `"released"`) {
		t.Errorf("the stream went through %v and ends with %+v", states, e)
	}
	if a := b.do("alice", "GET", path, "", "Last-Event-ID: "+e.id); a.status != 204 || a.body != "" {
		t.Errorf("coming back got %d %s", a.status, a.body)
	}
	again := b.stream("alice", path)
	if e := again.must(); e.name != "operation.completed" {
		t.Errorf("a done operation begins with %+v", e)
	}
	if e, ok := again.next(); ok {
		t.Errorf("after its outcome came %+v", e)
	}
}

func TestMounted(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name   string
		prefix string // option
		mount  func(*http.ServeMux, http.Handler)
		origin string
	}{
		{"stripped", "", func(m *http.ServeMux, h http.Handler) { m.Handle("/api/v1/", http.StripPrefix("/api/v1", h)) }, ""},
		{"as it is", "api/v1/", func(m *http.ServeMux, h http.Handler) { m.Handle("/api/v1/", h) }, ""},
		{"stripped and told", "/api/v1", func(m *http.ServeMux, h http.Handler) { m.Handle("/api/v1/", http.StripPrefix("/api/v1", h)) }, "https://bank.example"},
	} {
		b := open(t, func(o *gateway.Options, _ *semel.Options) { o.Prefix, o.Origin = tt.prefix, tt.origin })
		mux := http.NewServeMux()
		tt.mount(mux, b.gateway)
		server := httptest.NewServer(mux)
		t.Cleanup(server.Close)
		a := b.do("alice", "PUT", server.URL+"/api/v1/commands/hold/a%2Fb", `{"Gate":"g"}`, "Prefer: respond-async")
		path := "/api/v1/operations/" + a.operation(t).ID
		origin := server.URL
		if tt.origin != "" {
			origin = tt.origin
		}
		if a.header.Get("Location") != path || a.header.Get("Operation-Location") != origin+path {
			t.Errorf("%s: the answer leads to %v", tt.name, a.header)
		}
		stream := b.stream("alice", server.URL+path+"/events")
		all := b.stream("alice", server.URL+"/api/v1/operations/events")
		all.must()
		b.release("g")
		for e := stream.must(); e.name != "operation.completed"; e = stream.must() {
		}
		if e := all.must(); e.name != "operation.completed" {
			t.Errorf("%s: got %+v", tt.name, e)
		}
		created := b.do("alice", "PUT", server.URL+"/api/v1/commands/deposit/k", `{"account":"x","cents":1}`)
		if got := created.header.Get("Location"); got != "/api/v1/accounts/x" {
			t.Errorf("%s: the created resource is at %q", tt.name, got)
		}
		if a := b.do("alice", "GET", server.URL+"/api/v1/nowhere", ""); a.status != 404 {
			t.Errorf("%s: nowhere got %d", tt.name, a.status)
		}
		stream.close()
		all.close()
	}
}

// TestSlowReaderIsCut: a reader that takes nothing loses its connection, and
// nothing else, since it may resume.
func TestSlowReaderIsCut(t *testing.T) {
	t.Parallel()
	b := open(t, func(o *gateway.Options, _ *semel.Options) { o.Stall = 50 * time.Millisecond })
	ended := make(chan struct{})
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b.gateway.ServeHTTP(w, r)
		close(ended)
	}))
	server.Config.ConnState = func(c net.Conn, state http.ConnState) {
		if state == http.StateNew { // so that few bytes fill it
			_ = c.(*net.TCPConn).SetWriteBuffer(4 << 10)
		}
	}
	server.Start()
	defer server.Close()
	conn, err := net.Dial("tcp", server.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.(*net.TCPConn).SetReadBuffer(4 << 10)
	fmt.Fprintf(conn, "GET /operations/events?after=0 HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer alice\r\n\r\n")
	for i := range 8 {
		b.do("alice", "PUT", fmt.Sprintf("/commands/text/%d", i), `{"Size":1000000}`)
	}
	select {
	case <-ended:
	case <-time.After(20 * time.Second):
		t.Error("the stream still waits for its reader")
	}
}
