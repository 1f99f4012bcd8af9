package gateway_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
	"unicode"

	"github.com/semel-dev/semel"
	"github.com/semel-dev/semel/gateway"
	"github.com/semel-dev/semel/sqlite"
)

// secret is what only one caller may ever see.
func secret(who gateway.Identity) string {
	sum := sha256.Sum256(fmt.Appendf(nil, "%q %q", who.Tenant, who.Principal))
	return hex.EncodeToString(sum[:])
}

// alike are callers that a careless key would mix up: whose parts are the same
// text when they are put together, or differ in what some compare as equal.
func alike() (callers []gateway.Identity) {
	for _, whole := range []string{"abc", "a/b", "a\x00b", "a:b", "1:a2:b", "\x01a\x01b", `a","b`, "aA", "ää", "%61a"} {
		for i := range whole {
			callers = append(callers, gateway.Identity{Tenant: whole[:i], Principal: whole[i:]})
		}
	}
	return callers
}

// TestSameKeyOfTwoCallers tries at random: whatever a caller sends or reads,
// no byte of another caller's answers is in what comes back.
func TestSameKeyOfTwoCallers(t *testing.T) {
	t.Parallel()
	tries, senders := 100_000, 32
	if testing.Short() || raceDetector {
		tries = 2_000
	}
	callers := alike()
	owner := map[string]int{} // by secret
	for i, who := range callers {
		owner[secret(who)] = i
	}
	b := open(t, func(o *gateway.Options, _ *semel.Options) {
		o.Authenticate = func(r *http.Request) (gateway.Identity, error) {
			i, err := strconv.Atoi(r.Header.Get("Authorization"))
			return callers[i], err
		}
	})
	ids := make([]sync.Map, len(callers)) // by caller, the ids that are theirs
	var total, replayed, foreign atomic.Int64
	try := func(random *rand.Rand) {
		me, other := random.IntN(len(callers)), random.IntN(len(callers))
		key := "k" + strconv.Itoa(random.IntN(60))
		r := httptest.NewRequest("PUT", "/commands/secret/"+key, nil)
		reading := random.IntN(4) == 0
		if reading {
			id := semel.Command{Tenant: callers[other].Tenant, Principal: callers[other].Principal, Name: "secret", Key: key}.ID()
			r = httptest.NewRequest("GET", "/operations/"+id.String(), nil)
		}
		r.Header.Set("Authorization", strconv.Itoa(me))
		w := httptest.NewRecorder()
		b.gateway.ServeHTTP(w, r)
		body := w.Body.String()
		total.Add(1)
		switch {
		case reading && me != other:
			foreign.Add(1)
			if w.Code != 404 {
				t.Errorf("%q reads %q's operation: %d %s", callers[me], callers[other], w.Code, body)
			}
		case reading:
			if w.Code != 404 && !strings.Contains(body, secret(callers[me])) {
				t.Errorf("%q reads its own operation: %d %s", callers[me], w.Code, body)
			}
		case w.Code != 200 || body != `"`+secret(callers[me])+`"`:
			t.Errorf("%q sends %s: %d %s, %d's", callers[me], key, w.Code, body, owner[strings.Trim(body, `"`)])
		default:
			ids[me].Store(w.Header().Get("X-Operation"), true)
			if w.Header().Get("Idempotent-Replayed") != "" {
				replayed.Add(1)
			}
		}
	}
	var all sync.WaitGroup
	for sender := range senders {
		all.Go(func() {
			random := rand.New(rand.NewPCG(7, uint64(sender)))
			for range tries / senders {
				try(random)
			}
		})
	}
	all.Wait()
	owners := map[string]int{}
	for i := range ids {
		ids[i].Range(func(id, _ any) bool {
			if other, taken := owners[id.(string)]; taken {
				t.Errorf("%q and %q share %s", callers[i], callers[other], id)
			}
			owners[id.(string)] = i
			return true
		})
	}
	if n := total.Load(); n < int64(tries-senders) || replayed.Load() < n/20 || foreign.Load() < n/8 {
		t.Errorf("of %d tries %d were repeats and %d read another's", n, replayed.Load(), foreign.Load())
	}
}

// TestGuessedIDs: an operation's id can be computed by anybody, and tells
// nothing to anybody: another's operation is answered as one that never was.
func TestGuessedIDs(t *testing.T) {
	t.Parallel()
	b := open(t, nil)
	b.do("alice", "PUT", "/commands/refuse/k", "")
	b.do("alice", "PUT", "/commands/hold/k", `{"Gate":"g"}`, "Prefer: wait=0")
	absent := semel.Command{Principal: "alice", Name: "refuse", Key: "absent"}.ID().String()
	for _, command := range []string{"refuse", "hold"} {
		id := semel.Command{Principal: "alice", Name: command, Key: "k"}.ID().String()
		for _, suffix := range []string{"", "/events", "/events?after=0"} {
			for _, headers := range [][]string{nil, {"Prefer: wait=1"}, {`If-None-Match: *`}, {"Last-Event-ID: 99999"}} {
				there := b.do("bob", "GET", "/operations/"+id+suffix, "", headers...)
				not := b.do("bob", "GET", "/operations/"+absent+suffix, "", headers...)
				for _, a := range []*answer{&there, &not} {
					a.header.Del("Date")
					a.body = strings.NewReplacer(id, "ID", absent, "ID").Replace(a.body)
				}
				if there.status != 404 || !reflect.DeepEqual(there, not) {
					t.Errorf("%s%s %v: %+v\nan absent one: %+v", command, suffix, headers, there, not)
				}
			}
		}
	}
	b.release("g")
}

// injections are what could end a line in a header or a log, or change a
// terminal that shows it.
var injections = []string{"a\r\nX-Evil: 1", "a\nX-Evil: 1", "a\rX-Evil: 1", "a\x00b", "a\x1b[31mb", "a\u2028b", "a\x7fb", "\xff\xfe", `a","evil":"1`, "a\u202eb"}

// TestInjection puts them into everything that a client can send, and looks at
// what comes back, what is stored, and what is logged.
func TestInjection(t *testing.T) {
	t.Parallel()
	var log lockedBuffer
	b := open(t, func(o *gateway.Options, _ *semel.Options) {
		o.Logger = slog.New(slog.NewJSONHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))
		o.Authenticate = func(r *http.Request) (gateway.Identity, error) {
			if token := r.Header.Get("Authorization"); token != "Bearer alice" {
				return gateway.Identity{}, fmt.Errorf("token %s: %w", token, gateway.Challenge("Bearer error="+token))
			}
			return gateway.Identity{Principal: "alice"}, nil
		}
		o.Authorize = func(_ context.Context, _ gateway.Identity, command string) error {
			if command != "correlation" {
				return fmt.Errorf("no %s", command)
			}
			return nil
		}
	})
	names := []string{"Idempotency-Key", "Repeatability-Request-ID", "Repeatability-First-Sent", "Prefer", "Content-Type",
		"X-Correlation-ID", "X-Connection-ID", "X-Retry-Count", "Traceparent", "Accept-Language", "Authorization",
		"Last-Event-ID", "Origin", "If-None-Match", "Host", "Sec-WebSocket-Key", "Upgrade", "User-Agent"}
	// Over the wire first, where net/http is in between, then past it: another
	// server that the handler is mounted in might let more through.
	for _, evil := range injections {
		for i, name := range names {
			key := fmt.Sprintf("k%d-%x", i, evil)
			b.injectRaw(key, name, evil)
			b.injectDirectly(key, name, evil)
		}
		for _, path := range []string{"/commands/%s/k", "/commands/correlation/%s", "/operations/%s", "/operations?state=%[1]s", "/operations?page=o%s",
			"/operations/events?ticket=%s", "/operations/socket?after=%s", "/%s"} {
			r := httptest.NewRequest("GET", fmt.Sprintf(path, escapeAll(evil)), nil)
			if strings.HasPrefix(path, "/commands") {
				r.Method = "PUT"
			}
			r.Header.Set("Authorization", "Bearer alice")
			w := httptest.NewRecorder()
			b.gateway.ServeHTTP(w, r)
			b.checkClean(path+" "+strconv.Quote(evil), w.Header(), w.Body.String())
		}
	}
	for _, id := range b.list("alice", "") { // what is stored is shown
		if strings.ContainsFunc(id, unicode.IsControl) {
			t.Errorf("an id is %q", id)
		}
	}
	lines := log.lines()
	for _, line := range lines {
		var entry map[string]any
		if err := json.Unmarshal([]byte(line), &entry); err != nil || entry["evil"] != nil || strings.ContainsFunc(line, func(c rune) bool { return c < ' ' }) {
			t.Fatalf("the log has the line %q: %v", line, err)
		}
	}
	if len(lines) < 30 {
		t.Errorf("only %d lines were logged", len(lines))
	}
}

func escapeAll(s string) string {
	var b strings.Builder
	for _, c := range []byte(s) {
		fmt.Fprintf(&b, "%%%02X", c)
	}
	return b.String()
}

// injectRaw writes a request as nobody's client library would.
func (b *bank) injectRaw(key, name, evil string) {
	b.t.Helper()
	conn, err := net.Dial("tcp", strings.TrimPrefix(b.url, "http://"))
	if err != nil {
		b.t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
	lines := map[string]string{"Host": "x", "Authorization": "Bearer alice", "Idempotency-Key": key, "Connection": "close"}
	lines[name] = evil
	fmt.Fprint(conn, "POST /commands/correlation HTTP/1.1\r\n")
	for name, value := range lines {
		fmt.Fprintf(conn, "%s: %s\r\n", name, value)
	}
	fmt.Fprint(conn, "Content-Length: 2\r\n\r\n{}")
	response, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		b.t.Fatalf("%s: %q: %v", name, evil, err)
	}
	defer response.Body.Close()
	body, _ := io.ReadAll(response.Body) // which a server cuts that has not read the request to its end
	b.checkClean(name+" "+strconv.Quote(evil), response.Header, string(body))
}

func (b *bank) injectDirectly(key, name, evil string) {
	b.t.Helper()
	for _, request := range []string{"POST /commands/correlation", "GET /operations/socket", "POST /operations/tickets"} {
		method, path, _ := strings.Cut(request, " ")
		r := httptest.NewRequest(method, path, strings.NewReader("{}"))
		r.Header.Set("Authorization", "Bearer alice")
		r.Header.Set("Idempotency-Key", key+"-direct")
		r.Header.Set(name, evil)
		if name == "Host" {
			r.Host = evil
		}
		w := httptest.NewRecorder()
		b.gateway.ServeHTTP(w, r)
		// A recorder does not take line ends out of headers, as every server does.
		w.Header().Del("WWW-Authenticate")
		b.checkClean(request+" "+name+" "+strconv.Quote(evil), w.Header(), w.Body.String())
	}
}

// checkClean looks for traces of an injection in an answer.
func (b *bank) checkClean(where string, header http.Header, body string) {
	b.t.Helper()
	if header.Get("X-Evil") != "" {
		b.t.Errorf("%s: the answer has a header of the client's making", where)
	}
	for name, values := range header {
		for _, value := range values {
			if strings.ContainsFunc(value, unicode.IsControl) {
				b.t.Errorf("%s: the header %s is %q", where, name, value)
			}
		}
	}
	if strings.ContainsFunc(body, unicode.IsControl) && !strings.Contains(header.Get("Content-Type"), "event-stream") {
		b.t.Errorf("%s: the body is %q", where, body)
	}
	if strings.HasSuffix(header.Get("Content-Type"), "json") {
		var members map[string]any
		if err := json.Unmarshal([]byte(body), &members); err != nil || members["evil"] != nil {
			b.t.Errorf("%s: the body is %s: %v", where, body, err)
		}
	}
}

// A lockedBuffer is a log that several goroutines write.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) lines() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Split(strings.TrimSuffix(l.b.String(), "\n"), "\n")
}

// TestTicketsAreNotLogged: neither a good one nor a bad one.
func TestTicketsAreNotLogged(t *testing.T) {
	t.Parallel()
	var log lockedBuffer
	b := open(t, func(o *gateway.Options, _ *semel.Options) {
		o.Logger = slog.New(slog.NewJSONHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))
		o.Reauthorize = 10 * time.Millisecond
	})
	ticket := b.ticket("alice")
	stream := b.stream("", "/operations/events?ticket="+ticket)
	for ok := true; ok; _, ok = stream.any() { // until it may not stay
	}
	b.do("", "GET", "/operations/events?ticket="+ticket, "")
	if lines := log.lines(); strings.Contains(strings.Join(lines, ""), ticket[:20]) {
		t.Errorf("the log has the ticket: %v", lines)
	}
}

// TestSlowBodyIsGivenUp: a body that trickles in holds a connection for
// MaxUpload and no longer, and leaves nothing. So does one that nobody reads.
func TestSlowBodyIsGivenUp(t *testing.T) {
	t.Parallel()
	b := open(t, func(o *gateway.Options, _ *semel.Options) { o.MaxUpload = 200 * time.Millisecond })
	response := b.trickle("PUT /commands/deposit/slow", "alice")
	if response.StatusCode != 408 || !response.Close {
		t.Errorf("got %d, close %v", response.StatusCode, response.Close)
	}
	if a := b.do("alice", "PUT", "/commands/deposit/slow", `{"account":"a","cents":1}`); a.status != 201 {
		t.Errorf("again: %d %s", a.status, a.body)
	}
	if response := b.trickle("PUT /commands/deposit/slow", ""); response.StatusCode != 401 {
		t.Errorf("without credentials: %d", response.StatusCode)
	}
	if response := b.trickle("POST /operations/tickets", "alice"); response.StatusCode != 201 {
		t.Errorf("a ticket: %d", response.StatusCode)
	}
}

// trickle sends a body byte by byte until it is answered, which has to be
// before the body is complete.
func (b *bank) trickle(line, who string) *http.Response {
	b.t.Helper()
	conn, err := net.Dial("tcp", strings.TrimPrefix(b.url, "http://"))
	if err != nil {
		b.t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
	fmt.Fprintf(conn, "%s HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n", line)
	if who != "" {
		fmt.Fprintf(conn, "Authorization: Bearer %s\r\n", who)
	}
	fmt.Fprint(conn, "\r\n")
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		tick := time.NewTicker(50 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
			case <-stop:
				return
			}
			if _, err := conn.Write([]byte{' '}); err != nil {
				return
			}
		}
	}()
	response, err := http.ReadResponse(bufio.NewReader(conn), nil)
	close(stop)
	<-stopped
	if err != nil {
		b.t.Fatalf("%s: %v", line, err)
	}
	response.Body.Close()
	return response
}

// TestEndlessBodyIsRefused: no more is read of a body than is taken.
func TestEndlessBodyIsRefused(t *testing.T) {
	t.Parallel()
	b := open(t, nil)
	for _, path := range []string{"/commands/deposit/endless", "/operations/tickets"} {
		method := "PUT"
		if path == "/operations/tickets" {
			method = "POST"
		}
		r := b.request(t.Context(), "alice", method, path, "x")
		r.Body, r.ContentLength, r.GetBody = io.NopCloser(endless{}), -1, nil
		response, err := b.client.Do(r)
		if err != nil { // the server hangs up on who goes on sending
			continue
		}
		response.Body.Close()
		if path != "/operations/tickets" && response.StatusCode != 413 {
			t.Errorf("%s: got %d", path, response.StatusCode)
		}
	}
	if a := b.do("alice", "PUT", "/commands/deposit/endless", `{"account":"a","cents":1}`); a.status != 201 {
		t.Errorf("again: %d %s", a.status, a.body)
	}
}

type endless struct{}

func (endless) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = ' '
	}
	return len(p), nil
}

// TestManySmallHeaders: a thousand headers of a few bytes are as dear as they
// are to keep.
func TestManySmallHeaders(t *testing.T) {
	t.Parallel()
	b := open(t, nil)
	var headers []string
	for i := range 600 {
		headers = append(headers, fmt.Sprintf("A%d: b", i))
	}
	if a := b.do("alice", "GET", "/operations", "", headers...); a.status != 431 {
		t.Errorf("got %d", a.status)
	}
}

func (b *bank) handleSecrets() {
	semel.Handle(b.engine, "secret", func(_ context.Context, u *semel.Unit[sqlite.Tx], _ struct{}) (string, error) {
		return secret(gateway.Identity{Tenant: u.Operation().Tenant, Principal: u.Operation().Principal}), nil
	}, nil)
}
