package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"
)

func tcp(port int) net.Addr { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: port} }

func TestTransportErrors(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		err   error
		class Class
		want  string
	}{
		{&net.OpError{Op: "dial", Net: "tcp", Addr: tcp(1), Err: os.NewSyscallError("connect", syscall.ECONNREFUSED)},
			ClassRefused, "dial tcp 127.0.0.1:1: connect: connection refused"},
		{&net.OpError{Op: "read", Net: "tcp", Source: tcp(53412), Addr: tcp(80), Err: os.NewSyscallError("read", syscall.ECONNRESET)},
			ClassReset, "read tcp 127.0.0.1:80: read: connection reset by peer"},
		{&net.OpError{Op: "write", Net: "tcp6", Source: &net.TCPAddr{IP: net.IPv6loopback, Port: 53412}, Addr: &net.TCPAddr{IP: net.IPv6loopback, Port: 80}, Err: syscall.EPIPE},
			ClassReset, "write tcp6 [::1]:80: broken pipe"},
		{fmt.Errorf("net/http: HTTP/1.x transport connection broken: %w", &net.OpError{Op: "write", Net: "tcp", Source: tcp(53412), Addr: tcp(80), Err: syscall.EPIPE}),
			ClassReset, "net/http: HTTP/1.x transport connection broken: write tcp 127.0.0.1:80: broken pipe"},
		{&net.OpError{Op: "dial", Net: "tcp", Addr: tcp(1), Err: syscall.ETIMEDOUT}, ClassTimeout, "dial tcp 127.0.0.1:1: connection timed out"},
		{&net.OpError{Op: "dial", Net: "tcp", Addr: tcp(1), Err: syscall.EHOSTUNREACH}, ClassConnection, "dial tcp 127.0.0.1:1: no route to host"},
		{&net.OpError{Op: "dial", Net: "tcp", Err: &net.DNSError{Name: "bank.test", Server: "10.0.0.2:53", Err: "no such host", IsNotFound: true}},
			ClassDNS, "lookup bank.test: no such host"},
		{&net.DNSError{Name: "bank.test", Server: "10.0.0.2:53", Err: "read udp 10.0.0.9:40001->10.0.0.2:53: i/o timeout", IsTimeout: true},
			ClassTimeout, "lookup bank.test: timeout"},
		{&net.DNSError{Name: "bank.test", Server: "10.0.0.2:53", Err: "server misbehaving", IsTemporary: true}, ClassDNS, "lookup bank.test: failed"},
		{io.EOF, ClassReset, "connection closed before the answer"},
		{io.ErrUnexpectedEOF, ClassReset, "connection closed within the answer"},
		{errors.New("http: server closed idle connection"), ClassReset, "http: server closed idle connection"},
		{errors.New("sails are down"), ClassConnection, "sails are down"},
		{context.DeadlineExceeded, ClassTimeout, "context deadline exceeded"},
	} {
		e := transportError(&url.Error{Op: "Post", URL: "http://bank.test/commands/withdraw", Err: tt.err})
		if e.Class != tt.class || e.Message != tt.want || !errors.Is(e, tt.err) || !errors.Is(e, tt.class) {
			t.Errorf("%v\n is %s %q\n want %s %q", tt.err, e.Class, e.Message, tt.class, tt.want)
		}
	}
}

func TestParseRetryAfter(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 11, 22, 1, 0, 0, 0, time.UTC)
	for _, tt := range []struct {
		value string
		want  time.Duration
		ok    bool
	}{
		{"0", 0, true},
		{"120", 2 * time.Minute, true},
		{"007", 7 * time.Second, true},
		{"9223372036", 9223372036 * time.Second, true},
		{"9223372037", math.MaxInt64, true},
		{strings.Repeat("9", 400), math.MaxInt64, true},
		{"Sun, 22 Nov 2026 01:00:30 GMT", 30 * time.Second, true},
		{"Sunday, 22-Nov-26 01:00:30 GMT", 30 * time.Second, true},
		{"Sun Nov 22 01:00:30 2026", 30 * time.Second, true},
		{"Sun, 22 Nov 2026 00:59:59 GMT", 0, true},
		{"Fri, 31 Dec 9999 23:59:59 GMT", math.MaxInt64, true},
		{"", 0, false}, {"-1", 0, false}, {"+1", 0, false}, {"1.5", 0, false}, {" 1", 0, false}, {"1s", 0, false}, {"٣", 0, false},
		{"2026-11-22T01:00:30Z", 0, false},
	} {
		if got, ok := parseRetryAfter(tt.value, now); got != tt.want || ok != tt.ok {
			t.Errorf("%q: %v, %v; want %v, %v", tt.value, got, ok, tt.want, tt.ok)
		}
	}
}

func FuzzRetryAfter(f *testing.F) {
	for _, value := range []string{"0", "120", "99999999999999999999", "-1", "Sun, 22 Nov 2026 01:00:30 GMT", "Fri, 31 Dec 9999 23:59:59 GMT", "soon"} {
		f.Add(value, "Sun, 22 Nov 2026 01:00:00 GMT")
	}
	f.Add("Fri, 31 Dec 9999 23:59:59 GMT", "Mon, 01 Jan 0001 00:00:00 GMT")
	f.Fuzz(func(t *testing.T, value, date string) {
		now, err := http.ParseTime(date)
		if err != nil {
			now = time.Date(2026, 11, 22, 1, 0, 0, 0, time.UTC)
		}
		wait, ok := parseRetryAfter(value, now)
		if wait < 0 || !ok && wait != 0 {
			t.Errorf("%q at %v: %v, %v", value, now, wait, ok)
		}
		if value != "" && strings.Trim(value, "0123456789") == "" && !ok {
			t.Errorf("%q is a number of seconds", value)
		}
		if at, err := http.ParseTime(value); err == nil && (!ok || wait > 0 && wait < math.MaxInt64 && !now.Add(wait).Equal(at)) {
			t.Errorf("%q is %v from %v, got %v, %v", value, at.Sub(now), now, wait, ok)
		}
		const most = time.Minute
		if got := retryAfter(http.Header{"Retry-After": {value}, "Date": {date}}, most); got < 0 || got > most {
			t.Errorf("%q at %q: %v is not within 0 and %v", value, date, got, most)
		}
	})
}

func FuzzProblem(f *testing.F) {
	f.Add(409, `{"type":"https://semel.dev/problems/operation-rejected","code":"c","detail":"d","operation":"operations/x"}`)
	f.Add(503, `{"type":"about:blank"}`)
	f.Add(500, `{"type":"\u0007","detail":"\r\n"}`)
	f.Fuzz(func(t *testing.T, status int, body string) {
		s := &sending{reply: Reply{Key: "k", command: "c"}}
		a := &answer{status: status, header: http.Header{"Content-Type": {"application/problem+json; charset=utf-8"}}, body: []byte(body)}
		err := s.answerError(a)
		if (err == nil) != (status >= 200 && status < 300) {
			t.Fatalf("status %d: error %v", status, err)
		}
		var e *Error
		if errors.As(err, &e) && (strings.ContainsAny(e.Message, "\r\n\x1b") || len(e.Message) > 1000) {
			t.Errorf("message %q of %q", e.Message, body)
		}
	})
}
