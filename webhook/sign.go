package webhook

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// Headers of Standard Webhooks.
const (
	headerID        = "Webhook-Id"
	headerTimestamp = "Webhook-Timestamp"
	headerSignature = "Webhook-Signature"
)

// What [Verify] tells apart with errors.Is.
var (
	// ErrSignature: the request is not signed by any of the secrets, or the
	// headers are missing or malformed.
	ErrSignature = errors.New("webhook: not signed by a known secret")
	// ErrTimestamp: the request is signed, but is too old, or from the future:
	// somebody may be sending again what was heard before.
	ErrTimestamp = errors.New("webhook: signed outside the tolerated time")
)

const secretPrefix = "whsec_"

// NewSecret makes a secret of 32 random bytes.
func NewSecret() string {
	var key [32]byte
	_, _ = rand.Read(key[:]) // never fails: it ends the program instead
	return secretPrefix + base64.StdEncoding.EncodeToString(key[:])
}

// decodeSecrets returns the keys. Errors do not show the secret.
func decodeSecrets(secrets []string) ([][]byte, error) {
	if len(secrets) == 0 {
		return nil, errors.New("there is no secret to sign with")
	}
	keys := make([][]byte, len(secrets))
	for i, secret := range secrets {
		text, ok := strings.CutPrefix(secret, secretPrefix)
		key, err := base64.StdEncoding.DecodeString(text)
		// Below 24 bytes the specification takes a secret for too weak, and
		// above 64 for a mistake.
		if !ok || err != nil || len(key) < 24 || len(key) > 64 {
			return nil, fmt.Errorf("secret number %d is not %q and 24 to 64 bytes in base64", i+1, secretPrefix)
		}
		keys[i] = key
	}
	return keys, nil
}

// Sign sets the three headers of Standard Webhooks on h, with a signature for
// each secret. Senders of this package do it themselves; it is for the tests
// of receivers.
func Sign(h http.Header, id string, at time.Time, body []byte, secrets []string) error {
	keys, err := decodeSecrets(secrets)
	if err != nil {
		return fmt.Errorf("webhook: %w", err)
	}
	if id == "" || strings.ContainsFunc(id, func(r rune) bool { return r <= ' ' || r > '~' || r == '.' }) {
		return fmt.Errorf("webhook: the id %q is not visible ASCII without a dot, which ends it in what is signed", id)
	}
	sign(h, id, at, string(body), keys)
	return nil
}

func sign(h http.Header, id string, at time.Time, body string, keys [][]byte) {
	timestamp := strconv.FormatInt(at.Unix(), 10)
	signatures := make([]string, len(keys))
	for i, key := range keys {
		signatures[i] = "v1," + base64.StdEncoding.EncodeToString(mac(key, id, timestamp, body))
	}
	h.Set(headerID, id)
	h.Set(headerTimestamp, timestamp)
	h.Set(headerSignature, strings.Join(signatures, " "))
}

func mac(key []byte, id, timestamp, body string) []byte {
	h := hmac.New(sha256.New, key)
	h.Write([]byte(id + "." + timestamp + "." + body))
	return h.Sum(nil)
}

// Verify checks a request that a receiver got: that one of the secrets signed
// this body, and not longer ago, or ahead, than the tolerance; 0 means 5
// minutes. It returns [ErrSignature] or [ErrTimestamp] with the reason. The
// body is the one received, byte by byte. A request that it takes may still be
// a repeat, which the header webhook-id tells.
func Verify(h http.Header, body []byte, secrets []string, tolerance time.Duration) error {
	keys, err := decodeSecrets(secrets)
	if err != nil {
		return fmt.Errorf("webhook: %w", err)
	}
	if tolerance == 0 {
		tolerance = 5 * time.Minute
	}
	for _, name := range []string{headerID, headerTimestamp, headerSignature} {
		if n := len(h[name]); n != 1 || h[name][0] == "" {
			return fmt.Errorf("%w: there are %d headers %s, want one with a value", ErrSignature, n, strings.ToLower(name))
		}
	}
	id, timestamp := h.Get(headerID), h.Get(headerTimestamp)
	seconds, err := strconv.ParseInt(timestamp, 10, 64)
	if err != nil {
		return fmt.Errorf("%w: the timestamp %q is no number of seconds", ErrSignature, timestamp)
	}
	if !signed(keys, id, timestamp, string(body), h.Get(headerSignature)) {
		return fmt.Errorf("%w: none of the signatures of %q fits", ErrSignature, id)
	}
	// By seconds, not by a Duration, which far times would overflow.
	now := time.Now().Unix()
	limit := int64(tolerance / time.Second)
	if seconds < now-limit || seconds > now+limit {
		return fmt.Errorf("%w: %q was signed at %d, and it is %d", ErrTimestamp, id, seconds, now)
	}
	return nil
}

// signed reports whether one of the listed signatures is by one of the keys.
// Versions other than v1 are passed over, as the specification wants.
func signed(keys [][]byte, id, timestamp, body, list string) bool {
	found := false
	for _, key := range keys {
		want := mac(key, id, timestamp, body)
		for signature := range strings.SplitSeq(list, " ") {
			text, ok := strings.CutPrefix(signature, "v1,")
			got, err := base64.StdEncoding.DecodeString(text)
			if ok && err == nil && hmac.Equal(got, want) { // in constant time
				found = true
			}
		}
	}
	return found
}
