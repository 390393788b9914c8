package rekor

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/sha256"
	"encoding/hex"
	"strings"
	"testing"
	"time"

	protobundle "github.com/sigstore/protobuf-specs/gen/pb-go/bundle/v1"
	common "github.com/sigstore/protobuf-specs/gen/pb-go/common/v1"
	protorekor "github.com/sigstore/protobuf-specs/gen/pb-go/rekor/v1"
	"github.com/sigstore/rekor/pkg/util"
	"github.com/sigstore/sigstore-go/pkg/bundle"
	"github.com/sigstore/sigstore-go/pkg/root"
	"github.com/sigstore/sigstore-go/pkg/testing/ca"
	"github.com/sigstore/sigstore-go/pkg/verify"
	"github.com/sigstore/sigstore/pkg/signature"
	"github.com/transparency-dev/merkle/rfc6962"

	"github.com/understudy-log/understudy/storage"
)

// world is a Rekor v1 shard, a certificate authority, and the trust root of both.
type world struct {
	*ca.VirtualSigstore
	key    *ecdsa.PrivateKey // of the log
	signer signature.Signer
	logID  [sha256.Size]byte
	leaves [][]byte         // bodies
	public crypto.PublicKey // of a signer without a certificate
	time   int64            // of every entry
}

const (
	worldTree  = 7
	worldFirst = 1000 // virtual index of the shard's first entry
)

func newWorld(tb testing.TB) *world {
	tb.Helper()
	authority, err := ca.NewVirtualSigstore()
	if err != nil {
		tb.Fatal(err)
	}
	w := &world{VirtualSigstore: authority, key: newKey(tb), time: time.Now().Add(5 * time.Minute).Unix()}
	w.logID = sha256.Sum256(spkiOf(tb, w.key.Public()))
	if w.signer, err = signature.LoadECDSASigner(w.key, crypto.SHA256); err != nil {
		tb.Fatal(err)
	}
	w.add([]byte("first"), []byte("second"))
	return w
}

// RekorLogs returns the shard.
func (w *world) RekorLogs() map[string]*root.TransparencyLog {
	return map[string]*root.TransparencyLog{hex.EncodeToString(w.logID[:]): {
		BaseURL: "https://rekor.example", ID: w.logID[:], PublicKey: w.key.Public(),
		HashFunc: crypto.SHA256, SignatureHashFunc: crypto.SHA256,
		ValidityPeriodStart: time.Unix(1, 0),
	}}
}

// PublicKeyVerifier knows one signer by key, whatever the hint.
func (w *world) PublicKeyVerifier(string) (root.TimeConstrainedVerifier, error) {
	verifier, err := signature.LoadVerifier(w.public, crypto.SHA256)
	if err != nil {
		return nil, err
	}
	return root.NewExpiringKey(verifier, time.Unix(1, 0), time.Time{}), nil
}

// add appends bodies and returns the place of the last one.
func (w *world) add(bodies ...[]byte) int {
	w.leaves = append(w.leaves, bodies...)
	return len(w.leaves) - 1
}

// item returns an entry as the log answers now.
func (w *world) item(tb testing.TB, place int) Item {
	tb.Helper()
	var hashes []storage.Hash
	rootHash := naiveProof(w.leaves, place, &hashes)
	checkpoint, err := util.CreateAndSignCheckpoint(tb.Context(), "rekor.example", worldTree, uint64(len(w.leaves)), rootHash[:], w.signer)
	if err != nil {
		tb.Fatal(err)
	}
	e := Entry{
		Body: w.leaves[place], IntegratedTime: w.time, LogID: hex.EncodeToString(w.logID[:]), LogIndex: uint64(worldFirst + place),
		Proof: &Proof{Index: uint64(place), TreeSize: uint64(len(w.leaves)), RootHash: rootHash, Hashes: hashes, Checkpoint: checkpoint},
	}
	e.SET = sign(tb, w.key, e.signedBytes())
	return Item{UUID: UUID{TreeID: worldTree, LeafHash: storage.LeafHash(e.Body)}, Entry: e}
}

// entry is the item as a message.
func (w *world) entry(tb testing.TB, place int) *protorekor.TransparencyLogEntry {
	tb.Helper()
	msg, err := TransparencyLogEntry(w.item(tb, place))
	if err != nil {
		tb.Fatal(err)
	}
	return msg
}

// naiveProof is RFC 6962, section 2.1.1.
func naiveProof(leaves [][]byte, place int, proof *[]storage.Hash) storage.Hash {
	if len(leaves) == 1 {
		return storage.LeafHash(leaves[0])
	}
	k := 1
	for 2*k < len(leaves) {
		k *= 2
	}
	var left, right storage.Hash
	var other []storage.Hash
	if place >= 0 && place < k {
		left, right = naiveProof(leaves[:k], place, proof), naiveProof(leaves[k:], -1, &other)
		*proof = append(*proof, right)
	} else {
		if place >= k {
			place -= k
		}
		left, right = naiveProof(leaves[:k], -1, &other), naiveProof(leaves[k:], place, proof)
		if proof != &other {
			*proof = append(*proof, left)
		}
	}
	return storage.Hash(rfc6962.DefaultHasher.HashChildren(left[:], right[:]))
}

// certificate returns a key and its certificate, valid now.
func (w *world) certificate(tb testing.TB) (*ecdsa.PrivateKey, []byte) {
	tb.Helper()
	cert, key, err := w.GenerateLeafCert("jane@example.com", testIssuer)
	if err != nil {
		tb.Fatal(err)
	}
	return key.(*ecdsa.PrivateKey), cert.Raw
}

// logged logs a proposal and returns its place.
func (w *world) logged(tb testing.TB, proposed []byte) int {
	tb.Helper()
	body, err := Canonicalize(tb.Context(), proposed)
	if err != nil {
		tb.Fatal(err)
	}
	return w.add(body)
}

// bundleOf returns a bundle for an artifact that was signed with a certificate.
func (w *world) bundleOf(tb testing.TB, mediaType string, key *ecdsa.PrivateKey, cert, artifact []byte) (*protobundle.Bundle, int) {
	tb.Helper()
	place := w.logged(tb, hashedrekordV1(tb, key, pemOf("CERTIFICATE", cert), artifact))
	s, err := parseSigned(w.leaves[place])
	if err != nil {
		tb.Fatal(err)
	}
	material := &protobundle.VerificationMaterial{TlogEntries: []*protorekor.TransparencyLogEntry{w.entry(tb, place)}}
	leaf := &common.X509Certificate{RawBytes: cert}
	if strings.Contains(mediaType, "0.3") {
		material.Content = &protobundle.VerificationMaterial_Certificate{Certificate: leaf}
	} else {
		material.Content = &protobundle.VerificationMaterial_X509CertificateChain{X509CertificateChain: &common.X509CertificateChain{Certificates: []*common.X509Certificate{leaf}}}
	}
	return &protobundle.Bundle{
		MediaType: mediaType, VerificationMaterial: material,
		Content: &protobundle.Bundle_MessageSignature{MessageSignature: &common.MessageSignature{MessageDigest: s.digest, Signature: s.signature}},
	}, place
}

// verifyBundle lets sigstore-go verify a bundle over an artifact.
func verifyBundle(tb testing.TB, trust root.TrustedMaterial, data []byte, artifact verify.ArtifactPolicyOption, policy verify.PolicyOption, options ...verify.VerifierOption) error {
	tb.Helper()
	var b bundle.Bundle
	if err := b.UnmarshalJSON(data); err != nil {
		return err
	}
	v, err := verify.NewVerifier(trust, append(options, verify.WithTransparencyLog(1), verify.WithIntegratedTimestamps(1))...)
	if err != nil {
		tb.Fatal(err)
	}
	_, err = v.Verify(&b, verify.NewPolicy(artifact, policy))
	return err
}

func artifactOf(content []byte) verify.ArtifactPolicyOption {
	return verify.WithArtifact(bytes.NewReader(content))
}
