package storage

import (
	"context"
	"errors"
	"fmt"
	"strconv"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/sstable"
)

// replacement is rows, in tables, that are to take the place of others.
type replacement struct {
	db     *DB
	prefix string
	paths  []string
	writer *sstable.Writer // of the last one; nil if there is none
	n      uint64          // rows
}

func (r *repair) newReplacement() *replacement {
	db := r.t.db
	return &replacement{db: db, prefix: db.fs.PathJoin(db.incoming(), fmt.Sprintf("repair-%d-", r.t.id))}
}

// next ends the table, if there is one: the next row begins another.
func (t *replacement) next() error {
	if t.writer == nil {
		return nil
	}
	err := t.writer.Close() // syncs it
	if t.writer = nil; err != nil {
		t.db.fail(err)
	}
	return err
}

// set adds a row; those of one table must be in order.
func (t *replacement) set(key, value []byte) (err error) {
	if t.writer == nil {
		path := t.prefix + strconv.Itoa(len(t.paths))
		if t.writer, err = t.db.newTable(path, false); err != nil {
			t.db.fail(err)
			return err
		}
		t.paths = append(t.paths, path)
	}
	t.n++
	if err = t.writer.Set(key, value); err != nil {
		t.db.fail(err)
	}
	return err
}

// discard removes what was not swapped in.
func (t *replacement) discard() {
	if t.writer != nil {
		_ = t.writer.Close()
	}
	for _, path := range t.paths {
		_ = t.db.fs.Remove(path) // Open removes what is left
	}
}

// swapIn puts the tables in the place of whatever stands in a range, in one durable step, and
// returns the number of their rows. No change of the tree is under way.
func (t *replacement) swapIn(rows keyRange) (n uint64, err error) {
	db := t.db
	if err := errors.Join(db.Err(), t.next()); err != nil || rows.empty() {
		return 0, err
	}
	if !healable(rows.lower) && rows.lower[0] != keyPin || len(rows.without(tableOf(rows))) > 0 {
		panic(fmt.Sprintf("rows from %x to %x of more than one table", rows.lower, rows.upper))
	}
	db.freezing.RLock()
	defer db.freezing.RUnlock()
	if err := db.pebble.Flush(); err != nil { // or the swap is put off until the next one
		db.fail(err)
		return 0, err
	}
	if err := db.probe(rows); err != nil {
		return 0, err
	}
	db.swap.Lock()
	defer db.swap.Unlock()
	db.swaps++
	defer db.tiles.Purge()
	span := pebble.KeyRange{Start: rows.lower, End: rows.upper}
	if len(t.paths) == 0 {
		err = db.pebble.Excise(context.Background(), span)
	} else {
		_, err = db.pebble.IngestAndExcise(context.Background(), t.paths, nil, nil, span)
	}
	switch {
	case pebble.IsCorruptionError(err):
		return 0, db.endsIn(err)
	case err != nil:
		db.fail(err)
		return 0, err
	}
	t.paths = nil
	return t.n, nil
}

// endsIn is the error for a range that ends within other damage.
func (db *DB) endsIn(err error) error {
	if info := pebble.ExtractDataCorruptionInfo(err); info != nil {
		return &wideError{fileRange(info)}
	}
	return db.readError(nil, "what stands beside it", err)
}

// probe reads the rows on both sides of a range. Pebble does it as well when it cuts a file
// in two, and if it cannot, it silently drops the rest of that file.
func (db *DB) probe(rows keyRange) error {
	table := tableOf(rows) // no file has rows of two
	it, err := db.pebble.NewIter(&pebble.IterOptions{LowerBound: table.lower, UpperBound: table.upper})
	if err == nil {
		it.SeekLT(rows.lower)
		left := it.Error() // the next seek forgets it
		it.SeekGE(rows.upper)
		err = errors.Join(left, it.Error(), it.Close())
	}
	if err != nil {
		return db.endsIn(err)
	}
	return nil
}
