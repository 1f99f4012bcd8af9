// Package storetest checks that a store keeps the contract of [semel.Store].
//
// Most checks go through what users hold, an engine with handlers and
// projections on a real database; the rest look at what only the engine sees.
// Every check names the promise that it holds. The suite is itself tested
// against stores that are each wrong in one way.
//
// A store runs it in a few lines:
//
//	func TestStore(t *testing.T) { storetest.Run(t, harness(t.TempDir())) }
//	func BenchmarkStore(b *testing.B) { storetest.Benchmark(b, harness(b.TempDir())) }
package storetest

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/semel-dev/semel"
)

// A Harness is what the suite must be told about a store.
type Harness[Tx any] struct {
	// Open opens the named database, which is new and empty when its name is
	// first used. When close has returned, the same name opens it again.
	Open func(ctx context.Context, name string) (store semel.Store[Tx], close func() error, err error)

	// Exec and QueryInt run the suite's own statements, few and plain, with ?
	// as placeholders. Exec returns how many rows were changed; QueryInt reads
	// one number, 0 if there is no row. Arguments are strings and int64.
	Exec     func(ctx context.Context, tx Tx, query string, args ...any) (int64, error)
	QueryInt func(ctx context.Context, tx Tx, query string, args ...any) (int64, error)

	// VirtualTime says that the store works within testing/synctest: it waits
	// on channels and timers of this process only, not on sockets. Leases and
	// windows then pass in no time; without it they are short, and real.
	VirtualTime bool
}

// A check holds one promise. It returns what is broken instead of taking a
// *testing.T, so that it can be seen to fail.
type check[Tx any] struct {
	name    string
	promise string
	run     func(ctx context.Context, s *stage[Tx]) error
}

// Run checks a store. Each promise is a parallel subtest with a database of
// its own.
func Run[Tx any](t *testing.T, h Harness[Tx]) {
	for _, c := range checks[Tx]() {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			if err := hold(t, h, c); err != nil {
				t.Errorf("%s: does not hold: %v", c.promise, err)
			}
		})
	}
}

// hold runs one check on a database of its own.
func hold[Tx any](t *testing.T, h Harness[Tx], c check[Tx]) (err error) {
	t.Helper()
	run := func(t *testing.T) {
		s := newStage(h, strings.ReplaceAll(c.name, "/", "-"))
		ctx, cancel := context.WithTimeout(t.Context(), s.patience)
		defer cancel()
		if err = s.open(ctx); err == nil {
			err = c.run(ctx, s)
		}
		if err != nil && ctx.Err() != nil {
			err = fmt.Errorf("within %s: %w", s.patience, err)
		}
		err = errors.Join(err, s.end())
	}
	if h.VirtualTime {
		synctest.Test(t, run)
	} else {
		run(t)
	}
	return err
}

// checks lists every promise, in the order in which a new store best keeps
// them: first its own sessions, then the engine on top.
func checks[Tx any]() []check[Tx] {
	var all []check[Tx]
	all = append(all, sessionChecks[Tx]()...)
	all = append(all, operationChecks[Tx]()...)
	all = append(all, queueChecks[Tx]()...)
	all = append(all, logChecks[Tx]()...)
	all = append(all, listingChecks[Tx]()...)
	all = append(all, effectChecks[Tx]()...)
	all = append(all, failureChecks[Tx]()...)
	all = append(all, orderChecks[Tx]()...)
	all = append(all, ownerChecks[Tx]()...)
	all = append(all, projectionChecks[Tx]()...)
	all = append(all, retentionChecks[Tx]()...)
	return all
}

// pause waits for d, or until ctx ends.
func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
