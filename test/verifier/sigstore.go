// Package verifier does what the users of a log do with a mirror's answers: it makes
// a Sigstore bundle of them and verifies it with sigstore-go, it proves entries with
// Tessera's client, and it runs Tessera's fsck. Nothing here knows Understudy's code.
package verifier

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"net/url"

	bundlepb "github.com/sigstore/protobuf-specs/gen/pb-go/bundle/v1"
	commonpb "github.com/sigstore/protobuf-specs/gen/pb-go/common/v1"
	logpb "github.com/sigstore/protobuf-specs/gen/pb-go/rekor/v1"
	"github.com/sigstore/sigstore-go/pkg/bundle"
	"github.com/sigstore/sigstore-go/pkg/root"
	"github.com/sigstore/sigstore-go/pkg/verify"
	"google.golang.org/protobuf/proto"
)

// Proof is what a mirror answered about one entry.
type Proof struct {
	Index      uint64
	TreeSize   uint64
	RootHash   []byte
	Hashes     [][]byte // audit path, leaf to root
	Checkpoint []byte   // signed note of upstream
	Body       []byte   // the entry
}

// Sigstore verifies artifacts under one unchanged trusted root, with a certificate, a
// timestamp and a log entry demanded for each.
type Sigstore struct {
	verifier *verify.Verifier
	identity verify.CertificateIdentity
	logID    []byte
}

// NewSigstore reads the trusted root that upstream published. The log is the one in
// it whose host name is origin; identity and issuer are whose signatures count.
func NewSigstore(trustedRootFile, origin, identity, issuer string) (*Sigstore, error) {
	trusted, err := root.NewTrustedRootFromPath(trustedRootFile)
	if err != nil {
		return nil, err
	}
	logID, err := logIDOf(trusted, origin)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", trustedRootFile, err)
	}
	who, err := verify.NewShortCertificateIdentity(issuer, "", identity, "")
	if err != nil {
		return nil, err
	}
	verifier, err := verify.NewVerifier(trusted, verify.WithTransparencyLog(1), verify.WithSignedTimestamps(1))
	return &Sigstore{verifier: verifier, identity: who, logID: logID}, err
}

// Verify puts the mirror's proof in place of the log entry that signed carries, and
// verifies the outcome for artifact. Of signed, only signature, certificate and
// timestamp are used: no byte of the log entry comes from the upstream's answer to the signer.
func (s *Sigstore) Verify(signed *bundlepb.Bundle, artifact []byte, p Proof) error {
	b, err := bundle.NewBundle(s.Assemble(signed, p))
	if err != nil {
		return fmt.Errorf("entry %d: %w", p.Index, err)
	}
	policy := verify.NewPolicy(verify.WithArtifact(bytes.NewReader(artifact)), verify.WithCertificateIdentity(s.identity))
	if _, err := s.verifier.Verify(b, policy); err != nil {
		return fmt.Errorf("entry %d: %w", p.Index, err)
	}
	return nil
}

// Assemble returns signed with the mirror's proof in place of its log entry.
func (s *Sigstore) Assemble(signed *bundlepb.Bundle, p Proof) *bundlepb.Bundle {
	assembled := proto.CloneOf(signed)
	assembled.VerificationMaterial.TlogEntries = []*logpb.TransparencyLogEntry{{
		LogIndex:    int64(p.Index),
		LogId:       &commonpb.LogId{KeyId: s.logID},
		KindVersion: &logpb.KindVersion{Kind: "hashedrekord", Version: "0.0.2"},
		InclusionProof: &logpb.InclusionProof{
			LogIndex:   int64(p.Index),
			RootHash:   p.RootHash,
			TreeSize:   int64(p.TreeSize),
			Hashes:     p.Hashes,
			Checkpoint: &logpb.Checkpoint{Envelope: string(p.Checkpoint)},
		},
		CanonicalizedBody: p.Body,
	}}
	return assembled
}

// logIDOf returns the ID of the log whose base URL has origin as its host name,
// which is how sigstore-go finds the origin of a Rekor v2 log.
func logIDOf(trusted *root.TrustedRoot, origin string) ([]byte, error) {
	for id, log := range trusted.RekorLogs() {
		base, err := url.Parse(log.BaseURL)
		if err != nil {
			return nil, err
		}
		if base.Hostname() == origin {
			return hex.DecodeString(id)
		}
	}
	return nil, fmt.Errorf("no log of origin %s", origin)
}
