package main

import (
	"fmt"
	"strings"
	"time"

	"github.com/understudy-log/understudy/mirror/trust"
)

// tufText is the status of a TUF repository, at a time.
func tufText(title string, s *trust.RepositoryStatus, now time.Time) string {
	var b strings.Builder
	fmt.Fprintf(&b, "\n%s (%s)\n", title, s.URL)
	for _, role := range s.Roles {
		left := "expires in " + seconds(role.Expires.Sub(now).Seconds())
		if days := int(role.Expires.Sub(now).Hours() / 24); days > 14 {
			left = fmt.Sprintf("expires in %d days", days)
		}
		if !now.Before(role.Expires) {
			left = "EXPIRED " + seconds(now.Sub(role.Expires).Seconds()) + " ago: clients refuse it"
		}
		fmt.Fprintf(&b, "  %-9s version %d, %s\n", role.Name, role.Version, left)
	}
	switch {
	case len(s.Roles) == 0:
		b.WriteString("  held      nothing yet\n")
	case s.Checked != nil:
		fmt.Fprintf(&b, "  checked   %s ago\n", seconds(now.Sub(*s.Checked).Seconds()))
	}
	if p := s.Problem; p != nil {
		fmt.Fprintf(&b, "  problem   %s: %s\n", p.Reason, strings.Join(strings.Fields(p.Text), " "))
	}
	return b.String()
}

// tufLine is the status of a TUF repository in one line.
func tufLine(title string, s *trust.RepositoryStatus) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s:", time.Now().UTC().Format(time.RFC3339), title)
	for _, role := range s.Roles {
		fmt.Fprintf(&b, " %s %d until %s,", role.Name, role.Version, role.Expires.UTC().Format(time.RFC3339))
	}
	problem := "none"
	if s.Problem != nil {
		problem = s.Problem.Reason
	}
	return b.String() + " problem " + problem
}
