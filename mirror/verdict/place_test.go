package verdict

import (
	"testing"
	"time"

	"github.com/cyberphone/json-canonicalization/go/src/webpki.org/jsoncanonicalizer"
	bundlepb "github.com/sigstore/protobuf-specs/gen/pb-go/bundle/v1"
	commonpb "github.com/sigstore/protobuf-specs/gen/pb-go/common/v1"
	rekorpb "github.com/sigstore/protobuf-specs/gen/pb-go/rekor/v1"
	tilespb "github.com/sigstore/rekor-tiles/v2/pkg/generated/protobuf"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/understudy-log/understudy/storage"
)

// The size of a v1 proof in the bundle is nobody's word: with another one the same proof leads to the same
// root from another index, and sigstore-go believes it. The checkpoint's counts.
func TestAnotherIndex(t *testing.T) {
	s := newStage(t)
	artifact := []byte("an artifact")
	b := s.message(t, artifact, making{v1: true})
	proof := b.VerificationMaterial.TlogEntries[0].InclusionProof
	if proof.LogIndex != 3 || proof.TreeSize != 4 || !s.verify(s.request(artifact, marshal(t, b))).Allow {
		t.Fatalf("entry %d of %d", proof.LogIndex, proof.TreeSize)
	}
	proof.LogIndex, proof.TreeSize = 5, 6
	r := s.request(artifact, marshal(t, b))
	if err := s.independently(s.now, r.Bundle, r.Digest, *r.Identity); err != nil {
		t.Fatalf("sigstore-go has learned it: %v", err)
	}
	if d := s.verify(r); d.Allow || !d.has(CodeInclusionInvalid) {
		t.Errorf("%+v", d)
	}
}

// sigstore-go does not look at the body of a v2 entry. The mirror is asked about what the log has.
func TestAnotherBody(t *testing.T) {
	s := newStage(t)
	artifact := []byte("an artifact")
	for _, m := range []making{{}, {envelope: true}, {key: newKey(t)}} {
		b := s.message(t, artifact, m)
		entry := b.VerificationMaterial.TlogEntries[0]
		entry.CanonicalizedBody = append(entry.CanonicalizedBody, ' ')
		asked := 0
		s.set(func() {
			s.held = func(origin string, index uint64, leaf storage.Hash, size uint64) Held {
				if asked++; !s.v2.holds(index, leaf) {
					t.Errorf("asked about %s at %d of %s", leaf, index, origin)
				}
				return Held{Confirmed: true, Live: true}
			}
		})
		r := s.request(artifact, marshal(t, b))
		if m.key != nil {
			r.Identity, r.PublicKey = nil, pemOf(t, m.key.Public())
		}
		if d := s.verify(r); !d.Allow || d.RestsOn != PublicLive || asked != 1 {
			t.Errorf("%d questions: %+v", asked, d)
		}
	}
}

// A certificate that was not valid when the log took the entry is the certificate's fault.
func TestLate(t *testing.T) {
	s := newStage(t)
	artifact := []byte("an artifact")
	b := s.message(t, artifact, making{v1: true})
	b.VerificationMaterial.TlogEntries[0].InclusionPromise = nil
	b.VerificationMaterial.TlogEntries[0].IntegratedTime = time.Now().Add(time.Hour).Unix()
	if d := s.verify(s.request(artifact, marshal(t, b))); d.Allow || !d.has(CodeCertificateUntrusted) {
		t.Errorf("%+v", d)
	}
}

// A policy that accepts one log does not believe the time of another one: whoever has the key of that can
// say any time.
func TestTimeOfAnotherLog(t *testing.T) {
	s := newStage(t)
	artifact := []byte("an artifact")
	v1 := s.message(t, artifact, making{v1: true})
	b := s.again(t, v1)
	b.VerificationMaterial.TlogEntries = append(b.VerificationMaterial.TlogEntries, v1.VerificationMaterial.TlogEntries...)
	s.set(func() {
		s.held = func(origin string, _ uint64, _ storage.Hash, _ uint64) Held {
			return Held{Confirmed: true, Live: true, Private: origin == originV1}
		}
	})
	s.config.Policies = append(policies, Policy{Name: "public alone", Accept: []RestsOn{PublicLive, Mirrored, OwnProof}})
	s.crash()
	r := s.request(artifact, marshal(t, b))
	if d := s.verify(r); !d.Allow || d.RestsOn != Private {
		t.Errorf("it rests on the log that says when: %+v", d)
	}
	r.Policy = "public alone"
	if d := s.verify(r); d.Allow || !d.has(CodeNotAcceptedSource) {
		t.Errorf("%+v", d)
	}
}

// Whose body nobody compares: sigstore-go takes a body of Rekor v2 in a tree of Rekor v1 for any bundle.
func TestBodyOfAnotherGeneration(t *testing.T) {
	s := newStage(t)
	artifact, other := []byte("an artifact"), []byte("another one")
	b := s.message(t, artifact, making{})
	logged := s.message(t, other, making{}).VerificationMaterial.TlogEntries[0].CanonicalizedBody
	entry := s.v1.entry(t, logged, false)
	entry.KindVersion.Version, entry.InclusionPromise = "0.0.2", nil
	b.VerificationMaterial.TlogEntries[0] = entry
	r := s.request(artifact, marshal(t, b))
	if d := s.verify(r); d.Allow {
		t.Errorf("what is logged is about something else: %+v", d)
	}
}

// again is a bundle of the same signature and certificate, logged by Rekor v2 without a timestamp.
func (s *stage) again(t testing.TB, v1 *bundlepb.Bundle) *bundlepb.Bundle {
	b := proto.Clone(v1).(*bundlepb.Bundle)
	body, err := protojson.Marshal(&tilespb.Entry{Kind: "hashedrekord", ApiVersion: "0.0.2", Spec: &tilespb.Spec{Spec: &tilespb.Spec_HashedRekordV002{
		HashedRekordV002: &tilespb.HashedRekordLogEntryV002{Data: b.GetMessageSignature().GetMessageDigest(), Signature: &tilespb.Signature{Content: b.GetMessageSignature().GetSignature(), Verifier: &tilespb.Verifier{
			KeyDetails: commonpb.PublicKeyDetails_PKIX_ECDSA_P256_SHA_256, Verifier: &tilespb.Verifier_X509Certificate{X509Certificate: b.VerificationMaterial.GetCertificate()},
		}}},
	}}})
	must(t, err)
	canonical, err := jsoncanonicalizer.Transform(body)
	must(t, err)
	b.VerificationMaterial.TlogEntries = []*rekorpb.TransparencyLogEntry{s.v2.entry(t, canonical, false)}
	return b
}

// What our own log does not hold is no entry of a public log either: its key may be stolen.
func TestNotHeldByOurOwnLog(t *testing.T) {
	s := newStage(t)
	artifact := []byte("an artifact")
	r := s.request(artifact, s.bundle(t, artifact, making{}))
	s.config.Policies = append(policies, Policy{Name: "public alone", Accept: []RestsOn{PublicLive, Mirrored, OwnProof}})
	s.crash()
	s.set(func() { s.held = func(string, uint64, storage.Hash, uint64) Held { return Held{Private: true} } })
	for _, policy := range []string{"public alone", "any"} {
		r.Policy = policy
		if d := s.verify(r); d.Allow || !d.has(CodeInclusionInvalid) {
			t.Errorf("%+v", d)
		}
	}
}
