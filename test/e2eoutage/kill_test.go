package e2eoutage

import (
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"github.com/understudy-log/understudy/test/outagestage"
)

// TestKilledInOutage: the daemon is killed in the middle of an outage, and again and again while it
// reconciles. It goes on where it was, and does nothing twice.
func TestKilledInOutage(t *testing.T) {
	t.Parallel()
	th := newTheater(t, 2*time.Minute, outagestage.Config{WriteProbe: "refused", Entries: 50, PerSecond: 10})
	ctx := th.ctx
	th.KillLogs()
	th.until(time.Now(), 20*time.Second, "fallback", readV1, writeV1, readV2, writeV2, "tuf")
	digests, err := th.SignPrivately(ctx, 80)
	th.must(err)
	before, err := th.Outage(ctx)
	th.must(err)
	rows := len(th.ledger())

	th.Kill()
	th.must(th.Start(ctx))
	after, err := th.Outage(ctx)
	th.must(err)
	if sinces(before) != sinces(after) {
		t.Errorf("after a restart the states are\n%s\nand were\n%s", sinces(after), sinces(before))
	}
	th.tells(5*time.Second, th.PrivateURLs())
	more, err := th.SignPrivately(ctx, 10)
	th.must(err)
	digests = append(digests, more...)
	if n := len(th.ledger()); n < rows {
		t.Errorf("the ledger has %d rows, and had %d", n, rows)
	}

	th.must(th.RestartLogs(ctx))
	kills := 0
	for _, done := range []int{8, 20, 35} {
		s, _, err := th.UntilOutage(ctx, 40*time.Second, fmt.Sprintf("reconciling, %d done", done), func(s outagestage.Status) bool {
			return submitted(t, s) >= done || s.State == "live"
		})
		th.must(err)
		if s.State == "live" {
			break
		}
		th.Kill()
		kills++
		th.must(th.Start(ctx))
	}
	if kills < 2 {
		t.Errorf("it was killed %d times while it reconciled; want more, or this shows nothing", kills)
	}
	_, _, err = th.UntilLive(ctx, reconcileWithin)
	th.must(err)
	counts, err := th.PublicCounts(ctx)
	th.must(err)
	if err := outagestage.Once(counts, digests); err != nil {
		t.Error(err)
	}
	all := th.ledger()
	for _, log := range []string{outagestage.LogV1, outagestage.LogV2} {
		for _, event := range []string{"started", "done"} {
			if n := len(outagestage.Rows(all, "reconcile", "event", event, "log", log)); n != 1 {
				t.Errorf("%d rows say that the reconciliation of %s is %s, want 1", n, log, event)
			}
		}
	}
	th.reports(all, len(digests))
	th.must(th.Terminate())
	th.command("check")
}

// sinces says what the state of each component is, and since when.
func sinces(s outagestage.Status) (text string) {
	for _, c := range s.Components {
		text += fmt.Sprintf("%s %s %s since %s\n", c.Component, c.State, c.Cause.Code, c.Since.UTC().Format(time.RFC3339Nano))
	}
	return text
}

// submitted is how many entries the reconciliation that runs has submitted.
func submitted(t *testing.T, s outagestage.Status) int {
	t.Helper()
	var r struct {
		Running *struct {
			Entries int `json:"entries"`
		} `json:"running"`
	}
	if err := json.Unmarshal(s.Reconcile, &r); err != nil {
		t.Fatal(err)
	}
	if r.Running == nil {
		return 0
	}
	return r.Running.Entries
}
