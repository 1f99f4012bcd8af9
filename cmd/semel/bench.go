package main

import (
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/semel-dev/semel/bench"
)

func newBench() *cobra.Command {
	var o bench.Options
	var idle int
	cmd := &cobra.Command{
		Use:   "bench",
		Short: "Measure Semel beside the same work written by hand",
		Long: `Measure what the engine costs: withdrawals through Semel beside the same
withdrawals written by hand, with the same driver and file settings, in the same
run, each on a fresh file in TMPDIR. Every figure is the median of interleaved
runs.

Read the ratios. The absolute numbers are this machine's at this moment, and
mostly its disk's: each transaction waits for a flush.`,
		Example: `  semel bench
  semel bench --callers 1,64 --runs 3 --for 500ms`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			progress := cmd.ErrOrStderr()
			o.Progress = func(done, total int, m bench.Measure) {
				fmt.Fprintf(progress, "\r%3d of %d  %-34s %4d callers %8.0f/s ", done, total, m.Contender, m.Callers, m.PerSecond)
			}
			measures, err := bench.Run(cmd.Context(), o)
			fmt.Fprintln(progress)
			if err != nil {
				return err
			}
			if err := printMeasures(cmd.OutOrStdout(), measures); err != nil || idle == 0 {
				return err
			}
			push, err := bench.MeasurePush(cmd.Context(), idle, 1000)
			if err != nil {
				return err
			}
			return printPush(cmd.OutOrStdout(), push)
		},
	}
	cmd.Flags().IntSliceVar(&o.Callers, "callers", []int{1, 8, 64, 256}, "how many callers wait at once")
	cmd.Flags().IntVar(&o.Runs, "runs", 5, "runs of each, the median of which counts")
	cmd.Flags().DurationVar(&o.For, "for", time.Second, "how long each run takes")
	cmd.Flags().IntVar(&idle, "idle", 0, "also open this many idle streams and sockets (each takes two of the\nprocess's file descriptors), and measure how soon users are told")
	return cmd
}

func printPush(w io.Writer, p bench.Push) error {
	_, err := fmt.Fprintf(w, `
%d idle connections: %.1f kB for a stream, %.1f kB for a WebSocket (bar: 40 kB)
at %.0f operations a second a connected user is told %v after the answer, %v at p99 (bar: 20 ms)
`, p.Connections, float64(p.Streams)/1000, float64(p.Sockets)/1000, p.PerSecond,
		p.P50.Round(10*time.Microsecond), p.P99.Round(10*time.Microsecond))
	return err
}

func printMeasures(w io.Writer, measures []bench.Measure) error {
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(table, "\tcallers\tops/s\tp50\tp99\tCPU/op\tflushes/op\tallocs/op\t")
	for _, m := range measures {
		fmt.Fprintf(table, "%s\t%d\t%.0f\t%v\t%v\t%v\t%.3f\t%.0f\t\n", m.Contender, m.Callers, m.PerSecond,
			m.P50.Round(10*time.Microsecond), m.P99.Round(10*time.Microsecond), m.CPU.Round(100*time.Nanosecond), m.Flushes, m.Allocs)
	}
	if err := table.Flush(); err != nil {
		return err
	}
	fmt.Fprintln(w)
	for _, r := range bench.Ratios(measures) {
		fmt.Fprintf(w, "%6.2f × %s (bar: %.2f)\n", r.Value, r.What, r.Bar)
	}
	return nil
}
