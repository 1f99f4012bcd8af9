package semel

import (
	"context"
	"errors"
	"fmt"
	"slices"
)

// Progress tells how far a rebuild is.
type Progress struct {
	Projection string
	Generation int
	Position   int64 // events passed
	Head       int64 // events in the log
}

// createTables makes a generation's tables.
func (e *Engine[Tx]) createTables(ctx context.Context, tx Tx, p *projection[Tx], generation int) error {
	if p.Create == nil {
		return nil
	}
	if err := p.Create(ctx, &ReadModel[Tx]{Tx: tx, Generation: generation}); err != nil {
		return fmt.Errorf("creating tables of generation %d: %w", generation, err)
	}
	return nil
}

// tables returns the store's power to keep generations apart.
func (e *Engine[Tx]) tables() (Tables[Tx], bool) {
	t, ok := e.store.(Tables[Tx])
	return t, ok
}

// point makes the plain names show one generation.
func (e *Engine[Tx]) point(ctx context.Context, tx Tx, p *projection[Tx], generation int) error {
	if len(p.Tables) == 0 {
		return nil
	}
	tables, ok := e.tables()
	if !ok {
		return errors.New("the store cannot keep read models with tables of their own")
	}
	m := ReadModel[Tx]{Generation: generation}
	for _, name := range p.Tables {
		if err := tables.Point(ctx, tx, name, m.Table(name)); err != nil {
			return fmt.Errorf("pointing %s to generation %d: %w", name, generation, err)
		}
	}
	return nil
}

// drop removes a generation's tables.
func (e *Engine[Tx]) drop(ctx context.Context, tx Tx, p *projection[Tx], generation int) error {
	tables, ok := e.tables()
	if !ok {
		return nil
	}
	m := ReadModel[Tx]{Generation: generation}
	for _, name := range p.Tables {
		if err := tables.Drop(ctx, tx, m.Table(name)); err != nil {
			return fmt.Errorf("dropping %s: %w", m.Table(name), err)
		}
	}
	return nil
}

// Rebuild folds the whole log into a new generation of a projection's tables
// beside the live one, which goes on being read and kept up to date, and
// switches when it has caught up. Progress, if not nil, is called after every
// batch. A rebuild that is broken off leaves the live generation alone; its
// half-built tables are dropped by the next one. Only one rebuild of a
// projection may run at a time; a second one fails with [ErrFenced].
func (e *Engine[Tx]) Rebuild(ctx context.Context, name string, progress func(Progress)) error {
	i := slices.IndexFunc(e.followers, func(f *follower[Tx]) bool { return f.name == name })
	if i < 0 {
		return fmt.Errorf("semel: there is no projection %q, or the engine has not run", name)
	}
	f := e.followers[i]
	if len(f.Tables) == 0 {
		return fmt.Errorf("semel: projection %q does not name its tables, so it cannot be rebuilt beside the live one", name)
	}
	next, err := e.beginGeneration(ctx, f)
	if err != nil {
		return fmt.Errorf("rebuilding %s: %w", name, err)
	}
	for position := int64(0); ; {
		moved, done, err := e.build(ctx, f, next, position)
		if err != nil {
			return fmt.Errorf("rebuilding %s, generation %d, from position %d: %w", name, next, position, err)
		}
		position = moved
		if progress != nil {
			head, _ := e.store.Head(ctx) // only to show
			progress(Progress{Projection: name, Generation: next, Position: position, Head: max(head, position)})
		}
		if done {
			return e.completeLeftOver(ctx) // what waited for this projection
		}
	}
}

// beginGeneration drops what earlier rebuilds left and starts the next number,
// which fences them: their position is gone.
func (e *Engine[Tx]) beginGeneration(ctx context.Context, f *follower[Tx]) (int, error) {
	stored, err := e.store.Followers(ctx)
	if err != nil {
		return 0, err
	}
	f.mu.Lock() // Promote below must not meet a batch of the live generation
	defer f.mu.Unlock()
	session, err := e.store.Begin(ctx, false)
	if err != nil {
		return 0, err
	}
	defer session.Rollback()
	next := f.generation
	for _, s := range stored {
		if s.Name != f.name {
			continue
		}
		next = max(next, s.Generation)
		if !s.Live {
			if err := e.drop(ctx, session.Tx(), f.projection, s.Generation); err != nil {
				return 0, err
			}
		}
	}
	next++
	if err := session.Promote(ctx, f.name, f.generation); err != nil {
		return 0, err
	}
	if err := e.createTables(ctx, session.Tx(), f.projection, next); err != nil {
		return 0, err
	}
	if err := session.Follow(ctx, Follower{Name: f.name, Generation: next}, 0); err != nil {
		return 0, err
	}
	return next, session.Commit(ctx)
}

// build applies one batch to the new generation. The batch that reaches the
// head holds the live follower and the right to write, so that nothing can be
// added before the switch.
func (e *Engine[Tx]) build(ctx context.Context, f *follower[Tx], generation int, from int64) (to int64, done bool, err error) {
	events, err := e.store.Events(ctx, from, followBatch)
	if err != nil {
		return from, false, err
	}
	last := len(events) < followBatch
	if last {
		f.mu.Lock()
		defer f.mu.Unlock()
	}
	session, err := e.store.Begin(ctx, false)
	if err != nil {
		return from, false, err
	}
	defer session.Rollback()
	if last { // read again: now nobody else can append
		if events, err = e.store.Events(ctx, from, followBatch); err != nil {
			return from, false, err
		}
		last = len(events) < followBatch
	}
	to = from
	if len(events) > 0 {
		to = events[len(events)-1].Position
	}
	m := &ReadModel[Tx]{Tx: session.Tx(), Generation: generation}
	if _, err := f.projection.project(ctx, m, events); err != nil {
		return from, false, err
	}
	next := Follower{Name: f.name, Generation: generation, Position: to}
	if to > from {
		if err := session.Follow(ctx, next, from); err != nil {
			return from, false, err
		}
	}
	if last {
		if err := e.switchTo(ctx, session, f, generation); err != nil {
			return from, false, err
		}
	}
	if err := session.Commit(ctx); err != nil {
		return from, false, fmt.Errorf("committing: %w", err)
	}
	e.stats.commits.Add(1)
	if last {
		f.generation = generation
		f.stuck = false
		f.advanced(to)
	}
	return to, last, nil
}

func (e *Engine[Tx]) switchTo(ctx context.Context, session Session[Tx], f *follower[Tx], generation int) error {
	if err := e.point(ctx, session.Tx(), f.projection, generation); err != nil {
		return err
	}
	if err := session.Promote(ctx, f.name, generation); err != nil {
		return err
	}
	return e.drop(ctx, session.Tx(), f.projection, f.generation)
}
