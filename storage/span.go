package storage

import (
	"errors"
	"fmt"
	"math/bits"
)

// A span is the range of leaves [lo, hi) under one node of the tree of some size.
// Proofs are lists of spans; a proof is made by hashing each of them.
type span struct{ lo, hi uint64 }

// perfect says whether the span is a complete subtree, and of which level.
func (s span) perfect() (level int, ok bool) {
	n := s.hi - s.lo
	return bits.TrailingZeros64(n), n&(n-1) == 0
}

// split returns the two children of a span of at least two leaves: the left one is
// the largest complete subtree smaller than the span (RFC 6962, section 2.1).
func (s span) split() (left, right span) {
	k := uint64(1) << (bits.Len64(s.hi-s.lo-1) - 1)
	return span{s.lo, s.lo + k}, span{s.lo + k, s.hi}
}

// inclusionSpans returns the siblings of the path of leaf i in the tree of the given
// size, from the leaf up: PATH(i, D[size]) of RFC 6962, section 2.1.1.
func inclusionSpans(i, size uint64) []span {
	var spans []span
	for s := (span{0, size}); s.hi-s.lo > 1; {
		left, right := s.split()
		if i < left.hi {
			spans, s = append(spans, right), left
		} else {
			spans, s = append(spans, left), right
		}
	}
	reverse(spans)
	return spans
}

// consistencySpans returns PROOF(first, D[last]) of RFC 6962, section 2.1.2, for
// 0 < first <= last.
func consistencySpans(first, last uint64) []span {
	var spans []span
	s := span{0, last}
	for first != s.hi {
		left, right := s.split()
		if first <= left.hi {
			spans, s = append(spans, right), left
		} else {
			spans, s = append(spans, left), right
		}
	}
	if s.lo != 0 { // the old tree itself is known to the verifier
		spans = append(spans, s)
	}
	reverse(spans)
	return spans
}

func reverse(s []span) {
	for i, j := 0, len(s)-1; i < j; i, j = i+1, j-1 {
		s[i], s[j] = s[j], s[i]
	}
}

// A NodeFunc returns the hash of the complete subtree over the leaves
// [index<<level, (index+1)<<level).
type NodeFunc func(level int, index uint64) (Hash, error)

// spanHash hashes one span: known spans first, complete subtrees by node, the rest
// from its children.
func spanHash(s span, known map[span]Hash, node NodeFunc) (Hash, error) {
	if h, ok := known[s]; ok {
		return h, nil
	}
	if level, ok := s.perfect(); ok {
		h, err := node(level, s.lo>>level)
		if err == nil || level == 0 || len(known) == 0 || !errors.Is(err, ErrNotHeld) {
			return h, err
		}
	}
	l, r := s.split()
	left, err := spanHash(l, known, node)
	if err != nil {
		return Hash{}, err
	}
	right, err := spanHash(r, known, node)
	if err != nil {
		return Hash{}, err
	}
	return NodeHash(left, right), nil
}

func spanHashes(spans []span, known map[span]Hash, node NodeFunc) ([]Hash, error) {
	hashes := make([]Hash, len(spans))
	for i, s := range spans {
		var err error
		if hashes[i], err = spanHash(s, known, node); err != nil {
			return nil, err
		}
	}
	return hashes, nil
}

// RootHash returns the root of the tree of the given size, whose complete subtrees
// node returns.
func RootHash(size uint64, node NodeFunc) (Hash, error) {
	if size == 0 {
		return emptyRoot(), nil
	}
	return spanHash(span{0, size}, nil, node)
}

// InclusionProof returns the audit path of leaf index in the tree of the given size
// (RFC 6962, section 2.1.1).
func InclusionProof(index, size uint64, node NodeFunc) ([]Hash, error) {
	if index >= size {
		return nil, fmt.Errorf("index %d is outside a tree of size %d", index, size)
	}
	return spanHashes(inclusionSpans(index, size), nil, node)
}

// ConsistencyProof returns the proof that the tree of size first is a prefix of the
// tree of size last (RFC 6962, section 2.1.2). It is empty if first is 0 or last.
func ConsistencyProof(first, last uint64, node NodeFunc) ([]Hash, error) {
	if first > last {
		return nil, fmt.Errorf("first size %d is greater than last size %d", first, last)
	}
	if first == 0 {
		return nil, nil
	}
	return spanHashes(consistencySpans(first, last), nil, node)
}
