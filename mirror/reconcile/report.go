package reconcile

import (
	"encoding/json"
	"fmt"
	"slices"
	"time"
)

const (
	reportVersion = 1
	listed        = 100 // items of each list in a report; the ledger has all
)

// Report is the report of one reconciliation.
type Report struct {
	ID   string
	Log  string // "" is all of them
	At   time.Time
	Kind string // recovery, operator or left_over
	// Outcome is done or quarantined.
	Outcome string
	// JSON is a Document, Markdown the same for people, and Signed what Config.Sign made of JSON.
	JSON, Markdown, Signed []byte
	Place                  *Place `json:",omitempty"` // in the private log; nil if it was not appended
	Problem                string `json:",omitempty"` // why it was not
}

// Document is the JSON of a report, version 1. Names never change their meaning within a version; readers
// pass over those that they do not know. Times are RFC 3339, hashes hex, bytes base64. Lists have at most
// 100 items beside the totals; the rows "reconcile" of the ledger with this id have all of them.
type Document struct {
	Version  int       `json:"version"`
	ID       string    `json:"id"`
	Log      string    `json:"log"`     // "" is all of them
	Kind     string    `json:"kind"`    // recovery, operator or left_over
	Outcome  string    `json:"outcome"` // done or quarantined
	Started  time.Time `json:"started"`
	Finished time.Time `json:"finished"`
	Seconds  float64   `json:"seconds"`
	// LedgerRows and LedgerHead are the number of rows of the ledger when this was written, and the hash
	// of the last one: whoever keeps this can check all rows before it.
	LedgerRows uint64 `json:"ledger_rows"`
	LedgerHead string `json:"ledger_head"`

	States []stateRow `json:"states"` // of all components when it began
	// HeldAt is when the heads were taken down that the proofs begin with. Consistency are the newest
	// proofs that what was held is a prefix of what the log has now; Proofs is how many there were.
	HeldAt      time.Time     `json:"held_at,omitzero"`
	Proofs      int           `json:"proofs"`
	Consistency []prefixProof `json:"consistency"`

	Decisions  decisionCounts    `json:"decisions"`
	Proposals  []*proposalCounts `json:"proposals"`
	Exceptions exceptionsReport  `json:"exceptions"`
	// Finding is why the log is quarantined; Evidence is what proves it, as received.
	Finding  *finding          `json:"finding,omitempty"`
	Evidence map[string][]byte `json:"evidence,omitempty"`
	Paused   int               `json:"paused"` // how often upstream went away again
	Pauses   []interruption    `json:"pauses"`
	// NotDone is everything that a reader might think was done and was not, a sentence each.
	NotDone []string `json:"not_done"`
}

// prefixProof is a consistency proof (RFC 6962, section 2.1.2) between two heads of one log.
type prefixProof struct {
	Origin string   `json:"origin"`
	First  headJSON `json:"first"`
	Last   headJSON `json:"last"`
	Hashes []string `json:"hashes"`
}

// verifiedAgain is what verifying a decision again gave.
type verifiedAgain struct {
	Seq     uint64 `json:"seq"` // its row in the ledger
	ID      string `json:"id,omitempty"`
	Result  Result `json:"result"`
	Text    string `json:"text,omitempty"`
	Origin  string `json:"origin,omitempty"`
	Index   uint64 `json:"index,omitempty"`
	Changed bool   `json:"changed,omitempty"` // upstream gives another entry than it rested on
	// Unasked says that upstream was not asked for the entry: it names none, or it is none of a public log.
	Unasked bool `json:"unasked,omitempty"`
}

// decisionCounts counts decisions: Total is Same, Differs and NotKept together.
type decisionCounts struct {
	Total   int `json:"total"`
	Same    int `json:"same"`
	Differs int `json:"differs"`
	NotKept int `json:"not_kept"`
	// Changed is how many are not in Total, because upstream gives another entry than they rest on.
	Changed int `json:"changed"`
	// Asked is for how many the entry was asked for upstream and is the same.
	Asked int `json:"asked"`
	// Left is how many are not reconciled yet; those that rest on logs which are not back.
	Left int `json:"left"`
	// List has those that are not the same, and those of Changed.
	List []verifiedAgain `json:"list"`
}

// taken is a proposal that the public log has.
type taken struct {
	Index     uint64 `json:"index"` // in the private log
	LogIndex  uint64 `json:"log_index"`
	UUID      string `json:"uuid,omitempty"`
	Time      int64  `json:"integrated_time,omitempty"`
	Duplicate bool   `json:"duplicate,omitempty"`
	Extends   bool   `json:"extends,omitempty"`
}

// Why a proposal was not submitted.
const (
	codeRefused    = "REFUSED"    // the public log will never take it
	codeNotKept    = "NOT_KEPT"   // it was not kept, or its time is over
	codeUnreadable = "UNREADABLE" // it cannot be read, as when the key of proposals is another; tried again the next time
	codeFailed     = "FAILED"     // other proposals were taken and this was not; tried again the next time
)

// unsent are entries of a private log, one after the other, which were not submitted.
type unsent struct {
	Index  uint64 `json:"index"`
	Last   uint64 `json:"last"` // the last of them; Index if it is one
	Code   string `json:"code"`
	Status int    `json:"status,omitempty"` // HTTP, of a refusal
	Text   string `json:"text"`
}

// proposalCounts counts what became of the entries of one private log: Total is Submitted, Refused, NotKept,
// Unreadable and Failed together.
type proposalCounts struct {
	Private  string `json:"private"`
	Origin   string `json:"origin"`
	Upstream string `json:"upstream"`
	// First and Next are the indexes [First, Next) that were looked at, and Again how many before them
	// that were left from the last time.
	First uint64 `json:"first"`
	Next  uint64 `json:"next"`
	Again int    `json:"again"`

	Total      int `json:"total"`
	Submitted  int `json:"submitted"`
	Duplicates int `json:"duplicates"` // of Submitted: the log had them already
	Late       int `json:"late"`       // of Submitted: proofs that must stay beside the bundle
	Refused    int `json:"refused"`
	NotKept    int `json:"not_kept"`
	Unreadable int `json:"unreadable"`
	Failed     int `json:"failed"`
	Left       int `json:"left"` // not looked at

	List   []taken  `json:"list"`   // the first
	Unsent []unsent `json:"unsent"` // the first

	// Work is what the phase goes through: the indexes Work, then those from First on; Done is how many of
	// them are over.
	Work []uint64 `json:"work,omitempty"`
	Done int      `json:"done,omitempty"`
}

// exceptionsReport says what became of exceptions.
type exceptionsReport struct {
	Closed int    `json:"closed"`
	Kept   string `json:"kept,omitempty"` // why they were left open; "" if they were not
}

// finding is a contradiction that quarantines a log.
type finding struct {
	Code   string `json:"code"` // FORK, LOST_TAIL or CHANGED_ENTRY
	Origin string `json:"origin"`
	// First is the first index that is concerned, if Named; Next is the one after the last, 0 if that is
	// not known.
	Named bool   `json:"named"`
	First uint64 `json:"first"`
	Next  uint64 `json:"next,omitempty"`
	Held  string `json:"held,omitempty"` // leaf hash, of a changed entry
	Found string `json:"found,omitempty"`
	Text  string `json:"text"`
}

// interruption is a time at which a reconciliation could not go on.
type interruption struct {
	At    time.Time `json:"at"`
	Phase string    `json:"phase"`
	Cause string    `json:"cause"`
}

// document puts the report together.
func (r *Reconciler) document(x *run) *Document {
	now := r.cfg.Now()
	d := &Document{
		Version: reportVersion, ID: x.ID, Log: x.Log, Kind: x.Kind, Outcome: outcomeDone,
		Started: x.Started.UTC(), Finished: now.UTC(), Seconds: now.Sub(x.Started).Seconds(),
		States: x.States, HeldAt: x.HeldAt, Proofs: x.Proven, Consistency: x.Proofs,
		Decisions: x.Decisions, Proposals: x.Proposals, Exceptions: x.Exceptions,
		Finding: x.Finding, Evidence: x.Evidence, Paused: x.Paused, Pauses: x.Pauses,
	}
	if x.Finding != nil {
		d.Outcome = outcomeQuarantined
	}
	d.LedgerRows, d.LedgerHead = r.cfg.Ledger.Head()
	d.Decisions.Left = r.backlogDecisions()
	d.Proposals = []*proposalCounts{}
	for _, t := range x.Proposals {
		p := *t
		if private := r.private(p.Origin); private != nil {
			p.Left = int(private.Size() - min(private.Size(), p.Next))
		}
		p.Work, p.Done = nil, 0
		d.Proposals = append(d.Proposals, &p)
	}
	for i := range r.cfg.Privates { // of a log that is quarantined nothing was begun
		p := &r.cfg.Privates[i]
		next := r.sentOf(p.Origin).Next
		if p.Submit == nil || d.Log == "" || p.Upstream != d.Log || slices.ContainsFunc(d.Proposals, func(t *proposalCounts) bool { return t.Origin == p.Origin }) {
			continue
		}
		d.Proposals = append(d.Proposals, &proposalCounts{
			Private: p.Name, Origin: p.Origin, Upstream: p.Upstream, First: next, Next: next,
			List: []taken{}, Unsent: []unsent{}, Left: int(p.Size() - min(p.Size(), next)),
		})
	}
	d.NotDone = r.notDone(d)
	if d.Consistency == nil {
		d.Consistency = []prefixProof{}
	}
	if d.Decisions.List == nil {
		d.Decisions.List = []verifiedAgain{}
	}
	if d.Pauses == nil {
		d.Pauses = []interruption{}
	}
	return d
}

// notDone says what was not done.
func (r *Reconciler) notDone(d *Document) []string {
	not := []string{}
	say := func(format string, args ...any) { not = append(not, fmt.Sprintf(format, args...)) }
	if d.Finding != nil {
		say("The log %s is quarantined (%s): nothing more is submitted to it, exceptions stay open until they end, and it is not called live.", d.Log, d.Finding.Code)
	}
	if d.Kind == kindLeftOver {
		say("No prefix was proven: all logs were live, and this is what was left of before.")
	} else if d.Proofs == 0 {
		say("No prefix was proven: nothing was held of the log %s before.", d.Log)
	}
	switch {
	case r.cfg.Again == nil:
		say("Decisions were not verified again: there is no verifier.")
	case d.Decisions.Left > 0:
		say("Decisions that are not reconciled: %d. They rest on logs that are not back, or were taken meanwhile.", d.Decisions.Left)
	}
	if n := d.Decisions.Changed; n > 0 {
		say("%d of them rest on entries that upstream gives otherwise now: look at what was deployed by them.", n)
	}
	if d.Decisions.Differs > 0 {
		say("Decisions that would not be taken again: %d. Nothing was undone: look at what was deployed by them.", d.Decisions.Differs)
	}
	if d.Decisions.NotKept > 0 {
		say("Decisions that could not be verified again: %d. What they were about is not kept.", d.Decisions.NotKept)
	}
	if n := d.Decisions.Total - d.Decisions.Asked; n > 0 {
		say("Decisions whose entry upstream was not asked for: %d. They name none of a public log, or upstream cannot be asked.", n)
	}
	for i := range r.cfg.Privates {
		p := &r.cfg.Privates[i]
		if d.Log != "" && p.Upstream != d.Log && r.upstream(p.Upstream) != nil {
			continue
		}
		if p.Submit == nil || r.upstream(p.Upstream) == nil {
			say("Entries of the private log %s were not submitted to a public log: none of their generation is configured, or it is not allowed.", p.Name)
		}
	}
	for _, p := range d.Proposals {
		if n := p.Refused; n > 0 {
			say("Entries of the private log %s that the public log refused: %d. They will not be tried again.", p.Private, n)
		}
		if n := p.NotKept; n > 0 {
			say("Entries of the private log %s without a proposal: %d. It was not kept, or its time is over.", p.Private, n)
		}
		if n := p.Unreadable; n > 0 {
			say("Entries of the private log %s whose proposals cannot be read: %d. If the key of proposals was replaced, bring it back. They are tried again the next time.", p.Private, n)
		}
		if n := p.Failed; n > 0 {
			say("Entries of the private log %s that failed again and again, while others did not: %d. They are tried again the next time.", p.Private, n)
		}
		if n := p.Left; n > 0 {
			say("Entries of the private log %s that were not looked at: %d. They were logged meanwhile, or the log is quarantined.", p.Private, n)
		}
		if n := p.Late; n > 0 {
			say("%d proofs of the public log stay beside their bundles of the private log %s: added to them, they would make them invalid.", n, p.Private)
		}
	}
	if d.Exceptions.Kept != "" {
		say("Exceptions were not closed: %s.", d.Exceptions.Kept)
	}
	if r.cfg.Sign == nil {
		say("This report is not signed.")
	}
	return not
}

// encode writes the document.
func (d *Document) encode() []byte {
	raw, err := json.MarshalIndent(d, "", "  ")
	if err != nil {
		panic("reconcile: marshal report: " + err.Error()) // structs of ours
	}
	return raw
}
