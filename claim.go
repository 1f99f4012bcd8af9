package semel

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/semel-dev/semel/internal/crashpoint"
)

// claimPoll is how often due operations are looked for without a wake-up:
// another process may have accepted them.
const claimPoll = time.Second

// claimUntil claims due operations and has them run until ctx ends, then waits
// for those that it has claimed.
func (e *Engine[Tx]) claimUntil(ctx, work context.Context) {
	var c claimer
	defer c.running.Wait()
	failures := 0
	counted := time.Time{}
	for ctx.Err() == nil {
		if time.Since(counted) >= claimPoll {
			e.countAccepted(ctx)
			counted = time.Now()
		}
		n, err := e.claim(work, &c)
		if err != nil {
			failures++
			e.log.Error("claiming operations", slog.Int("failures", failures), slog.Any("error", err))
			if pause(ctx, Backoff{First: 100 * time.Millisecond, Most: 10 * time.Second}.Wait(failures)) {
				return
			}
			continue
		}
		failures = 0
		if n == 0 {
			e.waitForDue(ctx)
		}
	}
}

// claimer counts what is claimed and not yet through.
type claimer struct {
	running sync.WaitGroup
	count   atomic.Int64
}

// acceptedCount is how many unfinished operations each tenant has, as of the
// last time they were counted, and those accepted since.
type acceptedCount struct {
	mu      sync.Mutex
	tenants map[string]int
}

func (c *acceptedCount) of(tenant string) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.tenants[tenant]
}

func (c *acceptedCount) add(tenant string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.tenants == nil {
		c.tenants = make(map[string]int)
	}
	c.tenants[tenant]++
}

func (c *acceptedCount) set(tenants map[string]int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.tenants = tenants
}

func (e *Engine[Tx]) countAccepted(ctx context.Context) {
	tenants, err := e.store.Backlog(ctx)
	if err != nil {
		if ctx.Err() == nil {
			e.log.Error("counting accepted operations", slog.Any("error", err))
		}
		return
	}
	e.accepted.set(tenants)
}

func (e *Engine[Tx]) waitForDue(ctx context.Context) {
	wait := claimPoll
	if due, err := e.store.NextDue(ctx); err == nil && !due.IsZero() {
		// What is due already and was not claimed stands behind another of its
		// subject; a wake-up comes when that one ends.
		if until := time.Until(due); until > 0 {
			wait = min(wait, until)
		}
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-e.wake:
	case <-timer.C:
	case <-ctx.Done():
	}
}

// claim takes due operations and hands them on. The claim is committed before
// any handler is called, so that one that kills the process uses up an attempt.
func (e *Engine[Tx]) claim(ctx context.Context, c *claimer) (int, error) {
	room := e.options.Group - int(c.count.Load())
	due, err := e.store.NextDue(ctx)
	if err != nil {
		return 0, fmt.Errorf("reading what is due: %w", err)
	}
	if room <= 0 || due.IsZero() || due.After(time.Now()) {
		return 0, nil
	}
	session, err := e.store.Begin(ctx, false)
	if err != nil {
		return 0, err
	}
	defer session.Rollback()
	ops, err := session.Claim(ctx, Claim{Names: e.Commands(), Limit: room, Lease: func(name string) time.Duration {
		return e.commands[name].lease()
	}})
	if err != nil || len(ops) == 0 {
		return 0, err
	}
	if err := e.teethClaim(ctx, session, ops); err != nil {
		return 0, err
	}
	crashpoint.Here(crashpoint.BeforeClaim)
	if err := session.Commit(ctx); err != nil {
		return 0, fmt.Errorf("committing claims: %w", err)
	}
	crashpoint.Here(crashpoint.AfterClaim)
	e.stats.commits.Add(1)
	e.hub.tell(ops)
	for _, op := range ops {
		e.dispatch(ctx, c, op)
	}
	return len(ops), nil
}

// dispatch has one claimed operation run: in a group, or alone if it is solo.
func (e *Engine[Tx]) dispatch(ctx context.Context, c *claimer, op *Operation) {
	t := &task[Tx]{def: e.commands[op.Name], op: op, claimed: true, answer: make(chan reply, 1)}
	command, subjects, err := t.def.decode(op.Body)
	if err == nil {
		t.command, op.Subjects = command, subjects
		t.context, err = op.DecodeCorrelation()
	}
	t.decided = t.forbidden(err)
	c.count.Add(1)
	c.running.Add(1)
	t.finish = sync.OnceFunc(func() {
		c.count.Add(-1)
		c.running.Done()
		e.nudge() // others of its subject may be free, and there is room again
	})
	if t.def.solo() {
		go e.runSolo(ctx, t)
		return
	}
	e.claimed <- t // as many places as may be claimed
	e.intake.signal()
}

// forbidden says why a claimed operation's handler must not be called.
func (t *task[Tx]) forbidden(decoding error) *decision {
	switch {
	case t.def.Guarantee == AtMostOnce && t.op.Attempts > 1:
		return &decision{err: errors.New("an earlier attempt was begun and its end was not seen"), disposition: Unknown}
	case t.op.Attempts > t.def.Retry.attempts():
		return &decision{err: fmt.Errorf("%d attempts were begun and none ended", t.op.Attempts-1), disposition: Poison}
	case decoding != nil:
		return &decision{err: fmt.Errorf("what is stored no longer decodes: %w", decoding), disposition: Terminal}
	}
	return nil
}

// runSolo runs one claimed operation in a transaction of its own.
func (e *Engine[Tx]) runSolo(ctx context.Context, t *task[Tx]) {
	for {
		a := e.newAttempt(ctx, []*task[Tx]{t}, true)
		err := a.run()
		switch {
		case err != nil:
			e.resolve(ctx, a, err)
			return
		case a.spoiled < 0:
			return
		default:
			t.decided = &t.run.decision
		}
	}
}

// Cancel withdraws one of the caller's operations that has not run, or puts a
// dead letter aside. It returns [ErrIllegalMove] if the operation is running or
// done otherwise.
func (e *Engine[Tx]) Cancel(ctx context.Context, tenant, principal string, id ID) (*Operation, error) {
	if _, err := e.Operation(ctx, tenant, principal, id); err != nil {
		return nil, err
	}
	return e.change(ctx, id, func(op *Operation, session Session[Tx]) error {
		event, err := conclude(op, Canceled, session.Now(), e.window(op.Name))
		if err != nil {
			return err
		}
		op.Holds = false
		if err := session.Append(ctx, []*Event{event}); err != nil {
			return err
		}
		op.DonePosition = event.Position
		return nil
	})
}

// Replay sends a dead letter through the same door again: the operation is
// accepted anew, with its attempts restored. Its effect was never committed,
// so it cannot happen twice. It returns [ErrIllegalMove] if the operation has
// not failed.
func (e *Engine[Tx]) Replay(ctx context.Context, id ID) (*Operation, error) {
	return e.change(ctx, id, func(op *Operation, session Session[Tx]) error {
		if err := op.move(Accepted); err != nil {
			return err
		}
		op.Attempts, op.Code, op.Reason, op.Disposition = 0, "", "", ""
		op.DoneAt, op.DonePosition, op.DueAt = time.Time{}, 0, session.Now()
		return nil
	})
}

// change moves one stored operation outside a group.
func (e *Engine[Tx]) change(ctx context.Context, id ID, move func(*Operation, Session[Tx]) error) (*Operation, error) {
	session, err := e.store.Begin(ctx, false)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	defer session.Rollback()
	known, err := session.Lookup(ctx, []Lookup{{ID: id}})
	if err != nil {
		return nil, fmt.Errorf("%w: reading operation %s: %w", ErrUnavailable, id, err)
	}
	op := known[0].Operation
	if op == nil {
		return nil, fmt.Errorf("%w: operation %s", ErrNotFound, id)
	}
	was := Change{Operation: op, State: op.State, Epoch: op.Epoch}
	if err := move(op, session); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrIllegalMove, err)
	}
	op.Epoch++
	stored, err := session.Update(ctx, []Change{was})
	if err != nil {
		return nil, fmt.Errorf("%w: storing operation %s: %w", ErrUnavailable, id, err)
	}
	if !stored[0] {
		return nil, fmt.Errorf("%w: operation %s has changed", ErrFenced, id)
	}
	if err := session.Commit(ctx); err != nil {
		return nil, fmt.Errorf("%w: committing: %w", ErrOutcomeUnknown, err)
	}
	e.hub.tell([]*Operation{op})
	e.wakeFollowers()
	e.nudge()
	return op, nil
}
