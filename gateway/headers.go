package gateway

import (
	"errors"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/semel-dev/semel"
	"github.com/semel-dev/semel/internal/wire"
)

// parseKey reads the lines of an Idempotency-Key header.
func parseKey(lines []string) (string, error) {
	key, err := wire.ParseKey(lines)
	var refused *wire.Refusal
	if errors.As(err, &refused) {
		return "", refusal(refused.Kind.Slug, "%s", refused.Detail)
	}
	return key, err
}

// headerKey reads the key from either of the headers that it can be in. The
// second one is that of OASIS Repeatable Requests 1.0, which is never quoted.
func headerKey(h http.Header) (key string, given bool, err error) {
	lines, alias := h["Idempotency-Key"], h["Repeatability-Request-Id"]
	if len(lines) > 0 {
		if key, err = parseKey(lines); err != nil {
			return "", false, err
		}
	}
	if len(alias) == 0 {
		return key, len(lines) > 0, nil
	}
	if len(alias) > 1 {
		return "", false, refusal(keyInvalid, "the Repeatability-Request-ID header is given %d times", len(alias))
	}
	if err := checkKey(alias[0], "Repeatability-Request-ID header"); err != nil {
		return "", false, err
	}
	if len(lines) > 0 && key != alias[0] {
		return "", false, refusal(keyInvalid, "the Repeatability-Request-ID header, %s, is not the Idempotency-Key, %s", wire.Shorten(alias[0]), wire.Shorten(key))
	}
	return alias[0], true, nil
}

// repeatable reports whether a request speaks of OASIS Repeatable Requests,
// and its answer should.
func repeatable(h http.Header) bool {
	return len(h["Repeatability-Request-Id"]) > 0 || len(h["Repeatability-First-Sent"]) > 0
}

// parseFirstSent reads when a request was sent for the first time: an
// IMF-fixdate, which that standard requires beside its id.
func parseFirstSent(h http.Header) (sent time.Time, given bool, err error) {
	lines := h["Repeatability-First-Sent"]
	switch {
	case len(lines) == 0 && len(h["Repeatability-Request-Id"]) > 0:
		return sent, false, refusal(keyInvalid, "the Repeatability-First-Sent header is missing; it goes with Repeatability-Request-ID")
	case len(lines) == 0:
		return sent, false, nil
	case len(lines) > 1:
		return sent, false, refusal(keyInvalid, "the Repeatability-First-Sent header is given %d times", len(lines))
	}
	sent, err = time.Parse(http.TimeFormat, lines[0])
	if err != nil || sent.Format(http.TimeFormat) != lines[0] { // the day of the week as well
		return sent, false, refusal(keyInvalid, "the Repeatability-First-Sent header %s is not a date such as %s", wire.Shorten(lines[0]), "Tue, 15 Nov 1994 08:12:31 GMT")
	}
	return sent, true, nil
}

func checkKey(key, place string) error {
	if err := semel.CheckKey(key); err != nil {
		return refusal(keyInvalid, "%s: %s", place, aboutCommand(err))
	}
	return nil
}

// Preferences are what the gateway understands of a Prefer header.
type preferences struct {
	async   bool
	hasWait bool
	wait    time.Duration
}

// parsePrefer reads Prefer headers as RFC 7240 says: what is unknown or
// malformed is ignored, and of preferences given twice the first counts.
func parsePrefer(lines []string) preferences {
	var p preferences
	for _, line := range lines {
		for _, item := range splitList(line, ',') {
			preference := splitList(item, ';')[0] // its parameters mean nothing to us
			name, value, _ := strings.Cut(preference, "=")
			value = strings.TrimSpace(value)
			switch strings.ToLower(strings.TrimSpace(name)) {
			case "respond-async":
				p.async = true
			case "wait":
				if seconds, ok := parseSeconds(value); ok && !p.hasWait {
					p.hasWait, p.wait = true, seconds
				}
			}
		}
	}
	return p
}

// applied is the Preference-Applied header for what was honoured.
func (p preferences) applied() string {
	wait := "wait=" + strconv.FormatInt(int64(p.wait/time.Second), 10)
	switch {
	case p.async && p.hasWait:
		return "respond-async, " + wait
	case p.async:
		return "respond-async"
	case p.hasWait:
		return wait
	}
	return ""
}

// splitList splits at a separator that is not within a quoted string. It
// returns at least one part.
func splitList(s string, separator byte) []string {
	var parts []string
	quoted, start := false, 0
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c == '"':
			quoted = !quoted
		case c == '\\' && quoted:
			i++
		case c == separator && !quoted:
			parts = append(parts, s[start:i])
			start = i + 1
		}
	}
	return append(parts, s[start:])
}

func parseSeconds(s string) (time.Duration, bool) {
	if strings.HasPrefix(s, `"`) {
		unquoted, rest, ok := wire.Unquote(s)
		if !ok || rest != "" {
			return 0, false
		}
		s = unquoted
	}
	if s == "" || strings.Trim(s, "0123456789") != "" {
		return 0, false
	}
	seconds, err := strconv.ParseInt(s, 10, 32)
	if err != nil { // more digits than fit; it is capped anyway
		return time.Duration(1<<31) * time.Second, true
	}
	return time.Duration(seconds) * time.Second, true
}

// parsePosition reads a Last-Event-ID: a position in the log.
func parsePosition(s string) (int64, bool) {
	position, err := strconv.ParseInt(s, 10, 64)
	if err != nil || position < 0 || strconv.FormatInt(position, 10) != s {
		return 0, false
	}
	return position, true
}

// parseLanguage returns the first tag of an Accept-Language header if it looks
// like one of BCP 47.
func parseLanguage(header string) string {
	tag, _, _ := strings.Cut(header, ",")
	tag, _, _ = strings.Cut(tag, ";")
	tag = strings.TrimSpace(tag)
	if len(tag) > 35 { // RFC 5646, section 4.4.1
		return ""
	}
	for i, part := range strings.Split(tag, "-") {
		if part == "" || len(part) > 8 {
			return ""
		}
		for _, c := range []byte(part) {
			letter := c|0x20 >= 'a' && c|0x20 <= 'z'
			if !letter && (i == 0 || c < '0' || c > '9') {
				return ""
			}
		}
	}
	return tag
}

// matchesTag reports whether an If-None-Match header names a tag.
func matchesTag(lines []string, tag string) bool {
	for _, line := range lines {
		for _, item := range splitList(line, ',') {
			item = strings.TrimSpace(item)
			if item == "*" || strings.TrimPrefix(item, "W/") == tag {
				return true
			}
		}
	}
	return false
}

// correlate fills the correlation from a request. What is malformed is left
// out: a tracing header must not keep a payment from being made.
func (g *Gateway) correlate(r *http.Request, who Identity, name string) semel.Correlation {
	c := semel.Correlation{
		ID:         wire.ParseToken(r.Header["X-Correlation-Id"]),
		UserID:     who.Principal,
		Connection: wire.ParseToken(r.Header["X-Connection-Id"]),
		Name:       name,
		Culture:    parseLanguage(r.Header.Get("Accept-Language")),
		CreatedAt:  time.Now().UTC(),
	}
	c.TraceID, c.SpanContext, _ = wire.ParseTraceparent(r.Header["Traceparent"])
	if retries, ok := parsePosition(r.Header.Get("X-Retry-Count")); ok && retries < 1<<31 {
		c.Retries = int(retries)
	}
	const most = 512
	if c.Origin = g.base(r) + r.URL.EscapedPath(); len(c.Origin) > most {
		c.Origin = c.Origin[:most]
	}
	return c
}
