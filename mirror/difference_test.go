package mirror_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/understudy-log/understudy/mirror"
	"github.com/understudy-log/understudy/test/bubble"
	"github.com/understudy-log/understudy/test/synthetic"
)

// forkOf lets upstream fork, and waits until the mirror is quarantined.
func forkOf(w *watched, at, size uint64) *synthetic.Log {
	w.t.Helper()
	fork := w.log.Fork(at, synthetic.Tiny(2))
	fork.Grow(size)
	w.log.Misbehave(synthetic.Equivocate(fork))
	w.settle(3 * poll)
	if w.mirror.Tree().State().Evidence == nil {
		w.t.Fatal("the log is not quarantined")
	}
	return fork
}

func (s *stage) wantDifference(fork *synthetic.Log, at uint64) {
	s.t.Helper()
	before := *s.mirror.Tree().State()
	index, ours, theirs, err := s.mirror.Difference(s.t.Context())
	if err != nil || index != at || !bytes.Equal(ours, s.log.Entries(at)) || !bytes.Equal(theirs, fork.Entries(at)) {
		s.t.Fatalf("index %d, entries %.40q and %.40q, %v; want index %d", index, ours, theirs, err, at)
	}
	if after := s.mirror.Tree().State(); after.Head != before.Head || after.Pending.Head != before.Pending.Head || len(s.mirror.Tree().Damage()) > 0 {
		s.t.Fatal("something was stored")
	}
}

// TestDifference: what upstream forked to is compared with what is held, whichever of the two trees
// is larger.
func TestDifference(t *testing.T) {
	for _, c := range []struct{ held, at, size uint64 }{
		{1000, 999, 1001}, {1000, 0, 1000}, {1000, 500, 900}, {1000, 255, 1300}, {1000, 256, 1300}, {1000, 767, 768}, {256, 0, 256}, {256, 255, 70_000}, {1, 0, 2},
		{66_000, 65_535, 66_001}, {66_000, 65_536, 66_000}, {66_000, 300, 65_536}, {66_000, 65_999, 140_000},
	} {
		if testing.Short() && c.held > 60_000 {
			continue
		}
		t.Run(fmt.Sprint(c), func(t *testing.T) {
			bubble.Run(t, func(t *testing.T) {
				w := newWatched(t)
				w.log.Grow(c.held)
				w.start()
				w.run()
				w.settle(4 * poll)
				w.wantHeld(c.held)
				if _, _, _, err := w.mirror.Difference(t.Context()); !errors.Is(err, mirror.ErrNotComparable) {
					t.Fatalf("before the fork: %v", err)
				}
				fork := forkOf(w, c.at, c.size)
				w.log.Forget()
				w.wantDifference(fork, c.at)
				if n := len(w.log.Requests(anything)); n > 7 {
					t.Errorf("%d requests", n)
				}
				fork.Grow(c.size + 300) // what is forked grows on, and loses its partial tiles
				fork.Prune = true
				w.wantDifference(fork, c.at)
				w.close()
			})
		})
	}
}

// TestDifferenceBeyond: what is held ends before the fork begins.
func TestDifferenceBeyond(t *testing.T) {
	bubble.Run(t, func(t *testing.T) {
		w := newWatched(t)
		w.log.Grow(5000)
		noBundles := synthetic.On(synthetic.Bundle, from(2, synthetic.Status(503)))
		w.log.Misbehave(noBundles)
		w.start()
		w.run()
		w.settle(2 * poll)
		w.wantHeld(512)
		fork := w.log.Fork(2000, synthetic.Tiny(2))
		fork.Grow(3000)
		w.log.Misbehave(noBundles, synthetic.On(synthetic.Checkpoint, synthetic.Equivocate(fork)))
		w.settle(time.Minute)
		w.log.Misbehave(synthetic.Equivocate(fork))
		_, _, _, err := w.mirror.Difference(t.Context())
		if same := new(mirror.SameError); !errors.As(err, &same) || same.Size != 512 {
			t.Errorf("%v", err)
		}
		w.close()
	})
}

// TestDifferenceOfAFrozenLog: a log that went on after its end has one tree.
func TestDifferenceOfAFrozenLog(t *testing.T) {
	bubble.Run(t, func(t *testing.T) {
		w := newWatched(t)
		w.log.Grow(1000)
		w.start()
		w.run()
		w.settle(2 * poll)
		frozen := synthetic.Note(origin, 1000, w.log.Root(1000), []string{"Log frozen — 2026-01-01"}, w.log.Key)
		w.log.Misbehave(synthetic.On(synthetic.Checkpoint, synthetic.Body(frozen)))
		w.settle(3 * poll)
		w.log.Misbehave()
		w.log.Grow(1300)
		w.settle(2 * poll)
		_, _, _, err := w.mirror.Difference(t.Context())
		if same := new(mirror.SameError); !errors.As(err, &same) || same.Size != 1000 {
			t.Errorf("%v", err)
		}
		w.close()
	})
}

// TestDifferenceInAWindow: what differs before the window cannot be shown.
func TestDifferenceInAWindow(t *testing.T) {
	for at, want := range map[uint64]string{700: "", 512: "", 511: "already before entry 512", 3: "already before entry 512"} {
		for _, size := range []uint64{1000, 1024, 1300, 400} {
			bubble.Run(t, func(t *testing.T) {
				w := newWatched(t)
				w.stage.config = window(512, mirror.NoHistory)
				w.log.Grow(1000)
				w.start()
				w.run()
				w.settle(2 * poll)
				fork := w.log.Fork(min(at, size-1), synthetic.Tiny(2))
				fork.Grow(size)
				if size < 512 { // it is held against the pending tree
					w.log.Misbehave(synthetic.On(synthetic.Checkpoint, synthetic.Equivocate(fork)))
				} else {
					w.log.Misbehave(synthetic.Equivocate(fork))
				}
				w.settle(3 * poll)
				if w.mirror.Tree().State().Evidence == nil {
					t.Fatalf("fork at %d of size %d: not quarantined", at, size)
				}
				switch {
				case want == "" && size > at:
					w.wantDifference(fork, at)
				default:
					_, _, _, err := w.mirror.Difference(t.Context())
					want := want
					if size == 400 {
						want = "of the first 400 entries of the forked tree none is held"
					}
					if !errors.Is(err, mirror.ErrNotComparable) || !strings.Contains(err.Error(), want) {
						t.Errorf("fork at %d of size %d: %v", at, size, err)
					}
				}
				w.close()
			})
		}
	}
}

// TestDifferenceOfALiar: only what hashes to the forked checkpoint is believed.
func TestDifferenceOfALiar(t *testing.T) {
	bubble.Run(t, func(t *testing.T) {
		w := newWatched(t)
		w.log.Grow(1000)
		w.start()
		w.run()
		w.settle(2 * poll)
		fork := forkOf(w, 300, 1000)
		equivocate := synthetic.Equivocate(fork)
		third := w.log.Fork(200, synthetic.Tiny(3))
		third.Grow(1000)
		for name, c := range map[string]struct {
			faults                   []synthetic.Fault
			unserved, held, withheld bool
		}{
			"the tree that is held":    {nil, true, true, false},
			"a third tree":             {[]synthetic.Fault{synthetic.Equivocate(third)}, true, false, false},
			"garbage at the top":       {[]synthetic.Fault{equivocate, synthetic.GarbageTile(1)}, true, false, false},
			"garbage below":            {[]synthetic.Fault{equivocate, synthetic.GarbageTile(0)}, true, false, false},
			"half tiles":               {[]synthetic.Fault{equivocate, synthetic.On(synthetic.Tile, synthetic.Truncate())}, true, false, false},
			"no tiles":                 {[]synthetic.Fault{equivocate, synthetic.On(synthetic.Tile, synthetic.Status(404))}, false, false, false},
			"another entry":            {[]synthetic.Fault{equivocate, synthetic.CorruptBundle(1)}, false, false, true},
			"the entries that we have": {[]synthetic.Fault{equivocate, synthetic.On(synthetic.Bundle, synthetic.Equivocate(w.log))}, false, false, true},
			"no entries":               {[]synthetic.Fault{equivocate, synthetic.On(synthetic.Bundle, synthetic.Status(404))}, false, false, true},
			"endless entries":          {[]synthetic.Fault{equivocate, synthetic.On(synthetic.Bundle, synthetic.Endless())}, false, false, true},
			"nothing":                  {[]synthetic.Fault{synthetic.Reset()}, false, false, false},
			"no end":                   {[]synthetic.Fault{synthetic.Hang()}, false, false, false},
			"429":                      {[]synthetic.Fault{synthetic.Throttle(time.Hour)}, false, false, false},
		} {
			w.log.Misbehave(c.faults...)
			index, ours, theirs, err := w.mirror.Difference(t.Context())
			unserved, withheld := new(mirror.UnservedError), new(mirror.WithheldError)
			if errors.As(err, &unserved) != c.unserved || unserved.Held != c.held || errors.As(err, &withheld) != c.withheld || err == nil || theirs != nil {
				t.Errorf("%s: %v", name, err)
			}
			if c.withheld && (index != 300 || withheld.Index != 300 || !bytes.Equal(ours, w.log.Entries(300))) {
				t.Errorf("%s: index %d, entry %.40q", name, index, ours)
			}
			if !c.unserved && !c.withheld && !strings.Contains(err.Error(), "try again when it answers") {
				t.Errorf("%s: %v", name, err)
			}
		}
		w.log.Misbehave(synthetic.Hang())
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, _, _, err := w.mirror.Difference(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("out of time: %v", err)
		}
		w.log.Misbehave(equivocate)
		w.wantDifference(fork, 300)
		w.close()
	})
}

// TestRekorDifference: a shard of Rekor v1 has no tiles; its roots tell.
func TestRekorDifference(t *testing.T) {
	for _, c := range []struct{ at, grows uint64 }{{0, 4}, {1, 0}, {2, 7}, {7, 0}, {8, 3}, {20, 11}, {255, 1}, {256, 0}, {299, 0}, {299, 300}} {
		t.Run(fmt.Sprint(c), func(t *testing.T) {
			bubble.Run(t, func(t *testing.T) {
				s := fullRekorStage(t, 37, 300)
				s.start().run()
				s.settle(5 * time.Minute)
				if n := s.copied(1); n != 300 {
					t.Fatalf("%d entries are copied", n)
				}
				m := s.mirrorOf(1)
				fork := s.log.Fork(1, c.at)
				fork.Shard(1).Grow(c.grows, synthetic.Tiny(7))
				s.log.Misbehave(synthetic.AnsweredBy(fork))
				s.settle(3 * rekorPoll)
				if m.Tree().State().Evidence == nil {
					t.Fatal("the shard is not quarantined")
				}
				s.log.Forget()
				index, ours, theirs, err := m.Difference(t.Context())
				if err != nil || index != c.at || !bytes.Equal(ours, s.log.Shard(1).Body(c.at)) || !bytes.Equal(theirs, fork.Shard(1).Body(c.at)) {
					t.Fatalf("index %d, entries %.40q and %.40q, %v", index, ours, theirs, err)
				}
				if n := len(s.log.Requests(allKinds)); n > 30 {
					t.Errorf("%d requests", n)
				}
				s.settle(time.Minute)
				third := s.log.Fork(1, 100)
				for name, liar := range map[string]struct {
					fault                    synthetic.Fault
					unserved, held, withheld bool
				}{
					"held":          {nil, c.grows == 0, c.grows == 0, false},
					"no proofs":     {synthetic.On(synthetic.LogProof, synthetic.HTML()), true, false, false},
					"other proofs":  {synthetic.On(synthetic.LogProof, synthetic.AnsweredBy(third)), true, false, false},
					"gone":          {synthetic.Status(503), false, false, false},
					"other entries": {synthetic.On(synthetic.RetrieveEntry, synthetic.AnsweredBy(third)), false, false, true},
				} {
					faults := []synthetic.Fault{synthetic.AnsweredBy(fork), liar.fault}
					if liar.fault == nil {
						faults = nil // a larger tree it does not have, and says so
					}
					if name == "other proofs" && c.grows > 0 || liar.withheld && (c.at < 2 || c.at >= 100) {
						continue // the third tree is smaller, roots come out of entries, or it is the same there
					}
					s.log.Misbehave(faults...)
					_, _, _, err := m.Difference(t.Context())
					unserved, withheld := new(mirror.UnservedError), new(mirror.WithheldError)
					if err == nil || errors.As(err, &unserved) != liar.unserved || unserved.Held != liar.held || errors.As(err, &withheld) != liar.withheld {
						t.Errorf("%s: %v", name, err)
					}
				}
				synctest.Wait()
				s.log.Misbehave()
				s.settle(time.Minute)
			})
		})
	}
}

// TestRekorDifferencePinned: of a shard of which only chosen entries are held nothing can be compared.
func TestRekorDifferencePinned(t *testing.T) {
	bubble.Run(t, func(t *testing.T) {
		s := newRekorStage(t).start().run()
		s.settle(rekorPoll)
		s.log.Misbehave(synthetic.AnsweredBy(s.log.Fork(1, 10)))
		s.settle(3 * rekorPoll)
		m := s.mirrorOf(1)
		if m.Tree().State().Evidence == nil {
			t.Fatal("the shard is not quarantined")
		}
		if _, _, _, err := m.Difference(t.Context()); !errors.Is(err, mirror.ErrNotComparable) {
			t.Error(err)
		}
		s.log.Misbehave()
		s.close()
	})
}
