package main

import (
	"errors"
	"fmt"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/understudy-log/understudy/cmd/internal/rest"
	"github.com/understudy-log/understudy/mirror/verdict"
)

func newExceptionCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "exception",
		Short: "Let a verification policy be in audit for a while, by two people",
		Long: `An exception lets what a policy would deny pass, as "audit": the answer says so, and what was
wrong. It has an end, a ticket, and two people: one asks for it (role operate), another one
approves it (role approve). It ends by itself. Identities that are high-risk are never let
pass, and neither is what the mirror knows to be false.`,
	}
	var o operator
	var last time.Duration
	var reason string
	request := &cobra.Command{
		Use:   "request POLICY --for DURATION --ticket TICKET",
		Short: "Ask for an exception",
		Long: `Request asks for an exception for a policy. Nothing changes until somebody else approves it.

Exit codes: 0 asked for, its number is printed; 2 refused, for the reason that is told.`,
		Example: `  understudy exception request production --for 4h --ticket SEC-77 --reason "Fulcio's new root is not in our trust material yet"`,
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if last <= 0 {
				return errors.New("request: --for is how long, such as 4h: no exception is without an end")
			}
			done, err := o.order(cmd, "/exceptions", func(dir string) any {
				return rest.ExceptionRequest{DataDir: dir, Action: "request", Policy: args[0], For: last.Seconds(), Ticket: o.ticket, Reason: reason}
			})
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "asked for: %s; somebody else approves it with \"understudy exception approve %s\"\n", done.ID, done.ID)
			return err
		},
	}
	request.Flags().DurationVar(&last, "for", 0, "`DURATION` of the exception, from now on")
	request.Flags().StringVar(&reason, "reason", "", "one `SENTENCE` for those who read the ledger")
	cmd.AddCommand(o.flags(request, true))
	for _, answer := range []struct {
		action, short, long, said string
		ticket                    bool
	}{
		{"approve", "Approve what somebody else asked for", "Approve begins an exception. It needs the role approve, and somebody other than who asked.", "begun", false},
		{"deny", "Refuse what somebody else asked for", "Deny ends an exception before it begins. It needs the role approve.", "denied", false},
		{"revoke", "End an exception now", "Revoke ends an exception before its time, or takes back what was asked for. It needs the role operate.", "ended", true},
	} {
		var o operator
		more := ""
		if answer.ticket {
			more = " --ticket SEC-78"
		}
		cmd.AddCommand(o.flags(&cobra.Command{
			Use: answer.action + " ID" + strings.Replace(more, "SEC-78", "TICKET", 1), Short: answer.short, Long: answer.long + "\n\nExit codes: 0 done; 2 not done, for the reason that is told.", Args: cobra.ExactArgs(1),
			Example: "  understudy exception " + answer.action + " x-a1b2c3d4e5" + more,
			RunE: func(cmd *cobra.Command, args []string) error {
				if _, err := o.order(cmd, "/exceptions", func(dir string) any {
					return rest.ExceptionRequest{DataDir: dir, Action: answer.action, ID: args[0], Ticket: o.ticket}
				}); err != nil {
					return err
				}
				_, err := fmt.Fprintf(cmd.OutOrStdout(), "%s: %s\n", args[0], answer.said)
				return err
			},
		}, answer.ticket))
	}
	cmd.AddCommand(newExceptionListCommand())
	return cmd
}

func newExceptionListCommand() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List exceptions, also those that are over",
		Long:  "List prints every exception with its state, end, ticket and people.\n\nExit codes: 0 printed; 2 the daemon could not be asked.",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var all []verdict.Exception
			if err := look(cmd.Context(), cmd, "/exceptions", &all); err != nil {
				return err
			}
			if asJSON {
				return printJSON(cmd.OutOrStdout(), all)
			}
			w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
			fmt.Fprintln(w, "ID\tPOLICY\tSTATE\tUNTIL\tTICKET\tBY\tAPPROVED BY\tREASON")
			for _, e := range all {
				fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", e.ID, e.Policy, e.State, e.Until.UTC().Format(time.RFC3339), e.Ticket, e.RequestedBy, e.ApprovedBy, e.Reason)
			}
			return w.Flush()
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}
