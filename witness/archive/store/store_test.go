package store

import (
	"context"
	"crypto/sha256"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

const packName = "understudy-evidence-000012-2026-11-23.tar"

// newPack makes a file of pseudo-random bytes into a pack.
func newPack(t *testing.T, seed byte, size int) Pack {
	t.Helper()
	data := make([]byte, size)
	rand.NewChaCha8([32]byte{seed}).Read(data)
	file := filepath.Join(t.TempDir(), "pack")
	if err := os.WriteFile(file, data, 0o600); err != nil {
		t.Fatal(err)
	}
	return Pack{Name: packName, Path: file, Size: int64(size), SHA256: sha256.Sum256(data)}
}

func (p Pack) bytes(t *testing.T) string {
	t.Helper()
	data, err := os.ReadFile(p.Path)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// put stores what has to be stored.
func put(t *testing.T, d Destination, p Pack) Stored {
	t.Helper()
	stored, err := d.Put(t.Context(), p)
	if err != nil {
		t.Fatal(err)
	}
	if stored.Name != p.Name || stored.Size != p.Size || stored.SHA256 != p.SHA256 || time.Since(stored.VerifiedAt) > time.Minute {
		t.Fatalf("stored %+v of %+v", stored, p)
	}
	return stored
}

// refuse expects an error of a kind, which people are told about as says.
func refuse(t *testing.T, err, kind error, permanent bool, says string) {
	t.Helper()
	if err == nil || kind != nil && !errors.Is(err, kind) || !strings.Contains(err.Error(), says) || errors.As(err, new(*Permanent)) != permanent {
		t.Errorf("%v (permanent: %t), want %v (permanent: %t) that says %q", err, errors.As(err, new(*Permanent)), kind, permanent, says)
	}
}

// list returns the one pack of a destination.
func list(t *testing.T, d Destination) Stored {
	t.Helper()
	all, err := d.List(t.Context())
	if err != nil || len(all) != 1 {
		t.Fatalf("listed %+v, %v, want one pack", all, err)
	}
	return all[0]
}

func TestNames(t *testing.T) {
	d, err := NewDirectory(DirectoryConfig{Path: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	p := newPack(t, 1, 10)
	for _, bad := range []string{"", ".", "..", ".lock", ".new-1", "a/b", "../a", "a\\b", "a b", "a\n", "ä.tar", "a.tar.retention.json", "a\x00", strings.Repeat("a", maxName+1), "~", "a:b"} {
		p.Name = bad
		_, err := d.Put(t.Context(), p)
		refuse(t, err, nil, true, "no name for a pack")
		refuse(t, d.Hold(t.Context(), bad, true), nil, true, "no name for a pack")
		refuse(t, d.Extend(t.Context(), bad, time.Now()), nil, true, "no name for a pack")
	}
	for _, good := range []string{packName, "a", "-", "_.", strings.Repeat("a", maxName), "0..tar", "retention.json"} {
		p.Name = good
		put(t, d, p)
	}
	for _, p := range []Pack{{Name: "a", Path: p.Path, Size: 10}, {Name: "a", Path: p.Path, SHA256: p.SHA256}, {Name: "a", Path: p.Path, SHA256: p.SHA256, Size: -1}} {
		_, err := d.Put(t.Context(), p)
		refuse(t, err, nil, true, "no size or no SHA-256")
	}
}

// TestChangedFile: a file that is no longer the pack is stored nowhere.
func TestChangedFile(t *testing.T) {
	fake := newFake(t)
	d, err := NewDirectory(DirectoryConfig{Path: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	for _, to := range []Destination{d, fake.store(t, locked)} {
		for says, edit := range map[string]func(p *Pack){
			"not 1000 of": func(p *Pack) {
				if err := os.WriteFile(p.Path, make([]byte, p.Size), 0o600); err != nil {
					t.Fatal(err)
				}
			},
			"is no file of 1000 bytes": func(p *Pack) {
				if err := os.Truncate(p.Path, p.Size-1); err != nil {
					t.Fatal(err)
				}
			},
			"is no file of 1001 bytes": func(p *Pack) { p.Size++ },
			"changed since it was":     func(p *Pack) { p.Path = t.TempDir() },
		} {
			p := newPack(t, 1, 1000)
			edit(&p)
			_, err := to.Put(t.Context(), p)
			refuse(t, err, nil, true, says)
		}
		p := newPack(t, 1, 1000)
		p.Path += "-is-not-here"
		_, err := to.Put(t.Context(), p)
		refuse(t, err, os.ErrNotExist, false, "open pack")
		if all, err := to.List(t.Context()); err != nil || len(all) != 0 {
			t.Errorf("%s has %v, %v", to.Name(), all, err)
		}
	}
}

func TestWholeSecond(t *testing.T) {
	at := time.Date(2033, 1, 2, 3, 4, 5, 0, time.FixedZone("", 3600))
	for _, c := range []struct{ in, want time.Time }{
		{at, at}, {at.Add(1), at.Add(time.Second)}, {at.Add(-1), at}, {time.Time{}, time.Time{}},
	} {
		if got := wholeSecond(c.in); !got.Equal(c.want) || got.Location() != time.UTC {
			t.Errorf("%s becomes %s, want %s", c.in, got, c.want)
		}
	}
}

// TestEnd: every method ends with its context.
func TestEnd(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	fake := newFake(t)
	d, err := NewDirectory(DirectoryConfig{Path: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	for _, to := range []Destination{d, fake.store(t, locked)} {
		p := newPack(t, 1, 1000)
		put(t, to, p)
		p.Name = "another"
		if _, err := to.Put(ctx, p); !errors.Is(err, context.Canceled) {
			t.Errorf("%s: Put returns %v", to.Name(), err)
		}
		if all, err := to.List(ctx); !errors.Is(err, context.Canceled) {
			t.Errorf("%s: List returns %v, %v", to.Name(), all, err)
		}
	}
}
