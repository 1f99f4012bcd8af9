package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
)

// What the process ends with.
const (
	exitOK     = 0
	exitFailed = 1
	exitUsage  = 2
)

// run executes the command line and returns the exit code.
func run(args []string, stdout, stderr io.Writer) int {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop) // a second signal ends the process at once

	root, begun := newRoot()
	root.SetArgs(args)
	root.SetOut(stdout)
	root.SetErr(stderr)
	command, err := root.ExecuteContextC(ctx)
	coded, hasCode := errors.AsType[*codedError](err)
	switch {
	case err == nil:
		return exitOK
	case hasCode && coded.code != exitUsage:
		fmt.Fprintln(stderr, "semel:", err)
		return coded.code
	case *begun && !hasCode:
		fmt.Fprintln(stderr, "semel:", err)
		return exitFailed
	default:
		fmt.Fprintf(stderr, "semel: %v\nRun %q for what it takes.\n", err, command.CommandPath()+" --help")
		return exitUsage
	}
}

// newRoot returns the command tree, and whether a command's own work has begun:
// what goes wrong before is a mistake in the command line.
func newRoot() (root *cobra.Command, begun *bool) {
	begun = new(bool)
	root = &cobra.Command{
		Use:   "semel",
		Short: "One command, one effect, one answer",
		Long: `Semel makes a command take effect once, however often it is sent.

Networks lose replies, users click twice, servers die between two statements.
A caller who hears nothing has to ask again, and a server that runs the request
again takes the money twice. With Semel every command carries a key, and the
effect, the answer and the events are kept in one transaction under that key:
whoever asks again gets the stored answer.

See it happen, on this machine, in your browser:

  semel demo

Run the same bank as a server, withdraw, and send it again:

  semel serve --addr 127.0.0.1:7314 --data bank.db
  curl -H 'Authorization: Bearer me' -X PUT localhost:7314/commands/open/key-1 \
       --json '{"account":"alice"}'
  curl -H 'Authorization: Bearer me' -X PUT localhost:7314/accounts/alice/deposits/key-2 \
       --json '{"cents":5000}'
  curl -H 'Authorization: Bearer me' -X PUT localhost:7314/accounts/alice/withdrawals/key-3 \
       --json '{"cents":2500}' -i   # run it twice

Then let its books be checked:

  semel verify bank.db`,
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			return errors.New("a command is missing: demo, serve, call, verify, bench or version")
		},
	}
	for _, cmd := range []*cobra.Command{newDemo(), newDemoWorker(), newServe(), newCall(), newVerify(), newBench(), newVersion()} {
		work := cmd.RunE
		cmd.RunE = func(cmd *cobra.Command, args []string) error {
			*begun = true
			return work(cmd, args)
		}
		root.AddCommand(cmd)
	}
	return root, begun
}
