package semel

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"slices"
)

// Groups are formed one after another by whoever has the turn: a caller who
// finds it free, which saves two changes of goroutine when there are few, or
// the executor, when there are many. A group is whatever has arrived while the
// previous one ran: nobody waits for it to fill.

// help runs a group in the caller's goroutine if nobody else does.
func (e *Engine[Tx]) help() {
	select {
	case e.turn <- struct{}{}:
	default:
		return // who has the turn looks again after giving it back
	}
	defer e.giveBack()
	e.runNext()
}

func (e *Engine[Tx]) giveBack() {
	<-e.turn
	if e.intake.any() || len(e.claimed) > 0 {
		e.intake.signal()
	}
}

// few is a group so small that it is worth to let others in who are about to
// send. A caller alone loses next to nothing by it.
const few = 16

// runNext runs the next group, if there is one. Who calls it has the turn.
func (e *Engine[Tx]) runNext() (ran bool) {
	if e.intake.waitingLessThan(few) {
		runtime.Gosched() // who can send already may do so, and share the flush
	}
	group := e.fill(e.group[:0])
	e.runGroup(e.work, group)
	return len(group) > 0
}

// execute runs groups until stop is closed and nothing is left. It then keeps
// the turn.
func (e *Engine[Tx]) execute(stop <-chan struct{}) {
	for ending := false; ; {
		if !ending {
			select {
			case <-e.intake.arrived:
			case <-stop:
				ending = true
			}
		}
		e.turn <- struct{}{}
		if !e.runNext() && ending {
			return
		}
		e.giveBack()
	}
}

// fill takes what is waiting already. Claimed operations go first: they are
// older. Tasks that their callers have withdrawn are left out.
func (e *Engine[Tx]) fill(group []*task[Tx]) []*task[Tx] {
	for len(group) < cap(group) && len(e.claimed) > 0 {
		group = append(group, <-e.claimed) // whoever has the turn is the only one to take
	}
	group = e.intake.take(group)
	return slices.DeleteFunc(group, func(t *task[Tx]) bool {
		return !t.claimed && !t.phase.CompareAndSwap(queued, taken)
	})
}

// runGroup runs tasks in one transaction, optimistically. When a member has to
// be undone, the transaction is rolled back, the others run again at once
// without it, and it runs alone; what came after it for the same subject runs
// last, so that the order of a subject holds.
func (e *Engine[Tx]) runGroup(ctx context.Context, tasks []*task[Tx]) {
	for len(tasks) > 0 {
		a := e.newAttempt(ctx, tasks, false)
		if err := a.run(); errors.Is(err, errProjection) {
			continue // the projection is now known to lag: its follower goes on by itself
		} else if err != nil {
			e.resolve(ctx, a, err)
			return
		}
		if a.spoiled < 0 {
			return
		}
		e.stats.careful.Add(1)
		bad := tasks[a.spoiled]
		if len(tasks) == 1 {
			bad.decided = &bad.run.decision
			continue
		}
		rest, later := apart(tasks, a.spoiled)
		e.runGroup(ctx, rest)
		e.runGroup(ctx, []*task[Tx]{bad})
		tasks = later
	}
}

// apart splits a group around a spoiled member: those that can run without it,
// and those behind it in the queue of one of its subjects, or of theirs.
func apart[Tx any](tasks []*task[Tx], spoiled int) (rest, later []*task[Tx]) {
	held := make(map[string]bool)
	hold := func(t *task[Tx]) {
		for _, s := range t.op.Subjects {
			held[t.op.Tenant+"\x00"+s] = true
		}
	}
	bad := tasks[spoiled]
	hold(bad)
	rest = append(rest, tasks[:spoiled]...)
	for _, t := range tasks[spoiled+1:] {
		behind := t.op.ID == bad.op.ID || slices.ContainsFunc(t.op.Subjects, func(s string) bool { return held[t.op.Tenant+"\x00"+s] })
		if behind {
			hold(t)
			later = append(later, t)
		} else {
			rest = append(rest, t)
		}
	}
	return rest, later
}

// resolve answers for a group whose transaction ended in an error. A commit
// that failed may have happened: only the operations' rows tell, read when
// nobody else can be writing them. Anything earlier left nothing behind.
func (e *Engine[Tx]) resolve(ctx context.Context, a *attempt[Tx], cause error) {
	e.log.Error("group not committed", slog.Int("operations", len(a.tasks)), slog.Any("error", cause))
	session, err := e.store.Begin(ctx, false)
	if err != nil {
		session = nil
	} else {
		defer session.Rollback()
	}
	for i, t := range a.tasks {
		if t.claimed {
			t.finish() // if it did not happen, the lease runs out and it is tried again
			continue
		}
		op, err := e.stored(ctx, session, t)
		switch {
		case err == nil && op != nil:
			a.replies[i] = replay(t, op)
		case a.committing && (err != nil || session == nil):
			a.replies[i] = reply{err: fmt.Errorf("%w: %w", ErrOutcomeUnknown, cause)}
		default:
			a.replies[i] = reply{err: fmt.Errorf("%w: %w", ErrUnavailable, cause)}
		}
	}
	a.reply()
}

// stored reads a task's operation as it is. Within a session no other can
// change it; without one a plain read still answers repeats while the store
// cannot be written to.
func (e *Engine[Tx]) stored(ctx context.Context, session Session[Tx], t *task[Tx]) (*Operation, error) {
	if session == nil {
		op, err := e.store.Operation(ctx, t.op.ID)
		if errors.Is(err, ErrNotFound) {
			return nil, nil
		}
		return op, err
	}
	known, err := session.Lookup(ctx, []Lookup{{ID: t.op.ID, Tenant: t.op.Tenant, Subjects: t.op.Subjects}})
	if err != nil {
		return nil, err
	}
	return known[0].Operation, nil
}
