// Package trust decides which checkpoints to believe.
//
// It reads the keys of logs, from a Sigstore TrustedRoot (a file, or fetched over
// TUF), from a C2SP verifier key or from a PEM public key, and opens checkpoints
// (c2sp.org/tlog-checkpoint in c2sp.org/signed-note) as Sigstore's logs sign them:
// with Ed25519, ECDSA or RSA, under the key IDs of Rekor v1 and of Rekor v2.
//
// A checkpoint that Open returns was signed by a key of its log, has the origin
// that was asked for and is canonical: encoding its parts again gives the bytes
// that were received. Signature lines of others (witnesses, keys that are not
// known) are kept in Raw and prove nothing here.
//
// A checkpoint carries no time, so the validity window of a key is not enforced
// when one is opened; Key exposes the window for those who have a time.
package trust

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/transparency-dev/formats/log"
	"golang.org/x/mod/sumdb/note"
)

// maxNote bounds the bytes of a note: 100 signature lines, the most that
// golang.org/x/mod/sumdb/note reads, of the longest kind (ML-DSA-87, 6.2 KB) fit.
const maxNote = 1 << 20

// frozenPrefix begins the extension line that ends a Rekor v2 shard (rekor-tiles,
// cmd/freeze-checkpoint); a date follows.
const frozenPrefix = "Log frozen — "

// Checkpoint is a tree head that a key of its log signed.
type Checkpoint struct {
	Origin     string   // first line: the identity of the log
	Size       uint64   // number of entries
	Root       [32]byte // RFC 6962 root hash of the first Size entries
	Extensions []string // the lines after the root hash, without newlines
	Raw        []byte   // the whole note as received, with every signature line
}

// Frozen reports whether the log said in this checkpoint that no larger one follows.
func (c *Checkpoint) Frozen() bool {
	for _, line := range c.Extensions {
		if strings.HasPrefix(line, frozenPrefix) {
			return true
		}
	}
	return false
}

// Frozen reports whether raw, a checkpoint that was opened before, says that no larger one
// follows.
func Frozen(raw []byte) bool {
	c, _, err := parse(raw)
	return err == nil && c.Frozen()
}

// Open returns the checkpoint in raw, a signed note of at most 1 MiB and 100
// signature lines, if a key of keys signed it and it is the checkpoint of origin.
//
// Every line that carries the name and key ID of a key must verify and at least
// one must be there; other lines are ignored. The error is a *MalformedError, an
// *OriginError or a *SignatureError, or that of a key that cannot sign for origin.
func Open(raw []byte, origin string, keys []Key) (*Checkpoint, error) {
	c, n, err := parse(raw)
	if err != nil {
		return nil, err
	}
	if c.Origin != origin {
		return nil, &OriginError{Got: c.Origin, Want: origin}
	}
	if err := verify(n, origin, keys); err != nil {
		return nil, err
	}
	return c, nil
}

// OpenAlone is Open of which Raw has the signature lines of keys alone.
func OpenAlone(raw []byte, origin string, keys []Key) (*Checkpoint, error) {
	c, n, err := parse(raw)
	if err != nil {
		return nil, err
	}
	if c.Origin != origin {
		return nil, &OriginError{Got: c.Origin, Want: origin}
	}
	if err := verify(n, origin, keys); err != nil {
		return nil, err
	}
	var own []note.Signature
	for _, s := range n.UnverifiedSigs {
		for _, k := range keys {
			if v, err := k.verifier(origin); err == nil && keyID(v) == (KeyID{s.Name, s.Hash}) {
				own = append(own, s)
				break
			}
		}
	}
	c.Raw = encode(c, own)
	return c, nil
}

// Signer is Open that also returns which of the keys signed raw; of several the first one.
func Signer(raw []byte, origin string, keys []Key) (*Checkpoint, Key, error) {
	for _, k := range keys {
		if c, err := Open(raw, origin, []Key{k}); err == nil {
			return c, k, nil
		}
	}
	c, err := Open(raw, origin, keys)
	return c, Key{}, err
}

// Origin returns the first line of raw, unverified: who the note says it is from,
// to look up the keys that Open needs. The error is a *MalformedError.
func Origin(raw []byte) (string, error) {
	c, _, err := parse(raw)
	if err != nil {
		return "", err
	}
	return c.Origin, nil
}

// verify checks every signature line of n that carries the name and ID of a key.
func verify(n *note.Note, origin string, keys []Key) error {
	failure := &SignatureError{Origin: origin}
	verifiers := make([]note.Verifier, len(keys))
	for i, k := range keys {
		v, err := k.verifier(origin)
		if err != nil {
			return err
		}
		verifiers[i] = v
		failure.Want = append(failure.Want, keyID(v))
	}
	good := false
	for _, s := range n.UnverifiedSigs {
		line := KeyID{s.Name, s.Hash}
		failure.Seen = append(failure.Seen, line)
		if !slices.Contains(failure.Want, line) {
			continue
		}
		// SPEC: "If the key name and ID match a known key, verifiers MUST verify the
		// signature. If a signature from a known key fails to verify, clients SHOULD
		// reject the whole note." (c2sp.org/signed-note)
		if !slices.ContainsFunc(verifiers, func(v note.Verifier) bool {
			return keyID(v) == line && v.Verify([]byte(n.Text), rawSignature(s))
		}) {
			failure.Bad = &line
			return failure
		}
		good = true
	}
	// SPEC: "If no signature from a known key verifies successfully, clients MUST
	// reject the note." (c2sp.org/signed-note)
	if !good {
		return failure
	}
	return nil
}

func keyID(v note.Verifier) KeyID { return KeyID{v.Name(), v.KeyHash()} }

// rawSignature is what follows the key ID in a line of a note that parse has read.
func rawSignature(s note.Signature) []byte { return decode(s)[4:] }

func decode(s note.Signature) []byte {
	b, _ := base64.StdEncoding.DecodeString(s.Base64) // note.Open decoded it, to five bytes or more
	return b
}

// parse reads raw without verifying it and refuses what would not encode to raw
// again.
func parse(raw []byte) (*Checkpoint, *note.Note, error) {
	if len(raw) > maxNote {
		return nil, nil, malformed("note of %d bytes is longer than %d", len(raw), maxNote)
	}
	// Opened with no keys, a note in good form is always an unverified one.
	_, err := note.Open(raw, note.VerifierList())
	unverified, ok := errors.AsType[*note.UnverifiedNoteError](err)
	if !ok {
		return nil, nil, malformed("not a signed note (%v)", err)
	}
	n := unverified.Note

	var head log.Checkpoint
	rest, err := head.Unmarshal([]byte(n.Text))
	if err != nil {
		return nil, nil, malformed("%v", err)
	}
	// No tree is that large, and JSON of evidence packs ends there.
	if head.Size > math.MaxInt64 {
		return nil, nil, malformed("a tree cannot have %d entries", head.Size)
	}
	if len(head.Hash) != 32 {
		return nil, nil, malformed("root hash of %d bytes, want 32", len(head.Hash))
	}
	c := &Checkpoint{
		Origin: head.Origin,
		Size:   head.Size,
		Root:   [32]byte(head.Hash),
		Raw:    bytes.Clone(raw),
	}
	if len(rest) > 0 {
		c.Extensions = strings.Split(strings.TrimSuffix(string(rest), "\n"), "\n")
	}
	if !bytes.Equal(encode(c, n.UnverifiedSigs), raw) {
		return nil, nil, malformed("not in canonical form (leading zeros, loose base64 or a repeated signature line)")
	}
	// SPEC: "Extension lines, if any, MUST be non-empty." (c2sp.org/tlog-checkpoint)
	for _, line := range c.Extensions {
		if line == "" {
			return nil, nil, malformed("empty extension line")
		}
	}
	return c, n, nil
}

// encode writes the note that has c's parts and the given signature lines.
func encode(c *Checkpoint, sigs []note.Signature) []byte {
	b := bytes.NewBuffer(log.Checkpoint{Origin: c.Origin, Size: c.Size, Hash: c.Root[:]}.Marshal())
	for _, line := range c.Extensions {
		fmt.Fprintf(b, "%s\n", line)
	}
	b.WriteByte('\n')
	for _, s := range sigs {
		fmt.Fprintf(b, "— %s %s\n", s.Name, base64.StdEncoding.EncodeToString(decode(s)))
	}
	return b.Bytes()
}
