package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"path"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/semel-dev/semel"
)

// A sending is the life of one Send.
type sending struct {
	client *Client
	caller context.Context // as the caller gave it, without our own deadlines
	reply  Reply
	id     semel.ID // of the operation, once it is accepted
	// reached is set when a request may have got to the server; kept only for
	// what is in a pending store.
	reached  atomic.Bool
	async    bool          // the outcome is not waited for
	deadline time.Time     // the request's; zero if it has none
	after    time.Duration // the last Retry-After of an answer that was no failure
}

// An answer is an HTTP response that was read to its end.
type answer struct {
	status int
	header http.Header
	body   []byte
	after  time.Duration
}

// insist asks until read makes sense of an answer, the tries are used up, or
// ctx ends.
func (s *sending) insist(ctx context.Context, q question, read func(*answer) error) error {
	failed := s.client.rules.begin()
	for {
		if failed.tries > 0 {
			q.header.Set("X-Retry-Count", strconv.Itoa(failed.tries)) // kept with the operation, for who wonders why it came late
		}
		err := s.try(ctx, q, read)
		if err == nil {
			return nil
		}
		var e *Error
		if !errors.As(err, &e) || e.Class == ClassFailed {
			return err // an outcome, whatever had failed before
		}
		wait, again := failed.add(s.sign(e))
		if deadline, ok := ctx.Deadline(); ok && time.Now().Add(wait).After(deadline) {
			again = false // the next try would come too late
		}
		if !again {
			return failed.end(e.Class)
		}
		if used := failed.spend(); used != nil {
			failed.failed.add(s.sign(used))
			return failed.end(used.Class)
		}
		if !pause(ctx, wait) {
			e = s.ended()
			failed.failed.add(s.sign(e))
			return failed.end(e.Class)
		}
	}
}

// sign completes an error with what it is about.
func (s *sending) sign(e *Error) *Error {
	e.Command, e.Key, e.Operation = s.reply.command, s.reply.Key, s.reply.Operation
	return e
}

// try asks once. The whole exchange, body included, has to be over within the
// try's timeout.
func (s *sending) try(ctx context.Context, q question, read func(*answer) error) error {
	if ctx.Err() != nil {
		return s.ended()
	}
	once, cancel := context.WithTimeout(ctx, s.client.options.TryTimeout)
	defer cancel()
	r, err := q.request(once)
	if err != nil {
		return &Error{Class: ClassInvalid, Message: steady(err), Err: err}
	}
	if s.client.options.Authorize != nil {
		if err := s.client.options.Authorize(r); err != nil {
			if ctx.Err() != nil {
				return s.ended()
			}
			return &Error{Class: ClassUnauthorized, Message: "authorizing: " + steady(err), Err: err}
		}
	}
	s.reply.Tries++
	a, err := s.client.exchange(r)
	var known *Error
	switch {
	case err == nil:
		if err := s.answerError(a); err != nil {
			return err
		}
		return read(a)
	case ctx.Err() != nil:
		return s.ended()
	case once.Err() != nil:
		return &Error{Class: ClassTimeout, Message: fmt.Sprintf("no answer within %v", s.client.options.TryTimeout), Err: context.DeadlineExceeded}
	case errors.As(err, &known):
		return known
	}
	return transportError(err)
}

// exchange sends one request and reads the answer to its end, so that the
// connection can be used again.
func (c *Client) exchange(r *http.Request) (*answer, error) {
	response, err := c.http.Do(r)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(io.LimitReader(response.Body, c.options.MaxAnswer+1))
	if err != nil {
		return nil, err
	}
	switch large := int64(len(body)) > c.options.MaxAnswer; {
	case large && response.StatusCode >= 300:
		body = nil // the status says enough
	case large:
		// A repeat would be answered with the same bytes.
		return nil, &Error{Class: ClassMalformed, Status: response.StatusCode, final: true,
			Message: fmt.Sprintf("the answer has more than %d bytes", c.options.MaxAnswer)}
	}
	return &answer{
		status: response.StatusCode,
		header: response.Header,
		body:   body,
		after:  retryAfter(response.Header, c.options.MaxRetryAfter),
	}, nil
}

// ended says why the call's context ended: by the caller's will, or because
// MaxElapsed passed.
func (s *sending) ended() *Error {
	err := s.caller.Err()
	if err == nil && !s.deadline.IsZero() && !time.Now().Before(s.deadline) {
		late := pastDeadline(s.reply.Tries > 0)
		late.final = true
		return late
	}
	if err == nil {
		return &Error{Class: ClassTimeout, Message: fmt.Sprintf("no outcome within %v", s.client.options.MaxElapsed),
			Err: context.DeadlineExceeded, final: true}
	}
	if cause := context.Cause(s.caller); cause != err {
		err = fmt.Errorf("%w: %w", err, cause)
	}
	return &Error{Class: ClassCanceled, Message: "canceled by the caller: " + clean(err.Error()), Err: err}
}

// readReply makes sense of a 2xx to the command itself.
func (s *sending) readReply(a *answer) error {
	if len(a.body) > 0 && !json.Valid(a.body) {
		// A proxy's login page with status 200 must not pass for an outcome.
		return &Error{Class: ClassMalformed, Status: a.status, Message: fmt.Sprintf("%d with a body that is not JSON", a.status), after: a.after}
	}
	id, named := operationID(a)
	if a.status == http.StatusAccepted && !named {
		return &Error{Class: ClassMalformed, Status: a.status, Message: "202 without the operation's id", after: a.after}
	}
	s.reply.Status, s.reply.Header = a.status, a.header
	s.reply.Resource = a.header.Get("X-Resource")
	s.reply.Replayed = a.header.Get("Idempotent-Replayed") == "true"
	if named {
		s.id, s.reply.Operation = id, id.String()
	}
	if a.status == http.StatusAccepted {
		s.after = a.after
		return nil
	}
	s.reply.Done, s.reply.Body = true, a.body
	return nil
}

// operationID finds the operation's id. Only the id is taken, not the address:
// credentials are sent nowhere but to the base URL.
func operationID(a *answer) (semel.ID, bool) {
	names := []string{"X-Operation", "Operation-Location"}
	if a.status == http.StatusAccepted {
		names = append(names, "Location") // otherwise that is a resource's
	}
	for _, name := range names {
		if id, err := semel.ParseID(path.Base(a.header.Get(name))); err == nil {
			return id, true
		}
	}
	return semel.ID{}, false
}

// pollGap keeps polls apart where the server does not hold them.
const pollGap = time.Second

// await polls the accepted operation until it is done.
func (s *sending) await(ctx context.Context) error {
	for {
		if !pause(ctx, s.after) {
			return s.sign(s.ended())
		}
		asked := time.Now()
		if err := s.insist(ctx, s.client.poll(s.id), s.readOperation); err != nil {
			return err
		}
		if s.reply.Done {
			return nil
		}
		s.after = max(s.after, pollGap-time.Since(asked))
	}
}

// operation is the part of the operation resource that a caller waits for.
type operation struct {
	ID       string          `json:"id"`
	State    semel.State     `json:"state"`
	Done     bool            `json:"done"`
	Resource string          `json:"resource"`
	Result   json.RawMessage `json:"result"`
	Error    struct {
		Code   string `json:"code"`
		Reason string `json:"reason"`
	} `json:"error"`
}

// readOperation makes sense of a 2xx to a poll.
func (s *sending) readOperation(a *answer) error {
	var op operation
	if err := json.Unmarshal(a.body, &op); err != nil || op.ID != s.reply.Operation {
		return &Error{Class: ClassMalformed, Status: a.status, Message: fmt.Sprintf("%d without the operation", a.status), Err: err, after: a.after}
	}
	if op.Resource != "" {
		s.reply.Resource = op.Resource
	}
	if !op.Done {
		s.after = a.after
		return nil
	}
	switch op.State {
	case semel.Completed:
		s.reply.Status, s.reply.Header = a.status, a.header
		s.reply.Done, s.reply.Body = true, op.Result
		return nil
	case semel.Rejected:
		return s.rejected(semel.Rejection{Code: op.Error.Code, Reason: op.Error.Reason})
	case semel.Failed, semel.Canceled:
		return s.failed(op.State, op.Error.Code, op.Error.Reason)
	}
	return &Error{Class: ClassMalformed, Status: a.status, Message: fmt.Sprintf("the operation is done in state %q", clean(string(op.State))), final: true}
}

func (s *sending) rejected(r semel.Rejection) error {
	return &Rejected{Rejection: r, Operation: s.reply.Operation, Key: s.reply.Key}
}

func (s *sending) failed(state semel.State, code, reason string) error {
	message := "the operation failed"
	if state == semel.Canceled {
		message = "the operation was canceled"
	}
	if code != "" {
		message += " (" + clean(code) + ")"
	}
	if reason != "" {
		message += ": " + clean(reason)
	}
	return s.sign(&Error{Class: ClassFailed, Message: message, Count: 1})
}

// pause waits, and reports false if ctx ended first.
func pause(ctx context.Context, d time.Duration) bool {
	if d <= 0 {
		return ctx.Err() == nil
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
