package client

import (
	"net/http"
	"strconv"
	"time"
)

// retryAfter reads how long the server asks to stay away, at most the given
// duration; 0 if it does not say.
func retryAfter(h http.Header, most time.Duration) time.Duration {
	now, err := http.ParseTime(h.Get("Date"))
	if err != nil {
		now = time.Now()
	}
	wait, _ := parseRetryAfter(h.Get("Retry-After"), now)
	return min(wait, most)
}

// parseRetryAfter reads both forms of RFC 9110, section 10.2.3. A date is
// taken relative to now, which should be the server's: the difference of two
// readings of one clock is right even where that clock is wrong.
func parseRetryAfter(value string, now time.Time) (time.Duration, bool) {
	const most = 1<<63 - 1
	if value == "" {
		return 0, false
	}
	if seconds, ok := digits(value); ok {
		if seconds > most/int64(time.Second) {
			return most, true
		}
		return time.Duration(seconds) * time.Second, true
	}
	at, err := http.ParseTime(value)
	if err != nil {
		return 0, false
	}
	return max(0, at.Sub(now)), true
}

// digits reads a number of nothing but digits; one too large is the largest.
func digits(s string) (int64, bool) {
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return 0, false
		}
	}
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		return 1<<63 - 1, true
	}
	return n, true
}
