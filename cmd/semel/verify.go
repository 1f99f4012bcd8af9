package main

import (
	"github.com/spf13/cobra"

	"github.com/semel-dev/semel/cmd/semel/judge"
)

func newVerify() *cobra.Command {
	var o judge.Options
	cmd := &cobra.Command{
		Use:   "verify DATA",
		Short: "Check a bank's data: nothing doubled, nothing lost",
		Long: `Check that the data in the file DATA is sound, and list what is not:

  - the positions of the log are dense, and every operation has its events once;
  - every projection equals what the log says;
  - every movement is in the ledger exactly once, and no row is there without
    an event that tells of it;
  - every balance is the sum of its ledger, and none is negative;
  - nothing is stuck. With --drained: nothing is unfinished at all, as it must
    be after a server that had the time to finish.

The data is not changed: a snapshot of it is checked. The bank may be running,
stopped or killed. The snapshot takes as much space as the data, in TMPDIR.

Exit code 0 means sound, 1 that something is wrong or could not be read.`,
		Example: `  semel verify bank.db
  semel verify --drained bank.db && cp bank.db backup/`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			found, err := judge.Judge(cmd.Context(), args[0], o)
			if err != nil {
				return err
			}
			return judge.Print(cmd.OutOrStdout(), found)
		},
		ValidArgsFunction: func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
			return []string{"db"}, cobra.ShellCompDirectiveFilterFileExt
		},
	}
	cmd.Flags().BoolVar(&o.Drained, "drained", false, "demand that nothing is unfinished")
	return cmd
}
