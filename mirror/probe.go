package mirror

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/understudy-log/understudy/mirror/trust"
	"github.com/understudy-log/understudy/storage"
)

// Probe asks upstream for its checkpoint, only to see whether it answers in order: the checkpoint must be
// signed with one of keys, and must not be older than one that upstream has served. Nothing of it is taken.
// It counts in the budget of requests, and does not wait for it.
func (m *Mirror) Probe(ctx context.Context, keys []trust.Key) error {
	raw, err := m.places[0].fetcher.probe(ctx, "checkpoint", "/checkpoint", maxCheckpoint)
	if err != nil {
		return err
	}
	return m.vet(raw, keys)
}

// vet says what is wrong with a checkpoint of upstream that is not taken.
func (m *Mirror) vet(raw []byte, keys []trust.Key) error {
	if len(keys) == 0 {
		return nil // nobody can say; the status says why
	}
	c, err := trust.Open(raw, m.cfg.Origin, keys)
	if err != nil {
		return err
	}
	if newest := m.pulled.Load(); c.Size < newest {
		return &RollbackError{Size: c.Size, Newest: newest}
	}
	return nil
}

// Probe is Mirror.Probe of log info: it must have the checkpoint of every shard that is known.
func (s *Service) Probe(ctx context.Context) error {
	raw, err := s.polls.probe(ctx, "log", "/api/v1/log", maxLogInfo)
	if err != nil {
		return err
	}
	infos, err := parseInfo(raw)
	if err != nil {
		return err
	}
	for _, info := range infos {
		if sh := s.byTree(info.treeID); sh != nil {
			if err := sh.mirror.vet(info.checkpoint, []trust.Key{sh.key}); err != nil {
				return err
			}
		}
	}
	return nil
}

// maxDebt is how long probes make others wait for the budget: where it allows fewer requests than there are probes,
// nobody else would ever have a turn.
const maxDebt = 5 * time.Second

// looked reads log info.
func (s *Service) looked(ctx context.Context) ([]shardInfo, error) {
	limited, cancel := context.WithTimeout(ctx, pollTime)
	defer cancel()
	infos, err := s.list(limited, s.polls)
	if ctx.Err() == nil && limited.Err() != nil && err != nil {
		err = fmt.Errorf("no whole answer within %s: %w", pollTime, context.DeadlineExceeded)
		s.answered(false)
	}
	return infos, err
}

// Poll has Run look at log info now, and not when that is due: upstream is back.
func (s *Service) Poll() { ask(s.due) }

// Unreachable tells that upstream does not answer, as somebody else has found out.
func (s *Service) Unreachable() { s.answered(false) }

// probe sends one request, beyond the budget if that is used up; what comes after it waits for longer then.
func (f *fetcher) probe(ctx context.Context, kind, path string, limit int64) ([]byte, error) {
	if r := f.budget.Reserve(); r.Delay() > maxDebt {
		r.Cancel()
	}
	raw, err := f.send(ctx, kind, path, nil, limit, nil)
	if errors.Is(ctx.Err(), context.Canceled) {
		return nil, ctx.Err() // nobody waits any more: that says nothing
	}
	if ctx.Err() != nil {
		err = ctx.Err()
	}
	f.report(err)
	return raw, err
}

// ChangedError says that a log gives another entry at an index than it did before.
type ChangedError struct {
	Origin string
	Index  uint64 // in the tree
	// Held is the leaf hash that was verified before; Theirs is that of Body, which the log gives now.
	Held, Theirs storage.Hash
	Body         []byte // nil if the log gives none any more
}

func (e *ChangedError) Error() string {
	if e.Body == nil {
		return fmt.Sprintf("entry %d of %s, with the leaf hash %v, is not given any more", e.Index, e.Origin, e.Held)
	}
	return fmt.Sprintf("entry %d of %s has the leaf hash %v now, and had %v", e.Index, e.Origin, e.Theirs, e.Held)
}

// Recheck asks upstream for an entry that is held, and says whether it is still the same: a *ChangedError
// if not. The entry is one of a shard, at an index of its tree. What is not held cannot be compared: then the
// error is a *Refusal.
func (s *Service) Recheck(ctx context.Context, origin string, index uint64) error {
	for _, sh := range s.known() {
		if sh.origin == origin {
			return sh.recheck(ctx, index)
		}
	}
	return s.refuse(nil, NotFound, ReasonNotFound, 0, "%s has no shard with the origin %q", s.cfg.Name, origin)
}

func (sh *shard) recheck(ctx context.Context, index uint64) error {
	held, ok, err := sh.leafHash(index)
	switch {
	case err != nil:
		return err
	case !ok:
		return sh.service.refuse(sh, Unavailable, ReasonNotPinned, 0, "entry %d of %s is not held", index, sh.origin)
	}
	ref := EntryRef{Index: sh.start() + index}
	items, err := sh.service.work.entries(ctx, []EntryRef{ref})
	if err != nil {
		return err
	}
	if len(items) == 0 {
		return &ChangedError{Origin: sh.origin, Index: index, Held: held}
	}
	body := items[0].Entry.Body
	if theirs := storage.LeafHash(body); theirs != held {
		return &ChangedError{Origin: sh.origin, Index: index, Held: held, Theirs: theirs, Body: body}
	}
	return nil
}

// leafHash returns that of an entry, if it is held: pinned, or in a window.
func (sh *shard) leafHash(index uint64) (storage.Hash, bool, error) {
	a := sh.mirror.answer()
	defer a.Close()
	pin, ok, err := a.Pin(index)
	if err != nil {
		return storage.Hash{}, false, a.damaged(err)
	}
	if ok {
		return storage.LeafHash(pin.Entry), true, nil
	}
	hash, err := a.LeafHash(index)
	if errors.Is(err, storage.ErrNotHeld) || errors.Is(err, storage.ErrBelowMinimum) {
		return storage.Hash{}, false, nil
	}
	return hash, err == nil, a.damaged(err)
}
