package witness

import (
	"bytes"
	"encoding/base64"
	"strconv"

	"github.com/understudy-log/understudy/storage"
)

// MaxRequest bounds the bytes of a request: 63 lines of a proof and a checkpoint with a dozen
// signatures of the longest kind fit three times.
const MaxRequest = 128 << 10

// maxProof is how many hashes a consistency proof has at most.
// SPEC: "The client MUST NOT send more than 63 consistency proof lines." (tlog-witness)
const maxProof = 63

// request is the body of an add-checkpoint.
type request struct {
	old        uint64
	proof      []storage.Hash
	checkpoint []byte
}

// parseRequest reads a body, strictly: what is accepted encodes to itself again.
//
// SPEC: "The request body MUST be a sequence of an old size line, zero or more consistency
// proof lines, and an empty line, followed by a checkpoint. Each line MUST terminate in a newline
// character (U+000A)." (tlog-witness)
func parseRequest(body []byte) (*request, error) {
	line, rest, ok := bytes.Cut(body, []byte("\n"))
	digits, prefixed := bytes.CutPrefix(line, []byte("old "))
	old, err := strconv.ParseUint(string(digits), 10, 64)
	// SPEC: "the tree size of the previous checkpoint encoded as an ASCII decimal with no leading
	// zeroes (unless the size is zero, in which case the encoding MUST be 0)."
	if !ok || !prefixed || err != nil || strconv.FormatUint(old, 10) != string(digits) {
		return nil, refuse(Malformed, "the first line must be \"old \", the size of the last checkpoint that was cosigned in decimal, and a newline")
	}
	r := &request{old: old}
	for {
		if line, rest, ok = bytes.Cut(rest, []byte("\n")); !ok {
			return nil, refuse(Malformed, "no empty line between the consistency proof and the checkpoint")
		}
		if len(line) == 0 {
			break
		}
		if len(r.proof) == maxProof {
			return nil, refuse(Malformed, "more than %d lines of a consistency proof", maxProof)
		}
		hash, err := base64.StdEncoding.Strict().DecodeString(string(line))
		if err != nil || len(hash) != storage.HashSize || base64.StdEncoding.EncodeToString(hash) != string(line) {
			return nil, refuse(Malformed, "line %d of the consistency proof is not a hash in base64", len(r.proof)+1)
		}
		r.proof = append(r.proof, storage.Hash(hash))
	}
	r.checkpoint = rest
	return r, nil
}
