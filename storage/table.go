package storage

import (
	"context"
	"errors"
	"fmt"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/objstorage/objstorageprovider"
	"github.com/cockroachdb/pebble/v2/sstable"
	"github.com/cockroachdb/pebble/v2/sstable/block"
	"github.com/cockroachdb/pebble/v2/vfs"
)

// incoming is the folder of the database for tables and backups that are being written.
// What a crash leaves there is removed by Open.
const incoming = "incoming"

// entryTable is a table of many entries. It becomes part of the database, durably, before
// the commit that makes the entries part of the tree: so they take no way through WAL,
// memtable and compactions. Rows beyond the head, or below the minimum index, are nothing:
// no answer is made from them, and the next Extend or Prepend writes them anew.
type entryTable struct {
	db   *DB
	path string
	done chan struct{} // closed when err is set
	err  error
}

// startTable begins to write the table of rows. It returns nil, a table of nothing, if they
// are few: those go into the batch.
func (t *Tree) startTable(rows *entryRows) *entryTable {
	if !rows.many() {
		return nil
	}
	name := fmt.Sprintf("entries-%d-%d", t.id, rows.start)
	table := &entryTable{db: t.db, path: t.db.fs.PathJoin(t.db.incoming(), name), done: make(chan struct{})}
	go func() {
		defer close(table.done)
		if table.err = table.write(rows); table.err != nil {
			table.err = fmt.Errorf("write %s: %w", table.path, table.err)
		}
	}()
	return table
}

func (e *entryTable) write(rows *entryRows) error {
	w, err := e.db.newTable(e.path, rows.packed())
	if err != nil {
		return err
	}
	err = rows.each(func(index uint64, _ Hash, stored []byte) error {
		return w.Set(rows.tree.id.entry(index), stored)
	})
	return errors.Join(err, w.Close()) // Close syncs
}

// newTable begins a table of rows in order of key. Close syncs it.
func (db *DB) newTable(path string, packed bool) (*sstable.Writer, error) {
	file, err := db.fs.Create(path, vfs.WriteCategoryUnspecified)
	if err != nil {
		return nil, err
	}
	o := db.options.MakeWriterOptions(lastLevel, db.pebble.TableFormat())
	if packed {
		o.Compression = block.FastestCompression // the better ones gain next to nothing then
	}
	return sstable.NewWriter(objstorageprovider.NewFileWritable(file), o), nil
}

// ingest makes the table a part of the database. If that fails, the process must end;
// except for damage in a table that is there already, which Pebble looks into.
func (e *entryTable) ingest() error {
	if e == nil {
		return nil
	}
	if err := e.db.Err(); err != nil {
		return err
	}
	<-e.done
	if e.err != nil {
		e.db.fail(e.err)
		return e.err
	}
	e.db.freezing.RLock()
	err := e.db.pebble.Ingest(context.Background(), []string{e.path})
	e.db.freezing.RUnlock()
	switch {
	case pebble.IsCorruptionError(err):
		return e.db.readError(nil, "table of entries that are not part of the tree", err)
	case err != nil:
		e.db.fail(err)
	}
	return err
}

// discard removes what was written, unless it is a part of the database.
func (e *entryTable) discard() {
	if e == nil {
		return
	}
	<-e.done
	_ = e.db.fs.Remove(e.path) // Open removes what is left
}

func (db *DB) incoming() string { return db.fs.PathJoin(db.dir, incoming) }

// sweepIncoming removes what a crash left of tables and backups that were being written.
func (db *DB) sweepIncoming() error {
	return errors.Join(db.fs.RemoveAll(db.incoming()), db.fs.MkdirAll(db.incoming(), 0o755))
}
