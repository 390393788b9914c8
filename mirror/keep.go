package mirror

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/understudy-log/understudy/log/rekor"
	"github.com/understudy-log/understudy/mirror/trust"
	"github.com/understudy-log/understudy/storage"
)

// tie proves that the tree of a pin's checkpoint and that of the pending one are the same log,
// and anchors the pin to it. It costs a request unless the sizes are equal or the same tie was
// made just before. Two trees that contradict each other quarantine the shard: both are signed.
func (sh *shard) tie(ctx context.Context, p *storage.Pin) error {
	pending := sh.mirror.tree.State().Pending
	if pending.Raw == nil {
		return fmt.Errorf("shard %d has no checkpoint yet: %w", sh.treeID, storage.ErrUnanchored)
	}
	smaller, larger := p.Checkpoint, pending
	if smaller.Size > larger.Size {
		smaller, larger = larger, smaller
	}
	tie := tieKey{smaller.Head, larger.Head}
	link, ok := sh.ties.Get(tie)
	if !ok {
		tree := sh.service.work.tree(sh.treeID, larger.Head)
		if smaller.Size == larger.Size && smaller.Root != larger.Root {
			return sh.mirror.quarantine(pending.Raw, p.Checkpoint, storage.Evidence{
				Reason: fmt.Sprintf("two roots are signed for size %d: %v and %v", pending.Size, pending.Root, p.Checkpoint.Root),
			})
		}
		if err := sh.mirror.compare(ctx, tree, smaller, larger, p.Checkpoint); err != nil {
			return err
		}
		var err error
		if link, err = tree.consistencyFrom(ctx, smaller.Size); err != nil {
			return err
		}
		sh.ties.Add(tie, link)
	}
	p.Anchor, p.Link = pending.Head, link
	return nil
}

// tieKey is what a tie is between.
type tieKey struct{ first, last storage.Head }

// keptTies is how many ties of a shard are remembered: entries are often asked for by the
// dozen, with proofs to the same tree.
const keptTies = 64

// pin stores a pin, and returns what is stored, which may be older.
func (sh *shard) pin(p *storage.Pin) (*storage.Pin, error) {
	s := sh.service
	s.pinning.Lock()
	defer s.pinning.Unlock()
	err := sh.mirror.tree.Pin(*p)
	switch {
	case errors.Is(err, storage.ErrQuarantined) || errors.Is(err, storage.ErrUnanchored):
		return nil, err
	case errors.Is(err, storage.ErrFork):
		return nil, &EntryError{Entry: fmt.Sprint(sh.start() + p.Index), Problem: "is pinned with another body", Err: err}
	case err != nil:
		return nil, &storageError{err}
	}
	stored, ok, err := sh.pinAt(p.Index)
	if err != nil || !ok {
		return nil, &storageError{fmt.Errorf("read entry %d that was just pinned: %w", p.Index, err)}
	}
	s.pins.put(sh, &stored)
	return &stored, nil
}

// pinsAtOnce is how many pins are changed in one commit; others may pin in between.
const pinsAtOnce = 256

// evict gives up pins that were only read whenever they take too much: after a start with a
// lower limit these may be nearly all. It returns an error only when the database can no longer
// be read or written.
func (s *Service) evict(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-s.pins.over:
		}
		began, gone := time.Now(), 0
		for ctx.Err() == nil {
			n, err := s.evictSome()
			if ends(err) {
				return err
			}
			if err != nil {
				s.logger.Error("pins that should give way are damaged, and stay until the next start; run \"understudy check\"", "pins", n, "error", err)
			}
			if gone += n; n == 0 {
				break
			}
		}
		if gone > pinsAtOnce {
			s.logger.Info("entries that were only read gave way: they took more than is configured", "entries", gone, "elapsed", time.Since(began).Round(time.Millisecond))
		}
	}
}

// evictSome gives up at most pinsAtOnce pins, and returns how many.
func (s *Service) evictSome() (n int, failure error) {
	s.pinning.Lock()
	defer s.pinning.Unlock()
	for sh, indexes := range s.pins.evict(pinsAtOnce) {
		n += len(indexes)
		if err := sh.mirror.tree.Release(storage.PinRead, indexes...); err != nil {
			failure = errors.Join(failure, &storageError{err})
		}
	}
	return n, failure
}

// recount reads all pins once: how many there are, which are only read, in the order of when
// they were pinned, and which nobody watches any more.
func (s *Service) recount(ctx context.Context) error {
	type pinned struct {
		shard *shard
		pin   storage.Pin // without what is large
		bytes int64
	}
	var all []pinned
	for _, sh := range s.known() {
		var unwatched []uint64
		damaged, err := sh.eachPin(func(p storage.Pin) {
			if p.Reasons&storage.PinWatched != 0 && s.wanted(sh, &p) == 0 {
				unwatched = append(unwatched, p.Index)
				p.Reasons = p.Reasons&^storage.PinWatched | storage.PinRead
			}
			all = append(all, pinned{sh, storage.Pin{Index: p.Index, Reasons: p.Reasons, Anchor: p.Anchor, At: p.At}, pinBytes(&p)})
		})
		if err != nil {
			return &storageError{err}
		}
		for _, index := range damaged {
			s.logger.Error("a pinned entry is damaged and is given up: it is fetched again when somebody asks for it, or watches it; if it was imported, import it again", "origin", sh.origin, "index", index)
		}
		if err := sh.mirror.tree.Release(anyReason, damaged...); err != nil {
			return &storageError{err}
		}
		for some := range slices.Chunk(unwatched, pinsAtOnce) {
			if ctx.Err() != nil {
				return nil
			}
			if err := sh.mirror.tree.Unwatch(some...); err != nil {
				return &storageError{err}
			}
		}
	}
	slices.SortFunc(all, func(a, b pinned) int { return a.pin.At.Compare(b.pin.At) })
	for _, p := range all {
		s.pins.note(p.shard, &p.pin, p.bytes)
	}
	return nil
}

// anyReason is every reason to keep a pin.
const anyReason = storage.PinRead | storage.PinWatched | storage.PinImported

// eachPin calls yield for every pin that can be read, and returns the indexes of those that
// cannot.
func (sh *shard) eachPin(yield func(storage.Pin)) (damaged []uint64, err error) {
	v := sh.mirror.tree.View()
	defer v.Close()
	return v.EachPin(yield)
}

// anchorAtOnce bounds how many pins are anchored after one poll.
const anchorAtOnce = 16

// anchor ties pins that were imported offline to the pending checkpoint of their shard.
func (s *Service) anchor(ctx context.Context) error {
	for _, sh := range s.known() {
		if !sh.mirror.live() {
			continue
		}
		for _, index := range s.pins.unlinked(sh, anchorAtOnce) {
			p, ok, err := sh.pinAt(index)
			if err == nil && !ok {
				continue
			}
			if err == nil {
				err = sh.tie(ctx, &p)
			}
			if err == nil {
				_, err = sh.pin(&p)
			}
			if ends(err) {
				return err
			}
			if ctx.Err() != nil {
				return nil
			}
			if err != nil {
				s.logger.Warn("an imported entry is not tied to an archived checkpoint yet; it is tried again", "shard", sh.treeID, "index", index, "error", err)
				break
			}
		}
	}
	return nil
}

func (sh *shard) pinAt(index uint64) (storage.Pin, bool, error) {
	v := sh.mirror.tree.View()
	defer v.Close()
	return v.Pin(index)
}

// Imported is what became of an import.
type Imported struct {
	UUID   rekor.UUID
	Index  uint64 // virtual
	Before bool   // it was held or pinned already
	Linked bool   // its checkpoint is tied to an archived one
}

// Import pins an entry that the operator has: out of a bundle, or by UUID. What the import
// lacks (all but a name, SET or proof) is fetched from upstream. Without upstream the entry
// must come with its SET, inclusion proof and checkpoint, all of which are verified in any
// case; then a shard that is not known yet becomes known by its signed checkpoint.
func (s *Service) Import(ctx context.Context, imp rekor.Import) (Imported, error) {
	return s.importOne(ctx, imp, new(retrieval))
}

func (s *Service) importOne(ctx context.Context, imp rekor.Import, from *retrieval) (Imported, error) {
	if imp.Skipped != nil {
		return Imported{}, imp.Skipped
	}
	ref, lacks := lacking(imp)
	if !lacks {
		return s.importProven(ctx, imp)
	}
	return s.importRef(ctx, ref, imp.Entry, from)
}

// lacking says whether an import lacks what upstream has, and which entry it is.
func lacking(imp rekor.Import) (ref EntryRef, lacks bool) {
	switch e := imp.Entry; {
	case e != nil && e.Proof != nil && len(e.SET) > 0:
		return ref, false
	case imp.UUID != nil:
		ref.UUID = imp.UUID
	case e != nil:
		ref.Index = e.LogIndex
	}
	return ref, true
}

// importRef pins an entry that has to be had from upstream, unless it is held. want is what
// is known of it; it may be nil.
func (s *Service) importRef(ctx context.Context, ref EntryRef, want *rekor.Entry, from *retrieval) (Imported, error) {
	item, _, err := s.held(ref)
	if err != nil || item == nil {
		if !s.live(ref) && want != nil {
			return Imported{}, s.refuse(nil, Unavailable, ReasonNotPinned, s.cfg.Poll, "entry %v has no signed entry timestamp or no inclusion proof in the file, and upstream cannot be reached to ask for them", ref)
		}
		if !s.live(ref) {
			return Imported{}, s.away(ref)
		}
		items, err := from.entries(ctx, s, ref)
		if err != nil {
			return Imported{}, s.refused(ref, err)
		}
		for i := range items {
			if ref.names(&items[i]) {
				item = &items[i]
			}
		}
		if item == nil {
			return Imported{}, s.refused(ref, errAbsent)
		}
	}
	if want != nil && (storage.LeafHash(want.Body) != item.UUID.LeafHash || want.IntegratedTime != item.Entry.IntegratedTime || want.LogID != item.Entry.LogID) {
		return Imported{}, &EntryError{Entry: ref.String(), Problem: "is another in the log than in the file"}
	}
	sh := s.byTree(item.UUID.TreeID)
	if sh == nil {
		return Imported{}, &EntryError{Entry: ref.String(), Problem: "is of a shard that is not known"}
	}
	return s.importItem(ctx, sh, item)
}

// importItem verifies and pins an entry.
func (s *Service) importItem(ctx context.Context, sh *shard, item *rekor.Item) (Imported, error) {
	p, err := sh.proven(item)
	if err != nil {
		return Imported{}, err
	}
	done := Imported{UUID: item.UUID, Index: item.Entry.LogIndex}
	held, _, err := s.held(EntryRef{Index: item.Entry.LogIndex})
	done.Before = err == nil && held != nil
	if err := sh.tieIfKnown(ctx, p); err != nil {
		return done, err
	}
	if done.Before && held.UUID.LeafHash != item.UUID.LeafHash {
		return done, &EntryError{Entry: item.UUID.String(), Problem: fmt.Sprintf("is not the entry that is held at its index: that is %v", held.UUID)}
	}
	p.Reasons = storage.PinImported | s.wanted(sh, p)
	if p, err = sh.pin(p); err != nil {
		return done, err
	}
	done.Linked = p.Anchor != storage.Head{}
	return done, nil
}

// tieIfKnown is tie if that needs nobody, or upstream is live. Otherwise the pin is anchored
// later.
func (sh *shard) tieIfKnown(ctx context.Context, p *storage.Pin) error {
	pending := sh.mirror.tree.State().Pending
	if pending.Raw == nil || pending.Head != p.Checkpoint.Head && !sh.mirror.live() {
		return nil
	}
	err := sh.tie(ctx, p)
	if err != nil && gone(err) {
		return nil
	}
	return err
}

// importProven pins an entry that comes with its proof. If its shard is not known, that becomes
// known: its checkpoint signs the tree, and the SET where that begins.
func (s *Service) importProven(ctx context.Context, imp rekor.Import) (Imported, error) {
	e := imp.Entry
	origin, err := trust.Origin(e.Proof.Checkpoint)
	if err != nil {
		return Imported{}, err
	}
	_, treeID, err := splitOrigin(origin)
	if err != nil {
		return Imported{}, err
	}
	item := rekor.Item{UUID: rekor.UUID{TreeID: treeID, LeafHash: storage.LeafHash(e.Body)}, Entry: *e}
	if u := imp.UUID; u != nil && *u != item.UUID && *u != (rekor.UUID{LeafHash: item.UUID.LeafHash}) {
		return Imported{}, &EntryError{Entry: u.String(), Problem: fmt.Sprintf("is the name of what is %v", item.UUID)}
	}
	sh := s.byTree(treeID)
	if sh == nil {
		if sh, err = s.shardOfProven(origin, &item); err != nil {
			return Imported{}, err
		}
	}
	return s.importItem(ctx, sh, &item)
}

// shardOfProven makes the shard known of an entry that verifies with everything it comes with.
func (s *Service) shardOfProven(origin string, item *rekor.Item) (*shard, error) {
	e := &item.Entry
	if e.LogIndex < e.Proof.Index {
		return nil, &EntryError{Entry: item.UUID.String(), Problem: fmt.Sprintf("has the virtual index %d and the index %d in its tree", e.LogIndex, e.Proof.Index)}
	}
	s.mu.RLock()
	keys := s.keys
	s.mu.RUnlock()
	_, key, err := trust.Signer(e.Proof.Checkpoint, origin, keys)
	if err != nil {
		return nil, err
	}
	start := e.LogIndex - e.Proof.Index
	p, err := s.shardWith(item.UUID.TreeID, origin, start, key).proven(item)
	if err != nil {
		return nil, err
	}
	return s.addShard(origin, item.UUID.TreeID, start, p.Checkpoint.Size, key)
}
