package mirror_test

import (
	"encoding/binary"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/understudy-log/understudy/mirror"
	"github.com/understudy-log/understudy/storage"
)

// TestSearchForRareAndCommon: an entry that has a rare key and one that many have is found,
// wherever it is.
func TestSearchForRareAndCommon(t *testing.T) {
	const entries, rare = 12_000, 11_900
	db, err := storage.Create("db", storage.Options{FS: vfs.NewMem(), CacheBytes: 4 << 20, SearchVersion: 1, SearchKeys: func(entry []byte) []string {
		if binary.BigEndian.Uint64(entry) == rare {
			return []string{"common", "a rare one"}
		}
		return []string{"common"}
	}})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	tree, err := db.CreateTree("log")
	if err != nil {
		t.Fatal(err)
	}
	bodies := make([][]byte, entries)
	for i := range bodies {
		bodies[i] = binary.BigEndian.AppendUint64(nil, uint64(i))
	}
	if _, err := tree.Extend(bodies, func(h storage.Head) (storage.Seal, error) {
		return storage.Seal{Checkpoint: storage.Checkpoint{Head: h, Raw: []byte("note")}}, nil
	}); err != nil {
		t.Fatal(err)
	}
	m, err := mirror.New(mirror.Config{Name: "log", Origin: "log", URL: "http://log.example", Tree: tree})
	if err != nil {
		t.Fatal(err)
	}
	for _, keys := range [][]string{{"common", "a rare one"}, {"a rare one", "common", "common"}} {
		hits, covered, err := m.Search(keys, true)
		if err != nil || len(hits) != 1 || hits[0].Index != rare || hits[0].LeafHash != storage.LeafHash(bodies[rare]) || covered.End != entries {
			t.Errorf("%v: %+v %+v %v", keys, hits, covered, err)
		}
	}
	if hits, _, err := m.Search([]string{"common", "a rare one"}, false); err != nil || len(hits) != 10_000 {
		t.Errorf("any: %d hits, %v", len(hits), err)
	}
	if hits, _, err := m.Search([]string{"common", "none"}, true); err != nil || len(hits) != 0 {
		t.Errorf("with a key that nothing has: %+v, %v", hits, err)
	}
}
