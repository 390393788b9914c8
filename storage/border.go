package storage

import (
	"bytes"
	"context"
	"errors"
	"fmt"
)

// mendEdge finds the border of the tree: what is stored of it, or what lies below hashes to,
// or what is fetched. Together it must hash to the root of the head; then it is stored again
// where it was not. If it cannot be had, the tree is broken: it answers nothing, and does not
// grow.
func (r *repair) mendEdge(ctx context.Context) error {
	return r.bound(func() error {
		t, head := r.t, r.view.state.Head
		problem := &DamageError{Place: "head", Problem: fmt.Sprintf("has the root %v at size %d, and its tiles do not hash to it", head.Root, head.Size)}
		var e edge
		accept := func(found [][]byte) error {
			if root := edge(found).root(); root != head.Root {
				return fmt.Errorf("border has the root %v: %w", root, ErrInconsistent)
			}
			e = found
			return nil
		}
		stored := []func(TileID) ([]byte, error){r.storedTile, r.hashedTile}
		hashed := []func(TileID) ([]byte, error){r.hashedTile, r.storedTile}
		for _, locals := range [][]func(TileID) ([]byte, error){stored, hashed} {
			found, err := r.localEdge(locals)
			switch {
			case err == nil && accept(found) == nil:
				return r.setEdge(head, e)
			case err != nil && !absent(err):
				return err
			case errors.As(err, &problem):
			}
		}
		if r.from.Border != nil {
			err := r.from.Border(ctx, head, accept)
			if err == nil {
				r.done.FetchedTiles++
				return r.setEdge(head, e)
			}
			problem.Stuck = err.Error()
		}
		t.broken.Store(problem)
		return ctx.Err()
	})
}

// localEdge makes the border of the tree from the first source that has each tile.
func (r *repair) localEdge(locals []func(TileID) ([]byte, error)) (edge, error) {
	var e edge
	for _, id := range borderOf(r.view.state.Head.Size) {
		if id.Width == 0 {
			e = append(e, nil)
			continue
		}
		raw, err := locals[0](id)
		if err != nil && absent(err) {
			if other, otherErr := locals[1](id); otherErr == nil {
				raw, err = other, nil
			} else if !absent(otherErr) || errors.As(otherErr, new(*DamageError)) {
				err = otherErr
			}
		}
		if err != nil {
			return nil, err
		}
		e = append(e, raw)
	}
	return e, nil
}

// borderOf returns the tiles on the right border of the tree of a size, by level; one of
// width 0 is none.
func borderOf(size uint64) (tiles []TileID) {
	for level := 0; level < tileHeight && size>>(tileHeight*level) > 0; level++ {
		index := size >> (tileHeight * (level + 1))
		tiles = append(tiles, TileID{level, index, widthAt(size, level, index)})
	}
	return tiles
}

// setEdge gives the tree its border, and stores it where it is not stored so.
func (r *repair) setEdge(head Head, e edge) error {
	t := r.t
	t.write.Lock()
	defer t.write.Unlock()
	if t.State().Head != head {
		return fmt.Errorf("head moved while its border was mended: %w", ErrInconsistent) // a broken tree does not grow
	}
	b := t.db.pebble.NewBatch()
	defer b.Close()
	var differs error
	for level, id := range borderOf(head.Size) {
		if id.Width == 0 {
			continue
		}
		held, err := r.storedTile(id)
		if err != nil && !absent(err) {
			return err
		}
		if err == nil && bytes.Equal(held, e[level]) {
			continue
		}
		if differs = err; err == nil {
			differs = &DamageError{Place: tilePlace(id.Level, id.Index), Problem: "does not hash to the root of the head"}
		}
		if err := b.Set(t.id.tile(id.Level, id.Index), e[level], nil); err != nil {
			return err
		}
	}
	t.edge = e
	var damage *DamageError
	switch {
	case differs == nil:
	case t.db.options.ReadOnly && errors.As(differs, &damage):
		t.broken.Store(damage) // views read what is stored
		return nil
	default:
		if err := t.db.commit(b); err != nil {
			return fmt.Errorf("store the border of the tree: %w", err)
		}
		t.db.logger.Warn("the border of a tree was damaged, and is stored again", "origin", t.origin, "damage", differs)
	}
	t.broken.Store(nil)
	return nil
}
