package mirror_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/understudy-log/understudy/mirror"
	"github.com/understudy-log/understudy/test/bubble"
	"github.com/understudy-log/understudy/test/synthetic"
)

// tailStage watches a pattern, with a budget of five entries a second for looking.
func tailStage(t *testing.T) (s *rekorStage, w mirror.Watch, grow func(n, seed uint64)) {
	s = bigRekorStage(t)
	domain := anIdentity(t, s.log.Shard(0), "@")
	w = mirror.Watch{Identity: "*" + domain[strings.Index(domain, "@"):]}
	s.config = func(c *mirror.ServiceConfig) {
		c.Watch, c.WatchEvery, c.RequestsPerSecond = []mirror.Watch{w}, time.Minute, 1
	}
	return s, w, func(n, seed uint64) {
		s.log.Active().Grow(n, func(i uint64) []byte { return synthetic.HashedRekordV1(1)(i + seed) })
	}
}

// TestRekorWatchPatternWhileDown: what is logged while nothing runs is looked through after the
// start, as fast as the budget allows, and what could not be pinned before is tried again.
func TestRekorWatchPatternWhileDown(t *testing.T) {
	bubble.Run(t, func(t *testing.T) {
		s, w, grow := tailStage(t)
		s.start().run()
		s.settle(2 * rekorPoll)
		from := s.log.Size()
		s.reopen()
		grow(100, 7000)
		s.run()
		s.settle(2 * time.Minute)
		if len(s.matching(from, w)) == 0 {
			t.Fatal("nothing matches")
		}
		s.wantWatched(s.matching(from, w))

		// More than one round can look through, over a roll-over and another start in the middle.
		s.reopen()
		grow(100, 8000)
		s.log.Active().Grow(2000, synthetic.Tiny(1))
		s.log.RollOver(nil)
		grow(100, 9000)
		s.run()
		s.settle(80 * time.Second)
		part := s.watchedPins()
		s.reopen().run()
		s.log.Forget()
		s.settle(30 * time.Minute)
		s.wantWatched(s.matching(from, w))
		if slices.Equal(part, s.watchedPins()) {
			t.Error("all was looked through in one round")
		}
		if n := len(s.log.Requests(anyEntry)); n > 250 {
			t.Errorf("%d requests for 2200 entries of which a part was looked through before", n)
		}

		// One that does not verify is tried again after a start.
		bad := s.log.Size()
		for len(s.matching(bad, w)) == 0 {
			grow(64, 10_000+s.log.Size())
		}
		bad = s.matching(bad, w)[0]
		last := s.log.Active()
		s.log.Misbehave(naming(last.UUID(bad-s.log.Start(2)), last.WrongSET()))
		s.settle(3 * time.Minute)
		want := s.matching(from, w)
		s.wantWatched(slices.DeleteFunc(slices.Clone(want), func(i uint64) bool { return i == bad }))
		s.reopen()
		s.log.Misbehave()
		s.run()
		s.settle(2 * time.Minute)
		s.wantWatched(want)
		s.close()
	})
}

// TestRekorWatchPatternTooFastWhileDown: of a log that grows too fast, what is not looked
// through is named, also after a start.
func TestRekorWatchPatternTooFastWhileDown(t *testing.T) {
	bubble.Run(t, func(t *testing.T) {
		s, w, grow := tailStage(t)
		s.start().run()
		s.settle(2 * rekorPoll)
		s.log.Active().Grow(3000, synthetic.Tiny(1))
		for range 120 {
			if s.settle(time.Second); s.says("so new entries are not looked through") {
				break
			}
		}
		if !s.says("first=240 last=3239") {
			t.Fatalf("the log says:\n%s", &s.logged)
		}
		s.reopen()
		grow(10, 7000)
		s.log.Forget()
		s.run()
		s.settle(30 * time.Second)
		if !s.says("first=3240 last=3249") || len(s.log.Requests(anyEntry)) > 0 {
			t.Errorf("the log says:\n%s", &s.logged)
		}

		// It grows slowly again.
		s.settle(2 * time.Minute)
		from := s.log.Size()
		grow(100, 8000)
		s.settle(3 * time.Minute)
		s.wantWatched(s.matching(from, w))
		s.close()
	})
}
