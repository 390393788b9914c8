package mirror

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"time"

	"github.com/understudy-log/understudy/log/rekor"
	"github.com/understudy-log/understudy/storage"
)

// EntryRef names an entry of a service: by UUID when it is set, otherwise by virtual index.
type EntryRef struct {
	Index uint64
	UUID  *rekor.UUID
	// Form is what several references share that are forms in which one and the same signature
	// may be logged. One that is held answers for the others while upstream is away.
	Form string
}

// String returns the name of an entry for messages.
func (r EntryRef) String() string {
	if r.UUID != nil {
		return r.UUID.String()
	}
	return strconv.FormatUint(r.Index, 10)
}

// names says whether a reference names an item.
func (r EntryRef) names(item *rekor.Item) bool {
	if r.UUID == nil {
		return item.Entry.LogIndex == r.Index
	}
	return item.UUID.LeafHash == r.UUID.LeafHash && (r.UUID.TreeID == 0 || item.UUID.TreeID == r.UUID.TreeID)
}

// Entry returns one entry with its SET, inclusion proof and signed checkpoint. What is not
// held is fetched from upstream, within the limit of the client, verified, and kept. Errors
// are *Refusal: NotFound only if upstream has just said so; Unavailable with After set if it
// makes sense to try again.
func (s *Service) Entry(ctx context.Context, client Client, ref EntryRef) (rekor.Item, Freshness, error) {
	items, fresh, err := s.Entries(ctx, client, []EntryRef{ref})
	if err == nil && len(items) == 0 {
		err = s.refuse(nil, NotFound, ReasonNotFound, 0, "upstream has no entry %v", ref)
	}
	if err != nil {
		return rekor.Item{}, fresh, err
	}
	return items[0], fresh, nil
}

// Entries is Entry for up to 10 at a time, in the order asked. What upstream has just said
// not to have is left out, as entries/retrieve does; one that is unavailable makes the whole
// answer a *Refusal.
func (s *Service) Entries(ctx context.Context, client Client, refs []EntryRef) ([]rekor.Item, Freshness, error) {
	fresh := s.Freshness()
	if len(refs) > retrieveLimit {
		return nil, fresh, s.refuse(nil, Invalid, ReasonInvalidRequest, 0, "%d entries are asked for at once; %d is the most", len(refs), retrieveLimit)
	}
	found := make([]*rekor.Item, len(refs))
	forms, oldest := map[string]bool{}, time.Now()
	for i, ref := range refs {
		item, seen, err := s.held(ref)
		if err != nil && !s.live(ref) {
			return nil, fresh, err
		}
		if item != nil && seen.Before(oldest) {
			oldest = seen
		}
		if found[i] = item; item != nil && ref.Form != "" {
			forms[ref.Form] = true
		}
	}
	for _, answered := range []bool{false, true} {
		var missing []EntryRef
		var places []int
		for i, ref := range refs {
			if found[i] == nil && forms[ref.Form] == answered {
				missing, places = append(missing, ref), append(places, i)
			}
		}
		if len(missing) == 0 {
			continue
		}
		items, err := s.fetch(ctx, client, missing)
		if refusal, ok := errors.AsType[*Refusal](err); ok && answered && refusal.Kind == Unavailable {
			continue
		}
		if err != nil {
			return nil, fresh, err
		}
		for i, item := range items {
			found[places[i]] = item
		}
	}
	items := make([]rekor.Item, 0, len(found))
	for _, item := range found {
		if item != nil {
			items = append(items, *item)
		}
	}
	fresh = s.Freshness()
	fresh.CheckpointAge = max(0, time.Since(oldest))
	return items, fresh, nil
}

// live says whether upstream can be asked for an entry.
func (s *Service) live(ref EntryRef) bool {
	if ref.UUID != nil && ref.UUID.TreeID == 0 {
		return s.anyLive()
	}
	if sh := s.named(ref); sh != nil {
		return sh.mirror.live()
	}
	return s.anyLive()
}

// anyLive says whether upstream can be asked about any shard.
func (s *Service) anyLive() bool {
	return slices.ContainsFunc(s.known(), func(sh *shard) bool { return sh.mirror.live() })
}

// named returns the shard in which an entry must lie, as far as is known; nil if any may be it.
func (s *Service) named(ref EntryRef) *shard {
	switch {
	case ref.UUID == nil:
		return s.at(ref.Index)
	case ref.UUID.TreeID != 0:
		return s.byTree(ref.UUID.TreeID)
	}
	return nil
}

// at returns the shard in which a virtual index lies, as far as is known.
func (s *Service) at(index uint64) *shard {
	var at *shard
	for _, sh := range s.known() {
		if sh.start() <= index {
			at = sh
		}
	}
	return at
}

// held returns an entry from what is held, and when upstream last vouched for its checkpoint;
// nil if it is not held. The error is a *Refusal about
// damage.
func (s *Service) held(ref EntryRef) (item *rekor.Item, seen time.Time, err error) {
	if ref.UUID == nil {
		if sh := s.at(ref.Index); sh != nil {
			return sh.held(func(*storage.View) (uint64, bool, error) { return ref.Index - sh.start(), true, nil })
		}
		return nil, seen, nil
	}
	shards := s.known()
	var failure error
	for i := len(shards) - 1; i >= 0; i-- { // the active one first, as Rekor looks
		sh := shards[i]
		if ref.UUID.TreeID != 0 && sh.treeID != ref.UUID.TreeID {
			continue
		}
		item, seen, err := sh.held(func(v *storage.View) (uint64, bool, error) { return indexOf(v, ref.UUID.LeafHash) })
		if item != nil {
			return item, seen, nil
		}
		failure = errors.Join(failure, err)
	}
	return nil, seen, failure
}

// indexOf returns the index of an entry that is held or pinned.
func indexOf(v *storage.View, leaf storage.Hash) (uint64, bool, error) {
	if v.State().Head.Size > 0 {
		if index, ok, err := v.Index(leaf); ok || err != nil {
			return index, ok, err
		}
	}
	p, ok, err := v.PinOf(leaf)
	return p.Index, ok, err
}

// held returns an entry of the shard, at the index that find finds.
func (sh *shard) held(find func(*storage.View) (uint64, bool, error)) (item *rekor.Item, seen time.Time, err error) {
	a := sh.mirror.answer()
	defer a.Close()
	index, ok, err := find(a.View)
	if err != nil || !ok {
		return nil, seen, a.damaged(err)
	}
	seen = a.state.Pending.LastSeen
	item, err = sh.copied(a.View, index)
	if item == nil && err == nil {
		item, seen, err = sh.pinned(a.View, index)
	}
	return item, seen, a.damaged(err)
}

// item returns an entry of the shard with what the log promised about it.
func (sh *shard) item(index uint64, body, receipt []byte) (*rekor.Item, error) {
	item := &rekor.Item{
		UUID:  rekor.UUID{TreeID: sh.treeID, LeafHash: storage.LeafHash(body)},
		Entry: rekor.Entry{Body: body, LogID: sh.logID, LogIndex: sh.start() + index},
	}
	return item, decodeReceipt(&item.Entry, receipt)
}

// copied returns an entry out of the copy of a shard, proven to the pending checkpoint; nil
// if it is not copied.
func (sh *shard) copied(v *storage.View, index uint64) (*rekor.Item, error) {
	s := v.State()
	c := s.Pending
	if index < s.Minimum || index >= s.Head.Size {
		return nil, nil
	}
	body, err := v.Entry(index)
	if err != nil {
		return nil, err
	}
	hash, err := v.LeafHash(index)
	if err != nil {
		return nil, err
	}
	if storage.LeafHash(body) != hash {
		return nil, v.Misfit(index)
	}
	receipt, err := v.Receipt(index)
	if err != nil || receipt == nil {
		return nil, err
	}
	item, err := sh.item(index, body, receipt)
	if err != nil {
		return nil, err
	}
	hashes, err := v.InclusionProof(index, c.Size)
	if err != nil {
		return nil, err
	}
	item.Entry.Proof = &rekor.Proof{Index: index, TreeSize: c.Size, RootHash: c.Root, Hashes: hashes, Checkpoint: c.Raw}
	return item, nil
}

// pinned returns a pinned entry with its proof as received; nil if it is not pinned.
func (sh *shard) pinned(v *storage.View, index uint64) (item *rekor.Item, seen time.Time, err error) {
	p, ok, err := v.Pin(index)
	if err != nil || !ok {
		return nil, seen, err
	}
	sh.service.pins.touch(sh, index)
	seen = p.Checkpoint.FirstSeen
	if pending := v.State().Pending; p.Checkpoint.Head == pending.Head { // for which upstream has vouched since
		seen = pending.LastSeen
	}
	item, err = sh.itemOf(&p)
	return item, seen, err
}

// itemOf returns a pin as Rekor's API gives the entry.
func (sh *shard) itemOf(p *storage.Pin) (*rekor.Item, error) {
	item, err := sh.item(p.Index, p.Entry, p.Receipt)
	if err != nil {
		return nil, err
	}
	item.Entry.Proof = &rekor.Proof{Index: p.Index, TreeSize: p.Checkpoint.Size, RootHash: p.Checkpoint.Root, Hashes: p.Proof, Checkpoint: p.Checkpoint.Raw}
	return item, nil
}

// fetch returns entries that are not held, from upstream; nil stands for those that it does
// not have. What others are fetching already is waited for. Errors are *Refusal, or of ctx.
func (s *Service) fetch(ctx context.Context, client Client, refs []EntryRef) ([]*rekor.Item, error) {
	metrics := s.cfg.Metrics.log(s.cfg.Name)
	items := make([]*rekor.Item, len(refs))
	var ask []EntryRef
	var places []int
	for i, ref := range refs {
		if s.live(ref) {
			ask, places = append(ask, ref), append(places, i)
		} else if r := s.away(ref); r.Kind != NotFound {
			metrics.missed(r)
			return nil, r
		}
	}
	if len(ask) == 0 {
		return items, nil
	}
	until := time.Now().Add(missPatience)
	wait, ok := s.misses.take(client, len(ask))
	if !ok {
		r := s.refuse(nil, Unavailable, ReasonBudgetExhausted, wait, "entry %v is not held, and this client has had as many fetched as it may for now; what is held is not limited", ask[0])
		metrics.missed(r)
		return nil, r
	}
	if !pause(ctx, wait) {
		return nil, ctx.Err()
	}
	all := s.flights.join(ask, func(ctx context.Context, owned []EntryRef) { s.land(ctx, owned, until) })
	if all == nil {
		return nil, s.away(ask[0])
	}
	for i, under := range all {
		select {
		case <-under.done:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		metrics.missed(under.err)
		if refusal := new(Refusal); errors.As(under.err, &refusal) && refusal.Kind == NotFound {
			continue
		}
		if under.err != nil {
			return nil, under.err
		}
		items[places[i]] = &under.item
	}
	return items, nil
}

// away refuses an entry because upstream cannot be asked, or need not be.
func (s *Service) away(ref EntryRef) *Refusal {
	sh := s.named(ref)
	switch {
	case sh != nil && sh.mirror.tree.State().Evidence != nil:
		return s.refuse(sh, Unavailable, ReasonQuarantined, 0, "entry %v is not held, and upstream is not asked for it: its shard is quarantined", ref)
	}
	return s.refuse(sh, Unavailable, ReasonNotPinned, s.cfg.Poll, "entry %v is not held, and upstream cannot be reached to ask for it: whether it is logged is not known", ref)
}

// land fetches entries, verifies and pins them, and tells those who wait. until is how long
// they wait for the budget.
func (s *Service) land(ctx context.Context, refs []EntryRef, until time.Time) {
	var items []rekor.Item
	err := s.misses.admit(ctx, entriesCost, until)
	ctx, cancel := context.WithTimeout(ctx, requestTime)
	defer cancel()
	if err == nil {
		items, err = s.work.entries(ctx, refs)
	}
	for _, ref := range refs {
		item, failure := rekor.Item{}, err
		if err == nil {
			item, failure = s.keep(ctx, ref, items, storage.PinRead)
		}
		s.flights.land(ref, item, s.refused(ref, failure))
	}
}

// errAbsent: upstream has just said that it does not have an entry.
var errAbsent = errors.New("upstream does not have it")

// keep finds the entry that was asked for among what upstream gave, verifies it down to the
// signatures, and pins it.
func (s *Service) keep(ctx context.Context, ref EntryRef, items []rekor.Item, reasons storage.PinReasons) (rekor.Item, error) {
	for i := range items {
		if !ref.names(&items[i]) {
			continue
		}
		sh := s.byTree(items[i].UUID.TreeID)
		if items[i].UUID.TreeID == 0 {
			sh = s.at(items[i].Entry.LogIndex)
		}
		if sh == nil { // of a shard that has just begun?
			if err := s.relist(ctx); err != nil {
				return rekor.Item{}, err
			}
			sh = s.byTree(items[i].UUID.TreeID)
		}
		if sh == nil {
			return rekor.Item{}, &EntryError{Entry: items[i].UUID.String(), Problem: "is of a shard that is not known"}
		}
		p, err := sh.proven(&items[i])
		if err != nil {
			return rekor.Item{}, err
		}
		if err := sh.tie(ctx, p); err != nil {
			return rekor.Item{}, err
		}
		p.Reasons = reasons | s.wanted(sh, p)
		if p, err = sh.pin(p); err != nil {
			return rekor.Item{}, err
		}
		item, err := sh.itemOf(p)
		if err != nil {
			return rekor.Item{}, err
		}
		return *item, nil
	}
	if sh := s.at(ref.Index); ref.UUID == nil && sh != nil && ref.Index-sh.start() < sh.mirror.tree.State().Pending.Size {
		return rekor.Item{}, &EntryError{Entry: ref.String(), Problem: "is in the signed tree, and upstream says that there is none"}
	}
	return rekor.Item{}, errAbsent
}

// refused makes a Refusal of why an entry could not be fetched, and counts what is wrong
// with it.
func (s *Service) refused(ref EntryRef, err error) error {
	var budget *BudgetError
	switch {
	case err == nil:
		return nil
	case errors.Is(err, errAbsent):
		return s.refuse(nil, NotFound, ReasonNotFound, 0, "upstream has no entry %v", ref)
	case errors.As(err, &budget):
		return s.refuse(nil, Unavailable, ReasonBudgetExhausted, budget.After, "entry %v is not held, and %v", ref, err)
	case errors.Is(err, storage.ErrQuarantined) || errors.As(err, new(*ForkError)):
		return s.refuse(nil, Unavailable, ReasonQuarantined, 0, "entry %v is not held, and cannot be kept: its shard is quarantined", ref)
	case gone(err):
		r := s.refuse(nil, Unavailable, ReasonUpstreamUnreachable, max(time.Second, retryAfter(err)), "entry %v is not held, and upstream did not give it: %v", ref, err)
		r.Err = err
		return r
	case ends(err):
		s.logger.Error("an entry could not be kept", "entry", ref.String(), "error", err)
		r := s.refuse(nil, Damaged, ReasonDamaged, 0, "entry %v could not be kept", ref)
		r.Err = err
		return r
	}
	s.cfg.Metrics.log(s.cfg.Name).problem(problemReason(err))
	s.logger.Warn("what upstream gave is refused", "entry", ref.String(), "reason", problemReason(err), "error", err)
	r := s.refuse(nil, Unavailable, ReasonUpstreamRefused, s.cfg.Poll, "entry %v is not held, and what upstream gave for it was refused: %v", ref, err)
	r.Err = err
	return r
}
