package ledger

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/understudy-log/understudy/storage"
)

type body struct {
	N    int    `json:"n"`
	Text string `json:"text"`
}

func openDB(t *testing.T, fs vfs.FS) *storage.DB {
	t.Helper()
	db, err := storage.Open("db", storage.Options{FS: fs})
	if errors.Is(err, storage.ErrNotExist) {
		db, err = storage.Create("db", storage.Options{FS: fs})
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	return db
}

func open(t *testing.T, db *storage.DB) *Ledger {
	t.Helper()
	l, err := Open(db, nil)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func TestAppendAndReopen(t *testing.T) {
	fs := vfs.NewMem()
	db := openDB(t, fs)
	l := open(t, db)
	if size, last := l.Head(); size != 0 || last != "" {
		t.Fatalf("a new ledger has %d rows, the last %q", size, last)
	}
	var rows []Row
	for i := range 20 {
		changed := l.Changed()
		got, err := l.Append(Entry{"test", body{i, "<&>\u2028"}, map[string][]byte{"state": fmt.Append(nil, i)}}, Entry{Kind: "more", Body: nil})
		if err != nil || len(got) != 2 {
			t.Fatalf("append: %d rows, %v", len(got), err)
		}
		rows = append(rows, got...)
		select {
		case <-changed:
		default:
			t.Fatal("nobody was told of new rows")
		}
		if state, err := db.Record("state"); err != nil || string(state) != fmt.Sprint(i) {
			t.Fatalf("record %q, %v", state, err)
		}
	}
	for range 2 {
		n := uint64(2)
		if err := l.Rows(3, func(r Row) error {
			want := rows[n]
			n++
			if r.Seq != n || r.Hash() != want.Hash() || !bytes.Equal(r.Raw(), want.Raw()) || r.Previous != rows[n-2].Hash() || r.Kind != want.Kind || !r.At.Equal(want.At) {
				return fmt.Errorf("row %d is %s, want %s", n, r.Raw(), want.Raw())
			}
			return nil
		}); err != nil || n != 40 {
			t.Fatalf("%d rows, %v", n, err)
		}
		if size, last := l.Head(); size != 40 || last != rows[39].Hash() {
			t.Fatalf("head %d %s", size, last)
		}
		l = open(t, db)
	}
	var b body
	if err := rows[6].Decode(&b); err != nil || b != (body{3, "<&>\u2028"}) {
		t.Fatalf("body %+v, %v", b, err)
	}
	if n, err := Check(db); n != 40 || err != nil {
		t.Fatalf("check: %d, %v", n, err)
	}
}

// Each way to change what was recorded shows at the next Open.
func TestDamage(t *testing.T) {
	for what, damage := range map[string]func(t *testing.T, db *storage.DB, rows []Row){
		"a body is another one": func(t *testing.T, db *storage.DB, rows []Row) {
			put(t, db, name(4), bytes.Replace(rows[3].Raw(), []byte(`"n":3`), []byte(`"n":7`), 1))
		},
		"the last body is another one": func(t *testing.T, db *storage.DB, rows []Row) {
			put(t, db, name(10), bytes.Replace(rows[9].Raw(), []byte(`"n":9`), []byte(`"n":7`), 1))
		},
		"a row has the number of another": func(t *testing.T, db *storage.DB, rows []Row) { put(t, db, name(4), rows[4].Raw()) },
		"a row too many":                  func(t *testing.T, db *storage.DB, rows []Row) { put(t, db, name(12), rows[9].Raw()) },
		"rubbish":                         func(t *testing.T, db *storage.DB, rows []Row) { put(t, db, name(4), []byte("{")) },
		"a space":                         func(t *testing.T, db *storage.DB, rows []Row) { put(t, db, name(4), append(rows[3].Raw(), ' ')) },
		"a member": func(t *testing.T, db *storage.DB, rows []Row) {
			put(t, db, name(4), bytes.Replace(rows[3].Raw(), []byte(`{"seq"`), []byte(`{"x":1,"seq"`), 1))
		},
		"the head is older": func(t *testing.T, db *storage.DB, rows []Row) { put(t, db, headRecord, headOf(9, rows[8].Hash())) },
		"the last row is not there": func(t *testing.T, db *storage.DB, rows []Row) {
			put(t, db, headRecord, headOf(11, rows[8].Hash()))
		},
	} {
		t.Run(what, func(t *testing.T) {
			db := openDB(t, vfs.NewMem())
			l := open(t, db)
			var rows []Row
			for i := range 10 {
				got, err := l.Append(Entry{Kind: "test", Body: body{N: i}})
				if err != nil {
					t.Fatal(err)
				}
				rows = append(rows, got...)
			}
			damage(t, db, rows)
			var wrong *DamageError
			if _, err := Open(db, nil); !errors.As(err, &wrong) {
				t.Fatalf("opened with %v", err)
			}
		})
	}
}

func put(t *testing.T, db *storage.DB, name string, record []byte) {
	t.Helper()
	if err := db.PutRecord(name, record); err != nil {
		t.Fatal(err)
	}
}

// Rows of many writers stand one behind the other, those of one call together.
func TestConcurrent(t *testing.T) {
	db := openDB(t, vfs.NewMem())
	l := open(t, db)
	var writers sync.WaitGroup
	for w := range 16 {
		writers.Go(func() {
			for i := range 50 {
				rows, err := l.Append(Entry{Kind: "a", Body: body{w, "first"}}, Entry{Kind: "a", Body: body{i, "second"}})
				if err != nil || len(rows) != 2 || rows[1].Seq != rows[0].Seq+1 {
					t.Errorf("rows %v, %v", rows, err)
				}
			}
		})
	}
	writers.Wait()
	if n, err := Check(db); n != 1600 || err != nil {
		t.Fatalf("%d rows, %v", n, err)
	}
}

// What Append returned is there after a crash, and what is there holds together.
func TestCrash(t *testing.T) {
	for seed := range uint64(60) {
		mem := vfs.NewCrashableMem()
		db, err := storage.Create("db", storage.Options{FS: mem})
		if err != nil {
			t.Fatal(err)
		}
		l, err := Open(db, func() time.Time { return time.Unix(1e9, int64(seed)) })
		if err != nil {
			t.Fatal(err)
		}
		random := rand.New(rand.NewPCG(seed, 0))
		n := 1 + random.IntN(20)
		for i := range n {
			if _, err := l.Append(Entry{"test", body{N: i}, map[string][]byte{"state": fmt.Append(nil, i)}}); err != nil {
				t.Fatal(err)
			}
		}
		crashed := mem.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: int(seed%2) * 50, RNG: random})
		db.Close()
		after := openDB(t, crashed)
		if rows, err := Check(after); rows != uint64(n) || err != nil {
			t.Fatalf("seed %d: %d rows of %d, %v", seed, rows, n, err)
		}
		if state, err := after.Record("state"); err != nil || string(state) != fmt.Sprint(n-1) {
			t.Fatalf("seed %d: record %q, %v", seed, state, err)
		}
	}
}
