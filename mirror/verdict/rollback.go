package verdict

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/understudy-log/understudy/mirror/ledger"
	"github.com/understudy-log/understudy/storage"
)

// Rollback is a bundle that was verified once and stays deployable in any state, with exactly that
// artifact and under that policy: what one goes back to when nothing else can be verified.
type Rollback struct {
	Name         string    `json:"name"`
	Policy       string    `json:"policy"`
	BundleSHA256 string    `json:"bundle_sha256"`
	Artifact     string    `json:"artifact"` // sha256:HEX
	Identity     string    `json:"identity,omitempty"`
	Issuer       string    `json:"issuer,omitempty"`
	PublicKey    string    `json:"public_key,omitempty"` // PEM, where the request had one
	Added        time.Time `json:"added"`
	AddedBy      string    `json:"added_by"`
	Ticket       string    `json:"ticket"`
	// Good says whether it verified offline when that was Checked last; Problem says why not. It stays
	// deployable.
	Good    bool      `json:"good"`
	Checked time.Time `json:"checked"`
	Problem string    `json:"problem,omitempty"`
}

const (
	kindRollback   = "rollback"
	rollbackPrefix = "rollback "
	maxRollbacks   = 1000
)

// rollbackRow is the body of a row "rollback".
type rollbackRow struct {
	Event        string `json:"event"` // added, removed, bad, good
	Name         string `json:"name"`
	Policy       string `json:"policy"`
	BundleSHA256 string `json:"bundle_sha256"`
	Artifact     string `json:"artifact"`
	By           string `json:"by,omitempty"`
	Ticket       string `json:"ticket,omitempty"`
	Reason       string `json:"reason,omitempty"`
}

// pin is a Rollback with what it was verified with, as its record has it.
type pin struct {
	Rollback
	Removed  bool      `json:"removed,omitempty"`
	Expected *Identity `json:"expected,omitempty"`
	// Bundle stands in a record of its own.
	bundle []byte
}

type rollbacks struct {
	changing sync.Mutex // held while a change is committed

	mu    sync.RWMutex // guards the map; never held during I/O. Pins are not changed, but replaced.
	names map[string]*pin
}

func bundleOf(name string) string { return "rollback-bundle " + name }

func (x *rollbacks) load(db *storage.DB) error {
	x.names = map[string]*pin{}
	err := db.Records(rollbackPrefix, func(name string, raw []byte) error {
		p := &pin{}
		if err := json.Unmarshal(raw, p); err != nil {
			return fmt.Errorf("%s is damaged (%w); restore a backup", name, err)
		}
		if !p.Removed {
			x.names[p.Name] = p
		}
		return nil
	})
	for name, p := range x.names {
		if err != nil {
			return err
		}
		if p.bundle, err = db.Record(bundleOf(name)); err == nil && digestOf(p.bundle) != p.BundleSHA256 {
			err = fmt.Errorf("rollback bundle %q is damaged; restore a backup", name)
		}
	}
	return err
}

func digestOf(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}

// find returns the pin of a bundle and artifact; nil: there is none.
func (x *rollbacks) find(bundle, artifact, policy string) *pin {
	x.mu.RLock()
	defer x.mu.RUnlock()
	for _, p := range x.names {
		if p.BundleSHA256 == bundle && p.Artifact == artifact && p.Policy == policy {
			return p
		}
	}
	return nil
}

// fits says why a request is not for the pin: somebody else is expected than it was verified for.
// What the pin was verified with is believed, and not what a bundle says today.
func (p *pin) fits(e *evaluation) error {
	switch {
	case p == nil:
		return errors.New("no pin")
	case e.malformed:
		return errors.New("the request is malformed")
	case e.asked.identity != nil && (p.Identity == "" || !e.asked.identity.means(p.Identity, p.Issuer)):
		return errors.New("it was pinned for somebody else")
	case e.asked.key != nil && p.PublicKey != string(e.asked.key.pem):
		return errors.New("it was pinned for another key")
	}
	return nil
}

// reasons says that a pin allows, and what a verification today says.
func (p *pin) reasons(e *evaluation) []Reason {
	today := "it verifies today, too"
	if !e.ok {
		today = "today it does NOT verify: see the other reasons"
	}
	return append([]Reason{because(CodeRollbackBundle, "rollback bundle %q, pinned by %s on %s (ticket %s), when it verified; %s",
		p.Name, p.AddedBy, p.Added.Format(time.DateOnly), p.Ticket, today)}, e.reasons...)
}

// AddRollback pins a bundle, which must verify now: in enforce, under the policy that the request
// names. The error is a *RefusedError, or says that nothing could be decided.
func (v *Verifier) AddRollback(ctx context.Context, name string, r Request, by, ticket string) (Rollback, error) {
	if name == "" || len(name) > 100 || name != field(name) {
		return Rollback{}, refuse(RefusedName, "%q is no name for a rollback bundle: want one line of at most 100 bytes", oneLine(name, 100))
	}
	if err := signed(ticket, by); err != nil {
		return Rollback{}, err
	}
	v.rollbacks.changing.Lock()
	defer v.rollbacks.changing.Unlock()
	list := v.rollbacks.list()
	if slices.ContainsFunc(list, func(p *pin) bool { return p.Name == name }) {
		return Rollback{}, refuse(RefusedName, "there is a rollback bundle %q: remove it first, or take another name", name)
	}
	if len(list) >= maxRollbacks {
		return Rollback{}, refuse(RefusedMany, "there are %d rollback bundles: remove some first", len(list))
	}
	e, err := v.evaluate(ctx, &r)
	if err != nil {
		return Rollback{}, err
	}
	if !e.ok {
		return Rollback{}, &RefusedError{RefusedUnverified, "only what verifies becomes a rollback bundle, and this does not", e.reasons}
	}
	now := v.now()
	p := &pin{Rollback: Rollback{
		Name: name, Policy: e.asked.policy.Name, BundleSHA256: digestOf(r.Bundle), Artifact: artifactOf(&r),
		Added: now, AddedBy: field(by), Ticket: field(ticket), Good: true, Checked: now,
	}, bundle: slices.Clone(r.Bundle)}
	if e.entity.certificate != nil {
		p.Identity, p.Issuer = e.entity.summary.SubjectAlternativeName, e.entity.summary.Issuer
	}
	if e.asked.identity != nil {
		p.Expected = &e.asked.identity.Identity
	}
	if e.asked.key != nil {
		p.PublicKey = string(e.asked.key.pem)
	}
	if other := v.rollbacks.find(p.BundleSHA256, p.Artifact, p.Policy); other != nil {
		return Rollback{}, refuse(RefusedName, "this bundle is pinned for this artifact and policy already, as %q", other.Name)
	}
	return p.Rollback, v.putRollback(p, "added", p.AddedBy, p.Ticket, map[string][]byte{bundleOf(name): p.bundle})
}

// RemoveRollback ends a pin. The error is a *RefusedError, or that of the database.
func (v *Verifier) RemoveRollback(name, by, ticket string) error {
	if err := signed(ticket, by); err != nil {
		return err
	}
	v.rollbacks.changing.Lock()
	defer v.rollbacks.changing.Unlock()
	for _, p := range v.rollbacks.list() {
		if p.Name == name {
			next := *p
			next.Removed = true
			return v.putRollback(&next, "removed", field(by), field(ticket), map[string][]byte{})
		}
	}
	return refuse(RefusedUnknown, "there is no rollback bundle %q", oneLine(name, 100))
}

// Rollbacks returns the rollback bundles, by name.
func (v *Verifier) Rollbacks() []Rollback {
	var out []Rollback
	for _, p := range v.rollbacks.list() {
		out = append(out, p.Rollback)
	}
	return out
}

func (x *rollbacks) list() []*pin {
	x.mu.RLock()
	defer x.mu.RUnlock()
	var out []*pin
	for _, p := range x.names {
		out = append(out, p)
	}
	slices.SortFunc(out, func(a, b *pin) int { return cmp.Compare(a.Name, b.Name) })
	return out
}

// putRollback makes a change durable, and only then true. Its caller holds changing.
func (v *Verifier) putRollback(p *pin, event, by, ticket string, records map[string][]byte) error {
	record, err := json.Marshal(p)
	if err != nil {
		return fmt.Errorf("rollback bundle %q: %w", p.Name, err)
	}
	records[rollbackPrefix+p.Name] = record
	if _, err := v.c.Ledger.Append(ledger.Entry{
		Kind:    kindRollback,
		Body:    rollbackRow{event, p.Name, p.Policy, p.BundleSHA256, p.Artifact, by, ticket, p.Problem},
		Records: records,
	}); err != nil {
		return fmt.Errorf("rollback bundle %q: %w", p.Name, err)
	}
	v.rollbacks.set(p)
	v.logger.Info("rollback bundle "+event, "name", p.Name, "by", by, "ticket", ticket, "problem", p.Problem)
	return nil
}

func (x *rollbacks) set(p *pin) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if p.Removed {
		delete(x.names, p.Name)
		return
	}
	x.names[p.Name] = p
}

// request is what verifies the pin again.
func (p *pin) request() *Request {
	algorithm, digest := splitArtifact(p.Artifact)
	return &Request{Bundle: p.bundle, Algorithm: algorithm, Digest: digest, Policy: p.Policy, Identity: p.Expected, PublicKey: []byte(p.PublicKey)}
}

// checkRollbacks verifies every rollback bundle offline with today's material. What changes is a row.
func (v *Verifier) checkRollbacks(ctx context.Context) error {
	material := v.c.Material()
	if material == nil {
		return nil // nothing is known: what was known stays
	}
	v.rollbacks.changing.Lock()
	defer v.rollbacks.changing.Unlock()
	for _, p := range v.rollbacks.list() {
		if ctx.Err() != nil {
			return nil
		}
		e := &evaluation{}
		r := p.request()
		if v.ask(e, r); !e.question {
			v.guarded(e, func() { e.verify(material, r) })
		}
		next := *p
		next.Good, next.Checked, next.Problem = len(e.reasons) == 0, v.now(), ""
		if !next.Good {
			next.Problem = e.reasons[0].Code + ": " + e.reasons[0].Text
		}
		if next.Good == p.Good {
			v.rollbacks.set(&next) // when it was looked at last need not be durable
			continue
		}
		event := "good"
		if !next.Good {
			event = "bad"
		}
		if err := v.putRollback(&next, event, "", "", map[string][]byte{}); err != nil {
			return err
		}
	}
	return nil
}
