package storage

import (
	"errors"
	"fmt"

	"github.com/cockroachdb/pebble/v2"
)

// PutRecord keeps a record by name, durably; its form is the caller's.
func (db *DB) PutRecord(name string, record []byte) (err error) {
	defer db.recoverFatal(&err)
	b := db.pebble.NewBatch()
	defer b.Close()
	if err := errors.Join(b.Set(recordKey(name), record, nil), db.commit(b)); err != nil {
		return fmt.Errorf("keep record %q: %w", name, err)
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

func recordKey(name string) []byte { return append([]byte{keyRecord}, name...) }
