package main

import (
	"fmt"
	"strings"
	"time"

	"github.com/understudy-log/understudy/cmd/internal/rest"
	"github.com/understudy-log/understudy/mirror/outage"
)

// outageText is the state of the upstreams, at a time: what is not live, and what follows.
func outageText(s *rest.OutageStatus, now time.Time) string {
	var b strings.Builder
	fmt.Fprintf(&b, "\noutage\n  state     %s", s.State)
	if s.State == outage.Live {
		fmt.Fprintf(&b, ", all %d components", len(s.Components))
	}
	b.WriteString("\n")
	for _, c := range s.Components {
		if c.State != outage.Live {
			fmt.Fprintf(&b, "  away      %s is %s since %s: %s (%s)\n", c.Component, c.State, seconds(now.Sub(c.Since).Seconds()), c.Cause.Text, c.Cause.Code)
		}
	}
	if s.Effects.Signing != "" || s.Effects.SigningProblem != "" {
		fmt.Fprintf(&b, "  signers   %s\n", signingText(s.Effects))
	}
	if s.Drill != nil {
		fmt.Fprintf(&b, "  drill     %s, until %s\n", s.Drill.Scenario, s.Drill.Until.UTC().Format(time.RFC3339))
	}
	if n := active(s.Exceptions); n > 0 {
		fmt.Fprintf(&b, "  weakened  %s of verification; \"understudy exception list\" names them\n", count(uint64(n), "exception", "exceptions"))
	}
	return b.String()
}

// outageLine is the same in one line.
func outageLine(s *rest.OutageStatus, now time.Time) string {
	var away []string
	for _, c := range s.Components {
		if c.State != outage.Live {
			away = append(away, c.Component+" "+string(c.State)+" "+c.Cause.Code)
		}
	}
	if len(away) == 0 {
		away = []string{"all is live"}
	}
	return fmt.Sprintf("%s outage: %s, %s\n", now.UTC().Format(time.RFC3339), s.State, strings.Join(away, ", "))
}
