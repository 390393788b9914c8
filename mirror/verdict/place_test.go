package verdict

import (
	"testing"
	"time"

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
