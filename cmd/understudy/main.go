// Command understudy mirrors transparency logs, verifies every hash, and goes on
// serving entries, proofs and tiles while the upstream log is unreachable.
//
// "understudy --help" describes its verbs, README.md its operation.
package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"runtime/debug"
	"strings"

	"github.com/spf13/cobra"
)

func main() {
	os.Exit(run(context.Background(), os.Args[1:], os.Stdout, os.Stderr))
}

// run executes one command line and returns the exit code.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	root := newRootCommand()
	root.SetArgs(args)
	root.SetOut(stdout)
	root.SetErr(stderr)
	err := root.ExecuteContext(ctx)
	if err != nil {
		fmt.Fprintf(stderr, "understudy: %v\n", err)
	}
	return exitCode(err)
}

func newRootCommand() *cobra.Command {
	root := &cobra.Command{
		Use:   "understudy",
		Short: "Mirror transparency logs and keep proving when they are gone",
		Long: `Understudy copies a transparency log (a Rekor v2 shard or any C2SP tlog-tiles
log), verifies every hash and signature of it, and serves its entries, proofs
and tiles, also while the log itself is unreachable.

Exit codes of every verb:
  0  good
  1  checked and wrong (a proof does not verify, stored data is damaged)
  2  could not run (usage, configuration, network, disk)`,
		Example: `  # Mirror the public Rekor v2 shard, on loopback, and see it catch up.
  understudy serve
  understudy status --watch

  # The same with settings of your own.
  understudy init
  understudy serve --config understudy.yaml

  # Prove entry 42, and verify the proof offline.
  understudy proof inclusion 42 -o 42.tlog-proof
  understudy entry 42 --output 42.json
  understudy verify 42.tlog-proof --entry 42.json`,
		Version:           version(),
		SilenceErrors:     true,
		SilenceUsage:      true,
		DisableAutoGenTag: true,
	}
	root.PersistentFlags().String("config", "", "configuration `FILE` (default ./understudy.yaml if present, else the built-in one)")
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return fmt.Errorf("%w; see %q", err, cmd.CommandPath()+" --help")
	})
	root.AddCommand(
		newServeCommand(),
		newInitCommand(),
		newStatusCommand(),
		newEntryCommand(),
		newProofCommand(),
		newVerifyCommand(),
		newCheckCommand(),
		newPinCommand(),
		newTrustCommand(),
		newLogCommand(),
		newKeysCommand(),
		newBundleCommand(),
		newArchiveCommand(),
		newOutageCommand(),
		newExceptionCommand(),
		newRollbackCommand(),
		newReconcileCommand(),
		newDrillCommand(),
		newBackupCommand(), newRestoreCommand(),
		newVersionCommand(),
	)
	root.InitDefaultCompletionCmd()
	refuseUnknownVerbs(root)
	hintAtHelp(root)
	return root
}

// hintAtHelp adds where the usage stands to what cobra says about arguments.
func hintAtHelp(cmd *cobra.Command) {
	for _, child := range cmd.Commands() {
		hintAtHelp(child)
	}
	if check := cmd.Args; check != nil {
		cmd.Args = func(cmd *cobra.Command, args []string) error {
			if err := check(cmd, args); err != nil {
				return fmt.Errorf("%w; see %q", err, cmd.CommandPath()+" --help")
			}
			return nil
		}
	}
}

// refuseUnknownVerbs makes every command that only groups others answer an unknown
// verb with an error; cobra prints the help and reports success for all but the
// root.
func refuseUnknownVerbs(parent *cobra.Command) {
	for _, cmd := range parent.Commands() {
		refuseUnknownVerbs(cmd)
	}
	if parent.Runnable() || !parent.HasSubCommands() {
		return
	}
	parent.Args = cobra.ArbitraryArgs
	parent.RunE = func(cmd *cobra.Command, args []string) error {
		if len(args) == 0 {
			return cmd.Help()
		}
		hint := fmt.Sprintf("see %q", cmd.CommandPath()+" --help")
		cmd.SuggestionsMinimumDistance = 2
		if near := cmd.SuggestionsFor(args[0]); len(near) > 0 {
			hint = fmt.Sprintf("did you mean %q?", strings.Join(near, `" or "`))
		}
		return fmt.Errorf("unknown verb %q for %q; %s", args[0], cmd.CommandPath(), hint)
	}
}

func newVersionCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the version of this program",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, err := fmt.Fprintln(cmd.OutOrStdout(), "understudy", version())
			return err
		},
	}
}

// version is the module version that the Go command stamped into this binary,
// "(devel)" for a build that has none.
func version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok || info.Main.Version == "" {
		return "(devel)"
	}
	return info.Main.Version
}
