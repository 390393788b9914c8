package main

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/understudy-log/understudy/witness"
	"github.com/understudy-log/understudy/witness/archive"
)

// witnessText is the status of the witness.
func witnessText(s *witness.Status) string {
	var b strings.Builder
	fmt.Fprintf(&b, "\nwitness\n")
	for _, key := range s.Keys {
		fmt.Fprintf(&b, "  key       %.100s\n", key)
	}
	fmt.Fprintf(&b, "  logs      %d\n", s.Logs)
	for _, origin := range s.Quarantined {
		fmt.Fprintf(&b, "  problem   %s signed two irreconcilable checkpoints, and gets no cosignature\n", origin)
	}
	return b.String()
}

// archiveText is the status of the evidence packs, at a time.
func archiveText(s *archive.Status, now time.Time) string {
	var b strings.Builder
	fmt.Fprintf(&b, "\nevidence packs (%s)\n  key       %s\n", s.Schedule+" "+s.TimeZone, s.Key)
	if p := s.Newest; p != nil {
		fmt.Fprintf(&b, "  newest    number %d, to %s, made %s ago\n", p.Number, p.To.UTC().Format(time.RFC3339), seconds(now.Sub(p.Built).Seconds()))
	}
	fmt.Fprintf(&b, "  next      at %s\n", s.Next.UTC().Format(time.RFC3339))
	if s.Problem != nil {
		fmt.Fprintf(&b, "  problem   the pack that is due cannot be made, after %s: %s\n", count(uint64(s.Problem.Tries), "try", "tries"), strings.Join(strings.Fields(s.Problem.Text), " "))
	}
	for _, name := range slices.Sorted(maps.Keys(s.Waiting)) {
		if n := s.Waiting[name]; n > 0 {
			fmt.Fprintf(&b, "  waiting   %s for %s; \"understudy archive list\" says why\n", count(uint64(n), "pack", "packs"), name)
		}
	}
	return b.String()
}

// archiveLine is the same in one line.
func archiveLine(s *archive.Status, now time.Time) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s evidence packs: %d", now.UTC().Format(time.RFC3339), s.Packs)
	for _, name := range slices.Sorted(maps.Keys(s.Waiting)) {
		fmt.Fprintf(&b, ", %d waiting for %s", s.Waiting[name], name)
	}
	problem := "none"
	if s.Problem != nil {
		problem = "the pack that is due cannot be made"
	}
	return b.String() + ", problem " + problem + "\n"
}
