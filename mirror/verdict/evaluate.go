package verdict

import (
	"context"
	"crypto"
	"errors"
	"fmt"
	"runtime/debug"
	"time"

	"github.com/sigstore/sigstore-go/pkg/root"
	"github.com/sigstore/sigstore-go/pkg/verify"
	"github.com/sigstore/sigstore/pkg/signature"
	"github.com/sigstore/sigstore/pkg/signature/options"

	"github.com/understudy-log/understudy/mirror"
)

// evaluation is what today's material and the mirror say of a request, whatever the mode.
type evaluation struct {
	ok      bool     // everything verifies, and is accepted
	reasons []Reason // why not
	// question: there is nothing to be decided: no exception changes that.
	question     bool
	malformed    bool // the request itself, whatever the bundle
	contradicted bool // by the mirror
	highRisk     bool

	restsOn          RestsOn // what verified
	origin           string
	index            uint64
	freshness        mirror.Freshness
	identity, issuer string // of the certificate, whoever made it
	asked            asked
	entity           *entity
}

// asked is who must have signed.
type asked struct {
	policy   *policy
	identity *identity // of the request
	key      *key      // of the request
}

// maxReasons bounds the reasons of a decision: a bundle may have many entries that are wrong.
const maxReasons = 8

func (e *evaluation) add(code, format string, args ...any) {
	if len(e.reasons) < maxReasons {
		e.reasons = append(e.reasons, because(code, format, args...))
	}
}

// evaluate verifies. The error is ErrNoMaterial, or that of ctx.
func (v *Verifier) evaluate(ctx context.Context, r *Request) (*evaluation, error) {
	select {
	case v.running <- struct{}{}:
		defer func() { <-v.running }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	e := &evaluation{}
	if v.ask(e, r); e.question {
		return e, nil
	}
	material := v.c.Material()
	if material == nil {
		return e, ErrNoMaterial
	}
	verified := v.guarded(e, func() { e.verify(material, r) })
	if e.question {
		return e, nil
	}
	v.guarded(e, func() { v.place(ctx, e, material, verified) })
	return e, ctx.Err()
}

// ask reads the request.
func (v *Verifier) ask(e *evaluation, r *Request) {
	wrong := func(code, format string, args ...any) {
		e.question = true
		e.malformed = e.malformed || code == CodeRequestMalformed || code == CodePolicyUnknown
		e.add(code, format, args...)
	}
	name := cmpOr(r.Policy, DefaultPolicy)
	if e.asked.policy = v.policies[name]; e.asked.policy == nil {
		wrong(CodePolicyUnknown, "no policy has the name %q: its operator lists policies under verification in the configuration", oneLine(name, 100))
		return
	}
	if err := checkDigest(r); err != nil {
		wrong(CodeRequestMalformed, "%v", err)
	}
	if r.Identity != nil && len(r.PublicKey) > 0 {
		wrong(CodeRequestMalformed, "an identity and a public key exclude each other: a bundle is signed with one of them")
	}
	if r.Identity != nil {
		i, err := r.Identity.parse()
		if err != nil {
			wrong(CodeRequestMalformed, "expected identity: %v", err)
		} else {
			e.asked.identity = &i
		}
	}
	if len(r.PublicKey) > 0 {
		k, err := parseKey(r.PublicKey)
		if err == nil {
			_, err = k.verifier(true)
		}
		if err != nil {
			wrong(CodeRequestMalformed, "%v", err)
		} else {
			e.asked.key = k
		}
	}
	v.guarded(e, func() {
		var err error
		if e.entity, err = parseBundle(r.Bundle); err != nil {
			wrong(CodeBundleMalformed, "it is no Sigstore bundle that can be read: %v", err)
		}
	})
	if e.entity == nil {
		return
	}
	e.identity, e.issuer = oneLine(e.entity.summary.SubjectAlternativeName, maxName), oneLine(e.entity.summary.Issuer, maxName)
	if r.Identity == nil && len(r.PublicKey) == 0 && !e.asked.policy.names() {
		wrong(CodeIdentityMismatch, "nobody says who must have signed: give the identity and issuer of the certificate, or a public key, or a policy that lists them")
	}
	v.guarded(e, func() { e.highRisk = !e.question && v.highRisk(e) })
}

// guarded calls what reads strangers' bytes with libraries that were not made for all of them. A panic
// in there is a bundle that is malformed.
func (v *Verifier) guarded(e *evaluation, f func()) (good bool) {
	defer func() {
		if p := recover(); p != nil {
			v.logger.Error("a bundle made the verifier panic", "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
			*e = evaluation{question: true, asked: e.asked, reasons: []Reason{because(CodeBundleMalformed, "the bundle cannot be verified: it made the verifier panic")}}
		}
	}()
	f()
	return !e.question && len(e.reasons) == 0
}

// highRisk reports whether the request or the bundle may be about somebody who never leaves enforce.
func (v *Verifier) highRisk(e *evaluation) bool {
	meant := e.asked.policy.identities
	keys := e.asked.policy.keys
	switch {
	case e.asked.identity != nil:
		meant, keys = []identity{*e.asked.identity}, nil
	case e.asked.key != nil:
		meant, keys = nil, []*key{e.asked.key}
	}
	for _, p := range v.c.HighRisk {
		for _, i := range meant {
			if p.mayMean(i) {
				return true
			}
		}
		for _, c := range e.entity.claims() {
			if p.covers(c) {
				return true
			}
		}
	}
	for _, high := range v.highKeys {
		if high.in(keys) {
			return true
		}
		for _, entry := range e.entity.entries {
			if high.is(entry.PublicKey()) {
				return true
			}
		}
		if c := e.entity.certificate; c != nil && high.is(c.PublicKey) {
			return true
		}
	}
	// A key that nobody named may be anybody's.
	return e.entity.certificate == nil && len(keys) == 0
}

// verify asks sigstore-go whether the bundle is good for who is asked for. If it is not, it looks
// which parts are not; that never makes it good.
func (e *evaluation) verify(material root.TrustedMaterial, r *Request) {
	b, p := e.entity, e.asked.policy
	artifact := verify.WithArtifactDigest(r.Algorithm, r.Digest)
	if b.certificate == nil {
		e.verifyKey(material, r, artifact)
		return
	}
	identities := e.identities()
	if e.asked.key != nil || len(identities) == 0 {
		e.add(CodeIdentityMismatch, "the bundle is signed with a certificate of %s (%s), and not with a key that is expected", e.identity, e.issuer)
		e.diagnose(material, r)
		return
	}
	var who []verify.PolicyOption
	for _, i := range identities {
		who = append(who, verify.WithCertificateIdentity(i.matcher))
	}
	verifier, err := verify.NewVerifier(material, needed(material, true)...)
	if err != nil {
		e.add(CodeUnverified, "%v", err)
		return
	}
	result, err := verifier.Verify(b, verify.NewPolicy(artifact, who...))
	if err != nil {
		if _, ok := errors.AsType[*verify.ErrNoMatchingCertificateIdentity](err); ok {
			e.add(CodeIdentityMismatch, "it is signed by %s (%s), and somebody else is expected", e.identity, e.issuer)
			return // it stands at the end of what is verified
		}
		e.diagnose(material, r)
		if len(e.reasons) == 0 {
			e.add(CodeUnverified, "%v", err)
		}
		return
	}
	// Verify has looked for the request's identity alone.
	if e.asked.identity != nil && p.names() && !p.lists(result) {
		e.add(CodeIdentityMismatch, "%s (%s) signed it, as the request says, and is not in the policy %q", e.identity, e.issuer, p.Name)
	}
}

func (p *policy) lists(result *verify.VerificationResult) bool {
	for _, i := range p.identities {
		if c := result.Signature.Certificate; c != nil && i.matches(*c) {
			return true
		}
	}
	return false
}

// needed is what cosign demands of a bundle.
func needed(material root.TrustedMaterial, certificate bool) []verify.VerifierOption {
	need := []verify.VerifierOption{verify.WithTransparencyLog(1), verify.WithoutStatementPredicate()}
	if !certificate {
		return append(need, verify.WithNoObserverTimestamps())
	}
	need = append(need, verify.WithObserverTimestamps(1))
	if len(material.CTLogs()) > 0 {
		need = append(need, verify.WithSignedCertificateTimestamps(1))
	}
	return need
}

// keys are those one of which must have signed.
func (e *evaluation) keys() []*key {
	if e.asked.key != nil {
		return []*key{e.asked.key}
	}
	return e.asked.policy.keys
}

// identities are those of which one must have signed.
func (e *evaluation) identities() []identity {
	if e.asked.identity != nil {
		return []identity{*e.asked.identity}
	}
	return e.asked.policy.identities
}

// verifyKey is verify of a bundle that a key has signed.
func (e *evaluation) verifyKey(material root.TrustedMaterial, r *Request, artifact verify.ArtifactPolicyOption) {
	b, p, keys := e.entity, e.asked.policy, e.keys()
	if e.asked.identity != nil || len(keys) == 0 {
		e.add(CodeIdentityMismatch, "the bundle is signed with a key, and a certificate of an identity is expected")
		return
	}
	if e.asked.key != nil && p.names() && !e.asked.key.in(p.keys) {
		e.add(CodeIdentityMismatch, "the key of the request is not in the policy %q", p.Name)
	}
	var last error
	for _, k := range keys {
		with, err := k.material(material, b.GetMessageSignature() != nil)
		if err != nil {
			e.add(CodeUnverified, "%v", err)
			return
		}
		verifier, err := verify.NewVerifier(with, needed(with, false)...)
		if err != nil {
			e.add(CodeUnverified, "%v", err)
			return
		}
		if _, last = verifier.Verify(b, verify.NewPolicy(artifact, verify.WithKey())); last == nil {
			return
		}
	}
	for _, k := range keys {
		for _, entry := range b.entries {
			if !k.is(entry.PublicKey()) {
				continue
			}
			if with, err := k.material(material, b.GetMessageSignature() != nil); err == nil {
				if e.diagnose(with, r); len(e.reasons) == 0 {
					e.add(CodeUnverified, "%v", last)
				}
				return
			}
		}
	}
	if len(b.entries) == 0 {
		e.add(CodeLogUntrusted, "the bundle has no log entry")
		return
	}
	e.add(CodeIdentityMismatch, "another key signed it than the one that is expected")
}

// material is trust material in which this key is the only one.
func (k *key) material(material root.TrustedMaterial, overFile bool) (root.TrustedMaterial, error) {
	v, err := k.verifier(overFile)
	if err != nil {
		return nil, err
	}
	only := root.NewExpiringKey(v, time.Time{}, time.Time{}) // whatever the bundle hints, it must be this one
	return root.TrustedMaterialCollection{material, root.NewTrustedPublicKeyMaterial(func(string) (root.TimeConstrainedVerifier, error) { return only, nil })}, nil
}

// verifier verifies with the key. Over a file, other than over an envelope, Ed25519 signs a digest
// (Ed25519ph), as sigstore-go has it for certificates.
func (k *key) verifier(overFile bool) (signature.Verifier, error) {
	var load []signature.LoadOption
	if overFile {
		load = append(load, options.WithED25519ph())
	}
	v, err := signature.LoadDefaultVerifier(crypto.PublicKey(k.public), load...)
	if err != nil {
		return nil, fmt.Errorf("public key: %w", err)
	}
	return v, nil
}
