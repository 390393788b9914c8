package mirror

import (
	"context"
	"errors"
	"fmt"

	"github.com/understudy-log/understudy/storage"
)

// NoHistory is the Config.HistoryTo of a window that never grows backwards.
const NoHistory = ^uint64(0)

// WindowError says that the window cannot begin yet.
type WindowError struct{ Minimum, Size uint64 }

func (e *WindowError) Error() string {
	return fmt.Sprintf("minimum_index %d lies beyond the log's %d entries: nothing is copied until the log has grown, or minimum_index is changed", e.Minimum, e.Size)
}

// windowed says whether a copy that has yet to begin begins with a window.
func (c *Config) windowed() bool { return c.MinimumIndex > 0 || c.LastEntries > 0 }

// begin opens the window on the log, if the configuration asks for one and nothing is held
// yet: it fetches the tiles that reach from before the window into it. They, and the proof
// from there to the pending checkpoint, come out of the authenticated tree.
func (m *Mirror) begin(ctx context.Context, s *storage.State) error {
	if s.Head.Size > 0 || !m.cfg.windowed() {
		return nil
	}
	size := s.Pending.Size
	minimum := m.cfg.MinimumIndex
	if last := m.cfg.LastEntries; last > 0 {
		minimum = (size - min(size, last)) / bundleWidth * bundleWidth
	}
	if minimum > size {
		return &WindowError{Minimum: minimum, Size: size}
	}
	if minimum == 0 {
		return nil
	}
	tree, err := m.pendingTree(ctx, s)
	if err != nil {
		return err
	}
	var border [][]byte
	for _, id := range s.Lacks(minimum) {
		raw, err := tree.tile(id.Level, id.Index)
		if err != nil {
			return err
		}
		border = append(border, raw[:id.Width*storage.HashSize])
	}
	precedes, err := storage.ConsistencyProof(minimum, size, tree.node)
	if err != nil {
		return err
	}
	begun, err := m.tree.Begin(minimum, border, storage.Seal{Checkpoint: s.Pending, Precedes: precedes})
	switch {
	case errors.Is(err, storage.ErrInconsistent) && moved(s, m.tree.State()):
		return m.begin(ctx, m.tree.State()) // another one was pushed meanwhile
	case errors.Is(err, storage.ErrInconsistent):
		return &TileError{Problem: err.Error()}
	case errors.Is(err, storage.ErrQuarantined): // by what was pushed
		return err
	case err != nil:
		return &storageError{err}
	}
	m.logger.Info("the window on the log begins", "minimum_index", begun.Minimum, "tree_size", size)
	return nil
}
