package store

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

func newDirectory(t *testing.T, cfg DirectoryConfig) *Directory {
	t.Helper()
	if cfg.Path == "" {
		cfg.Path = t.TempDir()
	}
	d, err := NewDirectory(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// holds expects exactly one pack in a folder, and nothing of one that was not finished.
func holds(t *testing.T, d *Directory, want string) {
	t.Helper()
	entries, err := os.ReadDir(d.cfg.Path)
	if err != nil {
		t.Fatal(err)
	}
	names := []string{}
	for _, entry := range entries {
		names = append(names, entry.Name())
	}
	if want := []string{lockFile, packName, packName + recordSuffix}; !slices.Equal(names, want) {
		t.Errorf("the folder has %q, want %q", names, want)
	}
	file := d.file(packName)
	if have, err := os.ReadFile(file); err != nil || string(have) != want {
		t.Errorf("the pack is another: %d bytes, %v", len(have), err)
	}
	if info, err := os.Stat(file); err != nil || info.Mode() != 0o444 {
		t.Errorf("mode %s, %v", info.Mode(), err)
	}
}

func TestDirectory(t *testing.T) {
	d := newDirectory(t, DirectoryConfig{})
	p := newPack(t, 1, 100_000)
	p.Retain = time.Now().Add(time.Hour)
	stored := put(t, d, p)
	if want := wholeSecond(p.Retain); !stored.RetainUntil.Equal(want) || stored.LegalHold || stored.Mode != "" || d.Name() != d.cfg.Path {
		t.Errorf("stored %+v, want it until %s", stored, want)
	}
	holds(t, d, p.bytes(t))

	// Again, also with a shorter retention: nothing changes.
	p.Retain = p.Retain.Add(-30 * time.Minute)
	before, err := os.ReadFile(d.file(packName) + recordSuffix)
	if err != nil {
		t.Fatal(err)
	}
	again := put(t, d, p)
	if after, err := os.ReadFile(d.file(packName) + recordSuffix); err != nil || string(after) != string(before) {
		t.Errorf("the record became %s, %v", after, err)
	}
	again.VerifiedAt = stored.VerifiedAt
	if again != stored {
		t.Errorf("stored %+v, then %+v", stored, again)
	}
	if listed := list(t, d); listed.VerifiedAt != (time.Time{}) || listed.SHA256 != p.SHA256 || !listed.RetainUntil.Equal(stored.RetainUntil) {
		t.Errorf("listed %+v, want %+v", listed, stored)
	}

	other := newPack(t, 2, 100_000)
	_, err = d.Put(t.Context(), other)
	refuse(t, err, ErrDiffers, true, "If an older database was restored")
	other.Size-- // and of another length
	if err := os.Truncate(other.Path, other.Size); err != nil {
		t.Fatal(err)
	}
	_, err = d.Put(t.Context(), other)
	refuse(t, err, ErrDiffers, true, "has 100000 bytes")
	holds(t, d, p.bytes(t))

	p.Retain = time.Now().Add(2 * time.Hour)
	if again := put(t, d, p); !again.RetainUntil.Equal(wholeSecond(p.Retain)) {
		t.Errorf("a longer retention is not taken: %+v", again)
	}
	if err := os.Chmod(d.file(packName), 0o644); err != nil {
		t.Fatal(err)
	}
	put(t, d, p)
	holds(t, d, p.bytes(t))
}

func TestDirectoryRetention(t *testing.T) {
	d := newDirectory(t, DirectoryConfig{Name: "vault", Retention: 1000 * time.Hour, LegalHold: true})
	p := newPack(t, 1, 10)
	start := time.Now().Truncate(time.Second)
	stored := put(t, d, p)
	if left := stored.RetainUntil.Sub(start); left < 1000*time.Hour || left > 1001*time.Hour || !stored.LegalHold || d.Name() != "vault" {
		t.Errorf("stored %+v", stored)
	}
	ctx, until := t.Context(), stored.RetainUntil
	refuse(t, d.Extend(ctx, p.Name, until.Add(-time.Second)), ErrShorter, true, "ours only to extend")
	for _, later := range []time.Duration{0, time.Millisecond, time.Second, time.Hour} {
		if err := d.Extend(ctx, p.Name, until.Add(later)); err != nil {
			t.Error(err)
		}
	}
	if err := d.Hold(ctx, p.Name, false); err != nil {
		t.Error(err)
	}
	if s := list(t, d); s.LegalHold || !s.RetainUntil.Equal(until.Add(time.Hour)) {
		t.Errorf("listed %+v", s)
	}
	if err := d.Hold(ctx, p.Name, true); err != nil || !list(t, d).LegalHold {
		t.Errorf("the hold is not back: %v", err)
	}
	refuse(t, d.Hold(ctx, "no.tar", true), ErrNotFound, true, "list of packs")
	refuse(t, d.Extend(ctx, "no.tar", until), ErrNotFound, true, "list of packs")
	refuse(t, d.Extend(ctx, p.Name, time.Date(10_000, 1, 1, 0, 0, 0, 0, time.UTC)), nil, true, "year 10000")

	// The retention of the destination counts from when the pack was stored.
	if err := os.Chtimes(d.file(p.Name), start, start.Add(-900*time.Hour)); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(d.file(p.Name) + recordSuffix); err != nil {
		t.Fatal(err)
	}
	if s := put(t, d, p); s.RetainUntil.Sub(start) != 100*time.Hour {
		t.Errorf("an old pack is retained until %s", s.RetainUntil)
	}
}

// TestDirectoryRecord: what a record says is not lost, whatever becomes of its pack, and is
// not guessed.
func TestDirectoryRecord(t *testing.T) {
	d := newDirectory(t, DirectoryConfig{})
	p := newPack(t, 1, 1000)
	p.Retain = time.Now().Add(time.Hour)
	until := put(t, d, p).RetainUntil
	if err := os.Remove(d.file(p.Name)); err != nil {
		t.Fatal(err)
	}
	_, err := d.Put(t.Context(), newPack(t, 2, 1000))
	refuse(t, err, ErrDiffers, true, "was taken away")
	p.Retain = time.Time{}
	if s := put(t, d, p); !s.RetainUntil.Equal(until) {
		t.Errorf("stored %+v, retained until %s before", s, until)
	}

	record := d.file(p.Name) + recordSuffix
	good, err := os.ReadFile(record)
	if err != nil {
		t.Fatal(err)
	}
	for _, bad := range []string{"", "{}", "null", string(good) + " ", string(good[:len(good)-3]), strings.Replace(string(good), "size", "sise", 1), strings.ToUpper(string(good)), strings.Replace(string(good), `"sha256": "`, `"sha256": "00`, 1)} {
		if err := os.WriteFile(record, []byte(bad), 0o644); err != nil {
			t.Fatal(err)
		}
		_, err := d.Put(t.Context(), p)
		refuse(t, err, nil, true, "how long the pack is retained")
		refuse(t, d.Extend(t.Context(), p.Name, until), nil, true, "how long the pack is retained")
		_, err = d.List(t.Context())
		refuse(t, err, nil, true, "how long the pack is retained")
		if have, err := os.ReadFile(record); err != nil || string(have) != bad {
			t.Errorf("the record was changed into %q, %v", have, err)
		}
	}

	// A pack that somebody copied there has a record from the first change on.
	if err := os.Remove(record); err != nil {
		t.Fatal(err)
	}
	if s := list(t, d); s.SHA256 != [32]byte{} || s.Size != p.Size {
		t.Errorf("listed %+v", s)
	}
	if err := d.Hold(t.Context(), p.Name, true); err != nil {
		t.Fatal(err)
	}
	if s := list(t, d); s.SHA256 != p.SHA256 || !s.LegalHold {
		t.Errorf("listed %+v", s)
	}
}

func TestDirectoryOddThings(t *testing.T) {
	p := newPack(t, 1, 1000)
	// A link with the pack's name, also to the same bytes, is no copy of it.
	d := newDirectory(t, DirectoryConfig{})
	if err := os.Symlink(p.Path, d.file(p.Name)); err != nil {
		t.Fatal(err)
	}
	_, err := d.Put(t.Context(), p)
	refuse(t, err, ErrDiffers, true, "no regular file")
	refuse(t, d.Hold(t.Context(), p.Name, true), ErrNotFound, true, p.Name)
	if all, err := d.List(t.Context()); err != nil || len(all) != 0 {
		t.Errorf("listed %+v, %v", all, err)
	}
	// A folder that is not mounted is not made.
	d = newDirectory(t, DirectoryConfig{Path: filepath.Join(t.TempDir(), "mnt")})
	_, err = d.Put(t.Context(), p)
	refuse(t, err, nil, false, "is it mounted?")
	if _, err := os.Stat(d.cfg.Path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("it was made: %v", err)
	}
	for _, cfg := range []DirectoryConfig{{}, {Path: "a", Retention: -1}} {
		if _, err := NewDirectory(cfg); err == nil {
			t.Errorf("%+v is taken", cfg)
		}
	}
}

// TestDirectoryTwoProcesses: another process at work is waited for; several that store the same
// all succeed.
func TestDirectoryTwoProcesses(t *testing.T) {
	folder := t.TempDir()
	p := newPack(t, 1, 100_000)
	first := newDirectory(t, DirectoryConfig{Path: folder})
	unlock, err := first.lock(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	_, err = newDirectory(t, DirectoryConfig{Path: folder}).Put(ctx, p)
	refuse(t, err, context.DeadlineExceeded, false, "another process is busy")
	_, err = first.Put(ctx, p)
	refuse(t, err, context.DeadlineExceeded, false, "")
	unlock()

	var group sync.WaitGroup
	for range 4 {
		d := newDirectory(t, DirectoryConfig{Path: folder})
		for range 2 {
			group.Go(func() {
				if _, err := d.Put(t.Context(), p); err != nil {
					t.Error(err)
				}
			})
		}
	}
	group.Wait()
	holds(t, first, p.bytes(t))
}

// fail returns a hook that has the k-th step fail, after or before it took effect, and how
// many steps there were.
func fail(k int, after bool, failed func() error) (hook func(string, func() error) error, steps *int) {
	steps = new(int)
	return func(name string, step func() error) error {
		*steps++
		if *steps-1 != k {
			return step()
		}
		if after {
			if err := step(); err != nil {
				return err
			}
		}
		return fmt.Errorf("%s: %w", name, failed())
	}, steps
}

// TestDirectoryFaults has each step of Put fail: a pack is there as a whole or not at all, and
// the next Put leaves nothing else.
func TestDirectoryFaults(t *testing.T) {
	injected := errors.New("injected")
	for _, after := range []bool{false, true} {
		for k, done := 0, false; !done; k++ {
			d := newDirectory(t, DirectoryConfig{Retention: time.Hour})
			p := newPack(t, 1, 100_000)
			hook, steps := fail(k, after, func() error { return injected })
			d.testingOnlyStep = hook
			_, err := d.Put(t.Context(), p)
			if done = *steps <= k; done {
				if err != nil || k < 8 {
					t.Errorf("%d steps, %v", k, err)
				}
			} else if !errors.Is(err, injected) {
				t.Errorf("step %d fails, and Put returns %v", k, err)
			}
			if have, err := os.ReadFile(d.file(p.Name)); err == nil && string(have) != p.bytes(t) || err != nil && !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("after a failed step %d: %d bytes, %v", k, len(have), err)
			}
			d.testingOnlyStep = nil
			if s := put(t, d, p); s.RetainUntil.IsZero() {
				t.Errorf("stored %+v", s)
			}
			holds(t, d, p.bytes(t))
		}
	}
}

// TestDirectoryLies: bytes that the disk gives back differently are no pack.
func TestDirectoryLies(t *testing.T) {
	d := newDirectory(t, DirectoryConfig{})
	p := newPack(t, 1, 100_000)
	d.testingOnlyStep = func(name string, step func() error) error {
		err := step()
		if name == "sync" {
			entries, _ := filepath.Glob(d.file(unfinished + "*"))
			err = errors.Join(err, os.Chmod(entries[0], 0o600), os.WriteFile(entries[0], make([]byte, p.Size), 0o600))
		}
		return err
	}
	_, err := d.Put(t.Context(), p)
	refuse(t, err, ErrNotStored, false, "what was written has 100000 bytes")
	if _, err := os.Stat(d.file(p.Name)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("it is there: %v", err)
	}
	d.testingOnlyStep = nil
	put(t, d, p)
	holds(t, d, p.bytes(t))
}

// TestDirectoryRace: a pack that appears while another is copied is not replaced.
func TestDirectoryRace(t *testing.T) {
	for seed, want := range map[byte]error{1: nil, 2: ErrDiffers} {
		d := newDirectory(t, DirectoryConfig{})
		p, theirs := newPack(t, 1, 1000), newPack(t, seed, 1000)
		d.testingOnlyStep = func(name string, step func() error) error {
			if name == "link" {
				mine, err := filepath.Glob(d.file(unfinished + "*"))
				if err != nil || len(mine) != 1 {
					t.Fatal(mine, err)
				}
				if info, err := os.Stat(mine[0]); err != nil || info.Mode() != 0o444 {
					t.Errorf("it would appear with mode %s, %v", info.Mode(), err)
				}
				if err := os.WriteFile(d.file(p.Name), []byte(theirs.bytes(t)), 0o444); err != nil {
					t.Fatal(err)
				}
			}
			return step()
		}
		if _, err := d.Put(t.Context(), p); !errors.Is(err, want) {
			t.Errorf("%v, want %v", err, want)
		}
		if have, err := os.ReadFile(d.file(p.Name)); err != nil || string(have) != theirs.bytes(t) {
			t.Errorf("theirs was replaced: %v", err)
		}
	}
}
