package storetest

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/semel-dev/semel"
)

func queueChecks[Tx any]() []check[Tx] {
	return []check[Tx]{
		{"claim/lease", "a claim gives one attempt until its lease ends, under a higher epoch", checkClaimLease[Tx]},
		{"claim/choice", "only what is due and has a handler is claimed, the oldest first, up to the limit", checkClaimChoice[Tx]},
		{"claim/queue", "of each subject only the oldest operation that holds is claimed", checkClaimQueue[Tx]},
		{"claim/executed", "operations that wait for projections are found by position, the oldest first", checkExecuted[Tx]},
	}
}

// claim asks for deposits.
func (s *stage[Tx]) claim(limit int) semel.Claim {
	return semel.Claim{Names: []string{"deposit"}, Limit: limit, Lease: func(string) time.Duration { return s.lease }}
}

// take claims and commits, and returns the keys in order.
func (s *stage[Tx]) take(ctx context.Context, c semel.Claim) (keys []string, ops []*semel.Operation, err error) {
	err = s.commit(ctx, func(session semel.Session[Tx]) error {
		ops, err = session.Claim(ctx, c)
		return err
	})
	for _, op := range ops {
		keys = append(keys, op.Key)
	}
	return keys, ops, err
}

func (s *stage[Tx]) insert(ctx context.Context, ops ...*semel.Operation) error {
	return s.commit(ctx, func(session semel.Session[Tx]) error { return session.Insert(ctx, ops) })
}

func checkClaimLease[Tx any](ctx context.Context, s *stage[Tx]) error {
	if err := s.insert(ctx, s.operation("k", "a")); err != nil {
		return err
	}
	var began time.Time
	for attempt := 1; attempt <= 3; attempt++ {
		var ops []*semel.Operation
		if err := s.until(ctx, "the operation is claimed", func() (bool, error) {
			began = time.Now()
			_, taken, err := s.take(ctx, s.claim(10))
			ops = taken
			return len(taken) == 1, err
		}); err != nil {
			return err
		}
		got := ops[0]
		if got.State != semel.Running || got.Attempts != attempt || got.Epoch != int64(attempt) {
			return fmt.Errorf("claim %d: %s, attempt %d, epoch %d", attempt, got.State, got.Attempts, got.Epoch)
		}
		if early, late := began.Add(s.lease-s.tick), time.Now().Add(s.lease+s.tick); got.DueAt.Before(early) || got.DueAt.After(late) {
			return fmt.Errorf("claim %d: the lease ends at %s, want %s after %s", attempt, got.DueAt, s.lease, began)
		}
		known, err := s.stored(ctx, "k", semel.Running)
		if err != nil {
			return err
		}
		if err := difference(known, got); err != nil {
			return fmt.Errorf("claim %d: stored and returned: %w", attempt, err)
		}
		if due, err := s.store.NextDue(ctx); err != nil || !due.Equal(got.DueAt) {
			return fmt.Errorf("claim %d: next due at %s (error: %v), want %s", attempt, due, err, got.DueAt)
		}
		if err := pause(ctx, time.Until(got.DueAt)-s.lease/5); err != nil {
			return err
		}
		if keys, _, err := s.take(ctx, s.claim(10)); err != nil || len(keys) > 0 {
			return fmt.Errorf("claim %d: %q claimed before the lease ended (error: %v)", attempt, keys, err)
		}
	}
	return nil
}

func checkClaimChoice[Tx any](ctx context.Context, s *stage[Tx]) error {
	later := s.operation("later", "later")
	later.DueAt = time.Now().Add(s.lease).Truncate(time.Microsecond)
	stranger := s.operation("stranger", "stranger")
	stranger.Name = "withdraw"
	ops := []*semel.Operation{later, stranger}
	for _, state := range []semel.State{semel.Executed, semel.Completed, semel.Rejected, semel.Failed, semel.Canceled} {
		op := s.operation(string(state))
		op.State, op.DueAt = state, time.Time{}
		ops = append(ops, op)
	}
	waiting, running := s.operation("waiting", "waiting"), s.operation("running", "running")
	waiting.State, running.State = semel.Waiting, semel.Running
	ops = append(ops, waiting, running, s.operation("third", "x"), s.operation("fourth"), s.operation("fifth"))
	if err := s.insert(ctx, ops...); err != nil {
		return err
	}
	keys, _, err := s.take(ctx, semel.Claim{Names: nil, Limit: 10, Lease: s.claim(1).Lease})
	if err != nil || len(keys) > 0 {
		return fmt.Errorf("without any name %q are claimed (error: %v)", keys, err)
	}
	for _, want := range []string{"waiting running", "third fourth", "fifth", ""} {
		keys, _, err := s.take(ctx, s.claim(2))
		if err != nil || strings.Join(keys, " ") != want {
			return fmt.Errorf("claimed %q (error: %v), want %q", keys, err, want)
		}
	}
	if err := pause(ctx, time.Until(later.DueAt)+s.tick); err != nil {
		return err
	}
	if keys, _, err := s.take(ctx, s.claim(2)); err != nil || !slices.Contains(keys, "later") {
		return fmt.Errorf("claimed %q (error: %v), want %q among them", keys, err, "later")
	}
	return nil
}

func checkClaimQueue[Tx any](ctx context.Context, s *stage[Tx]) error {
	loose, elsewhere := s.operation("loose", "a"), s.operation("elsewhere", "a")
	loose.Holds = false
	elsewhere.Tenant = "elsewhere"
	if err := s.insert(ctx,
		s.operation("a1", "a"), s.operation("ab", "a", "b"), s.operation("b1", "b"), s.operation("c1", "c"),
		s.operation("a2", "a"), loose, elsewhere); err != nil {
		return err
	}
	finish := func(ops []*semel.Operation) error {
		var changes []semel.Change
		for _, op := range ops {
			done := *op
			done.State, done.Holds, done.DueAt = semel.Rejected, false, time.Time{}
			changes = append(changes, semel.Change{Operation: &done, State: op.State, Epoch: op.Epoch})
		}
		return s.commit(ctx, func(session semel.Session[Tx]) error {
			_, err := session.Update(ctx, changes)
			return err
		})
	}
	for _, want := range []string{"a1 c1 loose elsewhere", "ab", "b1 a2", ""} {
		keys, ops, err := s.take(ctx, s.claim(100))
		if err != nil || strings.Join(keys, " ") != want {
			return fmt.Errorf("claimed %q (error: %v), want %q", keys, err, want)
		}
		if again, _, err := s.take(ctx, s.claim(100)); err != nil || len(again) > 0 {
			return fmt.Errorf("%q claimed while %q still run (error: %v)", again, keys, err)
		}
		if len(ops) == 0 {
			continue
		}
		if err := finish(ops); err != nil {
			return err
		}
	}
	return nil
}

func checkExecuted[Tx any](ctx context.Context, s *stage[Tx]) error {
	var ops []*semel.Operation
	for i, position := range []int64{30, 10, 20, 40} {
		op := s.operation(fmt.Sprint(i))
		op.State, op.Position, op.DueAt = semel.Executed, position, time.Time{}
		ops = append(ops, op)
	}
	done := s.operation("done")
	done.State, done.Position, done.DonePosition, done.DueAt = semel.Completed, 5, 5, time.Time{}
	if err := s.insert(ctx, append(ops, done)...); err != nil {
		return err
	}
	for _, tt := range []struct {
		position int64
		limit    int
		want     []*semel.Operation
	}{
		{9, 10, nil},
		{10, 10, []*semel.Operation{ops[1]}},
		{39, 10, []*semel.Operation{ops[1], ops[2], ops[0]}},
		{1 << 60, 2, []*semel.Operation{ops[1], ops[2]}},
	} {
		if err := s.session(ctx, func(session semel.Session[Tx]) error {
			got, err := session.Executed(ctx, tt.position, tt.limit)
			if err != nil || len(got) != len(tt.want) {
				return fmt.Errorf("%d found (error: %v), want %d", len(got), err, len(tt.want))
			}
			for i := range got {
				if err := difference(got[i], tt.want[i]); err != nil {
					return fmt.Errorf("number %d: %w", i, err)
				}
			}
			return nil
		}); err != nil {
			return fmt.Errorf("up to position %d, at most %d: %w", tt.position, tt.limit, err)
		}
	}
	return nil
}
