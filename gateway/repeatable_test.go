package gateway_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/semel-dev/semel"
	"github.com/semel-dev/semel/gateway"
)

// imf is a date as Repeatability-First-Sent has it.
func imf(ago time.Duration) string {
	return "Repeatability-First-Sent: " + time.Now().Add(-ago).UTC().Format(http.TimeFormat)
}

func TestRepeatableRequests(t *testing.T) {
	t.Parallel()
	b := open(t, nil)
	const id, body = "Repeatability-Request-ID: 4227cdc5-9f48-4e84-921a-10967cb785a0", `{"account":"a","cents":5}`
	first := b.do("alice", "POST", "/commands/deposit", body, id, imf(0))
	if first.status != 201 || first.header.Get("Repeatability-Result") != "accepted" {
		t.Fatalf("got %d %s %v", first.status, first.body, first.header)
	}
	sameAnswer(t, first, b.do("alice", "POST", "/commands/deposit", body, id, imf(time.Minute)))
	// It is the same key as in the other places.
	for name, a := range map[string]answer{
		"header": b.do("alice", "POST", "/commands/deposit", body, "Idempotency-Key: 4227cdc5-9f48-4e84-921a-10967cb785a0"),
		"path":   b.do("alice", "PUT", "/commands/deposit/4227cdc5-9f48-4e84-921a-10967cb785a0", body),
		"both":   b.do("alice", "POST", "/commands/deposit", body, id, imf(0), `Idempotency-Key: "4227cdc5-9f48-4e84-921a-10967cb785a0"`),
	} {
		if a.status != 201 || a.body != first.body || a.header.Get("Idempotent-Replayed") != "true" {
			t.Errorf("the key in %s: %d %s", name, a.status, a.body)
		}
		if got := a.header.Get("Repeatability-Result"); (got == "accepted") != (name == "both") {
			t.Errorf("the key in %s: Repeatability-Result is %q", name, got)
		}
	}
	if a := b.do("alice", "POST", "/commands/refuse", "", id, imf(0)); a.status != 409 || a.header.Get("Repeatability-Result") != "accepted" {
		t.Errorf("a rejection is %d %v", a.status, a.header)
	}
	if cents := b.balance("a"); cents != 5 {
		t.Errorf("the balance is %d", cents)
	}
}

func TestRepeatableRequestsRefused(t *testing.T) {
	t.Parallel()
	b := open(t, nil)
	const id, body = "Repeatability-Request-ID: r1", `{"account":"a","cents":5}`
	b.do("alice", "PUT", "/commands/deposit/used", `{"account":"a","cents":1}`)
	for _, tt := range []struct {
		name    string
		headers []string
		status  int
		slug    string
		detail  string
	}{
		{"no date", []string{id}, 400, "idempotency-key-invalid", "missing"},
		{"no id", []string{imf(0)}, 400, "idempotency-key-missing", ""},
		{"no such date", []string{id, "Repeatability-First-Sent: Tue, 31 Feb 2026 08:12:31 GMT"}, 400, "idempotency-key-invalid", "31 Feb"},
		{"another day of the week", []string{id, "Repeatability-First-Sent: Mon, 15 Nov 1994 08:12:31 GMT"}, 400, "idempotency-key-invalid", "Mon"},
		{"ISO 8601", []string{id, "Repeatability-First-Sent: 2026-11-22T08:12:31Z"}, 400, "idempotency-key-invalid", "2026-11"},
		{"two dates", []string{id, imf(0), imf(0)}, 400, "idempotency-key-invalid", "2 times"},
		{"two ids", []string{id, id, imf(0)}, 400, "idempotency-key-invalid", "2 times"},
		{"odd id", []string{"Repeatability-Request-ID: a b", imf(0)}, 400, "idempotency-key-invalid", "0x20"},
		{"two different keys", []string{id, imf(0), "Idempotency-Key: r2"}, 400, "idempotency-key-invalid", `"r2"`},
		{"another body", []string{"Repeatability-Request-ID: used", imf(0)}, 422, "idempotency-key-reused", ""},
		{"too long ago", []string{id, imf(7*24*time.Hour + time.Minute)}, 412, "idempotency-key-expired", "first sent"},
		{"too long ago, by the other key", []string{"Idempotency-Key: r1", imf(365 * 24 * time.Hour)}, 412, "idempotency-key-expired", "first sent"},
	} {
		a := b.do("alice", "POST", "/commands/deposit", body, tt.headers...)
		slug, detail := a.problem()
		if a.status != tt.status || slug != tt.slug || !strings.Contains(detail, tt.detail) || a.header.Get("Repeatability-Result") != "rejected" {
			t.Errorf("%s: got %d %s %v, want %d %s", tt.name, a.status, a.body, a.header, tt.status, tt.slug)
		}
		if want := fmt.Sprintf(`"status":%d`, tt.status); !strings.Contains(a.body, want) {
			t.Errorf("%s: the body lacks %s: %s", tt.name, want, a.body)
		}
	}
	// Nothing of that ran, and nothing is kept under the key.
	if a := b.do("alice", "POST", "/commands/deposit", body, id, imf(6*24*time.Hour)); a.status != 200 || a.header.Get("Idempotent-Replayed") != "" {
		t.Errorf("afterwards: %d %s", a.status, a.body)
	}
}

// TestFirstSentLongAgo: after the window and the tombstone nothing is known of
// a key, and only the date can tell a late repeat from a new command.
func TestFirstSentLongAgo(t *testing.T) {
	t.Parallel()
	b := open(t, func(o *gateway.Options, _ *semel.Options) { o.Window = time.Hour })
	const id, body = "Repeatability-Request-ID: r1", `{"account":"a","cents":5}`
	first := b.do("alice", "POST", "/commands/deposit", body, id, imf(0))
	// While the answer is still kept, it is given.
	sameAnswer(t, first, b.do("alice", "POST", "/commands/deposit", body, id, imf(2*time.Hour)))
	b.expire()
	a := b.do("alice", "POST", "/commands/deposit", body, id, imf(2*time.Hour))
	if slug, _ := a.problem(); a.status != 412 || slug != "idempotency-key-expired" {
		t.Errorf("with a tombstone: %d %s", a.status, a.body)
	}
	b.forget()
	a = b.do("alice", "POST", "/commands/deposit", body, id, imf(2*time.Hour))
	if slug, _ := a.problem(); a.status != 412 || slug != "idempotency-key-expired" {
		t.Errorf("without one: %d %s", a.status, a.body)
	}
	if cents := b.balance("a"); cents != 5 {
		t.Errorf("the balance is %d", cents)
	}
}

// forget lets all tombstones go.
func (b *bank) forget() {
	if swept := b.sweepAt(60 * 24 * time.Hour); swept.Forgotten == 0 {
		b.t.Fatalf("swept %+v", swept)
	}
}
