package storage

import (
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"sync"
	"sync/atomic"
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

func benchTree(b *testing.B, keys func([]byte) []string) (*DB, *Tree) {
	db, err := Create(filepath.Join(b.TempDir(), "data"), Options{SearchKeys: keys})
	if err != nil {
		b.Fatal(err)
	}
	return db, createTree(b, db, "log")
}

// BenchmarkExtend appends and syncs batches on the machine's own disk; one operation is a
// batch. It also says what of the raw bytes is on disk once everything is compacted.
func BenchmarkExtend(b *testing.B) { benchExtend(b, nil) }

// BenchmarkExtendSearch is BenchmarkExtend with a search index of four keys an entry: one that
// only it has, one of 16, one of a million, and one that a hundredth of all have.
func BenchmarkExtendSearch(b *testing.B) {
	var n atomic.Uint64
	benchExtend(b, func([]byte) []string {
		i := n.Add(1)
		return []string{
			fmt.Sprintf("sha256:%064x", i), fmt.Sprintf("sha256:%064x", i/16),
			fmt.Sprintf("person %d", i*0x9e3779b97f4a7c15>>44), fmt.Sprintf("job %d", i%100),
		}
	})
}

func benchExtend(b *testing.B, keys func([]byte) []string) {
	realistic()
	db, tree := benchTree(b, keys)
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
	tables, search := int64(0), uint64(0)
	for _, level := range must(db.pebble.SSTables()) {
		for _, table := range level {
			if tables += int64(table.Size); table.Smallest.UserKey[0] == keySearch {
				search += table.Size
			}
		}
	}
	b.ReportMetric(float64(search)/float64(batches*benchBatch), "searchB/entry")
	b.ReportMetric(100*float64(tables)/float64(raw), "%ofRaw")
}

// BenchmarkView reads at random from a tree of 81,920 entries.
func BenchmarkView(b *testing.B) {
	db, tree := benchTree(b, nil)
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
