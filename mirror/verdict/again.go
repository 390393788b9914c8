package verdict

import (
	"context"
	"encoding/hex"
	"fmt"
	"strings"

	"github.com/understudy-log/understudy/mirror/ledger"
)

// Results of Again.
const (
	AgainSame    = "same"     // today the answer would be the one that was given
	AgainDiffers = "differs"  // it would not
	AgainNotKept = "not_kept" // the bundle is not kept: it was denied, or had to go
)

// Outcome is what a decision looks like today.
type Outcome struct {
	Result  string   // one of the Again constants
	Given   bool     // whether it was allowed
	Today   bool     // whether enforce would allow it today
	Reasons []Reason // of today
	RestsOn RestsOn  // today
	Origin  string
	Index   uint64
}

// Again verifies the decision of a row "decision" again, in enforce and as if nothing was pinned: what an
// exception allowed, or a rollback bundle, is the same only if it verifies. The error says that nothing
// could be decided.
func (v *Verifier) Again(ctx context.Context, row ledger.Row) (Outcome, error) {
	if row.Kind != kindDecision {
		return Outcome{}, fmt.Errorf("row %d of the ledger is no decision but of the kind %q", row.Seq, row.Kind)
	}
	var d decision
	if err := row.Decode(&d); err != nil {
		return Outcome{}, err
	}
	out := Outcome{Given: d.Decision == allowed}
	bundle, err := v.bundle(d.BundleSHA256)
	if err != nil {
		return Outcome{}, err
	}
	if bundle == nil {
		out.Result = AgainNotKept
		return out, nil
	}
	algorithm, digest := splitArtifact(d.Artifact)
	e, err := v.evaluate(ctx, &Request{Bundle: bundle, Algorithm: algorithm, Digest: digest, Policy: d.Policy, Identity: d.Expected, PublicKey: []byte(d.PublicKey)})
	if err != nil {
		return Outcome{}, err
	}
	out.Result, out.Today, out.Reasons, out.RestsOn, out.Origin, out.Index = AgainDiffers, e.ok, e.reasons, e.restsOn, e.origin, e.index
	if e.ok == out.Given {
		out.Result = AgainSame
	}
	if e.ok {
		out.Reasons = []Reason{because(CodeOK, "everything verifies")}
	}
	return out, nil
}

// bundle returns a bundle that is kept of a decision, or pinned; nil: it is not.
func (v *Verifier) bundle(hash string) ([]byte, error) {
	for _, p := range v.rollbacks.list() {
		if p.BundleSHA256 == hash {
			return p.bundle, nil
		}
	}
	return v.kept.bundle(hash)
}

func splitArtifact(artifact string) (algorithm string, digest []byte) {
	algorithm, digits, _ := strings.Cut(artifact, ":")
	digest, _ = hex.DecodeString(digits) // what is none has no length that Verify takes
	return algorithm, digest
}
