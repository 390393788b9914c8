package archive

import (
	"context"
	"crypto/sha256"
	"fmt"
	"strings"
	"time"
)

// ledgerCheck verifies the rows of the outage ledger in a pack.
type ledgerCheck struct {
	p       *pack
	next    uint64 // number of the next row
	hash    Hex    // of the row before it
	summary LedgerSummary
	outside uint64 // rows that are not of the period, of which this is the first
	stray   string
}

// checkLedger verifies ledger.jsonl: that its rows have no gap, and each the hash of the one before.
// What they say is only said.
func (p *pack) checkLedger(ctx context.Context) error {
	l := p.m.Ledger
	if l == nil {
		return nil // a file of rows that is there nevertheless is about nothing
	}
	bad := func(format string, args ...any) { p.errorf(manifestFile, "ledger: "+format, args...) }
	there := p.use(ledgerFile)
	c := &ledgerCheck{p: p, next: l.Rows.First, hash: l.Before, summary: LedgerSummary{Rows: l.Rows, Kinds: map[string]uint64{}}}
	p.summary.Ledger = &c.summary
	switch {
	case l.Rows.First == 0 || l.Rows.Last < l.Rows.First-1:
		bad("there cannot be rows from %d to %d", l.Rows.First, l.Rows.Last)
		return nil
	case p.m.Number == 1 && l.Rows.First != 1:
		bad("the rows begin with %d, and this is the first pack", l.Rows.First)
	}
	if (l.Rows.First == 1) != (l.Before == Hex{}) {
		bad("before cannot be the hash of row %d", l.Rows.First-1)
	}
	if !there {
		bad("the pack has no %s", ledgerFile)
		return nil
	}
	if p.offsets[p.index[ledgerFile]] < 0 {
		return nil // scan said so
	}
	if err := rawLines(p, ledgerFile, func(place string, raw []byte, r *LedgerRow) error {
		c.row(place, raw, r)
		return ctx.Err()
	}); err != nil {
		return err
	}
	if p.partial { // of a line that cannot be read nothing more is said
		return nil
	}
	if c.next != l.Rows.Last+1 {
		bad("the rows end with %d, and the manifest says %d", int64(c.next)-1, l.Rows.Last)
	}
	if c.hash != l.After {
		bad("the last row has another hash than the manifest says: a row was changed, or is missing")
	}
	if c.outside > 0 {
		p.findingf(ledgerFile, "%d rows are not of the period, the first of them %s: the clock of the maker was changed, or they came while a pack was made", c.outside, c.stray)
	}
	return nil
}

// row checks one row, and moves on.
func (c *ledgerCheck) row(place string, raw []byte, r *LedgerRow) {
	bad := func(format string, args ...any) { c.p.errorf(place, format, args...) }
	if r.Seq != c.next {
		bad("it is row %d, and row %d is due: a row is missing, or at another place", r.Seq, c.next)
	}
	c.next = r.Seq + 1
	if previous := c.hash.previous(); r.Previous != previous {
		bad("the row before it has the hash %q, and the row says %.70q: one of the two was changed", previous, r.Previous)
	}
	c.hash = sha256.Sum256(raw)
	if r.Kind == "" || strings.ContainsFunc(r.Kind, isControl) {
		bad("%.40q is no kind of row", r.Kind)
	}
	if len(c.summary.Kinds) < maxKinds || c.summary.Kinds[r.Kind] > 0 {
		c.summary.Kinds[r.Kind]++
	}
	if period := c.p.m.Period; r.At.Before(period.From.Time) || !r.At.Before(period.To.Time) {
		if c.outside++; c.outside == 1 {
			c.stray = fmt.Sprintf("row %d of %s", r.Seq, r.At.Format(time.RFC3339Nano))
		}
	}
}

// maxKinds bounds how many kinds of rows are counted apart.
const maxKinds = 100

// previous is the hash as the next row says it: nothing, for the first one.
func (h Hex) previous() string {
	if h == (Hex{}) {
		return ""
	}
	return h.String()
}

// followsLedger checks that the rows of the ledger go on where those of the pack before ended.
func (p *pack) followsLedger(old *Ledger) {
	bad := func(format string, args ...any) { p.errorf(manifestFile, "ledger: "+format, args...) }
	switch l := p.m.Ledger; {
	case l == nil && old == nil:
	case l == nil:
		bad("the pack before has rows up to %d, and this one says nothing of them", old.Rows.Last)
	case old == nil:
		if l.Rows.First != 1 {
			bad("the pack before does not have it, and its rows begin with %d, not with 1", l.Rows.First)
		}
	case l.Rows.First == old.Rows.Last+1 && l.Before == old.After:
	case l.Rows.First == 1:
		p.findingf(manifestFile, "the outage ledger begins anew: the maker restored an older database. The rows after that which the pack before has (up to %d) are not followed by these", old.Rows.Last)
	case l.Rows.First != old.Rows.Last+1:
		bad("the rows begin with %d, and those of the pack before ended with %d", l.Rows.First, old.Rows.Last)
	default:
		bad("the row before the first is not the one that the pack before ended with")
	}
}
