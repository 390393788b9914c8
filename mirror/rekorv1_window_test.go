package mirror_test

import (
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/understudy-log/understudy/mirror"
	"github.com/understudy-log/understudy/storage"
	"github.com/understudy-log/understudy/test/bubble"
	"github.com/understudy-log/understudy/test/synthetic"
)

// TestRekorWindow: of each shard the end is copied, from a bundle's first entry on; what lies in
// front of it is pinned when it is read.
func TestRekorWindow(t *testing.T) {
	bubble.Run(t, func(t *testing.T) {
		s := fullRekorStage(t, 3000, 200, 70_000)
		s.config = func(c *mirror.ServiceConfig) {
			c.Coverage, c.LastEntries, c.RequestsPerSecond = mirror.CoverageWindow, 600, 100
		}
		s.start().run()
		s.settle(5 * time.Minute)
		want := []uint64{2304, 0, 69_376}
		demand := func() {
			t.Helper()
			for i, sh := range s.log.Shards() {
				m := s.mirrorOf(i)
				state := m.Tree().State()
				if state.Minimum != want[i] || state.Head.Size != sh.Size() {
					t.Fatalf("entries %d to %d of shard %d are held: %+v", state.Minimum, state.Head.Size, i, m.Status().History)
				}
				for at := want[i]; at < sh.Size(); at += 1 + sh.Size()/97 {
					s.get(byIndex(s.log.Start(i)+at), s.log.Start(i)+at)
					p, head, _, err := m.InclusionProof(mirror.Ref{Index: at}, 0)
					check(t, err)
					if head.Size != sh.Size() || p.LeafHash != storage.Hash(sh.LeafHash(at)) {
						t.Fatalf("entry %d is proven as %v in size %d", at, p.LeafHash, head.Size)
					}
				}
			}
		}
		demand()
		s.get(byIndex(5), 5) // in front of the window
		s.log.Active().Grow(500, synthetic.Tiny(2))
		s.settle(time.Minute)
		demand()
		s.away()
		s.reopen()
		demand()
		s.get(byIndex(5), 5)
		s.refused(byIndex(6), mirror.Unavailable, mirror.ReasonNotPinned)
		s.close()
	})
}

// TestRekorRestored: a database that was restored from an older backup catches up; until then
// upstream is not believed to be what it was, and a smaller log is a rollback.
func TestRekorRestored(t *testing.T) {
	bubble.Run(t, func(t *testing.T) {
		s := newRekorStage(t)
		newest, err := storage.OpenNewest("newest", storage.Options{FS: vfs.NewMem()})
		check(t, err)
		s.disk = vfs.NewCrashableMem()
		s.config = func(c *mirror.ServiceConfig) { c.Newest = newest }
		s.start().run()
		s.settle(2 * rekorPoll)
		backup := s.disk.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: 100, RNG: rand.New(rand.NewPCG(1, 1))})
		s.log.Active().Grow(20, synthetic.HashedRekordV1(2))
		s.settle(2 * rekorPoll)
		s.get(byIndex(70), 70)
		s.close()

		s.disk = backup
		old := s.log.Rollback(1, 21)
		s.log.Misbehave(synthetic.AnsweredBy(old))
		s.start().run()
		s.settle(3 * rekorPoll)
		if p := s.mirrorOf(1).Status().Problem; p == nil || p.Reason != mirror.ProblemRollback {
			t.Errorf("problem %+v", p)
		}
		s.refused(byIndex(70), mirror.Unavailable, mirror.ReasonNotPinned)
		s.refused(byIndex(40), mirror.Unavailable, mirror.ReasonNotPinned)
		s.get(byIndex(3), 3) // the other shard is what it was
		s.log.Misbehave()
		s.log.Active().Grow(1, synthetic.HashedRekordV1(2))
		s.settle(3 * rekorPoll)
		s.get(byIndex(70), 70)
		if got := s.archived(1); !slices.Equal(got, []uint64{21, 42}) {
			t.Errorf("archived sizes %d", got)
		}
		s.reopen().run()

		// The other side of a fork, where the memory is newer than the database.
		s.settle(rekorPoll)
		s.log.Active().Grow(10, synthetic.HashedRekordV1(2))
		backup = s.disk.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: 100, RNG: rand.New(rand.NewPCG(1, 1))})
		s.settle(2 * rekorPoll)
		s.close()
		s.disk = backup
		fork := s.log.Fork(1, 45)
		fork.Active().Grow(3, synthetic.HashedRekordV1(7))
		s.log.Misbehave(synthetic.AnsweredBy(fork))
		s.start().run()
		s.settle(3 * rekorPoll)
		s.wantEvidence(1)
		s.close()
		check(t, newest.Close())
	})
}
