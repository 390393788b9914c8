package verdict

import (
	"cmp"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/understudy-log/understudy/mirror/ledger"
	"github.com/understudy-log/understudy/storage"
)

// Exception is a weakening of a policy: while it is active the policy is in audit. It ends by itself.
type Exception struct {
	ID     string    `json:"id"`
	Policy string    `json:"policy"`
	State  string    `json:"state"` // one of the Exception constants
	Until  time.Time `json:"until"` // of this machine's clock
	Ticket string    `json:"ticket"`
	Reason string    `json:"reason"`

	Requested   time.Time `json:"requested"`
	RequestedBy string    `json:"requested_by"`
	Approved    time.Time `json:"approved,omitzero"`
	ApprovedBy  string    `json:"approved_by,omitempty"`
	Ended       time.Time `json:"ended,omitzero"` // also when it was denied
	EndedBy     string    `json:"ended_by,omitempty"`
	EndTicket   string    `json:"end_ticket,omitempty"`
	EndReason   string    `json:"end_reason,omitempty"`
}

// States of an Exception. The first two are not their last.
const (
	ExceptionPending = "pending"
	ExceptionActive  = "active"
	ExceptionDenied  = "denied"
	ExceptionRevoked = "revoked" // an operator ended it
	ExceptionExpired = "expired" // its end has passed
	ExceptionClosed  = "closed"  // what it was for is over
)

const (
	kindException   = "exception"
	exceptionPrefix = "exception "
	// maxPending bounds the exceptions that wait for an answer.
	maxPending = 100
	// maxField bounds the bytes of what operators write.
	maxField = 500
)

// exceptionRow is the body of a row "exception".
type exceptionRow struct {
	ID     string    `json:"id"`
	Event  string    `json:"event"` // requested, approved, denied, revoked, expired, closed
	Policy string    `json:"policy"`
	Until  time.Time `json:"until"`
	Ticket string    `json:"ticket"`
	By     string    `json:"by,omitempty"`
	Reason string    `json:"reason,omitempty"`
}

// exceptions are all that there ever were.
type exceptions struct {
	// mu guards the map and what it holds. It is held while a change is committed, and, for reading,
	// while a decision is: the order of the ledger's rows is the order of what happened.
	mu   sync.RWMutex
	all  map[string]*Exception
	open map[string]*Exception // those that are pending or active
}

func (x *exceptions) load(db *storage.DB) error {
	x.all, x.open = map[string]*Exception{}, map[string]*Exception{}
	return db.Records(exceptionPrefix, func(name string, raw []byte) error {
		e := &Exception{}
		if err := json.Unmarshal(raw, e); err != nil {
			return fmt.Errorf("%s is damaged (%w); restore a backup", name, err)
		}
		x.setLocked(e)
		return nil
	})
}

func (x *exceptions) setLocked(e *Exception) {
	x.all[e.ID] = e
	if delete(x.open, e.ID); open(e) {
		x.open[e.ID] = e
	}
}

// end is when an exception ends at the latest: a cap that was lowered holds for what was approved
// before, too.
func (v *Verifier) end(e *Exception) time.Time {
	if limit := e.Approved.Add(v.c.MaxAudit); !e.Approved.IsZero() && limit.Before(e.Until) {
		return limit
	}
	return e.Until
}

// activeLocked returns the exception that holds for a policy; nil: none.
func (x *exceptions) activeLocked(v *Verifier, policy string, now time.Time) *Exception {
	for _, e := range x.open {
		if e.State == ExceptionActive && e.Policy == policy && now.Before(v.end(e)) {
			return e
		}
	}
	return nil
}

// audit applies an exception to a decision.
func (v *Verifier) audit(d *Decision, row *decision, e *evaluation, x *Exception) {
	switch {
	case e.question:
		return
	case e.highRisk:
		if !d.Allow {
			d.Reasons = append(d.Reasons, because(CodeHighRiskEnforced, "exception %s does not hold for it: a high-risk identity or key, or one that cannot be told, never leaves enforce", x.ID))
		}
		return
	}
	d.Mode = ModeAudit
	if d.Allow || e.contradicted {
		return
	}
	d.Allow, d.Exception, row.weakened = true, x.ID, true
	d.Reasons = append([]Reason{because(CodeAuditWouldDeny, "exception %s (ticket %s, until %s) allows what would be denied", x.ID, x.Ticket, v.end(x).Format(time.RFC3339))}, d.Reasons...)
}

// Request asks for an exception. Somebody else must approve it. The error is a *RefusedError or that
// of the database, as those of the other methods on exceptions.
func (v *Verifier) Request(policy string, until time.Time, ticket, by, reason string) (Exception, error) {
	policy = cmpOr(policy, DefaultPolicy)
	if v.policies[policy] == nil {
		return Exception{}, refuse(RefusedPolicy, "no policy has the name %q: see verification in the configuration", policy)
	}
	if err := signed(ticket, by); err != nil {
		return Exception{}, err
	}
	until = until.UTC().Round(0)
	e := &Exception{
		ID: "x-" + strings.ToLower(rand.Text()[:10]), Policy: policy, State: ExceptionPending, Until: until,
		Ticket: field(ticket), RequestedBy: field(by), Reason: field(reason),
	}
	v.exceptions.mu.Lock()
	defer v.exceptions.mu.Unlock()
	e.Requested = v.now()
	if err := v.checkEnd(until, e.Requested); err != nil {
		return Exception{}, err
	}
	pending := 0
	for _, other := range v.exceptions.open {
		if other.State == ExceptionPending {
			pending++
		}
	}
	if pending >= maxPending {
		return Exception{}, refuse(RefusedMany, "%d exceptions wait for an answer: approve or deny some of them first", pending)
	}
	return v.putException(e, "requested", e.RequestedBy, e.Reason)
}

// checkEnd says whether something may last until then.
func (v *Verifier) checkEnd(until, now time.Time) error {
	if !until.After(now) {
		return refuse(RefusedEnd, "the end %s is not in the future; this machine's clock says %s", until.Format(time.RFC3339), now.Format(time.RFC3339))
	}
	if until.Sub(now) > v.c.MaxAudit {
		return refuse(RefusedEnd, "the end %s is more than %v away (max_audit): ask for less", until.Format(time.RFC3339), v.c.MaxAudit)
	}
	return nil
}

// signed says whether somebody with a ticket does this.
func signed(ticket, by string) error {
	if field(ticket) == "" {
		return refuse(RefusedTicket, "no ticket: what weakens or changes verification has one; give --ticket")
	}
	return person(by)
}

func person(by string) error {
	if field(by) == "" {
		return refuse(RefusedPerson, "nobody is named who does this")
	}
	return nil
}

func field(text string) string { return strings.TrimSpace(oneLine(text, maxField)) }

// Approve makes a pending exception active. by must not be who requested it.
func (v *Verifier) Approve(id, by string) (Exception, error) {
	v.exceptions.mu.Lock()
	defer v.exceptions.mu.Unlock()
	e, now, err := v.inStateLocked(id, by, ExceptionPending)
	if err != nil {
		return Exception{}, err
	}
	if strings.EqualFold(field(by), e.RequestedBy) {
		return Exception{}, refuse(RefusedSelf, "%s requested the exception %s: somebody else must approve it", e.RequestedBy, id)
	}
	if v.policies[e.Policy] == nil {
		return Exception{}, refuse(RefusedPolicy, "there is no policy %q any more", e.Policy)
	}
	if err := v.checkEnd(e.Until, now); err != nil {
		return Exception{}, err
	}
	if other := v.exceptions.activeLocked(v, e.Policy, now); other != nil {
		return Exception{}, refuse(RefusedActive, "exception %s holds for the policy %q until %s: revoke it first", other.ID, e.Policy, v.end(other).Format(time.RFC3339))
	}
	next := *e
	next.State, next.Approved, next.ApprovedBy = ExceptionActive, now, field(by)
	return v.putException(&next, "approved", next.ApprovedBy, "")
}

// Deny ends a pending exception.
func (v *Verifier) Deny(id, by string) (Exception, error) {
	v.exceptions.mu.Lock()
	defer v.exceptions.mu.Unlock()
	e, now, err := v.inStateLocked(id, by, ExceptionPending)
	if err != nil {
		return Exception{}, err
	}
	return v.endLocked(e, ExceptionDenied, now, by, "", "")
}

// Revoke ends a pending or active exception.
func (v *Verifier) Revoke(id, by, ticket string) (Exception, error) {
	if err := signed(ticket, by); err != nil {
		return Exception{}, err
	}
	v.exceptions.mu.Lock()
	defer v.exceptions.mu.Unlock()
	e, now, err := v.inStateLocked(id, by, ExceptionPending, ExceptionActive)
	if err != nil {
		return Exception{}, err
	}
	return v.endLocked(e, ExceptionRevoked, now, by, ticket, "")
}

// CloseAll ends all exceptions that are pending or active, because what they were for is over. It
// returns how many these were.
func (v *Verifier) CloseAll(why string) (int, error) {
	v.exceptions.mu.Lock()
	defer v.exceptions.mu.Unlock()
	now, n := v.now(), 0
	for _, e := range v.openLocked() {
		state := ExceptionClosed
		if !now.Before(v.end(e)) {
			state = ExceptionExpired
		}
		if _, err := v.endLocked(e, state, now, "", "", why); err != nil {
			return n, err
		}
		n++
	}
	return n, nil
}

// Exceptions returns all that there ever were, the newest first.
func (v *Verifier) Exceptions() []Exception {
	v.exceptions.mu.RLock()
	defer v.exceptions.mu.RUnlock()
	now := v.now()
	var out []Exception
	for _, e := range v.exceptions.all {
		shown := *e
		if open(e) && !now.Before(v.end(e)) {
			shown.State = ExceptionExpired // its row comes within a second
		}
		out = append(out, shown)
	}
	slices.SortFunc(out, func(a, b Exception) int { return cmp.Or(b.Requested.Compare(a.Requested), cmp.Compare(a.ID, b.ID)) })
	return out
}

// current returns the exceptions that are pending or active, and whose end has not come.
func (v *Verifier) current() []Exception {
	v.exceptions.mu.RLock()
	defer v.exceptions.mu.RUnlock()
	now := v.now()
	var out []Exception
	for _, e := range v.openLocked() {
		if now.Before(v.end(e)) {
			out = append(out, *e)
		}
	}
	return out
}

func open(e *Exception) bool { return e.State == ExceptionPending || e.State == ExceptionActive }

func (v *Verifier) openLocked() []*Exception {
	return slices.SortedFunc(maps.Values(v.exceptions.open), func(a, b *Exception) int { return cmp.Compare(a.ID, b.ID) })
}

// inStateLocked finds an exception that somebody wants to change, which must be in one of the states.
func (v *Verifier) inStateLocked(id, by string, states ...string) (*Exception, time.Time, error) {
	now := v.now()
	e := v.exceptions.all[id]
	if e == nil {
		return nil, now, refuse(RefusedUnknown, "there is no exception %q", oneLine(id, 100))
	}
	if err := person(by); err != nil {
		return nil, now, err
	}
	if open(e) && !now.Before(v.end(e)) || e.State == ExceptionExpired {
		return nil, now, refuse(RefusedExpired, "the end of exception %s has passed (%s): request another one", id, v.end(e).Format(time.RFC3339))
	}
	if !slices.Contains(states, e.State) {
		return nil, now, refuse(RefusedState, "exception %s is %s", id, e.State)
	}
	return e, now, nil
}

func (v *Verifier) endLocked(e *Exception, state string, now time.Time, by, ticket, why string) (Exception, error) {
	next := *e
	next.State, next.Ended, next.EndedBy, next.EndTicket, next.EndReason = state, now, field(by), field(ticket), field(why)
	return v.putException(&next, state, next.EndedBy, next.EndReason)
}

// putException makes a change durable, and only then true. Its caller holds exceptions.mu.
func (v *Verifier) putException(e *Exception, event, by, reason string) (Exception, error) {
	record, err := json.Marshal(e)
	if err != nil {
		return Exception{}, fmt.Errorf("exception %s: %w", e.ID, err)
	}
	_, err = v.c.Ledger.Append(ledger.Entry{
		Kind:    kindException,
		Body:    exceptionRow{e.ID, event, e.Policy, e.Until, cmpOr(e.EndTicket, e.Ticket), by, reason},
		Records: map[string][]byte{exceptionPrefix + e.ID: record},
	})
	if err != nil {
		return Exception{}, fmt.Errorf("exception %s: %w", e.ID, err)
	}
	v.exceptions.setLocked(e)
	v.c.Metrics.exception(event)
	v.logger.Warn("exception "+event, "id", e.ID, "policy", e.Policy, "until", e.Until, "ticket", e.Ticket, "by", by)
	return *e, nil
}

// expire writes the rows of exceptions whose end has passed. They hold no more in any case.
func (v *Verifier) expire() error {
	v.exceptions.mu.RLock()
	now, due := v.now(), false
	for _, e := range v.exceptions.open {
		due = due || !now.Before(v.end(e))
	}
	v.exceptions.mu.RUnlock()
	if !due {
		return nil
	}
	v.exceptions.mu.Lock()
	defer v.exceptions.mu.Unlock()
	for _, e := range v.openLocked() {
		if now.Before(v.end(e)) {
			continue
		}
		if _, err := v.endLocked(e, ExceptionExpired, now, "", "", ""); err != nil {
			return err
		}
	}
	return nil
}
