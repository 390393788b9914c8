package e2elog

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"os"
	"testing"
	"time"

	protobundle "github.com/sigstore/protobuf-specs/gen/pb-go/bundle/v1"
	"github.com/sigstore/sigstore-go/pkg/bundle"
	"github.com/sigstore/sigstore-go/pkg/root"
	"github.com/sigstore/sigstore-go/pkg/sign"
	"github.com/sigstore/sigstore-go/pkg/verify"

	"github.com/understudy-log/understudy/test/authority"
)

// signWithLibrary signs content with a new key and certificate by what the SigningConfig says, as
// sigstore-go's own example does.
func signWithLibrary(ctx context.Context, m material, content sign.Content, log func(root.Service) sign.Transparency) (*protobundle.Bundle, error) {
	config, err := root.NewSigningConfigFromPath(m.signingConfig)
	if err != nil {
		return nil, err
	}
	trusted, err := root.NewTrustedRootFromPath(m.trustedRoot)
	if err != nil {
		return nil, err
	}
	key, err := sign.NewEphemeralKeypair(nil)
	if err != nil {
		return nil, err
	}
	opts := sign.BundleOptions{Context: ctx, TrustedRoot: trusted}
	fulcio, err := root.SelectService(config.FulcioCertificateAuthorityURLs(), sign.FulcioAPIVersions, time.Now())
	if err != nil {
		return nil, err
	}
	opts.CertificateProvider = sign.NewFulcio(&sign.FulcioOptions{BaseURL: fulcio.URL})
	opts.CertificateProviderOptions = &sign.CertificateProviderOptions{IDToken: ca.token(email)}
	if len(config.TimestampAuthorityURLs()) > 0 {
		tsas, err := root.SelectServices(config.TimestampAuthorityURLs(), config.TimestampAuthorityURLsConfig(), sign.TimestampAuthorityAPIVersions, time.Now())
		if err != nil {
			return nil, err
		}
		for _, tsa := range tsas {
			opts.TimestampAuthorities = append(opts.TimestampAuthorities, sign.NewTimestampAuthority(&sign.TimestampAuthorityOptions{URL: tsa.URL}))
		}
	}
	rekors, err := root.SelectServices(config.RekorLogURLs(), config.RekorLogURLsConfig(), sign.RekorAPIVersions, time.Now())
	if err != nil {
		return nil, err
	}
	for _, rekor := range rekors {
		opts.TransparencyLogs = append(opts.TransparencyLogs, log(rekor))
	}
	return sign.Bundle(content, key, opts)
}

func rekorOf(s root.Service) sign.Transparency {
	return sign.NewRekor(&sign.RekorOptions{BaseURL: s.URL, Version: s.MajorAPIVersion})
}

// twice logs each entry two times and keeps the second answer.
type twice struct{ sign.Transparency }

func (l twice) GetTransparencyLogEntry(ctx context.Context, pem []byte, b *protobundle.Bundle) error {
	if err := l.Transparency.GetTransparencyLogEntry(ctx, pem, b); err != nil {
		return err
	}
	first := b.VerificationMaterial.TlogEntries
	b.VerificationMaterial.TlogEntries = nil
	if err := l.Transparency.GetTransparencyLogEntry(ctx, pem, b); err != nil {
		return fmt.Errorf("the second time: %w", err)
	}
	if n := b.VerificationMaterial.TlogEntries[0].LogIndex; n != first[0].LogIndex {
		return fmt.Errorf("the second time it has the index %d, and the first time %d", n, first[0].LogIndex)
	}
	return nil
}

// TestSigstoreGo: sigstore-go signs in either generation, also when it tries again, and verifies.
func TestSigstoreGo(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	for version := 1; version <= 2; version++ {
		m := public(t, version == 2).export(t, "fallback", s, version)
		without := public(t, version == 2).trustedRoot
		artifact := fmt.Appendf(nil, "an artifact of v%d at %s", version, time.Now())
		statement := fmt.Appendf(nil, `{"_type":"https://in-toto.io/Statement/v1","predicateType":%q,"subject":[{"name":"artifact","digest":{"sha256":"%x"}}],"predicate":{}}`, predicateType, sha256.Sum256(artifact))
		for name, content := range map[string]sign.Content{
			"artifact": &sign.PlainData{Data: artifact},
			"envelope": &sign.DSSEData{Data: statement, PayloadType: "application/vnd.in-toto+json"},
		} {
			t.Run(fmt.Sprintf("v%d/%s", version, name), func(t *testing.T) {
				log := rekorOf
				if asked != realServers || version == 1 { // the real v2 log answers 409 without what was asked for
					log = func(s root.Service) sign.Transparency { return twice{rekorOf(s)} }
				}
				made, err := signWithLibrary(within(t, time.Minute), m, content, log)
				if err != nil {
					t.Fatal(err)
				}
				if err := verifyWithLibrary(m.trustedRoot, made, artifact, version); err != nil {
					t.Error(err)
				}
				if verifyWithLibrary(m.trustedRoot, made, []byte("tampered"), version) == nil {
					t.Error("it verifies a tampered artifact")
				}
				if verifyWithLibrary(without, made, artifact, version) == nil {
					t.Error("it verifies without our log in the trusted root")
				}
				promise := made.VerificationMaterial.TlogEntries[0].InclusionPromise
				if (promise != nil) != (version == 1) {
					t.Errorf("v%d: inclusion promise %v", version, promise)
				}
			})
		}
	}
}

func verifyWithLibrary(trustedRoot string, made *protobundle.Bundle, artifact []byte, version int) error {
	data, err := os.ReadFile(trustedRoot)
	if err != nil {
		return err
	}
	trusted, err := root.NewTrustedRootFromJSON(data)
	if err != nil {
		return err
	}
	stamp := verify.WithIntegratedTimestamps(1)
	if version == 2 {
		stamp = verify.WithSignedTimestamps(1)
	}
	verifier, err := verify.NewVerifier(trusted, verify.WithTransparencyLog(1), stamp)
	if err != nil {
		return err
	}
	b, err := bundle.NewBundle(made)
	if err != nil {
		return err
	}
	who, err := verify.NewShortCertificateIdentity(authority.Issuer, "", email, "")
	if err != nil {
		return err
	}
	_, err = verifier.Verify(b, verify.NewPolicy(verify.WithArtifact(bytes.NewReader(artifact)), verify.WithCertificateIdentity(who)))
	return err
}
