package logstage

import (
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"

	common "github.com/sigstore/protobuf-specs/gen/pb-go/common/v1"
	pb "github.com/sigstore/rekor-tiles/v2/pkg/generated/protobuf"
	"google.golang.org/protobuf/encoding/protojson"
)

func spki() []byte {
	der, err := x509.MarshalPKIXPublicKey(key().Public())
	if err != nil {
		panic(err)
	}
	return der
}

// PublicPEM is the key that signs what is proposed.
func PublicPEM() []byte { return pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: spki()}) }

// Hashedrekord is a proposed entry of Rekor v1 for an artifact. No two are alike, as signatures are not.
func Hashedrekord(artifact string) []byte {
	digest, sig := sign([]byte(artifact))
	return marshal(map[string]any{"apiVersion": "0.0.1", "kind": "hashedrekord", "spec": map[string]any{
		"data":      map[string]any{"hash": map[string]any{"algorithm": "sha256", "value": hex.EncodeToString(digest[:])}},
		"signature": map[string]any{"content": sig, "publicKey": map[string]any{"content": PublicPEM()}},
	}})
}

// Statement is an in-toto statement about a digest.
func Statement(digest string) []byte {
	return fmt.Appendf(nil, `{"_type":"https://in-toto.io/Statement/v1","subject":[{"name":"a","digest":{"sha256":%q}}]}`, digest)
}

// DSSE is a proposed entry of Rekor v1 for an envelope around an in-toto statement.
func DSSE(payload []byte) []byte {
	const kind = "application/vnd.in-toto+json"
	_, sig := sign(append(fmt.Appendf(nil, "DSSEv1 %d %s %d ", len(kind), kind, len(payload)), payload...))
	envelope := marshal(map[string]any{"payload": payload, "payloadType": kind, "signatures": []any{map[string]any{"sig": sig}}})
	return marshal(map[string]any{"apiVersion": "0.0.1", "kind": "dsse", "spec": map[string]any{
		"proposedContent": map[string]any{"envelope": string(envelope), "verifiers": []any{PublicPEM()}},
	}})
}

// RequestV2 is what is proposed to Rekor v2 for an artifact.
func RequestV2(artifact string) *pb.CreateEntryRequest {
	digest, sig := sign([]byte(artifact))
	return &pb.CreateEntryRequest{Spec: &pb.CreateEntryRequest_HashedRekordRequestV002{HashedRekordRequestV002: &pb.HashedRekordRequestV002{
		Digest: digest[:],
		Signature: &pb.Signature{Content: sig, Verifier: &pb.Verifier{
			Verifier:   &pb.Verifier_PublicKey{PublicKey: &pb.PublicKey{RawBytes: spki()}},
			KeyDetails: common.PublicKeyDetails_PKIX_ECDSA_P256_SHA_256,
		}},
	}}}
}

// LargeRequestV2 is one that is good, but for an entry of more than 65,535 bytes: its certificate is large.
func LargeRequestV2() *pb.CreateEntryRequest {
	template := &x509.Certificate{SerialNumber: big.NewInt(1), ExtraExtensions: []pkix.Extension{{Id: asn1.ObjectIdentifier{1, 3, 9999}, Value: make([]byte, 50_000)}}}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key().Public(), key())
	if err != nil {
		panic(err)
	}
	request := RequestV2("large")
	request.GetHashedRekordRequestV002().GetSignature().GetVerifier().Verifier = &pb.Verifier_X509Certificate{X509Certificate: &common.X509Certificate{RawBytes: der}}
	return request
}

// RequestV2JSON is RequestV2 as it is sent over HTTP.
func RequestV2JSON(artifact string) []byte {
	data, err := protojson.Marshal(RequestV2(artifact))
	if err != nil {
		panic(err)
	}
	return data
}

func marshal(v any) []byte {
	data, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return data
}
