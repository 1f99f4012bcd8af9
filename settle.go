package semel

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"time"

	"github.com/semel-dev/semel/internal/crashpoint"
)

// settle gives every operation that ran its new state.
func (a *attempt[Tx]) settle() error {
	for _, i := range a.running {
		t := a.tasks[i]
		if a.settleInline(i, t) {
			continue
		}
		op := *t.op
		if !t.claimed {
			op.AcceptedAt = a.now
			op.Attempts++
		}
		if err := a.settleOne(t, &op); err != nil {
			return err
		}
		a.add(i, &op)
	}
	// A repeat within the group gets what its first one got.
	for i, t := range a.tasks {
		if first, ok := a.lead[t.op.ID]; ok && first != i && a.replies[i].err == nil {
			a.replies[i].op, a.replies[i].err = a.replies[first].op, a.replies[first].err
		}
	}
	return nil
}

func (a *attempt[Tx]) settleOne(t *task[Tx], op *Operation) error {
	d := t.run.decision
	op.DueAt, op.Holds = time.Time{}, false
	switch {
	case d.rejection != nil:
		if err := op.reject(d.rejection); err != nil {
			return fmt.Errorf("encoding a rejection: %w", err)
		}
		return a.end(t, op, Rejected)
	case d.ok():
		op.Status, op.Resource, op.Result = t.run.status, t.run.resource, t.run.result
		if op.Status == 0 {
			op.Status = http.StatusOK
		}
		if crashpoint.Broken("no-bytes") {
			op.Result = []byte("{}")
		}
		op.Code, op.Reason, op.Disposition = "", "", ""
		op.ExecutedAt = a.now
		op.Events += len(t.run.events)
		if n := len(t.run.events); n > 0 {
			op.Position = t.run.events[n-1].Position
			return op.move(Executed) // completed in record, if its projections allow
		}
		if err := op.move(Executed); err != nil {
			return err
		}
		return a.end(t, op, Completed)
	}
	op.Code, op.Reason = "failed", d.err.Error()
	a.complain(op, d)
	if d.disposition != "" {
		op.Disposition, op.Holds = d.disposition, t.def.Park && len(op.Subjects) > 0
		return a.end(t, op, Failed)
	}
	op.DueAt, op.Holds = a.now.Add(d.wait), len(op.Subjects) > 0
	return op.move(Waiting)
}

// complain logs a failed attempt, the only place where its error is shown.
func (a *attempt[Tx]) complain(op *Operation, d decision) {
	level, message := slog.LevelWarn, "attempt failed"
	if d.disposition != "" {
		level, message = slog.LevelError, "operation failed for good"
	}
	attrs := []slog.Attr{
		slog.String("operation", op.ID.String()), slog.String("command", op.Name),
		slog.Int("attempt", op.Attempts), slog.Any("error", d.err),
	}
	if d.disposition != "" {
		attrs = append(attrs, slog.String("disposition", string(d.disposition)))
	}
	var panicked *panicError
	if errors.As(d.err, &panicked) {
		attrs = append(attrs, slog.String("stack", string(panicked.stack)))
	}
	a.options.Logger.LogAttrs(a.ctx, level, message, attrs...)
}

// outcomes names the engine's event for each final state.
var outcomes = map[State]string{
	Completed: EventCompleted, Rejected: EventRejected, Failed: EventFailed, Canceled: EventCanceled,
}

// end moves an operation to a final state that no event of its own tells of,
// and so puts an event into the log that does.
func (a *attempt[Tx]) end(t *task[Tx], op *Operation, state State) error {
	event, err := conclude(op, state, a.now, a.window(op.Name))
	if err != nil {
		return err
	}
	if err := a.session.Append(a.ctx, []*Event{event}); err != nil {
		return fmt.Errorf("appending an outcome: %w", err)
	}
	op.DonePosition = event.Position
	a.log = append(a.log, event)
	return nil
}

// conclude makes op done and returns the event that says so.
func conclude(op *Operation, state State, now time.Time, window time.Duration) (*Event, error) {
	if err := op.move(state); err != nil {
		return nil, err
	}
	op.DoneAt, op.DueAt = now, time.Time{}
	if state != Failed { // a dead letter is kept until somebody has dealt with it
		op.ExpiresAt = now.Add(window)
	}
	data, err := json.Marshal(struct {
		Name        string      `json:"name"`
		Resource    string      `json:"resource,omitempty"`
		Code        string      `json:"code,omitempty"`
		Reason      string      `json:"reason,omitempty"`
		Disposition Disposition `json:"disposition,omitempty"`
	}{op.Name, op.Resource, op.Code, op.Reason, op.Disposition})
	if err != nil {
		return nil, fmt.Errorf("encoding an outcome: %w", err)
	}
	event := &Event{
		Tenant: op.Tenant, Operation: op.ID, Number: op.Events, Name: outcomes[state],
		Subject: op.Subject(), Data: data, Correlation: op.Correlation, At: now,
	}
	op.Events++
	return event, nil
}

// window is how long an answer is kept. A command may have lost its handler
// since it was taken.
func (e *Engine[Tx]) window(name string) time.Duration {
	if d := e.commands[name]; d != nil && d.Window > 0 {
		return d.Window
	}
	return e.options.Window
}
