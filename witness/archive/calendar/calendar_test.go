package calendar_test

import (
	"slices"
	"strings"
	"testing"
	"time"
	_ "time/tzdata"

	"pgregory.net/rapid"

	"github.com/understudy-log/understudy/witness/archive/calendar"
)

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func TestParse(t *testing.T) {
	for _, c := range []struct{ expression, zone, reason string }{
		{"@weekly", "", ""},
		{" @daily ", "UTC", ""},
		{"@hourly", "Europe/Berlin", ""},
		{"@yearly", "Europe/Berlin", ""},
		{"0 0 29 2 *", "Europe/Berlin", ""},
		{"0 0 31 2 1", "Europe/Berlin", ""}, // on Mondays
		{"59 */2 1-7 JAN,feb MON", "Europe/Berlin", ""},
		{"*/60 * * * *", "UTC", ""},
		{"", "UTC", "want minute, hour"},
		{"@fortnightly", "UTC", "want minute, hour"},
		{"0 0 * *", "UTC", "want minute, hour"},
		{"0 0 0 * * *", "UTC", "want minute, hour"},
		{"60 0 * * *", "UTC", "want minute, hour"},
		{"0 0 * * 7", "UTC", "want minute, hour"},
		{"@every 1h", "UTC", "@every counts from when the program starts"},
		{"TZ=Europe/Berlin 0 0 * * *", "UTC", "setting of its own"},
		{"CRON_TZ=UTC", "UTC", "setting of its own"},
		{"* * * * *", "UTC", "60 times an hour"},
		{"*/30 * * * *", "UTC", "2 times an hour"},
		{"0,1 0 1 1 *", "UTC", "2 times an hour"},
		{"0 0 31 2 *", "UTC", "never fires"},
		{"0 0 30,31 2 *", "UTC", "never fires"},
		{", 0 * * *", "UTC", "never fires"},
		{"0 , * * *", "UTC", "never fires"},
		{"0 0 , * *", "UTC", "never fires"},
		{"@weekly", "Local", "another on each machine"},
		{"@weekly", "Europe/Atlantis", `time zone "Europe/Atlantis" is not known`},
		{"@weekly", "../etc/passwd", "is not known"},
	} {
		_, err := calendar.Parse(c.expression, c.zone)
		if c.reason == "" && err != nil || c.reason != "" && (err == nil || !strings.Contains(err.Error(), c.reason)) {
			t.Errorf("%q in %q: %v, want %q", c.expression, c.zone, err, c.reason)
		}
	}
}

// TestClocks: what is said in the package's documentation, at changes that have been.
func TestClocks(t *testing.T) {
	for _, c := range []struct{ zone, expression, from, want string }{
		// Set forward: 02:30 is not shown, and is 03:00.
		{"Europe/Berlin", "30 2 * * *", "2024-03-30T12:00:00+01:00", "2024-03-31T03:00:00+02:00 2024-04-01T02:30:00+02:00"},
		{"Europe/Berlin", "0 * * * *", "2024-03-31T00:30:00+01:00", "2024-03-31T01:00:00+01:00 2024-03-31T03:00:00+02:00 2024-03-31T04:00:00+02:00"},
		{"Europe/Berlin", "30 2,3 * * *", "2024-03-30T12:00:00+01:00", "2024-03-31T03:00:00+02:00 2024-03-31T03:30:00+02:00"},
		{"Europe/Berlin", "0 0 31 3 *", "2024-03-30T12:00:00+01:00", "2024-03-31T00:00:00+01:00"},
		// Set back: 02:00 to 03:00 is shown twice, and counts once.
		{"Europe/Berlin", "30 2 * * *", "2024-10-26T12:00:00+02:00", "2024-10-27T02:30:00+02:00 2024-10-28T02:30:00+01:00"},
		{"Europe/Berlin", "0 * * * *", "2024-10-27T00:30:00+02:00", "2024-10-27T01:00:00+02:00 2024-10-27T02:00:00+02:00 2024-10-27T03:00:00+01:00"},
		{"Europe/Berlin", "30 2 * * *", "2024-10-27T02:15:00+01:00", "2024-10-28T02:30:00+01:00"}, // from within the repetition
		{"America/New_York", "30 2 * * *", "2024-03-09T12:00:00-05:00", "2024-03-10T03:00:00-04:00 2024-03-11T02:30:00-04:00"},
		{"America/New_York", "30 1 * * *", "2024-11-02T12:00:00-04:00", "2024-11-03T01:30:00-04:00 2024-11-04T01:30:00-05:00"},
		// By half an hour.
		{"Australia/Lord_Howe", "15 2 * * *", "2024-10-05T12:00:00+10:30", "2024-10-06T02:30:00+11:00 2024-10-07T02:15:00+11:00"},
		{"Australia/Lord_Howe", "45 1 * * *", "2024-04-06T12:00:00+11:00", "2024-04-07T01:45:00+11:00 2024-04-08T01:45:00+10:30"},
		// In Ramadan.
		{"Africa/Casablanca", "30 2 * * *", "2024-03-09T12:00:00+01:00", "2024-03-10T02:30:00+01:00 2024-03-11T02:30:00Z"},
		{"Africa/Casablanca", "30 2 * * *", "2024-04-13T12:00:00Z", "2024-04-14T03:00:00+01:00 2024-04-15T02:30:00+01:00"},
		// Without 30 December 2011, a Friday.
		{"Pacific/Apia", "0 12 * * *", "2011-12-29T11:00:00-10:00", "2011-12-29T12:00:00-10:00 2011-12-31T00:00:00+14:00 2011-12-31T12:00:00+14:00"},
		{"Pacific/Apia", "0 * 30 12 *", "2011-12-29T11:00:00-10:00", "2011-12-31T00:00:00+14:00 2012-12-30T00:00:00+14:00"},
		{"Pacific/Apia", "0 3 * * 5", "2011-12-29T11:00:00-10:00", "2011-12-31T00:00:00+14:00 2012-01-06T03:00:00+14:00"},
		// With 30 September 1969 twice.
		{"Pacific/Kwajalein", "0 12 * * *", "1969-09-30T00:00:00+11:00", "1969-09-30T12:00:00+11:00 1969-10-01T12:00:00-12:00"},
		// Leap days, also where three years in a row have none.
		{"UTC", "0 0 29 2 *", "2096-02-28T00:00:00Z", "2096-02-29T00:00:00Z 2104-02-29T00:00:00Z"},
		{"UTC", "0 0 29 2 *", "2099-06-01T00:00:00Z", "2104-02-29T00:00:00Z 2108-02-29T00:00:00Z"},
		// The last days of leap years, of which Go's zones go wrong.
		{"Europe/Berlin", "0 12 * * *", "2028-12-30T13:00:00+01:00", "2028-12-31T12:00:00+01:00 2029-01-01T12:00:00+01:00"},
		{"Europe/Berlin", "0 12 * * *", "2076-12-30T13:00:00+01:00", "2076-12-31T12:00:00+01:00 2077-01-01T12:00:00+01:00"},
		{"Australia/Lord_Howe", "0 12 * * *", "2076-12-30T13:00:00+11:00", "2076-12-31T12:00:00+11:00 2077-01-01T12:00:00+11:00"},
		{"UTC", "@weekly", "2024-02-25T00:00:00Z", "2024-03-03T00:00:00Z 2024-03-10T00:00:00Z"},
	} {
		s := must(calendar.Parse(c.expression, c.zone))
		from := must(time.Parse(time.RFC3339, c.from))
		var got []string
		at := from
		for range strings.Fields(c.want) {
			at = s.Next(at)
			got = append(got, at.Format(time.RFC3339))
			if before := s.Before(at); !before.Equal(at) {
				t.Errorf("%s %q: %v is followed by %v, which is said to be preceded by %v", c.zone, c.expression, from, at, before)
			}
		}
		if got := strings.Join(got, " "); got != c.want {
			t.Errorf("%s %q from %s:\n got %s\nwant %s", c.zone, c.expression, c.from, got, c.want)
		}
	}
}

// zones and expressions of the tests below; each expression with a second opinion on what it says.
var (
	zones       = []string{"UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Africa/Casablanca", "Pacific/Apia", "Pacific/Kwajalein", "America/Sao_Paulo", "Asia/Kathmandu", "Antarctica/Troll"}
	expressions = map[string]func(wall time.Time) bool{
		"@hourly":        func(w time.Time) bool { return w.Minute() == 0 },
		"30 * * * *":     func(w time.Time) bool { return w.Minute() == 30 },
		"@daily":         func(w time.Time) bool { return w.Hour() == 0 && w.Minute() == 0 },
		"15 2 * * *":     func(w time.Time) bool { return w.Hour() == 2 && w.Minute() == 15 },
		"45 1,2,3 * * *": func(w time.Time) bool { return w.Hour() >= 1 && w.Hour() <= 3 && w.Minute() == 45 },
		"@weekly":        func(w time.Time) bool { return w.Weekday() == time.Sunday && w.Hour() == 0 && w.Minute() == 0 },
		"0 2 * * 0,5": func(w time.Time) bool {
			return (w.Weekday() == time.Sunday || w.Weekday() == time.Friday) && w.Hour() == 2 && w.Minute() == 0
		},
		"0 2 1-7 * 0": func(w time.Time) bool {
			return (w.Weekday() == time.Sunday || w.Day() <= 7) && w.Hour() == 2 && w.Minute() == 0
		},
		"30 23 */2 * *": func(w time.Time) bool { return w.Day()%2 == 1 && w.Hour() == 23 && w.Minute() == 30 },
	}
)

// TestAgainstClock lets clocks run, minute by minute, over every change in some years.
func TestAgainstClock(t *testing.T) {
	for _, zone := range zones {
		location := must(time.LoadLocation(zone))
		for _, year := range []int{1969, 1993, 2011, 2024, 2026} {
			for _, change := range changes(location, year) {
				for expression, names := range expressions {
					s := must(calendar.Parse(expression, zone))
					start, end := change.Add(-50*time.Hour), change.Add(50*time.Hour)
					want := watch(location, start, end, names)
					var got []time.Time
					for at := s.Next(start); !at.After(end); at = s.Next(at) {
						got = append(got, at.UTC())
					}
					if !slices.Equal(got, want) {
						t.Errorf("%s %q at %v:\n got %v\nwant %v", zone, expression, change, got, want)
					}
					due := s.Due(start, end)
					if len(want) > calendar.MaxDue {
						want = want[len(want)-calendar.MaxDue:]
					}
					if !slices.EqualFunc(due, want, time.Time.Equal) {
						t.Errorf("%s %q at %v:\n due %v\nwant %v", zone, expression, change, due, want)
					}
				}
			}
		}
	}
}

// changes are the instants of a year at which clocks are changed, to the minute; one in the middle if there are none.
func changes(location *time.Location, year int) []time.Time {
	var found []time.Time
	at := time.Date(year, 1, 1, 0, 0, 0, 0, time.UTC)
	_, offset := at.In(location).Zone()
	for ; at.Year() == year; at = at.Add(time.Minute) {
		if _, now := at.In(location).Zone(); now != offset {
			found, offset = append(found, at), now
		}
	}
	if found == nil {
		found = []time.Time{time.Date(year, 6, 30, 12, 0, 0, 0, time.UTC)}
	}
	return found
}

// watch returns the instants after start up to end at which a clock shows, for the first time, a
// time that is named, or jumps over it.
func watch(location *time.Location, start, end time.Time, names func(time.Time) bool) []time.Time {
	wall := func(t time.Time) time.Time {
		_, offset := t.In(location).Zone()
		return t.UTC().Add(time.Duration(offset) * time.Second)
	}
	var fired []time.Time
	early := start.Add(-72 * time.Hour)
	for t, shown := early, wall(early); !t.After(end); t = t.Add(time.Minute) {
		for fires := false; shown.Before(wall(t)); {
			shown = shown.Add(time.Minute)
			if names(shown) && !fires {
				fires = true
				if t.After(start) {
					fired = append(fired, t)
				}
			}
		}
	}
	return fired
}

func TestProperties(t *testing.T) {
	schedules := map[string]*calendar.Schedule{}
	var keys []string
	for _, zone := range zones {
		for _, expression := range []string{"@hourly", "30 2 * * *", "@weekly", "59 23 31 * *", "0 0 29 2 *", "45 1-3 * * 0", "0 12 1 1,7 *"} {
			key := zone + " " + expression
			schedules[key] = must(calendar.Parse(expression, zone))
			keys = append(keys, key)
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		s := schedules[rapid.SampledFrom(keys).Draw(t, "schedule")]
		instant := func(name string) time.Time {
			return time.Unix(rapid.Int64Range(-1e9, 5e9).Draw(t, name), rapid.Int64Range(0, 999_999_999).Draw(t, name+" nanoseconds"))
		}
		at := instant("at")
		before, next := s.Before(at), s.Next(at)
		if before.After(at) || !next.After(at) {
			t.Fatalf("%v <= %v < %v does not hold", before, at, next)
		}
		if again := s.Next(before); !again.Equal(next) {
			t.Fatalf("%v is between %v and %v", again, before, next)
		}
		if again := s.Before(next); !again.Equal(next) {
			t.Fatalf("%v is not its own %v", next, again)
		}
		if again := s.Before(next.Add(-1)); !again.Equal(before) {
			t.Fatalf("%v is between %v and %v", again, before, next)
		}
		if again := s.Next(before.Add(-1)); !again.Equal(before) {
			t.Fatalf("%v is not after what precedes it, but %v", before, again)
		}

		// Of three instants, some 60 periods apart at most.
		period := s.Next(next).Sub(next)
		b := at.Add(time.Duration(rapid.Float64Range(0, 20).Draw(t, "b") * float64(period)))
		c := b.Add(time.Duration(rapid.Float64Range(0, 20).Draw(t, "c") * float64(period)))
		whole, parts := s.Due(at, c), slices.Concat(s.Due(at, b), s.Due(b, c))
		if len(whole) < calendar.MaxDue && !slices.EqualFunc(whole, parts, time.Time.Equal) {
			t.Fatalf("due in one %v, in two %v", whole, parts)
		}
		if !slices.IsSortedFunc(whole, time.Time.Compare) || len(whole) > calendar.MaxDue {
			t.Fatalf("due %v", whole)
		}
	})
}

func TestDue(t *testing.T) {
	s := must(calendar.Parse("@hourly", "UTC"))
	at := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	for _, c := range []struct {
		last, now time.Time
		want      int
		first     time.Time
	}{
		{at, at, 0, time.Time{}},
		{at, at.Add(-time.Hour), 0, time.Time{}},
		{at.Add(-1), at, 1, at},
		{at, at.Add(time.Hour - 1), 0, time.Time{}},
		{at, at.Add(time.Hour), 1, at.Add(time.Hour)},
		{at, at.Add(60 * time.Hour), 60, at.Add(time.Hour)},
		{at, at.Add(61 * time.Hour), 60, at.Add(2 * time.Hour)},
		{time.Time{}, at, 60, at.Add(-59 * time.Hour)},
	} {
		due := s.Due(c.last, c.now)
		if len(due) != c.want || len(due) > 0 && !due[0].Equal(c.first) {
			t.Errorf("due in (%v, %v]: %d, %v", c.last, c.now, len(due), due)
		}
	}
}

// FuzzParse: no expression panics, and what is accepted fires.
func FuzzParse(f *testing.F) {
	for _, expression := range []string{"@weekly", "0 3 * * 1", "59 */2 1-7 JAN,feb MON", "0 0 29 2 *", "CRON_TZ=UTC", "TZ=", "@every 1h", "0-59/70 , ? * *"} {
		f.Add(expression, "Europe/Berlin")
	}
	f.Fuzz(func(t *testing.T, expression, zone string) {
		s, err := calendar.Parse(expression, zone)
		if err != nil {
			return
		}
		at := time.Date(2026, 3, 29, 0, 59, 0, 0, time.UTC)
		if next, before := s.Next(at), s.Before(at); !next.After(at) || before.After(at) || before.IsZero() {
			t.Fatalf("%q in %q: %v, %v", expression, zone, before, next)
		}
	})
}
