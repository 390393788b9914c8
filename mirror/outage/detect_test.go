package outage

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/understudy-log/understudy/test/bubble"
)

// Whatever the phase of the probes in which an upstream stops: it is in fallback 4.6 s later, at once
// refused sooner, and recovering 10 s after it came back.
func TestDetection(t *testing.T) {
	const seconds = float64(time.Second)
	for _, c := range []struct {
		what       string
		mode       string
		latency    time.Duration
		stuck      bool
		deaf       bool
		fall, back float64
	}{
		{what: "hangs", mode: "hang", latency: 5 * time.Millisecond, fall: 4.6, back: 10},
		{what: "hangs, and what hangs stays so", mode: "hang", latency: 5 * time.Millisecond, stuck: true, fall: 4.6, back: 10},
		{what: "hangs at once, slow before", mode: "hang", latency: 450 * time.Millisecond, stuck: true, fall: 4.6, back: 10},
		{what: "hangs, suspiciously slow before", mode: "hang", latency: 700 * time.Millisecond, stuck: true, fall: 4.6, back: 10},
		{what: "hangs, very slow before", mode: "hang", latency: 1900 * time.Millisecond, stuck: true, fall: 4.6, back: 10},
		{what: "hangs, and so do probes", mode: "hang", latency: 5 * time.Millisecond, deaf: true, fall: 4.6, back: 10},
		{what: "refuses", mode: "refuse", latency: 5 * time.Millisecond, fall: 2.6, back: 10},
		{what: "refuses, slow before", mode: "refuse", latency: 700 * time.Millisecond, fall: 2.6, back: 10},
		{what: "answers nonsense", mode: "not a checkpoint", latency: 5 * time.Millisecond, fall: 2.6, back: 10},
	} {
		t.Run(c.what, func(t *testing.T) {
			t.Parallel()
			bubble.Run(t, func(t *testing.T) {
				u := &upstream{latency: c.latency, stuck: c.stuck, deaf: c.deaf}
				u.set("good")
				// Flaps are another test's.
				s := newStage(t, vfs.NewMem(), Config{Components: read(u), Settings: Settings{FlapWindow: 1}}).run()
				step := 20 * time.Millisecond
				if testing.Short() {
					step = 130 * time.Millisecond
				}
				var slowest, slowestBack time.Duration
				for phase := time.Duration(0); phase < 2100*time.Millisecond; phase += step {
					time.Sleep(10*time.Second + phase)
					if s.m.State(rekorRead) != Live {
						t.Fatalf("phase %s: not live but %+v", phase, s.m.Status())
					}
					u.set(c.mode)
					took := s.until(rekorRead, Fallback, time.Minute)
					slowest = max(slowest, took)
					time.Sleep(7*time.Second + phase*7%(2*time.Second))
					u.set("good")
					slowestBack = max(slowestBack, s.until(rekorRead, Recovering, time.Minute))
					if err := s.m.Reconciled(rekorRead); err != nil {
						t.Fatal(err)
					}
				}
				t.Logf("fallback within %s, recovering within %s", slowest, slowestBack)
				if slowest.Seconds() > c.fall || slowestBack.Seconds() > c.back {
					t.Errorf("fallback within %.3f s, recovering within %.3f s: want %g and %g", float64(slowest)/seconds, float64(slowestBack)/seconds, c.fall, c.back)
				}
				if most := s.m.settings.underWay(); u.most > most {
					t.Errorf("%d probes at once, want %d at most", u.most, most)
				}
				s.check()
			})
		})
	}
}

// Real traffic that fails makes it sooner, never later, and alone does it as well.
func TestDetectionWithTraffic(t *testing.T) {
	bubble.Run(t, func(t *testing.T) {
		u := &upstream{latency: 5 * time.Millisecond}
		u.set("good")
		s := newStage(t, vfs.NewMem(), Config{Components: append(read(u), Component{Name: "rekor/write", Kind: "write"}), Settings: Settings{FlapWindow: 1}}).run()
		for every := 37 * time.Millisecond; every < 3*time.Second; every += 113 * time.Millisecond {
			time.Sleep(10*time.Second + every)
			u.set("hang")
			began := time.Now()
			for s.m.State(rekorRead) != Fallback || s.m.State("rekor/write") != Fallback {
				time.Sleep(every)
				for _, name := range []string{rekorRead, "rekor/write"} {
					s.m.Observe(name, Observation{Started: time.Now().Add(-every), Took: every, Err: errRefused})
				}
				synctest.Wait()
				if took := time.Since(began); took > 4600*time.Millisecond && s.m.State(rekorRead) != Fallback || took > 7*time.Second {
					t.Fatalf("traffic every %s: not in fallback after %s", every, took)
				}
			}
			u.set("good")
			for range 40 {
				time.Sleep(200 * time.Millisecond)
				s.m.Observe("rekor/write", Observation{Took: 50 * time.Millisecond})
			}
			synctest.Wait()
			for _, name := range []string{rekorRead, "rekor/write"} {
				if err := s.m.Reconciled(name); err != nil {
					t.Fatalf("%s: %v", name, err)
				}
			}
		}
	})
}

// Many requests of one connection that breaks are no outage, nor are those whose callers gave up.
func TestBurst(t *testing.T) {
	bubble.Run(t, func(t *testing.T) {
		u := &upstream{latency: 5 * time.Millisecond}
		u.set("good")
		s := newStage(t, vfs.NewMem(), Config{Components: append(read(u), Component{Name: "observed"})}).run()
		for range 20 {
			time.Sleep(7300 * time.Millisecond)
			for range 40 {
				s.m.Observe(rekorRead, Observation{Started: time.Now().Add(-time.Millisecond), Took: time.Millisecond, Err: errRefused})
				s.m.Observe(rekorRead, Observation{Took: time.Millisecond, Err: context.Canceled})
			}
			for range 60 {
				time.Sleep(10 * time.Millisecond)
				s.m.Observe(rekorRead, Observation{Took: time.Millisecond})
			}
		}
		for range 10 {
			time.Sleep(time.Second)
			s.m.Observe("observed", Observation{Took: time.Millisecond, Err: fmt.Errorf("get: %w", context.Canceled)})
		}
		synctest.Wait()
		for _, c := range s.told() {
			if c.To == Fallback {
				t.Errorf("fell back: %+v", c)
			}
		}
	})
}

// A healthy upstream is asked every two seconds, a slow one not much more often, one that is away no more.
func TestPolite(t *testing.T) {
	for _, c := range []struct {
		what, mode string
		latency    time.Duration
		most       int // probes in ten minutes
	}{
		{"good", "good", time.Millisecond, 334},
		{"slow", "good", 600 * time.Millisecond, 2 * 334},
		{"very slow", "good", 1900 * time.Millisecond, 2 * 334},
		{"hangs", "hang", 0, 340},
		{"refuses", "refuse", 0, 340},
	} {
		bubble.Run(t, func(t *testing.T) {
			u := &upstream{latency: c.latency}
			u.set(c.mode)
			newStage(t, vfs.NewMem(), Config{Components: read(u)}).run()
			time.Sleep(10 * time.Minute)
			u.mu.Lock()
			defer u.mu.Unlock()
			if u.asked < 300 || u.asked > c.most {
				t.Errorf("%s: %d probes in 10 minutes, want 300 to %d", c.what, u.asked, c.most)
			}
			shortest := time.Hour
			for i, at := range u.started[1:] {
				shortest = min(shortest, at.Sub(u.started[i]))
				if d := at.Sub(u.started[i]); d > 2*time.Second || c.what == "good" && d < 1800*time.Millisecond {
					t.Fatalf("%s: %s between two probes", c.what, d)
				}
			}
			if shortest > 1900*time.Millisecond {
				t.Errorf("%s: always %s between two probes, and many of us ask at once", c.what, shortest)
			}
		})
	}
}

type limited struct{ after time.Duration }

func (limited) Error() string               { return "429" }
func (limited) StatusCode() int             { return 429 }
func (l limited) RetryAfter() time.Duration { return l.after }

// Retry-After is obeyed, and an upstream that forbids asking is away meanwhile.
func TestRetryAfter(t *testing.T) {
	bubble.Run(t, func(t *testing.T) {
		u := &upstream{latency: 5 * time.Millisecond}
		u.set("good")
		s := newStage(t, vfs.NewMem(), Config{Components: read(u)}).run()
		time.Sleep(10 * time.Second)
		u.mu.Lock()
		u.err = limited{time.Minute}
		u.mu.Unlock()
		u.set("error")
		if took := s.until(rekorRead, Fallback, 5*time.Second); took > 5*time.Second {
			t.Errorf("fallback after %s", took)
		}
		if c := s.told(); c[0].Cause.Code != CodeRateLimited {
			t.Errorf("cause %+v", c[0].Cause)
		}
		u.mu.Lock()
		n, last := u.asked, u.started[len(u.started)-1]
		u.mu.Unlock()
		u.set("good")
		time.Sleep(time.Until(last.Add(time.Minute)) - time.Millisecond)
		u.mu.Lock()
		if u.asked != n {
			t.Errorf("%d probes while they were forbidden", u.asked-n)
		}
		u.mu.Unlock()
		if took := s.until(rekorRead, Recovering, 10*time.Second); took > 10*time.Second {
			t.Errorf("recovering after %s", took)
		}
		// Real traffic may be told so as well; more than an hour is a mistake.
		s.m.Observe(rekorRead, Observation{Took: time.Millisecond, Err: limited{1000 * time.Hour}})
		synctest.Wait()
		u.mu.Lock()
		n = u.asked
		u.mu.Unlock()
		time.Sleep(time.Hour - time.Second)
		u.mu.Lock()
		if u.asked != n {
			t.Errorf("%d probes while they were forbidden", u.asked-n)
		}
		u.mu.Unlock()
		s.until(rekorRead, Recovering, 12*time.Second)
	})
}

// An answer after the time-out is none, also of a probe that did not give up by itself.
func TestLateAnswers(t *testing.T) {
	bubble.Run(t, func(t *testing.T) {
		u := &upstream{latency: 2300 * time.Millisecond, deaf: true}
		u.set("good")
		s := newStage(t, vfs.NewMem(), Config{Components: read(u)}).run()
		s.until(rekorRead, Fallback, 5*time.Second)
		time.Sleep(10 * time.Minute)
		if c := s.told(); len(c) != 1 || s.m.Status()[0].BurnRates["5m"] < 199 {
			t.Errorf("told of %+v; %+v", c, s.m.Status())
		}
	})
}

// A short wait that real traffic was asked for is obeyed, and is no failure.
func TestShortRetryAfter(t *testing.T) {
	bubble.Run(t, func(t *testing.T) {
		u := &upstream{latency: 5 * time.Millisecond}
		u.set("good")
		s := newStage(t, vfs.NewMem(), Config{Components: read(u)}).run()
		for range 100 {
			time.Sleep(10 * time.Second)
			s.m.Observe(rekorRead, Observation{Took: time.Millisecond, Err: limited{2 * time.Second}})
			synctest.Wait()
			u.mu.Lock()
			n := u.asked
			u.mu.Unlock()
			time.Sleep(2*time.Second - time.Millisecond)
			u.mu.Lock()
			if u.asked != n {
				t.Errorf("%d probes while they were forbidden", u.asked-n)
			}
			u.mu.Unlock()
		}
		for _, c := range s.told() {
			if c.To == Fallback {
				t.Errorf("fell back: %+v", c)
			}
		}
	})
}

// Half-dead: every other answer is good.
func TestHalfDead(t *testing.T) {
	bubble.Run(t, func(t *testing.T) {
		u := &upstream{latency: 5 * time.Millisecond}
		u.set("good")
		s := newStage(t, vfs.NewMem(), Config{Components: []Component{{Name: "w", Reconciles: true}}}).run()
		time.Sleep(time.Minute)
		bad := false
		for range 20 {
			time.Sleep(time.Second)
			o := Observation{Took: time.Millisecond}
			if bad = !bad; bad {
				o.Err = errRefused
			}
			s.m.Observe("w", o)
		}
		synctest.Wait()
		if c := s.told(); len(c) != 1 || c[0].To != Fallback || c[0].Cause.Code != CodeErrorRatio {
			t.Fatalf("told of %+v", c)
		}
		s.check()
	})
}

// A log that its owners have ended need not grow, also if it was blamed for that before.
func TestEndedNeedNotGrow(t *testing.T) {
	bubble.Run(t, func(t *testing.T) {
		u := &upstream{latency: 5 * time.Millisecond}
		u.set("good")
		var ended atomic.Bool
		cfg := Config{Components: read(u)}
		cfg.Components[0].GrowsWithin, cfg.Components[0].Size, cfg.Components[0].Ended = 10*time.Minute, func() uint64 { return 7 }, ended.Load
		s := newStage(t, vfs.NewMem(), cfg).run()
		s.until(rekorRead, Degraded, 11*time.Minute)
		ended.Store(true)
		s.until(rekorRead, Live, 10*time.Minute)
		time.Sleep(24 * time.Hour)
		if c := s.told(); len(c) != 2 {
			t.Errorf("told of %+v", c)
		}
		s.check()
	})
}

// A log that answers and does not grow is degraded, but not for what it did not do while it was away.
func TestNotGrowing(t *testing.T) {
	bubble.Run(t, func(t *testing.T) {
		u := &upstream{latency: 5 * time.Millisecond}
		u.set("good")
		size, grows := uint64(0), true
		began := time.Now()
		cfg := Config{Components: read(u)}
		cfg.Components[0].GrowsWithin = 10 * time.Minute
		cfg.Components[0].Size = func() uint64 { // called by the one goroutine that sleeps with the others
			if grows {
				size = uint64(time.Since(began) / (9 * time.Minute))
			}
			return size
		}
		s := newStage(t, vfs.NewMem(), cfg).run()
		time.Sleep(time.Hour)
		if len(s.told()) > 0 {
			t.Fatalf("told of %+v", s.told())
		}
		u.set("hang")
		time.Sleep(time.Hour) // and it grows meanwhile, unseen
		synctest.Wait()
		grows = false
		u.set("good")
		s.until(rekorRead, Recovering, 10*time.Second)
		if err := s.m.Reconciled(rekorRead); err != nil {
			t.Fatal(err)
		}
		time.Sleep(9 * time.Minute)
		if s.m.State(rekorRead) != Live {
			t.Fatalf("blamed for its absence: %+v", s.told())
		}
		s.until(rekorRead, Degraded, 2*time.Minute)
		if c := s.told(); c[len(c)-1].Cause.Code != CodeNotGrowing {
			t.Fatalf("cause %+v", c[len(c)-1])
		}
		time.Sleep(time.Hour)
		if s.m.State(rekorRead) != Degraded {
			t.Fatal("not degraded any more without growth")
		}
		synctest.Wait()
		grows = true
		s.until(rekorRead, Live, 2*time.Second)
		s.check()
	})
}

// Slow probes and some errors spend the budget: degraded, and live again well below of that.
func TestDegraded(t *testing.T) {
	bubble.Run(t, func(t *testing.T) {
		u := &upstream{latency: 5 * time.Millisecond}
		u.set("good")
		s := newStage(t, vfs.NewMem(), Config{Components: read(u)}).run()
		time.Sleep(30 * time.Minute)
		u.mu.Lock()
		u.latency = 1100 * time.Millisecond // slower than Slow
		u.mu.Unlock()
		s.until(rekorRead, Degraded, 5*time.Minute)
		if c := s.told(); c[0].Cause.Code != CodeBurnRate {
			t.Fatalf("cause %+v", c[0])
		}
		u.mu.Lock()
		u.latency = 5 * time.Millisecond
		u.mu.Unlock()
		s.until(rekorRead, Live, time.Hour)
		time.Sleep(6 * time.Hour)
		if c := s.told(); len(c) != 2 {
			t.Fatalf("told of %+v", c)
		}
		// An outage that is over spends nothing of the budget of the state.
		u.set("refuse")
		time.Sleep(10 * time.Minute)
		u.set("good")
		s.until(rekorRead, Recovering, 10*time.Second)
		if err := s.m.Reconciled(rekorRead); err != nil {
			t.Fatal(err)
		}
		if rates := s.m.Status()[0].BurnRates; rates["5m"] < 100 || rates["1h"] < 20 || rates["6h"] < 3 {
			t.Errorf("burn rates %v do not have the outage", rates)
		}
		time.Sleep(time.Hour)
		if c := s.told(); len(c) != 5 {
			t.Fatalf("told of %+v", c)
		}
		s.check()
	})
}

// Real traffic that fails makes the next probe come sooner, while it is not yet clear that upstream is away; then not.
func TestSuspectedByTraffic(t *testing.T) {
	bubble.Run(t, func(t *testing.T) {
		u := &upstream{latency: time.Millisecond}
		u.set("good")
		s := newStage(t, vfs.NewMem(), Config{Components: read(u)}).run()
		asked := func() (n int, last time.Time) {
			synctest.Wait()
			u.mu.Lock()
			defer u.mu.Unlock()
			return u.asked, u.started[len(u.started)-1]
		}
		time.Sleep(10 * time.Second)
		n, _ := asked()
		for m := n; m == n; m, _ = asked() {
			time.Sleep(10 * time.Millisecond)
		}
		n, last := asked()
		time.Sleep(5 * time.Millisecond) // it has been answered: what fails after that is suspicious
		s.m.Observe(rekorRead, Observation{Took: time.Millisecond, Err: errRefused})
		time.Sleep(time.Until(last.Add(time.Second)))
		if now, _ := asked(); now != n+1 {
			t.Errorf("%d probes in the second after a failure", now-n)
		}
		u.set("refuse")
		s.until(rekorRead, Fallback, 5*time.Second)
		n, _ = asked()
		for range 600 {
			time.Sleep(100 * time.Millisecond)
			s.m.Observe(rekorRead, Observation{Took: time.Millisecond, Err: errRefused})
		}
		if now, _ := asked(); now > n+35 {
			t.Errorf("%d probes in a minute of an outage", now-n)
		}
	})
}
