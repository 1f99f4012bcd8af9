package storetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/semel-dev/semel"
)

func effectChecks[Tx any]() []check[Tx] {
	return []check[Tx]{
		{"effect/once", "the same key takes effect once and gets the same bytes, also after a restart", checkOnce[Tx]},
		{"effect/reused", "a key that was used with another body is refused, and the first operation untouched", checkReused[Tx]},
		{"effect/duplicates", "duplicates that arrive together take one effect and get one answer", checkDuplicates[Tx]},
		{"effect/scope", "keys of different callers, tenants and commands are different keys", checkScope[Tx]},
		{"effect/accepted", "what was accepted survives a restart, in its order", checkAccepted[Tx]},
		{"effect/sound", "after all kinds of outcomes the engine finds every operation with its events and its effect once", checkSound[Tx]},
	}
}

// repeats submits a command again and compares the answer with the first one.
func repeats[Tx any](ctx context.Context, e *semel.Engine[Tx], c semel.Command, first *semel.Operation) error {
	again, err := e.Submit(ctx, c, semel.SubmitOptions{})
	if err != nil {
		return fmt.Errorf("repeating %q: %w", c.Key, err)
	}
	op := again.Operation
	switch {
	case !again.Replayed:
		return fmt.Errorf("repeating %q: it is not marked as replayed", c.Key)
	case op.ID != first.ID || op.State != first.State || op.Status != first.Status || op.Resource != first.Resource:
		return fmt.Errorf("repeating %q: %s %d %q, the first time it was %s %d %q", c.Key, op.State, op.Status, op.Resource, first.State, first.Status, first.Resource)
	case !bytes.Equal(op.Result, first.Result):
		return fmt.Errorf("repeating %q: the answer is %q, the first time it was %q", c.Key, op.Result, first.Result)
	}
	return nil
}

func checkOnce[Tx any](ctx context.Context, s *stage[Tx]) error {
	cases := []struct {
		mode    string
		state   semel.State
		status  int
		effects int64
	}{
		{plain, semel.Completed, 200, 1}, {creates, semel.Completed, 201, 1}, {quiet, semel.Completed, 200, 1},
		{refuses, semel.Rejected, 409, 0}, {rejects, semel.Rejected, 409, 0}, {flaky, semel.Completed, 200, 1},
	}
	firsts := make(map[string]*semel.Operation)
	for round := range 2 {
		e, _, err := s.start(ctx, setup[Tx]{})
		if err != nil {
			return err
		}
		for _, tt := range cases {
			key, d := "k-"+tt.mode, deposit{Account: "a-" + tt.mode, Cents: 1, Mode: tt.mode}
			if round == 0 {
				a, err := expect(ctx, e, key, d, tt.state)
				if err != nil {
					return err
				}
				if a.Replayed || a.Operation.Status != tt.status || len(a.Operation.Result) == 0 {
					return fmt.Errorf("%q: replayed %t, status %d, result %q", key, a.Replayed, a.Operation.Status, a.Operation.Result)
				}
				firsts[key] = a.Operation
			}
			c := command(key, d)
			c.Body = append([]byte(" \n"), bytes.ReplaceAll(c.Body, []byte(`":`), []byte("\" :\t"))...) // the same JSON
			if err := errors.Join(repeats(ctx, e, c, firsts[key]), s.effects(ctx, key, tt.effects)); err != nil {
				return fmt.Errorf("round %d: %w", round, err)
			}
		}
		if err := s.reopen(ctx); err != nil {
			return err
		}
	}
	return s.sound(ctx, setup[Tx]{}, true)
}

func checkReused[Tx any](ctx context.Context, s *stage[Tx]) error {
	e, _, err := s.start(ctx, setup[Tx]{deposit: semel.HandleOptions{Retry: semel.Retry{Wait: semel.Backoff{First: s.lease, Fixed: true}}}})
	if err != nil {
		return err
	}
	for _, mode := range []string{plain, refuses, ill} { // done, rejected, still open
		d := deposit{Account: "a", Cents: 1, Mode: mode}
		first, err := sendAsync(ctx, e, "k-"+mode, d)
		if err != nil {
			return err
		}
		if mode != ill {
			if _, err := e.Await(ctx, "", "alice", first.ID); err != nil {
				return err
			}
		}
		for _, other := range []deposit{{"a", 2, mode}, {"b", 1, mode}, {"a", 1, quiet}} {
			if _, err := send(ctx, e, "k-"+mode, other); !errors.Is(err, semel.ErrKeyReused) {
				return fmt.Errorf("mode %q: %+v instead of %+v: error is %v, want %w", mode, other, d, err, semel.ErrKeyReused)
			}
		}
	}
	s.heal(true)
	if _, err := await(ctx, e, "k-ill", semel.Completed); err != nil {
		return err
	}
	return errors.Join(s.effects(ctx, "k-", 1), s.effects(ctx, "k-refuses", 0), s.effects(ctx, "k-ill", 1),
		s.same(ctx, 2, `SELECT cents FROM accounts WHERE id = ?`, "a"), s.same(ctx, 0, `SELECT count(*) FROM accounts WHERE id = ?`, "b"))
}

func checkDuplicates[Tx any](ctx context.Context, s *stage[Tx]) error {
	e, _, err := s.start(ctx, setup[Tx]{})
	if err != nil {
		return err
	}
	const keys, copies = 40, 5
	type reply struct {
		key string
		op  *semel.Operation
		err error
	}
	replies := make(chan reply, keys*copies)
	var sending sync.WaitGroup
	for i := range keys * copies {
		sending.Go(func() {
			n := i % keys
			mode := []string{plain, plain, refuses, rejects, creates, flaky}[n%6]
			key := fmt.Sprintf("%d-%s", n, mode)
			c := command(key, deposit{Account: fmt.Sprintf("a-%d", n%10), Cents: 1, Mode: mode})
			a, err := e.Submit(ctx, c, semel.SubmitOptions{})
			replies <- reply{key, a.Operation, err}
		})
	}
	sending.Wait()
	close(replies)
	first := make(map[string]*semel.Operation)
	cents := int64(0)
	for r := range replies {
		if r.err != nil {
			return fmt.Errorf("%q: %w", r.key, r.err)
		}
		known := first[r.key]
		if known == nil {
			first[r.key] = r.op
			want := int64(0)
			if r.op.State == semel.Completed {
				want = 1
			}
			cents += want
			if err := s.effects(ctx, r.key, want); err != nil {
				return err
			}
			continue
		}
		if known.State != r.op.State || !bytes.Equal(known.Result, r.op.Result) {
			return fmt.Errorf("%q got two answers: %s %q and %s %q", r.key, known.State, known.Result, r.op.State, r.op.Result)
		}
	}
	if cents == 0 || cents == keys {
		return fmt.Errorf("%d of %d were completed, want some of both", cents, keys)
	}
	if err := s.same(ctx, cents, `SELECT sum(cents) FROM accounts`); err != nil {
		return err
	}
	return s.sound(ctx, setup[Tx]{}, true)
}

func checkScope[Tx any](ctx context.Context, s *stage[Tx]) error {
	e, _, err := s.start(ctx, setup[Tx]{more: func(e *semel.Engine[Tx]) { semel.Handle(e, "another", s.deposit, nil) }})
	if err != nil {
		return err
	}
	base := command("k", deposit{Account: "a", Cents: 1})
	bob, tenant, another := base, base, base
	bob.Principal, tenant.Tenant, another.Name = "bob", "t", "another"
	for i, c := range []semel.Command{base, bob, tenant, another} {
		a, err := e.Submit(ctx, c, semel.SubmitOptions{})
		if err != nil || a.Replayed || a.Operation.State != semel.Completed {
			return fmt.Errorf("caller %d: replayed %t (error: %v)", i, a.Replayed, err)
		}
		if err := s.same(ctx, int64(i+1), `SELECT cents FROM accounts WHERE id = ?`, "a"); err != nil {
			return err
		}
		mine, err := e.Operations(ctx, semel.OperationQuery{Tenant: c.Tenant, Principal: c.Principal, Name: c.Name})
		if err != nil || len(mine) != 1 || mine[0].ID != c.ID() {
			return fmt.Errorf("caller %d lists %d operations of its own (error: %v), want 1", i, len(mine), err)
		}
	}
	for _, stranger := range []semel.Command{bob, tenant} {
		if _, err := e.Operation(ctx, stranger.Tenant, stranger.Principal, base.ID()); !errors.Is(err, semel.ErrNotFound) {
			return fmt.Errorf("%s of tenant %q reads alice's operation: error is %v", stranger.Principal, stranger.Tenant, err)
		}
		if _, err := e.Cancel(ctx, stranger.Tenant, stranger.Principal, base.ID()); !errors.Is(err, semel.ErrNotFound) {
			return fmt.Errorf("%s of tenant %q cancels alice's operation: error is %v", stranger.Principal, stranger.Tenant, err)
		}
	}
	return nil
}

func checkAccepted[Tx any](ctx context.Context, s *stage[Tx]) error {
	o := setup[Tx]{deposit: semel.HandleOptions{Retry: semel.Retry{Wait: semel.Backoff{First: s.lease, Fixed: true}}}}
	e, _, err := s.start(ctx, o)
	if err != nil {
		return err
	}
	// The first one fails and waits; the others wait behind it.
	keys := []string{"first", "second", "third"}
	for i, key := range keys {
		mode := plain
		if i == 0 {
			mode = ill
		}
		op, err := sendAsync(ctx, e, key, deposit{Account: "a", Cents: 1, Mode: mode})
		if err != nil {
			return err
		}
		if !op.State.Unfinished() {
			return fmt.Errorf("%q was only to be accepted, and is %s", key, op.State)
		}
	}
	if err := s.becomes(ctx, "first", semel.Waiting); err != nil {
		return err
	}
	if err := s.reopen(ctx); err != nil {
		return err
	}
	s.heal(true)
	if e, _, err = s.start(ctx, o); err != nil {
		return err
	}
	seq := int64(0)
	for i, key := range keys {
		op, err := await(ctx, e, key, semel.Completed)
		if err != nil {
			return err
		}
		if want := fmt.Sprintf(`{"balance":%d,`, i+1); op.Seq <= seq || !bytes.HasPrefix(op.Result, []byte(want)) {
			return fmt.Errorf("%q has Seq %d after %d and result %s, want %s", key, op.Seq, seq, op.Result, want)
		}
		seq = op.Seq
		if err := s.effects(ctx, key, 1); err != nil {
			return err
		}
	}
	return nil
}

func checkSound[Tx any](ctx context.Context, s *stage[Tx]) error {
	o := setup[Tx]{
		deposit: semel.HandleOptions{Retry: semel.Retry{Attempts: 3, Wait: semel.Backoff{First: s.tick, Fixed: true}}},
		more: func(e *semel.Engine[Tx]) {
			semel.Handle(e, "alone", s.deposit, &semel.HandleOptions{Solo: true})
			s.project(e, "shown", nil)
		},
	}
	e, stop, err := s.start(ctx, o)
	if err != nil {
		return err
	}
	modes := []string{plain, creates, quiet, refuses, rejects, fails, flaky, twice, hopeless, panics}
	var sending sync.WaitGroup
	failures := make([]error, 70)
	for i := range failures {
		sending.Go(func() {
			c := command(fmt.Sprint(i), deposit{Account: fmt.Sprintf("a-%d", i%7), Cents: 1, Mode: modes[i%len(modes)]})
			if i%20 < 2 {
				c.Name = "alone"
			}
			var a semel.Answer
			if a, failures[i] = e.Submit(ctx, c, semel.SubmitOptions{}); failures[i] == nil && !a.Operation.State.Done() {
				failures[i] = fmt.Errorf("%q is %s", c.Key, a.Operation.State)
			}
		})
	}
	sending.Wait()
	if err := errors.Join(failures...); err != nil {
		return err
	}
	if err := s.until(ctx, "the projection is at the end of the log", func() (bool, error) {
		head, err := s.store.Head(ctx)
		if err != nil {
			return false, err
		}
		followers, err := s.store.Followers(ctx)
		return err == nil && len(followers) == 1 && followers[0].Position == head, err
	}); err != nil {
		return err
	}
	if err := stop(); err != nil {
		return err
	}
	// Effects, events and outcomes agree, and the account books too.
	completed, err := s.store.Operations(ctx, semel.OperationQuery{Principal: "alice", State: semel.Completed, Limit: 1000})
	if err != nil {
		return err
	}
	return errors.Join(s.sound(ctx, o, true),
		s.same(ctx, int64(len(completed)), `SELECT count(*) FROM ledger`),
		s.same(ctx, int64(len(completed)), `SELECT count(DISTINCT operation) FROM ledger`),
		s.same(ctx, int64(len(completed)), `SELECT sum(cents) FROM accounts`))
}
