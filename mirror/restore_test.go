package mirror_test

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/understudy-log/understudy/mirror"
	"github.com/understudy-log/understudy/storage"
	"github.com/understudy-log/understudy/test/bubble"
	"github.com/understudy-log/understudy/test/synthetic"
)

// restored is a mirror that held 5,000 entries when a backup was made, and 8,000 when its
// disk was lost; it stands on the backup, and has not been started again.
func restored(t *testing.T) *watched {
	t.Helper()
	w := newWatched(t)
	newest, err := storage.OpenNewest("newest", storage.Options{FS: vfs.NewMem()})
	check(t, err)
	t.Cleanup(func() { newest.Close() })
	w.and(func(c *mirror.Config) { c.Newest = newest })
	w.log.Grow(5000)
	w.start().run()
	w.settle(2 * poll)
	w.wantHeld(5000)
	check(t, w.db.Backup("backup"))
	w.log.Grow(8000)
	w.settle(2 * poll)
	w.wantHeld(8000)
	w.close()
	check(t, w.disk.RemoveAll("db"))
	_, err = storage.Restore("db", "backup", storage.Options{FS: w.disk})
	check(t, err)
	return w
}

// TestRestored: a database that is older than what was held before catches up, from whoever
// has it, and until then does not pass for the whole log.
func TestRestored(t *testing.T) {
	t.Run("upstream lives", func(t *testing.T) {
		bubble.Run(t, func(t *testing.T) {
			w := restored(t)
			w.start().run()
			w.settle(2 * poll)
			w.wantHeld(8000)
			if st := w.mirror.Status(); st.NewestKnownSize != 0 || st.Problem != nil {
				t.Errorf("status %+v", st)
			}
			if !strings.Contains(w.logged.String(), "it was restored from a backup") {
				t.Errorf("the log does not say it:\n%s", w.logged.String())
			}
			w.wantGood()
			w.close()
		})
	})
	t.Run("nobody lives", func(t *testing.T) {
		bubble.Run(t, func(t *testing.T) {
			w := restored(t)
			w.log.Misbehave(synthetic.Reset())
			w.start().run()
			w.settle(time.Minute)
			w.wantHeld(5000)
			if st := w.mirror.Status(); st.NewestKnownSize != 8000 || st.Source == mirror.SourceLive {
				t.Errorf("status %+v", st)
			}
			_, _, err := w.mirror.Entry(mirror.Ref{Index: 6000})
			wantRefusal(t, err, mirror.Unavailable, mirror.ReasonUpstreamUnreachable)
			w.log.Misbehave()
			w.settle(time.Minute)
			w.wantHeld(8000)
			w.wantGood()
			w.close()
		})
	})
	t.Run("a copy lives", func(t *testing.T) {
		bubble.Run(t, func(t *testing.T) {
			w := restored(t)
			w.copyOf("peer.example", 8000)
			w.host("upstream.example", gone)
			w.start().run()
			w.settle(time.Minute)
			w.wantHeld(8000)
			w.wantGood()
			w.close()
		})
	})
	t.Run("upstream went back", func(t *testing.T) {
		bubble.Run(t, func(t *testing.T) {
			w := restored(t)
			w.log.Misbehave(w.log.Rollback(6000))
			w.start().run()
			w.settle(time.Minute)
			w.wantHeld(5000)
			w.wantProblem(mirror.ProblemRollback)
			if st := w.mirror.Status(); st.NewestKnownSize != 8000 || st.Source == mirror.SourceLive {
				t.Errorf("status %+v", st)
			}
			w.log.Misbehave()
			w.settle(time.Minute)
			w.wantHeld(8000)
			w.wantGood()
			w.close()
		})
	})
}

// TestRestoredFork: what upstream signed since the backup is not forgotten, so another history
// after it is evidence, whether it is shorter, as long or longer, and although the database
// alone could not tell.
func TestRestoredFork(t *testing.T) {
	for name, size := range map[string]uint64{"as long": 8000, "longer": 9000} {
		t.Run(name, func(t *testing.T) {
			bubble.Run(t, func(t *testing.T) {
				w := restored(t)
				fork := w.log.Fork(5500, synthetic.Tiny(7))
				fork.Grow(size)
				w.log.Misbehave(synthetic.Equivocate(fork))
				w.start().run()
				w.settle(time.Minute)
				s := w.mirror.Tree().State()
				if s.Evidence == nil || s.Head.Size != 5000 {
					t.Fatalf("state is %+v", s)
				}
				w.wantProblem(mirror.ProblemFork)
				w.wantEvidence(s.Evidence)
				w.prove(4999, 0)
				w.close()
			})
		})
	}
	t.Run("shorter", func(t *testing.T) {
		bubble.Run(t, func(t *testing.T) {
			w := restored(t)
			fork := w.log.Fork(5500, synthetic.Tiny(7))
			fork.Grow(7000)
			w.log.Misbehave(synthetic.Equivocate(fork))
			w.start().run()
			w.settle(time.Minute)
			w.wantHeld(5000) // nobody can tell yet; it is not followed
			w.wantProblem(mirror.ProblemRollback)
			w.close()
		})
	})
	t.Run("after all is lost", func(t *testing.T) {
		bubble.Run(t, func(t *testing.T) {
			w := restored(t)
			check(t, w.disk.RemoveAll("db"))
			fork := w.log.Fork(5500, synthetic.Tiny(7))
			fork.Grow(9000)
			w.log.Misbehave(synthetic.Equivocate(fork))
			w.start().run()
			w.settle(time.Minute)
			s := w.mirror.Tree().State()
			if s.Evidence == nil || s.Head.Size != 0 {
				t.Fatalf("state is %+v", s)
			}
			w.wantEvidence(s.Evidence)
			w.close()
		})
	})
}

// TestSurvey: at the start a copy's checkpoint counts, also while upstream lives: it may serve
// an older one.
func TestSurvey(t *testing.T) {
	bubble.Run(t, func(t *testing.T) {
		w := newWatched(t)
		w.log.Grow(1000)
		w.start().run()
		w.settle(2 * poll)
		w.close()
		w.log.Grow(2000)
		w.copyOf("peer.example", 2000)
		w.copyOf("behind.example", 500)
		w.copyOf("hangs.example", 0)
		w.host("hangs.example", http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }))
		w.log.Misbehave(w.log.Rollback(1000))
		w.start().run()
		w.settle(time.Minute)
		if s := w.mirror.Tree().State(); s.Pending.Size != 2000 || s.Head.Size != 2000 {
			t.Errorf("holds %d of %d entries, want 2000", s.Head.Size, s.Pending.Size)
		}
		if f := w.mirror.Freshness(); f.Source == mirror.SourceLive {
			t.Errorf("freshness %+v while upstream serves less than a copy", f)
		}
		w.close()
	})
}

// TestRestoredIsNotLive: upstream, or a cache before it, serves just what the backup has. That
// is less than was held before, so nothing is said to be absent.
func TestRestoredIsNotLive(t *testing.T) {
	bubble.Run(t, func(t *testing.T) {
		w := restored(t)
		w.log.Misbehave(w.log.Rollback(5000))
		w.start().run()
		w.settle(time.Minute)
		w.wantHeld(5000)
		w.wantProblem(mirror.ProblemRollback)
		if f := w.mirror.Freshness(); f.Source == mirror.SourceLive {
			t.Errorf("freshness %+v", f)
		}
		_, _, err := w.mirror.Entry(mirror.Ref{Index: 6000})
		wantRefusal(t, err, mirror.Unavailable, mirror.ReasonUpstreamUnreachable)
		w.close()
	})
}

// frozenNote is the note that ends a log.
func (w *watched) frozenNote(size uint64) synthetic.Fault {
	note := synthetic.Note(origin, size, w.log.Root(size), []string{"Log frozen — 2026-01-01"}, w.log.Key)
	return synthetic.On(synthetic.Checkpoint, synthetic.Body(note))
}

// TestFrozenStaysFrozen: a note from before the end of a log, from a copy that lags or a cache,
// does not take the end back, and what is signed after it is evidence; also after a restart.
func TestFrozenStaysFrozen(t *testing.T) {
	bubble.Run(t, func(t *testing.T) {
		w := newWatched(t)
		w.log.Grow(1000)
		w.start().run()
		w.settle(2 * poll)
		w.log.Misbehave(w.frozenNote(1000))
		w.settle(2 * poll)
		w.log.Misbehave() // the plain note again
		w.settle(2 * poll)
		for range 2 {
			if st := w.mirror.Status(); st.UpstreamState != mirror.UpstreamFrozen || st.Evidence != nil {
				t.Fatalf("status %+v", st)
			}
			w.close()
			w.start().run()
			w.settle(2 * poll)
		}
		w.log.Grow(1300)
		w.settle(2 * poll)
		if s := w.mirror.Tree().State(); s.Evidence == nil || s.Head.Size != 1000 {
			t.Errorf("state is %+v", s)
		}
		w.close()
	})
}

// TestRestoredFrozen: the end of a log is remembered, too.
func TestRestoredFrozen(t *testing.T) {
	for _, larger := range []bool{false, true} {
		bubble.Run(t, func(t *testing.T) {
			w := newWatched(t)
			newest, err := storage.OpenNewest("newest", storage.Options{FS: vfs.NewMem()})
			check(t, err)
			defer newest.Close()
			w.and(func(c *mirror.Config) { c.Newest = newest })
			w.log.Grow(5000)
			w.start().run()
			w.settle(2 * poll)
			check(t, w.db.Backup("backup"))
			end := uint64(5000)
			if larger {
				end = 8000
				w.log.Grow(end)
				w.settle(2 * poll)
			}
			w.log.Misbehave(w.frozenNote(end))
			w.settle(2 * poll)
			w.close()
			check(t, w.disk.RemoveAll("db"))
			_, err = storage.Restore("db", "backup", storage.Options{FS: w.disk})
			check(t, err)
			w.log.Misbehave()
			w.log.Grow(9000)
			w.start().run()
			w.settle(time.Minute)
			s := w.mirror.Tree().State()
			if s.Evidence == nil || s.Head.Size != 5000 || !strings.Contains(string(s.Evidence.First), "frozen") {
				t.Errorf("frozen at %d: state is %+v", end, s)
			}
			w.close()
		})
	}
}

// TestSlowCopyDoesNotHoldTheTail: while a copy gives the missing entries one by one, upstream
// is asked again all the same.
func TestSlowCopyDoesNotHoldTheTail(t *testing.T) {
	bubble.Run(t, func(t *testing.T) {
		w := newWatched(t)
		w.log.Grow(80_000)
		peer := w.copyOf("peer.example", 80_000)
		peer.Misbehave(synthetic.On(synthetic.Bundle, func(synthetic.Request, *synthetic.Answer) { time.Sleep(20 * time.Second) }))
		w.log.Misbehave(synthetic.On(synthetic.Checkpoint, synthetic.Status(503)))
		w.start().run()
		w.settle(30 * time.Second)
		w.log.Misbehave()
		w.settle(90 * time.Second)
		w.wantHeld(80_000)
		if f := w.mirror.Freshness(); f.Source != mirror.SourceLive {
			t.Errorf("freshness %+v", f)
		}
		w.close()
	})
}
