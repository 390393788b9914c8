package storage

import (
	"os"
	"sync"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// hookFS is a file system that asks before it does anything; an error is the outcome
// then. Pebble compares file systems and files, so both are pointers.
type hookFS struct {
	vfs.FS
	before func(o operation, path string) error
}

type operation int

const (
	opRead   operation = iota // of a file
	opWrite                   // to a file
	opSync                    // of a file or directory
	opChange                  // of a directory: create, link, rename, remove
)

// changes says whether a crash before the operation differs from one after it.
func (o operation) changes() bool { return o != opRead }

type hookFile struct {
	vfs.File
	fs   *hookFS
	path string
}

func (h *hookFS) Unwrap() vfs.FS { return h.FS }

func (h *hookFS) file(path string, open func() (vfs.File, error)) (vfs.File, error) {
	f, err := open()
	if err != nil {
		return nil, err
	}
	return &hookFile{f, h, path}, nil
}

func (h *hookFS) change(path string, do func() error) error {
	if err := h.before(opChange, path); err != nil {
		return err
	}
	return do()
}

func (h *hookFS) changed(path string, open func() (vfs.File, error)) (vfs.File, error) {
	if err := h.before(opChange, path); err != nil {
		return nil, err
	}
	return h.file(path, open)
}

func (h *hookFS) Create(name string, c vfs.DiskWriteCategory) (vfs.File, error) {
	return h.changed(name, func() (vfs.File, error) { return h.FS.Create(name, c) })
}

func (h *hookFS) OpenReadWrite(name string, c vfs.DiskWriteCategory, o ...vfs.OpenOption) (vfs.File, error) {
	return h.changed(name, func() (vfs.File, error) { return h.FS.OpenReadWrite(name, c, o...) })
}

func (h *hookFS) ReuseForWrite(from, to string, c vfs.DiskWriteCategory) (vfs.File, error) {
	return h.changed(to, func() (vfs.File, error) { return h.FS.ReuseForWrite(from, to, c) })
}

func (h *hookFS) Open(name string, o ...vfs.OpenOption) (vfs.File, error) {
	return h.file(name, func() (vfs.File, error) { return h.FS.Open(name, o...) })
}

func (h *hookFS) OpenDir(name string) (vfs.File, error) {
	return h.file(name, func() (vfs.File, error) { return h.FS.OpenDir(name) })
}

// cloning is held by MemFS.CrashClone and MemFS.Link: at the same time each would wait for
// the other.
var cloning sync.Mutex

func (h *hookFS) Link(from, to string) error {
	return h.change(to, func() error {
		cloning.Lock()
		defer cloning.Unlock()
		return h.FS.Link(from, to)
	})
}

func (h *hookFS) Rename(from, to string) error {
	return h.change(to, func() error { return h.FS.Rename(from, to) })
}

func (h *hookFS) Remove(name string) error {
	return h.change(name, func() error { return h.FS.Remove(name) })
}

func (h *hookFS) RemoveAll(name string) error {
	return h.change(name, func() error { return h.FS.RemoveAll(name) })
}

func (h *hookFS) MkdirAll(dir string, mode os.FileMode) error {
	return h.change(dir, func() error { return h.FS.MkdirAll(dir, mode) })
}

func (f *hookFile) ask(o operation) error { return f.fs.before(o, f.path) }

func (f *hookFile) Read(b []byte) (int, error) {
	if err := f.ask(opRead); err != nil {
		return 0, err
	}
	return f.File.Read(b)
}

func (f *hookFile) ReadAt(b []byte, at int64) (int, error) {
	if err := f.ask(opRead); err != nil {
		return 0, err
	}
	return f.File.ReadAt(b, at)
}

func (f *hookFile) Write(b []byte) (int, error) {
	if err := f.ask(opWrite); err != nil {
		return 0, err
	}
	return f.File.Write(b)
}

func (f *hookFile) WriteAt(b []byte, at int64) (int, error) {
	if err := f.ask(opWrite); err != nil {
		return 0, err
	}
	return f.File.WriteAt(b, at)
}

func (f *hookFile) Sync() error {
	if err := f.ask(opSync); err != nil {
		return err
	}
	return f.File.Sync()
}

func (f *hookFile) SyncData() error {
	if err := f.ask(opSync); err != nil {
		return err
	}
	return f.File.SyncData()
}

func (f *hookFile) SyncTo(n int64) (bool, error) {
	if err := f.ask(opSync); err != nil {
		return false, err
	}
	return f.File.SyncTo(n)
}

// unhurried skips, in the short run with the race detector, a test that starts no goroutine
// and takes minutes there.
func unhurried(t *testing.T) {
	t.Helper()
	if testing.Short() {
		t.Skip("slow with the race detector; make test runs it")
	}
}
