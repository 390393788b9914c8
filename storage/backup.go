package storage

import (
	"errors"
	"fmt"
	"strings"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
)

// Backup writes a consistent copy of the database into dir, which must not exist. It
// may be called while the database is in use; what was committed before is in it.
func (db *DB) Backup(dir string) (err error) {
	defer db.recoverFatal(&err)
	if _, err := db.fs.Stat(dir); err == nil {
		return fmt.Errorf("back up to %s: %w", dir, ErrExists)
	}
	db.backup.Lock()
	defer db.backup.Unlock()
	frozen := db.fs.PathJoin(db.incoming(), "backup")
	if err = db.fs.RemoveAll(frozen); err == nil {
		err = db.freeze(frozen)
	}
	if err == nil {
		err = copyBackup(db.fs, vfs.LinkOrCopy, frozen, dir)
	}
	if err = errors.Join(err, db.fs.RemoveAll(frozen)); err != nil {
		return fmt.Errorf("back up to %s: %w", dir, err)
	}
	return nil
}

// freeze makes links to the files of this moment. Nothing is committed meanwhile: Pebble
// notes the tables first and copies the WAL last, so of a commit in between the copy would
// have the head without the table. That is why it stays on the file system of the database,
// where it takes a moment.
func (db *DB) freeze(dir string) error {
	db.freezing.Lock()
	defer db.freezing.Unlock()
	return db.pebble.Checkpoint(dir, pebble.WithFlushedWAL())
}

// copyBackup links or copies files, those last that make it a database.
func copyBackup(files vfs.FS, copyFile func(files vfs.FS, from, to string) error, from, to string) error {
	names, err := files.List(from)
	if err != nil {
		return err
	}
	isMarker := func(name string) bool { return strings.HasPrefix(name, "marker.") }
	if err := makeDirectory(files, to); err != nil {
		return err
	}
	for _, markers := range []bool{false, true} {
		for _, name := range names {
			path := files.PathJoin(from, name)
			if info, err := files.Stat(path); err != nil {
				return err
			} else if info.IsDir() || isMarker(name) != markers {
				continue
			}
			if err := copyFile(files, path, files.PathJoin(to, name)); err != nil {
				return err
			}
		}
		if err := syncDirectory(files, to); err != nil {
			return err
		}
	}
	return nil
}

// Restore makes the database in dir from a backup, which it leaves as it is. There must be
// none in dir; until all of it is there, there is none. It returns what the backup holds, by
// origin, or ErrExists, ErrNotExist, or what Open returns if the backup is no good.
func Restore(dir, backup string, o Options) (held map[string]*State, err error) {
	files := fileSystem(o)
	if names, err := files.List(dir); err == nil && len(names) > 0 {
		return nil, fmt.Errorf("restore %s: %w", dir, ErrExists)
	} else if err == nil {
		if err := files.Remove(dir); err != nil {
			return nil, fmt.Errorf("restore %s: %w", dir, err)
		}
	}
	if exists, err := Exists(backup, o); err != nil || !exists {
		return nil, errors.Join(fmt.Errorf("backup %s: %w", backup, ErrNotExist), err)
	}
	part := dir + ".restoring"
	if backup == part {
		return nil, fmt.Errorf("backup %s is what a restore has left behind: %w", backup, ErrExists)
	}
	if err := files.RemoveAll(part); err != nil {
		return nil, fmt.Errorf("restore %s: %w", dir, err)
	}
	err = copyBackup(files, func(files vfs.FS, from, to string) error { return vfs.Copy(files, from, to) }, backup, part)
	if err == nil {
		held, err = inspect(part, o)
	}
	if err == nil {
		err = errors.Join(files.Rename(part, dir), syncDirectory(files, files.PathDir(dir)))
	} else {
		err = errors.Join(err, files.RemoveAll(part))
	}
	if err != nil {
		return nil, fmt.Errorf("restore %s from %s: %w", dir, backup, err)
	}
	return held, nil
}

// inspect opens a database and all of its trees.
func inspect(dir string, o Options) (held map[string]*State, err error) {
	o.ReadOnly, o.complete = true, true
	db, err := Open(dir, o)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	held = map[string]*State{}
	for _, origin := range db.Origins() {
		t, err := db.OpenTree(origin)
		if err != nil {
			return nil, err
		}
		if err := t.Broken(); err != nil {
			return nil, err
		}
		if damage := t.Damage(); len(damage) > 0 {
			return nil, &damage[0]
		}
		held[origin] = t.State()
	}
	return held, nil
}
