package e2eoutage

import (
	"testing"
	"time"

	"github.com/understudy-log/understudy/test/outagestage"
)

// TestHalfDead: the logs answer whoever reads, and let whoever writes wait for ever. That is an outage of
// their write paths, and of nothing else.
func TestHalfDead(t *testing.T) {
	t.Parallel()
	th := newTheater(t, 2*time.Minute, outagestage.Config{WriteProbe: "entry", Entries: 50})
	ctx := th.ctx
	before := len(th.ledger())
	audience, err := th.NewAudience(ctx)
	th.must(err)
	stopped := time.Now()
	th.must(th.Rekor1.StopSigner())
	th.must(th.Rekor2.StopWrites())
	th.within("from SIGSTOP of the writers to fallback of the write paths", th.until(stopped, 20*time.Second, "fallback", writeV1, writeV2), detectWithin)
	th.tells(10*time.Second, th.PrivateURLs())
	digests, err := th.SignPrivately(ctx, 20)
	th.must(err)
	time.Sleep(5 * time.Second) // in which a read path that is not well would show
	if s, err := th.Outage(ctx); err != nil || s.Of(readV1) != "live" || s.Of(readV2) != "live" {
		t.Errorf("the logs are read as ever: %v (%v)", s, err)
	}
	th.must(th.Rekor1.Continue())
	th.must(th.Rekor2.Continue())
	continued := time.Now()
	th.within("from SIGCONT until the write paths are seen to be back", th.back(continued), noticeWithin)
	_, _, err = th.UntilLive(ctx, reconcileWithin)
	th.must(err)
	th.tells(5*time.Second, th.PublicURLs())
	th.must(th.Refused(ctx))
	counts, err := th.PublicCounts(ctx)
	th.must(err)
	if err := outagestage.Once(counts, digests); err != nil {
		t.Error(err)
	}
	if _, _, err := audience.Close(); err != nil {
		t.Error(err)
	}
	rows := th.ledger()[before:]
	for _, component := range []string{readV1, readV2, "tuf"} {
		for _, row := range outagestage.Rows(rows, "state", "component", component) {
			t.Errorf("%s changed its state: %s", component, row.Body)
		}
	}
	th.reports(th.ledger(), len(digests))
}
