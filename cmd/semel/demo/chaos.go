package demo

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync"
	"time"
)

// Switches are the faults between the visitor and both accounts. The first
// send of each intention meets them; a retry gets through, as on a network
// that is bad for a while.
type Switches struct {
	// Duplicate sends the same request so many times at once; 0 and 1 do not.
	Duplicate int `json:"duplicate"`
	// LoseRequest closes the connection before the request is passed on.
	LoseRequest bool `json:"loseRequest"`
	// LoseReply passes the request on, waits for its answer and closes the
	// connection instead of giving it.
	LoseReply bool `json:"loseReply"`
	// DelayMs holds every request up.
	DelayMs int `json:"delayMs"`
}

const (
	maxDuplicate = 20
	maxDelayMs   = 10_000
	maxBody      = 64 << 10
	// patience with a side that does not answer; longer than any wait there.
	patience = 60 * time.Second
)

func (s Switches) check() error {
	if s.Duplicate < 0 || s.Duplicate > maxDuplicate {
		return fmt.Errorf("duplicate is %d; it takes 0 to %d", s.Duplicate, maxDuplicate)
	}
	if s.DelayMs < 0 || s.DelayMs > maxDelayMs {
		return fmt.Errorf("delayMs is %d; it takes 0 to %d", s.DelayMs, maxDelayMs)
	}
	return nil
}

// chaos stands between the visitor and one account: an HTTP proxy that does to
// commands what networks do, and tells the tally what it saw.
type chaos struct {
	prefix string                // of the side's URLs on the front
	target func() (string, bool) // where the side is, if it is up
	tally  *tally
	faults *faults
	client *http.Client
	reads  *httputil.ReverseProxy
}

// faults are the switches, shared by both sides.
type faults struct {
	mu       sync.Mutex
	switches Switches
}

func (f *faults) set(s Switches) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.switches = s
}

func (f *faults) now() Switches {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.switches
}

func newChaos(prefix string, target func() (string, bool), t *tally, f *faults) *chaos {
	c := &chaos{prefix: prefix, target: target, tally: t, faults: f}
	// A connection that is kept may be found dead at the next request, and the
	// transport would then send a second time: every send here is counted.
	transport := &http.Transport{DisableKeepAlives: true, DialContext: (&net.Dialer{Timeout: 2 * time.Second}).DialContext}
	c.client = &http.Client{Transport: transport, Timeout: patience}
	c.reads = &httputil.ReverseProxy{
		Transport:     transport,
		FlushInterval: -1, // streams of events pass at once
		Rewrite: func(p *httputil.ProxyRequest) {
			base, _ := c.target()
			to, err := url.Parse(base)
			if err != nil {
				return // the transport then refuses a URL without a host
			}
			p.Out.URL.Path = strings.TrimPrefix(p.Out.URL.Path, c.prefix)
			p.Out.URL.RawPath = strings.TrimPrefix(p.Out.URL.RawPath, c.prefix)
			p.SetURL(to)
		},
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, err error) {
			http.Error(w, err.Error(), http.StatusBadGateway)
		},
	}
	return c
}

func (c *chaos) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodPut && r.Method != http.MethodPost {
		c.reads.ServeHTTP(w, r)
		return
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if err != nil {
		http.Error(w, "the body is too large or was cut off", http.StatusRequestEntityTooLarge)
		return
	}
	what := intentionOf(strings.TrimPrefix(r.URL.Path, c.prefix), r.Header.Get("Authorization"), body)
	try := c.tally.arrived(what)
	s := c.faults.now()
	if s.DelayMs > 0 && !hold(r.Context(), time.Duration(s.DelayMs)*time.Millisecond) {
		return
	}
	if try > 1 {
		s = Switches{}
	}
	if s.LoseRequest {
		c.tally.requestLost(what)
		panic(http.ErrAbortHandler) // closes the connection without an answer
	}
	answer, err := c.send(r, what, body, max(1, s.Duplicate))
	switch {
	case errors.As(err, new(*net.OpError)) && refused(err):
		c.tally.note(what, "refused: the server is down")
		http.Error(w, "the server is down", http.StatusBadGateway)
	case err != nil:
		c.tally.note(what, "connection lost: the server broke off")
		panic(http.ErrAbortHandler)
	case s.LoseReply:
		c.tally.replyLost(what, answer.status)
		panic(http.ErrAbortHandler)
	default:
		answer.write(w)
	}
}

// send passes the request on n times at once and returns one answer.
func (c *chaos) send(r *http.Request, what intention, body []byte, n int) (*answer, error) {
	if n > 1 {
		c.tally.note(what, fmt.Sprintf("doubled on the way: sent %d times at once", n))
	}
	// Copies are not called back when the sender goes: they are on their way.
	ctx := context.WithoutCancel(r.Context())
	answers, errs := make([]*answer, n), make([]error, n)
	var all sync.WaitGroup
	for i := range n {
		all.Go(func() { answers[i], errs[i] = c.once(ctx, r, what, body) })
	}
	all.Wait()
	for i := range n {
		if errs[i] == nil {
			return answers[i], nil
		}
	}
	return nil, errs[0]
}

func (c *chaos) once(ctx context.Context, r *http.Request, what intention, body []byte) (*answer, error) {
	base, up := c.target()
	if !up {
		return nil, &net.OpError{Op: "dial", Net: "tcp", Err: errDown}
	}
	to := base + strings.TrimPrefix(r.URL.EscapedPath(), c.prefix)
	if r.URL.RawQuery != "" {
		to += "?" + r.URL.RawQuery
	}
	out, err := http.NewRequestWithContext(ctx, r.Method, to, io.NopCloser(bytes.NewReader(body)))
	if err != nil {
		return nil, err
	}
	out.ContentLength = int64(len(body))
	out.Header = r.Header.Clone()
	c.tally.sent(what)
	in, err := c.client.Do(out)
	if err != nil {
		return nil, err
	}
	defer in.Body.Close()
	a := &answer{status: in.StatusCode, header: in.Header}
	if a.body, err = io.ReadAll(in.Body); err != nil {
		return nil, err
	}
	c.tally.answered(what, a.status, in.Header.Get("Idempotent-Replayed") == "true")
	return a, nil
}

var errDown = errors.New("server is down")

// refused reports whether the server never got the request.
func refused(err error) bool {
	var op *net.OpError
	return errors.As(err, &op) && op.Op == "dial"
}

type answer struct {
	status int
	header http.Header
	body   []byte
}

func (a *answer) write(w http.ResponseWriter) {
	for name, values := range a.header {
		if name != "Connection" && name != "Date" {
			w.Header()[name] = values
		}
	}
	w.WriteHeader(a.status)
	_, _ = w.Write(a.body) // an error means that the reader has gone
}

// intentionOf reads off a request whose and which command it is. Requests
// that are none get an intention without a key, which is not kept.
func intentionOf(path, authorization string, body []byte) intention {
	what := intention{principal: strings.TrimPrefix(authorization, "Bearer ")}
	parts := strings.Split(strings.Trim(path, "/"), "/")
	switch {
	case len(parts) == 4 && parts[0] == "accounts" && parts[2] == "withdrawals":
		what.name, what.account, what.key = "withdraw", parts[1], parts[3]
	case len(parts) == 4 && parts[0] == "accounts" && parts[2] == "deposits":
		what.name, what.account, what.key = "deposit", parts[1], parts[3]
	}
	var amount struct {
		Cents int64 `json:"cents"`
	}
	if json.Unmarshal(body, &amount) == nil {
		what.cents = amount.Cents
	}
	return what
}

// hold waits and reports whether the sender is still there.
func hold(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
