package bench

import (
	"strconv"
	"testing"
	"time"

	"github.com/semel-dev/semel/internal/leak"
)

func TestMain(m *testing.M) { leak.Main(m) }

// TestEveryContenderWorks runs each for a moment: a benchmark that nobody runs
// in CI breaks without being noticed. It judges no speed.
func TestEveryContenderWorks(t *testing.T) {
	measures, err := Run(t.Context(), Options{Callers: []int{1, 8}, Runs: 1, For: 50 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	if len(measures) != 9 {
		t.Errorf("%d measures, want 9", len(measures))
	}
	for _, m := range measures {
		t.Logf("%-35s %3d callers %8.0f/s p50 %v p99 %v, %.2f flushes and %.0f allocations each",
			m.Contender, m.Callers, m.PerSecond, m.P50, m.P99, m.Flushes, m.Allocs)
		if m.PerSecond <= 0 || m.P99 < m.P50 || m.Flushes <= 0 {
			t.Errorf("impossible measure %+v", m)
		}
	}
}

func TestPushWorks(t *testing.T) {
	p, err := MeasurePush(t.Context(), 20, 100)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%+v", p)
	if p.Streams <= 0 || p.Sockets <= 0 || p.P99 < p.P50 {
		t.Errorf("impossible measure %+v", p)
	}
}

func BenchmarkOperation(b *testing.B) {
	for _, c := range Contenders() {
		for _, callers := range []int{1, 8, 64, 256} {
			if c.Batch > 1 && callers > 1 {
				continue
			}
			b.Run(c.Name+"/callers="+strconv.Itoa(callers), func(b *testing.B) {
				m, err := measure(b.Context(), c, callers, time.Second)
				if err != nil {
					b.Fatal(err)
				}
				b.ReportMetric(m.PerSecond, "ops/s")
				b.ReportMetric(float64(m.P50.Microseconds()), "p50-µs")
				b.ReportMetric(float64(m.P99.Microseconds()), "p99-µs")
				b.ReportMetric(m.Flushes, "flushes/op")
				b.ReportMetric(m.Allocs, "allocs/op")
			})
		}
	}
}
