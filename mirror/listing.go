package mirror

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/understudy-log/understudy/mirror/trust"
)

// Which shards there are: what log info lists, and what of that is believed.

// splitOrigin reads the origin of a shard: "host - tree ID".
func splitOrigin(origin string) (host string, treeID uint64, err error) {
	i := strings.LastIndex(origin, " - ")
	if i <= 0 {
		return "", 0, &FormatError{fmt.Sprintf("origin %q is not one of a Rekor v1 shard", origin)}
	}
	treeID, err = parseTreeID(origin[i+3:])
	return origin[:i], treeID, err
}

// isLost says whether the tree of a shard cannot be opened.
func (s *Service) isLost(treeID uint64) bool {
	return slices.ContainsFunc(s.lost, func(l lostShard) bool { return l.TreeID == treeID })
}

// lists says whether log info listed a shard, as far as is known.
func (s *Service) lists(treeID uint64) bool {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return slices.Contains(s.listed, treeID) || slices.Contains(s.listing, treeID)
}

// list reads log info once, and refuses what cannot be.
func (s *Service) list(ctx context.Context, api *rekorAPI) ([]shardInfo, error) {
	before := map[uint64]uint64{}
	for _, sh := range s.known() {
		before[sh.treeID] = sh.mirror.tree.State().Pending.Size
	}
	infos, err := api.info(ctx)
	if err != nil {
		return nil, err
	}
	for i := range infos {
		infos[i].since = before[infos[i].treeID]
	}
	if len(infos) > maxShards {
		return nil, shardProblem("log info lists %d shards; %d is the most that is believed", len(infos), maxShards)
	}
	return infos, s.sameOrder(infos)
}

// sameOrder refuses log info that lacks a shard whose checkpoint is archived, or has it at
// another place: virtual indexes would mean something else than they did.
func (s *Service) sameOrder(infos []shardInfo) error {
	rest := infos
	for _, sh := range s.known() {
		if sh.mirror.tree.State().Pending.Raw == nil {
			continue // imported, and never listed
		}
		at := slices.IndexFunc(rest, func(info shardInfo) bool { return info.treeID == sh.treeID })
		if at < 0 {
			return shardProblem("log info does not list the shard %d, or not behind those that were in front of it", sh.treeID)
		}
		rest = rest[at+1:]
	}
	return nil
}

// note notes which shards log info lists. Nobody has signed that.
func (s *Service) note(infos []shardInfo) {
	listing := make([]uint64, len(infos))
	for i := range infos {
		listing[i] = infos[i].treeID
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.listing = listing
}

// settle keeps which shards log info lists, if it has a checkpoint of each that was verified.
func (s *Service) settle() error {
	s.adding.Lock()
	defer s.adding.Unlock()
	s.mu.RLock()
	shards, listed, listing := s.shards, s.listed, s.listing
	s.mu.RUnlock()
	if slices.Equal(listed, listing) {
		return nil
	}
	for _, id := range listing {
		if sh := s.byTree(id); sh == nil || sh.mirror.tree.State().Pending.Raw == nil {
			return nil
		}
	}
	return s.save(shards, listing)
}

// relist reads log info out of turn, once between two polls at most: strangers ask for it, and
// must not decide how often upstream is asked, nor how fast the archive grows. Until it may ask
// again it returns what the last time returned.
func (s *Service) relist(ctx context.Context) error {
	select {
	case s.relisting <- struct{}{}:
		defer func() { <-s.relisting }()
	case <-ctx.Done():
		return ctx.Err()
	}
	if time.Since(s.relisted) < s.cfg.Poll {
		return s.relistErr
	}
	s.relisted = time.Now()
	infos, err := s.list(ctx, s.work)
	if err == nil {
		if err = s.poll(ctx, infos); !ends(err) { // what is wrong with a shard is its own
			err = ctx.Err()
		}
	}
	s.relistErr = err
	return err
}

// discover makes a shard of what log info lists for the first time. The shard is returned with
// an error if it is known now and its checkpoint was refused.
func (s *Service) discover(ctx context.Context, info shardInfo, start uint64) (*shard, error) {
	origin, err := trust.Origin(info.checkpoint)
	if err != nil {
		return nil, err
	}
	if _, id, err := splitOrigin(origin); err != nil || id != info.treeID {
		return nil, shardProblem("the checkpoint of shard %d has the origin %q", info.treeID, origin)
	}
	s.mu.RLock()
	keys := s.keys
	s.mu.RUnlock()
	c, key, err := trust.Signer(info.checkpoint, origin, keys)
	if err != nil {
		return nil, err
	}
	if start > 0 && c.Size > 0 {
		if err := s.confirm(ctx, s.shardWith(info.treeID, origin, start, key)); err != nil {
			return nil, err
		}
	}
	sh, err := s.addShard(origin, info.treeID, start, c.Size, key)
	if err != nil {
		return nil, err
	}
	sh.mirror.answered(true)
	return sh, sh.poll(ctx, info, start, true)
}

// confirm has upstream show the first entry of a shard, before it is believed for good where
// that begins: its SET signs the virtual index, and its proof the index in the tree. The sizes of
// the shards in front of it may be old.
func (s *Service) confirm(ctx context.Context, sh *shard) error {
	items, err := s.work.entries(ctx, []EntryRef{{Index: sh.start()}})
	if err != nil {
		return err
	}
	if len(items) != 1 {
		return shardProblem("the shard %d should begin at the virtual index %d, and upstream has no entry there", sh.treeID, sh.start())
	}
	p, err := sh.proven(&items[0])
	if err == nil && p.Index != 0 {
		err = fmt.Errorf("it is the one with the index %d", p.Index)
	}
	if err != nil {
		return shardProblem("the shard %d should begin at the virtual index %d, and the entry there is not its first one: %v", sh.treeID, sh.start(), err)
	}
	return nil
}

// addShard makes a shard known, durably. key has signed that it has so many entries.
func (s *Service) addShard(origin string, treeID, start, size uint64, key trust.Key) (*shard, error) {
	host, _, err := splitOrigin(origin)
	if err != nil {
		return nil, err
	}
	s.adding.Lock()
	defer s.adding.Unlock()
	if sh := s.byTree(treeID); sh != nil {
		return sh, nil // meanwhile
	}
	s.mu.RLock()
	shards, listed := s.shards, s.listed
	s.mu.RUnlock()
	at := len(shards)
	for i, other := range slices.Backward(shards) {
		otherHost, _, _ := splitOrigin(other.origin)
		if host != otherHost {
			return nil, &trust.OriginError{Got: origin, Want: fmt.Sprintf("%s - %d", otherHost, treeID)}
		}
		// One without a checkpoint has no entries, so it cannot be in the way.
		if end := other.start() + other.mirror.tree.State().Pending.Size; max(start, other.start()) < min(start+size, end) {
			return nil, shardProblem("shard %d would have the virtual indexes %d to %d, and shard %d has those from %d to %d", treeID, start, start+size-1, other.treeID, other.start(), end-1)
		}
		if start < other.start() || start == other.start() && slices.Index(listed, treeID) < slices.Index(listed, other.treeID) {
			at = i
		}
	}
	sh, err := s.newShard(treeID, origin, start, key)
	if err != nil {
		return nil, err
	}
	if err := sh.mirror.recall(); err != nil {
		return nil, err
	}
	if err := s.save(slices.Insert(slices.Clone(shards), at, sh), listed); err != nil {
		return nil, err
	}
	s.logger.Info("a shard is followed", "origin", origin, "virtual_index", start, "coverage", sh.coverage)
	return sh, nil
}
