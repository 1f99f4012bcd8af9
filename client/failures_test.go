package client_test

import (
	"crypto/tls"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/semel-dev/semel"
	"github.com/semel-dev/semel/client"
	"github.com/semel-dev/semel/gateway"
)

// TestSeriesOfFailures is S0.1: one distinct error comes back as itself,
// several as an aggregate, in the order of their first appearance.
func TestSeriesOfFailures(t *testing.T) {
	t.Parallel()
	overloaded := problem(503, "overloaded", "")
	for _, tt := range []struct {
		name  string
		tries int
		steps []http.HandlerFunc
		want  string
		kinds []client.Class // of the distinct errors; nil for an outcome
		count []int
	}{
		{"one try", 1, []http.HandlerFunc{lost}, "withdraw: connection closed before the answer",
			[]client.Class{client.ClassReset}, []int{1}},
		{"the same each time", 8, []http.HandlerFunc{overloaded}, "withdraw: 503 overloaded",
			[]client.Class{client.ClassServer}, []int{8}},
		{"two kinds", 8, []http.HandlerFunc{lost, lost, overloaded, lost, overloaded, lost, lost, overloaded},
			"withdraw: gave up after 8 tries: connection closed before the answer (×5); 503 overloaded (×3)",
			[]client.Class{client.ClassReset, client.ClassServer}, []int{5, 3}},
		{"one class, two messages", 3, []http.HandlerFunc{overloaded, problem(503, "unavailable", "the disk is full"), overloaded},
			"withdraw: gave up after 3 tries: 503 overloaded (×2); 503 unavailable: the disk is full (×1)",
			[]client.Class{client.ClassServer, client.ClassServer}, []int{2, 1}},
		{"a final one after others", 8, []http.HandlerFunc{lost, lost, answer(401, "")},
			"withdraw: stopped after 3 tries: connection closed before the answer (×2); 401 Unauthorized (×1)",
			[]client.Class{client.ClassReset, client.ClassUnauthorized}, []int{2, 1}},
		{"a final one alone", 8, []http.HandlerFunc{answer(403, "")}, "withdraw: 403 Forbidden",
			[]client.Class{client.ClassForbidden}, []int{1}},
		{"an outcome after others", 8, []http.HandlerFunc{lost, overloaded, problem(409, "operation-rejected", "no")},
			"rejected (): no", nil, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := &script{steps: tt.steps}
				c := connect(t, s.ServeHTTP, client.Options{Tries: tt.tries, Wait: atOnce})
				_, err := c.Call(t.Context(), "withdraw", nil, nil)
				if err == nil || err.Error() != tt.want {
					t.Fatalf("error %v\n want %s", err, tt.want)
				}
				key := s.requests()[0].header.Get("Idempotency-Key")
				if got := distinct(t, err, len(s.requests()), key); len(got) != len(tt.kinds) {
					t.Fatalf("%d distinct errors, want %d", len(got), len(tt.kinds))
				} else {
					for i, e := range got {
						if e.Class != tt.kinds[i] || e.Count != tt.count[i] || !errors.Is(err, e) || !errors.Is(err, tt.kinds[i]) {
							t.Errorf("distinct error %d is %s ×%d, want %s ×%d, found by errors.Is", i+1, e.Class, e.Count, tt.kinds[i], tt.count[i])
						}
					}
				}
			})
		})
	}
}

// distinct takes an error apart and checks what every one carries.
func distinct(t *testing.T, err error, tries int, key string) []*client.Error {
	t.Helper()
	var found []*client.Error
	switch e := err.(type) {
	case *client.Error:
		found = []*client.Error{e}
	case *client.Errors:
		found = e.Distinct
		if e.Tries != tries || len(e.Unwrap()) != len(found) || `"`+e.Key+`"` != key || e.Command != "withdraw" {
			t.Errorf("aggregate %+v after %d tries with key %s", e, tries, key)
		}
	case *client.Rejected:
		if `"`+e.Key+`"` != key {
			t.Errorf("%+v does not carry the key %s", e, key)
		}
	default:
		t.Errorf("error of type %T", err)
	}
	for _, e := range found {
		if `"`+e.Key+`"` != key || e.Command != "withdraw" {
			t.Errorf("%+v does not carry the key %s", e, key)
		}
	}
	return found
}

func TestAnswers(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name  string
		step  http.HandlerFunc
		class client.Class
		tries int
		want  string
		is    error
	}{
		{"400", problem(400, "idempotency-key-invalid", "too long"), client.ClassInvalid, 1, "400 idempotency-key-invalid: too long", semel.ErrInvalid},
		{"404", problem(404, "unknown-command", ""), client.ClassInvalid, 1, "404 unknown-command", semel.ErrUnknownCommand},
		{"404 of a stranger", answer(404, "not here"), client.ClassInvalid, 1, "404 Not Found", nil},
		{"409 of a stranger", answer(409, "{}"), client.ClassConflict, 1, "409 Conflict", nil},
		{"410", problem(410, "idempotency-key-expired", ""), client.ClassExpired, 1, "410 idempotency-key-expired", semel.ErrKeyExpired},
		{"413", answer(413, ""), client.ClassTooLarge, 1, "413 Request Entity Too Large", nil},
		{"422", problem(422, "idempotency-key-reused", "other cents"), client.ClassReused, 1, "422 idempotency-key-reused: other cents", semel.ErrKeyReused},
		{"redirect", answer(307, "", "Location", "http://elsewhere.test/"), client.ClassInvalid, 1, "307 Temporary Redirect", nil},
		{"401", answer(401, ""), client.ClassUnauthorized, 1, "401 Unauthorized", nil},
		{"403", answer(403, ""), client.ClassForbidden, 1, "403 Forbidden", nil},
		{"408", answer(408, ""), client.ClassTimeout, 3, "408 Request Timeout", nil},
		{"429", answer(429, ""), client.ClassThrottled, 3, "429 Too Many Requests", nil},
		{"500", answer(500, ""), client.ClassServer, 3, "500 Internal Server Error", nil},
		{"500 with a broken problem", answer(500, "{"), client.ClassServer, 3, "500 Internal Server Error", nil},
		{"503", problem(503, "overloaded", ""), client.ClassServer, 3, "503 overloaded", semel.ErrOverloaded},
		{"lines in a detail", problem(500, "x", "a\r\nlevel=ERROR\x1b[31m"), client.ClassServer, 3, "500 x: a  level=ERROR [31m", nil},
		{"long detail", problem(500, "x", strings.Repeat("é", 400)), client.ClassServer, 3, "500 x: " + strings.Repeat("é", 150) + "…", nil},
		{"rejected with 5xx", problem(503, "operation-rejected", "no"), "", 1, "rejected (): no", nil},
		{"failed for good", problem(500, "operation-failed", "gave up"), client.ClassFailed, 1, "the operation failed: gave up", nil},
		{"a login page", answer(200, "<html>"), client.ClassMalformed, 3, "200 with a body that is not JSON", nil},
		{"202 without operation", answer(202, "{}"), client.ClassMalformed, 3, "202 without the operation's id", nil},
		{"too much of an error", answer(502, strings.Repeat("x", 2000)), client.ClassServer, 3, "502 Bad Gateway", nil},
		{"too much", answer(200, `"`+strings.Repeat("x", 2000)+`"`), client.ClassMalformed, 1, "the answer has more than 1000 bytes", nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := &script{steps: []http.HandlerFunc{tt.step}}
				c := connect(t, s.ServeHTTP, client.Options{Tries: 3, Wait: atOnce, MaxAnswer: 1000})
				_, err := c.Call(t.Context(), "withdraw", nil, nil)
				if err == nil || strings.TrimPrefix(err.Error(), "withdraw: ") != tt.want {
					t.Errorf("error %v\n want %s", err, tt.want)
				}
				if tt.class != "" && !errors.Is(err, tt.class) || tt.is != nil && !errors.Is(err, tt.is) {
					t.Errorf("%v is not of class %s and %v", err, tt.class, tt.is)
				}
				if n := len(s.requests()); n != tt.tries {
					t.Errorf("%d requests, want %d", n, tt.tries)
				}
			})
		})
	}
}

func TestAuthorizeFails(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		errNoToken := errors.New("no token")
		c := connect(t, answer(200, "{}"), client.Options{Authorize: func(*http.Request) error { return errNoToken }})
		if _, err := c.Call(t.Context(), "withdraw", nil, nil); !errors.Is(err, errNoToken) || !errors.Is(err, client.ClassUnauthorized) {
			t.Errorf("error %v", err)
		}
	})
}

// listen serves each connection with f on a real socket and closes it.
func listen(t *testing.T, f func(*net.TCPConn)) (addr string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			f(conn.(*net.TCPConn))
			conn.Close()
		}
	}()
	t.Cleanup(func() { l.Close(); <-ended })
	return l.Addr().String()
}

// readRequest takes a request off the connection, so that closing it does not
// reset what is unread.
func readRequest(conn *net.TCPConn) { conn.Read(make([]byte, 64<<10)) }

func TestRealConnections(t *testing.T) {
	t.Parallel()
	closed := func() string {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		return l.Addr().String()
	}()
	secure := httptest.NewUnstartedServer(http.NotFoundHandler())
	secure.Config.ErrorLog = log.New(io.Discard, "", 0)
	secure.StartTLS()
	t.Cleanup(secure.Close)
	plain := httptest.NewServer(http.NotFoundHandler())
	t.Cleanup(plain.Close)
	stop := make(chan struct{})
	slow := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		select {
		case <-stop:
		case <-r.Context().Done():
		}
	}))
	t.Cleanup(slow.Close)
	t.Cleanup(func() { close(stop) })
	for _, tt := range []struct {
		name, base string
		class      client.Class
		want       string
	}{
		{"refused", "http://" + closed, client.ClassRefused, "dial tcp " + closed + ": connect: connection refused"},
		{"lost reply", "http://" + listen(t, readRequest), client.ClassReset, "connection closed before the answer"},
		{"reset", "http://" + listen(t, func(c *net.TCPConn) { readRequest(c); c.SetLinger(0) }), client.ClassReset, "read tcp ADDR: read: connection reset by peer"},
		{"answer cut short", "http://" + listen(t, func(c *net.TCPConn) {
			readRequest(c)
			io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{\"balance\":7")
		}), client.ClassReset, "connection closed within the answer"},
		{"not HTTP", "http://" + listen(t, func(c *net.TCPConn) { readRequest(c); io.WriteString(c, "SSH-2.0-test\r\n") }), client.ClassMalformed,
			`net/http: HTTP/1.x transport connection broken: malformed HTTP response "SSH-2.0-test"`},
		{"timeout", slow.URL, client.ClassTimeout, "no answer within 100ms"},
		{"certificate of a stranger", secure.URL, client.ClassTLS, "tls: failed to verify certificate: x509: certificate signed by unknown authority"},
		{"no TLS there", "https://" + strings.TrimPrefix(plain.URL, "http://"), client.ClassTLS, "http: server gave HTTP response to HTTPS client"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c, err := client.New(tt.base, &client.Options{Tries: 3, Wait: atOnce, TryTimeout: patience(tt.class)})
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			_, err = c.Call(t.Context(), "withdraw", nil, nil)
			var e *client.Error
			if !errors.As(err, &e) {
				t.Fatalf("error %T %v", err, err)
			}
			// One error, not an aggregate: nothing in the text changes from try to try.
			want := "withdraw: " + strings.ReplaceAll(tt.want, "ADDR", strings.TrimPrefix(tt.base, "http://"))
			if err.Error() != want || e.Class != tt.class {
				t.Errorf("%s: %v\n want %s", e.Class, err, want)
			}
			if final := tt.class == client.ClassTLS; final != (e.Count == 1) || !final && e.Count != 3 {
				t.Errorf("%d tries", e.Count)
			}
		})
	}
}

// patience: only the test of the timeout itself may run into it.
func patience(class client.Class) time.Duration {
	if class == client.ClassTimeout {
		return 100 * time.Millisecond
	}
	return 20 * time.Second
}

// TestTransportSendsAgainItself: requests with a key that meet a closed
// connection are repeated by net/http, unseen by the client, with the same key.
func TestTransportSendsAgainItself(t *testing.T) {
	t.Parallel()
	var n atomic.Int32
	keys := make(chan string, 8)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		keys <- r.Header.Get("Idempotency-Key")
		if n.Add(1) == 2 {
			panic(http.ErrAbortHandler)
		}
		answer(200, `{}`)(w, r)
	}))
	defer server.Close()
	c, err := client.New(server.URL, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Call(t.Context(), "withdraw", nil, nil); err != nil {
		t.Fatal(err)
	}
	<-keys
	reply, err := c.Call(t.Context(), "withdraw", nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	if first, second := <-keys, <-keys; first != second || first != `"`+reply.Key+`"` {
		t.Errorf("keys %s and %s, want both %q", first, second, reply.Key)
	}
}

func TestTLSWorks(t *testing.T) {
	t.Parallel()
	server := httptest.NewTLSServer(answer(200, `{"balance":1}`))
	defer server.Close()
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: server.Client().Transport.(*http.Transport).TLSClientConfig.RootCAs}}
	defer transport.CloseIdleConnections()
	c, err := client.New(server.URL, &client.Options{HTTP: &http.Client{Transport: transport}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Call(t.Context(), "withdraw", nil, nil); err != nil {
		t.Error(err)
	}
}

// TestProblemsOfTheGateway: every problem that the gateway can answer with
// comes back with its type and as the root package's error where it has one.
func TestProblemsOfTheGateway(t *testing.T) {
	t.Parallel()
	named := map[string]error{
		"idempotency-key-missing": semel.ErrInvalid, "idempotency-key-invalid": semel.ErrInvalid,
		"idempotency-key-reused": semel.ErrKeyReused, "idempotency-key-expired": semel.ErrKeyExpired,
		"malformed-body": semel.ErrInvalid, "invalid-command": semel.ErrInvalid,
		"unknown-command": semel.ErrUnknownCommand, "operation-not-found": semel.ErrNotFound,
		"overloaded": semel.ErrOverloaded, "unavailable": semel.ErrUnavailable, "outcome-unknown": semel.ErrOutcomeUnknown,
	}
	outcomes := map[string]bool{"operation-rejected": true, "operation-failed": true, "operation-canceled": true}
	for _, kind := range gateway.Problems() {
		synctest.Test(t, func(t *testing.T) {
			c := connect(t, problem(kind.Status, kind.Slug, ""), client.Options{Tries: 1})
			_, err := c.Call(t.Context(), "withdraw", nil, nil)
			var e *client.Error
			switch errors.As(err, &e); {
			case outcomes[kind.Slug]:
				if e != nil && e.Class != client.ClassFailed {
					t.Errorf("%s is an outcome, not %+v", kind.Slug, e)
				}
			case e == nil || e.Type != kind.Slug || e.Status != kind.Status:
				t.Errorf("%s is %+v", kind.Slug, e)
			case named[kind.Slug] != e.Err:
				t.Errorf("%s is %v, want %v", kind.Slug, e.Err, named[kind.Slug])
			}
		})
		delete(named, kind.Slug)
	}
	for slug := range named {
		t.Errorf("the gateway has no problem %s", slug)
	}
}
