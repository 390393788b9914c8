package verdict

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"fmt"
	"io"
	"math/big"
	"strings"
	"testing"
	"time"

	"github.com/digitorus/timestamp"
	bundlepb "github.com/sigstore/protobuf-specs/gen/pb-go/bundle/v1"
	commonpb "github.com/sigstore/protobuf-specs/gen/pb-go/common/v1"
	rekorpb "github.com/sigstore/protobuf-specs/gen/pb-go/rekor/v1"
	"google.golang.org/protobuf/proto"
)

// largeKey pretends to sign with an RSA key that nobody could make in earnest.
type largeKey struct{ public *rsa.PublicKey }

func newLargeKey(t testing.TB, bits int) largeKey {
	n, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), uint(bits)))
	must(t, err)
	return largeKey{&rsa.PublicKey{N: n.SetBit(n.SetBit(n, bits-1, 1), 0, 1), E: 1<<31 - 1}}
}

func (k largeKey) Public() crypto.PublicKey { return k.public }
func (k largeKey) Sign(io.Reader, []byte, crypto.SignerOpts) ([]byte, error) {
	return make([]byte, k.public.Size()), nil
}

// stampOf is a timestamp of a signature by an authority that nobody trusts.
func stampOf(t testing.TB, k crypto.Signer, signature []byte) []byte {
	issuer := newKey(t)
	usage, err := asn1.Marshal([]asn1.ObjectIdentifier{{1, 3, 6, 1, 5, 5, 7, 3, 8}})
	must(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "large"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		ExtraExtensions: []pkix.Extension{{Id: asn1.ObjectIdentifier{2, 5, 29, 37}, Critical: true, Value: usage}},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, k.Public(), issuer)
	must(t, err)
	c, err := x509.ParseCertificate(der)
	must(t, err)
	query, err := timestamp.CreateRequest(bytes.NewReader(signature), &timestamp.RequestOptions{Hash: crypto.SHA256})
	must(t, err)
	request, err := timestamp.ParseRequest(query)
	must(t, err)
	response := timestamp.Timestamp{HashAlgorithm: request.HashAlgorithm, HashedMessage: request.HashedMessage, Time: time.Now(), Policy: asn1.ObjectIdentifier{1, 2}, AddTSACertificate: true}
	stamp, err := response.CreateResponseWithOpts(c, k, crypto.SHA256)
	must(t, err)
	return stamp
}

// What reads a timestamp verifies it with the certificate in it, whoever made that.
func TestStampOfALargeKey(t *testing.T) {
	s := newStage(t)
	artifact := []byte("an artifact")
	b := s.message(t, artifact, making{})
	stamps := b.VerificationMaterial.TimestampVerificationData
	stamps.Rfc3161Timestamps = []*commonpb.RFC3161SignedTimestamp{{SignedTimestamp: stampOf(t, newLargeKey(t, 200_000), b.GetMessageSignature().GetSignature())}}
	begun := time.Now()
	d := s.verify(s.request(artifact, marshal(t, b)))
	if took := time.Since(begun); d.Allow || !d.has(CodeBundleMalformed) || took > time.Second {
		t.Errorf("%v: %+v", took, d)
	}
	stamps.Rfc3161Timestamps[0].SignedTimestamp = stampOf(t, newLargeKey(t, 4096), b.GetMessageSignature().GetSignature())
	if d := s.verify(s.request(artifact, marshal(t, b))); d.Allow || !d.has(CodeTimestampMissing) {
		t.Errorf("of an honest size: %+v", d)
	}
}

// Checkpoints are small in all entries together.
func TestManyCheckpoints(t *testing.T) {
	s := newStage(t)
	b := s.message(t, []byte("a"), making{v1: true})
	entry := b.VerificationMaterial.TlogEntries[0]
	text := entry.InclusionProof.Checkpoint.Envelope
	line := text[strings.LastIndex(strings.TrimSuffix(text, "\n"), "\n")+1:]
	entry.InclusionProof.Checkpoint.Envelope = text + strings.Repeat(line, 100)
	entry.InclusionPromise = nil
	for i := range 31 {
		next := proto.Clone(entry).(*rekorpb.TransparencyLogEntry)
		next.LogIndex += int64(i) + 1
		b.VerificationMaterial.TlogEntries = append(b.VerificationMaterial.TlogEntries, next)
	}
	begun := time.Now()
	d := s.verify(s.request([]byte("a"), marshal(t, b)))
	if took := time.Since(begun); !d.has(CodeBundleMalformed) || took > 100*time.Millisecond {
		t.Errorf("%v: %s", took, fmt.Sprint(d.Reasons))
	}
}

// A name of another type counts, too.
func TestClaimsOfOtherNames(t *testing.T) {
	s := newStage(t)
	names, err := asn1.Marshal([]asn1.RawValue{
		{Class: asn1.ClassContextSpecific, Tag: 6, Bytes: []byte("https://harmless.example.com")},
		otherName(t, "user!release@release.example.com"),
	})
	must(t, err)
	k := newKey(t)
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Now(), NotAfter: time.Now().Add(time.Hour), ExtraExtensions: []pkix.Extension{{Id: asn1.ObjectIdentifier{2, 5, 29, 17}, Value: names}}}
	der, err := x509.CreateCertificate(rand.Reader, template, template, k.Public(), k)
	must(t, err)
	b := s.message(t, []byte("a"), making{})
	b.VerificationMaterial.Content = &bundlepb.VerificationMaterial_Certificate{Certificate: &commonpb.X509Certificate{RawBytes: der}}
	e, err := parseBundle(marshal(t, b))
	must(t, err)
	for _, c := range e.claims() {
		if (Pattern{Identity: "*@release.example.com"}).covers(c) {
			return
		}
	}
	t.Errorf("claims %+v", e.claims())
}

func otherName(t testing.TB, name string) asn1.RawValue {
	id, err := asn1.Marshal(asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 57264, 1, 7})
	must(t, err)
	value, err := asn1.MarshalWithParams(name, "utf8")
	must(t, err)
	wrapped, err := asn1.Marshal(asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: 0, IsCompound: true, Bytes: value})
	must(t, err)
	return asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: 0, IsCompound: true, Bytes: append(id, wrapped...)}
}
