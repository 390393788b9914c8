package mirror_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/understudy-log/understudy/mirror"
	"github.com/understudy-log/understudy/storage"
	"github.com/understudy-log/understudy/test/bubble"
	"github.com/understudy-log/understudy/test/synthetic"
)

// window makes the copy begin at an index, and then stay as it is or grow backwards.
func window(minimum, historyTo uint64) func(*mirror.Config) {
	return func(c *mirror.Config) { c.MinimumIndex, c.HistoryTo = minimum, historyTo }
}

// and adds to what is configured.
func (s *stage) and(more func(*mirror.Config)) *stage {
	before := s.config
	s.config = func(c *mirror.Config) {
		if before != nil {
			before(c)
		}
		more(c)
	}
	return s
}

// copyOf is another place with the same log, on a host of its own.
func (s *stage) copyOf(host string, size uint64) *synthetic.Log {
	o := s.log.Options
	l := synthetic.New(o)
	l.Grow(size)
	s.host(host, l)
	s.and(func(c *mirror.Config) { c.Copies = append(c.Copies, "http://"+host) })
	return l
}

// bundles returns the lowest and highest index of the bundles that a log was asked for.
func bundles(t *testing.T, l *synthetic.Log) (lowest, highest uint64, count int) {
	t.Helper()
	for _, r := range l.Requests(synthetic.Bundle) {
		var n uint64
		if _, err := fmt.Sscanf(r.Path, "/tile/entries/%03d", &n); err != nil {
			t.Fatalf("path %s: %v", r.Path, err)
		}
		if count == 0 || n < lowest {
			lowest = n
		}
		highest = max(highest, n)
		count++
	}
	return lowest, highest, count
}

func (s *stage) wantMinimum(minimum uint64) {
	s.t.Helper()
	st := s.mirror.Status()
	if state := s.mirror.Tree().State(); state.Minimum != minimum || st.MinimumIndex != minimum || (st.Coverage == "window") != (minimum > 0) {
		s.t.Fatalf("minimum index is %d, want %d; status %+v, history %+v", state.Minimum, minimum, st, st.History)
	}
}

// TestWindow: the copy begins in the middle, serves what it holds, and says of the rest that
// it lies below the minimum index, whoever asks and whatever is found or not.
func TestWindow(t *testing.T) {
	for name, config := range map[string]func(*mirror.Config){
		"minimum index": window(3840, mirror.NoHistory),
		"last entries":  func(c *mirror.Config) { c.LastEntries, c.HistoryTo = 1000, mirror.NoHistory },
	} {
		t.Run(name, func(t *testing.T) {
			bubble.Run(t, func(t *testing.T) {
				s := newStage(t, synthetic.Options{}).and(config)
				s.log.Grow(5000)
				s.start().run()
				defer s.close()
				s.settle(time.Second)
				s.wantHeld(5000)
				s.wantMinimum(3840)
				if lowest, _, _ := bundles(t, s.log); lowest != 15 {
					t.Errorf("bundles from %d on were fetched, want 15", lowest)
				}
				s.log.Grow(6000)
				s.settle(2 * poll)
				s.wantHeld(6000)
				for i := uint64(3840); i < 6000; i += 37 {
					s.prove(i, 0)
					s.prove(i, i+1)
				}
				first, absent := storage.LeafHash(s.log.Entries(0)), storage.LeafHash([]byte("absent"))
				for what, err := range map[string]error{
					"entry":              third(s.mirror.Entry(mirror.Ref{Index: 3839})),
					"entry by hash":      third(s.mirror.Entry(mirror.Ref{LeafHash: &first})),
					"entry that is none": third(s.mirror.Entry(mirror.Ref{LeafHash: &absent})),
					"entries":            s.mirror.Entries(t.Context(), 0, 0, func(mirror.Entry, mirror.Freshness) error { return nil }),
					"inclusion":          fourth(s.mirror.InclusionProof(mirror.Ref{Index: 5}, 0)),
					"batch":              fourth(s.mirror.InclusionProofs([]uint64{5000, 5}, 0)),
					"consistency":        third(s.mirror.ConsistencyProof(100, 0)),
					"checkpoint":         third(s.mirror.Checkpoint(100)),
				} {
					t.Log(what)
					wantRefusal(t, err, mirror.Unavailable, mirror.ReasonBelowMinimumIndex)
				}
				if _, _, err := s.mirror.ConsistencyProof(3840, 6000); err != nil {
					t.Error(err)
				}
				if h := s.mirror.Status().History; h != nil {
					t.Errorf("history %+v", h)
				}
			})
		})
	}
}

func third[A, B any](_ A, _ B, err error) error          { return err }
func fourth[A, B, C any](_ A, _ B, _ C, err error) error { return err }

// TestWindowBeyondTheLog waits for the log to grow; nothing is copied meanwhile.
func TestWindowBeyondTheLog(t *testing.T) {
	bubble.Run(t, func(t *testing.T) {
		w := newWatched(t)
		w.and(window(4096, 0))
		w.start().run()
		defer w.close()
		w.settle(2 * poll)
		w.wantProblem(mirror.ProblemWindow)
		w.log.Grow(4095)
		w.settle(4 * poll)
		w.wantProblem(mirror.ProblemWindow)
		w.wantHeld(0)
		w.log.Grow(4097)
		w.settle(4 * poll)
		w.wantHeld(4097)
		w.wantMinimum(0) // history has arrived
	})
}

// TestWindowOnAnEmptyLog is the whole log.
func TestWindowOnAnEmptyLog(t *testing.T) {
	bubble.Run(t, func(t *testing.T) {
		s := newStage(t, synthetic.Options{}).and(func(c *mirror.Config) { c.LastEntries, c.HistoryTo = 1000, mirror.NoHistory })
		s.start().run()
		defer s.close()
		s.settle(2 * poll)
		s.log.Grow(300)
		s.settle(2 * poll)
		s.wantHeld(300)
		s.wantMinimum(0)
	})
}

// TestHistory grows a window down to the first entry, across tiles of level 1, while the
// tail is followed; a restart in the middle fetches nothing twice.
func TestHistory(t *testing.T) {
	if testing.Short() {
		t.Skip("slow with the race detector; make test runs it")
	}
	bubble.Run(t, func(t *testing.T) {
		s := newStage(t, synthetic.Options{}).and(window(140_032, 0)).and(func(c *mirror.Config) { c.RequestsPerSecond = 20 })
		s.log.Grow(140_100)
		s.start().run()
		s.settle(2 * time.Second)
		s.wantHeld(140_100)
		size := uint64(140_100)
		restarted := false
		for s.mirror.Tree().State().Minimum > 0 {
			before := s.mirror.Tree().State().Minimum
			size += 7
			s.log.Grow(size)
			s.settle(2 * poll) // no longer than that the tail may lag
			s.wantHeld(size)
			s.prove(size-1, 0)
			s.prove(s.mirror.Tree().State().Minimum, 0)
			after := s.mirror.Tree().State().Minimum
			if after == before {
				t.Fatalf("history stands still at %d: %+v", after, s.mirror.Status().History)
			}
			if h := s.mirror.Status().History; after > 0 && (h == nil || h.EntriesPerSecond <= 0 || h.SecondsLeft <= 0 || h.Problem != nil) {
				t.Errorf("history %+v at %d", h, after)
			}
			if after < 100_000 && !restarted {
				restarted = true
				s.close()
				s.start().run()
			}
		}
		s.wantMinimum(0)
		if !restarted {
			t.Error("the test has not restarted")
		}
		seen := map[string]int{}
		twice := 0
		for _, r := range s.log.Requests(synthetic.Bundle) {
			if seen[r.Path]++; seen[r.Path] > 1 {
				twice++
			}
		}
		if twice > 96 { // what was under way at the restart
			t.Errorf("%d bundles were fetched twice", twice)
		}
		// Reads below need no upstream.
		for i := uint64(0); i < 140_000; i += 4001 {
			s.prove(i, 0)
		}
		s.close()
	})
}

// TestHistoryEndsWhereItShould at an index in the middle of the log.
func TestHistoryEndsWhereItShould(t *testing.T) {
	bubble.Run(t, func(t *testing.T) {
		s := newStage(t, synthetic.Options{}).and(window(70_144, 60_160))
		s.log.Grow(80_000)
		s.start().run()
		defer s.close()
		s.settle(time.Minute)
		s.wantHeld(80_000)
		s.wantMinimum(60_160)
		if lowest, _, _ := bundles(t, s.log); lowest != 60_160/256 {
			t.Errorf("bundles from %d on were fetched", lowest)
		}
	})
}

// TestHistoryPrefersCopies: upstream is asked for no bundle of the history.
func TestHistoryPrefersCopies(t *testing.T) {
	bubble.Run(t, func(t *testing.T) {
		s := newStage(t, synthetic.Options{}).and(window(66_048, 0))
		s.log.Grow(70_000)
		peer := s.copyOf("peer.example", 70_000)
		s.start().run()
		defer s.close()
		s.settle(time.Minute)
		s.wantHeld(70_000)
		s.wantMinimum(0)
		if lowest, _, _ := bundles(t, s.log); lowest < 66_048/256 {
			t.Errorf("upstream was asked for bundle %d", lowest)
		}
		if lowest, highest, n := bundles(t, peer); lowest != 0 || highest != 66_048/256-1 || n != 66_048/256 {
			t.Errorf("the copy was asked for %d bundles, from %d to %d", n, lowest, highest)
		}
	})
}

// TestLyingCopies: whatever a copy does, history comes from the next place, the copy is set
// aside with the reason, the range is named, and nothing false is held.
func TestLyingCopies(t *testing.T) {
	for i, f := range []struct {
		name   string
		fault  synthetic.Fault
		reason string
	}{
		{"a corrupt bundle", synthetic.CorruptBundle(200), mirror.ProblemInconsistent},
		{"a garbage tile", synthetic.GarbageTile(1), mirror.ProblemInconsistent},
		{"cut short", synthetic.On(synthetic.Bundle, synthetic.Truncate()), mirror.ProblemMalformed},
		{"an error", synthetic.Status(503), mirror.ProblemRefused},
		{"nothing there", synthetic.Status(404), mirror.ProblemRefused},
		{"no answer", synthetic.Hang(), mirror.ProblemUnreachable},
		{"a bomb", synthetic.On(synthetic.Bundle, synthetic.Bomb()), mirror.ProblemMalformed},
		{"a reset", synthetic.Reset(), mirror.ProblemUnreachable},
		{"a wrong encoding", synthetic.WrongEncoding(), mirror.ProblemMalformed},
	} {
		t.Run(f.name, func(t *testing.T) {
			if testing.Short() && i > 1 {
				t.Skip("slow with the race detector; make test runs it")
			}
			bubble.Run(t, func(t *testing.T) {
				w := newWatched(t)
				w.and(window(66_048, 0))
				w.log.Grow(67_000)
				peer := w.copyOf("peer.example", 67_000)
				peer.Misbehave(f.fault)
				w.start().run()
				defer w.close()
				w.settle(40 * time.Second)
				sources := w.mirror.Status().Sources
				if len(sources) != 2 || sources[1].State != "set aside" || sources[1].Problem == nil || sources[1].Problem.Reason != f.reason || sources[1].URL != "http://peer.example" || sources[1].Until == nil {
					t.Errorf("sources are %+v, %+v", sources, sources[1].Problem)
				}
				if n := w.metric("understudy_log_problems_total", f.reason); n < 1 {
					t.Errorf("the metric counts %v", n)
				}
				w.settle(3 * time.Minute)
				w.wantHeld(67_000)
				w.wantMinimum(0)
				w.wantGood()
			})
		})
	}
}

// TestUpstreamIsAway: what a copy has newer is followed, and nothing is called live.
func TestUpstreamIsAway(t *testing.T) {
	bubble.Run(t, func(t *testing.T) {
		w := newWatched(t)
		w.log.Grow(1000)
		peer := w.copyOf("peer.example", 1000)
		w.start().run()
		w.settle(2 * poll)
		w.wantHeld(1000)
		w.log.Misbehave(synthetic.Reset())
		w.settle(time.Minute)
		age := w.mirror.Freshness().CheckpointAge
		if age < 50*time.Second {
			t.Errorf("the copy has made the checkpoint younger: %v", age)
		}
		peer.Grow(20_000)
		w.settle(30 * time.Second)
		w.wantProblem(mirror.ProblemUnreachable)
		if s := w.mirror.Tree().State(); s.Head.Size != 20_000 || s.Mirrored.Size != 20_000 {
			t.Fatalf("holds %d entries", s.Head.Size)
		}
		if f := w.mirror.Freshness(); f.Source != mirror.SourceMirrored || f.UpstreamState != mirror.UpstreamUnreachable || f.CheckpointAge < age {
			t.Errorf("freshness %+v", f)
		}
		// What the log has it has signed: upstream comes back behind the copy, and catches up.
		w.log.Misbehave()
		w.settle(30 * time.Second)
		w.wantProblem(mirror.ProblemRollback)
		w.log.Grow(20_500)
		w.settle(30 * time.Second)
		w.wantHeld(20_500)
		if f := w.mirror.Freshness(); f.Source != mirror.SourceLive {
			t.Errorf("freshness %+v", f)
		}
		w.wantGood()
		w.close()
	})
}

// TestFirstStartWithoutUpstream begins from a copy's checkpoint, whose age nobody knows.
func TestFirstStartWithoutUpstream(t *testing.T) {
	for name, config := range map[string]func(*mirror.Config){"full": window(0, 0), "window": window(4096, 0)} {
		t.Run(name, func(t *testing.T) {
			bubble.Run(t, func(t *testing.T) {
				w := newWatched(t)
				w.and(config)
				w.log.Grow(9000)
				w.log.Misbehave(synthetic.Reset())
				behind := w.copyOf("behind.example", 5000)
				behind.Misbehave(synthetic.On(synthetic.Checkpoint, synthetic.Body([]byte("nothing\n"))))
				w.copyOf("peer.example", 9000)
				w.start().run()
				w.settle(time.Minute)
				w.wantHeld(9000)
				w.wantMinimum(0)
				if f := w.mirror.Freshness(); f.Source != mirror.SourceStale || f.UpstreamState != mirror.UpstreamUnreachable {
					t.Errorf("freshness %+v", f)
				}
				w.log.Misbehave()
				w.settle(time.Minute)
				if f := w.mirror.Freshness(); f.Source != mirror.SourceLive || f.CheckpointAge > 2*poll {
					t.Errorf("freshness %+v", f)
				}
				w.wantGood()
				w.close()
			})
		})
	}
}

// TestForkFromACopy: two signatures are evidence, whoever brings them.
func TestForkFromACopy(t *testing.T) {
	bubble.Run(t, func(t *testing.T) {
		w := newWatched(t)
		w.log.Grow(1000)
		w.copyOf("peer.example", 1000)
		fork := w.log.Fork(900, synthetic.Tiny(2))
		fork.Grow(1100)
		w.start().run()
		w.settle(2 * poll)
		w.wantHeld(1000)
		w.host("peer.example", fork)
		w.log.Misbehave(synthetic.Reset())
		w.settle(time.Minute)
		s := w.mirror.Tree().State()
		if s.Evidence == nil || s.Head.Size != 1000 {
			t.Fatalf("state is %+v", s)
		}
		w.wantEvidence(s.Evidence)
		w.close()
	})
}
