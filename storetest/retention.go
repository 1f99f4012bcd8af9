package storetest

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/semel-dev/semel"
)

func retentionChecks[Tx any]() []check[Tx] {
	return []check[Tx]{
		{"retention/window", "after its window a key is refused and never run again, until its tombstone is forgotten", checkWindow[Tx]},
		{"retention/kept", "what is unfinished or failed is never cleaned up", checkKept[Tx]},
		{"retention/sweep", "clean-up goes through the operations in batches and ends at those too young", checkSweep[Tx]},
	}
}

func checkWindow[Tx any](ctx context.Context, s *stage[Tx]) error {
	o := setup[Tx]{engine: semel.Options{Window: 2 * s.lease, Tombstone: 10 * s.lease}}
	e, _, err := s.start(ctx, o)
	if err != nil {
		return err
	}
	modes := []string{plain, refuses}
	firsts := make(map[string]*semel.Operation)
	for _, mode := range modes {
		a, err := send(ctx, e, "k-"+mode, deposit{Account: "a", Cents: 1, Mode: mode})
		if err != nil {
			return err
		}
		firsts[mode] = a.Operation
	}
	if err := pause(ctx, s.lease); err != nil {
		return err
	}
	for _, mode := range modes {
		if err := repeats(ctx, e, command("k-"+mode, deposit{Account: "a", Cents: 1, Mode: mode}), firsts[mode]); err != nil {
			return fmt.Errorf("within the window: %w", err)
		}
	}
	expired := func(mode string) func() (bool, error) {
		return func() (bool, error) {
			_, err := s.store.Operation(ctx, firsts[mode].ID)
			if errors.Is(err, semel.ErrKeyExpired) {
				return true, nil
			}
			return false, err
		}
	}
	for _, mode := range modes {
		if err := s.until(ctx, "only a tombstone is left", expired(mode)); err != nil {
			return err
		}
		if early := time.Until(firsts[mode].ExpiresAt); early > 0 {
			return fmt.Errorf("mode %q: it expired %s early", mode, early)
		}
	}
	if err := s.reopen(ctx); err != nil {
		return err
	}
	if e, _, err = s.start(ctx, o); err != nil {
		return err
	}
	for time.Until(firsts[plain].ExpiresAt.Add(9*s.lease)) > 0 {
		for _, mode := range modes {
			for _, cents := range []int64{1, 2} {
				if _, err := send(ctx, e, "k-"+mode, deposit{Account: "a", Cents: cents, Mode: mode}); !errors.Is(err, semel.ErrKeyExpired) {
					return fmt.Errorf("mode %q, %s after the window: error is %v, want %w", mode, time.Since(firsts[mode].ExpiresAt), err, semel.ErrKeyExpired)
				}
			}
		}
		if err := pause(ctx, s.lease); err != nil {
			return err
		}
	}
	if err := errors.Join(s.effects(ctx, "k-", 1), s.sound(ctx, setup[Tx]{}, true)); err != nil {
		return err
	}
	return s.until(ctx, "the tombstone is forgotten", func() (bool, error) {
		_, err := s.store.Operation(ctx, firsts[plain].ID)
		if errors.Is(err, semel.ErrKeyExpired) {
			return false, nil
		}
		return errors.Is(err, semel.ErrNotFound), nil
	})
}

func checkKept[Tx any](ctx context.Context, s *stage[Tx]) error {
	o := setup[Tx]{
		engine:  semel.Options{Window: s.lease, Tombstone: s.lease},
		deposit: semel.HandleOptions{Park: true, Retry: semel.Retry{Attempts: 2, Wait: semel.Backoff{First: 20 * s.lease, Fixed: true}}},
	}
	e, _, err := s.start(ctx, o)
	if err != nil {
		return err
	}
	want := map[string]semel.State{"failed": semel.Failed, "parked": semel.Accepted, "waiting": semel.Waiting, "behind": semel.Accepted}
	for key, d := range map[string]deposit{
		"failed":  {Account: "a", Cents: 1, Mode: hopeless},
		"waiting": {Account: "b", Cents: 1, Mode: ill},
		"done":    {Account: "c", Cents: 1},
	} {
		if _, err := sendAsync(ctx, e, key, d); err != nil {
			return err
		}
	}
	if err := errors.Join(s.becomes(ctx, "failed", semel.Failed), s.becomes(ctx, "waiting", semel.Waiting), s.becomes(ctx, "done", semel.Completed)); err != nil {
		return err
	}
	for key, account := range map[string]string{"parked": "a", "behind": "b"} {
		if _, err := sendAsync(ctx, e, key, deposit{Account: account, Cents: 1}); err != nil {
			return err
		}
	}
	if err := pause(ctx, 6*s.lease); err != nil {
		return err
	}
	if _, err := s.store.Operation(ctx, command("done", deposit{}).ID()); !errors.Is(err, semel.ErrKeyExpired) && !errors.Is(err, semel.ErrNotFound) {
		return fmt.Errorf("nothing was cleaned up: error is %v", err)
	}
	for key, state := range want {
		if _, err := s.stored(ctx, key, state); err != nil {
			return err
		}
	}
	return nil
}

func checkSweep[Tx any](ctx context.Context, s *stage[Tx]) error {
	var ops []*semel.Operation
	start := time.Now().Truncate(time.Microsecond)
	for i := range 50 {
		op := s.operation(fmt.Sprint(i))
		op.State, op.DoneAt, op.DueAt, op.DonePosition = semel.Completed, start, time.Time{}, int64(i+1)
		op.AcceptedAt = start.Add(time.Duration(i) * time.Minute)
		op.ExpiresAt = op.AcceptedAt.Add(time.Hour)
		switch i % 5 {
		case 1:
			op.State, op.ExpiresAt, op.DonePosition = semel.Waiting, time.Time{}, 0
		case 2:
			op.State, op.ExpiresAt = semel.Failed, time.Time{}
		case 3:
			op.ExpiresAt = op.AcceptedAt.Add(10 * time.Hour) // another window
		}
		ops = append(ops, op)
	}
	if err := s.insert(ctx, ops...); err != nil {
		return err
	}
	// Halfway through: those of the first 30 minutes have expired.
	at := start.Add(time.Hour + 29*time.Minute + time.Second)
	sweep := semel.Sweep{Now: at, Limit: 7, Tombstone: time.Hour, Youngest: at.Add(-time.Hour)}
	expired, rounds, err := s.sweepAll(ctx, sweep)
	if err != nil {
		return err
	}
	if expired != 12 || rounds < 4 {
		return fmt.Errorf("%d operations expired in %d batches, want 12 in at least 4", expired, rounds)
	}
	for i, op := range ops {
		_, err := s.store.Operation(ctx, op.ID)
		gone := i < 30 && (i%5 == 0 || i%5 == 4)
		if gone && !errors.Is(err, semel.ErrKeyExpired) || !gone && err != nil {
			return fmt.Errorf("operation %d, %s: error is %v; is it to be gone: %t", i, op.State, err, gone)
		}
	}
	known, err := s.knows(ctx, ops[0].ID)
	if err != nil || !known.Expired || known.Operation != nil {
		return fmt.Errorf("looked up: expired %t (error: %v)", known.Expired, err)
	}
	if again, _, err := s.sweepAll(ctx, sweep); err != nil || again != 0 {
		return fmt.Errorf("%d operations expire again (error: %v)", again, err)
	}
	sweep.Now = at.Add(time.Hour + time.Second)
	sweep.Youngest = start.Add(-time.Hour)
	if _, _, err := s.sweepAll(ctx, sweep); err != nil {
		return err
	}
	for range 2 { // tombstones go in batches, too
		if _, _, err := s.sweepAll(ctx, sweep); err != nil {
			return err
		}
	}
	if _, err := s.store.Operation(ctx, ops[0].ID); !errors.Is(err, semel.ErrNotFound) {
		return fmt.Errorf("a tombstone past its time: error is %v, want %w", err, semel.ErrNotFound)
	}
	return nil
}

func (s *stage[Tx]) knows(ctx context.Context, id semel.ID) (known semel.Known, err error) {
	err = s.session(ctx, func(session semel.Session[Tx]) error {
		all, err := session.Lookup(ctx, []semel.Lookup{{ID: id}})
		if err == nil {
			known = all[0]
		}
		return err
	})
	return known, err
}

// sweepAll makes one pass in batches.
func (s *stage[Tx]) sweepAll(ctx context.Context, sweep semel.Sweep) (expired, rounds int, err error) {
	for rounds = 1; rounds < 100; rounds++ {
		var swept semel.Swept
		err = s.commit(ctx, func(session semel.Session[Tx]) error {
			swept, err = session.Sweep(ctx, sweep)
			return err
		})
		expired += swept.Expired
		switch {
		case err != nil || swept.End:
			return expired, rounds, err
		case swept.Expired > sweep.Limit || swept.Forgotten > sweep.Limit:
			return 0, 0, fmt.Errorf("a batch of %d had %d operations and %d tombstones", sweep.Limit, swept.Expired, swept.Forgotten)
		case swept.Last <= sweep.After:
			return 0, 0, fmt.Errorf("a batch after %d ended at %d", sweep.After, swept.Last)
		}
		sweep.After = swept.Last
	}
	return 0, 0, errors.New("a pass does not end")
}
