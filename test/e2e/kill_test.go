package e2e

import (
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	understudyv1 "github.com/understudy-log/understudy/proto/understudy/v1"
	"github.com/understudy-log/understudy/test/rekor"
)

// TestKilled kills the mirror with SIGKILL, first in the middle of a catch-up and then
// again and again while it follows a log that grows. Nothing that it has said may be
// lost.
func TestKilled(t *testing.T) {
	w := newWorld(t)
	const first, second = 4_400, 1_500
	entries := w.write(first)

	// The last bundle does not come, so that the catch-up stops after the first chunks.
	release := w.reads.hold(first / 256)
	defer release()
	w.start()
	w.until("in the middle", func(log *understudyv1.Log) bool {
		return log.GetTreeSize() == first && log.GetNextIndex() > 0
	})
	middle := w.acknowledged()
	if middle.next == first {
		t.Fatal("all was held, though a bundle never came")
	}
	// Already now what is held is proven to the signed checkpoint.
	w.provable(entries[0], entries[middle.next/2], entries[middle.next-1])
	w.reads.forget()
	w.daemon.Kill()
	w.start()
	w.notBefore(middle)
	w.provable(entries[0], entries[middle.next-1])
	release()
	w.held(first)
	if n := w.reads.below(middle.next / 256); n != 0 {
		t.Errorf("%d requests for bundles that were held", n)
	}

	var writing errgroup.Group
	var more []rekor.Entry
	done := make(chan struct{})
	writing.Go(func() (err error) {
		defer close(done)
		more, err = w.log.Write(w.within(time.Minute), second, nil)
		return err
	})
	kills := 0
	for last, growing := w.acknowledged(), true; growing; kills++ {
		w.until("further", func(log *understudyv1.Log) bool {
			select {
			case <-done: // it may not grow any more
				growing = false
				return true
			default:
				return log.GetNextIndex() > last.next
			}
		})
		last = w.acknowledged()
		w.daemon.Kill()
		w.start()
		w.notBefore(last)
	}
	if err := writing.Wait(); err != nil {
		t.Fatal(err)
	}
	t.Logf("killed %d times while the log grew", kills)
	entries = append(entries, more...)
	w.held(len(entries))
	w.provable(spread(entries, 100)...)
	w.daemon.Kill()
	w.sound()
}

// acknowledged is what the mirror has said that it has.
type acknowledged struct{ next, tree, mirrored uint64 }

func (w *world) acknowledged() acknowledged {
	w.Helper()
	log, err := w.daemon.Log(w.within(10 * time.Second))
	if err != nil {
		w.Fatal(err)
	}
	return acknowledged{log.GetNextIndex(), log.GetTreeSize(), log.GetMirrorSize()}
}

// notBefore fails if the mirror has lost something of what it said.
func (w *world) notBefore(before acknowledged) {
	w.Helper()
	if now := w.acknowledged(); now.next < before.next || now.tree < before.tree || now.mirrored < before.mirrored {
		w.Fatalf("after the restart %+v, before it %+v", now, before)
	}
}
