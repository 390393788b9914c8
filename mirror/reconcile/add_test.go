package reconcile

import (
	"testing"
	"time"

	"github.com/understudy-log/understudy/mirror/outage"
	"github.com/understudy-log/understudy/test/bubble"
)

// TestOthersComponents: the successor of a log is called after it, and is another log.
func TestOthersComponents(t *testing.T) {
	for component, want := range map[string]bool{"us/read": true, "us/write": true, "us/log2026.example/read": false, "usa/read": false, "us": false} {
		if belongs(component, "us") != want {
			t.Errorf("%s: %t", component, !want)
		}
	}
	if !belongs("us/log2026.example/write", "us/log2026.example") {
		t.Error("a successor has no components")
	}
}

// TestAddUpstream: a log that is announced while the daemon runs is reconciled as the others are.
func TestAddUpstream(t *testing.T) {
	bubble.Run(t, func(t *testing.T) {
		w := newWorld(t)
		w.start()
		next := w.config(w.life).Upstreams[0]
		next.Name = "rekor/next"
		if err := w.life.r.Add(next); err != nil {
			t.Fatal(err)
		}
		w.monitor.mu.Lock()
		w.monitor.statuses = append(w.monitor.statuses, outage.Status{Component: "rekor/next/read", State: outage.Live, Since: time.Now()})
		w.monitor.mu.Unlock()
		w.monitor.set(outage.Fallback, "rekor/next/read")
		w.await("held", func() bool { return len(w.rows("held")) > 0 })
		w.monitor.set(outage.Recovering, "rekor/next/read")
		w.awaitLive()
		if docs := w.documents(); len(docs) != 1 || docs[0].Log != "rekor/next" {
			t.Errorf("%+v", docs)
		}
		if err := w.life.r.Add(next); err == nil {
			t.Error("it is added twice")
		}
	})
}
