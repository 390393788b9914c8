package mirror

import "context"

// indexAtOnce is how many entries are indexed in one commit.
const indexAtOnce = 4096

// index makes the search index cover what was copied before there was one. It returns an error
// only when the database can no longer be read or written.
func (m *Mirror) index(ctx context.Context) error {
	for ctx.Err() == nil {
		done, err := m.tree.IndexSome(ctx, indexAtOnce)
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil && ends(&storageError{err}):
			return &storageError{err}
		case err != nil:
			m.logger.Error("the search index cannot be completed", "error", err)
			return nil
		case done:
			return nil
		}
	}
	return nil
}
