package client

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/semel-dev/semel"
)

// Options are a client's choices; the zero value is fit for production.
type Options struct {
	// HTTP carries the requests; nil means a transport of the client's own.
	// Its redirect policy is not used: no redirect is followed, because what
	// is asked elsewhere is not known to be done once. Its Timeout, if shorter,
	// stands for TryTimeout.
	HTTP *http.Client
	// Authorize adds credentials to a request. It is called for every try, so
	// that a token may be renewed between two; it is bound by the request's
	// context. An error from it ends the call.
	Authorize func(*http.Request) error

	// Tries is the most tries in a row that may fail; 0 means 8. An operation
	// that is accepted but not done is not a failure, however long it takes.
	Tries int
	// TryTimeout bounds one try, the server's waiting included; 0 means 30 s.
	TryTimeout time.Duration
	// MaxElapsed bounds the whole call; 0 means that only ctx does.
	MaxElapsed time.Duration
	// Poll is how long the server is asked to wait for the outcome before it
	// answers that there is none yet; whole seconds, less than TryTimeout.
	// 0 means two thirds of TryTimeout.
	Poll time.Duration

	// Wait is the wait after a failed try, for classes that ByClass does not
	// name. The server's Retry-After is added to it: nobody comes earlier than
	// told, nor everybody at once.
	Wait semel.Backoff
	// ByClass has policies for single classes. A class that is final by itself
	// is tried again if it is named here; ClassCanceled and ClassFailed never.
	ByClass map[Class]Policy
	// Budget bounds the retries of all who share it; nil means [DefaultBudget].
	Budget *Budget
	// MaxRetryAfter is the most of a Retry-After that is honoured, so that a
	// wrong date cannot stop a caller for a year; 0 means one minute.
	MaxRetryAfter time.Duration

	// Pending is where intentions are kept, so that none is lost if the process
	// ends; nil means in memory. The client does not close it.
	Pending *PendingFile
	// Senders is the most requests that [Client.Run] has under way; 0 means 8.
	// As many more may be waiting for outcomes.
	Senders int

	// MaxAnswer is the most bytes of an answer's body; 0 means 1 MiB.
	MaxAnswer int64
}

// A Client sends commands to one gateway. Its methods may be called
// concurrently; a call that waits holds up no other.
type Client struct {
	base string // without a trailing slash
	http http.Client
	own  *http.Transport // to be closed; nil if the caller brought one

	options Options
	rules   rules
	queue   *queue
	// traceable says that the transport tells when it has a connection.
	traceable bool
}

// New returns a client of the gateway whose root is at base, such as
// "https://bank.example/api".
func New(base string, o *Options) (*Client, error) {
	u, err := url.Parse(base)
	if err != nil {
		return nil, fmt.Errorf("client: base URL: %w", errors.Unwrap(err)) // without its text, which may hold a password
	}
	if u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.RawQuery != "" || u.Fragment != "" {
		return nil, fmt.Errorf("client: base URL %q: want http:// or https://, a host, and no query", u.Redacted())
	}
	c := &Client{base: strings.TrimRight(base, "/")}
	if o != nil {
		c.options = *o
	}
	if h := c.options.HTTP; h != nil {
		c.http = *h
		if h.Timeout > 0 && (c.options.TryTimeout == 0 || h.Timeout < c.options.TryTimeout) {
			c.options.TryTimeout = h.Timeout
		}
		c.http.Timeout = 0 // kept by the try's context, whose error has one text
	}
	if err := c.options.complete(); err != nil {
		return nil, err
	}
	c.rules = rules{tries: c.options.Tries, wait: c.options.Wait, byClass: c.options.ByClass, budget: c.options.Budget}
	if usual, ok := http.DefaultTransport.(*http.Transport); ok && c.options.HTTP == nil {
		// The default transport keeps two idle connections a host, and would
		// dial anew for nearly every one of many concurrent callers.
		c.own = usual.Clone()
		c.own.MaxIdleConnsPerHost = c.own.MaxIdleConns
		c.http.Transport = c.own
	}
	_, c.traceable = c.http.Transport.(*http.Transport)
	if c.queue, err = newQueue(c.options.Pending, c.place(), &c.options); err != nil {
		return nil, err
	}
	c.http.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return c, nil
}

func (o *Options) complete() error {
	if o.Tries < 0 || o.TryTimeout < 0 || o.MaxElapsed < 0 || o.Poll < 0 || o.MaxRetryAfter < 0 || o.MaxAnswer < 0 || o.Senders < 0 {
		return fmt.Errorf("client: an option is negative: %d tries, try timeout %v, max elapsed %v, poll %v, max Retry-After %v, max answer %d, senders %d",
			o.Tries, o.TryTimeout, o.MaxElapsed, o.Poll, o.MaxRetryAfter, o.MaxAnswer, o.Senders)
	}
	if o.Tries == 0 {
		o.Tries = 8
	}
	if o.TryTimeout == 0 {
		o.TryTimeout = 30 * time.Second
	}
	if o.Poll == 0 {
		o.Poll = o.TryTimeout * 2 / 3
	}
	if o.Poll >= o.TryTimeout {
		return fmt.Errorf("client: poll %v is not less than the try timeout %v, which would pass first", o.Poll, o.TryTimeout)
	}
	if o.MaxRetryAfter == 0 {
		o.MaxRetryAfter = time.Minute
	}
	if o.Senders == 0 {
		o.Senders = 8
	}
	if o.MaxAnswer == 0 {
		o.MaxAnswer = 1 << 20
	}
	if o.Budget == nil {
		o.Budget = DefaultBudget
	}
	return nil
}

// place is the base URL as it may be written to a file: without a password.
func (c *Client) place() string {
	u, err := url.Parse(c.base)
	if err != nil {
		return c.base // New has parsed it before
	}
	u.User = nil
	return u.String()
}

// Close closes idle connections, unless they are those of [Options.HTTP].
func (c *Client) Close() {
	if c.own != nil {
		c.own.CloseIdleConnections()
	}
}

// Call sends a command under a key of its own, waits for the outcome, and
// decodes the result into result unless that is nil. The body is encoded as
// for [Request]. Every call is a new intention: to repeat one that ended in an
// error, use [Client.Send] with the key that the error carries.
//
// If the command took effect but its result does not fit into result, both the
// reply and an error of [ClassMalformed] are returned.
func (c *Client) Call(ctx context.Context, command string, body, result any) (*Reply, error) {
	reply, err := c.Send(ctx, Request{Command: command, Body: body})
	if err != nil || result == nil {
		return reply, err
	}
	return reply, reply.Decode(result)
}

// Send sends one request until it is answered, and, unless it is
// [Request.Async], waits until the operation is done. The reply is then the
// outcome; a business no is a [*Rejected]. Other errors are an [*Error], or
// [*Errors] where tries failed for different reasons. When ctx ends, Send
// returns at once, with what had failed before.
//
// With a pending store the intention is on disk before the first byte is sent.
// If Send returns an outcome, the intention is forgotten; if it gives up or ctx
// ends, the intention is kept, the error says so, and [Client.Run] sends it on.
func (c *Client) Send(ctx context.Context, r Request) (*Reply, error) {
	if c.queue.file != nil {
		return c.sendKept(ctx, r)
	}
	s, q, err := c.prepare(ctx, r)
	if err != nil {
		return nil, err
	}
	s.async = r.Async
	if err := c.perform(ctx, s, q); err != nil {
		return nil, err
	}
	return &s.reply, nil
}

// perform is a whole call: the series of tries, and the wait for the outcome.
func (c *Client) perform(ctx context.Context, s *sending, q question) error {
	var cancel context.CancelFunc
	if c.options.MaxElapsed > 0 {
		ctx, cancel = context.WithTimeout(ctx, c.options.MaxElapsed)
		defer cancel()
	}
	if !s.deadline.IsZero() {
		ctx, cancel = context.WithDeadline(ctx, s.deadline)
		defer cancel()
	}
	if err := s.insist(ctx, q, s.readReply); err != nil {
		return err
	}
	if s.reply.Done || s.async {
		return nil
	}
	return s.await(ctx)
}
