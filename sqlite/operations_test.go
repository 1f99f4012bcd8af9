package sqlite

import (
	"errors"
	"fmt"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/semel-dev/semel"
)

func insert(t *testing.T, s *Store, ops ...*semel.Operation) {
	t.Helper()
	in(t, s, func(l semel.Session[Tx]) { must(t, l.Insert(t.Context(), ops)) })
}

func holding(key string, subjects ...string) *semel.Operation {
	o := operation(key, subjects...)
	o.Holds = true
	return o
}

func minute(string) time.Duration { return time.Minute }

func claim(t *testing.T, s *Store, limit int, names ...string) (claimed []*semel.Operation) {
	t.Helper()
	if names == nil {
		names = []string{"withdraw"}
	}
	in(t, s, func(l semel.Session[Tx]) {
		var err error
		claimed, err = l.Claim(t.Context(), semel.Claim{Names: names, Limit: limit, Lease: minute})
		must(t, err)
	})
	return claimed
}

func keys(ops []*semel.Operation) string {
	var all []string
	for _, o := range ops {
		all = append(all, o.Key)
	}
	return fmt.Sprint(all)
}

func update(t *testing.T, s *Store, from semel.State, epoch int64, o *semel.Operation) (stored bool) {
	t.Helper()
	in(t, s, func(l semel.Session[Tx]) {
		all, err := l.Update(t.Context(), []semel.Change{{Operation: o, State: from, Epoch: epoch}})
		must(t, err)
		stored = all[0]
	})
	return stored
}

func TestInsertTwiceIsFenced(t *testing.T) {
	t.Parallel()
	s := open(t)
	insert(t, s, operation("a"))
	l := begin(t, s)
	if err := l.Insert(t.Context(), []*semel.Operation{operation("b"), operation("a")}); !errors.Is(err, semel.ErrFenced) {
		t.Errorf("second insert: %v", err)
	}
	l.Rollback()
	if n := number(t, s, `SELECT count(*) FROM semel_operations`); n != 1 {
		t.Errorf("%d operations, want 1", n)
	}
}

func TestLookup(t *testing.T) {
	t.Parallel()
	s := open(t)
	exec1(t, s, `INSERT INTO semel_tombstones VALUES (?, 1)`, operationID("buried"))
	first, second, free := holding("first", "x", "y"), holding("second", "y"), operation("free", "z")
	insert(t, s, first, second, free)
	for _, n := range []int{1, 2, 5, 128, 129, 300} {
		l := begin(t, s)
		var ask []semel.Lookup
		for i := range n {
			ask = append(ask, semel.Lookup{ID: operation(fmt.Sprint(i)).ID, Tenant: "shop"})
		}
		ask = append(ask,
			semel.Lookup{ID: operation("buried").ID, Tenant: "shop", Subjects: []string{"z"}},
			semel.Lookup{ID: first.ID, Tenant: "shop", Subjects: []string{"x", "y"}},
			semel.Lookup{ID: second.ID, Tenant: "shop", Subjects: []string{"y"}},
			semel.Lookup{ID: operation("new").ID, Tenant: "shop", Subjects: []string{"a", "y"}},
			semel.Lookup{ID: operation("new").ID, Tenant: "else", Subjects: []string{"y"}},
			semel.Lookup{ID: first.ID, Tenant: "shop"})
		known, err := l.Lookup(t.Context(), ask)
		must(t, err)
		l.Rollback()
		var got []string
		for i, k := range known {
			key := ""
			if k.Operation != nil {
				key = k.Operation.Key
			}
			if i >= n {
				got = append(got, fmt.Sprint(key, k.Expired, k.Behind))
			} else if k.Operation != nil || k.Expired || k.Behind {
				t.Errorf("of %d: something is known of new operation %d: %+v", n, i, k)
			}
		}
		want := "[true false firstfalse false secondfalse true false true false false firstfalse false]"
		if fmt.Sprint(got) != want {
			t.Errorf("of %d: %v\nwant %s", n, got, want)
		}
	}
}

func operationID(key string) []byte { id := operation(key).ID; return id[:] }

func TestUpdateNeedsStateAndEpoch(t *testing.T) {
	t.Parallel()
	s := open(t)
	o := holding("k", "x")
	insert(t, s, o)
	c := claim(t, s, 10)[0]
	done := *c
	done.State, done.Holds, done.Result, done.DueAt = semel.Completed, false, []byte("ok"), time.Time{}
	for _, wrong := range []semel.Change{
		{Operation: &done, State: semel.Accepted, Epoch: 1},
		{Operation: &done, State: semel.Running, Epoch: 0},
		{Operation: operation("unknown"), State: semel.Running, Epoch: 1},
	} {
		if update(t, s, wrong.State, wrong.Epoch, wrong.Operation) {
			t.Errorf("stored from %s, epoch %d", wrong.State, wrong.Epoch)
		}
	}
	if n := number(t, s, `SELECT count(*) FROM semel_queue`); n != 1 {
		t.Errorf("%d places in the queue, want 1", n)
	}
	if !update(t, s, semel.Running, 1, &done) {
		t.Error("not stored by the owner")
	}
	got, err := s.Operation(t.Context(), o.ID)
	must(t, err)
	if got.State != semel.Completed || string(got.Result) != "ok" || !got.DueAt.IsZero() {
		t.Errorf("read %+v", got)
	}
	if n := number(t, s, `SELECT count(*) FROM semel_queue`); n != 0 {
		t.Errorf("%d places in the queue, want 0", n)
	}
}

func TestReplayTakesItsPlaceAgain(t *testing.T) {
	t.Parallel()
	s := open(t)
	o := operation("failed", "x")
	o.State, o.DueAt = semel.Failed, time.Time{}
	insert(t, s, o, holding("later", "x"))
	o.State, o.Holds, o.DueAt = semel.Accepted, true, o.AcceptedAt
	if !update(t, s, semel.Failed, 0, o) {
		t.Fatal("not stored")
	}
	if got := keys(claim(t, s, 10)); got != "[failed]" {
		t.Errorf("claimed %s, want the replayed one, which is older", got)
	}
}

func TestClaim(t *testing.T) {
	t.Parallel()
	s := open(t)
	later := holding("later", "w")
	later.DueAt = time.Now().Add(time.Hour)
	other := holding("other", "v")
	other.Name = "deposit"
	done := operation("done", "q")
	done.State = semel.Rejected
	a, b := holding("a", "x", "y"), holding("b", "y", "z")
	insert(t, s, a, b, holding("c", "z"), holding("d", "u"), later, other, done, operation("e"), holding("f", "w"))
	if got := claim(t, s, 10, "unheard"); got != nil {
		t.Errorf("claimed %s for a name that none has", keys(got))
	}
	got := claim(t, s, 2)
	if keys(got) != "[a d]" {
		t.Fatalf("claimed %s, want [a d]: the oldest of each subject", keys(got))
	}
	if o := got[0]; o.State != semel.Running || o.Epoch != 1 || o.Attempts != 1 || fmt.Sprint(o.Subjects) != "[x y]" || time.Until(o.DueAt) > time.Minute {
		t.Errorf("claimed %+v", o)
	}
	stored, err := s.Operation(t.Context(), a.ID)
	must(t, err)
	stored.Subjects = got[0].Subjects // the row keeps the first
	if want, have := fmt.Sprintf("%+v", got[0]), fmt.Sprintf("%+v", stored); want != have {
		t.Errorf("claimed\n%s\nstored\n%s", want, have)
	}
	if got := keys(claim(t, s, 10)); got != "[e]" {
		t.Errorf("claimed %s, want [e], which waits for nobody", got)
	}
	released := *got[0]
	released.State, released.Holds = semel.Completed, false
	update(t, s, semel.Running, 1, &released)
	if got := keys(claim(t, s, 10, "withdraw", "deposit")); got != "[b other]" {
		t.Errorf("claimed %s, want [b other]", got)
	}
}

func TestLeaseEnds(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "semel.db")
		s, err := Open(t.Context(), path, nil)
		must(t, err)
		o := holding("k", "x")
		o.AcceptedAt, o.DueAt = time.Now(), time.Now()
		insert(t, s, o)
		first := claim(t, s, 1)[0]
		due, err := s.NextDue(t.Context())
		must(t, err)
		if !due.Equal(time.Now().Add(time.Minute)) {
			t.Errorf("next due in %v, want one lease", time.Until(due))
		}
		<-time.After(time.Minute - time.Microsecond) // the bubble's time
		if got := claim(t, s, 1); got != nil {
			t.Errorf("claimed %s within the lease", keys(got))
		}
		<-time.After(time.Microsecond)
		second := claim(t, s, 1)[0]
		if second.Epoch != 2 || second.Attempts != 2 {
			t.Errorf("second claim has epoch %d and attempt %d", second.Epoch, second.Attempts)
		}
		first.State = semel.Completed
		if update(t, s, semel.Running, first.Epoch, first) {
			t.Error("the first owner stored its outcome after its lease")
		}
		must(t, s.Close())

		// A new process knows that the last owner is dead.
		s, err = Open(t.Context(), path, nil)
		must(t, err)
		if got := claim(t, s, 1); len(got) != 1 || got[0].Epoch != 3 {
			t.Errorf("after a restart: claimed %s", keys(got))
		}
		must(t, s.Close())
	})
}

func TestExecuted(t *testing.T) {
	t.Parallel()
	s := open(t)
	var ops []*semel.Operation
	for i, position := range []int64{5, 3, 9, 1} {
		o := operation(fmt.Sprint(i))
		o.State, o.Position, o.DueAt = semel.Executed, position, time.Time{}
		ops = append(ops, o)
	}
	insert(t, s, append(ops, operation("accepted"))...)
	l := begin(t, s)
	for _, test := range []struct {
		position int64
		limit    int
		want     string
	}{{5, 10, "[3 1 0]"}, {5, 2, "[3 1]"}, {100, 10, "[3 1 0 2]"}, {0, 10, "[]"}} {
		got, err := l.Executed(t.Context(), test.position, test.limit)
		must(t, err)
		if keys(got) != test.want {
			t.Errorf("to %d, at most %d: %s, want %s", test.position, test.limit, keys(got), test.want)
		}
	}
}
