package storage

import (
	"context"
	"errors"
	"maps"
	"runtime"
	"slices"
	"sync"
)

var searchIndex = index{keySearch, searchRowLen, "search index"}

// searching is what a check knows of the search index, and of the receipts. To find the keys of
// an entry, and to verify its receipt, takes longer than all else that is done with it, so it
// is done in the background, on all processors.
type searching struct {
	pieces  chan struct{} // those under way
	running sync.WaitGroup
	start   uint64 // of entries
	entries [][]byte

	mu      sync.Mutex // guards what follows
	set     rowSet
	refused map[uint64]error // why receipts do not verify
}

// covers says whether the rows of a held entry must be there.
func (c *checker) covers(index uint64) bool {
	s := c.state
	return c.tree.db.keeps(s.search) && index >= s.search.start && s.holds(index) == nil
}

// entry adds what should be there of the next entry, and has its receipt verified.
func (s *searching) entry(c *checker, index uint64, entry []byte) error {
	if !c.covers(index) && c.o.VerifyEntry == nil {
		return nil
	}
	if s.pieces == nil {
		s.pieces = make(chan struct{}, runtime.GOMAXPROCS(0))
	}
	if s.start+uint64(len(s.entries)) != index {
		if err := s.hand(c); err != nil {
			return err
		}
	}
	if len(s.entries) == 0 {
		s.start = index
	}
	if s.entries = append(s.entries, slices.Clone(entry)); len(s.entries) == pieceEntries || index+1 == c.state.Head.Size {
		return s.hand(c)
	}
	return nil
}

// hand gives the entries gathered to a goroutine.
func (s *searching) hand(c *checker) error {
	start, entries := s.start, s.entries
	if s.entries = nil; len(entries) == 0 {
		return nil
	}
	receipts, err := c.receiptsOf(start, start+uint64(len(entries)))
	if err != nil {
		return err
	}
	s.pieces <- struct{}{}
	s.running.Go(func() {
		defer func() { <-s.pieces }()
		var rows []searchRow
		for i, entry := range entries {
			index := start + uint64(i)
			receipt := receipts[index]
			if c.covers(index) {
				rows = appendRows(rows, index, c.tree.db.keysOf(entry, receipt))
			}
			if c.o.VerifyEntry == nil || receipt == nil { // receipts says what is missing
				continue
			}
			if err := c.o.VerifyEntry(index, entry, receipt); err != nil {
				s.refuse(c, index, err)
			}
		}
		s.add(c, rows)
	})
	return nil
}

func (s *searching) refuse(c *checker, index uint64, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.refused == nil {
		s.refused = map[uint64]error{}
	}
	if len(s.refused) < c.o.MaxProblems {
		s.refused[index] = err
	}
}

// promises names the receipts that do not verify.
func (c *checker) promises(context.Context) error {
	if err := c.searching.hand(c); err != nil {
		return err
	}
	c.searching.wait()
	for _, index := range slices.Sorted(maps.Keys(c.searching.refused)) {
		if err := c.problem(receiptPlace(index), "does not verify: %v", c.searching.refused[index]); err != nil {
			return err
		}
	}
	return nil
}

// receiptsOf returns the receipts of entries; what cannot be read is noted.
func (c *checker) receiptsOf(start, end uint64) (map[uint64][]byte, error) {
	if c.tree.db.receiptKeys == nil && c.o.VerifyEntry == nil {
		return nil, nil
	}
	receipts, err := c.View.receipts(start, end)
	return receipts, c.note(err)
}

// add adds rows that should be there.
func (s *searching) add(c *checker, rows []searchRow) {
	var key []byte
	prints := make([]fingerprint, len(rows))
	buckets := make([]int, len(rows))
	for i, row := range rows {
		key = c.tree.id.appendSearch(key[:0], row)
		prints[i].add(c.secret, key)
		buckets[i] = rowBucket(key[9:])
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range rows {
		s.set.want[buckets[i]].sum(prints[i])
	}
}

func (s *searching) wait() { s.running.Wait() }

// searches holds the search index against the entries and pins that it covers. Rows of others
// may be there or not, and those of pins are left out in a tree in use.
func (c *checker) searches(ctx context.Context) error {
	if !c.tree.db.keeps(c.state.search) {
		return nil
	}
	pinned := map[uint64]bool{} // and whether covered
	if c.o.Pace == nil {
		if err := c.note(c.Pins(0, func(p Pin, _ int) error {
			if c.state.holds(p.Index) == nil {
				return nil
			}
			if pinned[p.Index] = p.Index < c.state.search.pins; pinned[p.Index] {
				c.searching.add(c, appendRows(nil, p.Index, c.tree.db.search(p.Entry)))
			}
			return nil
		})); err != nil {
			return err
		}
	}
	leaveOut := func(index uint64) bool {
		switch covered, ok := pinned[index]; {
		case c.state.holds(index) == nil:
			return index < c.state.search.start
		case c.o.Pace != nil:
			return true
		default:
			return ok && !covered
		}
	}
	set := &c.searching.set
	differs, err := c.compare(ctx, searchIndex, set, leaveOut)
	if err != nil || !differs || c.tree.searches.Load() != c.View.searches { // begun anew meanwhile
		return err
	}
	c.suspect(searchIndex, set)
	found := len(c.report.Problems)
	unknown := false
	if err := c.indexRows(ctx, searchIndex, func() {}, func(key []byte) error {
		index, _ := lastUint64(key)
		if leaveOut(index) || !set.differs(key[9:]) {
			return nil
		}
		rows, ok, err := c.rowsOf(index)
		if err != nil {
			unknown = true
			return c.note(err)
		}
		if !ok {
			return c.wrong(rowOf(slices.Clone(key)), searchIndex.name, "has a row for entry %d, which is neither held nor pinned", index)
		}
		if !slices.ContainsFunc(rows, func(r searchRow) bool { return slices.Equal(key, c.tree.id.appendSearch(nil, r)) }) {
			return c.wrong(rowOf(slices.Clone(key)), searchIndex.name, "has a wrong row for entry %d", index)
		}
		return nil
	}, func() {}); err != nil {
		return err
	}
	for index := c.state.search.start; index < c.state.Head.Size; index++ {
		if index%tileWidth == 0 {
			if err := c.pace(ctx, tileWidth*HashSize); err != nil {
				return err
			}
		}
		if err := c.missing(index, set, &unknown); err != nil {
			return err
		}
	}
	for index, covered := range pinned {
		if covered {
			if err := c.missing(index, set, &unknown); err != nil {
				return err
			}
		}
	}
	if len(c.report.Problems) == found && !unknown {
		return c.problem(searchIndex.name, "differs from the entries")
	}
	return nil
}

// rowsOf returns the rows that an entry should have; ok is false if there is none.
func (c *checker) rowsOf(index uint64) (rows []searchRow, ok bool, err error) {
	var receipt []byte
	entry, err := c.Entry(index)
	if errors.Is(err, ErrNotHeld) || errors.Is(err, ErrBelowMinimum) {
		var p Pin
		p, ok, err = c.Pin(index)
		if err != nil || !ok {
			return nil, false, err
		}
		entry = p.Entry
	} else if err == nil {
		receipt, err = c.Receipt(index)
	}
	if err != nil {
		return nil, false, err
	}
	return appendRows(nil, index, c.tree.db.keysOf(entry, receipt)), true, nil
}

// missing notes the rows of an entry that are not there, of those parts that differ.
func (c *checker) missing(index uint64, set *rowSet, unknown *bool) error {
	rows, _, err := c.rowsOf(index)
	if err != nil {
		*unknown = true
		return c.note(err)
	}
	for _, r := range rows {
		key := c.tree.id.appendSearch(nil, r)
		if !set.differs(key[9:]) {
			continue
		}
		if _, err := c.get(key, func() string { return "search index row of " + entryPlace(index) }); err != nil {
			if err := c.note(err); err != nil {
				return err
			}
		}
	}
	return nil
}
