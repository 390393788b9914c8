package store

import (
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// DirectoryConfig says which folder a Directory is. Path must be set.
type DirectoryConfig struct {
	Name      string        // empty: Path
	Path      string        // a folder that exists when a pack is put there: one that is not mounted is not made
	Retention time.Duration // of a pack that says none, counted from when it was stored; 0: none
	LegalHold bool          // put every pack under legal hold
}

// Directory keeps packs as files in a folder, each with a record of its retention beside
// it, which is what tells people: a folder does not keep anybody from deleting. The
// files can be read only. Several processes may use one folder.
type Directory struct {
	cfg  DirectoryConfig
	turn chan struct{} // has one element while a method is at work

	// testingOnlyStep, unless nil, is called in the place of every step that changes the
	// folder or makes that durable.
	testingOnlyStep func(name string, step func() error) error
}

var _ Destination = (*Directory)(nil)

// Files of ours begin with a dot, which no pack does.
const (
	lockFile     = ".lock"
	unfinished   = ".new-"
	recordSuffix = ".retention.json"
)

// NewDirectory returns a Directory. It does not look at the folder.
func NewDirectory(cfg DirectoryConfig) (*Directory, error) {
	switch {
	case cfg.Path == "":
		return nil, errors.New("a folder for packs needs a path")
	case cfg.Retention < 0:
		return nil, fmt.Errorf("retention %s is negative", cfg.Retention)
	}
	cfg.Name = cmp.Or(cfg.Name, cfg.Path)
	return &Directory{cfg: cfg, turn: make(chan struct{}, 1)}, nil
}

// Name returns the name from the configuration.
func (d *Directory) Name() string { return d.cfg.Name }

// Put copies a pack into the folder. It appears there as a whole, by a hard link that takes
// nobody's place, after it was read back.
func (d *Directory) Put(ctx context.Context, p Pack) (Stored, error) {
	if err := p.check(); err != nil {
		return Stored{}, err
	}
	unlock, err := d.lock(ctx)
	if err != nil {
		return Stored{}, err
	}
	defer unlock()
	if err := d.sweep(); err != nil {
		return Stored{}, err
	}
	if _, err := os.Lstat(d.file(p.Name)); errors.Is(err, fs.ErrNotExist) {
		// The record of a pack that somebody took away still says which it was.
		if r, err := d.record(p.Name); err == nil && r.SHA256 != hexSum(p.SHA256) {
			return Stored{}, differs(p.Name, d.cfg.Path, "was taken away, as its record tells")
		} else if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return Stored{}, err
		}
		if err := d.add(ctx, p); err != nil {
			return Stored{}, fmt.Errorf("store %s in %s: %w", p.Name, d.cfg.Path, err)
		}
	} else if err != nil {
		return Stored{}, err
	}
	return d.settle(ctx, p)
}

// add copies a pack under another name, reads it back, and gives it its own.
func (d *Directory) add(ctx context.Context, p Pack) error {
	from, err := p.open()
	if err != nil {
		return err
	}
	defer from.Close()
	f, err := os.CreateTemp(d.cfg.Path, unfinished+"*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) // a crash before this leaves it to sweep
	defer f.Close()           // does nothing after the one below
	sum := sha256.New()
	err = d.step("write", func() error {
		n, err := copyContext(ctx, io.MultiWriter(f, sum), from, p.Size+1)
		if err != nil {
			return err
		}
		if have, same := p.is(n, sum); !same {
			return p.changed(have)
		}
		return nil
	})
	if err != nil {
		return err
	}
	if err := d.step("sync", func() error { return errors.Join(f.Chmod(0o444), f.Sync(), f.Close()) }); err != nil {
		return err
	}
	if have, same, err := d.readBack(ctx, f.Name(), p); err != nil {
		return err
	} else if !same {
		return fmt.Errorf("%w: what was written %s", ErrNotStored, have)
	}
	err = d.step("link", func() error { return os.Link(f.Name(), d.file(p.Name)) })
	switch {
	case err == nil, errors.Is(err, fs.ErrExist): // settle sees whose it is
	case errors.Is(err, errors.ErrUnsupported), errors.Is(err, fs.ErrPermission):
		return &Permanent{err, "a pack appears in its place by a hard link: use a folder of a file system that has them"}
	default:
		return err
	}
	return d.step("remove", func() error { return os.Remove(f.Name()) })
}

// settle makes what is there under a pack's name durable, holds it against the pack, and
// records how long it is retained. After a crash it does what was left undone.
func (d *Directory) settle(ctx context.Context, p Pack) (Stored, error) {
	name := d.file(p.Name)
	info, err := os.Lstat(name)
	if err != nil {
		return Stored{}, err
	}
	if !info.Mode().IsRegular() {
		return Stored{}, differs(p.Name, d.cfg.Path, "is no regular file")
	}
	have, same, err := d.readBack(ctx, name, p)
	if err != nil {
		return Stored{}, fmt.Errorf("read back %s: %w", name, err)
	}
	if !same {
		return Stored{}, differs(p.Name, d.cfg.Path, have)
	}
	verified := time.Now()
	if info.Mode().Perm() != 0o444 {
		if err := d.step("chmod", func() error { return os.Chmod(name, 0o444) }); err != nil {
			return Stored{}, err
		}
	}
	if err := d.syncFolder(); err != nil {
		return Stored{}, err
	}
	r, err := d.record(p.Name)
	if errors.Is(err, fs.ErrNotExist) {
		r, err = record{}, nil
	}
	if err != nil {
		return Stored{}, err
	}
	until := p.Retain
	if until.IsZero() && d.cfg.Retention > 0 {
		until = info.ModTime().Add(d.cfg.Retention)
	}
	was := r
	r.Size, r.SHA256 = p.Size, hexSum(p.SHA256)
	r.LegalHold = r.LegalHold || d.cfg.LegalHold
	r.extend(until)
	if r != was {
		if err := d.writeRecord(p.Name, r); err != nil {
			return Stored{}, err
		}
	}
	return Stored{Name: p.Name, Size: p.Size, SHA256: p.SHA256, RetainUntil: r.RetainUntil, LegalHold: r.LegalHold, VerifiedAt: verified}, nil
}

// readBack makes a file durable, reads all of it, and reports whether it is the pack.
func (d *Directory) readBack(ctx context.Context, name string, p Pack) (have string, same bool, err error) {
	f, err := os.Open(name)
	if err != nil {
		return "", false, err
	}
	defer f.Close()
	if err := d.step("sync what is there", f.Sync); err != nil {
		return "", false, err
	}
	sum := sha256.New()
	n, err := copyContext(ctx, sum, f, p.Size+1)
	if err != nil {
		return "", false, err
	}
	have, same = p.is(n, sum)
	return have, same, nil
}

// Hold records a legal hold, or its end, beside a pack.
func (d *Directory) Hold(ctx context.Context, name string, on bool) error {
	return d.change(ctx, name, func(r *record) error {
		r.LegalHold = on
		return nil
	})
}

// Extend records a later end of the retention beside a pack.
func (d *Directory) Extend(ctx context.Context, name string, until time.Time) error {
	return d.change(ctx, name, func(r *record) error {
		if until = wholeSecond(until); until.Before(r.RetainUntil) {
			return shorter(name, r.RetainUntil, until)
		}
		r.RetainUntil = until
		return nil
	})
}

// shorter is the error for a retention that would be shortened.
func shorter(name string, has, asked time.Time) error {
	return &Permanent{
		Err:  fmt.Errorf("%w: %s is retained until %s, not only until %s", ErrShorter, name, has.Format(time.RFC3339), asked.UTC().Format(time.RFC3339)),
		Hint: "ask for a later time",
	}
}

// List returns the packs of the folder, by name, with what their records say.
func (d *Directory) List(ctx context.Context) ([]Stored, error) {
	entries, err := os.ReadDir(d.cfg.Path)
	if err != nil {
		return nil, err
	}
	var list []Stored
	for _, entry := range entries {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		if !entry.Type().IsRegular() || checkName(entry.Name()) != nil {
			continue
		}
		info, err := entry.Info()
		if errors.Is(err, fs.ErrNotExist) {
			continue // taken away since
		} else if err != nil {
			return nil, err
		}
		r, err := d.record(entry.Name())
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		s := Stored{Name: entry.Name(), Size: info.Size(), RetainUntil: r.RetainUntil, LegalHold: r.LegalHold}
		if r.Size == s.Size {
			s.SHA256 = r.sum()
		}
		list = append(list, s)
	}
	slices.SortFunc(list, func(a, b Stored) int { return strings.Compare(a.Name, b.Name) })
	return list, nil
}

// sweep removes what crashes left. With the lock held nobody is writing it.
func (d *Directory) sweep() error {
	entries, err := os.ReadDir(d.cfg.Path)
	if err != nil {
		return err
	}
	for _, entry := range entries {
		if strings.HasPrefix(entry.Name(), unfinished) {
			if err := os.Remove(filepath.Join(d.cfg.Path, entry.Name())); err != nil {
				return fmt.Errorf("remove what a crash left: %w", err)
			}
		}
	}
	return nil
}

func (d *Directory) syncFolder() error {
	return d.step("sync folder", func() error {
		folder, err := os.Open(d.cfg.Path)
		if err != nil {
			return err
		}
		return errors.Join(folder.Sync(), folder.Close())
	})
}

func (d *Directory) step(name string, step func() error) error {
	if d.testingOnlyStep != nil {
		return d.testingOnlyStep(name, step)
	}
	return step()
}

func (d *Directory) file(name string) string { return filepath.Join(d.cfg.Path, name) }
