package storetest

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"time"

	"github.com/semel-dev/semel"
)

func failureChecks[Tx any]() []check[Tx] {
	return []check[Tx]{
		{"failure/isolated", "a member of a group that fails, panics or is rejected leaves no trace, and the others commit", checkIsolated[Tx]},
		{"failure/retry", "a failed attempt is repeated as the policy for its class says", checkRetry[Tx]},
		{"failure/exhausted", "when the attempts are used up the operation is a dead letter, and is kept", checkExhausted[Tx]},
		{"failure/replay", "a replayed dead letter takes effect once", checkReplay[Tx]},
		{"failure/at-most-once", "an at-most-once handler whose end was not seen is never called again", checkAtMostOnce[Tx]},
		{"failure/at-least-once", "an at-least-once handler is called until it succeeds", checkAtLeastOnce[Tx]},
	}
}

func checkIsolated[Tx any](ctx context.Context, s *stage[Tx]) error {
	e, _, err := s.start(ctx, setup[Tx]{deposit: semel.HandleOptions{Retry: semel.Retry{Attempts: 1}}})
	if err != nil {
		return err
	}
	// While the first one is at the gate, the others gather for one group.
	modes := []string{gated, plain, rejects, plain, fails, refuses, plain, panics, plain, hopeless, quiet, plain}
	want := map[string]semel.State{rejects: semel.Rejected, refuses: semel.Rejected, fails: semel.Failed, panics: semel.Failed, hopeless: semel.Failed}
	var sending sync.WaitGroup
	failures := make([]error, 2*len(modes))
	for i := range failures {
		mode := modes[i%len(modes)]
		account := "own-" + strconv.Itoa(i)
		if i >= len(modes) { // some that share an account with one that fails
			account = "shared-" + strconv.Itoa(i%3)
		}
		state, ok := want[mode]
		if !ok {
			state = semel.Completed
		}
		sending.Go(func() {
			_, failures[i] = expect(ctx, e, strconv.Itoa(i), deposit{Account: account, Cents: 1, Mode: mode}, state)
		})
		if i == 0 {
			<-s.paused
		}
	}
	if err := pause(ctx, s.tick); err != nil {
		return err
	}
	s.release()
	sending.Wait()
	if err := errors.Join(failures...); err != nil {
		return err
	}
	total := int64(0)
	for i := range failures {
		effects := int64(1)
		if _, bad := want[modes[i%len(modes)]]; bad {
			effects = 0
		}
		total += effects
		if err := s.effects(ctx, strconv.Itoa(i), effects); err != nil {
			return err
		}
	}
	poison, err := s.stored(ctx, "7", semel.Failed)
	if err != nil {
		return err
	}
	terminal, err := s.stored(ctx, "9", semel.Failed)
	if err != nil {
		return err
	}
	if poison.Disposition != semel.Poison || terminal.Disposition != semel.Terminal {
		return fmt.Errorf("dispositions are %q and %q, want %q and %q", poison.Disposition, terminal.Disposition, semel.Poison, semel.Terminal)
	}
	return errors.Join(s.same(ctx, total, `SELECT sum(cents) FROM accounts`), s.sound(ctx, setup[Tx]{}, true))
}

func checkRetry[Tx any](ctx context.Context, s *stage[Tx]) error {
	wait := s.lease / 2
	for _, solo := range []bool{false, true} {
		e, stop, err := s.start(ctx, setup[Tx]{deposit: semel.HandleOptions{Solo: solo, Retry: semel.Retry{
			Wait:    semel.Backoff{First: wait, Fixed: true},
			ByClass: map[semel.Class]semel.Backoff{semel.ClassConflict: {First: -1}},
		}}})
		if err != nil {
			return err
		}
		for _, tt := range []struct {
			mode string
			wait time.Duration
		}{{twice, 2 * wait}, {conflict, 0}} {
			key := fmt.Sprint(tt.mode, solo)
			a, err := expect(ctx, e, key, deposit{Account: key, Cents: 1, Mode: tt.mode}, semel.Completed)
			if err != nil {
				return err
			}
			if calls := s.callsOf(key); calls != 3 || a.Operation.Attempts != 3 {
				return fmt.Errorf("%q was called %d times, and counts %d attempts, want 3", key, calls, a.Operation.Attempts)
			}
			if took := a.Operation.ExecutedAt.Sub(a.Operation.AcceptedAt); took < tt.wait || took > tt.wait+wait {
				return fmt.Errorf("%q took %s, want %s", key, took, tt.wait)
			}
			if err := s.effects(ctx, key, 1); err != nil {
				return err
			}
		}
		if err := stop(); err != nil {
			return err
		}
	}
	return nil
}

func checkExhausted[Tx any](ctx context.Context, s *stage[Tx]) error {
	o := setup[Tx]{
		engine:  semel.Options{Window: s.lease, Tombstone: s.lease},
		deposit: semel.HandleOptions{Retry: semel.Retry{Attempts: 3, Wait: semel.Backoff{First: s.tick, Fixed: true}}},
	}
	e, _, err := s.start(ctx, o)
	if err != nil {
		return err
	}
	first, err := expect(ctx, e, "k", deposit{Account: "a", Cents: 1, Mode: fails}, semel.Failed)
	if err != nil {
		return err
	}
	if op := first.Operation; op.Disposition != semel.Exhausted || op.Attempts != 3 || s.callsOf("k") != 3 || op.Reason != errIll.Error() {
		return fmt.Errorf("%s after %d attempts and %d calls: %s", op.Disposition, op.Attempts, s.callsOf("k"), op.Reason)
	}
	// It did not hold its subject up.
	if _, err := expect(ctx, e, "next", deposit{Account: "a", Cents: 1}, semel.Completed); err != nil {
		return err
	}
	if err := s.until(ctx, "the window has passed", func() (bool, error) {
		_, err := s.store.Operation(ctx, command("next", deposit{}).ID())
		if errors.Is(err, semel.ErrKeyExpired) || errors.Is(err, semel.ErrNotFound) {
			return true, nil
		}
		return false, err
	}); err != nil {
		return err
	}
	if err := s.reopen(ctx); err != nil {
		return err
	}
	kept, err := s.stored(ctx, "k", semel.Failed)
	if err != nil {
		return err
	}
	if err := difference(kept, first.Operation); err != nil {
		return err
	}
	letters, err := s.store.Operations(ctx, semel.OperationQuery{All: true, State: semel.Failed})
	if err != nil || len(letters) != 1 {
		return fmt.Errorf("%d dead letters are listed (error: %v), want 1", len(letters), err)
	}
	return s.effects(ctx, "k", 0)
}

func checkReplay[Tx any](ctx context.Context, s *stage[Tx]) error {
	e, _, err := s.start(ctx, setup[Tx]{deposit: semel.HandleOptions{Retry: semel.Retry{Attempts: 2, Wait: semel.Backoff{First: 10 * s.tick, Fixed: true}}}})
	if err != nil {
		return err
	}
	d := deposit{Account: "a", Cents: 1, Mode: ill}
	if _, err := expect(ctx, e, "k", d, semel.Failed); err != nil {
		return err
	}
	id := command("k", d).ID()
	// In vain the first time, with all its attempts.
	for round, want := range []semel.State{semel.Failed, semel.Completed} {
		s.heal(want == semel.Completed)
		if _, err := e.Replay(ctx, id); err != nil {
			return fmt.Errorf("replay %d: %w", round, err)
		}
		if _, err := await(ctx, e, "k", want); err != nil {
			return fmt.Errorf("replay %d: %w", round, err)
		}
	}
	if calls := s.callsOf("k"); calls != 5 {
		return fmt.Errorf("the handler was called %d times, want 2 and 2 and 1", calls)
	}
	done, err := s.stored(ctx, "k", semel.Completed)
	if err != nil {
		return err
	}
	if _, err := e.Replay(ctx, id); !errors.Is(err, semel.ErrIllegalMove) {
		return fmt.Errorf("replaying a completed operation: error is %v, want %w", err, semel.ErrIllegalMove)
	}
	if _, err := e.Replay(ctx, command("absent", d).ID()); !errors.Is(err, semel.ErrNotFound) {
		return fmt.Errorf("replaying an absent operation: error is %v, want %w", err, semel.ErrNotFound)
	}
	// One that fails again is still tried again, and is in nobody's way.
	s.heal(false)
	twin := deposit{Account: "b", Cents: 1, Mode: ill}
	if _, err := expect(ctx, e, "twin", twin, semel.Failed); err != nil {
		return err
	}
	if _, err := e.Replay(ctx, command("twin", twin).ID()); err != nil {
		return err
	}
	if err := s.until(ctx, "the replay has failed once", func() (bool, error) { return s.callsOf("twin") == 3, nil }); err != nil {
		return err
	}
	s.heal(true)
	if _, err := await(ctx, e, "twin", semel.Completed); err != nil {
		return err
	}
	if _, err := expect(ctx, e, "after", deposit{Account: "b", Cents: 1}, semel.Completed); err != nil {
		return err
	}
	return errors.Join(repeats(ctx, e, command("k", d), done), s.effects(ctx, "k", 1), s.effects(ctx, "twin", 1), s.sound(ctx, setup[Tx]{}, true))
}

func checkAtMostOnce[Tx any](ctx context.Context, s *stage[Tx]) error {
	o := setup[Tx]{deposit: semel.HandleOptions{Guarantee: semel.AtMostOnce, Lease: s.lease, Retry: semel.Retry{Wait: semel.Backoff{First: s.tick}}}}
	e, _, err := s.start(ctx, o)
	if err != nil {
		return err
	}
	if _, err := expect(ctx, e, "plain", deposit{Account: "a", Cents: 1}, semel.Completed); err != nil {
		return err
	}
	for _, mode := range []string{fails, panics} {
		if _, err := expect(ctx, e, mode, deposit{Account: mode, Cents: 1, Mode: mode}, semel.Failed); err != nil {
			return err
		}
	}
	// An owner takes it and is not heard of again.
	if _, err := sendAsync(ctx, e, "lost", deposit{Account: "lost", Cents: 1, Mode: pausing}); err != nil {
		return err
	}
	<-s.paused
	if _, _, err := s.start(ctx, o); err != nil {
		return err
	}
	if err := s.becomes(ctx, "lost", semel.Failed); err != nil {
		return err
	}
	// Reopening lets it go on, past the end of its lease.
	if err := s.reopen(ctx); err != nil {
		return err
	}
	lost, err := s.stored(ctx, "lost", semel.Failed)
	if err != nil {
		return err
	}
	if lost.Disposition != semel.Unknown {
		return fmt.Errorf("the disposition is %q, want %q", lost.Disposition, semel.Unknown)
	}
	for _, key := range []string{"plain", fails, panics, "lost"} {
		if calls := s.callsOf(key); calls != 1 {
			return fmt.Errorf("the handler was called %d times for %q, want 1", calls, key)
		}
	}
	return errors.Join(s.effects(ctx, "plain", 1), s.effects(ctx, "lost", 0), s.effects(ctx, fails, 0), s.effects(ctx, panics, 0))
}

func checkAtLeastOnce[Tx any](ctx context.Context, s *stage[Tx]) error {
	e, _, err := s.start(ctx, setup[Tx]{deposit: semel.HandleOptions{Guarantee: semel.AtLeastOnce, Retry: semel.Retry{Wait: semel.Backoff{First: s.tick}}}})
	if err != nil {
		return err
	}
	first, err := expect(ctx, e, "k", deposit{Account: "a", Cents: 1, Mode: twice}, semel.Completed)
	if err != nil {
		return err
	}
	if calls := s.callsOf("k"); calls != 3 {
		return fmt.Errorf("the handler was called %d times, want 3", calls)
	}
	return errors.Join(repeats(ctx, e, command("k", deposit{Account: "a", Cents: 1, Mode: twice}), first.Operation), s.effects(ctx, "k", 1))
}
