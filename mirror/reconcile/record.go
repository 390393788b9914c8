package reconcile

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"time"

	"github.com/understudy-log/understudy/mirror/ledger"
	"github.com/understudy-log/understudy/storage"
)

// Names of records. Each is written in the commit of a row, and only so.
const (
	countRecord   = "reconcile-count"     // how many reconciliations there were
	runRecord     = "reconcile-run "      // and the log: the one that is not over; empty if there is none
	heldRecord    = "reconcile-held "     // and the log: heads when it went away; empty while it is there
	doneRecord    = "reconcile-done "     // and the log: the last one that is over
	sentRecord    = "reconcile-sent "     // and the origin of a private log: what of it was submitted
	decidedRecord = "reconcile-decided "  // and the number of a row "decision", 20 digits: what became of it
	decidedUpTo   = "reconcile-decidedto" // all decisions up to this row are reconciled
	reportRecord  = "reconcile-report "   // and the ID
	proofRecord   = "public proof "       // origin hash and index, 20 digits: a Receipt
)

func decidedName(seq uint64) string { return fmt.Sprintf("%s%020d", decidedRecord, seq) }

func proofName(origin string, index uint64) string {
	sum := sha256.Sum256([]byte(origin))
	return fmt.Sprintf("%s%s %020d", proofRecord, hex.EncodeToString(sum[:]), index)
}

// Kinds of a run.
const (
	kindRecovery = "recovery"  // a log answers again
	kindOperator = "operator"  // somebody asked for it
	kindLeftOver = "left_over" // all is live, and something of before is not reconciled
)

// Phases of a run.
const (
	phaseHead       = "head"
	phaseDecisions  = "decisions"
	phaseSubmit     = "submit"
	phaseExceptions = "exceptions"
	phaseReport     = "report"
	phaseAppend     = "append"
)

// Outcomes of a run.
const (
	outcomeDone        = "done"
	outcomeQuarantined = "quarantined"
)

// run is one reconciliation, as it is kept from row to row.
type run struct {
	ID      string     `json:"id"`
	Log     string     `json:"log,omitempty"` // "" is all of them
	Kind    string     `json:"kind"`
	Phase   string     `json:"phase"`
	Started time.Time  `json:"started"`
	States  []stateRow `json:"states"` // of all components when it began

	// HeadAt is when upstream was last seen to extend what was held: a component that began to recover
	// after that may have come back as another.
	HeadAt  time.Time     `json:"head_at,omitzero"`
	HeldAt  time.Time     `json:"held_at,omitzero"`
	Heads   []headJSON    `json:"heads,omitempty"`  // that the next proofs begin with
	Proofs  []prefixProof `json:"proofs,omitempty"` // the newest
	Proven  int           `json:"proven,omitempty"` // how many proofs there were
	Shorter *shorter      `json:"shorter,omitempty"`

	Decisions  decisionCounts    `json:"decisions"`
	Proposals  []*proposalCounts `json:"proposals,omitempty"`
	Exceptions exceptionsReport  `json:"exceptions"`
	Finding    *finding          `json:"finding,omitempty"` // why the log is quarantined
	Evidence   map[string][]byte `json:"evidence,omitempty"`
	Pauses     []interruption    `json:"pauses,omitempty"` // the first
	Paused     int               `json:"paused,omitempty"`
	Stuck      int               `json:"stuck,omitempty"` // pauses since something was last done
	Rounds     int               `json:"rounds,omitempty"`
}

// shorter is what is known while upstream shows less than it did.
type shorter struct {
	Since  time.Time `json:"since"`
	Origin string    `json:"origin,omitempty"`
	Size   uint64    `json:"size"`   // that it shows
	Newest uint64    `json:"newest"` // that it showed
}

// stateRow is the state of a component.
type stateRow struct {
	Component string    `json:"component"`
	State     string    `json:"state"`
	Since     time.Time `json:"since"`
	Cause     string    `json:"cause,omitempty"` // code
}

// headJSON is a head in JSON.
type headJSON struct {
	Origin     string `json:"origin"`
	Size       uint64 `json:"size"`
	Root       string `json:"root"` // hex
	Checkpoint []byte `json:"checkpoint,omitempty"`
}

func headsJSON(heads []Head) []headJSON {
	out := make([]headJSON, len(heads))
	for i, h := range heads {
		out[i] = headJSON{h.Origin, h.Size, h.Root.String(), h.Checkpoint}
	}
	return out
}

func (h headJSON) head() (storage.Head, error) {
	root, err := hex.DecodeString(h.Root)
	if err != nil || len(root) != storage.HashSize {
		return storage.Head{}, fmt.Errorf("root hash %q of %q is malformed", h.Root, h.Origin)
	}
	return storage.Head{Size: h.Size, Root: storage.Hash(root)}, nil
}

// held are the heads of a log when it went away.
type held struct {
	At    time.Time  `json:"at"`
	Heads []headJSON `json:"heads"`
}

// finished is the last run of a log that is over.
type finished struct {
	ID      string    `json:"id"`
	At      time.Time `json:"at"`
	HeadAt  time.Time `json:"head_at,omitzero"`
	Outcome string    `json:"outcome"`
	// Exceptions says that they were kept open, because something else was away.
	Exceptions bool `json:"exceptions,omitempty"`
}

// sent is how far the proposals of a private log were submitted.
type sent struct {
	Next  uint64   `json:"next"`            // first index that was not looked at
	Again []uint64 `json:"again,omitempty"` // before it: to be tried again
	// Withheld says that what is logged now is not to be submitted, also not later.
	Withheld bool `json:"withheld,omitempty"`
}

// row is the body of a row "reconcile".
type row struct {
	ID    string `json:"id,omitempty"`
	Event string `json:"event"`
	Log   string `json:"log,omitempty"`

	Kind   string     `json:"kind,omitempty"`   // started
	States []stateRow `json:"states,omitempty"` // started
	At     time.Time  `json:"at,omitzero"`

	Heads   []headJSON    `json:"heads,omitempty"`  // held, started, head
	Proofs  []prefixProof `json:"proofs,omitempty"` // head
	Shorter *shorter      `json:"shorter,omitempty"`

	Decisions []verifiedAgain `json:"decisions,omitempty"` // decisions: those of this row, which are not "same"
	Same      int             `json:"same,omitempty"`
	Upto      uint64          `json:"upto,omitempty"` // number of the last row "decision" in it
	Reconcile int             `json:"reconciled,omitempty"`

	Private string   `json:"private,omitempty"` // submitted, refused, submits, withheld
	Origin  string   `json:"origin,omitempty"`
	Next    uint64   `json:"next,omitempty"`
	Entries []taken  `json:"entries,omitempty"`
	Refused []unsent `json:"refused,omitempty"`

	Closed *int   `json:"closed,omitempty"` // exceptions
	Text   string `json:"text,omitempty"`   // exceptions, failed, done

	Finding *finding `json:"finding,omitempty"` // quarantined
	First   []byte   `json:"first,omitempty"`   // evidence, as received
	Second  []byte   `json:"second,omitempty"`

	Cause string `json:"cause,omitempty"` // failed
	Phase string `json:"phase,omitempty"` // failed

	Report  string `json:"report_sha256,omitempty"` // report: of the JSON
	Outcome string `json:"outcome,omitempty"`       // done
	Place   *Place `json:"place,omitempty"`         // done
}

// storageError is an error of the database: nothing can be recorded any more.
type storageError struct{ err error }

func (e *storageError) Error() string { return e.err.Error() }
func (e *storageError) Unwrap() error { return e.err }

// put encodes what is kept.
func put(records map[string][]byte, name string, value any) {
	data, err := json.Marshal(value)
	if err != nil {
		panic("reconcile: marshal " + name + ": " + err.Error()) // structs of ours
	}
	records[name] = data
}

// get reads a record; found is false if there is none, or an empty one.
func (r *Reconciler) get(name string, value any) (found bool, err error) {
	raw, err := r.cfg.DB.Record(name)
	if err != nil {
		return false, &storageError{err}
	}
	if len(raw) == 0 {
		return false, nil
	}
	if err := json.Unmarshal(raw, value); err != nil {
		return false, &storageError{fmt.Errorf("record %q cannot be read: %w", name, err)}
	}
	return true, nil
}

// append appends rows with what is known after them.
func (r *Reconciler) append(records map[string][]byte, rows ...row) error {
	entries := make([]ledger.Entry, len(rows))
	for i, body := range rows {
		entries[i] = ledger.Entry{Kind: "reconcile", Body: body}
	}
	entries[0].Records = records
	if _, err := r.cfg.Ledger.Append(entries...); err != nil {
		return &storageError{err}
	}
	return nil
}

// keep appends rows of a run, with the run as it is after them.
func (r *Reconciler) keep(x *run, records map[string][]byte, rows ...row) error {
	if records == nil {
		records = map[string][]byte{}
	}
	put(records, runRecord+x.Log, x)
	for i := range rows {
		rows[i].ID, rows[i].Log = x.ID, x.Log
	}
	return r.append(records, rows...)
}
