package archive

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"strings"
	"time"

	"github.com/understudy-log/understudy/witness/archive/store"
)

// Delivery is a pack at a destination.
type Delivery struct {
	VerifiedAt  time.Time `json:"verified_at"`           // when all of it was read back
	RetainUntil time.Time `json:"retain_until,omitzero"` // the destination keeps it at least until then
	Mode        string    `json:"mode,omitempty"`        // governance or compliance: of S3's Object Lock
	LegalHold   bool      `json:"legal_hold,omitempty"`  // it is kept beyond that
	Version     string    `json:"version,omitempty"`     // of an S3 object
}

// deliver stores every pack at a destination, the oldest first, until ctx ends. A pack that
// cannot be stored is tried again for as long as it takes, and does not hold up those after it.
func (a *Archive) deliver(ctx context.Context, d store.Destination) {
	next := map[uint64]time.Time{} // when a pack that failed is tried again
	for ctx.Err() == nil {
		a.mu.Lock()
		changed := a.changed
		var missing []record
		for _, r := range a.records {
			if _, ok := r.Stored[d.Name()]; !ok {
				missing = append(missing, r)
			}
		}
		a.mu.Unlock()
		wait := longestWait
		for _, r := range missing {
			if left := -a.since(next[r.Number]); left > 0 {
				wait = min(wait, left)
				continue
			}
			if err := a.deliverOne(ctx, d, r); err != nil && ctx.Err() == nil {
				tries := a.failedAt(d, r, err)
				pause := min(time.Minute<<min(tries-1, 6), longestWait)
				next[r.Number] = a.now().Add(pause)
				wait = min(wait, pause)
			}
		}
		select {
		case <-ctx.Done():
		case <-changed:
		case <-time.After(wait):
		}
	}
}

// deliverOne stores one pack.
func (a *Archive) deliverOne(ctx context.Context, d store.Destination, r record) error {
	began := a.now()
	pack := store.Pack{Name: r.Name, Path: a.path(r), Size: r.Size, SHA256: r.Hash}
	if keep := a.cfg.Retention[d.Name()]; keep > 0 {
		pack.Retain = r.Built.Add(keep)
	}
	if _, err := os.Stat(pack.Path); err != nil {
		return fmt.Errorf("the pack is not in its folder any more: %w; put it back from another destination", err)
	}
	if err := other(ctx, d, r); err != nil {
		return err
	}
	stored, err := d.Put(ctx, pack)
	if err != nil {
		return err
	}
	if err := a.change(r.Number, func(r *record) {
		r.Stored = maps.Clone(r.Stored)
		if r.Stored == nil {
			r.Stored = map[string]Delivery{}
		}
		r.Stored[d.Name()] = Delivery{VerifiedAt: stored.VerifiedAt, RetainUntil: stored.RetainUntil, Mode: string(stored.Mode), LegalHold: stored.LegalHold, Version: stored.Version}
		r.Failures = maps.Clone(r.Failures)
		delete(r.Failures, d.Name())
	}); err != nil {
		return err
	}
	a.logger.Info("evidence pack stored", "name", r.Name, "destination", d.Name(), "elapsed", a.since(began))
	return nil
}

// other returns an error if a destination has another pack of that number: an older database was
// restored without the packs that were made since. A destination that does not list is only asked to Put.
func other(ctx context.Context, d store.Destination, r record) error {
	there, err := d.List(ctx)
	if err != nil {
		return ctx.Err()
	}
	for _, s := range there {
		if s.Name != r.Name && strings.HasPrefix(s.Name, fmt.Sprintf("understudy-evidence-%06d-", r.Number)) {
			return &store.Permanent{
				Err:  fmt.Errorf("%w: %s has number %d, too", store.ErrDiffers, s.Name, r.Number),
				Hint: "if an older database was restored, stop the daemon and restore it again, with the packs that are there in the folder packs of data_dir; else name another folder or prefix",
			}
		}
	}
	return nil
}

// failedAt notes that a pack could not be stored, and returns how often that was.
func (a *Archive) failedAt(d store.Destination, r record, err error) int {
	a.metrics.failed("store")
	a.mu.Lock()
	defer a.mu.Unlock()
	for i := range a.records {
		if a.records[i].Number != r.Number {
			continue
		}
		f := a.records[i].Failures[d.Name()]
		if f.Tries == 0 {
			f.Since = a.now()
		}
		f.Text, f.Tries = err.Error(), f.Tries+1
		failures := maps.Clone(a.records[i].Failures)
		if failures == nil {
			failures = map[string]Failure{}
		}
		failures[d.Name()] = f
		a.records[i].Failures = failures
		a.logger.Error("an evidence pack could not be stored; it stays here and is tried again", "name", r.Name, "destination", d.Name(), "tries", f.Tries, "error", err)
		return f.Tries
	}
	return 1
}

// change changes the record of a pack, durably.
func (a *Archive) change(number uint64, f func(*record)) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	i := int(number) - 1
	if i < 0 || i >= len(a.records) {
		return ErrNoPack
	}
	r := a.records[i]
	f(&r)
	return a.keepLocked(r)
}

// ErrNoPack: there is no pack of that number.
var ErrNoPack = errors.New("there is no such evidence pack")

// Hold puts a pack under a legal hold at every destination, or lifts it.
func (a *Archive) Hold(ctx context.Context, number uint64, on bool) error {
	r, ok := a.record(number)
	if !ok {
		return ErrNoPack
	}
	var failed error
	for _, d := range a.cfg.Destinations {
		if _, ok := r.Stored[d.Name()]; !ok {
			failed = errors.Join(failed, fmt.Errorf("%s: the pack is not stored there yet", d.Name()))
			continue
		}
		if err := d.Hold(ctx, r.Name, on); err != nil {
			failed = errors.Join(failed, fmt.Errorf("%s: %w", d.Name(), err))
			continue
		}
		failed = errors.Join(failed, a.change(number, func(r *record) {
			r.Stored = maps.Clone(r.Stored)
			s := r.Stored[d.Name()]
			s.LegalHold = on
			r.Stored[d.Name()] = s
		}))
	}
	if len(a.cfg.Destinations) == 0 {
		return errors.New("no destination is configured: what holds a pack is where it is stored")
	}
	return failed
}

func (a *Archive) record(number uint64) (record, bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if number == 0 || number > uint64(len(a.records)) {
		return record{}, false
	}
	return a.records[number-1], true
}
