package storage

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/cockroachdb/pebble/v2"
)

// The search index finds entries by what stands in them. It has a row for each key of each
// entry, held or pinned, that is written in the commit that adds the entry. Entries that were
// there before the index are added by IndexSome, the newest first. So what it covers of the
// tree is always its end: the entries from coverage.start on.

// coverage is what the search index of a tree covers. Rows of other entries may be there, but
// need not.
type coverage struct {
	present bool
	version uint32 // of the function that made its keys
	start   uint64 // index of the first entry that it covers, of those held
	pins    uint64 // pins below this index are covered
}

// allPins says that every pin is covered; new ones always are.
const allPins = ^uint64(0)

func (e *encoder) coverage(c coverage) {
	if !c.present {
		e.byte(0)
		return
	}
	e.byte(1)
	*e = binary.BigEndian.AppendUint32(*e, c.version)
	e.uint64(c.start)
	e.uint64(c.pins)
}

func (d *decoder) coverage() coverage {
	switch d.byte() {
	case 0:
		return coverage{}
	case 1:
		return coverage{true, binary.BigEndian.Uint32(d.take(4)), d.uint64(), d.uint64()}
	}
	d.bad = true
	return coverage{}
}

// keeps says whether new entries are put into an index: one with the keys of this program.
func (db *DB) keeps(c coverage) bool {
	return db.search != nil && c.present && c.version == db.searchVersion
}

// coverage returns what the search index covers after entries were added at either end.
func (t *Tree) coverage(old, next *State) coverage {
	c := old.search
	switch {
	case old.Head.Size == next.Head.Size && old.Minimum == next.Minimum:
	case !t.db.keeps(c):
		return coverage{}
	case c.start == old.Minimum: // all that was held
		c.start = next.Minimum
	}
	return c
}

// openSearch begins the search index of a tree, anew if it has another version: at a crash it
// has none.
func (t *Tree) openSearch() error {
	if t.db.options.ReadOnly || t.db.search == nil || t.db.keeps(t.State().search) {
		return nil
	}
	if err := t.beginSearch(coverage{}); err != nil {
		return err
	}
	lower, upper := t.id.all(keySearch)
	if _, err := (&replacement{db: t.db}).swapIn(keyRange{lower, upper}); err != nil {
		if dead := t.db.Err(); dead != nil {
			return dead
		}
		t.db.logger.Error("the search index cannot be begun anew: there is none", "origin", t.origin, "error", err)
		return nil
	}
	return t.beginSearch(t.newCoverage())
}

// newCoverage is what a search index covers that is begun now.
func (t *Tree) newCoverage() coverage {
	if t.db.search == nil {
		return coverage{}
	}
	return coverage{present: true, version: t.db.searchVersion, start: t.State().Head.Size}
}

// beginSearch makes it durable that the search index covers something else; write is held.
func (t *Tree) beginSearch(c coverage) error {
	t.searches.Add(1)
	s := *t.State()
	if s.search == c {
		return nil
	}
	s.search = c
	b := t.db.pebble.NewBatch()
	defer b.Close()
	return t.commitSearch(b, &s)
}

// commitSearch makes durable a state of which only what the search index covers is new.
func (t *Tree) commitSearch(b *pebble.Batch, s *State) error {
	if err := errors.Join(b.Set(t.id.head(), encodeState(s), nil), t.db.commit(b)); err != nil {
		return fmt.Errorf("index %q: %w", t.origin, err)
	}
	t.state.Store(s)
	return nil
}

// searchRow is a row of the search index: the first half of the SHA-256 of a key, and the
// index of an entry that has it.
type searchRow struct{ hi, lo, index uint64 }

func searchRowOf(key string, index uint64) searchRow {
	h := sha256.Sum256([]byte(key))
	return searchRow{binary.BigEndian.Uint64(h[:]), binary.BigEndian.Uint64(h[8:]), index}
}

func (r searchRow) compare(other searchRow) int {
	if r.hi != other.hi { // nearly always, and before a commit all rows are sorted
		return cmp.Compare(r.hi, other.hi)
	}
	return cmp.Or(cmp.Compare(r.lo, other.lo), cmp.Compare(r.index, other.index))
}

const searchRowLen = 9 + 16 + 8

// appendSearch appends the key of a row.
func (id treeID) appendSearch(dst []byte, r searchRow) []byte {
	dst = binary.BigEndian.AppendUint64(append(dst, keySearch), uint64(id))
	dst = binary.BigEndian.AppendUint64(dst, r.hi)
	dst = binary.BigEndian.AppendUint64(dst, r.lo)
	return binary.BigEndian.AppendUint64(dst, r.index)
}

// appendHint appends the key of a row of a further key.
func (id treeID) appendHint(dst []byte, r searchRow) []byte {
	at := len(dst)
	dst = id.appendSearch(dst, r)
	dst[at] = keyHint
	return dst
}

// keysOf returns the keys of a held entry and its receipt, which may be nil. A pin has those of
// its receipt among its further keys.
func (db *DB) keysOf(entry, receipt []byte) []string {
	keys := db.search(entry)
	if further := db.keysOfReceipt(receipt); len(further) > 0 {
		return slices.Concat(keys, further)
	}
	return keys
}

func (db *DB) keysOfReceipt(receipt []byte) []string {
	if len(receipt) == 0 || db.receiptKeys == nil {
		return nil
	}
	return db.receiptKeys(receipt)
}

// appendRows appends the rows of an entry, each once.
func appendRows(dst []searchRow, index uint64, keys []string) []searchRow {
	start := len(dst)
	for _, key := range keys {
		dst = append(dst, searchRowOf(key, index))
	}
	slices.SortFunc(dst[start:], searchRow.compare)
	return dst[:start+len(slices.Compact(dst[start:]))]
}

// stageSearch puts the search rows of rows into a batch.
func (t *Tree) stageSearch(b *pebble.Batch, rows *entryRows) error {
	if rows.search == nil {
		return nil
	}
	return t.stageSorted(b, slices.Concat(rows.search...))
}

// stageSorted puts search rows into a batch, sorted as stageLeaves does.
func (t *Tree) stageSorted(b *pebble.Batch, rows []searchRow) error {
	slices.SortFunc(rows, searchRow.compare)
	key := make([]byte, 0, searchRowLen)
	for _, r := range rows {
		if err := b.Set(t.id.appendSearch(key[:0], r), nil, nil); err != nil {
			return err
		}
	}
	return nil
}

// stagePin puts the search rows of a pin into a batch, or takes them out.
func (t *Tree) stagePin(b *pebble.Batch, p *Pin, kept bool) error {
	s := t.State()
	if !t.db.keeps(s.search) || !kept && s.holds(p.Index) == nil {
		return nil
	}
	for _, r := range appendRows(nil, p.Index, t.db.search(p.Entry)) {
		if err := stageRow(b, t.id.appendSearch(nil, r), kept); err != nil {
			return err
		}
	}
	return nil
}

// stageRow puts a row without a value into a batch, or takes it out.
func stageRow(b *pebble.Batch, key []byte, kept bool) error {
	if kept {
		return b.Set(key, nil, nil)
	}
	return b.Delete(key, nil)
}

// commitPins makes a change of pins durable; without SearchKeys it ends the search index.
func (t *Tree) commitPins(b *pebble.Batch) error {
	s := *t.State()
	if !s.search.present || t.db.keeps(s.search) {
		return t.db.commit(b)
	}
	s.search = coverage{}
	return t.commitSearch(b, &s)
}

// stageHints puts the rows of the further keys of a pin into a batch, or takes them out.
func (t *Tree) stageHints(b *pebble.Batch, p *Pin, kept bool) error {
	for _, k := range p.Keys {
		if err := stageRow(b, t.id.appendHint(nil, searchRowOf(k, p.Index)), kept); err != nil {
			return err
		}
	}
	return nil
}

// hinted returns the indexes of pins that have a further key, in ascending order.
func (v *View) hinted(key string) (indexes []uint64, err error) {
	first := searchRowOf(key, 0)
	lower := v.tree.id.appendHint(nil, first)
	upper := append(v.tree.id.appendHint(nil, searchRowOf(key, ^uint64(0))), 0)
	err = v.rows(lower, upper, func() ([]byte, string) { return lower, hintIndex.name }, func(row, _ []byte) error {
		index, err := lastUint64(row)
		if err != nil {
			return err
		}
		p, ok, err := v.Pin(index)
		if err == nil && ok && slices.Contains(p.Keys, key) {
			indexes = append(indexes, index)
		}
		return err
	})
	return indexes, err
}

// ErrIndexing: the search index was begun anew since the view was made. Another view knows
// what it covers now.
var ErrIndexing = errors.New("search index was begun anew")

// Search calls yield with the index of every entry that the view holds or pins and that has a
// key, in ascending order, up to the first error. Of the entries held that are outside of
// Indexed it may miss some. It returns ErrIndexing if the view is of an index that was given
// up since.
func (v *View) Search(key string, yield func(index uint64) error) error {
	hinted, err := v.hinted(key)
	if err != nil {
		return err
	}
	if err := v.search(key, func(index uint64) error {
		for len(hinted) > 0 && hinted[0] <= index {
			at := hinted[0]
			if hinted = hinted[1:]; at == index {
				break
			}
			if err := yield(at); err != nil {
				return err
			}
		}
		return yield(index)
	}); err != nil {
		return err
	}
	for _, at := range hinted {
		if err := yield(at); err != nil {
			return err
		}
	}
	return nil
}

// search is Search without further keys.
func (v *View) search(key string, yield func(index uint64) error) error {
	if !v.tree.db.keeps(v.state.search) {
		return nil
	}
	first := searchRowOf(key, 0)
	last := searchRowOf(key, ^uint64(0))
	upper := append(v.tree.id.appendSearch(nil, last), 0)
	for {
		lower, opened := v.tree.id.appendSearch(nil, first), v.swaps
		err := v.rows(lower, upper, func() ([]byte, string) { return lower, "search index" }, func(row, _ []byte) error {
			index, err := lastUint64(row)
			if err != nil {
				return err
			}
			first.index = index + 1 // where to go on after a swap
			found, err := v.has(index, key)
			if err == nil && found {
				err = yield(index)
			}
			return err
		})
		switch {
		case err != nil:
			return err
		case v.tree.searches.Load() != v.searches:
			return ErrIndexing
		case v.swaps == opened && !v.renew():
			return nil
		}
	}
}

// has says whether the entry that the view holds or pins at an index has a key.
func (v *View) has(index uint64, key string) (bool, error) {
	entry, err := v.Entry(index)
	held := !errors.Is(err, ErrNotHeld) && !errors.Is(err, ErrBelowMinimum)
	if !held {
		var p Pin
		var ok bool
		if p, ok, err = v.Pin(index); !ok {
			return false, err
		}
		entry = p.Entry
	}
	if err != nil || slices.Contains(v.tree.db.search(entry), key) {
		return err == nil, err
	}
	if !held || v.tree.db.receiptKeys == nil {
		return false, nil
	}
	receipt, err := v.Receipt(index)
	return err == nil && slices.Contains(v.tree.db.keysOfReceipt(receipt), key), err
}

// HasKey says whether the entry that the view holds or pins at an index has a key.
func (v *View) HasKey(index uint64, key string) (bool, error) {
	if has, err := v.has(index, key); has || err != nil {
		return has, err
	}
	p, ok, err := v.Pin(index)
	return ok && slices.Contains(p.Keys, key), err
}

// Indexed returns the range of held entries that the search index covers; it is empty if
// there is none.
func (v *View) Indexed() (start, end uint64) {
	if c := v.state.search; v.tree.db.keeps(c) {
		return c.start, v.state.Head.Size
	}
	return 0, 0
}

// PinsIndexed says whether the search index covers every pin.
func (v *View) PinsIndexed() bool {
	c := v.state.search
	return v.tree.db.keeps(c) && c.pins == allPins
}

// indexedAtOnce is how many entries IndexSome adds if it is not told.
const indexedAtOnce = 4096

// dropSearch takes a damaged range out of the search index. The rows of one key are those of
// entries all over the tree, so none of it can be written anew alone: the index begins anew,
// and what it has kept of the rows is written over.
func (r *repair) dropSearch(_ context.Context, rows keyRange) error {
	return r.locked(func() error {
		if err := r.t.beginSearch(r.t.newCoverage()); err != nil {
			return err
		}
		_, err := r.newReplacement().swapIn(rows)
		return err
	})
}

// IndexSome adds to the search index the newest of the entries that it does not cover, about
// maxEntries of them; pins come first. done says that there are no more. The tree may be in
// use. The error is that of ctx, a *DamageError where an entry cannot be read, or that of
// the disk.
func (t *Tree) IndexSome(ctx context.Context, maxEntries int) (done bool, err error) {
	defer t.db.recoverFatal(&err)
	t.indexing.Lock()
	defer t.indexing.Unlock()
	if maxEntries <= 0 {
		maxEntries = indexedAtOnce
	}
	s := t.State()
	switch {
	case !t.db.keeps(s.search):
		return true, nil
	case t.db.options.ReadOnly:
		return false, fmt.Errorf("index %q: %w", t.origin, pebble.ErrReadOnly)
	case s.search.pins != allPins:
		return false, t.indexPins(ctx, maxEntries)
	case s.search.start == s.Minimum:
		return true, nil
	}
	start := s.search.start - min(uint64(maxEntries), s.search.start-s.Minimum)
	rows, err := t.searchRows(ctx, start, s.search.start)
	if err != nil {
		return false, fmt.Errorf("index %q from entry %d on: %w", t.origin, start, err)
	}
	t.write.Lock()
	defer t.write.Unlock()
	next := *t.State()
	if next.search != s.search { // begun anew meanwhile
		return false, nil
	}
	next.search.start = start
	b := t.db.pebble.NewBatch()
	defer b.Close()
	if err := errors.Join(t.stageSorted(b, rows), t.commitSearch(b, &next)); err != nil {
		return false, err
	}
	return start == next.Minimum, nil
}

// searchRows returns the search rows of the entries [start, end), which are held.
func (t *Tree) searchRows(ctx context.Context, start, end uint64) ([]searchRow, error) {
	v := t.View()
	defer v.Close()
	var entries [][]byte
	if err := v.Entries(start, end, func(_ uint64, entry []byte) error {
		entries = append(entries, bytes.Clone(entry))
		return ctx.Err()
	}); err != nil {
		return nil, err
	}
	receipts, err := v.receipts(start, end)
	for index := start; absent(err) && index < end; index++ { // what is damaged has no keys, for good
		if receipt, err := v.Receipt(index); err == nil {
			receipts[index] = receipt
		}
	}
	if err != nil && !absent(err) {
		return nil, err
	}
	parts := make([][]searchRow, (len(entries)+pieceEntries-1)/pieceEntries)
	var next atomic.Int64
	var running sync.WaitGroup
	for range min(runtime.GOMAXPROCS(0), len(parts)) {
		running.Go(func() {
			for i := int(next.Add(1) - 1); i < len(parts) && ctx.Err() == nil; i = int(next.Add(1) - 1) {
				for at := i * pieceEntries; at < min((i+1)*pieceEntries, len(entries)); at++ {
					index := start + uint64(at)
					parts[i] = appendRows(parts[i], index, t.db.keysOf(entries[at], receipts[index]))
				}
			}
		})
	}
	running.Wait()
	return slices.Concat(parts...), ctx.Err()
}

// indexPins adds pins to the search index, as IndexSome does entries. They may be released
// meanwhile, so changes wait.
func (t *Tree) indexPins(ctx context.Context, maxPins int) error {
	t.write.Lock()
	defer t.write.Unlock()
	v := t.View()
	defer v.Close()
	next := *v.state
	if !t.db.keeps(next.search) || next.search.pins == allPins {
		return nil
	}
	var rows []searchRow
	n, from := 0, next.search.pins
	next.search.pins = allPins
	err := v.Pins(from, func(p Pin, _ int) error {
		if n == maxPins {
			next.search.pins = p.Index
			return errPause
		}
		n++
		rows = appendRows(rows, p.Index, t.db.search(p.Entry))
		return ctx.Err()
	})
	if err != nil && err != errPause {
		return fmt.Errorf("index the pins of %q from entry %d on: %w", t.origin, from, err)
	}
	b := t.db.pebble.NewBatch()
	defer b.Close()
	return errors.Join(t.stageSorted(b, rows), t.commitSearch(b, &next))
}
