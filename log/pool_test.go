package log

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/understudy-log/understudy/storage"
	"github.com/understudy-log/understudy/test/bubble"
)

// gate holds up promises, and with them the sequencing, until it is opened.
type gate struct {
	entered chan struct{}
	open    chan struct{}
}

func newGate() *gate { return &gate{make(chan struct{}, 1000), make(chan struct{})} }

func (g *gate) promise(index uint64, at int64, e *Entry) ([]byte, error) {
	g.entered <- struct{}{}
	<-g.open
	return fmt.Appendf(nil, "%d at %d: %s", index, at, e.Body), nil
}

// TestFull: beyond PoolEntries or PoolBytes an entry is refused at once, nothing of it is kept, and
// what was let in is answered.
func TestFull(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*Config)
		body   string
	}{
		"entries":         {func(c *Config) { c.PoolEntries = 10 }, "%d"},
		"bytes":           {func(c *Config) { c.PoolBytes = 10_500; c.ProposalKey = nil }, "%01000d"},
		"bytes of proofs": {func(c *Config) { c.PoolBytes = 10 * (4 + 12 + 4 + proposalHeader + 24 + 16) }, "%04d"},
	} {
		t.Run(name, func(t *testing.T) {
			g := newGate()
			s := newStage(t, func(config *Config) {
				config.Promise = g.promise
				config.BatchWait = time.Nanosecond
				c.change(config)
			})
			s.open(true)
			var appends sync.WaitGroup
			appends.Go(func() { s.append("first") })
			<-g.entered
			for i := range 10 {
				appends.Go(func() { s.append(fmt.Sprintf(c.body, i)) })
			}
			eventually(t, "ten wait", func() bool { return s.log.pool.size() == 10 })
			for i := range 100 {
				if _, err := s.within(time.Minute, fmt.Sprintf(c.body, 10+i)); !errors.Is(err, ErrFull) {
					t.Fatalf("beyond what may wait: %v", err)
				}
			}
			p := s.log.pool
			p.mu.Lock()
			if len(p.byLeaf) != 11 || p.bytes > p.maxBytes {
				t.Errorf("the pool knows %d entries and %d bytes of %d", len(p.byLeaf), p.bytes, p.maxBytes)
			}
			p.mu.Unlock()
			// One that waits already needs no room.
			appends.Go(func() {
				if r := s.append(fmt.Sprintf(c.body, 3)); !r.Duplicate {
					t.Error("joined, and not called a duplicate")
				}
			})
			close(g.open)
			appends.Wait()
			if size := s.log.Published().Size; size != 11 {
				t.Errorf("%d entries are published, want 11", size)
			}
			s.append("afterwards")
			if len(p.byLeaf) != 0 || p.bytes != 0 {
				t.Errorf("the pool still knows %d entries, %d bytes", len(p.byLeaf), p.bytes)
			}
			s.sound()
		})
	}
}

// TestTooLarge: at the limit an entry is logged, beyond it refused, by body and by proposal.
func TestTooLarge(t *testing.T) {
	s := newStage(t, func(c *Config) { c.MaxEntry, c.PoolBytes = 1000, 5000 })
	s.open(true)
	try := func(body, proposed int, want error) {
		t.Helper()
		_, err := s.log.Append(t.Context(), Entry{Body: bytes.Repeat([]byte{byte(body)}, body), Proposed: make([]byte, proposed)})
		if !errors.Is(err, want) {
			t.Errorf("body of %d, proposal of %d: %v, want %v", body, proposed, err, want)
		}
	}
	overhead := proposalHeader + 24 + 16
	try(1000, 0, nil)
	try(1001, 0, ErrTooLarge)
	try(999, 4001-overhead, nil)
	try(998, 4003-overhead, ErrTooLarge)
	try(0, 0, nil) // the empty entry is one, too
	s.sound()
}

// TestDuplicatesRace: of many at once, in the pool, in the batch and in the tree, one is logged.
func TestDuplicatesRace(t *testing.T) {
	s := newStage(t, func(c *Config) { c.BatchEntries, c.BatchWait = 7, time.Microsecond })
	s.open(true)
	const bodies, each = 40, 12
	var first [bodies]atomic.Int64
	var index [bodies]atomic.Int64
	var appends sync.WaitGroup
	for i := range bodies * each {
		appends.Go(func() {
			body := i % bodies
			r := s.append(fmt.Sprint("body ", body))
			if !r.Duplicate {
				first[body].Add(1)
			}
			if old := index[body].Swap(int64(r.Index) + 1); old != 0 && old != int64(r.Index)+1 {
				t.Errorf("body %d has the indexes %d and %d", body, old-1, r.Index)
			}
		})
	}
	appends.Wait()
	if size := s.log.Tree().State().Head.Size; size != bodies {
		t.Errorf("%d entries are logged, want %d", size, bodies)
	}
	for body := range bodies {
		if n := first[body].Load(); n != 1 {
			t.Errorf("body %d was new %d times", body, n)
		}
	}
	s.sound()
}

// TestGiveUp: who gives up may come again and gets the receipt of the first time.
func TestGiveUp(t *testing.T) {
	g := newGate()
	s := newStage(t, func(c *Config) { c.Promise = g.promise })
	s.open(true)
	ctx, cancel := context.WithCancel(t.Context())
	go func() { <-g.entered; cancel() }()
	if _, err := s.log.Append(ctx, entryOf("impatient")); !errors.Is(err, context.Canceled) {
		t.Errorf("gave up: %v", err)
	}
	close(g.open)
	if r := s.append("impatient"); r.Index != 0 || !r.Duplicate {
		t.Errorf("again: %+v", r)
	}
	s.sound()
}

// TestDuplicatesAskNobody: a batch with nothing new makes no checkpoint, so that appending the same
// again and again costs no signature and asks no witness.
func TestDuplicatesAskNobody(t *testing.T) {
	w := &witness{t: t}
	s := newStage(t, func(c *Config) { c.Cosign = w.Cosign; c.Interval = time.Hour })
	s.open(true)
	s.append("once")
	eventually(t, "the first is published", func() bool { return s.log.Published().Size == 1 })
	before, published := w.times(), s.log.Published()
	for range 20 {
		s.append("once")
	}
	time.Sleep(20 * time.Millisecond)
	if after := w.times(); after > before+1 || string(s.log.Published().Raw) != string(published.Raw) {
		t.Errorf("witnesses were asked %d times for 20 duplicates", after-before)
	}
}

// TestStopUnderFlood: the log stops while more and more comes, and everybody is answered; once Run
// has returned nobody uses the database any more, so that it can be closed.
func TestStopUnderFlood(t *testing.T) {
	for round := range 10 {
		s := newStage(t, func(c *Config) { c.BatchEntries, c.BatchWait = 1, time.Nanosecond })
		s.open(true)
		l := s.log
		var appends sync.WaitGroup
		var answered sync.Map
		var next atomic.Int64
		for range 256 {
			appends.Go(func() {
				for {
					body := fmt.Sprint(next.Add(1))
					r, err := l.Append(context.Background(), entryOf(body))
					if err == nil {
						answered.Store(body, r)
						continue
					}
					if !errors.Is(err, ErrStopping) && !errors.Is(err, ErrFull) {
						t.Errorf("append while it stops: %v", err)
					}
					if errors.Is(err, ErrStopping) {
						return
					}
				}
			})
		}
		time.Sleep(time.Duration(5+round) * time.Millisecond)
		stopped := make(chan struct{})
		go func() { s.close(); close(stopped) }()
		select {
		case <-stopped:
		case <-time.After(20 * time.Second):
			t.Fatal("it does not stop while entries come")
		}
		appends.Wait()
		s.open(false)
		answered.Range(func(body, r any) bool {
			index, ok, err := s.log.FindLeaf(storage.LeafHash([]byte(body.(string))))
			if index != r.(Receipt).Index || !ok || err != nil {
				t.Errorf("%s was answered at %d and is at %d %v %v", body, r.(Receipt).Index, index, ok, err)
			}
			return true
		})
		s.sound()
		s.close()
	}
}

// TestStopWithHalfABatch: what waits for others is sequenced at once when the log stops, and published,
// also if witnesses need a while.
func TestStopWithHalfABatch(t *testing.T) {
	for range 10 {
		bubble.Run(t, func(t *testing.T) {
			w := &witness{t: t}
			s := newStage(t, func(c *Config) { c.BatchWait = time.Hour; c.Cosign = w.Cosign })
			s.open(true)
			var appends sync.WaitGroup
			appends.Go(func() { s.append("0") })
			time.Sleep(time.Second)
			w.will(func(ctx context.Context, _ storage.Checkpoint) error {
				select {
				case <-time.After(2 * time.Second):
					return nil
				case <-ctx.Done():
					return ctx.Err()
				}
			})
			began := time.Now()
			if err := s.stop(); err != nil || time.Since(began) > drainTime {
				t.Errorf("stopped after %v: %v", time.Since(began), err)
			}
			appends.Wait()
			s.close()
		})
	}
}
