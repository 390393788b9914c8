package mirror_test

import (
	"context"
	"encoding/binary"
	"errors"
	"net/http"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/understudy-log/understudy/mirror"
	"github.com/understudy-log/understudy/storage"
	"github.com/understudy-log/understudy/test/bubble"
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
		hits, covered, err := m.Search(t.Context(), keys, true)
		if err != nil || len(hits) != 1 || hits[0].Index != rare || hits[0].LeafHash != storage.LeafHash(bodies[rare]) || covered.End != entries {
			t.Errorf("%v: %+v %+v %v", keys, hits, covered, err)
		}
	}
	if hits, _, err := m.Search(t.Context(), []string{"common", "a rare one"}, false); err != nil || len(hits) != 10_000 {
		t.Errorf("any: %d hits, %v", len(hits), err)
	}
	if hits, _, err := m.Search(t.Context(), []string{"common", "none"}, true); err != nil || len(hits) != 0 {
		t.Errorf("with a key that nothing has: %+v, %v", hits, err)
	}
}

// TestIndexOfBefore: what was copied before there was a search index is found too, after a
// while.
func TestIndexOfBefore(t *testing.T) {
	bubble.Run(t, func(t *testing.T) {
		const entries = 10_000
		disk := vfs.NewMem()
		open := func(open func(string, storage.Options) (*storage.DB, error), keys func([]byte) []string) *storage.DB {
			db, err := open("db", storage.Options{FS: disk, CacheBytes: 4 << 20, SearchKeys: keys, SearchVersion: 1})
			check(t, err)
			return db
		}
		db := open(storage.Create, nil)
		tree, err := db.CreateTree("log")
		check(t, err)
		bodies := make([][]byte, entries)
		for i := range bodies {
			bodies[i] = binary.BigEndian.AppendUint64(nil, uint64(i))
		}
		_, err = tree.Extend(bodies, func(h storage.Head) (storage.Seal, error) {
			return storage.Seal{Checkpoint: storage.Checkpoint{Head: h, Raw: []byte("note")}}, nil
		})
		check(t, err)
		check(t, db.Close())

		db = open(storage.Open, func(entry []byte) []string { return []string{string(entry)} })
		defer db.Close()
		tree, err = db.OpenTree("log")
		check(t, err)
		m, err := mirror.New(mirror.Config{
			Name: "log", Origin: "log", URL: "http://log.example", Tree: tree,
			HTTPClient: &http.Client{Transport: nobody{}},
		})
		check(t, err)
		if hits, covered, err := m.Search(t.Context(), []string{string(bodies[7])}, false); err != nil || len(hits) != 0 || covered.Start != covered.End {
			t.Errorf("before: %+v %+v %v", hits, covered, err)
		}
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- m.Run(ctx, nil) }()
		time.Sleep(time.Minute)
		if hits, covered, err := m.Search(t.Context(), []string{string(bodies[7])}, false); err != nil || len(hits) != 1 || hits[0].Index != 7 || covered.Start != 0 || covered.End != entries {
			t.Errorf("after: %+v %+v %v", hits, covered, err)
		}
		stop()
		check(t, <-done)
	})
}

// nobody answers no request.
type nobody struct{}

func (nobody) RoundTrip(*http.Request) (*http.Response, error) {
	return nil, errors.New("nobody there")
}
