package client

import (
	"fmt"
	"strings"
	"time"

	"github.com/semel-dev/semel"
)

// A Class says what kind of failure it was. It is an error, so that
// errors.Is(err, client.ClassTimeout) asks whether any try failed so.
type Class string

// Classes that may pass by themselves: the request is sent again.
const (
	ClassRefused    Class = "refused"    // nobody listens there
	ClassReset      Class = "reset"      // the connection broke, maybe after the command took effect
	ClassDNS        Class = "dns"        // the name was not found
	ClassConnection Class = "connection" // any other failure to reach the server
	ClassTimeout    Class = "timeout"    // one try, or the whole call, took too long; 408
	ClassThrottled  Class = "throttled"  // 429
	ClassServer     Class = "server"     // 5xx
	ClassMalformed  Class = "malformed"  // the answer is not what a gateway sends
)

// Classes that are final.
const (
	ClassCanceled     Class = "canceled"     // the caller's context ended
	ClassTLS          Class = "tls"          // the server's certificate or protocol
	ClassUnauthorized Class = "unauthorized" // 401, or Options.Authorize failed
	ClassForbidden    Class = "forbidden"    // 403
	ClassConflict     Class = "conflict"     // 409 that is not an outcome
	ClassExpired      Class = "expired"      // 410: the key is older than the server's deduplication window
	ClassTooLarge     Class = "too_large"    // 413
	ClassReused       Class = "reused"       // 422: the key was used for something else, or the request makes no sense
	ClassInvalid      Class = "invalid"      // any other 3xx and 4xx: the request must be changed
	ClassFailed       Class = "failed"       // the operation failed on the server, or was canceled there
	ClassBudget       Class = "budget"       // not tried again, because the retry budget is used up
	ClassDeadline     Class = "deadline"     // not tried again, because Request.Deadline passed
)

func (c Class) Error() string { return string(c) }

func (c Class) passes() bool {
	switch c {
	case ClassRefused, ClassReset, ClassDNS, ClassConnection, ClassTimeout, ClassThrottled, ClassServer, ClassMalformed:
		return true
	}
	return false
}

// A Rejected is the business's no: an outcome, answered to every repeat. It
// unwraps to the [semel.Rejection] that the handler returned; its Status is 0
// where the outcome was polled for, since an operation does not show it.
type Rejected struct {
	semel.Rejection
	Operation string // id
	Key       string
}

func (r *Rejected) Unwrap() error { return &r.Rejection }

// An Error is one way in which a call failed.
type Error struct {
	Class Class
	// Status is the HTTP status, and Type the last part of the problem's type,
	// such as "overloaded"; zero if there was no answer.
	Status int
	Type   string
	// Command and Key are what to send again to learn the outcome.
	Command string
	Key     string
	// Operation is the operation's id where the command is known to be
	// accepted durably.
	Operation string
	// Message says what happened. It has nothing in it that changes from try
	// to try, such as a local port.
	Message string
	// Count is how many tries failed with this class and message.
	Count int
	// Kept is set where the intention is in the client's pending store and
	// will be sent again by [Client.Run], whatever this call came to.
	Kept bool
	// Err is the cause: the transport's error, the context's, or the root
	// package's sentinel for the problem.
	Err error

	final bool          // although its class may pass
	after time.Duration // the Retry-After
}

func (e *Error) Error() string { return e.Command + ": " + e.Message }

// Unwrap returns Err.
func (e *Error) Unwrap() error { return e.Err }

// Is makes errors.Is true for the error's class.
func (e *Error) Is(target error) bool {
	c, ok := target.(Class)
	return ok && c == e.Class
}

// Timeout reports whether a limit of time was the reason, as [net.Error] asks.
func (e *Error) Timeout() bool { return e.Class == ClassTimeout || e.Class == ClassDeadline }

// An Errors is what a call returns whose tries failed in different ways.
// errors.Is and errors.As look into each.
type Errors struct {
	Command string
	Key     string
	// Tries is how many tries were made.
	Tries int
	// Distinct has one error for each class and message, in the order of their
	// first appearance.
	Distinct []*Error

	end string // how the series ended
}

func (e *Errors) Error() string {
	var b strings.Builder
	tries := "tries"
	if e.Tries == 1 {
		tries = "try"
	}
	fmt.Fprintf(&b, "%s: %s after %d %s: ", e.Command, e.end, e.Tries, tries)
	for i, d := range e.Distinct {
		if i > 0 {
			b.WriteString("; ")
		}
		fmt.Fprintf(&b, "%s (×%d)", d.Message, d.Count)
	}
	return b.String()
}

// Unwrap returns the distinct errors.
func (e *Errors) Unwrap() []error {
	errs := make([]error, len(e.Distinct))
	for i, d := range e.Distinct {
		errs[i] = d
	}
	return errs
}

// Timeout reports whether the last distinct failure was one of time.
func (e *Errors) Timeout() bool { return e.Distinct[len(e.Distinct)-1].Timeout() }

// A tally collects the failures of a series of tries.
type tally struct {
	distinct []*Error
}

func (t *tally) add(e *Error) {
	for _, d := range t.distinct {
		if d.Class == e.Class && d.Message == e.Message {
			d.Count++
			return
		}
	}
	e.Count = 1
	t.distinct = append(t.distinct, e)
}

func (t *tally) clone() tally {
	var c tally
	for _, d := range t.distinct {
		e := *d
		c.distinct = append(c.distinct, &e)
	}
	return c
}

// err returns one distinct error as itself, several as an aggregate.
func (t *tally) err(end string, tries int) error {
	first := t.distinct[0]
	if len(t.distinct) == 1 {
		return first
	}
	return &Errors{Command: first.Command, Key: first.Key, Tries: tries, Distinct: t.distinct, end: end}
}
