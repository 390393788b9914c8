package main

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/sigstore/sigstore-go/pkg/bundle"
	"github.com/sigstore/sigstore-go/pkg/root"
	"github.com/sigstore/sigstore-go/pkg/verify"
	"github.com/sigstore/sigstore/pkg/cryptoutils"
	"github.com/sigstore/sigstore/pkg/signature"
	"github.com/sigstore/sigstore/pkg/signature/options"
	"github.com/transparency-dev/merkle/proof"
)

// verifyBundle verifies a Sigstore bundle as cosign does: one log entry, one SCT if
// the trusted root has certificate logs, and one timestamp of when a certificate
// signed, from a timestamp authority or from Rekor v1.
func (o *verifyOptions) verifyBundle(ctx context.Context, data []byte, out io.Writer) error {
	var b bundle.Bundle
	if err := b.UnmarshalJSON(data); err != nil {
		return wrongf("%s is a broken Sigstore bundle (%w): get it again", o.file, err)
	}
	content, err := b.VerificationContent()
	if err != nil {
		return wrongf("%s is a broken Sigstore bundle (%w): get it again", o.file, err)
	}
	signer, err := o.expectedSigner(content.Certificate() != nil)
	if err != nil {
		return err
	}
	artifact, closeArtifact, err := o.expectedArtifact()
	if err != nil {
		return err
	}
	defer closeArtifact()
	material, err := o.material(ctx, b.GetMessageSignature() != nil)
	if err != nil {
		return err
	}
	need := []verify.VerifierOption{verify.WithTransparencyLog(1)}
	if content.Certificate() == nil {
		need = append(need, verify.WithNoObserverTimestamps())
	} else {
		need = append(need, verify.WithObserverTimestamps(1))
		if len(material.CTLogs()) > 0 {
			need = append(need, verify.WithSignedCertificateTimestamps(1))
		}
	}
	verifier, err := verify.NewVerifier(material, need...)
	if err != nil {
		return err
	}
	result, err := verifier.Verify(&b, verify.NewPolicy(artifact, signer))
	if err != nil {
		return wrongBundle(err)
	}
	report(out, &b, result)
	return nil
}

// wrongBundle is the error of a bundle that sigstore-go does not believe.
func wrongBundle(err error) error {
	if _, ok := errors.AsType[proof.RootMismatchError](err); ok { // prints both roots as lists of numbers
		return wrongf("the bundle does not verify: what it holds is not the entry that the log signed; check that the bundle was not altered, and the key is that of the signer")
	}
	return wrongf("the bundle does not verify: %w; check that artifact, identity or key, and trusted root are those that it was made with", err)
}

// expectedSigner is the policy on who signed: an identity or a key.
func (o *verifyOptions) expectedSigner(certificate bool) (verify.PolicyOption, error) {
	identity := o.identity + o.identityRegexp + o.issuer + o.issuerRegexp
	switch {
	case identity != "" && o.publicKey != "":
		return nil, fmt.Errorf("--public-key and --certificate-... exclude each other: a bundle is signed with one of them")
	case o.publicKey != "":
		return verify.WithKey(), nil
	case !certificate:
		if identity != "" {
			return nil, wrongf("the bundle is signed with a key, not with a certificate for an identity: ask the signer for a bundle with a certificate, or verify with --public-key")
		}
		return nil, fmt.Errorf("the bundle is signed with a key: give it with --public-key FILE")
	case o.identity+o.identityRegexp == "" || o.issuer+o.issuerRegexp == "":
		return nil, fmt.Errorf("the bundle is signed with a certificate: say whom you expect with --certificate-identity NAME and --certificate-oidc-issuer URL")
	}
	id, err := verify.NewShortCertificateIdentity(o.issuer, o.issuerRegexp, o.identity, o.identityRegexp)
	if err != nil {
		return nil, fmt.Errorf("expected identity: %w", err)
	}
	return verify.WithCertificateIdentity(id), nil
}

// expectedArtifact is the policy on what was signed. The function returned closes
// the artifact's file.
func (o *verifyOptions) expectedArtifact() (verify.ArtifactPolicyOption, func() error, error) {
	nothing := func() error { return nil }
	if o.artifact != "" {
		f, err := os.Open(o.artifact)
		if err != nil {
			return nil, nil, err
		}
		return verify.WithArtifact(f), f.Close, nil
	}
	if o.artifactDigest == "" {
		return nil, nil, fmt.Errorf("a bundle is for an artifact: give --artifact FILE or --artifact-digest sha256:HEX")
	}
	algorithm, digits, _ := strings.Cut(o.artifactDigest, ":")
	digest, err := hex.DecodeString(digits)
	if want := map[string]int{"sha256": 32, "sha384": 48, "sha512": 64}[algorithm]; err != nil || len(digest) == 0 || len(digest) != want {
		return nil, nil, fmt.Errorf("--artifact-digest %q: want sha256:, sha384: or sha512: and the digest in hex", o.artifactDigest)
	}
	return verify.WithArtifactDigest(algorithm, digest), nothing, nil
}

// material is what a bundle is verified against. Over a file, other than over an
// envelope, Ed25519 signs a digest (Ed25519ph), as sigstore-go has it for
// certificates.
func (o *verifyOptions) material(ctx context.Context, overFile bool) (root.TrustedMaterial, error) {
	k, err := o.keyring(ctx)
	if err != nil {
		return nil, err
	}
	if k.root == nil {
		return nil, fmt.Errorf("no trusted root: a bundle is verified against one, give --trusted-root FILE")
	}
	if o.publicKey == "" {
		return k.root.Material(), nil
	}
	data, err := os.ReadFile(o.publicKey)
	if err != nil {
		return nil, err
	}
	public, err := cryptoutils.UnmarshalPEMToPublicKey(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w; want a PEM block PUBLIC KEY", o.publicKey, err)
	}
	var load []signature.LoadOption
	if overFile {
		load = append(load, options.WithED25519ph())
	}
	v, err := signature.LoadDefaultVerifier(public, load...)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", o.publicKey, err)
	}
	key := root.NewExpiringKey(v, time.Time{}, time.Time{}) // whatever the bundle hints, it must be this one
	return root.TrustedMaterialCollection{k.root.Material(), root.NewTrustedPublicKeyMaterial(func(string) (root.TimeConstrainedVerifier, error) { return key, nil })}, nil
}

func report(out io.Writer, b *bundle.Bundle, r *verify.VerificationResult) {
	who := "the key given"
	if c := r.Signature.Certificate; c != nil {
		who = fmt.Sprintf("%s (%s)", c.SubjectAlternativeName, c.Issuer)
	}
	fmt.Fprintf(out, "good: the bundle is for this artifact\n  signed by %s\n", who)
	// Of several entries sigstore-go does not say which one it verified.
	if entries := b.VerificationMaterial.GetTlogEntries(); len(entries) == 1 && entries[0].GetInclusionProof() != nil {
		p := entries[0].GetInclusionProof()
		origin, _, _ := strings.Cut(p.GetCheckpoint().GetEnvelope(), "\n")
		fmt.Fprintf(out, "  logged    entry %d of %s\n", p.GetLogIndex(), origin)
	}
	for _, t := range r.VerifiedTimestamps {
		fmt.Fprintf(out, "  at        %s (%s)\n", t.Timestamp.UTC().Format(time.RFC3339), t.URI)
	}
}
