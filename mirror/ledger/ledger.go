// Package ledger keeps the record of an outage: what changed, who weakened what and until when, and
// what was decided meanwhile.
//
// A [Ledger] is a list of rows that only grows. Each row has the SHA-256 of the one before, so that a
// row which is changed, removed or put in between shows, and whoever has kept the hash of one row can
// check all before it. A row is durable before Append returns, together with the records that its
// writer gives: what is known after a crash is what the rows say, never more and never less.
//
// What rows mean is their writers' matter. They are never removed.
package ledger

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/understudy-log/understudy/storage"
)

// Row is one row of the ledger.
type Row struct {
	Seq uint64    `json:"seq"` // 1 is the first
	At  time.Time `json:"at"`  // by the clock of this machine
	// Kind says what Body is.
	Kind string `json:"kind"`
	// Previous is the Hash of the row before, in hex; empty in the first.
	Previous string `json:"previous"`
	// Body is a JSON value in its shortest form.
	Body json.RawMessage `json:"body"`

	raw []byte
}

// Raw is the row as it is kept: the JSON text of Row.
func (r Row) Raw() []byte { return bytes.Clone(r.raw) }

// Hash is the SHA-256 of Raw, in hex.
func (r Row) Hash() string {
	sum := sha256.Sum256(r.raw)
	return hex.EncodeToString(sum[:])
}

// Decode reads the body.
func (r Row) Decode(body any) error {
	if err := json.Unmarshal(r.Body, body); err != nil {
		return fmt.Errorf("row %d of the ledger (%s): %w", r.Seq, r.Kind, err)
	}
	return nil
}

// Entry is a row to be appended.
type Entry struct {
	Kind string
	Body any // what encoding/json makes the body of
	// Records are kept in the commit of the row, by name (storage.DB.PutRecords).
	Records map[string][]byte
}

// DamageError says that the ledger does not hold together.
type DamageError struct {
	Seq     uint64 // of the row where that shows
	Problem string
}

func (e *DamageError) Error() string {
	return fmt.Sprintf("row %d of the ledger %s: what was recorded was changed on the disk; restore a backup, and keep this database as evidence", e.Seq, e.Problem)
}

// Ledger is the one that a database has. Its methods may be called concurrently.
type Ledger struct {
	db  *storage.DB
	now func() time.Time

	mu      sync.Mutex // guards the fields below; never held during I/O
	size    uint64
	last    string
	waiting []*waiting
	leading bool          // somebody commits what waits
	changed chan struct{} // closed when there are more rows
	broken  error         // set once: rows cannot be written any more
}

// waiting is a call of Append.
type waiting struct {
	entries []Entry
	rows    []Row
	err     error
	done    chan struct{}
}

// Rows are records by number; headRecord has the number and hash of the last one, so that rows which are
// lost at the end show, too.
const (
	prefix     = "ledger "
	headRecord = "ledger-head"
)

func headOf(size uint64, last string) []byte { return fmt.Appendf(nil, "%d %s", size, last) }

func name(seq uint64) string { return fmt.Sprintf("%s%020d", prefix, seq) }

// Open opens the ledger of a database; an empty one if there is none. It reads every row: a
// ledger that does not hold together is a *DamageError. now is the clock; nil is time.Now.
func Open(db *storage.DB, now func() time.Time) (*Ledger, error) {
	if now == nil {
		now = time.Now
	}
	l := &Ledger{db: db, now: now, changed: make(chan struct{})}
	err := db.RecordsFrom(prefix, name(1), func(key string, raw []byte) error {
		seq, previous, err := linkOf(key, raw)
		switch {
		case err != nil || seq != l.size+1:
			return &DamageError{l.size + 1, "is missing, or cannot be read"}
		case previous != l.last:
			return &DamageError{seq, "does not have the hash of the row before it"}
		}
		l.size, l.last = seq, Row{raw: raw}.Hash()
		return nil
	})
	if err != nil {
		return nil, err
	}
	head, err := db.Record(headRecord)
	if err != nil {
		return nil, err
	}
	if l.size == 0 && head == nil || bytes.Equal(head, headOf(l.size, l.last)) {
		return l, nil
	}
	return nil, &DamageError{l.size + 1, "is missing"}
}

// Append appends rows, in order and without others in between, and returns them once they are
// durable. After an error of the database nothing is appended any more: it is not known what is kept.
func (l *Ledger) Append(entries ...Entry) ([]Row, error) {
	if len(entries) == 0 {
		return nil, nil
	}
	w := &waiting{entries: entries, done: make(chan struct{})}
	l.mu.Lock()
	l.waiting = append(l.waiting, w)
	lead := !l.leading
	l.leading = true
	l.mu.Unlock()
	if lead {
		l.lead()
	}
	<-w.done
	return w.rows, w.err
}

// lead commits what waits until nothing does. Those who come while one commit is synced go into the
// next one together.
func (l *Ledger) lead() {
	for {
		l.mu.Lock()
		group := l.waiting
		l.waiting = nil
		if len(group) == 0 {
			l.leading = false
			l.mu.Unlock()
			return
		}
		size, last, broken := l.size, l.last, l.broken
		l.mu.Unlock()
		records := map[string][]byte{}
		for _, w := range group {
			if w.err = broken; w.err == nil {
				w.rows, w.err = l.stage(w.entries, &size, &last, records)
			}
		}
		if broken == nil && size > l.size {
			records[headRecord] = headOf(size, last)
			broken = l.db.PutRecords(records)
		}
		l.mu.Lock()
		if l.broken = broken; broken == nil && size > l.size {
			l.size, l.last = size, last
			close(l.changed)
			l.changed = make(chan struct{})
		}
		l.mu.Unlock()
		for _, w := range group {
			if broken != nil && w.err == nil {
				w.rows, w.err = nil, fmt.Errorf("append to the ledger: %w", broken)
			}
			close(w.done)
		}
	}
}

// stage makes the rows of one call, and puts them and their records into records.
func (l *Ledger) stage(entries []Entry, size *uint64, last *string, records map[string][]byte) ([]Row, error) {
	rows, n, previous := make([]Row, 0, len(entries)), *size, *last
	for _, e := range entries {
		body, err := json.Marshal(e.Body)
		if err != nil {
			return nil, fmt.Errorf("row of the ledger (%s): %w", e.Kind, err)
		}
		n++
		row := Row{Seq: n, At: l.now().UTC().Round(0), Kind: e.Kind, Previous: previous, Body: body}
		if row.raw, err = json.Marshal(row); err != nil {
			return nil, fmt.Errorf("row of the ledger (%s): %w", e.Kind, err)
		}
		previous = row.Hash()
		rows = append(rows, row)
	}
	for i, row := range rows {
		records[name(row.Seq)] = row.raw
		for name, record := range entries[i].Records {
			if strings.HasPrefix(name, prefix) || name == headRecord {
				panic("ledger: a record that has the name of a row")
			}
			records[name] = record
		}
	}
	*size, *last = n, previous
	return rows, nil
}

// Head returns the number of rows, and the hash of the last one; zero of none.
func (l *Ledger) Head() (size uint64, last string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.size, l.last
}

// Changed returns a channel that is closed when there are more rows.
func (l *Ledger) Changed() <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.changed
}

// Rows calls yield for the rows from a number on, in order, up to the first error.
func (l *Ledger) Rows(from uint64, yield func(Row) error) error {
	return each(l.db, max(from, 1), yield)
}

// Check reads the ledger of a database and returns how many rows it has. One that does not hold
// together is a *DamageError.
func Check(db *storage.DB) (rows uint64, err error) {
	l, err := Open(db, nil)
	if err == nil {
		err = each(db, 1, func(Row) error { return nil })
	}
	if err != nil {
		return 0, err
	}
	return l.size, nil
}

// linkOf returns what holds a row to the one before it. It reads no more of the row than that: a row that is not as
// it was written has another hash than the next row, or the head, says, and there may be millions to read at a start.
func linkOf(key string, raw []byte) (seq uint64, previous string, err error) {
	if seq, err = strconv.ParseUint(strings.TrimPrefix(key, prefix), 10, 64); err != nil {
		return 0, "", err
	}
	rest, ok := bytes.CutPrefix(raw, fmt.Appendf(nil, `{"seq":%d,"at":"`, seq))
	if ok {
		_, rest, ok = bytes.Cut(rest, []byte(`,"previous":"`)) // no string that comes before has such quotes in it
	}
	hash, rest, found := bytes.Cut(rest, []byte(`"`))
	if !ok || !found || len(hash) != 0 && len(hash) != 2*sha256.Size || !bytes.HasPrefix(rest, []byte(`,"body":`)) {
		return 0, "", errors.New("not as it was written")
	}
	return seq, string(hash), nil
}

func each(db *storage.DB, from uint64, yield func(Row) error) error {
	next := from
	return db.RecordsFrom(prefix, name(from), func(key string, raw []byte) error {
		seq, err := strconv.ParseUint(strings.TrimPrefix(key, prefix), 10, 64)
		if err != nil || seq != next {
			return &DamageError{next, "is missing"}
		}
		next++
		row := Row{raw: bytes.Clone(raw)}
		switch again, err := parse(&row); {
		case err != nil:
			return &DamageError{seq, "cannot be read"}
		case row.Seq != seq || !bytes.Equal(again, raw):
			return &DamageError{seq, "is not as it was written"}
		}
		return yield(row)
	})
}

// parse reads a row out of its text, and returns what it would be written as.
func parse(row *Row) ([]byte, error) {
	d := json.NewDecoder(bytes.NewReader(row.raw))
	d.DisallowUnknownFields()
	if err := d.Decode(row); err != nil {
		return nil, err
	}
	if len(row.Body) == 0 {
		return nil, errors.New("no body")
	}
	return json.Marshal(row)
}
