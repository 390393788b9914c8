package main

import (
	"fmt"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/understudy-log/understudy/storage"
)

// grown is a tree of some entries, and its heads of all sizes.
func grown(t *testing.T, n int) (tree *storage.Tree, leaves []storage.Hash, heads []storage.Head) {
	t.Helper()
	db, err := storage.Create("db", storage.Options{FS: vfs.NewMem(), CacheBytes: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	if tree, err = db.CreateTree("log.example.com"); err != nil {
		t.Fatal(err)
	}
	heads = append(heads, storage.Head{})
	for i := range n {
		entry := fmt.Append(nil, "entry ", i)
		leaves = append(leaves, storage.LeafHash(entry))
		if _, err := tree.Extend([][]byte{entry}, func(next storage.Head) (storage.Seal, error) {
			heads = append(heads, next)
			return storage.Seal{Checkpoint: storage.Checkpoint{Head: next, Raw: fmt.Append(nil, "unsigned ", i)}}, nil
		}); err != nil {
			t.Fatal(err)
		}
	}
	return tree, leaves, heads
}

// What is held contradicts another entry and another history, also one that has the same entry.
func TestHeldIn(t *testing.T) {
	tree, leaves, heads := grown(t, 5)
	other := storage.LeafHash([]byte("another"))
	for name, c := range map[string]struct {
		index, size            uint64
		leaf, root             storage.Hash
		confirmed, contradicts bool
		oursContradicts        bool
	}{
		"the entry":                            {2, 5, leaves[2], heads[5].Root, true, false, false},
		"at a smaller size":                    {2, 3, leaves[2], heads[3].Root, true, false, false},
		"by a promise":                         {2, 0, leaves[2], storage.Hash{}, true, false, false},
		"another entry":                        {2, 5, other, heads[5].Root, false, true, true},
		"another entry by a promise":           {2, 0, other, storage.Hash{}, false, true, true},
		"the entry in another history":         {2, 4, leaves[2], other, false, true, true},
		"the entry in a tree that is not held": {2, 9, leaves[2], other, true, false, true},
		"an entry that is not held":            {7, 9, other, other, false, false, true},
		"the next one by a promise":            {5, 0, other, storage.Hash{}, false, false, true},
	} {
		t.Run(name, func(t *testing.T) {
			if h := heldIn(tree, c.index, c.leaf, c.size, c.root); h.Confirmed != c.confirmed || h.Contradicted != c.contradicts {
				t.Errorf("mirrored: %+v", h)
			}
			if h := heldByOwn(tree, c.index, c.leaf, c.size, c.root); h.Confirmed == h.Contradicted || h.Contradicted != c.oursContradicts || !h.Private {
				t.Errorf("our own: %+v", h)
			}
		})
	}
}

// A promise alone is of Rekor v1, also where a log of Rekor v2 has its host as origin.
func TestMeansOwn(t *testing.T) {
	for _, c := range []struct {
		origin string
		size   uint64
		own    string
		want   bool
	}{
		{"log.example.com", 7, "log.example.com", true},
		{"log.example.com", 0, "log.example.com", false},
		{"log.example.com", 0, "log.example.com - 42", true},
		{"log.example.com", 7, "log.example.com - 42", false},
		{"log.example.com - 42", 7, "log.example.com - 42", true},
	} {
		if meansOwn(c.origin, c.size, c.own) != c.want {
			t.Errorf("%+v", c)
		}
	}
}

// As long as the trust material that is configured was not read, nothing is denied for that.
func TestNoMaterialYet(t *testing.T) {
	k := &desk{d: &daemon{keys: &keyring{}, config: &Config{TUF: &TUFConfig{}}}}
	if m := k.material(nil); m != nil {
		t.Errorf("%T", m)
	}
	k.d.config.TUF = nil
	if m := k.material(nil); m != nil {
		t.Errorf("%T", m)
	}
}
