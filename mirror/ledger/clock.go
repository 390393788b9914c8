package ledger

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/understudy-log/understudy/storage"
)

// clockRecord has the newest time that a Clock has told, as Run saw it last.
const clockRecord = "ledger-clock"

// clockEvery is how often Run keeps it.
const clockEvery = 10 * time.Second

// Clock is a clock that never goes back, for whatever ends at a time: what has passed stays passed.
//
// It tells the wall clock's time, and when that was set back, the newest time that it has told, plus
// what has gone by since on the machine's steady clock. So a time has come as soon as either clock
// says so. The same holds across restarts: it begins at the newest time that is known of the runs
// before, which is that of the last row of the ledger, or of the last [Clock.Run]'s mark, at most 10
// seconds before the end. (How long the machine was off is not known when its wall clock was set back
// meanwhile.)
//
// A wall clock that jumps far ahead takes this clock with it, and when it is put right again this
// clock stays ahead, until the wall clock has come to where it was. Until then whatever ends at a
// time that was given before ends early: that is the safe side. What is given as a length from now
// on is not harmed.
type Clock struct {
	db   *storage.DB
	wall func() time.Time

	mu   sync.Mutex // guards the fields below; never held during I/O
	told time.Time  // the newest time told
	at   time.Time  // when, on the steady clock

	marking sync.Mutex // held during I/O; guards marked
	marked  time.Time
}

// NewClock makes the clock of a database; wall is the wall clock, nil is time.Now. It goes before
// Open, which is given its Now, so that each row is a mark, too.
func NewClock(db *storage.DB, wall func() time.Time) (*Clock, error) {
	if wall == nil {
		wall = time.Now
	}
	c := &Clock{db: db, wall: wall, at: time.Now()}
	raw, err := db.Record(clockRecord)
	if err != nil {
		return nil, err
	}
	if raw != nil {
		if c.marked, err = time.Parse(time.RFC3339Nano, string(raw)); err != nil {
			return nil, fmt.Errorf("the mark of the clock is damaged (%w); restore a backup", err)
		}
	}
	last, err := lastRow(db)
	if err != nil {
		return nil, err
	}
	c.told = later(c.marked, last)
	return c, nil
}

// lastRow is the time of the last row; zero if there is none. Whether the rows hold together is for
// Open to say.
func lastRow(db *storage.DB) (time.Time, error) {
	head, err := db.Record(headRecord)
	if err != nil || head == nil {
		return time.Time{}, err
	}
	var seq uint64
	if _, err := fmt.Fscan(strings.NewReader(string(head)), &seq); err != nil {
		return time.Time{}, &DamageError{1, "cannot be found"}
	}
	raw, err := db.Record(name(seq))
	if err != nil {
		return time.Time{}, err
	}
	row := Row{raw: raw}
	if _, err := parse(&row); err != nil {
		return time.Time{}, &DamageError{seq, "cannot be read"}
	}
	return row.At, nil
}

// Now returns the time, which is never before one that it returned. It has no reading of the steady
// clock: compare it with times that were kept.
func (c *Clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	at := time.Now()
	c.told = later(c.wall().UTC().Round(0), c.told.Add(max(at.Sub(c.at), 0)))
	c.at = at
	return c.told
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// Run keeps the time every 10 seconds, and at the end, until ctx is done. The error is that of the
// database.
func (c *Clock) Run(ctx context.Context) error {
	tick := time.NewTicker(clockEvery)
	defer tick.Stop()
	for {
		if err := c.mark(); err != nil {
			return err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return c.mark()
		}
	}
}

// mark keeps the time, if it is later than the one that is kept.
func (c *Clock) mark() error {
	now := c.Now()
	c.marking.Lock()
	defer c.marking.Unlock()
	if !now.After(c.marked) {
		return nil
	}
	if err := c.db.PutRecord(clockRecord, []byte(now.Format(time.RFC3339Nano))); err != nil {
		return fmt.Errorf("keep the time: %w", err)
	}
	c.marked = now
	return nil
}
