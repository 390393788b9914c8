package rekor

import (
	"errors"
	"fmt"

	"github.com/understudy-log/understudy/storage"
)

// ErrSET says that a signed entry timestamp is missing or does not verify.
var ErrSET = errors.New("signed entry timestamp does not verify")

// LeafHashError says that an entry's body does not hash to the UUID that it was given under.
type LeafHashError struct {
	UUID UUID
	Leaf storage.Hash // of the body
}

func (e *LeafHashError) Error() string {
	return fmt.Sprintf("entry %s has a body with leaf hash %s", e.UUID, e.Leaf)
}

// LogIDError says that an entry names another log key than the one at hand.
type LogIDError struct {
	LogID string // of the entry
	Key   string // lower-case hex SHA-256 of the key's SPKI
}

func (e *LogIDError) Error() string {
	return fmt.Sprintf("entry is of log %s, the key is of log %s", e.LogID, e.Key)
}

// InputError says that a client's request is wrong. Status is the HTTP status with which
// Rekor refuses it: 400, or 422 for what breaks its schema.
type InputError struct {
	Status int
	Err    error
}

func (e *InputError) Error() string { return e.Err.Error() }

// Unwrap returns the cause.
func (e *InputError) Unwrap() error { return e.Err }
