package e2eoutage

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/understudy-log/understudy/test/outagestage"
	"github.com/understudy-log/understudy/test/process"
)

// drills is what "understudy drill list --json" prints, as far as it is looked at here.
type drills struct {
	Scenarios []struct{ Name, Text string }
	History   []struct {
		ID, Scenario, Outcome string
		Cause                 *struct{ Code, Text string }
		Place                 *struct {
			Origin string
			Index  uint64
		}
		Served uint64 `json:"proofs_served"`
		Failed uint64 `json:"proofs_failed"`
	}
}

func (t *theater) drills() (d drills) {
	t.Helper()
	t.must(json.Unmarshal([]byte(t.command("drill", "list", "--json")), &d))
	return d
}

// TestDrills: outages are rehearsed on a daemon that is at work, and scored; the logs themselves do not
// notice. A real outage ends a drill, and forbids the next.
func TestDrills(t *testing.T) {
	t.Parallel()
	th := newTheater(t, 3*time.Minute, outagestage.Config{Entries: 50, WriteProbe: "refused", FallBack: 6 * time.Second})
	ctx := th.ctx
	if n := len(th.drills().Scenarios); n < 16 {
		t.Errorf("there are %d scenarios, want 16", n)
	}
	run := func(who string, args ...string) (string, error) {
		return th.As(ctx, who, append([]string{"drill", "run"}, args...)...)
	}
	refused := func(why string, args ...string) {
		t.Helper()
		_, err := run(outagestage.Operator, args...)
		th.refused(why, err)
	}
	refused("NO_TICKET", "refuse", "--for", "20s")
	refused("DRILL_LENGTH", "refuse", "--for", "48h", "--ticket", "T-1")
	refused("UNKNOWN", "no-such-thing", "--for", "20s", "--ticket", "T-1")
	_, err := run(outagestage.Approver, "refuse", "--for", "20s", "--ticket", "T-1")
	th.refused("operate", err)

	audience, err := th.NewAudience(ctx)
	th.must(err)
	for i, drill := range [][]string{
		{"refuse", "--component", outagestage.LogV1},
		{"hang", "--component", writeV2},
		{"cdn-gone"},
		{"fork"},
	} {
		report, err := run(outagestage.Operator, append(drill, "--for", "11s", "--ticket", "T-2", "--wait")...)
		if err != nil {
			t.Errorf("%v: %v", drill, err)
			continue
		}
		if !strings.Contains(report, drill[0]+", passed") || !strings.Contains(report, "T-2") {
			t.Errorf("%v: a strange report:\n%s", drill, report)
		}
		if i == 0 {
			t.Logf("%s", report)
		}
		newest := th.drills().History[0]
		if newest.Served == 0 || newest.Failed > 0 {
			t.Errorf("%v: %d proofs served, %d failed", drill, newest.Served, newest.Failed)
		}
		th.must(th.InPrivateLog(ctx, []byte(th.command("drill", "report", newest.ID, "--json"))))
	}

	// One at a time, and the real thing ends it.
	first := make(chan error, 1)
	go func() {
		_, err := run(outagestage.Operator, "cdn-gone", "--for", "100s", "--ticket", "T-3", "--wait")
		first <- err
	}()
	th.until(time.Now(), 20*time.Second, "fallback", "tuf")
	refused("DRILL_RUNNING", "refuse", "--for", "20s", "--ticket", "T-4")
	th.Rekor1.Kill()
	err = <-first
	exit := new(outagestage.ExitError)
	if !errors.As(err, &exit) || exit.Code != 1 || !strings.Contains(exit.Error(), "REAL_OUTAGE") {
		t.Errorf("a drill during which a log died: %v", err)
	}
	// The one that was ended still looks on until all it broke is mended.
	th.must(process.Until(ctx, func(context.Context) error {
		if _, err = run(outagestage.Operator, "refuse", "--component", outagestage.LogV2, "--for", "20s", "--ticket", "T-5"); err != nil && strings.Contains(err.Error(), "DRILL_RUNNING") {
			return err
		}
		return nil
	}))
	th.refused("REAL_OUTAGE", err)
	th.until(time.Now(), 30*time.Second, "live", "tuf")
	th.must(th.Rekor1.Restart(ctx))
	_, _, err = th.UntilLive(ctx, reconcileWithin)
	th.must(err)
	th.must(th.Refused(ctx))
	if _, _, err := audience.Close(); err != nil {
		t.Error(err)
	}
}
