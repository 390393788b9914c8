package mirror

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/understudy-log/understudy/log/rekor"
	"github.com/understudy-log/understudy/storage"
)

// A Watch names entries that are to be pinned: by exactly one of its fields.
type Watch struct {
	// Query finds them in upstream's search.
	Query *rekor.Query
	// Identity is a pattern of a subject (e-mail or URI) in which * stands for any characters.
	// Upstream's search finds no patterns: entries are found among those that come by.
	Identity string
	UUID     *rekor.UUID
	// First and End are a range [First, End) of virtual indexes.
	First, End uint64
}

// String names a watch for messages.
func (w Watch) String() string {
	switch q := w.Query; {
	case q != nil && q.Hash != "":
		return "digest " + q.Hash
	case q != nil && q.Email != "":
		return "identity " + q.Email
	case q != nil && q.Subject != "":
		return "identity " + q.Subject
	case q != nil:
		return "public key"
	case w.Identity != "":
		return "identity " + w.Identity
	case w.UUID != nil:
		return "UUID " + w.UUID.String()
	}
	return fmt.Sprintf("indexes %d-%d", w.First, w.End-1)
}

// watchKeys are the keys by which entries are recognised when they come by.
type watchKeys struct {
	exact    map[string]bool
	patterns []string // lower case, like the keys
}

func newWatchKeys(watches []Watch) (watchKeys, error) {
	w := watchKeys{exact: map[string]bool{}}
	for _, watch := range watches {
		if watch.Identity != "" {
			w.patterns = append(w.patterns, strings.ToLower(watch.Identity))
		}
		if watch.Query == nil {
			continue
		}
		keys, _, err := rekor.QueryKeys(*watch.Query)
		if err != nil {
			return w, fmt.Errorf("watch of %v: %w", watch, err)
		}
		for _, key := range keys {
			w.exact[key] = true
		}
	}
	return w, nil
}

func (w watchKeys) match(keys []string) bool {
	return slices.ContainsFunc(keys, func(key string) bool {
		key = strings.ToLower(key)
		return w.exact[key] || slices.ContainsFunc(w.patterns, func(p string) bool { return glob(p, key) })
	})
}

// glob says whether a pattern, in which * stands for any characters, matches the whole text.
func glob(pattern, text string) bool {
	parts := strings.Split(pattern, "*")
	if len(parts) == 1 {
		return pattern == text
	}
	first, last := parts[0], parts[len(parts)-1]
	if len(text) < len(first)+len(last) || !strings.HasPrefix(text, first) || !strings.HasSuffix(text, last) {
		return false
	}
	text = text[len(first) : len(text)-len(last)]
	for _, part := range parts[1 : len(parts)-1] {
		i := strings.Index(text, part)
		if i < 0 {
			return false
		}
		text = text[i+len(part):]
	}
	return true
}

// wanted returns PinWatched if an entry is watched, whichever way it came.
func (s *Service) wanted(sh *shard, p *storage.Pin) storage.PinReasons {
	leaf := storage.LeafHash(p.Entry)
	for _, w := range s.cfg.Watch {
		if w.UUID != nil && w.UUID.LeafHash == leaf && (w.UUID.TreeID == 0 || w.UUID.TreeID == sh.treeID) {
			return storage.PinWatched
		}
		if at := sh.start() + p.Index; w.First <= at && at < w.End {
			return storage.PinWatched
		}
	}
	if len(s.watched.exact)+len(s.watched.patterns) > 0 && s.watched.match(keysOf(p)) {
		return storage.PinWatched
	}
	return 0
}

// watch pins what is watched, again and again. It returns an error only when the database can
// no longer be read or written.
func (s *Service) watch(ctx context.Context) error {
	if len(s.cfg.Watch) == 0 {
		return nil
	}
	patience := int(watchRetry / watchSoon)
	for ctx.Err() == nil {
		if !s.anyLive() {
			pause(ctx, min(s.cfg.Poll, watchSoon))
			continue
		}
		if len(s.watched.patterns) > 0 && s.front() == nil && patience > 0 { // the first poll is not over
			patience--
			pause(ctx, watchSoon)
			continue
		}
		patience = 0
		again := s.cfg.WatchEvery
		for _, w := range s.cfg.Watch {
			err := s.find(ctx, w)
			if ctx.Err() != nil {
				return nil
			}
			if ends(err) {
				return err
			}
			if err != nil {
				again = min(again, max(watchRetry, retryAfter(err)))
				s.cfg.Metrics.log(s.cfg.Name).problem(problemReason(err))
				s.logger.Warn("watched entries could not all be pinned; it is tried again", "watch", w.String(), "again_in", again, "error", err)
			}
		}
		if err := s.tail(ctx); ends(err) {
			return err
		} else if err != nil && ctx.Err() == nil {
			again = min(again, max(watchRetry, retryAfter(err)))
			s.logger.Warn("new entries could not be looked through for what is watched; it is tried again", "again_in", again, "error", err)
		}
		pause(ctx, jitter(again))
	}
	return nil
}

const (
	watchSoon  = time.Second      // while upstream is away
	watchRetry = 30 * time.Second // after a failure
)

// find pins what one watch names and upstream can find.
func (s *Service) find(ctx context.Context, w Watch) error {
	switch {
	case w.Query != nil:
		uuids, err := s.work.search(ctx, *w.Query)
		if err != nil {
			return err
		}
		refs := make([]EntryRef, len(uuids))
		for i := range uuids {
			refs[i].UUID = &uuids[i]
		}
		err = s.pinAll(ctx, refs)
		if stops(err) || ctx.Err() != nil {
			return err
		}
		keys, all, _ := rekor.QueryKeys(*w.Query) // which newWatchKeys has done before
		return cmp.Or(s.learn(uuids, keys, all), err)
	case w.UUID != nil:
		ref := EntryRef{UUID: w.UUID}
		err := s.pinAll(ctx, []EntryRef{ref})
		if err == nil && ctx.Err() == nil {
			s.noteAbsent(ref)
		}
		return err
	}
	var failure error
	for at := w.First; at < w.End && ctx.Err() == nil; at += retrieveLimit {
		shards, err := s.Shards()
		if err != nil {
			return err
		}
		last := shards[len(shards)-1]
		if at >= last.Start+last.Head.Size {
			break // not logged yet
		}
		var refs []EntryRef
		for i := at; i < min(at+retrieveLimit, w.End, last.Start+last.Head.Size); i++ {
			refs = append(refs, EntryRef{Index: i})
		}
		if err := s.pinAll(ctx, refs); ends(err) || err != nil && gone(err) {
			return err
		} else if err != nil {
			failure = err
		}
	}
	return failure
}

// noteAbsent tells the daemon's log, once, that upstream does not have an entry that it was just
// asked for, if that is why it is not held.
func (s *Service) noteAbsent(ref EntryRef) {
	item, _, err := s.held(ref)
	switch absent := item == nil && err == nil; {
	case !absent:
		delete(s.absent, ref.String())
	case !s.absent[ref.String()]:
		s.absent[ref.String()] = true
		s.logger.Warn("upstream has no entry with a watched UUID; it is looked for again and again. Is it written right, and of this service?", "uuid", ref.String())
	}
}

// pinAll pins entries as watched. One that does not verify does not hold up the others.
func (s *Service) pinAll(ctx context.Context, refs []EntryRef) (failure error) {
	var missing []EntryRef
	for _, ref := range refs {
		if kept, err := s.keptAlready(ref); err != nil {
			return err
		} else if !kept {
			missing = append(missing, ref)
		}
	}
	for batch := range slices.Chunk(missing, retrieveLimit) {
		err := s.pinSome(ctx, batch)
		if err != nil && len(batch) > 1 && !stops(err) { // one of them spoils the answer
			err = nil
			for i := range batch {
				if e := s.pinSome(ctx, batch[i:i+1]); stops(e) {
					return e
				} else if e != nil {
					err = e
				}
			}
		}
		if stops(err) || ctx.Err() != nil {
			return err
		}
		failure = cmp.Or(err, failure)
	}
	return failure
}

// stops says whether an error stands in the way of other entries too.
func stops(err error) bool { return err != nil && (ends(err) || gone(err)) }

// pinSome pins up to retrieveLimit entries as watched.
func (s *Service) pinSome(ctx context.Context, refs []EntryRef) (failure error) {
	items, err := s.work.entries(ctx, refs)
	if err != nil {
		return err
	}
	for _, ref := range refs {
		_, err := s.keep(ctx, ref, items, storage.PinWatched)
		switch {
		case err == nil || errors.Is(err, errAbsent):
		case stops(err):
			return err
		default:
			failure = fmt.Errorf("%v: %w", ref, err)
		}
	}
	return failure
}

// keptAlready says whether an entry is held for good; a pin that was only read becomes a
// watched one.
func (s *Service) keptAlready(ref EntryRef) (bool, error) {
	item, _, err := s.held(ref)
	if err != nil || item == nil {
		return false, nil // what is damaged is pinned again
	}
	sh := s.byTree(item.UUID.TreeID)
	s.pinning.Lock()
	defer s.pinning.Unlock()
	p, ok, err := sh.pinAt(item.Entry.LogIndex - sh.start())
	if err != nil || !ok {
		copied := item.Entry.LogIndex-sh.start() < sh.mirror.tree.State().Head.Size
		return err == nil && copied, nil
	}
	if p.Reasons&storage.PinWatched == 0 {
		p.Reasons |= storage.PinWatched
		if err := sh.mirror.tree.Hold(p.Index, storage.PinWatched); err != nil {
			return false, &storageError{err}
		}
		s.pins.put(sh, &p)
	}
	return true, nil
}
