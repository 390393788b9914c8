package main

import (
	"context"
	"fmt"
	"io"
	"maps"
	"net/url"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/understudy-log/understudy/cmd/internal/rest"
	"github.com/understudy-log/understudy/mirror/reconcile"
)

func newReconcileCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "reconcile",
		Short: "See what happened after an outage, and its reports",
	}
	cmd.AddCommand(newReconcileStatusCommand(), newReconcileNowCommand(), newReportCommand("reconciliation", "/reconcile/report", true))
	return cmd
}

func newReconcileStatusCommand() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show what is still to be reconciled",
		Long: `Status shows how far the reconciliation is: decisions that are to be verified again, and entries of
the private log that are to be brought to the public one.

Exit codes: 0 nothing is left; 1 something is; 2 the daemon could not be asked.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var s reconcile.Status
			if err := look(cmd.Context(), cmd, "/reconcile", &s); err != nil {
				return err
			}
			if asJSON {
				return printJSON(cmd.OutOrStdout(), s)
			}
			out := cmd.OutOrStdout()
			if r := s.Running; r != nil {
				fmt.Fprintf(out, "running     %s, of %s: %s\n", r.ID, orAll(r.Log), r.Phase)
			}
			for _, r := range s.Paused {
				fmt.Fprintf(out, "paused      %s, of %s: %s\n", r.ID, orAll(r.Log), r.Phase)
			}
			fmt.Fprintf(out, "to do       %s, %s\n", count(uint64(s.BacklogDecisions), "decision", "decisions"), count(s.BacklogProposals, "entry", "entries"))
			for _, log := range slices.Sorted(maps.Keys(s.Last)) {
				fmt.Fprintf(out, "last        %s, of %s: %s, at %s\n", s.LastID[log], orAll(log), s.LastOutcome[log], s.Last[log].UTC().Format(time.RFC3339))
			}
			if s.Running != nil || len(s.Paused) > 0 || s.BacklogDecisions > 0 || s.BacklogProposals > 0 {
				return wrongf("not everything is reconciled yet: it is by itself when the log answers again, or with \"understudy reconcile now LOG\"")
			}
			return nil
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON, and exit 0")
	return cmd
}

func orAll(log string) string {
	if log == "" {
		return "all logs"
	}
	return log
}

func newReconcileNowCommand() *cobra.Command {
	var o operator
	return o.flags(&cobra.Command{
		Use:   "now LOG",
		Short: "Reconcile a log now",
		Long: `Now begins a reconciliation that would begin by itself when the log is back, such as after an
operator has put right what made the last one fail. What was done is not done again.

It needs the role operate.

Exit codes: 0 begun; 2 not, for the reason that is told.`,
		Example: "  understudy reconcile now rekor",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if _, err := o.order(cmd, "/reconcile", func(dir string) any { return rest.ReconcileRequest{DataDir: dir, Log: args[0]} }); err != nil {
				return err
			}
			_, err := fmt.Fprintf(cmd.OutOrStdout(), "%s is being reconciled; \"understudy reconcile status\" says how far it is\n", args[0])
			return err
		},
	}, false)
}

// newReportCommand prints reports of reconciliations, or of drills.
func newReportCommand(what, path string, signed bool) *cobra.Command {
	var asJSON, asSigned bool
	cmd := &cobra.Command{
		Use:   "report [ID]",
		Short: "Print the report of a " + what,
		Long:  "Report prints the report of a " + what + " in Markdown: the newest one, or the one of ID.\n\nExit codes: 0 printed; 2 there is none, or the daemon could not be asked.",
		Args:  cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			query := url.Values{}
			if len(args) > 0 {
				query.Set("id", args[0])
			}
			if asJSON {
				query.Set("form", "json")
			}
			if asSigned {
				query.Set("form", "signed")
			}
			return fetchReport(cmd.Context(), cmd, path, query)
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	if signed {
		cmd.Flags().BoolVar(&asSigned, "signed", false, "print the signed report, a DSSE envelope")
		cmd.MarkFlagsMutuallyExclusive("json", "signed")
	}
	return cmd
}

func fetchReport(ctx context.Context, cmd *cobra.Command, path string, query url.Values) error {
	c, err := configOf(cmd)
	if err != nil {
		return err
	}
	report, err := callDaemon(ctx, c, path+"?"+query.Encode(), nil)
	if err != nil {
		return explainNoDaemon(err)
	}
	defer report.Close()
	_, err = io.Copy(cmd.OutOrStdout(), report)
	return err
}
