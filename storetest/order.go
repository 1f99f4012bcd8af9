package storetest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/semel-dev/semel"
)

func orderChecks[Tx any]() []check[Tx] {
	return []check[Tx]{
		{"order/sequence", "commands of a subject take effect in the order in which they were accepted, whoever waits or fails", checkSequence[Tx]},
		{"order/group", "a member of a group that fails is not overtaken by a later one of its subject", checkGroup[Tx]},
		{"order/trace", "also one that fails before it has written anything", checkTrace[Tx]},
		{"order/crowd", "the order of acceptance is the order of effects also among many at once", checkCrowd[Tx]},
		{"order/park", "a parked failure keeps its own subject waiting until it is replayed, and no other", checkPark[Tx]},
		{"order/cancel", "what has not run can be canceled, and frees those behind it", checkCancel[Tx]},
		{"order/version", "one of those who append at the same expected version wins, and the others see it when they try again", checkExpected[Tx]},
	}
}

// sequence returns, for each subject, the operations' keys in the order of
// their events, and compares it with the order of acceptance.
func (s *stage[Tx]) sequence(ctx context.Context) (map[string][]string, error) {
	ops, err := s.store.Operations(ctx, semel.OperationQuery{All: true, ByAcceptance: true, Limit: 1000})
	if err != nil {
		return nil, err
	}
	byID := make(map[semel.ID]*semel.Operation)
	for _, op := range ops {
		byID[op.ID] = op
	}
	events, err := s.store.Events(ctx, 0, 10_000)
	if err != nil {
		return nil, err
	}
	last := make(map[string]*semel.Operation)
	order := make(map[string][]string)
	for _, event := range events {
		if event.Name != "deposited" {
			continue
		}
		op := byID[event.Operation]
		if op == nil {
			return nil, fmt.Errorf("event %d is of an operation that is not listed", event.Position)
		}
		if before := last[event.Subject]; before != nil && before.Seq > op.Seq {
			return nil, fmt.Errorf("subject %q: %q (Seq %d) took effect before %q (Seq %d)", event.Subject, before.Key, before.Seq, op.Key, op.Seq)
		}
		last[event.Subject] = op
		order[event.Subject] = append(order[event.Subject], op.Key)
	}
	return order, nil
}

func checkSequence[Tx any](ctx context.Context, s *stage[Tx]) error {
	e, _, err := s.start(ctx, setup[Tx]{deposit: semel.HandleOptions{Retry: semel.Retry{Wait: semel.Backoff{First: s.lease / 4, Fixed: true}}}})
	if err != nil {
		return err
	}
	var keys []string
	var waiting sync.WaitGroup
	failures := make([]error, 12)
	for i := range failures {
		key := fmt.Sprint("k-", i)
		keys = append(keys, key)
		mode := []string{flaky, plain, plain, twice}[i%4]
		if i%2 == 0 {
			if _, err := sendAsync(ctx, e, key, deposit{Account: "a", Cents: 1, Mode: mode}); err != nil {
				return err
			}
			continue
		}
		waiting.Go(func() {
			_, failures[i] = expect(ctx, e, key, deposit{Account: "a", Cents: 1, Mode: mode}, semel.Completed)
		})
		if err := s.until(ctx, key+" is accepted", func() (bool, error) {
			_, err := s.store.Operation(ctx, command(key, deposit{}).ID())
			if errors.Is(err, semel.ErrNotFound) {
				return false, nil
			}
			return err == nil, err
		}); err != nil {
			return err
		}
	}
	// Meanwhile other subjects are not held up.
	other, err := expect(ctx, e, "other", deposit{Account: "b", Cents: 1}, semel.Completed)
	if err != nil {
		return err
	}
	waiting.Wait()
	if err := errors.Join(failures...); err != nil {
		return err
	}
	last, err := await(ctx, e, keys[len(keys)-2], semel.Completed)
	if err != nil {
		return err
	}
	if !other.Operation.DoneAt.Before(last.DoneAt) {
		return errors.New("another subject waited for one that fails")
	}
	order, err := s.sequence(ctx)
	if err == nil && !slices.Equal(order["a"], keys) {
		err = fmt.Errorf("effects came in the order %q, want %q", order["a"], keys)
	}
	return err
}

// checkGroup gathers a group while an earlier one is held up.
func checkGroup[Tx any](ctx context.Context, s *stage[Tx]) error {
	e, _, err := s.start(ctx, setup[Tx]{deposit: semel.HandleOptions{Retry: semel.Retry{Wait: semel.Backoff{First: s.tick, Fixed: true}}}})
	if err != nil {
		return err
	}
	var sending sync.WaitGroup
	failures := make([]error, 9)
	for i := range failures {
		d := deposit{Account: []string{"a", "b"}[i%2], Cents: 1, Mode: []string{shaky, flaky, plain, plain, shaky, plain, plain, plain}[i%8]}
		o := semel.SubmitOptions{Async: i == 3 || i == 6}
		if i == 0 {
			d = deposit{Account: "gate", Cents: 1, Mode: gated}
		}
		sending.Go(func() {
			_, failures[i] = e.Submit(ctx, command(fmt.Sprint(i), d), o)
		})
		if i == 0 {
			<-s.paused
		}
		if err := pause(ctx, s.tick/10); err != nil {
			return err
		}
	}
	s.release()
	sending.Wait()
	for i := range failures {
		failures[i] = errors.Join(failures[i], s.becomes(ctx, fmt.Sprint(i), semel.Completed))
	}
	if err := errors.Join(failures...); err != nil {
		return err
	}
	order, err := s.sequence(ctx)
	if want := []string{"1", "3", "5", "7"}; err == nil && !slices.Equal(order["b"], want) {
		err = fmt.Errorf("effects came in the order %q, want %q", order["b"], want)
	}
	if want := []string{"2", "4", "6", "8"}; err == nil && !slices.Equal(order["a"], want) {
		err = fmt.Errorf("effects came in the order %q, want %q", order["a"], want)
	}
	return err
}

// checkTrace has nobody else fail in the group: its members would run again for
// another's sake, and the failure would be over.
func checkTrace[Tx any](ctx context.Context, s *stage[Tx]) error {
	e, _, err := s.start(ctx, setup[Tx]{deposit: semel.HandleOptions{Retry: semel.Retry{Wait: semel.Backoff{First: s.tick, Fixed: true}}}})
	if err != nil {
		return err
	}
	var sending sync.WaitGroup
	failures := make([]error, 4)
	for i, d := range []deposit{
		{Account: "gate", Cents: 1, Mode: gated}, {Account: "a", Cents: 1, Mode: shaky},
		{Account: "b", Cents: 1, Mode: plain}, {Account: "a", Cents: 1, Mode: plain},
	} {
		sending.Go(func() {
			_, failures[i] = e.Submit(ctx, command(fmt.Sprint(i), d), semel.SubmitOptions{})
		})
		if i == 0 {
			<-s.paused
		}
		if err := pause(ctx, s.tick/10); err != nil {
			return err
		}
	}
	s.release()
	sending.Wait()
	if err := errors.Join(failures...); err != nil {
		return err
	}
	order, err := s.sequence(ctx)
	if want := []string{"1", "3"}; err == nil && !slices.Equal(order["a"], want) {
		err = fmt.Errorf("effects came in the order %q, want %q", order["a"], want)
	}
	return err
}

func checkCrowd[Tx any](ctx context.Context, s *stage[Tx]) error {
	e, _, err := s.start(ctx, setup[Tx]{
		deposit: semel.HandleOptions{Retry: semel.Retry{Wait: semel.Backoff{First: s.tick, Fixed: true}}},
		more: func(e *semel.Engine[Tx]) {
			semel.Handle(e, "alone", s.deposit, &semel.HandleOptions{Solo: true})
		},
	})
	if err != nil {
		return err
	}
	var sending sync.WaitGroup
	failures := make([]error, 100)
	for i := range failures {
		sending.Go(func() {
			mode := []string{plain, shaky, flaky, plain, rejects, plain, plain}[i%7]
			c := command(fmt.Sprint(i), deposit{Account: fmt.Sprint("a-", i%5), Cents: 1, Mode: mode})
			if i%10 == 9 {
				c.Name = "alone"
			}
			_, failures[i] = e.Submit(ctx, c, semel.SubmitOptions{Async: i%3 == 0})
		})
	}
	sending.Wait()
	if err := errors.Join(failures...); err != nil {
		return err
	}
	if err := s.until(ctx, "all is done", func() (bool, error) {
		open, err := s.store.Operations(ctx, semel.OperationQuery{Principal: "alice", Open: true, Limit: 1})
		return len(open) == 0, err
	}); err != nil {
		return err
	}
	order, err := s.sequence(ctx)
	if err != nil {
		return err
	}
	for i := range 5 {
		want := int64(len(order[fmt.Sprint("a-", i)]))
		if err := s.same(ctx, want, `SELECT cents FROM accounts WHERE id = ?`, fmt.Sprint("a-", i)); err != nil {
			return err
		}
	}
	return nil
}

func checkPark[Tx any](ctx context.Context, s *stage[Tx]) error {
	e, _, err := s.start(ctx, setup[Tx]{deposit: semel.HandleOptions{Park: true, Retry: semel.Retry{Attempts: 1}}})
	if err != nil {
		return err
	}
	if _, err := expect(ctx, e, "parked", deposit{Account: "a", Cents: 1, Mode: ill}, semel.Failed); err != nil {
		return err
	}
	if _, err := sendAsync(ctx, e, "second", deposit{Account: "a", Cents: 1}); err != nil {
		return err
	}
	third, err := e.Submit(ctx, command("third", deposit{Account: "a", Cents: 1}), semel.SubmitOptions{Wait: s.lease / 2})
	if err != nil || third.Operation.State != semel.Accepted {
		return fmt.Errorf("behind a parked one and waiting for a while: %v (error: %v), want %s", third.Operation, err, semel.Accepted)
	}
	if _, err := expect(ctx, e, "free", deposit{Account: "b", Cents: 1}, semel.Completed); err != nil {
		return err
	}
	s.heal(true)
	if _, err := s.stored(ctx, "second", semel.Accepted); err != nil {
		return err
	}
	if _, err := e.Replay(ctx, command("parked", deposit{}).ID()); err != nil {
		return err
	}
	for _, key := range []string{"parked", "second", "third"} {
		if _, err := await(ctx, e, key, semel.Completed); err != nil {
			return err
		}
	}
	order, err := s.sequence(ctx)
	if want := []string{"parked", "second", "third"}; err == nil && !slices.Equal(order["a"], want) {
		err = fmt.Errorf("effects came in the order %q, want %q", order["a"], want)
	}
	return err
}

func checkCancel[Tx any](ctx context.Context, s *stage[Tx]) error {
	e, _, err := s.start(ctx, setup[Tx]{deposit: semel.HandleOptions{Retry: semel.Retry{Wait: semel.Backoff{First: 20 * s.lease, Fixed: true}}}})
	if err != nil {
		return err
	}
	d := deposit{Account: "a", Cents: 1}
	for i, key := range []string{"first", "second", "third"} {
		c := d
		if i == 0 {
			c.Mode = ill
		}
		if _, err := sendAsync(ctx, e, key, c); err != nil {
			return err
		}
	}
	if err := s.becomes(ctx, "first", semel.Waiting); err != nil {
		return err
	}
	for _, key := range []string{"second", "first"} {
		if _, err := s.stored(ctx, "third", semel.Accepted); err != nil {
			return err
		}
		op, err := e.Cancel(ctx, "", "alice", command(key, d).ID())
		if err != nil || op.State != semel.Canceled {
			return fmt.Errorf("canceling %q: %v", key, err)
		}
	}
	if _, err := await(ctx, e, "third", semel.Completed); err != nil {
		return err
	}
	if _, err := e.Cancel(ctx, "", "alice", command("third", d).ID()); !errors.Is(err, semel.ErrIllegalMove) {
		return fmt.Errorf("canceling a completed operation: error is %v, want %w", err, semel.ErrIllegalMove)
	}
	second, err := s.stored(ctx, "second", semel.Canceled)
	if err != nil {
		return err
	}
	if err := repeats(ctx, e, command("second", d), second); err != nil {
		return err
	}
	return errors.Join(s.effects(ctx, "first", 0), s.effects(ctx, "second", 0), s.effects(ctx, "third", 1), s.sound(ctx, setup[Tx]{}, true))
}

// counted is an event of a versioned stream.
type counted struct {
	N int64 `json:"n"`
}

// count appends to the stream of its account at the version that it has read,
// or at the expected one if Cents says so.
func (s *stage[Tx]) count(ctx context.Context, u *semel.Unit[Tx], d deposit) (counted, error) {
	events, err := u.Stream(ctx, d.Account)
	if err != nil {
		return counted{}, err
	}
	n := int64(len(events))
	if d.Cents > 0 {
		n = d.Cents
	}
	if err := u.Append(ctx, d.Account, n, counted{n + 1}, counted{n + 2}); err != nil {
		return counted{}, err
	}
	if events, err = u.Stream(ctx, d.Account); err != nil || int64(len(events)) != n+2 {
		return counted{}, semel.TerminalError(fmt.Errorf("the stream has %d events after appending at %d (error: %v)", len(events), n, err))
	}
	return counted{n + 2}, nil
}

func checkExpected[Tx any](ctx context.Context, s *stage[Tx]) error {
	e, _, err := s.start(ctx, setup[Tx]{more: func(e *semel.Engine[Tx]) {
		semel.Handle(e, "count", s.count, &semel.HandleOptions{Retry: semel.Retry{Attempts: 2, Wait: semel.Backoff{First: s.tick}}})
	}})
	if err != nil {
		return err
	}
	submit := func(key string, d deposit) (*semel.Operation, error) {
		c := command(key, d)
		c.Name = "count"
		a, err := e.Submit(ctx, c, semel.SubmitOptions{})
		return a.Operation, err
	}
	var sending sync.WaitGroup
	failures := make([]error, 20)
	for i := range failures {
		sending.Go(func() {
			op, err := submit(fmt.Sprint(i), deposit{Account: "stream"})
			if err == nil && op.State != semel.Completed {
				err = fmt.Errorf("%s: %s", op.State, op.Reason)
			}
			failures[i] = err
		})
	}
	sending.Wait()
	if err := errors.Join(failures...); err != nil {
		return err
	}
	for _, expected := range []int64{1, 39, 41} { // the stream is at 40
		op, err := submit(fmt.Sprint("stale-", expected), deposit{Account: "stream", Cents: expected})
		if err != nil || op.State != semel.Failed {
			return fmt.Errorf("appending at %d to a stream at 40: %v (error: %v)", expected, op, err)
		}
	}
	return s.session(ctx, func(session semel.Session[Tx]) error {
		events, err := session.Stream(ctx, "", "stream", 0)
		if err != nil || len(events) != 40 {
			return fmt.Errorf("the stream has %d events (error: %v), want 40", len(events), err)
		}
		for i, event := range events {
			var c counted
			if err := event.Decode(&c); err != nil || event.Version != int64(i+1) || c.N != event.Version {
				return fmt.Errorf("event %d of the stream has version %d and number %d (error: %v)", i+1, event.Version, c.N, err)
			}
		}
		return nil
	})
}
