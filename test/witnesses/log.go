// Package witnesses runs other people's witnesses (C2SP tlog-witness) for tests, has a small log
// to submit to any witness, and holds a witness against the text of the specification.
//
// [NewOmniwitness] and [NewLitewitness] are the real programs, [Conformance] is the black-box
// test, which was right about those before it was asked about ours.
package witnesses

import (
	"crypto/rand"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"strings"
	"sync"

	"github.com/transparency-dev/merkle/rfc6962"
	"github.com/transparency-dev/merkle/testonly"
	"golang.org/x/mod/sumdb/note"
)

// Log is a transparency log in memory that has any size that it is asked about. It signs
// whatever it is told to. Its methods may be called at the same time.
type Log struct {
	Origin string
	VKey   string // of its Ed25519 key
	SKey   string // the private key, as x/mod/sumdb/note writes it

	signer note.Signer
	entry  string // beginning of all entries

	mu   sync.Mutex
	tree *testonly.Tree
}

// NewLog makes a log with a new key. It panics if keyName is not a name of a note's key.
func NewLog(origin, keyName string) *Log {
	skey, vkey, err := note.GenerateKey(rand.Reader, keyName)
	if err != nil {
		panic(err)
	}
	signer, err := note.NewSigner(skey)
	if err != nil {
		panic(err)
	}
	return &Log{
		Origin: origin, VKey: vkey, SKey: skey,
		signer: signer, entry: "entry", tree: testonly.New(rfc6962.DefaultHasher),
	}
}

// Fork returns a log with the same origin and key that has other entries from the first on.
func (l *Log) Fork() *Log {
	return &Log{
		Origin: l.Origin, VKey: l.VKey, SKey: l.SKey,
		signer: l.signer, entry: l.entry + "'", tree: testonly.New(rfc6962.DefaultHasher),
	}
}

// growLocked makes the tree at least as large as size.
func (l *Log) growLocked(size uint64) {
	for l.tree.Size() < size {
		l.tree.AppendData(fmt.Appendf(nil, "%s %d", l.entry, l.tree.Size()))
	}
}

// Root returns the root hash at a size.
func (l *Log) Root(size uint64) []byte {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.growLocked(size)
	return l.tree.HashAt(size)
}

// Proof returns the consistency proof from one size to another, in base64.
func (l *Log) Proof(from, to uint64) []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.growLocked(to)
	hashes, err := l.tree.ConsistencyProof(from, to)
	if err != nil {
		panic(err) // only if from is larger than to
	}
	lines := make([]string, len(hashes))
	for i, hash := range hashes {
		lines[i] = base64.StdEncoding.EncodeToString(hash)
	}
	return lines
}

// Text returns the text of the checkpoint of a size.
func (l *Log) Text(size uint64, extensions ...string) string {
	return Text(l.Origin, size, l.Root(size), extensions...)
}

// Text returns the text of a checkpoint.
func Text(origin string, size uint64, root []byte, extensions ...string) string {
	lines := append([]string{origin, fmt.Sprint(size), base64.StdEncoding.EncodeToString(root)}, extensions...)
	return strings.Join(lines, "\n") + "\n"
}

// Line returns the line with the log's signature of a text.
func (l *Log) Line(text string) string {
	signature, err := l.signer.Sign([]byte(text))
	if err != nil {
		panic(err) // an Ed25519 key signs everything
	}
	return Line(l.signer.Name(), l.signer.KeyHash(), signature)
}

// Line returns a note's line with a signature.
func Line(name string, id uint32, signature []byte) string {
	raw := append(binary.BigEndian.AppendUint32(nil, id), signature...)
	return "— " + name + " " + base64.StdEncoding.EncodeToString(raw) + "\n"
}

// Checkpoint returns the signed checkpoint of a size.
func (l *Log) Checkpoint(size uint64, extensions ...string) string {
	return l.Sign(l.Text(size, extensions...))
}

// Sign returns a text with the log's signature.
func (l *Log) Sign(text string) string { return text + "\n" + l.Line(text) }

// Request returns what the log submits to a witness that knows its size old: the newer size,
// the proof, and the signed checkpoint.
func (l *Log) Request(old, size uint64) Request {
	return Request{Old: fmt.Sprint("old ", old), Proof: l.Proof(min(old, size), size), Checkpoint: l.Checkpoint(size)}
}
