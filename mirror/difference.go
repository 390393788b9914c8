package mirror

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	formats "github.com/transparency-dev/formats/log"

	"github.com/understudy-log/understudy/storage"
)

// ErrNotComparable says that there are no two trees whose entries could be compared: the log is
// not quarantined by a fork, or what differs is not held.
var ErrNotComparable = errors.New("the trees cannot be compared")

// SameError says that the forked tree has the first Size entries that are held: the two differ only
// beyond them, or only in what was signed.
type SameError struct{ Size uint64 }

func (e *SameError) Error() string {
	return fmt.Sprintf("the forked tree has the same first %s as what is held; if it differs, then beyond them", entriesText(e.Size))
}

// UnservedError says that upstream does not show the tree that it signed at a size: what it gives
// does not hash to that root.
type UnservedError struct {
	Size uint64
	Held bool // it shows the tree that is held, as before the fork
	Err  error
}

func (e *UnservedError) Error() string {
	if e.Held {
		return fmt.Sprintf("upstream does not show the forked tree that it signed at size %d any more: it shows the tree that is held; keep the two signed checkpoints, and ask others which tree they see", e.Size)
	}
	return fmt.Sprintf("upstream shows neither the forked tree that it signed at size %d nor the one that is held: %v; keep the two signed checkpoints, and ask the log's operator for the entries", e.Size, e.Err)
}

// Unwrap returns what did not verify.
func (e *UnservedError) Unwrap() error { return e.Err }

// WithheldError says that the trees are proven to differ first at an index, and that upstream does
// not give its entry there.
type WithheldError struct {
	Index uint64
	Err   error
}

func (e *WithheldError) Error() string {
	return fmt.Sprintf("entry %d is the first that differs, and upstream does not give its own: %v", e.Index, e.Err)
}

// Unwrap returns the cause.
func (e *WithheldError) Unwrap() error { return e.Err }

// Difference returns the first index at which the tree that upstream forked to has another entry
// than what is held, with both entries, of a log that is quarantined by two signed checkpoints. What
// upstream serves is believed only as far as it hashes to the forked checkpoint, and nothing of it
// is stored. It takes about two requests for each level of tiles, or for each bit of the size where
// there are none (Rekor v1).
//
// The error is ErrNotComparable, a *SameError, an *UnservedError, a *WithheldError (with index and
// ours), or says that upstream could not be asked.
func (m *Mirror) Difference(ctx context.Context) (index uint64, ours, theirs []byte, err error) {
	v := m.tree.View() // kept while upstream answers: what is held of a quarantined log does not change
	defer v.Close()
	d := &differ{mirror: m, view: v, held: v.State()}
	if d.forked, err = d.fork(); err != nil {
		return 0, nil, nil, err
	}
	if d.common = min(d.forked.Size, d.held.Head.Size); d.common <= d.held.Minimum {
		return 0, nil, nil, fmt.Errorf("%w: of the first %s of the forked tree none is held", ErrNotComparable, entriesText(d.forked.Size))
	}
	if m.shard != nil {
		index, theirs, err = d.byProofs(ctx, m.shard)
	} else {
		index, theirs, err = d.byTiles(ctx)
	}
	withheld, _ := errors.AsType[*WithheldError](err)
	switch {
	case ctx.Err() != nil:
		return 0, nil, nil, ctx.Err()
	case err != nil && withheld == nil:
		return 0, nil, nil, d.explain(ctx, err)
	}
	ours, damage := d.own(index)
	if damage != nil {
		return 0, nil, nil, damage
	}
	return index, ours, theirs, err
}

// differ compares what is held with the tree of a forked checkpoint.
type differ struct {
	mirror *Mirror
	view   *storage.View
	held   *storage.State
	forked storage.Head
	common uint64 // size of the smaller one of the two trees
}

// fork returns the head of the evidence that is not of the tree that is held. If it cannot be told,
// that is the one that was refused.
func (d *differ) fork() (storage.Head, error) {
	ev := d.held.Evidence
	if ev == nil {
		return storage.Head{}, fmt.Errorf("%w: the log is not quarantined", ErrNotComparable)
	}
	var heads [2]storage.Head
	for i, raw := range [][]byte{ev.Second, ev.First} {
		var c formats.Checkpoint
		if _, err := c.Unmarshal(raw); err != nil || len(c.Hash) != storage.HashSize {
			return storage.Head{}, fmt.Errorf("evidence of the quarantine: %w; restore a backup of the database", errors.Join(err, errors.New("it is no checkpoint")))
		}
		heads[i] = storage.Head{Size: c.Size, Root: storage.Hash(c.Hash)}
	}
	for _, head := range heads {
		root, err := d.view.Root(head.Size)
		if errors.Is(err, storage.ErrNotHeld) || errors.Is(err, storage.ErrBelowMinimum) || err == nil && root != head.Root {
			return head, nil
		}
		if err != nil {
			return storage.Head{}, err
		}
	}
	return heads[0], nil
}

// own returns the entry that is held at an index.
func (d *differ) own(index uint64) ([]byte, error) {
	entry, err := d.view.Entry(index)
	if err != nil {
		return nil, err
	}
	hash, err := d.view.LeafHash(index)
	if err == nil && storage.LeafHash(entry) != hash {
		err = d.view.Misfit(index)
	}
	return entry, err
}

// before says that the trees differ in front of the window.
func (d *differ) before() error {
	return fmt.Errorf("%w: they differ already before entry %d, with which the window that is held begins", ErrNotComparable, d.held.Minimum)
}

// byTiles finds the first difference by descending from the top of the forked tree's tiles.
func (d *differ) byTiles(ctx context.Context) (index uint64, theirs []byte, err error) {
	source := d.mirror.places[0].tiles
	tree, err := newUpstreamTree(ctx, source, d.forked)
	if err != nil {
		return 0, nil, err
	}
	level, index, err := d.top(tree)
	for ; err == nil && level > 0; level-- { // the node at index differs
		var at int
		if at, err = d.differing(tree, level-1, index, tileWidth); err == nil {
			index = index*tileWidth + uint64(at)
		}
	}
	if err != nil {
		return 0, nil, err
	}
	bundle := bundleAt(index, d.forked.Size)
	entries, err := source.entries(ctx, bundle.index, bundle.width, nil)
	if err == nil {
		err = tree.verifyBundle(bundle.index, entries)
	}
	if err != nil {
		return index, nil, &WithheldError{index, err}
	}
	return index, bytes.Clone(entries[index%bundleWidth]), nil
}

// top returns the first node that differs among the largest ones that make up what both trees have.
func (d *differ) top(tree *upstreamTree) (level int, index uint64, err error) {
	for d.common>>(tileHeight*(level+1)) > 0 {
		level++
	}
	for ; level >= 0; level-- {
		end := d.common >> (tileHeight * level)
		tile := end / tileWidth
		if end%tileWidth == 0 {
			continue // they are in one node above
		}
		at, err := d.differing(tree, level, tile, int(end%tileWidth))
		if err != nil {
			return 0, 0, err
		}
		if index = tile*tileWidth + uint64(at); index < end {
			return level, index, nil
		}
	}
	return 0, 0, &SameError{Size: d.common}
}

// differing returns which of the first hashes of a tile is the first that differs; width if none does.
func (d *differ) differing(tree *upstreamTree, level int, index uint64, width int) (at int, err error) {
	theirs, err := tree.tile(level, index)
	if err != nil {
		return 0, err
	}
	ours, err := d.view.Tile(level, index, width)
	if errors.Is(err, storage.ErrBelowMinimum) {
		return 0, d.before()
	}
	for ; err == nil && at < width; at++ {
		if i := at * storage.HashSize; !bytes.Equal(ours[i:i+storage.HashSize], theirs[i:i+storage.HashSize]) {
			break
		}
	}
	return at, err
}

// byProofs finds the first difference of a shard by asking for roots: those of two trees are equal
// up to the first entry that differs.
func (d *differ) byProofs(ctx context.Context, sh *shard) (index uint64, theirs []byte, err error) {
	tree := sh.service.work.tree(sh.treeID, d.forked)
	same := func(size uint64) (bool, error) {
		own, err := d.view.Root(size)
		if err != nil || size == 0 {
			return true, err
		}
		var root storage.Hash
		if size > 2 {
			root, err = tree.rootAt(ctx, size, own)
		} else {
			root, err = sh.rootAt(ctx, d.forked, size)
		}
		return root == own, err
	}
	low, high := d.held.Minimum, d.common // the first low entries are the same, the first high are not
	for _, size := range []uint64{high, low} {
		yes, err := same(size)
		switch {
		case err != nil:
			return 0, nil, err
		case yes && size == high:
			return 0, nil, &SameError{Size: high}
		case !yes && size == low:
			return 0, nil, d.before()
		}
	}
	for high-low > 1 {
		middle := low + (high-low)/2
		yes, err := same(middle)
		if err != nil {
			return 0, nil, err
		}
		if yes {
			low = middle
		} else {
			high = middle
		}
	}
	root, err := sh.rootAt(ctx, d.forked, high)
	if err != nil {
		return 0, nil, err
	}
	ref := EntryRef{Index: sh.start() + low}
	items, err := sh.service.work.entries(ctx, []EntryRef{ref})
	switch {
	case err != nil:
	case len(items) != 1:
		err = errAbsent
	default:
		theirs = items[0].Entry.Body
		err = d.extends(low, theirs, root)
	}
	if err != nil {
		return low, nil, &WithheldError{low, err}
	}
	return low, theirs, nil
}

// extends says whether the first entries that are held, and one more behind them, have a root.
func (d *differ) extends(index uint64, entry []byte, root storage.Hash) error {
	var node storage.NodeFunc
	node = func(level int, at uint64) (storage.Hash, error) {
		switch {
		case at != index>>level:
			return d.node(level, at)
		case level == 0:
			return storage.LeafHash(entry), nil
		}
		left, err := node(level-1, 2*at)
		if err != nil {
			return left, err
		}
		right, err := node(level-1, 2*at+1)
		return storage.NodeHash(left, right), err
	}
	got, err := storage.RootHash(index+1, node)
	if err == nil && got != root {
		err = &EntryError{Entry: fmt.Sprint(index), Problem: "that was given is not the one in the forked tree"}
	}
	return err
}

// node returns a node of the tree that is held.
func (d *differ) node(level int, index uint64) (storage.Hash, error) {
	height := level % tileHeight
	from := int(index%(tileWidth>>height)) << height
	to := from + 1<<height
	raw, err := d.view.Tile(level/tileHeight, index>>(tileHeight-height), to)
	if err != nil {
		return storage.Hash{}, err
	}
	return fold(raw[from*storage.HashSize:]), nil
}

// explain says of what does not verify which tree it is of.
func (d *differ) explain(ctx context.Context, err error) error {
	if errors.As(err, new(*SameError)) || errors.As(err, new(*storage.DamageError)) || errors.Is(err, ErrNotComparable) {
		return err
	}
	if gone(err) {
		return fmt.Errorf("compare with what upstream serves: %w; try again when it answers", err)
	}
	shown := &UnservedError{Size: d.forked.Size, Err: err}
	root, rootErr := d.view.Root(d.forked.Size)
	if rootErr != nil { // it is beyond what is held
		return shown
	}
	head := storage.Head{Size: d.forked.Size, Root: root}
	if sh := d.mirror.shard; sh != nil {
		shown.Held = head.Size > 3 && sh.shown(ctx, head) == nil
	} else {
		_, err := newUpstreamTree(ctx, d.mirror.places[0].tiles, head)
		shown.Held = err == nil
	}
	return shown
}
