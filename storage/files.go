package storage

import (
	"errors"
	"fmt"
	"strings"
	"syscall"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
)

func fileSystem(o Options) vfs.FS {
	if o.FS != nil {
		return o.FS
	}
	return vfs.Default
}

// ownFS is a file system as Pebble should use it.
//
// It syncs a directory before a marker in it begins to name another file. Pebble syncs both
// at once, so that on a file system that does not keep the order of directory entries a
// crash could leave a marker that names a MANIFEST which is not there.
//
// What the disk does not give any more of a table is damage, like what it gives wrong: the
// sector is lost, the process is not.
//
// It reports what fails in a WAL file of the database itself: of some of that Pebble makes a
// panic that nobody can catch.
type ownFS struct {
	vfs.FS
	dir  string // of the database
	fail func(error) (first bool)
}

func (f *ownFS) Unwrap() vfs.FS { return f.FS }

// Open implements vfs.FS.
func (f *ownFS) Open(name string, o ...vfs.OpenOption) (vfs.File, error) {
	file, err := f.FS.Open(name, o...)
	if err != nil || !strings.HasSuffix(name, ".sst") {
		return file, err
	}
	return &tableFile{file}, nil
}

// tableFile is a table that is being read.
type tableFile struct{ vfs.File }

// ReadAt implements vfs.File.
func (f *tableFile) ReadAt(b []byte, at int64) (int, error) {
	n, err := f.File.ReadAt(b, at)
	if errors.Is(err, syscall.EIO) {
		err = &lostSectorError{err}
	}
	return n, err
}

// lostSectorError is the error of a disk that cannot read a part of a table, as damage.
type lostSectorError struct{ err error }

func (e *lostSectorError) Error() string        { return e.err.Error() }
func (e *lostSectorError) Unwrap() error        { return e.err }
func (e *lostSectorError) Is(target error) bool { return target == pebble.ErrCorruption }

// Create implements vfs.FS.
func (f *ownFS) Create(name string, c vfs.DiskWriteCategory) (vfs.File, error) {
	if strings.HasPrefix(f.PathBase(name), "marker.") {
		if err := syncDirectory(f, f.PathDir(name)); err != nil {
			return nil, err
		}
	}
	file, err := f.FS.Create(name, c)
	return f.watch(name, file, err)
}

// ReuseForWrite implements vfs.FS.
func (f *ownFS) ReuseForWrite(from, to string, c vfs.DiskWriteCategory) (vfs.File, error) {
	file, err := f.FS.ReuseForWrite(from, to, c)
	return f.watch(to, file, err)
}

func (f *ownFS) watch(name string, file vfs.File, err error) (vfs.File, error) {
	if !strings.HasSuffix(name, ".log") || f.PathDir(name) != f.PathDir(f.PathJoin(f.dir, ".log")) {
		return file, err
	}
	if err != nil {
		f.fail(fmt.Errorf("create %s: %w", name, err))
		return nil, err
	}
	return &walFile{File: file, name: name, fail: f.fail}, nil
}

// walFile is a WAL file that is being written.
type walFile struct {
	vfs.File
	name string
	fail func(error) (first bool)
}

func (f *walFile) report(what string, err error) {
	if err != nil {
		f.fail(fmt.Errorf("%s %s: %w", what, f.name, err))
	}
}

func (f *walFile) Write(b []byte) (int, error) {
	n, err := f.File.Write(b)
	f.report("write", err)
	return n, err
}

func (f *walFile) Sync() error {
	err := f.File.Sync()
	f.report("sync", err)
	return err
}

func (f *walFile) SyncData() error {
	err := f.File.SyncData()
	f.report("sync", err)
	return err
}

func (f *walFile) SyncTo(n int64) (bool, error) {
	full, err := f.File.SyncTo(n)
	f.report("sync", err)
	return full, err
}
