package mirror_test

import (
	"testing"
	"time"

	"github.com/understudy-log/understudy/mirror"
	"github.com/understudy-log/understudy/storage"
	"github.com/understudy-log/understudy/test/bubble"
	"github.com/understudy-log/understudy/test/synthetic"
)

func (s *rekorStage) unproven(shard int, first, last uint64, kind mirror.Kind, reason string) {
	s.t.Helper()
	hashes, _, err := s.service.Consistency(s.t.Context(), "client", s.log.Shard(shard).TreeID, first, last)
	if err == nil {
		s.t.Fatalf("sizes %d and %d are proven: %v", first, last, hashes)
	}
	wantRefusal(s.t, err, kind, reason)
}

func generous(c *mirror.ServiceConfig) { c.RequestsPerSecond = 1e6 }

// TestRekorConsistencyLive: between any two sizes there is a proof while upstream is there.
func TestRekorConsistencyLive(t *testing.T) {
	bubble.Run(t, func(t *testing.T) {
		s := newRekorStage(t)
		s.config = generous
		s.start().run()
		s.settle(2 * rekorPoll)
		for shard, size := range []uint64{37, 21} {
			for first := uint64(1); first <= size; first++ {
				for last := first; last <= size; last++ {
					s.prove(shard, first, last)
				}
			}
		}
		// What was logged since the last poll is archived for it.
		s.log.Active().Grow(12, synthetic.HashedRekordV1(2))
		s.prove(1, 21, 33)
		s.log.Active().Grow(12, synthetic.HashedRekordV1(2))
		s.unproven(1, 7, 40, mirror.Invalid, mirror.ReasonInvalidRequest) // log info was read out of turn just now
		s.settle(rekorPoll)
		s.prove(1, 7, 40)
		if hashes, root, err := s.service.Consistency(t.Context(), "client", 0, 33, 45); err != nil || len(hashes) == 0 || root != storage.Hash(s.log.Active().Root(45)) {
			t.Errorf("of the active shard: %v, %v", hashes, err)
		}
		s.unproven(1, 21, 46, mirror.Invalid, mirror.ReasonInvalidRequest)
		s.unproven(0, 21, 38, mirror.Invalid, mirror.ReasonInvalidRequest)
		s.unproven(1, 0, 21, mirror.Invalid, mirror.ReasonInvalidRequest)
		s.unproven(1, 22, 21, mirror.Invalid, mirror.ReasonInvalidRequest)
		_, _, err := s.service.Consistency(t.Context(), "client", 99, 1, 2)
		wantRefusal(t, err, mirror.Invalid, mirror.ReasonInvalidRequest)

		s.away()
		s.reopen()
		for _, sizes := range [][2]uint64{{21, 33}, {33, 45}, {21, 45}, {45, 45}} {
			s.prove(1, sizes[0], sizes[1])
		}
		s.unproven(1, 20, 45, mirror.Unavailable, mirror.ReasonNotPinned)
		s.unproven(1, 1, 2, mirror.Unavailable, mirror.ReasonNotPinned)
		s.unproven(1, 45, 46, mirror.Unavailable, mirror.ReasonNotPinned)
		s.unproven(1, 46, 46, mirror.Unavailable, mirror.ReasonNotPinned)
		s.unproven(1, 1<<62, 1<<63, mirror.Unavailable, mirror.ReasonNotPinned)
		s.unproven(1, 0, 21, mirror.Invalid, mirror.ReasonInvalidRequest)
		s.close()
	})
}

// TestRekorConsistencyLies: a proof that does not verify is refused, whatever was asked for.
func TestRekorConsistencyLies(t *testing.T) {
	bubble.Run(t, func(t *testing.T) {
		s := newRekorStage(t)
		s.config = generous
		s.start().run()
		s.settle(2 * rekorPoll)
		for name, c := range map[string]struct {
			fault  synthetic.Fault
			reason string
		}{
			"wrong":     {synthetic.WrongConsistency(), mirror.ReasonUpstreamRefused},
			"a fork's":  {synthetic.On(synthetic.LogProof, synthetic.AnsweredBy(s.log.Fork(1, 0))), mirror.ReasonUpstreamRefused},
			"no hashes": {synthetic.On(synthetic.LogProof, synthetic.Body([]byte(`{}`))), mirror.ReasonUpstreamRefused},
			"HTML":      {synthetic.On(synthetic.LogProof, synthetic.HTML()), mirror.ReasonUpstreamRefused},
			"endless":   {synthetic.On(synthetic.LogProof, synthetic.Endless()), mirror.ReasonUpstreamRefused},
			"500":       {synthetic.On(synthetic.LogProof, synthetic.Status(500)), mirror.ReasonUpstreamUnreachable},
			"hang":      {synthetic.On(synthetic.LogProof, synthetic.Hang()), mirror.ReasonUpstreamUnreachable},
		} {
			s.log.Misbehave(c.fault)
			for _, sizes := range [][2]uint64{{1, 2}, {1, 21}, {5, 21}, {8, 16}, {16, 21}, {3, 20}} {
				before := time.Now()
				s.unproven(1, sizes[0], sizes[1], mirror.Unavailable, c.reason)
				if d := time.Since(before); d > 31*time.Second {
					t.Errorf("%s: took %v", name, d)
				}
			}
			if f := s.service.Freshness(); f.Source != mirror.SourceLive {
				t.Errorf("%s: freshness %+v", name, f)
			}
			s.wantNoEvidence()
			s.log.Misbehave()
			s.prove(1, 5, 20)
		}
		// The first entry is what the root of size 1 is.
		s.log.Misbehave(s.log.Active().Neighbour())
		s.unproven(1, 1, 9, mirror.Unavailable, mirror.ReasonUpstreamRefused)
		s.log.Misbehave()
		s.prove(1, 1, 9)
		if s.problems(mirror.ProblemInconsistent) < 1 || s.problems(mirror.ProblemMalformed) < 1 {
			t.Error("nothing is counted")
		}
		s.close()
	})
}

// TestRekorConsistencyLimit: proofs that are not held are limited as entries are.
func TestRekorConsistencyLimit(t *testing.T) {
	bubble.Run(t, func(t *testing.T) {
		s := newRekorStage(t)
		s.config = func(c *mirror.ServiceConfig) { c.MissesPerSecond = 0.01 }
		s.start().run()
		s.settle(2 * rekorPoll)
		for i := range uint64(10) {
			s.prove(1, 3, 5+i)
			s.settle(2 * time.Second)
		}
		done := 0
		for i := range uint64(5) {
			if _, _, err := s.service.Consistency(t.Context(), "client", 0, 4, 6+i); err == nil {
				done++
			} else {
				wantRefusal(t, err, mirror.Unavailable, mirror.ReasonBudgetExhausted)
			}
		}
		if done > 0 {
			t.Errorf("%d proofs beyond the limit", done)
		}
		before := time.Now()
		s.prove(1, 21, 21) // held
		if d := time.Since(before); d > 0 {
			t.Errorf("took %v", d)
		}
		s.close()
	})
}
