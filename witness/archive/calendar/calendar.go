// Package calendar says when the periods of an archive end: by a cron expression, on the wall clock
// of a time zone.
//
// An expression names wall clock times. Each of them passes once, at the first instant at which the
// clock shows it or a later one. So where clocks are set back, an hour that repeats counts the first
// time only; where they are set forward, what falls into the hour that is skipped happens at the end
// of it, and several of them there, or on a day that a zone has skipped, are one. (That is not what
// robfig/cron makes of it, which leaves them out; here it reads expressions, and finds times on a
// clock without such changes.)
//
// Zones are the system's. A program that runs where there may be none, as in a container, imports
// time/tzdata; this package does not do so for it.
package calendar

import (
	"fmt"
	"math/bits"
	"slices"
	"strings"
	"time"

	"github.com/robfig/cron/v3"
)

// MaxDue is how many boundaries [Schedule.Due] returns at most.
const MaxDue = 60

// Schedule is a series of instants that never ends. It may be used by several goroutines.
type Schedule struct {
	wall *cron.SpecSchedule // in UTC, which stands for the wall clock
	zone *time.Location
}

// Parse reads a cron expression of five fields (minute, hour, day of month, month, day of week;
// with both days restricted, either will do), or @yearly, @monthly, @weekly, @daily or @hourly, and the
// IANA name of a time zone; "" is UTC. Refused is what never fires, and what fires more often than
// once an hour.
func Parse(expression, zone string) (*Schedule, error) {
	fail := func(format string, args ...any) (*Schedule, error) {
		return nil, fmt.Errorf("schedule %q: "+format, append([]any{expression}, args...)...)
	}
	if zone == "Local" {
		return fail("time zone Local is another on each machine: name one, such as Europe/Berlin or UTC")
	}
	location, err := time.LoadLocation(zone)
	if err != nil {
		return fail("time zone %q is not known: use an IANA name such as Europe/Berlin or UTC (%w)", zone, err)
	}
	expression = strings.TrimSpace(expression)
	switch {
	case strings.Contains(expression, "TZ="):
		return fail("the time zone has a setting of its own: leave it out here")
	case strings.HasPrefix(expression, "@every"):
		return fail("@every counts from when the program starts: name times instead, such as @weekly or 0 3 * * 1")
	}
	parsed, err := cron.ParseStandard(expression)
	if err != nil {
		return fail("want minute, hour, day of month, month and day of week, such as 0 3 * * 1, or @weekly (%w)", err)
	}
	wall, ok := parsed.(*cron.SpecSchedule)
	if !ok {
		return fail("it names no times: use such as @weekly or 0 3 * * 1")
	}
	minutes := bits.OnesCount64(wall.Minute << 4) // without the bit that marks a star
	if minutes > 1 {
		return fail("it fires %d times an hour, where once is the most: make the first field a single minute", minutes)
	}
	wall.Location = time.UTC
	s := &Schedule{wall: wall, zone: location}
	if s.next(time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)).IsZero() {
		return fail("it never fires: there is no such day or time")
	}
	return s, nil
}

// Next returns the first instant of the schedule after t, in its zone.
func (s *Schedule) Next(t time.Time) time.Time {
	return s.instant(s.next(s.latest(t)))
}

// Before returns the last instant of the schedule that is not after t, in its zone.
func (s *Schedule) Before(t time.Time) time.Time {
	return s.instant(s.before(s.latest(t)))
}

// Due returns the instants of the schedule after last up to now, the oldest first. Of more than
// [MaxDue] they are the newest: the first of them then ends the whole time since last.
func (s *Schedule) Due(last, now time.Time) []time.Time {
	var due []time.Time
	for t := s.Before(now); t.After(last) && len(due) < MaxDue; t = s.Before(t.Add(-1)) {
		due = append(due, t)
	}
	slices.Reverse(due)
	return due
}

// From here on, what the wall clock of the zone shows is written as a time in UTC that shows the same.

// next returns the first time on the wall clock after wall that the expression names; zero if there is none.
func (s *Schedule) next(wall time.Time) time.Time {
	for range 2 { // cron looks five years ahead; around 2100, 29 February is missing for eight
		if next := s.wall.Next(wall); !next.IsZero() {
			return next
		}
		wall = wall.AddDate(4, 0, 0)
	}
	return time.Time{}
}

// before returns the last time on the wall clock that is not after wall and that the expression names.
func (s *Schedule) before(wall time.Time) time.Time {
	for days := 1; ; days *= 2 {
		found := s.next(wall.AddDate(0, 0, -days))
		if found.After(wall) {
			continue
		}
		for {
			later := s.next(found)
			if later.After(wall) {
				return found
			}
			found = later
		}
	}
}

// maxShift is more than clocks were ever set back, which was a day; maxOffset more than any zone
// is away from UTC.
const (
	maxShift  = 48 * time.Hour
	maxOffset = 24 * time.Hour
)

// latest returns the latest time that the wall clock has shown up to t. It differs from what it
// shows at t where an hour repeats.
func (s *Schedule) latest(t time.Time) time.Time {
	t = t.In(s.zone)
	latest := onWall(t)
	for start, _ := t.ZoneBounds(); !start.IsZero() && t.Sub(start) < maxShift; {
		last := start.Add(-1)
		if shown := onWall(last); shown.After(latest) {
			latest = shown
		}
		start, _ = last.ZoneBounds()
	}
	return latest
}

// instant returns the first instant at which the wall clock shows wall or a later time.
func (s *Schedule) instant(wall time.Time) time.Time {
	t := wall.Add(-maxOffset - maxShift).In(s.zone) // earlier than that
	for {
		end := offsetEnd(t)
		shows := t.Add(wall.Sub(onWall(t)))
		if shows.Before(t) {
			shows = t // the clock was set forward, over wall
		}
		if end.IsZero() || shows.Before(end) {
			return shows
		}
		t = end.In(s.zone)
	}
}

// offsetEnd returns an instant after t, in its zone, up to which the zone's offset does not change;
// zero if it does not change any more.
func offsetEnd(t time.Time) time.Time {
	_, end := t.ZoneBounds()
	if !end.IsZero() && !end.After(t) {
		// Where a zone has a rule for all years to come, Go 1.26 takes each to have 365 days. On
		// 31 December of a leap year the end that it gives has passed.
		return time.Date(t.UTC().Year()+1, 1, 1, 0, 0, 0, 0, time.UTC).In(t.Location())
	}
	return end
}

// onWall returns what the wall clock shows at t.
func onWall(t time.Time) time.Time {
	year, month, day := t.Date()
	hour, minute, second := t.Clock()
	return time.Date(year, month, day, hour, minute, second, t.Nanosecond(), time.UTC)
}
