package drill

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// jsonReport is the report of a drill as it goes into the private log: its result, without the place
// that it gets there.
func jsonReport(res Result) []byte {
	res.Place = nil
	raw, err := json.MarshalIndent(res, "", "  ")
	if err != nil {
		panic("drill: a result cannot be encoded: " + err.Error())
	}
	return append(raw, '\n')
}

// cell makes what others wrote fit into a line of Markdown.
func cell(s string) string {
	return strings.NewReplacer("\n", " ", "\r", " ", "|", `\|`, "<", "&lt;", "`", "'").Replace(s)
}

// markdownReport is the same for people.
func markdownReport(res Result) []byte {
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	line("# Drill %s: %s, %s\n", res.ID, res.Scenario, res.Outcome)
	if s, err := findScenario(res.Scenario); err == nil {
		line("Rehearsed: %s.\n", s.Text)
	}
	line("| | |\n|---|---|")
	line("| disturbed | %s |", cell(strings.Join(res.Components, ", ")))
	line("| began | %s |", stamp(res.Started))
	line("| faults ended | %s |", stamp(res.Reverted))
	line("| over | %s |", stamp(res.Ended))
	line("| ticket | %s |", cell(res.Ticket))
	line("| run by | %s |", cell(res.By))
	if res.Place != nil {
		line("| report logged | index %d of %s |", res.Place.Index, cell(res.Place.Origin))
	}
	if res.Cause != nil {
		line("\nAborted: %s (%s).", cell(res.Cause.Text), res.Cause.Code)
	}
	line("\n| | measured | target |\n|---|---|---|")
	for _, m := range []struct {
		what     string
		measured *float64
		target   float64
	}{
		{"detected after", res.Detect, res.Targets.Detect}, {"fallen back after", res.FallBack, res.Targets.FallBack},
		{"seen back after", res.Recover, res.Targets.Recover}, {"all as before after that", res.Reconcile, res.Targets.Reconcile},
	} {
		measured := "not measured"
		if m.measured != nil {
			measured = fmt.Sprintf("%.1f s", *m.measured)
		}
		line("| %s | %s | %.0f s |", m.what, measured, m.target)
	}
	line("| proofs served | %d of %d | all |", res.Served, res.Served+res.Failed)
	line("| oldest checkpoint under a proof | %.0f s | |", res.Staleness)
	for _, component := range slices.Sorted(maps.Keys(res.Causes)) {
		line("\n%s: %s (%s).", cell(component), cell(strings.TrimSuffix(res.Causes[component].Text, ".")), res.Causes[component].Code)
	}
	if len(res.Failures) > 0 {
		line("\n## What was missed\n")
		for _, failure := range res.Failures {
			line("- %s", cell(failure))
		}
	}
	return []byte(b.String())
}

func stamp(t time.Time) string {
	if t.IsZero() {
		return "not"
	}
	return t.UTC().Format(time.RFC3339)
}

const (
	appendEvery = time.Minute // a failed append is tried again
	appendTime  = 30 * time.Second
	maxUnlogged = 20 // of the newest results; what is older stays out of the private log
)

// appendReports appends the reports of drills that have ended to the private log until ctx ends.
func (r *Runner) appendReports(ctx context.Context) error {
	if r.cfg.AppendReport == nil {
		return nil
	}
	for {
		changed := r.cfg.Ledger.Changed()
		pending := r.history.unlogged()
		var again <-chan time.Time
		for _, res := range pending[max(0, len(pending)-maxUnlogged):] {
			place, err := r.appendReport(ctx, jsonReport(res))
			if err != nil && ctx.Err() != nil {
				return nil
			}
			if err != nil {
				r.cfg.Logger.Warn("the report of a drill could not be appended to the private log; it is tried again", "drill", res.ID, "error", err)
				again, changed = time.After(appendEvery), nil
				break
			}
			res.Place = &place
			if err := r.history.keep("logged", res); err != nil {
				return err
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
		case <-again:
		}
	}
}

func (r *Runner) appendReport(ctx context.Context, report []byte) (_ Place, err error) {
	ctx, cancel := context.WithTimeout(ctx, appendTime)
	defer cancel()
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("appending it panicked: %v", p)
		}
	}()
	return r.cfg.AppendReport(ctx, report)
}
