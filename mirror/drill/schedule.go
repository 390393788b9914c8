package drill

import (
	"cmp"
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/robfig/cron/v3"
)

// Scheduled is a drill that is run again and again.
type Scheduled struct {
	// Cron has five fields (minute, hour, day of month, month, day of week), or is such as @weekly. It
	// is in UTC.
	Cron      string        `json:"cron"`
	Scenario  string        `json:"scenario"`
	Component string        `json:"component,omitempty"`
	For       time.Duration `json:"-"`
	Ticket    string        `json:"ticket"`
	Next      time.Time     `json:"next"` // when it is due; set by Schedule
}

type planned struct {
	Scheduled

	times cron.Schedule
}

// scheduledBy is who runs what is scheduled.
const scheduledBy = "schedule"

// plan reads the schedule. Whatever can be known to be refused then, is refused now.
func (r *Runner) plan(all []Scheduled) ([]*planned, error) {
	var plan []*planned
	for _, s := range all {
		fail := func(format string, args ...any) ([]*planned, error) {
			return nil, fmt.Errorf("scheduled drill %s: "+format, append([]any{cmp.Or(s.Scenario, "without a scenario")}, args...)...)
		}
		if _, err := findScenario(s.Scenario); err != nil {
			return fail("%w", err)
		}
		if strings.TrimSpace(s.Ticket) == "" {
			return fail("%w", ErrNoTicket)
		}
		if least := r.cfg.Targets.Detect + r.cfg.Targets.FallBack; s.For < least || s.For > r.cfg.MaxDuration {
			return fail("%w: %s; take at least %s and at most %s", ErrLength, s.For, least, r.cfg.MaxDuration)
		}
		if strings.Contains(s.Cron, "TZ=") || strings.HasPrefix(s.Cron, "@every") {
			return fail("cron %q: name times in UTC, such as 0 10 * * 2 or @weekly", s.Cron)
		}
		times, err := cron.ParseStandard(s.Cron)
		if err != nil {
			return fail("cron %q: want minute, hour, day of month, month and day of week, such as 0 10 * * 2: %w", s.Cron, err)
		}
		p := &planned{Scheduled: s, times: times}
		if p.next(r.cfg.Now()).IsZero() {
			return fail("cron %q: it never fires: there is no such day or time", s.Cron)
		}
		plan = append(plan, p)
	}
	return plan, nil
}

func (p *planned) next(after time.Time) time.Time { return p.times.Next(after.UTC()) }

// Schedule returns what is scheduled, and when each is due.
func (r *Runner) Schedule() []Scheduled {
	all := make([]Scheduled, len(r.scheduled))
	for i, p := range r.scheduled {
		all[i] = p.Scheduled
		all[i].Next = p.next(r.cfg.Now())
	}
	return all
}

// Of the times of a schedule: how often the clock is looked at, and how late a drill may begin. What
// is later than that, because the machine slept or its clock jumped, is left out: nobody waits for it.
const (
	scheduleEvery = 10 * time.Second
	maxLate       = 5 * time.Minute
)

// follow runs what is scheduled until ctx ends.
func (r *Runner) follow(ctx context.Context) {
	if len(r.scheduled) == 0 {
		return
	}
	due := make([]time.Time, len(r.scheduled))
	for i, p := range r.scheduled {
		due[i] = p.next(r.cfg.Now())
	}
	every(ctx, scheduleEvery, func() bool {
		now := r.cfg.Now()
		for i, p := range r.scheduled {
			if now.Before(due[i]) {
				continue
			}
			if late := now.Sub(due[i]); late > maxLate {
				r.cfg.Logger.Warn("a scheduled drill is left out: its time is past", "scenario", p.Scenario, "due", due[i], "late", late)
				r.cfg.Metrics.skipped(p.Scenario)
			} else {
				r.startScheduled(ctx, p)
			}
			due[i] = p.next(now)
		}
		return true
	}, nil)
}

func (r *Runner) startScheduled(ctx context.Context, p *planned) {
	_, err := r.Start(ctx, Request{Scenario: p.Scenario, Component: p.Component, For: p.For, Ticket: p.Ticket, By: scheduledBy})
	if err != nil && ctx.Err() == nil {
		r.cfg.Logger.Warn("a scheduled drill did not begin", "scenario", p.Scenario, "component", p.Component, "code", Code(err), "error", err)
		r.cfg.Metrics.skipped(p.Scenario)
	}
}
