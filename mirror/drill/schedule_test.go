package drill

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/understudy-log/understudy/test/bubble"
)

func TestSchedule(t *testing.T) {
	bubble.Run(t, func(t *testing.T) { // it begins at midnight
		h := newHouse(t, sound)
		h.config = func(c *Config) {
			c.Schedule = []Scheduled{
				{Cron: "2 0 * * *", Scenario: "write-only", Component: "rekor", For: time.Minute, Ticket: "OPS-3"},
				{Cron: "3 0 * * *", Scenario: "cdn-gone", For: time.Minute, Ticket: "OPS-4"},
				{Cron: "5 0 * * 0,6", Scenario: "fork", For: time.Minute, Ticket: "OPS-5"},
			}
		}
		h.start()
		defer h.close()
		at := func(clock string) time.Time {
			return must[time.Time](t)(time.Parse(time.RFC3339, "2000-01-"+clock+"Z"))
		}
		until := func(clock string) { time.Sleep(at(clock).Sub(h.now())) }
		next := h.runner.Schedule()
		if len(next) != 3 || !next[0].Next.Equal(at("01T00:02:00")) || !next[1].Next.Equal(at("01T00:03:00")) || !next[2].Next.Equal(at("01T00:05:00")) {
			t.Errorf("schedule %+v", next)
		}
		until("01T00:01:59")
		if h.runner.Active() != nil || len(h.runner.History(0)) != 0 {
			t.Error("too early")
		}
		until("01T00:02:11")
		if a := h.runner.Active(); a == nil || a.Scenario != "write-only" || a.By != "schedule" || a.Ticket != "OPS-3" {
			t.Fatalf("active %+v", a)
		}
		until("01T00:03:30") // the second one met the end of the first, and was not begun
		if all := h.runner.History(0); len(all) != 1 || all[0].Outcome != outcomePassed {
			t.Errorf("history %+v", all)
		}
		until("01T00:07:00")
		if all := h.runner.History(0); len(all) != 2 || all[0].Scenario != "fork" || all[0].Outcome != outcomePassed {
			t.Errorf("history %+v", all)
		}
		// The clock jumps over times, back, and on: nothing is begun late, and nothing twice.
		h.skew.Store(int64(24*time.Hour + 10*time.Minute))
		time.Sleep(time.Minute)
		h.skew.Store(0)
		time.Sleep(time.Minute)
		h.skew.Store(int64(time.Until(at("03T00:01:30"))))
		time.Sleep(20 * time.Second)
		if all := h.runner.History(0); len(all) != 2 || h.runner.Active() != nil {
			t.Errorf("history %+v", all)
		}
		until("03T00:02:11")
		if a := h.runner.Active(); a == nil || a.Scenario != "write-only" {
			t.Fatalf("active %+v", a)
		}
		h.wait("drill-3")
	})
}

func TestBadSchedule(t *testing.T) {
	good := Scheduled{Cron: "0 10 * * 2", Scenario: "refuse", For: time.Minute, Ticket: "OPS-1"}
	for _, c := range []struct {
		change func(*Scheduled)
		want   string
		is     error
	}{
		{func(*Scheduled) {}, "", nil},
		{func(s *Scheduled) { s.Scenario = "refuze" }, "refuze", ErrUnknown},
		{func(s *Scheduled) { s.Ticket = "" }, "ticket", ErrNoTicket},
		{func(s *Scheduled) { s.For = time.Hour }, "at most 30m", ErrLength},
		{func(s *Scheduled) { s.For = 0 }, "at least 15s", ErrLength},
		{func(s *Scheduled) { s.Cron = "0 10 * *" }, "0 10 * * 2", nil},
		{func(s *Scheduled) { s.Cron = "@every 1h" }, "in UTC", nil},
		{func(s *Scheduled) { s.Cron = "CRON_TZ=Europe/Berlin 0 10 * * *" }, "in UTC", nil},
		{func(s *Scheduled) { s.Cron = "0 10 30 2 *" }, "never fires", nil},
	} {
		s := good
		c.change(&s)
		r := &Runner{cfg: Config{MaxDuration: DefaultMaxDuration, Targets: Targets{}.orDefault(), Now: time.Now}}
		_, err := r.plan([]Scheduled{s})
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want) || c.is != nil && !errors.Is(err, c.is)) {
			t.Errorf("%+v: %v", s, err)
		}
	}
}
