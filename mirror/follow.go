package mirror

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/understudy-log/understudy/mirror/trust"
	"github.com/understudy-log/understudy/storage"
)

// RollbackError says that upstream served an older checkpoint than it did before. It is
// consistent with what is held: an old cache, not a crime.
type RollbackError struct{ Size, Newest uint64 }

func (e *RollbackError) Error() string {
	return fmt.Sprintf("upstream went back to its checkpoint of size %d, after it served size %d", e.Size, e.Newest)
}

// ForkError says that upstream signed two irreconcilable checkpoints. The evidence is in
// the tree's state.
type ForkError struct{ Evidence *storage.Evidence }

func (e *ForkError) Error() string { return "quarantined: " + e.Evidence.Reason }

// poll reads upstream's checkpoint and, if it is a good one, makes it pending.
func (m *Mirror) poll(ctx context.Context) error {
	m.read(m.places[0])
	started := time.Now()
	raw, err := m.looked(ctx)
	if err == nil {
		err = m.accept(ctx, raw)
	}
	if ctx.Err() == nil {
		m.polled(err)
		if m.cfg.Polled != nil {
			m.cfg.Polled(started, err)
		}
	}
	return err
}

// pollTime is how long upstream has for a checkpoint, or log info: less than for other requests, so that one
// that hangs is asked again soon after it is back.
const pollTime = 10 * time.Second

// looked reads upstream's checkpoint.
func (m *Mirror) looked(ctx context.Context) ([]byte, error) {
	limited, cancel := context.WithTimeout(ctx, pollTime)
	defer cancel()
	raw, err := m.tail.checkpoint(limited)
	if ctx.Err() == nil && limited.Err() != nil && err != nil {
		err = fmt.Errorf("no whole answer within %s: %w", pollTime, context.DeadlineExceeded)
		m.answered(false)
	}
	return raw, err
}

// pollCopies takes the checkpoint of the first copy that has one as new as the pending one,
// or newer. The error is not about a copy: a fork, or of the tree.
func (m *Mirror) pollCopies(ctx context.Context) (found bool, err error) {
	for _, p := range m.copies() {
		raw, err := p.checkpoint(ctx)
		if found, err := m.acceptFrom(ctx, p, raw, err); found || err != nil {
			return found, err
		}
	}
	return false, nil
}

// acceptFrom takes the checkpoint of a copy, or the error of asking for it; found says that it
// is as new as the pending one, or newer. Its age stays what it was: a copy cannot vouch for
// upstream. A bad copy is set aside. The error is not about a copy.
func (m *Mirror) acceptFrom(ctx context.Context, p *place, raw []byte, err error) (found bool, _ error) {
	m.read(p)
	if err == nil {
		limited, cancel := context.WithTimeout(ctx, requestTime) // a copy must not hold up the tail
		err = m.accept(limited, raw)
		cancel()
	}
	var (
		fork   *ForkError
		broken *storageError
	)
	_, lags := err.(*RollbackError) // and not one that could not be compared
	switch {
	case ctx.Err() != nil:
		return false, ctx.Err()
	case err == nil:
		m.served(p)
		return true, nil
	case errors.As(err, &fork) || errors.As(err, &broken):
		return false, err
	case !lags:
		m.setAside(p, err)
	}
	return false, nil
}

// accept takes a checkpoint that is new to us: it verifies the signature, then that the
// new tree extends the newest one that is held.
func (m *Mirror) accept(ctx context.Context, raw []byte) error {
	c, err := trust.Open(raw, m.cfg.Origin, m.keys)
	if err != nil {
		return err
	}
	for {
		if err = m.judge(ctx, c, m.tree.State()); err != errMoved {
			return err
		}
	}
}

// errMoved says that a checkpoint was pushed, or entries were copied, while another one was judged.
var errMoved = errors.New("what is held has changed")

// moved says whether another checkpoint is pending than before.
func moved(before, now *storage.State) bool {
	return now.Pending.Head != before.Pending.Head || !sameText(now.Pending.Raw, before.Pending.Raw)
}

// judge is accept of a checkpoint whose signature is good, by what was held a moment ago.
func (m *Mirror) judge(ctx context.Context, c *trust.Checkpoint, s *storage.State) error {
	raw, now := c.Raw, time.Now()
	next := storage.Checkpoint{Head: storage.Head{Size: c.Size, Root: c.Root}, Raw: raw, FirstSeen: now, LastSeen: now, Source: m.tail.url}
	if !m.tail.upstream { // which vouched for it we do not know when
		if next.LastSeen = s.Pending.LastSeen; s.Pending.Raw == nil {
			next.LastSeen = time.Unix(0, 0)
		}
		next.Source = "copy " + m.tail.url
	} else {
		m.pulled.Store(max(m.pulled.Load(), next.Size))
		m.bytes.Store(&raw)
	}
	if err := m.remembered(s, next); err != nil {
		return err
	}
	switch {
	case s.Pending.Raw == nil:
		return m.first(ctx, s, c, next)
	case c.Size < s.Pending.Size:
		return m.older(ctx, s, next)
	case c.Size == s.Pending.Size && next.Root != s.Pending.Root:
		return m.quarantine(s.Pending.Raw, next, storage.Evidence{
			Reason: fmt.Sprintf("two roots are signed for size %d: %v and %v", c.Size, s.Pending.Root, next.Root),
		})
	case c.Size == s.Pending.Size && m.isBehind():
		return &RollbackError{Size: c.Size, Newest: m.cfg.Newest.Of(m.cfg.Origin).Size}
	case c.Size == s.Pending.Size && m.isFrozen() && !c.Frozen():
		return nil // a note from before the end; it vouches for nothing, and takes nothing back
	case c.Size == s.Pending.Size && sameText(raw, s.Pending.Raw) && !m.tail.upstream:
		return nil
	case c.Size == s.Pending.Size && sameText(raw, s.Pending.Raw):
		if err := m.tree.Seen(now); err != nil {
			return &storageError{err}
		}
		return nil
	case c.Size == s.Pending.Size:
		return m.advance(s, c, next, nil, s.Precedes())
	case m.isFrozen():
		if moved(s, m.tree.State()) {
			return errMoved // its end was pushed, and may be beyond this one
		}
		end := s.Pending
		if known := m.cfg.Newest.Of(m.cfg.Origin); !trust.Frozen(end.Raw) {
			end = known
		}
		return m.quarantineFrozen(end, next)
	}
	return m.newer(ctx, s, c, next)
}

// remembered judges a checkpoint by what was believed before the database was restored from
// an older backup: one that is smaller is a rollback, one of the same size must be the same.
// What is larger is compared when its tree is known.
func (m *Mirror) remembered(s *storage.State, next storage.Checkpoint) error {
	known, behind := m.Behind()
	switch {
	case !behind || next.Size <= s.Pending.Size && s.Pending.Raw != nil:
		return nil
	case next.Size > known.Size && trust.Frozen(known.Raw):
		return m.quarantineFrozen(known, next)
	case next.Size > known.Size:
		return nil
	case next.Size < known.Size:
		return &RollbackError{Size: next.Size, Newest: known.Size}
	case next.Root != known.Root:
		return m.quarantine(known.Raw, next, storage.Evidence{
			Reason: fmt.Sprintf("two roots are signed for size %d: %v and %v", next.Size, known.Root, next.Root),
		})
	}
	return nil
}

// quarantineFrozen keeps the evidence of a log that went on after its end.
func (m *Mirror) quarantineFrozen(end, next storage.Checkpoint) error {
	return m.quarantine(end.Raw, next, storage.Evidence{
		Reason: fmt.Sprintf("the log was declared frozen at size %d and has now signed size %d", end.Size, next.Size),
	})
}

// isBehind is Behind without the checkpoint.
func (m *Mirror) isBehind() bool {
	_, behind := m.Behind()
	return behind
}

// compareRemembered holds the tree of a checkpoint that is about to be accepted against what
// was believed before the database was restored from an older backup.
func (m *Mirror) compareRemembered(ctx context.Context, tree signedTree, next storage.Checkpoint) error {
	known, behind := m.Behind()
	if !behind || known.Size >= next.Size {
		return nil
	}
	return m.compare(ctx, tree, known, next, next)
}

// Behind says whether the database is older than the newest checkpoint that was ever
// believed here, and which that is: it was restored from a backup, and has not caught up yet.
func (m *Mirror) Behind() (newest storage.Checkpoint, behind bool) {
	newest, behind = m.tree.Behind()
	if !behind {
		newest = m.cfg.Newest.Of(m.cfg.Origin)
	}
	return newest, behind
}

// recall compares what is held with what was held before.
func (m *Mirror) recall() error {
	p := m.tree.State().Pending
	m.recallPushed(p)
	if known, behind := m.Behind(); behind {
		m.logger.Warn("the database is older than what was held here before: it was restored from a backup, or lost; it catches up",
			"tree_size", p.Size, "newest_known_size", known.Size)
	} else if known.Raw == nil && p.Raw != nil || known.Size < p.Size { // of a database that is older than the memory
		if err := m.cfg.Newest.Note(m.cfg.Origin, p); err != nil {
			return &storageError{err}
		}
	}
	return nil
}

// survey takes the newest checkpoint of all copies, once, before anything is copied: the
// database may be an older backup, and upstream may serve less than a copy has.
func (m *Mirror) survey(ctx context.Context) error {
	type answer struct {
		place *place
		raw   []byte
		err   error
	}
	copies := m.copies()
	answers := make(chan answer, len(copies))
	for _, p := range copies {
		go func() {
			ctx, cancel := context.WithTimeout(ctx, surveyTime)
			defer cancel()
			raw, err := p.checkpoint(ctx)
			answers <- answer{p, raw, err}
		}()
	}
	var broken error
	for range copies {
		a := <-answers
		if broken == nil {
			_, broken = m.acceptFrom(ctx, a.place, a.raw, a.err)
		}
	}
	m.read(m.places[0])
	return broken
}

// surveyTime is how long the copies have at the start.
const surveyTime = 5 * time.Second

// first accepts the first checkpoint ever: its tiles must hash to it. A log that signs
// what it cannot show is not believed, or its mistake would make every later, honest
// checkpoint look like a fork.
func (m *Mirror) first(ctx context.Context, s *storage.State, c *trust.Checkpoint, next storage.Checkpoint) error {
	tree, err := m.treeOf(ctx, next.Head)
	if err != nil {
		return err
	}
	if err := m.compareRemembered(ctx, tree, next); err != nil {
		return err
	}
	if err := m.advance(s, c, next, nil, nil); err != nil {
		return err
	}
	m.proof, _ = tree.(*upstreamTree)
	return nil
}

// newer proves that a larger checkpoint extends the pending one. Upstream's tiles are
// authenticated by the new checkpoint, so if they give another root for the old size
// than the old checkpoint, that is a fork and no accident.
func (m *Mirror) newer(ctx context.Context, s *storage.State, c *trust.Checkpoint, next storage.Checkpoint) error {
	tree, err := m.treeOf(ctx, next.Head)
	if err != nil {
		return err
	}
	if err := m.compare(ctx, tree, s.Pending, next, next); err != nil {
		return err
	}
	if err := m.compareRemembered(ctx, tree, next); err != nil {
		return err
	}
	consistency, err := tree.consistencyFrom(ctx, s.Pending.Size)
	if err != nil {
		return err
	}
	precedes, err := tree.consistencyFrom(ctx, s.Head.Size)
	if err != nil {
		return err
	}
	known, behind := m.Behind()
	if err := m.advance(s, c, next, consistency, precedes); err != nil {
		return err
	}
	m.proof, _ = tree.(*upstreamTree)
	if behind && m.shard != nil { // no tiles tie what was known before to it
		return m.linkRemembered(ctx, tree, known)
	}
	return nil
}

// linkRemembered ties the checkpoint that was believed before an older database was restored to
// the pending one.
func (m *Mirror) linkRemembered(ctx context.Context, tree signedTree, known storage.Checkpoint) error {
	proof, err := tree.consistencyFrom(ctx, known.Size)
	if err != nil {
		return err
	}
	known.Source = "memory, after the database was restored"
	if err := m.tree.Link(known, proof); err != nil && !errors.Is(err, storage.ErrInconsistent) {
		return &storageError{err}
	}
	return nil
}

// compare holds the root of the smaller checkpoint against the authenticated tree of the
// larger one. seen is which of the two has just arrived.
func (m *Mirror) compare(ctx context.Context, tree signedTree, smaller, larger, seen storage.Checkpoint) error {
	root, err := tree.rootAt(ctx, smaller.Size, smaller.Root)
	if err != nil || root == smaller.Root {
		return err
	}
	proof, err := tree.consistencyFrom(ctx, smaller.Size)
	if err != nil {
		return err
	}
	first := smaller
	if bytes.Equal(seen.Raw, smaller.Raw) {
		first = larger
	}
	return m.quarantine(first.Raw, seen, storage.Evidence{
		Root: root, Proof: proof,
		Reason: fmt.Sprintf("the tree signed at size %d has the root %v at size %d, where %v was signed", larger.Size, root, smaller.Size, smaller.Root),
	})
}

// older judges a checkpoint that is smaller than the pending one: a rollback if the two
// trees agree, a fork if they do not.
func (m *Mirror) older(ctx context.Context, s *storage.State, next storage.Checkpoint) error {
	rollback := &RollbackError{Size: next.Size, Newest: s.Pending.Size}
	lags := s.Pending.Size == m.pushed.Load() && next.Size >= m.pulled.Load() // what is ahead of it was pushed: logs do that before they publish
	var consistency []storage.Hash                                            // from it to the pending one, if upstream proved that
	if next.Size > s.Head.Size || next.Size < s.Minimum {
		tree, err := m.treeOf(ctx, s.Pending.Head)
		if err != nil && m.tail.upstream && lags && missing(err) {
			return nil // it is compared, and archived, when there are tiles to do that by
		}
		if err != nil {
			return fmt.Errorf("%w (and cannot be compared: %w)", rollback, err)
		}
		if err := m.compare(ctx, tree, next, s.Pending, next); err != nil {
			return err
		}
		if m.shard != nil {
			if consistency, err = tree.consistencyFrom(ctx, next.Size); err != nil {
				return fmt.Errorf("%w (and cannot be linked: %w)", rollback, err)
			}
		}
	} else if err := m.compareHeld(s, next); err != nil {
		return err
	}
	if !m.tail.upstream {
		return rollback // it lags, as copies do
	}
	archive := m.tree.Archive
	if len(consistency) > 0 {
		archive = func(c storage.Checkpoint) error { return m.tree.Link(c, consistency) }
	}
	if err := archive(next); err != nil {
		return &storageError{err}
	}
	if lags {
		return nil
	}
	return rollback
}

// compareHeld is compare for a size that is held.
func (m *Mirror) compareHeld(s *storage.State, next storage.Checkpoint) error {
	v := m.tree.View()
	defer v.Close()
	root, err := v.Root(next.Size)
	if err != nil {
		return &storageError{err}
	}
	if root == next.Root {
		return nil
	}
	ev := storage.Evidence{
		Root:   root,
		Reason: fmt.Sprintf("the tree signed at size %d has the root %v at size %d, where %v was signed", s.Pending.Size, root, next.Size, next.Root),
	}
	if next.Size > 0 {
		if ev.Proof, err = v.ConsistencyProof(next.Size, s.Pending.Size); err != nil {
			return &storageError{err}
		}
	}
	return m.quarantine(s.Pending.Raw, next, ev)
}

// advance makes a checkpoint pending that was judged by held.
func (m *Mirror) advance(held *storage.State, c *trust.Checkpoint, next storage.Checkpoint, consistency, precedes []storage.Hash) error {
	s, err := m.tree.Advance(next, consistency, precedes)
	now := m.tree.State()
	switch {
	case errors.Is(err, storage.ErrRollback) || errors.Is(err, storage.ErrFork) || errors.Is(err, storage.ErrInconsistent) && (moved(held, now) || now.Head != held.Head):
		return errMoved // what s says when it is judged again
	case errors.Is(err, storage.ErrInconsistent):
		return &TileError{Problem: fmt.Sprintf("consistency with the checkpoint of size %d is not proven: %v", m.tree.State().Pending.Size, err)}
	case errors.Is(err, storage.ErrQuarantined): // meanwhile, by an entry that was read
		return &ForkError{m.tree.State().Evidence}
	case err != nil:
		return &storageError{err}
	}
	m.setFrozen(c.Frozen())
	m.logger.Debug("checkpoint accepted", "size", s.Pending.Size)
	return nil
}

// quarantine keeps the evidence of a fork and closes the log.
func (m *Mirror) quarantine(first []byte, second storage.Checkpoint, ev storage.Evidence) error {
	ev.First, ev.Second, ev.At = first, second.Raw, second.FirstSeen
	if err := m.tree.Quarantine(ev); err != nil {
		return &storageError{err}
	}
	m.logger.Error("upstream signed two irreconcilable checkpoints; this log is quarantined and its last good state stays served: keep the data directory as evidence and tell the log's operator",
		"reason", ev.Reason, "first", string(ev.First), "second", string(ev.Second))
	return &ForkError{&ev}
}

// sameText says whether two notes sign the same text; their signatures may differ.
func sameText(a, b []byte) bool {
	return bytes.Equal(noteText(a), noteText(b))
}

func noteText(raw []byte) []byte {
	if i := bytes.LastIndex(raw, []byte("\n\n")); i >= 0 {
		return raw[:i]
	}
	return raw
}
