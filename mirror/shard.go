package mirror

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/cenkalti/backoff/v5"
	lru "github.com/hashicorp/golang-lru/v2"
	"golang.org/x/sync/errgroup"

	"github.com/understudy-log/understudy/log/rekor"
	"github.com/understudy-log/understudy/mirror/trust"
	"github.com/understudy-log/understudy/storage"
)

// shard is one tree of a Rekor v1 service. What is the same for every log (state, freshness,
// answers, repair) is its mirror's.
type shard struct {
	service  *Service
	mirror   *Mirror
	treeID   uint64
	origin   string
	first    atomic.Uint64 // virtual index of its first entry; see start
	key      trust.Key     // the one that signs it, since it was first seen
	logID    string        // of key
	coverage Coverage

	ties *lru.Cache[tieKey, []storage.Hash]

	judging chan struct{} // has a token while a checkpoint is judged
}

// newShard returns a shard with its tree, which it makes if there is none.
func (s *Service) newShard(treeID uint64, origin string, start uint64, key trust.Key) (*shard, error) {
	tree, err := s.cfg.DB.OpenTree(origin)
	if errors.Is(err, storage.ErrNotExist) {
		tree, err = s.cfg.DB.CreateTree(origin)
	}
	if err != nil {
		return nil, &storageError{err}
	}
	tree.KeepLinks()
	sh := s.shardWith(treeID, origin, start, key)
	if sh.ties, err = lru.New[tieKey, []storage.Hash](keptTies); err != nil {
		return nil, err
	}
	if c, ok := s.cfg.Shards[treeID]; ok {
		sh.coverage = c
	}
	sh.mirror, err = newMirror(Config{
		Name: fmt.Sprintf("%s/%d", s.cfg.Name, treeID), Origin: origin, URL: s.cfg.URL, Tree: tree, Newest: s.cfg.Newest,
		Poll: s.cfg.Poll, RequestsPerSecond: s.cfg.RequestsPerSecond, StaleAfter: s.cfg.StaleAfter, Logger: s.cfg.Logger, Metrics: s.cfg.Metrics,
	})
	if err != nil {
		return nil, err
	}
	sh.mirror.shard, sh.mirror.keys = sh, []trust.Key{key}
	sh.mirror.places = []*place{{url: s.cfg.URL, upstream: true}}
	sh.mirror.begun()
	return sh, nil
}

// shardWith returns a shard that has no tree: enough to verify an entry by.
func (s *Service) shardWith(treeID uint64, origin string, start uint64, key trust.Key) *shard {
	id := sha256.Sum256(key.SPKI())
	sh := &shard{service: s, treeID: treeID, origin: origin, key: key, logID: hex.EncodeToString(id[:]), coverage: s.cfg.Coverage, judging: make(chan struct{}, 1)}
	sh.first.Store(start)
	return sh
}

// treeOf returns the tree of a signed head as upstream proves it.
func (sh *shard) treeOf(head storage.Head) signedTree {
	return sh.service.work.tree(sh.treeID, head)
}

// start returns the virtual index of the shard's first entry. It never changes once the shard
// has a checkpoint.
func (sh *shard) start() uint64 { return sh.first.Load() }

// next returns the shard after this one; nil if this is the last, or it is not sure yet where
// the next one begins.
func (sh *shard) next() *shard {
	shards := sh.service.known()
	if i := slices.Index(shards, sh) + 1; 0 < i && i < len(shards) && shards[i].mirror.tree.State().Pending.Raw != nil {
		return shards[i]
	}
	return nil
}

// closed says whether the shard has its last size: the next one begins where it ends.
func (sh *shard) closed() bool {
	next := sh.next()
	return next != nil && next.start()-sh.start() == sh.mirror.tree.State().Pending.Size
}

// poll judges the shard's newest checkpoint. start is where it should begin, if that is known.
func (sh *shard) poll(ctx context.Context, info shardInfo, start uint64, known bool) error {
	err := func() error {
		if known && start != sh.start() && sh.mirror.tree.State().Pending.Size == 0 {
			if err := sh.move(start); err != nil {
				return err
			}
		}
		if known && start != sh.start() {
			return shardProblem("the shards before it have %d entries now, and had %d when it was first seen", start, sh.start())
		}
		return sh.judge(ctx, info)
	}()
	if ctx.Err() == nil {
		sh.mirror.polled(err)
		sh.mirror.note(err)
	}
	return err
}

// move corrects where a shard begins that became known by an import: its entry may have had the
// proof of one shard and the SET of another, if one key signs both. Such pins are given up.
func (sh *shard) move(start uint64) error {
	s := sh.service
	s.pinning.Lock()
	defer s.pinning.Unlock()
	var bad []uint64
	v := sh.mirror.tree.View()
	err := v.Pins(0, func(p storage.Pin, _ int) error {
		e := rekor.Entry{Body: p.Entry, LogID: sh.logID, LogIndex: start + p.Index}
		if decodeReceipt(&e, p.Receipt) != nil || e.VerifySET(sh.key.Public()) != nil {
			bad = append(bad, p.Index)
		}
		return nil
	})
	v.Close()
	if err == nil {
		err = sh.mirror.tree.Release(anyReason, bad...)
	}
	for _, index := range bad {
		s.pins.drop(sh, index)
	}
	if err != nil {
		return &storageError{err}
	}
	s.logger.Warn("a shard begins elsewhere than an imported entry said", "tree_id", sh.treeID, "virtual_index", start, "imported", sh.start(), "entries_given_up", len(bad))
	s.adding.Lock()
	defer s.adding.Unlock()
	sh.first.Store(start)
	s.mu.RLock()
	shards, listed := slices.Clone(s.shards), s.listed
	s.mu.RUnlock()
	slices.SortStableFunc(shards, func(a, b *shard) int { return cmp.Compare(a.start(), b.start()) })
	return s.save(shards, listed)
}

// judge takes a checkpoint of the shard, as upstream gave it.
func (sh *shard) judge(ctx context.Context, info shardInfo) error {
	select {
	case sh.judging <- struct{}{}:
		defer func() { <-sh.judging }()
	case <-ctx.Done():
		return ctx.Err()
	}
	c, err := trust.Open(info.checkpoint, sh.origin, []trust.Key{sh.key})
	if err != nil {
		return err
	}
	if !sh.trusted() {
		return &trust.SignatureError{Origin: sh.origin}
	}
	if next := sh.next(); next != nil && c.Size > next.start()-sh.start() {
		return shardProblem("the shard has %d entries, and had ended with %d when the next one was first seen", c.Size, next.start()-sh.start())
	}
	s := sh.mirror.tree.State()
	switch {
	case s.Evidence != nil:
		return &ForkError{s.Evidence}
	case s.Pending.Raw == nil:
		if err := sh.shown(ctx, storage.Head{Size: c.Size, Root: c.Root}); err != nil {
			return err
		}
	}
	err = sh.mirror.accept(ctx, info.checkpoint)
	if _, ok := err.(*RollbackError); ok && info.since <= c.Size && c.Size < s.Pending.Size && info.since < s.Pending.Size {
		return nil // the newer one was asked for later, and came first
	}
	return err
}

// shown says whether upstream can prove the tree that its first checkpoint signs. If not, that
// is not believed: every later, honest checkpoint would look like a fork.
func (sh *shard) shown(ctx context.Context, head storage.Head) error {
	const small = 3 // the least size whose root stands in the proofs from it
	if head.Size <= small {
		return nil
	}
	_, err := sh.treeOf(head).rootAt(ctx, small, storage.Hash{})
	return err
}

// trusted says whether the shard's key still is one of the service's.
func (sh *shard) trusted() bool {
	sh.service.mu.RLock()
	defer sh.service.mu.RUnlock()
	spki := string(sh.key.SPKI())
	for _, k := range sh.service.keys {
		if string(k.SPKI()) == spki {
			return true
		}
	}
	return false
}

// run copies the shard, if all of it is to be held, and looks after what is stored.
func (sh *shard) run(ctx context.Context) error {
	if lacks := sh.lacks(); lacks != "" {
		sh.mirror.logger.Warn("less of the shard is held than is configured", "lacks", lacks)
	}
	group, ctx := errgroup.WithContext(ctx)
	if sh.coverage != CoveragePinned {
		group.Go(func() error { return sh.fill(ctx) })
		group.Go(func() error { return sh.mirror.mend(ctx) })
	}
	group.Go(func() error { return sh.mirror.scrub(ctx) })
	group.Go(func() error { return sh.mirror.index(ctx) })
	return group.Wait()
}

// fillEntries is how many entries are committed together. Each commit costs one more request,
// for the proof that it precedes the pending checkpoint.
const fillEntries = 128 * retrieveLimit

// fill copies the entries of the shard from the first on.
func (sh *shard) fill(ctx context.Context) error {
	wait := backoff.NewExponentialBackOff()
	wait.InitialInterval, wait.MaxInterval = 500*time.Millisecond, maxBackoff
	for ctx.Err() == nil {
		changed := sh.mirror.tree.Changed()
		s := sh.mirror.tree.State()
		if s.Evidence != nil || s.Head.Size >= s.Pending.Size {
			select {
			case <-ctx.Done():
			case <-changed:
			}
			continue
		}
		err := sh.begin(ctx, s)
		if err == nil {
			err = sh.copyChunk(ctx, sh.mirror.tree.State())
		}
		if ctx.Err() != nil {
			return nil
		}
		if ends(err) {
			return err
		}
		if sh.mirror.noteHistory(err); err != nil && !errors.Is(err, storage.ErrQuarantined) {
			pause(ctx, max(min(wait.NextBackOff(), maxBackoff), retryAfter(err)))
			continue
		}
		wait.Reset()
	}
	return nil
}

// begin makes an empty tree a window, if that is what is to be held. What lies in front of
// it comes out of consistency proofs: up to 128 of them for each level of tiles.
func (sh *shard) begin(ctx context.Context, s *storage.State) error {
	size := s.Pending.Size
	minimum := sh.windowStart(size)
	if s.Head.Size > 0 || sh.coverage != CoverageWindow || minimum == 0 {
		return nil
	}
	if minimum == size { // a window of nothing yet
		minimum -= bundleWidth
	}
	if minimum == 0 {
		return nil
	}
	var border [][]byte
	for _, id := range s.Lacks(minimum) {
		hashes, err := sh.tile(ctx, s.Pending.Head, id)
		if err != nil {
			return err
		}
		border = append(border, hashes)
	}
	precedes, err := sh.treeOf(s.Pending.Head).consistencyFrom(ctx, minimum)
	if err != nil {
		return err
	}
	begun, err := sh.mirror.tree.Begin(minimum, border, storage.Seal{Checkpoint: s.Pending, Precedes: precedes})
	switch {
	case errors.Is(err, storage.ErrInconsistent) && moved(s, sh.mirror.tree.State()):
		return sh.begin(ctx, sh.mirror.tree.State()) // another one was pushed meanwhile
	case errors.Is(err, storage.ErrInconsistent):
		return &ProofError{Problem: err.Error()}
	case errors.Is(err, storage.ErrQuarantined):
		return err
	case err != nil:
		return &storageError{err}
	}
	sh.mirror.logger.Info("the window on the log begins", "minimum_index", begun.Minimum, "tree_size", size)
	return nil
}

// copyChunk fetches the next entries up to the pending checkpoint of s, verifies what the log
// promised about each, and commits them.
func (sh *shard) copyChunk(ctx context.Context, s *storage.State) error {
	began := time.Now()
	if s.Head.Size >= s.Pending.Size {
		return nil
	}
	tree, end := sh.treeOf(s.Pending.Head), min(s.Head.Size+fillEntries, s.Pending.Size)
	if end > 2 { // before so much is fetched: upstream must be able to prove it
		if _, err := tree.rootAt(ctx, end, storage.Hash{}); err != nil {
			return err
		}
	}
	items, err := sh.fetchRange(ctx, s.Head.Size, end)
	if err != nil {
		return err
	}
	precedes, err := tree.consistencyFrom(ctx, s.Head.Size+uint64(len(items)))
	if err != nil {
		return err
	}
	entries, receipts := make([][]byte, len(items)), make([][]byte, len(items))
	for i := range items {
		entries[i], receipts[i] = items[i].Entry.Body, rekor.EncodeReceipt(&items[i].Entry, nil)
	}
	_, err = sh.mirror.tree.Extend(entries, func(storage.Head) (storage.Seal, error) {
		return storage.Seal{Checkpoint: s.Pending, Precedes: precedes, Receipts: receipts}, nil
	})
	switch {
	case errors.Is(err, storage.ErrInconsistent) && moved(s, sh.mirror.tree.State()):
		return nil // another one was pushed meanwhile; the entries are asked for again
	case errors.Is(err, storage.ErrInconsistent):
		return sh.blame(ctx, items, err)
	case errors.Is(err, storage.ErrQuarantined):
		return err
	case err != nil:
		return &storageError{err}
	}
	sh.mirror.copied(uint64(len(items)), time.Since(began))
	return nil
}

// blame finds the entry that made a chunk fail: each came with a proof of its own. If that is
// to a tree that contradicts the signed one, the shard is quarantined.
func (sh *shard) blame(ctx context.Context, items []rekor.Item, cause error) error {
	for i := range items {
		p, err := sh.proven(&items[i])
		if err == nil {
			err = sh.tie(ctx, p)
		}
		if err != nil {
			return err
		}
	}
	return &ProofError{Problem: fmt.Sprintf("entries that are proven one by one do not make up the signed tree: %v", cause)}
}

// fetchRange fetches the entries [first, end) of the shard, each with a good SET.
func (sh *shard) fetchRange(ctx context.Context, first, end uint64) ([]rekor.Item, error) {
	items := make([]rekor.Item, end-first)
	var bytes atomic.Int64
	group, fetching := errgroup.WithContext(ctx)
	group.SetLimit(int(min(max(2, math.Ceil(sh.service.cfg.RequestsPerSecond/4)), parallel)))
	for at := first; at < end; at += retrieveLimit {
		last := min(at+retrieveLimit, end)
		group.Go(func() error {
			if bytes.Load() > aheadBytes {
				return nil // what came first is committed; the rest is asked for again
			}
			refs := make([]EntryRef, last-at)
			for i := range refs {
				refs[i].Index = sh.start() + at + uint64(i)
			}
			got, err := sh.service.work.entries(fetching, refs)
			if err != nil {
				return err
			}
			for i := range got {
				item := got[i]
				index, err := sh.promised(&item)
				if err != nil {
					return err
				}
				if index < at || index >= last || items[index-first].Entry.Body != nil {
					return &EntryError{Entry: item.UUID.String(), Problem: fmt.Sprintf("was given for the indexes %d to %d", at, last-1)}
				}
				items[index-first] = item
				bytes.Add(int64(len(item.Entry.Body)))
			}
			return nil
		})
	}
	err := group.Wait()
	for i := range items {
		if items[i].Entry.Body != nil {
			continue
		}
		if i == 0 && err == nil {
			err = &EntryError{Entry: fmt.Sprint(sh.start() + first), Problem: "is in the signed tree, and upstream does not give it"}
		}
		items = items[:i]
		break
	}
	if len(items) > 0 && ctx.Err() == nil {
		return items, nil // what arrived before the failure is kept
	}
	return nil, cmp.Or(err, ctx.Err())
}

// describe adds what is of a shard to its status.
func (sh *shard) describe(st *Status) {
	pins := sh.service.pins.status(sh)
	start := sh.start()
	st.TreeID, st.VirtualIndex, st.Pins = strconv.FormatUint(sh.treeID, 10), &start, &pins
	if st.Coverage == string(CoverageFull) { // and not a window that has begun
		st.Coverage = string(sh.coverage)
	}
	st.Lacks = sh.lacks()
}

// lacks says what of the configured coverage is not held and is not copied either: a window
// begins where it began. It is empty if nothing is.
func (sh *shard) lacks() string {
	s := sh.mirror.tree.State()
	wanted := uint64(0)
	if sh.coverage == CoverageWindow {
		wanted = sh.windowStart(s.Pending.Size)
	}
	if s.Head.Size == 0 || sh.coverage == CoveragePinned || s.Minimum <= wanted {
		return ""
	}
	return fmt.Sprintf("the entries %d to %d, which coverage %q asks for: this copy began as a window behind them, and that of a Rekor v1 shard does not grow backwards; they are fetched when somebody asks for them. To hold them all, begin with an empty data_dir, and keep this one for its checkpoints and pins",
		wanted, s.Minimum-1, sh.coverage)
}

// windowStart returns the index at which a window on a tree of a size begins.
func (sh *shard) windowStart(size uint64) uint64 {
	return (size - min(size, sh.service.cfg.LastEntries)) / bundleWidth * bundleWidth
}
