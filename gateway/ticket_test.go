package gateway

import (
	"encoding/base64"
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/semel-dev/semel"
)

func TestRedeem(t *testing.T) {
	t.Parallel()
	who := Identity{Tenant: "north", Principal: "alice"}
	now := time.UnixMilli(1_000_000)
	for _, tt := range []struct {
		name           string
		asked, shown   string
		after          time.Duration
		change         func(string) string
		want           error
		wantAfterwards error
	}{
		{"at once", "", "", 0, nil, nil, errUsed},
		{"in time", "", "", ticketLife - time.Millisecond, nil, nil, errUsed},
		{"too late", "", "", ticketLife, nil, errTooLate, errTooLate},
		{"same origin", "https://a", "https://a", 0, nil, nil, errUsed},
		{"a page without the header", "https://a", "", 0, nil, nil, errUsed}, // as browsers do within an origin
		{"another origin", "https://a", "https://b", 0, nil, errStolen, errUsed},
		{"nothing", "", "", 0, func(string) string { return "" }, errNoTicket, errNoTicket},
		{"no base64", "", "", 0, func(s string) string { return s + "=" }, errNoTicket, errNoTicket},
		{"cut", "", "", 0, func(s string) string { return s[:len(s)-4] }, errNoTicket, errNoTicket},
		{"changed", "", "", 0, func(s string) string { return flip(s, 40) }, errNoTicket, errNoTicket},
		{"changed nonce", "", "", 0, func(s string) string { return flip(s, 0) }, errNoTicket, errNoTicket},
	} {
		tickets := newTickets(nil)
		ticket, expires := tickets.issue(who, tt.asked, now)
		if want := now.Add(ticketLife); !expires.Equal(want) {
			t.Errorf("%s: expires at %v, want %v", tt.name, expires, want)
		}
		if tt.change != nil {
			ticket = tt.change(ticket)
		}
		got, err := tickets.redeem(ticket, tt.shown, now.Add(tt.after))
		if !errors.Is(err, tt.want) || err == nil && got != who || err != nil && got != (Identity{}) {
			t.Errorf("%s: redeem = %v, %v, want %v", tt.name, got, err, tt.want)
		}
		if _, err := tickets.redeem(ticket, tt.asked, now.Add(tt.after)); !errors.Is(err, tt.wantAfterwards) {
			t.Errorf("%s: afterwards %v, want %v", tt.name, err, tt.wantAfterwards)
		}
	}
}

// flip changes one bit of a ticket.
func flip(ticket string, at int) string {
	raw, err := base64.RawURLEncoding.DecodeString(ticket)
	if err != nil {
		return ""
	}
	raw[at] ^= 1
	return base64.RawURLEncoding.EncodeToString(raw)
}

// TestTicketsSayNothing: a ticket ends up in the logs of proxies.
func TestTicketsSayNothing(t *testing.T) {
	t.Parallel()
	tickets := newTickets(nil)
	seen := map[string]bool{}
	for range 100 {
		ticket, _ := tickets.issue(Identity{Tenant: "north", Principal: "alice"}, "https://shop.example", time.Now())
		raw, err := base64.RawURLEncoding.DecodeString(ticket)
		if err != nil || strings.Contains(string(raw), "alice") || strings.Contains(string(raw), "north") || seen[ticket] {
			t.Fatalf("ticket %q: %v", raw, err)
		}
		seen[ticket] = true
	}
}

// TestUsedTicketsAreForgotten: what is remembered is bounded, and no ticket
// can be used again because it was forgotten.
func TestUsedTicketsAreForgotten(t *testing.T) {
	t.Parallel()
	tickets := newTickets(nil)
	now := time.Now()
	var last [32]byte
	for i := range mostUsed {
		last = [32]byte{byte(i), byte(i >> 8), byte(i >> 16), 1}
		if err := tickets.use(last, now.Add(ticketLife), now); err != nil {
			t.Fatal(err)
		}
	}
	if err := tickets.use([32]byte{}, now.Add(ticketLife), now); !errors.Is(err, errTooMany) {
		t.Errorf("one more than is remembered: %v", err)
	}
	if err := tickets.use(last, now.Add(ticketLife), now); !errors.Is(err, errUsed) {
		t.Errorf("used before: %v", err)
	}
	now = now.Add(ticketLife)
	if err := tickets.use([32]byte{}, now.Add(ticketLife), now); err != nil || len(tickets.used) != 1 {
		t.Errorf("half a minute later: %v, %d are remembered", err, len(tickets.used))
	}
}

func FuzzRedeem(f *testing.F) {
	tickets := newTickets([]byte(strings.Repeat("k", 32)))
	ticket, _ := tickets.issue(Identity{Tenant: "t", Principal: "p"}, "", time.Now())
	for _, seed := range []string{"", "AAAA", ticket[:40], ticket + "\n", flip(ticket, 20)} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, shown string) {
		if strings.Trim(shown, "\r\n") == ticket {
			return
		}
		// Time has passed for the one real ticket.
		if who, err := tickets.redeem(shown, "", time.Now().Add(time.Hour)); err == nil {
			t.Errorf("redeem(%q) = %v", shown, who)
		}
	})
}

func FuzzParseMove(f *testing.F) {
	for _, seed := range []string{`{"after":0}`, `{"after":"9007199254740993"}`, `{"after":-1}`, `{"after":1e3}`, `{}`, `[`, `{"after":null}`, `{"After":1}`} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		m := parseMove(data)
		if _, ok := parsePosition(m.after); ok == (m.err != nil) {
			t.Errorf("parseMove(%q) = %q, %v", data, m.after, m.err)
		}
	})
}

// FuzzOrigin: only a page of an origin that is listed, or of the gateway's
// own, may open anything.
func FuzzOrigin(f *testing.F) {
	g := &Gateway{options: Options{Origins: []string{"https://shop.example"}, Origin: "https://api.example"}}
	for _, seed := range []string{"https://shop.example", "https://api.example", "https://API.example", "https://shop.example.evil", "null", "", "*"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, origin string) {
		err := g.checkOrigin(&http.Request{Header: http.Header{"Origin": {origin}}, Host: "evil.example"})
		if allowed := origin == "https://shop.example" || origin == "https://api.example"; (err == nil) != allowed {
			t.Errorf("checkOrigin(%q) = %v", origin, err)
		}
	})
}

// FuzzHeaderKey: whichever header the key is in, what is taken is a key.
func FuzzHeaderKey(f *testing.F) {
	f.Add("k", "k")
	f.Add(`"k"`, "k")
	f.Add("", "k")
	f.Fuzz(func(t *testing.T, standard, alias string) {
		h := http.Header{"Repeatability-Request-Id": {alias}}
		if standard != "" {
			h.Set("Idempotency-Key", standard)
		}
		key, given, err := headerKey(h)
		if err == nil && (!given || key != alias || semel.CheckKey(key) != nil) {
			t.Errorf("headerKey(%q) = %q, %v", h, key, given)
		}
	})
}
