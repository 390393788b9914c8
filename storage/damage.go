package storage

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"path"
	"slices"
	"sync"

	"github.com/cockroachdb/pebble/v2"
)

// DamageError says that something stored is missing or wrong.
type DamageError struct {
	Place   string // what is damaged: "entry 7", "tile 0/3"
	Problem string // what is wrong with it
	// Stuck is why Repair could not put it back; empty until that was tried.
	Stuck string

	pin  *uint64    // index of the pin that is damaged; nil if none is
	rows []keyRange // that have to be written anew; none if they are not known elsewhere
	met  uint64     // the last time, by damages.clock
}

func (e *DamageError) Error() string {
	if e.Stuck != "" {
		return e.Place + " " + e.Problem + "; it cannot be put back: " + e.Stuck
	}
	return e.Place + " " + e.Problem
}

// Pinned returns the index of the pin that is damaged, if one is. [Tree.Release] removes it, and
// [Tree.Pin] puts it back when it was fetched again.
func (e *DamageError) Pinned() (index uint64, ok bool) {
	if e.pin == nil {
		return 0, false
	}
	return *e.pin, true
}

// ofPin notes which pin a key is the row of, if it is one.
func (e *DamageError) ofPin(key []byte) *DamageError {
	if index, err := lastUint64(key); err == nil && key[0] == keyPin && len(key) == 17 {
		e.pin = &index
	}
	return e
}

// keyRange is the keys [lower, upper).
type keyRange struct{ lower, upper []byte }

// rowOf is the range of one key.
func rowOf(key []byte) keyRange { return keyRange{key, append(bytes.Clone(key), 0)} }

func (r keyRange) empty() bool { return bytes.Compare(r.lower, r.upper) >= 0 }

// clip returns the part of a range that lies in another one.
func (r keyRange) clip(to keyRange) keyRange {
	if bytes.Compare(r.lower, to.lower) < 0 {
		r.lower = to.lower
	}
	if bytes.Compare(r.upper, to.upper) > 0 {
		r.upper = to.upper
	}
	return r
}

// without returns what is left of a range.
func (r keyRange) without(gone keyRange) []keyRange {
	parts := []keyRange{r.clip(keyRange{r.lower, gone.lower}), r.clip(keyRange{gone.upper, r.upper})}
	return slices.DeleteFunc(parts, keyRange.empty)
}

// mergeRanges returns the union of ranges, in order.
func mergeRanges(ranges []keyRange) []keyRange {
	slices.SortFunc(ranges, func(a, b keyRange) int { return bytes.Compare(a.lower, b.lower) })
	var merged []keyRange
	for _, r := range ranges {
		if last := len(merged) - 1; last >= 0 && bytes.Compare(r.lower, merged[last].upper) <= 0 {
			if bytes.Compare(r.upper, merged[last].upper) > 0 {
				merged[last].upper = r.upper
			}
		} else {
			merged = append(merged, r)
		}
	}
	return merged
}

// damages is what is known to be damaged, by tree.
type damages struct {
	mu      sync.Mutex // guards the fields below
	clock   uint64
	known   map[treeID][]DamageError
	changed chan struct{} // closed when there is more of it
}

// maxDamages is how many are remembered of a tree; more are met again.
const maxDamages = 1000

// add notes damage of a tree, once.
func (d *damages) add(id treeID, e DamageError) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.clock++
	e.met = d.clock
	if i := slices.IndexFunc(d.known[id], e.within); i >= 0 {
		d.known[id][i].met = e.met
		return
	}
	known := slices.DeleteFunc(d.known[id], func(k DamageError) bool { return k.within(e) })
	if len(known) < maxDamages {
		known = append(known, e)
		close(d.changed)
		d.changed = make(chan struct{})
	}
	d.known[id] = known
}

// within says whether all of e is named by other.
func (e DamageError) within(other DamageError) bool {
	if len(e.rows) == 0 {
		return e.Place == other.Place && e.Problem == other.Problem
	}
	return !slices.ContainsFunc(e.rows, func(r keyRange) bool {
		return !slices.ContainsFunc(other.rows, func(o keyRange) bool { return len(r.without(o)) == 0 })
	})
}

// Damage returns what is known to be damaged: what was met by reading, and what Check has
// found, until Repair has put it back.
func (t *Tree) Damage() []DamageError {
	d := &t.db.damages
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Clone(d.known[t.id])
}

// Damaged returns a channel that is closed when more damage becomes known.
func (t *Tree) Damaged() <-chan struct{} {
	d := &t.db.damages
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.changed
}

// mended takes rows out of what is known to be damaged.
func (d *damages) mended(id treeID, rows keyRange) {
	d.mu.Lock()
	defer d.mu.Unlock()
	var left []DamageError
	for _, e := range d.known[id] {
		had := len(e.rows) > 0
		var rest []keyRange
		for _, r := range e.rows {
			if c := r.clip(rows); c.empty() {
				rest = append(rest, r)
			} else {
				rest = append(rest, r.without(rows)...)
			}
		}
		if e.rows = rest; !had || len(rest) > 0 {
			left = append(left, e)
		}
	}
	d.known[id] = left
}

// stuck notes why rows could not be put back.
func (d *damages) stuck(id treeID, rows keyRange, why string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for i, e := range d.known[id] {
		if slices.ContainsFunc(e.rows, func(r keyRange) bool { return !r.clip(rows).empty() }) {
			d.known[id][i].Stuck = why
		}
	}
}

// replaced takes a pin out of what is known to be damaged.
func (d *damages) replaced(id treeID, pin uint64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.known[id] = slices.DeleteFunc(d.known[id], func(e DamageError) bool {
		index, ok := e.Pinned()
		return ok && index == pin
	})
}

// now is a time to give to forget.
func (d *damages) now() uint64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.clock
}

// forget drops what was not met again since a time.
func (d *damages) forget(id treeID, since uint64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.known[id] = slices.DeleteFunc(d.known[id], func(e DamageError) bool { return e.met <= since })
}

// unreadable begins the problem of what stands in a damaged file.
const unreadable = "cannot be read: "

// damage is the error for a row that is missing or wrong; it is noted.
func (db *DB) damage(key []byte, place, problem string) *DamageError {
	e := (&DamageError{Place: place, Problem: problem}).ofPin(key)
	id, ok := treeOf(key)
	if ok && healable(key) {
		e.rows = []keyRange{rowOf(key)}
	}
	if ok {
		db.damages.add(id, *e)
	}
	return e
}

// treeOf returns the tree that a key is of.
func treeOf(key []byte) (treeID, bool) {
	if len(key) < 9 || key[0] == keyOrigin || key[0] == keyRecord {
		return 0, false
	}
	return treeID(binary.BigEndian.Uint64(key[1:])), true
}

// tableOf returns the rows of the table of a tree that a range begins in.
func tableOf(rows keyRange) keyRange {
	id, _ := treeOf(rows.lower)
	lower, upper := id.all(rows.lower[0])
	return keyRange{lower, upper}
}

// healable says whether a key is of a table whose rows can be had again.
func healable(key []byte) bool {
	return len(key) > 0 && bytes.IndexByte([]byte{keyTile, keyLeaf, keyEntry, keySearch}, key[0]) >= 0
}

// readError names the row that could not be read. A row that must be there and is not is
// damage, and so is what a disk does not give any more; other failures end the process.
func (db *DB) readError(key []byte, place string, err error) error {
	switch {
	case errors.Is(err, pebble.ErrNotFound):
		return db.damage(key, place, "is missing")
	case pebble.IsCorruptionError(err):
		info := pebble.ExtractDataCorruptionInfo(err)
		if info == nil {
			return db.damage(key, place, unreadable+err.Error())
		}
		db.fileDamaged(*info)
		e := &DamageError{Place: place, Problem: unreadable + fileProblem(info), rows: []keyRange{fileRange(info)}}
		return e.ofPin(key)
	}
	err = fmt.Errorf("read %s: %w", place, err)
	db.fail(err)
	return err
}

func fileProblem(info *pebble.DataCorruptionInfo) string {
	return fmt.Sprintf("%s: %v", info.Path, info.Details)
}

// fileRange returns the keys of a file.
func fileRange(info *pebble.DataCorruptionInfo) keyRange {
	return keyRange{bytes.Clone(info.Bounds.Start), append(bytes.Clone(info.Bounds.End.Key), 0)}
}

// fileDamaged notes that a file of the database is damaged. All of its rows are written anew
// then, into another file: the boundaries of the damage cannot be read, and compactions
// would meet it again and again.
func (db *DB) fileDamaged(info pebble.DataCorruptionInfo) {
	if _, known := db.damaged.LoadOrStore(info.Path, true); !known { // it is met at every read
		db.logger.Error("stored data is damaged", "file", info.Path, "error", info.Details)
	}
	rows := fileRange(&info)
	first, ok1 := treeOf(rows.lower)
	last, ok2 := treeOf(rows.upper)
	if !ok1 || !ok2 || first != last || rows.lower[0] != rows.upper[0] {
		return // spanPolicy makes no such files
	}
	e := DamageError{Place: describeRows(rows), Problem: unreadable + path.Base(info.Path)}
	if healable(rows.lower) {
		e.rows = []keyRange{rows}
	}
	db.damages.add(first, e)
}

// describeRows names what stands in a range of one table.
func describeRows(r keyRange) string {
	switch r.lower[0] {
	case keyEntry:
		id, _ := treeOf(r.lower)
		first, end := id.indexAt(r.lower), id.indexAt(r.upper)
		return fmt.Sprintf("something in the entries %d to %d", first, max(first+1, end)-1)
	case keyTile:
		return "something in the tiles"
	case keyLeaf:
		return "something in the leaf index"
	case keyPin:
		return "something in the pins"
	case keySearch:
		return "something in the search index"
	case keyCheckpoint:
		return "something in the checkpoint archive"
	}
	return fmt.Sprintf("something in table %q", r.lower[:1])
}

// indexAt returns the index of the first entry whose key is not below a bound.
func (id treeID) indexAt(bound []byte) uint64 {
	first, last := id.all(keyEntry)
	switch {
	case bytes.Compare(bound, first) <= 0:
		return 0
	case bytes.Compare(bound, last) >= 0:
		return ^uint64(0)
	}
	return afterPrefix(bound, len(first))
}

// afterPrefix returns the least number that makes, behind a prefix of so many bytes, a key
// that is not below a bound with that prefix.
func afterPrefix(bound []byte, prefix int) uint64 {
	var padded [8]byte
	n := copy(padded[:], bound[prefix:])
	index := binary.BigEndian.Uint64(padded[:])
	if n < len(bound)-prefix && index < ^uint64(0) {
		index++
	}
	return index
}
