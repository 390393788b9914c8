package log

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/understudy-log/understudy/storage"
)

// retryAfter is how soon witnesses are asked again when they were too few.
const retryAfter = time.Second

// publishing publishes what is committed, and a fresh checkpoint at a steady interval when nothing is,
// until ctx has ended and everything that was sequenced is published, or drainTime is over.
//
// The head is read anew each time, so after a restart the same head goes to the witnesses again, and
// while they are asked more is sequenced: the next round is for all of it.
func (l *Log) publishing(ctx context.Context, sequenced <-chan struct{}) error {
	// Witnesses are asked also after ctx has ended: those who wait want an answer.
	asking, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	stop := context.AfterFunc(ctx, func() { time.AfterFunc(drainTime, cancel) })
	defer stop()
	next := time.NewTimer(0) // at once: what is held may not be published
	defer next.Stop()
	for {
		select {
		case <-l.committed:
		case <-next.C:
		case <-sequenced:
			return l.publishLast(asking)
		}
		after, began := l.cfg.Interval, time.Now()
		if err := l.publishHead(asking); errors.Is(err, errShort) {
			after = min(after, retryAfter)
		} else if err != nil {
			return err
		}
		next.Reset(after)
		if l.cfg.Cosign != nil {
			select {
			case <-time.After(l.cfg.roundEvery - time.Since(began)):
			case <-sequenced:
			}
		}
	}
}

// publishLast publishes the head at which the log stops, until ctx ends.
func (l *Log) publishLast(ctx context.Context) error {
	for l.Published().Head != l.tree.State().Head && l.stoppedBy() == nil {
		// Also if ctx has ended: it may be published without witnesses.
		if err := l.publishHead(ctx); err != nil && !errors.Is(err, errShort) {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(retryAfter / 10):
		}
	}
	return nil
}

// errShort says that too few witnesses cosigned.
var errShort = errors.New("too few cosignatures")

// publishHead publishes the head of the tree with what witnesses say of it.
func (l *Log) publishHead(ctx context.Context) error {
	if err := l.cfg.DB.Err(); err != nil {
		return err
	}
	if l.stoppedBy() != nil {
		return errShort
	}
	c := l.tree.State().Pending
	idle := c.Head == l.Published().Head && l.Published().Raw != nil
	if idle || l.verify(c.Raw) != nil { // the same tree, vouched for now, and by keys that came since
		again, err := l.sign(c.Head)
		if err != nil {
			l.setProblem(err)
			return errShort
		}
		if err := l.tree.Seen(again.LastSeen); err != nil {
			return err
		}
		c.Raw, c.LastSeen = again.Raw, again.LastSeen
	}
	began := time.Now()
	if l.cfg.Cosign != nil {
		// Even if witnesses are too few, those that were asked know it from now on.
		if err := l.cfg.Newest.Note(l.cfg.Origin, c); err != nil {
			return err
		}
		raw, err := l.cosign(ctx, c)
		if errors.Is(err, ErrBehind) {
			l.stop(err)
			return errShort
		}
		if err != nil && !l.cfg.WithoutQuorum {
			l.setProblem(err)
			return errShort
		}
		l.setProblem(errors.Join(err, l.wrongClock())) // published all the same, and told
		c.Raw = raw
		if err := l.cfg.DB.PutRecord(l.publishedRecord(), c.Raw); err != nil {
			return err
		}
	} else {
		l.setProblem(l.wrongClock())
	}
	if err := l.publish(c); err != nil {
		return err
	}
	l.cfg.Metrics.published(l.cfg.Name, c, time.Since(began))
	return nil
}

// cosign asks the witnesses, keeps what they say, and returns the note of c with it.
func (l *Log) cosign(ctx context.Context, c storage.Checkpoint) (raw []byte, err error) {
	lines, err := l.cfg.Cosign(ctx, c, func(old uint64) ([]storage.Hash, error) {
		view := l.tree.View()
		defer view.Close()
		return view.ConsistencyProof(old, c.Size)
	})
	raw = c.Raw[:len(c.Raw):len(c.Raw)]
	for _, line := range lines {
		raw = append(append(raw, line...), '\n')
	}
	if len(lines) == 0 {
		return raw, err
	}
	// What cannot be read must not be published: the log would not open over it.
	if lineErr := errors.Join(l.tree.Cosigned(c, lines), l.verify(raw)); lineErr != nil {
		return c.Raw, errors.Join(fmt.Errorf("lines of witnesses cannot be used: %w", lineErr), err)
	}
	return raw, err
}

// wrongClock is why no entry can get a time; nil if it can.
func (l *Log) wrongClock() error {
	_, err := l.timeNow()
	return err
}

// halt ends all signing, and everybody who waits gets the error; first is false if that was so.
func (l *Log) halt(err error) (first bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if first = l.stopped == nil; first {
		l.stopped = err
		close(l.halted)
	}
	return first
}

// stop ends all signing: going on could mean to sign another history.
func (l *Log) stop(err error) {
	if l.halt(fmt.Errorf("%w: %w", ErrBehind, err)) {
		l.logger.Error("a witness has cosigned a larger tree of this log than the one that is held: nothing more is signed until the next start. The database was restored from an old backup: restore a newer one; or another machine runs this log: stop one of the two; or the witness lies: take it out of the policy", "error", err)
	}
	l.setProblem(err)
}

// setProblem notes why nothing is published, or not as it should be; nil: all is well.
func (l *Log) setProblem(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case err == nil && l.problem != nil:
		l.logger.Info("published as it should be again", "after", time.Since(l.problem.Since).Round(time.Second))
		l.problem = nil
	case err == nil:
	case l.problem == nil:
		l.logger.Warn("the log has a problem", "error", err)
		l.problem = &Problem{Text: err.Error(), Since: time.Now()}
	default:
		l.problem = &Problem{Text: err.Error(), Since: l.problem.Since}
	}
	l.cfg.Metrics.problem(l.cfg.Name, l.problem != nil)
}

// Problem returns why the log does not do all that it should; nil: it does.
func (l *Log) Problem() *Problem {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.problem
}
