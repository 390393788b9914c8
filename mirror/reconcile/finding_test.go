package reconcile

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/understudy-log/understudy/mirror/outage"
	"github.com/understudy-log/understudy/storage"
	"github.com/understudy-log/understudy/test/bubble"
)

// quarantined holds that a log is quarantined for a reason, and that nobody calls it live.
func (w *world) quarantined(code string) *Document {
	w.t.Helper()
	w.await("quarantined and reported", func() bool {
		return w.monitor.state("rekor/read") == outage.Quarantined && w.monitor.state("rekor/write") == outage.Quarantined && len(w.rows("done")) > 0
	})
	time.Sleep(time.Hour)
	docs := w.documents()
	d := docs[len(docs)-1]
	if d.Outcome != "quarantined" || d.Finding == nil || d.Finding.Code != code || len(d.NotDone) == 0 {
		w.t.Fatalf("%+v", d)
	}
	for _, s := range w.monitor.Status() {
		if strings.HasPrefix(s.Component, "rekor/") && (s.State != outage.Quarantined || s.Cause.Code != code) {
			w.t.Errorf("%+v", s)
		}
	}
	if w.submitted() > 0 || w.open() == 0 {
		w.t.Errorf("%d entries were submitted to it, and %d exceptions are open", w.submitted(), w.open())
	}
	return d
}

func TestFork(t *testing.T) {
	bubble.Run(t, func(t *testing.T) {
		w := newWorld(t)
		w.fork = true
		w.played()
		d := w.quarantined(outage.CodeFork)
		if f := d.Finding; !f.Named || f.First != 5 || f.Origin != publicOrigin || string(d.Evidence["first"]) != "one" || string(d.Evidence["second"]) != "two" {
			t.Errorf("%+v %q", f, d.Evidence)
		}
		if rows := w.rows("quarantined"); len(rows) != 1 || string(rows[0].First) != "one" {
			t.Errorf("%+v", rows)
		}
		if err := w.life.r.Now(t.Context(), logName); !errors.Is(err, ErrQuarantined) {
			t.Error(err)
		}
		// An operator who lets it go cannot make it another log.
		w.monitor.release()
		w.await("quarantined again", func() bool { return len(w.rows("done")) == 2 })
		w.quarantined(outage.CodeFork)
	})
}

// TestForkCrashes crashes around everything that quarantine does outside.
func TestForkCrashes(t *testing.T) {
	for i := 1; i <= 8; i++ {
		for _, when := range []string{"before", "after"} {
			bubble.Run(t, func(t *testing.T) {
				w := newWorld(t)
				w.fork = true
				w.crashAt[fmt.Sprint(i, " ", when)] = true
				w.played()
				w.quarantined(outage.CodeFork)
			})
			if t.Failed() {
				t.Fatalf("crash %s effect %d", when, i)
			}
		}
	}
}

func TestLostTail(t *testing.T) {
	for _, c := range []struct {
		name     string
		recovers bool
	}{{"recovering", true}, {"in fallback", false}} {
		t.Run(c.name, func(t *testing.T) {
			bubble.Run(t, func(t *testing.T) {
				w := newWorld(t)
				w.shown = 7
				w.played()
				if !c.recovers { // its answers are not good
					w.monitor.set(outage.Fallback, "rekor/read", "rekor/write")
				}
				d := w.quarantined(outage.CodeLostTail)
				if f := d.Finding; !f.Named || f.First != 7 || f.Next != 10 || f.Origin != publicOrigin || string(d.Evidence["first"]) != "checkpoint 10" {
					t.Errorf("%+v %q", f, d.Evidence)
				}
			})
		})
	}
}

// TestDrillIsNoFinding: what a drill shows of a log in fallback quarantines nothing.
func TestDrillIsNoFinding(t *testing.T) {
	bubble.Run(t, func(t *testing.T) {
		w := newWorld(t)
		w.patch = func(c *Config) { c.Drill = func(string) string { return "drill-1" } }
		w.shown = 7
		w.played()
		w.monitor.set(outage.Fallback, "rekor/read", "rekor/write")
		time.Sleep(time.Hour)
		if w.monitor.state("rekor/read") != outage.Fallback {
			t.Error(w.monitor.state("rekor/read"))
		}
		w.mu.Lock()
		w.shown = -1
		w.mu.Unlock()
		w.outage(false)
		w.awaitLive()
		w.sound()
	})
}

// TestRollbackHeals: a log that shows less for a moment is no liar; also if there is a crash meanwhile.
func TestRollbackHeals(t *testing.T) {
	for _, crash := range []bool{false, true} {
		bubble.Run(t, func(t *testing.T) {
			w := newWorld(t)
			w.shown = 7
			w.played()
			time.Sleep(40 * time.Second)
			if crash {
				w.life.stop()
				w.start()
			}
			time.Sleep(10 * time.Second)
			w.mu.Lock()
			w.shown = -1
			w.mu.Unlock()
			w.awaitLive()
			w.sound()
			if rows := w.rows("head"); len(rows) < 2 || rows[0].Shorter == nil || rows[0].Shorter.Size != 7 {
				t.Errorf("%+v", rows)
			}
		})
	}
}

func TestChangedEntry(t *testing.T) {
	bubble.Run(t, func(t *testing.T) {
		w := newWorld(t)
		w.changed[2] = true
		w.played()
		d := w.quarantined(outage.CodeChangedEntry)
		if f := d.Finding; !f.Named || f.First != 2 || f.Next != 3 || f.Held != (storage.Hash{0xaa}).String() || f.Found != storage.LeafHash([]byte("theirs")).String() || string(d.Evidence["answer"]) != "theirs" || d.Decisions.Left != 1 || d.Decisions.Changed != 1 || d.Decisions.Same != 2 || !d.Decisions.List[0].Changed {
			t.Errorf("%+v %q %+v", f, d.Evidence, d.Decisions)
		}
		// What was verified again is not, after a restart.
		w.life.stop()
		w.start()
		// Once upstream gives the right one and an operator has looked, all is done that was not.
		w.mu.Lock()
		delete(w.changed, 2)
		w.mu.Unlock()
		w.monitor.release()
		w.awaitLive()
		w.sound()
	})
}
