package rekor

import (
	"bytes"
	"crypto/ecdsa"
	"encoding/base64"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"

	protobundle "github.com/sigstore/protobuf-specs/gen/pb-go/bundle/v1"
	protorekor "github.com/sigstore/protobuf-specs/gen/pb-go/rekor/v1"
	"github.com/sigstore/sigstore-go/pkg/root"
	"github.com/sigstore/sigstore-go/pkg/verify"
	"google.golang.org/protobuf/encoding/protojson"
)

// legacyBundle is what cosign wrote: without the inclusion proof.
func legacyBundle(tb testing.TB, signature, verifier []byte, e *Entry) []byte {
	tb.Helper()
	file := map[string]any{
		"base64Signature": signature,
		"rekorBundle": map[string]any{
			"SignedEntryTimestamp": e.SET,
			"Payload":              map[string]any{"body": e.Body, "integratedTime": e.IntegratedTime, "logIndex": e.LogIndex, "logID": e.LogID},
		},
	}
	if verifier != nil {
		file["cert"] = verifier
	}
	return mustJSON(tb, file)
}

func inBase64(b []byte) []byte { return []byte(base64.StdEncoding.EncodeToString(b) + "\n") }

// Every form in which cosign left a signature becomes a bundle that sigstore-go verifies.
func TestUpgrade(t *testing.T) {
	w := newWorld(t)
	artifact := []byte("artifact")
	certKey, cert := w.certificate(t)
	key := newKey(t)
	w.public = key.Public()
	certPEM, keyPEM := pemOf("CERTIFICATE", cert), pemOf("PUBLIC KEY", spkiOf(t, key.Public()))
	byCert := w.logged(t, hashedrekordV1(t, certKey, certPEM, artifact))
	byKey := w.logged(t, hashedrekordV1(t, key, keyPEM, artifact))
	payload := []byte(`{"_type":"https://in-toto.io/Statement/v1","subject":[{"name":"a","digest":{"sha256":"` + hexSum(artifact) + `"}}],"predicateType":"https://example.com/p","predicate":{}}`)
	envelope := envelopeOf(t, certKey, "application/vnd.in-toto+json", payload)
	attested := w.logged(t, mustJSON(t, map[string]any{"apiVersion": "0.0.1", "kind": "dsse", "spec": map[string]any{
		"proposedContent": map[string]any{"envelope": string(envelope), "verifiers": []any{certPEM}},
	}}))
	signatureAt := func(place int) []byte {
		s, err := parseSigned(w.leaves[place])
		if err != nil {
			t.Fatal(err)
		}
		return s.signature
	}
	entryAt := func(place int) *Entry { e := w.item(t, place).Entry; return &e }
	parse := func(data []byte) *Legacy {
		l, err := ParseLegacy(data)
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	alone := func(signature, verifier []byte) *Legacy {
		l, err := NewLegacy(signature, verifier)
		if err != nil || l.Entry != nil {
			t.Fatal(err, l)
		}
		return l
	}
	chain := slices.Concat(certPEM, pemOf("CERTIFICATE", w.FulcioCertificateAuthorities()[0].(*root.FulcioCertificateAuthority).Root.Raw))
	legacies := map[string]struct {
		legacy *Legacy
		place  int
		policy verify.PolicyOption
	}{
		"bundle, certificate":    {parse(legacyBundle(t, signatureAt(byCert), certPEM, entryAt(byCert))), byCert, verify.WithoutIdentitiesUnsafe()},
		"bundle, no certificate": {parse(legacyBundle(t, signatureAt(byCert), nil, entryAt(byCert))), byCert, verify.WithoutIdentitiesUnsafe()},
		"bundle, key":            {parse(legacyBundle(t, signatureAt(byKey), keyPEM, entryAt(byKey))), byKey, verify.WithKey()},
		"bundle, attestation":    {parse(legacyBundle(t, envelope, certPEM, entryAt(attested))), attested, verify.WithoutIdentitiesUnsafe()},
		"files, certificate":     {alone(inBase64(signatureAt(byCert)), inBase64(certPEM)), byCert, verify.WithoutIdentitiesUnsafe()},
		"files, chain":           {alone(inBase64(signatureAt(byCert)), chain), byCert, verify.WithoutIdentitiesUnsafe()},
		"files, key":             {alone(inBase64(signatureAt(byKey)), keyPEM), byKey, verify.WithKey()},
		"files, raw signature":   {alone(signatureAt(byKey), keyPEM), byKey, verify.WithKey()},
		"files, attestation":     {alone(envelope, certPEM), attested, verify.WithoutIdentitiesUnsafe()},
	}
	w.add([]byte("a later one"))
	for name, tt := range legacies {
		data, err := tt.legacy.Upgrade(w.entry(t, tt.place))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if err := verifyBundle(t, w, data, artifactOf(artifact), tt.policy); err != nil {
			t.Errorf("%s: %v, %s", name, err, data)
		}
		if err := verifyBundle(t, w, data, artifactOf([]byte("another")), tt.policy); err == nil {
			t.Errorf("%s: verifies for another artifact", name)
		}
		// It is found by what its query asks for.
		keys, _, err := QueryKeys(tt.legacy.Query())
		if err != nil || len(keys) != 1 || !slices.Contains(SearchKeys(w.leaves[tt.place]), keys[0]) {
			t.Errorf("%s: asks for %q, %v", name, keys, err)
		}
		// And it is a bundle that can be refreshed.
		w.add([]byte("and another"))
		if _, err := RefreshBundle(t.Context(), data, w.finder(t)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		// With any other entry of the log it is nothing.
		for place := range w.leaves {
			if place == tt.place {
				continue
			}
			e := w.entryOrNil(t, place)
			if data, err := tt.legacy.Upgrade(e); err == nil || (place == byCert || place == byKey) && tt.place != attested && !errors.Is(err, ErrMismatch) {
				t.Errorf("%s: with entry %d: %v, %s", name, place, err, data)
			}
		}
	}
	// A mirror without the timestamp: the legacy bundle has one.
	e := w.entry(t, byCert)
	e.InclusionPromise, e.IntegratedTime = nil, 0
	data, err := legacies["bundle, certificate"].legacy.Upgrade(e)
	if err != nil {
		t.Fatal(err)
	}
	if err := verifyBundle(t, w, data, artifactOf(artifact), verify.WithoutIdentitiesUnsafe()); err != nil {
		t.Error(err)
	}
	if e.InclusionPromise != nil {
		t.Error("the caller's entry was changed")
	}
}

// entryOrNil is entry, or nil for bodies that are no entries.
func (w *world) entryOrNil(tb testing.TB, place int) *protorekor.TransparencyLogEntry {
	if !json.Valid(w.leaves[place]) {
		return nil
	}
	return w.entry(tb, place)
}

// envelopeOf returns a signed DSSE envelope.
func envelopeOf(tb testing.TB, key *ecdsa.PrivateKey, kind string, payload []byte) []byte {
	return mustJSON(tb, map[string]any{
		"payload": payload, "payloadType": kind,
		"signatures": []any{map[string]any{"sig": sign(tb, key, pae(kind, payload))}},
	})
}

// A v2 entry of the signature does as well.
func TestUpgradeV2(t *testing.T) {
	w := newWorld(t)
	_, cert := w.certificate(t)
	place := w.add(hashedrekordV2(t, []byte("artifact"), certVerifier(cert)))
	s, err := parseSigned(w.leaves[place])
	if err != nil {
		t.Fatal(err)
	}
	p := w.item(t, place).Entry.Proof
	e, err := TransparencyLogEntryV2(w.leaves[place], p.Index, p.TreeSize, p.RootHash, p.Hashes, p.Checkpoint, w.logID[:])
	if err != nil {
		t.Fatal(err)
	}
	l, err := NewLegacy(s.signature, pemOf("CERTIFICATE", cert))
	if err != nil {
		t.Fatal(err)
	}
	data, err := l.Upgrade(e)
	if err != nil {
		t.Fatal(err)
	}
	var b protobundle.Bundle
	if err := protojson.Unmarshal(data, &b); err != nil || b.MediaType != mediaTypeV3 || string(b.GetMessageSignature().GetSignature()) != string(s.signature) {
		t.Errorf("%v, %s", err, data)
	}
	e.InclusionProof.LogIndex++
	if data, err := l.Upgrade(e); err == nil {
		t.Errorf("with a proof of another index: %s", data)
	}
}

func TestUpgradeRefuses(t *testing.T) {
	w := newWorld(t)
	key, cert := w.certificate(t)
	certPEM := pemOf("CERTIFICATE", cert)
	place := w.logged(t, hashedrekordV1(t, key, certPEM, []byte("artifact")))
	item := w.item(t, place)
	s, err := parseSigned(item.Entry.Body)
	if err != nil {
		t.Fatal(err)
	}
	good, err := NewLegacy(s.signature, certPEM)
	if err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		change   func(l *Legacy, e *protorekor.TransparencyLogEntry)
		mismatch bool
	}{
		"signature": {func(l *Legacy, e *protorekor.TransparencyLogEntry) {
			l.Signature = append(slices.Clone(l.Signature), 0)
		}, true},
		"certificate": {func(l *Legacy, e *protorekor.TransparencyLogEntry) {
			l.Verifier = pemOf("CERTIFICATE", newCert(t, key, nil))
		}, true},
		"key of it": {func(l *Legacy, e *protorekor.TransparencyLogEntry) {
			l.Verifier = pemOf("PUBLIC KEY", spkiOf(t, key.Public()))
		}, true},
		"own entry": {func(l *Legacy, e *protorekor.TransparencyLogEntry) {
			own := item.Entry
			own.LogIndex++
			l.Entry = &own
		}, true},
		"own time": {func(l *Legacy, e *protorekor.TransparencyLogEntry) {
			own := item.Entry
			own.IntegratedTime++
			l.Entry = &own
		}, true},
		"no proof": {func(l *Legacy, e *protorekor.TransparencyLogEntry) { e.InclusionProof = nil }, false},
		"proof":    {func(l *Legacy, e *protorekor.TransparencyLogEntry) { e.InclusionProof.Hashes[0][0] ^= 1 }, false},
		"kind":     {func(l *Legacy, e *protorekor.TransparencyLogEntry) { e.KindVersion.Kind = "dsse" }, false},
		"no kind":  {func(l *Legacy, e *protorekor.TransparencyLogEntry) { e.KindVersion = nil }, false},
		"no body":  {func(l *Legacy, e *protorekor.TransparencyLogEntry) { e.CanonicalizedBody = nil }, false},
	} {
		l, e := *good, w.entry(t, place)
		tt.change(&l, e)
		if data, err := l.Upgrade(e); err == nil || errors.Is(err, ErrMismatch) != tt.mismatch {
			t.Errorf("%s: %v, %s", name, err, data)
		}
	}
	if data, err := good.Upgrade(nil); err == nil {
		t.Errorf("without an entry: %s", data)
	}
	if _, err := good.Upgrade(w.entry(t, place)); err != nil {
		t.Error(err)
	}
	for _, files := range [][2]string{
		{"", string(certPEM)}, {"sig", ""}, {"sig", "text"}, {"sig", string(pemOf("CERTIFICATE", []byte("x")))}, {"sig", string(pemOf("PUBLIC KEY", []byte("x")))},
	} {
		if l, err := NewLegacy([]byte(files[0]), []byte(files[1])); err == nil {
			t.Errorf("%q: %+v", files, l)
		}
	}
	data := legacyBundle(t, s.signature, certPEM, &item.Entry)
	if _, err := ParseLegacy(data); err != nil {
		t.Error(err)
	}
	for _, s := range []string{
		"", "null", "{}", "[]", "text", string(data) + "{}", string(data[:len(data)-1]),
		`{"base64Signature":"AA==","rekorBundle":{}}`,
		`{"base64Signature":"AA==","rekorBundle":null}`,
		`{"base64Signature":"*","rekorBundle":{}}`,
		string(legacyBundle(t, nil, certPEM, &item.Entry)),
		string(legacyBundle(t, s.signature, []byte("text"), &item.Entry)),
		string(legacyBundle(t, s.signature, nil, &Entry{Body: []byte("{}"), SET: []byte("s"), LogID: item.Entry.LogID})),
	} {
		if l, err := ParseLegacy([]byte(s)); err == nil {
			t.Errorf("%s: %+v", s, l)
		}
	}
}

// cosign's own old bundles. No proof of theirs has been published: they are refused for that.
func TestGenuineLegacy(t *testing.T) {
	dir := genuine(t)
	keys := genuineKeys(t, dir)
	files, err := filepath.Glob(filepath.Join(dir, "bundles", "*.bundle"))
	if err != nil {
		t.Fatal(err)
	}
	legacies := 0
	for _, path := range files {
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		l, err := ParseLegacy(data)
		if err != nil {
			continue
		}
		legacies++
		if err := l.Entry.VerifySET(keys[l.Entry.LogID]); err != nil {
			t.Errorf("%s: %v", filepath.Base(path), err)
		}
		msg, err := TransparencyLogEntry(Item{Entry: *l.Entry})
		if err != nil {
			t.Fatal(err)
		}
		if data, err := l.Upgrade(msg); err == nil || errors.Is(err, ErrMismatch) {
			t.Errorf("%s: %v, %s", filepath.Base(path), err, data)
		}
	}
	if legacies != 4 {
		t.Errorf("%d legacy bundles, want 4", legacies)
	}
}

// Genuine signatures, as cosign would have left them in two files, with the genuine proofs
// of their entries: the bundles verify with the public trust root, the certificate's own
// timestamp too.
func TestGenuineUpgrade(t *testing.T) {
	dir := genuine(t)
	trust := genuineTrust(t, dir)
	verified := 0
	for _, r := range records(t, dir, "rekor-v1-entries.jsonl") {
		items, err := ParseAnswer(r.answer(t))
		if err != nil {
			t.Fatal(err)
		}
		e := &items[0].Entry
		s, err := parseSigned(e.Body)
		if err != nil || s.kind != "hashedrekord" || e.Proof == nil || e.SET == nil || trust.RekorLogs()[e.LogID] == nil || !bytes.Contains(s.verifier, []byte("BEGIN CERTIFICATE")) {
			continue
		}
		msg, err := TransparencyLogEntry(items[0])
		if err != nil {
			t.Fatal(err)
		}
		l, err := NewLegacy(inBase64(s.signature), inBase64(s.verifier))
		if err != nil {
			t.Fatal(err)
		}
		data, err := l.Upgrade(msg)
		if err != nil {
			t.Errorf("%s: %v", r.ID, err)
			continue
		}
		digest := verify.WithArtifactDigest("sha256", s.digest.Digest)
		if err := verifyBundle(t, trust, data, digest, verify.WithoutIdentitiesUnsafe(), verify.WithSignedCertificateTimestamps(1)); err != nil {
			t.Errorf("%s: %v", r.ID, err)
			continue
		}
		verified++
	}
	t.Logf("%d genuine signatures verified as bundles", verified)
	if verified < 10 {
		t.Errorf("%d genuine signatures verified as bundles", verified)
	}
}

// genuineTrust returns the public log's newest trust root.
func genuineTrust(tb testing.TB, dir string) *root.TrustedRoot {
	tb.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "trusted-roots", "production", "*-trusted_root.json"))
	if err != nil || len(files) == 0 {
		tb.Fatalf("no trust root (%v)", err)
	}
	trust, err := root.NewTrustedRootFromPath(slices.Max(files))
	if err != nil {
		tb.Fatal(err)
	}
	return trust
}
