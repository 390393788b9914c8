package e2eoutage

import (
	"encoding/json"
	"os"
	"slices"
	"strings"
	"time"

	understudyv1 "github.com/understudy-log/understudy/proto/understudy/v1"
	"github.com/understudy-log/understudy/test/outagestage"
	"github.com/understudy-log/understudy/test/rekor"
)

// decisions asks by gRPC whether artifacts may be used, while all is well, in an outage, and during an
// exception in it.
type decisions struct {
	*theater
	degraded int // that were taken while not all was live: each has a row
	excepted int // of these were allowed by an exception, and would not be allowed again
}

func (t *theater) newDecisions() *decisions { return &decisions{theater: t} }

// want is what an answer has to be.
type want struct {
	decision understudyv1.Decision
	mode     understudyv1.Mode
	rests    understudyv1.RestsOn // if it is allowed
	code     string               // of one of its reasons
}

func allow(rests understudyv1.RestsOn) want {
	return want{understudyv1.Decision_DECISION_ALLOW, understudyv1.Mode_MODE_ENFORCE, rests, "OK"}
}

func deny(code string) want {
	return want{understudyv1.Decision_DECISION_DENY, understudyv1.Mode_MODE_ENFORCE, 0, code}
}

// ask asks, and checks the answer.
func (d *decisions) ask(what, policy string, bundle, artifact []byte, whose string, w want) *understudyv1.VerifyResponse {
	d.Helper()
	got, err := d.Decide(d.ctx, policy, bundle, artifact, whose)
	if err != nil {
		d.Fatalf("%s: %v", what, err)
	}
	allowed := w.decision == understudyv1.Decision_DECISION_ALLOW
	if got.GetDecision() != w.decision || got.GetMode() != w.mode || allowed && w.code == "OK" && got.GetRestsOn() != w.rests || !slices.Contains(outagestage.Codes(got), w.code) {
		d.Errorf("%s: %v, want %v", what, got, w)
	}
	if live := got.GetState() == "live"; live != (got.GetRow() == 0) {
		d.Errorf("%s: row %d while all is %s", what, got.GetRow(), got.GetState())
	} else if !live {
		d.degraded++
	}
	if got.GetException() != "" {
		d.excepted++
	}
	return got
}

func (d *decisions) entry(i int) (bundle, artifact []byte, e rekor.Entry) {
	e = d.V2[i]
	return outagestage.Bundle(e), e.Artifact, e
}

const rollbackEntry = 7

// everyday: the log answers, and decisions rest on that. A bundle is pinned for bad days.
func (d *decisions) everyday() {
	d.Helper()
	bundle, artifact, _ := d.entry(0)
	d.ask("a good bundle", outagestage.Policy, bundle, artifact, "", allow(understudyv1.RestsOn_RESTS_ON_PUBLIC_LIVE))
	d.ask("a good bundle of another artifact", outagestage.Policy, bundle, []byte("another"), "", deny("ARTIFACT_MISMATCH"))

	bundle, artifact, _ = d.entry(rollbackEntry)
	name := d.Dir + "/rollback"
	d.must(os.WriteFile(name+".bundle", bundle, 0o600))
	d.must(os.WriteFile(name, artifact, 0o600))
	add := []string{"rollback", "add", "shop-4.2", "--bundle", name + ".bundle", "--artifact", name, "--policy", outagestage.Policy}
	_, err := d.As(d.ctx, outagestage.Operator, add...)
	d.refused("TICKET_MISSING", err)
	d.as(outagestage.Operator, append(add, "--ticket", "REL-9")...)
	wrong := slices.Clone(add)
	wrong[2], wrong[6] = "shop-4.3", d.ConfigFile // another artifact
	_, err = d.As(d.ctx, outagestage.Operator, append(wrong, "--ticket", "REL-9")...)
	d.refused("BUNDLE_UNVERIFIED", err)
}

// during: the logs are dead.
func (d *decisions) during(signer *outagestage.User) {
	d.Helper()
	good, artifact, e := d.entry(1)
	unlogged := outagestage.Unlogged(e)
	read := func(name string) []byte {
		data, err := os.ReadFile(signer.File(name))
		d.must(err)
		return data
	}
	const policy = outagestage.Policy
	d.ask("what is mirrored", policy, good, artifact, "", allow(understudyv1.RestsOn_RESTS_ON_MIRRORED))
	d.ask("what was signed in the outage", policy, read("during.bundle"), read("during"), "", allow(understudyv1.RestsOn_RESTS_ON_PRIVATE))
	d.ask("another artifact", policy, good, []byte("another"), "", deny("ARTIFACT_MISMATCH"))
	d.ask("another signer", outagestage.HighRisk, good, artifact, "", deny("IDENTITY_MISMATCH"))
	d.ask("no bundle", policy, []byte("{}"), artifact, "", deny("BUNDLE_MALFORMED"))
	d.ask("no such policy", "no-such", good, artifact, "", deny("POLICY_UNKNOWN"))
	d.ask("what nobody has logged", policy, unlogged, artifact, "", deny("LOG_UNTRUSTED"))
	pinned, release, _ := d.entry(rollbackEntry)
	d.ask("the rollback bundle", policy, pinned, release, "", want{understudyv1.Decision_DECISION_ALLOW, understudyv1.Mode_MODE_ENFORCE, understudyv1.RestsOn_RESTS_ON_PINNED, "ROLLBACK_BUNDLE"})

	// An exception needs two people, a ticket, and an end.
	request := []string{"exception", "request", policy, "--reason", "it was not logged"}
	_, err := d.As(d.ctx, outagestage.Operator, append(request, "--for", "5s")...)
	d.refused("TICKET_MISSING", err)
	_, err = d.As(d.ctx, outagestage.Operator, append(request, "--for", "48h", "--ticket", "SEC-77")...)
	d.refused("END_INVALID", err)
	_, err = d.As(d.ctx, outagestage.Approver, append(request, "--for", "5s", "--ticket", "SEC-77")...)
	d.refused("operate", err)
	const life = 6 * time.Second
	asked := time.Now()
	id := d.exception(outagestage.Both, append(request, "--for", life.String(), "--ticket", "SEC-77")...)
	_, err = d.As(d.ctx, outagestage.Operator, "exception", "approve", id)
	d.refused("approve", err)
	_, err = d.As(d.ctx, outagestage.Both, "exception", "approve", id)
	d.refused("SELF_APPROVAL", err)
	d.ask("before it is approved", policy, unlogged, artifact, "", deny("LOG_UNTRUSTED"))
	d.as(outagestage.Approver, "exception", "approve", id)
	audit := want{understudyv1.Decision_DECISION_ALLOW, understudyv1.Mode_MODE_AUDIT, 0, "AUDIT_WOULD_DENY"}
	if got := d.ask("in audit", policy, unlogged, artifact, "", audit); got.GetException() != id {
		d.Errorf("it was allowed by the exception %q, want %q", got.GetException(), id)
	}
	d.ask("in audit, high risk", policy, unlogged, artifact, outagestage.HighRiskIdentity, want{understudyv1.Decision_DECISION_DENY, understudyv1.Mode_MODE_ENFORCE, 0, "HIGH_RISK_ENFORCED"})
	d.ask("in audit, no bundle", policy, []byte("{}"), artifact, "", deny("BUNDLE_MALFORMED"))
	time.Sleep(time.Until(asked.Add(life + 1500*time.Millisecond)))
	d.ask("after its end", policy, unlogged, artifact, "", deny("LOG_UNTRUSTED"))
	if n := len(outagestage.Rows(d.ledger(), "exception", "id", id, "event", "expired")); n != 1 {
		d.Errorf("%d rows say that the exception has expired, want 1", n)
	}

	// Another one is open when the logs come back.
	id = d.exception(outagestage.Operator, append(request, "--for", "30m", "--ticket", "SEC-78")...)
	d.as(outagestage.Approver, "exception", "approve", id)
	d.ask("in audit again", policy, unlogged, artifact, "", audit)
}

// exception asks for one and returns its ID.
func (d *decisions) exception(who string, verb ...string) (id string) {
	d.Helper()
	before := d.exceptions()
	out := d.as(who, verb...)
	for known, state := range d.exceptions() {
		if _, old := before[known]; !old {
			id = known
			if state != "pending" || !strings.Contains(out, id) {
				d.Errorf("exception %s is %s: %s", id, state, out)
			}
		}
	}
	if id == "" {
		d.Fatalf("no exception was asked for: %s", out)
	}
	return id
}

// exceptions returns the state of each.
func (d *decisions) exceptions() map[string]string {
	d.Helper()
	var list []struct{ ID, State string }
	d.must(json.Unmarshal([]byte(d.command("exception", "list", "--json")), &list))
	states := map[string]string{}
	for _, e := range list {
		states[e.ID] = e.State
	}
	return states
}

// closed waits until no exception is open. Those that were kept while one log was back and another was not are
// closed when all have been live for a while.
func (d *decisions) closed(limit time.Duration) {
	d.Helper()
	for end := time.Now().Add(limit); ; time.Sleep(200 * time.Millisecond) {
		open := []string{}
		for id, state := range d.exceptions() {
			if state == "pending" || state == "active" {
				open = append(open, id)
			}
		}
		if len(open) == 0 {
			return
		}
		if time.Now().After(end) {
			d.Fatalf("exceptions are open still: %v", open)
		}
	}
}

// after: all was live again; every decision of the outage has a row, and was verified again.
func (d *decisions) after(rows []outagestage.Row) {
	d.Helper()
	if n := len(outagestage.Rows(rows, "decision")); n != d.degraded {
		d.Errorf("%d rows are decisions, and %d were taken", n, d.degraded)
	}
	total, same, notKept, differs := 0, 0, 0, 0
	for _, row := range outagestage.Rows(rows, "reconcile", "event", "done") {
		r, err := d.Report(d.ctx, row.Field("id"))
		d.must(err)
		total, same, notKept = total+r.Document.Decisions.Total, same+r.Document.Decisions.Same, notKept+r.Document.Decisions.NotKept
		differs += r.Document.Decisions.Differs
	}
	d.Logf("measured: %d decisions while degraded, verified again: %d the same, %d by exception and not allowed again, %d of bundles that are not kept", total, same, differs, notKept)
	if total != d.degraded || differs != d.excepted || same != total-differs-notKept {
		d.Errorf("%d decisions were verified again, want %d; %d would not be taken again, want %d", total, d.degraded, differs, d.excepted)
	}
	bundle, artifact, e := d.entry(2)
	d.ask("a good bundle, afterwards", outagestage.Policy, bundle, artifact, "", allow(understudyv1.RestsOn_RESTS_ON_PUBLIC_LIVE))
	d.ask("what nobody has logged, afterwards", outagestage.Policy, outagestage.Unlogged(e), artifact, "", deny("LOG_UNTRUSTED"))
	if out := d.command("rollback", "list"); !strings.Contains(out, "shop-4.2") || !strings.Contains(out, "good") {
		d.Errorf("rollback list: %s", out)
	}
}
