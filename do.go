package semel

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
)

// Do runs fn once for a command that has no handler: the small door for code
// that wants only the key. The name, the scope, the key and the body identify
// what is asked, as for [Engine.Submit]; fn works in the transaction that the
// outcome is stored in, and its result, encoded as JSON, is what every repeat
// gets, marked as replayed.
//
// A [Rejection] is stored and returned as an error, the same for every repeat.
// Any other error of fn rolls back what it wrote, stores nothing, and is
// returned: the caller may try again with the same key. Since nobody but the
// caller can call fn, there is no acceptance without an outcome, no retry by
// the engine and no subject. Repeats that come while fn runs wait for it.
func Do[Tx, R any](ctx context.Context, e *Engine[Tx], c Command, fn func(ctx context.Context, u *Unit[Tx]) (R, error)) (result R, replayed bool, err error) {
	def := &definition[Tx]{
		name:   c.Name,
		inline: true,
		decode: func([]byte) (any, []string, error) { return nil, nil, nil },
		call:   func(ctx context.Context, u *Unit[Tx], _ any) (any, error) { return fn(ctx, u) },
	}
	if c.Name == "" {
		return result, false, fmt.Errorf("%w: the command has no name", ErrInvalid)
	}
	answer, err := e.submit(ctx, c, def, SubmitOptions{})
	if err != nil {
		return result, false, err
	}
	op := answer.Operation
	switch op.State {
	case Completed:
		if err := json.Unmarshal(op.Result, &result); err != nil {
			return result, answer.Replayed, fmt.Errorf("decoding the result of operation %s: %w", op.ID, err)
		}
		return result, answer.Replayed, nil
	case Rejected:
		return result, answer.Replayed, &Rejection{Code: op.Code, Reason: op.Reason, Status: op.Status, Result: op.Result}
	}
	return result, answer.Replayed, fmt.Errorf("%w: operation %s is %s", ErrOutcomeUnknown, op.ID, op.State)
}

// settleInline answers for a call of [Do] that failed: there is nothing to
// store, and nobody else to try again.
func (a *attempt[Tx]) settleInline(i int, t *task[Tx]) (settled bool) {
	failure := t.run.decision.err
	if !t.def.inline || failure == nil {
		return false
	}
	var panicked *panicError
	if errors.As(failure, &panicked) {
		a.complain(t.op, t.run.decision) // the caller gets no stack
	}
	a.replies[i] = reply{err: failure}
	return true
}
