package rekor

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"

	protobundle "github.com/sigstore/protobuf-specs/gen/pb-go/bundle/v1"
	common "github.com/sigstore/protobuf-specs/gen/pb-go/common/v1"
	protodsse "github.com/sigstore/protobuf-specs/gen/pb-go/dsse"
	protorekor "github.com/sigstore/protobuf-specs/gen/pb-go/rekor/v1"
	pb "github.com/sigstore/rekor-tiles/v2/pkg/generated/protobuf"
	dsse "github.com/sigstore/rekor/pkg/types/dsse/v0.0.1"
	hashedrekord "github.com/sigstore/rekor/pkg/types/hashedrekord/v0.0.1"
	"github.com/sigstore/sigstore/pkg/cryptoutils"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
)

// Legacy is a signature of the time before there were Sigstore bundles.
type Legacy struct {
	Signature []byte // raw; of an attestation its DSSE envelope, as JSON
	Verifier  []byte // PEM of the certificate or public key
	Entry     *Entry // of the log, without a proof; nil for a signature that stands alone
}

// ParseLegacy reads what cosign sign-blob and attest-blob wrote with --bundle:
// {"base64Signature", "cert", "rekorBundle"}. A certificate that is not there is taken out
// of the log's entry.
func ParseLegacy(data []byte) (*Legacy, error) {
	var file struct {
		Signature []byte         `json:"base64Signature"`
		Cert      []byte         `json:"cert"`
		Bundle    map[string]any `json:"rekorBundle"`
	}
	if err := decodeJSON(data, &file); err != nil {
		return nil, err
	}
	if file.Bundle == nil || len(file.Signature) == 0 {
		return nil, errors.New("parse legacy bundle: no rekorBundle or no base64Signature")
	}
	entry, err := fromRekorBundle(file.Bundle)
	if err != nil {
		return nil, fmt.Errorf("parse legacy bundle: %w", err)
	}
	if len(file.Cert) == 0 {
		s, err := parseSigned(entry.Body)
		if err != nil {
			return nil, fmt.Errorf("parse legacy bundle: %w", err)
		}
		file.Cert = s.verifier
	}
	l, err := NewLegacy(file.Signature, file.Cert)
	if err != nil {
		return nil, err
	}
	l.Entry = entry
	return l, nil
}

// NewLegacy takes the contents of a signature file, raw or in base64, and of the file of its
// certificate or public key, PEM or base64 of PEM.
func NewLegacy(signature, verifier []byte) (*Legacy, error) {
	if decoded, err := base64.StdEncoding.DecodeString(string(bytes.TrimSpace(signature))); err == nil {
		signature = decoded
	}
	if decoded, err := base64.StdEncoding.DecodeString(string(bytes.TrimSpace(verifier))); err == nil {
		verifier = decoded
	}
	if len(signature) == 0 {
		return nil, errors.New("empty signature")
	}
	kind, der, err := parseVerifier(verifier)
	if err != nil {
		return nil, err
	}
	return &Legacy{
		Signature: signature,
		Verifier:  pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}),
	}, nil
}

const (
	pemCertificate = "CERTIFICATE"
	pemPublicKey   = "PUBLIC KEY"
)

// parseVerifier returns the DER of the first certificate, or of the public key, and its sort.
func parseVerifier(data []byte) (kind string, der []byte, err error) {
	block, _ := pem.Decode(data)
	if block == nil {
		return "", nil, errors.New("verifier is no PEM")
	}
	if block.Type == pemCertificate {
		if _, err := x509.ParseCertificate(block.Bytes); err != nil {
			return "", nil, fmt.Errorf("parse certificate: %w", err)
		}
		return pemCertificate, block.Bytes, nil
	}
	key, err := cryptoutils.UnmarshalPEMToPublicKey(pem.EncodeToMemory(block))
	if err != nil {
		return "", nil, fmt.Errorf("parse public key: %w", err)
	}
	if der, err = x509.MarshalPKIXPublicKey(key); err != nil {
		return "", nil, fmt.Errorf("encode public key: %w", err)
	}
	return pemPublicKey, der, nil
}

// Query asks for the log entries of the certificate or public key: the way to the entry of
// a signature that stands alone. A public key has many; the artifact's hash narrows it down.
func (l *Legacy) Query() Query {
	return Query{Format: "x509", PublicKey: l.Verifier}
}

// Upgrade returns the signature as a Sigstore bundle v0.3 with the log entry, which needs
// an inclusion proof. The entry must be of this signature and certificate or key (a
// hashedrekord, or a dsse for an attestation), and the one that l has, if it has one: else
// the error is ErrMismatch. Neither signature nor timestamp are verified: that is for the
// bundle's verifier.
func (l *Legacy) Upgrade(entry *protorekor.TransparencyLogEntry) ([]byte, error) {
	if entry == nil {
		return nil, errors.New("no log entry")
	}
	entry = proto.CloneOf(entry)
	if l.Entry != nil {
		own, err := TransparencyLogEntry(Item{Entry: *l.Entry})
		if err != nil {
			return nil, err
		}
		if err := refreshEntry(own, entry); err != nil {
			return nil, err
		}
		entry = own
	} else if err := checkInclusion(entry); err != nil {
		return nil, err
	}
	s, err := parseSigned(entry.CanonicalizedBody)
	if err != nil {
		return nil, err
	}
	if entry.GetKindVersion().GetKind() != s.kind || entry.KindVersion.Version != s.version {
		return nil, fmt.Errorf("log entry says %s %s, its body %s %s", entry.GetKindVersion().GetKind(), entry.GetKindVersion().GetVersion(), s.kind, s.version)
	}
	bundle := &protobundle.Bundle{MediaType: mediaTypeV3}
	if bundle.VerificationMaterial, err = l.material(s); err != nil {
		return nil, err
	}
	bundle.VerificationMaterial.TlogEntries = []*protorekor.TransparencyLogEntry{entry}
	if s.kind == "dsse" {
		envelope, err := l.envelope(s)
		if err != nil {
			return nil, err
		}
		bundle.Content = &protobundle.Bundle_DsseEnvelope{DsseEnvelope: envelope}
	} else {
		if !bytes.Equal(l.Signature, s.signature) {
			return nil, fmt.Errorf("%w: another signature", ErrMismatch)
		}
		bundle.Content = &protobundle.Bundle_MessageSignature{MessageSignature: &common.MessageSignature{
			MessageDigest: s.digest,
			Signature:     s.signature,
		}}
	}
	return marshalMessage(bundle)
}

// material returns the certificate, or a hint at the public key: the base64 of the SHA-256
// of its SPKI, as cosign and sigstore-go write it.
func (l *Legacy) material(s *signed) (*protobundle.VerificationMaterial, error) {
	kind, der, err := parseVerifier(l.Verifier)
	if err != nil {
		return nil, err
	}
	logged, loggedDER, err := parseVerifier(s.verifier)
	if err != nil {
		return nil, fmt.Errorf("log entry: %w", err)
	}
	if logged != kind || !bytes.Equal(loggedDER, der) {
		return nil, fmt.Errorf("%w: another certificate or key", ErrMismatch)
	}
	if kind == pemCertificate {
		return &protobundle.VerificationMaterial{Content: &protobundle.VerificationMaterial_Certificate{
			Certificate: &common.X509Certificate{RawBytes: der},
		}}, nil
	}
	id := sha256.Sum256(der)
	return &protobundle.VerificationMaterial{Content: &protobundle.VerificationMaterial_PublicKey{
		PublicKey: &common.PublicKeyIdentifier{Hint: base64.StdEncoding.EncodeToString(id[:])},
	}}, nil
}

// envelope reads the attestation that was signed and holds it against the log's entry.
func (l *Legacy) envelope(s *signed) (*protodsse.Envelope, error) {
	var file struct {
		Payload     []byte `json:"payload"`
		PayloadType string `json:"payloadType"`
		Signatures  []struct {
			Sig   []byte `json:"sig"`
			KeyID string `json:"keyid"`
		} `json:"signatures"`
	}
	if err := json.Unmarshal(l.Signature, &file); err != nil {
		return nil, fmt.Errorf("parse DSSE envelope: %w", err)
	}
	if len(file.Signatures) != 1 {
		return nil, fmt.Errorf("DSSE envelope has %d signatures, want 1", len(file.Signatures))
	}
	payload := sha256.Sum256(file.Payload)
	if !bytes.Equal(s.digest.Digest, payload[:]) || !bytes.Equal(file.Signatures[0].Sig, s.signature) {
		return nil, fmt.Errorf("%w: another payload or signature", ErrMismatch)
	}
	return &protodsse.Envelope{
		Payload:     file.Payload,
		PayloadType: file.PayloadType,
		Signatures:  []*protodsse.Signature{{Sig: s.signature, Keyid: file.Signatures[0].KeyID}},
	}, nil
}

// signed is what a log entry says about one signature.
type signed struct {
	kind, version string
	digest        *common.HashOutput // of the artifact, or of the payload
	signature     []byte
	verifier      []byte // PEM
}

// parseSigned reads the entries that a bundle can have: others, verifiers do not know.
func parseSigned(body []byte) (s *signed, err error) {
	defer recoverInto(&err)
	if isV2(body) {
		return parseSignedV2(body)
	}
	entry, err := parseV1(body)
	if err != nil {
		return nil, err
	}
	s = &signed{version: entry.APIVersion()}
	var algorithm, digest string
	switch e := entry.(type) {
	case *hashedrekord.V001Entry:
		s.kind = "hashedrekord"
		o := e.HashedRekordObj
		algorithm, digest = *o.Data.Hash.Algorithm, *o.Data.Hash.Value
		s.signature, s.verifier = o.Signature.Content, o.Signature.PublicKey.Content
	case *dsse.V001Entry:
		s.kind = "dsse"
		o := e.DSSEObj
		if len(o.Signatures) != 1 || o.PayloadHash == nil {
			return nil, fmt.Errorf("dsse entry has %d signatures, want 1", len(o.Signatures))
		}
		algorithm, digest = *o.PayloadHash.Algorithm, *o.PayloadHash.Value
		s.verifier = *o.Signatures[0].Verifier
		if s.signature, err = base64.StdEncoding.DecodeString(*o.Signatures[0].Signature); err != nil {
			return nil, fmt.Errorf("dsse signature: %w", err)
		}
	default:
		return nil, fmt.Errorf("log entry of another type (%T), want hashedrekord or dsse", entry)
	}
	s.digest = &common.HashOutput{Algorithm: map[string]common.HashAlgorithm{
		"sha256": common.HashAlgorithm_SHA2_256,
		"sha384": common.HashAlgorithm_SHA2_384,
		"sha512": common.HashAlgorithm_SHA2_512,
	}[algorithm]}
	if s.digest.Digest, err = hex.DecodeString(digest); err != nil || s.digest.Algorithm == 0 {
		return nil, fmt.Errorf("digest %s:%s is not known", algorithm, digest)
	}
	return s, nil
}

func parseSignedV2(body []byte) (*signed, error) {
	var entry pb.Entry
	if err := protojson.Unmarshal(body, &entry); err != nil {
		return nil, fmt.Errorf("parse body: %w", err)
	}
	spec := entry.GetSpec().GetHashedRekordV002()
	if spec == nil {
		return nil, errors.New("log entry of another type, want hashedrekord")
	}
	s := &signed{kind: entry.Kind, version: entry.ApiVersion, digest: spec.GetData(), signature: spec.GetSignature().GetContent()}
	verifier := spec.GetSignature().GetVerifier()
	block := &pem.Block{Type: pemCertificate, Bytes: verifier.GetX509Certificate().GetRawBytes()}
	if len(block.Bytes) == 0 {
		block = &pem.Block{Type: pemPublicKey, Bytes: verifier.GetPublicKey().GetRawBytes()}
	}
	s.verifier = pem.EncodeToMemory(block)
	return s, nil
}
