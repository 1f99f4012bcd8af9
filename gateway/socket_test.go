package gateway_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/semel-dev/semel"
	"github.com/semel-dev/semel/gateway"
)

// dial opens a socket that is given up after half a minute.
func (b *bank) dial(who, query string, headers ...string) (*websocket.Conn, *http.Response) {
	b.t.Helper()
	conn, response, err := b.tryDial(who, query, headers...)
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() { _ = conn.CloseNow() })
	return conn, response
}

func (b *bank) tryDial(who, query string, headers ...string) (*websocket.Conn, *http.Response, error) {
	b.t.Helper()
	r := b.request(b.t.Context(), who, "GET", "/operations/socket"+query, append([]string{""}, headers...)...)
	conn, response, err := websocket.Dial(b.t.Context(), strings.Replace(r.URL.String(), "http", "ws", 1),
		&websocket.DialOptions{HTTPClient: b.client, HTTPHeader: r.Header})
	if err == nil {
		conn.SetReadLimit(1 << 20)
	}
	return conn, response, err
}

// hear returns the next message, which comes.
func (b *bank) hear(conn *websocket.Conn) string {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.t.Context(), 30*time.Second)
	defer cancel()
	_, data, err := conn.Read(ctx)
	if err != nil {
		b.t.Fatal(err)
	}
	return string(data)
}

// said is a message as tests look at it.
type said struct {
	Type, ID, Name, Resource, Code, Reason string
	Position                               int64
}

func (b *bank) hearMessage(conn *websocket.Conn) (m said) {
	b.t.Helper()
	text := b.hear(conn)
	if err := json.Unmarshal([]byte(text), &m); err != nil {
		b.t.Fatalf("%v in %s", err, text)
	}
	return m
}

// ending reads until the socket is closed, and returns with what.
func (b *bank) ending(conn *websocket.Conn) (code websocket.StatusCode, reason string) {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.t.Context(), 30*time.Second)
	defer cancel()
	for {
		if _, _, err := conn.Read(ctx); err != nil {
			var closed websocket.CloseError
			if !errors.As(err, &closed) {
				b.t.Fatalf("the socket broke off: %v", err)
			}
			return closed.Code, closed.Reason
		}
	}
}

func TestSocketMessages(t *testing.T) {
	t.Parallel()
	b := open(t, nil)
	b.do("alice", "PUT", "/commands/refuse/before", "")
	conn, _ := b.dial("alice", "")
	head, err := b.engine.Head(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if got, want := b.hear(conn), fmt.Sprintf(`{"type":"ready","position":%d}`, head); got != want {
		t.Errorf("the socket begins with %s, want %s", got, want)
	}
	last := head
	for _, tt := range []struct{ command, body, want string }{
		{"deposit", `{"account":"a","cents":1}`, `{"type":"operation_completed","id":"ID","name":"deposit","resource":"accounts/a","position":N}`},
		{"refuse", "", `{"type":"operation_rejected","id":"ID","name":"refuse","code":"insufficient_funds","reason":"you have 3 cents","position":N}`},
		{"break", "", `{"type":"operation_failed","id":"ID","name":"break","code":"failed","reason":"the handler gave up: trying again would not help","position":N}`},
	} {
		b.do("bob", "PUT", "/commands/"+tt.command+"/k", tt.body) // not for alice's eyes
		a := b.do("alice", "PUT", "/commands/"+tt.command+"/k", tt.body)
		text := b.hear(conn)
		var m said
		if err := json.Unmarshal([]byte(text), &m); err != nil || m.Position <= last {
			t.Errorf("%s: after %d came %s, %v", tt.command, last, text, err)
		}
		last = m.Position
		want := strings.NewReplacer("ID", strings.TrimPrefix(a.header.Get("X-Operation"), "operations/"), "N", strconv.FormatInt(last, 10)).Replace(tt.want)
		if text != want {
			t.Errorf("%s: got  %s\nwant %s", tt.command, text, want)
		}
	}
	b.do("alice", "PUT", "/commands/hold/1", `{"Gate":"g"}`, "Prefer: wait=0")
	queued := b.do("alice", "PUT", "/commands/hold/2", `{"Gate":"g"}`, "Prefer: wait=0").operation(t)
	id, err := semel.ParseID(queued.ID)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.engine.Cancel(t.Context(), "", "alice", id); err != nil {
		t.Fatal(err)
	}
	if m := b.hearMessage(conn); m.Type != "operation_canceled" || m.ID != queued.ID || m.Code != "canceled" {
		t.Errorf("after canceling came %+v", m)
	}
	b.release("g")
}

// TestSocketResumesWithoutLoss reads in pieces, each from where the last one
// ended, while outcomes are produced from several sides.
func TestSocketResumesWithoutLoss(t *testing.T) {
	t.Parallel()
	b := open(t, nil)
	const senders, each = 3, 60
	var all sync.WaitGroup
	for sender := range senders {
		all.Go(func() {
			for i := range each {
				b.do("alice", "PUT", fmt.Sprintf("/commands/refuse/%d-%d", sender, i), "")
			}
		})
	}
	random := rand.New(rand.NewPCG(5, 6))
	seen := map[string]bool{}
	last := int64(0)
	for len(seen) < senders*each {
		var conn *websocket.Conn
		begins := 1
		if random.IntN(2) == 0 {
			conn, _ = b.dial("alice", "?after="+strconv.FormatInt(last, 10))
		} else { // by a message; what came before it has to be forgotten
			begins = 2
			conn, _ = b.dial("alice", "")
			if err := conn.Write(t.Context(), websocket.MessageText, fmt.Appendf(nil, `{"after":%d}`, last)); err != nil {
				t.Fatal(err)
			}
		}
		for begins > 0 {
			if m := b.hearMessage(conn); m.Type == "ready" {
				begins--
			}
		}
		for range min(1+random.IntN(25), senders*each-len(seen)) {
			m := b.hearMessage(conn)
			if m.Position <= last || seen[m.ID] {
				t.Fatalf("after %d came %+v, seen: %v", last, m, seen[m.ID])
			}
			seen[m.ID], last = true, m.Position
		}
		_ = conn.CloseNow()
	}
	all.Wait()
	for _, id := range b.list("alice", "") {
		if !seen[id] {
			t.Errorf("operation %s was not told", id)
		}
	}
}

func TestSocketResync(t *testing.T) {
	t.Parallel()
	b := open(t, nil)
	b.do("alice", "PUT", "/commands/refuse/old", "")
	head, err := b.engine.Head(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, after := range []string{"99999", "-1", "x"} {
		conn, _ := b.dial("alice", "?after="+after)
		if m := b.hearMessage(conn); m.Type != "resync" || m.Position != head || !strings.Contains(m.Reason, after) {
			t.Errorf("after=%s gives %+v", after, m)
		}
	}
	b.expire()
	conn, _ := b.dial("alice", "?after=0")
	if m := b.hearMessage(conn); m.Type != "resync" || m.Position != 0 || !strings.Contains(m.Reason, "no longer all kept") {
		t.Errorf("coming back too late begins with %+v", m)
	}
}

func TestSocketTakesOneMessage(t *testing.T) {
	t.Parallel()
	b := open(t, nil)
	for _, tt := range []struct {
		name string
		kind websocket.MessageType
		say  []string
		code websocket.StatusCode
	}{
		{"binary", websocket.MessageBinary, []string{`{"after":0}`}, 1008},
		{"not JSON", websocket.MessageText, []string{`after`}, 1008},
		{"nothing", websocket.MessageText, []string{`{}`}, 1008},
		{"negative", websocket.MessageText, []string{`{"after":-1}`}, 1008},
		{"something else", websocket.MessageText, []string{`{"after":0,"x":1}`}, 1008},
		{"two values", websocket.MessageText, []string{`{"after":0}{"after":0}`}, 1008},
		{"twice", websocket.MessageText, []string{`{"after":0}`, `{"after":0}`}, 1008},
		{"too much", websocket.MessageText, []string{`{"after":0` + strings.Repeat(" ", 300) + `}`}, 1009},
	} {
		conn, _ := b.dial("alice", "")
		for _, text := range tt.say {
			if err := conn.Write(t.Context(), tt.kind, []byte(text)); err != nil {
				t.Fatal(err)
			}
		}
		if code, reason := b.ending(conn); code != tt.code {
			t.Errorf("%s: closed with %d %s, want %d", tt.name, code, reason, tt.code)
		}
	}
}

func TestSocketEndsWithTheEngine(t *testing.T) {
	t.Parallel()
	b := open(t, nil)
	conn, _ := b.dial("alice", "")
	b.hear(conn)
	b.stop()
	if code, reason := b.ending(conn); code != websocket.StatusGoingAway || reason == "" {
		t.Errorf("closed with %d %s", code, reason)
	}
}

func TestSocketPings(t *testing.T) {
	t.Parallel()
	b := open(t, func(o *gateway.Options, _ *semel.Options) { o.Heartbeat = 20 * time.Millisecond })
	pings := make(chan struct{}, 100)
	conn, _, err := websocket.Dial(t.Context(), strings.Replace(b.url, "http", "ws", 1)+"/operations/socket", &websocket.DialOptions{
		HTTPClient: b.client,
		HTTPHeader: http.Header{"Authorization": {"Bearer alice"}},
		OnPingReceived: func(context.Context, []byte) bool {
			pings <- struct{}{}
			return true
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.CloseNow()
	b.hear(conn)
	heard := make(chan string)
	go func() { heard <- b.hear(conn) }()
	for range 3 {
		<-pings
	}
	b.do("alice", "PUT", "/commands/refuse/k", "")
	if text := <-heard; !strings.Contains(text, "operation_rejected") {
		t.Errorf("after the pings came %s", text)
	}
}

const handshake = "GET /operations/socket%s HTTP/1.1\r\nHost: %s\r\nAuthorization: Bearer alice\r\nConnection: Upgrade\r\n" +
	"Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"

// TestSilentReaderIsCut: a reader that gives no pong is gone, and its
// connection must not be kept.
func TestSilentReaderIsCut(t *testing.T) {
	t.Parallel()
	b := open(t, func(o *gateway.Options, _ *semel.Options) {
		o.Heartbeat, o.Stall = 20*time.Millisecond, 50*time.Millisecond
	})
	conn, err := net.Dial("tcp", strings.TrimPrefix(b.url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetReadDeadline(time.Now().Add(20 * time.Second))
	fmt.Fprintf(conn, handshake, "", "x")
	if _, err := io.Copy(io.Discard, conn); err != nil && !errors.Is(err, net.ErrClosed) && !strings.Contains(err.Error(), "reset") {
		t.Errorf("the connection is still open: %v", err)
	}
}

// TestSlowSocketIsCut: a reader that takes nothing loses its connection.
func TestSlowSocketIsCut(t *testing.T) {
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
	for i := range 40 {
		b.do("alice", "PUT", fmt.Sprintf("/commands/complain/%d", i), `{"Size":60000}`)
	}
	conn, err := net.Dial("tcp", server.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.(*net.TCPConn).SetReadBuffer(4 << 10)
	fmt.Fprintf(conn, handshake, "?after=0", "x")
	select {
	case <-ended:
	case <-time.After(20 * time.Second):
		t.Error("the socket still waits for its reader")
	}
}

func TestUpgradeRequired(t *testing.T) {
	t.Parallel()
	b := open(t, nil)
	good := []string{"Connection: keep-alive, Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA=="}
	for i, bad := range []string{"Connection: close", "Upgrade: h2c", "Sec-WebSocket-Version: 8", "Sec-WebSocket-Key: AAAA"} {
		headers := append(append([]string{}, good[:i]...), good[i+1:]...)
		a := b.do("alice", "GET", "/operations/socket", "", append(headers, bad)...)
		if slug, _ := a.problem(); a.status != 426 || slug != "upgrade-required" || a.header.Get("Upgrade") != "websocket" || a.header.Get("Sec-WebSocket-Version") != "13" {
			t.Errorf("%s: got %d %s %v", bad, a.status, a.body, a.header)
		}
	}
	if a := b.do("alice", "HEAD", "/operations/socket", "", good...); a.status != 426 {
		t.Errorf("HEAD got %d", a.status)
	}
}

// TestReauthorize: who has a stream open is asked about again while it is
// open, and loses it with its rights.
func TestReauthorize(t *testing.T) {
	t.Parallel()
	refused := errors.New("the session has ended")
	var another gateway.Identity
	another.Principal = "somebody-else"
	for _, tt := range []struct {
		name    string
		ticket  bool
		who     gateway.Identity
		err     error // of Authenticate, later
		recheck error
		hook    bool
		code    websocket.StatusCode
	}{
		{"credentials end", false, gateway.Identity{}, refused, nil, false, 4401},
		{"credentials are another's", false, another, nil, nil, false, 4401},
		{"permission ends", false, gateway.Identity{Principal: "alice"}, nil, refused, true, 4401},
		{"the directory is away", false, gateway.Identity{Principal: "alice"}, nil, fmt.Errorf("directory: %w", semel.ErrUnavailable), true, 1013},
		{"a ticket, and nobody to ask", true, gateway.Identity{}, nil, nil, false, 4401},
		{"a ticket, and permission ends", true, gateway.Identity{}, refused, refused, true, 4401},
	} {
		var later, asked atomic.Bool
		b := open(t, func(o *gateway.Options, _ *semel.Options) {
			o.Reauthorize = 30 * time.Millisecond
			o.Authenticate = func(r *http.Request) (gateway.Identity, error) {
				if later.Load() {
					return tt.who, tt.err
				}
				return authenticate(r)
			}
			if tt.hook {
				o.Recheck = func(_ context.Context, who gateway.Identity) error {
					if who.Principal != "alice" {
						t.Errorf("%s: asked about %+v", tt.name, who)
					}
					if later.Load() {
						return tt.recheck
					}
					asked.Store(true)
					return nil
				}
			}
		})
		who, query, streamQuery := "alice", "", ""
		if tt.ticket {
			query, streamQuery = "?ticket="+b.ticket("alice"), "?ticket="+b.ticket("alice")
			who = ""
		}
		conn, _ := b.dial(who, query)
		stream := b.stream(who, "/operations/events"+streamQuery)
		b.hear(conn)
		if tt.hook && !asked.Load() {
			t.Errorf("%s: nobody was asked before", tt.name)
		}
		later.Store(true)
		if code, reason := b.ending(conn); code != tt.code {
			t.Errorf("%s: closed with %d %s, want %d", tt.name, code, reason, tt.code)
		}
		for {
			if _, ok := stream.any(); !ok {
				break
			}
		}
		if err := stream.scanner.Err(); err != nil {
			t.Errorf("%s: the stream broke off: %v", tt.name, err)
		}
	}
}

// TestReauthorizeLetsStay: nothing ends for who may stay.
func TestReauthorizeLetsStay(t *testing.T) {
	t.Parallel()
	var asked atomic.Int64
	b := open(t, func(o *gateway.Options, _ *semel.Options) {
		o.Reauthorize = 10 * time.Millisecond
		o.Recheck = func(context.Context, gateway.Identity) error {
			asked.Add(1)
			return nil
		}
	})
	conn, _ := b.dial("", "?ticket="+b.ticket("alice"))
	b.hear(conn)
	held := b.do("alice", "PUT", "/commands/hold/k", `{"Gate":"g"}`, "Prefer: wait=0")
	stream := b.stream("alice", "/"+held.header.Get("X-Operation")+"/events")
	stream.must()
	before := asked.Load()
	eventually(t, "both are asked about several times", func() bool { return asked.Load() > before+10 })
	b.release("g")
	if m := b.hearMessage(conn); m.Type != "operation_completed" {
		t.Errorf("got %+v", m)
	}
	for e := stream.must(); e.name != "operation.completed"; e = stream.must() {
	}
}

// TestHandshakeBytes looks at the answer as it is on the wire.
func TestHandshakeBytes(t *testing.T) {
	t.Parallel()
	b := open(t, nil)
	conn, err := net.Dial("tcp", strings.TrimPrefix(b.url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprintf(conn, handshake, "", "x")
	response, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	if response.StatusCode != 101 || response.Header.Get("Sec-WebSocket-Extensions") != "" || // compression beside secrets leaks them
		response.Header.Get("Cache-Control") != "no-store" {
		t.Errorf("got %d %v", response.StatusCode, response.Header)
	}
}
