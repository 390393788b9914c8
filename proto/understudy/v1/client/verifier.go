package client

import (
	"encoding/base64"
	"fmt"

	"github.com/transparency-dev/formats/log"
	"golang.org/x/mod/sumdb/note"
)

// Verifier opens a checkpoint of the log: it verifies the log's signature and the
// origin, and returns the tree's size and root hash.
type Verifier func(checkpoint []byte) (size uint64, root Hash, err error)

// NoteVerifier returns a Verifier for the log of an origin that takes a signature of any
// of the given keys. Make them with note.NewVerifier from a log's verifier key, or with
// github.com/transparency-dev/formats/note for ECDSA keys. Each must be a key of the
// log itself, not of a witness.
func NoteVerifier(origin string, keys ...note.Verifier) Verifier {
	list := note.VerifierList(keys...)
	return func(checkpoint []byte) (uint64, Hash, error) {
		n, err := note.Open(checkpoint, list)
		if err != nil {
			return 0, Hash{}, err
		}
		var parsed log.Checkpoint
		if _, err := parsed.Unmarshal([]byte(n.Text)); err != nil {
			return 0, Hash{}, err
		}
		if parsed.Origin != origin {
			return 0, Hash{}, fmt.Errorf("origin is %q, want %q", parsed.Origin, origin)
		}
		for _, signature := range append(n.Sigs, n.UnverifiedSigs...) {
			// Otherwise one note could be written in several ways.
			if _, err := base64.StdEncoding.Strict().DecodeString(signature.Base64); err != nil {
				return 0, Hash{}, fmt.Errorf("signature of %s: %w", signature.Name, err)
			}
		}
		root, err := toHash(parsed.Hash)
		return parsed.Size, root, err
	}
}

func toHash(b []byte) (Hash, error) {
	if len(b) != len(Hash{}) {
		return Hash{}, fmt.Errorf("hash of %d bytes, want %d", len(b), len(Hash{}))
	}
	return Hash(b), nil
}

// toHashes copies the hashes of a proof. Their lengths must be checked before it is
// verified: where two neighbours are hashed together, bytes could be moved from one to
// the other, and the part of a consistency proof that uses one of them alone would prove
// a root that is none.
func toHashes(hashes [][]byte) ([]Hash, error) {
	out := make([]Hash, len(hashes))
	for i, h := range hashes {
		var err error
		if out[i], err = toHash(h); err != nil {
			return nil, err
		}
	}
	return out, nil
}
