package storage

import (
	"math/rand/v2"
	"path/filepath"
	"sync"
	"testing"

	"github.com/understudy-log/understudy/test/synthetic"
)

// benchBatch is how many entries one Extend appends.
const benchBatch = 4096

// realistic are entries as those of a Rekor v2 log. They come round again after 40 MB,
// which no block of a table is large enough to see.
var realistic = sync.OnceValue(func() [][]byte {
	entries, next := make([][]byte, 4*benchBatch), synthetic.HashedRekord(1)
	for i := range entries {
		entries[i] = next(uint64(i))
	}
	return entries
})

// grow appends the n-th batch.
func grow(b *testing.B, tree *Tree, n int) (rawBytes int) {
	at := n * benchBatch % len(realistic())
	batch := realistic()[at : at+benchBatch]
	if _, err := tree.Extend(batch, sign(tree.Origin())); err != nil {
		b.Fatal(err)
	}
	for _, e := range batch {
		rawBytes += len(e)
	}
	return rawBytes
}

func benchTree(b *testing.B) (*DB, *Tree) {
	db, err := Create(filepath.Join(b.TempDir(), "data"), Options{})
	if err != nil {
		b.Fatal(err)
	}
	return db, createTree(b, db, "log")
}

// BenchmarkExtend appends and syncs batches on the machine's own disk; one operation is a
// batch. It also says what of the raw bytes is on disk once everything is compacted.
func BenchmarkExtend(b *testing.B) {
	realistic()
	db, tree := benchTree(b)
	defer closeDB(b, db)
	b.ReportAllocs()
	batches, raw := 0, 0
	for b.Loop() {
		raw += grow(b, tree, batches)
		batches++
	}
	b.SetBytes(int64(raw / batches))
	b.ReportMetric(float64(batches*benchBatch)/b.Elapsed().Seconds(), "entries/s")
	for _, step := range []step{flush, compact} {
		if err := step.do(db); err != nil {
			b.Fatal(err)
		}
	}
	tables := int64(0)
	for _, level := range db.pebble.Metrics().Levels {
		tables += level.TablesSize
	}
	b.ReportMetric(100*float64(tables)/float64(raw), "%ofRaw")
}

// BenchmarkView reads at random from a tree of 81,920 entries.
func BenchmarkView(b *testing.B) {
	db, tree := benchTree(b)
	defer closeDB(b, db)
	for n := range 20 {
		grow(b, tree, n)
	}
	if err := flush.do(db); err != nil {
		b.Fatal(err)
	}
	v := tree.View()
	defer v.Close()
	size := v.State().Head.Size
	draw := rand.New(rand.NewPCG(1, 1))
	for name, read := range map[string]func(index uint64) error{
		"entry":       func(i uint64) error { return second(v.Entry(i)) },
		"bundle":      func(i uint64) error { return second(v.Bundle(i/tileWidth, tileWidth)) },
		"tile":        func(i uint64) error { return second(v.Tile(0, i/tileWidth, tileWidth)) },
		"inclusion":   func(i uint64) error { return second(v.InclusionProof(i, size)) },
		"consistency": func(i uint64) error { return second(v.ConsistencyProof(i, size)) },
		"index":       func(i uint64) error { return third(v.Index(LeafHash(realistic()[i%uint64(len(realistic()))]))) },
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if err := read(draw.Uint64N(size)); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
