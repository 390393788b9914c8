package storage

import (
	"runtime"
	"sync"
	"sync/atomic"
)

// pieceEntries is how many entries are hashed and encoded at a time.
const pieceEntries = 256

// pieces is the memory that entries are encoded into, used again: on virtual machines fresh
// pages cost more than what is written into them.
var pieces = sync.Pool{New: func() any { return new([]byte) }}

// entryRows are entries on their way into a tree. They are hashed and encoded in the
// background, on all processors, while the first of them are used.
type entryRows struct {
	tree    *Tree
	start   uint64 // index of the first
	entries [][]byte
	bytes   int // of entries
	hashes  []Hash
	stored  [][]byte
	search  [][]searchRow   // of each piece; nil if there is no search index
	memory  []*[]byte       // of each piece
	ready   []chan struct{} // closed when a piece is
	next    atomic.Int64    // piece to begin
	running sync.WaitGroup
}

// prepare begins to hash and encode entries.
func (t *Tree) prepare(start uint64, entries [][]byte) *entryRows {
	n := len(entries)
	r := &entryRows{tree: t, start: start, entries: entries, hashes: make([]Hash, n), stored: make([][]byte, n)}
	for _, entry := range entries {
		r.bytes += len(entry)
	}
	for range (n + pieceEntries - 1) / pieceEntries {
		r.ready = append(r.ready, make(chan struct{}))
		r.memory = append(r.memory, pieces.Get().(*[]byte))
	}
	if t.db.keeps(t.State().search) {
		r.search = make([][]searchRow, len(r.ready))
	}
	for range min(runtime.GOMAXPROCS(0), len(r.ready)) {
		r.running.Go(func() {
			for i := int(r.next.Add(1) - 1); i < len(r.ready); i = int(r.next.Add(1) - 1) {
				r.encode(i)
			}
		})
	}
	return r
}

func (r *entryRows) encode(piece int) {
	memory := (*r.memory[piece])[:0]
	for i := piece * pieceEntries; i < min((piece+1)*pieceEntries, len(r.entries)); i++ {
		r.hashes[i] = LeafHash(r.entries[i])
		at := len(memory)
		memory = appendStored(memory, r.entries[i])
		r.stored[i] = memory[at:len(memory):len(memory)]
		if r.search != nil {
			r.search[piece] = appendRows(r.search[piece], r.start+uint64(i), r.tree.db.search(r.entries[i]))
		}
	}
	*r.memory[piece] = memory
	close(r.ready[piece])
}

// each calls yield for every row in order, up to the first error.
func (r *entryRows) each(yield func(index uint64, hash Hash, stored []byte) error) error {
	for i := range r.entries {
		if i%pieceEntries == 0 {
			<-r.ready[i/pieceEntries]
		}
		if err := yield(r.start+uint64(i), r.hashes[i], r.stored[i]); err != nil {
			return err
		}
	}
	return nil
}

// packed says whether the first entries are stored much shorter than they are.
func (r *entryRows) packed() bool {
	<-r.ready[0]
	raw, stored := 0, 0
	for i := range min(pieceEntries, len(r.entries)) {
		raw += len(r.entries[i])
		stored += len(r.stored[i])
	}
	return stored < raw-raw/8
}

// many says whether the entries get a table of their own.
func (r *entryRows) many() bool { return r.bytes >= r.tree.db.manyBytes }

// release ends the use of the rows.
func (r *entryRows) release() {
	r.running.Wait()
	for _, memory := range r.memory {
		pieces.Put(memory)
	}
}
