package storage

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"pgregory.net/rapid"
)

// model is what a tree should hold, in plain maps and slices.
type model struct {
	upstream [][]byte // entries of the log that is copied, a prefix of which is held
	naive    *naiveTree

	minimum, held     uint64
	pending, mirrored Checkpoint
	archive           map[string]Checkpoint // by text
	quarantined       bool
}

// life of a property test: the model beside the tree.
type beside struct {
	model
	db      *DB
	tree    *Tree
	options Options
	backups int
	minutes int
}

// TestAgainstModel does at random whatever can be done to a tree, right and wrong, and
// after each step holds the tree against a model and lets Check read it.
func TestAgainstModel(t *testing.T) {
	unhurried(t)
	const most = 1000
	entries := testEntries(most)
	for i := range entries { // some appear twice
		if i%50 == 49 {
			entries[i] = entries[i-20]
		}
	}
	naive := newNaiveTree(entries)
	rapid.Check(t, func(t *rapid.T) {
		b := &beside{
			model:   model{upstream: entries, naive: naive, archive: map[string]Checkpoint{}},
			options: Options{FS: vfs.NewMem(), CacheBytes: 1 << 20, manyBytes: 4000, SearchKeys: testKeys, ReceiptKeys: testReceiptKeys},
		}
		b.db = createDB(t, b.options)
		b.tree = createTree(t, b.db, "log")
		defer func() { closeDB(t, b.db) }()
		t.Repeat(map[string]func(*rapid.T){
			"advance":     b.advance,
			"extend":      b.extend,
			"extend more": b.extend,
			"begin":       b.begin,
			"prepend":     b.prepend,
			"sign":        b.sign,
			"sign again":  b.signAgain,
			"wrong proof": b.wrongProof,
			"seen":        b.seen,
			"archive":     b.archiveOld,
			"quarantine":  b.quarantine,
			"reopen":      b.reopen,
			"no index":    b.otherKeys,
			"index":       b.index,
			"back up":     b.backup,
			"":            b.check,
		})
	})
}

func (b *beside) now() time.Time { return start.Add(time.Duration(b.minutes) * time.Minute) }

// checkpoint is one that upstream signs now.
func (b *beside) checkpoint(t *rapid.T, size uint64, extensions ...string) Checkpoint {
	b.minutes++
	c := note("log", b.naive.head(size), rapid.StringMatching("[a-c]{3}").Draw(t, "signature"), extensions...)
	c.FirstSeen, c.LastSeen = b.now(), b.now()
	return c
}

// keep is the archive's merging of a checkpoint, and what becomes of it.
func (m *model) keep(c Checkpoint) Checkpoint {
	text := string(c.Raw[:bytes.LastIndex(c.Raw, []byte("\n\n"))])
	if old, ok := m.archive[text]; ok {
		old.LastSeen = later(old.LastSeen, c.LastSeen)
		c = old
	}
	m.archive[text] = c
	if bytes.HasPrefix(m.mirrored.Raw, []byte(text+"\n\n")) {
		m.mirrored.LastSeen = c.LastSeen
	}
	return c
}

// became is the model after a change that was accepted.
func (m *model) became(held uint64, pending Checkpoint) {
	m.held, m.pending = held, m.keep(pending)
	if held == pending.Size {
		m.mirrored = m.pending
	}
}

// accepted holds the outcome of a change against the only thing that may refuse it.
func (b *beside) accepted(t *rapid.T, err error) bool {
	t.Helper()
	if b.quarantined {
		if !errors.Is(err, ErrQuarantined) {
			t.Fatalf("a change of a quarantined tree: %v", err)
		}
		return false
	}
	if err != nil {
		t.Fatalf("refused: %v", err)
	}
	return true
}

func (b *beside) advance(t *rapid.T) {
	size := rapid.Uint64Range(b.pending.Size, uint64(len(b.upstream))).Draw(t, "size")
	var extensions []string
	if rapid.IntRange(0, 9).Draw(t, "freeze") == 0 {
		extensions = []string{"Log frozen"}
	}
	c := b.checkpoint(t, size, extensions...)
	_, err := b.tree.Advance(c, b.naive.consistency(b.pending.Size, size), b.naive.consistency(b.held, size))
	if b.accepted(t, err) {
		b.became(b.held, c)
	}
}

func (b *beside) extend(t *rapid.T) {
	if b.pending.Raw == nil {
		t.Skip("no checkpoint yet")
	}
	size := rapid.Uint64Range(b.held, b.pending.Size).Draw(t, "size")
	_, err := b.tree.Extend(b.upstream[b.held:size], under(b.pending, b.naive.consistency(size, b.pending.Size)))
	if b.accepted(t, err) {
		b.became(size, b.pending)
	}
}

// begin opens a window.
func (b *beside) begin(t *rapid.T) {
	if b.held > 0 || b.pending.Size < tileWidth {
		t.Skip("no place for a window")
	}
	minimum := tileWidth * rapid.Uint64Range(1, b.pending.Size/tileWidth).Draw(t, "minimum in bundles")
	if b.accepted(t, b.naive.begin(b.tree, minimum)) {
		b.minimum = minimum
		b.became(minimum, b.pending)
	}
}

// prepend grows the window to the left, once with right entries and once with a wrong one.
func (b *beside) prepend(t *rapid.T) {
	if b.minimum == 0 {
		t.Skip("no window")
	}
	to := tileWidth * rapid.Uint64Range(0, b.minimum/tileWidth-1).Draw(t, "to bundle")
	entries := slices.Clone(b.upstream[to:b.minimum])
	at := rapid.IntRange(0, len(entries)-1).Draw(t, "entry")
	entries[at] = []byte("forged")
	if err := b.naive.prepend(b.tree, to, entries); !b.quarantined {
		refused(t, err, ErrInconsistent)
	}
	entries[at] = b.upstream[to+uint64(at)]
	if b.accepted(t, b.naive.prepend(b.tree, to, entries)) {
		b.minimum = to
	}
}

// sign grows the tree under a checkpoint of our own, as a private log does.
func (b *beside) sign(t *rapid.T) {
	if b.held != b.pending.Size || b.held == uint64(len(b.upstream)) {
		t.Skip("not ours")
	}
	size := rapid.Uint64Range(b.held+1, min(b.held+300, uint64(len(b.upstream)))).Draw(t, "size")
	c := b.checkpoint(t, size)
	_, err := b.tree.Extend(b.upstream[b.held:size], under(c, nil))
	if b.accepted(t, err) {
		b.became(size, c)
	}
}

// signAgain gives the text of the pending checkpoint another signature.
func (b *beside) signAgain(t *rapid.T) {
	if b.pending.Raw == nil {
		t.Skip("no checkpoint yet")
	}
	b.minutes++
	c := b.pending
	c.Raw = append(bytes.Clone(c.Raw), "— witness c2ln\n"...)
	c.FirstSeen, c.LastSeen = b.now(), b.now()
	_, err := b.tree.Advance(c, nil, b.naive.consistency(b.held, c.Size))
	if b.accepted(t, err) {
		b.became(b.held, c)
	}
}

// wrongProof tries what must be refused.
func (b *beside) wrongProof(t *rapid.T) {
	if b.pending.Size == 0 || b.quarantined {
		t.Skip("nothing to hold it against")
	}
	size := rapid.Uint64Range(b.pending.Size, uint64(len(b.upstream))).Draw(t, "size")
	c := b.checkpoint(t, size)
	consistency, precedes := b.naive.consistency(b.pending.Size, size), b.naive.consistency(b.held, size)
	_, err := b.tree.Advance(c, rapid.SampledFrom(mangled(consistency)).Draw(t, "consistency"), precedes)
	refused(t, err, ErrInconsistent)
	_, err = b.tree.Advance(c, consistency, rapid.SampledFrom(mangled(precedes)).Draw(t, "precedes"))
	refused(t, err, ErrInconsistent)
	c.Root[5] ^= 1
	_, err = b.tree.Advance(c, consistency, precedes)
	if size == b.pending.Size {
		refused(t, err, ErrFork)
	} else {
		refused(t, err, ErrInconsistent)
	}
	_, err = b.tree.Advance(b.checkpoint(t, b.pending.Size-1), nil, nil)
	refused(t, err, ErrRollback)
	if b.held < b.pending.Size {
		next := rapid.Uint64Range(b.held+1, b.pending.Size).Draw(t, "next")
		entries := slices.Clone(b.upstream[b.held:next])
		proof := b.naive.consistency(next, b.pending.Size)
		_, err = b.tree.Extend(entries, under(b.pending, rapid.SampledFrom(mangled(proof)).Draw(t, "proof")))
		refused(t, err, ErrInconsistent)
		entries[rapid.IntRange(0, len(entries)-1).Draw(t, "entry")] = []byte("forged")
		_, err = b.tree.Extend(entries, under(b.pending, proof))
		refused(t, err, ErrInconsistent)
	}
}

func refused(t *rapid.T, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Fatalf("%v, want %v", err, want)
	}
}

func (b *beside) seen(t *rapid.T) {
	b.minutes += rapid.IntRange(1, 3).Draw(t, "minutes")
	if err := b.tree.Seen(b.now()); err != nil {
		t.Fatalf("seen: %v", err)
	}
	if b.pending.Raw == nil || b.quarantined {
		return
	}
	c := b.pending
	c.LastSeen = b.now()
	b.became(b.held, c)
}

func (b *beside) archiveOld(t *rapid.T) {
	c := b.checkpoint(t, rapid.Uint64Range(0, b.held).Draw(t, "size"))
	if bytes.Equal(b.pending.Raw, c.Raw) {
		t.Skip("not an older one")
	}
	if text := string(c.Raw[:bytes.LastIndex(c.Raw, []byte("\n\n"))]); b.pending.Raw != nil && bytes.HasPrefix(b.pending.Raw, []byte(text+"\n\n")) {
		t.Skip("not an older one")
	}
	if err := b.tree.Archive(c); err != nil {
		t.Fatalf("archive: %v", err)
	}
	b.keep(c)
}

func (b *beside) quarantine(t *rapid.T) {
	if rapid.IntRange(0, 19).Draw(t, "really") != 0 {
		t.Skip("honest")
	}
	if err := b.tree.Quarantine(Evidence{Reason: "drawn", At: start}); err != nil {
		t.Fatalf("quarantine: %v", err)
	}
	b.quarantined = true
}

func (b *beside) reopen(t *rapid.T) {
	b.db = reopen(t, b.db, b.options)
	b.tree = openTree(t, b.db, "log")
}

// otherKeys opens the database with a search index of another version, or without one.
func (b *beside) otherKeys(t *rapid.T) {
	b.options.SearchKeys, b.options.SearchVersion = nil, 0
	if rapid.Bool().Draw(t, "keys") {
		b.options.SearchKeys, b.options.SearchVersion = testKeys, rapid.Uint32Range(0, 1).Draw(t, "version")
	}
	b.reopen(t)
}

func (b *beside) index(t *rapid.T) {
	if _, err := b.tree.IndexSome(context.Background(), rapid.IntRange(1, 500).Draw(t, "entries")); err != nil {
		t.Fatalf("index: %v", err)
	}
}

// backup opens a copy and holds it against the model, too.
func (b *beside) backup(t *rapid.T) {
	b.backups++
	dir := fmt.Sprintf("backup %d", b.backups)
	if err := b.db.Backup(dir); err != nil {
		t.Fatalf("back up: %v", err)
	}
	db, err := Open(dir, b.options)
	if err != nil {
		t.Fatalf("open backup: %v", err)
	}
	defer closeDB(t, db)
	b.holds(t, openTree(t, db, "log"))
}

func (b *beside) check(t *rapid.T) { b.holds(t, b.tree) }

// holds compares a tree with the model.
func (b *beside) holds(t *rapid.T, tree *Tree) {
	t.Helper()
	checkTree(t, tree)
	s := tree.State()
	if s.Head != b.naive.head(b.held) || s.Minimum != b.minimum || (s.Evidence != nil) != b.quarantined {
		t.Fatalf("head is %+v from %d on, want size %d from %d on; evidence %v", s.Head, s.Minimum, b.held, b.minimum, s.Evidence)
	}
	same(t, "pending checkpoint", s.Pending, b.pending)
	same(t, "mirror checkpoint", s.Mirrored, b.mirrored)
	v := tree.View()
	defer v.Close()
	rows := 0
	if err := v.Checkpoints(0, ^uint64(0), func(c Checkpoint) error {
		rows++
		same(t, "archived checkpoint", c, b.archive[string(c.Raw[:bytes.LastIndex(c.Raw, []byte("\n\n"))])])
		return nil
	}); err != nil || rows != len(b.archive) {
		t.Fatalf("archive has %d rows, %v, want %d", rows, err, len(b.archive))
	}
	if b.held == b.minimum {
		return
	}
	if rapid.IntRange(0, 9).Draw(t, "search") == 0 {
		if b.options.SearchKeys != nil {
			checkSearch(t, v, testKeys)
		}
	}
	i := rapid.Uint64Range(b.minimum, b.held-1).Draw(t, "index")
	if got, err := v.Entry(i); err != nil || !bytes.Equal(got, b.upstream[i]) {
		t.Fatalf("entry %d is %q, %v", i, got, err)
	}
	first := b.minimum + uint64(slices.Index(b.naive.leaves[b.minimum:], b.naive.leaves[i]))
	if got, ok, err := v.Index(b.naive.leaves[i]); err != nil || !ok || got != first {
		t.Fatalf("index of entry %d is %d, %v, %v, want %d", i, got, ok, err, first)
	}
	for _, size := range []uint64{b.pending.Size, rapid.Uint64Range(i+1, b.held).Draw(t, "size")} {
		if got, err := v.InclusionProof(i, size); err != nil || !slices.Equal(got, b.naive.inclusion(i, size)) {
			t.Fatalf("inclusion of %d at %d is %v, %v", i, size, got, err)
		}
		if got, err := v.ConsistencyProof(i+1, size); err != nil || !slices.Equal(got, b.naive.consistency(i+1, size)) {
			t.Fatalf("consistency of %d with %d is %v, %v", i+1, size, got, err)
		}
	}
}

// same compares checkpoints, but for when they were last seen: that is persisted later.
func same(t *rapid.T, what string, got, want Checkpoint) {
	t.Helper()
	if got.Head != want.Head || !bytes.Equal(got.Raw, want.Raw) || want.Raw != nil && (!got.FirstSeen.Equal(want.FirstSeen) || got.LastSeen.After(want.LastSeen)) {
		t.Fatalf("%s is %+v, want %+v", what, got, want)
	}
}
