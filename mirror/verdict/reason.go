package verdict

import (
	"fmt"
	"strings"
)

// Reason is one reason of a decision.
type Reason struct {
	Code string `json:"code"` // one of the Code constants: scripts branch on it
	Text string `json:"text"` // one sentence for a person
}

// Codes of a Reason. They are stable; new ones may come.
const (
	CodeOK = "OK" // everything verifies

	// What was asked is no question that has an answer. No exception changes it.
	CodeRequestMalformed = "REQUEST_MALFORMED"
	CodePolicyUnknown    = "POLICY_UNKNOWN"
	CodeBundleMalformed  = "BUNDLE_MALFORMED"

	// What does not verify.
	CodeSignatureInvalid     = "SIGNATURE_INVALID"
	CodeArtifactMismatch     = "ARTIFACT_MISMATCH"     // it is about something else
	CodeIdentityMismatch     = "IDENTITY_MISMATCH"     // somebody else signed, or nobody says who should have
	CodeCertificateUntrusted = "CERTIFICATE_UNTRUSTED" // not of an authority in the trust material, or not valid then
	CodeSCTInvalid           = "SCT_INVALID"           // no certificate log vouches for the certificate
	CodeLogUntrusted         = "LOG_UNTRUSTED"         // no entry of a log in the trust material
	CodeInclusionInvalid     = "INCLUSION_INVALID"     // what the log says of its entry does not verify
	CodeTimestampMissing     = "TIMESTAMP_MISSING"     // nobody who is trusted says when it was signed
	CodeUnverified           = "UNVERIFIED"            // none of the above: see the text

	// What verifies and is not enough.
	CodeNotAcceptedSource = "NOT_ACCEPTED_SOURCE" // the policy does not accept what it rests on
	CodeMirrorContradicts = "MIRROR_CONTRADICTS"  // the mirror holds another entry there: evidence against the log
	CodeLogQuarantined    = "LOG_QUARANTINED"     // the log contradicted itself, and the mirror does not hold the entry

	// How it was decided.
	CodeRollbackBundle   = "ROLLBACK_BUNDLE"    // pinned: deployable in any state
	CodeAuditWouldDeny   = "AUDIT_WOULD_DENY"   // an exception allows what the other reasons deny
	CodeHighRiskEnforced = "HIGH_RISK_ENFORCED" // there is an exception, and it does not hold for this identity
)

// maxText bounds the text of a reason in bytes: it stands in rows of the ledger, and parts of it come
// from the bundle.
const maxText = 400

func because(code, format string, args ...any) Reason {
	return Reason{code, oneLine(fmt.Sprintf(format, args...), maxText)}
}

// oneLine makes text that strangers wrote fit for a row, a terminal and a message: one line of UTF-8
// without control characters, of at most max bytes.
func oneLine(text string, max int) string {
	text = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r >= 0x80 && r < 0xa0 || r == '\u2028' || r == '\u2029' {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(text, "\uFFFD"))
	if len(text) > max {
		text = strings.ToValidUTF8(text[:max-len("…")], "") + "…"
	}
	return text
}

// RefusedError says why an exception or a rollback bundle was not changed as an operator asked.
type RefusedError struct {
	Code    string // one of the Refused constants: scripts branch on it
	Text    string
	Reasons []Reason // of RefusedUnverified: why the bundle does not verify
}

func (e *RefusedError) Error() string { return e.Text }

// Codes of a RefusedError.
const (
	RefusedPolicy     = "POLICY_UNKNOWN"
	RefusedTicket     = "TICKET_MISSING"
	RefusedPerson     = "PERSON_MISSING"
	RefusedEnd        = "END_INVALID"       // not in the future, or further than the cap
	RefusedSelf       = "SELF_APPROVAL"     // who asks cannot approve
	RefusedExpired    = "EXPIRED"           // its end has passed
	RefusedState      = "NOT_IN_STATE"      // what was asked does not apply to the state that it is in
	RefusedActive     = "ALREADY_ACTIVE"    // another exception holds for the policy
	RefusedMany       = "TOO_MANY"          // of what is open
	RefusedUnknown    = "UNKNOWN"           // no such exception or rollback bundle
	RefusedName       = "NAME_INVALID"      // of a rollback bundle, or taken
	RefusedUnverified = "BUNDLE_UNVERIFIED" // only what verifies becomes a rollback bundle
)

func refuse(code, format string, args ...any) error {
	return &RefusedError{Code: code, Text: fmt.Sprintf(format, args...)}
}
