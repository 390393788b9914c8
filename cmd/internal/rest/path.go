package rest

import (
	"fmt"
	"strconv"
	"strings"
)

const fullWidth = 256

// tilePath names one hash tile or entry bundle of a log.
type tilePath struct {
	entries bool   // an entry bundle, not a hash tile
	level   int    // 0 to 63; 0 for a bundle
	index   uint64 // within the level
	width   int    // 1 to 255, or 256 for a full one
}

// parseTilePath parses what follows "<prefix>/tile/". Only the canonical spelling
// is taken: what is accepted prints to the same text.
func parseTilePath(text string) (tilePath, bool) {
	kind, rest, _ := strings.Cut(text, "/")
	t := tilePath{entries: kind == "entries", width: fullWidth}
	// SPEC: <L> MUST be a decimal integer between 0 and 63, with no leading zeroes.
	if !t.entries {
		level, err := strconv.ParseUint(kind, 10, 6)
		if err != nil {
			return tilePath{}, false
		}
		t.level = int(level)
	}
	number, width, partial := strings.Cut(rest, ".p/")
	if partial {
		w, err := strconv.ParseUint(width, 10, 8)
		if err != nil || w == 0 {
			return tilePath{}, false
		}
		t.width = int(w)
	}
	// SPEC: <N> is zero-padded 3-digit path elements; all but the last begin with "x".
	index, err := strconv.ParseUint(strings.ReplaceAll(strings.ReplaceAll(number, "x", ""), "/", ""), 10, 64)
	if err != nil {
		return tilePath{}, false
	}
	t.index = index
	return t, t.String() == text
}

// String is the path that parseTilePath parses.
func (t tilePath) String() string {
	kind := strconv.Itoa(t.level)
	if t.entries {
		kind = "entries"
	}
	number := fmt.Sprintf("%03d", t.index%1000)
	for n := t.index / 1000; n > 0; n /= 1000 {
		number = fmt.Sprintf("x%03d/%s", n%1000, number)
	}
	if t.width < fullWidth {
		number += ".p/" + strconv.Itoa(t.width)
	}
	return kind + "/" + number
}
