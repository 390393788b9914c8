package storage

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/cockroachdb/pebble/v2"
)

// Newest remembers the newest checkpoint of each origin that was ever believed, and the newest
// that we cosigned, in a database of its own: so an older backup that is restored cannot make
// anybody forget what was signed since. (A snapshot of the whole machine can: then only upstream
// and other places know better.) Its methods may be called concurrently; changes of different
// origins wait for the disk together.
type Newest struct {
	db *DB

	mu    sync.Mutex // guards known
	known map[string]*remembered
}

// remembered is one row.
type remembered struct {
	change     sync.Mutex // held through every change
	checkpoint atomic.Pointer[Checkpoint]
}

// A Cosigner is one of the parties that we cosign as (https://c2sp.org/tlog-cosignature).
type Cosigner byte

// The cosigners: each remembers for itself what it cosigned.
const (
	CosignerWitness Cosigner = keyWitnessed // "consistent with all that I saw"
	CosignerMirror  Cosigner = keyMirrored  // "and I hold and serve all of it"
)

// OpenNewest opens the memory in dir, or begins one. A damaged one is an error: without it
// an older database would go unnoticed.
func OpenNewest(dir string, o Options) (_ *Newest, err error) {
	o.CacheBytes, o.memTableBytes, o.complete = 1<<20, 256<<10, true
	exists, err := Exists(dir, o)
	if err != nil {
		return nil, err
	}
	open := Create
	if exists {
		open = Open
	}
	n := &Newest{known: map[string]*remembered{}}
	if n.db, err = open(dir, o); err != nil {
		return nil, err
	}
	for _, kind := range []byte{keyNewest, keyWitnessed, keyMirrored} {
		if err := n.load(kind); err != nil {
			return nil, errors.Join(fmt.Errorf("open %s: %w", dir, err), n.db.Close())
		}
	}
	return n, nil
}

func (n *Newest) load(kind byte) (err error) {
	it, err := n.db.pebble.NewIter(&pebble.IterOptions{LowerBound: []byte{kind}, UpperBound: []byte{kind + 1}})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, it.Close()) }()
	for ok := it.First(); ok; ok = it.Next() {
		c, err := decodeNewest(it.Value())
		if err != nil {
			return fmt.Errorf("newest checkpoint of %q: %w", it.Key()[1:], err)
		}
		n.row(kind, string(it.Key()[1:])).checkpoint.Store(&c)
	}
	return nil
}

func (n *Newest) row(kind byte, origin string) *remembered {
	n.mu.Lock()
	defer n.mu.Unlock()
	key := string(kind) + origin
	r := n.known[key]
	if r == nil {
		r = new(remembered)
		r.checkpoint.Store(new(Checkpoint))
		n.known[key] = r
	}
	return r
}

// Close closes the memory.
func (n *Newest) Close() error { return n.db.Close() }

// Of returns the newest checkpoint of an origin; its Raw is nil if there is none. A nil
// Newest has none.
func (n *Newest) Of(origin string) Checkpoint {
	if n == nil {
		return Checkpoint{}
	}
	return *n.row(keyNewest, origin).checkpoint.Load()
}

// Note remembers a checkpoint, and returns when that is durable; one that is smaller than the
// one remembered changes nothing, and of the same size the last text counts, such as one that
// ends the log. That they are consistent is for the caller to prove. A nil Newest remembers
// nothing.
func (n *Newest) Note(origin string, c Checkpoint) error {
	if n == nil {
		return nil
	}
	r := n.row(keyNewest, origin)
	r.change.Lock()
	defer r.change.Unlock()
	if old := r.checkpoint.Load(); old.Raw != nil && (old.Size > c.Size || old.ref() == c.ref()) {
		return nil
	}
	return n.store(r, keyNewest, origin, c)
}

// Cosigned returns the newest checkpoint of an origin that was cosigned, a note with the
// signatures of the log and our cosignatures; its Raw is nil if there is none.
func (n *Newest) Cosigned(by Cosigner, origin string) Checkpoint {
	return *n.row(byte(by), origin).checkpoint.Load()
}

// NoteCosigned remembers what is about to leave as cosigned, and returns when that is durable. It
// is where a cosigner is kept from going back, or to another tree of the same size: then it
// returns ErrRollback or ErrFork, and nothing may leave.
func (n *Newest) NoteCosigned(by Cosigner, origin string, c Checkpoint) error {
	r := n.row(byte(by), origin)
	r.change.Lock()
	defer r.change.Unlock()
	switch old := r.checkpoint.Load(); {
	case old.Raw == nil:
	case c.Size < old.Size:
		return fmt.Errorf("cosign size %d of %q after %d: %w", c.Size, origin, old.Size, ErrRollback)
	case c.Size == old.Size && c.Root != old.Root:
		return fmt.Errorf("cosign size %d of %q: %w", c.Size, origin, ErrFork)
	}
	return n.store(r, byte(by), origin, c)
}

func (n *Newest) store(r *remembered, kind byte, origin string, c Checkpoint) (err error) {
	defer n.db.recoverFatal(&err)
	b := n.db.pebble.NewBatch()
	defer b.Close()
	if err := errors.Join(b.Set(append([]byte{kind}, origin...), encodeNewest(c), nil), n.db.commit(b)); err != nil {
		return fmt.Errorf("note the newest checkpoint of %q: %w", origin, err)
	}
	r.checkpoint.Store(&c)
	return nil
}

func encodeNewest(c Checkpoint) []byte {
	var e encoder
	e.byte(recordVersion)
	e.head(c.Head)
	e.time(c.FirstSeen)
	e.time(c.LastSeen)
	e.bytes(c.Raw)
	return e
}

func decodeNewest(b []byte) (Checkpoint, error) {
	d := decoder{rest: b}
	if v := d.byte(); v != recordVersion {
		return Checkpoint{}, fmt.Errorf("it has version %d: %w", v, errRecord)
	}
	c := Checkpoint{Head: d.head(), FirstSeen: d.time(), LastSeen: d.time(), Raw: d.bytes()}
	return c, d.end()
}
