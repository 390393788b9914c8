package outage

import (
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/understudy-log/understudy/test/bubble"
)

// The wall clock is set while all runs: nothing changes by that alone, and no force lasts longer.
func TestClockJumps(t *testing.T) {
	const day = 24 * time.Hour
	for _, jump := range []time.Duration{-400 * day, -2 * day, -time.Hour, time.Hour, 2 * day, 400 * day} {
		bubble.Run(t, func(t *testing.T) {
			var offset atomic.Int64
			now := func() time.Time { return time.Now().Add(time.Duration(offset.Load())) }
			u, away := &upstream{latency: 3 * time.Millisecond}, &upstream{}
			u.set("good")
			away.set("hang")
			components := append(read(u), Component{Name: "tuf", Probe: away.probe}, Component{Name: "log/read", Reconciles: true}, Component{Name: "fulcio"})
			s := newStage(t, vfs.NewMem(), Config{Components: components, Now: now}).run()
			s.until("tuf", Fallback, 5*time.Second)
			if err := s.m.Quarantine("log/read", Cause{CodeFork, "two heads"}); err != nil {
				t.Fatal(err)
			}
			before := len(s.told())
			for range 10 {
				offset.Add(int64(jump))
				time.Sleep(10 * time.Second)
				offset.Add(-int64(jump))
				time.Sleep(10 * time.Second)
			}
			if told := s.told(); len(told) != before {
				t.Fatalf("%s: told of %+v", jump, told[before:])
			}
			if err := s.m.Force(Force{Component: "fulcio", State: Fallback, Until: now().Add(time.Hour), Ticket: "T", By: "ann"}); err != nil {
				t.Fatal(err)
			}
			began := time.Now()
			time.Sleep(time.Minute)
			offset.Add(int64(jump))
			took := time.Minute + s.until("fulcio", Live, day)
			if took > time.Hour+10*time.Millisecond || jump >= time.Hour && time.Since(began) > time.Minute+atLeastEvery {
				t.Errorf("%s: a force of an hour ended after %s", jump, took)
			}
			// What comes now is seen as ever.
			u.set("hang")
			s.until(rekorRead, Fallback, 4600*time.Millisecond)
			away.set("good")
			s.until("tuf", Recovering, 10*time.Second)
			s.until("tuf", Live, 10*time.Second)
			synctest.Wait()
			s.check()
		})
	}
}

// A force ends at its time, not a tick later.
func TestForceEnds(t *testing.T) {
	bubble.Run(t, func(t *testing.T) {
		s := newStage(t, vfs.NewMem(), Config{Components: []Component{{Name: "tuf"}}}).run()
		time.Sleep(1234 * time.Millisecond)
		if err := s.m.Force(Force{Component: "tuf", State: Fallback, Until: time.Now().Add(77777 * time.Millisecond), Ticket: "T", By: "ann"}); err != nil {
			t.Fatal(err)
		}
		if took := s.until("tuf", Live, time.Hour); took > 77777*time.Millisecond+2*time.Millisecond || took < 77777*time.Millisecond {
			t.Errorf("ended after %s", took)
		}
	})
}
