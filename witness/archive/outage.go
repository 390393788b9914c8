package archive

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"
)

// What an outage is.
const (
	outageStopped     = "stopped"
	outageUnreachable = "unreachable"
	outageQuarantined = "quarantined"
)

const (
	outagePrefix    = "outage "
	heartbeatRecord = "archive was running"
	// beatEvery is how often is written down that we run; a longer time without is an outage.
	beatEvery = time.Minute
	// unseen is how long nothing may be seen of a log before that is an outage, unless it is looked
	// at less often.
	unseen = 3 * time.Minute
)

// outages are what was not seen. Archive.mu guards it.
type outages struct {
	open map[string]Outage // by origin, those that last
}

func outageName(o Outage) string {
	return fmt.Sprintf("%s%020d %s", outagePrefix, o.From.UnixNano(), o.Origin)
}

// openOutages reads the outages that last, and finds out for how long we did not run.
func (a *Archive) openOutages() error {
	a.outage.open = map[string]Outage{}
	if err := a.eachOutage(func(o Outage) {
		if o.To == nil {
			a.outage.open[o.Origin] = o
		}
	}); err != nil {
		return err
	}
	raw, err := a.cfg.DB.Record(heartbeatRecord)
	if err != nil {
		return err
	}
	now := a.now()
	var last time.Time
	if raw != nil {
		if err := last.UnmarshalText(raw); err != nil {
			return fmt.Errorf("record %q: %w", heartbeatRecord, err)
		}
		if now.Sub(last) > 3*beatEvery {
			err = a.putOutage(Outage{What: outageStopped, From: Time{last}, To: &Time{now}, Text: "The Understudy that made this pack did not run."})
		}
	}
	return errors.Join(err, a.beat(now))
}

func (a *Archive) beat(now time.Time) error {
	text, err := now.MarshalText()
	return errors.Join(err, a.cfg.DB.PutRecord(heartbeatRecord, text))
}

func (a *Archive) putOutage(o Outage) error {
	raw, err := json.Marshal(o)
	return errors.Join(err, a.cfg.DB.PutRecord(outageName(o), raw))
}

func (a *Archive) eachOutage(yield func(Outage)) error {
	return a.cfg.DB.Records(outagePrefix, func(name string, raw []byte) error {
		var o Outage
		if err := json.Unmarshal(raw, &o); err != nil {
			return fmt.Errorf("record %q: %w", name, err)
		}
		yield(o)
		return nil
	})
}

// watch notes when nothing is seen of a log, until ctx ends.
func (a *Archive) watch(ctx context.Context) error {
	var beaten time.Time
	for {
		now := a.now()
		if now.Sub(beaten).Abs() >= beatEvery {
			beaten = now
			if err := a.beat(now); err != nil {
				return err
			}
		}
		for _, s := range a.cfg.Sources() {
			if err := a.look(s, now); err != nil {
				return err
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(lookEvery):
		}
	}
}

// look begins or ends the outage of a log.
func (a *Archive) look(s Source, now time.Time) error {
	st := s.Tree.State()
	a.mu.Lock()
	defer a.mu.Unlock()
	o, lasts := a.outage.open[s.Origin]
	seen, unseen := st.Pending.LastSeen, max(unseen, 3*s.Poll)
	switch {
	case !lasts && st.Evidence != nil:
		o = Outage{Origin: s.Origin, What: outageQuarantined, From: Time{st.Evidence.At}, Text: st.Evidence.Reason}
	case !lasts && s.Followed && st.Pending.Raw != nil && now.Sub(seen) > unseen:
		o = Outage{Origin: s.Origin, What: outageUnreachable, From: Time{seen}, Text: "The log, or what stands before it, did not answer in order."}
	case lasts && o.What == outageUnreachable && seen.After(o.From.Time) && now.Sub(seen) <= unseen:
		o.To = &Time{seen}
	default:
		return nil
	}
	if err := a.putOutage(o); err != nil {
		return err
	}
	if a.outage.open[s.Origin] = o; o.To != nil {
		delete(a.outage.open, s.Origin)
	}
	return nil
}

// outagesIn returns the outages that overlap a period.
func (a *Archive) outagesIn(from, to time.Time) (all []Outage, err error) {
	err = a.eachOutage(func(o Outage) {
		if o.From.Before(to) && (o.To == nil || o.To.After(from)) {
			all = append(all, o)
		}
	})
	return all, err
}
