package rekorv1

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"

	"github.com/understudy-log/understudy/test/authority"
)

// payloadType is that of attestations in DSSE envelopes.
const payloadType = "application/vnd.in-toto+json"

// Signer is a key with what proves whose it is.
type Signer struct {
	Verifier []byte // PEM: the public key, or a certificate

	key *ecdsa.PrivateKey
}

// NewSigner makes a signer who is known by a plain public key.
func NewSigner() (*Signer, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	spki, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return nil, err
	}
	return &Signer{key: key, Verifier: pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: spki})}, nil
}

// NewCertified makes a signer whom the log's authority has certified: identity is an e-mail
// address or a URI.
func (l *Log) NewCertified(identity string) (*Signer, error) {
	return NewCertified(l.Authority, identity)
}

// NewCertified makes a signer whom an authority has certified.
func NewCertified(ca *authority.Authority, identity string) (*Signer, error) {
	s, err := NewSigner()
	if err != nil {
		return nil, err
	}
	der, err := ca.Issue(s.key.Public(), identity)
	s.Verifier = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	return s, err
}

// Signed is an artifact with its signature, and the entry that it would have in the log.
type Signed struct {
	Signer    *Signer
	Artifact  []byte // what was signed; the payload of an envelope
	Signature []byte // DER
	Envelope  []byte // DSSE JSON; nil for a plain signature
	Proposal  []byte // the JSON of POST /api/v1/log/entries
}

// HashedRekord signs artifact for an entry of that type.
func (s *Signer) HashedRekord(artifact []byte) (Signed, error) {
	return s.plain(artifact, "hashedrekord", func(signature []byte) any {
		digest := sha256.Sum256(artifact)
		return object{
			"data":      object{"hash": object{"algorithm": "sha256", "value": hex.EncodeToString(digest[:])}},
			"signature": object{"content": signature, "publicKey": object{"content": s.Verifier}},
		}
	})
}

// Rekord signs artifact for an entry of that type, which carries the artifact to the log.
func (s *Signer) Rekord(artifact []byte) (Signed, error) {
	return s.plain(artifact, "rekord", func(signature []byte) any {
		return object{
			"data":      object{"content": artifact},
			"signature": object{"format": "x509", "content": signature, "publicKey": object{"content": s.Verifier}},
		}
	})
}

// DSSE signs payload in an envelope for an entry of that type.
func (s *Signer) DSSE(payload []byte) (Signed, error) {
	return s.envelope(payload, "dsse", "0.0.1", func(envelope string, _ []byte) any {
		return object{"proposedContent": object{"envelope": envelope, "verifiers": [][]byte{s.Verifier}}}
	})
}

// InToto signs payload, a statement, in an envelope for an entry of that type, version 0.0.2:
// the log stores the statement beside it as an attestation.
func (s *Signer) InToto(payload []byte) (Signed, error) {
	return s.envelope(payload, "intoto", "0.0.2", func(envelope string, signature []byte) any {
		envelopeHash, payloadHash := sha256.Sum256([]byte(envelope)), sha256.Sum256(payload)
		// Payload and signature are base64 twice.
		return object{"content": object{
			"envelope": object{
				"payloadType": payloadType,
				"payload":     []byte(base64.StdEncoding.EncodeToString(payload)),
				"signatures":  []object{{"sig": []byte(base64.StdEncoding.EncodeToString(signature)), "publicKey": s.Verifier}},
			},
			"hash":        object{"algorithm": "sha256", "value": hex.EncodeToString(envelopeHash[:])},
			"payloadHash": object{"algorithm": "sha256", "value": hex.EncodeToString(payloadHash[:])},
		}}
	})
}

// object is a JSON object; a []byte in it becomes base64.
type object map[string]any

func (s *Signer) plain(artifact []byte, kind string, spec func(signature []byte) any) (Signed, error) {
	signature, err := s.sign(artifact)
	if err != nil {
		return Signed{}, err
	}
	proposal, err := json.Marshal(object{"apiVersion": "0.0.1", "kind": kind, "spec": spec(signature)})
	return Signed{Signer: s, Artifact: artifact, Signature: signature, Proposal: proposal}, err
}

func (s *Signer) envelope(payload []byte, kind, version string, spec func(envelope string, signature []byte) any) (Signed, error) {
	// SPEC: DSSE v1: the signature is over PAE(type, payload), "DSSEv1" and each with its length.
	signature, err := s.sign(fmt.Appendf(nil, "DSSEv1 %d %s %d %s", len(payloadType), payloadType, len(payload), payload))
	if err != nil {
		return Signed{}, err
	}
	envelope, err := json.Marshal(object{"payloadType": payloadType, "payload": payload, "signatures": []object{{"sig": signature}}})
	if err != nil {
		return Signed{}, err
	}
	proposal, err := json.Marshal(object{"apiVersion": version, "kind": kind, "spec": spec(string(envelope), signature)})
	return Signed{Signer: s, Artifact: payload, Signature: signature, Envelope: envelope, Proposal: proposal}, err
}

func (s *Signer) sign(message []byte) ([]byte, error) {
	digest := sha256.Sum256(message)
	return s.key.Sign(rand.Reader, digest[:], crypto.SHA256)
}
