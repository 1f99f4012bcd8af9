package semel

import (
	"context"
	"fmt"
	"math"
	"slices"
	"time"
)

// VerifyOptions say how much must hold.
type VerifyOptions struct {
	// Drained demands that every operation is done and every projection at the
	// end of the log, as after an engine that was left to finish.
	Drained bool
	// Patience is how long something may be due before it counts as stuck;
	// 0 means 10 minutes.
	Patience time.Duration
}

// A Report is what [Engine.Verify] found.
type Report struct {
	Operations int
	Events     int64
	Folded     []string // projections whose rows were compared with a fold of the log
	// Problems name what is wrong, one sentence each; none means all is well.
	Problems []string
}

func (r *Report) found(format string, args ...any) {
	r.Problems = append(r.Problems, fmt.Sprintf(format, args...))
}

// Verify checks a store against its own log: positions are dense, every
// operation has its events once and no event is without its operation's
// consent, every projection with tables equals a fold of the log up to its
// position, and nothing is stuck. It changes nothing; it writes to a
// transaction that it rolls back. The engine need not run, and no other may.
func (e *Engine[Tx]) Verify(ctx context.Context, o VerifyOptions) (*Report, error) {
	if o.Patience == 0 {
		o.Patience = 10 * time.Minute
	}
	v := verification[Tx]{Engine: e, o: o, report: &Report{}, events: make(map[ID]tally)}
	for _, step := range []func(context.Context) error{v.readLog, v.readOperations, v.readFollowers} {
		if err := step(ctx); err != nil {
			return v.report, fmt.Errorf("verifying: %w", err)
		}
	}
	return v.report, nil
}

type verification[Tx any] struct {
	*Engine[Tx]
	o      VerifyOptions
	report *Report
	events map[ID]tally
	head   int64
}

// tally is what the log says of one operation.
type tally struct {
	count   int
	numbers int   // sum of the numbers, which for 0..count-1 is known
	last    int64 // position of the last event
}

const verifyBatch = 1000

func (v *verification[Tx]) readLog(ctx context.Context) error {
	for {
		events, err := v.store.Events(ctx, v.head, verifyBatch)
		if err != nil {
			return fmt.Errorf("reading the log: %w", err)
		}
		for _, event := range events {
			if event.Position != v.head+1 {
				v.report.found("the log goes from position %d to %d", v.head, event.Position)
			}
			v.head = event.Position
			t := v.events[event.Operation]
			v.events[event.Operation] = tally{t.count + 1, t.numbers + event.Number, event.Position}
		}
		v.report.Events += int64(len(events))
		if len(events) < verifyBatch {
			break
		}
	}
	head, err := v.store.Head(ctx)
	if err != nil {
		return fmt.Errorf("reading the log's end: %w", err)
	}
	if head != v.head {
		v.report.found("the log ends at position %d, but %d were given", v.head, head)
	}
	return nil
}

func (v *verification[Tx]) readOperations(ctx context.Context) error {
	for after := int64(0); ; {
		ops, err := v.store.Operations(ctx, OperationQuery{All: true, ByAcceptance: true, After: after, Limit: verifyBatch})
		if err != nil {
			return fmt.Errorf("reading operations: %w", err)
		}
		for _, op := range ops {
			after = op.Seq
			v.check(op)
		}
		v.report.Operations += len(ops)
		if len(ops) < verifyBatch {
			return nil
		}
	}
}

func (v *verification[Tx]) check(op *Operation) {
	t := v.events[op.ID]
	name := fmt.Sprintf("operation %s (%s, %s)", op.ID, op.Name, op.State)
	if t.count != op.Events {
		v.report.found("%s has %d events in the log and should have %d", name, t.count, op.Events)
	} else if t.numbers != t.count*(t.count-1)/2 {
		v.report.found("%s has an event twice and another not at all", name)
	}
	if op.Position > v.head || op.DonePosition > v.head {
		v.report.found("%s stands beyond the end of the log, %d", name, v.head)
	}
	done := op.State == Completed || op.State == Rejected || op.State == Canceled
	if (done || op.State == Failed) != (op.DonePosition > 0) {
		v.report.found("%s has its outcome at position %d", name, op.DonePosition)
	}
	if op.State == Completed && len(op.Result) == 0 || op.State == Rejected && len(op.Result) == 0 {
		v.report.found("%s has lost its answer", name)
	}
	if !op.State.Done() {
		v.checkOpen(op, name)
	}
}

func (v *verification[Tx]) checkOpen(op *Operation, name string) {
	switch {
	case v.o.Drained:
		v.report.found("%s is not done", name)
	case op.State.Unfinished() && op.DueAt.IsZero():
		v.report.found("%s is due never", name)
	case op.State.Unfinished() && !op.Holds && time.Since(op.DueAt) > v.o.Patience:
		v.report.found("%s is due since %s", name, op.DueAt.Format(time.RFC3339))
	case op.State == Executed && time.Since(op.ExecutedAt) > v.o.Patience:
		v.report.found("%s waits since %s for its projections", name, op.ExecutedAt.Format(time.RFC3339))
	}
}

func (v *verification[Tx]) readFollowers(ctx context.Context) error {
	stored, err := v.store.Followers(ctx)
	if err != nil {
		return fmt.Errorf("reading followers: %w", err)
	}
	lowest := int64(math.MaxInt64)
	for _, p := range v.projections {
		i := slices.IndexFunc(stored, func(s Follower) bool { return s.Name == p.name && s.Live })
		if i < 0 {
			if v.head > 0 {
				v.report.found("projection %s has never followed the log", p.name)
			}
			continue
		}
		live := stored[i]
		if live.Position > v.head {
			v.report.found("projection %s stands at %d, beyond the end of the log, %d", p.name, live.Position, v.head)
		}
		if v.o.Drained && live.Position < v.head {
			v.report.found("projection %s stands at %d and has not reached %d", p.name, live.Position, v.head)
		}
		if !p.Optional {
			lowest = min(lowest, live.Position)
		}
		if err := v.fold(ctx, p, live); err != nil {
			return fmt.Errorf("folding the log into %s: %w", p.name, err)
		}
	}
	return v.checkShown(ctx, lowest)
}

// checkShown finds operations that are called completed too early.
func (v *verification[Tx]) checkShown(ctx context.Context, shown int64) error {
	if shown >= v.head {
		return nil
	}
	for after := shown; ; {
		ops, err := v.store.Operations(ctx, OperationQuery{All: true, After: after, State: Completed, Limit: verifyBatch})
		if err != nil {
			return fmt.Errorf("reading outcomes: %w", err)
		}
		for _, op := range ops {
			after = op.DonePosition
			if op.Position > shown {
				v.report.found("operation %s is completed, but its event %d is not shown; projections are at %d", op.ID, op.Position, shown)
			}
		}
		if len(ops) < verifyBatch {
			return nil
		}
	}
}

// fold builds the projection anew in a transaction that is rolled back, and
// compares.
func (v *verification[Tx]) fold(ctx context.Context, p *projection[Tx], live Follower) error {
	tables, ok := v.tables()
	if !ok || len(p.Tables) == 0 {
		return nil
	}
	session, err := v.store.Begin(ctx, false)
	if err != nil {
		return err
	}
	defer session.Rollback()
	fresh := &ReadModel[Tx]{Tx: session.Tx(), Generation: live.Generation + 1_000_000} // beyond any build's
	if err := p.Create(ctx, fresh); err != nil {
		return err
	}
	for at := int64(0); at < live.Position; {
		events, err := v.store.Events(ctx, at, int(min(verifyBatch, live.Position-at)))
		if err != nil {
			return err
		}
		if len(events) == 0 {
			break // a hole, already reported
		}
		if _, err := p.project(ctx, fresh, events); err != nil {
			return err
		}
		at = events[len(events)-1].Position
	}
	shown := ReadModel[Tx]{Generation: live.Generation}
	for _, name := range p.Tables {
		want, wantRows, err := tables.Checksum(ctx, session.Tx(), fresh.Table(name))
		if err != nil {
			return err
		}
		got, gotRows, err := tables.Checksum(ctx, session.Tx(), shown.Table(name))
		if err != nil {
			return err
		}
		if got != want {
			v.report.found("projection %s: table %s differs from a fold of the log (%d rows, %d expected)", p.name, shown.Table(name), gotRows, wantRows)
		}
	}
	v.report.Folded = append(v.report.Folded, p.name)
	return nil
}
