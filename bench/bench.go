// Package bench measures what Semel costs beside the same work written by
// hand: the same operation, the same driver, the same file settings, in the
// same run, interleaved. Only the ratios within one run mean anything; they are
// what the project is held to.
//
// The operation is a withdrawal: recognise a repeat by its key, take the money
// if the account covers it, write a ledger row and an event, keep the answer
// under the key. By hand it takes six statements, one of them for an outbox row;
// Semel's log is its outbox.
package bench

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"time"
)

// accounts is how many accounts the callers draw from, evenly.
const accounts = 10_000

// GroupSize is how many operations the code written by hand puts into one
// transaction, where it groups them.
const GroupSize = 64

// A Contender is one way to do the operation.
type Contender struct {
	Name string
	// Batch is how many operations one call does; 0 means 1. A contender with
	// a batch has no callers that wait, and runs with one.
	Batch int
	open  func(ctx context.Context, dir string) (*entry, error)
}

// entry is a contender ready to run.
type entry struct {
	// do does operation number n of a caller.
	do      func(ctx context.Context, n int) error
	commits func() int64
	close   func() error
}

// The contenders' names.
const (
	byHand    = "by hand, one transaction each"
	grouped   = "by hand, 64 to a transaction"
	plain     = "semel, plain handler"
	projected = "semel, with a required projection"
	overHTTP  = "semel, over HTTP"
)

// Contenders lists the ways, by hand first.
func Contenders() []Contender {
	return []Contender{
		{Name: byHand, open: openHand},
		{Name: grouped, Batch: GroupSize, open: openHandGrouped},
		{Name: plain, open: openSemel},
		{Name: projected, open: openSemelProjected},
		{Name: overHTTP, open: openHTTP},
	}
}

// A Measure is what one run of one contender gave.
type Measure struct {
	Contender string
	Callers   int
	PerSecond float64
	P50, P99  time.Duration
	Flushes   float64       // commits that were flushed, per operation
	Allocs    float64       // heap allocations per operation, the callers' included
	CPU       time.Duration // processor time per operation, the callers' included
}

// Options say what to run; the zero value is the full comparison.
type Options struct {
	Callers  []int         // nil means 1, 8, 64 and 256
	Runs     int           // of each, interleaved; 0 means 5
	For      time.Duration // how long each run takes; 0 means 1 s
	Progress func(done, total int, m Measure)
}

// Run measures every contender and returns the median of each, in the order
// of [Contenders] and then of callers.
func Run(ctx context.Context, o Options) ([]Measure, error) {
	if o.Callers == nil {
		o.Callers = []int{1, 8, 64, 256}
	}
	if o.Runs == 0 {
		o.Runs = 5
	}
	if o.For == 0 {
		o.For = time.Second
	}
	type cell struct {
		contender Contender
		callers   int
	}
	var cells []cell
	for _, c := range Contenders() {
		callers := o.Callers
		if c.Batch > 1 {
			callers = []int{1}
		}
		for _, n := range callers {
			cells = append(cells, cell{c, n})
		}
	}
	results := make([][]Measure, len(cells))
	done := 0
	for range o.Runs {
		for i, c := range cells {
			m, err := measure(ctx, c.contender, c.callers, o.For)
			if err != nil {
				return nil, fmt.Errorf("measuring %q with %d callers: %w", c.contender.Name, c.callers, err)
			}
			results[i] = append(results[i], m)
			done++
			if o.Progress != nil {
				o.Progress(done, o.Runs*len(cells), m)
			}
		}
	}
	medians := make([]Measure, len(cells))
	for i, runs := range results {
		slices.SortFunc(runs, func(a, b Measure) int { return int(a.PerSecond - b.PerSecond) })
		medians[i] = runs[len(runs)/2]
	}
	return medians, nil
}

// measure runs one contender on a fresh file.
func measure(ctx context.Context, c Contender, callers int, d time.Duration) (m Measure, err error) {
	dir, err := os.MkdirTemp("", "semel-bench-")
	if err != nil {
		return Measure{}, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	e, err := c.open(ctx, dir)
	if err != nil {
		return Measure{}, err
	}
	defer func() { err = errors.Join(err, e.close()) }()
	batch := max(c.Batch, 1)
	warm := load(ctx, e, callers, d/5)
	if warm.err != nil {
		return Measure{}, warm.err
	}
	var before, after runtime.MemStats
	commits := e.commits()
	runtime.GC()
	runtime.ReadMemStats(&before)
	cpu := processorTime()
	l := load(ctx, e, callers, d)
	cpu = processorTime() - cpu
	runtime.ReadMemStats(&after)
	if l.err != nil {
		return Measure{}, l.err
	}
	n := float64(len(l.took) * batch)
	slices.Sort(l.took)
	return Measure{
		Contender: c.Name, Callers: callers,
		PerSecond: n / l.elapsed.Seconds(),
		P50:       l.took[len(l.took)/2],
		P99:       l.took[len(l.took)*99/100],
		Flushes:   float64(e.commits()-commits) / n,
		Allocs:    float64(after.Mallocs-before.Mallocs) / n,
		CPU:       time.Duration(float64(cpu) / n),
	}, nil
}

type loaded struct {
	took    []time.Duration
	elapsed time.Duration
	err     error
}

// load has callers send one operation after another, each waiting for its
// answer, for about d.
func load(ctx context.Context, e *entry, callers int, d time.Duration) loaded {
	var (
		mu  sync.Mutex
		all loaded
		wg  sync.WaitGroup
	)
	start := time.Now()
	for range callers {
		wg.Go(func() {
			took := make([]time.Duration, 0, 4096)
			var err error
			for n := 0; err == nil && time.Since(start) < d && ctx.Err() == nil; n++ {
				begun := time.Now()
				err = e.do(ctx, n)
				took = append(took, time.Since(begun))
			}
			mu.Lock()
			defer mu.Unlock()
			all.took = append(all.took, took...)
			all.err = errors.Join(all.err, err)
		})
	}
	wg.Wait()
	all.elapsed = time.Since(start)
	if all.err == nil {
		all.err = ctx.Err()
	}
	return all
}

func account(n uint32) string { return "acc" + strconv.Itoa(int(n%accounts)) }
