package rekor

//lint:file-ignore SA1019 requests for dsse 0.0.2 are refused

import (
	"bytes"
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"net/http"
	"slices"
	"strings"
	"testing"

	common "github.com/sigstore/protobuf-specs/gen/pb-go/common/v1"
	pb "github.com/sigstore/rekor-tiles/v2/pkg/generated/protobuf"
	hashedrekordv2 "github.com/sigstore/rekor-tiles/v2/pkg/types/hashedrekord"
	"github.com/sigstore/sigstore/pkg/signature"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/understudy-log/understudy/storage"
)

// requestV2 returns a request to log a signature over the hash of "artifact".
func requestV2(tb testing.TB, key crypto.Signer, details common.PublicKeyDetails, hash crypto.Hash, verifier *pb.Verifier) *pb.CreateEntryRequest {
	tb.Helper()
	h := hash.New()
	h.Write([]byte("artifact"))
	digest := h.Sum(nil)
	verifier.KeyDetails = details
	return &pb.CreateEntryRequest{Spec: &pb.CreateEntryRequest_HashedRekordRequestV002{HashedRekordRequestV002: &pb.HashedRekordRequestV002{
		Digest:    digest,
		Signature: &pb.Signature{Content: signDigest(tb, key, digest, hash), Verifier: verifier},
	}}}
}

func requestP256(tb testing.TB, certificate bool) *pb.CreateEntryRequest {
	tb.Helper()
	key := newKey(tb)
	verifier := keyVerifier(spkiOf(tb, key.Public()))
	if certificate {
		verifier = certVerifier(newCert(tb, key, nil))
	}
	return requestV2(tb, key, common.PublicKeyDetails_PKIX_ECDSA_P256_SHA_256, crypto.SHA256, verifier)
}

// checkProposalV2 holds what became of a request against rekor-tiles, which makes the leaf
// hash anew for a verifier.
func checkProposalV2(tb testing.TB, request *pb.CreateEntryRequest, p *Proposal) {
	tb.Helper()
	spec := request.GetHashedRekordRequestV002()
	entry, err := hashedrekordv2.ToLogEntry(spec, algorithms())
	if err != nil {
		tb.Errorf("accepted: %v", err)
		return
	}
	if want := canonicalV2(tb, entry); !bytes.Equal(p.Body, want) {
		tb.Errorf("body %s, want %s", p.Body, want)
	}
	if hash, err := hashedrekordv2.ToEntryHash(spec.Digest, spec.Signature); err != nil || storage.LeafHash(p.Body) != storage.Hash(hash) {
		tb.Errorf("leaf hash %v, want %x, %v", storage.LeafHash(p.Body), hash, err)
	}
	if !isV2(p.Body) || p.Kind != "hashedrekord" || p.Keys != nil || len(p.Body) > maxEntry {
		tb.Errorf("proposal %+v", p)
	}
}

// Keys and hashes that Rekor allows by default, and others. Of keyDetails it takes the hash
// alone, and believes the rest.
func TestProposeV2(t *testing.T) {
	allowed := []string{"P-256 SHA-256", "P-384 SHA-384", "P-521 SHA-512", "RSA-2048 SHA-256", "Ed25519 SHA-512"}
	seen := map[string]bool{}
	for name, key := range signers(t) {
		for number := range common.PublicKeyDetails_name {
			details := common.PublicKeyDetails(number)
			hash, known := crypto.SHA256, false
			if algorithm, err := signature.GetAlgorithmDetails(details); err == nil && algorithm.GetHashType() != 0 {
				hash, known = algorithm.GetHashType(), true
			}
			if name == "Ed25519" && hash != crypto.SHA512 {
				continue // signs no other prehash
			}
			request := requestV2(t, key, details, hash, keyVerifier(spkiOf(t, key.Public())))
			p, err := ProposeV2Message(request)
			pair := name + " " + hash.String()
			if want := known && slices.Contains(allowed, pair); want != (err == nil) {
				t.Errorf("%s as %s: %v", pair, details, err)
			}
			if err != nil {
				if wrong, ok := errors.AsType[*InputError](err); !ok || wrong.Status != http.StatusBadRequest || !strings.HasPrefix(err.Error(), "invalid hashedrekord request: ") {
					t.Errorf("%s as %s: %T %v", pair, details, err, err)
				}
				continue
			}
			seen[pair] = true
			checkProposalV2(t, request, p)
		}
	}
	if len(seen) != len(allowed) {
		t.Errorf("accepted %v, want %v", seen, allowed)
	}
}

func TestProposeV2JSON(t *testing.T) {
	request := requestP256(t, true)
	data, err := protojson.Marshal(request)
	if err != nil {
		t.Fatal(err)
	}
	p, err := ProposeV2(data)
	if err != nil {
		t.Fatal(err)
	}
	checkProposalV2(t, request, p)
	// What protobuf allows besides: the names of the fields, numbers for names, URL-safe base64.
	snake, err := protojson.MarshalOptions{UseProtoNames: true, UseEnumNumbers: true, Multiline: true}.Marshal(request)
	if err != nil {
		t.Fatal(err)
	}
	if again, err := ProposeV2(snake); err != nil || !bytes.Equal(again.Body, p.Body) {
		t.Errorf("%v, %+v", err, again)
	}
}

func TestProposeV2Refuses(t *testing.T) {
	data, err := protojson.Marshal(requestP256(t, true))
	if err != nil {
		t.Fatal(err)
	}
	good := string(data)
	with := func(edit func(*pb.HashedRekordRequestV002)) string {
		t.Helper()
		request := requestP256(t, false)
		edit(request.GetHashedRekordRequestV002())
		data, err := protojson.Marshal(request)
		if err != nil {
			t.Fatal(err)
		}
		return string(data)
	}
	big := func(n int) string {
		key := newKey(t)
		cert := newCert(t, key, func(c *x509.Certificate) { c.DNSNames = []string{strings.Repeat("a", n)} })
		return with(func(r *pb.HashedRekordRequestV002) {
			r.Signature = requestV2(t, key, common.PublicKeyDetails_PKIX_ECDSA_P256_SHA_256, crypto.SHA256, certVerifier(cert)).GetHashedRekordRequestV002().Signature
		})
	}
	if p, err := ProposeV2([]byte(big(48000))); err != nil || len(p.Body) < 65000 {
		t.Errorf("an entry just short enough: %v", err)
	}
	const failed = "invalid hashedrekord request: "
	for _, c := range []struct {
		request string
		status  int
		text    string // the beginning
	}{
		{"", http.StatusBadRequest, "invalid type, must be hashedrekord"},
		{"{}", http.StatusBadRequest, "invalid type, must be hashedrekord"},
		{`{"dsseRequestV002":{}}`, http.StatusBadRequest, "invalid type, must be hashedrekord"},
		{"null", http.StatusBadRequest, failed + "parse request: "},
		{"<html>", http.StatusBadRequest, failed + "parse request: "},
		{good[:99], http.StatusBadRequest, failed + "parse request: "},
		{good + "{}", http.StatusBadRequest, failed + "parse request: "},
		{strings.Replace(good, `"digest"`, `"more":1,"digest"`, 1), http.StatusBadRequest, failed + "parse request: "},
		{`{"hashedRekordRequestV002":{}}`, http.StatusBadRequest, failed + "missing signature"},
		{with(func(r *pb.HashedRekordRequestV002) { r.Signature.Content = nil }), http.StatusBadRequest, failed + "missing signature"},
		{with(func(r *pb.HashedRekordRequestV002) { r.Signature.Verifier = nil }), http.StatusBadRequest, failed + "missing verifier"},
		{with(func(r *pb.HashedRekordRequestV002) { r.Signature.Verifier.Verifier = nil }), http.StatusBadRequest, failed + "invalid verifier"},
		{with(func(r *pb.HashedRekordRequestV002) { r.Digest = nil }), http.StatusBadRequest, failed + "missing digest"},
		{with(func(r *pb.HashedRekordRequestV002) { r.Digest = r.Digest[1:] }), http.StatusBadRequest, failed + "digest length (31)"},
		{with(func(r *pb.HashedRekordRequestV002) { r.Digest[0] ^= 1 }), http.StatusBadRequest, failed + "verifying signature: invalid"},
		{with(func(r *pb.HashedRekordRequestV002) { r.Signature.Verifier.GetPublicKey().RawBytes[0] ^= 1 }), http.StatusBadRequest, failed + "parsing verifier: "},
		{with(func(r *pb.HashedRekordRequestV002) {
			r.Signature.Verifier.KeyDetails = common.PublicKeyDetails_PKIX_ECDSA_P384_SHA_384
		}), http.StatusBadRequest, failed + "unsupported entry algorithm for ECDSA key, curve P-256"},
		{big(49000), http.StatusRequestEntityTooLarge, failed + "entry of 6"},
		{strings.Repeat(" ", maxProposedV2+1), http.StatusRequestEntityTooLarge, "request of 4194305 bytes"},
	} {
		p, err := ProposeV2([]byte(c.request))
		// protobuf's errors have a space that is no space, at random.
		if wrong, ok := errors.AsType[*InputError](err); !ok || p != nil || wrong.Status != c.status || !strings.HasPrefix(err.Error(), c.text) {
			t.Errorf("%.60q: %v, %v (%T), want %d %s", c.request, p, err, err, c.status, c.text)
		}
	}
	// Plain Ed25519 makes rekor-tiles panic; and a message may lack what JSON always has.
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for _, request := range []*pb.CreateEntryRequest{
		nil,
		{Spec: (*pb.CreateEntryRequest_HashedRekordRequestV002)(nil)},
		{Spec: &pb.CreateEntryRequest_HashedRekordRequestV002{}},
		requestV2(t, key, common.PublicKeyDetails_PKIX_ED25519, crypto.SHA512, keyVerifier(spkiOf(t, key.Public()))),
	} {
		p, err := ProposeV2Message(request)
		if wrong, ok := errors.AsType[*InputError](err); !ok || p != nil || wrong.Status != http.StatusBadRequest {
			t.Errorf("%v: %v, %v", request, p, err)
		}
	}
}

// Every genuine hashedrekord is proposed again.
func TestGenuineProposedV2(t *testing.T) {
	dir := genuine(t)
	requestOf := func(body []byte) (*pb.CreateEntryRequest, bool) {
		var entry pb.Entry
		if protojson.Unmarshal(body, &entry) != nil || entry.GetSpec().GetHashedRekordV002() == nil {
			return nil, false
		}
		spec := entry.GetSpec().GetHashedRekordV002()
		return &pb.CreateEntryRequest{Spec: &pb.CreateEntryRequest_HashedRekordRequestV002{HashedRekordRequestV002: &pb.HashedRekordRequestV002{
			Digest: spec.GetData().GetDigest(), Signature: spec.GetSignature(),
		}}}, true
	}
	proposed := 0
	for _, r := range append(records(t, dir, "rekor-v2-entries.jsonl"), records(t, dir, "negative", "entries.jsonl")...) {
		if r.Kind != "hashedrekord/0.0.2" {
			continue
		}
		request, ok := requestOf(r.body(t))
		if !ok {
			t.Errorf("%s: no hashedrekord", r.ID)
			continue
		}
		p, err := ProposeV2Message(request)
		if err != nil || !bytes.Equal(p.Body, r.body(t)) {
			t.Errorf("%s: %v, %+v", r.ID, err, p)
			continue
		}
		proposed++
		data, err := protojson.Marshal(request)
		if err != nil {
			t.Fatal(err)
		}
		if again, err := ProposeV2(data); err != nil || !bytes.Equal(again.Body, p.Body) {
			t.Errorf("%s: %v, %+v", r.ID, err, again)
		}
		for name, change := range map[string]func(*pb.HashedRekordRequestV002){
			"digest":    func(r *pb.HashedRekordRequestV002) { r.Digest[7] ^= 1 },
			"signature": func(r *pb.HashedRekordRequestV002) { r.Signature.Content[20] ^= 1 },
		} {
			changed := proto.Clone(request).(*pb.CreateEntryRequest)
			change(changed.GetHashedRekordRequestV002())
			if p, err := ProposeV2Message(changed); err == nil {
				t.Errorf("%s: changed %s gives %+v", r.ID, name, p)
			}
		}
	}
	if proposed != 18 { // of the negative ones only proof or checkpoint is false
		t.Errorf("%d proposed", proposed)
	}
}

func FuzzProposeV2(f *testing.F) {
	for _, certificate := range []bool{true, false} {
		data, err := protojson.Marshal(requestP256(f, certificate))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		p, err := ProposeV2(data)
		if err != nil {
			if _, ok := errors.AsType[*InputError](err); !ok || p != nil {
				t.Errorf("%T: %v, %v", err, err, p)
			}
			return
		}
		var request pb.CreateEntryRequest
		if err := protojson.Unmarshal(data, &request); err != nil {
			t.Fatal(err)
		}
		checkProposalV2(t, &request, p)
	})
}

func BenchmarkProposeV2(b *testing.B) {
	request := requestP256(b, true)
	data, err := protojson.Marshal(request)
	if err != nil {
		b.Fatal(err)
	}
	b.Run("rekor", func(b *testing.B) {
		for b.Loop() {
			var request pb.CreateEntryRequest
			if err := protojson.Unmarshal(data, &request); err != nil {
				b.Fatal(err)
			}
			entry, err := hashedrekordv2.ToLogEntry(request.GetHashedRekordRequestV002(), algorithms())
			if err != nil {
				b.Fatal(err)
			}
			canonicalV2(b, entry)
		}
	})
	b.Run("ours", func(b *testing.B) {
		for b.Loop() {
			if _, err := ProposeV2(data); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("message", func(b *testing.B) {
		for b.Loop() {
			if _, err := ProposeV2Message(request); err != nil {
				b.Fatal(err)
			}
		}
	})
}
