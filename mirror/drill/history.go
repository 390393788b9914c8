package drill

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/understudy-log/understudy/mirror/ledger"
	"github.com/understudy-log/understudy/mirror/outage"
	"github.com/understudy-log/understudy/storage"
)

// maxKept is how many results are kept; of older ones the rows of the ledger remain.
const maxKept = 500

const (
	resultPrefix = "drill-result " // and number modulo maxKept
	passedRecord = "drill-passed"  // when each scenario passed last: by name
)

// history is the results that are kept. What it tells is durable.
type history struct {
	db     *storage.DB
	ledger *ledger.Ledger

	mu      sync.Mutex // guards the fields below
	results []Result   // oldest first
	passed  map[string]time.Time
}

func openHistory(db *storage.DB, l *ledger.Ledger) (*history, error) {
	h := &history{db: db, ledger: l, passed: map[string]time.Time{}}
	err := db.Records(resultPrefix, func(name string, record []byte) error {
		var res Result
		if err := json.Unmarshal(record, &res); err != nil {
			return fmt.Errorf("record %q: %w", name, err)
		}
		h.results = append(h.results, res)
		return nil
	})
	if err != nil {
		return nil, err
	}
	slices.SortFunc(h.results, func(a, b Result) int { return cmp.Compare(a.Number, b.Number) })
	record, err := db.Record(passedRecord)
	if err != nil || record == nil {
		return h, err
	}
	if err := json.Unmarshal(record, &h.passed); err != nil {
		return nil, fmt.Errorf("record %q: %w", passedRecord, err)
	}
	return h, nil
}

// row is the body of a row "drill".
type row struct {
	ID         string        `json:"id"`
	Event      string        `json:"event"` // started, detected, reverted, aborted, done or logged
	Scenario   string        `json:"scenario"`
	Component  string        `json:"component,omitempty"` // the first of Components
	Components []string      `json:"components,omitempty"`
	Until      time.Time     `json:"until"`
	Ticket     string        `json:"ticket"`
	By         string        `json:"by"`
	Outcome    string        `json:"outcome,omitempty"`
	Cause      *outage.Cause `json:"cause,omitempty"`
	Detect     *float64      `json:"detect_seconds,omitempty"`
	// Result is all that is known when a drill has ended.
	Result *Result `json:"result,omitempty"`
	Place  *Place  `json:"place,omitempty"`
}

func rowOf(event string, res *Result) row {
	r := row{ID: res.ID, Event: event, Scenario: res.Scenario, Components: res.Components, Until: res.Until, Ticket: res.Ticket, By: res.By}
	if len(res.Components) > 0 {
		r.Component = res.Components[0]
	}
	switch event {
	case "detected":
		r.Detect = res.Detect
	case "done", "aborted":
		r.Outcome, r.Cause, r.Result = res.Outcome, res.Cause, res
	case "logged":
		r.Outcome, r.Place = res.Outcome, res.Place
	}
	return r
}

// row appends a row that changes nothing that is kept.
func (h *history) row(event string, res Result) error {
	_, err := h.ledger.Append(ledger.Entry{Kind: "drill", Body: rowOf(event, &res)})
	return err
}

// start records that a drill begins, and returns the number of the row.
func (h *history) start(res Result) (seq uint64, err error) { return h.put("started", res) }

// keep records a result that has changed.
func (h *history) keep(event string, res Result) error {
	_, err := h.put(event, res)
	return err
}

func (h *history) put(event string, res Result) (seq uint64, err error) {
	record, err := json.Marshal(res)
	if err != nil {
		return 0, err
	}
	records := map[string][]byte{fmt.Sprintf("%s%03d", resultPrefix, res.Number%maxKept): record}
	h.mu.Lock()
	passed := maps.Clone(h.passed)
	h.mu.Unlock()
	if event == "done" && res.Outcome == outcomePassed {
		passed[res.Scenario] = res.Ended
		if records[passedRecord], err = json.Marshal(passed); err != nil {
			return 0, err
		}
	}
	rows, err := h.ledger.Append(ledger.Entry{Kind: "drill", Body: rowOf(event, &res), Records: records})
	if err != nil {
		return 0, err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.passed = passed
	if i := slices.IndexFunc(h.results, func(r Result) bool { return r.Number == res.Number }); i >= 0 {
		h.results[i] = res
	} else {
		h.results = append(h.results, res)
		h.results = h.results[max(0, len(h.results)-maxKept):]
	}
	return rows[0].Seq, nil
}

// next is the number of the next drill.
func (h *history) next() uint64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.results) == 0 {
		return 1
	}
	return h.results[len(h.results)-1].Number + 1
}

func (h *history) unfinished() []Result {
	return h.filter(func(res *Result) bool { return res.Outcome == outcomeRunning })
}

// unlogged are the results whose report is not in the private log.
func (h *history) unlogged() []Result {
	return h.filter(func(res *Result) bool { return res.Outcome != outcomeRunning && res.Place == nil })
}

func (h *history) filter(keep func(*Result) bool) []Result {
	h.mu.Lock()
	defer h.mu.Unlock()
	var found []Result
	for i := range h.results {
		if keep(&h.results[i]) {
			found = append(found, h.results[i])
		}
	}
	return found
}

func (h *history) newest(limit int) []Result {
	all := h.filter(func(*Result) bool { return true })
	slices.Reverse(all)
	if limit > 0 && len(all) > limit {
		all = all[:limit]
	}
	return all
}

// find returns the result of a drill that has ended.
func (h *history) find(id string) (Result, bool) {
	found := h.filter(func(res *Result) bool { return res.Outcome != outcomeRunning && (id == "" || id == res.ID) })
	if len(found) == 0 {
		return Result{}, false
	}
	return found[len(found)-1], true
}

// lastPassed returns when each scenario passed last.
func (h *history) lastPassed() map[string]time.Time {
	h.mu.Lock()
	defer h.mu.Unlock()
	return maps.Clone(h.passed)
}

// lapses counts, out of the ledger, how often components fell back since a row.
func (h *history) lapses(since uint64, parts []part) (map[string]int, error) {
	lapses := map[string]int{}
	err := h.ledger.Rows(since+1, func(row ledger.Row) error {
		var change outage.Change
		if row.Kind != "state" {
			return nil
		}
		if err := row.Decode(&change); err != nil {
			return err
		}
		if change.To == outage.Fallback && !change.Forced && slices.ContainsFunc(parts, func(p part) bool { return p.name == change.Component }) {
			lapses[change.Component]++
		}
		return nil
	})
	return lapses, err
}
