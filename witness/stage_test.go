package witness

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	formats "github.com/transparency-dev/formats/note"
	"golang.org/x/mod/sumdb/note"

	"github.com/understudy-log/understudy/storage"
)

// testLog is a log with a key: a tree of which any checkpoint and proof can be had.
type testLog struct {
	origin   string
	signer   note.Signer
	verifier note.Verifier
	leaves   []storage.Hash
}

func newTestLog(t testing.TB, origin string, entries int) *testLog {
	t.Helper()
	private, public, err := note.GenerateKey(nil, origin)
	if err != nil {
		t.Fatal(err)
	}
	l := &testLog{origin: origin}
	if l.signer, err = note.NewSigner(private); err != nil {
		t.Fatal(err)
	}
	if l.verifier, err = note.NewVerifier(public); err != nil {
		t.Fatal(err)
	}
	for i := range entries {
		l.leaves = append(l.leaves, storage.LeafHash(fmt.Appendf(nil, "%s %d", origin, i)))
	}
	return l
}

// node hashes a subtree, as RFC 6962 defines it.
func (l *testLog) node(level int, index uint64) (storage.Hash, error) {
	if level == 0 {
		return l.leaves[index], nil
	}
	left, _ := l.node(level-1, 2*index)
	right, _ := l.node(level-1, 2*index+1)
	return storage.NodeHash(left, right), nil
}

func (l *testLog) root(size uint64) storage.Hash {
	root, err := storage.RootHash(size, l.node)
	if err != nil {
		panic(err)
	}
	return root
}

func (l *testLog) proof(first, last uint64) []storage.Hash {
	proof, err := storage.ConsistencyProof(first, last, l.node)
	if err != nil {
		panic(err)
	}
	return proof
}

func (l *testLog) text(size uint64, root storage.Hash, extensions ...string) string {
	text := fmt.Sprintf("%s\n%d\n%s\n", l.origin, size, base64.StdEncoding.EncodeToString(root[:]))
	for _, line := range extensions {
		text += line + "\n"
	}
	return text
}

func sign(text string, signers ...note.Signer) string {
	raw, err := note.Sign(&note.Note{Text: text}, signers...)
	if err != nil {
		panic(err)
	}
	return string(raw)
}

func (l *testLog) checkpoint(size uint64) string { return sign(l.text(size, l.root(size)), l.signer) }

func body(old uint64, proof []storage.Hash, checkpoint string) []byte {
	b := fmt.Appendf(nil, "old %d\n", old)
	for _, h := range proof {
		b = fmt.Appendf(b, "%s\n", base64.StdEncoding.EncodeToString(h[:]))
	}
	return fmt.Appendf(b, "\n%s", checkpoint)
}

// push is the request of a log that knows what was cosigned last.
func (l *testLog) push(old, size uint64) []byte {
	return body(old, l.proof(old, size), l.checkpoint(size))
}

// open verifies with the log's key alone.
func (l *testLog) open(raw []byte) (storage.Checkpoint, error) {
	n, err := note.Open(raw, note.VerifierList(l.verifier))
	if err != nil {
		if _, unverified := errors.AsType[*note.UnverifiedNoteError](err); unverified {
			return storage.Checkpoint{}, ErrUnsigned
		}
		if _, bad := errors.AsType[*note.InvalidSignatureError](err); bad {
			return storage.Checkpoint{}, ErrUnsigned
		}
		return storage.Checkpoint{}, ErrMalformed
	}
	var origin string
	var size uint64
	var root []byte
	lines := strings.SplitN(n.Text, "\n", 4)
	origin = lines[0]
	fmt.Sscan(lines[1], &size)
	root, _ = base64.StdEncoding.DecodeString(lines[2])
	if origin != l.origin || len(root) != 32 {
		return storage.Checkpoint{}, ErrMalformed
	}
	return storage.Checkpoint{Head: storage.Head{Size: size, Root: storage.Hash(root)}, Raw: []byte(sign2(n))}, nil
}

// sign2 writes the note with the verified lines alone.
func sign2(n *note.Note) string {
	text := n.Text + "\n"
	for _, s := range n.Sigs {
		text += "— " + s.Name + " " + s.Base64 + "\n"
	}
	return text
}

// stage is a witness on a disk.
type stage struct {
	t       testing.TB
	disk    *vfs.MemFS
	files   vfs.FS // disk, unless something is in between
	db      *storage.DB
	newest  *storage.Newest
	witness *Witness
	keys    []*Key
	mirror  []*Key
	logs    []*testLog
	with    func(*testLog, *Log) // changes how a log is added; may be nil
}

func newStage(t testing.TB, logs ...*testLog) *stage {
	t.Helper()
	s := &stage{t: t, disk: vfs.NewCrashableMem(), logs: logs, keys: []*Key{newKey(t, "witness.test/w1", Ed25519), newKey(t, "witness.test/w1", MLDSA44)}}
	s.open()
	t.Cleanup(func() { s.close() })
	return s
}

func newKey(t testing.TB, name, algorithm string) *Key {
	t.Helper()
	private, vkey, err := GenerateKey(name, algorithm)
	if err != nil {
		t.Fatal(err)
	}
	k, err := ParseKey([]byte(private + "\n"))
	if err != nil {
		t.Fatal(err)
	}
	if k.VKey() != vkey {
		t.Fatalf("key is %s, was made as %s", k.VKey(), vkey)
	}
	return k
}

func (s *stage) open() {
	s.t.Helper()
	if s.files == nil {
		s.files = s.disk
	}
	var err error
	openDB := storage.Create
	if exists, err := storage.Exists("db", storage.Options{FS: s.files}); err != nil {
		s.t.Fatal(err)
	} else if exists {
		openDB = storage.Open
	}
	if s.db, err = openDB("db", storage.Options{FS: s.files, CacheBytes: 1 << 20}); err != nil {
		s.t.Fatal(err)
	}
	if s.newest, err = storage.OpenNewest("newest", storage.Options{FS: s.files}); err != nil {
		s.t.Fatal(err)
	}
	if s.witness, err = New(Config{Keys: s.keys, MirrorKeys: s.mirror, Newest: s.newest}); err != nil {
		s.t.Fatal(err)
	}
	for _, l := range s.logs {
		tree, err := s.db.OpenTree(l.origin)
		if errors.Is(err, storage.ErrNotExist) {
			tree, err = s.db.CreateTree(l.origin)
		}
		if err != nil {
			s.t.Fatal(err)
		}
		log := Log{Origin: l.origin, Tree: tree, Open: l.open}
		if s.with != nil {
			s.with(l, &log)
		}
		if err := s.witness.Add(log); err != nil {
			s.t.Fatal(err)
		}
	}
}

func (s *stage) close() {
	if s.db == nil {
		return
	}
	if err := errors.Join(s.newest.Close(), s.db.Close()); err != nil {
		s.t.Error(err)
	}
	s.db = nil
}

func (s *stage) tree(l *testLog) *storage.Tree {
	s.t.Helper()
	tree, err := s.db.OpenTree(l.origin)
	if err != nil {
		s.t.Fatal(err)
	}
	return tree
}

// verifiers are those of the witness's keys.
func (s *stage) verifiers(keys []*Key) note.Verifiers {
	var all []note.Verifier
	for _, k := range keys {
		v, err := formats.NewVerifierForCosignatureV1(k.VKey())
		if err != nil {
			s.t.Fatal(err)
		}
		all = append(all, v)
	}
	return note.VerifierList(all...)
}

// cosigned sends a request that must be answered with good cosignatures.
func (s *stage) cosigned(request []byte) {
	s.t.Helper()
	lines, err := s.witness.AddCheckpoint(request)
	if err != nil {
		s.t.Fatalf("refused: %v", err)
	}
	_, checkpoint, _ := bytes.Cut(request, []byte("\n\n"))
	text, _, _ := bytes.Cut(checkpoint, []byte("\n\n"))
	n, err := note.Open(append(append(bytes.Clone(text), "\n\n"...), lines...), s.verifiers(s.keys))
	if err != nil || len(n.Sigs) != len(s.keys) || len(n.UnverifiedSigs) != 0 {
		s.t.Fatalf("cosignatures are %q: %v", lines, err)
	}
	for _, sig := range n.Sigs {
		// SPEC: "The cosignature MUST NOT omit the timestamp, i.e. the timestamp MUST NOT be zero."
		at, err := formats.CoSigV1Timestamp(sig)
		if err != nil || time.Since(at).Abs() > time.Minute {
			s.t.Errorf("cosigned at %v, %v", at, err)
		}
	}
}

// refused sends a request that must be refused, and change nothing.
func (s *stage) refused(request []byte, why Why, text string) *Refusal {
	s.t.Helper()
	var before [][]byte
	for _, l := range s.logs {
		before = append(before, s.witness.CosignedByHash(originHash(l.origin)))
	}
	lines, err := s.witness.AddCheckpoint(request)
	refusal, ok := errors.AsType[*Refusal](err)
	if !ok || refusal.Why != why || !strings.Contains(refusal.Text, text) || lines != nil {
		s.t.Fatalf("answer %q, %v (%T), want %v: %s", lines, err, err, why, text)
	}
	for i, l := range s.logs {
		if !bytes.Equal(before[i], s.witness.CosignedByHash(originHash(l.origin))) {
			s.t.Errorf("%s was cosigned", l.origin)
		}
	}
	return refusal
}

// conflict asks where the witness is. What became pending before a crash, and was not cosigned
// yet, is cosigned then.
func (s *stage) conflict(l *testLog) uint64 {
	s.t.Helper()
	_, err := s.witness.AddCheckpoint(l.push(99, 100))
	refusal, ok := errors.AsType[*Refusal](err)
	if !ok || refusal.Why != Conflict {
		s.t.Fatalf("answer %v", err)
	}
	return refusal.Size
}

func flipped(proof []storage.Hash) []storage.Hash {
	proof = append([]storage.Hash(nil), proof...)
	proof[0][3] ^= 1
	return proof
}
