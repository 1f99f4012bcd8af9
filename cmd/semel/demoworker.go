package main

import (
	"context"
	"io"
	"log/slog"

	"github.com/spf13/cobra"

	"github.com/semel-dev/semel/cmd/semel/demo"
)

// newDemoWorker is the process that the demo kills: the plain server, with the
// demo's hooks. It ends when its standard input does, and so with its parent,
// however that ends.
func newDemoWorker() *cobra.Command {
	return &cobra.Command{
		Use:    "demo-worker DATA",
		Short:  "Serve the demo's bank on a loopback port until standard input ends",
		Hidden: true,
		Args:   cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			// Ctrl-C reaches the whole terminal; the parent decides when this ends.
			ctx, cancel := context.WithCancel(context.WithoutCancel(cmd.Context()))
			defer cancel()
			go func() {
				_, _ = io.Copy(io.Discard, cmd.InOrStdin())
				cancel()
			}()
			return serve(ctx, serveOptions{
				addr:   "127.0.0.1:0",
				data:   args[0],
				prefix: demo.Prefix,
				stdout: cmd.OutOrStdout(),
				log:    slog.New(slog.NewTextHandler(cmd.ErrOrStderr(), nil)),
				hooks:  demo.Hooks,
			})
		},
	}
}
