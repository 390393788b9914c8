package main

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"syscall"

	"github.com/understudy-log/understudy/log/rekor"
	"github.com/understudy-log/understudy/storage"
)

// databaseDir is where the database stands inside the data directory.
func (c *Config) databaseDir() string { return filepath.Join(c.DataDir, "db") }

// absoluteDataDir names the data directory to another process.
func (c *Config) absoluteDataDir() string {
	dir, err := filepath.Abs(c.DataDir)
	if err != nil {
		return c.DataDir // without a working directory there is nothing better
	}
	return dir
}

// tufDir is where TUF metadata is cached inside the data directory.
func (c *Config) tufDir() string { return filepath.Join(c.DataDir, "tuf") }

// newestDir is where the newest checkpoints are remembered, apart from the database.
func (c *Config) newestDir() string { return filepath.Join(c.DataDir, "newest") }

// openNewest opens that memory, or begins one.
func (c *Config) openNewest(o storage.Options) (*storage.Newest, error) {
	newest, err := storage.OpenNewest(c.newestDir(), o)
	switch {
	case errors.Is(err, storage.ErrLocked), errors.Is(err, fs.ErrPermission), errors.Is(err, syscall.EROFS), errors.Is(err, syscall.ENOSPC):
		return nil, c.explainDatabase(err)
	case err != nil:
		return nil, fmt.Errorf("newest checkpoints in %s cannot be read: %w; they tell an older database from the newest one: if %s is not a restored backup, move %s away and start again", c.newestDir(), folded{err}, c.databaseDir(), c.newestDir())
	}
	return newest, nil
}

// openOrCreate opens the database of the data directory, or makes it.
func (c *Config) openOrCreate(o storage.Options) (*storage.DB, error) {
	exists, err := storage.Exists(c.databaseDir(), o)
	if err != nil {
		return nil, c.explainDatabase(err)
	}
	open := storage.Create
	if exists {
		open = storage.Open
	}
	db, err := open(c.databaseDir(), indexed(o))
	if err != nil {
		return nil, c.explainDatabase(err)
	}
	return db, nil
}

// indexed makes a database keep an index for searches.
func indexed(o storage.Options) storage.Options {
	o.SearchKeys, o.ReceiptKeys, o.SearchVersion = rekor.SearchKeys, rekor.ReceiptKeys, rekor.SearchVersion
	return o
}

// openHeld opens the database of a stopped daemon.
func (c *Config) openHeld(o storage.Options) (*storage.DB, error) {
	db, err := storage.Open(c.databaseDir(), indexed(o))
	if err != nil {
		return nil, c.explainDatabase(err)
	}
	return db, nil
}

// explainDatabase says what an operator can do about a database that does not open.
func (c *Config) explainDatabase(err error) error {
	hint := "; if it is damaged, restore a backup, or move it away and mirror again"
	_, foreign := errors.AsType[*storage.FormatError](err)
	switch {
	case foreign:
		hint = "" // the error has its own
	case errors.Is(err, storage.ErrLocked):
		hint = "; stop the other understudy, or give this one its own data_dir"
	case errors.Is(err, storage.ErrNotExist):
		hint = "; check data_dir, or fill it with \"understudy serve\""
	case errors.Is(err, fs.ErrPermission), errors.Is(err, syscall.EROFS):
		hint = "; make data_dir writable for this user"
	case errors.Is(err, syscall.ENOSPC):
		hint = "; free some space and start again: nothing that was acknowledged is lost"
	}
	return fmt.Errorf("data directory %s: %w%s", c.DataDir, folded{err}, hint)
}

// folded is an error on one line: Pebble names each missing file on its own.
type folded struct{ error }

func (f folded) Error() string { return oneLine(f.error) }
func (f folded) Unwrap() error { return f.error }
