package storage

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2"
)

// Tree is the append-only Merkle tree of one origin. Its methods may be called
// concurrently; changes are made one at a time.
type Tree struct {
	db     *DB
	origin string
	id     treeID
	lost   error // why the tree could not be loaded; nothing else is set then

	state  atomic.Pointer[State]
	broken atomic.Pointer[DamageError] // why there is no edge; nil if there is
	links  atomic.Bool                 // hashes of consistency proofs are kept
	behind atomic.Pointer[Checkpoint]  // what newest knew of and the tree did not; see Behind

	write  sync.Mutex // held through every change; guards the fields below
	edge   edge
	newest *Newest   // is told of a checkpoint before it becomes pending; may be nil
	saved  time.Time // last time LastSeen of the pending checkpoint was persisted

	repairing sync.Mutex // held through every repair

	indexing sync.Mutex    // held through every IndexSome
	searches atomic.Uint64 // how often the search index was begun anew

	watch   sync.Mutex // guards changed
	changed chan struct{}
}

func newTree(db *DB, origin string, id treeID, s *State) *Tree {
	t := &Tree{db: db, origin: origin, id: id, changed: make(chan struct{})}
	t.state.Store(s)
	return t
}

func loadTree(db *DB, origin string, id treeID) (*Tree, error) {
	s, err := db.loadState(db.pebble, id)
	if err != nil {
		return nil, err
	}
	t := newTree(db, origin, id, s)
	if err := s.verify(); err != nil {
		return nil, err
	}
	r, err := newRepair(t, Elsewhere{})
	if err != nil {
		return nil, err
	}
	if err := r.mendEdge(context.Background()); err != nil {
		return nil, err
	}
	if err := t.openSearch(); err != nil {
		return nil, err
	}
	if s := t.State(); s.archived.rows == 0 && s.Pending.Raw != nil && !db.options.ReadOnly {
		if err := t.adopt(); err != nil { // check names what is damaged
			db.logger.Error("the archived checkpoints of an older version cannot be numbered", "origin", origin, "error", err)
		}
	}
	return t, nil
}

// Broken returns why nothing can be proven and the tree cannot grow: the tiles of its right
// border are damaged, and what is left cannot replace them. Repair may. It is nil else.
func (t *Tree) Broken() error {
	if e := t.broken.Load(); e != nil {
		return e
	}
	return nil
}

// loadState reads the head record, and the rows that it names.
func (db *DB) loadState(r pebble.Reader, id treeID) (*State, error) {
	raw, err := get(r, id.head())
	if err != nil {
		return nil, db.readError(id.head(), "head record", err)
	}
	s, pending, mirrored, err := decodeState(raw)
	if err != nil {
		return nil, &DamageError{Place: "head record", Problem: "cannot be used: " + err.Error()}
	}
	if s.Pending, err = db.readCheckpoint(r, id, pending); err != nil {
		return nil, err
	}
	if s.Mirrored, err = db.readCheckpoint(r, id, mirrored); err != nil {
		return nil, err
	}
	raw, err = get(r, id.evidence())
	switch {
	case errors.Is(err, pebble.ErrNotFound):
		return &s, nil
	case err != nil:
		return nil, db.readError(id.evidence(), "evidence", err)
	}
	if s.Evidence, err = decodeEvidence(raw); err != nil {
		return nil, &DamageError{Place: "evidence", Problem: "cannot be used: " + err.Error()}
	}
	return &s, nil
}

// verify holds the head against its checkpoints.
func (s *State) verify() error {
	if s.Pending.Raw == nil {
		if s.Head.Size != 0 {
			return &DamageError{Place: "head", Problem: "has entries but no checkpoint"}
		}
		return nil
	}
	if err := verifyPrecedes(s.Head, s.Pending.Head, s.precedes); err != nil {
		return &DamageError{Place: "head", Problem: "does not precede the pending checkpoint: " + err.Error()}
	}
	return nil
}

func checkpointPlace(size uint64) string { return fmt.Sprintf("checkpoint of size %d", size) }

func (db *DB) readCheckpoint(r pebble.Reader, id treeID, ref checkpointRef) (Checkpoint, error) {
	if !ref.present {
		return Checkpoint{}, nil
	}
	place := checkpointPlace(ref.head.Size)
	key := id.checkpoint(ref.head, ref.text)
	raw, err := get(r, key)
	if err != nil {
		return Checkpoint{}, db.readError(key, place, err)
	}
	c, err := decodeCheckpoint(ref.head, raw)
	if err != nil || c.textHash() != ref.text {
		return Checkpoint{}, &DamageError{Place: place, Problem: "is malformed"}
	}
	return c, nil
}

// Remember makes the tree tell n of every checkpoint, before it becomes pending: so n never
// knows less than the tree.
func (t *Tree) Remember(n *Newest) {
	t.write.Lock()
	defer t.write.Unlock()
	t.newest = n
	known := n.Of(t.origin)
	t.behind.Store(&known)
}

// Behind says whether the tree is older than the newest checkpoint that was ever believed, and
// which that is: an older database was restored, and has not caught up. That what is just
// becoming pending is known a moment before does not count.
func (t *Tree) Behind() (newest Checkpoint, behind bool) {
	known := t.behind.Load()
	if known == nil || known.Raw == nil {
		return Checkpoint{}, false
	}
	pending := t.State().Pending
	return *known, pending.Raw == nil || known.Size > pending.Size
}

// Origin returns the first line of the log's checkpoints.
func (t *Tree) Origin() string { return t.origin }

// State returns what the tree holds now. It does no I/O.
func (t *Tree) State() *State { return t.state.Load() }

// Changed returns a channel that is closed at the next change of State.
func (t *Tree) Changed() <-chan struct{} {
	t.watch.Lock()
	defer t.watch.Unlock()
	return t.changed
}

func (t *Tree) publish(s *State) {
	t.state.Store(s)
	t.watch.Lock()
	defer t.watch.Unlock()
	close(t.changed)
	t.changed = make(chan struct{})
}
