package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
)

// A taking is what both sides count at one moment.
type taking struct {
	protected, naive counts
	balance          int64 // of the protected side
	naiveBalance     int64
	repliesLost      int // on the way back from either side
	naiveRepliesLost int
}

func (d *Demo) take(ctx context.Context) (taking, error) {
	// A worker that has just been killed is waited for: an old report would
	// pass for a new one.
	if err := d.worker.await(ctx); err != nil {
		return taking{}, err
	}
	s, err := d.state(ctx)
	if err != nil {
		return taking{}, err
	}
	t := taking{protected: s.Counts, balance: s.Protected.Balance, naiveBalance: s.Naive.Balance}
	_, _, t.repliesLost = d.protected.totals()
	t.naive.Requests, t.naive.Replays, t.naiveRepliesLost = d.naive.totals()
	t.naive.Effects, t.naive.DoubleEffects = s.Naive.Effects, s.Naive.DoubleEffects
	var references []string
	for _, story := range d.naive.newest() {
		if story.acknowledged {
			references = append(references, story.key)
		}
	}
	t.naive.Lost, err = d.twin.missing(ctx, references)
	return t, err
}

// check judges a whole scene. It guards against one in which nothing went
// wrong, and which would therefore show nothing.
func (t taking) check() error {
	var errs []error
	if p := t.protected; p.DoubleEffects != 0 || p.Lost != 0 {
		errs = append(errs, fmt.Errorf("the protected side has %s and lost %d", many(p.DoubleEffects, "double effect"), p.Lost))
	}
	if t.naive.DoubleEffects == 0 {
		errs = append(errs, errors.New("the faults did not really happen: the naive twin has no double effects"))
	}
	if t.repliesLost == 0 || t.naiveRepliesLost == 0 {
		errs = append(errs, fmt.Errorf("the faults did not really happen: %d replies of the protected side and %d of the naive twin were lost",
			t.repliesLost, t.naiveRepliesLost))
	}
	if t.protected.Replays == 0 {
		errs = append(errs, errors.New("the faults did not really happen: nothing was replayed"))
	}
	return errors.Join(errs...)
}

// minus returns what was added since an earlier taking; balances stand as
// they are.
func (t taking) minus(earlier taking) taking {
	less := func(a, b counts) counts {
		return counts{
			Requests: a.Requests - b.Requests, Effects: a.Effects - b.Effects, Replays: a.Replays - b.Replays,
			DoubleEffects: a.DoubleEffects - b.DoubleEffects, Lost: a.Lost - b.Lost,
		}
	}
	t.protected, t.naive = less(t.protected, earlier.protected), less(t.naive, earlier.naive)
	return t
}

// print writes what one step of the scene did on both sides.
func (t taking) print(w io.Writer, paint painter, right int) {
	line := func(side string, c counts, balance int64) {
		replays := ""
		if c.Replays > 0 {
			replays = many(c.Replays, "replay")
		}
		verdict := paint(green, "right")
		if c.Effects != right {
			verdict = paint(red, fmt.Sprintf("WRONG: %d too many", c.Effects-right))
		}
		fmt.Fprintf(w, "       %-10s  %-10s  %-9s  %-9s  balance %s  %s\n",
			side, many(c.Requests, "request"), many(c.Effects, "effect"), replays, money(balance), verdict)
	}
	line("protected", t.protected, t.balance)
	line("naive", t.naive, t.naiveBalance)
}

// Counts writes the table of everything so far.
func (d *Demo) Counts(ctx context.Context, w io.Writer) error {
	t, err := d.take(ctx)
	if err != nil {
		return err
	}
	fmt.Fprintf(w, "\n  %-10s  %8s  %7s  %7s  %14s  %4s\n", "", "requests", "effects", "replays", "double effects", "lost")
	for _, side := range []struct {
		name string
		counts
	}{{"protected", t.protected}, {"naive", t.naive}} {
		fmt.Fprintf(w, "  %-10s  %8d  %7d  %7d  %14d  %4d\n",
			side.name, side.Requests, side.Effects, side.Replays, side.DoubleEffects, side.Lost)
	}
	fmt.Fprintf(w, "\n  worker restarts: %d\n", d.worker.state().Restarts)
	return nil
}

// A painter colours text on a terminal, and leaves it alone elsewhere.
type painter func(colour, text string) string

const (
	green = "32"
	red   = "31"
)

func newPainter(coloured bool) painter {
	return func(colour, text string) string {
		if !coloured {
			return text
		}
		return "\x1b[" + colour + "m" + text + "\x1b[0m"
	}
}

func many(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// money writes cents as people do: 1,234.50.
func money(cents int64) string {
	sign := ""
	if cents < 0 {
		sign, cents = "-", -cents
	}
	whole := fmt.Sprint(cents / 100)
	var b strings.Builder
	for i, digit := range whole {
		if i > 0 && (len(whole)-i)%3 == 0 {
			b.WriteByte(',')
		}
		b.WriteRune(digit)
	}
	return fmt.Sprintf("%s%s.%02d", sign, b.String(), cents%100)
}
