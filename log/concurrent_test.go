package log

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/understudy-log/understudy/storage"
)

// TestReadWhileWriting: whatever is read while others append is right, or not there yet.
func TestReadWhileWriting(t *testing.T) {
	w := &witness{t: t}
	s := newStage(t, func(c *Config) { c.Cosign = w.Cosign; c.BatchEntries = 5 })
	s.open(true)
	const entries = 300
	var next atomic.Int64
	var appends, reads sync.WaitGroup
	for range 8 {
		appends.Go(func() {
			for i := next.Add(1) - 1; i < entries; i = next.Add(1) - 1 {
				body := fmt.Sprint(i)
				r := s.append(body)
				if index, ok, err := s.log.FindLeaf(storage.LeafHash([]byte(body))); index != r.Index || !ok || err != nil {
					t.Errorf("%s is at %d and found at %d %v %v", body, r.Index, index, ok, err)
				}
			}
		})
	}
	done := make(chan struct{})
	for reader := range 3 {
		reads.Go(func() {
			var last storage.Checkpoint
			for i := uint64(reader); ; i = (i*7 + 1) % entries {
				select {
				case <-done:
					return
				default:
				}
				switch body, r, err := s.log.Find(i); {
				case err == nil:
					s.good(string(body), r)
					if audit, err := s.log.Audit(i); err != nil || audit.Identity != "tester" {
						t.Errorf("audit %d: %+v %v", i, audit, err)
					}
					if proposal, err := s.log.Proposal(i); err != nil || string(proposal) != "proposal of "+string(body) {
						t.Errorf("proposal %d: %q %v", i, proposal, err)
					}
				case !errors.Is(err, storage.ErrNotHeld):
					t.Errorf("find %d: %v", i, err)
				case s.log.Published().Size < last.Size:
					t.Errorf("%d is published after %d", s.log.Published().Size, last.Size)
				}
				last = s.log.Published()
				if err := s.has(last); err != nil {
					t.Error(err)
				}
			}
		})
	}
	reads.Go(func() {
		for {
			select {
			case <-done:
				return
			default:
				if err := s.log.forget(1); err != nil { // there are none so old
					t.Error(err)
				}
			}
		}
	})
	appends.Wait()
	close(done)
	reads.Wait()
	s.sound()
	if _, _, err := s.log.Find(entries); !errors.Is(err, storage.ErrNotHeld) {
		t.Errorf("beyond the end: %v", err)
	}
	s.close()
}

// TestAppendAfterRun: who comes too late is told so, also when the database is closed.
func TestAppendAfterRun(t *testing.T) {
	s := newStage(t, nil)
	s.open(true)
	l := s.log
	s.append("0")
	s.close()
	for _, body := range []string{"0", "1"} {
		if r, err := l.Append(context.Background(), entryOf(body)); !errors.Is(err, ErrStopping) {
			t.Errorf("append to a closed log: %+v %v", r, err)
		}
	}
}
