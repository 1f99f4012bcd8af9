package client

import (
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"mime"
	"net/http"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/semel-dev/semel"
)

// A Transport makes an existing [http.Client] insist: put it into the client's
// Transport. Requests whose method is safe (GET, HEAD, OPTIONS, TRACE) are
// tried again by class of failure, as a [Client] does. Others are tried again
// only under an idempotency key, which comes from the request's header or from
// [WithKey]; without one they are sent as they are, once.
//
// What comes back is what came last: a response as it is, 503 included, or an
// error in which errors.Is and errors.As find every distinct failure.
//
// The zero value works. It must not be changed after first use.
type Transport struct {
	// Base sends the requests; nil means [http.DefaultTransport]. Time limits
	// for single tries are its own; http.Client's Timeout covers all of them.
	Base http.RoundTripper
	// NewKeys makes a key for every request that has an unsafe method and no
	// key. That saves it from what goes wrong on the way, and from nothing
	// else: code above that calls again, a user who clicks again, or a process
	// that starts again makes another request with another key, and the server
	// does both. Where that matters, make the key where the intention arises
	// and use [WithKey].
	NewKeys bool
	// MaxBody is how much of a request's body is kept in memory to be sent
	// again, where the request has no GetBody; 0 means 1 MiB. A longer one is
	// sent once.
	MaxBody int64

	// The following are as in [Options].
	Tries         int
	MaxElapsed    time.Duration
	Wait          semel.Backoff
	ByClass       map[Class]Policy
	MaxRetryAfter time.Duration
	Budget        *Budget
}

type keyInContext struct{}

// WithKey returns a context whose requests with unsafe methods carry the
// idempotency key, if they go through a [Transport] and their header has none.
// One intention, one key: do not use the context for two different requests.
func WithKey(ctx context.Context, key string) context.Context {
	return context.WithValue(ctx, keyInContext{}, key)
}

// RoundTrip implements [http.RoundTripper].
func (t *Transport) RoundTrip(r *http.Request) (*http.Response, error) {
	key, err := t.key(r)
	if err != nil {
		return nil, closeBody(r, err)
	}
	p := &passage{transport: t, request: r, key: key, rules: t.rules(), start: time.Now()}
	if p.repeatable = isSafe(r.Method) || key != ""; p.repeatable {
		if err := p.keepBody(); err != nil {
			return nil, closeBody(r, err)
		}
	}
	return p.insist()
}

func closeBody(r *http.Request, err error) error {
	if r.Body != nil {
		_ = r.Body.Close() // the other error is the one that counts
	}
	return err
}

func isSafe(method string) bool {
	return slices.Contains([]string{"", http.MethodGet, http.MethodHead, http.MethodOptions, http.MethodTrace}, method)
}

// key returns the key that the request carries or will; "" if none.
func (t *Transport) key(r *http.Request) (string, error) {
	if isSafe(r.Method) {
		return "", nil
	}
	if given := r.Header.Get("Idempotency-Key"); given != "" {
		return given, nil
	}
	if key, ok := r.Context().Value(keyInContext{}).(string); ok {
		if err := semel.CheckKey(key); err != nil {
			return "", fmt.Errorf("client: %w", err)
		}
		return quote(key), nil
	}
	if t.NewKeys {
		return quote(rand.Text()), nil
	}
	return "", nil
}

func (t *Transport) rules() *rules {
	r := &rules{tries: t.Tries, wait: t.Wait, byClass: t.ByClass, budget: t.Budget}
	if r.tries == 0 {
		r.tries = 8
	}
	if r.budget == nil {
		r.budget = DefaultBudget
	}
	return r
}

// A passage is one request on its way through a transport.
type passage struct {
	transport  *Transport
	request    *http.Request
	key        string // as the header has it
	rules      *rules
	start      time.Time
	repeatable bool
	first      io.ReadCloser                 // the body of the first try, if not the request's
	again      func() (io.ReadCloser, error) // the body of a later one; nil if there is none
}

// keepBody sees to it that the body can be sent again, if it is short enough.
func (p *passage) keepBody() error {
	r := p.request
	switch {
	case r.Body == nil || r.Body == http.NoBody:
		return nil
	case r.GetBody != nil:
		p.again = r.GetBody
		return nil
	}
	most := p.transport.MaxBody
	if most == 0 {
		most = 1 << 20
	}
	head, err := io.ReadAll(io.LimitReader(r.Body, most+1))
	if err != nil {
		return fmt.Errorf("client: reading the request's body: %w", err)
	}
	if int64(len(head)) > most {
		p.repeatable = false
		p.first = readCloser{io.MultiReader(bytes.NewReader(head), r.Body), r.Body}
		return nil
	}
	p.again = func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(head)), nil }
	p.first = readCloser{bytes.NewReader(head), r.Body}
	return nil
}

type readCloser struct {
	io.Reader
	io.Closer
}

func (p *passage) insist() (*http.Response, error) {
	failed := p.rules.begin()
	for {
		response, err := p.try(failed.tries)
		e := p.judge(response, err)
		if e == nil || !p.repeatable {
			return response, err
		}
		ctx := p.request.Context()
		wait, again := failed.add(e)
		if !again || p.tooLate(ctx, wait) {
			return response, p.result(failed, e, err)
		}
		if used := failed.spend(); used != nil {
			if err != nil {
				failed.failed.add(p.sign(used))
			}
			return response, p.result(failed, e, err)
		}
		if response != nil {
			// Read to its end, within reason, so that the connection is used again.
			_, _ = io.CopyN(io.Discard, response.Body, 64<<10)
			_ = response.Body.Close()
		}
		if !pause(ctx, wait) {
			ended := &Error{Class: ClassCanceled, Message: "canceled by the caller: " + clean(ctx.Err().Error()), Err: ctx.Err()}
			failed.failed.add(p.sign(ended))
			return nil, failed.end(ClassCanceled)
		}
	}
}

// try sends the request once. The request itself must not be changed, says the
// interface.
func (p *passage) try(before int) (*http.Response, error) {
	once := p.request.Clone(p.request.Context())
	if p.first != nil {
		once.Body = p.first
	}
	if p.key != "" {
		once.Header.Set("Idempotency-Key", p.key)
	}
	if before > 0 {
		once.Header.Set("X-Retry-Count", strconv.Itoa(before))
		if p.again != nil {
			body, err := p.again()
			if err != nil {
				return nil, fmt.Errorf("client: the request's body cannot be sent again: %w", err)
			}
			once.Body = body
		}
	}
	base := p.transport.Base
	if base == nil {
		base = http.DefaultTransport
	}
	return base.RoundTrip(once)
}

// judge says what failed, if anything did.
func (p *passage) judge(response *http.Response, err error) *Error {
	var e *Error
	switch {
	case err != nil && p.request.Context().Err() != nil:
		e = &Error{Class: ClassCanceled, Message: "canceled by the caller: " + clean(p.request.Context().Err().Error()), Err: err}
	case err != nil:
		e = transportError(err)
		e.Err = err // with all that is around it
	case response.StatusCode < 400:
		return nil
	default:
		most := p.transport.MaxRetryAfter
		if most == 0 {
			most = time.Minute
		}
		e = &Error{Class: statusClass(response.StatusCode), Status: response.StatusCode, after: retryAfter(response.Header, most),
			Message: fmt.Sprintf("%d %s", response.StatusCode, http.StatusText(response.StatusCode))}
		e.final = e.Class == ClassServer && isOutcome(response)
	}
	return p.sign(e)
}

// isOutcome reports whether a 5xx is the gateway's word that an operation has
// failed: it would be repeated as often as the request is. The body can still
// be read.
func isOutcome(response *http.Response) bool {
	if kind, _, _ := mime.ParseMediaType(response.Header.Get("Content-Type")); kind != "application/problem+json" {
		return false
	}
	head, err := io.ReadAll(io.LimitReader(response.Body, 64<<10))
	rest := io.Reader(response.Body)
	if err != nil {
		rest = failing{err}
	}
	response.Body = readCloser{io.MultiReader(bytes.NewReader(head), rest), response.Body}
	a := answer{header: response.Header, body: head}
	switch path.Base(a.problem().Type) {
	case "operation-failed", "operation-canceled", "operation-rejected":
		return true
	}
	return false
}

// failing returns an error to its reader that was met before.
type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }

func (p *passage) sign(e *Error) *Error {
	e.Command = p.request.Method + " " + p.request.URL.Path
	e.Key = p.key
	if n := len(p.key); n > 1 && p.key[0] == '"' {
		e.Key = strings.NewReplacer(`\\`, `\`, `\"`, `"`).Replace(p.key[1 : n-1])
	}
	return e
}

func (p *passage) tooLate(ctx context.Context, wait time.Duration) bool {
	at := time.Now().Add(wait)
	if most := p.transport.MaxElapsed; most > 0 && at.Sub(p.start) > most {
		return true
	}
	deadline, ok := ctx.Deadline()
	return ok && at.After(deadline)
}

// result is the error of the last try, alone if all were the same.
func (p *passage) result(failed *series, last *Error, err error) error {
	if err == nil || len(failed.failed.distinct) == 1 {
		return err
	}
	return failed.end(last.Class)
}
