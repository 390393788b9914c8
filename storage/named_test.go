package storage

import (
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// TestRecords: several are kept at once, and those of one prefix are found in order.
func TestRecords(t *testing.T) {
	disk := vfs.NewCrashableMem()
	db := createDB(t, Options{FS: disk})
	defer closeDB(t, db)
	if err := db.PutRecords(map[string][]byte{"a 2": []byte("two"), "a 1": []byte("one"), "a": []byte("a"), "b 1": []byte("other"), "a 1\xff": nil}); err != nil {
		t.Fatal(err)
	}
	if err := db.PutRecord("a 2", []byte("second")); err != nil {
		t.Fatal(err)
	}
	after, err := Open("data", Options{FS: disk.CrashClone(vfs.CrashCloneCfg{})})
	if err != nil {
		t.Fatal(err)
	}
	defer closeDB(t, after)
	for _, db := range []*DB{db, after} {
		for prefix, want := range map[string][]string{
			"a ": {"a 1=one", "a 1\xff=", "a 2=second"},
			"a":  {"a=a", "a 1=one", "a 1\xff=", "a 2=second"},
			"b":  {"b 1=other"},
			"c":  nil,
			"":   {"a=a", "a 1=one", "a 1\xff=", "a 2=second", "b 1=other"},
		} {
			var got []string
			if err := db.Records(prefix, func(name string, record []byte) error {
				got = append(got, fmt.Sprintf("%s=%s", name, record))
				return nil
			}); err != nil || !slices.Equal(got, want) {
				t.Errorf("records %q: %q, %v", prefix, got, err)
			}
		}
		enough := errors.New("enough")
		if err := db.Records("a", func(string, []byte) error { return enough }); err != enough {
			t.Errorf("goes on after an error: %v", err)
		}
	}
}
