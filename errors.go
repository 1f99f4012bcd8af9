package semel

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
)

// Sentinels: the closed set of errors a caller tells apart with errors.Is.
// Unless its comment says otherwise, nothing was stored under the key and the
// command may be sent again with the same key.
var (
	// ErrInvalid: the command is malformed; it must be changed to be taken.
	ErrInvalid = errors.New("semel: invalid command")
	// ErrUnknownCommand: no handler has that name here.
	ErrUnknownCommand = errors.New("semel: unknown command")
	// ErrKeyReused: the key was first used with another request. The first
	// one's operation is untouched.
	ErrKeyReused = errors.New("semel: idempotency key is already used")
	// ErrKeyExpired: the key's deduplication window has passed. The command
	// ran then, or was refused then; it is never run again.
	ErrKeyExpired = errors.New("semel: idempotency key has expired")
	// ErrNotFound: there is no such operation, or it is another principal's.
	ErrNotFound = errors.New("semel: not found")
	// ErrOverloaded: too much is queued; try again later.
	ErrOverloaded = errors.New("semel: overloaded")
	// ErrUnavailable: the store refused or could not be reached.
	ErrUnavailable = errors.New("semel: store unavailable")
	// ErrOutcomeUnknown: the commit's end was not seen and could not yet be
	// resolved. Sending again with the same key resolves it.
	ErrOutcomeUnknown = errors.New("semel: outcome unknown")
	// ErrClosed: the engine is draining or has ended.
	ErrClosed = errors.New("semel: engine is not running")
	// ErrVersionConflict: a stream has moved past the expected version. In a
	// handler it is retried like any error that may pass.
	ErrVersionConflict = errors.New("semel: stream has another version than expected")
	// ErrFenced: the lease was lost; another owner has the operation or the
	// follower. Nothing of this attempt is committed.
	ErrFenced = errors.New("semel: lease lost")
	// ErrIllegalMove: the operation's state does not allow what was asked.
	ErrIllegalMove = errors.New("semel: not possible in this state")
)

// A Rejection is a business no. It is an outcome, not a failure: it is stored,
// answered to every repeat, and never retried.
type Rejection struct {
	Code   string // for programs: insufficient_funds
	Reason string // for people
	Status int    // HTTP status of the answer, 400 to 499; any other means 409
	// Result is the answer's body as JSON; nil means problem details made of
	// the rest.
	Result json.RawMessage
}

func (r *Rejection) Error() string { return fmt.Sprintf("rejected (%s): %s", r.Code, r.Reason) }

// Reject returns the error with which a handler says no. Whatever the handler
// wrote before is rolled back. The reason is shown to the caller.
func Reject(code, reason string, args ...any) error {
	return &Rejection{Code: code, Reason: fmt.Sprintf(reason, args...)}
}

// A Class groups errors by what to do about them; [Retry] has a wait for each.
type Class string

const (
	ClassTransient Class = "transient" // may pass by itself; the class of any unknown error
	ClassTimeout   Class = "timeout"   // the handler ran out of its lease
	ClassConflict  Class = "conflict"  // optimistic concurrency lost; sensible to try at once
	ClassPanic     Class = "panic"     // the handler panicked, or its process died
	ClassTerminal  Class = "terminal"  // trying again is pointless
)

type terminalError struct{ err error }

func (e *terminalError) Error() string { return e.err.Error() }
func (e *terminalError) Unwrap() error { return e.err }

// TerminalError marks err as not worth another attempt: the operation fails at
// once and becomes a dead letter. It returns nil for a nil err.
func TerminalError(err error) error {
	if err == nil {
		return nil
	}
	return &terminalError{err}
}

type panicError struct {
	value any
	stack []byte
}

func (e *panicError) Error() string { return fmt.Sprintf("panic: %v", e.value) }

// classify is the default of [Retry.Classify].
func classify(err error) Class {
	var terminal *terminalError
	var panicked *panicError
	switch {
	case errors.As(err, &terminal):
		return ClassTerminal
	case errors.As(err, &panicked):
		return ClassPanic
	case errors.Is(err, ErrVersionConflict):
		return ClassConflict
	case errors.Is(err, context.DeadlineExceeded):
		return ClassTimeout
	}
	return ClassTransient
}
