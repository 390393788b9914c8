package witness

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
	"golang.org/x/mod/sumdb/note"

	"github.com/understudy-log/understudy/storage"
)

// TestSpecification goes through the rules of add-checkpoint (https://c2sp.org/tlog-witness), in
// their order; each is quoted.
func TestSpecification(t *testing.T) {
	l := newTestLog(t, "log.test/a", 100)
	other := newTestLog(t, "log.test/other", 30)
	stranger := newTestLog(t, "log.test/a", 0) // the same origin, another key
	first := func(s *stage) { s.cosigned(l.push(0, 10)) }
	bad := func(checkpoint string) string { // the signature of another text under the log's key
		i := strings.LastIndex(checkpoint, "\n\n")
		return l.text(11, l.root(11)) + checkpoint[i+1:]
	}
	for _, rule := range []struct {
		spec   string
		before func(*stage)
		ask    []byte
		why    Why
		text   string
	}{
		{"If the checkpoint origin is unknown, the witness MUST respond with a \"404 Not Found\"", nil, newTestLog(t, "log.test/unknown", 3).push(0, 3), UnknownOrigin, "log.test/unknown"},
		{"a \"403 Forbidden\" HTTP status code if either no signature from a trusted key for the origin is present", nil, body(0, nil, sign(l.text(5, l.root(5)), stranger.signer)), Forbidden, "no good signature"},
		{"or a signature line's key name and ID match a trusted key but the signature itself fails to verify", nil, body(0, nil, bad(l.checkpoint(10))), Forbidden, "no good signature"},
		{"The old size MUST be equal to or lower than the checkpoint size. Otherwise, the witness MUST respond with a \"400 Bad Request\"", first, body(11, nil, l.checkpoint(10)), Malformed, "greater than"},
		{"If it doesn't match, the witness MUST respond with a \"409 Conflict\" (lower)", first, l.push(5, 20), Conflict, "size 10"},
		{"If it doesn't match, the witness MUST respond with a \"409 Conflict\" (zero)", first, l.push(0, 20), Conflict, "size 10"},
		{"If it doesn't match, the witness MUST respond with a \"409 Conflict\" (higher)", first, l.push(15, 20), Conflict, "size 10"},
		{"(or zero if it never cosigned a checkpoint for that origin)", nil, l.push(5, 20), Conflict, "size 0"},
		{"A checkpoint of size zero MUST have the root hash of the empty tree", nil, body(0, nil, sign(l.text(0, storage.Hash{1}), l.signer)), Inconsistent, "empty tree"},
		{"If the old size is zero, the consistency proof MUST be empty", nil, body(0, l.proof(5, 10), l.checkpoint(10)), Inconsistent, "empty"},
		{"or if a Merkle Consistency Proof doesn't verify (flipped)", first, body(10, flipped(l.proof(10, 20)), l.checkpoint(20)), Inconsistent, ""},
		{"or if a Merkle Consistency Proof doesn't verify (missing)", first, body(10, nil, l.checkpoint(20)), Inconsistent, ""},
		{"or if a Merkle Consistency Proof doesn't verify (longer)", first, body(10, append(l.proof(10, 20), storage.Hash{}), l.checkpoint(20)), Inconsistent, ""},
		{"or if a Merkle Consistency Proof doesn't verify (of another tree)", first, body(10, other.proof(10, 20), sign(l.text(20, other.root(20)), l.signer)), Inconsistent, ""},
		{"or if a Merkle Consistency Proof doesn't verify (for equal sizes)", first, body(10, l.proof(5, 10), l.checkpoint(10)), Inconsistent, ""},
		{"If the old size matches the checkpoint size, the witness MUST check that the root hashes are also identical", first, body(10, nil, sign(l.text(10, other.root(10)), l.signer)), Inconsistent, "two roots"},
		{"the string old, a single space, and the tree size", nil, []byte("10\n\n" + l.checkpoint(10)), Malformed, "first line"},
		{"encoded as an ASCII decimal with no leading zeroes", nil, []byte("old 00\n\n" + l.checkpoint(10)), Malformed, "first line"},
		{"an ASCII decimal (sign)", nil, []byte("old +0\n\n" + l.checkpoint(10)), Malformed, "first line"},
		{"an ASCII decimal (2^64)", nil, []byte("old 18446744073709551616\n\n" + l.checkpoint(10)), Malformed, "first line"},
		{"Each line MUST terminate in a newline character (U+000A) (CRLF)", nil, []byte("old 0\r\n\r\n" + l.checkpoint(10)), Malformed, "first line"},
		{"Each line MUST terminate in a newline character (nothing else)", nil, []byte("old 0"), Malformed, "first line"},
		{"and an empty line", nil, []byte("old 0\n"), Malformed, "empty line"},
		{"followed by a checkpoint", nil, []byte("old 0\n\n"), Malformed, "checkpoint"},
		{"followed by a checkpoint (without its end)", nil, body(0, nil, strings.TrimSuffix(l.checkpoint(10), "\n")), Malformed, ""},
		{"Each consistency proof line MUST encode a single hash in base64 (short)", first, []byte("old 10\nAAAA\n\n" + l.checkpoint(20)), Malformed, "line 1"},
		{"Each consistency proof line MUST encode a single hash in base64 (loose)", first, []byte("old 10\nAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAB=\n\n" + l.checkpoint(20)), Malformed, "line 1"},
		{"The client MUST NOT send more than 63 consistency proof lines", first, body(10, make([]storage.Hash, 64), l.checkpoint(20)), Malformed, "63"},
		{"63 lines are read", first, body(10, make([]storage.Hash, 63), l.checkpoint(20)), Inconsistent, ""},
	} {
		t.Run(rule.spec, func(t *testing.T) {
			s := newStage(t, l, other)
			if rule.before != nil {
				rule.before(s)
			}
			refusal := s.refused(rule.ask, rule.why, rule.text)
			if rule.why == Conflict && !strings.HasSuffix(rule.text, fmt.Sprint(refusal.Size)) {
				t.Errorf("the size in the answer is %d, want %s", refusal.Size, rule.text)
			}
			if rule.why == Inconsistent && strings.Contains(rule.text, "two roots") {
				s.refused(l.push(10, 20), Forbidden, "quarantined")
				return
			}
			// Whatever was asked, the log goes on.
			if rule.before == nil {
				s.cosigned(l.push(0, 10))
			}
			s.cosigned(l.push(10, 20))
		})
	}

	t.Run("it MUST ignore signatures from unknown keys; The submitted checkpoint MAY include multiple signatures", func(t *testing.T) {
		s := newStage(t, l)
		s.cosigned(body(0, nil, sign(l.text(10, l.root(10)), other.signer, l.signer, stranger.signer)))
		if raw := string(s.witness.CosignedByHash(originHash(l.origin))); strings.Contains(raw, "log.test/other") {
			t.Errorf("a stranger's line is served:\n%s", raw)
		}
	})
	t.Run("The response body MUST be a checkpoint for the log identified by the origin, and it MUST include the cosignature(s) from the witness's key(s) that were returned from add-checkpoint and the cosignature from the log key(s) that the witness verified", func(t *testing.T) {
		s := newStage(t, l)
		if raw := s.witness.CosignedByHash(originHash(l.origin)); raw != nil {
			t.Errorf("before anything was cosigned: %q", raw)
		}
		lines, err := s.witness.AddCheckpoint(l.push(0, 10))
		if err != nil {
			t.Fatal(err)
		}
		if got, want := string(s.witness.CosignedByHash(originHash(l.origin))), l.checkpoint(10)+string(lines); got != want {
			t.Errorf("serves %q, want %q", got, want)
		}
	})
	t.Run("growing by all steps, equal sizes, the empty tree", func(t *testing.T) {
		s := newStage(t, l)
		at := uint64(0)
		for _, next := range []uint64{0, 0, 1, 2, 3, 3, 4, 7, 8, 9, 64, 64, 65, 100} {
			s.cosigned(l.push(at, next))
			at = next
		}
		s.cosigned(body(100, nil, sign(l.text(100, l.root(100), "an extension"), l.signer)))
	})
}

// TestRaces: of many requests at once from one size, one tree wins; each cosignature that leaves
// is on a chain, and the record never goes back.
func TestRaces(t *testing.T) {
	l := newTestLog(t, "log.test/a", 400)
	s := newStage(t, l)
	s.cosigned(l.push(0, 1))
	var mu sync.Mutex
	wins := map[uint64]uint64{} // by old size
	var running sync.WaitGroup
	for worker := range 16 {
		running.Go(func() {
			r := rand.New(rand.NewPCG(1, uint64(worker)))
			at := uint64(1)
			for at < 390 {
				next := at + 1 + r.Uint64N(9)
				_, err := s.witness.AddCheckpoint(l.push(at, next))
				if refusal, ok := errors.AsType[*Refusal](err); ok && refusal.Why == Conflict {
					if refusal.Size < at {
						t.Errorf("the record went back from %d to %d", at, refusal.Size)
						return
					}
					at = refusal.Size
					continue
				}
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				if other, ok := wins[at]; ok {
					t.Errorf("from size %d both %d and %d were cosigned", at, other, next)
				}
				wins[at] = next
				mu.Unlock()
				at = next
			}
		})
	}
	running.Wait()
	for at := uint64(1); ; {
		next, ok := wins[at]
		if !ok {
			if p := s.tree(l).State().Pending.Size; p != at {
				t.Errorf("the tree is at %d, the chain ends at %d", p, at)
			}
			break
		}
		at = next
	}
}

// TestRacesWithMirror: pushes and what a mirror reads meet in one function.
func TestRacesWithMirror(t *testing.T) {
	l := newTestLog(t, "log.test/a", 2000)
	s := newStage(t)
	tree, err := s.db.CreateTree(l.origin)
	if err != nil {
		t.Fatal(err)
	}
	tree.Remember(s.newest)
	checkpoint := func(size uint64) storage.Checkpoint {
		return storage.Checkpoint{Head: storage.Head{Size: size, Root: l.root(size)}, Raw: []byte(l.checkpoint(size)), FirstSeen: time.Now(), LastSeen: time.Now()}
	}
	if _, err := tree.Advance(checkpoint(1), nil, nil); err != nil {
		t.Fatal(err)
	}
	log := Log{Origin: l.origin, Tree: tree, Open: l.open, Behind: func() bool { return false }}
	log.Offer = func(next storage.Checkpoint, consistency []storage.Hash) error {
		_, err := tree.Advance(next, consistency, nil)
		return err
	}
	s.witness.cfg.Find = func(string) (Log, bool) { return log, true }
	s.witness.cfg.Mirrored = func() []Log { return []Log{log} }
	var running sync.WaitGroup
	running.Go(func() { // the mirror
		for range 200 {
			at := tree.State().Pending.Size
			next := at + 2
			if _, err := tree.Advance(checkpoint(next), l.proof(at, next), nil); err != nil && !errors.Is(err, storage.ErrRollback) && !errors.Is(err, storage.ErrInconsistent) && !errors.Is(err, storage.ErrFork) {
				t.Error(err)
			}
			if err := s.witness.look(s.witness.find(l.origin)); err != nil {
				t.Error(err)
			}
		}
	})
	wins := 0
	at := uint64(0)
	for range 200 {
		_, err := s.witness.AddCheckpoint(l.push(at, at+3))
		refusal, refused := errors.AsType[*Refusal](err)
		switch {
		case refused && refusal.Why == Conflict:
			if refusal.Size < at {
				t.Fatalf("the record went back from %d to %d", at, refusal.Size)
			}
			at = refusal.Size
		case err != nil:
			t.Fatal(err)
		default:
			wins++
			at += 3
		}
	}
	running.Wait()
	if wins == 0 {
		t.Error("no push was ever accepted")
	}
	t.Logf("%d of 200 pushes accepted, size %d", wins, tree.State().Pending.Size)
}

// TestCrashes stops the machine before every operation that changes the disk: what was answered
// is remembered after that, and the log goes on from what the witness says.
func TestCrashes(t *testing.T) {
	l := newTestLog(t, "log.test/a", 100)
	steps := []uint64{5, 9, 9, 30}
	points := 0
	for k := 0; ; k++ {
		s := &stage{t: t, logs: []*testLog{l}, keys: []*Key{newKey(t, "witness.test/w1", Ed25519)}}
		disk := vfs.NewCrashableMem()
		counting, count := false, 0
		var answered, asked, before uint64 // sizes
		var crashed *vfs.MemFS
		var mu sync.Mutex
		s.files = errorfs.Wrap(disk, errorfs.InjectorFunc(func(op errorfs.Op) error {
			mu.Lock()
			defer mu.Unlock()
			if !counting || op.Kind.ReadOrWrite() != errorfs.OpIsWrite {
				return nil
			}
			if count++; count-1 == k && crashed == nil {
				crashed = disk.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: 50 * (k % 3), RNG: rand.New(rand.NewPCG(1, uint64(k)))})
				before = answered
			}
			return nil
		}))
		s.open()
		for _, next := range steps {
			mu.Lock()
			counting = true
			if crashed == nil {
				asked = next
			}
			mu.Unlock()
			if _, err := s.witness.AddCheckpoint(l.push(answered, next)); err != nil {
				t.Fatal(err)
			}
			mu.Lock()
			answered = next
			mu.Unlock()
		}
		s.close()
		if crashed == nil {
			break
		}
		points++
		s.files = crashed
		s.open()
		at := s.conflict(l)
		if at < before || at > asked {
			t.Fatalf("after a crash the witness is at %d; %d was answered and %d asked", at, before, asked)
		}
		s.cosigned(l.push(at, 60))
		s.close()
	}
	if points < 3*len(steps) {
		t.Errorf("%d crashes", points)
	}
}

// TestRestored: a database that is older than what was cosigned gets no cosignature for what was
// cosigned already, and goes on from there; a memory that is older learns from the database.
func TestRestored(t *testing.T) {
	l := newTestLog(t, "log.test/a", 100)
	copyOf := func(s *stage) *vfs.MemFS {
		return s.disk.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: 100, RNG: rand.New(rand.NewPCG(1, 1))})
	}
	exchange := func(t *testing.T, into, from *vfs.MemFS, dir string) {
		t.Helper()
		if err := into.RemoveAll(dir); err != nil {
			t.Fatal(err)
		}
		if ok, err := vfs.Clone(from, into, dir, dir, vfs.CloneSync); err != nil || !ok {
			t.Fatal(ok, err)
		}
	}
	for _, part := range []string{"db", "newest"} {
		t.Run(part, func(t *testing.T) {
			s := newStage(t, l)
			s.cosigned(l.push(0, 10))
			backup := copyOf(s)
			s.cosigned(l.push(10, 20))
			s.cosigned(l.push(20, 30))
			s.close()
			exchange(t, s.disk, backup, part)
			s.open()
			if part == "newest" { // the database has 30, which was cosigned when it came
				if at := s.conflict(l); at != 30 {
					t.Errorf("the witness is at %d", at)
				}
			} else {
				s.refused(l.push(10, 20), Conflict, "size 30")
				s.refused(l.push(10, 40), Conflict, "size 30")
			}
			s.cosigned(l.push(30, 40))
		})
	}
	t.Run("a mirrored log", func(t *testing.T) {
		behind := true
		s := newStage(t)
		tree, err := s.db.CreateTree(l.origin)
		if err != nil {
			t.Fatal(err)
		}
		log := Log{Origin: l.origin, Tree: tree, Open: l.open, Behind: func() bool { return behind }, Full: true}
		log.Offer = func(next storage.Checkpoint, consistency []storage.Hash) error {
			_, err := tree.Advance(next, consistency, nil)
			return err
		}
		s.witness.cfg.Find = func(origin string) (Log, bool) { return log, origin == l.origin }
		s.witness.cfg.Mirrored = func() []Log { return []Log{log} }
		s.refused(l.push(0, 10), Unavailable, "caught up")
		if err := s.witness.look(s.witness.find(l.origin)); err != nil {
			t.Fatal(err)
		}
		behind = false
		s.cosigned(l.push(0, 10))
	})
}

// TestEvidence: two irreconcilable checkpoints of which both are signed close a log, and both are
// kept; what only proves nothing does not.
func TestEvidence(t *testing.T) {
	l, fork := newTestLog(t, "log.test/a", 100), newTestLog(t, "log.test/a", 0)
	for i := range 100 {
		fork.leaves = append(fork.leaves, storage.LeafHash(fmt.Appendf(nil, "fork %d", i)))
	}
	fork.signer, fork.verifier = l.signer, l.verifier
	for _, c := range []struct {
		name     string
		ask      []byte
		why      Why
		evidence bool
	}{
		{"the same size", fork.push(20, 20), Inconsistent, true},
		{"the same size, to one that knows nothing", fork.push(0, 20), Conflict, true},
		{"a smaller one that was cosigned", fork.push(0, 10), Conflict, true},
		{"a smaller one that was not", fork.push(0, 15), Conflict, false},
		{"a larger one, with a proof of its own", fork.push(20, 30), Inconsistent, false},
		{"what was cosigned, again", l.push(0, 10), Conflict, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newStage(t, l)
			s.cosigned(l.push(0, 10))
			s.cosigned(l.push(10, 20))
			before := s.witness.CosignedByHash(originHash(l.origin))
			s.refused(c.ask, c.why, "")
			ev := s.tree(l).State().Evidence
			if (ev != nil) != c.evidence {
				t.Fatalf("evidence %v, want %t", ev, c.evidence)
			}
			if ev == nil {
				s.cosigned(l.push(20, 30))
				return
			}
			_, second, _ := bytes.Cut(c.ask, []byte("\n\n"))
			if !bytes.Equal(ev.Second, second) || len(ev.First) == 0 {
				t.Errorf("evidence is %q and %q", ev.First, ev.Second)
			}
			for range 2 { // also after a restart
				s.refused(l.push(20, 30), Forbidden, "quarantined")
				if !bytes.Equal(before, s.witness.CosignedByHash(originHash(l.origin))) {
					t.Error("the last good state is not served any more")
				}
				s.close()
				s.open()
			}
		})
	}
	t.Run("after its end", func(t *testing.T) {
		s := newStage(t)
		s.logs, s.with = []*testLog{l}, func(_ *testLog, log *Log) {
			log.Frozen = func(raw []byte) bool { return bytes.Contains(raw, []byte("\nLog frozen")) }
		}
		s.close()
		s.open()
		s.cosigned(body(0, nil, sign(l.text(10, l.root(10), "Log frozen"), l.signer)))
		s.refused(l.push(10, 20), Inconsistent, "frozen")
		s.refused(l.push(10, 10), Forbidden, "quarantined")
	})
}

// TestMirrorCosigner: "I hold and serve all of it" is said of whole copies alone, once all of it
// is durable.
func TestMirrorCosigner(t *testing.T) {
	l := newTestLog(t, "log.test/a", 20)
	entries := make([][]byte, 20)
	for i := range entries {
		entries[i] = fmt.Appendf(nil, "%s %d", l.origin, i)
	}
	s := newStage(t)
	s.close()
	s.mirror = []*Key{newKey(t, "mirror.test/m1", Ed25519), newKey(t, "mirror.test/m1", MLDSA44)}
	s.open()
	tree, err := s.db.CreateTree(l.origin)
	if err != nil {
		t.Fatal(err)
	}
	log := Log{Origin: l.origin, Tree: tree, Open: l.open, Full: true}
	s.witness.cfg.Mirrored = func() []Log { return []Log{log} }
	s.witness.cfg.Find = func(string) (Log, bool) { return log, true }
	look := func() (mirror, witnessed uint64) {
		t.Helper()
		if err := s.witness.look(s.witness.watch(log)); err != nil {
			t.Fatal(err)
		}
		return s.newest.Cosigned(storage.CosignerMirror, l.origin).Size, s.newest.Cosigned(storage.CosignerWitness, l.origin).Size
	}
	pending := storage.Checkpoint{Head: storage.Head{Size: 20, Root: l.root(20)}, Raw: []byte(l.checkpoint(20)), FirstSeen: time.Now(), LastSeen: time.Now()}
	if _, err := tree.Advance(pending, nil, nil); err != nil {
		t.Fatal(err)
	}
	if m, w := look(); m != 0 || w != 20 {
		t.Errorf("nothing is held: mirror %d, witness %d", m, w)
	}
	if _, err := tree.Extend(entries[:12], func(storage.Head) (storage.Seal, error) {
		return storage.Seal{Checkpoint: pending, Precedes: l.proof(12, 20)}, nil
	}); err != nil {
		t.Fatal(err)
	}
	if m, _ := look(); m != 0 {
		t.Errorf("12 of 20 entries are held, and the mirror cosigned %d", m)
	}
	if _, err := tree.Extend(entries[12:], func(storage.Head) (storage.Seal, error) { return storage.Seal{Checkpoint: pending}, nil }); err != nil {
		t.Fatal(err)
	}
	if lines := s.witness.Cosignatures(l.origin, tree.State().Mirrored); lines != nil {
		t.Errorf("lines before anything was cosigned: %q", lines)
	}
	if m, _ := look(); m != 20 {
		t.Errorf("all is held, and the mirror cosigned %d", m)
	}
	raw := append(bytes.Clone(pending.Raw), s.witness.Cosignatures(l.origin, tree.State().Mirrored)...)
	n, err := note.Open(raw, s.verifiers(s.mirror))
	if err != nil || len(n.Sigs) != 2 || len(n.UnverifiedSigs) != 1 {
		t.Errorf("served %q: %v", raw, err)
	}
	if _, err := note.Open(raw, s.verifiers(s.keys)); err == nil {
		t.Error("the mirror's prefix serves what the witness says")
	}
	log.Full = false
	other := newStage(t)
	other.mirror = s.mirror
	if _, err := New(Config{Keys: s.keys, MirrorKeys: s.keys, Newest: s.newest}); err == nil {
		t.Error("one key for both was accepted")
	}
}

// TestManyTexts: whoever has a log sign many texts for one tree gets each cosigned, and fills
// nobody's archive.
func TestManyTexts(t *testing.T) {
	l := newTestLog(t, "log.test/a", 20)
	s := newStage(t, l)
	s.cosigned(l.push(0, 10))
	for i := range 50 {
		s.cosigned(body(10, nil, sign(l.text(10, l.root(10), fmt.Sprintf("Timestamp: %d", i)), l.signer)))
	}
	if rows, _ := s.tree(l).State().ArchiveRows(); rows != 2 {
		t.Errorf("%d rows", rows)
	}
	s.cosigned(l.push(10, 20))
	if rows, _ := s.tree(l).State().ArchiveRows(); rows != 3 {
		t.Errorf("%d rows", rows)
	}
	if report, err := s.tree(l).Check(t.Context(), storage.CheckOptions{}); err != nil || len(report.Problems) > 0 {
		t.Errorf("%v, %v", report.Problems, err)
	}
}
