package reconcile

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/understudy-log/understudy/mirror/outage"
	"github.com/understudy-log/understudy/test/bubble"
)

// played is an outage with decisions and private entries of all kinds.
func (w *world) played() {
	w.start()
	w.await("started", func() bool { return true })
	w.outage(true)
	w.await("held", func() bool { return len(w.rows("held")) > 0 })
	w.decide(1, 2, 3)
	w.log([]byte("a"), []byte("b"), nil, []byte("bad c"), []byte("d"))
	w.mu.Lock()
	w.exception = 2
	w.mu.Unlock()
	time.Sleep(time.Minute)
	w.outage(false)
}

func TestReconciles(t *testing.T) {
	bubble.Run(t, func(t *testing.T) {
		w := newWorld(t)
		w.played()
		w.awaitLive()
		w.sound()
		docs := w.documents()
		if len(docs) != 1 {
			t.Fatalf("%d reports", len(docs))
		}
		d := docs[0]
		if d.Outcome != "done" || d.Kind != kindRecovery || d.Exceptions.Closed != 2 || d.Decisions.Same != 3 || d.Decisions.Asked != 3 || d.Proofs == 0 || d.Consistency[0].First.Size != 10 || d.Version != 1 {
			t.Errorf("%+v", d)
		}
		if size, _ := w.life.ledger.Head(); d.LedgerRows == 0 || d.LedgerRows > size || len(d.NotDone) != 2 {
			t.Errorf("%d rows, %q", d.LedgerRows, d.NotDone)
		}
		// What came in while that was done is left for the end, and nothing is done a second time.
		rows, _ := w.life.ledger.Head()
		time.Sleep(time.Hour)
		if after, _ := w.life.ledger.Head(); after != rows {
			t.Errorf("%d rows, and %d an hour later", rows, after)
		}
	})
}

// TestCrashAtEveryEffect crashes before and after each thing that is done outside: once each, and at each
// of them in turn.
func TestCrashAtEveryEffect(t *testing.T) {
	effects := 0
	bubble.Run(t, func(t *testing.T) {
		w := newWorld(t)
		w.played()
		w.awaitLive()
		w.life.stop()
		effects = w.effects
	})
	if effects < 10 {
		t.Fatalf("only %d effects", effects)
	}
	for i := 1; i <= effects; i++ {
		for _, when := range []string{"before", "after"} {
			bubble.Run(t, func(t *testing.T) {
				w := newWorld(t)
				w.crashAt[fmt.Sprint(i, " ", when)] = true
				w.played()
				w.awaitLive()
				w.sound()
			})
			if t.Failed() {
				t.Fatalf("crash %s effect %d of %d", when, i, effects)
			}
		}
	}
}

// TestCrashAtEveryWrite crashes before each change of the disk, and so before and after each row.
func TestCrashAtEveryWrite(t *testing.T) {
	writes := 0
	bubble.Run(t, func(t *testing.T) {
		w := newWorld(t)
		w.played()
		w.awaitLive()
		writes = w.writes
	})
	step := 1
	if testing.Short() {
		step = 7
	}
	for i := 1; i <= writes; i += step {
		bubble.Run(t, func(t *testing.T) {
			w := newWorld(t)
			w.crashOn = i
			w.played()
			w.awaitLive()
			w.sound()
		})
		if t.Failed() {
			t.Fatalf("crash at write %d of %d", i, writes)
		}
	}
	t.Logf("%d crashes", writes)
}

// TestPauses: upstream goes away in the middle, and the run goes on where it was.
func TestPauses(t *testing.T) {
	bubble.Run(t, func(t *testing.T) {
		w := newWorld(t)
		w.patch = func(c *Config) { c.PerSecond = 1 }
		w.start()
		w.outage(true)
		var entries [][]byte
		for i := range 50 {
			entries = append(entries, fmt.Append(nil, "entry ", i))
		}
		w.log(entries...)
		time.Sleep(time.Minute)
		w.outage(false)
		time.Sleep(20 * time.Second)
		w.outage(true)
		time.Sleep(time.Second)
		if s := w.life.r.Status(); s.Running != nil {
			t.Errorf("it goes on although the log is away: %+v", s.Running)
		}
		w.await("paused", func() bool { return len(w.rows("failed")) == 1 })
		n := w.submitted()
		if n < 10 || n > 30 {
			t.Errorf("%d entries were submitted in 20 s", n)
		}
		if s := w.life.r.Status(); s.Running != nil || len(s.Paused) != 1 || s.BacklogProposals < 20 {
			t.Errorf("%+v", s)
		}
		if err := w.life.r.Now(t.Context(), logName); !errors.Is(err, ErrAway) {
			t.Error(err)
		}
		time.Sleep(time.Hour)
		if w.submitted() != n {
			t.Error("more was submitted while it was away")
		}
		w.outage(false)
		w.awaitLive()
		w.sound()
		docs := w.documents()
		if len(docs) != 1 || docs[0].Paused != 1 || len(docs[0].Pauses) != 1 || docs[0].Proofs != 2 {
			t.Errorf("%d reports, %+v", len(docs), docs[0])
		}
	})
}

// TestRate: so many a second, and none while upstream asks to wait.
func TestRate(t *testing.T) {
	bubble.Run(t, func(t *testing.T) {
		w := newWorld(t)
		w.patch = func(c *Config) { c.PerSecond = 4 }
		var times []time.Time
		asked := false
		w.submit = func([]byte) error {
			w.mu.Lock()
			defer w.mu.Unlock()
			times = append(times, time.Now())
			if len(times) == 10 && !asked {
				asked = true
				return &statusError{code: 429, after: 40 * time.Second}
			}
			return nil
		}
		w.start()
		w.outage(true)
		for i := range 30 {
			w.log(fmt.Append(nil, "entry ", i))
		}
		w.outage(false)
		w.awaitLive()
		w.sound()
		longest := time.Duration(0)
		for i := range times[1:] {
			gap := times[i+1].Sub(times[i])
			longest = max(longest, gap)
			if gap < 249*time.Millisecond {
				t.Errorf("request %d came %s after the one before", i+1, gap)
			}
		}
		if longest < 39*time.Second || len(times) != 31 {
			t.Errorf("%d requests; the longest pause was %s", len(times), longest)
		}
	})
}

// TestOneFails: an entry that fails for ever does not hold up the others, and is tried again the next time;
// so is one that cannot be read.
func TestOneFails(t *testing.T) {
	bubble.Run(t, func(t *testing.T) {
		w := newWorld(t)
		sick := true
		w.submit = func(p []byte) error {
			w.mu.Lock()
			defer w.mu.Unlock()
			if sick && string(p) == "entry 3" {
				return &statusError{code: 500}
			}
			return nil
		}
		w.start()
		w.outage(true)
		for i := range 30 {
			w.log(fmt.Append(nil, "entry ", i))
		}
		w.log([]byte("unreadable"))
		w.outage(false)
		w.awaitLive()
		d := w.documents()[0].Proposals[0]
		if d.Submitted != 29 || d.Failed != 1 || d.Unreadable != 1 || len(d.Unsent) != 2 {
			t.Fatalf("%+v", d)
		}
		if n := w.life.r.Status().BacklogProposals; n != 2 {
			t.Errorf("a backlog of %d", n)
		}
		w.mu.Lock()
		sick = false
		w.private[30] = []byte("entry 30")
		w.mu.Unlock()
		time.Sleep(time.Minute)
		if err := w.life.r.Now(t.Context(), logName); err != nil {
			t.Fatal(err)
		}
		w.await("over", func() bool { return w.life.r.Status().Running == nil })
		d = w.documents()[1].Proposals[0]
		if d.Submitted != 2 || d.Again != 2 || d.Total != 2 || d.Left != 0 {
			t.Errorf("%+v", d)
		}
	})
}

// TestNothingLeft: once a log is live and reconciled nothing waits, neither what was logged since nor the
// report itself, and no further reconciliation begins for them, also after a restart.
func TestNothingLeft(t *testing.T) {
	bubble.Run(t, func(t *testing.T) {
		w := newWorld(t)
		var reported sync.Map
		w.patch = func(c *Config) {
			c.AppendReport = func(_ context.Context, signed []byte) (Place, error) {
				w.log(signed)
				index := c.Privates[0].Size() - 1
				reported.Store(index, true)
				return Place{privateOrigin, index, ""}, nil
			}
			c.Privates[0].Own = func(index uint64) bool { _, own := reported.Load(index); return own }
		}
		w.start()
		w.outage(true)
		w.log([]byte("entry 0"))
		if n := w.life.r.Status().BacklogProposals; n != 1 {
			t.Errorf("a backlog of %d in the outage", n)
		}
		w.outage(false)
		w.awaitLive()
		check := func(when string) {
			t.Helper()
			time.Sleep(time.Hour)
			if s := w.life.r.Status(); s.Running != nil || s.BacklogProposals != 0 || s.LastID[logName] == "" {
				t.Errorf("%s: %+v", when, s)
			}
			if n := len(w.documents()); n != 1 {
				t.Errorf("%s: %d reports", when, n)
			}
		}
		check("live")
		w.log([]byte("entry 1"))
		check("an entry of a live day")
		w.life.stop()
		w.start()
		check("after a restart")
		w.outage(true)
		if n := w.life.r.Status().BacklogProposals; n != 1 { // the report is nobody's proposal
			t.Errorf("a backlog of %d in the next outage", n)
		}
	})
}

// TestRunning: there is one at a time.
func TestRunning(t *testing.T) {
	bubble.Run(t, func(t *testing.T) {
		w := newWorld(t)
		w.patch = func(c *Config) { c.PerSecond = 1 }
		w.start()
		for i := range 30 {
			w.log(fmt.Append(nil, "entry ", i))
		}
		time.Sleep(time.Second)
		if err := w.life.r.Now(t.Context(), "other"); !errors.Is(err, ErrUnknownLog) {
			t.Error(err)
		}
		if err := w.life.r.Now(t.Context(), logName); err != nil {
			t.Fatal(err)
		}
		for range 3 {
			if err := w.life.r.Now(t.Context(), logName); !errors.Is(err, ErrRunning) {
				t.Error(err)
			}
			time.Sleep(time.Second)
		}
		if err := w.life.r.Run(t.Context()); !errors.Is(err, ErrRunning) {
			t.Error(err)
		}
		w.awaitLive()
		w.sound()
		if d := w.documents()[0]; d.Kind != kindOperator || d.Proposals[0].Submitted != 30 {
			t.Errorf("%+v", d)
		}
		w.life.stop()
		if err := w.life.r.Now(t.Context(), logName); !errors.Is(err, ErrStopped) {
			t.Error(err)
		}
	})
}

// TestLeftOver: decisions of a time when something was only slow are verified again once all is live; so
// are those that rest on nothing public.
func TestLeftOver(t *testing.T) {
	bubble.Run(t, func(t *testing.T) {
		w := newWorld(t)
		w.outcome = func(seq uint64) Outcome {
			return map[uint64]Outcome{2: {Same, ""}, 3: {Differs, "the <key> | was revoked"}, 4: {NotKept, ""}}[seq]
		}
		w.start()
		w.monitor.set(outage.Degraded, "tuf")
		w.decide(1, 2, 3)
		time.Sleep(time.Minute)
		if len(w.rows("started")) != 0 {
			t.Error("it began before all was live")
		}
		w.monitor.set(outage.Live, "tuf")
		w.awaitLive()
		w.sound()
		d := w.documents()[0]
		if d.Kind != kindLeftOver || d.Log != "" || d.Decisions.Same != 1 || d.Decisions.Differs != 1 || d.Decisions.NotKept != 1 || len(d.Decisions.List) != 2 {
			t.Errorf("%+v", d)
		}
		reports, _ := w.life.r.Reports(time.Time{}, time.Now())
		if text := string(reports[0].Markdown); strings.Contains(text, "<key>") || !strings.Contains(text, `&lt;key&gt; \| was`) {
			t.Error(text)
		}
	})
}

// TestLateEntries: what is logged privately until the log is live is submitted, and what is logged
// afterwards is not.
func TestLateEntries(t *testing.T) {
	bubble.Run(t, func(t *testing.T) {
		w := newWorld(t)
		var once bool
		w.patch = func(c *Config) {
			appendReport := c.AppendReport
			c.AppendReport = func(ctx context.Context, signed []byte) (Place, error) {
				if !once {
					once = true
					w.log([]byte("late"))
				}
				return appendReport(ctx, signed)
			}
		}
		w.played()
		w.awaitLive()
		w.await("late", func() bool { return w.times("late") == 1 && w.life.r.Status().Running == nil })
		w.sound()
		w.log([]byte("meant for one log"))
		time.Sleep(time.Hour)
		w.monitor.set(outage.Degraded, "rekor/read")
		if w.times("meant for one log") != 0 {
			t.Error("it was submitted while all was live")
		}
	})
}

// TestOthersAway: exceptions stay open while something else is away, and are closed after that.
func TestOthersAway(t *testing.T) {
	bubble.Run(t, func(t *testing.T) {
		w := newWorld(t)
		w.monitor.set(outage.Fallback, "tuf")
		w.played()
		w.await("reconciled", func() bool { return w.monitor.state("rekor/write") == outage.Live })
		if d := w.documents()[0]; d.Exceptions.Kept == "" || w.open() != 2 {
			t.Errorf("%+v", d.Exceptions)
		}
		w.monitor.set(outage.Live, "tuf")
		w.awaitLive()
		w.await("closed", func() bool { return w.open() == 0 })
		time.Sleep(time.Hour)
		if n := len(w.documents()); n != 2 {
			t.Errorf("%d reports", n)
		}
		w.sound()
	})
}
