// Package store keeps evidence packs where they are to stay for years: in a folder, or in
// a bucket of an S3 service whose Object Lock keeps everybody from deleting them.
//
// What a destination says that it has, was read back from it, byte by byte, after it was
// written; for S3 also that it is locked, for as long as was asked. A pack that is there is
// never replaced, and its retention is ours only to extend.
package store

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"regexp"
	"strings"
	"time"
)

// Pack is a file to be kept.
type Pack struct {
	Name   string // letters, digits, '.', '-' and '_', such as understudy-evidence-000012-2026-11-23.tar
	Path   string // of the file, which stays where it is
	Size   int64  // in bytes
	SHA256 [sha256.Size]byte
	Retain time.Time // keep at least until then; zero: as long as the destination does by itself
}

// Destination keeps packs. Its methods may be called at the same time. Every error but a
// [*Permanent] may be gone when the same is tried again.
type Destination interface {
	// Name returns the name from the configuration.
	Name() string

	// Put stores a pack and reads it back: when it returns no error, the pack is there,
	// durably, for as long as it is to be retained. A pack that is there already is
	// read back in the same way, and retained longer if that is asked; other bytes under
	// its name are ErrDiffers. After an error Put may be called again.
	Put(ctx context.Context, p Pack) (Stored, error)

	// Hold sets or lifts the legal hold of a pack, which keeps it beyond its retention.
	Hold(ctx context.Context, name string, on bool) error

	// Extend retains a pack until a later time; an earlier one is ErrShorter.
	Extend(ctx context.Context, name string, until time.Time) error

	// List returns what is there, by name. It reads no pack.
	List(ctx context.Context) ([]Stored, error)
}

// Mode says who may delete a pack that an S3 service retains.
type Mode string

const (
	Governance Mode = "governance" // whoever has the permission to bypass it
	Compliance Mode = "compliance" // nobody, for as long as the account exists
)

// Stored is a pack as it is kept.
type Stored struct {
	Name        string
	Size        int64             // in bytes
	SHA256      [sha256.Size]byte // zero: not known without reading it
	RetainUntil time.Time         // zero: may be deleted at any time, but for LegalHold
	Mode        Mode              // empty: nothing but access rights enforces RetainUntil
	LegalHold   bool
	Version     string    // of an S3 object; empty: there is only one
	Hidden      bool      // a delete marker of S3 hides it from who asks for no version
	VerifiedAt  time.Time // when all of it was read back; zero: not in this call
}

var (
	// ErrDiffers is returned for a pack of whose name other bytes are there. They stay.
	ErrDiffers = errors.New("another pack of this name is there")

	// ErrShorter is returned for a retention that would end before the present one does.
	ErrShorter = errors.New("retention is ours only to extend")

	// ErrNotStored is returned when what was said to be stored is not there, is not what
	// was stored, or is not locked as it was asked.
	ErrNotStored = errors.New("not stored as asked")

	// ErrNotFound is returned for a name of which no pack is there.
	ErrNotFound = errors.New("there is no such pack")

	// ErrNoObjectLock is returned for a bucket that cannot lock objects.
	ErrNoObjectLock = errors.New("no Object Lock")
)

// Permanent is an error that is there again at the next try, until a person does
// something about it.
type Permanent struct {
	Err  error
	Hint string // what to do
}

func (e *Permanent) Error() string { return e.Err.Error() + ": " + e.Hint }

// Unwrap returns Err.
func (e *Permanent) Unwrap() error { return e.Err }

// differs is the error for other bytes under a pack's name.
func differs(name, where, have string) error {
	return &Permanent{
		Err:  fmt.Errorf("%w: %s in %s %s", ErrDiffers, name, where, have),
		Hint: "it stays as it is. If an older database was restored, the packs made since have these names already: keep both, under another prefix or in another folder",
	}
}

const maxName = 200 // with what stands before and after it, the name of a file

var goodName = regexp.MustCompile(`^[A-Za-z0-9_-][A-Za-z0-9._-]*$`)

func checkName(name string) error {
	if len(name) > maxName || !goodName.MatchString(name) || strings.HasSuffix(name, recordSuffix) {
		return &Permanent{
			Err:  fmt.Errorf("%q is no name for a pack", name),
			Hint: fmt.Sprintf("it has ASCII letters, digits, '.', '-' and '_', no '.' at its beginning, no %s at its end and at most %d characters", recordSuffix, maxName),
		}
	}
	return nil
}

// check refuses a pack that cannot be stored anywhere.
func (p Pack) check() error {
	if err := checkName(p.Name); err != nil {
		return err
	}
	if p.Size <= 0 || p.SHA256 == [sha256.Size]byte{} {
		return &Permanent{fmt.Errorf("pack %s has no size or no SHA-256", p.Name), "an empty pack is never stored"}
	}
	return nil
}

// open opens the pack's file.
func (p Pack) open() (*os.File, error) {
	f, err := os.Open(p.Path)
	if err != nil {
		return nil, fmt.Errorf("open pack %s: %w", p.Name, err)
	}
	info, err := f.Stat()
	if err == nil && (!info.Mode().IsRegular() || info.Size() != p.Size) {
		err = p.changed(fmt.Sprintf("is no file of %d bytes", p.Size))
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// changed is the error for a file that is not the pack that it was.
func (p Pack) changed(what string) error {
	return &Permanent{fmt.Errorf("%s %s", p.Path, what), "it changed since it was made into pack " + p.Name + ": make that again"}
}

// is reports whether a sum over size bytes is that of the pack, and describes it.
func (p Pack) is(size int64, sum hash.Hash) (string, bool) {
	have := [sha256.Size]byte(sum.Sum(nil))
	return fmt.Sprintf("has %d bytes of SHA-256 %x, not %d of %x", size, have, p.Size, p.SHA256), size == p.Size && have == p.SHA256
}

// copyContext copies at most limit bytes, until ctx ends.
func copyContext(ctx context.Context, to io.Writer, from io.Reader, limit int64) (int64, error) {
	n, err := io.Copy(to, io.LimitReader(contextReader{ctx, from}, limit))
	if cause := context.Cause(ctx); err != nil && cause != nil {
		err = cause
	}
	return n, err
}

// contextReader is a reader that ends with a context, between two reads.
type contextReader struct {
	ctx context.Context
	r   io.Reader
}

func (r contextReader) Read(b []byte) (int, error) {
	if err := context.Cause(r.ctx); err != nil {
		return 0, err
	}
	return r.r.Read(b)
}
