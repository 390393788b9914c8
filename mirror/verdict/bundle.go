package verdict

import (
	"bytes"
	"crypto/rsa"
	"crypto/x509"
	"encoding/asn1"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"

	"github.com/digitorus/pkcs7"
	bundlepb "github.com/sigstore/protobuf-specs/gen/pb-go/bundle/v1"
	"github.com/sigstore/sigstore-go/pkg/bundle"
	"github.com/sigstore/sigstore-go/pkg/fulcio/certificate"
	"github.com/sigstore/sigstore-go/pkg/tlog"
	"github.com/sigstore/sigstore-go/pkg/verify"
	"github.com/sigstore/sigstore/pkg/cryptoutils"
	"google.golang.org/protobuf/encoding/protojson"
)

// What a bundle may have, beyond its size: what verifies it must not take a processor for long, and
// everything but the payload of an envelope is small in a bundle that somebody has made in earnest.
const (
	maxBody         = 64 << 10 // bytes of all logged bodies
	maxStamps       = 64 << 10 // bytes of all timestamps
	maxCertificates = 64 << 10 // bytes of the certificates
	maxProof        = 64       // hashes in a proof: no tree has more than 2^63 entries
	maxCheckpoints  = 64 << 10 // bytes of all checkpoints; each of their signatures may be verified
	maxRSA          = 8192     // bits; to verify with a key of half a million takes most of a minute
)

// entity is a bundle that is read once.
type entity struct {
	*bundle.Bundle
	entries     []*tlog.Entry
	content     verify.VerificationContent
	certificate *x509.Certificate // nil: a key signed it
	summary     certificate.Summary
}

// TlogEntries implements verify.TlogEntryProvider.
func (e *entity) TlogEntries() ([]*tlog.Entry, error) { return e.entries, nil }

// alone is the bundle with one of its log entries.
func (e *entity) alone(entry *tlog.Entry) *entity {
	one := *e
	one.entries = []*tlog.Entry{entry}
	return &one
}

// parseBundle reads a bundle. Whoever signed it can be told afterwards.
func parseBundle(data []byte) (*entity, error) {
	if len(data) == 0 {
		return nil, errors.New("there is no bundle in the request")
	}
	if len(data) > MaxBundle {
		return nil, fmt.Errorf("the bundle is larger than %d MiB", MaxBundle>>20)
	}
	pb := new(bundlepb.Bundle)
	if err := protojson.Unmarshal(data, pb); err != nil {
		return nil, err
	}
	if err := bound(pb); err != nil {
		return nil, err
	}
	b, err := bundle.NewBundle(pb)
	if err != nil {
		return nil, err
	}
	e := &entity{Bundle: b}
	if e.entries, err = b.TlogEntries(); err != nil {
		return nil, err
	}
	if e.content, err = b.VerificationContent(); err != nil {
		return nil, err
	}
	if _, err = b.SignatureContent(); err != nil {
		return nil, err
	}
	if e.certificate = e.content.Certificate(); e.certificate != nil {
		if e.summary, err = certificate.SummarizeCertificate(e.certificate); err != nil {
			return nil, fmt.Errorf("its certificate names nobody: %w", err)
		}
	}
	return e, nil
}

// bound refuses what is too large, before anything reads it that verifies as it reads.
func bound(pb *bundlepb.Bundle) error {
	material := pb.GetVerificationMaterial()
	bodies, checkpoints, stamps, certificates := 0, 0, 0, len(material.GetCertificate().GetRawBytes())
	for _, c := range material.GetX509CertificateChain().GetCertificates() {
		certificates += len(c.GetRawBytes())
	}
	for _, stamp := range material.GetTimestampVerificationData().GetRfc3161Timestamps() {
		if stamp == nil {
			return errors.New("a timestamp is null")
		}
		stamps += len(stamp.GetSignedTimestamp())
	}
	for _, entry := range material.GetTlogEntries() {
		proof := entry.GetInclusionProof()
		bodies += len(entry.GetCanonicalizedBody())
		if checkpoints += len(proof.GetCheckpoint().GetEnvelope()); len(proof.GetHashes()) > maxProof {
			return errors.New("the proof of a log entry is longer than any that a log makes")
		}
	}
	if bodies > maxBody || checkpoints > maxCheckpoints || stamps > maxStamps || certificates > maxCertificates {
		return fmt.Errorf("its log entries, checkpoints, timestamps and certificates take %d, %d, %d and %d bytes; want at most %d of each", bodies, checkpoints, stamps, certificates, maxBody)
	}
	for _, stamp := range material.GetTimestampVerificationData().GetRfc3161Timestamps() {
		if err := boundStamp(stamp.GetSignedTimestamp()); err != nil {
			return err
		}
	}
	for _, entry := range material.GetTlogEntries() {
		if err := boundBody(entry.GetCanonicalizedBody()); err != nil {
			return err
		}
	}
	return nil
}

// boundStamp refuses a timestamp that takes long to read: what reads it verifies each signature in it with
// the certificates in it, whoever made them.
func boundStamp(stamp []byte) error {
	var response struct{ Status, Token asn1.RawValue }
	if _, err := asn1.Unmarshal(stamp, &response); err != nil {
		return nil // nobody else can read it either: that is for what verifies to say
	}
	token, err := pkcs7.Parse(response.Token.FullBytes)
	if err != nil {
		return nil
	}
	if len(token.Signers) > 1 {
		return fmt.Errorf("a timestamp has %d signers: one signs it", len(token.Signers)) // RFC 3161, section 2.4.2
	}
	for _, c := range token.Certificates {
		if k, ok := c.PublicKey.(*rsa.PublicKey); ok && k.N.BitLen() > maxRSA {
			return fmt.Errorf("a timestamp has an RSA key of %d bits; want at most %d", k.N.BitLen(), maxRSA)
		}
	}
	return nil
}

// boundBody refuses a logged body of a type that no bundle has, and one with an enormous key. Rekor's
// types verify as they read; they take keys as PEM in base64.
func boundBody(body []byte) error {
	var head struct {
		Kind string `json:"kind"`
	}
	if err := json.Unmarshal(body, &head); err != nil {
		return fmt.Errorf("the body of a log entry is no JSON: %w", err)
	}
	if !slices.Contains([]string{"hashedrekord", "dsse", "intoto"}, head.Kind) {
		return fmt.Errorf("a log entry is of the kind %q: bundles have hashedrekord, dsse and intoto", oneLine(head.Kind, 40))
	}
	for d := json.NewDecoder(bytes.NewReader(body)); ; {
		token, err := d.Token()
		if err != nil {
			return nil // the end
		}
		text, ok := token.(string)
		if !ok || len(text) < maxRSA/8 {
			continue
		}
		content := []byte(text)
		for range 3 { // intoto has base64 in base64
			for block, rest := pem.Decode(content); block != nil; block, rest = pem.Decode(rest) {
				if bits := rsaBits(block.Bytes); bits > maxRSA {
					return fmt.Errorf("a log entry has an RSA key of %d bits; want at most %d", bits, maxRSA)
				}
			}
			if content, err = base64.StdEncoding.DecodeString(string(content)); err != nil {
				break
			}
		}
	}
}

// rsaBits is the size of the RSA key in a certificate or public key; 0 if there is none.
func rsaBits(der []byte) int {
	var public any
	if c, err := x509.ParseCertificate(der); err == nil {
		public = c.PublicKey
	} else if k, err := x509.ParsePKIXPublicKey(der); err == nil {
		public = k
	} else if k, err := x509.ParsePKCS1PublicKey(der); err == nil {
		public = k
	}
	if k, ok := public.(*rsa.PublicKey); ok {
		return k.N.BitLen()
	}
	return 0
}

// claims are all whom the certificate names.
func (e *entity) claims() []claim {
	if e.certificate == nil {
		return nil
	}
	issuer := e.summary.Issuer
	claims := []claim{{e.summary.SubjectAlternativeName, issuer}}
	if name, err := cryptoutils.UnmarshalOtherNameSAN(e.certificate.Extensions); err == nil {
		claims = append(claims, claim{name, issuer})
	}
	for _, name := range slices.Concat(e.certificate.EmailAddresses, e.certificate.DNSNames) {
		claims = append(claims, claim{name, issuer})
	}
	for _, uri := range e.certificate.URIs {
		claims = append(claims, claim{uri.String(), issuer})
	}
	return claims
}
