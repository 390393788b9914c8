package mirror

import (
	"container/list"
	"sync"

	"github.com/understudy-log/understudy/storage"
)

// PinStatus counts the pins of a shard.
type PinStatus struct {
	Count    uint64 `json:"count"`
	Bytes    uint64 `json:"bytes"`    // that their rows take
	Kept     uint64 `json:"kept"`     // watched or imported: never evicted
	Evicted  uint64 `json:"evicted"`  // since the process started
	Unlinked uint64 `json:"unlinked"` // imported while no checkpoint was known that they lead to
}

// pinCache knows the pins of a service: how many, how large, and which were only read, in
// the order of their last use. Those go when they take more than the limit.
type pinCache struct {
	limit int64
	over  chan struct{} // has a token when those in order may take more than the limit

	mu    sync.Mutex
	bytes int64      // of those in order
	order *list.List // of *pinNote; most recently used first
	notes map[pinKey]*pinNote
	count map[*shard]*PinStatus
}

type pinKey struct {
	shard *shard
	index uint64
}

type pinNote struct {
	pinKey
	bytes    int64 // about
	kept     bool
	unlinked bool
	place    *list.Element // in order; nil if it is kept
}

func newPinCache(limit int64) *pinCache {
	return &pinCache{limit: limit, over: make(chan struct{}, 1), order: list.New(), notes: map[pinKey]*pinNote{}, count: map[*shard]*PinStatus{}}
}

// rowOverhead is what a pin takes beside its entry, receipt, hashes and checkpoint.
const rowOverhead = 160

func pinBytes(p *storage.Pin) int64 {
	return int64(len(p.Entry) + len(p.Receipt) + len(p.Checkpoint.Raw) + storage.HashSize*(len(p.Proof)+len(p.Link)) + rowOverhead)
}

// put notes a pin as it is stored.
func (c *pinCache) put(sh *shard, p *storage.Pin) { c.note(sh, p, pinBytes(p)) }

// note is put of a pin that takes so many bytes.
func (c *pinCache) note(sh *shard, p *storage.Pin, bytes int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := &pinNote{pinKey: pinKey{sh, p.Index}, bytes: bytes, kept: p.Reasons&^storage.PinRead != 0, unlinked: p.Anchor == storage.Head{}}
	if old := c.notes[n.pinKey]; old != nil {
		c.removeLocked(old)
	}
	c.addLocked(n)
}

// drop notes that a pin is gone.
func (c *pinCache) drop(sh *shard, index uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if n := c.notes[pinKey{sh, index}]; n != nil {
		c.removeLocked(n)
	}
}

func (c *pinCache) addLocked(n *pinNote) {
	c.notes[n.pinKey] = n
	s := c.statusLocked(n.shard)
	s.Count++
	s.Bytes += uint64(n.bytes)
	if n.unlinked {
		s.Unlinked++
	}
	if n.kept {
		s.Kept++
		return
	}
	n.place = c.order.PushFront(n)
	if c.bytes += n.bytes; c.bytes > c.limit {
		select {
		case c.over <- struct{}{}:
		default:
		}
	}
}

func (c *pinCache) removeLocked(n *pinNote) {
	delete(c.notes, n.pinKey)
	s := c.statusLocked(n.shard)
	s.Count--
	s.Bytes -= uint64(n.bytes)
	if n.unlinked {
		s.Unlinked--
	}
	if n.kept {
		s.Kept--
		return
	}
	c.order.Remove(n.place)
	c.bytes -= n.bytes
}

func (c *pinCache) statusLocked(sh *shard) *PinStatus {
	s := c.count[sh]
	if s == nil {
		s = new(PinStatus)
		c.count[sh] = s
	}
	return s
}

// touch notes that a pin was read.
func (c *pinCache) touch(sh *shard, index uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if n := c.notes[pinKey{sh, index}]; n != nil && n.place != nil {
		c.order.MoveToFront(n.place)
	}
}

// evict takes out pins that nobody has read for longest, at most n, as long as they take more
// than the limit. The last one stays.
func (c *pinCache) evict(n int) map[*shard][]uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	gone := map[*shard][]uint64{}
	for ; n > 0 && c.bytes > c.limit && c.order.Len() > 1; n-- {
		last := c.order.Back().Value.(*pinNote)
		c.removeLocked(last)
		c.statusLocked(last.shard).Evicted++
		gone[last.shard] = append(gone[last.shard], last.index)
	}
	return gone
}

// unlinked returns the indexes of pins of a shard that are not anchored, at most n.
func (c *pinCache) unlinked(sh *shard, n int) (indexes []uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.statusLocked(sh).Unlinked == 0 {
		return nil
	}
	for key, note := range c.notes {
		if key.shard == sh && note.unlinked {
			if indexes = append(indexes, key.index); len(indexes) == n {
				break
			}
		}
	}
	return indexes
}

// status returns the counts of a shard.
func (c *pinCache) status(sh *shard) PinStatus {
	c.mu.Lock()
	defer c.mu.Unlock()
	return *c.statusLocked(sh)
}
