package sqlite

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/semel-dev/semel"
)

func TestEvents(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "semel.db")
	s := reopen(t, path)
	full := &semel.Event{
		Tenant: "shop", Operation: operation("k").ID, Number: 3, Name: "Withdrawn", Schema: "https://example.com/1", Subject: "a",
		Version: 1, Data: []byte(`{"x":"ä"}`), Correlation: []byte(`{"id":"c"}`), Publish: []byte(`{"topic":"t"}`),
		At: time.Date(2026, 1, 2, 3, 4, 5, 678901000, time.UTC),
	}
	in(t, s, func(l semel.Session[Tx]) {
		must(t, l.Append(t.Context(), []*semel.Event{full, {Name: "plain"}, {Name: "plain"}}))
	})
	must(t, s.Close())
	s = reopen(t, path)
	next := &semel.Event{Name: "next"}
	in(t, s, func(l semel.Session[Tx]) { must(t, l.Append(t.Context(), []*semel.Event{next})) })
	if next.Position != 4 {
		t.Errorf("position %d after a restart, want 4", next.Position)
	}
	got, err := s.Events(t.Context(), 0, 1)
	must(t, err)
	if len(got) != 1 || fmt.Sprintf("%+v", got[0]) != fmt.Sprintf("%+v", *full) {
		t.Errorf("read %+v\nwant %+v", got, *full)
	}
	got, err = s.Events(t.Context(), 1, 2)
	must(t, err)
	if len(got) != 2 || got[0].Position != 2 || got[1].Position != 3 {
		t.Errorf("read %+v, want positions 2 and 3", got)
	}
	head, err := s.Head(t.Context())
	must(t, err)
	if head != 4 {
		t.Errorf("head %d, want 4", head)
	}
}

func TestStreams(t *testing.T) {
	t.Parallel()
	s := open(t)
	event := func(subject string, version int64) *semel.Event {
		return &semel.Event{Tenant: "shop", Subject: subject, Version: version, Name: "e"}
	}
	in(t, s, func(l semel.Session[Tx]) {
		must(t, l.Append(t.Context(), []*semel.Event{event("a", 1), event("a", 0), event("a", 0), event("b", 1), event("a", 2)}))
	})
	l := begin(t, s)
	must(t, l.Append(t.Context(), []*semel.Event{event("a", 3)}))
	for after, want := range []string{"[1 2 3]", "[2 3]", "[3]", "[]"} {
		events, err := l.Stream(t.Context(), "shop", "a", int64(after))
		must(t, err)
		versions := []int64{}
		for _, e := range events {
			versions = append(versions, e.Version)
		}
		if fmt.Sprint(versions) != want {
			t.Errorf("after %d: versions %v, want %s", after, versions, want)
		}
	}
	half := []*semel.Event{event("a", 4), event("a", 2), event("a", 5)}
	if err := l.Append(t.Context(), half); !errors.Is(err, semel.ErrVersionConflict) {
		t.Errorf("a version that is taken: %v", err)
	}
	whole := event("a", 4)
	must(t, l.Append(t.Context(), []*semel.Event{whole}))
	if whole.Position != 7 || half[0].Position != 0 {
		t.Errorf("after a conflict: positions %d and %d, want 7 and 0", whole.Position, half[0].Position)
	}
	for name, test := range map[string]struct {
		events  []*semel.Event
		spoiled int
	}{"conflict": {half, -1}, "success": {[]*semel.Event{event("a", 5)}, 0}} {
		spoiled, err := l.Run(t.Context(), []semel.Member[Tx]{handler(func(ctx context.Context, _ Tx) error {
			_ = l.Append(ctx, test.events)
			return errNo
		})})
		if spoiled != test.spoiled || err != nil {
			t.Errorf("a member that fails after a %s of Append: %d, %v", name, spoiled, err)
		}
	}
}

func TestFollowers(t *testing.T) {
	t.Parallel()
	s := open(t)
	follow := func(name string, generation int, from, to int64, live bool) error {
		l := begin(t, s)
		defer l.Rollback()
		err := l.Follow(t.Context(), semel.Follower{Name: name, Generation: generation, Position: to, Live: live}, from)
		if err == nil {
			must(t, l.Commit(t.Context()))
		}
		return err
	}
	must(t, follow("a", 1, 0, 0, true))
	must(t, follow("a", 1, 0, 5, false)) // being live is not changed by moving
	must(t, follow("a", 2, 0, 3, false))
	must(t, follow("b", 1, 0, 7, true))
	for _, wrong := range []error{follow("a", 1, 0, 9, true), follow("a", 1, 4, 9, true), follow("c", 1, 1, 2, true)} {
		if !errors.Is(wrong, semel.ErrFenced) {
			t.Errorf("from a wrong place: %v", wrong)
		}
	}
	check := func(want string) {
		t.Helper()
		got, err := s.Followers(t.Context())
		must(t, err)
		if fmt.Sprint(got) != want {
			t.Errorf("followers %v, want %s", got, want)
		}
	}
	check("[{a 1 5 true} {a 2 3 false} {b 1 7 true}]")
	in(t, s, func(l semel.Session[Tx]) { must(t, l.Promote(t.Context(), "a", 2)) })
	check("[{a 2 3 true} {b 1 7 true}]")
	l := begin(t, s)
	if err := l.Promote(t.Context(), "b", 9); !errors.Is(err, semel.ErrNotFound) {
		t.Errorf("promoting what is not there: %v", err)
	}
	l.Rollback()
	check("[{a 2 3 true} {b 1 7 true}]")
}

func TestSweep(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "semel.db")
	s := reopen(t, path)
	start := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	var ops []*semel.Operation
	for i, state := range []semel.State{semel.Completed, semel.Failed, semel.Waiting, semel.Rejected, semel.Executed, semel.Canceled, semel.Completed, semel.Completed} {
		o := operation(fmt.Sprint(i))
		o.DonePosition = int64(10 * i)
		o.State, o.AcceptedAt, o.ExpiresAt = state, start.Add(time.Duration(i)*time.Hour), start.Add(time.Duration(i+24)*time.Hour)
		ops = append(ops, o)
	}
	insert(t, s, ops...)
	w := semel.Sweep{Now: start.Add(30 * time.Hour), Limit: 3, Tombstone: 10 * time.Hour, Youngest: start.Add(6 * time.Hour)}
	sweep := func() (swept semel.Swept) {
		in(t, s, func(l semel.Session[Tx]) {
			var err error
			swept, err = l.Sweep(t.Context(), w)
			must(t, err)
		})
		w.After = swept.Last
		return swept
	}
	for i, want := range []semel.Swept{{Expired: 1, Last: 3}, {Expired: 2, Last: 6}, {Expired: 1, Last: 7, End: true}} {
		if got := sweep(); got != want {
			t.Errorf("sweep %d: %+v, want %+v", i, got, want)
		}
	}
	horizon, err := s.Horizon(t.Context())
	must(t, err)
	if horizon != 60 {
		t.Errorf("horizon %d, want 60, the outcome of operation 6", horizon)
	}
	if _, err := s.Operation(t.Context(), ops[0].ID); !errors.Is(err, semel.ErrKeyExpired) {
		t.Errorf("expired operation: %v", err)
	}
	for _, i := range []int{1, 2, 4, 7} {
		if _, err := s.Operation(t.Context(), ops[i].ID); err != nil {
			t.Errorf("operation %d: %v", i, err)
		}
	}
	w.Now, w.After, w.Youngest = start.Add(38*time.Hour), 7, start.Add(24*time.Hour)
	if got, want := sweep(), (semel.Swept{Expired: 1, Forgotten: 2, Last: 8, End: true}); got != want {
		t.Errorf("later sweep: %+v, want %+v", got, want)
	}
	must(t, s.Close())
	s = reopen(t, path)
	o := operation("next")
	insert(t, s, o)
	if o.Seq != 9 {
		t.Errorf("seq %d after the last ones were swept and a restart, want 9", o.Seq)
	}
}
