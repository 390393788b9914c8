package storage

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// TestReadersWhileGrowing reads and checks views of a tree while it grows, is advanced,
// flushed, backed up and checked. Each view stays what it was; run it with -race.
func TestReadersWhileGrowing(t *testing.T) {
	const first, most, readers, least = 400, 1500, 3, 20
	entries := testEntries(most)
	naive := newNaiveTree(entries)
	o := Options{FS: vfs.NewMem()}
	db := createDB(t, o)
	extend(t, createTree(t, db, "log"), entries[:first])
	o.SearchKeys = testKeys // the index is made while the tree grows
	db = reopen(t, db, o)
	defer func() { closeDB(t, db) }()
	tree := openTree(t, db, "log")
	done := make(chan struct{})
	var lock sync.Mutex // guards naive
	var views atomic.Int64
	read := func() error {
		v := tree.View()
		defer v.Close()
		views.Add(1)
		s := v.State()
		if s.Head.Size == 0 {
			return nil
		}
		i, last := s.Head.Size*2/3, s.Head.Size-1
		path, err := v.InclusionProof(i, s.Pending.Size)
		if err != nil {
			return err
		}
		consistency, err := v.ConsistencyProof(i+1, s.Head.Size)
		if err != nil {
			return err
		}
		entry, err := v.Entry(last)
		if err != nil {
			return err
		}
		index, ok, err := v.Index(LeafHash(entry))
		if err != nil {
			return err
		}
		var found []uint64
		if err := v.Search(testKeys(entry)[0], func(index uint64) error { found = append(found, index); return nil }); err != nil {
			return err
		}
		if start, _ := v.Indexed(); start < last {
			for at := start; at <= last; at++ {
				if has := slices.Contains(testKeys(entries[at]), testKeys(entry)[0]); has != slices.Contains(found, at) {
					return fmt.Errorf("search in [%d, %d]: entry %d has the key: %v, and is found: %v", start, last, at, has, !has)
				}
			}
		}
		c, held, err := v.Checkpoint(s.Pending.Size)
		if err != nil {
			return err
		}
		lock.Lock()
		defer lock.Unlock()
		switch {
		case s.Head != naive.head(s.Head.Size):
			return fmt.Errorf("head is %+v", s.Head)
		case !slices.Equal(path, naive.inclusion(i, s.Pending.Size)):
			return fmt.Errorf("inclusion of %d at %d is %v", i, s.Pending.Size, path)
		case !slices.Equal(consistency, naive.consistency(i+1, s.Head.Size)):
			return fmt.Errorf("consistency of %d with %d is %v", i+1, s.Head.Size, consistency)
		case !bytes.Equal(entry, entries[last]) || !ok || index != last:
			return fmt.Errorf("entry %d is %q, at %d", last, entry, index)
		case !held || c.Root != naive.mth(0, s.Pending.Size):
			return fmt.Errorf("checkpoint of size %d is %+v", s.Pending.Size, c)
		case !errors.Is(second(v.Entry(s.Head.Size)), ErrNotHeld):
			return fmt.Errorf("there is more than the %d entries of the view", s.Head.Size)
		}
		return nil
	}
	check := func() error {
		report, err := tree.Check(context.Background(), CheckOptions{})
		if err == nil && len(report.Problems) > 0 {
			err = fmt.Errorf("check: %v", report.Problems)
		}
		return err
	}
	var running sync.WaitGroup
	forever := func(do func() error) {
		running.Go(func() {
			for {
				if err := do(); err != nil {
					t.Error(err)
					return
				}
				select {
				case <-done:
					return
				default:
				}
			}
		})
	}
	for range readers {
		forever(read)
	}
	forever(check)
	forever(func() error { return second(tree.IndexSome(context.Background(), 50)) })
	// A waiter sees every size that it is told of, and the last.
	running.Go(func() {
		for {
			changed := tree.Changed()
			if tree.State().Head.Size == most {
				return
			}
			<-changed
		}
	})
	for held, pending := uint64(first), uint64(first); held < most || views.Load() < least; {
		if held == pending && held < most {
			next := min(held+97, most)
			lock.Lock()
			c, proof := note("log", naive.head(next), "s"), naive.consistency(held, next)
			lock.Unlock()
			if _, err := tree.Advance(c, proof, proof); err != nil {
				t.Fatal(err)
			}
			pending = next
		}
		next := min(held+31, pending)
		lock.Lock()
		proof := naive.consistency(next, pending)
		lock.Unlock()
		if _, err := tree.Extend(entries[held:next], under(tree.State().Pending, proof)); err != nil {
			t.Fatal(err)
		}
		held = next
		if held%5 == 0 {
			if err := db.pebble.Flush(); err != nil {
				t.Fatal(err)
			}
		}
		if held%7 == 0 && held < most {
			if err := db.Backup(fmt.Sprintf("backup of %d", held)); err != nil {
				t.Fatal(err)
			}
		}
	}
	close(done)
	running.Wait()
	checkTree(t, tree)
}
