package storage

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/transparency-dev/merkle/proof"
	"github.com/transparency-dev/merkle/rfc6962"
)

// pinOf makes a pin with its proof in the tree of a size, tied to the checkpoint of another
// size unless that is 0.
func (n *naiveTree) pinOf(index, size, anchor uint64, entry []byte, origin string) Pin {
	p := Pin{Index: index, Entry: entry, Receipt: fmt.Appendf(nil, "set %d", index), Proof: n.inclusion(index, size),
		Checkpoint: note(origin, n.head(size), "s"), Reasons: PinRead, At: start}
	if anchor > 0 {
		p.Anchor, p.Link = n.head(anchor), n.consistency(min(size, anchor), max(size, anchor))
	}
	return p
}

// library lets the library verify an inclusion proof.
func library(entry []byte, index uint64, head Head, hashes []Hash) error {
	leaf := LeafHash(entry)
	return proof.VerifyInclusion(rfc6962.DefaultHasher, index, head.Size, leaf[:], packed(hashes), head.Root[:])
}

// provable says whether an inclusion proof in the tree of a size of the chain must be had.
func provable(p *Pin, size uint64) bool {
	switch {
	case size == p.Checkpoint.Size:
		return true
	case p.Anchor == (Head{}) || p.Index >= size:
		return false
	}
	return p.Anchor.Size >= p.Checkpoint.Size || p.Index < p.Anchor.Size
}

// checkPin reads a pin, and its proof in every tree of a chain.
func checkPin(t failer, tree *Tree, naive *naiveTree, want Pin, sizes []uint64) (proofs int) {
	t.Helper()
	v := tree.View()
	defer v.Close()
	p, ok, err := v.Pin(want.Index)
	if err != nil || !ok || !reflect.DeepEqual(p, want) {
		t.Fatalf("pin %d is %+v, %v, %v, want %+v", want.Index, p, ok, err, want)
	}
	if p, ok, err = v.PinOf(LeafHash(want.Entry)); err != nil || !ok || p.Index != want.Index {
		t.Fatalf("pin of entry %d is %d, %v, %v", want.Index, p.Index, ok, err)
	}
	for _, size := range append(slices.Clone(sizes), p.Checkpoint.Size) {
		hashes, c, err := v.PinProof(&p, size)
		if err != nil {
			if provable(&p, size) || p.Index < size && !errors.Is(err, ErrNotHeld) {
				t.Fatalf("proof of %d, pinned at %d with anchor %d, at %d of %v: %v", p.Index, p.Checkpoint.Size, p.Anchor.Size, size, sizes, err)
			}
			continue
		}
		if c.Head != naive.head(size) || !slices.Equal(hashes, naive.inclusion(p.Index, size)) {
			t.Fatalf("proof of %d at %d is wrong", p.Index, size)
		}
		if err := library(p.Entry, p.Index, c.Head, hashes); err != nil {
			t.Fatalf("proof of %d at %d: %v", p.Index, size, err)
		}
		proofs++
	}
	return proofs
}

// seen is a pin as it is read.
func (p Pin) seen() Pin {
	p.Checkpoint.LastSeen = p.Checkpoint.FirstSeen
	p.Receipt = append([]byte{}, p.Receipt...)
	return p
}

// TestPinsOfEverySize pins an entry in the tree of any size, tied to any checkpoint of the
// chain, before it goes on and after: all proofs that the stored hashes allow are given.
func TestPinsOfEverySize(t *testing.T) {
	const most = 80
	entries := testEntries(most)
	naive := newNaiveTree(entries)
	draw := rand.New(rand.NewPCG(8, 9))
	db := createDB(t, Options{FS: vfs.NewMem(), SearchKeys: testKeys})
	defer closeDB(t, db)
	proofs := 0
	for size := uint64(1); size <= most; size++ {
		for try := range 12 {
			sizes := chain(draw, 2+draw.IntN(7), most)
			if draw.IntN(2) == 0 {
				sizes = append(sizes, size)
				slices.Sort(sizes)
				sizes = slices.Compact(sizes)
			}
			origin := fmt.Sprintf("log %d/%d", size, try)
			tree := createTree(t, db, origin)
			at := 1 + draw.IntN(len(sizes))
			naive.follow(t, tree, sizes[:at]...)
			anchor := sizes[draw.IntN(at)]
			if try == 0 {
				anchor = 0
			}
			i := draw.Uint64N(size)
			p := naive.pinOf(i, size, anchor, entries[i], origin)
			if err := tree.Pin(p); err != nil {
				t.Fatalf("pin %d of %d to %d: %v", i, size, anchor, err)
			}
			proofs += checkPin(t, tree, naive, p.seen(), sizes[:at])
			naive.follow(t, tree, sizes[at:]...)
			proofs += checkPin(t, tree, naive, p.seen(), sizes)
			checkTree(t, tree)
		}
	}
	t.Logf("%d proofs", proofs)
}

// TestPinsOnHugeLogs is the same for logs of up to 2^40 entries.
func TestPinsOnHugeLogs(t *testing.T) {
	const most = 1 << 40
	draw := rand.New(rand.NewPCG(10, 11))
	db := createDB(t, Options{FS: vfs.NewMem()})
	defer closeDB(t, db)
	proofs := 0
	for try := range 150 {
		index := draw.Uint64N(1 << (1 + draw.IntN(40)))
		naive := hugeTree(index-min(index, 5), 10)
		sizes := chain(draw, 2+draw.IntN(12), most)
		origin := fmt.Sprintf("log %d", try)
		tree := createTree(t, db, origin)
		naive.follow(t, tree, sizes...)
		size := index + 1 + draw.Uint64N(1<<(1+draw.IntN(40)))
		if later := slices.IndexFunc(sizes, func(s uint64) bool { return s > index }); later >= 0 && draw.IntN(3) == 0 {
			size = sizes[later]
		}
		p := naive.pinOf(index, size, sizes[draw.IntN(len(sizes))], hugeEntry(index), origin)
		if err := tree.Pin(p); err != nil {
			t.Fatalf("pin %d of %d to %d: %v", index, size, p.Anchor.Size, err)
		}
		proofs += checkPin(t, tree, naive, p.seen(), sizes)
	}
	t.Logf("%d proofs", proofs)
}

// TestForgedPins: nothing of a pin with anything wrong about it is kept.
func TestForgedPins(t *testing.T) {
	entries := testEntries(300)
	naive := newNaiveTree(entries)
	tree := newTestTree(t, "log")
	naive.follow(t, tree, 100, 200, 300)
	if err := tree.Pin(naive.pinOf(7, 150, 200, entries[7], "log")); err != nil {
		t.Fatal(err)
	}
	before := dump(t, tree.db)
	refused := func(what string, p Pin, want error) {
		t.Helper()
		if err := tree.Pin(p); !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", what, err, want)
		}
	}
	for _, anchor := range []uint64{0, 100, 200, 300} {
		for _, i := range []uint64{0, 99, 140, 149} {
			good := naive.pinOf(i, 150, anchor, entries[i], "log")
			for _, wrong := range mangled(good.Proof) {
				p := good
				p.Proof = wrong
				refused("mangled proof", p, ErrInconsistent)
			}
			for _, wrong := range mangled(good.Link) {
				p := good
				p.Link = wrong
				refused("mangled link", p, ErrInconsistent)
			}
			p := good
			p.Entry = []byte("forged")
			refused("another entry", p, ErrInconsistent)
			p = good
			p.Index++
			refused("another index", p, ErrInconsistent)
			p.Index = 150
			refused("an index outside", p, ErrInconsistent)
			p = good
			p.Checkpoint.Root[0] ^= 1
			refused("another root", p, ErrInconsistent)
			p = good
			p.Checkpoint.Size = 300 // of another height: others may have paths of the same form
			refused("another size", p, ErrInconsistent)
		}
	}
	other := naive.pinOf(7, 150, 200, entries[7], "log")
	other.Anchor.Root[0] ^= 1
	refused("an anchor with another root", other, ErrInconsistent)
	refused("an anchor that is not archived", naive.pinOf(7, 150, 250, entries[7], "log"), ErrUnanchored)
	entries[7] = []byte("of a fork")
	refused("another entry at a pinned index", newNaiveTree(entries).pinOf(7, 150, 0, entries[7], "log"), ErrFork)
	sameDump(t, dump(t, tree.db), before)
}

// TestPinAgain: of a second pin of an entry what the first lacks is kept, and all reasons; it
// goes when none is left.
func TestPinAgain(t *testing.T) {
	entries := testEntries(300)
	naive := newNaiveTree(entries)
	o := Options{FS: vfs.NewMem()}
	db := createDB(t, o)
	defer func() { closeDB(t, db) }()
	tree := createTree(t, db, "log")
	naive.follow(t, tree, 100, 200)
	nothing := dump(t, db)
	sizes := []uint64{100, 200}
	first := naive.pinOf(7, 150, 0, entries[7], "log")
	first.Receipt = nil
	look := func(want Pin) {
		t.Helper()
		checkPin(t, tree, naive, want.seen(), sizes)
		checkTree(t, tree)
	}
	pin := func(p Pin) {
		t.Helper()
		if err := tree.Pin(p); err != nil {
			t.Fatal(err)
		}
	}
	pin(first)
	look(first)
	second := naive.pinOf(7, 120, 200, entries[7], "log")
	second.Reasons = PinWatched
	pin(second)
	second.Reasons |= PinRead
	look(second)
	third := naive.pinOf(7, 200, 200, entries[7], "log")
	third.Reasons, third.Receipt = PinImported, []byte("another")
	pin(third)
	if err := tree.Hold(7, PinImported|PinRead); err != nil {
		t.Fatal(err)
	}
	if err := tree.Hold(70, PinRead); err != nil { // which is none
		t.Fatal(err)
	}
	second.Reasons |= PinImported
	look(second)
	pin(naive.pinOf(8, 200, 200, entries[8], "log"))
	db = reopen(t, db, o)
	tree = openTree(t, db, "log")
	look(second)
	for _, reason := range []PinReasons{PinWatched, PinRead} {
		if err := tree.Release(reason, 7); err != nil {
			t.Fatal(err)
		}
		second.Reasons &^= reason
		look(second)
	}
	for index, reasons := range map[uint64]PinReasons{7: PinImported | PinRead, 8: PinRead, 9: PinRead} {
		if err := tree.Release(reasons, index); err != nil {
			t.Fatal(err)
		}
	}
	sameDump(t, dump(t, db), nothing)
}

// TestReleaseMany: many pins go in one commit, and what is left is what releasing them one by one
// leaves: those with another reason, and none that is damaged.
func TestReleaseMany(t *testing.T) {
	entries := testEntries(300)
	naive := newNaiveTree(entries)
	life := func(release func(*Tree, ...uint64) error) (left map[string]string, synced int64) {
		disk := &hookFS{FS: vfs.NewMem()}
		disk.before = func(op operation, path string) error {
			if op == opSync && strings.HasSuffix(path, ".log") {
				atomic.AddInt64(&synced, 1)
			}
			return nil
		}
		db := createDB(t, Options{FS: disk, SearchKeys: testKeys})
		defer closeDB(t, db)
		tree := createTree(t, db, "log")
		naive.follow(t, tree, 200, 300)
		var all []uint64
		for i := uint64(0); i < 300; i += 3 {
			p := naive.pinOf(i, 300, 200, entries[i], "log")
			if i%5 == 0 {
				p.Reasons |= PinWatched
			}
			p.Keys = []string{fmt.Sprint("further ", i)}
			if err := tree.Pin(p); err != nil {
				t.Fatal(err)
			}
			all = append(all, i)
		}
		if err := tree.Pin(naive.pinOf(1, 300, 200, entries[1], "log")); err != nil { // is not released
			t.Fatal(err)
		}
		for _, i := range []uint64{6, 90, 99} { // 90 is watched
			tamper(t, db, tree.id.pin(i), func(b []byte) []byte { b[0] ^= 1; return b })
		}
		before := atomic.LoadInt64(&synced)
		if err := release(tree, append(all, 2, 298, 6)...); err != nil { // two of which are not pinned
			t.Fatal(err)
		}
		synced = atomic.LoadInt64(&synced) - before
		noticed(t, tree)
		repaired(t, tree, Elsewhere{})
		checkTree(t, tree)
		if damage := tree.Damage(); len(damage) > 0 {
			t.Errorf("left is %v", damage)
		}
		return dump(t, db), synced
	}
	one, slow := life(func(tree *Tree, indexes ...uint64) error {
		for _, index := range indexes {
			if err := tree.Release(PinRead, index); err != nil {
				return err
			}
		}
		return nil
	})
	many, quick := life(func(tree *Tree, indexes ...uint64) error { return tree.Release(PinRead, indexes...) })
	sameDump(t, many, one)
	if quick*4 > slow {
		t.Errorf("the log of the database was synced %d times, and %d times one by one", quick, slow)
	}
}

// TestPinsWithEqualEntries: an entry that is logged twice is pinned twice.
func TestPinsWithEqualEntries(t *testing.T) {
	entries := testEntries(50)
	entries[30] = entries[10]
	naive := newNaiveTree(entries)
	tree := newTestTree(t, "log")
	for _, i := range []uint64{30, 10} {
		if err := tree.Pin(naive.pinOf(i, 50, 0, entries[i], "log")); err != nil {
			t.Fatal(err)
		}
		v := tree.View()
		if p, ok, err := v.PinOf(naive.leaves[10]); err != nil || !ok || p.Index != i {
			t.Errorf("pin of the entry is %d, %v, %v", p.Index, ok, err)
		}
		v.Close()
	}
	if err := tree.Release(PinRead, 10); err != nil {
		t.Fatal(err)
	}
	v := tree.View()
	defer v.Close()
	if p, ok, err := v.PinOf(naive.leaves[10]); err != nil || !ok || p.Index != 30 {
		t.Errorf("pin of the entry is %d, %v, %v", p.Index, ok, err)
	}
	var seen []uint64
	if err := v.Pins(0, func(p Pin, bytes int) error {
		if seen = append(seen, p.Index); bytes < len(p.Entry) {
			t.Errorf("pin %d takes %d bytes", p.Index, bytes)
		}
		return nil
	}); err != nil || !slices.Equal(seen, []uint64{30}) {
		t.Errorf("pins are %v, %v", seen, err)
	}
}

// TestReceipts: what came beside the leaf is kept with each entry, or the entries are refused.
func TestReceipts(t *testing.T) {
	entries := testEntries(700)
	tree := newTestTree(t, "log")
	with := func(receipts [][]byte) func(Head) (Seal, error) {
		return func(next Head) (Seal, error) {
			return Seal{Checkpoint: note("log", next, "s"), Receipts: receipts}, nil
		}
	}
	if _, err := tree.Extend(entries[:300], with(entries[1:301])); err != nil {
		t.Fatal(err)
	}
	before := dump(t, tree.db)
	if _, err := tree.Extend(entries[300:], with(entries[:3])); err == nil {
		t.Error("three receipts for 400 entries")
	}
	sameDump(t, dump(t, tree.db), before)
	if _, err := tree.Extend(entries[300:600], with(entries[301:601])); err != nil {
		t.Fatal(err)
	}
	checkTree(t, tree)
	v := tree.View()
	defer v.Close()
	for i := range uint64(600) {
		if r, err := v.Receipt(i); err != nil || !bytes.Equal(r, entries[i+1]) {
			t.Fatalf("receipt of entry %d is %q, %v", i, r, err)
		}
	}
	if _, err := v.Receipt(600); !errors.Is(err, ErrNotHeld) {
		t.Errorf("receipt of what is not held: %v", err)
	}
}

// TestPinOfHeldEntry: an entry that is held without an attestation, and pinned with one, is found
// by it, and nothing about that is damage.
func TestPinOfHeldEntry(t *testing.T) {
	entries := testEntries(10)
	naive := newNaiveTree(entries)
	db := createDB(t, Options{FS: vfs.NewMem(), SearchKeys: testKeys, ReceiptKeys: testReceiptKeys})
	defer closeDB(t, db)
	tree := createTree(t, db, "log")
	receipts := make([][]byte, len(entries))
	for i := range receipts {
		receipts[i] = []byte("not") // of odd length
	}
	if _, err := tree.Extend(entries, func(next Head) (Seal, error) {
		return Seal{Checkpoint: note("log", next, "s"), Receipts: receipts}, nil
	}); err != nil {
		t.Fatal(err)
	}
	p := naive.pinOf(7, 10, 0, entries[7], "log")
	p.Receipt = []byte("attested")
	p.Keys = testReceiptKeys(p.Receipt)
	if err := tree.Pin(p); err != nil {
		t.Fatal(err)
	}
	for _, want := range [][]uint64{{7}, nil} {
		checkTree(t, tree)
		if report, err := tree.Check(t.Context(), CheckOptions{Pace: func(context.Context, int) error { return nil }}); err != nil || len(report.Problems) > 0 {
			t.Errorf("a check of a tree in use: %v, %v", report.Problems, err)
		}
		var found []uint64
		v := tree.View()
		if err := v.Search("receipt attested", func(index uint64) error { found = append(found, index); return nil }); err != nil || !slices.Equal(found, want) {
			t.Errorf("found %d, %v", found, err)
		}
		v.Close()
		if err := tree.Release(p.Reasons, 7); err != nil {
			t.Fatal(err)
		}
	}
}

// TestCheckReceipts: a check has what the log promised verified, of entries and pins.
func TestCheckReceipts(t *testing.T) {
	const held, size = 600, 700
	entries := testEntries(size)
	naive := newNaiveTree(entries)
	for _, keys := range []func([]byte) []string{nil, testKeys} {
		db := createDB(t, Options{FS: vfs.NewMem(), SearchKeys: keys})
		defer closeDB(t, db)
		tree := createTree(t, db, "log")
		if _, err := tree.Extend(entries[:held], func(next Head) (Seal, error) {
			return Seal{Checkpoint: note("log", next, "s"), Receipts: entries[:held]}, nil
		}); err != nil {
			t.Fatal(err)
		}
		if _, err := tree.Advance(note("log", naive.head(size), "s"), naive.consistency(held, size), naive.consistency(held, size)); err != nil {
			t.Fatal(err)
		}
		p := naive.pinOf(650, size, 0, entries[650], "log")
		p.Receipt = entries[650]
		if err := tree.Pin(p); err != nil {
			t.Fatal(err)
		}
		var verified atomic.Int64
		bad := map[uint64]string{}
		o := CheckOptions{MaxProblems: 3, VerifyEntry: func(index uint64, entry, receipt []byte) error {
			verified.Add(1)
			if !bytes.Equal(entry, entries[index]) || !bytes.Equal(receipt, entries[index]) || bad[index] != "" {
				return errors.New("signature is wrong")
			}
			return nil
		}}
		for _, wrong := range []map[uint64]string{
			{},
			{30: "receipt of entry 30"},
			{599: "receipt of entry 599"},
			{650: "pin of entry 650"},
			{1: "receipt of entry 1", 2: "receipt of entry 2"},
		} {
			bad = wrong
			verified.Store(0)
			report, err := tree.Check(t.Context(), o)
			if err != nil || verified.Load() != held+1 || len(report.Problems) != len(wrong) {
				t.Fatalf("%v: %+v after %d of %d, %v", wrong, report.Problems, verified.Load(), held+1, err)
			}
			for i, index := range slices.Sorted(maps.Keys(wrong)) {
				if got := report.Problems[i].Error(); !strings.Contains(got, wrong[index]) || !strings.Contains(got, "does not verify: signature is wrong") {
					t.Errorf("%v: %s", wrong, got)
				}
			}
		}
	}
}

// testReceiptKeys are those of receipts of even length; others show nothing.
func testReceiptKeys(receipt []byte) []string {
	if len(receipt)%2 != 0 {
		return nil
	}
	return []string{"all", "receipt " + string(receipt)}
}

// TestReceiptKeys: what only the receipt of a held entry shows is found like the rest, in an
// index that was kept all the time or begun anew; what that of a pin shows is for its Keys.
func TestReceiptKeys(t *testing.T) {
	entries := testEntries(700)
	naive := newNaiveTree(entries)
	o := Options{FS: vfs.NewMem(), SearchKeys: testKeys, ReceiptKeys: testReceiptKeys}
	db := createDB(t, o)
	tree := createTree(t, db, "log")
	var receipts [][]byte
	for i := range entries {
		receipts = append(receipts, fmt.Appendf(nil, "%0*d", 8+i%2, i))
	}
	if _, err := tree.Extend(entries[:400], func(next Head) (Seal, error) {
		return Seal{Checkpoint: note("log", next, "s"), Receipts: receipts[:400]}, nil
	}); err != nil {
		t.Fatal(err)
	}
	if _, err := tree.Advance(note("log", naive.head(700), "s"), naive.consistency(400, 700), naive.consistency(400, 700)); err != nil {
		t.Fatal(err)
	}
	for _, index := range []uint64{7, 500} { // the first is held as well
		p := naive.pinOf(index, 700, 0, entries[index], "log")
		p.Receipt = receipts[index]
		if err := tree.Pin(p); err != nil {
			t.Fatal(err)
		}
	}
	look := func(t *testing.T) {
		t.Helper()
		checkTree(t, tree)
		v := tree.View()
		defer v.Close()
		if !v.PinsIndexed() {
			t.Error("not all pins are in the index")
		}
		for index := range uint64(len(entries)) {
			keys := testReceiptKeys(receipts[index])
			if len(keys) == 0 {
				continue
			}
			var found []uint64
			if err := v.Search(keys[1], func(at uint64) error { found = append(found, at); return nil }); err != nil {
				t.Fatal(err)
			}
			has, err := v.HasKey(index, keys[1])
			if err != nil {
				t.Fatal(err)
			}
			if want := index < 400; slices.Contains(found, index) != want || has != want || len(found) > 1 {
				t.Fatalf("entry %d is found by its receipt: %d, %v; want %v", index, found, has, want)
			}
		}
	}
	look(t)

	closeDB(t, db)
	o.SearchVersion++
	var err error
	if db, err = Open("data", o); err != nil {
		t.Fatal(err)
	}
	defer closeDB(t, db)
	tree = openTree(t, db, "log")
	v := tree.View()
	if v.PinsIndexed() {
		t.Error("an index begun anew covers pins")
	}
	v.Close()
	for done := false; !done; {
		if done, err = tree.IndexSome(t.Context(), 100); err != nil {
			t.Fatal(err)
		}
		checkTree(t, tree)
	}
	look(t)

	tamper(t, db, tree.id.appendSearch(nil, searchRowOf(testReceiptKeys(receipts[30])[1], 30)), nil)
	finds(t, tree, "search index row of entry 30 is missing")
	tamper(t, db, tree.id.appendSearch(nil, searchRowOf("receipt of another", 40)), func([]byte) []byte { return nil })
	finds(t, tree, "search index has a wrong row for entry 40")
}

// FuzzPin: what is accepted is the same pin when it is encoded again, and the same bytes up to
// the entry, which may be stored in more than one way.
func FuzzPin(f *testing.F) {
	entries := testEntries(10)
	naive := newNaiveTree(entries)
	for _, anchor := range []uint64{0, 3, 9} {
		p := naive.pinOf(2, 7, anchor, entries[2], "log")
		seed(f, encodePin(&p))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := decodePin(7, b)
		if err != nil {
			return
		}
		again, n := encodePin(&p), len(b)-len(storedOf(t, b))
		if second, err := decodePin(7, again); err != nil || !reflect.DeepEqual(second, p) {
			t.Errorf("%x re-encodes to %x, which is another pin: %v", b, again, err)
		}
		if !bytes.HasPrefix(again, b[:n]) {
			t.Errorf("%x re-encodes to %x", b, again)
		}
	})
}

// storedOf returns the entry at the end of a pin's row, as it is stored.
func storedOf(t *testing.T, row []byte) []byte {
	d := decoder{rest: row}
	d.take(1 + 1 + 8)
	d.bytes()
	d.head()
	d.time()
	d.bytes()
	d.hashes()
	d.head()
	if d.hashes(); d.bad {
		t.Fatalf("row %x is malformed", row)
	}
	return d.rest
}

// TestFailedPin lets the disk refuse what a pin, its release or a link needs: the cause reaches
// Fatal, nothing is acknowledged, and what is found then is the state before or after.
func TestFailedPin(t *testing.T) {
	entries := testEntries(300)
	naive := newNaiveTree(entries)
	for _, f := range []*faults{
		{ops: []operation{opWrite}, path: ".log", err: syscall.ENOSPC},
		{ops: []operation{opSync}, path: ".log", err: syscall.EIO},
	} {
		for what, do := range map[string]func(*Tree) error{
			"pin":     func(tree *Tree) error { return tree.Pin(naive.pinOf(9, 150, 200, entries[9], "log")) },
			"release": func(tree *Tree) error { return tree.Release(PinRead, 7) },
			"advance": func(tree *Tree) error {
				return second(tree.Advance(note("log", naive.head(300), "s"), naive.consistency(200, 300), nil))
			},
		} {
			disk := vfs.NewCrashableMem()
			cause := make(chan error, 1)
			db := createDB(t, Options{FS: &hookFS{disk, f.before}, Fatal: func(err error) {
				cause <- err
				select {}
			}, SearchKeys: testKeys})
			tree := createTree(t, db, "log")
			naive.follow(t, tree, 100, 200)
			if err := tree.Pin(naive.pinOf(7, 150, 200, entries[7], "log")); err != nil {
				t.Fatal(err)
			}
			before := dump(t, db)
			f.on.Store(true)
			done := make(chan error, 1)
			go func() { done <- do(tree) }()
			select {
			case err := <-cause:
				if !errors.Is(err, f.err) {
					t.Errorf("%s, %v: Fatal got %v", what, f, err)
				}
			case err := <-done:
				t.Errorf("%s, %v: ended with %v, and Fatal was not called", what, f, err)
			}
			f.on.Store(false)
			recovered, err := Open("data", Options{FS: disk.CrashClone(vfs.CrashCloneCfg{}), SearchKeys: testKeys})
			if err != nil {
				t.Fatal(err)
			}
			sameDump(t, dump(t, recovered), before) // nothing was synced
			checkTree(t, openTree(t, recovered, "log"))
			closeDB(t, recovered)
		}
	}
}

// TestPinsWhileFollowing pins, releases and reads while the chain goes on; run it with -race.
func TestPinsWhileFollowing(t *testing.T) {
	const most = 1200
	entries := testEntries(most)
	naive := newNaiveTree(entries)
	for size := uint64(1); size <= most; size++ {
		naive.head(size) // so that the others only read it
	}
	o := Options{FS: vfs.NewMem()}
	db := createDB(t, o)
	createTree(t, db, "log")
	o.SearchKeys = testKeys
	db = reopen(t, db, o)
	defer closeDB(t, db)
	tree := openTree(t, db, "log")
	naive.follow(t, tree, 100)
	var running sync.WaitGroup
	var lock sync.Mutex // guards naive
	var stop atomic.Bool
	var proofs atomic.Int64
	go1 := func(seed uint64, do func(*rand.Rand) error) {
		draw := rand.New(rand.NewPCG(seed, 1))
		running.Go(func() {
			for !stop.Load() {
				if err := do(draw); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	go1(1, func(draw *rand.Rand) error {
		size := tree.State().Pending.Size
		i := draw.Uint64N(100)
		lock.Lock()
		p := naive.pinOf(i, size, size, entries[i], "log")
		lock.Unlock()
		return tree.Pin(p)
	})
	go1(2, func(draw *rand.Rand) error { return tree.Release(PinRead, draw.Uint64N(100)) })
	go1(3, func(*rand.Rand) error { return second(tree.IndexSome(context.Background(), 5)) })
	for seed := range uint64(2) {
		go1(4+seed, func(draw *rand.Rand) error {
			v := tree.View()
			defer v.Close()
			size := v.State().Pending.Size
			return v.Pins(draw.Uint64N(100), func(p Pin, _ int) error {
				hashes, c, err := v.PinProof(&p, size)
				if err != nil {
					return fmt.Errorf("proof of %d at %d: %w", p.Index, size, err)
				}
				proofs.Add(1)
				found := false
				if err := v.Search(testKeys(p.Entry)[4], func(index uint64) error { found = found || index == p.Index; return nil }); err != nil || !found {
					return fmt.Errorf("pin %d is found: %v, %w", p.Index, found, err)
				}
				return library(p.Entry, p.Index, c.Head, hashes)
			})
		})
	}
	go1(9, func(*rand.Rand) error {
		report, err := tree.Check(context.Background(), CheckOptions{})
		if err == nil && len(report.Problems) > 0 {
			err = fmt.Errorf("check: %v", report.Problems)
		}
		return err
	})
	for size := uint64(107); size <= most; size += 7 {
		lock.Lock()
		naive.follow(t, tree, size)
		lock.Unlock()
	}
	for proofs.Load() < 100 && !t.Failed() {
		time.Sleep(time.Millisecond)
	}
	stop.Store(true)
	running.Wait()
	checkTree(t, tree)
}
