package storage

import (
	"context"
	"errors"
)

// archive holds the rows of the archive against the checkpoints, each against the one before
// it, and the last one against the head record.
func (c *checker) archive(ctx context.Context) error {
	rows, last := c.state.ArchiveRows()
	var previous Hash
	var newest archived
	for next := uint64(1); next <= rows; {
		bytes := 0
		err := c.Archive(next, rows, func(row ArchiveRow) error {
			if bytes >= paceBytes {
				return errPause
			}
			bytes += len(row.Checkpoint.Raw)
			next = row.Number + 1
			if row.Previous != previous {
				return c.problem(archivePlace(row.Number), "does not follow the row before it: one of both was changed")
			}
			if want := relate(&newest, row.Checkpoint.Head); row.Base != newest.newest || row.Relation != want && row.Relation < RelationContradicts {
				return c.problem(archivePlace(row.Number), "%s the checkpoint of size %d, want %s size %d", row.Relation, row.Base.Size, want, newest.newest.Size)
			}
			previous, newest.rows = row.Hash(c.tree.origin), row.Number
			if row.Relation != RelationContradicts && row.Checkpoint.Size >= newest.newest.Size {
				newest.newest = row.Checkpoint.Head
			}
			return nil
		})
		if err != nil && err != errPause {
			return c.note(err)
		}
		if err := c.pace(ctx, bytes); err != nil {
			return err
		}
	}
	if previous != last {
		return c.problem("head record", "has another last row of the checkpoint archive than the archive")
	}
	if c.o.Pace == nil && rows != c.report.Checkpoints {
		return c.problem("checkpoint archive", "has %d checkpoints and %d rows", c.report.Checkpoints, rows)
	}
	return nil
}

// recalled says whether the archive has a row that ties a checkpoint to nothing before it, as
// Tree.Recall writes it; one of which the proof is lost since is not such a row.
func (c *checker) recalled(head Head) (found bool, err error) {
	lower, upper := c.tree.id.all(keyArchive)
	err = c.rows(lower, upper, func() ([]byte, string) { return lower, "checkpoint archive" }, func(key, value []byte) error {
		row, err := decodeArchiveRow(0, value)
		if err == nil && row.Relation == RelationUnproven && row.Checkpoint.Head == head { // a damaged one is named elsewhere
			return errFound
		}
		return nil
	})
	if found = errors.Is(err, errFound); found {
		err = nil
	}
	return found, err
}
