package ledger

import (
	"context"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/understudy-log/understudy/storage"
)

// wall is a wall clock that jumps: the steady clock plus an offset.
type wall struct {
	mu     sync.Mutex
	offset time.Duration
}

func (w *wall) now() time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return time.Now().Round(0).Add(w.offset)
}

func (w *wall) jump(by time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.offset += by
}

func newClock(t *testing.T, db *storage.DB, w *wall) *Clock {
	t.Helper()
	c, err := NewClock(db, w.now)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// Whatever the wall clock does, time goes on at least as fast as the steady clock, and never back.
func TestClockJumps(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var w wall
		c := newClock(t, openDB(t, vfs.NewMem()), &w)
		start := c.Now()
		if !start.Equal(time.Now()) {
			t.Fatalf("a new clock tells %v, at %v", start, time.Now())
		}
		last := start
		steps := func(by time.Duration, least, most time.Duration) {
			t.Helper()
			w.jump(by)
			if gone := c.Now().Sub(last); gone < least || gone > most {
				t.Fatalf("a jump by %v: %v has gone by, want %v to %v", by, gone, least, most)
			}
			time.Sleep(time.Minute)
			now := c.Now()
			if gone := now.Sub(last); gone < least+time.Minute {
				t.Fatalf("a jump by %v, and a minute: only %v has gone by", by, gone)
			}
			last = now
		}
		steps(0, 0, 0)
		steps(-time.Hour, 0, 0) // set back: it goes on where it was
		steps(-time.Hour, 0, 0)
		steps(2*time.Hour, 0, 0) // right again: so it was all the time
		if !last.Equal(time.Now().Round(0).UTC()) {
			t.Fatalf("it tells %v, at %v", last, time.Now())
		}
		steps(24*time.Hour, 24*time.Hour, 24*time.Hour) // ahead: everything passes
		steps(-24*time.Hour, 0, 0)                      // right again: it stays ahead
		if ahead := last.Sub(time.Now().Round(0)); ahead != 24*time.Hour {
			t.Fatalf("it is %v ahead", ahead)
		}
		for range 1_000_000 { // asking often must not slow it down
			c.Now()
		}
		time.Sleep(time.Second)
		if gone := c.Now().Sub(last); gone < time.Second {
			t.Fatalf("a second, asked often: %v has gone by", gone)
		}
	})
}

// A restart does not make it go back further than to the last row, or the last mark.
func TestClockAcrossRestarts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fs := vfs.NewMem()
		db := openDB(t, fs)
		var w wall
		c := newClock(t, db, &w)
		l, err := Open(db, c.Now)
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Hour)
		if _, err := l.Append(Entry{Kind: "test", Body: 1}); err != nil {
			t.Fatal(err)
		}
		before := c.Now()
		w.jump(-30 * 24 * time.Hour)
		c = newClock(t, db, &w) // as after a crash: nothing was marked
		if now := c.Now(); now.Before(before) {
			t.Fatalf("after a restart it tells %v, before it %v", now, before)
		}

		ctx, cancel := context.WithCancel(t.Context())
		var running sync.WaitGroup
		running.Go(func() {
			if err := c.Run(ctx); err != nil {
				t.Error(err)
			}
		})
		time.Sleep(time.Hour)
		before = c.Now()
		again := newClock(t, db, &w) // as after a crash
		if lost := before.Sub(again.Now()); lost > clockEvery {
			t.Fatalf("a crash lost %v", lost)
		}
		time.Sleep(time.Second)
		cancel()
		running.Wait()
		before = c.Now()
		again = newClock(t, db, &w)
		if now := again.Now(); now.Before(before) {
			t.Fatalf("after an end in order it tells %v, before it %v", now, before)
		}
		w.jump(31 * 24 * time.Hour)
		if now := again.Now(); !now.Equal(w.now()) {
			t.Fatalf("it tells %v, and the wall clock, ahead of it, %v", now, w.now())
		}
	})
}

func TestClockDamaged(t *testing.T) {
	db := openDB(t, vfs.NewMem())
	put(t, db, clockRecord, []byte("yesterday"))
	if _, err := NewClock(db, nil); err == nil {
		t.Error("a damaged mark is taken")
	}
	db = openDB(t, vfs.NewMem())
	put(t, db, headRecord, headOf(3, "x"))
	if _, err := NewClock(db, nil); err == nil {
		t.Error("a missing last row is taken")
	}
}

// Now does no I/O: it works when the database does not.
func TestClockConcurrent(t *testing.T) {
	c := newClock(t, openDB(t, vfs.NewMem()), &wall{})
	var readers sync.WaitGroup
	for range 8 {
		readers.Go(func() {
			last := time.Time{}
			for range 1000 {
				now := c.Now()
				if now.Before(last) {
					t.Errorf("%v after %v", now, last)
				}
				last = now
			}
		})
	}
	for range 20 {
		if err := c.mark(); err != nil {
			t.Fatal(err)
		}
	}
	readers.Wait()
}
