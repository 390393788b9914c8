package mirror

import (
	"context"
	"time"
)

const (
	indexAtOnce = 4096        // entries that are indexed in one commit
	indexAgain  = time.Minute // after one could not be read, which is put back meanwhile
)

// index makes the search index cover what was copied before there was one, in half of the time:
// what is new goes first. It returns an error only when the database can no longer be read or
// written.
func (m *Mirror) index(ctx context.Context) error {
	for ctx.Err() == nil {
		start := time.Now()
		done, err := m.tree.IndexSome(ctx, indexAtOnce)
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil && ends(&storageError{err}):
			return &storageError{err}
		case err != nil:
			m.logger.Warn("the search index cannot be completed yet; it is tried again", "error", err)
			pause(ctx, indexAgain)
		case done:
			return nil
		default:
			pause(ctx, time.Since(start))
		}
	}
	return nil
}
