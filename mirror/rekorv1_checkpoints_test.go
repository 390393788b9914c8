package mirror_test

import (
	"bytes"
	"slices"
	"testing"
	"time"

	"github.com/understudy-log/understudy/mirror"
	"github.com/understudy-log/understudy/mirror/trust"
	"github.com/understudy-log/understudy/storage"
	"github.com/understudy-log/understudy/test/bubble"
	"github.com/understudy-log/understudy/test/synthetic"
)

// TestRekorEveryCheckpoint: what a poll finds is archived once, however often it is signed.
func TestRekorEveryCheckpoint(t *testing.T) {
	bubble.Run(t, func(t *testing.T) {
		s := newRekorStage(t).start().run()
		want := []uint64{21}
		s.settle(5 * rekorPoll)
		first := s.mirrorOf(1).Tree().State().Pending
		for i := range uint64(10) {
			s.log.Active().Grow(1+i*i, synthetic.HashedRekordV1(2))
			want = append(want, s.log.Active().Size())
			s.log.Restart()
			s.settle(2 * rekorPoll)
		}
		if got := s.archived(1); !slices.Equal(got, want) {
			t.Errorf("archived sizes %d, want %d", got, want)
		}
		if got := s.archived(0); !slices.Equal(got, []uint64{37}) {
			t.Errorf("archived sizes %d of the inactive shard", got)
		}
		v := s.mirrorOf(1).Tree().View()
		check(t, v.Checkpoints(21, 21, func(c storage.Checkpoint) error {
			if !bytes.Equal(c.Raw, first.Raw) {
				t.Error("the first bytes did not stay")
			}
			return nil
		}))
		v.Close()
		if age := s.mirrorOf(0).Freshness().CheckpointAge; age > rekorPoll+rekorPoll/5 {
			t.Errorf("the checkpoint of the inactive shard is %v old", age)
		}
		// Offline and after a restart there is a proof between any two.
		s.log.Refuse(true)
		s.reopen()
		for i, a := range want {
			for _, b := range want[i:] {
				s.prove(1, a, b)
			}
		}
		s.close()
	})
}

// wantEvidence demands two checkpoints that the shard's key signed and that cannot both be true.
func (s *rekorStage) wantEvidence(i int) {
	s.t.Helper()
	ev := s.mirrorOf(i).Tree().State().Evidence
	if ev == nil {
		s.t.Fatalf("shard %d is not quarantined: %+v", i, s.mirrorOf(i).Status().Problem)
	}
	sh := s.log.Shard(i)
	var heads []storage.Head
	for _, raw := range [][]byte{ev.First, ev.Second} {
		c, err := trust.Open(raw, sh.Origin(), s.keysOf(sh))
		check(s.t, err)
		heads = append(heads, storage.Head{Size: c.Size, Root: c.Root})
	}
	slices.SortFunc(heads, func(a, b storage.Head) int { return int(a.Size) - int(b.Size) })
	small, large := heads[0], heads[1]
	switch {
	case small.Size == large.Size && small.Root != large.Root && ev.Root == storage.Hash{} && len(ev.Proof) == 0:
	case small.Size < large.Size && ev.Root != small.Root && storage.VerifyConsistency(storage.Head{Size: small.Size, Root: ev.Root}, large, ev.Proof) == nil:
	default:
		s.t.Errorf("the evidence proves nothing: %+v", ev)
	}
	if f := s.mirrorOf(i).Freshness(); f.UpstreamState != mirror.UpstreamQuarantined || f.Source == mirror.SourceLive {
		s.t.Errorf("freshness of shard %d: %+v", i, f)
	}
}

func (s *rekorStage) wantNoEvidence() {
	s.t.Helper()
	for _, m := range s.service.Mirrors() {
		if ev := m.Tree().State().Evidence; ev != nil {
			s.t.Fatalf("%s is quarantined: %s", m.Origin(), ev.Reason)
		}
	}
}

// TestRekorFork: two signed trees that contradict each other quarantine their shard, with the
// evidence, and nothing else, however that comes to light.
func TestRekorFork(t *testing.T) {
	entries := synthetic.RetrieveEntry | synthetic.LogProof
	for name, c := range map[string]struct {
		shard int
		at    uint64
		grows uint64 // the fork, after it is made
		kinds synthetic.Kind
	}{
		"same size":                         {1, 10, 0, allKinds},
		"grown":                             {1, 10, 4, allKinds},
		"grown to a power of two":           {1, 20, 11, allKinds},
		"from the first entry":              {1, 0, 4, allKinds},
		"inactive":                          {0, 36, 0, allKinds},
		"read through":                      {1, 10, 0, entries},
		"read through, grown":               {1, 10, 4, entries},
		"read through, inactive":            {0, 3, 0, entries},
		"read through, to a power of two":   {1, 20, 11, entries},
		"read through, from a power of two": {1, 2, 4, entries},
	} {
		t.Run(name, func(t *testing.T) {
			bubble.Run(t, func(t *testing.T) {
				s := newRekorStage(t).start().run()
				s.settle(rekorPoll)
				start, other := s.log.Start(c.shard), s.log.Start(1-c.shard)
				s.get(byIndex(start+1), start+1)
				fork := s.log.Fork(c.shard, c.at)
				fork.Shard(c.shard).Grow(c.grows, synthetic.HashedRekordV1(7))
				s.log.Misbehave(synthetic.On(c.kinds, synthetic.AnsweredBy(fork)))
				if c.kinds != allKinds {
					s.refused(byIndex(start+2), mirror.Unavailable, mirror.ReasonQuarantined)
				}
				s.settle(2 * rekorPoll)
				for range 2 {
					s.wantEvidence(c.shard)
					if ev := s.mirrorOf(1 - c.shard).Tree().State().Evidence; ev != nil {
						t.Fatalf("the other shard is quarantined: %s", ev.Reason)
					}
					s.wantShards() // the last good state
					s.get(byIndex(start+1), start+1)
					s.get(byIndex(other+1), other+1)
					s.refused(byIndex(start+2), mirror.Unavailable, mirror.ReasonQuarantined)
					s.refused(byUUID(t, s.log.Shard(c.shard).UUID(2)), mirror.Unavailable, mirror.ReasonQuarantined)
					_, _, err := s.service.Consistency(t.Context(), "client", s.log.Shard(c.shard).TreeID, 3, 5)
					wantRefusal(t, err, mirror.Unavailable, mirror.ReasonQuarantined)
					// It stays so, and the other one is live, also with an honest upstream and after a restart.
					s.log.Misbehave()
					s.reopen().run()
					s.settle(3 * rekorPoll)
				}
				if p := s.mirrorOf(1 - c.shard).Status().Problem; p != nil {
					t.Errorf("problem of the other shard: %+v", p)
				}
				// The log grows on; the shard stays as it was, and the other one live.
				size := s.mirrorOf(c.shard).Tree().State().Pending.Size
				s.log.Active().Grow(3, synthetic.HashedRekordV1(2))
				s.settle(3 * rekorPoll)
				if s.mirrorOf(c.shard).Tree().State().Pending.Size != size || s.mirrorOf(1-c.shard).Freshness().Source != mirror.SourceLive {
					t.Error("a quarantined shard moves, or stops the other")
				}
				s.get(byIndex(other+3), other+3)
				s.close()
			})
		})
	}
}

// TestRekorForkDuringPoll: a shard that is quarantined while a new checkpoint is being compared
// stays so, and the others go on.
func TestRekorForkDuringPoll(t *testing.T) {
	bubble.Run(t, func(t *testing.T) {
		s := newRekorStage(t).start().run()
		s.settle(rekorPoll)
		fork := s.log.Fork(1, 10)
		s.log.Active().Grow(5, synthetic.HashedRekordV1(2))
		s.log.Forget()
		s.log.Misbehave(synthetic.On(synthetic.LogProof, slow(s.log, 3*time.Second)), synthetic.On(anyEntry, synthetic.AnsweredBy(fork)))
		for len(s.log.Requests(synthetic.LogProof)) == 0 {
			s.settle(time.Second)
		}
		s.refused(byIndex(40), mirror.Unavailable, mirror.ReasonQuarantined)
		s.settle(3 * rekorPoll)
		s.wantEvidence(1)
		s.log.Misbehave()
		s.get(byIndex(5), 5)
		s.close()
	})
}

// TestRekorUnprovenIsNoEvidence: a proof that proves nothing is refused and tried again.
func TestRekorUnprovenIsNoEvidence(t *testing.T) {
	for name, c := range map[string]struct {
		fault  func(s *rekorStage) synthetic.Fault
		reason string
	}{
		"wrong proof": {func(*rekorStage) synthetic.Fault { return synthetic.WrongConsistency() }, mirror.ProblemInconsistent},
		"no hashes": {func(*rekorStage) synthetic.Fault {
			return synthetic.On(synthetic.LogProof, synthetic.Body([]byte(`{"hashes":[]}`)))
		}, mirror.ProblemInconsistent},
		"malformed hash": {func(*rekorStage) synthetic.Fault {
			return synthetic.On(synthetic.LogProof, synthetic.Body([]byte(`{"hashes":["ff"]}`)))
		}, mirror.ProblemMalformed},
		"HTML": {func(*rekorStage) synthetic.Fault { return synthetic.On(synthetic.LogProof, synthetic.HTML()) }, mirror.ProblemMalformed},
		"500":  {func(*rekorStage) synthetic.Fault { return synthetic.On(synthetic.LogProof, synthetic.Status(500)) }, mirror.ProblemRefused},
		"the fork's": {func(s *rekorStage) synthetic.Fault {
			fork := s.log.Fork(1, 9)
			fork.Active().Grow(10, synthetic.HashedRekordV1(7))
			return synthetic.On(synthetic.LogProof, synthetic.AnsweredBy(fork))
		}, mirror.ProblemInconsistent},
		"the other shard's": {func(s *rekorStage) synthetic.Fault {
			other := synthetic.NewRekorV1(rekorHost)
			other.RollOver(nil)
			other.Active().Grow(100, synthetic.Tiny(4)) // of the same tree ID
			return synthetic.On(synthetic.LogProof, synthetic.AnsweredBy(other))
		}, mirror.ProblemInconsistent},
		"a root of no tree": {func(s *rekorStage) synthetic.Fault { return s.log.Shard(1).WrongRoot(5) }, mirror.ProblemRefused},
	} {
		t.Run(name, func(t *testing.T) {
			bubble.Run(t, func(t *testing.T) {
				s := newRekorStage(t).start().run()
				s.settle(rekorPoll)
				s.log.Misbehave(c.fault(s))
				s.log.Active().Grow(10, synthetic.HashedRekordV1(2))
				s.settle(3 * rekorPoll)
				s.wantNoEvidence()
				if p := s.mirrorOf(1).Status().Problem; p == nil || p.Reason != c.reason || s.problems(c.reason) < 2 {
					t.Errorf("problem %+v, want %s; %v are counted", p, c.reason, s.problems(c.reason))
				}
				if got := s.archived(1); !slices.Equal(got, []uint64{21}) {
					t.Errorf("archived sizes %d", got)
				}
				s.get(byIndex(5), 5) // of the other shard
				s.log.Misbehave()
				s.settle(2 * rekorPoll)
				s.wantShards()
				s.close()
			})
		})
	}
}

// TestRekorFirstCheckpointIsShown: a tree that upstream signs first and cannot show is not
// believed, or what is honest would later look like a fork.
func TestRekorFirstCheckpointIsShown(t *testing.T) {
	for _, faults := range []func(*rekorStage) synthetic.Fault{
		func(s *rekorStage) synthetic.Fault { return s.log.Shard(1).WrongRoot(0) },
		func(s *rekorStage) synthetic.Fault { return s.log.Shard(1).WrongRoot(7) },
		func(s *rekorStage) synthetic.Fault { return synthetic.WrongConsistency() },
		func(s *rekorStage) synthetic.Fault { return synthetic.On(synthetic.LogProof, synthetic.Hang()) },
	} {
		bubble.Run(t, func(t *testing.T) {
			s := newRekorStage(t)
			s.log.Misbehave(faults(s))
			s.start().run()
			s.settle(time.Minute)
			s.wantNoShards()
			s.wantNoEvidence()
			s.refused(byIndex(40), mirror.Unavailable, mirror.ReasonNotPinned)
			s.log.Misbehave()
			s.log.Active().Grow(1, synthetic.HashedRekordV1(2))
			s.settle(time.Minute)
			s.wantShards()
			s.close()
		})
	}
}
