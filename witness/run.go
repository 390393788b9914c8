package witness

import (
	"context"
	"time"

	"github.com/understudy-log/understudy/storage"
)

const (
	// lookEvery is how often is looked for checkpoints that a mirror read.
	lookEvery = time.Second
	// keepEvery is how often the archive keeps a cosignature of what a mirror read: a busy log has
	// a checkpoint every second, and ML-DSA-44 takes 2.4 KB of each.
	keepEvery = time.Minute
	// renewAfter is the age at which a cosignature is given again: its time says that nothing
	// larger was seen until then.
	renewAfter = time.Hour
)

// Run cosigns what mirrors read, until ctx ends; then it returns nil. It returns an error only if
// the memory of what was cosigned can no longer be written.
func (w *Witness) Run(ctx context.Context) error {
	for ctx.Err() == nil {
		for _, log := range w.cfg.Mirrored() {
			if len(log.Origin) > maxName {
				continue
			}
			if err := w.look(w.watch(log)); err != nil {
				return err
			}
		}
		select {
		case <-ctx.Done():
		case <-time.After(lookEvery):
		}
	}
	return nil
}

// look cosigns what is new about a mirrored log.
func (w *Witness) look(l *watched) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := l.Tree.State()
	if s.Evidence != nil || l.Tree.Broken() != nil || l.Behind != nil && l.Behind() {
		return nil
	}
	if len(w.cfg.Keys) > 0 {
		if err := w.renew(l, 0, storage.CosignerWitness, s.Pending); err != nil {
			return err
		}
	}
	// "I hold and serve all of it": only what is durable is in a state, and nothing of it may be
	// known to be damaged.
	if len(w.cfg.MirrorKeys) > 0 && l.Full && s.Minimum == 0 && s.Mirrored.Raw != nil && len(l.Tree.Damage()) == 0 {
		return w.renew(l, 1, storage.CosignerMirror, s.Mirrored)
	}
	return nil
}

// renew cosigns a checkpoint if it is not the one that was cosigned last, or that was long ago.
func (w *Witness) renew(l *watched, place int, by storage.Cosigner, c storage.Checkpoint) error {
	last, now := w.cfg.Newest.Cosigned(by, l.Origin), time.Now()
	same := last.Raw != nil && noteText(last.Raw) == noteText(c.Raw)
	if c.Raw == nil || same && now.Sub(last.LastSeen).Abs() < renewAfter || last.Raw != nil && last.Size > c.Size {
		return nil
	}
	if by == storage.CosignerWitness && l.Tree.State().Pending.Head != c.Head {
		return nil // a larger one is there already
	}
	opened, err := l.Open(c.Raw)
	if err != nil {
		w.logger.Debug("a checkpoint that is held is not cosigned", "origin", l.Origin, "error", err)
		return nil
	}
	keep := now.Sub(l.archived[place]).Abs() >= keepEvery
	if keep {
		l.archived[place] = now
	}
	_, err = w.cosign(l, by, opened, keep)
	if _, refused := err.(*Refusal); refused {
		w.logger.Error("a checkpoint that is held is not cosigned", "origin", l.Origin, "error", err)
		return nil
	}
	return err
}
