package storetest

import (
	"context"
	"errors"
	"fmt"

	"github.com/semel-dev/semel"
)

func ownerChecks[Tx any]() []check[Tx] {
	return []check[Tx]{
		{"owner/dead", "what a dead owner had claimed is run when its lease has ended, and not before", checkDeadOwner[Tx]},
		{"owner/paused", "an owner who was paused past its lease commits nothing after another has taken over", checkPausedOwner[Tx]},
		{"owner/exclusive", "of two engines on one store, one runs an operation", checkExclusive[Tx]},
		{"owner/elsewhere", "who waits at one engine gets the outcome that another one reached", checkElsewhere[Tx]},
	}
}

func checkDeadOwner[Tx any](ctx context.Context, s *stage[Tx]) error {
	if err := s.insert(ctx, s.operation("k", "a"), s.operation("behind", "a")); err != nil {
		return err
	}
	keys, ops, err := s.take(ctx, s.claim(10))
	if err != nil || len(keys) != 1 || keys[0] != "k" {
		return fmt.Errorf("claimed %q (error: %v)", keys, err)
	}
	e, _, err := s.start(ctx, setup[Tx]{deposit: semel.HandleOptions{Lease: s.lease}})
	if err != nil {
		return err
	}
	op, err := await(ctx, e, "k", semel.Completed)
	if err != nil {
		return err
	}
	if op.ExecutedAt.Before(ops[0].DueAt) {
		return fmt.Errorf("it ran at %s, before the lease ended at %s", op.ExecutedAt, ops[0].DueAt)
	}
	if op.Attempts != 2 || op.Epoch != 2 {
		return fmt.Errorf("it has %d attempts and epoch %d, want 2 and 2", op.Attempts, op.Epoch)
	}
	if _, err := await(ctx, e, "behind", semel.Completed); err != nil {
		return err
	}
	return errors.Join(s.effects(ctx, "k", 1), s.effects(ctx, "behind", 1))
}

func checkPausedOwner[Tx any](ctx context.Context, s *stage[Tx]) error {
	o := setup[Tx]{deposit: semel.HandleOptions{Solo: true, Lease: s.lease}}
	first, _, err := s.start(ctx, o)
	if err != nil {
		return err
	}
	if _, err := sendAsync(ctx, first, "k", deposit{Account: "a", Cents: 1, Mode: pausing}); err != nil {
		return err
	}
	<-s.paused
	if _, _, err := s.start(ctx, o); err != nil {
		return err
	}
	if err := s.becomes(ctx, "k", semel.Completed); err != nil {
		return err
	}
	done, err := s.stored(ctx, "k", semel.Completed)
	if err != nil {
		return err
	}
	if err := s.reopen(ctx); err != nil { // lets the first one go on to its end
		return err
	}
	if calls := s.callsOf("k"); calls != 2 {
		return fmt.Errorf("the handler was called %d times, want 2", calls)
	}
	kept, err := s.stored(ctx, "k", semel.Completed)
	if err != nil {
		return err
	}
	return errors.Join(difference(kept, done), s.effects(ctx, "k", 1), s.sound(ctx, setup[Tx]{}, true),
		s.same(ctx, 1, `SELECT cents FROM accounts WHERE id = ?`, "a"))
}

func checkExclusive[Tx any](ctx context.Context, s *stage[Tx]) error {
	var engines [2]*semel.Engine[Tx]
	for i := range engines {
		var err error
		if engines[i], _, err = s.start(ctx, setup[Tx]{deposit: semel.HandleOptions{Solo: i == 1}}); err != nil {
			return err
		}
	}
	const operations = 60
	for i := range operations {
		if _, err := sendAsync(ctx, engines[i%2], fmt.Sprint(i), deposit{Account: fmt.Sprint(i % 20), Cents: 1}); err != nil {
			return err
		}
	}
	for i := range operations {
		key := fmt.Sprint(i)
		if err := s.becomes(ctx, key, semel.Completed); err != nil {
			return err
		}
		if err := s.effects(ctx, key, 1); err != nil {
			return err
		}
		if calls := s.callsOf(key); calls != 1 {
			return fmt.Errorf("%q was called %d times, want 1", key, calls)
		}
	}
	_, err := s.sequence(ctx)
	return err
}

func checkElsewhere[Tx any](ctx context.Context, s *stage[Tx]) error {
	first, _, err := s.start(ctx, setup[Tx]{})
	if err != nil {
		return err
	}
	if _, _, err := s.start(ctx, setup[Tx]{more: func(e *semel.Engine[Tx]) { semel.Handle(e, "elsewhere", s.deposit, nil) }}); err != nil {
		return err
	}
	op := s.operation("k", "a")
	op.Name, op.DueAt = "elsewhere", op.DueAt.Add(s.lease)
	if err := s.insert(ctx, op); err != nil {
		return err
	}
	short, cancel := context.WithTimeout(ctx, 5*s.lease)
	defer cancel()
	done, err := first.Await(short, op.Tenant, op.Principal, op.ID)
	if err != nil || done.State != semel.Completed {
		return fmt.Errorf("waiting ended with %v (error: %v), want %s", done, err, semel.Completed)
	}
	if short.Err() != nil {
		return errors.New("the outcome came with the deadline only")
	}
	return nil
}
