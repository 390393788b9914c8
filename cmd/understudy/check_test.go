package main

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2"

	"github.com/understudy-log/understudy/storage"
)

// TestCheckRepairsPins: a damaged pin is named by check, and given up by check --repair; those
// that are whole stay, also where their rows in an index do not.
func TestCheckRepairsPins(t *testing.T) {
	const origin, pins = "rekor.example - 12", 130 // more than a report names
	c := &Config{DataDir: t.TempDir(), Logs: []LogConfig{{Name: "rekor", Source: sourceRekorV1, URL: "http://127.0.0.1:1"}}}
	db, err := c.openOrCreate(storage.Options{})
	if err != nil {
		t.Fatal(err)
	}
	tree, err := db.CreateTree(origin)
	if err != nil {
		t.Fatal(err)
	}
	entry := []byte("entry")
	var hashes []storage.Hash // every entry is the same one, so the proofs are easily made
	root := storage.LeafHash(entry)
	for range 8 {
		hashes, root = append(hashes, root), storage.NodeHash(root, root)
	}
	checkpoint := storage.Checkpoint{Head: storage.Head{Size: 256, Root: root}, FirstSeen: time.Unix(1, 0),
		Raw: fmt.Appendf(nil, "%s\n256\n%s\n\n— x AAAAAAAAAA==\n", origin, base64.StdEncoding.EncodeToString(root[:]))}
	for i := range uint64(pins) {
		if err := tree.Pin(storage.Pin{Index: i, Entry: entry, Proof: hashes, Checkpoint: checkpoint, Reasons: storage.PinImported, At: time.Unix(1, 0)}); err != nil {
			t.Fatal(err)
		}
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	run := func(repair bool) (string, error) {
		var out bytes.Buffer
		err := check(t.Context(), c, repair, &out, new(bytes.Buffer))
		return out.String(), err
	}
	if out, err := run(false); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}

	// All pins but two are damaged; one of the two has lost its row in the leaf index.
	raw, err := pebble.Open(filepath.Join(c.DataDir, "db"), &pebble.Options{FormatMajorVersion: pebble.FormatNewest})
	if err != nil {
		t.Fatal(err)
	}
	key := func(table byte, last ...uint64) []byte {
		k := []byte{table, 0, 0, 0, 0, 0, 0, 0, 1}
		for _, n := range last {
			k = binary.BigEndian.AppendUint64(k, n)
		}
		return k
	}
	for i := range uint64(pins) {
		if i != 7 && i != 9 {
			if err := raw.Set(key('p', i), []byte{0}, pebble.Sync); err != nil {
				t.Fatal(err)
			}
		}
	}
	leaf := storage.LeafHash(entry)
	if err := raw.Delete(key('l', binary.BigEndian.Uint64(leaf[:8]), 9), pebble.Sync); err != nil {
		t.Fatal(err)
	}
	if err := raw.Close(); err != nil {
		t.Fatal(err)
	}
	out, err := run(false)
	if err == nil || !strings.Contains(out, "pin of entry 3 ") {
		t.Errorf("damage is not named: %v\n%s", err, out)
	}
	out, err = run(true)
	if err != nil {
		t.Errorf("repair: %v\n%s", err, out)
	}
	if n := strings.Count(out, "given up: the damaged pin of entry "); n != pins-2 || strings.Contains(out, "pin of entry 7;") || strings.Contains(out, "pin of entry 9;") {
		t.Errorf("%d pins are said to be given up, want %d:\n%s", n, pins-2, out)
	}
	if out, err := run(false); err != nil {
		t.Errorf("after the repair: %v\n%s", err, out)
	}
	if db, err = c.openHeld(storage.Options{}); err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if tree, err = db.OpenTree(origin); err != nil {
		t.Fatal(err)
	}
	var left []uint64
	v := tree.View()
	defer v.Close()
	if err := v.Pins(0, func(p storage.Pin, _ int) error { left = append(left, p.Index); return nil }); err != nil || fmt.Sprint(left) != "[7 9]" {
		t.Errorf("left are the pins %d, %v", left, err)
	}
}
