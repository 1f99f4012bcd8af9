package idempotency

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"reflect"
	"strconv"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/semel-dev/semel"
)

func requestOf(method, path, query, kind string) *http.Request {
	r := &http.Request{Method: method, URL: &url.URL{Path: path, RawQuery: query}, Header: http.Header{}}
	if kind != "" {
		r.Header.Set("Content-Type", kind)
	}
	return r
}

func TestDescribe(t *testing.T) {
	t.Parallel()
	type request struct{ path, query, kind, body string }
	key := func(r request) string {
		return string(describe(requestOf("POST", r.path, r.query, r.kind), []byte(r.body)).encode())
	}
	for _, same := range [][]request{
		{{"/a", "x=1&y=2", "", ""}, {"/a", "y=2&x=1", "", ""}},
		{{"/a", "x=%41", "", ""}, {"/a", "x=A", "", ""}},
		{{"/a", "", "application/json", `{"n":1}`}, {"/a", "", `Application/JSON; Charset="utf-8"`, `{"n":1}`}},
		{{"/a", "", "text/plain; b=2; a=1", ""}, {"/a", "", "text/plain;a=1;b=2", ""}},
	} {
		if a, b := key(same[0]), key(same[1]); a != b {
			t.Errorf("%+v and %+v differ: %s, %s", same[0], same[1], a, b)
		}
	}
	different := []request{
		{"/a", "", "", ""}, {"/b", "", "", ""}, {"/a/", "", "", ""}, {"/a\xff", "", "", ""}, {"/a\xfe", "", "", ""},
		{"/a", "x=1&x=2", "", ""}, {"/a", "x=2&x=1", "", ""}, {"/a", "x=1;y=2", "", ""}, {"/a", "x=%zz", "", ""}, {"/a", "x=%zy", "", ""},
		{"/a", "x=\xff", "", ""}, {"/a", "x=\xfe", "", ""}, {"/a", "x=;\xff", "", ""}, {"/a", "x=;\xfe", "", ""},
		{"/a", "", "text/plain", ""}, {"/a", "", "text/html", ""}, {"/a", "", "text\xff", ""}, {"/a", "", "text\xfe", ""}, {"/a", "", `"text\xff"`, ""},
		{"/a", "", "application/json", ""}, {"/a", "", "application/json", "null"}, {"/a", "", "application/json", `""`},
		{"/a", "", "application/json", "{"}, {"/a", "", "application/json", "[]"}, {"/a", "", "application/json", "1"}, {"/a", "", "application/json", "1.0"},
		{"/a", "", "text/plain", "x"}, {"/a", "", "text/plain", "\xff"}, {"/a", "", "text/plain", "\xfe"},
	}
	seen := make(map[string]request)
	for _, r := range different {
		if other, taken := seen[key(r)]; taken {
			t.Errorf("%+q and %+q are both %s", other, r, key(r))
		}
		seen[key(r)] = r
	}
}

// FuzzDescribe: whatever is sent, the description is JSON that holds all of it,
// so that no two different requests can have the same one.
func FuzzDescribe(f *testing.F) {
	f.Add("POST", "/a", "b=2&a=1", "application/json", []byte(`{"n": 1}`))
	f.Add("POST", "/a%2fb", "x=;", "text/plain; a=\"b c\"", []byte("\xff"))
	f.Add("PATCH", "/\xff", "%zz", "Application/Merge-Patch+JSON; charset=UTF-8", []byte(`[1e2,"\u00e4"]`))
	f.Add("PUT", "", "a=\xff&a=\xfe", "text\xff", []byte("null"))
	f.Fuzz(func(t *testing.T, method, path, query, kind string, body []byte) {
		if !utf8.ValidString(method) {
			return // net/http takes tokens only
		}
		r := requestOf(method, path, query, kind)
		encoded := describe(r, body).encode()
		if again := describe(r, body).encode(); !bytes.Equal(encoded, again) {
			t.Fatalf("%s, then %s", encoded, again)
		}
		if !utf8.Valid(encoded) {
			t.Errorf("not UTF-8: %q", encoded)
		}
		var d description
		if err := json.Unmarshal(encoded, &d); err != nil {
			t.Fatalf("%s: %v", encoded, err)
		}
		checkDescription(t, d, r, body)
		if d.JSON == nil {
			return
		}
		// A client that encodes the same value anew asks for the same thing; the
		// rest of the canonical form is the engine's.
		var indented bytes.Buffer
		if err := json.Indent(&indented, body, "", "\t"); err != nil {
			t.Fatal(err)
		}
		if other := describe(r, indented.Bytes()).encode(); !bytes.Equal(encoded, other) {
			t.Errorf("%s and %s", encoded, other)
		}
	})
}

func checkDescription(t *testing.T, d description, r *http.Request, body []byte) {
	t.Helper()
	if path, err := url.PathUnescape(d.Path); err != nil || path != r.URL.Path && r.URL.Path != "*" {
		t.Errorf("the path %q is %q, %v", r.URL.Path, d.Path, err)
	}
	want, err := url.ParseQuery(r.URL.RawQuery)
	got, _ := url.ParseQuery(d.Query)
	unparsed, _ := url.QueryUnescape(d.Unparsed)
	if err == nil && !reflect.DeepEqual(got, want) || err != nil && unparsed != r.URL.RawQuery {
		t.Errorf("the query %q is %q or %q", r.URL.RawQuery, d.Query, d.Unparsed)
	}
	sum := sha256.Sum256(body)
	switch {
	case len(body) == 0 && d.JSON == nil && d.SHA256 == "":
	case d.JSON == nil && d.SHA256 == hex.EncodeToString(sum[:]):
	case d.SHA256 == "" && len(d.JSON) > 0 && json.Valid(body):
	default:
		t.Errorf("the body %q is %s, %q", body, d.JSON, d.SHA256)
	}
}

func TestClip(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]int{
		"POST /a": 7, strings.Repeat("x", 300): semel.MaxKey, strings.Repeat("ä", 200): semel.MaxKey - 1,
	} {
		if got := clip(name); len(got) != want || !utf8.ValidString(got) || !strings.HasPrefix(name, got) {
			t.Errorf("%q is clipped to %q, %d bytes, want %d", name, got, len(got), want)
		}
	}
	if got := clip("a\xff"); !utf8.ValidString(got) {
		t.Errorf("%q", got)
	}
}

func TestRecorderTakesNoMore(t *testing.T) {
	t.Parallel()
	w := &recorder{header: http.Header{}, most: 10}
	w.WriteHeader(http.StatusEarlyHints)
	w.WriteHeader(http.StatusAccepted)
	w.WriteHeader(http.StatusTeapot)
	_, _ = w.Write([]byte("<html>"))
	r, err := w.end()
	if err != nil || r.status != 202 || r.header.Get("Content-Type") != "text/html; charset=utf-8" {
		t.Errorf("%+v, %v", r, err)
	}
	if n, err := w.Write([]byte("x")); n != 0 || err == nil || string(r.body) != "<html>" {
		t.Errorf("a write after the end: %d, %v", n, err)
	}
	defer func() {
		if recover() == nil {
			t.Error("status 0 is taken")
		}
	}()
	(&recorder{header: http.Header{}}).WriteHeader(0)
}

// An answer is sent as it was stored, whatever its bytes.
func TestAnswerSurvivesEncoding(t *testing.T) {
	t.Parallel()
	for _, body := range []string{"", "plain", "<&>\u2028\x00\r\n", "\xff\xfe", "ä", "\ufffd"} {
		r := &response{status: 201, header: http.Header{"Etag": {`"a"`}, "X": {"y"}}, body: []byte(body)}
		encoded, err := json.Marshal(r.keep([]string{"Etag"}))
		if err != nil {
			t.Fatal(err)
		}
		var a answer
		if err := json.Unmarshal(encoded, &a); err != nil {
			t.Fatal(err)
		}
		w := httptest.NewRecorder()
		a.send(w)
		if w.Code != 201 || w.Body.String() != body || w.Header().Get("Etag") != `"a"` || w.Header().Get("X") != "" {
			t.Errorf("%q is repeated as %d %q %v", body, w.Code, w.Body, w.Header())
		}
	}
}

// TestTableInTheGuide compares the statuses that the guide says are not stored
// with the code's.
func TestTableInTheGuide(t *testing.T) {
	t.Parallel()
	var unkept []string
	for status := 400; status < 500; status++ {
		if !final(status) {
			unkept = append(unkept, strconv.Itoa(status))
		}
	}
	for path, row := range map[string]string{
		"../docs/middleware.md": "| " + strings.Join(unkept, ", ") + " | rolled back | no |",
		"doc.go":                "//\t" + strings.Join(unkept[:5], " "),
	} {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(string(text), row) {
			t.Errorf("%s lacks the row %q", path, row)
		}
	}
}
