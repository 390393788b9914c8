package verdict

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	bundlepb "github.com/sigstore/protobuf-specs/gen/pb-go/bundle/v1"
	"github.com/sigstore/sigstore-go/pkg/root"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/understudy-log/understudy/storage"
	"github.com/understudy-log/understudy/test/authority"
)

// Every form of a bundle is allowed for who signed it, and not for anybody else, or anything else.
func TestForms(t *testing.T) {
	s := newStage(t)
	artifact := []byte("an artifact")
	_, edwards, err := ed25519.GenerateKey(rand.Reader)
	must(t, err)
	long := sha512.Sum512(artifact)
	const v01, v02 = "application/vnd.dev.sigstore.bundle+json;version=0.1", "application/vnd.dev.sigstore.bundle+json;version=0.2"
	for name, m := range map[string]making{
		"v2": {}, "v2 envelope": {envelope: true}, "v2 key": {key: newKey(t)}, "v2 key envelope": {key: newKey(t), envelope: true}, "v2 Ed25519": {key: edwards},
		"v1": {v1: true}, "v1 v0.1": {v1: true, media: v01}, "v1 v0.2": {v1: true, media: v02}, "v1 key": {v1: true, key: newKey(t)},
		"v1 promise": {v1: true, media: v01, promise: true},
	} {
		t.Run(name, func(t *testing.T) {
			r := s.request(artifact, s.bundle(t, artifact, m))
			if m.key != nil {
				r.Identity, r.PublicKey = nil, pemOf(t, m.key.Public())
			}
			if _, ok := m.key.(ed25519.PrivateKey); ok {
				r.Algorithm, r.Digest = "sha512", long[:]
			}
			d := s.verify(r)
			if !d.Allow || d.RestsOn != PublicLive || d.Mode != ModeEnforce || !d.has(CodeOK) || d.Seq != 0 || d.Origin == "" {
				t.Fatalf("%+v", d)
			}
			if m.key == nil && (d.Identity != signer || d.Issuer != authority.Issuer) {
				t.Errorf("signed by %q, %q", d.Identity, d.Issuer)
			}
			other := r
			sum := sha256.Sum256([]byte("another artifact"))
			other.Algorithm, other.Digest = "sha256", sum[:]
			if d := s.verify(other); d.Allow || !d.has(CodeArtifactMismatch) || d.RestsOn != "" {
				t.Errorf("another artifact: %+v", d)
			}
			other = r
			if m.key != nil {
				other.PublicKey = pemOf(t, newKey(t).Public())
			} else {
				other.Identity = &Identity{SAN: "somebody@example.com", Issuer: authority.Issuer}
			}
			if d := s.verify(other); d.Allow || !d.has(CodeIdentityMismatch) || len(d.Reasons) != 1 {
				t.Errorf("somebody else: %+v", d)
			}
			other.Identity, other.PublicKey = &Identity{SAN: signer, IssuerRegexp: "^https://elsewhere"}, nil
			if d := s.verify(other); d.Allow || !d.has(CodeIdentityMismatch) {
				t.Errorf("another issuer: %+v", d)
			}
			other.Identity = nil
			if d := s.verify(other); d.Allow || !d.has(CodeIdentityMismatch) {
				t.Errorf("nobody expected: %+v", d)
			}
		})
	}
	if rows := s.rows(kindDecision); len(rows) != 0 {
		t.Errorf("%d rows while everything was live", len(rows))
	}
}

// Each thing that can be wrong has its code, and what is left out of the trust material too.
func TestReasons(t *testing.T) {
	s := newStage(t)
	artifact := []byte("an artifact")
	good := s.bundle(t, artifact, making{})
	for name, c := range map[string]struct {
		m       making
		without []string
		want    string
	}{
		"no such log":        {want: CodeLogUntrusted, without: []string{"v2"}},
		"no such log v1":     {want: CodeLogUntrusted, without: []string{"v1"}, m: making{v1: true}},
		"no such authority":  {want: CodeCertificateUntrusted, without: []string{"ca"}},
		"no such v1":         {want: CodeCertificateUntrusted, without: []string{"ca"}, m: making{v1: true}},
		"no timestamps":      {want: CodeTimestampMissing, m: making{noStamp: true}},
		"no such timestamps": {want: CodeTimestampMissing, without: []string{"tsa"}},
		"no SCT":             {want: CodeSCTInvalid, without: []string{"no ct log"}},
	} {
		t.Run(name, func(t *testing.T) {
			s.set(func() { s.now = s.material(t, c.without...) })
			d := s.verify(s.request(artifact, s.bundle(t, artifact, c.m)))
			if d.Allow || len(d.Reasons) != 1 || !d.has(c.want) {
				t.Errorf("want %s: %+v", c.want, d)
			}
		})
	}
	s.set(func() { s.now = s.material(t) })
	for name, c := range map[string]struct {
		change func(*Request)
		want   string
	}{
		"policy":       {func(r *Request) { r.Policy = "nothing\n" }, CodePolicyUnknown},
		"algorithm":    {func(r *Request) { r.Algorithm = "md5" }, CodeRequestMalformed},
		"digest":       {func(r *Request) { r.Digest = r.Digest[1:] }, CodeRequestMalformed},
		"expression":   {func(r *Request) { r.Identity = &Identity{SANRegexp: "(", Issuer: "x"} }, CodeRequestMalformed},
		"no issuer":    {func(r *Request) { r.Identity = &Identity{SAN: signer} }, CodeRequestMalformed},
		"both":         {func(r *Request) { r.PublicKey = pemOf(t, newKey(t).Public()) }, CodeRequestMalformed},
		"key":          {func(r *Request) { r.Identity, r.PublicKey = nil, []byte("no key") }, CodeRequestMalformed},
		"empty bundle": {func(r *Request) { r.Bundle = nil }, CodeBundleMalformed},
		"no bundle":    {func(r *Request) { r.Bundle = []byte("{}") }, CodeBundleMalformed},
		"half":         {func(r *Request) { r.Bundle = good[:len(good)/2] }, CodeBundleMalformed},
		"large":        {func(r *Request) { r.Bundle = make([]byte, MaxBundle+1) }, CodeBundleMalformed},
	} {
		t.Run(name, func(t *testing.T) {
			r := s.request(artifact, good)
			c.change(&r)
			if d := s.verify(r); d.Allow || !d.has(c.want) {
				t.Errorf("want %s: %+v", c.want, d)
			}
		})
	}
}

// What the mirror knows decides what it rests on, and whether it is allowed.
func TestHeld(t *testing.T) {
	s := newStage(t)
	artifact := []byte("an artifact")
	r := s.request(artifact, s.bundle(t, artifact, making{}))
	picky := r
	picky.Policy = "picky"
	for name, c := range map[string]struct {
		held         Held
		rests        RestsOn
		code, picked string
	}{
		"live":         {Held{Confirmed: true, Live: true}, PublicLive, CodeOK, CodeOK},
		"mirrored":     {Held{Confirmed: true}, Mirrored, CodeOK, CodeNotAcceptedSource},
		"private":      {Held{Confirmed: true, Private: true, Live: true}, Private, CodeOK, CodeOK},
		"unknown":      {Held{Live: true}, OwnProof, CodeOK, CodeNotAcceptedSource},
		"contradicted": {Held{Contradicted: true, Confirmed: true, Live: true}, "", CodeMirrorContradicts, CodeMirrorContradicts},
		"quarantined":  {Held{Quarantined: true, Live: true}, "", CodeLogQuarantined, CodeLogQuarantined},
		"held before":  {Held{Quarantined: true, Confirmed: true, Live: true}, Mirrored, CodeOK, CodeNotAcceptedSource},
	} {
		t.Run(name, func(t *testing.T) {
			s.set(func() { s.held = func(string, uint64, storage.Hash, uint64) Held { return c.held } })
			if d := s.verify(r); d.Allow != (c.code == CodeOK) || !d.has(c.code) || d.RestsOn != c.rests {
				t.Errorf("%+v", d)
			}
			if d := s.verify(picky); d.Allow != (c.picked == CodeOK) || !d.has(c.picked) {
				t.Errorf("picky: %+v", d)
			}
		})
	}
}

// Of several entries the best counts, and only those that verify; one that contradicts denies.
func TestSeveralEntries(t *testing.T) {
	s := newStage(t)
	artifact := []byte("an artifact")
	first := s.message(t, artifact, making{})
	foreign := newModelLog(t, "foreign.example.com", true)
	entry := foreign.entry(t, first.VerificationMaterial.TlogEntries[0].CanonicalizedBody, false)
	first.VerificationMaterial.TlogEntries = append(first.VerificationMaterial.TlogEntries, entry)
	r := s.request(artifact, marshal(t, first))
	heldOf := func(ours, theirs Held) {
		s.set(func() {
			s.held = func(origin string, _ uint64, _ storage.Hash, _ uint64) Held {
				if origin == originV2 {
					return ours
				}
				return theirs
			}
		})
	}
	heldOf(Held{}, Held{Confirmed: true, Live: true})
	if d := s.verify(r); !d.Allow || d.RestsOn != OwnProof || d.Origin != originV2 {
		t.Errorf("it rests on a log that nobody trusts: %+v", d)
	}
	heldOf(Held{Confirmed: true, Live: true}, Held{Contradicted: true})
	if d := s.verify(r); d.Allow || !d.has(CodeMirrorContradicts) || d.RestsOn != "" {
		t.Errorf("a contradiction is allowed: %+v", d)
	}
}

// A policy's list counts in addition to the request.
func TestPolicyAndRequest(t *testing.T) {
	s := newStage(t)
	artifact := []byte("an artifact")
	ours, theirs := s.bundle(t, artifact, making{}), s.bundle(t, artifact, making{identity: "other@example.com"})
	r := s.request(artifact, ours)
	r.Policy, r.Identity = "team", nil
	if d := s.verify(r); !d.Allow {
		t.Errorf("the policy's identity: %+v", d)
	}
	r.Identity = &Identity{SANRegexp: ".", IssuerRegexp: "."}
	if d := s.verify(r); !d.Allow {
		t.Errorf("the request's and the policy's identity: %+v", d)
	}
	r.Bundle = theirs
	if d := s.verify(r); d.Allow || !d.has(CodeIdentityMismatch) {
		t.Errorf("an identity that is not the policy's: %+v", d)
	}
	r.Identity = nil
	if d := s.verify(r); d.Allow || !d.has(CodeIdentityMismatch) {
		t.Errorf("an identity that is not the policy's: %+v", d)
	}
	k := newKey(t)
	r.Bundle, r.PublicKey = s.bundle(t, artifact, making{key: k}), pemOf(t, k.Public())
	if d := s.verify(r); d.Allow || !d.has(CodeIdentityMismatch) {
		t.Errorf("a key that is not the policy's: %+v", d)
	}
}

// Sigstore's conformance suite of bundles, which may lie beside the checkout: each folder's name says
// what must be.
func TestConformance(t *testing.T) {
	dir := filepath.Join("..", "..", "..", "shared", "data")
	index, err := os.ReadFile(filepath.Join(dir, "negative", "conformance-index.jsonl"))
	if err != nil {
		t.Skipf("no genuine Rekor data: %v", err)
	}
	s := newStage(t)
	production := filepath.Join(dir, "trusted-roots", "production", "2025-09-22-c9bda74a-trusted_root.json")
	allowed, codes := 0, map[string]int{}
	for line := range bytes.Lines(index) {
		var row struct {
			Dir        string
			ExpectFail bool
		}
		must(t, json.Unmarshal(line, &row))
		folder := filepath.Join(dir, map[bool]string{true: "negative", false: "positive"}[row.ExpectFail], "conformance", row.Dir)
		read := func(name, otherwise string) []byte {
			data, err := os.ReadFile(filepath.Join(folder, name))
			if err != nil && otherwise != "" {
				data, err = os.ReadFile(otherwise)
			}
			if err != nil && otherwise != "" {
				t.Fatal(err)
			}
			return data
		}
		material, err := root.NewTrustedRootFromJSON(read("trusted_root.json", production))
		if err != nil {
			continue // a trusted root that is malformed
		}
		s.set(func() { s.now = material })
		r := Request{Bundle: read("bundle.sigstore.json", "-"), PublicKey: read("key.pub", ""), Algorithm: "sha256"}
		sum := sha256.Sum256(read("artifact", filepath.Join(dir, "a.txt")))
		r.Digest = sum[:]
		if len(r.PublicKey) == 0 {
			r.Identity = &Identity{
				SAN:    "https://github.com/sigstore-conformance/extremely-dangerous-public-oidc-beacon/.github/workflows/extremely-dangerous-oidc-beacon.yml@refs/heads/main",
				Issuer: "https://token.actions.githubusercontent.com",
			}
			if strings.HasPrefix(row.Dir, "intoto-") {
				r.Identity = &Identity{SANRegexp: ".", IssuerRegexp: "."}
			}
		}
		d := s.verify(r)
		if d.Allow == row.ExpectFail || d.Allow && (d.RestsOn != OwnProof || d.Origin == "") {
			t.Errorf("%s: %+v", row.Dir, d)
		}
		if d.Allow {
			allowed++
			continue
		}
		for _, reason := range d.Reasons {
			codes[reason.Code]++
		}
		if d.has(CodeUnverified) {
			t.Errorf("%s: nobody knows why: %v", row.Dir, d.Reasons)
		}
		t.Logf("%s: %v", row.Dir, d.Reasons)
	}
	if allowed < 10 || len(codes) < 6 {
		t.Errorf("%d are allowed, others denied with %v", allowed, codes)
	}
}

func marshal(t testing.TB, b *bundlepb.Bundle) []byte {
	t.Helper()
	out, err := protojson.Marshal(b)
	must(t, err)
	return out
}
