package verdict

import (
	"bytes"
	"encoding/hex"
	"errors"
	"strings"

	"github.com/sigstore/sigstore-go/pkg/root"
	"github.com/sigstore/sigstore-go/pkg/verify"
	"github.com/transparency-dev/merkle/proof"
)

// diagnose says what is wrong with a bundle that sigstore-go does not believe: it verifies each part by
// itself. It finds reasons, and nothing that it finds is ever a reason to allow.
func (e *evaluation) diagnose(material root.TrustedMaterial, r *Request) {
	b := e.entity
	e.diagnoseSignature(material, r)
	certificate := b.certificate != nil
	verifier, err := verify.NewVerifier(material, needed(material, certificate)...)
	if err != nil {
		return
	}
	logged, err := verifier.VerifyTransparencyLogInclusion(b)
	if err != nil {
		e.diagnoseLog(material, err)
		logged = nil
	}
	if !certificate {
		return
	}
	stamps, err := verifier.VerifyObserverTimestamps(b, logged)
	if err != nil {
		if logged != nil || len(b.entries) == 0 || e.stampedByAuthority() { // else the log's time is missing because its entry does not verify
			e.add(CodeTimestampMissing, "no trusted time says when it was signed: %s", strings.ReplaceAll(err.Error(), "; error: %!w(<nil>)", ""))
		}
		return
	}
	for _, stamp := range stamps {
		// Verify follows the intermediates of a chain, which bundles have no more.
		chains, err := verify.VerifyLeafCertificate(stamp.Timestamp, b.certificate, material)
		if err != nil {
			e.add(CodeCertificateUntrusted, "no authority that is trusted has issued the certificate of %s, or it was not valid at %s", e.identity, stamp.Timestamp.UTC().Format("2006-01-02T15:04:05Z"))
			return
		}
		if len(material.CTLogs()) == 0 {
			continue
		}
		if err := verify.VerifySignedCertificateTimestamp(chains, 1, material); err != nil {
			e.add(CodeSCTInvalid, "no certificate log that is trusted vouches for the certificate: %v", err)
			return
		}
	}
	for _, i := range e.identities() {
		if i.matches(b.summary) {
			return
		}
	}
	if e.asked.key == nil && len(e.identities()) > 0 {
		e.add(CodeIdentityMismatch, "it says that %s (%s) signed it, and somebody else is expected", e.identity, e.issuer)
	}
}

func (e *evaluation) stampedByAuthority() bool {
	stamps, err := e.entity.Timestamps()
	return err == nil && len(stamps) > 0
}

func (e *evaluation) diagnoseSignature(material root.TrustedMaterial, r *Request) {
	content, err := e.entity.SignatureContent()
	if err != nil {
		e.add(CodeBundleMalformed, "%v", err)
		return
	}
	digest := r.Digest
	if message := content.MessageSignatureContent(); message != nil && !bytes.Equal(message.Digest(), digest) {
		e.add(CodeArtifactMismatch, "it is for the digest %s, and the artifact has %s", hex.EncodeToString(message.Digest()[:min(64, len(message.Digest()))]), hex.EncodeToString(digest))
		digest = message.Digest() // is at least that one signed?
	}
	verifySignature := func() error {
		return verify.VerifySignatureWithArtifactDigests(content, e.entity.content, material, []verify.ArtifactDigest{{Algorithm: r.Algorithm, Digest: digest}})
	}
	err = verifySignature()
	switch {
	case err == nil:
	case content.EnvelopeContent() != nil && verify.VerifySignature(content, e.entity.content, material) == nil:
		e.add(CodeArtifactMismatch, "the signed statement is not about the artifact: %v", err)
	default:
		e.add(CodeSignatureInvalid, "the signature does not verify: %v", err)
	}
}

// diagnoseLog says why no entry was believed.
func (e *evaluation) diagnoseLog(material root.TrustedMaterial, err error) {
	logs, known, late := material.RekorLogs(), false, false
	for _, entry := range e.entity.entries {
		_, ok := logs[hex.EncodeToString([]byte(entry.LogKeyID()))]
		known = known || ok
		at := entry.IntegratedTime()
		late = late || ok && !at.IsZero() && !e.entity.content.ValidAtTime(at, material)
	}
	_, mismatch := errors.AsType[proof.RootMismatchError](err) // prints both roots as lists of numbers
	switch {
	case len(e.entity.entries) == 0:
		e.add(CodeLogUntrusted, "the bundle has no log entry")
	case !known:
		e.add(CodeLogUntrusted, "its log entry is of a log that is not in the trust material")
	case late:
		e.add(CodeCertificateUntrusted, "the certificate was not valid when the log took the entry")
	case mismatch:
		e.add(CodeInclusionInvalid, "what the bundle holds is not the entry that the log signed")
	default:
		e.add(CodeInclusionInvalid, "the log entry does not verify: %v", err)
	}
}
