package storage

import (
	"errors"
	"fmt"

	"github.com/cockroachdb/pebble/v2"
)

// A tree that is followed but not copied has no tiles. It has the hashes that consistency
// proofs revealed when its checkpoints were accepted, one row for each span of leaves: the
// hash of the leaves [lo, hi) is the same in every tree that is large enough (RFC 6962,
// section 2.1). The proofs a→b and b→c together reveal everything that the proof a→c
// consists of, so between any two checkpoints of the chain a proof can be composed.

// link puts the hashes of a verified consistency proof into a batch.
func (t *Tree) link(b *pebble.Batch, first, last Head, consistency []Hash) error {
	for s, h := range revealed(first, last, consistency) {
		if err := b.Set(t.id.span(s), h[:], nil); err != nil {
			return err
		}
	}
	return nil
}

// KeepLinks makes the tree keep the hashes of every consistency proof from now on, also if it
// has tiles: of a log that may be held in part only, later, they are what links checkpoints.
func (t *Tree) KeepLinks() { t.links.Store(true) }

// revealed returns the hashes that a verified consistency proof reveals: those of which it
// consists, and both roots. By its root a checkpoint of the chain is known as one: others
// that are archived are not tied to it.
func revealed(first, last Head, consistency []Hash) map[span]Hash {
	if len(consistency) == 0 {
		return nil
	}
	known := knownSpans(nil, consistencySpans(first.Size, last.Size), consistency)
	known[span{0, first.Size}], known[span{0, last.Size}] = first.Root, last.Root
	return known
}

// maxSparseReads is how many rows one composition reads at most. A proof has at most 64
// spans, and each takes at most as many steps through the proofs in between.
const maxSparseReads = 64 * 64

// sparse computes hashes of spans out of known ones and those that are stored.
type sparse struct {
	view  *View
	known map[span]Hash
	reads int
}

// hash returns the hash of a span, or ErrNotHeld.
func (r *sparse) hash(s span) (Hash, error) {
	if h, ok := r.known[s]; ok {
		return h, nil
	}
	if r.reads++; r.reads > maxSparseReads {
		return Hash{}, ErrNotHeld
	}
	raw, err := get(r.view.snap, r.view.tree.id.span(s))
	switch {
	case err == nil && len(raw) == HashSize:
		return Hash(raw), nil
	case err == nil:
		return Hash{}, r.view.tree.db.damage(r.view.tree.id.span(s), spanPlace(s), fmt.Sprintf("has %d bytes", len(raw)))
	case !errors.Is(err, pebble.ErrNotFound):
		return Hash{}, r.view.tree.db.readError(r.view.tree.id.span(s), spanPlace(s), err)
	case s.hi-s.lo == 1:
		return Hash{}, ErrNotHeld
	}
	l, h := s.split()
	left, err := r.hash(l)
	if err != nil {
		return Hash{}, err
	}
	right, err := r.hash(h)
	if err != nil {
		return Hash{}, err
	}
	return NodeHash(left, right), nil
}

func (r *sparse) hashes(spans []span) ([]Hash, error) {
	hashes := make([]Hash, len(spans))
	for i, s := range spans {
		var err error
		if hashes[i], err = r.hash(s); err != nil {
			return nil, err
		}
	}
	return hashes, nil
}

func spanPlace(s span) string { return fmt.Sprintf("hash of the leaves %d to %d", s.lo, s.hi-1) }

type linkKey struct {
	tree        treeID
	first, last uint64
}

// Linked returns the archived checkpoint of a size that is tied to the pending one by stored
// proofs: those of a chain are, evidence of a fork is not. It returns ErrNotHeld if there is
// none. Of several it is the pending one, or the one seen first.
func (v *View) Linked(size uint64) (c Checkpoint, err error) {
	if p := v.state.Pending; p.Raw != nil && p.Size == size {
		return p, nil
	}
	if size > v.state.Pending.Size {
		return c, ErrNotHeld
	}
	found := false
	err = v.Checkpoints(size, size, func(row Checkpoint) error {
		if found && !row.FirstSeen.Before(c.FirstSeen) {
			return nil
		}
		switch _, err := v.composed(row.Head, v.state.Pending.Head); {
		case err == nil:
			c, found = row, true
		case !errors.Is(err, ErrNotHeld) && !errors.Is(err, ErrInconsistent):
			return err
		}
		return nil
	})
	if err == nil && !found {
		err = ErrNotHeld
	}
	return c, err
}

// LinkedProof returns the consistency proof between two sizes, 0 < first <= last, for each of
// which there is an archived checkpoint that Linked returns. Where the tree has tiles, every
// size that they cover will do. It returns ErrNotHeld if it cannot be composed.
func (v *View) LinkedProof(first, last uint64) ([]Hash, error) {
	if first == 0 || first > last {
		return nil, fmt.Errorf("no consistency proof from size %d to %d", first, last)
	}
	if v.state.Minimum <= first && last <= v.state.Head.Size {
		return v.ConsistencyProof(first, last)
	}
	if proof, ok := v.tree.db.links.Get(linkKey{v.tree.id, first, last}); ok {
		return proof, nil
	}
	a, err := v.Linked(first)
	if err != nil {
		return nil, err
	}
	b, err := v.Linked(last)
	if err != nil {
		return nil, err
	}
	return v.composed(a.Head, b.Head)
}

// composed returns the consistency proof between two heads out of stored hashes; it verifies.
func (v *View) composed(first, last Head) ([]Hash, error) {
	if first.Size == last.Size || first.Size == 0 {
		return nil, verifyPrecedes(first, last, nil)
	}
	key := linkKey{v.tree.id, first.Size, last.Size}
	if proof, ok := v.tree.db.links.Get(key); ok && verifyPrecedes(first, last, proof) == nil {
		return proof, nil
	}
	proof, err := v.consistencyHashes(first.Size, last.Size)
	if err != nil {
		return nil, err
	}
	if err := verifyPrecedes(first, last, proof); err != nil {
		return nil, err
	}
	v.tree.db.links.Add(key, proof)
	return proof, nil
}

// consistencyHashes returns the hashes of a proof from tiles, or else from the sparse hashes.
func (v *View) consistencyHashes(first, last uint64) ([]Hash, error) {
	if first >= v.state.Minimum && first <= v.state.Head.Size {
		if proof, err := v.ConsistencyProof(first, last); !errors.Is(err, ErrNotHeld) && !errors.Is(err, ErrBelowMinimum) {
			return proof, err
		}
	}
	r := sparse{view: v}
	return r.hashes(consistencySpans(first, last))
}

// RootFromConsistency returns the root that a tree has at a size, according to a consistency
// proof from size first to the tree of last that gives last's root; otherwise it returns
// ErrInconsistent. So whoever knows one root, and is given a proof, knows the other. size is
// first; if that is a power of two the proof does not contain its root, but those from the
// sizes beside it do: then first is size - 1 or, for size 2, size + 1. Of size 1 no proof
// contains it.
func RootFromConsistency(size, first uint64, last Head, proof []Hash) (Hash, error) {
	if first == 0 || first >= last.Size || size == 0 || size >= last.Size {
		return Hash{}, fmt.Errorf("no proof from size %d to %d: %w", first, last.Size, ErrInconsistent)
	}
	spans := consistencySpans(first, last.Size)
	if len(spans) != len(proof) {
		return Hash{}, fmt.Errorf("proof from size %d to %d has %d hashes, want %d: %w", first, last.Size, len(proof), len(spans), ErrInconsistent)
	}
	known := knownSpans(nil, spans, proof)
	root, err := spanHash(span{0, last.Size}, known, nowhere)
	if err == nil && root != last.Root {
		err = ErrInconsistent
	}
	if err == nil {
		root, err = spanHash(span{0, size}, known, nowhere)
	}
	if err != nil {
		return Hash{}, fmt.Errorf("proof from size %d to %d does not give the root: %w", first, last.Size, ErrInconsistent)
	}
	return root, nil
}

// NodeFromConsistency returns the hash of a complete subtree (level and index as in
// [NodeFunc]) that a consistency proof reveals, if the proof gives the root of last; otherwise
// it returns ErrInconsistent. A proof from the size just before the end of a subtree, of two
// leaves at least, reveals it and, where it is a left child, its sibling. first is no power of
// two: then a proof does not give a root by itself.
func NodeFromConsistency(level int, index, first uint64, last Head, proof []Hash) (Hash, error) {
	spans := consistencySpans(first, last.Size)
	if first == 0 || first >= last.Size || len(spans) != len(proof) {
		return Hash{}, fmt.Errorf("no proof from size %d to %d: %w", first, last.Size, ErrInconsistent)
	}
	known := knownSpans(nil, spans, proof)
	root, err := spanHash(span{0, last.Size}, known, nowhere)
	if err == nil && root != last.Root {
		err = ErrInconsistent
	}
	var hash Hash
	if err == nil {
		hash, err = spanHash(span{index << level, (index + 1) << level}, known, nowhere)
	}
	if err != nil {
		return Hash{}, fmt.Errorf("proof from size %d to %d does not give the node: %w", first, last.Size, ErrInconsistent)
	}
	return hash, nil
}

// nowhere is the NodeFunc of a tree of which only known spans are there.
func nowhere(int, uint64) (Hash, error) { return Hash{}, ErrNotHeld }

// knownSpans adds the hashes of spans to a map, which may be nil.
func knownSpans(known map[span]Hash, spans []span, hashes []Hash) map[span]Hash {
	if known == nil {
		known = make(map[span]Hash, len(spans))
	}
	for i, s := range spans {
		known[s] = hashes[i]
	}
	return known
}
