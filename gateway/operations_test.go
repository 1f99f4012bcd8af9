package gateway

import (
	"encoding/json"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/semel-dev/semel"
)

func TestEncodeOperation(t *testing.T) {
	t.Parallel()
	at := time.Date(2025, 3, 1, 12, 0, 0, 120_000_000, time.FixedZone("", 3600))
	id := semel.Command{Principal: "alice", Name: "withdraw", Key: "k"}.ID()
	base := semel.Operation{ID: id, Name: "withdraw", Attempts: 1, AcceptedAt: at}
	head := `{"id":"` + id.String() + `","name":"withdraw",`
	const tail = `"acceptedAt":"2025-03-01T11:00:00.120000Z"`
	for _, tt := range []struct {
		name   string
		change func(*semel.Operation)
		want   string
	}{
		{"accepted", func(o *semel.Operation) { o.State, o.Attempts = semel.Accepted, 0 },
			head + `"state":"accepted","done":false,"attempts":0,` + tail + `}`},
		{"waiting", func(o *semel.Operation) { o.State, o.DueAt = semel.Waiting, at },
			head + `"state":"waiting","done":false,"attempts":1,` + tail + `,"retryAt":"2025-03-01T11:00:00.120000Z"}`},
		{"executed hides its result", func(o *semel.Operation) {
			o.State, o.Result, o.Position = semel.Executed, []byte(`{"a":1}`), 7
		}, head + `"state":"executed","done":false,"attempts":1,` + tail + `,"position":7}`},
		{"completed", func(o *semel.Operation) {
			o.State, o.Result, o.Position = semel.Completed, []byte(`{"a":1.50,"b":"<&>"}`), 1<<53+1
			o.Subjects, o.Resource = []string{"account/alice"}, "accounts/alice"
			o.Correlation = json.RawMessage(`{"id":"flow"}`)
		}, head + `"subject":"account/alice","state":"completed","done":true,"resource":"accounts/alice","result":{"a":1.50,"b":"<&>"},"attempts":1,` +
			tail + `,"position":"9007199254740993","correlationId":"flow"}`},
		{"completed with nothing", func(o *semel.Operation) { o.State, o.Result = semel.Completed, []byte("null") },
			head + `"state":"completed","done":true,"attempts":1,` + tail + `}`},
		{"rejected", func(o *semel.Operation) {
			o.State, o.Code, o.Reason, o.Result = semel.Rejected, "poor", "no money", []byte(`{"type":"…"}`)
		}, head + `"state":"rejected","done":true,"error":{"code":"poor","reason":"no money"},"attempts":1,` + tail + `}`},
		{"failed keeps its reason", func(o *semel.Operation) {
			o.State, o.Reason, o.Disposition = semel.Failed, "password=hunter2", semel.Terminal
		}, head + `"state":"failed","done":true,"error":{"code":"terminal","reason":"the handler gave up: trying again would not help"},"attempts":1,` + tail + `}`},
		{"canceled", func(o *semel.Operation) { o.State = semel.Canceled },
			head + `"state":"canceled","done":true,"error":{"code":"canceled","reason":"the operation was canceled before it ran"},"attempts":1,` + tail + `}`},
	} {
		op := base
		tt.change(&op)
		got, err := encodeOperation(&op)
		if err != nil || string(got) != tt.want {
			t.Errorf("%s: encodeOperation = %s, %v\nwant %s", tt.name, got, err, tt.want)
		}
	}
}

func TestEncodedOperationIsOneLine(t *testing.T) {
	t.Parallel()
	op := semel.Operation{State: semel.Completed, Result: []byte("{\n\"a\":\r\n1}"), Name: "x\ny"}
	got, err := encodeOperation(&op)
	if err != nil || strings.ContainsAny(string(got), "\r\n") {
		t.Errorf("encodeOperation = %q, %v, want one line", got, err)
	}
}

func TestParseListing(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		query string
		want  listing
		slug  string
	}{
		{"", listing{limit: 100, open: true}, ""},
		{"state=failed&name=withdraw&limit=1", listing{state: semel.Failed, name: "withdraw", limit: 1, open: true}, ""},
		{"page=o17", listing{limit: 100, open: true, before: 17}, ""},
		{"page=d0", listing{limit: 100}, ""},
		{"state=done", listing{}, invalidQuery},
		{"limit=0", listing{}, invalidQuery},
		{"limit=101", listing{}, invalidQuery},
		{"limit=x", listing{}, invalidQuery},
		{"page=17", listing{}, invalidQuery},
		{"page=o", listing{}, invalidQuery},
		{"page=x1", listing{}, invalidQuery},
		{"page=o-1", listing{}, invalidQuery},
	} {
		query, err := url.ParseQuery(tt.query)
		if err != nil {
			t.Fatal(err)
		}
		got, err := parseListing(query)
		if slugOf(err) != tt.slug || err == nil && got != tt.want {
			t.Errorf("parseListing(%q) = %+v, %v, want %+v %s", tt.query, got, err, tt.want, tt.slug)
		}
	}
}

func FuzzParseListing(f *testing.F) {
	f.Add("state=failed&page=o17&limit=3")
	f.Fuzz(func(t *testing.T, raw string) {
		query, err := url.ParseQuery(raw)
		if err != nil {
			return
		}
		l, err := parseListing(query)
		if err == nil && (l.limit < 1 || l.limit > pageMost || l.before < 0) {
			t.Errorf("parseListing(%q) = %+v", raw, l)
		}
	})
}

func TestProblemsAreDistinct(t *testing.T) {
	t.Parallel()
	seen := map[string]bool{}
	for _, kind := range Problems() {
		if seen[kind.Slug] || kind.Title == "" || kind.Status < 400 {
			t.Errorf("problem kind %+v is incomplete or listed twice", kind)
		}
		seen[kind.Slug] = true
	}
}

// TestTranslate: every sentinel has its answer, and no other error's text
// reaches a client.
func TestTranslate(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		err  error
		slug string
	}{
		{semel.ErrInvalid, invalidCommand}, {semel.ErrUnknownCommand, unknownCommand}, {semel.ErrKeyReused, keyReused},
		{semel.ErrKeyExpired, keyExpired}, {semel.ErrNotFound, operationNotFound}, {semel.ErrOverloaded, overloaded},
		{semel.ErrUnavailable, unavailable}, {semel.ErrOutcomeUnknown, outcomeUnknown}, {semel.ErrClosed, unavailable},
		{semel.ErrFenced, outcomeUnknown},
	} {
		secret := wrapped{tt.err}
		got := translate(secret)
		if got.slug != tt.slug {
			t.Errorf("translate(%v) = %s, want %s", tt.err, got.slug, tt.slug)
		}
		if tt.slug != invalidCommand && strings.Contains(got.detail, "hunter2") {
			t.Errorf("translate(%v) shows the client %q", tt.err, got.detail)
		}
	}
}

type wrapped struct{ err error }

func (w wrapped) Error() string { return "password=hunter2: " + w.err.Error() }
func (w wrapped) Unwrap() error { return w.err }
