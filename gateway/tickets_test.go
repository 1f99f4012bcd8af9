package gateway_test

import (
	"context"
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/semel-dev/semel"
	"github.com/semel-dev/semel/gateway"
)

// ticket gets a ticket, from a page of an origin if one is named.
func (b *bank) ticket(who string, headers ...string) string {
	b.t.Helper()
	a := b.do(who, "POST", "/operations/tickets", "", headers...)
	var given struct {
		Ticket    string
		ExpiresAt time.Time
	}
	if err := json.Unmarshal([]byte(a.body), &given); a.status != 201 || err != nil {
		b.t.Fatalf("asking for a ticket: %d %s", a.status, a.body)
	}
	if left := time.Until(given.ExpiresAt); left > 31*time.Second || left < 10*time.Second {
		b.t.Errorf("a ticket lasts %v", left)
	}
	return given.Ticket
}

func TestTicketOpensEveryStream(t *testing.T) {
	t.Parallel()
	b := open(t, nil)
	done := b.do("north/alice", "PUT", "/commands/refuse/k", "")
	one := "/" + done.header.Get("X-Operation") + "/events"
	b.do("alice", "PUT", "/commands/refuse/k", "") // of another tenant
	b.do("north/bob", "PUT", "/commands/refuse/k", "")
	for _, path := range []string{one + "?ticket=", "/operations/events?after=0&ticket="} {
		stream := b.stream("", path+b.ticket("north/alice"))
		e := stream.must()
		for e.name == "ready" {
			e = stream.must()
		}
		if !strings.Contains(e.data, done.header.Get("X-Operation")[11:]) {
			t.Errorf("%s: got %+v", path, e)
		}
		stream.close()
	}
	conn, _ := b.dial("", "?after=0&ticket="+b.ticket("north/alice"))
	b.hear(conn)
	if m := b.hearMessage(conn); "operations/"+m.ID != done.header.Get("X-Operation") {
		t.Errorf("the socket says %+v", m)
	}
	// The credentials beside it do not count: a ticket is for its caller.
	stream := b.stream("bob", one+"?ticket="+b.ticket("north/alice"))
	stream.must()
}

func TestTicketIsTakenOnce(t *testing.T) {
	t.Parallel()
	b := open(t, nil)
	refused := func(name string, a answer) {
		t.Helper()
		if slug, _ := a.problem(); a.status != 401 || slug != "unauthorized" {
			t.Errorf("%s: got %d %s", name, a.status, a.body)
		}
	}
	used := b.ticket("alice")
	b.stream("", "/operations/events?ticket="+used).close()
	refused("used", b.do("", "GET", "/operations/events?ticket="+used, ""))
	refused("used, with credentials", b.do("alice", "GET", "/operations/events?ticket="+used, ""))
	if _, response, err := b.tryDial("", "?ticket="+used); err == nil || response.StatusCode != 401 {
		t.Errorf("a used ticket opens a socket: %v", err)
	}
	fresh := b.ticket("alice")
	refused("two", b.do("", "GET", "/operations/events?ticket="+fresh+"&ticket="+fresh, ""))
	refused("empty", b.do("alice", "GET", "/operations/events?ticket=", ""))
	refused("changed", b.do("", "GET", "/operations/events?ticket=A"+fresh[1:]+"A", ""))
	refused("cut", b.do("", "GET", "/operations/events?ticket="+fresh[:20], ""))
	for _, path := range []string{"/operations", "/operations/aaaaaaaaaaaaaaaaaaaaaaaaaa"} { // only streams take them
		refused(path, b.do("", "GET", path+"?ticket="+fresh, ""))
	}
	refused("a command", b.do("", "PUT", "/commands/refuse/k?ticket="+fresh, ""))
	refused("for another ticket", b.do("", "POST", "/operations/tickets?ticket="+fresh, ""))
	b.stream("", "/operations/events?ticket="+fresh).close() // nothing of that used it
}

func TestTicketsOfOtherGateways(t *testing.T) {
	t.Parallel()
	keyed := func(key string) func(*gateway.Options, *semel.Options) {
		return func(o *gateway.Options, _ *semel.Options) { o.TicketKey = []byte(key) }
	}
	first, second := open(t, keyed(strings.Repeat("k", 32))), open(t, keyed(strings.Repeat("k", 32)))
	other, random := open(t, keyed(strings.Repeat("o", 32))), open(t, nil)
	ticket := first.ticket("alice")
	for _, b := range []*bank{other, random} {
		if a := b.do("", "GET", "/operations/events?ticket="+ticket, ""); a.status != 401 {
			t.Errorf("a gateway with another key answers %d %s", a.status, a.body)
		}
	}
	for _, b := range []*bank{first, second} { // each takes it once
		b.stream("", "/operations/events?ticket="+ticket).close()
		if a := b.do("", "GET", "/operations/events?ticket="+ticket, ""); a.status != 401 {
			t.Errorf("the second time: %d %s", a.status, a.body)
		}
	}
}

// TestOrigins tries pages of all sorts of sites.
func TestOrigins(t *testing.T) {
	t.Parallel()
	b := open(t, func(o *gateway.Options, _ *semel.Options) {
		o.Origins = []string{"https://shop.example", "http://localhost:3000"}
	})
	own := strings.TrimPrefix(b.url, "http://")
	fixed := open(t, func(o *gateway.Options, _ *semel.Options) { o.Origin = "https://api.example/" })
	for _, tt := range []struct {
		bank    *bank
		origin  string
		allowed bool
	}{
		{b, "https://shop.example", true},
		{b, "http://localhost:3000", true},
		{b, "http://" + own, true},
		{b, "https://" + own, true}, // behind a proxy that has TLS
		{b, "http://shop.example", false},
		{b, "https://shop.example.evil.example", false},
		{b, "https://evil.example", false},
		{b, "https://evil-shop.example", false},
		{b, "https://shop.example:8443", false},
		{b, "https://shop.example/", false},
		{b, "http://localhost", false},
		{b, "null", false},
		{b, "", false},
		{b, "*", false},
		{fixed, "https://api.example", true},
		{fixed, "http://api.example", false},
		{fixed, "http://" + strings.TrimPrefix(fixed.url, "http://"), false},
	} {
		conn, response, err := tt.bank.tryDial("alice", "", "Origin: "+tt.origin)
		if err == nil {
			_ = conn.CloseNow()
		}
		if allowed := err == nil; allowed != tt.allowed || !allowed && response.StatusCode != 403 {
			t.Errorf("a page of %q: allowed %v, %v", tt.origin, allowed, response)
		}
		// A ticket of nobody's page, shown by this one.
		ticket := tt.bank.ticket("alice")
		ctx, cancel := context.WithCancel(t.Context())
		r := tt.bank.request(ctx, "", "GET", "/operations/events?ticket="+ticket, "", "Origin: "+tt.origin)
		response, err = tt.bank.client.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		response.Body.Close()
		cancel()
		if allowed := response.StatusCode == 200; allowed != tt.allowed || !allowed && response.StatusCode != 403 {
			t.Errorf("a ticket shown by a page of %q: %d", tt.origin, response.StatusCode)
		}
	}
	if a := b.do("alice", "GET", "/operations/socket", "", append(upgrade(), "Origin: https://shop.example", "Origin: https://evil.example")...); a.status != 403 {
		t.Errorf("two origins got %d", a.status)
	}
}

func upgrade() []string {
	return []string{"Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA=="}
}

// TestStolenTicket: a ticket that a page of another allowed origin shows is
// refused, and worth nothing afterwards.
func TestStolenTicket(t *testing.T) {
	t.Parallel()
	b := open(t, func(o *gateway.Options, _ *semel.Options) {
		o.Origins = []string{"https://shop.example", "https://blog.example"}
	})
	ticket := b.ticket("alice", "Origin: https://shop.example")
	a := b.do("", "GET", "/operations/socket?ticket="+ticket, "", append(upgrade(), "Origin: https://evil.example")...)
	if slug, _ := a.problem(); slug != "origin-not-allowed" {
		t.Errorf("a page that is not allowed got %d %s", a.status, a.body)
	}
	if a := b.do("", "GET", "/operations/socket?ticket="+ticket, "", append(upgrade(), "Origin: https://blog.example")...); a.status != 401 {
		t.Errorf("the thief got %d %s", a.status, a.body)
	}
	if a := b.do("", "GET", "/operations/socket?ticket="+ticket, "", append(upgrade(), "Origin: https://shop.example")...); a.status != 401 {
		t.Errorf("after the theft: %d %s", a.status, a.body)
	}
	ticket = b.ticket("alice", "Origin: https://shop.example")
	conn, _ := b.dial("", "?ticket="+ticket, "Origin: https://shop.example")
	b.hear(conn)
}

func TestOptionsArePicky(t *testing.T) {
	t.Parallel()
	for _, change := range []func(*gateway.Options){
		func(o *gateway.Options) { o.Origins = []string{"*"} },
		func(o *gateway.Options) { o.Origins = []string{"https://*.example"} },
		func(o *gateway.Options) { o.Origins = []string{"shop.example"} },
		func(o *gateway.Options) { o.Origins = []string{"https://shop.example/"} },
		func(o *gateway.Options) { o.Origins = []string{"https://Shop.example"} },
		func(o *gateway.Options) { o.Origins = []string{"https://user@shop.example"} },
		func(o *gateway.Options) { o.Origins = []string{""} },
		func(o *gateway.Options) { o.Origins = []string{"null"} },
		func(o *gateway.Options) { o.TicketKey = []byte("short") },
	} {
		o := gateway.Options{Authenticate: func(*http.Request) (gateway.Identity, error) { return gateway.Identity{}, nil }}
		change(&o)
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("New took %q, %q", o.Origins, o.TicketKey)
				}
			}()
			gateway.New(nil, &o)
		}()
	}
}
