package wire

import (
	"strconv"
	"strings"

	"github.com/semel-dev/semel"
)

// ParseKey reads the lines of an Idempotency-Key header: an RFC 8941 string as
// in draft-ietf-httpapi-idempotency-key-header-07, or the key as it is, which
// is what most clients send. Parameters are not taken: two readers might
// disagree about where the key ends. Every error is a [*Refusal].
func ParseKey(lines []string) (string, error) {
	switch len(lines) {
	case 0:
		return "", Refuse(KeyMissing, "the Idempotency-Key header is missing; make a key once per intention and send it with every retry")
	case 1:
	default:
		return "", Refuse(KeyInvalid, "the Idempotency-Key header is given %d times", len(lines))
	}
	key := lines[0]
	if strings.HasPrefix(key, `"`) {
		unquoted, rest, ok := Unquote(key)
		if !ok || rest != "" {
			return "", Refuse(KeyInvalid, "the Idempotency-Key header %s is not one quoted string", Shorten(key))
		}
		key = unquoted
	}
	if err := semel.CheckKey(key); err != nil {
		return "", Refuse(KeyInvalid, "Idempotency-Key header: %s", About(err))
	}
	return key, nil
}

// Unquote reads the RFC 8941 string that s begins with, and returns what comes
// after it. HTTP's older quoted strings, which may escape anything, are read
// as well where they only escape what RFC 8941 lets them.
func Unquote(s string) (value, rest string, ok bool) {
	var b strings.Builder
	for i := 1; i < len(s); i++ {
		switch c := s[i]; {
		case c == '"':
			return b.String(), s[i+1:], true
		case c == '\\':
			i++
			if i == len(s) || s[i] != '"' && s[i] != '\\' {
				return "", "", false
			}
			b.WriteByte(s[i])
		case c < ' ' || c > '~':
			return "", "", false
		default:
			b.WriteByte(c)
		}
	}
	return "", "", false
}

// Shorten makes a client's text fit to be shown back to it, and to be logged.
func Shorten(s string) string {
	const most = 64
	if len(s) > most {
		s = s[:most] + "…"
	}
	return strconv.QuoteToASCII(s)
}

// ParseToken returns a header that is kept but not understood, unless it is
// long or has anything but visible ASCII in it.
func ParseToken(lines []string) string {
	if len(lines) != 1 || len(lines[0]) > 128 || strings.ContainsFunc(lines[0], func(c rune) bool { return c < '!' || c > '~' }) {
		return ""
	}
	return lines[0]
}

// ParseTraceparent reads the W3C header and returns the trace id and the part
// that every version shares.
func ParseTraceparent(lines []string) (traceID, parent string, ok bool) {
	const length = len("00-0123456789abcdef0123456789abcdef-0123456789abcdef-00")
	if len(lines) != 1 || len(lines[0]) < length {
		return "", "", false
	}
	full, parent := lines[0], lines[0][:length]
	if len(full) > length && (parent[:2] == "00" || full[length] != '-') {
		return "", "", false
	}
	fields := strings.Split(parent, "-")
	if len(fields) != 4 || fields[0] == "ff" || allZero(fields[1]) || allZero(fields[2]) {
		return "", "", false
	}
	for i, size := range []int{2, 32, 16, 2} {
		if len(fields[i]) != size || strings.Trim(fields[i], "0123456789abcdef") != "" {
			return "", "", false
		}
	}
	return fields[1], parent, true
}

func allZero(s string) bool { return strings.Trim(s, "0") == "" }
