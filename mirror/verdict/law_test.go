package verdict

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	bundlepb "github.com/sigstore/protobuf-specs/gen/pb-go/bundle/v1"
	rekorpb "github.com/sigstore/protobuf-specs/gen/pb-go/rekor/v1"
	"github.com/sigstore/sigstore-go/pkg/bundle"
	"github.com/sigstore/sigstore-go/pkg/root"
	"github.com/sigstore/sigstore-go/pkg/verify"
	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	"github.com/understudy-log/understudy/mirror/ledger"
	"github.com/understudy-log/understudy/mirror/outage"
	"github.com/understudy-log/understudy/storage"
	"github.com/understudy-log/understudy/test/authority"
)

// What was answered in an outage is there after a crash, with its bundle.
func TestDurableBeforeAnswered(t *testing.T) {
	s := newStage(t)
	for i, state := range []outage.State{outage.Degraded, outage.Fallback, outage.Recovering, outage.Quarantined} {
		s.set(func() { s.state = state })
		artifact := fmt.Appendf(nil, "artifact %d", i)
		good := s.request(artifact, s.bundle(t, artifact, making{}))
		bad := s.bad(string(artifact))
		for _, r := range []Request{good, bad, {}} {
			d := s.verify(r)
			s.crash()
			rows := s.rows(kindDecision)
			last := rows[len(rows)-1]
			var body decision
			must(t, last.Decode(&body))
			sum := sha256.Sum256(r.Bundle)
			if last.Seq != d.Seq || body.ID != d.ID || (body.Decision == allowed) != d.Allow || body.State != state || body.BundleSHA256 != hex.EncodeToString(sum[:]) ||
				len(body.Reasons) == 0 || body.RestsOn != d.RestsOn || body.Mode != d.Mode {
				t.Fatalf("answered %+v, recorded %s", d, last.Raw())
			}
			kept, err := s.v.bundle(body.BundleSHA256)
			must(t, err)
			if d.Allow && !bytes.Equal(kept, r.Bundle) || !d.Allow && kept != nil {
				t.Fatalf("%d bytes are kept of the bundle of %+v", len(kept), d)
			}
			out, err := s.v.Again(t.Context(), last)
			must(t, err)
			if want := map[bool]string{true: AgainSame, false: AgainNotKept}[d.Allow]; out.Result != want {
				t.Fatalf("again: %+v, want %s", out, want)
			}
		}
	}
	// Rows that nobody verified again count what comes later: the log contradicts itself.
	s.set(func() {
		s.held = func(string, uint64, storage.Hash, uint64) Held { return Held{Contradicted: true} }
	})
	out, err := s.v.Again(t.Context(), s.rows(kindDecision)[0])
	must(t, err)
	if out.Result != AgainDiffers || !out.Given || out.Today || out.Reasons[0].Code != CodeMirrorContradicts {
		t.Errorf("%+v", out)
	}
}

// The row of a denial is small, whatever a stranger sends: it stays for ever.
func TestRowsOfDenialsAreSmall(t *testing.T) {
	s := newStage(t)
	artifact := []byte("an artifact")
	b := s.message(t, artifact, making{v1: true, identity: "https://example.com/" + strings.Repeat("&", 200)})
	entry := b.VerificationMaterial.TlogEntries[0]
	entry.InclusionPromise = nil
	for i := range 20 {
		next := proto.Clone(entry).(*rekorpb.TransparencyLogEntry)
		next.LogIndex += int64(i) + 1
		b.VerificationMaterial.TlogEntries = append(b.VerificationMaterial.TlogEntries, next)
	}
	s.set(func() {
		s.state = outage.Fallback
		s.held = func(string, uint64, storage.Hash, uint64) Held {
			return Held{Contradicted: true, Text: strings.Repeat("<", 1000)}
		}
	})
	r := s.request(artifact, marshal(t, b))
	r.Identity = &Identity{SAN: strings.Repeat("<", maxName), Issuer: strings.Repeat("<", maxName)}
	d := s.verify(r)
	rows := s.rows(kindDecision)
	if size := len(rows[0].Raw()); d.Allow || !d.has(CodeMirrorContradicts) || size > 12<<10 {
		t.Errorf("a row of %d bytes: %v", size, d.Reasons)
	}
}

// A decision that cannot be recorded is not given.
func TestNoAnswerWithoutARow(t *testing.T) {
	s := newStage(t)
	artifact := []byte("an artifact")
	r := s.request(artifact, s.bundle(t, artifact, making{}))
	s.set(func() { s.state = outage.Fallback })
	readOnly, err := storage.Open("db", storage.Options{FS: s.fs.(*vfs.MemFS).CrashClone(vfs.CrashCloneCfg{}), ReadOnly: true})
	must(t, err)
	defer readOnly.Close()
	l, err := ledger.Open(readOnly, nil)
	must(t, err)
	s.v.c.Ledger = l
	if d, err := s.v.Verify(t.Context(), r); err == nil || d.Allow {
		t.Errorf("%+v, %v", d, err)
	}
	s.set(func() { s.state, s.now = outage.Live, nil })
	if d, err := s.v.Verify(t.Context(), r); !errors.Is(err, ErrNoMaterial) || d.Allow {
		t.Errorf("%+v, %v", d, err)
	}
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	if d, err := s.v.Verify(gone, r); !errors.Is(err, context.Canceled) || d.Allow {
		t.Errorf("%+v, %v", d, err)
	}
}

// Sixteen verifiers in an outage, while exceptions come and go: each answer is the row that it names.
func TestConcurrentVerifiers(t *testing.T) {
	s := newStage(t)
	s.set(func() { s.state = outage.Fallback })
	each := 100
	if testing.Short() {
		each = 20
	}
	var requests []Request
	for i := range 8 {
		artifact := fmt.Appendf(nil, "artifact %d", i)
		requests = append(requests, s.request(artifact, s.bundle(t, artifact, making{v1: i%2 == 0})), s.bad(string(artifact)))
	}
	var verifiers sync.WaitGroup
	var mu sync.Mutex
	answers := map[uint64]Decision{}
	for i := range 16 {
		verifiers.Go(func() {
			for j := range each {
				d, err := s.v.Verify(t.Context(), requests[(i+j)%len(requests)])
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				answers[d.Seq] = d
				mu.Unlock()
			}
		})
	}
	x := s.except(DefaultPolicy, time.Hour)
	_, err := s.v.Revoke(x.ID, "bob", "T-2")
	must(t, err)
	verifiers.Wait()
	if len(answers) != 16*each {
		t.Fatalf("%d answers have rows of their own, of %d", len(answers), 16*each)
	}
	for _, row := range s.rows(kindDecision) {
		var body decision
		must(t, row.Decode(&body))
		if d := answers[row.Seq]; d.ID != body.ID || d.Allow != (body.Decision == allowed) {
			t.Errorf("answered %+v, recorded %s", d, row.Raw())
		}
	}
}

// Bundles that are kept take no more room than they may; the oldest goes.
func TestKeptBundles(t *testing.T) {
	s := newStage(t)
	s.set(func() { s.state = outage.Fallback })
	artifact := []byte("an artifact")
	first := s.bundle(t, artifact, making{})
	s.config.KeepBytes = int64(3*len(first) + len(first)/2)
	s.crash()
	s.verify(s.request(artifact, first))
	s.verify(s.request(artifact, first))
	if size := s.v.kept.size(); size != int64(len(first)) {
		t.Errorf("one bundle of %d bytes takes %d", len(first), size)
	}
	for range 5 {
		s.verify(s.request(artifact, s.bundle(t, artifact, making{})))
		if size := s.v.kept.size(); size > s.config.KeepBytes {
			t.Errorf("%d bytes are kept", size)
		}
	}
	before := s.v.kept.size()
	s.crash()
	if size := s.v.kept.size(); size != before || len(s.v.kept.all) != 3 {
		t.Errorf("after a restart %d bytes are kept in %d, before it %d", size, len(s.v.kept.all), before)
	}
	for i, row := range s.rows(kindDecision) {
		out, err := s.v.Again(t.Context(), row)
		must(t, err)
		if want := map[bool]string{true: AgainNotKept, false: AgainSame}[i < 4]; out.Result != want {
			t.Errorf("row %d: %s", i, out.Result)
		}
	}
	s.verify(s.request(artifact, first)) // it comes again
	rows := s.rows(kindDecision)
	out, err := s.v.Again(t.Context(), rows[len(rows)-1])
	must(t, err)
	if out.Result != AgainSame {
		t.Errorf("%+v", out)
	}
}

// A rollback bundle is deployable in any state, for exactly what it was pinned for.
func TestRollback(t *testing.T) {
	s := newStage(t)
	artifact := []byte("an artifact")
	r := s.request(artifact, s.bundle(t, artifact, making{}))
	add := func(name string, r Request, by, ticket string) error {
		_, err := s.v.AddRollback(t.Context(), name, r, by, ticket)
		return err
	}
	s.wantRefused(add("", r, "alice", "T-1"), RefusedName)
	s.wantRefused(add("good", r, "alice", ""), RefusedTicket)
	s.wantRefused(add("good", s.bad("a"), "alice", "T-1"), RefusedUnverified)
	x := s.except(DefaultPolicy, time.Hour)
	s.wantRefused(add("good", s.bad("a"), "alice", "T-1"), RefusedUnverified) // also in audit
	_, err := s.v.Revoke(x.ID, "bob", "T-1")
	must(t, err)
	must(t, add("good", r, "alice", "T-1"))
	s.wantRefused(add("good", r, "alice", "T-1"), RefusedName)
	s.wantRefused(add("again", r, "alice", "T-1"), RefusedName)

	if d := s.verify(r); !d.Allow || d.RestsOn != Pinned || !d.has(CodeRollbackBundle) || d.Identity != signer {
		t.Errorf("%+v", d)
	}
	for name, f := range map[string]func(){
		"nothing is trusted any more": func() { s.now = s.material(t, "ca", "tsa", "v1", "v2") },
		"there is no material":        func() { s.now = nil },
		"quarantined":                 func() { s.held = func(string, uint64, storage.Hash, uint64) Held { return Held{Quarantined: true} } },
		"contradicted":                func() { s.held = func(string, uint64, storage.Hash, uint64) Held { return Held{Contradicted: true} } },
	} {
		t.Run(name, func(t *testing.T) {
			s.set(func() { s.now, s.held, s.state = s.material(t), s.truth, outage.Quarantined })
			s.set(f)
			s.crash()
			d := s.verify(r)
			if !d.Allow || d.RestsOn != Pinned || d.Reasons[0].Code != CodeRollbackBundle || len(d.Reasons) < 2 || !strings.Contains(d.Reasons[0].Text, "NOT verify") || d.Seq == 0 {
				t.Errorf("%+v", d)
			}
			r := r
			r.Identity = nil // who pinned it said who
			if d := s.verify(r); !d.Allow {
				t.Errorf("nobody asked: %+v", d)
			}
			for what, change := range map[string]func(*Request){
				"another artifact":   func(r *Request) { r.Digest = bytes.Repeat([]byte{1}, 32) },
				"another bundle":     func(r *Request) { r.Bundle = append(r.Bundle[:len(r.Bundle):len(r.Bundle)], '\n') },
				"another policy":     func(r *Request) { r.Policy = "any" },
				"another identity":   func(r *Request) { r.Identity = &Identity{SAN: "somebody@example.com", Issuer: authority.Issuer} },
				"a key":              func(r *Request) { r.Identity, r.PublicKey = nil, pemOf(t, newKey(t).Public()) },
				"a broken question":  func(r *Request) { r.Identity = &Identity{SAN: signer} },
				"no such algorithm":  func(r *Request) { r.Algorithm = "sha1" },
				"a policy that's no": func(r *Request) { r.Policy = "nothing" },
			} {
				other := r
				other.Identity = &Identity{SAN: signer, Issuer: authority.Issuer}
				change(&other)
				if d, err := s.v.Verify(t.Context(), other); d.Allow || err != nil && !errors.Is(err, ErrNoMaterial) {
					t.Errorf("%s: %+v, %v", what, d, err)
				}
			}
		})
	}

	s.set(func() { s.now, s.held = s.material(t, "ca"), s.truth })
	must(t, s.v.checkRollbacks(t.Context()))
	if list := s.v.Rollbacks(); len(list) != 1 || list[0].Good || !strings.HasPrefix(list[0].Problem, CodeCertificateUntrusted) {
		t.Errorf("%+v", list)
	}
	s.crash()
	if list := s.v.Rollbacks(); len(list) != 1 || list[0].Good {
		t.Errorf("%+v", list)
	}
	s.set(func() { s.now = s.material(t) })
	must(t, s.v.checkRollbacks(t.Context()))
	var events []string
	for _, row := range s.rows(kindRollback) {
		var body rollbackRow
		must(t, row.Decode(&body))
		events = append(events, body.Event)
	}
	if got := strings.Join(events, " "); got != "added bad good" {
		t.Errorf("rows: %s", got)
	}
	s.wantRefused(s.v.RemoveRollback("nothing", "alice", "T-2"), RefusedUnknown)
	s.wantRefused(s.v.RemoveRollback("good", "alice", " "), RefusedTicket)
	must(t, s.v.RemoveRollback("good", "alice", "T-2"))
	s.crash()
	s.set(func() { s.now = s.material(t, "ca") })
	if d := s.verify(r); d.Allow {
		t.Errorf("removed, and allowed: %+v", d)
	}
}

// independently says whether a bundle is good, by sigstore-go alone and by the model of the logs.
func (s *stage) independently(material root.TrustedMaterial, raw []byte, digest []byte, identities ...Identity) error {
	b := &bundle.Bundle{}
	if err := b.UnmarshalJSON(raw); err != nil {
		return err
	}
	for _, i := range identities {
		id, err := verify.NewShortCertificateIdentity(i.Issuer, i.IssuerRegexp, i.SAN, i.SANRegexp)
		if err != nil {
			return err
		}
		v, err := verify.NewVerifier(material, verify.WithTransparencyLog(1), verify.WithObserverTimestamps(1))
		if err != nil {
			return err
		}
		if _, err = v.Verify(b, verify.NewPolicy(verify.WithArtifactDigest("sha256", digest), verify.WithCertificateIdentity(id))); err != nil {
			return err
		}
	}
	if len(identities) == 0 {
		return errors.New("nobody is expected")
	}
	// Not the body in the bundle is compared: of Rekor v2 sigstore-go does not look at it.
	content, err := b.SignatureContent()
	if err != nil {
		return err
	}
	for _, entry := range b.VerificationMaterial.GetTlogEntries() {
		if s.v1.signed(entry.GetLogIndex()-1000, content.Signature()) || s.v2.signed(entry.GetLogIndex(), content.Signature()) {
			return nil
		}
	}
	return errors.New("no log has it")
}

// Whatever the bundle, the material, the mirror, the state and the exceptions are: an allow in enforce is
// one that sigstore-go and the logs agree with, an allow under an exception is none that never leaves
// enforce, and what is decided in an outage is a row.
func TestProperty(t *testing.T) {
	s := newStage(t)
	artifacts := [][]byte{[]byte("one"), []byte("two")}
	var messages []*bundlepb.Bundle // of one artifact, and as many of the other
	for _, artifact := range artifacts {
		for _, m := range []making{{}, {}, {v1: true}, {v1: true, promise: true, media: "application/vnd.dev.sigstore.bundle+json;version=0.1"}, {envelope: true}, {noStamp: true}, {identity: release}, {identity: "stranger@example.com"}} {
			messages = append(messages, s.message(t, artifact, m))
		}
	}
	var materials []root.TrustedMaterial
	for _, without := range [][]string{nil, nil, nil, {"v1"}, {"v2"}, {"ca"}, {"tsa"}} {
		materials = append(materials, s.material(t, without...))
	}
	identities := []*Identity{nil, {SAN: signer, Issuer: authority.Issuer}, {SAN: signer, Issuer: authority.Issuer}, {SAN: release, Issuer: authority.Issuer}, {SANRegexp: "^signer@", IssuerRegexp: "."}, {SAN: signer, Issuer: "https://elsewhere"}}
	allows, audits := 0, 0
	property := func(t *rapid.T) {
		of := rapid.IntRange(0, len(messages)-1).Draw(t, "bundle")
		b := proto.Clone(messages[of]).(*bundlepb.Bundle)
		artifact := artifacts[of/(len(messages)/2)]
		if rapid.IntRange(0, 9).Draw(t, "another artifact") == 9 {
			artifact = rapid.SampledFrom(artifacts).Draw(t, "artifact")
		}
		if rapid.IntRange(0, 2).Draw(t, "mangled") == 2 {
			mangle(t, b, rapid.SampledFrom(messages).Draw(t, "other"))
		}
		raw := marshal(s.t, b)
		if rapid.IntRange(0, 9).Draw(t, "flip") == 9 {
			raw[rapid.IntRange(0, len(raw)-1).Draw(t, "at")] ^= 1 << rapid.IntRange(0, 7).Draw(t, "bit")
		}
		sum := sha256.Sum256(artifact)
		r := Request{Bundle: raw, Algorithm: "sha256", Digest: sum[:], Policy: rapid.SampledFrom([]string{"", "team", "any", "picky"}).Draw(t, "policy"), Identity: rapid.SampledFrom(identities).Draw(t, "identity")}
		material := rapid.SampledFrom(materials).Draw(t, "material")
		lie := rapid.SampledFrom([]string{"", "", "", "knows nothing", "contradicts", "quarantined"}).Draw(t, "mirror")
		state := rapid.SampledFrom([]outage.State{outage.Live, outage.Fallback, outage.Quarantined}).Draw(t, "state")
		said := false
		s.set(func() {
			s.now, s.state = material, state
			s.held = func(origin string, index uint64, leaf storage.Hash, size uint64) Held {
				said = true
				switch lie {
				case "knows nothing":
					return Held{}
				case "contradicts":
					return Held{Contradicted: true}
				case "quarantined":
					h := s.truth(origin, index, leaf, size)
					h.Quarantined, h.Live = true, false
					return h
				}
				return s.truth(origin, index, leaf, size)
			}
		})
		if rapid.Bool().Draw(t, "exception") {
			x := s.except(cmpOr(r.Policy, DefaultPolicy), time.Hour)
			defer func() {
				_, err := s.v.Revoke(x.ID, "bob", "T-2")
				must(s.t, err)
			}()
		}
		d, err := s.v.Verify(s.t.Context(), r)
		if err != nil {
			t.Fatal(err)
		}
		if state != outage.Live && d.Seq == 0 || d.Exception != "" && d.Seq == 0 {
			t.Fatalf("no row of %+v", d)
		}
		if !d.Allow {
			return
		}
		if lie == "contradicts" && (said || d.Exception == "") {
			t.Fatalf("the mirror contradicts: %+v", d)
		}
		who := []Identity{}
		if r.Identity != nil {
			who = append(who, *r.Identity)
		}
		if r.Policy == "team" {
			who = append(who, policies[0].Identities...)
		}
		good := s.independently(material, raw, sum[:], who...)
		if d.Exception == "" {
			if allows++; good != nil {
				t.Fatalf("allowed, and %v: %+v", good, d)
			}
			if d.RestsOn == PublicLive && state != outage.Live || d.RestsOn == "" || r.Policy == "picky" && d.RestsOn != PublicLive {
				t.Fatalf("%+v", d)
			}
			return
		}
		audits++
		if d.Mode != ModeAudit || r.Identity != nil && r.Identity.SAN == release || d.Identity == release {
			t.Fatalf("it never leaves enforce: %+v", d)
		}
	}
	rapid.Check(t, property)
	if testing.Short() {
		return
	}
	for range 3 {
		rapid.Check(t, property)
	}
	t.Logf("%d allows, %d under an exception", allows, audits)
	if allows < 10 || audits < 10 {
		t.Errorf("%d allows, %d under an exception: this tests nothing", allows, audits)
	}
}

// mangle changes one part of a bundle, or takes it from another.
func mangle(t *rapid.T, b, other *bundlepb.Bundle) {
	m, o := b.VerificationMaterial, proto.Clone(other).(*bundlepb.Bundle).VerificationMaterial
	flip := func(data []byte) {
		if len(data) > 0 {
			data[rapid.IntRange(0, len(data)-1).Draw(t, "byte")] ^= 1 << rapid.IntRange(0, 7).Draw(t, "bit")
		}
	}
	entry := m.TlogEntries[0]
	proof := entry.GetInclusionProof()
	switch rapid.IntRange(0, 14).Draw(t, "how") {
	case 0:
		flip(b.GetMessageSignature().GetSignature())
	case 1:
		flip(entry.CanonicalizedBody)
	case 2:
		flip(entry.LogId.KeyId)
	case 3:
		entry.LogIndex++
	case 4:
		if proof != nil {
			proof.LogIndex++
		}
	case 5:
		if proof != nil {
			proof.TreeSize++
		}
	case 6:
		if proof != nil && len(proof.Hashes) > 0 {
			flip(proof.Hashes[0])
		}
	case 7:
		if proof != nil {
			proof.Checkpoint = o.TlogEntries[0].GetInclusionProof().GetCheckpoint()
		}
	case 8:
		m.TlogEntries = o.TlogEntries
	case 9:
		m.TlogEntries = append(m.TlogEntries, o.TlogEntries...)
	case 10:
		m.TimestampVerificationData = o.TimestampVerificationData
	case 11:
		m.Content = o.Content
	case 12:
		b.Content = proto.Clone(other).(*bundlepb.Bundle).Content
	case 13:
		m.TlogEntries = nil
	case 14:
		flip(m.GetCertificate().GetRawBytes())
	}
}

// What makes the libraries panic is malformed, wherever it does.
func TestPanics(t *testing.T) {
	s := newStage(t)
	s.config.HighRiskKeys = [][]byte{pemOf(t, newKey(t).Public())}
	s.crash()
	s.except(DefaultPolicy, time.Hour)
	artifact := []byte("an artifact")
	for _, body := range []string{
		`{"apiVersion":"0.0.1","kind":"dsse","spec":{"signatures":[],"envelopeHash":{"algorithm":"sha256","value":"00"},"payloadHash":{"algorithm":"sha256","value":"00"}}}`,
		`{"apiVersion":"0.0.1","kind":"dsse","spec":{}}`,
		`{"apiVersion":"0.0.2","kind":"intoto","spec":{"content":{"envelope":{"payloadType":"a","signatures":[]}}}}`,
		`{"apiVersion":"0.0.1","kind":"hashedrekord","spec":{}}`,
		`{"apiVersion":"0.0.2","kind":"hashedrekord","spec":{"hashedRekordV002":{}}}`,
	} {
		b := s.message(t, artifact, making{v1: true})
		entry := b.VerificationMaterial.TlogEntries[0]
		entry.CanonicalizedBody = []byte(body)
		entry.KindVersion.Kind, entry.KindVersion.Version = kindOf(t, body)
		if d := s.verify(s.request(artifact, marshal(t, b))); d.Allow != (d.Exception != "") {
			t.Errorf("%s: %+v", body, d)
		} else {
			t.Logf("%s: %v", body, d.Reasons)
		}
	}
	r := s.request(artifact, s.bundle(t, artifact, making{}))
	s.set(func() { s.held = func(string, uint64, storage.Hash, uint64) Held { panic("a defect") } })
	if d := s.verify(r); d.Allow || !d.has(CodeBundleMalformed) {
		t.Errorf("%+v", d)
	}
}

func kindOf(t *testing.T, body string) (kind, version string) {
	var head struct{ Kind, APIVersion string }
	must(t, json.Unmarshal([]byte(body), &head))
	return head.Kind, head.APIVersion
}

// FuzzBundle: no bytes make the verifier panic or fail, and none but a bundle that verifies is allowed.
func FuzzBundle(f *testing.F) {
	s := &stage{sigstore: newSigstore(f)}
	artifact := []byte("an artifact")
	for _, m := range []making{{}, {v1: true}, {envelope: true}, {key: newKey(f)}} {
		f.Add(s.bundle(f, artifact, m))
	}
	f.Add([]byte(`{"mediaType":"application/vnd.dev.sigstore.bundle.v0.3+json","verificationMaterial":{"certificate":null,"tlogEntries":[null],"timestampVerificationData":{"rfc3161Timestamps":[null]}},"messageSignature":null}`))
	f.Add([]byte(`{"mediaType":"application/vnd.dev.sigstore.bundle+json;version=0.1","verificationMaterial":{"x509CertificateChain":{"certificates":[]},"tlogEntries":[{"logIndex":"1","logId":{"keyId":"AA=="},"kindVersion":{},"canonicalizedBody":"e30="}]},"dsseEnvelope":{"payload":"e30=","signatures":[null]}}`))
	db, err := storage.Create("db", storage.Options{FS: vfs.NewMem(), CacheBytes: 1 << 20})
	must(f, err)
	f.Cleanup(func() { db.Close() })
	l, err := ledger.Open(db, nil)
	must(f, err)
	material := s.material(f)
	v, err := New(Config{DB: db, Ledger: l, Policies: policies, Material: func() root.TrustedMaterial { return material }})
	must(f, err)
	sum := sha256.Sum256(artifact)
	f.Fuzz(func(t *testing.T, raw []byte) {
		d, err := v.Verify(t.Context(), Request{Bundle: raw, Algorithm: "sha256", Digest: sum[:], Identity: &Identity{SAN: signer, Issuer: authority.Issuer}})
		if err != nil || len(d.Reasons) == 0 {
			t.Fatalf("%+v, %v", d, err)
		}
		if d.Allow {
			must(t, s.independently(material, raw, sum[:], Identity{SAN: signer, Issuer: authority.Issuer}))
		}
	})
}
