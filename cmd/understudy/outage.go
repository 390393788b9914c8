package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/understudy-log/understudy/cmd/internal/rest"
	"github.com/understudy-log/understudy/mirror/ledger"
	"github.com/understudy-log/understudy/mirror/outage"
	"github.com/understudy-log/understudy/mirror/verdict"
	"github.com/understudy-log/understudy/storage"
)

func newOutageCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "outage",
		Short: "See how the upstreams are, and say what they are to be taken for",
	}
	cmd.AddCommand(newOutageStatusCommand(), newOutageLedgerCommand(), newOutageForceCommand(), newOutageReleaseCommand(), newOutageNoteCommand())
	return cmd
}

func newOutageStatusCommand() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show the state of every upstream, and what follows from it",
		Long: `Status shows each component of the upstreams (the read path and the write path of each log,
the TUF repository, and the services of "probes") with its state and the cause:

  live         it answers in order
  degraded     it answers, and too often not in order
  fallback     it does not answer: what is held stands in for it
  recovering   it answers again; what happened meanwhile is being reconciled
  quarantined  it contradicts what it said before: look at "understudy outage ledger"

Exit codes: 0 all are live; 1 one is not; 2 it could not be asked.`,
		Example: `  understudy outage status
  understudy outage status --json | jq -r '.components[] | select(.state != "live") | .cause.code'`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var s rest.OutageStatus
			if err := look(cmd.Context(), cmd, "/outage", &s); err != nil {
				return err
			}
			if asJSON {
				return printJSON(cmd.OutOrStdout(), s)
			}
			if err := printOutage(cmd.OutOrStdout(), s, time.Now()); err != nil {
				return err
			}
			if s.State != outage.Live {
				return wrongf("not everything is live: %s", s.State)
			}
			return nil
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON, and exit 0")
	return cmd
}

func printJSON(out io.Writer, v any) error {
	e := json.NewEncoder(out)
	e.SetIndent("", "  ")
	return e.Encode(v)
}

func printOutage(out io.Writer, s rest.OutageStatus, now time.Time) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "COMPONENT\tSTATE\tFOR\tCAUSE")
	for _, c := range s.Components {
		state := string(c.State)
		if c.Force != nil {
			state = fmt.Sprintf("%s (forced until %s by %s, %s; otherwise %s)", c.State, c.Force.Until.UTC().Format(time.RFC3339), c.Force.By, c.Force.Ticket, c.Underlying)
		}
		cause := c.Cause.Code
		if c.State != outage.Live && c.Cause.Text != "" {
			cause += ": " + c.Cause.Text
		}
		if c.State == outage.Fallback && c.Force == nil && c.LastGood.After(c.Since) {
			cause += fmt.Sprintf("; answered in order %s ago, and is not believed yet", max(0, now.Sub(c.LastGood)).Round(time.Second))
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", c.Component, state, now.Sub(c.Since).Round(time.Second), cause)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	e := s.Effects
	if e.Signing != "" || e.SigningProblem != "" {
		fmt.Fprintf(out, "signers       %s\n", signingText(e))
	}
	if e.PrivateLog != "" {
		fmt.Fprintf(out, "private log   %s\n", e.PrivateLog)
	}
	for _, x := range s.Exceptions {
		fmt.Fprintf(out, "exception     %s: policy %s, %s, until %s, asked for by %s (%s)\n", x.ID, x.Policy, x.State, x.Until.UTC().Format(time.RFC3339), x.RequestedBy, x.Ticket)
	}
	if s.Drill != nil {
		fmt.Fprintf(out, "drill         %s: %s on %s, until %s (%s)\n", s.Drill.ID, s.Drill.Scenario, strings.Join(s.Drill.Components, " and "), s.Drill.Until.UTC().Format(time.RFC3339), s.Drill.Ticket)
	}
	_, err := fmt.Fprintf(out, "ledger        %s\n", count(s.LedgerRows, "row", "rows"))
	return err
}

func signingText(e rest.OutageEffects) string {
	text := "are told to use the private log alone"
	if e.Signing != "fallback" {
		text = "are told to use the logs of every day"
	}
	if e.Signing == "" {
		text = "are not told anything"
	}
	if e.SigningProblem != "" {
		text += "; " + e.SigningProblem
	}
	return text
}

func newOutageLedgerCommand() *cobra.Command {
	var from uint64
	cmd := &cobra.Command{
		Use:   "ledger",
		Short: "Print the ledger: what changed, who decided what, and when",
		Long: `Ledger prints the rows of the ledger, one JSON object a line, as they are kept. Each has the
SHA-256 of the line before it as "previous", so that what was changed later shows.

It asks the running daemon, or reads the data of a stopped one.

Exit codes: 0 printed; 1 the ledger does not hold together; 2 it could not be read.`,
		Example: `  understudy outage ledger --from 1000
  understudy outage ledger | jq -c 'select(.kind == "state") | [.at, .body.component, .body.to, .body.cause.code]'`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			c, err := configOf(cmd)
			if err != nil {
				return err
			}
			rows, err := callDaemon(cmd.Context(), c, fmt.Sprintf("/outage/ledger?from=%d", from), nil)
			if err == nil {
				defer rows.Close()
				_, err = io.Copy(cmd.OutOrStdout(), rows)
				return err
			}
			if !errors.Is(err, errNoDaemon) {
				return err
			}
			db, err := c.openHeld(storage.Options{ReadOnly: true})
			if err != nil {
				return err
			}
			defer func() { err = errors.Join(err, db.Close()) }()
			l, err := ledger.Open(db, nil)
			if damage, ok := errors.AsType[*ledger.DamageError](err); ok {
				return wrongf("%w", damage)
			}
			if err != nil {
				return err
			}
			return l.Rows(from, func(row ledger.Row) error {
				_, err := cmd.OutOrStdout().Write(append(row.Raw(), '\n'))
				return err
			})
		},
	}
	cmd.Flags().Uint64Var(&from, "from", 1, "`NUMBER` of the first row")
	return cmd
}

func newOutageForceCommand() *cobra.Command {
	var o operator
	var last time.Duration
	var reason string
	cmd := &cobra.Command{
		Use:   "force COMPONENT {live|degraded|fallback} --for DURATION --ticket TICKET",
		Short: "Have a component taken for something else than it looks like, for a while",
		Long: `Force sets the state of a component, with all that follows from it, until a time. What is
seen meanwhile counts again afterwards, by itself. Nobody can force a quarantined component
to anything else: "release" ends a quarantine.

It needs the role operate, and goes into the ledger.

Exit codes: 0 done; 2 not done, for the reason that is told, whose first word is its code.`,
		Example: `  understudy outage force rekor/write fallback --for 2h --ticket OPS-123 --reason "announced maintenance"`,
		Args:    cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			if last <= 0 {
				return errors.New("force: --for is how long, such as 2h: what is forced ends by itself")
			}
			until := time.Now().Add(last) // by the clock here: only for what is printed
			if _, err := o.order(cmd, "/outage", func(dir string) any {
				return rest.OutageRequest{DataDir: dir, Action: "force", Component: args[0], State: outage.State(args[1]), For: last.Seconds(), Ticket: o.ticket, Reason: reason}
			}); err != nil {
				return err
			}
			_, err := fmt.Fprintf(cmd.OutOrStdout(), "%s is taken for %s until %s\n", args[0], args[1], until.UTC().Format(time.RFC3339))
			return err
		},
	}
	cmd.Flags().DurationVar(&last, "for", 0, "`DURATION` for which it holds")
	cmd.Flags().StringVar(&reason, "reason", "", "one `SENTENCE` for those who read the ledger")
	return o.flags(cmd, true)
}

func newOutageReleaseCommand() *cobra.Command {
	var o operator
	cmd := &cobra.Command{
		Use:   "release COMPONENT --ticket TICKET",
		Short: "End what was forced, or a quarantine",
		Long: `Release ends a state that was forced. Of a quarantined component it ends the quarantine: it is
recovering then, and is quarantined again if what it says still contradicts what it said
before. A log that has signed two histories stays quarantined whatever is said here.

It needs the role operate, and goes into the ledger.

Exit codes: 0 done; 2 not done, for the reason that is told.`,
		Example: `  understudy outage release rekor/read --ticket OPS-124`,
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if _, err := o.order(cmd, "/outage", func(dir string) any {
				return rest.OutageRequest{DataDir: dir, Action: "release", Component: args[0], Ticket: o.ticket}
			}); err != nil {
				return err
			}
			_, err := fmt.Fprintf(cmd.OutOrStdout(), "%s is taken for what it looks like\n", args[0])
			return err
		},
	}
	return o.flags(cmd, true)
}

func newOutageNoteCommand() *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use:   "note",
		Short: "Write a status note for your customers",
		Long: `Note writes what there is to tell now, in Markdown: what is away and since when, what goes on
all the same, what customers need to do, and when you write again. Read it before you send it.

Exit codes: 0 written; 2 the daemon could not be asked.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var s rest.OutageStatus
			if err := look(cmd.Context(), cmd, "/outage", &s); err != nil {
				return err
			}
			text := statusNote(s, time.Now())
			if output == "" {
				_, err := io.WriteString(cmd.OutOrStdout(), text)
				return err
			}
			return os.WriteFile(output, []byte(text), 0o644)
		},
	}
	cmd.Flags().StringVarP(&output, "output", "o", "", "`FILE` to write (default: the terminal)")
	return cmd
}

// statusNote is a note for those who sign and verify, in the words of deploy/status-note.md.
func statusNote(s rest.OutageStatus, now time.Time) string {
	var b strings.Builder
	away := slices.DeleteFunc(slices.Clone(s.Components), func(c outage.Status) bool { return c.State == outage.Live })
	stamp := now.UTC().Format("2006-01-02 15:04 UTC")
	if len(away) == 0 {
		fmt.Fprintf(&b, "# Signing and verification: all is well (%s)\n\nAll services that signing and verification rest on answer. There is nothing for you to do.\n", stamp)
		return b.String()
	}
	fmt.Fprintf(&b, "# Signing and verification: what is away, and what it means to you (%s)\n\n", stamp)
	if s.Drill != nil {
		fmt.Fprintf(&b, "**This is a drill** (%s, %s).\n\n", s.Drill.Scenario, s.Drill.Ticket)
	}
	fmt.Fprint(&b, "| what | state | since |\n|---|---|---|\n")
	quarantined, write, services := false, false, []string(nil)
	ours := s.Effects.Signing == "fallback" || s.Effects.PrivateLog == "open"
	for _, c := range away {
		since := c.Since
		if !c.Left.IsZero() {
			since = c.Left
		}
		fmt.Fprintf(&b, "| %s | %s | %s |\n", c.Component, plainState(c, ours), since.UTC().Format("2006-01-02 15:04 UTC"))
		quarantined = quarantined || c.State == outage.Quarantined
		write = write || c.Kind == "write" && (c.State == outage.Fallback || c.State == outage.Recovering)
		if c.Kind == "service" && c.State == outage.Fallback {
			services = append(services, c.Component)
		}
	}
	fmt.Fprint(&b, "\n**Verification goes on.** What was signed before is verified as always: our copy of the public log proves it, with the log's own signatures. ")
	if n := active(s.Exceptions); n > 0 {
		fmt.Fprintf(&b, "%s in force: what they are about is let pass though it does not verify. Each has an end and was approved by a second person.\n", count(uint64(n), "exception is", "exceptions are"))
	} else {
		fmt.Fprint(&b, "No check was weakened to do so.\n")
	}
	switch {
	case write && s.Effects.Signing == "fallback":
		fmt.Fprint(&b, "\n**Signing goes on**, in our own log. If your clients begin at our TUF repository there is nothing to do. New signatures are brought to the public log when it is back.\n")
	case write && s.Effects.PrivateLog == "open":
		fmt.Fprint(&b, "\n**Signing goes on**, in our own log, for those who use its SigningConfig. New signatures are brought to the public log when it is back.\n")
	case write:
		fmt.Fprint(&b, "\n**Signing waits.** New signatures need the public log. Do not sign without a log: what is not logged is not verified.\n")
	}
	if len(services) > 0 {
		fmt.Fprintf(&b, "\n**Signing with short-lived certificates waits** for %s. Keys of your own do not need it.\n", strings.Join(services, " and "))
	}
	if quarantined {
		fmt.Fprint(&b, "\nA log has contradicted what it said before. What it says now is not taken; what was proven before stays good. We keep the evidence and are in touch with its operators.\n")
	}
	fmt.Fprint(&b, "\nWe write again at <TIME>, or when something changes.\n")
	return b.String()
}

// active counts the exceptions that are in force.
func active(all []verdict.Exception) (n int) {
	for _, x := range all {
		if x.State == verdict.ExceptionActive {
			n++
		}
	}
	return n
}

// plainState is the state of a component in the words of somebody who does not run this; ours says that the
// private log takes entries.
func plainState(c outage.Status, ours bool) string {
	switch c.State {
	case outage.Degraded:
		return "answers, with errors"
	case outage.Fallback:
		switch {
		case c.Kind == "write" && ours:
			return "takes no entries; our own log stands in"
		case c.Kind == "write":
			return "takes no entries"
		case c.Kind == "service":
			return "does not answer"
		}
		return "does not answer; our copy stands in"
	case outage.Recovering:
		return "is back; what happened meanwhile is being checked"
	case outage.Quarantined:
		return "contradicts itself; nothing new of it is taken"
	}
	return "answers"
}
