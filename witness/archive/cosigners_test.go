package archive

import (
	"encoding/json"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// TestCosigners rotates the key of a cosigner, and drops it: what the older keys signed is still in
// packs, with the keys that verify it.
func TestCosigners(t *testing.T) {
	start := time.Date(2026, 9, 30, 12, 0, 0, 0, berlin)
	g := newGrower(t, "log.test")
	keys := []testCosigner{newTestCosigner("witness.test/1", false), newTestCosigner("witness.test/2", true)}
	w := newWorld(t, start, g)
	with := func(cosigners ...string) {
		w.cfg = func(c *Config) { c.Cosigners = cosigners }
		w.crash()
	}
	cosigned := func(by *testCosigner) {
		g.grow(t, 1, w.now)
		c := g.checkpoint(t, uint64(len(g.leaves)), w.now)
		if err := g.tree.Cosigned(c, []string{by.line(c.Raw)}); err != nil {
			t.Fatal(err)
		}
		if err := w.archive.make(t.Context(), w.now.Add(time.Second)); err != nil {
			t.Fatal(err)
		}
	}
	pack := func(n int) (m Manifest) {
		files := untar(t, filepath.Join(w.dir, w.archive.Packs()[n-1].Name))
		if err := json.Unmarshal(files[manifestFile], &m); err != nil {
			t.Fatal(err)
		}
		return m
	}
	with(keys[0].vkey)
	cosigned(&keys[0])
	g.grow(t, 1, w.now)
	c := g.checkpoint(t, uint64(len(g.leaves)), w.now)
	if err := g.tree.Cosigned(c, []string{keys[0].line(c.Raw)}); err != nil {
		t.Fatal(err)
	}
	if err := w.db.PutRecord("synced", nil); err != nil {
		t.Fatal(err)
	}
	with(keys[1].vkey) // the last checkpoint by the first key is in no pack yet
	w.now = w.now.Add(time.Hour)
	cosigned(&keys[1])
	with()
	w.now = w.now.Add(time.Hour)
	cosigned(&keys[0])
	for n, want := range [][]string{{keys[0].vkey}, {keys[1].vkey, keys[0].vkey}, {keys[1].vkey, keys[0].vkey}} {
		if got := pack(n + 1).Logs[0].Cosigners; !slices.Equal(got, want) {
			t.Errorf("pack %d has the cosigners %q, want %q", n+1, got, want)
		}
	}
	r := w.verify(w.dir)
	var good uint64
	for _, p := range r.Packs {
		good += p.Logs[0].Cosignatures
	}
	if good != 4 {
		t.Errorf("%d cosignatures", good)
	}
	if err := w.db.PutRecord(cosignersRecord, []byte("[")); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(t.Context(), w.config()); err == nil || !strings.Contains(err.Error(), cosignersRecord) {
		t.Errorf("opened with a broken record: %v", err)
	}
}
