package main

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"reflect"

	tlogproof "github.com/transparency-dev/formats/proof"
	"github.com/transparency-dev/merkle/proof"
	"github.com/transparency-dev/merkle/rfc6962"

	"github.com/understudy-log/understudy/mirror/trust"
)

// hexHash is a SHA-256 hash, in JSON as 64 lower-case hex digits.
type hexHash [32]byte

// MarshalText writes lower-case hex.
func (h hexHash) MarshalText() ([]byte, error) { return hex.AppendEncode(nil, h[:]), nil }

// UnmarshalText reads hex.
func (h *hexHash) UnmarshalText(text []byte) error {
	if hex.DecodedLen(len(text)) != len(h) {
		return fmt.Errorf("hash of %d hex digits, want %d", len(text), hex.EncodedLen(len(h)))
	}
	_, err := hex.Decode(h[:], text)
	return err
}

func (h hexHash) String() string { return hex.EncodeToString(h[:]) }

// inclusionJSON is an inclusion proof as "understudy proof inclusion --json" writes
// it. Checkpoint is note text; it is empty when no signed checkpoint of that tree
// is held.
type inclusionJSON struct {
	Kind       string    `json:"kind"` // inclusion
	Origin     string    `json:"origin"`
	Index      uint64    `json:"index"`
	TreeSize   uint64    `json:"tree_size"`
	LeafHash   hexHash   `json:"leaf_hash"`
	RootHash   hexHash   `json:"root_hash"`
	Hashes     []hexHash `json:"hashes"` // from the leaf's sibling to the root's child
	Checkpoint string    `json:"checkpoint"`

	Freshness *freshnessJSON `json:"freshness,omitempty"` // when it was written; proves nothing
}

// consistencyJSON is a consistency proof as "understudy proof consistency --json"
// writes it.
type consistencyJSON struct {
	Kind            string    `json:"kind"` // consistency
	Origin          string    `json:"origin"`
	FirstSize       uint64    `json:"first_size"`
	LastSize        uint64    `json:"last_size"`
	FirstRootHash   hexHash   `json:"first_root_hash"`
	RootHash        hexHash   `json:"root_hash"`
	Hashes          []hexHash `json:"hashes"`
	FirstCheckpoint string    `json:"first_checkpoint"`
	Checkpoint      string    `json:"checkpoint"`

	Freshness *freshnessJSON `json:"freshness,omitempty"` // when it was written; proves nothing
}

func (o *verifyOptions) verifyTlogProof(ctx context.Context, data []byte, out io.Writer) error {
	var p tlogproof.TLogProof
	if err := p.Unmarshal(data); err != nil {
		return wrongf("%s is a broken .tlog-proof (%w): get it again", o.file, err)
	}
	if !bytes.Equal(p.Marshal(), data) {
		return wrongf("%s is no .tlog-proof in canonical form: get it again", o.file)
	}
	leaf, err := o.leaf()
	if err != nil {
		return err
	}
	if leaf == nil {
		return fmt.Errorf("%s does not say which entry it is for: give --entry FILE or --leaf-hash HEX", o.file)
	}
	open, err := o.opener(ctx)
	if err != nil {
		return err
	}
	c, err := open(p.Checkpoint)
	if err != nil {
		return wrongCheckpoint(err)
	}
	hashes := make([]hexHash, len(p.Hashes))
	for i, h := range p.Hashes {
		hashes[i] = h
	}
	return checkInclusion(c, p.Index, *leaf, hashes, out)
}

func (o *verifyOptions) verifyInclusion(ctx context.Context, data []byte, out io.Writer) error {
	var p inclusionJSON
	if err := decodeProof(data, &p); err != nil {
		return wrongf("%s is a broken inclusion proof (%w): get it again", o.file, err)
	}
	leaf, err := o.leaf()
	if err != nil {
		return err
	}
	if leaf != nil && *leaf != p.LeafHash {
		return wrongf("the proof is for the leaf hash %v, the entry given has %v: it is another entry, or it was altered", p.LeafHash, leaf)
	}
	open, err := o.opener(ctx)
	if err != nil {
		return err
	}
	c, err := openHead(open, p.Checkpoint, p.Origin, p.TreeSize, p.RootHash)
	if err != nil {
		return err
	}
	return checkInclusion(c, p.Index, p.LeafHash, p.Hashes, out)
}

// checkInclusion holds an inclusion proof against a checkpoint that is believed.
func checkInclusion(c *trust.Checkpoint, index uint64, leaf hexHash, hashes []hexHash, out io.Writer) error {
	if err := proof.VerifyInclusion(rfc6962.DefaultHasher, index, c.Size, leaf[:], slicesOf(hashes), c.Root[:]); err != nil {
		return wrongf("the leaf hash %v at index %d does not lead to the root that %q signed for %s%s: the entry is not the logged one, or the proof was altered", leaf, index, c.Origin, count(c.Size, "entry", "entries"), detail(err))
	}
	fmt.Fprintf(out, "good: entry %d is in the signed tree of %s\n  origin    %s\n  leaf hash %v\n  root hash %v\n", index, count(c.Size, "entry", "entries"), c.Origin, leaf, hexHash(c.Root))
	return nil
}

func (o *verifyOptions) verifyConsistency(ctx context.Context, data []byte, out io.Writer) error {
	var p consistencyJSON
	if err := decodeProof(data, &p); err != nil {
		return wrongf("%s is a broken consistency proof (%w): get it again", o.file, err)
	}
	if p.FirstSize == 0 {
		return wrongf("a consistency proof from size 0 proves nothing, every tree begins empty: get one from a size above 0")
	}
	open, err := o.opener(ctx)
	if err != nil {
		return err
	}
	c, err := openHead(open, p.Checkpoint, p.Origin, p.LastSize, p.RootHash)
	if err != nil {
		return err
	}
	// A first tree that nobody signed is still proven to be what the last one grew from.
	if p.FirstCheckpoint != "" {
		if _, err := openHead(open, p.FirstCheckpoint, p.Origin, p.FirstSize, p.FirstRootHash); err != nil {
			return err
		}
	}
	if err := proof.VerifyConsistency(rfc6962.DefaultHasher, p.FirstSize, p.LastSize, slicesOf(p.Hashes), p.FirstRootHash[:], p.RootHash[:]); err != nil {
		return wrongf("the tree of %s is not shown to be the beginning of the tree of %s of %q%s: the proof was altered, or the log has forked", count(p.FirstSize, "entry", "entries"), count(p.LastSize, "entry", "entries"), p.Origin, detail(err))
	}
	fmt.Fprintf(out, "good: the tree of %s is the beginning of the signed tree of %s\n  origin     %s\n  first root %v\n  last root  %v\n", count(p.FirstSize, "entry", "entries"), count(c.Size, "entry", "entries"), c.Origin, p.FirstRootHash, p.RootHash)
	return nil
}

// detail says what is wrong with a proof, unless it is just another root.
func detail(err error) string {
	if _, ok := errors.AsType[proof.RootMismatchError](err); ok {
		return ""
	}
	return fmt.Sprintf(" (%v)", err)
}

// openHead opens a checkpoint that must be of the tree head that a proof claims.
func openHead(open func([]byte) (*trust.Checkpoint, error), note, origin string, size uint64, root hexHash) (*trust.Checkpoint, error) {
	if note == "" {
		return nil, wrongf("nobody signed the tree of %s that the proof is for: get one to the newest checkpoint, by leaving out the size", count(size, "entry", "entries"))
	}
	c, err := open([]byte(note))
	if err != nil {
		return nil, wrongCheckpoint(err)
	}
	if c.Origin != origin || c.Size != size || hexHash(c.Root) != root {
		return nil, wrongf("the proof is for %s of %q with the root %v, its checkpoint for %d of %q with %v: the proof was altered", count(size, "entry", "entries"), origin, root, c.Size, c.Origin, hexHash(c.Root))
	}
	return c, nil
}

// leaf is the leaf hash of the entry that the options name, nil when they name none.
func (o *verifyOptions) leaf() (*hexHash, error) {
	switch {
	case o.entry != "":
		entry, err := os.ReadFile(o.entry)
		if err != nil {
			return nil, err
		}
		leaf := hexHash(rfc6962.DefaultHasher.HashLeaf(entry))
		return &leaf, nil
	case o.leafHash != "":
		leaf := new(hexHash)
		if err := leaf.UnmarshalText([]byte(o.leafHash)); err != nil {
			return nil, fmt.Errorf("--leaf-hash: %w", err)
		}
		return leaf, nil
	}
	return nil, nil
}

func slicesOf(hashes []hexHash) [][]byte {
	s := make([][]byte, len(hashes))
	for i := range hashes {
		s[i] = hashes[i][:]
	}
	return s
}

// decodeProof reads a JSON proof into v and refuses what v would not write again:
// unknown, missing and misspelled fields, and hashes in another form.
func decodeProof(data []byte, v any) error {
	if err := json.Unmarshal(data, v); err != nil {
		return err
	}
	again, err := json.Marshal(v)
	if err != nil {
		return err
	}
	var got, want any
	if err := errors.Join(json.Unmarshal(data, &got), json.Unmarshal(again, &want)); err != nil {
		return err
	}
	if !reflect.DeepEqual(got, want) {
		return errors.New("fields are missing, unknown or in another form")
	}
	return nil
}
