package reconcile

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/understudy-log/understudy/mirror/outage"
	"github.com/understudy-log/understudy/test/bubble"
)

// TestReportsAreNobodysProposals: a report is appended to the private log, and that is no reason for another
// reconciliation, nor is it brought to the public log.
func TestReportsAreNobodysProposals(t *testing.T) {
	bubble.Run(t, func(t *testing.T) {
		w := newWorld(t)
		w.patch = func(c *Config) {
			appendReport := c.AppendReport
			c.AppendReport = func(ctx context.Context, signed []byte) (Place, error) {
				w.log([]byte("report"))
				return appendReport(ctx, signed)
			}
			c.Privates[0].Own = func(index uint64) bool {
				w.mu.Lock()
				defer w.mu.Unlock()
				return string(w.private[index]) == "report"
			}
			c.Privates[0].Standby = true
		}
		w.played()
		w.awaitLive()
		time.Sleep(time.Hour)
		if n := len(w.documents()); n != 1 || w.times("report") != 0 || w.life.r.Status().BacklogProposals != 0 {
			t.Errorf("%d reports, submitted %d times, %+v", n, w.times("report"), w.life.r.Status())
		}
		// It is all that there is.
		w.outage(true)
		time.Sleep(time.Minute)
		w.outage(false)
		w.awaitLive()
		if d := w.documents(); len(d) != 2 || d[1].Proposals[0].Total != 0 || d[1].Proposals[0].Next != 6 {
			t.Errorf("%d reports, %+v", len(d), d[len(d)-1].Proposals)
		}
		// It stands before what is logged in the next outage.
		w.outage(true)
		w.log([]byte("later"))
		time.Sleep(time.Minute)
		w.outage(false)
		w.awaitLive()
		d := w.documents()
		if n := len(d); n != 3 || w.times("later") != 1 || w.times("report") != 0 || d[2].Proposals[0].Total != 1 {
			t.Errorf("%d reports, %+v", n, d[n-1].Proposals[0])
		}
	})
}

// TestForced: what was logged privately because an operator had said so is brought to the public log, also if nothing
// was ever reconciled.
func TestForced(t *testing.T) {
	bubble.Run(t, func(t *testing.T) {
		w := newWorld(t)
		w.start()
		w.monitor.set(outage.Fallback, "rekor/write")
		w.log([]byte("a"))
		time.Sleep(time.Hour)
		w.monitor.set(outage.Live, "rekor/write")
		w.await("submitted", func() bool { return w.times("a") == 1 })
	})
}

// TestStandby: while it stands in for another log, a private log takes entries that belong to this one, and those
// that were under way when it closed come in later.
func TestStandby(t *testing.T) {
	bubble.Run(t, func(t *testing.T) {
		w := newWorld(t)
		w.monitor = newMonitor("rekor/read", "rekor/write", "other/write")
		w.patch = func(c *Config) { c.Privates[0].Standby = true }
		w.start()
		w.monitor.set(outage.Fallback, "other/write")
		time.Sleep(time.Hour)
		w.log([]byte("a"))
		w.monitor.set(outage.Live, "other/write")
		time.Sleep(2 * time.Second)
		w.log([]byte("b"))
		w.await("submitted", func() bool { return w.times("a") == 1 && w.times("b") == 1 })
		w.awaitLive()
		time.Sleep(time.Hour)
		if d := w.documents(); len(d) > 2 || strings.Contains(string(d[0].encode()), "NOT_KEPT") {
			t.Errorf("%+v", d)
		}
	})
}
