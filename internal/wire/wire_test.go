package wire_test

import (
	"encoding/json"
	"errors"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/semel-dev/semel"
	"github.com/semel-dev/semel/gateway"
	"github.com/semel-dev/semel/internal/leak"
	"github.com/semel-dev/semel/internal/wire"
)

func TestMain(m *testing.M) { leak.Main(m) }

func TestParseKey(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("k", semel.MaxKey)
	for _, tt := range []struct {
		name  string
		lines []string
		want  string
		kind  wire.Kind
	}{
		{"bare", []string{"8e03978e-40d5"}, "8e03978e-40d5", wire.Kind{}},
		{"quoted", []string{`"8e03978e-40d5"`}, "8e03978e-40d5", wire.Kind{}},
		{"escaped", []string{`"a\"b\\c"`}, `a"b\c`, wire.Kind{}},
		{"longest", []string{long}, long, wire.Kind{}},
		{"none", nil, "", wire.KeyMissing},
		{"twice", []string{"a", "a"}, "", wire.KeyInvalid},
		{"empty", []string{""}, "", wire.KeyInvalid},
		{"empty in quotes", []string{`""`}, "", wire.KeyInvalid},
		{"too long", []string{long + "k"}, "", wire.KeyInvalid},
		{"space", []string{"a b"}, "", wire.KeyInvalid},
		{"control", []string{"a\x00b"}, "", wire.KeyInvalid},
		{"not ASCII", []string{"ä"}, "", wire.KeyInvalid},
		{"open quote", []string{`"a`}, "", wire.KeyInvalid},
		{"parameters", []string{`"a";v=1`}, "", wire.KeyInvalid},
		{"escaped letter", []string{`"\a"`}, "", wire.KeyInvalid},
	} {
		got, err := wire.ParseKey(tt.lines)
		var refusal *wire.Refusal
		switch {
		case tt.kind.Slug == "" && (err != nil || got != tt.want):
			t.Errorf("%s: %q, %v, want %q", tt.name, got, err, tt.want)
		case tt.kind.Slug != "" && (!errors.As(err, &refusal) || refusal.Kind != tt.kind):
			t.Errorf("%s: %q, %v, want a refusal of kind %s", tt.name, got, err, tt.kind.Slug)
		}
	}
}

// FuzzParseKey: whatever a client sends, a key that is taken is one that the
// engine takes, and quoting it gives the same key.
func FuzzParseKey(f *testing.F) {
	for _, seed := range []string{"a", `"a"`, `"a\"b"`, `"a";p`, "", `"`, "ä", "a\nb"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, line string) {
		key, err := wire.ParseKey([]string{line})
		if err != nil {
			return
		}
		if err := semel.CheckKey(key); err != nil {
			t.Errorf("the header %q gives the key %q: %v", line, key, err)
		}
		quoted := `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(key) + `"`
		if again, err := wire.ParseKey([]string{quoted}); err != nil || again != key {
			t.Errorf("the key %q, quoted, is read as %q, %v", key, again, err)
		}
	})
}

func TestParseTraceparent(t *testing.T) {
	t.Parallel()
	const valid = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
	for line, want := range map[string]bool{
		valid: true, valid + "-x": false, "01" + valid[2:] + "-x": true, "01" + valid[2:] + "x": false,
		"ff" + valid[2:]: false, strings.ToUpper(valid): false, valid[:54]: false, strings.Replace(valid, "-", "_", 1): false,
		"00-00000000000000000000000000000000-00f067aa0ba902b7-01": false,
	} {
		trace, _, ok := wire.ParseTraceparent([]string{line})
		if ok != want || ok && trace != "4bf92f3577b34da6a3ce929d0e0e4736" {
			t.Errorf("%q: %q, %t", line, trace, ok)
		}
	}
}

func TestParseTokenAndShorten(t *testing.T) {
	t.Parallel()
	for line, want := range map[string]string{"abc": "abc", "a b": "", "a\r\nb": "", strings.Repeat("a", 129): ""} {
		if got := wire.ParseToken([]string{line}); got != want {
			t.Errorf("token %q: %q, want %q", line, got, want)
		}
	}
	if got := wire.Shorten(strings.Repeat("ä\n", 100)); len(got) > 400 || strings.Contains(got, "\n") {
		t.Errorf("shortened to %q", got)
	}
}

// TestKinds holds the kinds to the gateway's list, which docs/problems follows.
func TestKinds(t *testing.T) {
	t.Parallel()
	known := make(map[string]gateway.ProblemKind)
	for _, kind := range gateway.Problems() {
		known[kind.Slug] = kind
	}
	for _, kind := range []wire.Kind{
		wire.KeyMissing, wire.KeyInvalid, wire.KeyReused, wire.KeyExpired, wire.MalformedBody, wire.InvalidCommand,
		wire.PayloadTooLarge, wire.Unauthorized, wire.Forbidden, wire.Overloaded, wire.Unavailable,
		wire.OutcomeUnknown, wire.OperationFailed,
	} {
		if other := known[kind.Slug]; other.Status != kind.Status || other.Title != kind.Title {
			t.Errorf("%+v is %+v in the gateway", kind, other)
		}
		w := httptest.NewRecorder()
		refusal := wire.Refuse(kind, "detail %q", "x")
		refusal.Challenge = `Bearer realm="bank"`
		refusal.Answer(w)
		var p wire.Problem
		if err := json.Unmarshal(w.Body.Bytes(), &p); err != nil || w.Code != kind.Status || p.Status != kind.Status ||
			p.Type != semel.ProblemTypes+kind.Slug || p.Title != kind.Title || p.Detail != `detail "x"` {
			t.Errorf("%s is answered with %d %s, %v", kind.Slug, w.Code, w.Body, err)
		}
		if retry := w.Header().Get("Retry-After"); (retry != "") != (kind.Status == 503) || w.Header().Get("WWW-Authenticate") == "" {
			t.Errorf("%s has the headers %v", kind.Slug, w.Header())
		}
	}
}
