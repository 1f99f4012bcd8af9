package semel

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/semel-dev/semel/internal/crashpoint"
)

// An Answer is what [Engine.Submit] found.
type Answer struct {
	// Operation is done, or accepted durably and still open.
	Operation *Operation
	// Replayed is set when the command had been sent before.
	Replayed bool
}

// SubmitOptions say how long to wait.
type SubmitOptions struct {
	// Async asks only for durable acceptance.
	Async bool
	// Wait is how long to wait for the outcome; 0 means until ctx ends.
	// When it passes, the operation is returned as it stands.
	Wait time.Duration
}

// task is one operation on its way through a group.
type task[Tx any] struct {
	def     *definition[Tx]
	op      *Operation // as it came; what becomes of it is a copy
	command any        // the decoded body
	context Correlation

	async   atomic.Bool // only to be accepted
	phase   atomic.Int32
	answer  chan reply // one buffered place
	claimed bool       // runs under a claim that is already stored
	finish  func()     // called when a claimed task is through

	// What an earlier run found, when its group was rolled back; the handler is
	// then not called again.
	decided *decision
	// What this run found.
	run *run
}

// Phases of a queued task. A caller may withdraw it until it is taken.
const (
	queued int32 = iota
	taken
	withdrawn
)

type reply struct {
	op       *Operation
	replayed bool
	err      error
}

// Submit sends a command through the engine and waits for its outcome. Sent
// again with the same identity it takes no further effect: the answer is that
// of the first time, or the operation as it stands.
//
// If the wait passes or ctx reaches its deadline first, the operation is
// returned as it stands, accepted durably. The errors are the sentinels of
// this package; with each but [ErrOutcomeUnknown], [ErrKeyReused] and
// [ErrKeyExpired] nothing is stored. If ctx is canceled, its error is
// returned and the command may or may not have been taken; the same key tells.
func (e *Engine[Tx]) Submit(ctx context.Context, c Command, o SubmitOptions) (Answer, error) {
	def := e.commands[c.Name]
	if def == nil {
		return Answer{}, fmt.Errorf("%w: %q", ErrUnknownCommand, c.Name)
	}
	return e.submit(ctx, c, def, o)
}

func (e *Engine[Tx]) submit(ctx context.Context, c Command, def *definition[Tx], o SubmitOptions) (Answer, error) {
	if within(ctx, e) { // its group would wait for itself, for ever
		return Answer{}, fmt.Errorf("%w: a handler cannot send commands to its own engine", ErrInvalid)
	}
	patience, cancel := ctx, context.CancelFunc(func() {})
	if o.Wait > 0 {
		patience, cancel = context.WithTimeout(ctx, o.Wait)
	}
	defer cancel()
	select {
	case <-e.ready:
	case <-patience.Done():
		return Answer{}, fmt.Errorf("%w: %w", ErrClosed, patience.Err())
	}
	t, err := e.prepare(c, def)
	if err != nil {
		return Answer{}, err
	}
	t.async.Store(o.Async)
	if o.Async && crashpoint.Broken("accept-before-begin") {
		return Answer{Operation: t.op}, nil
	}
	if n := e.accepted.of(c.Tenant); (o.Async || t.def.solo()) && n >= e.options.TenantBacklog {
		return Answer{}, fmt.Errorf("%w: %d accepted commands of the tenant wait for their turn", ErrOverloaded, n)
	}
	if err := e.intake.put(t); err != nil {
		return Answer{}, err
	}
	e.help()
	r, err := e.attend(ctx, patience, t)
	if err != nil {
		return Answer{}, err
	}
	if r.replayed {
		e.stats.replayed.Add(1)
	}
	answer := Answer{Operation: r.op, Replayed: r.replayed}
	if r.op.State.Done() || o.Async {
		return answer, nil
	}
	answer.Operation, err = e.outcome(patience, r.op.ID, r.op)
	return answer, err
}

// prepare does in the caller's goroutine whatever needs no transaction.
func (e *Engine[Tx]) prepare(c Command, def *definition[Tx]) (*task[Tx], error) {
	if err := c.check(); err != nil {
		return nil, err
	}
	canonical, err := canonicalJSON(c.Body)
	if err != nil {
		return nil, err
	}
	source := c.Body // errors name the place in what was sent
	if len(bytes.TrimSpace(source)) == 0 {
		source = canonical
	}
	command, subjects, err := def.decode(source)
	if err != nil {
		return nil, err
	}
	id := c.ID()
	if c.Correlation.ID == "" {
		c.Correlation.ID = id.String()
	}
	correlation, err := json.Marshal(c.Correlation)
	if err != nil {
		return nil, fmt.Errorf("%w: encoding the correlation: %w", ErrInvalid, err)
	}
	return &task[Tx]{
		def:     def,
		command: command,
		context: c.Correlation,
		answer:  make(chan reply, 1),
		op: &Operation{
			ID:          id,
			Tenant:      c.Tenant,
			Principal:   c.Principal,
			Name:        c.Name,
			Key:         c.Key,
			Subjects:    subjects,
			Fingerprint: c.fingerprint(canonical),
			Body:        canonical,
			Correlation: correlation,
		},
	}, nil
}

// attend waits until the task's group has ended. When patience runs out while
// it is still queued, it asks only for acceptance; when the caller has gone,
// it is withdrawn.
func (e *Engine[Tx]) attend(ctx, patience context.Context, t *task[Tx]) (reply, error) {
	select {
	case r := <-t.answer:
		return r, r.err
	case <-patience.Done():
	}
	if errors.Is(ctx.Err(), context.Canceled) {
		if t.phase.CompareAndSwap(queued, withdrawn) {
			return reply{}, ctx.Err()
		}
	}
	t.async.Store(true)
	r := <-t.answer // a group ends: its handlers' contexts do
	return r, r.err
}

// outcome waits for an operation to be done, or returns it as it stands.
func (e *Engine[Tx]) outcome(ctx context.Context, id ID, last *Operation) (*Operation, error) {
	changed, forget := e.hub.await(id)
	defer forget()
	// Read after subscribing: it may have ended in between.
	op, err := e.store.Operation(context.WithoutCancel(ctx), id)
	if err != nil {
		return nil, fmt.Errorf("%w: reading operation %s: %w", ErrUnavailable, id, err)
	}
	if op.State.Done() {
		return op, nil
	}
	// Another process, or another engine on the same store, tells nobody here.
	for wait := glanceFirst; ; wait = min(2*wait, glanceMost) {
		timer := time.NewTimer(wait)
		select {
		case done, ok := <-changed:
			timer.Stop()
			if ok {
				return done, nil
			}
			return op, nil // the engine ends; the operation goes on in the next run
		case <-ctx.Done():
			timer.Stop()
			if errors.Is(ctx.Err(), context.Canceled) {
				return nil, ctx.Err()
			}
			if now, err := e.store.Operation(context.WithoutCancel(ctx), id); err == nil {
				op = now
			}
			return op, nil
		case <-timer.C:
			if now, err := e.store.Operation(ctx, id); err == nil {
				if op = now; op.State.Done() {
					return op, nil
				}
			}
		}
	}
}

// How often a waiting caller looks into the store beside being woken.
const (
	glanceFirst = 100 * time.Millisecond
	glanceMost  = 2 * time.Second
)

// Operation returns one of the caller's operations. It returns [ErrNotFound]
// for an operation of somebody else, as if it did not exist.
func (e *Engine[Tx]) Operation(ctx context.Context, tenant, principal string, id ID) (*Operation, error) {
	op, err := e.store.Operation(ctx, id)
	if err != nil {
		if errors.Is(err, ErrNotFound) || errors.Is(err, ErrKeyExpired) {
			return nil, err
		}
		return nil, fmt.Errorf("%w: reading operation %s: %w", ErrUnavailable, id, err)
	}
	if op.Tenant != tenant || op.Principal != principal {
		return nil, fmt.Errorf("%w: operation %s", ErrNotFound, id)
	}
	return op, nil
}

// Operations lists operations; the caller answers for the scope it asks for.
func (e *Engine[Tx]) Operations(ctx context.Context, q OperationQuery) ([]*Operation, error) {
	ops, err := e.store.Operations(ctx, q)
	if err != nil {
		return nil, fmt.Errorf("%w: listing operations: %w", ErrUnavailable, err)
	}
	return ops, nil
}

// Await waits until one of the caller's operations is done, and returns it as
// it stands when ctx reaches its deadline.
func (e *Engine[Tx]) Await(ctx context.Context, tenant, principal string, id ID) (*Operation, error) {
	op, err := e.Operation(ctx, tenant, principal, id)
	if err != nil || op.State.Done() {
		return op, err
	}
	return e.outcome(ctx, id, op)
}
