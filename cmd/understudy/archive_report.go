package main

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/understudy-log/understudy/witness/archive"
)

// archiveReport writes what packs show for a person.
func archiveReport(r *archive.Report) string {
	var b strings.Builder
	line := func(format string, args ...any) { b.WriteString(printable(fmt.Sprintf(format, args...)) + "\n") }
	for i := range r.Packs {
		archivePack(&r.Packs[i], r.Good(), line)
	}
	remarks := func(what string, list []archive.Remark, further int) {
		if len(list) == 0 {
			return
		}
		line("%s", what)
		for _, e := range list {
			line("  %s", e)
		}
		if further > 0 {
			line("  and %s more", number(uint64(further)))
		}
		line("")
	}
	remarks("Findings: what a person should know", r.Findings, r.FurtherFindings)
	remarks("Errors: what does not verify", r.Errors, r.FurtherErrors)
	packs := count(uint64(len(r.Packs)), "pack verifies", "packs verify")
	findings := count(uint64(len(r.Findings)+r.FurtherFindings), "finding", "findings")
	if r.Good() {
		line("good: %s, with %s", packs, findings)
	} else {
		line("wrong: %s, and %s", count(uint64(len(r.Errors)+r.FurtherErrors), "error", "errors"), findings)
	}
	return b.String()
}

// archivePack writes what one pack shows.
func archivePack(s *archive.Summary, good bool, line func(format string, args ...any)) {
	if s.Number == 0 {
		line("%s: its manifest cannot be read", s.Name)
		line("")
		return
	}
	maker := "that nobody vouched for"
	if s.Vouched {
		maker = "that was given"
	}
	stamp := "none that was verified"
	if s.Stamped != nil {
		stamp = fmt.Sprintf("%s, by %q", s.Stamped.Format(time.RFC3339), s.Signer)
	}
	line("Pack %d, %s", s.Number, s.Name)
	line("  maker       %s, a key %s", s.Archive.Key, maker)
	line("  manifest    %v", s.Manifest)
	line("  time-stamp  %s", stamp)
	if good {
		line("  Proven:")
	} else {
		line("  What would be proven, if there were no errors:")
	}
	for i := range s.Logs {
		archiveLog(&s.Logs[i], line)
	}
	if s.Wanted > 0 {
		line("    %s in these trees, for %s asked for", count(s.Entries, "entry is", "entries are"), count(s.Wanted, "thing that was", "things that were"))
	}
	archiveOutages(s, line)
	line("  Only said by the maker:")
	line("    the period is %s to %s (%q, %s)", s.Period.From.Format(time.RFC3339), s.Period.To.Format(time.RFC3339), s.Period.Schedule, s.Period.TimeZone)
	line("    the pack was made %s; the logs were watched from %q", s.Built.Format(time.RFC3339), s.Archive.Vantage)
	line("    when each checkpoint was seen, and where it came from; %s; that there were no others", count(s.Outages, "outage", "outages"))
	if s.Ledger != nil || len(s.Reports) > 0 {
		line("    what the outage ledger and the reports say")
	}
	for _, note := range s.Notes {
		line("    note: %q", note)
	}
	line("")
}

// archiveOutages writes what a pack has of outages: the rows of the ledger, and reports.
func archiveOutages(s *archive.Summary, line func(format string, args ...any)) {
	if l := s.Ledger; l != nil && l.Rows.Last < l.Rows.First {
		line("    no new rows in the outage ledger, of which there are %s", count(l.Rows.Last, "row", "rows"))
	} else if l != nil {
		var kinds []string
		for _, kind := range slices.Sorted(maps.Keys(l.Kinds)) {
			kinds = append(kinds, fmt.Sprintf("%s %s", number(l.Kinds[kind]), kind))
		}
		line("    %s of the outage ledger (%d to %d), none changed or missing since: %s", count(l.Rows.Last-l.Rows.First+1, "row", "rows"), l.Rows.First, l.Rows.Last, strings.Join(kinds, ", "))
	}
	if len(s.Reports) == 0 {
		return
	}
	signed := 0
	for _, r := range s.Reports {
		if r.Verified {
			signed++
		}
	}
	line("    %s of drills and reconciliations, %s signed with a key of reports:", count(uint64(len(s.Reports)), "report", "reports"), number(uint64(signed)))
	for _, key := range s.ReportKeys {
		line("      a key with the SHA-256 %v; compare it with what you were told", key)
	}
}

// archiveLog writes what a pack shows of one log.
func archiveLog(l *archive.LogSummary, line func(format string, args ...any)) {
	size := func(h *archive.Head) string {
		if h == nil {
			return "nothing"
		}
		return count(h.Size, "entry", "entries")
	}
	line("    %s (%s)", l.Origin, l.Coverage)
	if l.Checkpoints == 0 {
		line("      no new checkpoints; the newest has %s", size(l.After))
	} else {
		but := ""
		if l.Unproven > 0 {
			but = fmt.Sprintf(", %s of them excepted (see the findings)", number(l.Unproven))
		}
		line("      %s (rows %d to %d), each signed by the log, and consistent with those before%s", count(l.Checkpoints, "checkpoint", "checkpoints"), l.Rows.First, l.Rows.Last, but)
		line("      the newest grew from %s to %s", size(l.Before), size(l.After))
	}
	if l.Cosignatures > 0 {
		line("      %s by the maker's cosigners, %s by keys that were given", count(l.Cosignatures, "cosignature", "cosignatures"), number(l.CosignaturesVouched))
	}
	if l.Quarantined {
		line("      the log contradicted itself")
	}
}

// printable keeps what stands in a pack from steering a terminal.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) || unicode.Is(unicode.Cf, r) || r == unicode.ReplacementChar {
			return '?'
		}
		return r
	}, s)
}
