package semel

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"runtime/debug"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/semel-dev/semel/internal/crashpoint"
)

// followBatch is the most events that a follower applies in one transaction.
const followBatch = 256

// A follower reads the log for one projection.
type follower[Tx any] struct {
	*projection[Tx]
	wake  chan struct{}
	shown atomic.Int64 // the committed position, for those who do not hold mu

	// mu is held by whoever applies events, from reading the position until
	// the commit that moves it.
	mu         sync.Mutex
	generation int
	position   int64
	// stuck keeps groups from carrying this projection along after it has
	// failed, until it has caught up by itself.
	stuck bool
}

func (f *follower[Tx]) advanced(position int64) {
	f.position = position
	f.shown.Store(position)
}

// errProjection: a projection failed inside a group. The group is run again
// without it; the projection's trouble must not become the commands'.
var errProjection = errors.New("semel: projection failed")

// fuse applies the group's events to all required projections within the
// group's own transaction, and reports whether they then show everything. It
// can only do so where positions are given at once and each of them stands
// right before this group's first event.
func (a *attempt[Tx]) fuse() (shown bool, err error) {
	required := 0
	for _, f := range a.followers {
		if !f.Optional {
			required++
		}
	}
	if required == 0 || len(a.log) == 0 {
		return true, nil
	}
	if a.solo || !a.store.Capabilities().PositionsAtCommit {
		// A solo handler may have effects elsewhere: it is not called again
		// because of a projection.
		return false, nil
	}
	for _, f := range a.followers {
		if f.Optional {
			continue
		}
		if !f.mu.TryLock() {
			a.release()
			return false, nil
		}
		a.fused = append(a.fused, f)
		if f.stuck || f.position != a.log[0].Position-1 {
			a.release()
			return false, nil
		}
	}
	return true, a.project()
}

func (a *attempt[Tx]) project() error {
	events := make([]Event, len(a.log))
	for i, event := range a.log {
		events[i] = *event
	}
	last := events[len(events)-1].Position
	for _, f := range a.fused {
		if _, err := f.project(a.ctx, a.session.Tx(), events); err != nil {
			f.stuck = true
			a.options.Logger.Warn("projection lags behind", slog.String("projection", f.name), slog.Any("error", err))
			return fmt.Errorf("%w: %w", errProjection, err)
		}
		if err := a.session.Follow(a.ctx, f.at(last), f.position); err != nil {
			f.stuck = true
			return fmt.Errorf("%w: moving %s: %w", errProjection, f.name, err)
		}
	}
	return nil
}

// release lets the followers go on by themselves.
func (a *attempt[Tx]) release() {
	for _, f := range a.fused {
		f.mu.Unlock()
	}
	a.fused = nil
}

func (f *follower[Tx]) at(position int64) Follower {
	return Follower{Name: f.name, Generation: f.generation, Position: position, Live: true}
}

// project applies events in order and returns how many it could.
func (f *follower[Tx]) project(ctx context.Context, tx Tx, events []Event) (int, error) {
	return f.projection.project(ctx, &ReadModel[Tx]{Tx: tx, Generation: f.generation}, events)
}

func (p *projection[Tx]) project(ctx context.Context, m *ReadModel[Tx], events []Event) (int, error) {
	for i, event := range events {
		if !p.wants(event.Name) {
			continue
		}
		if err := p.applySafely(ctx, m, event); err != nil {
			return i, fmt.Errorf("projection %s: event %d (%s): %w", p.name, event.Position, event.Name, err)
		}
	}
	return len(events), nil
}

func (p *projection[Tx]) applySafely(ctx context.Context, m *ReadModel[Tx], event Event) (err error) {
	defer func() {
		if v := recover(); v != nil {
			err = &panicError{v, debug.Stack()}
		}
	}()
	return p.apply(ctx, m, event)
}

func (e *Engine[Tx]) wakeFollowers() {
	for _, f := range e.followers {
		f.nudge()
	}
}

func (f *follower[Tx]) nudge() {
	select {
	case f.wake <- struct{}{}:
	default:
	}
}

// followPoll is how often a follower looks without being woken: other
// processes may write to the same store.
const followPoll = 5 * time.Second

// followUntil keeps one projection up to date until ctx ends.
func (e *Engine[Tx]) followUntil(ctx context.Context, f *follower[Tx]) {
	backoff := Backoff{First: 50 * time.Millisecond, Most: 15 * time.Second}
	poll := time.NewTicker(followPoll)
	defer poll.Stop()
	for failures := 0; ; {
		n, err := e.follow(ctx, f)
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			failures++
			e.log.Error("projection stopped", slog.String("projection", f.name),
				slog.Int64("position", f.shown.Load()), slog.Int("failures", failures), slog.Any("error", err))
			if pause(ctx, backoff.Wait(failures)) {
				return
			}
			continue
		case n > 0:
			failures = 0
			continue
		}
		select {
		case <-f.wake:
		case <-poll.C:
		case <-ctx.Done():
			return
		}
	}
}

// drainPatience is how long followers may take to catch up when the engine
// ends; what is left then, the next run does.
const drainPatience = 5 * time.Second

// catchUp brings all projections to the end of the log. Completing operations
// adds to the log, so it goes around until nothing moves.
func (e *Engine[Tx]) catchUp(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, drainPatience)
	defer cancel()
	for moved := true; moved && ctx.Err() == nil; {
		moved = false
		for _, f := range e.followers {
			n, err := e.follow(ctx, f)
			if err != nil {
				e.log.Warn("projection ends behind the log", slog.String("projection", f.name),
					slog.Int64("position", f.shown.Load()), slog.Any("error", err))
				continue
			}
			moved = moved || n > 0
		}
	}
}

// follow applies one batch and returns the number of events it passed.
func (e *Engine[Tx]) follow(ctx context.Context, f *follower[Tx]) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	events, err := e.store.Events(ctx, f.position, followBatch)
	if err != nil {
		return 0, fmt.Errorf("reading the log: %w", err)
	}
	if len(events) == 0 {
		f.stuck = false
		return 0, e.completeBehind(ctx)
	}
	passed, err := e.followBatch(ctx, f, events)
	if errors.Is(err, ErrFenced) {
		return 0, errors.Join(err, e.reload(ctx, f))
	}
	if err != nil && passed > 0 {
		// What comes before the bad event need not wait for it.
		if _, again := e.followBatch(ctx, f, events[:passed]); again != nil {
			return 0, errors.Join(err, again)
		}
	}
	return passed, err
}

// followBatch applies events and moves the position in one transaction. On an
// error nothing is committed, and it returns how many events could be applied.
func (e *Engine[Tx]) followBatch(ctx context.Context, f *follower[Tx], events []Event) (int, error) {
	ctx = context.WithoutCancel(ctx) // a batch that has begun is finished
	session, err := e.store.Begin(ctx, false)
	if err != nil {
		return 0, err
	}
	defer func() { session.Rollback() }()
	last := events[len(events)-1].Position
	if session, err = e.teethPositionFirst(ctx, session, f, last); err != nil {
		return 0, err
	}
	if n, err := f.project(ctx, session.Tx(), events); err != nil {
		return n, err
	}
	if session, err = e.teethPositionLast(ctx, session); err != nil {
		return 0, err
	}
	if err := session.Follow(ctx, f.at(last), f.position); err != nil && !crashpoint.Broken("position-first") {
		return 0, fmt.Errorf("moving %s from %d to %d: %w", f.name, f.position, last, err)
	}
	var told []*Operation
	if !f.Optional {
		if told, err = e.completeUpTo(ctx, session, min(last, e.shownBut(f))); err != nil {
			return 0, err
		}
	}
	crashpoint.Here(crashpoint.BeforeProjection)
	if err := session.Commit(ctx); err != nil {
		return 0, errors.Join(fmt.Errorf("committing: %w", err), e.reload(ctx, f))
	}
	crashpoint.Here(crashpoint.AfterProjection)
	e.stats.commits.Add(1)
	f.advanced(last)
	e.hub.tell(told)
	if len(told) > 0 {
		e.wakeFollowers() // completions are events too
	}
	return len(events), nil
}

// shownBut returns how far all required projections but f are.
func (e *Engine[Tx]) shownBut(f *follower[Tx]) int64 {
	shown := int64(math.MaxInt64)
	for _, other := range e.followers {
		if other != f && !other.Optional {
			shown = min(shown, other.shown.Load())
		}
	}
	return shown
}

// completeBehind completes what no batch could: two followers that move at the
// same time may each not yet see the other's new position.
func (e *Engine[Tx]) completeBehind(ctx context.Context) error {
	shown := e.shownBut(nil)
	if shown <= e.completed.Load() {
		return nil
	}
	if err := e.completeLeftOver(ctx); err != nil {
		return err
	}
	e.completed.Store(shown)
	return nil
}

// completeUpTo completes the operations that every required projection shows.
func (e *Engine[Tx]) completeUpTo(ctx context.Context, session Session[Tx], position int64) ([]*Operation, error) {
	ops, err := session.Executed(ctx, position, followBatch)
	if err != nil || len(ops) == 0 {
		return nil, err
	}
	events := make([]*Event, len(ops))
	changes := make([]Change, len(ops))
	for i, op := range ops {
		if events[i], err = conclude(op, Completed, session.Now(), e.window(op.Name)); err != nil {
			return nil, err
		}
		changes[i] = Change{Operation: op, State: Executed, Epoch: op.Epoch}
	}
	if err := session.Append(ctx, events); err != nil {
		return nil, fmt.Errorf("appending completions: %w", err)
	}
	for i, op := range ops {
		op.DonePosition = events[i].Position
	}
	stored, err := session.Update(ctx, changes)
	if err != nil {
		return nil, fmt.Errorf("completing operations: %w", err)
	}
	if slices.Contains(stored, false) {
		return nil, fmt.Errorf("completing operations: %w", ErrFenced)
	}
	return ops, nil
}

// reload reads a follower's position anew: another process owns it, or a
// commit's end was not seen.
func (e *Engine[Tx]) reload(ctx context.Context, f *follower[Tx]) error {
	stored, err := e.store.Followers(ctx)
	if err != nil {
		return fmt.Errorf("reading followers: %w", err)
	}
	for _, s := range stored {
		if s.Name == f.name && s.Live {
			f.generation = s.Generation
			f.advanced(s.Position)
		}
	}
	return nil
}

// openFollowers finds or makes the live generation of every projection, and
// completes what waits for a projection that is no longer required.
func (e *Engine[Tx]) openFollowers(ctx context.Context) error {
	stored, err := e.store.Followers(ctx)
	if err != nil {
		return fmt.Errorf("reading followers: %w", err)
	}
	e.followers = nil
	for _, p := range e.projections {
		f := &follower[Tx]{projection: p, wake: make(chan struct{}, 1)}
		last := 0
		for _, s := range stored {
			if s.Name != p.name {
				continue
			}
			last = max(last, s.Generation)
			if s.Live {
				f.generation = s.Generation
				f.advanced(s.Position)
			}
		}
		if f.generation == 0 {
			f.generation = last + 1
			if err := e.create(ctx, f); err != nil {
				return fmt.Errorf("creating projection %s: %w", p.name, err)
			}
		}
		e.followers = append(e.followers, f)
	}
	return e.completeLeftOver(ctx)
}

func (e *Engine[Tx]) create(ctx context.Context, f *follower[Tx]) error {
	session, err := e.store.Begin(ctx, false)
	if err != nil {
		return err
	}
	defer session.Rollback()
	if err := e.createTables(ctx, session.Tx(), f.projection, f.generation); err != nil {
		return err
	}
	if err := e.point(ctx, session.Tx(), f.projection, f.generation); err != nil {
		return err
	}
	if err := session.Follow(ctx, f.at(0), 0); err != nil {
		return err
	}
	return session.Commit(ctx)
}

// completeLeftOver completes whatever all required projections show.
func (e *Engine[Tx]) completeLeftOver(ctx context.Context) error {
	ctx = context.WithoutCancel(ctx)
	for {
		session, err := e.store.Begin(ctx, false)
		if err != nil {
			return err
		}
		ops, err := e.completeUpTo(ctx, session, e.shownBut(nil))
		if err == nil && len(ops) > 0 {
			err = session.Commit(ctx)
		}
		session.Rollback()
		if err != nil || len(ops) == 0 {
			return err
		}
		e.hub.tell(ops)
		e.wakeFollowers()
	}
}
