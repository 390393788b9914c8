package log

import (
	"context"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/understudy-log/understudy/storage"
)

const (
	// maxBack is how far the clock may be behind the time of the last entry, which later entries
	// get then as well. Beyond it nothing is logged: certificates live for minutes, and a time that is
	// made up would make a signature valid, or invalid, that was not.
	maxBack = time.Minute
	// drainTime is how long the last entries wait for witnesses when the log stops.
	drainTime = 3 * time.Second
)

// Run sequences, publishes, forgets and indexes until ctx ends. Then it takes no more, sequences what waits,
// and returns nil when everybody has an answer: no Append uses the database after it. It returns an
// error, before ctx ends, only if the disk failed.
func (l *Log) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	sequenced := make(chan struct{})
	var group errgroup.Group
	group.Go(func() error {
		defer close(sequenced)
		l.sequence(ctx)
		return nil
	})
	group.Go(func() error {
		err := l.publishing(ctx, sequenced)
		if err != nil { // what is taken from now on would never be answered
			l.halt(err)
			cancel()
		}
		return err
	})
	group.Go(func() error { l.forgetting(ctx); return nil })
	group.Go(func() error { l.indexing(ctx); return nil })
	err := group.Wait()
	close(l.drained)
	l.pool.answering.Wait()
	return err
}

// sequence makes batches of what waits until ctx has ended and nothing waits any more.
func (l *Log) sequence(ctx context.Context) {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	stop := ctx.Done()
	for {
		if stop != nil && ctx.Err() != nil { // also if there is always something to do
			stop = nil
			l.pool.close()
		}
		batch, after := l.pool.take(l.cfg.BatchEntries, l.cfg.BatchWait)
		if len(batch) > 0 {
			l.sequenceBatch(batch)
			continue
		}
		if stop == nil && after == 0 {
			return
		}
		if after == 0 {
			after = time.Hour
		}
		timer.Reset(after)
		select {
		case <-l.pool.wake:
		case <-timer.C:
		case <-stop:
		}
	}
}

// sequenceBatch gives every entry of a batch its index and makes all of them durable, or refuses them.
func (l *Log) sequenceBatch(batch []*waiting) {
	began := time.Now()
	fresh, err := l.divide(batch)
	if err == nil && len(fresh) > 0 {
		_, err = l.extend(fresh)
	}
	if err != nil {
		l.logger.Error("entries are refused; nothing of them is logged", "entries", len(fresh), "error", err)
	}
	for _, w := range batch {
		if err != nil && !w.duplicate {
			w.err = err
		}
	}
	l.pool.forget(batch)
	for _, w := range batch {
		w.proposal = nil // megabytes, perhaps, and who waits for witnesses waits long
		close(w.done)
	}
	l.cfg.Metrics.sequenced(l.cfg.Name, len(fresh), time.Since(began))
	// Duplicates alone are no reason for a checkpoint: the one that has them is published, or soon.
	if err == nil && len(fresh) > 0 || l.cfg.DB.Err() != nil {
		select {
		case l.committed <- struct{}{}:
		default:
		}
	}
}

// divide finds those of a batch that are in the tree already, and returns the others. Nobody else
// makes the tree grow, so what is not in it now is not in it when it is extended.
func (l *Log) divide(batch []*waiting) (fresh []*waiting, err error) {
	view := l.tree.View()
	defer view.Close()
	for _, w := range batch {
		index, ok, err := view.Index(w.leaf)
		if err == nil && ok {
			w.promise, err = view.Receipt(index)
		}
		if err != nil {
			return nil, fmt.Errorf("look for an entry: %w", err)
		}
		if w.index, w.duplicate = index, ok; !ok {
			fresh = append(fresh, w)
		}
	}
	return fresh, nil
}

// extend adds entries to the tree with a signed checkpoint, in one durable commit. It is called by
// Open, and then by sequence alone.
func (l *Log) extend(fresh []*waiting) (*storage.State, error) {
	if err := l.stoppedBy(); err != nil {
		return nil, err
	}
	at, err := l.timeNow()
	if err != nil {
		return nil, err
	}
	start := l.tree.State().Head.Size
	seal := storage.Seal{}
	bodies := make([][]byte, len(fresh))
	if len(fresh) > 0 {
		seal.Proposals, seal.Audits = make([][]byte, len(fresh)), make([][]byte, len(fresh))
	}
	for i, w := range fresh {
		bodies[i], seal.Proposals[i], seal.Audits[i] = w.Body, w.proposal, Audit{Time: at, Identity: w.Identity}.marshal()
	}
	if l.cfg.Promise != nil && len(fresh) > 0 {
		if err := l.promise(fresh, start, at); err != nil {
			return nil, err
		}
		seal.Receipts = make([][]byte, len(fresh))
		for i, w := range fresh {
			seal.Receipts[i] = w.promise
		}
	}
	state, err := l.tree.Extend(bodies, func(next storage.Head) (storage.Seal, error) {
		// A key in a key management service is asked over the network here. Nobody but this log
		// waits for its tree, so no one else is held up.
		var err error
		seal.Checkpoint, err = l.sign(next)
		return seal, err
	})
	if err != nil {
		return nil, err
	}
	l.lastTime.Store(at)
	for i, w := range fresh {
		w.index = start + uint64(i)
	}
	return state, nil
}

// promise makes the promises for entries that will get the indexes from start on, many at once: the
// signatures cost more than all else, and a key management service takes its time for each. They are
// worth nothing before the commit.
func (l *Log) promise(fresh []*waiting, start uint64, at int64) error {
	var next atomic.Int64
	var running sync.WaitGroup
	failed := make([]error, min(max(runtime.GOMAXPROCS(0), 16), len(fresh)))
	for worker := range failed {
		running.Go(func() {
			for i := int(next.Add(1) - 1); i < len(fresh) && failed[worker] == nil; i = int(next.Add(1) - 1) {
				fresh[i].promise, failed[worker] = l.cfg.Promise(start+uint64(i), at, &fresh[i].Entry)
			}
		})
	}
	running.Wait()
	for _, err := range failed {
		if err != nil {
			return fmt.Errorf("%w: promise: %w", ErrSigning, err)
		}
	}
	return nil
}

// timeNow returns the time for the next entries, in Unix seconds: it never goes back.
func (l *Log) timeNow() (int64, error) {
	now, last := l.cfg.now().Unix(), l.lastTime.Load()
	if back := last - now; back > int64(maxBack.Seconds()) {
		return 0, fmt.Errorf("%w: by %v; set it right", ErrClock, time.Duration(back)*time.Second)
	}
	return max(now, last), nil
}

// timeOfLast returns the time that the last entry got.
func (l *Log) timeOfLast() (at int64, err error) {
	size := l.tree.State().Head.Size
	if size == 0 {
		return 0, nil
	}
	audit, err := l.Audit(size - 1)
	return audit.Time, err
}

// stoppedBy returns why nothing is signed any more; nil while the log is well.
func (l *Log) stoppedBy() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.stopped
}
