package log

import (
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// clock is what entries get their time from.
type clock struct{ at atomic.Int64 }

func (c *clock) now() time.Time       { return time.Unix(c.at.Load(), 999_999_999) }
func (c *clock) jump(d time.Duration) { c.at.Add(int64(d.Seconds())) }

// TestClock: when the clock goes back a little, entries get the time of the last one; when it goes
// back far, nothing is logged until it is right, also after a restart.
func TestClock(t *testing.T) {
	const start = 1_800_000_000
	var c clock
	c.at.Store(start)
	s := newStage(t, func(config *Config) { config.now = c.now })
	s.open(true)
	next := 0
	logged := func(at int64) {
		t.Helper()
		body := fmt.Sprint(next)
		r := s.append(body)
		if r.Index != uint64(next) || r.Duplicate {
			t.Fatalf("entry %d: %+v", next, r)
		}
		next++
		if want := fmt.Sprintf("%d at %d: %s", r.Index, at, body); string(r.Promise) != want {
			t.Errorf("promise %q, want %q", r.Promise, want)
		}
		if audit, err := s.log.Audit(r.Index); err != nil || audit.Time != at {
			t.Errorf("audit: %+v %v, want %d", audit, err, at)
		}
	}
	refused := func() {
		t.Helper()
		body := fmt.Sprint(next)
		if r, err := s.within(time.Minute, body); !errors.Is(err, ErrClock) {
			t.Fatalf("answered %+v %v", r, err)
		}
		if size := s.log.Tree().State().Head.Size; size != uint64(next) {
			t.Errorf("%d entries are logged, want %d", size, next)
		}
		s.sound()
	}
	logged(start)
	for range 2 { // again after a restart
		c.at.Store(start + 5)
		logged(start + 5)
		c.jump(-30 * time.Second)
		logged(start + 5)
		c.jump(-30 * time.Second) // a minute in all
		logged(start + 5)
		c.jump(-time.Second)
		refused()
		c.jump(-time.Hour)
		refused()
		s.close()
		s.open(false)
		refused()
		eventually(t, "the clock is its problem", func() bool {
			p := s.log.Problem()
			return p != nil && strings.Contains(p.Text, ErrClock.Error())
		})
		if r := s.append("0"); !r.Duplicate { // a duplicate needs no time
			t.Errorf("a duplicate: %+v", r)
		}
		c.at.Store(start)
		logged(start + 5)
		s.close()
		s.open(false)
	}
	c.jump(time.Hour)
	logged(start + 3600)
	s.sound()
}

// TestSigningFails: when a key is away, signs wrongly or for somebody else, or a promise cannot be
// made, nothing is logged, and the next try gets the index that this one would have had.
func TestSigningFails(t *testing.T) {
	var key *signs
	broken := atomic.Bool{}
	s := newStage(t, func(c *Config) {
		key = counting(c)
		promise := c.Promise
		c.Promise = func(index uint64, at int64, e *Entry) ([]byte, error) {
			if broken.Load() && index%3 == 2 {
				return nil, errors.New("cannot promise")
			}
			return promise(index, at, e)
		}
	})
	s.open(true)
	other, _ := newKey(t)
	fails := func(name string, at uint64) {
		t.Helper()
		errs := make(chan error)
		for i := range 9 {
			go func() {
				_, err := s.within(time.Minute, fmt.Sprint(name, i))
				errs <- err
			}()
		}
		failed := 0
		for range 9 {
			if err := <-errs; errors.Is(err, ErrSigning) {
				failed++
			} else if err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
		if size := s.log.Tree().State().Head.Size; failed == 0 || size != at+9-uint64(failed) {
			t.Errorf("%s: %d entries, after %d and %d failures", name, size, at, failed)
		}
		s.sound()
	}
	last := s.append("before").Index
	for name, do := range map[string]func(msg []byte) ([]byte, error){
		"away":          func([]byte) ([]byte, error) { return nil, errors.New("away") },
		"wrong":         func(msg []byte) ([]byte, error) { return make([]byte, 64), nil },
		"another text":  func(msg []byte) ([]byte, error) { return key.Signer.Sign(append(msg, "more\n"...)) },
		"another's key": other.Sign,
		"nothing":       func([]byte) ([]byte, error) { return nil, nil },
	} {
		key.will(do)
		fails(name, last+1)
		key.will(nil)
		r := s.append(name)
		if r.Index != last+1 || r.Duplicate {
			t.Errorf("%s: afterwards %+v", name, r)
		}
		last = r.Index
	}
	broken.Store(true)
	fails("promise", last+1)
	broken.Store(false)
	s.append("afterwards")
	s.sound()
}

// TestDuplicateInARefusedBatch: that a batch is refused is nothing to those of it that are logged.
func TestDuplicateInARefusedBatch(t *testing.T) {
	var c clock
	c.at.Store(1_800_000_000)
	s := newStage(t, func(config *Config) { config.now = c.now })
	s.open(true)
	s.append("old")
	s.close()
	s.config.BatchEntries, s.config.BatchWait = 2, time.Hour
	s.open(false)
	c.jump(-time.Hour)
	refused := make(chan error)
	go func() {
		_, err := s.within(time.Minute, "new")
		refused <- err
	}()
	if r := s.append("old"); r.Index != 0 || !r.Duplicate {
		t.Errorf("old: %+v", r)
	}
	if err := <-refused; !errors.Is(err, ErrClock) {
		t.Errorf("new: %v", err)
	}
}
