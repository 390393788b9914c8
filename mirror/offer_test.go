package mirror_test

import (
	"bytes"
	"errors"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"github.com/understudy-log/understudy/mirror"
	"github.com/understudy-log/understudy/mirror/trust"
	"github.com/understudy-log/understudy/storage"
	"github.com/understudy-log/understudy/test/bubble"
	"github.com/understudy-log/understudy/test/synthetic"
)

// pushable is a checkpoint of a log, as it is pushed.
func (s *stage) pushable(size uint64, extensions ...string) storage.Checkpoint {
	return storage.Checkpoint{
		Head: storage.Head{Size: size, Root: s.log.Root(size)}, Raw: synthetic.Note(origin, size, s.log.Root(size), extensions, s.log.Key),
		FirstSeen: time.Now(), LastSeen: time.Now(), Source: "add-checkpoint",
	}
}

// proof is the consistency proof of the log between two sizes.
func (s *stage) proof(first, last uint64) []storage.Hash {
	s.t.Helper()
	hashes, err := storage.ConsistencyProof(first, last, func(level int, index uint64) (storage.Hash, error) {
		return s.node(level, index), nil
	})
	check(s.t, err)
	return hashes
}

func (s *stage) node(level int, index uint64) storage.Hash {
	if level%8 == 0 {
		tile, _ := s.log.Tile(level/8, index/256, int(index%256)+1)
		return storage.Hash(tile[index%256*32:])
	}
	return storage.NodeHash(s.node(level-1, 2*index), s.node(level-1, 2*index+1))
}

// TestOfferedNoteFromBeforeTheEnd: whoever kept a checkpoint from before a log was frozen cannot
// take its end back by pushing it, now or after a restart.
func TestOfferedNoteFromBeforeTheEnd(t *testing.T) {
	bubble.Run(t, func(t *testing.T) {
		newest, err := storage.OpenNewest("newest", storage.Options{FS: vfs.NewMem()})
		check(t, err)
		defer newest.Close()
		s := newStage(t, synthetic.Options{})
		s.config = func(c *mirror.Config) { c.Newest = newest }
		s.log.Grow(1000)
		s.log.Misbehave(synthetic.On(synthetic.Checkpoint, synthetic.Body(s.pushable(1000, "Log frozen — 2026-01-01").Raw)))
		s.start().run()
		s.settle(2 * poll)
		s.wantHeld(1000)
		before := s.mirror.Tree().State()
		check(t, s.mirror.Offer(s.pushable(1000), nil))
		if now := s.mirror.Tree().State(); !trust.Frozen(now.Pending.Raw) || !trust.Frozen(now.Mirrored.Raw) || !trust.Frozen(newest.Of(origin).Raw) {
			t.Errorf("a note from before the end took its place:\n%s", now.Pending.Raw)
		} else if rows, _ := now.ArchiveRows(); rows != 2 {
			t.Errorf("%d rows in the archive, want both notes", rows)
		}
		s.close()
		s.log.Misbehave(synthetic.Reset()) // it has retired
		s.start().run()
		s.settle(2 * poll)
		if st := s.mirror.Status(); st.UpstreamState != mirror.UpstreamFrozen {
			t.Errorf("upstream is %s, was frozen at size %d", st.UpstreamState, before.Pending.Size)
		}
		s.close()
	})
}

// TestOfferVouchesForNothing: a first checkpoint that was pushed may be as old as it likes.
func TestOfferVouchesForNothing(t *testing.T) {
	bubble.Run(t, func(t *testing.T) {
		s := newStage(t, synthetic.Options{})
		s.log.Grow(1000)
		s.log.Misbehave(synthetic.Reset())
		s.start().run()
		check(t, s.mirror.Offer(s.pushable(1000), nil))
		s.settle(2 * poll)
		if f := s.mirror.Freshness(); f.Source != mirror.SourceStale || f.CheckpointAge < mirror.DefaultStaleAfter {
			t.Errorf("freshness is %+v, and upstream was never reached", f)
		}
		s.log.Misbehave()
		s.settle(time.Minute)
		s.wantHeld(1000)
		if f := s.mirror.Freshness(); f.Source != mirror.SourceLive || f.CheckpointAge > time.Minute {
			t.Errorf("freshness is %+v", f)
		}
		s.close()
	})
}

// TestOfferWhileCopying: what the mirror copies meanwhile makes no good proof a bad one.
func TestOfferWhileCopying(t *testing.T) {
	bubble.Run(t, func(t *testing.T) {
		s := newStage(t, synthetic.Options{})
		s.log.Grow(40000)
		s.start()
		check(t, s.mirror.Offer(s.pushable(20000), nil))
		stop := make(chan struct{})
		var extending sync.WaitGroup
		extending.Go(func() { // what the loop does, as fast as it can
			for size := uint64(0); size < 20000; {
				select {
				case <-stop:
					return
				default:
				}
				_, err := s.mirror.Tree().Extend([][]byte{s.log.Entries(size)}, func(next storage.Head) (storage.Seal, error) {
					pending := s.mirror.Tree().State().Pending
					return storage.Seal{Checkpoint: pending, Precedes: s.proof(next.Size, pending.Size)}, nil
				})
				if err == nil {
					size++
				} else if !errors.Is(err, storage.ErrInconsistent) {
					t.Error(err)
				}
			}
		})
		for size := uint64(20000); size < 20400; size++ {
			if err := s.mirror.Offer(s.pushable(size+1), s.proof(size, size+1)); err != nil {
				t.Errorf("size %d: %v", size+1, err)
				break
			}
		}
		close(stop)
		extending.Wait()
		s.close()
	})
}

// TestNotBehindWhileArriving: the memory knows a moment before the tree of what is pushed; that
// is no older database, and no rollback.
func TestNotBehindWhileArriving(t *testing.T) {
	bubble.Run(t, func(t *testing.T) {
		newest, err := storage.OpenNewest("newest", storage.Options{FS: vfs.NewMem()})
		check(t, err)
		defer newest.Close()
		s := newStage(t, synthetic.Options{})
		var look atomic.Pointer[func()]
		s.config = func(c *mirror.Config) { c.Newest = newest }
		var looks atomic.Int64
		s.between = errorfs.Wrap(s.disk, errorfs.InjectorFunc(func(op errorfs.Op) error {
			if look := look.Load(); look != nil && op.Kind.ReadOrWrite() == errorfs.OpIsWrite && newest.Of(origin).Size > s.mirror.Tree().State().Pending.Size {
				looks.Add(1)
				(*look)()
			}
			return nil
		}))
		s.log.Grow(1000)
		s.start().run()
		s.settle(2 * poll)
		s.wantHeld(1000)
		s.log.Grow(1100)
		s.log.Misbehave(s.log.Rollback(1000)) // it pushes before it publishes
		asked := func() {
			if _, behind := s.mirror.Behind(); behind {
				t.Error("behind while a checkpoint arrives")
			}
			if f := s.mirror.Freshness(); f.Source != mirror.SourceLive {
				t.Errorf("freshness %+v", f)
			}
		}
		look.Store(&asked)
		check(t, s.mirror.Offer(s.pushable(1100), s.proof(1000, 1100)))
		if look.Store(nil); looks.Load() == 0 {
			t.Error("nobody looked")
		}
		s.settle(3 * poll)
		s.wantHeld(1100)
		if st := s.mirror.Status(); st.Problem != nil || st.Source != mirror.SourceLive {
			t.Errorf("problem %+v, source %s", st.Problem, st.Source)
		}
		s.log.Misbehave(s.log.Rollback(900))
		s.settle(3 * poll)
		if st := s.mirror.Status(); st.Problem == nil || st.Problem.Reason != mirror.ProblemRollback {
			t.Errorf("problem %+v", st.Problem)
		}
		s.close()
	})
}

// TestPushedBeforePublished: a log may push before anybody can read the tiles of what it pushed.
// It is followed as before until it publishes.
func TestPushedBeforePublished(t *testing.T) {
	bubble.Run(t, func(t *testing.T) {
		s := newStage(t, synthetic.Options{})
		s.log.Grow(1000)
		s.start().run()
		s.settle(2 * poll)
		s.wantHeld(1000)
		s.log.Grow(1100)
		var published atomic.Uint64
		published.Store(1000)
		s.log.Misbehave(func(q synthetic.Request, a *synthetic.Answer) {
			s.log.Rollback(published.Load())(q, a)
			if q.Kind == synthetic.Tile || q.Kind == synthetic.Bundle { // its right border has another width
				if strings.HasSuffix(q.Path, ".p/76") || strings.HasSuffix(q.Path, ".p/4") && q.Kind == synthetic.Tile {
					synthetic.Status(http.StatusNotFound)(q, a)
				}
			}
		})
		check(t, s.mirror.Offer(s.pushable(1100), s.proof(1000, 1100)))
		s.settle(3 * poll)
		s.wantHeld(1000)
		if st := s.mirror.Status(); st.Problem != nil || st.Source != mirror.SourceLive {
			t.Errorf("problem %+v, source %s", st.Problem, st.Source)
		}
		s.close()
		s.start().run()
		s.settle(3 * poll)
		if st := s.mirror.Status(); st.Problem != nil || st.Source != mirror.SourceLive {
			t.Errorf("after a restart: problem %+v, source %s", st.Problem, st.Source)
		}
		s.log.Grow(1105)
		published.Store(1050) // not what was pushed, and not what is held
		s.settle(3 * poll)
		if st := s.mirror.Status(); st.Problem != nil || st.Source != mirror.SourceLive {
			t.Errorf("problem %+v, source %s", st.Problem, st.Source)
		}
		s.log.Misbehave()
		s.settle(3 * poll)
		s.wantHeld(1105)
		s.close()
	})
}

// TestUpstreamsOwnBytes: who pushes a checkpoint first takes no signature away from what upstream
// serves.
func TestUpstreamsOwnBytes(t *testing.T) {
	bubble.Run(t, func(t *testing.T) {
		s := newStage(t, synthetic.Options{})
		s.log.Grow(1000)
		s.start().run()
		s.settle(2 * poll)
		s.log.Grow(1100)
		check(t, s.mirror.Offer(s.pushable(1100), s.proof(1000, 1100)))
		own := synthetic.Note(origin, 1100, s.log.Root(1100), nil, s.log.Key, synthetic.Ed25519("witness.example/w1", 5))
		s.log.Misbehave(synthetic.On(synthetic.Checkpoint, synthetic.Body(own)))
		s.settle(3 * poll)
		s.wantHeld(1100)
		head, _, err := s.mirror.Checkpoint(0)
		check(t, err)
		if !bytes.Equal(head.Checkpoint, own) || !bytes.Equal(s.mirror.AsServed(s.mirror.Tree().State().Mirrored), own) {
			t.Errorf("served is\n%s\nwant\n%s", head.Checkpoint, own)
		}
		s.close()
	})
}
