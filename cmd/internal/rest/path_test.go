package rest

import (
	"math"
	"testing"

	"github.com/transparency-dev/tessera/api/layout"
)

func TestTilePath(t *testing.T) {
	for text, want := range map[string]tilePath{
		"0/000":                               {false, 0, 0, 256},
		"63/001":                              {false, 63, 1, 256},
		"0/x001/x234/067":                     {false, 0, 1234067, 256},
		"entries/x001/000.p/1":                {true, 0, 1000, 1},
		"2/999.p/255":                         {false, 2, 999, 255},
		"0/x018/x446/x744/x073/x709/x551/615": {false, 0, math.MaxUint64, 256},
	} {
		if got, ok := parseTilePath(text); !ok || got != want {
			t.Errorf("%q: got %+v, %v", text, got, ok)
		}
	}
	for _, text := range []string{
		"", "0", "0/", "00/000", "64/000", "-1/000", "+1/000", "a/000", "0x1/000", "entries", "entries/", "entriesx/000", "Entries/000", "0/entries/000",
		"0/0", "0/00", "0/0000", "0/1000", "0/001/000", "0/x001", "0/x1/000", "0/x000/001", "0/001/x000", "0/x001/x000", "0/xx001/000", "0/x001//000", "0/000/",
		"0/000.p", "0/000.p/", "0/000.p/0", "0/000.p/256", "0/000.p/01", "0/000.p/1/", "0/000.p/1.p/1", "0/000.p/-1", "0/000.p/+1", "0/000.p/a", "0/x001.p/1/000",
		"0/x018/x446/x744/x073/x709/x551/616", "0/x001/x018/x446/x744/x073/x709/x551/615", " 0/000", "0/000 ", "0/٠٠٠", "0/000\n", "0/+00", "0/0_0",
	} {
		if got, ok := parseTilePath(text); ok {
			t.Errorf("%q: accepted as %+v", text, got)
		}
	}
}

// FuzzTilePath holds that what is accepted is canonical and is what Tessera prints.
func FuzzTilePath(f *testing.F) {
	f.Add("0/x001/x234/067.p/8")
	f.Add("entries/000")
	f.Add("63/x018/x446/x744/x073/x709/x551/615")
	f.Fuzz(func(t *testing.T, text string) {
		got, ok := parseTilePath(text)
		if !ok {
			return
		}
		partial := uint8(got.width % fullWidth)
		want := layout.TilePath(uint64(got.level), got.index, partial)
		if got.entries {
			want = layout.EntriesPath(got.index, partial)
		}
		if "tile/"+text != want {
			t.Errorf("%q accepted, Tessera writes %q", text, want)
		}
	})
}
