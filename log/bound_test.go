package log

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/understudy-log/understudy/storage"
	"github.com/understudy-log/understudy/test/bubble"
)

// TestUnpublished: while witnesses are away no more is logged than MaxUnpublished allows, and
// what was logged is published when they are back.
func TestUnpublished(t *testing.T) {
	bubble.Run(t, func(t *testing.T) {
		w := &witness{t: t}
		s := newStage(t, func(c *Config) { c.Cosign = w.Cosign; c.MaxUnpublished = 10 })
		s.open(true)
		time.Sleep(time.Second)
		w.will(func(context.Context, storage.Checkpoint) error { return errors.New("away") })
		full := 0
		for i := range 50 {
			_, err := s.within(time.Second, fmt.Sprint(i))
			if errors.Is(err, ErrFull) {
				full++
			} else if !errors.Is(err, ErrUnwitnessed) {
				t.Fatalf("append: %v", err)
			}
		}
		if size := s.log.Tree().State().Head.Size; size != 10 || full != 40 {
			t.Errorf("%d are logged, %d were refused", size, full)
		}
		w.will(nil)
		time.Sleep(5 * time.Second)
		if r := s.append("3"); r.Index != 3 || !r.Duplicate {
			t.Errorf("afterwards: %+v", r)
		}
		s.append("more")
		s.close()
	})
}

// TestRounds: witnesses serve others too, so they are asked a few times a second however much is logged.
func TestRounds(t *testing.T) {
	bubble.Run(t, func(t *testing.T) {
		w := &witness{t: t}
		s := newStage(t, func(c *Config) { c.Cosign = w.Cosign; c.roundEvery = 0 })
		s.open(true)
		time.Sleep(time.Second)
		before, next := w.times(), 0
		for began := time.Now(); time.Since(began) < 10*time.Second; next++ {
			body := fmt.Sprint("entry ", next)
			go func() { _, _ = s.within(time.Minute, body) }()
			time.Sleep(10 * time.Millisecond)
		}
		if asked := w.times() - before; asked < 40 || asked > 51 {
			t.Errorf("asked %d times in 10 seconds", asked)
		}
		synctest.Wait()
		s.close()
	})
}

// TestKeysCount: search keys count against what may wait: whoever proposes chooses how many there are.
func TestKeysCount(t *testing.T) {
	g := newGate()
	s := newStage(t, func(c *Config) { c.Promise = g.promise; c.BatchWait = 1; c.PoolBytes = 1000; c.ProposalKey = nil })
	s.open(true)
	first := make(chan error)
	go func() {
		_, err := s.log.Append(context.Background(), entryOf("first"))
		first <- err
	}()
	<-g.entered
	e := entryOf("second")
	for range 100 {
		e.Keys = append(e.Keys, "0123456789")
	}
	if _, err := s.log.Append(context.Background(), e); !errors.Is(err, ErrTooLarge) {
		t.Errorf("a thousand bytes of keys: %v", err)
	}
	close(g.open)
	if err := <-first; err != nil {
		t.Error(err)
	}
	s.close()
}
