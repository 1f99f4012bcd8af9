package storetest

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/semel-dev/semel"
)

func projectionChecks[Tx any]() []check[Tx] {
	return []check[Tx]{
		{"projection/visible", "who is told completed finds the effect in every required projection", checkVisible[Tx]},
		{"projection/lag", "while a required projection lags, what it does not show is not completed", checkLag[Tx]},
		{"projection/solo", "the last of several projections to show an operation completes it", checkSeveral[Tx]},
		{"projection/optional", "an optional projection is not waited for, and catches up", checkOptional[Tx]},
		{"projection/fenced", "two engines that follow for one projection apply every event once", checkTwoFollowers[Tx]},
		{"projection/restart", "a projection goes on after a restart where its position stands", checkRestart[Tx]},
		{"projection/rebuild", "a projection that is rebuilt under load never shows less, and ends equal to a fold of the log", checkRebuild[Tx]},
	}
}

// project registers a required projection that writes one row for each event;
// trouble, if not nil, may fail it.
func (s *stage[Tx]) project(e *semel.Engine[Tx], name string, trouble func(m *semel.ReadModel[Tx], event semel.Event) error) {
	semel.Project(e, name, s.apply(name, trouble), &semel.ProjectOptions[Tx]{Tables: s.tablesOf(name), Create: s.create(name)})
}

// tablesOf names a projection's table if the store can keep generations apart.
func (s *stage[Tx]) tablesOf(name string) []string {
	if _, ok := s.store.(semel.Tables[Tx]); !ok {
		return nil
	}
	return []string{name}
}

func (s *stage[Tx]) create(name string) func(context.Context, *semel.ReadModel[Tx]) error {
	return func(ctx context.Context, m *semel.ReadModel[Tx]) error {
		_, err := s.Exec(ctx, m.Tx, `CREATE TABLE `+m.Table(name)+` (operation VARCHAR(255) NOT NULL, account VARCHAR(255) NOT NULL, cents BIGINT NOT NULL)`)
		return err
	}
}

func (s *stage[Tx]) apply(name string, trouble func(*semel.ReadModel[Tx], semel.Event) error) func(context.Context, *semel.ReadModel[Tx], semel.Event) error {
	return func(ctx context.Context, m *semel.ReadModel[Tx], event semel.Event) error {
		var d deposited
		if err := event.Decode(&d); err != nil {
			return err
		}
		// No key: an event that is applied twice shall show, not fail.
		if _, err := s.Exec(ctx, m.Tx, `INSERT INTO `+m.Table(name)+` (operation, account, cents) VALUES (?, ?, ?)`, event.Operation.String(), d.Account, d.Cents); err != nil {
			return err
		}
		if trouble != nil {
			return trouble(m, event)
		}
		return nil
	}
}

// shows compares how often a projection shows an operation.
func (s *stage[Tx]) shows(ctx context.Context, name, key string, want int64) error {
	if s.tablesOf(name) == nil {
		name += "_1"
	}
	err := s.same(ctx, want, `SELECT count(*) FROM `+name+` WHERE operation = ?`, command(key, deposit{}).ID().String())
	if err != nil {
		return fmt.Errorf("projection of %q: %w", key, err)
	}
	return nil
}

// caughtUp waits until every follower is at the end of the log.
func (s *stage[Tx]) caughtUp(ctx context.Context) error {
	return s.until(ctx, "all followers are at the end of the log", func() (bool, error) {
		head, err := s.store.Head(ctx)
		if err != nil {
			return false, err
		}
		followers, err := s.store.Followers(ctx)
		for _, f := range followers {
			if f.Position < head {
				return false, err
			}
		}
		return err == nil, err
	})
}

func checkVisible[Tx any](ctx context.Context, s *stage[Tx]) error {
	o := setup[Tx]{more: func(e *semel.Engine[Tx]) {
		semel.Handle(e, "alone", s.deposit, &semel.HandleOptions{Solo: true})
		s.project(e, "shown", nil)
		s.project(e, "again", nil)
	}}
	e, stop, err := s.start(ctx, o)
	if err != nil {
		return err
	}
	var sending sync.WaitGroup
	failures := make([]error, 48)
	for i := range failures {
		sending.Go(func() {
			c := command(fmt.Sprint(i), deposit{Account: fmt.Sprint("a-", i%6), Cents: 1, Mode: []string{plain, plain, rejects, flaky}[i%4]})
			if i%5 == 0 {
				c.Name = "alone"
			}
			a, err := e.Submit(ctx, c, semel.SubmitOptions{})
			want := int64(1)
			switch {
			case err != nil:
			case a.Operation.State == semel.Rejected:
				want = 0
			case a.Operation.State != semel.Completed:
				err = fmt.Errorf("%q is %s", c.Key, a.Operation.State)
			}
			for _, name := range []string{"shown", "again"} {
				err = errors.Join(err, s.same(ctx, want, `SELECT count(*) FROM `+name+`_1 WHERE operation = ?`, c.ID().String()))
			}
			failures[i] = err
		})
	}
	sending.Wait()
	if err := errors.Join(failures...); err != nil {
		return err
	}
	if err := errors.Join(s.caughtUp(ctx), stop()); err != nil {
		return err
	}
	return s.sound(ctx, o, true)
}

func checkLag[Tx any](ctx context.Context, s *stage[Tx]) error {
	var lagging atomic.Bool
	o := setup[Tx]{more: func(e *semel.Engine[Tx]) {
		s.project(e, "prompt", nil)
		s.project(e, "late", func(_ *semel.ReadModel[Tx], event semel.Event) error {
			if lagging.Load() && event.Subject == "bad" {
				return errIll
			}
			return nil
		})
	}}
	e, stop, err := s.start(ctx, o)
	if err != nil {
		return err
	}
	if _, err := expect(ctx, e, "before", deposit{Account: "good", Cents: 1}, semel.Completed); err != nil {
		return err
	}
	lagging.Store(true)
	keys := []string{"bad", "after", "last"}
	for _, key := range keys {
		a, err := e.Submit(ctx, command(key, deposit{Account: key, Cents: 1}), semel.SubmitOptions{Wait: s.lease / 2})
		if err != nil || a.Operation.State != semel.Executed {
			return fmt.Errorf("%q while its projection fails: %v (error: %v), want %s", key, a.Operation, err, semel.Executed)
		}
		if err := errors.Join(s.effects(ctx, key, 1), s.shows(ctx, "late", key, 0)); err != nil {
			return err
		}
	}
	open, err := s.store.Operations(ctx, semel.OperationQuery{Principal: "alice", Open: true})
	if err != nil || len(open) != len(keys) {
		return fmt.Errorf("%d operations are listed without an outcome (error: %v), want %d", len(open), err, len(keys))
	}
	lagging.Store(false)
	for _, key := range keys {
		if _, err := await(ctx, e, key, semel.Completed); err != nil {
			return err
		}
		if err := errors.Join(s.shows(ctx, "late", key, 1), s.shows(ctx, "prompt", key, 1)); err != nil {
			return err
		}
	}
	if err := errors.Join(s.caughtUp(ctx), stop()); err != nil {
		return err
	}
	return s.sound(ctx, o, true)
}

// checkSeveral sends one after another, so that nothing that comes later can
// complete what was forgotten.
func checkSeveral[Tx any](ctx context.Context, s *stage[Tx]) error {
	e, _, err := s.start(ctx, setup[Tx]{
		deposit: semel.HandleOptions{Solo: true},
		more: func(e *semel.Engine[Tx]) {
			for _, name := range []string{"one", "two", "three"} {
				s.project(e, name, nil)
			}
		},
	})
	if err != nil {
		return err
	}
	for i := range 25 {
		a, err := e.Submit(ctx, command(fmt.Sprint(i), deposit{Account: "a", Cents: 1}), semel.SubmitOptions{Wait: 2 * s.lease})
		if err != nil || a.Operation.State != semel.Completed {
			return fmt.Errorf("number %d after %s: %v (error: %v), want %s", i, 2*s.lease, a.Operation, err, semel.Completed)
		}
		for _, name := range []string{"one", "two", "three"} {
			if err := s.shows(ctx, name, fmt.Sprint(i), 1); err != nil {
				return err
			}
		}
	}
	return nil
}

func checkOptional[Tx any](ctx context.Context, s *stage[Tx]) error {
	var lagging atomic.Bool
	lagging.Store(true)
	o := setup[Tx]{more: func(e *semel.Engine[Tx]) {
		s.project(e, "shown", nil)
		semel.Project(e, "extra", s.apply("extra", func(*semel.ReadModel[Tx], semel.Event) error {
			if lagging.Load() {
				return errIll
			}
			return nil
		}), &semel.ProjectOptions[Tx]{Optional: true, Tables: s.tablesOf("extra"), Create: s.create("extra")})
	}}
	e, stop, err := s.start(ctx, o)
	if err != nil {
		return err
	}
	for i := range 10 {
		key := fmt.Sprint(i)
		if _, err := expect(ctx, e, key, deposit{Account: "a", Cents: 1}, semel.Completed); err != nil {
			return err
		}
		if err := errors.Join(s.shows(ctx, "shown", key, 1), s.shows(ctx, "extra", key, 0)); err != nil {
			return err
		}
	}
	lagging.Store(false)
	if err := errors.Join(s.caughtUp(ctx), s.shows(ctx, "extra", "9", 1), stop()); err != nil {
		return err
	}
	return s.sound(ctx, o, true)
}

func checkTwoFollowers[Tx any](ctx context.Context, s *stage[Tx]) error {
	o := setup[Tx]{deposit: semel.HandleOptions{Solo: true}, more: func(e *semel.Engine[Tx]) { s.project(e, "shown", nil) }}
	var engines [2]*semel.Engine[Tx]
	for i := range engines {
		var err error
		if engines[i], _, err = s.start(ctx, o); err != nil {
			return err
		}
		o.deposit.Solo = false
	}
	for i := range 40 {
		if _, err := sendAsync(ctx, engines[i*7%11%2], fmt.Sprint(i), deposit{Account: "a", Cents: 1}); err != nil {
			return err
		}
	}
	for i := range 40 {
		if err := s.becomes(ctx, fmt.Sprint(i), semel.Completed); err != nil {
			return err
		}
		if err := s.shows(ctx, "shown", fmt.Sprint(i), 1); err != nil {
			return err
		}
	}
	if err := errors.Join(s.caughtUp(ctx), s.reopen(ctx)); err != nil {
		return err
	}
	return s.sound(ctx, o, true)
}

func checkRestart[Tx any](ctx context.Context, s *stage[Tx]) error {
	var lagging atomic.Bool
	o := setup[Tx]{more: func(e *semel.Engine[Tx]) {
		s.project(e, "shown", func(*semel.ReadModel[Tx], semel.Event) error {
			if lagging.Load() {
				return errIll
			}
			return nil
		})
	}}
	for round := range 3 {
		e, _, err := s.start(ctx, o)
		if err != nil {
			return err
		}
		for i := range 5 {
			lagging.Store(round < 2 && i >= 3)
			key := fmt.Sprint(round, "-", i)
			if _, err := e.Submit(ctx, command(key, deposit{Account: "a", Cents: 1}), semel.SubmitOptions{Wait: s.lease / 4}); err != nil {
				return err
			}
		}
		if round == 2 {
			break
		}
		if _, err := s.stored(ctx, fmt.Sprint(round, "-", 4), semel.Executed); err != nil {
			return err
		}
		if err := s.reopen(ctx); err != nil {
			return err
		}
	}
	for _, key := range []string{"0-4", "1-0", "1-4", "2-4"} {
		if err := errors.Join(s.becomes(ctx, key, semel.Completed), s.shows(ctx, "shown", key, 1)); err != nil {
			return err
		}
	}
	if err := errors.Join(s.caughtUp(ctx), s.reopen(ctx)); err != nil {
		return err
	}
	return s.sound(ctx, o, true)
}

func checkRebuild[Tx any](ctx context.Context, s *stage[Tx]) error {
	var broken atomic.Bool
	o := setup[Tx]{more: func(e *semel.Engine[Tx]) {
		semel.Handle(e, "alone", s.deposit, &semel.HandleOptions{Solo: true})
		s.project(e, "shown", func(m *semel.ReadModel[Tx], _ semel.Event) error {
			if broken.Load() && m.Generation == 2 {
				return errIll
			}
			return nil
		})
	}}
	e, stop, err := s.start(ctx, o)
	if err != nil {
		return err
	}
	if s.tablesOf("shown") == nil {
		if err := e.Rebuild(ctx, "shown", nil); err == nil {
			return errors.New("a store without tables rebuilds a projection")
		}
		return nil
	}
	if _, err := expect(ctx, e, "first", deposit{Account: "a", Cents: 1}, semel.Completed); err != nil {
		return err
	}
	broken.Store(true)
	if err := e.Rebuild(ctx, "shown", nil); err == nil {
		return errors.New("a rebuild whose projection fails succeeds")
	}
	broken.Store(false)
	if err := s.shows(ctx, "shown", "first", 1); err != nil {
		return fmt.Errorf("after a rebuild that failed: %w", err)
	}
	if err := s.rebuildUnderLoad(ctx, e); err != nil {
		return err
	}
	if err := errors.Join(s.caughtUp(ctx), stop()); err != nil {
		return err
	}
	head, err := s.store.Head(ctx)
	if err != nil {
		return err
	}
	return errors.Join(s.stands(ctx, semel.Follower{Name: "shown", Generation: 5, Position: head, Live: true}), s.sound(ctx, o, true))
}

// rebuildUnderLoad writes, reads and rebuilds three times at once.
func (s *stage[Tx]) rebuildUnderLoad(ctx context.Context, e *semel.Engine[Tx]) error {
	var working sync.WaitGroup
	failures := make([]error, 4)
	written := make(chan struct{})
	for w := range failures {
		working.Go(func() {
			shown := int64(0)
			for i := 0; i < 25 && failures[w] == nil; i++ {
				c := command(fmt.Sprint(w, "-", i), deposit{Account: fmt.Sprint("a-", w), Cents: 1})
				if i%4 == 0 {
					c.Name = "alone"
				}
				a, err := e.Submit(ctx, c, semel.SubmitOptions{})
				if err == nil && a.Operation.State != semel.Completed {
					err = fmt.Errorf("%q is %s", c.Key, a.Operation.State)
				}
				n, read := s.number(ctx, `SELECT count(*) FROM shown WHERE account = ?`, fmt.Sprint("a-", w))
				if read == nil && (n < shown || n < int64(i+1)) {
					read = fmt.Errorf("the projection shows %d deposits after %d and %d completed ones", n, shown, i+1)
				}
				shown, failures[w] = n, errors.Join(err, read)
			}
		})
	}
	go func() { working.Wait(); close(written) }()
	var rebuilt error
	for range 3 {
		last := semel.Progress{}
		rebuilt = errors.Join(rebuilt, e.Rebuild(ctx, "shown", func(p semel.Progress) {
			if p.Position < last.Position {
				rebuilt = errors.Join(rebuilt, fmt.Errorf("progress goes from %d to %d", last.Position, p.Position))
			}
			last = p
		}))
	}
	<-written
	return errors.Join(append(failures, rebuilt)...)
}
