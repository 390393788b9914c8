package log

import (
	"context"
	"time"
)

const (
	indexAtOnce = 4096        // entries that are indexed in one commit
	indexAgain  = time.Minute // after an entry could not be read
)

// indexing makes the search index cover what was logged before there was one, or before it was begun
// anew, in half of the time, until ctx ends.
func (l *Log) indexing(ctx context.Context) {
	for ctx.Err() == nil {
		began, after := time.Now(), time.Duration(0)
		done, err := l.tree.IndexSome(ctx, indexAtOnce)
		switch {
		case ctx.Err() != nil || done && err == nil || l.cfg.DB.Err() != nil:
			return
		case err != nil:
			l.logger.Warn("the search index cannot be completed yet; it is tried again", "error", err)
			after = indexAgain
		default:
			after = time.Since(began)
		}
		select {
		case <-ctx.Done():
		case <-time.After(after):
		}
	}
}
