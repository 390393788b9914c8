package storage

import (
	"errors"
	"fmt"
	"slices"

	"github.com/cockroachdb/pebble/v2"
)

// PutRecord keeps a record by name, durably; its form is the caller's.
func (db *DB) PutRecord(name string, record []byte) error {
	return db.PutRecords(map[string][]byte{name: record})
}

// PutRecords is PutRecord of several: after a crash all of them are there, or none.
func (db *DB) PutRecords(records map[string][]byte) (err error) {
	defer db.recoverFatal(&err)
	b := db.pebble.NewBatch()
	defer b.Close()
	for name, record := range records {
		if err := b.Set(recordKey(name), record, nil); err != nil {
			return fmt.Errorf("keep record %q: %w", name, err)
		}
	}
	if err := db.commit(b); err != nil {
		return fmt.Errorf("keep records: %w", err)
	}
	return nil
}

// Record returns the record of a name; nil if there is none.
func (db *DB) Record(name string) ([]byte, error) {
	raw, err := db.get(recordKey(name))
	if errors.Is(err, pebble.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, db.readError(recordKey(name), fmt.Sprintf("record %q", name), err)
	}
	return raw, nil
}

// Records calls yield for the records whose names begin with a prefix, in the order of their
// names, up to the first error. The record is valid only during the call.
func (db *DB) Records(prefix string, yield func(name string, record []byte) error) error {
	return db.RecordsFrom(prefix, prefix, yield)
}

// RecordsFrom is Records of the names from first on.
func (db *DB) RecordsFrom(prefix, first string, yield func(name string, record []byte) error) (err error) {
	lower := recordKey(first)
	failed := func(err error) error { return db.readError(lower, fmt.Sprintf("records %q", prefix), err) }
	it, err := db.pebble.NewIter(&pebble.IterOptions{LowerBound: lower, UpperBound: after(recordKey(prefix))})
	if err != nil {
		return failed(err)
	}
	defer func() {
		if closeErr := it.Close(); closeErr != nil && err == nil {
			err = failed(closeErr)
		}
	}()
	for ok := it.First(); ok; ok = it.Next() {
		if err := yield(string(it.Key()[1:]), it.Value()); err != nil {
			return err
		}
	}
	return nil
}

// after returns the first key behind all that begin with prefix, whose last byte is not 0xff.
func after(prefix []byte) []byte {
	end := slices.Clone(prefix)
	end[len(end)-1]++
	return end
}

func recordKey(name string) []byte { return append([]byte{keyRecord}, name...) }
