package main

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/understudy-log/understudy/cmd/internal/rest"
	"github.com/understudy-log/understudy/mirror/drill"
)

// drillNames are the scenarios that there are.
func drillNames() (names []string) {
	for _, s := range drill.Scenarios() {
		names = append(names, s.Name)
	}
	return names
}

func newDrillCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "drill",
		Short: "Rehearse an outage",
		Long: `A drill breaks the way from this daemon to an upstream, at its own clients: the upstream does not
notice. What follows is real: states change, signers are told to use the private log, what
happened is reconciled. It always ends by itself, and at once when something is really away.`,
	}
	cmd.AddCommand(newDrillListCommand(), newDrillRunCommand(), newDrillAbortCommand(), newReportCommand("drill", "/drills/report", false), newDrillScheduleCommand())
	return cmd
}

func newDrillListCommand() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List the scenarios, and the drills that were held",
		Long:  "List prints what can be rehearsed, and what became of the drills that were held.\n\nExit codes: 0 printed; 2 the daemon could not be asked.",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var s rest.DrillStatus
			if err := look(cmd.Context(), cmd, "/drills", &s); err != nil {
				return err
			}
			if asJSON {
				return printJSON(cmd.OutOrStdout(), s)
			}
			w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
			fmt.Fprintln(w, "SCENARIO\tLAST PASSED\tWHAT IT IS")
			for _, scenario := range s.Scenarios {
				last := "never"
				for _, r := range s.History {
					if r.Scenario == scenario.Name && r.Outcome == "passed" {
						last = r.Started.UTC().Format("2006-01-02 15:04")
						break
					}
				}
				fmt.Fprintf(w, "%s\t%s\t%s\n", scenario.Name, last, scenario.Text)
			}
			if len(s.History) > 0 {
				fmt.Fprintln(w, "\nDRILL\tSCENARIO\tWHEN\tRESULT")
			}
			for _, r := range s.History {
				fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", r.ID, r.Scenario, r.Started.UTC().Format("2006-01-02 15:04"), drillOutcome(r))
			}
			return w.Flush()
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func drillOutcome(r drill.Result) string {
	switch {
	case r.Cause != nil:
		return r.Outcome + ": " + r.Cause.Text
	case len(r.Failures) == 0:
		return r.Outcome
	}
	return r.Outcome + ": " + strings.Join(r.Failures, "; ")
}

func newDrillRunCommand() *cobra.Command {
	var o operator
	var component string
	var last time.Duration
	var wait bool
	cmd := &cobra.Command{
		Use:   "run SCENARIO --for DURATION --ticket TICKET",
		Short: "Begin a drill",
		Long: `Run begins a drill. It is refused while another one is on, while something is really away, and
for longer than the configuration allows. It needs the role operate.

Exit codes: 0 begun, or passed with --wait; 1 it failed, or was aborted; 2 it could not begin.`,
		Example: `  understudy drill run refuse --for 10m --ticket OPS-200
  understudy drill run flapping --component rekor/read --for 5m --ticket OPS-201 --wait`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if last <= 0 {
				return errors.New("run: --for is how long the drill lasts, such as 10m")
			}
			done, err := o.order(cmd, "/drills", func(dir string) any {
				return rest.DrillRequest{DataDir: dir, Action: "run", Scenario: args[0], Component: component, For: last, Ticket: o.ticket}
			})
			if err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "drill %s has begun: %s, for %s\n", done.ID, args[0], last)
			if !wait {
				return nil
			}
			return awaitDrill(cmd.Context(), cmd, done.ID)
		},
	}
	cmd.Flags().StringVar(&component, "component", "", "`COMPONENT` of the upstream, such as rekor/read (default: those of the scenario, of the first log)")
	cmd.Flags().DurationVar(&last, "for", 0, "`DURATION` of the drill")
	cmd.Flags().BoolVar(&wait, "wait", false, "wait for the end, and print the report")
	return o.flags(cmd, true)
}

// awaitDrill waits until a drill is over, and prints its report.
func awaitDrill(ctx context.Context, cmd *cobra.Command, id string) error {
	for {
		var s rest.DrillStatus
		if err := look(ctx, cmd, "/drills", &s); err != nil {
			return err
		}
		for _, r := range s.History {
			if r.ID != id || r.Ended.IsZero() {
				continue
			}
			if err := fetchReport(ctx, cmd, "/drills/report", url.Values{"id": {id}}); err != nil {
				return err
			}
			if r.Outcome != "passed" {
				return wrongf("drill %s: %s", id, drillOutcome(r))
			}
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(500 * time.Millisecond):
		}
	}
}

func newDrillAbortCommand() *cobra.Command {
	var o operator
	return o.flags(&cobra.Command{
		Use:   "abort ID",
		Short: "End a drill now",
		Long:  "Abort takes everything back that a drill has broken. It needs the role operate.\n\nExit codes: 0 done; 2 not done, for the reason that is told.",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if _, err := o.order(cmd, "/drills", func(dir string) any { return rest.DrillRequest{DataDir: dir, Action: "abort", ID: args[0]} }); err != nil {
				return err
			}
			_, err := fmt.Fprintf(cmd.OutOrStdout(), "%s is over\n", args[0])
			return err
		},
	}, false)
}

func newDrillScheduleCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "schedule",
		Short: "Show when drills are held",
		Long: `Schedule prints the drills of the configuration ("schedule" of "drills" in "outage"), and when each is
held next.

Exit codes: 0 printed; 2 the daemon could not be asked.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var s rest.DrillStatus
			if err := look(cmd.Context(), cmd, "/drills", &s); err != nil {
				return err
			}
			w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
			fmt.Fprintln(w, "NEXT\tSCENARIO\tCOMPONENT\tFOR\tCRON\tTICKET")
			for _, d := range s.Schedule {
				fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\n", d.Next.UTC().Format(time.RFC3339), d.Scenario, d.Component, time.Duration(d.Seconds*float64(time.Second)), d.Cron, d.Ticket)
			}
			return w.Flush()
		},
	}
}
