package gateway

import (
	"encoding/json"
	"net/http"
	"net/url"
	"strings"
	"testing"
)

func TestSplice(t *testing.T) {
	t.Parallel()
	account := []member{{"account", "alice"}}
	for _, tt := range []struct {
		name    string
		body    string
		members []member
		want    string
		slug    string
	}{
		{"nothing to add", ` {"cents": 1}`, nil, ` {"cents": 1}`, ""},
		{"one", `{"cents": 1}`, account, `{"cents": 1,"account":"alice"}`, ""},
		{"empty object", `{}`, account, `{"account":"alice"}`, ""},
		{"empty object with space", "{ \n}", account, "{ \n\"account\":\"alice\"}", ""},
		{"space around", " {\"a\":1} \n", account, ` {"a":1,"account":"alice"}`, ""},
		{"two", `{}`, []member{{"from", "a"}, {"to", "b"}}, `{"from":"a","to":"b"}`, ""},
		{"value that needs quoting", `{}`, []member{{"account", `a"},{"b`}}, `{"account":"a\"},{\"b"}`, ""},
		{"the name as a value", `{"kind":"account"}`, account, `{"kind":"account","account":"alice"}`, ""},
		{"the name further down", `{"by":{"account":1}}`, account, `{"by":{"account":1},"account":"alice"}`, ""},
		{"not an object", `[1]`, account, "", malformedBody},
		{"half an object", `{"a":1`, account, "", malformedBody},
		{"named twice", `{"account":"bob"}`, account, "", invalidCommand},
		{"named twice in other letters", `{"Account" : "bob"}`, account, "", invalidCommand},
		{"named twice, escaped", `{"\u0061ccount":"bob"}`, account, "", invalidCommand},
		{"named twice after a nested object", `{"a":{"b":[{}]},"account":"bob"}`, account, "", invalidCommand},
		{"control character", `{}`, []member{{"account", "a\nb"}}, "", invalidCommand},
		{"not UTF-8", `{}`, []member{{"account", "\xff"}}, "", invalidCommand},
	} {
		got, err := splice([]byte(tt.body), tt.members)
		if slugOf(err) != tt.slug || err == nil && string(got) != tt.want {
			t.Errorf("%s: splice(%s) = %s, %v, want %s %s", tt.name, tt.body, got, err, tt.want, tt.slug)
		}
	}
}

// FuzzSplice: what was malformed stays malformed, what was an object gets the
// member with the value of the path, and loses nothing.
func FuzzSplice(f *testing.F) {
	for _, seed := range []string{`{}`, `{"a":1}`, `{"account":1}`, `{"a":"x}`, `{"a":{}`, `{"a":1}{"b":2}`, `{"a":1,}`, `{"\u0041CCOUNT":1}`} {
		f.Add(seed, "alice")
	}
	f.Fuzz(func(t *testing.T, body, account string) {
		whole, err := splice([]byte(body), []member{{"account", account}})
		if err != nil {
			return
		}
		if json.Valid(whole) != json.Valid([]byte(body)) {
			t.Fatalf("splice(%q) = %q: one is well-formed, the other is not", body, whole)
		}
		var before, after map[string]any
		if json.Unmarshal([]byte(body), &before) != nil {
			return
		}
		if err := json.Unmarshal(whole, &after); err != nil {
			t.Fatalf("splice(%q) = %q: %v", body, whole, err)
		}
		if len(after) != len(before)+1 || after["account"] != account {
			t.Errorf("splice(%q) = %q", body, whole)
		}
		var bound struct{ Account string }
		if json.Unmarshal(whole, &bound); bound.Account != account {
			t.Errorf("a handler decodes %q as account %q, want %q", whole, bound.Account, account)
		}
	})
}

func TestBase(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ prefix, seen, path, want string }{
		{"", "/operations", "/operations", ""},
		{"", "/api/operations?limit=1", "/operations", "/api"},
		{"", "/api/commands/a%2Fb/k", "/commands/a%2Fb/k", "/api"},
		{"", "http://bank.example/api/operations", "/operations", "/api"},
		{"", "//elsewhere.example/operations", "/operations", ""},
		{"", "/rewritten", "/operations", ""},
		{"", "", "/operations", ""},
		{"/seen", "/api/operations", "/operations", "/seen"},
	} {
		g := Gateway{options: Options{Prefix: tt.prefix}}
		u, err := url.Parse(tt.path)
		if err != nil {
			t.Fatal(err)
		}
		if got := g.base(&http.Request{RequestURI: tt.seen, URL: u}); got != tt.want {
			t.Errorf("base of %q, seen as %q, is %q, want %q", tt.path, tt.seen, got, tt.want)
		}
	}
}

func TestEscapeReference(t *testing.T) {
	t.Parallel()
	for s, want := range map[string]string{
		"accounts/alice": "accounts/alice", "a b": "a%20b", "a%20b": "a%20b", "a\r\nX: 1": "a%0D%0AX:%201", "é": "%C3%A9", `<">`: "%3C%22%3E",
	} {
		if got := escapeReference(s); got != want {
			t.Errorf("escapeReference(%q) = %q, want %q", s, got, want)
		}
	}
}

func FuzzEscapeReference(f *testing.F) {
	f.Add("accounts/a b")
	f.Fuzz(func(t *testing.T, s string) {
		got := escapeReference(s)
		if strings.ContainsFunc(got, func(r rune) bool { return r <= ' ' || r > '~' }) {
			t.Errorf("escapeReference(%q) = %q", s, got)
		}
		if again := escapeReference(got); again != got {
			t.Errorf("escapeReference(%q) = %q, and of that %q", s, got, again)
		}
	})
}
