package mirror

import (
	"bytes"
	"errors"
	"net/http"
	"net/http/httptest"
	"slices"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/understudy-log/understudy/storage"
	"github.com/understudy-log/understudy/test/synthetic"
)

// direct asks a handler without a network.
type direct struct{ http.Handler }

func (d direct) RoundTrip(r *http.Request) (*http.Response, error) {
	w := httptest.NewRecorder()
	d.ServeHTTP(w, r)
	return w.Result(), nil
}

// TestDifferences: at every size up to 300, forked anywhere around it, the first difference is found,
// by one tile of each level.
func TestDifferences(t *testing.T) {
	const most, origin = 300, "log.example/differences"
	honest := synthetic.New(synthetic.Options{Origin: origin, Entries: synthetic.Tiny(1)})
	forks := make([]*synthetic.Log, most+1) // by where they begin
	for at := range forks {
		forks[at] = honest.Fork(uint64(at), synthetic.Tiny(2))
		for size := uint64(1); size <= most; size++ {
			forks[at].Grow(size)
		}
	}
	db, err := storage.Create("db", storage.Options{FS: vfs.NewMem(), CacheBytes: 4 << 20})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	tree, err := db.CreateTree(origin)
	if err != nil {
		t.Fatal(err)
	}
	m, err := New(Config{Name: "test", Origin: origin, URL: "http://upstream.example", Tree: tree, RequestsPerSecond: 1e9, HTTPClient: &http.Client{}})
	if err != nil {
		t.Fatal(err)
	}
	node := func(size uint64) storage.NodeFunc {
		return func(level int, index uint64) (storage.Hash, error) {
			span := uint64(1) << level
			hashes := []byte(nil)
			for i := index * span; i < (index+1)*span; i++ {
				hash := storage.LeafHash(honest.Entries(i))
				hashes = append(hashes, hash[:]...)
			}
			return fold(hashes), nil
		}
	}
	for held := uint64(1); held <= most; held++ {
		honest.Grow(held)
		c := storage.Checkpoint{Head: storage.Head{Size: held, Root: honest.Root(held)}, Raw: honest.Checkpoint(held)}
		proof, err := storage.ConsistencyProof(held-1, held, node(held))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := tree.Advance(c, proof, proof); err != nil {
			t.Fatal(err)
		}
		if _, err := tree.Extend([][]byte{honest.Entries(held - 1)}, func(storage.Head) (storage.Seal, error) { return storage.Seal{Checkpoint: c}, nil }); err != nil {
			t.Fatal(err)
		}
		all := slices.Contains([]uint64{1, 2, 3, 255, 256, 257, 299, 300}, held)
		for at := range held + 1 {
			near := at < 2 || at+2 > held || at > 253 && at < 258 || at == held/2
			if !near && (!all || testing.Short()) {
				continue
			}
			for _, size := range slices.Compact([]uint64{min(at+1, most), max(at, held), most}) {
				m.places[0].client.Transport = direct{forks[at]}
				forks[at].Forget()
				v := tree.View()
				d := &differ{mirror: m, view: v, held: v.State(), forked: storage.Head{Size: size, Root: forks[at].Root(size)}, common: min(size, held)}
				index, theirs, err := d.byTiles(t.Context())
				v.Close()
				if at >= d.common {
					if same := new(SameError); !errors.As(err, &same) || same.Size != d.common {
						t.Fatalf("held %d, forked at %d to size %d: %v", held, at, size, err)
					}
					continue
				}
				if err != nil || index != at || !bytes.Equal(theirs, forks[at].Entries(at)) {
					t.Fatalf("held %d, forked at %d to size %d: index %d, %v", held, at, size, index, err)
				}
				if n, bundles := len(forks[at].Requests(synthetic.Tile)), len(forks[at].Requests(synthetic.Bundle)); n > 3 || bundles != 1 {
					t.Fatalf("held %d, forked at %d to size %d: %d tiles and %d bundles were asked for", held, at, size, n, bundles)
				}
			}
		}
	}
}
