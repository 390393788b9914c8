//go:build linux

package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/transparency-dev/tessera"
	"github.com/transparency-dev/tessera/storage/posix"

	"github.com/understudy-log/understudy/storage"
)

// batch is how many entries one commit holds.
const batch = 4096

func (b *bench) measureAppend(ctx context.Context) error {
	var ours, theirs sample
	err := b.inTurns(ctx, func() error {
		if err := os.RemoveAll(b.appended()); err != nil {
			return err
		}
		elapsed, err := b.extend(b.appended())
		b.addRate(&ours, "Tree.Extend", elapsed)
		return err
	}, func() error {
		dir := filepath.Join(b.dir, "tessera-append")
		defer os.RemoveAll(dir)
		elapsed, err := b.tesseraAppend(ctx, dir)
		b.addRate(&theirs, "Tessera append", elapsed)
		return err
	})
	if err != nil {
		return err
	}
	b.compare("append in batches of 4,096, synced", "entries/s", ours, "Tessera's POSIX storage", theirs, "≥ 3")
	return nil
}

// appended is the folder that the last run of extend leaves behind.
func (b *bench) appended() string { return filepath.Join(b.dir, "extended") }

// extend appends the whole log to a new tree, as a private log does: each batch is
// committed, synced and signed.
func (b *bench) extend(dir string) (elapsed time.Duration, err error) {
	db, err := storage.Create(dir, storage.Options{})
	if err != nil {
		return 0, err
	}
	defer func() {
		if e := db.Close(); err == nil {
			err = e
		}
	}()
	tree, err := db.CreateTree(origin)
	if err != nil {
		return 0, err
	}
	start := time.Now()
	done := make(chan struct{})
	defer close(done)
	batches, failed := b.upstream.batches(done)
	for entries := range batches {
		if _, err := tree.Extend(entries, b.sign); err != nil {
			return 0, err
		}
	}
	elapsed = time.Since(start)
	select {
	case err := <-failed:
		return 0, err
	default:
	}
	if got, want := tree.State().Head.Root, storage.Hash(b.upstream.log.Root(b.upstream.size)); got != want {
		return 0, fmt.Errorf("root is %v, want %v", got, want)
	}
	return elapsed, nil
}

func (b *bench) sign(next storage.Head) (storage.Seal, error) {
	now := time.Now()
	return storage.Seal{Checkpoint: storage.Checkpoint{Head: next, Raw: b.upstream.note(next), FirstSeen: now, LastSeen: now}}, nil
}

// tesseraAppend appends the whole log to Tessera's POSIX storage, which syncs every
// file. In its favour: up to four batches are on their way at once, and the
// clock stops when the last entry is integrated, before its checkpoint is published.
func (b *bench) tesseraAppend(ctx context.Context, dir string) (elapsed time.Duration, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	driver, err := posix.New(ctx, posix.Config{Path: dir})
	if err != nil {
		return 0, err
	}
	appender, shutdown, _, err := tessera.NewAppender(ctx, driver, tessera.NewAppendOptions().
		WithCheckpointSigner(b.upstream.log.Key).
		WithBatching(batch, time.Second).
		WithPushback(8*batch).
		WithCheckpointInterval(time.Second))
	if err != nil {
		return 0, err
	}
	start := time.Now()
	done := make(chan struct{})
	defer close(done)
	batches, failed := b.upstream.batches(done)
	var waiting [][]tessera.IndexFuture
	next := uint64(0)
	settle := func() error {
		for _, future := range waiting[0] {
			got, err := future()
			if err != nil {
				return err
			}
			if got.Index != next {
				return fmt.Errorf("entry %d got index %d", next, got.Index)
			}
			next++
		}
		waiting = waiting[1:]
		return nil
	}
	for entries := range batches {
		futures := make([]tessera.IndexFuture, len(entries))
		for i, entry := range entries {
			futures[i] = appender.Add(ctx, tessera.NewEntry(entry))
		}
		if waiting = append(waiting, futures); len(waiting) == 4 {
			if err := settle(); err != nil {
				return 0, err
			}
		}
	}
	for len(waiting) > 0 {
		if err := settle(); err != nil {
			return 0, err
		}
	}
	elapsed = time.Since(start)
	select {
	case err := <-failed:
		return 0, err
	default:
		return elapsed, shutdown(ctx)
	}
}
