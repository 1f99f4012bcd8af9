package storetest

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/semel-dev/semel"
)

func listingChecks[Tx any]() []check[Tx] {
	return []check[Tx]{
		{"listing/query", "a listing shows what its query selects, in its order, within its bounds", checkQuery[Tx]},
		{"listing/feed", "a reader who goes on from the last outcome that it saw misses none and sees none twice", checkFeed[Tx]},
	}
}

// library stores operations of two callers in every state, with the events that
// their outcomes stand at.
func (s *stage[Tx]) library(ctx context.Context) ([]*semel.Operation, error) {
	const positions = 121
	var ops []*semel.Operation
	log := make([]*semel.Event, positions)
	for i := range 120 {
		op := s.operation(fmt.Sprint(i))
		op.Principal, op.Name = "alice", []string{"deposit", "withdraw"}[i/3%2]
		if i%3 == 0 {
			op.Tenant = "t"
		}
		if i%5 == 0 {
			op.Principal = "bob"
		}
		op.State = semel.States()[i%len(semel.States())]
		if op.State.Done() {
			op.DonePosition, op.DueAt = int64(1+i*37%positions), time.Time{}
			log[op.DonePosition-1] = s.event(op, 0)
		}
		ops = append(ops, op)
	}
	for i, event := range log { // between the outcomes stand events of operations not there
		if event == nil {
			log[i] = s.event(s.operation(fmt.Sprint("other", i)), 0)
		}
	}
	if err := s.append(ctx, log...); err != nil {
		return nil, err
	}
	return ops, s.insert(ctx, ops...)
}

// selected says in plain code what a query means.
func selected(ops []*semel.Operation, q semel.OperationQuery) []*semel.Operation {
	number := func(op *semel.Operation) int64 {
		if q.Open || q.ByAcceptance {
			return op.Seq
		}
		return op.DonePosition
	}
	var found []*semel.Operation
	for _, op := range ops {
		switch {
		case !q.All && (op.Tenant != q.Tenant || op.Principal != q.Principal),
			q.Open && op.State.Done(),
			number(op) == 0,
			q.After > 0 && number(op) <= q.After,
			q.Before > 0 && number(op) >= q.Before,
			q.State != "" && op.State != q.State,
			q.Name != "" && op.Name != q.Name:
			continue
		}
		found = append(found, op)
	}
	slices.SortFunc(found, func(a, b *semel.Operation) int {
		if q.Newest {
			a, b = b, a
		}
		return cmp.Compare(number(a), number(b))
	})
	return found[:min(len(found), cmp.Or(q.Limit, 100))]
}

func checkQuery[Tx any](ctx context.Context, s *stage[Tx]) error {
	ops, err := s.library(ctx)
	if err != nil {
		return err
	}
	owners := []semel.OperationQuery{{All: true}, {Principal: "alice"}, {Tenant: "t", Principal: "alice"}, {Principal: "bob"}, {Principal: "carol"}}
	orders := []semel.OperationQuery{{}, {Open: true}, {ByAcceptance: true}}
	bounds := []semel.OperationQuery{{}, {After: 40, Limit: 1000}, {Before: 60, Limit: 7}, {After: 20, Before: 80, Limit: 3}}
	filters := []semel.OperationQuery{{}, {Name: "withdraw"}, {State: semel.Executed}, {State: semel.Failed, Name: "deposit"}}
	for _, q := range owners {
		for _, order := range orders {
			for _, bound := range bounds {
				for _, filter := range filters {
					q.Open, q.ByAcceptance = order.Open, order.ByAcceptance
					q.After, q.Before, q.Limit = bound.After, bound.Before, bound.Limit
					q.State, q.Name = filter.State, filter.Name
					q.Newest = false
					if err := s.lists(ctx, ops, q); err != nil {
						return err
					}
					q.Newest = true
					if err := s.lists(ctx, ops, q); err != nil {
						return err
					}
				}
			}
		}
	}
	return nil
}

func (s *stage[Tx]) lists(ctx context.Context, ops []*semel.Operation, q semel.OperationQuery) error {
	got, err := s.store.Operations(ctx, q)
	if err != nil {
		return fmt.Errorf("%+v: %w", q, err)
	}
	keys := func(ops []*semel.Operation) (k []string) {
		for _, op := range ops {
			k = append(k, op.Key)
		}
		return k
	}
	if want := selected(ops, q); !slices.Equal(keys(got), keys(want)) {
		return fmt.Errorf("%+v: listed %q, want %q", q, keys(got), keys(want))
	}
	return nil
}

// checkFeed reads outcomes while they are made, some of them late: those of
// solo commands are completed by the projection's follower.
func checkFeed[Tx any](ctx context.Context, s *stage[Tx]) error {
	e, _, err := s.start(ctx, setup[Tx]{
		deposit: semel.HandleOptions{Retry: semel.Retry{Attempts: 2, Wait: semel.Backoff{First: s.tick, Fixed: true}}},
		more: func(e *semel.Engine[Tx]) {
			semel.Handle(e, "slowly", s.deposit, &semel.HandleOptions{Solo: true})
			s.project(e, "shown", nil)
		},
	})
	if err != nil {
		return err
	}
	const writers, each = 6, 15
	var working sync.WaitGroup
	failures := make(chan error, writers*each)
	for w := range writers {
		working.Go(func() {
			for i := range each {
				mode := []string{plain, refuses, rejects, quiet, fails, flaky}[(w+i)%6]
				c := command(fmt.Sprintf("%d-%d", w, i), deposit{Account: fmt.Sprintf("a-%d", w%4), Cents: 1, Mode: mode})
				if i%5 == 0 {
					c.Name = "slowly"
				}
				if _, err := e.Submit(ctx, c, semel.SubmitOptions{Async: i%2 == 0}); err != nil {
					failures <- err
				}
			}
		})
	}
	defer working.Wait()
	seen := make(map[semel.ID]bool)
	after := int64(0)
	return s.until(ctx, "every outcome was seen", func() (bool, error) {
		select {
		case err := <-failures:
			return false, err
		default:
		}
		ops, err := s.store.Operations(ctx, semel.OperationQuery{Principal: "alice", After: after, Limit: 4})
		if err != nil {
			return false, err
		}
		for _, op := range ops {
			if op.DonePosition <= after || seen[op.ID] {
				return false, fmt.Errorf("%q at %d is listed after %d, seen before: %t", op.Key, op.DonePosition, after, seen[op.ID])
			}
			after, seen[op.ID] = op.DonePosition, true
		}
		if len(ops) == 0 && len(seen) < writers*each {
			open, err := s.store.Operations(ctx, semel.OperationQuery{Principal: "alice", Open: true, Limit: 1})
			if err != nil || len(open) > 0 {
				return false, err
			}
			all, err := s.store.Operations(ctx, semel.OperationQuery{All: true, ByAcceptance: true, Limit: 1000})
			if err == nil && len(all) == writers*each {
				err = s.missed(ctx, after, seen)
			}
			return false, err
		}
		return len(seen) == writers*each, nil
	})
}

// missed looks once more: outcomes may have come between two reads.
func (s *stage[Tx]) missed(ctx context.Context, after int64, seen map[semel.ID]bool) error {
	late, err := s.store.Operations(ctx, semel.OperationQuery{Principal: "alice", After: after})
	if err != nil || len(late) > 0 {
		return err
	}
	return fmt.Errorf("nothing is open and nothing comes after %d, but only %d outcomes were seen", after, len(seen))
}
