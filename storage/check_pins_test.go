package storage

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
)

// pinnedTrees makes a log that is followed, with pins, and one that is copied, with receipts.
func pinnedTrees(t *testing.T, o Options, naive *naiveTree, entries [][]byte) (db *DB, pinned, copied *Tree) {
	t.Helper()
	db = createDB(t, o)
	pinned, copied = createTree(t, db, "pinned"), createTree(t, db, "copied")
	naive.follow(t, pinned, 100, 128, 200, 300)
	for _, p := range []Pin{
		naive.pinOf(7, 150, 200, entries[7], "pinned"), naive.pinOf(99, 200, 200, entries[99], "pinned"),
		naive.pinOf(250, 300, 0, entries[250], "pinned"), naive.pinOf(20, 250, 100, entries[20], "pinned"),
	} {
		if err := pinned.Pin(p); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := copied.Extend(entries, func(next Head) (Seal, error) {
		return Seal{Checkpoint: note("copied", next, "s"), Receipts: entries}, nil
	}); err != nil {
		t.Fatal(err)
	}
	checkTree(t, pinned)
	checkTree(t, copied)
	return db, pinned, copied
}

// TestCheckNamesPins: what is wrong with a pin, its leaf row or a receipt is named, and a pin
// that is damaged can be put back, or removed.
func TestCheckNamesPins(t *testing.T) {
	entries := testEntries(300)
	naive := newNaiveTree(entries)
	flip := func(at int) func([]byte) []byte {
		return func(b []byte) []byte { b[(at+len(b))%len(b)] ^= 3; return b }
	}
	something := func([]byte) []byte { return nil }
	other := naive.pinOf(7, 150, 0, entries[7], "pinned")
	as := func(change func(*Pin)) func([]byte) []byte {
		p := other
		change(&p)
		return func([]byte) []byte { return encodePin(&p) }
	}
	const pinned, copied treeID = 1, 2
	for _, m := range []struct {
		name   string
		key    []byte
		change func([]byte) []byte
		finds  string
		pin    bool // it is a pin that is damaged
		served bool // its proofs verify
		gone   bool // it is given up to mend it
		stays  bool // it cannot be mended
	}{
		{"pin of another version", pinned.pin(7), flip(0), "pin of entry 7 cannot be used", true, false, true, false},
		{"pin emptied", pinned.pin(7), something, "pin of entry 7 cannot be used", true, false, true, false},
		{"pin's entry", pinned.pin(7), flip(-1), "pin of entry 7", true, false, true, false},
		{"pin shorter", pinned.pin(7), func(b []byte) []byte { return b[:len(b)/2] }, "pin of entry 7 cannot be used", true, false, true, false},
		{"pin of another index", pinned.pin(7), as(func(p *Pin) { *p = naive.pinOf(8, 150, 0, entries[8], "") }), "pin of entry 7 does not verify", true, false, true, false},
		{"pin's proof", pinned.pin(7), as(func(p *Pin) { p.Proof = append([]Hash{{}}, p.Proof[1:]...) }), "pin of entry 7 does not verify", true, false, true, false},
		{"pin's checkpoint", pinned.pin(7), as(func(p *Pin) { p.Checkpoint.Raw = []byte("x") }), "checkpoint of the pin of entry 7 is malformed", true, true, true, false},
		{"pin's checkpoint of another log", pinned.pin(7), as(func(p *Pin) { p.Checkpoint = note("elsewhere", naive.head(150), "s") }), "checkpoint of the pin of entry 7 says something else", true, true, true, false},
		{"pin's anchor", pinned.pin(7), as(func(p *Pin) { p.Anchor, p.Link = naive.head(170), naive.consistency(150, 170) }), "pin of entry 7 is tied to a checkpoint of size 170 that is not archived", true, true, false, true},
		{"pin with half a key", pinned.pin(7)[:12], something, "pins have a key of 12 bytes", false, false, false, false},
		{"leaf row deleted", pinned.pinLeaf(naive.leaves[7], 7), nil, "pin of entry 7 has no row in the leaf index of pins", true, true, false, false},
		{"leaf row of no pin", pinned.pinLeaf(naive.leaves[8], 8), something, "leaf index of pins has a row for entry 8, which is not pinned", false, false, false, false},
		{"wrong leaf row", pinned.pinLeaf(Hash{1}, 7), something, "leaf index of pins has a wrong row for entry 7", false, false, false, false},
		{"leaf row with half a key", pinned.pinLeaf(naive.leaves[7], 7)[:12], something, "leaf index of pins has a key of 12 bytes", false, false, false, false},
		{"receipt deleted", copied.receipt(5), nil, "receipt of entry 5 is missing", false, false, false, false},
		{"last receipt deleted", copied.receipt(299), nil, "receipt of entry 299 is missing", false, false, false, false},
		{"receipt beyond the head", copied.receipt(300), something, "receipt of entry 300 is of an entry that is not held", false, false, false, false},
		{"receipt with half a key", copied.receipt(5)[:12], something, "receipts have a key of 12 bytes", false, false, false, false},
	} {
		t.Run(m.name, func(t *testing.T) {
			db, tree, receipts := pinnedTrees(t, Options{FS: vfs.NewMem(), SearchKeys: testKeys, ReceiptKeys: testReceiptKeys}, naive, entries)
			defer closeDB(t, db)
			before := dump(t, db)
			tamper(t, db, m.key, m.change)
			if id, _ := treeOf(m.key); id == copied {
				tree = receipts
			}
			finds(t, tree, m.finds)
			damage := tree.Damage()
			at := slices.IndexFunc(damage, func(e DamageError) bool {
				index, ok := e.Pinned()
				return ok && index == 7 && strings.HasPrefix(e.Error(), m.finds)
			})
			if m.pin != (at >= 0) {
				t.Fatalf("damage is %v, and none is of pin 7", damage)
			}
			if !m.pin {
				return
			}
			if m.served {
				v := tree.View()
				if _, _, err := v.Pin(7); err != nil {
					t.Errorf("pin is not served: %v", err)
				}
				v.Close()
			} else {
				v := tree.View()
				if _, _, err := v.Pin(7); !errors.As(err, new(*DamageError)) {
					t.Errorf("a damaged pin is served: %v", err)
				}
				if _, _, err := v.PinOf(naive.leaves[7]); !errors.As(err, new(*DamageError)) {
					t.Errorf("a damaged pin is served by its hash: %v", err)
				}
				v.Close()
				if err := tree.Pin(naive.pinOf(7, 150, 200, entries[7], "pinned")); err != nil {
					t.Fatal(err)
				}
				checkTree(t, tree)
				sameDump(t, dump(t, db), before)
				tamper(t, db, m.key, m.change)
			}
			if err := tree.Release(PinRead, 7); err != nil {
				t.Fatal(err)
			}
			noticed(t, tree)
			repaired(t, tree, Elsewhere{})
			if left := noticed(t, tree); len(left) > 0 {
				t.Fatalf("left is %v", left)
			}
			repin := func() {
				t.Helper()
				if err := tree.Pin(naive.pinOf(7, 150, 200, entries[7], "pinned")); err != nil {
					t.Fatal(err)
				}
				checkTree(t, tree)
				sameDump(t, dump(t, db), before)
			}
			repin()

			// Of what is damaged, only what is useless is given up.
			tamper(t, db, m.key, m.change)
			noticed(t, tree)
			gone, err := tree.MendPins()
			if err != nil || len(gone) == 1 != m.gone || m.gone && gone[0] != 7 {
				t.Fatalf("given up are the pins %d, %v", gone, err)
			}
			noticed(t, tree)
			repaired(t, tree, Elsewhere{})
			if left := noticed(t, tree); len(left) > 0 == !m.stays {
				t.Fatalf("left is %v", left)
			}
			if m.gone {
				repin()
			} else if !m.stays {
				sameDump(t, dump(t, db), before)
			}
		})
	}
}

// TestMendPinsFiles: of a damaged file with pins, those that can be read stay, the others are given
// up, and when these are pinned again all is as it was.
func TestMendPinsFiles(t *testing.T) {
	unhurried(t)
	const size = 300
	entries := testEntries(size)
	draw := rand.New(rand.NewPCG(3, 4))
	for i := range entries { // so that there are many blocks
		entries[i] = binary.BigEndian.AppendUint64(entries[i], draw.Uint64())
		for range 100 {
			entries[i] = binary.BigEndian.AppendUint64(entries[i], draw.Uint64())
		}
	}
	naive := newNaiveTree(entries)
	disk := vfs.NewCrashableMem()
	o := Options{FS: disk, SearchKeys: testKeys, CacheBytes: 1}
	db := createDB(t, o)
	tree := createTree(t, db, "pinned")
	naive.follow(t, tree, 100, size)
	pin := func(tree *Tree, i uint64) {
		t.Helper()
		p := naive.pinOf(i, size, 100, entries[i], "pinned")
		p.Keys = []string{fmt.Sprint("further ", i%7)}
		if err := tree.Pin(p); err != nil {
			t.Fatal(err)
		}
	}
	for i := range uint64(size) {
		pin(tree, i)
		if i == 100 {
			if err := db.pebble.Flush(); err != nil {
				t.Fatal(err)
			}
		}
	}
	rows := func(db *DB) map[string]string { // but for the head record, which says what the search index covers
		all := dump(t, db)
		maps.DeleteFunc(all, func(key, _ string) bool { return key[0] != keyPin && key[0] != keyPinLeaf && key[0] != keyHint })
		return all
	}
	if err := db.pebble.Flush(); err != nil {
		t.Fatal(err)
	}
	hold := func(tree *Tree, i uint64) {
		t.Helper()
		if i%10 != 5 {
			return
		}
		if err := tree.Hold(i, PinImported); err != nil {
			t.Fatal(err)
		}
	}
	for i := range uint64(size) { // these rows are newer than those in the files
		hold(tree, i)
	}
	before := rows(db)
	closeDB(t, db)
	some, ways := 0, 0
	for name, kind := range tableKinds(t, disk) {
		if kind != string(keyPin) {
			continue
		}
		length := len(readAll(t, disk, name))
		for at := 0; at < length; at += 1 + length/3 { // each is slow: Pebble looks for the bit that was flipped
			ways++
			o.FS = disk.CrashClone(vfs.CrashCloneCfg{})
			flipByte(t, o.FS.(*vfs.MemFS), name, at)
			db, err := Open("data", o)
			if err != nil {
				t.Fatal(err)
			}
			tree := openTree(t, db, "pinned")
			good := eachPin(t, tree, size)
			mended := map[uint64]bool{}
			for try := 0; len(noticed(t, tree)) > 0; try++ {
				if try == 4 {
					t.Fatalf("%s flipped at %d: left is %v", name, at, tree.Damage())
				}
				repaired(t, tree, Elsewhere{})
				gone, err := tree.MendPins()
				if err != nil {
					t.Fatal(err)
				}
				for _, index := range gone {
					mended[index] = true
				}
			}
			for _, index := range slices.Sorted(maps.Keys(mended)) {
				v := tree.View()
				if _, ok, err := v.Pin(index); ok || err != nil || good[index] {
					t.Fatalf("pin %d was given up: %v, %v; it could be read before: %v", index, ok, err, good[index])
				}
				v.Close()
				pin(tree, index)
				hold(tree, index)
			}
			if 0 < len(mended) && len(mended) < 100 {
				some++
			}
			checkTree(t, tree)
			checkSearchNow(t, tree, testKeys)
			sameDump(t, rows(db), before)
			closeDB(t, db)
		}
	}
	if ways < 3 || some < 2 {
		t.Errorf("in %d of %d ways a part of the pins was given up", some, ways)
	}
}

// eachPin demands that EachPin gives every pin that can be read once, in order, and names all
// others. It returns which can be read.
func eachPin(t *testing.T, tree *Tree, size uint64) map[uint64]bool {
	t.Helper()
	v := tree.View()
	defer v.Close()
	good := map[uint64]bool{}
	var want, bad, got []uint64
	for i := range size {
		if _, ok, err := v.Pin(i); ok && err == nil {
			good[i], want = true, append(want, i)
		} else {
			bad = append(bad, i)
		}
	}
	damaged, err := v.EachPin(func(p Pin) { got = append(got, p.Index) })
	if err != nil || !slices.Equal(got, want) || !slices.Equal(damaged, bad) {
		t.Fatalf("pins that can be read: %d, want %d; others: %d, want %d; %v", got, want, damaged, bad, err)
	}
	return good
}

// TestMendPinsWithoutIndex: what cannot be mended ends nothing and takes nothing.
func TestMendPinsWithoutIndex(t *testing.T) {
	entries := testEntries(300)
	naive := newNaiveTree(entries)
	disk := vfs.NewCrashableMem()
	o := Options{FS: disk, CacheBytes: 1}
	db, _, _ := pinnedTrees(t, o, naive, entries)
	if err := db.pebble.Flush(); err != nil {
		t.Fatal(err)
	}
	closeDB(t, db)
	for name, kind := range tableKinds(t, disk) {
		if kind != string(keyPinLeaf) {
			continue
		}
		o.FS = disk.CrashClone(vfs.CrashCloneCfg{})
		flipByte(t, o.FS.(*vfs.MemFS), name, 10)
		db, err := Open("data", o)
		if err != nil {
			t.Fatal(err)
		}
		tree := openTree(t, db, "pinned")
		tamper(t, db, tree.id.pin(7), func(b []byte) []byte { b[0] ^= 1; return b })
		if len(noticed(t, tree)) == 0 {
			t.Fatal("nothing is damaged")
		}
		if gone, err := tree.MendPins(); len(gone) > 0 || err != nil {
			t.Errorf("given up are %d, %v", gone, err)
		}
		v := tree.View()
		if _, ok, err := v.Pin(99); !ok || err != nil {
			t.Errorf("a good pin is %v, %v", ok, err)
		}
		v.Close()
		closeDB(t, db)
		return
	}
	t.Error("no file has the leaf index of pins")
}

// TestCheckNamesLinks: with any hash of the chain damaged or missing, Check says so, or all
// proofs are still made, and right.
func TestCheckNamesLinks(t *testing.T) {
	entries := testEntries(300)
	naive := newNaiveTree(entries)
	db, tree, _ := pinnedTrees(t, Options{FS: vfs.NewMem()}, naive, entries)
	defer closeDB(t, db)
	if err := tree.Archive(note("pinned", naive.head(170), "s")); err != nil { // not tied: no problem
		t.Fatal(err)
	}
	checkTree(t, tree)
	sizes, found := []uint64{100, 128, 200, 300}, 0
	for key, value := range dump(t, db) {
		if key[0] != keySpan {
			continue
		}
		for what, change := range map[string]func([]byte) []byte{
			"flipped": func(b []byte) []byte { b[3] ^= 1; return b },
			"shorter": func(b []byte) []byte { return b[1:] },
			"missing": nil,
		} {
			tamper(t, db, []byte(key), change)
			db.links.Purge()
			report, err := tree.Check(context.Background(), CheckOptions{})
			if err != nil {
				t.Fatal(err)
			}
			if len(report.Problems) > 0 {
				found++
			} else if what != "missing" {
				t.Errorf("row %x %s is not named", key, what)
			}
			v := tree.View()
			for i, first := range sizes {
				for _, last := range sizes[i+1:] {
					if got, err := v.LinkedProof(first, last); len(report.Problems) == 0 && (err != nil || !slices.Equal(got, naive.consistency(first, last))) {
						t.Errorf("row %x %s: Check finds nothing, and from %d to %d there is no proof: %v", key, what, first, last, err)
					}
				}
			}
			v.Close()
			if err := db.pebble.Set([]byte(key), []byte(value), pebble.Sync); err != nil {
				t.Fatal(err)
			}
		}
	}
	if found < 30 {
		t.Errorf("only %d damages were named", found)
	}
	tamper(t, db, tree.id.span(span{1, 3})[:20], func([]byte) []byte { return nil })
	finds(t, tree, "hashes of the checkpoint chain have a key of 20 bytes")
}

// TestBackupOfPins: a backup has the pins, receipts, links and search rows.
func TestBackupOfPins(t *testing.T) {
	entries := testEntries(300)
	naive := newNaiveTree(entries)
	o := Options{FS: vfs.NewMem(), SearchKeys: testKeys, ReceiptKeys: testReceiptKeys}
	db, _, _ := pinnedTrees(t, o, naive, entries)
	if err := db.Backup("backup"); err != nil {
		t.Fatal(err)
	}
	before := dump(t, db)
	closeDB(t, db)
	if err := o.FS.RemoveAll("data"); err != nil {
		t.Fatal(err)
	}
	if _, err := Restore("data", "backup", Options{FS: o.FS}); err != nil {
		t.Fatal(err)
	}
	db, err := Open("data", o)
	if err != nil {
		t.Fatal(err)
	}
	defer closeDB(t, db)
	sameDump(t, dump(t, db), before)
	pinned, copied := openTree(t, db, "pinned"), openTree(t, db, "copied")
	checkSearchNow(t, pinned, testKeys)
	checkSearchNow(t, copied, testKeys)
	checkPin(t, pinned, naive, naive.pinOf(7, 150, 200, entries[7], "pinned").seen(), []uint64{100, 128, 200, 300})
}
