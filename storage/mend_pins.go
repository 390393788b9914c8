package storage

import (
	"errors"
	"slices"

	"github.com/cockroachdb/pebble/v2"
)

// MendPins gives up the pins that Damage names and that are useless, so that they can be pinned
// again, and returns their indexes. Of the others it writes the index rows anew; what else is
// wrong with them stays named. If a file with pins is damaged, all that can be read are written
// into another one. Without the leaf index of pins it is not known which there were: then they
// stay as they are.
func (t *Tree) MendPins() (gone []uint64, err error) {
	if gone, err = t.mendPins(); absent(err) {
		err = nil
	}
	return gone, err
}

func (t *Tree) mendPins() (gone []uint64, err error) {
	var named []uint64
	for _, damage := range t.Damage() {
		if index, ok := damage.Pinned(); ok && !slices.Contains(named, index) {
			named = append(named, index)
		}
	}
	unreadable, err := t.unreadablePins()
	if err != nil {
		return nil, err
	}
	if unreadable {
		all, err := t.pinned()
		if err != nil {
			return nil, err
		}
		named = all
	}
	if err := t.Release(0, named...); err != nil {
		return nil, err
	}
	if unreadable {
		if err := t.rewritePins(); err != nil {
			return nil, err
		}
	}
	for _, index := range named {
		p, ok, err := t.pinAt(index)
		if err == nil && ok && !unreadable {
			err = t.Pin(p)
		}
		switch {
		case errors.Is(err, ErrUnanchored) || errors.Is(err, ErrQuarantined):
		case err != nil:
			return gone, err
		case !ok:
			gone = append(gone, index)
		}
	}
	slices.Sort(gone)
	return gone, nil
}

// unbrokenView is a view also of a tree that is broken: its pins stand for themselves.
func (t *Tree) unbrokenView() *View {
	v := &View{tree: t, state: t.State()}
	v.snapshot()
	return v
}

// unreadablePins says whether there are rows of pins that cannot even be walked over.
func (t *Tree) unreadablePins() (bool, error) {
	v := t.unbrokenView()
	defer v.Close()
	lower, upper := t.id.all(keyPin)
	err := v.rows(lower, upper, func() ([]byte, string) { return lower, "pins" }, func(_, _ []byte) error { return nil })
	if absent(err) {
		return true, nil
	}
	return false, err
}

// pinned returns the indexes of all pins.
func (t *Tree) pinned() (indexes []uint64, err error) {
	v := t.unbrokenView()
	defer v.Close()
	return v.PinIndexes()
}

// PinIndexes returns the indexes of all pins in ascending order, by their leaf index: also of
// those that cannot be read.
func (v *View) PinIndexes() (indexes []uint64, err error) {
	lower, upper := v.tree.id.all(keyPinLeaf)
	err = v.rows(lower, upper, func() ([]byte, string) { return lower, pinLeafIndex.name }, func(key, _ []byte) error {
		index, err := lastUint64(key)
		indexes = append(indexes, index)
		return err
	})
	slices.Sort(indexes)
	return slices.Compact(indexes), err
}

// rewritePins puts the rows of pins that can be read in the place of all. Those that cannot are
// given up before, so that what a crash leaves is found again.
func (t *Tree) rewritePins() (err error) {
	defer t.db.recoverFatal(&err)
	t.repairing.Lock()
	defer t.repairing.Unlock()
	indexes, err := t.pinned()
	if err != nil {
		return err
	}
	lower, upper := t.id.all(keyPin)
	r := &repair{t: t}
	return r.locked(func() error {
		defer r.unbind()
		tables := r.newReplacement()
		defer tables.discard()
		// A walk ends at what is damaged, also at an older row of a pin that is good.
		for _, index := range indexes {
			key := t.id.pin(index)
			raw, err := get(r.view.snap, key)
			if errors.Is(err, pebble.ErrNotFound) {
				continue // given up
			}
			if err != nil {
				if err = t.db.readError(key, pinPlace(index), err); absent(err) {
					continue
				}
				return err
			}
			if err := tables.set(key, raw); err != nil {
				return err
			}
		}
		_, err := tables.swapIn(keyRange{lower, upper})
		return err
	})
}
