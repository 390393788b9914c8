package reconcile

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"time"
)

const (
	appendTime  = 20 * time.Second
	appendTries = 3   // until a report is kept without a place in the private log
	mostReports = 999 // that Reports returns
)

// writeReport writes and signs the report. It is durable before it is appended, so that after a crash the
// same bytes are, which have one place.
func (r *Reconciler) writeReport(x *run) error {
	d := r.document(x)
	p := &Report{ID: x.ID, Log: x.Log, At: d.Finished, Kind: x.Kind, Outcome: d.Outcome, JSON: d.encode(), Markdown: d.markdown()}
	p.Signed = p.JSON
	if r.cfg.Sign != nil {
		var err error
		if p.Signed, err = r.cfg.Sign(p.JSON); err != nil {
			return fmt.Errorf("sign the report: %w", err)
		}
	}
	records := map[string][]byte{}
	put(records, reportRecord+x.ID, p)
	sum := sha256.Sum256(p.JSON)
	x.Phase = phaseAppend
	return r.keep(x, records, row{Event: "report", Report: hex.EncodeToString(sum[:]), Outcome: d.Outcome})
}

// finish appends the report to the private log, records that the run is over. That the log may
// be live is said after that, by whom looks what is due: also if a crash comes in between.
func (r *Reconciler) finish(ctx context.Context, x *run) error {
	p := new(Report)
	if found, err := r.get(reportRecord+x.ID, p); err != nil || !found {
		return &storageError{fmt.Errorf("the report %s is not kept (%w)", x.ID, err)}
	}
	if r.cfg.AppendReport != nil && p.Place == nil {
		place, err := r.appendReport(ctx, p)
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		// A log must not stay away because another one takes no report.
		if p.Problem = ""; err != nil {
			p.Problem = plain(err.Error(), maxRefusal)
			r.cfg.Logger.Error("the report of a reconciliation is kept, and could not be appended to the private log", "id", x.ID, "error", err)
		} else {
			p.Place = &place
		}
	}
	now := r.cfg.Now()
	f := &finished{ID: x.ID, At: now.UTC(), HeadAt: x.HeadAt, Outcome: p.Outcome, Exceptions: x.Exceptions.Kept != ""}
	records := map[string][]byte{runRecord + x.Log: {}, heldRecord + x.Log: {}}
	put(records, doneRecord+x.Log, f)
	put(records, reportRecord+x.ID, p)
	var still *held // what was held counts until upstream is seen to extend it
	if x.Finding != nil && x.Log != "" {
		still = &held{x.HeldAt, x.Heads}
		put(records, heldRecord+x.Log, still)
	}
	r.clearExceptions(x, records)
	body := row{ID: x.ID, Log: x.Log, Event: "done", Outcome: p.Outcome, Place: p.Place, Text: p.Problem}
	if err := r.append(records, body); err != nil {
		return err
	}
	r.mu.Lock()
	r.done[x.Log], r.last, r.lastLog = f, f, x.Log
	delete(r.runs, x.Log)
	delete(r.until, x.Log)
	delete(r.held, x.Log)
	if still != nil {
		r.held[x.Log] = still
	}
	if x.Log == "" {
		for _, other := range r.done {
			other.Exceptions = other.Exceptions && x.Exceptions.Kept != ""
		}
	}
	r.took = append(r.took, now.Sub(x.Started))
	r.took = r.took[max(0, len(r.took)-101):]
	r.mu.Unlock()
	r.cfg.Metrics.over(p.Outcome)
	r.cfg.Metrics.finished(now, now.Sub(x.Started))
	return nil
}

// clearExceptions records that exceptions which were kept open are closed, or looked at again later.
func (r *Reconciler) clearExceptions(x *run, records map[string][]byte) {
	if x.Log != "" || x.Exceptions.Kept != "" {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for log, f := range r.done {
		if f.Exceptions && log != "" {
			closed := *f
			closed.Exceptions = false
			put(records, doneRecord+log, &closed)
		}
	}
}

func (r *Reconciler) appendReport(ctx context.Context, p *Report) (place Place, err error) {
	for try := range appendTries {
		limited, cancel := context.WithTimeout(ctx, appendTime) // witnesses may be away, without whom there is no answer
		place, err = r.cfg.AppendReport(limited, p.Signed)
		if cancel(); err == nil {
			return place, nil
		}
		if pause(ctx, max(r.backoff(try), min(retryAfter(err), r.longest))) != nil {
			break
		}
	}
	return place, err
}

// Reports returns the reports from a time to another, both included, oldest first; of very many the last
// 999.
func (r *Reconciler) Reports(from, to time.Time) ([]Report, error) {
	var out []Report
	var ids []string
	err := r.cfg.DB.RecordsFrom(reportRecord, reportRecord, func(name string, _ []byte) error {
		ids = append(ids, strings.TrimPrefix(name, reportRecord))
		return nil
	})
	if err != nil {
		return nil, err
	}
	for _, id := range ids {
		p, err := r.Report(id)
		if err != nil {
			return nil, err
		}
		if p != nil && !p.At.Before(from) && !p.At.After(to) {
			out = append(out, *p)
		}
	}
	slices.SortStableFunc(out, func(a, b Report) int { return a.At.Compare(b.At) })
	return out[max(0, len(out)-mostReports):], nil
}

// Report returns the report of an ID; nil if there is none.
func (r *Reconciler) Report(id string) (*Report, error) {
	p := new(Report)
	found, err := r.get(reportRecord+id, p)
	if err != nil || !found {
		return nil, err
	}
	return p, nil
}
