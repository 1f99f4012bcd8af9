package semel

import (
	"context"
	"encoding/json"
	"fmt"
)

// A Unit is what a handler works with: the transaction, the operation it runs
// for, and the events it emits. All of it is committed together with the
// outcome, or none of it. A Unit must not be used after the handler returned.
type Unit[Tx any] struct {
	// Tx is the transaction of the user's own database.
	Tx Tx

	engine      *Engine[Tx]
	session     Session[Tx]
	op          *Operation
	correlation Correlation
	events      []*Event
	status      int
	resource    string
	err         error
}

// Operation returns a copy of the operation as it stood when the handler was
// called. Its ID is a stable key to hand to other systems.
func (u *Unit[Tx]) Operation() Operation { return *u.op }

// Correlation returns the context that came with the command.
func (u *Unit[Tx]) Correlation() Correlation { return u.correlation }

// Created makes the answer 201 Created and names the new resource, such as
// "accounts/alice".
func (u *Unit[Tx]) Created(resource string) { u.status, u.resource = 201, resource }

// Changed names the resource that the command changes.
func (u *Unit[Tx]) Changed(resource string) { u.resource = resource }

// Emit adds a fact to the log, with the operation's subject unless the event
// has a method Subject() string. The event is encoded as JSON at once; an
// error in doing so fails the attempt.
func (u *Unit[Tx]) Emit(event any) {
	if err := u.record(event, "", 0); err != nil && u.err == nil {
		u.err = err
	}
}

// Stream returns the versioned events of a subject, for handlers that decide
// by replaying what happened.
func (u *Unit[Tx]) Stream(ctx context.Context, subject string) ([]Event, error) {
	events, err := u.session.Stream(ctx, u.op.Tenant, subject, 0)
	if err != nil {
		return nil, fmt.Errorf("reading stream %q: %w", subject, err)
	}
	for _, e := range u.events {
		if e.Subject == subject && e.Version > 0 {
			events = append(events, *e)
		}
	}
	return events, nil
}

// Append emits events as the next versions of a subject's stream. It returns
// [ErrVersionConflict] if the stream is not at the expected version, which is
// that of the last event seen, 0 for an empty stream.
func (u *Unit[Tx]) Append(ctx context.Context, subject string, expected int64, events ...any) error {
	newer, err := u.session.Stream(ctx, u.op.Tenant, subject, expected)
	if err != nil {
		return fmt.Errorf("reading stream %q: %w", subject, err)
	}
	last := expected
	for _, e := range u.events {
		if e.Subject == subject && e.Version > last {
			last = e.Version
		}
	}
	if len(newer) > 0 || last > expected {
		return fmt.Errorf("%w: %q is past %d", ErrVersionConflict, subject, expected)
	}
	if expected > 0 {
		at, err := u.session.Stream(ctx, u.op.Tenant, subject, expected-1)
		if err != nil {
			return fmt.Errorf("reading stream %q: %w", subject, err)
		}
		if len(at) == 0 {
			return fmt.Errorf("%w: %q has not reached %d", ErrVersionConflict, subject, expected)
		}
	}
	for i, event := range events {
		if err := u.record(event, subject, expected+int64(i)+1); err != nil {
			return err
		}
	}
	return nil
}

func (u *Unit[Tx]) record(event any, subject string, version int64) error {
	kind := u.engine.kind(event)
	if kind.name == "" {
		return TerminalError(fmt.Errorf("an event of type %T has no name: describe it", event))
	}
	data, err := json.Marshal(event)
	if err != nil {
		return TerminalError(fmt.Errorf("encoding event %s: %w", kind.name, err))
	}
	if subject == "" {
		subject = u.op.Subject()
		if s, ok := event.(interface{ Subject() string }); ok {
			subject = s.Subject()
		}
	}
	u.events = append(u.events, &Event{
		Tenant:      u.op.Tenant,
		Operation:   u.op.ID,
		Number:      u.op.Events + len(u.events),
		Name:        kind.name,
		Schema:      kind.schema,
		Subject:     subject,
		Version:     version,
		Data:        data,
		Correlation: u.op.Correlation,
		Publish:     kind.publish,
	})
	return nil
}
