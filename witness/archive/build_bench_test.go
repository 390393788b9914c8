package archive

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/understudy-log/understudy/storage"
)

// BenchmarkPack makes a pack of 10,000 checkpoints and 10,000 entries, and verifies it, as its
// maker does before it keeps it, and once more as an auditor does.
func BenchmarkPack(b *testing.B) {
	const n = 10_000
	start := time.Date(2026, 9, 30, 12, 0, 0, 0, berlin)
	g := newGrower(b, "tiles.test")
	g.full = true
	w := newWorld(b, start, g)
	w.cfg = func(c *Config) { c.Wanted = []Want{{Wanted: Wanted{Index: "all", Log: g.origin}, End: n}} }
	w.crash()
	g.fill(b, n, w.now)
	for b.Loop() {
		began := time.Now()
		w.now = w.now.AddDate(0, 0, 7)
		if err := w.make(); err != nil {
			b.Fatal(err)
		}
		b.ReportMetric(time.Since(began).Seconds(), "s/build")
		p := w.archive.Packs()[0]
		data, err := os.ReadFile(filepath.Join(w.dir, p.Name))
		if err != nil {
			b.Fatal(err)
		}
		began = time.Now()
		report, err := Verify(b.Context(), []Input{{p.Name, bytes.NewReader(data), int64(len(data))}}, Options{Log: w.keys, Makers: []string{w.vkey}})
		if err != nil || !report.Good() || report.Packs[0].Entries != n || report.Packs[0].Logs[0].Checkpoints != n {
			b.Fatal(report, err)
		}
		b.ReportMetric(time.Since(began).Seconds(), "s/verify")
		b.ReportMetric(float64(len(data))/1e6, "MB")
		if b.N > 1 {
			b.Fatal("run it once: -benchtime 1x")
		}
	}
}

// fill makes the log grow by one entry n times, with a checkpoint each.
func (g *grower) fill(t testing.TB, n int, at time.Time) {
	t.Helper()
	tile := map[[2]uint64]storage.Hash{} // full subtrees
	node := func(level int, index uint64) (storage.Hash, error) {
		return g.cached(tile, level, index), nil
	}
	for i := range n {
		body := bytes.Repeat([]byte{byte(i), byte(i >> 8), 'x'}, 400)
		g.leaves, g.bodies = append(g.leaves, storage.LeafHash(body)), append(g.bodies, body)
		size := uint64(i + 1)
		root, err := storage.RootHash(size, node)
		if err != nil {
			t.Fatal(err)
		}
		proof, err := storage.ConsistencyProof(size-1, size, node)
		if err != nil {
			t.Fatal(err)
		}
		c := g.sign(t, size, root, at.Add(time.Duration(i)*time.Second))
		if _, err := g.tree.Advance(c, proof, proof); err != nil {
			t.Fatal(err)
		}
		if _, err := g.tree.Extend([][]byte{body}, func(storage.Head) (storage.Seal, error) { return storage.Seal{Checkpoint: c}, nil }); err != nil {
			t.Fatal(err)
		}
	}
}

func (g *grower) cached(tile map[[2]uint64]storage.Hash, level int, index uint64) storage.Hash {
	if level == 0 {
		return g.leaves[index]
	}
	key := [2]uint64{uint64(level), index}
	h, ok := tile[key]
	if !ok {
		h = storage.NodeHash(g.cached(tile, level-1, 2*index), g.cached(tile, level-1, 2*index+1))
		tile[key] = h
	}
	return h
}
