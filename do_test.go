package semel_test

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/semel-dev/semel"
	"github.com/semel-dev/semel/sqlite"
)

func TestDoStoresOnlyOutcomes(t *testing.T) {
	ctx := t.Context()
	store, remove := openAccounts(ctx)
	defer remove()
	engine := semel.New(store, nil)
	defer run(engine)()
	command := semel.Command{Principal: "alice", Name: "take", Key: "1", Body: []byte(`{"n":1}`)}
	calls := 0
	take := func(end error) (int64, bool, error) {
		return semel.Do(ctx, engine, command, func(ctx context.Context, u *semel.Unit[sqlite.Tx]) (balance int64, err error) {
			calls++
			if err := u.Tx.QueryRowContext(ctx, `UPDATE accounts SET cents = cents - 1 RETURNING cents`).Scan(&balance); err != nil {
				return 0, err
			}
			return balance, end
		})
	}
	broken := errors.New("broken")
	if _, replayed, err := take(broken); !errors.Is(err, broken) || replayed {
		t.Fatalf("a failure: %v, replayed %t", err, replayed)
	}
	if balance, replayed, err := take(nil); balance != 999 || replayed || err != nil {
		t.Fatalf("after a failure: %d, %t, %v: the failed call left something", balance, replayed, err)
	}
	if balance, replayed, err := take(broken); balance != 999 || !replayed || err != nil {
		t.Fatalf("a repeat: %d, %t, %v", balance, replayed, err)
	}
	if calls != 2 {
		t.Errorf("%d calls, want the failed one and the one that counts", calls)
	}
	command.Body = []byte(`{"n":2}`)
	if _, _, err := take(nil); !errors.Is(err, semel.ErrKeyReused) {
		t.Errorf("another body: %v", err)
	}
	command.Key = "2"
	for _, again := range []bool{false, true} {
		_, replayed, err := take(semel.Reject("no", "not today"))
		var rejection *semel.Rejection
		if !errors.As(err, &rejection) || rejection.Code != "no" || replayed != again {
			t.Errorf("a rejection: %v, replayed %t, want %t", err, replayed, again)
		}
	}
}

func TestDoRunsOnceForManyAtOnce(t *testing.T) {
	ctx := t.Context()
	store, remove := openAccounts(ctx)
	defer remove()
	engine := semel.New(store, nil)
	defer run(engine)()
	var effects, replays, failures atomic.Int64
	var all sync.WaitGroup
	for range 100 {
		all.Go(func() {
			command := semel.Command{Principal: "alice", Name: "take", Key: "same"}
			_, replayed, err := semel.Do(ctx, engine, command, func(ctx context.Context, u *semel.Unit[sqlite.Tx]) (balance int64, err error) {
				return 0, u.Tx.QueryRowContext(ctx, `UPDATE accounts SET cents = cents - 1 RETURNING cents`).Scan(&balance)
			})
			switch {
			case err != nil:
				failures.Add(1)
			case replayed:
				replays.Add(1)
			default:
				effects.Add(1)
			}
		})
	}
	all.Wait()
	if effects.Load() != 1 || replays.Load() != 99 || failures.Load() != 0 {
		t.Errorf("%d effects, %d replays, %d failures", effects.Load(), replays.Load(), failures.Load())
	}
	var balance int64
	if err := store.Reader().QueryRowContext(ctx, `SELECT cents FROM accounts`).Scan(&balance); err != nil || balance != 999 {
		t.Errorf("balance %d, %v", balance, err)
	}
}

func TestAHandlerCannotWaitForItsOwnGroup(t *testing.T) {
	ctx := t.Context()
	store, remove := openAccounts(ctx)
	defer remove()
	engine := semel.New(store, nil)
	defer run(engine)()
	command := semel.Command{Principal: "alice", Name: "outer", Key: "1"}
	_, _, err := semel.Do(ctx, engine, command, func(ctx context.Context, _ *semel.Unit[sqlite.Tx]) (int, error) {
		command.Name = "inner"
		_, _, err := semel.Do(ctx, engine, command, func(context.Context, *semel.Unit[sqlite.Tx]) (int, error) { return 0, nil })
		return 0, err
	})
	if !errors.Is(err, semel.ErrInvalid) {
		t.Errorf("a command within a handler: %v", err)
	}
}
