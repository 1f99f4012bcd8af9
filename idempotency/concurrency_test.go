package idempotency_test

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"
)

// Many at once with one key: one call, one effect, one answer for all, and
// the first one is still running when the others come.
func TestConcurrentRepeats(t *testing.T) {
	t.Parallel()
	s := open(t, nil)
	const n = 50
	answers := make([]answered, n)
	errs := make([]error, n)
	var all sync.WaitGroup
	for i := range n {
		all.Go(func() { answers[i], errs[i] = s.send("POST", "/held/gate", "", "Idempotency-Key", "same") })
	}
	eventually(t, "a call of the handler", func() bool { return s.calls.Load() > 0 })
	close(s.gate("gate"))
	all.Wait()
	fresh := 0
	for i, a := range answers {
		if errs[i] != nil || a.status != 200 || a.body != "order 1" {
			t.Errorf("%+v, %v", a, errs[i])
		}
		if !a.replayed {
			fresh++
		}
	}
	if fresh != 1 || s.calls.Load() != 1 || s.orders() != 1 {
		t.Errorf("%d fresh answers, %d calls, %d effects", fresh, s.calls.Load(), s.orders())
	}
}

// Repeats of a request that is not stored are not stored either, and nobody
// waits for ever.
func TestConcurrentRepeatsOfAFailure(t *testing.T) {
	t.Parallel()
	s := open(t, nil)
	var all sync.WaitGroup
	for range 30 {
		all.Go(func() {
			if a, err := s.send("POST", "/status/500", "", "Idempotency-Key", "same"); err != nil || a.status != 500 || a.replayed {
				t.Errorf("%+v, %v", a, err)
			}
		})
	}
	all.Wait()
	if s.orders() != 0 {
		t.Errorf("%d effects", s.orders())
	}
}

// When a request is rolled back because of another in its transaction, a
// handler that had its effect elsewhere is not called again; one that wrote in
// the transaction is, and its effect is committed once.
func TestRolledBackForAnothersSake(t *testing.T) {
	t.Parallel()
	s := open(t, nil)
	deadline := time.Now().Add(time.Minute)
	for round := 0; s.engine.Stats().Careful == 0 || round < 3; round++ {
		if time.Now().After(deadline) {
			t.Fatal("no request was ever rolled back for another's sake")
		}
		gate := fmt.Sprint("gate-", round)
		before, orders := s.calls.Load(), s.orders()
		var all sync.WaitGroup
		send := func(path string) {
			all.Go(func() {
				if a, err := s.send("POST", path, "", "Idempotency-Key", fmt.Sprint(round, path, rand.Uint64())); err != nil || a.replayed {
					t.Errorf("%+v, %v", a, err)
				}
			})
		}
		send("/held/" + gate) // everything behind it becomes one group
		eventually(t, "a call of the held handler", func() bool { return s.calls.Load() > before })
		for range 8 {
			send("/apart")
			send("/text/1")
			send("/status/500")
		}
		close(s.gate(gate))
		all.Wait()
		if got := s.orders() - orders; got != 9 {
			t.Errorf("round %d: %d effects, want 9", round, got)
		}
		// Only those that write in the transaction may be called again.
		if calls, want := s.apartCalls.Load(), int64(8*(round+1)); calls != want {
			t.Errorf("round %d: %d calls for %d requests whose effect is elsewhere", round, calls, want)
		}
	}
}

// TestIsolation: whatever keys two principals use, one never sees a byte of
// the other's.
func TestIsolation(t *testing.T) {
	t.Parallel()
	s := open(t, nil)
	principals := []string{"alice", "bob", "acme/alice", "acme/bob", "globex/alice", "a/b", "a/bb"}
	keys := []string{"a", "b", "aa", "alice", "bob"}
	tries := 3000
	if testing.Short() {
		tries = 300
	}
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for range tries / 8 {
				who, key := principals[rand.IntN(len(principals))], keys[rand.IntN(len(keys))]
				secret := "secret-of-" + who + "."
				a, err := s.send("POST", "/whoami", "", "Idempotency-Key", key, "Authorization", "Bearer "+who, "X-Secret", secret)
				scope := who
				if !strings.Contains(who, "/") {
					scope = "/" + who
				}
				if err != nil || a.body != scope+" "+key+"  "+secret {
					t.Errorf("%s with key %s gets %q, %v", who, key, a.body, err)
				}
			}
		})
	}
	all.Wait()
	if calls, most := s.calls.Load(), int64(len(principals)*len(keys)); calls > most {
		t.Errorf("%d calls for %d different requests", calls, most)
	}
}

func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(30 * time.Second); !holds(); <-tick.C {
		if time.Now().After(deadline) {
			t.Fatalf("%s has not come", what)
		}
	}
}
