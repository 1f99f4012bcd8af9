package webhook

import (
	"encoding/base64"
	"errors"
	"net/http"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// The example that libraries for Standard Webhooks are tested with.
const (
	vectorSecret    = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
	vectorID        = "msg_p5jXN8AQM9LWM0D4loKWxJek"
	vectorTime      = 1614265330
	vectorBody      = `{"test": 2432232314}`
	vectorSignature = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
)

func TestSignVector(t *testing.T) {
	t.Parallel()
	h := http.Header{}
	if err := Sign(h, vectorID, time.Unix(vectorTime, 0), []byte(vectorBody), []string{vectorSecret}); err != nil {
		t.Fatal(err)
	}
	if got := h.Get("webhook-signature"); got != vectorSignature {
		t.Errorf("the signature is %s, want %s", got, vectorSignature)
	}
	if h.Get("webhook-id") != vectorID || h.Get("webhook-timestamp") != "1614265330" {
		t.Errorf("the headers are %v", h)
	}
}

// TestSample holds the request in the guide to its signature.
func TestSample(t *testing.T) {
	t.Parallel()
	guide, err := os.ReadFile("../docs/webhooks.md")
	if err != nil {
		t.Fatal(err)
	}
	_, block, _ := strings.Cut(string(guide), "```http\n")
	block, after, found := strings.Cut(block, "\n```")
	head, body, split := strings.Cut(block, "\n\n")
	_, secret, named := strings.Cut(after, "signed with `")
	if !found || !split || !named {
		t.Fatal("docs/webhooks.md has no request and its secret")
	}
	secret, _, _ = strings.Cut(secret, "`")
	h := http.Header{}
	for line := range strings.Lines(head) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), ": ")
		h.Set(name, value)
	}
	const ever = 200 * 365 * 24 * time.Hour
	if err := Verify(h, []byte(body), []string{secret}, ever); err != nil {
		t.Errorf("the request in docs/webhooks.md: %v", err)
	}
}

func TestVerify(t *testing.T) {
	t.Parallel()
	older, newer, strange := NewSecret(), NewSecret(), NewSecret()
	body := []byte(vectorBody)
	for _, tt := range []struct {
		name    string
		sign    []string
		secrets []string
		at      time.Duration // from now
		change  func(h http.Header)
		body    string
		want    error
	}{
		{name: "as sent", sign: []string{newer}, secrets: []string{newer}},
		{name: "the receiver knows both", sign: []string{older}, secrets: []string{newer, older}},
		{name: "the sender signs with both", sign: []string{newer, older}, secrets: []string{older}},
		{name: "strange secret", sign: []string{strange}, secrets: []string{newer, older}, want: ErrSignature},
		{name: "other body", sign: []string{newer}, secrets: []string{newer}, body: vectorBody + " ", want: ErrSignature},
		{name: "other id", sign: []string{newer}, secrets: []string{newer},
			change: func(h http.Header) { h.Set("webhook-id", "msg_other") }, want: ErrSignature},
		{name: "other time", sign: []string{newer}, secrets: []string{newer},
			change: func(h http.Header) { h.Set("webhook-timestamp", "946684801") }, want: ErrSignature},
		{name: "five minutes old", sign: []string{newer}, secrets: []string{newer}, at: -5 * time.Minute},
		{name: "older", sign: []string{newer}, secrets: []string{newer}, at: -5*time.Minute - time.Second, want: ErrTimestamp},
		{name: "ahead", sign: []string{newer}, secrets: []string{newer}, at: 5*time.Minute + time.Second, want: ErrTimestamp},
		{name: "no headers", sign: []string{newer}, secrets: []string{newer}, change: func(h http.Header) { clear(h) }, want: ErrSignature},
		{name: "no signature", sign: []string{newer}, secrets: []string{newer},
			change: func(h http.Header) { h.Set("webhook-signature", "") }, want: ErrSignature},
		{name: "two ids", sign: []string{newer}, secrets: []string{newer},
			change: func(h http.Header) { h.Add("webhook-id", "msg_other") }, want: ErrSignature},
		{name: "no number", sign: []string{newer}, secrets: []string{newer},
			change: func(h http.Header) { h.Set("webhook-timestamp", "now") }, want: ErrSignature},
		{name: "other versions beside", sign: []string{newer}, secrets: []string{newer},
			change: func(h http.Header) { h.Set("webhook-signature", "v1a,AAAA x "+h.Get("webhook-signature")+" v2,AA==") }},
		{name: "right bytes under another version", sign: []string{newer}, secrets: []string{newer},
			change: func(h http.Header) {
				h.Set("webhook-signature", strings.Replace(h.Get("webhook-signature"), "v1,", "v2,", 1))
			}, want: ErrSignature},
		{name: "empty signature", sign: []string{newer}, secrets: []string{newer},
			change: func(h http.Header) { h.Set("webhook-signature", "v1,") }, want: ErrSignature},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				h := http.Header{}
				if err := Sign(h, vectorID, time.Now().Add(tt.at), body, tt.sign); err != nil {
					t.Fatal(err)
				}
				if tt.change != nil {
					tt.change(h)
				}
				received := body
				if tt.body != "" {
					received = []byte(tt.body)
				}
				if err := Verify(h, received, tt.secrets, 0); !errors.Is(err, tt.want) {
					t.Errorf("got %v, want %v", err, tt.want)
				}
			})
		})
	}
}

func TestSecrets(t *testing.T) {
	t.Parallel()
	bytes := func(n int) string { return base64.StdEncoding.EncodeToString(make([]byte, n)) }
	for _, tt := range []struct {
		name, secret string
		ok           bool
	}{
		{"made here", NewSecret(), true},
		{"24 bytes", "whsec_" + bytes(24), true},
		{"64 bytes", "whsec_" + bytes(64), true},
		{"23 bytes", "whsec_" + bytes(23), false},
		{"65 bytes", "whsec_" + bytes(65), false},
		{"no prefix", bytes(32), false},
		{"no base64", "whsec_hunter2 hunter2 hunter2 hunter2", false},
		{"empty", "", false},
	} {
		err := Sign(http.Header{}, "msg_1", time.Now(), nil, []string{tt.secret})
		if (err == nil) != tt.ok {
			t.Errorf("%s: got %v", tt.name, err)
		}
		if err != nil && tt.secret != "" && strings.Contains(err.Error(), strings.TrimPrefix(tt.secret, "whsec_")) {
			t.Errorf("%s: the error shows the secret: %v", tt.name, err)
		}
	}
	if err := Verify(http.Header{}, nil, nil, 0); err == nil {
		t.Error("nothing was verified without a secret")
	}
	for _, id := range []string{"", "a.b", "a b", "a\n"} {
		if err := Sign(http.Header{}, id, time.Now(), nil, []string{NewSecret()}); err == nil {
			t.Errorf("the id %q was signed", id)
		}
	}
}

// FuzzVerify finds that no header is taken but the signed one.
func FuzzVerify(f *testing.F) {
	at := time.Now() // the tolerance below is longer than anybody fuzzes
	h := http.Header{}
	if err := Sign(h, vectorID, at, []byte(vectorBody), []string{vectorSecret}); err != nil {
		f.Fatal(err)
	}
	f.Add(h.Get("webhook-id"), h.Get("webhook-timestamp"), h.Get("webhook-signature"), vectorBody)
	f.Add("", "-1", "v1,", "")
	f.Add(vectorID, "9223372036854775807", vectorSignature+" "+vectorSignature, vectorBody)
	f.Fuzz(func(t *testing.T, id, timestamp, signature, body string) {
		got := http.Header{"Webhook-Id": {id}, "Webhook-Timestamp": {timestamp}, "Webhook-Signature": {signature}}
		err := Verify(got, []byte(body), []string{vectorSecret}, 1000*time.Hour)
		signs := id == h.Get("webhook-id") && timestamp == h.Get("webhook-timestamp") && body == vectorBody
		if err == nil && !signs {
			t.Errorf("taken: id %q, timestamp %q, signature %q, body %q", id, timestamp, signature, body)
		}
	})
}
