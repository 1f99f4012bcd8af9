package gateway

import (
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/semel-dev/semel"
	"github.com/semel-dev/semel/internal/wire"
)

// slugOf names the problem that an error becomes, "" for none.
func slugOf(err error) string {
	var refused *refusedError
	if errors.As(err, &refused) {
		return refused.slug
	}
	if err != nil {
		return err.Error()
	}
	return ""
}

func TestParseKey(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("k", semel.MaxKey)
	for _, tt := range []struct {
		name  string
		lines []string
		want  string
		slug  string
	}{
		{"bare", []string{"abc-123"}, "abc-123", ""},
		{"quoted", []string{`"abc-123"`}, "abc-123", ""},
		{"quoted with escapes", []string{`"a\"b\\c"`}, `a"b\c`, ""},
		{"bare with a quote inside", []string{`a"b`}, `a"b`, ""},
		{"longest", []string{long}, long, ""},
		{"longest, quoted", []string{`"` + long + `"`}, long, ""},
		{"missing", nil, "", keyMissing},
		{"twice", []string{"a", "a"}, "", keyInvalid},
		{"joined by a proxy", []string{"a, b"}, "", keyInvalid},
		{"empty", []string{""}, "", keyInvalid},
		{"empty, quoted", []string{`""`}, "", keyInvalid},
		{"too long", []string{long + "k"}, "", keyInvalid},
		{"space", []string{"a b"}, "", keyInvalid},
		{"space, quoted", []string{`"a b"`}, "", keyInvalid},
		{"not ASCII", []string{"clé"}, "", keyInvalid},
		{"not ASCII, quoted", []string{`"clé"`}, "", keyInvalid},
		{"control character", []string{"a\x01b"}, "", keyInvalid},
		{"DEL", []string{"a\x7f"}, "", keyInvalid},
		{"unfinished", []string{`"abc`}, "", keyInvalid},
		{"unfinished escape", []string{`"abc\`}, "", keyInvalid},
		{"unknown escape", []string{`"a\bc"`}, "", keyInvalid},
		{"two strings", []string{`"a", "b"`}, "", keyInvalid},
		{"parameters", []string{`"a";v=1`}, "", keyInvalid},
	} {
		got, err := parseKey(tt.lines)
		if slugOf(err) != tt.slug || err == nil && got != tt.want {
			t.Errorf("%s: parseKey(%q) = %q, %v, want %q, %q", tt.name, tt.lines, got, err, tt.want, tt.slug)
		}
	}
}

func FuzzParseKey(f *testing.F) {
	for _, seed := range []string{"a", `"a"`, `"a\"b"`, `"`, `"\`, `"a";b`, "é", ""} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, line string) {
		key, err := parseKey([]string{line})
		if err != nil {
			return
		}
		if err := semel.CheckKey(key); err != nil {
			t.Errorf("parseKey(%q) took %q: %v", line, key, err)
		}
		// The quoted form of what was taken says the same.
		again, err := parseKey([]string{`"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(key) + `"`})
		if err != nil || again != key {
			t.Errorf("parseKey(%q) = %q; quoted it is %q, %v", line, key, again, err)
		}
	})
}

func TestParsePrefer(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		lines   []string
		want    preferences
		applied string
	}{
		{nil, preferences{}, ""},
		{[]string{"respond-async"}, preferences{async: true}, "respond-async"},
		{[]string{"Respond-Async"}, preferences{async: true}, "respond-async"},
		{[]string{"wait=10"}, preferences{hasWait: true, wait: 10 * time.Second}, "wait=10"},
		{[]string{`wait="10"`}, preferences{hasWait: true, wait: 10 * time.Second}, "wait=10"},
		{[]string{" wait = 10 ; note=later"}, preferences{hasWait: true, wait: 10 * time.Second}, "wait=10"},
		{[]string{"respond-async, wait=5"}, preferences{async: true, hasWait: true, wait: 5 * time.Second}, "respond-async, wait=5"},
		{[]string{"respond-async", "wait=5"}, preferences{async: true, hasWait: true, wait: 5 * time.Second}, "respond-async, wait=5"},
		{[]string{"wait=1, wait=2"}, preferences{hasWait: true, wait: time.Second}, "wait=1"},
		{[]string{"wait=0"}, preferences{hasWait: true}, "wait=0"},
		{[]string{"wait=-1"}, preferences{}, ""},
		{[]string{"wait=soon"}, preferences{}, ""},
		{[]string{"wait"}, preferences{}, ""},
		{[]string{"wait=1.5"}, preferences{}, ""},
		{[]string{`wait="1`}, preferences{}, ""},
		{[]string{"return=minimal"}, preferences{}, ""},
		{[]string{`note="a, wait=9; respond-async", wait=3`}, preferences{hasWait: true, wait: 3 * time.Second}, "wait=3"},
		{[]string{",,;,"}, preferences{}, ""},
	} {
		got := parsePrefer(tt.lines)
		if got != tt.want || got.applied() != tt.applied {
			t.Errorf("parsePrefer(%q) = %+v, applied %q, want %+v, %q", tt.lines, got, got.applied(), tt.want, tt.applied)
		}
	}
	if got := parsePrefer([]string{"wait=99999999999999999999"}); !got.hasWait || got.wait < time.Hour {
		t.Errorf("a wait of more digits than fit = %+v, want a very long one", got)
	}
}

func FuzzParsePrefer(f *testing.F) {
	for _, seed := range []string{"wait=1", "respond-async", `wait="1"`, `a="b\"`, ",;=", "wait=99999999999"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, line string) {
		p := parsePrefer([]string{line})
		if p.wait < 0 {
			t.Errorf("parsePrefer(%q) waits %v", line, p.wait)
		}
		if p.wait > 24*time.Hour { // is capped before it is said
			return
		}
		if again := parsePrefer([]string{p.applied()}); again != p {
			t.Errorf("parsePrefer(%q) = %+v; what was applied reads as %+v", line, p, again)
		}
	})
}

func TestParseTraceparent(t *testing.T) {
	t.Parallel()
	const (
		id    = "0af7651916cd43dd8448eb211c80319c"
		valid = "00-" + id + "-b7ad6b7169203331-01"
	)
	for _, tt := range []struct {
		name   string
		lines  []string
		parent string
	}{
		{"valid", []string{valid}, valid},
		{"a later version with more", []string{"cc" + valid[2:] + "-what-comes"}, "cc" + valid[2:]},
		{"missing", nil, ""},
		{"twice", []string{valid, valid}, ""},
		{"version 00 with more", []string{valid + "-x"}, ""},
		{"a later version, run on", []string{"cc" + valid[2:] + "x"}, ""},
		{"version ff", []string{"ff" + valid[2:]}, ""},
		{"upper case", []string{strings.ToUpper(valid)}, ""},
		{"no trace id", []string{"00-" + strings.Repeat("0", 32) + valid[35:]}, ""},
		{"no span id", []string{"00-" + id + "-0000000000000000-01"}, ""},
		{"short", []string{valid[:54]}, ""},
		{"moved dashes", []string{"00-" + id[:31] + "-0b7ad6b7169203331-01"}, ""},
		{"not hexadecimal", []string{"00-" + id[:31] + "g" + valid[35:]}, ""},
	} {
		traceID, parent, ok := wire.ParseTraceparent(tt.lines)
		if parent != tt.parent || ok != (tt.parent != "") || ok && traceID != id {
			t.Errorf("%s: wire.ParseTraceparent(%q) = %q, %q, %v, want %q", tt.name, tt.lines, traceID, parent, ok, tt.parent)
		}
	}
}

func FuzzParseTraceparent(f *testing.F) {
	f.Add("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
	f.Add("cc-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-x")
	f.Fuzz(func(t *testing.T, line string) {
		traceID, parent, ok := wire.ParseTraceparent([]string{line})
		if !ok {
			return
		}
		if len(parent) != 55 || !strings.HasPrefix(line, parent) || parent[3:35] != traceID {
			t.Errorf("wire.ParseTraceparent(%q) = %q, %q", line, traceID, parent)
		}
	})
}

func TestParsePosition(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]int64{
		"0": 0, "7": 7, "9223372036854775807": 1<<63 - 1,
		"": -1, "-1": -1, "+1": -1, "01": -1, "1.0": -1, " 1": -1, "x": -1, "9223372036854775808": -1,
	} {
		got, ok := parsePosition(text)
		if ok != (want >= 0) || ok && got != want {
			t.Errorf("parsePosition(%q) = %d, %v, want %d", text, got, ok, want)
		}
	}
}

func FuzzParsePosition(f *testing.F) {
	f.Add("12")
	f.Add("-0")
	f.Fuzz(func(t *testing.T, text string) {
		if n, ok := parsePosition(text); ok && n < 0 {
			t.Errorf("parsePosition(%q) = %d", text, n)
		}
	})
}

func TestParseLanguage(t *testing.T) {
	t.Parallel()
	for header, want := range map[string]string{
		"de": "de", "de-AT, de;q=0.8": "de-AT", "zh-Hant-TW;q=1": "zh-Hant-TW", "es-419": "es-419",
		"": "", "*": "", "de_AT": "", "4de": "", "de-": "", "abcdefghi": "", "é": "", "a\x00": "",
		strings.Repeat("abcdefgh-", 5): "",
	} {
		if got := parseLanguage(header); got != want {
			t.Errorf("parseLanguage(%q) = %q, want %q", header, got, want)
		}
	}
}

func FuzzParseLanguage(f *testing.F) {
	f.Add("de-AT, de;q=0.8")
	f.Fuzz(func(t *testing.T, header string) {
		if tag := parseLanguage(header); len(tag) > 35 || wire.ParseToken([]string{tag}) != tag {
			t.Errorf("parseLanguage(%q) = %q", header, tag)
		}
	})
}

func TestParseToken(t *testing.T) {
	t.Parallel()
	fits := strings.Repeat("x", 128)
	for _, tt := range []struct {
		lines []string
		want  string
	}{
		{nil, ""}, {[]string{"order/7"}, "order/7"}, {[]string{"a", "b"}, ""}, {[]string{fits}, fits},
		{[]string{fits + "x"}, ""}, {[]string{"a b"}, ""}, {[]string{"a\nb"}, ""}, {[]string{"é"}, ""}, {[]string{"\xff"}, ""},
	} {
		if got := wire.ParseToken(tt.lines); got != tt.want {
			t.Errorf("wire.ParseToken(%q) = %q, want %q", tt.lines, got, tt.want)
		}
	}
}

func TestMatchesTag(t *testing.T) {
	t.Parallel()
	for line, want := range map[string]bool{
		`"a"`: true, `W/"a"`: true, `"b", "a"`: true, "*": true, `"b,a"`: false, `a`: false, "": false, `"aa"`: false,
	} {
		if got := matchesTag([]string{line}, `"a"`); got != want {
			t.Errorf("matchesTag(%q) = %v, want %v", line, got, want)
		}
	}
}

func TestContentType(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		lines []string
		taken bool
	}{
		{nil, true},
		{[]string{"application/json"}, true},
		{[]string{"application/json; charset=UTF-8"}, true},
		{[]string{"application/vnd.bank+json"}, true},
		{[]string{"text/plain"}, false},
		{[]string{"text/x+json"}, false},
		{[]string{"application/json; charset=latin1"}, false},
		{[]string{"application/json", "application/json"}, false},
		{[]string{"application/x-www-form-urlencoded"}, false},
		{[]string{""}, false},
		{[]string{"application/json; ="}, false},
	} {
		if err := checkContentType(tt.lines); (err == nil) != tt.taken {
			t.Errorf("checkContentType(%q) = %v, want taken: %v", tt.lines, err, tt.taken)
		}
	}
}

func FuzzFirstSent(f *testing.F) {
	f.Add("Tue, 15 Nov 1994 08:12:31 GMT")
	f.Add("Tue, 15 Nov 1994 08:12:31 gmt")
	f.Add("")
	f.Fuzz(func(t *testing.T, text string) {
		sent, given, err := parseFirstSent(http.Header{"Repeatability-First-Sent": {text}})
		if given == (err != nil) || given && sent.Format(http.TimeFormat) != text {
			t.Errorf("parseFirstSent(%q) = %v, %v, %v", text, sent, given, err)
		}
	})
}
