package storetest

import (
	"context"
	"fmt"
	"log/slog"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/semel-dev/semel"
)

// Benchmark measures a store under an engine: commands of 1, 8 and 64 waiting
// callers, acceptance only, repeats, and a projection that catches up. Beside
// the time it reports commits per operation, each of which is a flush.
func Benchmark[Tx any](b *testing.B, h Harness[Tx]) {
	for _, callers := range []int{1, 8, 64} {
		b.Run(fmt.Sprintf("submit/callers=%d", callers), func(b *testing.B) {
			benchmarkSubmit(b, h, callers, semel.SubmitOptions{})
		})
	}
	b.Run("accept/callers=8", func(b *testing.B) { benchmarkSubmit(b, h, 8, semel.SubmitOptions{Async: true}) })
	b.Run("repeat/callers=8", func(b *testing.B) { benchmarkRepeat(b, h) })
	b.Run("project", func(b *testing.B) { benchmarkProject(b, h) })
}

var benchmarks atomic.Int64 // makes database names new

// bench opens a database and starts an engine on it.
func bench[Tx any](b *testing.B, h Harness[Tx], o setup[Tx]) (*stage[Tx], *semel.Engine[Tx]) {
	b.Helper()
	s := newStage(h, fmt.Sprint("benchmark-", benchmarks.Add(1)))
	if err := s.open(b.Context()); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := s.end(); err != nil {
			b.Error(err)
		}
	})
	e, _, err := s.start(b.Context(), o)
	if err != nil {
		b.Fatal(err)
	}
	return s, e
}

// each has callers share n calls.
func each(b *testing.B, callers, n int, call func(i int) error) {
	b.Helper()
	var next atomic.Int64
	var working sync.WaitGroup
	for range callers {
		working.Go(func() {
			for i := next.Add(1); i <= int64(n); i = next.Add(1) {
				if err := call(int(i)); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	working.Wait()
}

func report[Tx any](b *testing.B, e *semel.Engine[Tx], before semel.Stats) {
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "ops/s")
	b.ReportMetric(float64(e.Stats().Commits-before.Commits)/float64(b.N), "commits/op")
	b.ReportAllocs()
}

func benchmarkSubmit[Tx any](b *testing.B, h Harness[Tx], callers int, o semel.SubmitOptions) {
	_, e := bench(b, h, setup[Tx]{})
	b.ResetTimer()
	each(b, callers, b.N, func(i int) error {
		_, err := e.Submit(b.Context(), command(strconv.Itoa(i), deposit{Account: strconv.Itoa(i % 1000), Cents: 1}), o)
		return err
	})
	b.StopTimer()
	report(b, e, semel.Stats{})
}

func benchmarkRepeat[Tx any](b *testing.B, h Harness[Tx]) {
	const known = 100
	_, e := bench(b, h, setup[Tx]{})
	repeat := func(i int) error {
		n := i % known
		_, err := e.Submit(b.Context(), command(strconv.Itoa(n), deposit{Account: strconv.Itoa(n), Cents: 1}), semel.SubmitOptions{})
		return err
	}
	each(b, 8, known, repeat)
	before := e.Stats()
	b.ResetTimer()
	each(b, 8, b.N, repeat)
	b.StopTimer()
	report(b, e, before)
}

// benchmarkProject fills the log and has a new projection follow it.
func benchmarkProject[Tx any](b *testing.B, h Harness[Tx]) {
	s, e := bench(b, h, setup[Tx]{})
	each(b, 64, b.N, func(i int) error {
		_, err := send(b.Context(), e, strconv.Itoa(i), deposit{Account: strconv.Itoa(i % 1000), Cents: 1})
		return err
	})
	follower := semel.New(s.store, &semel.Options{Logger: slog.New(slog.DiscardHandler)})
	s.project(follower, "shown", nil)
	running, cancel := context.WithCancel(b.Context())
	defer cancel()
	ended := make(chan error, 1)
	b.ResetTimer()
	go func() { ended <- follower.Run(running) }()
	<-follower.Ready()
	if err := s.caughtUp(b.Context()); err != nil {
		b.Fatal(err)
	}
	b.StopTimer()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "events/s")
	cancel()
	if err := <-ended; err != nil {
		b.Error(err)
	}
}
