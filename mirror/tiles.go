package mirror

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/http"

	"github.com/understudy-log/understudy/storage"
)

const (
	bundleWidth = 256 // entries in a full bundle, hashes in a full tile

	maxCheckpoint = 1 << 20                        // bytes of a note
	maxBundle     = bundleWidth * (2 + 1<<16 - 1)  // bytes of a full bundle of the longest entries
	maxTile       = bundleWidth * storage.HashSize // bytes of a full tile
)

// tiles is a source that speaks C2SP tlog-tiles over HTTP. It verifies nothing but the
// form of what it reads.
type tiles struct{ *fetcher }

func newTiles(cfg Config, address string, answered func(bool)) (*tiles, error) {
	f, err := newFetcher(cfg, address, answered)
	return &tiles{f}, err
}

// checkpoint reads the signed note.
func (t *tiles) checkpoint(ctx context.Context) ([]byte, error) {
	raw, err := t.get(ctx, "checkpoint", "/checkpoint", maxCheckpoint, nil)
	if err != nil {
		return nil, fmt.Errorf("read checkpoint: %w", err)
	}
	return raw, nil
}

// tile reads width hashes of a hash tile.
func (t *tiles) tile(ctx context.Context, level int, index uint64, width int) ([]byte, error) {
	name := fmt.Sprintf("tile/%d/%s", level, tilePath(index))
	raw, err := t.partial(ctx, "tile", name, width, maxTile, nil)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	if want := width * storage.HashSize; len(raw) < want || (len(raw) != want && len(raw) != maxTile) {
		return nil, fmt.Errorf("read %s: %w", name, &FormatError{fmt.Sprintf("%d bytes are not a tile of %d hashes", len(raw), width)})
	}
	return raw[:width*storage.HashSize], nil
}

// entries reads the first width entries of a bundle. Its bytes come out of s.
func (t *tiles) entries(ctx context.Context, index uint64, width int, s *share) ([][]byte, error) {
	name := "tile/entries/" + tilePath(index)
	raw, err := t.partial(ctx, "entries", name, width, maxBundle, s)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	entries, err := splitBundle(raw, width)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	return entries, nil
}

// partial reads a resource of the given width, or the full one if the partial one is
// gone.
// SPEC: tlog-tiles, Partial Tiles: logs "MAY delete any partial tile once the
// corresponding full tile is [...] available".
func (t *tiles) partial(ctx context.Context, kind, name string, width int, limit int64, s *share) ([]byte, error) {
	if width == bundleWidth {
		return t.get(ctx, kind, "/"+name, limit, s)
	}
	raw, err := t.get(ctx, kind, fmt.Sprintf("/%s.p/%d", name, width), limit, s)
	if isGone(err) {
		if full, fullErr := t.get(ctx, kind, "/"+name, limit, s); fullErr == nil {
			return full, nil
		}
	}
	return raw, err
}

func isGone(err error) bool {
	var status *StatusError
	return errors.As(err, &status) && (status.Code == http.StatusNotFound || status.Code == http.StatusGone)
}

// splitBundle returns the first width entries of a bundle that holds width entries or is
// full. It refuses trailing bytes.
func splitBundle(raw []byte, width int) ([][]byte, error) {
	entries := make([][]byte, 0, width)
	n, rest := 0, raw
	for ; len(rest) > 0; n++ {
		if len(rest) < 2 || len(rest)-2 < int(binary.BigEndian.Uint16(rest)) {
			return nil, &FormatError{fmt.Sprintf("bundle is cut off in entry %d", n)}
		}
		end := 2 + int(binary.BigEndian.Uint16(rest))
		if n < width {
			entries = append(entries, rest[2:end:end])
		}
		rest = rest[end:]
	}
	if n != width && (n != bundleWidth || width > n) {
		return nil, &FormatError{fmt.Sprintf("bundle has %s, want %d", entriesText(uint64(n)), width)}
	}
	return entries, nil
}

// tilePath encodes the index of a tile.
// SPEC: tlog-tiles, Merkle Tree: "a non-negative integer encoded into zero-padded
// 3-digit path elements. All but the last path element MUST begin with an x."
func tilePath(index uint64) string {
	path := fmt.Sprintf("%03d", index%1000)
	for index >= 1000 {
		index /= 1000
		path = fmt.Sprintf("x%03d/%s", index%1000, path)
	}
	return path
}
