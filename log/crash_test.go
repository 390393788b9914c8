package log

import (
	"context"
	"errors"
	"fmt"
	"maps"
	mathrand "math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"github.com/understudy-log/understudy/storage"
)

// a life is what a scripted log has promised so far.
type life struct {
	answered  map[string]Receipt
	published storage.Checkpoint
	shown     storage.Head // to the witness
}

// script is what is done, one step after the other: an empty one is a restart, else the bodies are
// appended at once.
var script = [][]string{{"a"}, {"b", "c", "d"}, {}, {"c", "e"}, {"f"}}

// TestCrashAtEveryWrite plays a script and takes two copies of the disk before every change of it: one
// with nothing that was not synced, one with half of it. In each the log opens, or is made if it was
// not yet, publishes no less than before, has everything that it answered, and plays the rest.
func TestCrashAtEveryWrite(t *testing.T) {
	if testing.Short() {
		t.Skip("slow with the race detector; make test runs it")
	}
	for _, witnessed := range []bool{false, true} {
		t.Run(fmt.Sprint("witnesses ", witnessed), func(t *testing.T) { crashEverywhere(t, witnessed) })
	}
}

func crashEverywhere(t *testing.T, witnessed bool) {
	w := &witness{t: t}
	s := newStage(t, func(c *Config) {
		c.BatchWait = time.Nanosecond
		if witnessed {
			c.Cosign = w.Cosign
		}
	})
	var (
		mu      sync.Mutex // guards all below; held through a crash
		now     = life{answered: map[string]Receipt{}}
		draw    = mathrand.New(mathrand.NewPCG(7, 7))
		crashes int
	)
	note := func(change func()) {
		mu.Lock()
		defer mu.Unlock()
		change()
	}
	crash := func(o errorfs.Op) error {
		if o.Kind.ReadOrWrite() == errorfs.OpIsRead || o.Kind == errorfs.OpFileClose || o.Kind == errorfs.OpLock || o.Kind == errorfs.OpFilePreallocate {
			return nil
		}
		mu.Lock()
		defer mu.Unlock()
		for _, percent := range []int{0, 50} {
			if t.Failed() {
				return nil
			}
			clone := s.disk.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: percent, RNG: draw})
			crashes++
			w.mu.Lock()
			now.shown = w.head
			w.mu.Unlock()
			if err := s.survives(clone, now, witnessed); err != nil {
				t.Errorf("crash %d, %d %% of what was not synced survives, before a change of %s: %v", crashes, percent, o.Path, err)
			}
		}
		return nil
	}
	s.ask.Store(&crash)
	s.open(true)
	for _, bodies := range script {
		if len(bodies) == 0 {
			s.close()
			s.open(false)
			continue
		}
		var appends sync.WaitGroup
		for _, body := range bodies {
			appends.Go(func() {
				r := s.append(body)
				note(func() {
					now.answered[body] = r
					if r.Checkpoint.Size > now.published.Size {
						now.published = r.Checkpoint
					}
				})
			})
		}
		appends.Wait()
	}
	s.close()
	mu.Lock()
	defer mu.Unlock()
	t.Logf("%d crashes", crashes)
	if crashes < 100 {
		t.Errorf("only %d moments to crash at", crashes)
	}
}

// survives opens what a crash left of a life, and goes on.
func (s *stage) survives(disk *vfs.MemFS, before life, witnessed bool) (err error) {
	w := &witness{t: s.t, head: before.shown}
	after := &stage{t: s.t, disk: disk, config: s.config}
	if witnessed {
		after.config.Cosign = w.Cosign
	}
	defer after.close()
	err = after.tryOpen(false)
	if errors.Is(err, storage.ErrNotExist) && len(before.answered) == 0 {
		after.close()
		err = after.tryOpen(true)
	}
	if err != nil {
		return err
	}
	if got := after.log.Published(); before.published.Raw != nil && got.Size < before.published.Size {
		return fmt.Errorf("%d was published, and now %d is", before.published.Size, got.Size)
	}
	if size := after.newest.Of(testOrigin).Size; size < max(before.published.Size, before.shown.Size) {
		return fmt.Errorf("%d was published and %d shown to the witness, and %d is remembered", before.published.Size, before.shown.Size, size)
	}
	if err := after.has(before.published); err != nil {
		return err
	}
	if err := soundness(after.log); err != nil {
		return err
	}
	known := maps.Clone(before.answered)
	used := map[uint64]string{}
	for body := range known {
		used[known[body].Index] = body
	}
	for body, got := range after.appendAll() {
		if got.err != nil {
			return got.err
		}
		if err := after.check(body, got.Receipt); err != nil {
			return err
		}
		r, old := got.Receipt, known[body]
		if old.Promise != nil && (r.Index != old.Index || string(r.Promise) != string(old.Promise) || !r.Duplicate) {
			return fmt.Errorf("%s was answered with %+v, and is with %+v", body, old, r)
		}
		if other, taken := used[r.Index]; taken && other != body {
			return fmt.Errorf("%s and %s are both at %d", body, other, r.Index)
		}
		known[body], used[r.Index] = r, body
	}
	if size := after.log.Tree().State().Head.Size; size != uint64(len(known)) {
		return fmt.Errorf("%d entries, want %d", size, len(known))
	}
	return soundness(after.log)
}

// answer is what Append returned.
type answer struct {
	Receipt
	err error
}

// appendAll appends all of the script at once.
func (s *stage) appendAll() map[string]answer {
	var mu sync.Mutex // guards answers
	answers := map[string]answer{}
	var appends sync.WaitGroup
	for _, bodies := range script {
		for _, body := range bodies {
			appends.Go(func() {
				r, err := s.log.Append(context.Background(), entryOf(body))
				mu.Lock()
				defer mu.Unlock()
				answers[body] = answer{r, err}
			})
		}
	}
	appends.Wait()
	return answers
}

// has holds a checkpoint that was published against the tree.
func (s *stage) has(c storage.Checkpoint) error {
	if c.Raw == nil {
		return nil
	}
	view := s.log.Tree().View()
	defer view.Close()
	root, err := view.Root(c.Size)
	if err != nil || root != c.Root {
		return fmt.Errorf("of the published tree of %d the root was %v, and is %v: %w", c.Size, c.Root, root, err)
	}
	return nil
}
