package ledger

import (
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// TestLinkOf: what Open reads of a row is what is in it, whatever else is.
func TestLinkOf(t *testing.T) {
	db := openDB(t, vfs.NewMem())
	l := open(t, db)
	for _, kind := range []string{"state", `,"previous":"`, `","previous":"x","body":`, "\u2028<&>", ""} {
		if _, err := l.Append(Entry{Kind: kind, Body: map[string]string{`,"previous":"`: `,"previous":"`}}); err != nil {
			t.Fatal(err)
		}
	}
	err := l.Rows(1, func(row Row) error {
		if seq, previous, err := linkOf(name(row.Seq), row.Raw()); err != nil || seq != row.Seq || previous != row.Previous {
			t.Errorf("%s: %d %q %v", row.Raw(), seq, previous, err)
		}
		return nil
	})
	if n, err2 := Check(db); err != nil || err2 != nil || n != 5 {
		t.Errorf("%d rows, %v, %v", n, err, err2)
	}
}
