package log

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/understudy-log/understudy/storage"
)

// waiting is an entry on its way into the tree.
type waiting struct {
	Entry
	leaf     storage.Hash
	proposal []byte // encrypted

	done chan struct{} // closed when the fields below are set
	// Set by sequence.
	index     uint64
	promise   []byte
	duplicate bool // it was in the tree before
	err       error
}

func (w *waiting) bytes() int {
	n := len(w.Body) + len(w.proposal)
	for _, key := range w.Keys {
		n += len(key)
	}
	return n
}

// pool is what waits to be sequenced. An entry stays known by its leaf hash until it is in the tree,
// so that of several at once one is logged.
type pool struct {
	wake      chan struct{}  // has a token when something waits
	answering sync.WaitGroup // those that wait for an entry; grows under mu, and no more once closed

	mu                   sync.Mutex
	maxEntries, maxBytes int
	entries              []*waiting
	first                time.Time // when the oldest of entries came
	bytes                int
	byLeaf               map[storage.Hash]*waiting // those of entries, and those that are being sequenced
	closed               bool
}

func newPool(maxEntries, maxBytes int) *pool {
	return &pool{wake: make(chan struct{}, 1), maxEntries: maxEntries, maxBytes: maxBytes, byLeaf: map[storage.Hash]*waiting{}}
}

// add returns the entry to wait for: w, or the same one that waits already. Who waits no more says so
// to answering.
func (p *pool) add(w *waiting) (_ *waiting, joined bool, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return nil, false, ErrStopping
	}
	if other := p.byLeaf[w.leaf]; other != nil {
		p.answering.Add(1)
		return other, true, nil
	}
	switch {
	case w.bytes() > p.maxBytes:
		return nil, false, ErrTooLarge
	case len(p.entries) >= p.maxEntries || p.bytes+w.bytes() > p.maxBytes:
		return nil, false, ErrFull
	}
	if len(p.entries) == 0 {
		p.first = time.Now()
	}
	p.entries = append(p.entries, w)
	p.bytes += w.bytes()
	p.byLeaf[w.leaf] = w
	p.answering.Add(1)
	p.wakeUp()
	return w, false, nil
}

func (p *pool) wakeUp() {
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// take returns all that waits, if it is so many entries or the oldest waits for long enough; else for
// how long to wait on: 0 is until the next one comes.
func (p *pool) take(entries int, wait time.Duration) (batch []*waiting, after time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.entries) == 0 {
		return nil, 0
	}
	if after = wait - time.Since(p.first); len(p.entries) < entries && !p.closed && after > 0 {
		return nil, after
	}
	batch, p.entries = p.entries, nil
	p.bytes = 0
	return batch, 0
}

// forget ends the time of entries in the pool, once they are in the tree or refused.
func (p *pool) forget(batch []*waiting) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, w := range batch {
		delete(p.byLeaf, w.leaf)
	}
}

// close lets nothing more in.
func (p *pool) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	p.wakeUp()
}

// size is how many entries wait.
func (p *pool) size() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.entries)
}

// Append logs an entry and returns its receipt, once it is durable, published, and, if witnesses are
// wanted, cosigned. An entry that is logged already gets the receipt of its first time. The error is
// ErrFull, ErrTooLarge, ErrClock, ErrSigning or ErrStopping, and nothing was logged; ErrBehind, and
// nothing more is published; or ErrUnwitnessed, or that of ctx or of the disk, and it may have been.
// Slices of the entry must never change: the log goes on with them when ctx has ended.
func (l *Log) Append(ctx context.Context, e Entry) (Receipt, error) {
	receipt, err := l.append(ctx, e)
	l.cfg.Metrics.appended(l.cfg.Name, receipt, err)
	return receipt, err
}

func (l *Log) append(ctx context.Context, e Entry) (Receipt, error) {
	if len(e.Body) > l.cfg.MaxEntry {
		return Receipt{}, fmt.Errorf("%d bytes, and %d are allowed: %w", len(e.Body), l.cfg.MaxEntry, ErrTooLarge)
	}
	if err := l.stoppedBy(); err != nil {
		return Receipt{}, err
	}
	// While witnesses are away nobody gets an answer; what is logged meanwhile must not grow for ever.
	if l.unpublished() >= uint64(l.cfg.MaxUnpublished) {
		return Receipt{}, ErrFull
	}
	w := &waiting{Entry: e, leaf: storage.LeafHash(e.Body), done: make(chan struct{})}
	w.proposal = l.cfg.ProposalKey.seal(l.cfg.Origin, w.leaf, e.Proposed)
	w.Proposed = nil
	w, joined, err := l.pool.add(w)
	if err != nil {
		return Receipt{}, err
	}
	defer l.pool.answering.Done()
	select {
	case <-w.done:
	case <-ctx.Done():
		return Receipt{}, ctx.Err()
	}
	if w.err != nil {
		return Receipt{}, w.err
	}
	if err := l.awaitPublished(ctx, w.index); err != nil {
		return Receipt{}, err
	}
	r := Receipt{Index: w.index, Duplicate: joined || w.duplicate, Promise: w.promise}
	return r, l.prove(&r)
}

// unpublished is how many entries are logged and not published.
func (l *Log) unpublished() uint64 {
	published := l.Published().Size // first: whatever is published later was committed before that
	return l.tree.State().Head.Size - published
}

// awaitPublished waits until an entry is in a published tree.
func (l *Log) awaitPublished(ctx context.Context, index uint64) error {
	for {
		p := l.published.Load()
		if p.Raw != nil && p.Size > index {
			return nil
		}
		select {
		case <-p.replaced:
		case <-ctx.Done():
			if l.Problem() != nil {
				return fmt.Errorf("%w (%w)", ErrUnwitnessed, ctx.Err())
			}
			return ctx.Err()
		case <-l.halted:
			return l.stoppedBy()
		case <-l.drained:
			// What was published while it drained counts.
			if p = l.published.Load(); p.Raw != nil && p.Size > index {
				return nil
			}
			if err := l.stoppedBy(); err != nil {
				return err
			}
			return ErrUnwitnessed
		}
	}
}

// prove puts the published checkpoint and the proof of its entry into a receipt.
func (l *Log) prove(r *Receipt) (err error) {
	r.Checkpoint = l.Published()
	view := l.tree.View()
	defer view.Close()
	if r.Proof, err = view.InclusionProof(r.Index, r.Checkpoint.Size); err != nil {
		return fmt.Errorf("prove entry %d: %w", r.Index, err)
	}
	return nil
}

// Find returns a published entry with its receipt, or storage.ErrNotHeld.
func (l *Log) Find(index uint64) (body []byte, r Receipt, err error) {
	published := l.Published()
	if published.Raw == nil || index >= published.Size {
		return nil, Receipt{}, fmt.Errorf("entry %d: %w", index, storage.ErrNotHeld)
	}
	view := l.tree.View()
	defer view.Close()
	r = Receipt{Index: index, Duplicate: true, Checkpoint: published}
	if body, err = view.Entry(index); err != nil {
		return nil, Receipt{}, err
	}
	if r.Promise, err = view.Receipt(index); err != nil {
		return nil, Receipt{}, err
	}
	if r.Proof, err = view.InclusionProof(index, published.Size); err != nil {
		return nil, Receipt{}, err
	}
	return body, r, nil
}

// FindLeaf returns the index of the published entry with a leaf hash; ok is false if there is none.
func (l *Log) FindLeaf(leaf storage.Hash) (index uint64, ok bool, err error) {
	view := l.tree.View()
	defer view.Close()
	index, ok, err = view.Index(leaf)
	return index, ok && index < l.Published().Size, err
}
