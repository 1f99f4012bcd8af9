package semel

import (
	"errors"
	"strings"
	"testing"
	"time"
)

func TestIDDependsOnEveryPartOfTheScope(t *testing.T) {
	base := Command{Tenant: "t", Principal: "p", Name: "n", Key: "k"}
	seen := map[ID]Command{base.ID(): base}
	for _, c := range []Command{
		{Tenant: "u", Principal: "p", Name: "n", Key: "k"},
		{Tenant: "t", Principal: "q", Name: "n", Key: "k"},
		{Tenant: "t", Principal: "p", Name: "m", Key: "k"},
		{Tenant: "t", Principal: "p", Name: "n", Key: "l"},
		{Tenant: "tp", Principal: "", Name: "n", Key: "k"}, // the same letters, cut elsewhere
		{Tenant: "", Principal: "tp", Name: "n", Key: "k"},
		{Tenant: "t", Principal: "pn", Name: "", Key: "k"},
		{Tenant: "t", Principal: "p", Name: "nk", Key: ""},
	} {
		if other, taken := seen[c.ID()]; taken {
			t.Errorf("%+v and %+v have the same id", c, other)
		}
		seen[c.ID()] = c
	}
	with := base
	with.Body, with.Correlation.UserID = []byte(`{}`), "x"
	if with.ID() != base.ID() {
		t.Error("the id depends on more than the scope and the key")
	}
}

func TestParseIDReadsOnlyWhatStringWrote(t *testing.T) {
	id := Command{Principal: "p", Name: "n", Key: "k"}.ID()
	got, err := ParseID(id.String())
	if err != nil || got != id {
		t.Fatalf("ParseID(%q) = %v, %v", id, got, err)
	}
	s := id.String()
	for _, bad := range []string{"", s[1:], s + "a", strings.ToUpper(s), s[:25] + "1", s[:25] + "/", s[:25] + "b"} {
		if got, err := ParseID(bad); err == nil && got.String() != bad {
			t.Errorf("ParseID(%q) took a second form of %s", bad, got)
		}
	}
}

func TestCheckKey(t *testing.T) {
	for _, key := range []string{"a", "8e03978e-40d5-43e8-bc93-6894a57f9324", strings.Repeat("x", MaxKey), "!~"} {
		if err := CheckKey(key); err != nil {
			t.Errorf("CheckKey(%q): %v", key, err)
		}
	}
	for _, key := range []string{"", " ", "a b", "ä", "a\x00", "a\n", "\x7f", strings.Repeat("x", MaxKey+1)} {
		if err := CheckKey(key); !errors.Is(err, ErrInvalid) {
			t.Errorf("CheckKey(%q): %v, want ErrInvalid", key, err)
		}
	}
}

func TestFingerprintCoversScopeAndBody(t *testing.T) {
	base := Command{Tenant: "t", Principal: "p", Name: "n", Key: "k"}
	f := base.fingerprint([]byte(`{}`))
	if f[0] != fingerprintVersion {
		t.Errorf("version %d", f[0])
	}
	other := base
	other.Principal = "q"
	for what, g := range map[string]Fingerprint{
		"another body":      base.fingerprint([]byte(`{"a":1}`)),
		"another principal": other.fingerprint([]byte(`{}`)),
	} {
		if f == g {
			t.Errorf("%s has the same fingerprint", what)
		}
	}
}

func TestBackoffStaysBelowItsCeiling(t *testing.T) {
	for _, c := range []struct {
		b    Backoff
		try  int
		most time.Duration
	}{
		{Backoff{}, 1, 100 * time.Millisecond},
		{Backoff{}, 3, 400 * time.Millisecond},
		{Backoff{}, 1000, 30 * time.Second},
		{Backoff{First: time.Hour, Most: time.Minute}, 1, time.Minute},
		{Backoff{First: 1 << 40}, 60, 30 * time.Second},
		{Backoff{First: -1}, 5, 0},
	} {
		for range 200 {
			if got := c.b.Wait(c.try); got < 0 || got > c.most {
				t.Fatalf("%+v.Wait(%d) = %v, want at most %v", c.b, c.try, got, c.most)
			}
		}
	}
	if got := (Backoff{First: time.Second, Fixed: true}).Wait(9); got != time.Second {
		t.Errorf("a fixed wait of 1s is %v", got)
	}
	spread := make(map[time.Duration]bool)
	for range 50 {
		spread[Backoff{First: time.Second}.Wait(1)] = true
	}
	if len(spread) < 40 {
		t.Errorf("50 waits took only %d values: there is no jitter", len(spread))
	}
}

func TestRetryDecidesByClassAndAttempt(t *testing.T) {
	r := Retry{Attempts: 3, Wait: Backoff{First: time.Second, Fixed: true}, ByClass: map[Class]Backoff{ClassConflict: {First: -1}}}
	for _, c := range []struct {
		err     error
		attempt int
		wait    time.Duration
		end     Disposition
	}{
		{errors.New("x"), 1, time.Second, ""},
		{errors.New("x"), 3, 0, Exhausted},
		{ErrVersionConflict, 2, 0, ""},
		{TerminalError(errors.New("x")), 1, 0, Terminal},
		{&panicError{value: "x"}, 1, time.Second, ""},
		{&panicError{value: "x"}, 3, 0, Poison},
	} {
		r.Classify = func(error) Class { return "" } // leaves it to the error's type
		wait, end := r.next(r.classify(c.err), c.attempt)
		if wait != c.wait || end != c.end {
			t.Errorf("attempt %d, %v: wait %v, %q; want %v, %q", c.attempt, c.err, wait, end, c.wait, c.end)
		}
	}
}
