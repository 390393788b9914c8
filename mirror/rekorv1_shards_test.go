package mirror_test

import (
	"bytes"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/understudy-log/understudy/mirror"
	"github.com/understudy-log/understudy/mirror/trust"
	"github.com/understudy-log/understudy/test/bubble"
	"github.com/understudy-log/understudy/test/synthetic"
)

// wantShards demands what log info says of all shards.
func (s *rekorStage) wantShards() {
	s.t.Helper()
	shards, err := s.service.Shards()
	check(s.t, err)
	all := s.log.Shards()
	if len(shards) != len(all) {
		s.t.Fatalf("%d shards, want %d", len(shards), len(all))
	}
	for i, sh := range all {
		got := shards[i]
		if got.TreeID != sh.TreeID || got.Active != (i == len(all)-1) || got.Start != s.log.Start(i) ||
			got.Head.Size != sh.Size() || got.Head.Root != sh.Root(sh.Size()) {
			s.t.Errorf("shard %d is %+v", i, got)
		}
		if _, err := trust.Open(got.Checkpoint, sh.Origin(), s.keysOf(sh)); err != nil {
			s.t.Errorf("checkpoint of shard %d: %v", i, err)
		}
		pem, err := s.service.PublicKey(s.t.Context(), sh.TreeID)
		if err != nil || !bytes.Equal(pem, sh.PublicKeyPEM()) {
			s.t.Errorf("public key of shard %d: %s, %v", i, pem, err)
		}
	}
	if pem, err := s.service.PublicKey(s.t.Context(), 0); err != nil || !bytes.Equal(pem, s.log.Active().PublicKeyPEM()) {
		s.t.Errorf("public key of the active shard: %s, %v", pem, err)
	}
}

func (s *rekorStage) wantNoShards() {
	s.t.Helper()
	_, err := s.service.Shards()
	wantRefusal(s.t, err, mirror.Unavailable, mirror.ReasonShardsUnknown)
}

// TestRekorShardsAreFound: what is known of the shards is known before upstream is asked again.
func TestRekorShardsAreFound(t *testing.T) {
	bubble.Run(t, func(t *testing.T) {
		s := newRekorStage(t).start()
		s.wantNoShards()
		_, err := s.service.PublicKey(t.Context(), 0)
		wantRefusal(t, err, mirror.Unavailable, mirror.ReasonShardsUnknown)
		s.run()
		s.settle(time.Second)
		s.wantShards()
		_, err = s.service.PublicKey(t.Context(), 7)
		wantRefusal(t, err, mirror.Invalid, mirror.ReasonInvalidRequest)

		s.log.Refuse(true)
		s.reopen()
		s.wantShards()
		s.run()
		s.settle(time.Minute)
		s.wantShards()
		_, err = s.service.PublicKey(t.Context(), 7)
		wantRefusal(t, err, mirror.Invalid, mirror.ReasonInvalidRequest)
		if f := s.service.Freshness(); f.Source != mirror.SourceMirrored || f.UpstreamState != mirror.UpstreamUnreachable {
			t.Errorf("freshness %+v", f)
		}
		s.close()
	})
}

// TestRekorUnknownKey: a shard without a known key is refused, those beside it go on, and the
// state of the log is not told as if there was no such shard.
func TestRekorUnknownKey(t *testing.T) {
	for bad := range 3 {
		t.Run(fmt.Sprint(bad), func(t *testing.T) {
			bubble.Run(t, func(t *testing.T) {
				s := newRekorStage(t)
				s.log.RollOver(synthetic.RekorKey(rekorHost, 2))
				s.log.Active().Grow(5, synthetic.HashedRekordV1(3))
				s.keys = nil
				for i, sh := range s.log.Shards() {
					if i != bad {
						s.keys = append(s.keys, s.keysOf(sh)...)
					}
				}
				s.start().run()
				s.settle(3 * rekorPoll)
				s.wantNoShards()
				if n := s.problems(mirror.ProblemSignature); n < 1 {
					t.Errorf("%v problems are counted", n)
				}
				// Those in front of it are followed: where they begin is known.
				if n := len(s.service.Mirrors()); n != bad {
					t.Errorf("%d shards are followed, want %d", n, bad)
				}
				for i := range bad {
					s.get(byIndex(s.log.Start(i)+1), s.log.Start(i)+1)
				}
				if bad == 2 {
					_, err := s.service.PublicKey(t.Context(), 0)
					wantRefusal(t, err, mirror.Unavailable, mirror.ReasonShardsUnknown)
					s.refused(byUUID(t, s.log.Active().UUID(1)), mirror.Unavailable, mirror.ReasonUpstreamRefused)
				}

				// With the key, everything is there. Without it again, the others go on.
				partial := s.keys
				s.keys = s.keysOf(s.log.Shards()...)
				s.reopen().run()
				s.settle(rekorPoll)
				s.wantShards()
				s.keys = partial
				s.reopen().run()
				s.log.Active().Grow(3, synthetic.HashedRekordV1(3))
				s.settle(3 * rekorPoll)
				for i := range s.log.Shards() {
					p := s.mirrorOf(i).Status().Problem
					if i == bad && (p == nil || p.Reason != mirror.ProblemSignature) || i != bad && p != nil {
						t.Errorf("problem of shard %d: %+v", i, p)
					}
					ref := byIndex(s.log.Start(i) + 2)
					if i == bad {
						s.refused(ref, mirror.Unavailable, mirror.ReasonNotPinned)
					} else {
						s.get(ref, ref.Index)
					}
				}
				s.close()
			})
		})
	}
}

// TestRekorRollOver: the active shard becomes inactive and a new one appears while the mirror
// runs, and between two polls everything is fetched that was logged at the end of the old one.
func TestRekorRollOver(t *testing.T) {
	bubble.Run(t, func(t *testing.T) {
		s := newRekorStage(t)
		third := synthetic.RekorKey(rekorHost, 2)
		s.start().run()
		s.settle(rekorPoll)
		s.get(byIndex(37+20), 37+20)

		s.log.Active().Grow(9, synthetic.HashedRekordV1(2))
		sh := s.log.RollOver(third)
		s.keys = append(s.keys, s.keysOf(sh)...)
		// Its key is not known yet: what was logged before is served, and the last size archived.
		s.settle(2 * rekorPoll)
		s.wantNoShards()
		if got := s.archived(1); !slices.Equal(got, []uint64{21, 30}) {
			t.Errorf("archived sizes %d", got)
		}
		s.get(byIndex(37+29), 37+29)
		s.reopen().run()
		s.settle(2 * rekorPoll)
		s.wantShards() // an empty shard too
		s.refused(byIndex(37+30), mirror.NotFound, mirror.ReasonNotFound)
		for range 3 {
			sh.Grow(4, synthetic.HashedRekordV1(3))
			s.settle(2 * rekorPoll)
			s.wantShards()
		}
		s.get(byIndex(37+30+11), 37+30+11)
		s.get(byUUID(t, sh.UUID(0)), 37+30)
		if got := s.archived(1); !slices.Equal(got, []uint64{21, 30}) {
			t.Errorf("archived sizes %d", got)
		}
		s.log.Refuse(true)
		s.reopen()
		s.wantShards()
		s.get(byIndex(37+30+11), 37+30+11)
		s.prove(1, 21, 30)
		s.close()
	})
}

// TestRekorRollOverWithKnownKey is what happens to the public log: one key signs all shards.
func TestRekorRollOverWithKnownKey(t *testing.T) {
	bubble.Run(t, func(t *testing.T) {
		s := newRekorStage(t).start().run()
		s.settle(rekorPoll)
		for i := range 3 {
			s.log.Active().Grow(uint64(i), synthetic.HashedRekordV1(2))
			s.log.RollOver(nil)
			s.settle(rekorPoll + 2*time.Second)
			s.wantShards()
			s.log.Active().Grow(3, synthetic.HashedRekordV1(uint64(10+i)))
		}
		s.settle(2 * rekorPoll)
		s.wantShards()
		for i := range s.log.Shards() {
			s.get(byIndex(s.log.Start(i)), s.log.Start(i))
		}
		s.close()
	})
}

// badInfos are what log info must not say once both shards are known.
func TestRekorBadLogInfo(t *testing.T) {
	for name, c := range map[string]struct {
		fault  func(s *rekorStage) synthetic.Fault
		reason string
		shards []int // that have the problem
	}{
		"a shard shrinks": {func(s *rekorStage) synthetic.Fault {
			return synthetic.On(synthetic.LogInfo, synthetic.AnsweredBy(s.log.Rollback(1, 15)))
		}, mirror.ProblemRollback, []int{1}},
		"an inactive shard shrinks": {func(s *rekorStage) synthetic.Fault {
			return synthetic.On(synthetic.LogInfo, synthetic.AnsweredBy(s.log.Rollback(0, 15)))
		}, mirror.ProblemRollback, []int{0}},
		"a shard is missing":          {func(s *rekorStage) synthetic.Fault { return edited(s.log, 1) }, mirror.ProblemShard, []int{0, 1}},
		"the active shard is missing": {func(s *rekorStage) synthetic.Fault { return edited(s.log, 0) }, mirror.ProblemShard, []int{0, 1}},
		"shards are reordered":        {func(s *rekorStage) synthetic.Fault { return edited(s.log, 1, 0) }, mirror.ProblemShard, []int{0, 1}},
		"a shard twice":               {func(s *rekorStage) synthetic.Fault { return edited(s.log, 0, 1, 1) }, mirror.ProblemMalformed, []int{0, 1}},
		"another host": {func(s *rekorStage) synthetic.Fault {
			return s.log.Shard(1).WrongOrigin(fmt.Sprintf("other.example - %d", s.log.Shard(1).TreeID))
		}, mirror.ProblemOrigin, []int{1}},
		"the origin of the other shard": {func(s *rekorStage) synthetic.Fault {
			return s.log.Shard(1).WrongOrigin(s.log.Shard(0).Origin())
		}, mirror.ProblemOrigin, []int{1}},
		"the key of the other shard": {func(s *rekorStage) synthetic.Fault {
			return s.log.Shard(1).WrongKey(s.log.Shard(0).Key)
		}, mirror.ProblemSignature, []int{1}},
		"a root of no tree":       {func(s *rekorStage) synthetic.Fault { return s.log.Shard(1).WrongRoot(3) }, mirror.ProblemRefused, []int{1}},
		"an inactive shard grows": {func(s *rekorStage) synthetic.Fault { return s.log.Shard(0).WrongRoot(1) }, mirror.ProblemShard, []int{0}},
		"HTML":                    {func(s *rekorStage) synthetic.Fault { return synthetic.HTML() }, mirror.ProblemMalformed, []int{0, 1}},
		"truncated":               {func(s *rekorStage) synthetic.Fault { return synthetic.Truncate() }, mirror.ProblemMalformed, []int{0, 1}},
		"endless":                 {func(s *rekorStage) synthetic.Fault { return synthetic.Endless() }, mirror.ProblemMalformed, []int{0, 1}},
		"null":                    {func(s *rekorStage) synthetic.Fault { return synthetic.Body([]byte("null")) }, mirror.ProblemMalformed, []int{0, 1}},
		"500":                     {func(s *rekorStage) synthetic.Fault { return synthetic.Status(500) }, mirror.ProblemRefused, []int{0, 1}},
		"429":                     {func(s *rekorStage) synthetic.Fault { return synthetic.Throttle(time.Minute) }, mirror.ProblemRefused, []int{0, 1}},
		"hangs":                   {func(s *rekorStage) synthetic.Fault { return synthetic.Hang() }, mirror.ProblemUnreachable, []int{0, 1}},
		"404":                     {func(s *rekorStage) synthetic.Fault { return synthetic.Status(404) }, mirror.ProblemRefused, []int{0, 1}},
	} {
		t.Run(name, func(t *testing.T) {
			bubble.Run(t, func(t *testing.T) {
				s := newRekorStage(t).start().run()
				s.settle(rekorPoll)
				s.wantShards()
				s.get(byIndex(3), 3)
				s.get(byIndex(40), 40)
				s.log.Misbehave(c.fault(s))
				s.settle(time.Minute)
				s.wantShards()
				for i := range s.log.Shards() {
					p := s.mirrorOf(i).Status().Problem
					if bad := slices.Contains(c.shards, i); bad && (p == nil || p.Reason != c.reason) || !bad && p != nil {
						t.Errorf("problem of shard %d: %+v, want %s of %d", i, p, c.reason, c.shards)
					}
					s.get(byIndex(s.log.Start(i)+3), s.log.Start(i)+3) // held
					miss := byIndex(s.log.Start(i) + 5)
					if slices.Contains(c.shards, i) {
						s.refused(miss, mirror.Unavailable, mirror.ReasonNotPinned)
						s.refused(byUUID(t, s.log.Shard(i).UUID(5)), mirror.Unavailable, mirror.ReasonNotPinned)
					} else {
						s.get(miss, miss.Index) // the other one goes on
					}
				}
				if s.problems(c.reason) < 1 {
					t.Error("nothing is counted")
				}
				s.log.Misbehave()
				s.log.Active().Grow(2, synthetic.HashedRekordV1(2))
				s.settle(2 * time.Minute)
				s.wantShards()
				for i := range s.log.Shards() {
					if p := s.mirrorOf(i).Status().Problem; p != nil {
						t.Errorf("problem of shard %d remains: %+v", i, p)
					}
					s.get(byIndex(s.log.Start(i)+6), s.log.Start(i)+6)
				}
				s.close()
			})
		})
	}
}
