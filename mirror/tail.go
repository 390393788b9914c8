package mirror

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/understudy-log/understudy/log/rekor"
	"github.com/understudy-log/understudy/storage"
)

// tailed is how far the log was looked through for watched patterns.
type tailed struct {
	tailRecord

	begun bool
	saved []byte    // the record as it is kept
	end   uint64    // of the log when it was last looked at, at a time
	at    time.Time // that is zero before the first
}

// tailRecord is what is kept of it: what is logged while nobody looks is looked through later.
type tailRecord struct {
	Next    uint64   `json:"next"`    // virtual index of the first entry not looked through
	Again   []uint64 `json:"again"`   // those that match and could not be pinned
	Skipped bool     `json:"skipped"` // there are too many new ones
}

const (
	tailShare = 0.5  // of what the budget gives that looking through new entries may take
	tailAgain = 100  // entries that are tried again
	tailSave  = 1000 // entries that are looked through twice, at most, after a crash
)

// front returns the active shard if upstream has just shown how far it goes; nil if not.
func (s *Service) front() *shard {
	s.mu.RLock()
	n, active := len(s.listing), uint64(0)
	if n > 0 {
		active = s.listing[n-1]
	}
	s.mu.RUnlock()
	if sh := s.byTree(0); sh != nil && sh.treeID == active && sh.mirror.live() {
		return sh
	}
	return nil
}

func (s *Service) tailName() string { return "rekor-v1 tail " + s.cfg.Name }

// recallTail reads how far the log was looked through before the start.
func (s *Service) recallTail(end uint64) error {
	t := &s.tailed
	raw, err := s.cfg.DB.Record(s.tailName())
	switch {
	case err != nil && ends(&storageError{err}):
		return &storageError{err}
	case err == nil && raw == nil: // nothing was watched before
		t.Next = end
	case err == nil:
		err = json.Unmarshal(raw, &t.tailRecord)
	}
	if err != nil {
		t.tailRecord = tailRecord{Next: end}
		s.logger.Error("how far entries were looked through for watched patterns is damaged; only those that are logged from now on are", "first", end, "error", err)
	}
	t.begun, t.saved = true, raw
	if t.Next < end && !t.Skipped {
		s.logger.Info("entries that were logged since they were last looked through for watched patterns are looked through now", "first", t.Next, "last", end-1)
	}
	return nil
}

// saveTail keeps how far the log was looked through. What was found is pinned by then.
func (s *Service) saveTail() error {
	t := &s.tailed
	raw, err := json.Marshal(t.tailRecord)
	if err != nil || bytes.Equal(raw, t.saved) {
		return err
	}
	if err := s.cfg.DB.PutRecord(s.tailName(), raw); err != nil {
		return &storageError{err}
	}
	t.saved = raw
	return nil
}

// tail looks through the entries that were logged since it last did, for patterns that
// upstream's search does not find: no longer than watches rest, and then later on. If the log
// grows faster than it gives entries, they are not read, and the daemon's log says so.
func (s *Service) tail(ctx context.Context) (err error) {
	active := s.front()
	if len(s.watched.patterns) == 0 || active == nil {
		return nil // what is logged meanwhile is looked through later
	}
	t := &s.tailed
	end := active.start() + active.mirror.tree.State().Pending.Size
	if !t.begun {
		if err := s.recallTail(end); err != nil {
			return err
		}
	}
	defer func() { err = errors.Join(err, s.saveTail()) }()
	if s.skipTail(end) {
		return nil
	}
	began := time.Now()
	again := t.Again
	t.Again = nil
	for i, at := range again {
		if err := s.lookThrough(ctx, []EntryRef{{Index: at}}); err != nil {
			t.Again = append(t.Again, again[i:]...)
			return err
		}
	}
	for n := 0; t.Next < end && time.Since(began) < s.cfg.WatchEvery; {
		var refs []EntryRef
		for i := t.Next; i < min(t.Next+retrieveLimit, end); i++ {
			refs = append(refs, EntryRef{Index: i})
		}
		if err := s.lookThrough(ctx, refs); err != nil {
			return err
		}
		t.Next += uint64(len(refs))
		if n += len(refs); n >= tailSave {
			n = 0
			if err := s.saveTail(); err != nil {
				return err
			}
		}
	}
	if len(t.Again) > 0 {
		return &EntryError{Entry: fmt.Sprint(t.Again[0]), Problem: fmt.Sprintf("and %d others could not be looked through", len(t.Again)-1)}
	}
	return nil
}

// skipTail says whether the log grows faster than its entries can be read; those that are new
// are passed over then. How fast it grows is known from the second time on.
func (s *Service) skipTail(end uint64) bool {
	t := &s.tailed
	was, first := t.Skipped, t.at.IsZero()
	grown := end - min(end, t.end)
	elapsed := max(s.cfg.WatchEvery, time.Since(t.at))
	if first {
		grown, elapsed = end-min(end, t.Next), s.cfg.WatchEvery
	}
	affordable := uint64(s.cfg.RequestsPerSecond * retrieveLimit * tailShare * elapsed.Seconds())
	if !first {
		t.Skipped = grown > affordable
	}
	t.end, t.at = end, time.Now()
	if !t.Skipped {
		return false
	}
	if (first || !was) && t.Next < end {
		s.logger.Warn("the log grows faster than its API gives entries, so new entries are not looked through for watched patterns; exact identities are still searched for",
			"first", t.Next, "last", end-1, "new_entries", grown, "affordable", affordable, "in", elapsed.Round(time.Second))
	}
	t.Next = end
	return true
}

// lookThrough pins what matches of a few new entries, and notes which are to be tried again.
func (s *Service) lookThrough(ctx context.Context, refs []EntryRef) error {
	items, err := s.work.entries(ctx, refs)
	if stops(err) {
		return err
	}
	for _, ref := range refs {
		i := slices.IndexFunc(items, func(item rekor.Item) bool { return ref.names(&item) })
		if i >= 0 && !s.watched.match(append(rekor.SearchKeys(items[i].Entry.Body), rekor.StatementKeys(items[i].Entry.Attestation)...)) {
			continue
		}
		if i >= 0 {
			_, err = s.keep(ctx, ref, items[i:i+1], storage.PinWatched)
		}
		switch {
		case i >= 0 && err == nil:
		case stops(err):
			return err
		case len(s.tailed.Again) < tailAgain && !slices.Contains(s.tailed.Again, ref.Index):
			s.tailed.Again = append(s.tailed.Again, ref.Index)
		}
	}
	return nil
}
