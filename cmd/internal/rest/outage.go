package rest

import (
	"errors"
	"net/http"
	"strconv"
	"time"

	"github.com/understudy-log/understudy/cmd/internal/access"
	"github.com/understudy-log/understudy/mirror/drill"
	"github.com/understudy-log/understudy/mirror/ledger"
	"github.com/understudy-log/understudy/mirror/outage"
	"github.com/understudy-log/understudy/mirror/reconcile"
	"github.com/understudy-log/understudy/mirror/verdict"
)

// OutageConfig is what the operator's part about outages needs.
type OutageConfig struct {
	Ledger     *ledger.Ledger
	Monitor    *outage.Monitor
	Verifier   *verdict.Verifier // nil: nothing is verified for others
	Reconciler *reconcile.Reconciler
	Drills     *drill.Runner
	// Now is the clock by which what is forced, and exceptions, end.
	Now func() time.Time
	// Effects says what follows from the states now.
	Effects func() OutageEffects
	// Access says who may operate and approve; nil: nobody is named, so nobody may.
	Access *access.Control
}

// OutageStatus is what /outage answers and "understudy outage status --json" prints.
type OutageStatus struct {
	State      outage.State        `json:"state"` // the worst of all
	Components []outage.Status     `json:"components"`
	Effects    OutageEffects       `json:"effects"`
	Exceptions []verdict.Exception `json:"exceptions,omitempty"` // pending and active
	Reconcile  reconcile.Status    `json:"reconcile"`
	Drill      *drill.Active       `json:"drill,omitempty"`
	LedgerRows uint64              `json:"ledger_rows"`
	LedgerHash string              `json:"ledger_hash,omitempty"` // of the last row
}

// OutageEffects is what follows from the states.
type OutageEffects struct {
	// Signing is the logs that the SigningConfig of our own TUF repository lists: public or fallback; empty:
	// there is no such repository, or it cannot be switched, for the reason in SigningProblem.
	Signing        string    `json:"signing,omitempty"`
	SigningSince   time.Time `json:"signing_since,omitzero"`
	SigningProblem string    `json:"signing_problem,omitempty"`
	// PrivateLog says whether the private log takes entries: open, closed; empty: there is none.
	PrivateLog string `json:"private_log,omitempty"`
}

// OutageRequest is the body of POST /outage: a state is forced, or left.
type OutageRequest struct {
	DataDir   string       `json:"data_dir"`
	Action    string       `json:"action"` // force or release
	Component string       `json:"component"`
	State     outage.State `json:"state,omitempty"`
	For       float64      `json:"for_seconds,omitempty"` // by the daemon's clock
	Ticket    string       `json:"ticket"`
	Reason    string       `json:"reason,omitempty"`
}

// ExceptionRequest is the body of POST /exceptions.
type ExceptionRequest struct {
	DataDir string  `json:"data_dir"`
	Action  string  `json:"action"` // request, approve, deny or revoke
	ID      string  `json:"id,omitempty"`
	Policy  string  `json:"policy,omitempty"`
	For     float64 `json:"for_seconds,omitempty"` // by the daemon's clock
	Ticket  string  `json:"ticket,omitempty"`
	Reason  string  `json:"reason,omitempty"`
}

// RollbackRequest is the body of POST /rollback.
type RollbackRequest struct {
	DataDir   string            `json:"data_dir"`
	Action    string            `json:"action"` // add or remove
	Name      string            `json:"name"`
	Bundle    []byte            `json:"bundle,omitempty"`
	Algorithm string            `json:"algorithm,omitempty"`
	Digest    []byte            `json:"digest,omitempty"`
	Policy    string            `json:"policy,omitempty"`
	Identity  *verdict.Identity `json:"identity,omitempty"`
	PublicKey []byte            `json:"public_key,omitempty"`
	Ticket    string            `json:"ticket"`
}

// ReconcileRequest is the body of POST /reconcile: a log is reconciled now.
type ReconcileRequest struct {
	DataDir string `json:"data_dir"`
	Log     string `json:"log"`
}

// DrillRequest is the body of POST /drills.
type DrillRequest struct {
	DataDir   string        `json:"data_dir"`
	Action    string        `json:"action"` // run or abort
	ID        string        `json:"id,omitempty"`
	Scenario  string        `json:"scenario,omitempty"`
	Component string        `json:"component,omitempty"`
	For       time.Duration `json:"for,omitempty"` // nanoseconds
	Ticket    string        `json:"ticket,omitempty"`
}

// DrillStatus is what /drills answers.
type DrillStatus struct {
	Scenarios []drill.Scenario `json:"scenarios"`
	Active    *drill.Active    `json:"active,omitempty"`
	History   []drill.Result   `json:"history"` // the newest first
	Schedule  []ScheduledDrill `json:"schedule"`
}

// ScheduledDrill is a drill that is held again and again.
type ScheduledDrill struct {
	drill.Scheduled

	Seconds float64 `json:"for_seconds"` // that it lasts
}

// Done is the answer to what was done.
type Done struct {
	ID string `json:"id,omitempty"`
}

const (
	noOutage    = "no outages are looked for here: \"outage\" is not in the configuration"
	noVerifier  = "nothing is verified here: \"verification\" is not in the configuration"
	noOperators = "nobody may do this: \"identities\" of \"outage\" in the configuration says who; \"understudy log token\" makes their tokens"
)

// outage adds the operator's part about outages:
//
//	/outage            OutageStatus; POST an OutageRequest (role operate)
//	/outage/ledger     rows ?from= on, as they are kept, one a line
//	/exceptions        verdict.Exceptions; POST an ExceptionRequest (roles operate, approve)
//	/rollback          verdict.Rollbacks; POST a RollbackRequest (role operate)
//	/reconcile         reconcile.Status; POST a ReconcileRequest (role operate)
//	/reconcile/report  ?id=&form=json, markdown or signed; without an id the newest
//	/reconcile/proof   reconcile.Receipt of the entry ?index= of the private log ?origin=
//	/drills            DrillStatus; POST a DrillRequest (role operate)
//	/drills/report     ?id=&form=json or markdown; without an id the newest
func (c AdminConfig) outage(mux *http.ServeMux) {
	get := func(path string, h func(w http.ResponseWriter, r *http.Request)) {
		mux.HandleFunc("GET "+path, func(w http.ResponseWriter, r *http.Request) {
			if c.Outage == nil {
				c.refuseOutage(w)
				return
			}
			h(w, r)
		})
	}
	post := func(path string, h func(w http.ResponseWriter, r *http.Request)) {
		mux.HandleFunc("POST "+path, func(w http.ResponseWriter, r *http.Request) {
			switch {
			case c.Outage == nil:
				c.refuseOutage(w)
			case c.Outage.Access == nil:
				refuse(w, http.StatusForbidden, noOperators)
			default:
				c.Outage.Access.Guard(func(w http.ResponseWriter, _ *http.Request, status int, text string) { refuse(w, status, text) }, http.HandlerFunc(h)).ServeHTTP(w, r)
			}
		})
	}
	get("/outage", func(w http.ResponseWriter, _ *http.Request) { writeJSON(w, http.StatusOK, c.Outage.status()) })
	get("/outage/ledger", c.ledger)
	post("/outage", c.operate)
	get("/exceptions", func(w http.ResponseWriter, _ *http.Request) {
		if c.verifying(w) {
			writeJSON(w, http.StatusOK, c.Outage.Verifier.Exceptions())
		}
	})
	post("/exceptions", c.exception)
	get("/rollback", func(w http.ResponseWriter, _ *http.Request) {
		if c.verifying(w) {
			writeJSON(w, http.StatusOK, c.Outage.Verifier.Rollbacks())
		}
	})
	post("/rollback", c.rollback)
	get("/reconcile", func(w http.ResponseWriter, _ *http.Request) {
		writeJSON(w, http.StatusOK, c.Outage.Reconciler.Status())
	})
	get("/reconcile/report", c.reconcileReport)
	get("/reconcile/proof", c.proof)
	post("/reconcile", c.reconcile)
	get("/drills", func(w http.ResponseWriter, _ *http.Request) {
		s := DrillStatus{Scenarios: drill.Scenarios(), Active: c.Outage.Drills.Active(), History: c.Outage.Drills.History(100)}
		for _, d := range c.Outage.Drills.Schedule() {
			s.Schedule = append(s.Schedule, ScheduledDrill{d, d.For.Seconds()})
		}
		writeJSON(w, http.StatusOK, s)
	})
	get("/drills/report", c.drillReport)
	post("/drills", c.drill)
}

func (c AdminConfig) refuseOutage(w http.ResponseWriter) {
	if c.OutageLost != "" {
		refuse(w, http.StatusServiceUnavailable, c.OutageLost)
		return
	}
	refuse(w, http.StatusNotFound, noOutage)
}

func (o *OutageConfig) status() OutageStatus {
	s := OutageStatus{State: o.Monitor.Overall(), Components: o.Monitor.Status(), Effects: o.Effects(), Reconcile: o.Reconciler.Status(), Drill: o.Drills.Active()}
	s.LedgerRows, s.LedgerHash = o.Ledger.Head()
	if o.Verifier != nil {
		for _, e := range o.Verifier.Exceptions() {
			if e.State == verdict.ExceptionPending || e.State == verdict.ExceptionActive {
				s.Exceptions = append(s.Exceptions, e)
			}
		}
	}
	return s
}

// until is the end of what lasts for so many seconds.
func (o *OutageConfig) until(seconds float64) time.Time {
	return o.Now().Add(time.Duration(min(seconds, 1e9) * float64(time.Second)))
}

func (c AdminConfig) verifying(w http.ResponseWriter) bool {
	if c.Outage.Verifier == nil {
		refuse(w, http.StatusNotFound, noVerifier)
	}
	return c.Outage.Verifier != nil
}

// as reads a request of somebody who has a role, and returns his name; "" if it was refused.
func (c AdminConfig) as(w http.ResponseWriter, r *http.Request, limit int64, request any, dataDir func() string, role func() access.Role) string {
	if !c.read(w, r, limit, request, dataDir) {
		return ""
	}
	identity, _ := access.FromContext(r.Context())
	if need := role(); !identity.Has(need) {
		refuse(w, http.StatusForbidden, "identity "+identity.Name+" does not have the role "+string(need)+": the configuration gives roles, in \"identities\"")
		return ""
	}
	return identity.Name
}

func operates() access.Role { return access.Operate }

func (c AdminConfig) operate(w http.ResponseWriter, r *http.Request) {
	var q OutageRequest
	by := c.as(w, r, 64<<10, &q, func() string { return q.DataDir }, operates)
	if by == "" {
		return
	}
	switch q.Action {
	case "force":
		done(w, "", c.Outage.Monitor.Force(outage.Force{Component: q.Component, State: q.State, Until: c.Outage.until(q.For), Ticket: q.Ticket, By: by, Reason: q.Reason}))
	case "release":
		done(w, "", c.Outage.Monitor.Release(q.Component, q.Ticket, by))
	default:
		refuse(w, http.StatusBadRequest, "action must be force or release")
	}
}

func (c AdminConfig) exception(w http.ResponseWriter, r *http.Request) {
	var q ExceptionRequest
	by := c.as(w, r, 64<<10, &q, func() string { return q.DataDir }, func() access.Role {
		if q.Action == "approve" || q.Action == "deny" {
			return access.Approve
		}
		return access.Operate
	})
	if by == "" || !c.verifying(w) {
		return
	}
	v := c.Outage.Verifier
	var e verdict.Exception
	var err error
	switch q.Action {
	case "request":
		e, err = v.Request(q.Policy, c.Outage.until(q.For), q.Ticket, by, q.Reason)
	case "approve":
		e, err = v.Approve(q.ID, by)
	case "deny":
		e, err = v.Deny(q.ID, by)
	case "revoke":
		e, err = v.Revoke(q.ID, by, q.Ticket)
	default:
		refuse(w, http.StatusBadRequest, "action must be request, approve, deny or revoke")
		return
	}
	done(w, e.ID, err)
}

func (c AdminConfig) rollback(w http.ResponseWriter, r *http.Request) {
	var q RollbackRequest
	by := c.as(w, r, 4<<20, &q, func() string { return q.DataDir }, operates)
	if by == "" || !c.verifying(w) {
		return
	}
	switch q.Action {
	case "add":
		_, err := c.Outage.Verifier.AddRollback(r.Context(), q.Name, verdict.Request{
			Bundle: q.Bundle, Algorithm: q.Algorithm, Digest: q.Digest, Policy: q.Policy, Identity: q.Identity, PublicKey: q.PublicKey,
		}, by, q.Ticket)
		done(w, q.Name, err)
	case "remove":
		done(w, q.Name, c.Outage.Verifier.RemoveRollback(q.Name, by, q.Ticket))
	default:
		refuse(w, http.StatusBadRequest, "action must be add or remove")
	}
}

func (c AdminConfig) reconcile(w http.ResponseWriter, r *http.Request) {
	var q ReconcileRequest
	if by := c.as(w, r, 64<<10, &q, func() string { return q.DataDir }, operates); by != "" {
		done(w, "", c.Outage.Reconciler.Now(r.Context(), q.Log))
	}
}

func (c AdminConfig) drill(w http.ResponseWriter, r *http.Request) {
	var q DrillRequest
	by := c.as(w, r, 64<<10, &q, func() string { return q.DataDir }, operates)
	if by == "" {
		return
	}
	switch q.Action {
	case "run":
		id, err := c.Outage.Drills.Start(r.Context(), drill.Request{Scenario: q.Scenario, Component: q.Component, For: q.For, Ticket: q.Ticket, By: by})
		done(w, id, err)
	case "abort":
		done(w, q.ID, c.Outage.Drills.Abort(q.ID, by))
	default:
		refuse(w, http.StatusBadRequest, "action must be run or abort")
	}
}

// done answers what was asked for, or why it was not done: 409, and the code of the reason in front.
func done(w http.ResponseWriter, id string, err error) {
	code := ""
	if err != nil {
		code = codeOf(err)
	}
	switch {
	case err == nil:
		writeJSON(w, http.StatusOK, Done{id})
	case code == "":
		refuse(w, http.StatusInternalServerError, err.Error())
	default:
		text := err.Error()
		if refused, ok := errors.AsType[*verdict.RefusedError](err); ok {
			for _, reason := range refused.Reasons {
				text += "; " + reason.Code + ": " + reason.Text
			}
		}
		refuse(w, http.StatusConflict, code+": "+text)
	}
}

// ledger sends rows as they are kept.
func (c AdminConfig) ledger(w http.ResponseWriter, r *http.Request) {
	from := uint64(1)
	if text := r.URL.Query().Get("from"); text != "" {
		var err error
		if from, err = strconv.ParseUint(text, 10, 64); err != nil {
			refuse(w, http.StatusBadRequest, "from must be the number of a row")
			return
		}
	}
	begun := false
	err := c.Outage.Ledger.Rows(from, func(row ledger.Row) error {
		if !begun {
			w.Header().Set("Content-Type", "application/x-ndjson")
			begun = true
		}
		if err := r.Context().Err(); err != nil {
			return err
		}
		_, err := w.Write(append(row.Raw(), '\n'))
		return err
	})
	switch {
	case err != nil && !begun:
		refuse(w, http.StatusInternalServerError, err.Error())
	case err != nil && r.Context().Err() == nil:
		c.Logger.Error("rows of the ledger cannot be read", "error", err)
		panic(http.ErrAbortHandler) // or the answer would look whole
	}
}

func (c AdminConfig) reconcileReport(w http.ResponseWriter, r *http.Request) {
	reports, err := c.Outage.Reconciler.Reports(time.Time{}, time.Now().Add(24*time.Hour))
	if err != nil {
		refuse(w, http.StatusInternalServerError, err.Error())
		return
	}
	id := r.URL.Query().Get("id")
	for i := len(reports) - 1; i >= 0; i-- {
		if id == "" || reports[i].ID == id {
			report := reports[i]
			writeReport(w, r.URL.Query().Get("form"), report.Markdown, report.JSON, report.Signed)
			return
		}
	}
	if id == "" {
		refuse(w, http.StatusNotFound, "no reconciliation is over yet; `understudy reconcile status` says what is to do")
		return
	}
	refuse(w, http.StatusNotFound, "there is no report of a reconciliation with this ID; `understudy reconcile status` has those of the last ones, the ledger (rows `reconcile`) those of all")
}

// proof sends what the public log has of an entry of the private one.
func (c AdminConfig) proof(w http.ResponseWriter, r *http.Request) {
	index, err := strconv.ParseUint(r.URL.Query().Get("index"), 10, 64)
	if err != nil {
		refuse(w, http.StatusBadRequest, "index must be that of an entry")
		return
	}
	receipt, err := c.Outage.Reconciler.Proof(r.URL.Query().Get("origin"), index)
	switch {
	case err != nil:
		refuse(w, http.StatusInternalServerError, err.Error())
	case receipt == nil:
		refuse(w, http.StatusNotFound, "this entry was not brought to the public log, or not yet: \"understudy reconcile status\" and \"report\" say why")
	default:
		writeJSON(w, http.StatusOK, receipt)
	}
}

func (c AdminConfig) drillReport(w http.ResponseWriter, r *http.Request) {
	id := r.URL.Query().Get("id")
	if id == "" {
		newest := c.Outage.Drills.History(1)
		if len(newest) == 0 {
			refuse(w, http.StatusNotFound, "no drill was held yet")
			return
		}
		id = newest[0].ID
	}
	markdown, data, err := c.Outage.Drills.Report(id)
	if err != nil {
		refuse(w, http.StatusNotFound, err.Error())
		return
	}
	writeReport(w, r.URL.Query().Get("form"), markdown, data, nil)
}

func writeReport(w http.ResponseWriter, form string, markdown, data, signed []byte) {
	media, body := "text/markdown; charset=utf-8", markdown
	switch form {
	case "json":
		media, body = "application/json", data
	case "signed":
		media, body = "application/json", signed
	}
	if body == nil {
		refuse(w, http.StatusNotFound, "the report is not there in this form")
		return
	}
	w.Header().Set("Content-Type", media)
	_, _ = w.Write(body) // the client has gone
}
