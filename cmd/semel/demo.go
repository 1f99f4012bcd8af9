package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/semel-dev/semel/cmd/semel/demo"
	"github.com/semel-dev/semel/cmd/semel/judge"
)

// usualAddr is tried first, so that the page has the same address each time;
// if it is taken, any free port will do.
const usualAddr = "127.0.0.1:7313"

func newDemo() *cobra.Command {
	var o demoOptions
	var noColor bool
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "Watch a withdrawal happen once, in your browser",
		Long: `Start a bank on this machine, break its network and kill its server, and watch
that nothing happens twice and nothing is lost.

The bank runs in a worker, a process of its own. Beside it is a naive twin: the
same account, written as most people write it. Both are behind the same faults.
First a scene is played, line by line:

  1  one withdrawal
  2  the same click five times at once
  3  the reply lost after the commit; the client asks again
  4  the worker killed in the middle of a transaction; the client asks again
  5  the same key with another amount

Then a page is served where you do it by hand. It ends with Ctrl-C.
Nothing else is needed: no file, no server, no network.

With --check there is no page: the scene is played, the requests, effects,
replays, double effects and lost withdrawals are counted, the data is verified,
and the exit code is 1 if anything was doubled or lost on the protected side,
or if nothing was doubled on the naive one: then the faults did not happen.`,
		Example: `  semel demo
  semel demo --check
  semel demo --keep ./bank   # and later: semel verify ./bank/bank.db`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			o.usual = !cmd.Flags().Changed("addr")
			o.color = !noColor && colourful(cmd.OutOrStdout())
			return runDemo(cmd.Context(), o, cmd.OutOrStdout())
		},
	}
	cmd.Flags().StringVar(&o.addr, "addr", "127.0.0.1:0", "host and port of the page; port 0 takes "+usualAddr+" or else a free one")
	cmd.Flags().BoolVar(&o.check, "check", false, "play the scene without a page, and fail on a violation")
	cmd.Flags().StringVar(&o.keep, "keep", "", "keep the data in this directory, which must be new or empty")
	cmd.Flags().BoolVar(&noColor, "no-color", false, "no colours; the variable NO_COLOR says the same")
	_ = cmd.MarkFlagDirname("keep")
	return cmd
}

type demoOptions struct {
	addr, keep string
	check      bool
	usual      bool // no address was asked for
	color      bool
}

func runDemo(ctx context.Context, o demoOptions, out io.Writer) (err error) {
	dir, release, err := dataDir(o.keep)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, release()) }()
	self, err := os.Executable()
	if err != nil {
		return err
	}
	d, err := demo.Start(ctx, demo.Options{
		Addr: pageAddr(o), Dir: dir, Worker: []string{self, "demo-worker"}, Color: o.color,
	})
	if err != nil {
		return ended(ctx, err)
	}
	stopped := false
	stop := func() error {
		if stopped {
			return nil
		}
		stopped = true
		return d.Stop()
	}
	defer func() { err = errors.Join(err, stop()) }()
	if err := d.Play(ctx, out); err != nil {
		return ended(ctx, err)
	}
	if err := d.Counts(ctx, out); err != nil {
		return ended(ctx, err)
	}
	if o.check {
		return checkDemo(ctx, d, stop, out)
	}
	fmt.Fprintf(out, `
  Now you: double a click, lose replies, kill the worker.

  page  %s
  API   %s   e.g. curl -H 'Authorization: Bearer %s' %s
  data  %s

  Ctrl-C ends it.
`, d.URL(), d.API(), demo.Visitor, d.API()+"accounts/alice", dir)
	<-ctx.Done()
	return nil
}

// checkDemo lets the worker drain and has its data verified from outside.
func checkDemo(ctx context.Context, d *demo.Demo, stop func() error, out io.Writer) error {
	if err := stop(); err != nil {
		return err
	}
	fmt.Fprintln(out)
	found, err := judge.Judge(ctx, d.Data(), judge.Options{Drained: true})
	if err != nil {
		return err
	}
	return judge.Print(out, found)
}

// ended makes a Ctrl-C during the scene a plain end.
func ended(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil
	}
	return err
}

func pageAddr(o demoOptions) string {
	if !o.usual || o.check {
		return o.addr
	}
	listener, err := net.Listen("tcp", usualAddr)
	if err != nil {
		return o.addr
	}
	_ = listener.Close() // free a moment ago is free enough
	return usualAddr
}

// dataDir makes the directory for the data, and returns what is to be done
// with it in the end.
func dataDir(keep string) (dir string, release func() error, err error) {
	if keep == "" {
		dir, err = os.MkdirTemp("", "semel-demo-")
		return dir, func() error { return os.RemoveAll(dir) }, err
	}
	if dir, err = filepath.Abs(keep); err != nil {
		return "", nil, err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", nil, err
	}
	entries, err := os.ReadDir(dir)
	if err == nil && len(entries) > 0 {
		err = fmt.Errorf("--keep %q: the directory is not empty; a demo begins with nothing", keep)
	}
	return dir, func() error { return nil }, err
}

// colourful reports whether colours are seen and wanted (no-color.org).
func colourful(w io.Writer) bool {
	file, ok := w.(*os.File)
	if !ok || os.Getenv("NO_COLOR") != "" || os.Getenv("TERM") == "dumb" {
		return false
	}
	info, err := file.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}
