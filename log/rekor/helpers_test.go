package rekor

//lint:file-ignore SA1019 logs hold dsse 0.0.2 from before it was given up

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/cyberphone/json-canonicalization/go/src/webpki.org/jsoncanonicalizer"
	common "github.com/sigstore/protobuf-specs/gen/pb-go/common/v1"
	pb "github.com/sigstore/rekor-tiles/v2/pkg/generated/protobuf"
	"github.com/sigstore/sigstore/pkg/cryptoutils"
	"google.golang.org/protobuf/encoding/protojson"
	"pgregory.net/rapid"
)

const (
	testIdentity = "https://github.com/owner/Repo/.github/workflows/build.yml@refs/heads/main"
	testIssuer   = "https://token.actions.githubusercontent.com"
)

// newKey returns a fresh P-256 key.
func newKey(tb testing.TB) *ecdsa.PrivateKey {
	tb.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		tb.Fatal(err)
	}
	return key
}

// newCert returns a self-signed certificate as Fulcio makes them: a URI and an issuer in
// both extensions. edit may change the template.
func newCert(tb testing.TB, key *ecdsa.PrivateKey, edit func(*x509.Certificate)) []byte {
	tb.Helper()
	uri, err := url.Parse(testIdentity)
	if err != nil {
		tb.Fatal(err)
	}
	v2, err := asn1.MarshalWithParams(testIssuer, "utf8")
	if err != nil {
		tb.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		Subject:      pkix.Name{},
		NotBefore:    time.Unix(1700000000, 0),
		NotAfter:     time.Unix(1700000600, 0),
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning},
		URIs:         []*url.URL{uri},
		ExtraExtensions: []pkix.Extension{
			{Id: asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 57264, 1, 1}, Value: []byte(testIssuer)},
			{Id: asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 57264, 1, 8}, Value: v2},
			{Id: asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 57264, 1, 9}, Value: v2},
		},
	}
	if edit != nil {
		edit(template)
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		tb.Fatal(err)
	}
	return der
}

// manyNames gives a certificate one name of each sort.
func manyNames(tb testing.TB) func(*x509.Certificate) {
	return func(c *x509.Certificate) {
		c.DNSNames = []string{"Example.com", "*.example.org"}
		c.EmailAddresses = []string{"Jane.Doe@Example.com"}
		c.IPAddresses = []net.IP{net.IPv4(192, 0, 2, 1), net.ParseIP("2001:db8::1")}
		for _, s := range []string{"spiffe://td/ns/a b", "HTTPS://Example.com:8443/a%2Fb?x=y#z", "https://example.com", "https://example.com/a%41b"} {
			u, err := url.Parse(s)
			if err != nil {
				tb.Fatal(err)
			}
			c.URIs = append(c.URIs, u)
		}
	}
}

// otherName replaces the names of a certificate by a Fulcio user name.
func otherName(tb testing.TB, name string) func(*x509.Certificate) {
	return func(c *x509.Certificate) {
		extension, err := cryptoutils.MarshalOtherNameSAN(name, true)
		if err != nil {
			tb.Fatal(err)
		}
		c.URIs = nil
		c.ExtraExtensions = append(c.ExtraExtensions, *extension)
	}
}

func pemOf(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}

func spkiOf(tb testing.TB, key crypto.PublicKey) []byte {
	tb.Helper()
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		tb.Fatal(err)
	}
	return der
}

func sign(tb testing.TB, key *ecdsa.PrivateKey, message []byte) []byte {
	tb.Helper()
	digest := sha256.Sum256(message)
	sig, err := ecdsa.SignASN1(rand.Reader, key, digest[:])
	if err != nil {
		tb.Fatal(err)
	}
	return sig
}

// hashedrekordV1 returns a proposed entry for the artifact.
func hashedrekordV1(tb testing.TB, key *ecdsa.PrivateKey, verifier, artifact []byte) []byte {
	tb.Helper()
	digest := sha256.Sum256(artifact)
	return mustJSON(tb, map[string]any{
		"apiVersion": "0.0.1", "kind": "hashedrekord",
		"spec": map[string]any{
			"data": map[string]any{"hash": map[string]any{"algorithm": "sha256", "value": hex.EncodeToString(digest[:])}},
			"signature": map[string]any{
				"content":   sign(tb, key, artifact),
				"publicKey": map[string]any{"content": verifier},
			},
		},
	})
}

// dsseV1 returns a proposed entry for an envelope around the payload.
func dsseV1(tb testing.TB, key *ecdsa.PrivateKey, verifier, payload []byte) []byte {
	tb.Helper()
	const kind = "text/plain"
	envelope := mustJSON(tb, map[string]any{
		"payload": payload, "payloadType": kind,
		"signatures": []any{map[string]any{"sig": sign(tb, key, pae(kind, payload))}},
	})
	return mustJSON(tb, map[string]any{
		"apiVersion": "0.0.1", "kind": "dsse",
		"spec": map[string]any{"proposedContent": map[string]any{
			"envelope": string(envelope), "verifiers": []any{verifier},
		}},
	})
}

// pae is what a DSSE signature signs.
func pae(kind string, payload []byte) []byte {
	return fmt.Appendf(nil, "DSSEv1 %d %s %d %s", len(kind), kind, len(payload), payload)
}

func mustJSON(tb testing.TB, value any) []byte {
	tb.Helper()
	data, err := json.Marshal(value)
	if err != nil {
		tb.Fatal(err)
	}
	return data
}

func certVerifier(der []byte) *pb.Verifier {
	return &pb.Verifier{
		Verifier:   &pb.Verifier_X509Certificate{X509Certificate: &common.X509Certificate{RawBytes: der}},
		KeyDetails: common.PublicKeyDetails_PKIX_ECDSA_P256_SHA_256,
	}
}

func keyVerifier(der []byte) *pb.Verifier {
	return &pb.Verifier{
		Verifier:   &pb.Verifier_PublicKey{PublicKey: &pb.PublicKey{RawBytes: der}},
		KeyDetails: common.PublicKeyDetails_PKIX_ECDSA_P256_SHA_256,
	}
}

// canonicalV2 writes an entry as rekor-tiles stores it.
func canonicalV2(tb testing.TB, entry *pb.Entry) []byte {
	tb.Helper()
	data, err := protojson.Marshal(entry)
	if err != nil {
		tb.Fatal(err)
	}
	if data, err = jsoncanonicalizer.Transform(data); err != nil {
		tb.Fatal(err)
	}
	return data
}

func hashedrekordV2(tb testing.TB, artifact []byte, verifier *pb.Verifier) []byte {
	digest := sha256.Sum256(artifact)
	return canonicalV2(tb, &pb.Entry{Kind: "hashedrekord", ApiVersion: "0.0.2", Spec: &pb.Spec{Spec: &pb.Spec_HashedRekordV002{
		HashedRekordV002: &pb.HashedRekordLogEntryV002{
			Data:      &common.HashOutput{Algorithm: common.HashAlgorithm_SHA2_256, Digest: digest[:]},
			Signature: &pb.Signature{Content: []byte("a signature of 71 bytes or so, which nobody verifies while it is indexed"), Verifier: verifier},
		},
	}}})
}

func dsseV2(tb testing.TB, payload []byte, verifiers ...*pb.Verifier) []byte {
	digest := sha256.Sum256(payload)
	spec := &pb.DSSELogEntryV002{PayloadHash: &common.HashOutput{Algorithm: common.HashAlgorithm_SHA2_256, Digest: digest[:]}}
	for _, v := range verifiers {
		spec.Signatures = append(spec.Signatures, &pb.Signature{Content: []byte("signature"), Verifier: v})
	}
	return canonicalV2(tb, &pb.Entry{Kind: "dsse", ApiVersion: "0.0.2", Spec: &pb.Spec{Spec: &pb.Spec_DsseV002{DsseV002: spec}}})
}

// mutated returns b with one or two changes: a piece put in, some of it left out or there twice,
// a bit turned.
func mutated(r *rapid.T, b []byte, pieces []string) []byte {
	b = bytes.Clone(b)
	for range rapid.IntRange(1, 2).Draw(r, "changes") {
		at := rapid.IntRange(0, len(b)).Draw(r, "at")
		to := min(len(b), at+rapid.IntRange(0, 40).Draw(r, "n"))
		switch rapid.IntRange(0, 3).Draw(r, "how") {
		case 0:
			b = slices.Insert(b, at, []byte(rapid.SampledFrom(pieces).Draw(r, "piece"))...)
		case 1:
			b = slices.Delete(b, at, to)
		case 2:
			b = slices.Insert(b, at, bytes.Clone(b[at:to])...)
		case 3:
			if at < len(b) {
				b[at] ^= byte(1 << rapid.IntRange(0, 7).Draw(r, "bit"))
			}
		}
	}
	return b
}

// genuine returns the folder of genuine public data beside the repository, or skips.
func genuine(tb testing.TB) string {
	tb.Helper()
	dir := filepath.Join("..", "..", "..", "shared", "data")
	if _, err := os.Stat(dir); err != nil {
		tb.Skipf("no genuine Rekor data: %v", err)
	}
	return dir
}

func lines(tb testing.TB, elem ...string) [][]byte {
	tb.Helper()
	data, err := os.ReadFile(filepath.Join(elem...))
	if err != nil {
		tb.Fatal(err)
	}
	return bytes.Split(bytes.TrimSpace(data), []byte("\n"))
}

// record is one line of the genuine entries.
type record struct {
	ID             string       `json:"id"`
	Kind           string       `json:"kind"`
	Body           string       `json:"body"`
	IntegratedTime int64        `json:"integratedTime"`
	LogID          string       `json:"logID"`
	LogIndex       int64        `json:"logIndex"`
	SET            string       `json:"signedEntryTimestamp"`
	LeafHash       string       `json:"leafHash"`
	UUID           string       `json:"uuid"`
	Log            string       `json:"log"`
	Proof          *recordProof `json:"inclusionProof"`
	Verified       struct {
		SET   string `json:"set"`
		Proof string `json:"proof"`
	} `json:"verified"`
}

type recordProof struct {
	Checkpoint *string  `json:"checkpoint"`
	Hashes     []string `json:"hashes"`
	LogIndex   int64    `json:"logIndex"`
	RootHash   string   `json:"rootHash"`
	TreeSize   int64    `json:"treeSize"`
}

func records(tb testing.TB, elem ...string) []record {
	tb.Helper()
	var list []record
	for _, line := range lines(tb, elem...) {
		var r record
		if err := json.Unmarshal(line, &r); err != nil {
			tb.Fatal(err)
		}
		list = append(list, r)
	}
	return list
}

// answer is the record as Rekor's API would give it.
func (r record) answer(tb testing.TB) []byte {
	verification := map[string]any{}
	if r.SET != "" {
		verification["signedEntryTimestamp"] = r.SET
	}
	if r.Proof != nil {
		verification["inclusionProof"] = r.Proof
	}
	name := r.UUID
	if name == "" {
		name = r.LeafHash
	}
	return mustJSON(tb, map[string]any{name: map[string]any{
		"body": r.Body, "integratedTime": r.IntegratedTime, "logID": r.LogID, "logIndex": r.LogIndex,
		"verification": verification,
	}})
}

func (r record) body(tb testing.TB) []byte {
	tb.Helper()
	body, err := base64.StdEncoding.DecodeString(r.Body)
	if err != nil {
		tb.Fatal(err)
	}
	return body
}

// genuineKeys returns the logs' public keys by log ID.
func genuineKeys(tb testing.TB, dir string) map[string]crypto.PublicKey {
	tb.Helper()
	data, err := os.ReadFile(filepath.Join(dir, "trusted-roots", "log-keys.json"))
	if err != nil {
		tb.Fatal(err)
	}
	var list []struct {
		SPKI  []byte `json:"spki_b64"`
		LogID string `json:"logId_hex"`
	}
	if err := json.Unmarshal(data, &list); err != nil {
		tb.Fatal(err)
	}
	keys := map[string]crypto.PublicKey{}
	for _, l := range list {
		if keys[l.LogID], err = x509.ParsePKIXPublicKey(l.SPKI); err != nil {
			tb.Fatal(err)
		}
	}
	return keys
}
