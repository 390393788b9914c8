package reconcile

import (
	"context"
	"testing"
	"time"

	"github.com/understudy-log/understudy/mirror/outage"
	"github.com/understudy-log/understudy/test/bubble"
)

// TestHungRefresh: a log that nobody polls, because its keys were withdrawn or its tree is damaged, does not keep
// others from being reconciled.
func TestHungRefresh(t *testing.T) {
	bubble.Run(t, func(t *testing.T) {
		w := newWorld(t)
		w.monitor = newMonitor("dead/read", "rekor/read", "rekor/write")
		w.patch = func(c *Config) {
			dead := c.Upstreams[0]
			dead.Name = "dead"
			dead.Heads = func() []Head { return nil }
			dead.Evidence = nil
			dead.Refresh = func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }
			c.Upstreams = append([]Upstream{dead}, c.Upstreams...)
		}
		w.start()
		w.monitor.set(outage.Fallback, "dead/read", "rekor/read", "rekor/write")
		time.Sleep(time.Minute)
		w.monitor.set(outage.Recovering, "dead/read", "rekor/read", "rekor/write")
		w.await("the other one is live", func() bool { return w.monitor.state("rekor/read") == outage.Live })
		if w.monitor.state("dead/read") != outage.Recovering {
			t.Error("a log that does not answer was reconciled")
		}
	})
}

// TestHungAppend: a private log whose witnesses are away takes no report, and nothing waits for that.
func TestHungAppend(t *testing.T) {
	bubble.Run(t, func(t *testing.T) {
		w := newWorld(t)
		w.patch = func(c *Config) {
			c.AppendReport = func(ctx context.Context, _ []byte) (Place, error) { <-ctx.Done(); return Place{}, ctx.Err() }
		}
		w.played()
		w.awaitLive()
	})
}
