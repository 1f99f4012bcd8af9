package webhook

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/semel-dev/semel"
)

// A delivery is the command that brings one outcome to one endpoint. It holds
// neither URL nor secret: they are asked for at every attempt.
type delivery struct {
	Tenant    string `json:"tenant,omitempty"`
	Principal string `json:"principal"`
	Endpoint  string `json:"endpoint"`
	Operation string `json:"operation"`
	Event     string `json:"event"`
	Lane      int    `json:"lane"`
	// Body is text, because the engine brings JSON into a form of its own and
	// the receiver shall get the result's bytes as they are.
	Body string `json:"body"`
}

// Subject makes the deliveries of a lane wait for each other. The tenant of
// the operation is the endpoint's, so the lane's number is enough.
func (d delivery) Subject() string { return "webhook/lane/" + strconv.Itoa(d.Lane) }

// A receipt is the result of a delivery.
type receipt struct {
	Status int `json:"status"`
}

// drained is the most that is read of an answer's body, so that its connection
// can be used again.
const drained = 64 << 10

func (s *Sender[Tx]) deliver(ctx context.Context, u *semel.Unit[Tx], d delivery) (receipt, error) {
	op := u.Operation()
	if op.Principal != Principal {
		return receipt{}, semel.Reject("not_a_command", "%s is not sent by callers", Command)
	}
	endpoint, err := s.endpoint(ctx, d)
	if err != nil {
		return receipt{}, err
	}
	status, err := s.post(ctx, endpoint, &op, d.Body)
	if status == http.StatusGone && s.options.Gone != nil {
		if err := s.options.Gone(ctx, d.Tenant, d.Principal, d.Endpoint); err != nil {
			s.log.WarnContext(ctx, "endpoint is gone and stays", slog.String("endpoint", d.Endpoint), slog.Any("error", err))
		}
	}
	if err != nil && time.Since(op.AcceptedAt) > s.options.Patience {
		err = &failedError{err: fmt.Errorf("not tried again after %s: %w", s.options.Patience, err), class: semel.ClassTerminal}
	}
	return receipt{status}, err
}

func (s *Sender[Tx]) endpoint(ctx context.Context, d delivery) (Endpoint, error) {
	endpoints, err := s.options.Endpoints(ctx, d.Tenant, d.Principal)
	if err != nil {
		return Endpoint{}, fmt.Errorf("asking for endpoint %q: %w", d.Endpoint, err)
	}
	i := slices.IndexFunc(endpoints, func(e Endpoint) bool { return e.ID == d.Endpoint })
	if i < 0 {
		return Endpoint{}, semel.Reject("endpoint_removed", "endpoint %q is no longer there", d.Endpoint)
	}
	return endpoints[i], nil
}

// post makes one attempt. The status is 0 if there was no answer.
func (s *Sender[Tx]) post(ctx context.Context, e Endpoint, op *semel.Operation, body string) (status int, err error) {
	ctx, cancel := context.WithTimeout(ctx, s.options.Timeout)
	defer cancel()
	target, err := s.options.target(e.URL)
	if err != nil {
		return 0, &failedError{err: fmt.Errorf("endpoint %q: %w", e.ID, err), class: semel.ClassTerminal}
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, target.String(), strings.NewReader(body))
	if err != nil {
		return 0, &failedError{err: fmt.Errorf("endpoint %q: no request can be made for the URL", e.ID), class: semel.ClassTerminal}
	}
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("User-Agent", "semel-webhook")
	keys, err := decodeSecrets(e.Secrets)
	if err != nil {
		return 0, &failedError{err: fmt.Errorf("endpoint %q: %w", e.ID, err), class: semel.ClassTerminal}
	}
	sign(r.Header, "msg_"+op.ID.String(), time.Now(), body, keys)
	response, err := s.client.Do(r)
	if err != nil {
		return 0, unreached(e.ID, err)
	}
	defer response.Body.Close()
	// What the receiver has said counts, whatever becomes of the rest.
	_, _ = io.CopyN(io.Discard, response.Body, drained)
	return response.StatusCode, answered(e.ID, response)
}

// unreached explains why there is no answer. It leaves out the URL, which
// [http.Client] puts in front.
func unreached(endpoint string, err error) error {
	var wrapped *url.Error
	if errors.As(err, &wrapped) {
		err = wrapped.Err
	}
	failed := &failedError{err: fmt.Errorf("endpoint %q gave no answer: %w", endpoint, err)}
	if errors.Is(err, ErrAddress) {
		failed.class = semel.ClassTerminal // waiting does not make it public
	}
	return failed
}

// answered returns what an answer that is no success means.
func answered(endpoint string, r *http.Response) error {
	switch {
	case r.StatusCode >= 200 && r.StatusCode < 300:
		return nil
	case r.StatusCode == http.StatusGone:
		return &failedError{err: fmt.Errorf("endpoint %q answered 410: it wants no more", endpoint), class: semel.ClassTerminal}
	case r.StatusCode >= 300 && r.StatusCode < 400:
		return &failedError{err: fmt.Errorf("endpoint %q answered %d; redirects are not followed", endpoint, r.StatusCode)}
	}
	failed := &failedError{err: fmt.Errorf("endpoint %q answered %d", endpoint, r.StatusCode)}
	if wait, ok := retryAfter(r.Header.Get("Retry-After"), time.Now()); ok {
		failed.class = waitClass(wait)
	}
	return failed
}

// A failedError is an attempt that failed, of a class that overrides what the
// user's policy would say, if it has one.
type failedError struct {
	err   error
	class semel.Class
}

func (e *failedError) Error() string { return e.err.Error() }
func (e *failedError) Unwrap() error { return e.err }

// classifyBefore returns a [semel.Retry.Classify] that looks for our own
// classes first.
func classifyBefore(then func(error) semel.Class) func(error) semel.Class {
	return func(err error) semel.Class {
		var failed *failedError
		switch {
		case errors.As(err, &failed) && failed.class != "":
			return failed.class
		case then != nil:
			return then(err)
		case errors.Is(err, context.DeadlineExceeded):
			return semel.ClassTimeout
		}
		return semel.ClassTransient
	}
}

// steps are the waits that a Retry-After is rounded up to. A policy has one
// wait for each class of error, so each step is a class.
var steps = []time.Duration{
	time.Second, 2 * time.Second, 5 * time.Second, 10 * time.Second, 20 * time.Second, 30 * time.Second,
	time.Minute, 2 * time.Minute, 5 * time.Minute, 10 * time.Minute, 15 * time.Minute, 20 * time.Minute, 30 * time.Minute,
	time.Hour, 2 * time.Hour, 3 * time.Hour, 6 * time.Hour, 12 * time.Hour, 24 * time.Hour,
}

func stepClass(step time.Duration) semel.Class { return semel.Class("retry-after-" + step.String()) }

func waitClass(wait time.Duration) semel.Class {
	i, _ := slices.BinarySearch(steps, wait)
	return stepClass(steps[min(i, len(steps)-1)])
}

func waits() map[semel.Class]semel.Backoff {
	by := make(map[semel.Class]semel.Backoff, len(steps))
	for _, step := range steps {
		by[stepClass(step)] = semel.Backoff{First: step, Fixed: true}
	}
	return by
}

// retryAfter reads the header in both forms (RFC 9110, section 10.2.3).
func retryAfter(text string, now time.Time) (wait time.Duration, ok bool) {
	if text == "" {
		return 0, false
	}
	if strings.Trim(text, "0123456789") == "" {
		seconds, err := strconv.ParseInt(text, 10, 64)
		if err != nil || seconds > int64(steps[len(steps)-1]/time.Second) { // longer than we wait anyway
			return steps[len(steps)-1], true
		}
		return time.Duration(seconds) * time.Second, true
	}
	at, err := http.ParseTime(text)
	if err != nil {
		return 0, false
	}
	return max(0, at.Sub(now)), true
}
