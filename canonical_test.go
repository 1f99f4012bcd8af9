package semel

import (
	"encoding/json"
	"errors"
	"reflect"
	"strings"
	"testing"
)

func TestCanonicalJSONIsTheSameForTheSameRequest(t *testing.T) {
	for _, same := range [][]string{
		{`{"a":1,"b":[true,null]}`, "{ \"b\" : [true,\tnull] ,\n\"a\":1}", `{"b":[true,null],"\u0061":1}`},
		{`{}`, ``, ` `, "\n{ }\n"},
		{`"é\n"`, `"\u00e9\u000a"`},
		{`"😀"`, `"\ud83d\ude00"`, `"\uD83D\uDE00"`},
		{`{"a":{"x":1,"y":2}}`, `{"a":{"y":2,"x":1}}`},
		{`[]`, `[ ]`},
	} {
		want, err := canonicalJSON([]byte(same[0]))
		if err != nil {
			t.Fatalf("%s: %v", same[0], err)
		}
		for _, body := range same[1:] {
			got, err := canonicalJSON([]byte(body))
			if err != nil || string(got) != string(want) {
				t.Errorf("canonicalJSON(%q) = %q, %v, want %q", body, got, err, want)
			}
		}
	}
}

func TestCanonicalJSONTellsRequestsApart(t *testing.T) {
	seen := make(map[string]string)
	for _, body := range []string{
		`{"cents":100}`, `{"cents":1e2}`, `{"cents":100.0}`, `{"cents":"100"}`, `{"cents":-100}`, `{"Cents":100}`,
		`{}`, `[]`, `null`, `[1,2]`, `[2,1]`, `[[1],2]`, `"a"`, `"a "`, `{"a":null}`, `{"a":{}}`, `9007199254740993`, `9007199254740992`,
	} {
		got, err := canonicalJSON([]byte(body))
		if err != nil {
			t.Fatalf("%s: %v", body, err)
		}
		if other, taken := seen[string(got)]; taken {
			t.Errorf("%s and %s have the same form %s", body, other, got)
		}
		seen[string(got)] = body
	}
}

func TestCanonicalJSONNamesThePlaceOfWhatIsWrong(t *testing.T) {
	for _, c := range []struct{ body, want string }{
		{`{"a":1,"a":2}`, `the member "a" stands there twice`},
		{`{"a":{"b":[1,{"c":0,"\u0063":1}]}}`, `in /a/b/1: the member "c" stands there twice`},
		{`{"cents":1,"CENTS":2}`, `the members "CENTS" and "cents" differ only in case`},
		{"{\"\u212a\":1,\"k\":2}", "differ only in case"},
		{`{"a/b~":[tru]}`, `in /a~1b~0/0: unexpected 't'`},
		{`{"a":1}{"a":1}`, `byte 7: more than one JSON value`},
		{`{"a":`, "it ends early"},
		{`{"a"}`, `want a colon after the name "a"`},
		{`{a:1}`, "want a member's name in quotes"},
		{`[1,]`, "unexpected ']'"},
		{`{"a":1,}`, "want a member's name in quotes"},
		{`[1 2]`, "want a comma or ]"},
		{`01`, "malformed number"},
		{`1.`, "want a digit after the point"},
		{`1e`, "want a digit in the exponent"},
		{`-`, "malformed number"},
		{`"a`, "a string does not end"},
		{"\"a\x01\"", "control character 0x01"},
		{"\"\xff\"", "not valid UTF-8"},
		{`"\ud83d"`, "half of a surrogate pair"},
		{`"\ud83dx"`, "half of a surrogate pair"},
		{`"\q"`, `unknown escape \q`},
		{`"\u12g4"`, "four hexadecimal digits"},
		{`"\u12`, "a string does not end"},
		{`NaN`, "unexpected 'N'"},
		{strings.Repeat("[", 100), "nested deeper than 64"},
	} {
		_, err := canonicalJSON([]byte(c.body))
		if !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("canonicalJSON(%q): %v, want an ErrInvalid that says %q", c.body, err, c.want)
		}
	}
}

// FuzzCanonicalJSON holds the form against the standard library's reading: what
// is accepted means the same, and has one form.
func FuzzCanonicalJSON(f *testing.F) {
	for _, s := range []string{`{"a":[1,2.5e-3,"\u00e9\\\""],"b":null}`, `[]`, `""`, `-0`, `{"":{}}`, `[{"a":1},{"a":1}]`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		got, err := canonicalJSON(body)
		if err != nil {
			return
		}
		again, err := canonicalJSON(got)
		if err != nil || string(again) != string(got) {
			t.Fatalf("the form of %q is not its own: %q, %v", got, again, err)
		}
		if len(strings.TrimSpace(string(body))) == 0 {
			return
		}
		var want, have any
		if err := json.Unmarshal(body, &want); err != nil {
			t.Fatalf("accepted %q, which is not JSON: %v", body, err)
		}
		if err := json.Unmarshal(got, &have); err != nil || !reflect.DeepEqual(want, have) {
			t.Fatalf("%q became %q: %v", body, got, err)
		}
	})
}
