package reconcile

import (
	"bytes"
	"fmt"
	"strings"
	"time"
)

// markdown writes the report for people: first what a customer wants to know, then what an auditor checks.
func (d *Document) markdown() []byte {
	m := &markdown{}
	name := d.Log
	if name == "" {
		name = "all logs"
	}
	m.line("# Reconciliation with %s", code(name))
	switch {
	case d.Finding != nil:
		m.line("**The public log contradicts itself and is quarantined (%s).** %s", d.Finding.Code, text(d.Finding.Text))
	case d.Kind == kindLeftOver:
		m.line("What was left of before is reconciled.")
	default:
		m.line("The public log answers again, and what it has now begins with all that was served meanwhile.")
	}
	m.line("%s", d.summary())

	m.line("## Not done")
	if len(d.NotDone) == 0 {
		m.line("Nothing was left out.")
	}
	for _, s := range d.NotDone {
		m.item("%s", text(s))
	}
	m.gap()
	d.markdownDecisions(m)
	d.markdownProposals(m)
	m.line("## Exceptions")
	if d.Exceptions.Kept != "" {
		m.line("They were not closed: %s.", text(d.Exceptions.Kept))
	} else {
		m.line("%d were closed.", d.Exceptions.Closed)
	}
	d.markdownProof(m)
	return m.Bytes()
}

// summary is one paragraph with the counts.
func (d *Document) summary() string {
	var s strings.Builder
	fmt.Fprintf(&s, "It took %s, from %s to %s", (time.Duration(d.Seconds * float64(time.Second))).Round(time.Millisecond), d.Started.Format(time.RFC3339), d.Finished.Format(time.RFC3339))
	if d.Paused > 0 {
		fmt.Fprintf(&s, ", with %d pauses", d.Paused)
	}
	fmt.Fprintf(&s, ". %d decisions were verified again: %d the same, %d not, %d not known.", d.Decisions.Total, d.Decisions.Same, d.Decisions.Differs, d.Decisions.NotKept)
	for _, p := range d.Proposals {
		fmt.Fprintf(&s, " Of %d entries of the private log %s, %d are in the public log now.", p.Total, p.Private, p.Submitted)
	}
	return s.String()
}

func (d *Document) markdownDecisions(m *markdown) {
	m.line("## Decisions")
	t := d.Decisions
	m.table("verified again", "the same", "not the same", "not kept", "entry asked for upstream", "left")
	m.row(t.Total, t.Same, t.Differs, t.NotKept, t.Asked, t.Left)
	m.gap()
	if len(t.List) == 0 {
		return
	}
	m.line("Those that are not the same (%d of %d are listed):", len(t.List), t.Differs+t.NotKept)
	m.table("row", "id", "result", "why")
	for _, one := range t.List {
		m.row(one.Seq, code(one.ID), one.Result, text(one.Text))
	}
	m.gap()
}

func (d *Document) markdownProposals(m *markdown) {
	for _, p := range d.Proposals {
		m.line("## Entries of the private log %s", text(p.Private))
		m.line("Origin %s; submitted to %s: the indexes [%d, %d), and %d from the last time.", code(p.Origin), code(p.Upstream), p.First, p.Next, p.Again)
		m.table("looked at", "submitted", "of them had before", "of them beside the bundle", "refused", "not kept", "unreadable", "failed", "left")
		m.row(p.Total, p.Submitted, p.Duplicates, p.Late, p.Refused, p.NotKept, p.Unreadable, p.Failed, p.Left)
		m.gap()
		if len(p.Unsent) > 0 {
			m.line("Not submitted (the first %d entries or ranges):", len(p.Unsent))
			m.table("index", "to", "code", "why")
			for _, u := range p.Unsent {
				m.row(u.Index, u.Last, u.Code, text(u.Text))
			}
			m.gap()
		}
		if len(p.List) > 0 {
			m.line("Submitted (%d of %d are listed):", len(p.List), p.Submitted)
			m.table("index", "public index", "UUID", "bundle")
			for _, s := range p.List {
				where := "beside"
				if s.Extends {
					where = "may be added"
				}
				m.row(s.Index, s.LogIndex, code(s.UUID), where)
			}
			m.gap()
		}
	}
}

func (d *Document) markdownProof(m *markdown) {
	m.line("## For the auditor")
	m.item("ID: %s (%s, %s)", code(d.ID), d.Kind, d.Outcome)
	m.item("The ledger had %d rows, the last with the hash %s", d.LedgerRows, code(d.LedgerHead))
	for _, c := range d.Consistency {
		m.item("%s: the tree of %d entries (root %s) is a prefix of that of %d (root %s), by a proof of %d hashes in the JSON",
			code(c.Origin), c.First.Size, code(c.First.Root), c.Last.Size, code(c.Last.Root), len(c.Hashes))
	}
	if f := d.Finding; f != nil {
		where := "the index cannot be named"
		switch {
		case f.Named && f.Next > 0:
			where = fmt.Sprintf("indexes [%d, %d)", f.First, f.Next)
		case f.Named:
			where = fmt.Sprintf("from index %d on", f.First)
		}
		m.item("%s of %s, %s; the evidence is in the JSON, as received", f.Code, code(f.Origin), where)
	}
	for _, p := range d.Pauses {
		m.item("Paused at %s in the phase %s: %s", p.At.Format(time.RFC3339), p.Phase, text(p.Cause))
	}
	m.gap()
	if len(d.States) > 0 {
		m.line("States when it began:")
		m.table("component", "state", "since", "cause")
		for _, s := range d.States {
			m.row(code(s.Component), s.State, s.Since.Format(time.RFC3339), s.Cause)
		}
		m.gap()
	}
}

// markdown is text that is being written.
type markdown struct{ bytes.Buffer }

func (m *markdown) line(format string, args ...any) { fmt.Fprintf(m, format+"\n\n", args...) }
func (m *markdown) item(format string, args ...any) { fmt.Fprintf(m, "- "+format+"\n", args...) }
func (m *markdown) gap()                            { m.WriteByte('\n') }

func (m *markdown) table(names ...string) {
	fmt.Fprintf(m, "| %s |\n|%s\n", strings.Join(names, " | "), strings.Repeat("---|", len(names)))
}

func (m *markdown) row(cells ...any) {
	for _, c := range cells {
		fmt.Fprintf(m, "| %v ", c)
	}
	m.WriteString("|\n")
}

// special has what means something in Markdown or HTML: what strangers wrote stays text.
var special = strings.NewReplacer(`\`, `\\`, "|", `\|`, "`", "\\`", "*", `\*`, "_", `\_`, "[", `\[`, "]", `\]`, "<", "&lt;", ">", "&gt;", "&", "&amp;", "#", `\#`)

// text writes what may come from a stranger.
func text(s string) string { return special.Replace(plain(s, 2000)) }

// code writes a name as code; none of them has a backtick in it, or it is dropped.
func code(s string) string {
	if s == "" {
		return ""
	}
	return "`" + strings.NewReplacer("`", "", "|", `\|`).Replace(plain(s, 300)) + "`"
}
