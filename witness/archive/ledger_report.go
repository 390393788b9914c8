package archive

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// ledgerReport is what REPORT.md tells of the rows of the outage ledger. It is bounded, however many
// there are.
type ledgerReport struct {
	states                                       map[string]*stateReport // by component
	counts                                       map[string]uint64       // by kind, and what happened
	forced, exceptions, reconciled, failed       []string                // sentences
	moreForced, moreExceptions, more, moreFailed uint64                  // that have none
}

// stateReport is what a component went through.
type stateReport struct {
	to             map[string]uint64 // how often, by state
	causes         []string
	drills, forced uint64
	last           string
}

const (
	maxComponents = 200
	maxCauses     = 10
	maxSentences  = 50
)

// ledgerBody has what is told of the bodies of rows, of all kinds.
type ledgerBody struct {
	Component string `json:"component"`
	To        string `json:"to"`
	Cause     struct {
		Code string `json:"code"`
	} `json:"cause"`
	Forced   bool     `json:"forced"`
	Drill    string   `json:"drill"`
	State    string   `json:"state"`
	Until    string   `json:"until"`
	Ticket   string   `json:"ticket"`
	By       string   `json:"by"`
	Why      string   `json:"why"`
	Event    string   `json:"event"`
	ID       string   `json:"id"`
	Policy   string   `json:"policy"`
	Decision string   `json:"decision"`
	Mode     string   `json:"mode"`
	Reasons  []reason `json:"reasons"`
	Log      string   `json:"log"`
	Scenario string   `json:"scenario"`
	Outcome  string   `json:"outcome"`
}

// reason is the code of a reason, which is text, or an object with a code.
type reason string

// UnmarshalJSON takes either.
func (r *reason) UnmarshalJSON(b []byte) error {
	if json.Unmarshal(b, (*string)(r)) == nil {
		return nil
	}
	var o struct {
		Code string `json:"code"`
	}
	err := json.Unmarshal(b, &o)
	*r = reason(o.Code)
	return err
}

// row takes one row in. What cannot be read counts as a row of its kind.
func (d *ledgerReport) row(r *LedgerRow) {
	if d.counts == nil {
		d.counts, d.states = map[string]uint64{}, map[string]*stateReport{}
	}
	var b ledgerBody
	_ = json.Unmarshal(r.Body, &b) // what a later version writes otherwise is counted, and stands in the rows
	count := func(what string) {
		if len(d.counts) < maxKinds || d.counts[what] > 0 {
			d.counts[what]++
		}
	}
	tell := func(list *[]string, more *uint64, format string, args ...any) {
		if len(*list) == maxSentences {
			*more++
			return
		}
		*list = append(*list, fmt.Sprintf(format, args...))
	}
	switch r.Kind {
	case "state":
		d.state(&b)
	case "force":
		count("force")
		tell(&d.forced, &d.moreForced, "%s forced to %s until %s, ticket %s, by %s", code(b.Component), plain(b.State), plain(b.Until), plain(b.Ticket), plain(b.By))
	case "force-end":
		count("force-end " + b.Why)
	case "exception":
		count("exception " + b.Event)
		if b.Event == "approved" {
			tell(&d.exceptions, &d.moreExceptions, "policy %s until %s, ticket %s, approved by %s", code(b.Policy), plain(b.Until), plain(b.Ticket), plain(b.By))
		}
	case "decision":
		count("decision " + b.Decision)
		if slices.Contains(b.Reasons, "AUDIT_WOULD_DENY") {
			count("decision would deny")
		}
	case "reconcile":
		count("reconcile " + b.Event)
		if b.Event == "quarantined" || b.Event == "failed" {
			tell(&d.reconciled, &d.more, "that of %s at %s ended: %s", code(b.Log), when(Time{r.At.Time}), b.Event)
		}
	case "drill":
		what := b.Event
		if b.Event == "done" {
			what = b.Outcome
		}
		if count("drill " + what); what == "failed" || what == "aborted" {
			tell(&d.failed, &d.moreFailed, "%s at %s, ticket %s, %s", code(b.Scenario), when(Time{r.At.Time}), plain(b.Ticket), what)
		}
	default:
		count(r.Kind + " " + b.Event)
	}
}

// state takes in that a component changed its state.
func (d *ledgerReport) state(b *ledgerBody) {
	s := d.states[b.Component]
	if s == nil {
		if len(d.states) == maxComponents {
			return
		}
		s = &stateReport{to: map[string]uint64{}}
		d.states[b.Component] = s
	}
	if len(s.to) < maxKinds {
		s.to[b.To]++
	}
	s.last = b.To
	if b.Cause.Code != "" && len(s.causes) < maxCauses && !slices.Contains(s.causes, b.Cause.Code) {
		s.causes = append(s.causes, b.Cause.Code)
	}
	if b.Drill != "" {
		s.drills++
	}
	if b.Forced {
		s.forced++
	}
}

// plain is text of a row in one line of a report, of bounded length.
func plain(text string) string {
	text = strings.Map(func(r rune) rune {
		if isControl(r) || strings.ContainsRune("`*_[]<>|\\", r) {
			return ' '
		}
		return r
	}, text)
	if runes := []rune(text); len(runes) > 100 {
		text = string(runes[:100]) + "…"
	}
	if text == "" {
		return "none"
	}
	return text
}

func code(text string) string { return "`" + plain(text) + "`" }

// times is how often something was.
func times(n uint64) string {
	if n == 1 {
		return "once"
	}
	return fmt.Sprintf("%d times", n)
}

// text tells of the ledger and the reports of a pack, if it has any.
func (d *ledgerReport) text(p func(string, ...any), m *Manifest) {
	if m.Ledger == nil && m.Reports == nil {
		return
	}
	p("\n## Outage days\n")
	if l := m.Ledger; l != nil {
		if l.Rows.Last < l.Rows.First {
			p("No new row in the outage ledger.")
		} else {
			p("The outage ledger has %d new rows (%d to %d), in `%s`. They say:\n", l.Rows.Last-l.Rows.First+1, l.Rows.First, l.Rows.Last, ledgerFile)
			d.sentences(p)
		}
	}
	if m.Reports == nil {
		return
	}
	p("\nReports of drills and reconciliations, in `%s`:\n", reportsFolder)
	for _, r := range m.Reports.List {
		signed, place := "not signed", ""
		if r.Signed {
			signed = "signed"
		}
		if r.Place != "" {
			place = ", logged at " + plain(r.Place)
		}
		p("- `%s`, of %s, %s%s", r.ID, when(r.At), signed, place)
	}
}

// sentences says what the rows say.
func (d *ledgerReport) sentences(p func(string, ...any)) {
	for _, component := range slices.Sorted(maps.Keys(d.states)) {
		s := d.states[component]
		var went []string
		for _, state := range slices.Sorted(maps.Keys(s.to)) {
			went = append(went, plain(state)+" "+times(s.to[state]))
		}
		text := fmt.Sprintf("- %s became %s, and was %s in the end.", code(component), strings.Join(went, ", "), plain(s.last))
		if len(s.causes) > 0 {
			text += " Causes: " + plain(strings.Join(s.causes, ", ")) + "."
		}
		if s.drills > 0 {
			text += " A drill was behind it " + times(s.drills) + "."
		}
		if s.forced > 0 {
			text += " It was forced " + times(s.forced) + "."
		}
		p("%s", text)
	}
	c := d.counts
	list := func(sentences []string, more uint64) {
		for _, s := range sentences {
			p("  - %s", s)
		}
		if more > 0 {
			p("  - and %d more", more)
		}
	}
	if n := c["force"]; n > 0 || c["force-end expired"]+c["force-end released"] > 0 {
		p("- States were forced %s; %d of these ended by themselves, %d were released.", times(n), c["force-end expired"], c["force-end released"])
		list(d.forced, d.moreForced)
	}
	if n := c["exception requested"] + c["exception approved"] + c["exception denied"] + c["exception revoked"] + c["exception expired"] + c["exception closed"]; n > 0 {
		p("- Exceptions from verification: %d requested, %d granted, %d denied, %d expired, %d revoked, %d closed.", c["exception requested"], c["exception approved"],
			c["exception denied"], c["exception expired"], c["exception revoked"], c["exception closed"])
		list(d.exceptions, d.moreExceptions)
	}
	if allowed, denied := c["decision allow"], c["decision deny"]; allowed+denied > 0 {
		p("- Decisions while not all was live: %d allowed, %d denied. %d of them would have been denied without an exception.", allowed, denied, c["decision would deny"])
	}
	if n := c["rollback added"] + c["rollback removed"] + c["rollback bad"]; n > 0 {
		p("- Rollback bundles: %d added, %d removed, %d found not to verify any more.", c["rollback added"], c["rollback removed"], c["rollback bad"])
	}
	if n := c["drill started"] + c["drill passed"] + c["drill failed"] + c["drill aborted"]; n > 0 {
		p("- Drills: %d begun, %d passed, %d failed, %d aborted.", c["drill started"], c["drill passed"], c["drill failed"], c["drill aborted"])
		list(d.failed, d.moreFailed)
	}
	if n := c["reconcile started"] + c["reconcile done"] + c["reconcile quarantined"] + c["reconcile failed"]; n > 0 {
		p("- Reconciliations: %d begun, %d done, %d ended in quarantine, %d failed.", c["reconcile started"], c["reconcile done"], c["reconcile quarantined"], c["reconcile failed"])
		list(d.reconciled, d.more)
	}
}
