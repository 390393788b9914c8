package archive

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"time"
)

// LedgerFunc calls yield for the rows of the outage ledger (mirror/ledger) from a number on, in order:
// each as it is kept, the JSON text of one row. raw is valid until yield returns.
type LedgerFunc func(from uint64, yield func(seq uint64, at time.Time, raw []byte) error) error

// ledgerPlace is where the rows of the ledger in packs end.
type ledgerPlace struct {
	Last uint64 `json:"last"`
	Hash Hex    `json:"hash"`
}

// errLedger is that a row of the ledger is not what it should be.
var errLedger = errors.New("is not as it was written")

// ledger adds the rows of the outage ledger from where the last pack ended up to the end of the period.
// Packs go on by row numbers, as those of logs do. A ledger that is damaged holds up no pack: rows
// follow when it can be read.
func (b *builder) ledger(ctx context.Context) error {
	place := b.last.Ledger
	if b.a.cfg.Ledger == nil && place == nil {
		return nil
	}
	if place == nil {
		place = &ledgerPlace{}
	}
	if anew, err := b.ledgerBeganAnew(place); err != nil {
		b.ledgerDamaged(place.Last, err)
		return b.endLedger(place, place)
	} else if anew {
		b.m.Notes = append(b.m.Notes, "The outage ledger begins anew: an older database was restored, and what the packs before have of it is not followed by what was recorded since.")
		place = &ledgerPlace{}
	}
	end := *place
	if err := b.spool.begin(); err != nil {
		return err
	}
	var broken error // of the pack, and not of the ledger
	var d decoder
	err := b.readLedger(place.Last+1, func(seq uint64, at time.Time, raw []byte) error {
		if broken = ctx.Err(); broken != nil {
			return broken
		}
		// What was recorded after now came while the clock was ahead, and before now.
		if !at.Before(b.record.To) && !b.record.To.Before(b.record.From) && !at.After(b.m.Built.Time) {
			return errPeriod
		}
		var row LedgerRow
		if err := d.decode(raw, &row); err != nil || bytes.IndexByte(raw, '\n') >= 0 || row.Seq != seq || seq != end.Last+1 || row.Previous != end.Hash.previous() || row.Kind == "" {
			return errLedger
		}
		if broken = errors.Join(b.spool.line(raw), b.spool.line([]byte("\n"))); broken != nil {
			return broken
		}
		b.report.ledger.row(&row)
		end = ledgerPlace{seq, sha256.Sum256(raw)}
		return nil
	})
	if broken != nil {
		return broken
	}
	if err != nil && err != errPeriod {
		b.ledgerDamaged(end.Last, err)
	}
	if end.Last == 0 && b.last.Ledger == nil {
		return nil // nothing was ever recorded
	}
	b.spool.end(ledgerFile)
	return b.endLedger(place, &end)
}

// readLedger is cfg.Ledger, which may be missing.
func (b *builder) readLedger(from uint64, yield func(seq uint64, at time.Time, raw []byte) error) error {
	if b.a.cfg.Ledger == nil {
		return nil
	}
	return b.a.cfg.Ledger(from, yield)
}

// ledgerBeganAnew says whether the ledger does not have the row with which the last pack ended.
func (b *builder) ledgerBeganAnew(place *ledgerPlace) (anew bool, err error) {
	if place.Last == 0 || b.a.cfg.Ledger == nil {
		return false, nil
	}
	anew = true
	err = b.readLedger(place.Last, func(seq uint64, _ time.Time, raw []byte) error {
		anew = seq != place.Last || sha256.Sum256(raw) != place.Hash
		return errPeriod
	})
	if err == errPeriod {
		err = nil
	}
	return anew, err
}

func (b *builder) ledgerDamaged(last uint64, err error) {
	b.m.Notes = append(b.m.Notes, fmt.Sprintf("What the maker has stored of the outage ledger behind row %d is damaged: the rows that follow are not in this pack.", last))
	b.a.logger.Error("the outage ledger cannot be read: evidence packs go on without the rest of it; run \"understudy check\" and restore a backup", "last_row", last, "error", err)
}

// endLedger notes which rows are in the pack, of which there is a file in any case: a verifier that does
// not know ledgers refuses it, and says why.
func (b *builder) endLedger(before, after *ledgerPlace) error {
	l := &Ledger{Rows: Rows{before.Last + 1, after.Last}, Before: before.Hash, After: after.Hash}
	b.m.Ledger, b.record.Ledger = l, after
	if l.Rows.Last < l.Rows.First {
		return b.spool.add(ledgerFile, nil)
	}
	return nil
}
