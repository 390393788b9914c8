package synthetic

import (
	"encoding/binary"
	"fmt"
	"runtime"
	"sync"

	"github.com/transparency-dev/merkle/compact"
	"github.com/transparency-dev/merkle/rfc6962"
)

// Options describe a log. The zero value of each but Origin is useful.
type Options struct {
	// Origin is the first line of its checkpoints.
	Origin string
	// Entries are what it logs; HashedRekord(0) if nil.
	Entries Entries
	// Key signs its checkpoints; Ed25519(Origin, 0) if nil.
	Key *Key
	// Gzip compresses tiles and bundles whatever the client accepts, as tlog-tiles allows.
	Gzip bool
	// Prune removes a partial tile or bundle once the full one exists.
	Prune bool
}

// Log is a tlog-tiles log. Hashes are in memory (32 bytes an entry), entries are made
// when they are asked for. Its methods may be called while it serves.
type Log struct {
	Options

	mu        sync.RWMutex
	right     *compact.Range  // of the whole tree
	levels    [][]byte        // levels[l] are the concatenated hashes of all tiles of level l
	published map[uint64]bool // sizes that Grow made
	faults    []Fault
	requests  []Request
	written   uint64
}

// New makes an empty log, and publishes its checkpoint of size 0.
func New(o Options) *Log {
	if o.Entries == nil {
		o.Entries = HashedRekord(0)
	}
	if o.Key == nil {
		o.Key = Ed25519(o.Origin, 0)
	}
	return &Log{Options: o, right: ranges().NewEmptyRange(0), published: map[uint64]bool{0: true}}
}

// Fork makes a log of the same origin and key with the same first k entries, and with
// others after them. It is empty until it grows.
func (l *Log) Fork(k uint64, entries Entries) *Log {
	o := l.Options
	o.Entries = l.Entries.Then(k, entries)
	return New(o)
}

func ranges() *compact.RangeFactory {
	return &compact.RangeFactory{Hash: rfc6962.DefaultHasher.HashChildren}
}

// Grow logs entries until there are size of them, and publishes a checkpoint of that
// size. The size must not be smaller than the present one.
func (l *Log) Grow(size uint64) {
	start := l.Size()
	if size < start {
		panic(fmt.Sprintf("synthetic: log of size %d cannot grow to %d", start, size))
	}
	leaves := make([][]byte, size-start)
	inParallel(uint64(len(leaves)), func(i uint64) {
		leaves[i] = rfc6962.DefaultHasher.HashLeaf(l.Entries(start + i))
	})
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, leaf := range leaves {
		if err := l.right.Append(leaf, l.keep); err != nil {
			panic(fmt.Sprintf("synthetic: append leaf: %v", err))
		}
	}
	l.published[size] = true
}

// keep takes over a node of the tree that a tile holds.
func (l *Log) keep(id compact.NodeID, hash []byte) {
	if id.Level%8 != 0 {
		return
	}
	if level := int(id.Level / 8); level == len(l.levels) {
		l.levels = append(l.levels, nil)
	}
	l.levels[id.Level/8] = append(l.levels[id.Level/8], hash...)
}

// inParallel calls f for every i below n on all cores.
func inParallel(n uint64, f func(i uint64)) {
	workers := uint64(runtime.GOMAXPROCS(0))
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			for i := n * w / workers; i < n*(w+1)/workers; i++ {
				f(i)
			}
		})
	}
	wg.Wait()
}

// Size is the number of entries.
func (l *Log) Size() uint64 {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.right.End()
}

// Root returns the root hash of the first size entries.
func (l *Log) Root(size uint64) [32]byte {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return [32]byte(l.rootLocked(size))
}

func (l *Log) rootLocked(size uint64) []byte {
	if size == 0 {
		return rfc6962.DefaultHasher.EmptyRoot()
	}
	var hashes [][]byte
	for _, id := range compact.RangeNodes(0, size, nil) {
		hashes = append(hashes, l.node(id))
	}
	r, err := ranges().NewRange(0, size, hashes)
	if err != nil {
		panic(fmt.Sprintf("synthetic: range of size %d: %v", size, err))
	}
	root, err := r.GetRootHash(nil)
	if err != nil {
		panic(fmt.Sprintf("synthetic: root of size %d: %v", size, err))
	}
	return root
}

// node returns the hash of a perfect subtree.
func (l *Log) node(id compact.NodeID) []byte {
	if id.Level%8 == 0 {
		return l.levels[id.Level/8][id.Index*32:][:32]
	}
	left := compact.NewNodeID(id.Level-1, id.Index*2)
	return rfc6962.DefaultHasher.HashChildren(l.node(left), l.node(left.Sibling()))
}

// Checkpoint signs the checkpoint of the first size entries.
func (l *Log) Checkpoint(size uint64) []byte {
	return Note(l.Origin, size, l.Root(size), nil, l.Key)
}

// Tile returns width hashes of a tile; false if there are not that many.
func (l *Log) Tile(level int, index uint64, width int) ([]byte, bool) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	if level >= len(l.levels) || index*256+uint64(width) > uint64(len(l.levels[level])/32) {
		return nil, false
	}
	return l.levels[level][index*8192:][: width*32 : width*32], true
}

// Bundle returns width entries of an entry bundle; false if there are not that many.
func (l *Log) Bundle(index uint64, width int) ([]byte, bool) {
	start := index * 256
	if start+uint64(width) > l.Size() {
		return nil, false
	}
	var b []byte
	for i := range uint64(width) {
		entry := l.Entries(start + i)
		b = binary.BigEndian.AppendUint16(b, uint16(len(entry)))
		b = append(b, entry...)
	}
	return b, true
}
