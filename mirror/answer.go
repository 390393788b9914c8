package mirror

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/understudy-log/understudy/storage"
)

// Ref names one entry of a log: by LeafHash when it is set, otherwise by Index.
type Ref struct {
	Index    uint64
	LeafHash *storage.Hash
}

// Freshness says how far an answer can be believed to be current.
type Freshness struct {
	Source        string        // SourceLive, SourceMirrored or SourceStale
	CheckpointAge time.Duration // since upstream last vouched for the answer's checkpoint
	UpstreamState string        // UpstreamLive, UpstreamUnreachable, UpstreamFrozen or UpstreamQuarantined
}

// Entry is one logged entry.
type Entry struct {
	Index    uint64
	LeafHash storage.Hash
	Body     []byte
}

// Inclusion is the proof that one entry is in a tree.
type Inclusion struct {
	Index    uint64
	LeafHash storage.Hash
	Hashes   []storage.Hash // from the leaf's sibling to the root's child
}

// TreeHead is the tree that a proof is for.
type TreeHead struct {
	storage.Head
	Checkpoint []byte // what upstream signed for Head; nil when none is held
}

// Consistency is the proof that the tree First is a prefix of the tree Last.
type Consistency struct {
	First, Last TreeHead
	Hashes      []storage.Hash
}

// OriginHash returns the lower-case hex SHA-256 of an origin: the first path element of
// a mirrored log (https://c2sp.org/tlog-mirror).
func OriginHash(origin string) string {
	h := sha256.Sum256([]byte(origin))
	return hex.EncodeToString(h[:])
}

// freshness describes an answer with the checkpoint c; nil means the newest one.
func (m *Mirror) freshness(s *storage.State, c *storage.Checkpoint) Freshness {
	behind, frozen := m.isBehind(), m.isFrozen()
	m.mu.Lock()
	live := m.liveLocked() && !behind
	m.mu.Unlock()
	now := time.Now()
	newest := max(0, now.Sub(s.Pending.LastSeen))
	if s.Pending.Raw == nil {
		newest = 0
	}
	f := Freshness{CheckpointAge: newest, Source: SourceMirrored, UpstreamState: UpstreamUnreachable}
	if c != nil && c.Raw != nil {
		f.CheckpointAge = max(0, now.Sub(c.LastSeen))
	}
	switch {
	case live && s.Evidence == nil:
		f.Source, f.UpstreamState = SourceLive, UpstreamLive
	case s.Pending.Raw == nil || newest >= m.cfg.StaleAfter:
		f.Source = SourceStale
	}
	switch {
	case s.Evidence != nil:
		f.UpstreamState = UpstreamQuarantined
	case frozen:
		f.UpstreamState = UpstreamFrozen
	}
	return f
}

// Freshness returns the freshness of the log's newest checkpoint.
func (m *Mirror) Freshness() Freshness { return m.freshness(m.tree.State(), nil) }

// answer is one request being answered from one view.
type answer struct {
	*storage.View
	m     *Mirror
	state *storage.State
	fresh Freshness
}

func (m *Mirror) answer() *answer {
	v := m.tree.View()
	return &answer{View: v, m: m, state: v.State(), fresh: m.freshness(v.State(), nil)}
}

func (a *answer) refuse(kind Kind, reason, format string, args ...any) *Refusal {
	return &Refusal{Kind: kind, Reason: reason, Text: fmt.Sprintf(format, args...), Freshness: a.fresh}
}

// unknown refuses to say yes or no: the reason is why nobody can be asked.
func (a *answer) unknown(format string, args ...any) *Refusal {
	what := fmt.Sprintf(format, args...)
	switch {
	case a.state.Evidence != nil:
		return a.refuse(Unavailable, ReasonQuarantined, "%s, and this log is quarantined: %s", what, a.state.Evidence.Reason)
	case a.fresh.Source != SourceLive && a.fresh.UpstreamState != UpstreamFrozen:
		return a.refuse(Unavailable, ReasonUpstreamUnreachable, "%s, and upstream is unreachable: try again when it is back", what)
	}
	return a.refuse(Unavailable, ReasonNotYetMirrored, "%s; it is being copied: try again soon", what)
}

// final says whether the size of the log is known beyond doubt at this moment: upstream
// is live, or has ended the log.
func (a *answer) final() bool {
	return a.state.Evidence == nil && a.state.Pending.Raw != nil &&
		(a.fresh.Source == SourceLive || a.fresh.UpstreamState == UpstreamFrozen)
}

// beyond refuses an index or size that is not held. Law 5: "not found" needs to be known.
func (a *answer) beyond(what string, n, treeSize uint64, outside bool) *Refusal {
	switch {
	case a.state.Pending.Raw == nil:
		return a.unknown("%s %d is not held: no checkpoint was received yet", what, n)
	case outside && a.final():
		return a.refuse(NotFound, ReasonNotFound, "%s %d is beyond the log's %s", what, n, entriesText(treeSize))
	}
	if a.state.Head.Size == 1 {
		return a.unknown("%s %d is not held (the first entry is)", what, n)
	}
	return a.unknown("%s %d is not held (the first %d entries are)", what, n, a.state.Head.Size)
}

func entriesText(n uint64) string {
	if n == 1 {
		return "1 entry"
	}
	return fmt.Sprintf("%d entries", n)
}

// damaged wraps an error of the storage.
func (a *answer) damaged(err error) error {
	var refusal *Refusal
	if err == nil || errors.As(err, &refusal) {
		return err
	}
	a.m.logger.Error("stored data that was asked for is damaged", "error", err)
	r := a.refuse(Damaged, ReasonDamaged, "stored data of this log is damaged and is put back when a source has it: try again soon, or ask upstream")
	r.Err = err
	return r
}

// below refuses what lies before the window on the log.
func (a *answer) below(what string, n uint64) *Refusal {
	return a.refuse(Unavailable, ReasonBelowMinimumIndex, "%s %d lies below the minimum index %d: this mirror holds the log from there on; ask upstream, or a mirror that holds more", what, n, a.state.Minimum)
}

// resolve returns the index and leaf hash of a held entry.
func (a *answer) resolve(ref Ref) (uint64, storage.Hash, error) {
	if ref.LeafHash == nil {
		if ref.Index >= a.state.Head.Size {
			return 0, storage.Hash{}, a.beyond("index", ref.Index, a.state.Pending.Size, ref.Index >= a.state.Pending.Size)
		}
		hash, err := a.LeafHash(ref.Index)
		if errors.Is(err, storage.ErrBelowMinimum) {
			err = a.below("index", ref.Index)
		}
		return ref.Index, hash, err
	}
	index, ok, err := a.Index(*ref.LeafHash)
	switch {
	case err != nil:
		return 0, storage.Hash{}, err
	case ok:
		return index, *ref.LeafHash, nil
	case a.state.Minimum > 0:
		return 0, storage.Hash{}, a.refuse(Unavailable, ReasonBelowMinimumIndex, "no entry with the leaf hash %v is held, and it may lie below the minimum index %d: this mirror holds the log from there on", *ref.LeafHash, a.state.Minimum)
	case a.final() && a.state.Head == a.state.Pending.Head:
		return 0, storage.Hash{}, a.refuse(NotFound, ReasonNotFound, "no entry of the log has the leaf hash %v", *ref.LeafHash)
	}
	return 0, storage.Hash{}, a.unknown("no entry with the leaf hash %v is held", *ref.LeafHash)
}

// head returns the tree of a size (0: the newest signed one) with its checkpoint, and
// sets the age of the answer's checkpoint.
func (a *answer) head(size uint64) (TreeHead, error) {
	if size == 0 {
		if a.state.Pending.Raw == nil {
			return TreeHead{}, a.unknown("no checkpoint was received yet")
		}
		size = a.state.Pending.Size
	}
	root, err := a.Root(size)
	if errors.Is(err, storage.ErrNotHeld) {
		return TreeHead{}, a.beyond("tree size", size, a.state.Pending.Size, size > a.state.Pending.Size)
	}
	if errors.Is(err, storage.ErrBelowMinimum) {
		return TreeHead{}, a.below("tree size", size)
	}
	if err != nil {
		return TreeHead{}, err
	}
	head := TreeHead{Head: storage.Head{Size: size, Root: root}}
	c, ok, err := a.View.Checkpoint(size)
	if err != nil {
		return TreeHead{}, err
	}
	if ok {
		head.Checkpoint = a.m.AsServed(c)
		a.fresh = a.m.freshness(a.state, &c)
	}
	return head, nil
}

// Entry returns one entry. It returns a *Refusal when it cannot be answered.
func (m *Mirror) Entry(ref Ref) (Entry, Freshness, error) {
	a := m.answer()
	defer a.Close()
	index, hash, err := a.resolve(ref)
	if err != nil {
		return Entry{}, a.fresh, a.damaged(err)
	}
	body, err := a.View.Entry(index)
	if err == nil && storage.LeafHash(body) != hash {
		err = a.Misfit(index)
	}
	return Entry{Index: index, LeafHash: hash, Body: body}, a.fresh, a.damaged(err)
}

// A page is what is read from one view. It ends at either bound: a slow reader must
// neither keep old data alive nor take much memory.
const (
	pageEntries = 1024
	pageBytes   = 512 << 10
)

var errPageFull = errors.New("page is full")

// Entries yields the entries from start on, in order, at most limit of them (0: up
// to the last one held now). It stops at the first error that yield returns.
func (m *Mirror) Entries(ctx context.Context, start, limit uint64, yield func(Entry, Freshness) error) error {
	end := m.tree.State().Head.Size
	if limit > 0 && limit < end-min(start, end) {
		end = start + limit
	}
	if start >= end {
		a := m.answer()
		defer a.Close()
		if start < a.state.Head.Size || start == a.state.Pending.Size && a.final() {
			return nil // nothing more for the moment: a resumed stream that was complete
		}
		return a.beyond("index", start, a.state.Pending.Size, start >= a.state.Pending.Size)
	}
	for start < end {
		page, fresh, err := m.page(start, min(end, start+pageEntries))
		if err != nil {
			return err
		}
		for _, entry := range page {
			if err := ctx.Err(); err != nil {
				return err
			}
			if err := yield(entry, fresh); err != nil {
				return err
			}
		}
		start += uint64(len(page))
	}
	return nil
}

// page reads the entries [start, end), or as many of them, at least one, as a page holds.
func (m *Mirror) page(start, end uint64) ([]Entry, Freshness, error) {
	a := m.answer()
	defer a.Close()
	entries, size := make([]Entry, 0, end-start), 0
	if start < a.state.Minimum {
		return nil, a.fresh, a.below("index", start)
	}
	err := a.View.Entries(start, end, func(index uint64, body []byte) error {
		if size >= pageBytes {
			return errPageFull
		}
		hash, err := a.LeafHash(index)
		if err != nil {
			return err
		}
		if storage.LeafHash(body) != hash {
			return a.Misfit(index)
		}
		size += len(body)
		entries = append(entries, Entry{Index: index, LeafHash: hash, Body: bytes.Clone(body)})
		return nil
	})
	if errors.Is(err, errPageFull) {
		err = nil
	}
	return entries, a.fresh, a.damaged(err)
}

// InclusionProof proves one entry in the tree of the given size; 0 means the
// newest signed checkpoint that covers it.
func (m *Mirror) InclusionProof(ref Ref, size uint64) (Inclusion, TreeHead, Freshness, error) {
	a := m.answer()
	defer a.Close()
	head, err := a.head(size)
	if err != nil {
		return Inclusion{}, TreeHead{}, a.fresh, a.damaged(err)
	}
	proof, err := a.inclusion(ref, head)
	return proof, head, a.fresh, a.damaged(err)
}

func (a *answer) inclusion(ref Ref, head TreeHead) (Inclusion, error) {
	if ref.LeafHash == nil && ref.Index >= head.Size && head.Size < a.state.Pending.Size {
		return Inclusion{}, a.refuse(Invalid, ReasonInvalidRequest, "index %d is outside the tree of size %d: ask for a larger tree_size, or 0 for the newest", ref.Index, head.Size)
	}
	index, hash, err := a.resolve(ref)
	if err != nil {
		return Inclusion{}, err
	}
	if index >= head.Size {
		return Inclusion{}, a.refuse(NotFound, ReasonNotFound, "the entry has the index %d and is not in the tree of size %d", index, head.Size)
	}
	hashes, err := a.View.InclusionProof(index, head.Size)
	return Inclusion{Index: index, LeafHash: hash, Hashes: hashes}, err
}

// InclusionProofs proves many entries against one tree, in the order asked.
func (m *Mirror) InclusionProofs(indexes []uint64, size uint64) ([]Inclusion, TreeHead, Freshness, error) {
	a := m.answer()
	defer a.Close()
	head, err := a.head(size)
	if err != nil {
		return nil, TreeHead{}, a.fresh, a.damaged(err)
	}
	// In index order neighbours share their tiles.
	order := make([]int, len(indexes))
	for i := range order {
		order[i] = i
	}
	slices.SortFunc(order, func(x, y int) int {
		switch {
		case indexes[x] < indexes[y]:
			return -1
		case indexes[x] > indexes[y]:
			return 1
		}
		return 0
	})
	proofs := make([]Inclusion, len(indexes))
	for _, i := range order {
		if proofs[i], err = a.inclusion(Ref{Index: indexes[i]}, head); err != nil {
			return nil, TreeHead{}, a.fresh, a.damaged(err)
		}
	}
	return proofs, head, a.fresh, nil
}

// ConsistencyProof proves that the tree of size first is a prefix of the tree of
// size last; last 0 means the newest signed checkpoint.
func (m *Mirror) ConsistencyProof(first, last uint64) (Consistency, Freshness, error) {
	a := m.answer()
	defer a.Close()
	c, err := a.consistency(first, last)
	return c, a.fresh, a.damaged(err)
}

func (a *answer) consistency(first, last uint64) (c Consistency, err error) {
	if first == 0 {
		return c, a.refuse(Invalid, ReasonInvalidRequest, "first_size must be at least 1: a consistency proof from the empty tree proves nothing")
	}
	if last != 0 && first > last {
		return c, a.refuse(Invalid, ReasonInvalidRequest, "first_size %d is greater than last_size %d", first, last)
	}
	if c.First, err = a.head(first); err != nil {
		return c, err
	}
	if c.Last, err = a.head(last); err != nil {
		return c, err
	}
	if first > c.Last.Size {
		return c, a.refuse(Invalid, ReasonInvalidRequest, "first_size %d is greater than the newest tree size %d", first, c.Last.Size)
	}
	c.Hashes, err = a.View.ConsistencyProof(first, c.Last.Size)
	return c, err
}

// Checkpoint returns the newest verified checkpoint (size 0), or the archived one of the
// given size; its Checkpoint is nil when none is archived.
func (m *Mirror) Checkpoint(size uint64) (TreeHead, Freshness, error) {
	a := m.answer()
	defer a.Close()
	head, err := a.head(size)
	return head, a.fresh, a.damaged(err)
}

// WatchCheckpoints yields the newest verified checkpoint at once (if there is
// one) and then each newer one until ctx ends or yield fails.
func (m *Mirror) WatchCheckpoints(ctx context.Context, yield func(TreeHead, Freshness) error) error {
	var sent []byte
	for {
		changed := m.tree.Changed()
		s := m.tree.State()
		if p := s.Pending; p.Raw != nil && (sent == nil || !sameText(sent, p.Raw)) {
			sent = p.Raw
			if err := yield(TreeHead{p.Head, m.AsServed(p)}, m.freshness(s, &p)); err != nil {
				return err
			}
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-changed:
		}
	}
}
