package storage

import (
	"errors"
	"fmt"
	"sync"

	"github.com/cockroachdb/pebble/v2"
)

// Newest remembers the newest checkpoint of each origin that was ever believed, in a
// database of its own: so an older backup that is restored cannot make anybody forget what
// was signed since. (A snapshot of the whole machine can: then only upstream and other places
// know better.) Its methods may be called concurrently.
type Newest struct {
	db *DB

	mu    sync.Mutex // held through every change; guards known
	known map[string]Checkpoint
}

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
	n := &Newest{known: map[string]Checkpoint{}}
	if n.db, err = open(dir, o); err != nil {
		return nil, err
	}
	if err := n.load(); err != nil {
		return nil, errors.Join(fmt.Errorf("open %s: %w", dir, err), n.db.Close())
	}
	return n, nil
}

func (n *Newest) load() (err error) {
	it, err := n.db.pebble.NewIter(&pebble.IterOptions{LowerBound: []byte{keyNewest}, UpperBound: []byte{keyNewest + 1}})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, it.Close()) }()
	for ok := it.First(); ok; ok = it.Next() {
		c, err := decodeNewest(it.Value())
		if err != nil {
			return fmt.Errorf("newest checkpoint of %q: %w", it.Key()[1:], err)
		}
		n.known[string(it.Key()[1:])] = c
	}
	return nil
}

// Close closes the memory.
func (n *Newest) Close() error { return n.db.Close() }

// Of returns the newest checkpoint of an origin; its Raw is nil if there is none. A nil
// Newest has none.
func (n *Newest) Of(origin string) Checkpoint {
	if n == nil {
		return Checkpoint{}
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.known[origin]
}

// Note remembers a checkpoint, and returns when that is durable; one that is smaller than the
// one remembered changes nothing, and of the same size the last text counts, such as one that
// ends the log. That they are consistent is for the caller to prove. A nil Newest remembers
// nothing.
func (n *Newest) Note(origin string, c Checkpoint) (err error) {
	if n == nil {
		return nil
	}
	defer n.db.recoverFatal(&err)
	n.mu.Lock()
	defer n.mu.Unlock()
	if old := n.known[origin]; old.Raw != nil && (old.Size > c.Size || old.ref() == c.ref()) {
		return nil
	}
	b := n.db.pebble.NewBatch()
	defer b.Close()
	if err := errors.Join(b.Set(append([]byte{keyNewest}, origin...), encodeNewest(c), nil), n.db.commit(b)); err != nil {
		return fmt.Errorf("note the newest checkpoint of %q: %w", origin, err)
	}
	n.known[origin] = c
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
