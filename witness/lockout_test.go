package witness

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"golang.org/x/mod/sumdb/note"

	"github.com/understudy-log/understudy/storage"
)

// frozen is how the logs of these tests say that they have ended.
func frozen(_ *testLog, log *Log) {
	log.Frozen = func(raw []byte) bool { return bytes.Contains(raw, []byte("\nLog frozen")) }
}

// TestReplayedFromBeforeTheEnd: a note from before the end of a log is cosigned again, as its head
// is the newest one, and does not take the end back.
func TestReplayedFromBeforeTheEnd(t *testing.T) {
	l := newTestLog(t, "log.test/a", 100)
	s := newStage(t)
	s.close()
	s.logs, s.with = []*testLog{l}, frozen
	s.open()
	s.cosigned(l.push(0, 10))
	s.cosigned(body(10, nil, sign(l.text(10, l.root(10), "Log frozen"), l.signer)))
	s.cosigned(body(10, nil, sign(l.text(10, l.root(10), "never seen"), l.signer)))
	s.cosigned(l.push(10, 10)) // a stranger has kept it
	s.close()
	s.open()
	if rows, _ := s.tree(l).State().ArchiveRows(); rows != 3 {
		t.Errorf("%d rows in the archive", rows)
	}
	s.refused(l.push(10, 20), Inconsistent, "frozen")
}

// TestWitnessedAfterItWasMirrored: the tree of a log that was mirrored once has entries, in whole
// or in part; as a witnessed one it goes on from its newest checkpoint.
func TestWitnessedAfterItWasMirrored(t *testing.T) {
	l := newTestLog(t, "log.test/a", 100)
	for _, held := range []uint64{5, 10} {
		s := newStage(t)
		tree, err := s.db.CreateTree(l.origin)
		if err != nil {
			t.Fatal(err)
		}
		tree.Remember(s.newest)
		c := storage.Checkpoint{Head: storage.Head{Size: 10, Root: l.root(10)}, Raw: []byte(l.checkpoint(10)), FirstSeen: time.Now()}
		if _, err := tree.Advance(c, nil, nil); err != nil {
			t.Fatal(err)
		}
		var entries [][]byte
		for i := range held {
			entries = append(entries, fmt.Appendf(nil, "%s %d", l.origin, i))
		}
		if _, err := tree.Extend(entries, func(storage.Head) (storage.Seal, error) {
			return storage.Seal{Checkpoint: tree.State().Pending, Precedes: l.proof(held, 10)}, nil
		}); err != nil {
			t.Fatal(err)
		}
		backup := s.disk.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: 100, RNG: rand.New(rand.NewPCG(1, 1))})
		s.close()
		s.logs = []*testLog{l}
		s.open()
		if at := s.conflict(l); at != 10 {
			t.Fatalf("the witness is at %d", at)
		}
		s.cosigned(l.push(10, 20))
		s.cosigned(l.push(20, 33))
		s.close()
		s.open()
		s.cosigned(l.push(33, 40))
		report, err := s.tree(l).Check(t.Context(), storage.CheckOptions{})
		if err != nil || len(report.Problems) > 0 {
			t.Errorf("check: %v, %+v", err, report.Problems)
		}
		s.close()

		// An older database of it can take nothing back, and takes nobody down.
		if err := s.disk.RemoveAll("db"); err != nil {
			t.Fatal(err)
		}
		if ok, err := vfs.Clone(backup, s.disk, "db", "db", vfs.CloneSync); err != nil || !ok {
			t.Fatal(ok, err)
		}
		s.open()
		s.refused(l.push(40, 50), Unavailable, "caught up")
		s.refused(l.push(10, 50), Unavailable, "caught up")
	}
}

// TestKeyChangedBeforeItWasCosigned: what became pending under a key that the log has given up
// since, and was not cosigned before a crash, locks nobody out.
func TestKeyChangedBeforeItWasCosigned(t *testing.T) {
	l := newTestLog(t, "log.test/a", 100)
	s := newStage(t, l)
	s.cosigned(l.push(0, 10))
	c := storage.Checkpoint{Head: storage.Head{Size: 20, Root: l.root(20)}, Raw: []byte(l.checkpoint(20)), FirstSeen: time.Now()}
	if _, err := s.tree(l).Advance(c, l.proof(10, 20), nil); err != nil {
		t.Fatal(err)
	}
	s.close()
	private, public, err := note.GenerateKey(nil, l.origin)
	if err != nil {
		t.Fatal(err)
	}
	l.signer, _ = note.NewSigner(private)
	l.verifier, _ = note.NewVerifier(public)
	s.open()
	if at := s.conflict(l); at != 20 {
		t.Errorf("the witness is at %d", at)
	}
	fork := newTestLog(t, l.origin, 60)
	fork.leaves[15] = storage.LeafHash([]byte("another"))
	fork.signer = l.signer
	s.refused(fork.push(20, 40), Inconsistent, "") // it extends 10, which was cosigned, and not 20
	s.cosigned(l.push(20, 30))
}

// TestKeysTwice: a key that cosigns twice makes notes that strict readers refuse.
func TestKeysTwice(t *testing.T) {
	a, b := newKey(t, "witness.test/w1", Ed25519), newKey(t, "mirror.test/m1", MLDSA44)
	for _, cfg := range []Config{{Keys: []*Key{a, a}}, {MirrorKeys: []*Key{b, b}}} {
		if _, err := New(cfg); err == nil || !strings.Contains(err.Error(), "twice") {
			t.Errorf("error %v", err)
		}
	}
}

// TestLongOrigins: an ML-DSA-44 cosignature has one byte for the length of an origin; a longer one
// would be another message.
func TestLongOrigins(t *testing.T) {
	good, bad := newTestLog(t, "log.test/"+strings.Repeat("é", 123), 10), newTestLog(t, "log.test/"+strings.Repeat("x", 250), 10)
	s := newStage(t, good)
	s.cosigned(good.push(0, 10))
	tree, err := s.db.CreateTree(bad.origin)
	if err != nil {
		t.Fatal(err)
	}
	log := Log{Origin: bad.origin, Tree: tree, Open: bad.open}
	if err := s.witness.Add(log); err == nil {
		t.Error("it was added")
	}
	s.witness.cfg.Find = func(string) (Log, bool) { return log, true }
	s.refused(bad.push(0, 10), UnknownOrigin, "")
}

// TestMirroredLater: a log that is listed to be witnessed, and of which a mirror is found later,
// is pushed to the mirror.
func TestMirroredLater(t *testing.T) {
	l := newTestLog(t, "log.test/a", 100)
	s := newStage(t, l)
	s.cosigned(l.push(0, 10))
	offered := 0
	s.witness.watch(Log{Origin: l.origin, Tree: s.tree(l), Open: l.open, Offer: func(next storage.Checkpoint, consistency []storage.Hash) error {
		offered++
		_, err := s.tree(l).Advance(next, consistency, nil)
		return err
	}})
	s.cosigned(l.push(10, 20))
	if offered != 1 {
		t.Errorf("%d were offered", offered)
	}
}

// TestRepeated: whoever repeats a request costs the disk nothing within a second.
func TestRepeated(t *testing.T) {
	l := newTestLog(t, "log.test/a", 100)
	s := newStage(t, l)
	s.cosigned(l.push(0, 10))
	seen := map[time.Time]bool{}
	for range 50 {
		s.cosigned(l.push(10, 10))
		seen[s.newest.Cosigned(storage.CosignerWitness, l.origin).LastSeen] = true
	}
	if len(seen) > 3 {
		t.Errorf("written %d times", len(seen))
	}
	at := time.Now()
	time.Sleep(time.Until(at.Truncate(time.Second).Add(time.Second)))
	before := s.witness.CosignedByHash(originHash(l.origin))
	s.cosigned(l.push(10, 10))
	if bytes.Equal(before, s.witness.CosignedByHash(originHash(l.origin))) {
		t.Error("a second later it was not cosigned again")
	}
}

// TestOwnLineComesBack: a checkpoint that was had from a copy, which had it from here, has our line
// already; strict readers refuse one that stands there twice.
func TestOwnLineComesBack(t *testing.T) {
	l := newTestLog(t, "log.test/a", 10)
	s := newStage(t, l)
	s.close()
	s.mirror = []*Key{newKey(t, "mirror.test/m1", Ed25519)}
	s.open()
	c := storage.Checkpoint{Head: storage.Head{Size: 10, Root: l.root(10)}, Raw: []byte(l.checkpoint(10))}
	lines, err := s.witness.cosign(s.witness.find(l.origin), storage.CosignerMirror, c, false)
	if err != nil {
		t.Fatal(err)
	}
	if got := s.witness.Cosignatures(l.origin, c); !bytes.Equal(got, lines) {
		t.Errorf("lines are %q, want %q", got, lines)
	}
	c.Raw = append(c.Raw, lines...)
	if got := s.witness.Cosignatures(l.origin, c); len(got) != 0 {
		t.Errorf("once more: %q", got)
	}
}
