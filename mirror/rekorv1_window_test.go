package mirror_test

import (
	"math/rand/v2"
	"slices"
	"strings"
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

// TestRekorWindowIsNotFull: when more is configured than a window began with, what is lacking is
// said, and nobody is told that it is held.
func TestRekorWindowIsNotFull(t *testing.T) {
	bubble.Run(t, func(t *testing.T) {
		s := fullRekorStage(t, 3000, 200, 2000)
		as := func(coverage mirror.Coverage, last uint64) func(*mirror.ServiceConfig) {
			return func(c *mirror.ServiceConfig) { c.Coverage, c.LastEntries, c.RequestsPerSecond = coverage, last, 100 }
		}
		s.config = as(mirror.CoverageWindow, 600)
		s.start().run()
		const warning = "less of the shard is held than is configured"
		demand := func(running bool, coverage string, lacks ...string) {
			t.Helper()
			if running {
				s.settle(5 * time.Minute)
			}
			held, err := s.service.Held()
			check(t, err)
			for i, statuses := range [][]mirror.Status{s.service.Statuses(), held} {
				for j, st := range statuses {
					want := coverage
					if s.mirrorOf(j).Tree().State().Minimum > 0 {
						want = "window"
					}
					if st.Coverage != want || !strings.HasPrefix(st.Lacks, lacks[j]) || (st.Lacks == "") != (lacks[j] == "") {
						t.Errorf("status %d of shard %d has the coverage %q, want %q, and lacks %q, want %q", i, j, st.Coverage, want, st.Lacks, lacks[j])
					}
				}
			}
			if s.says(warning) != (strings.Join(lacks, "") != "") && running {
				t.Errorf("the log says:\n%s", &s.logged)
			}
		}
		demand(true, "window", "", "", "")
		s.config = as(mirror.CoverageWindow, 300)
		s.reopen().run()
		demand(true, "window", "", "", "")
		s.config = as(mirror.CoverageWindow, 1000)
		s.reopen().run()
		demand(true, "window", "the entries 1792 to 2303,", "", "the entries 768 to 1279,")
		s.log.Active().Grow(600, synthetic.Tiny(9)) // now it has as many
		demand(true, "window", "the entries 1792 to 2303,", "", "")
		s.config = as(mirror.CoverageFull, 0)
		s.reopen()
		demand(false, "full", "the entries 0 to 2303,", "", "the entries 0 to 1279,")
		s.run()
		demand(true, "full", "the entries 0 to 2303,", "", "the entries 0 to 1279,")
		s.get(byIndex(5), 5)
		s.away()
		s.get(byIndex(5), 5)
		s.refused(byIndex(6), mirror.Unavailable, mirror.ReasonNotPinned)
		if s.mirrorOf(0).Tree().State().Minimum != 2304 {
			t.Error("the window has grown")
		}
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
		if got := s.archived(1); !slices.Equal(got, []uint64{21, 41, 42}) {
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
