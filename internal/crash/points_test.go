package crash

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/semel-dev/semel/internal/crashpoint"
)

// A scenario is one crash at a named point.
type scenario struct {
	point   string
	passage int    // at which the program dies
	step    string // done wrong until then
	harm    []kind // of that, in one of these ways
}

// window is how long answers are kept where clean-up is to be seen. What is
// answered must still be kept when a slow program has been started again.
const window = 3 * time.Second

func (s scenario) sweeps() bool { return strings.HasPrefix(s.point, "sweep.") }

// pointScenarios are late enough for the load to be under way: to open the
// accounts takes at most 20 groups.
var pointScenarios = []scenario{
	{crashpoint.BeforeBegin, 40, "", nil},
	{crashpoint.AfterHandlers, 41, "", nil},
	{crashpoint.AfterRecord, 42, "", nil},
	{crashpoint.BeforeCommit, 43, "", nil},
	{crashpoint.AfterCommit, 44, "", nil},
	{crashpoint.BeforeAnswer, 45, "", nil},
	{crashpoint.BeforeClaim, 25, "", nil},
	{crashpoint.AfterClaim, 25, "", nil},
	{crashpoint.BeforeProjection, 50, "", nil},
	{crashpoint.AfterProjection, 50, "", nil},
	{crashpoint.BeforeSweep, 2, "", nil},
	{crashpoint.AfterSweep, 2, "", nil},
}

// brokenScenarios make each of the crashes matter, and say how the harm shows.
// Some of the steps pass their point twice, of which one is between the halves
// of what they tear apart: hence passages that are even, or odd.
var brokenScenarios = []scenario{
	{crashpoint.BeforeBegin, 40, "accept-before-begin", []kind{lost}},
	{crashpoint.AfterHandlers, 60, "effect-apart", []kind{doubled}},
	{crashpoint.AfterRecord, 61, "record-apart", []kind{doubled}},
	{crashpoint.BeforeCommit, 30, "answer-before-commit", []kind{forgotten, lost}},
	{crashpoint.AfterCommit, 40, "no-record", []kind{doubled}},
	{crashpoint.BeforeAnswer, 40, "no-bytes", []kind{differs}},
	{crashpoint.BeforeClaim, 10, "accept-volatile", []kind{lost}},
	{crashpoint.AfterClaim, 1, "claim-forgets", []kind{stuck}}, // the first takes all accounts with it,
	{crashpoint.BeforeProjection, 41, "position-first", []kind{verify}},
	{crashpoint.AfterProjection, 41, "position-last", []kind{verify, stuck}},
	{crashpoint.BeforeSweep, 1, "no-tombstone", []kind{doubled}},
	{crashpoint.AfterSweep, 1, "no-tombstone", []kind{doubled}},
}

func TestNamedPoints(t *testing.T) {
	t.Parallel()
	checkComplete(t, pointScenarios)
	program, err := sound()
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range pointScenarios {
		t.Run(s.point, func(t *testing.T) {
			t.Parallel()
			d := s.driver(t, program)
			if err := s.play(t.Context(), d); err != nil {
				t.Fatal(err)
			}
			d.report(t)
			t.Logf("%d outcomes, %d of them rejections, %d accepted first, %d repeats, %d expired, %d problems",
				d.outcomes.Load(), d.rejected.Load(), d.accepted.Load(), d.replayed.Load(), d.expired.Load(), d.violations())
		})
	}
}

// mostTries of a broken step: that its harm is done takes a little luck, such
// as an answer that leaves the program just before it dies.
const mostTries = 8

func TestBrokenStepsAreCaught(t *testing.T) {
	t.Parallel()
	checkComplete(t, brokenScenarios)
	program, err := broken()
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range brokenScenarios {
		t.Run(s.point+"/"+s.step, func(t *testing.T) {
			t.Parallel()
			for try := 1; try <= mostTries; try++ {
				d := s.driver(t, program)
				d.name = fmt.Sprintf("%s %s %d", s.point, s.step, try)
				d.patience = 8 * time.Second
				if err := s.play(t.Context(), d); err != nil {
					t.Fatal(err)
				}
				if n := d.violations(s.harm...); n > 0 {
					t.Logf("caught at try %d, %d × %s", try, n, d.example(s.harm))
					return
				}
			}
			t.Errorf("the step %q was done wrong, the program was killed at %s, and nothing of %q was found in %d tries", s.step, s.point, s.harm, mostTries)
		})
	}
}

// checkComplete compares a table with the points in the code.
func checkComplete(t *testing.T, table []scenario) {
	t.Helper()
	var have []string
	for _, s := range table {
		have = append(have, s.point)
	}
	if want := crashpoint.All(); !slices.Equal(slices.Sorted(slices.Values(have)), slices.Sorted(slices.Values(want))) {
		t.Fatalf("the table has the points %q, the code %q", have, want)
	}
}

func (s scenario) driver(t *testing.T, program string) *driver {
	l := launch{program: program, step: s.step}
	if s.sweeps() {
		l.window = window
	}
	return newDriver(t, s.point, l)
}

// play lets the program die at the point, starts it again, and looks at what
// is left. With a step done wrong it is a sound program that takes over, so
// that what is found is what was there when the other died, and play ends when
// the harm has shown. Clean-up goes on after the crash, and stays wrong.
func (s scenario) play(ctx context.Context, d *driver) error {
	before, err := s.untilDead(ctx, d)
	if err != nil {
		return err
	}
	if s.step != "" {
		d.forgive()
	}
	if s.step != "" && !s.sweeps() {
		if d.launch.program, err = sound(); err != nil {
			return err
		}
	}
	if err := d.start(ctx, ""); err != nil {
		return err
	}
	for _, look := range []func(context.Context) error{
		d.settleAll,
		func(ctx context.Context) error { return d.repeat(ctx, before) },
		d.goOn,
		d.settleAll,
		func(ctx context.Context) error {
			return d.repeat(ctx, d.some(500, d.dice(), (*intention).answered))
		},
		func(ctx context.Context) error { return s.expire(ctx, d) },
		d.audit,
	} {
		if err := look(ctx); err != nil {
			return err
		}
		if s.step != "" && d.violations(s.harm...) > 0 {
			return nil
		}
	}
	if s.step != "" {
		return nil
	}
	return s.guard(d, len(before))
}

// untilDead sends until the armed point kills the program, and returns what
// had been answered by then.
func (s scenario) untilDead(ctx context.Context, d *driver) ([]*intention, error) {
	if err := d.start(ctx, fmt.Sprintf("%s:%d", s.point, s.passage)); err != nil {
		return nil, err
	}
	if err := d.open(ctx); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, slow)
	defer cancel()
	l := load{stop: ctx.Done()}
	if s.sweeps() {
		l.pace = 100 * time.Millisecond
	}
	d.load(ctx, l)
	if !d.server.dead() {
		return nil, fmt.Errorf("the program was not killed within %s: passage %d of %s never came", slow, s.passage, s.point)
	}
	if !d.server.killed() {
		return nil, fmt.Errorf("the program was to be killed at %s and ended with %s; see %s", s.point, d.server.cmd.ProcessState, d.launch.log)
	}
	d.server.kill() // closes connections
	return d.all((*intention).answered), nil
}

func (d *driver) settleAll(ctx context.Context) error {
	return d.settle(ctx, d.all((*intention).unsettled))
}

// goOn sends new commands. A program that a broken one has left a ruin to may
// hold them up.
func (d *driver) goOn(ctx context.Context) error {
	late, cancel := context.WithTimeout(ctx, d.patience)
	defer cancel()
	d.load(late, load{most: 150, stop: late.Done()})
	return ctx.Err()
}

// expire waits until every answer has been cleaned up, and then sends all
// again for longer than two more clean-ups take: none may run.
func (s scenario) expire(ctx context.Context, d *driver) error {
	if !s.sweeps() {
		return nil
	}
	db, err := openData(d.launch.data)
	if err != nil {
		return err
	}
	defer db.Close()
	err = poll(ctx, slow, func() (bool, error) {
		var left int
		err := db.QueryRowContext(ctx, `SELECT count(*) FROM semel_operations`).Scan(&left)
		return left == 0, err
	})
	if err != nil {
		return fmt.Errorf("waiting for the clean-up: %w", err)
	}
	all := d.all(func(*intention) bool { return true })
	err = poll(ctx, 2500*time.Millisecond, func() (bool, error) {
		err := d.repeat(ctx, all)
		return d.violations(forgotten) > 0, err
	})
	if err != nil && !errors.Is(err, errLate) {
		return err
	}
	for _, in := range all {
		if !in.settled() || !in.expired {
			d.wrong(unexpected, "%v is cleaned up and was not answered 410", in)
		}
	}
	return nil
}

// guard refuses a scenario in which too little has happened to learn from.
func (s scenario) guard(d *driver, before int) error {
	for _, g := range []struct {
		what string
		got  int64
		want int64
	}{
		{"answers before the crash", int64(before), 30},
		{"answers after it", d.outcomes.Load() - int64(before), 50},
		{"rejections", d.rejected.Load(), 5},
		{"accepted first", d.accepted.Load(), 5},
		{"repeats", d.replayed.Load(), 100},
		{"looks at accounts", d.looked.Load(), 10},
	} {
		if g.got < g.want {
			return fmt.Errorf("%s: there were only %d %s, fewer than %d: nothing is shown", s.point, g.got, g.what, g.want)
		}
	}
	return nil
}
