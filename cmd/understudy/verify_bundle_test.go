package main

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/digitorus/timestamp"
	bundlepb "github.com/sigstore/protobuf-specs/gen/pb-go/bundle/v1"
	commonpb "github.com/sigstore/protobuf-specs/gen/pb-go/common/v1"
	rekorpb "github.com/sigstore/protobuf-specs/gen/pb-go/rekor/v1"
	tilespb "github.com/sigstore/rekor-tiles/v2/pkg/generated/protobuf"
	rekornote "github.com/sigstore/rekor-tiles/v2/pkg/note"
	"github.com/sigstore/rekor-tiles/v2/pkg/types/hashedrekord"
	"github.com/sigstore/sigstore-go/pkg/root"
	"google.golang.org/protobuf/encoding/protojson"
)

const (
	signerName   = "signer@example.com"
	signerIssuer = "https://accounts.example.com"
)

// testSigstore is a certificate authority that has certified a signer and a
// timestamp authority; all of them have one key.
type testSigstore struct {
	key             *ecdsa.PrivateKey
	ca, signer, tsa *x509.Certificate
	certificateLogs map[string]*root.TransparencyLog
}

func newTestSigstore(t *testing.T) *testSigstore {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	s := &testSigstore{key: key}
	certify := func(c *x509.Certificate) *x509.Certificate {
		t.Helper()
		c.NotBefore, c.NotAfter = time.Now().Add(-time.Minute), time.Now().Add(time.Minute)
		c.SerialNumber = big.NewInt(1)
		parent := s.ca
		if parent == nil {
			parent = c
		}
		der, err := x509.CreateCertificate(rand.Reader, c, parent, key.Public(), key)
		if err != nil {
			t.Fatal(err)
		}
		certificate, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		return certificate
	}
	s.ca = certify(&x509.Certificate{
		Subject: pkix.Name{CommonName: "authority"}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	})
	s.signer = certify(&x509.Certificate{
		EmailAddresses: []string{signerName}, KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning},
		ExtraExtensions: []pkix.Extension{{Id: asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 57264, 1, 1}, Value: []byte(signerIssuer)}}, // Fulcio: OIDC issuer
	})
	purpose, err := asn1.Marshal([]asn1.ObjectIdentifier{{1, 3, 6, 1, 5, 5, 7, 3, 8}}) // RFC 3161: timestamping, critical
	if err != nil {
		t.Fatal(err)
	}
	s.tsa = certify(&x509.Certificate{
		Subject: pkix.Name{CommonName: "timestamps"}, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtraExtensions: []pkix.Extension{{Id: asn1.ObjectIdentifier{2, 5, 29, 37}, Critical: true, Value: purpose}},
	})
	return s
}

func (s *testSigstore) timestamp(sig []byte) ([]byte, error) {
	digest := sha256.Sum256(sig)
	stamp := timestamp.Timestamp{HashAlgorithm: crypto.SHA256, HashedMessage: digest[:], Time: time.Now(), Policy: asn1.ObjectIdentifier{1, 2, 3}}
	return stamp.CreateResponseWithOpts(s.tsa, s.key, crypto.SHA256)
}

// sigstoreRoot is a TrustedRoot with one log, and with the authorities of a Sigstore.
// The log ID, if it is not given, is that of a Rekor v2 log.
func sigstoreRoot(t *testing.T, key crypto.PublicKey, id []byte, sigstore *testSigstore) []byte {
	t.Helper()
	_, noteID, err := rekornote.KeyHash(verifyOrigin, key)
	if err != nil {
		t.Fatal(err)
	}
	if id == nil {
		id = noteID
	}
	logs := map[string]*root.TransparencyLog{hex.EncodeToString(id): {
		BaseURL: (&url.URL{Scheme: "https", Host: verifyOrigin}).String(), ID: id, PublicKey: key,
		HashFunc: crypto.SHA256, SignatureHashFunc: crypto.SHA256,
		ValidityPeriodStart: time.Now().Add(-time.Hour),
	}}
	var cas []root.CertificateAuthority
	var tsas []root.TimestampingAuthority
	var certificateLogs map[string]*root.TransparencyLog
	if sigstore != nil {
		cas = []root.CertificateAuthority{&root.FulcioCertificateAuthority{Root: sigstore.ca, ValidityPeriodStart: time.Now().Add(-time.Hour)}}
		certificateLogs = sigstore.certificateLogs
		tsas = []root.TimestampingAuthority{&root.SigstoreTimestampingAuthority{Root: sigstore.ca, Leaf: sigstore.tsa, ValidityPeriodStart: time.Now().Add(-time.Hour)}}
	}
	tr, err := root.NewTrustedRoot(root.TrustedRootMediaType01, cas, certificateLogs, tsas, logs)
	if err != nil {
		t.Fatal(err)
	}
	data, err := tr.MarshalJSON()
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// makeBundle signs artifact, logs the signature in a new log and returns the
// bundle. With a certificate it is signed with that and timestamped.
func makeBundle(t *testing.T, artifact []byte, key crypto.Signer, certificate []byte, timestamp func(sig []byte) ([]byte, error)) []byte {
	t.Helper()
	short, long := sha256.Sum256(artifact), sha512.Sum512(artifact)
	digest, hash, details := short[:], crypto.SHA256, commonpb.PublicKeyDetails_PKIX_ECDSA_P256_SHA_256
	if _, ok := key.Public().(ed25519.PublicKey); ok {
		digest, hash, details = long[:], crypto.SHA512, commonpb.PublicKeyDetails_PKIX_ED25519_PH
	}
	sig, err := key.Sign(rand.Reader, digest, hash)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	verifier := &tilespb.Verifier{KeyDetails: details}
	material := &bundlepb.VerificationMaterial{TimestampVerificationData: &bundlepb.TimestampVerificationData{}}
	if certificate == nil {
		verifier.Verifier = &tilespb.Verifier_PublicKey{PublicKey: &tilespb.PublicKey{RawBytes: der}}
		material.Content = &bundlepb.VerificationMaterial_PublicKey{PublicKey: &commonpb.PublicKeyIdentifier{Hint: "a hint"}}
	} else {
		c := &commonpb.X509Certificate{RawBytes: certificate}
		verifier.Verifier = &tilespb.Verifier_X509Certificate{X509Certificate: c}
		material.Content = &bundlepb.VerificationMaterial_Certificate{Certificate: c}
	}
	if timestamp != nil {
		response, err := timestamp(sig)
		if err != nil {
			t.Fatal(err)
		}
		material.TimestampVerificationData.Rfc3161Timestamps = []*commonpb.RFC3161SignedTimestamp{{SignedTimestamp: response}}
	}
	logged := &tilespb.Signature{Content: sig, Verifier: verifier}
	output := &commonpb.HashOutput{Algorithm: commonpb.HashAlgorithm_SHA2_256, Digest: digest}
	if hash == crypto.SHA512 {
		output.Algorithm = commonpb.HashAlgorithm_SHA2_512
	}
	entry, err := protojson.Marshal(&tilespb.Entry{Kind: "hashedrekord", ApiVersion: "0.0.2", Spec: &tilespb.Spec{
		Spec: &tilespb.Spec_HashedRekordV002{HashedRekordV002: &tilespb.HashedRekordLogEntryV002{
			Data: output, Signature: logged,
		}},
	}})
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := hashedrekord.ToEntryHash(digest, logged)
	if err != nil {
		t.Fatal(err)
	}
	l := newSignedLog(t, 5)
	l.Append(leaf, l.LeafHash(0))
	path, err := l.InclusionProof(5, 7)
	if err != nil {
		t.Fatal(err)
	}
	_, logID, err := rekornote.KeyHash(verifyOrigin, l.key.Public())
	if err != nil {
		t.Fatal(err)
	}
	material.TlogEntries = []*rekorpb.TransparencyLogEntry{{
		LogIndex: 5, LogId: &commonpb.LogId{KeyId: logID}, CanonicalizedBody: entry,
		KindVersion: &rekorpb.KindVersion{Kind: "hashedrekord", Version: "0.0.2"},
		InclusionProof: &rekorpb.InclusionProof{
			LogIndex: 5, TreeSize: 7, RootHash: l.Hash(), Hashes: path,
			Checkpoint: &rekorpb.Checkpoint{Envelope: l.checkpoint(t, 7)},
		},
	}}
	data, err := protojson.Marshal(&bundlepb.Bundle{
		MediaType:            "application/vnd.dev.sigstore.bundle.v0.3+json",
		VerificationMaterial: material,
		Content: &bundlepb.Bundle_MessageSignature{MessageSignature: &commonpb.MessageSignature{
			MessageDigest: output, Signature: sig,
		}},
	})
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func TestVerifyBundleWithCertificate(t *testing.T) {
	sigstore := newTestSigstore(t)
	artifact := []byte("an artifact")
	good := makeBundle(t, artifact, sigstore.key, sigstore.signer.Raw, sigstore.timestamp)
	digest := sha256.Sum256(artifact)
	l := newSignedLog(t, 0)
	base := verifyOptions{
		trustedRoot: writeTemp(t, "trusted_root.json", sigstoreRoot(t, l.key.Public(), nil, sigstore)),
		artifact:    writeTemp(t, "artifact", artifact),
		identity:    signerName, issuer: signerIssuer,
	}
	said, err := verifyData(t, good, base)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{signerName + " (" + signerIssuer + ")", "entry 5 of " + verifyOrigin, "at "} {
		if !strings.Contains(said, want) {
			t.Errorf("said %q, nothing of %q", said, want)
		}
	}
	otherRoot := writeTemp(t, "other_root.json", sigstoreRoot(t, l.key.Public(), nil, newTestSigstore(t)))
	// The signer's certificate is in no certificate log.
	sigstore.certificateLogs = map[string]*root.TransparencyLog{"00": {
		BaseURL: "https://ct.example", ID: []byte{0}, PublicKey: sigstore.key.Public(), HashFunc: crypto.SHA256,
		SignatureHashFunc: crypto.SHA256, ValidityPeriodStart: time.Now().Add(-time.Hour),
	}}
	withCT := writeTemp(t, "ct_root.json", sigstoreRoot(t, l.key.Public(), nil, sigstore))
	otherLog, _, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	late := makeBundle(t, artifact, sigstore.key, sigstore.signer.Raw, nil)
	for name, c := range map[string]struct {
		data []byte
		edit func(o *verifyOptions)
		code int
		says string
	}{
		"digest":             {good, func(o *verifyOptions) { o.artifact, o.artifactDigest = "", fmt.Sprintf("sha256:%x", digest) }, exitGood, ""},
		"expressions":        {good, func(o *verifyOptions) { *o = regexps(*o, "^signer@", "example.com$") }, exitGood, ""},
		"other artifact":     {good, func(o *verifyOptions) { o.artifact = o.trustedRoot }, exitWrong, "signature"},
		"other digest":       {good, func(o *verifyOptions) { o.artifact, o.artifactDigest = "", fmt.Sprintf("sha256:%064x", 1) }, exitWrong, "digest"},
		"other identity":     {good, func(o *verifyOptions) { o.identity = "x@example.com" }, exitWrong, "identity"},
		"other issuer":       {good, func(o *verifyOptions) { o.issuer = "https://x.example" }, exitWrong, "identity"},
		"other expression":   {good, func(o *verifyOptions) { *o = regexps(*o, "^x@", "example.com$") }, exitWrong, "identity"},
		"other authority":    {good, func(o *verifyOptions) { o.trustedRoot = otherRoot }, exitWrong, "does not verify"},
		"certificate log":    {good, func(o *verifyOptions) { o.trustedRoot = withCT }, exitWrong, "signed certificate timestamp"},
		"other log":          {good, func(o *verifyOptions) { o.trustedRoot = writeTemp(t, "r", sigstoreRoot(t, otherLog, nil, sigstore)) }, exitWrong, "log"},
		"no timestamp":       {late, func(o *verifyOptions) {}, exitWrong, "timestamp"},
		"broken bundle":      {bytes.Replace(good, []byte(`"messageSignature"`), []byte(`"x"`), 1), func(o *verifyOptions) {}, exitWrong, "broken"},
		"altered hash":       {alterHash(t, good), func(o *verifyOptions) {}, exitWrong, "log"},
		"key expected":       {good, func(o *verifyOptions) { o.identity, o.issuer, o.publicKey = "", "", l.keyFile }, exitWrong, "certificate"},
		"no artifact":        {good, func(o *verifyOptions) { o.artifact = "" }, exitNotRun, "--artifact"},
		"no such artifact":   {good, func(o *verifyOptions) { o.artifact += ".gone" }, exitNotRun, "no such file"},
		"no digest":          {good, func(o *verifyOptions) { o.artifact, o.artifactDigest = "", "sha256:" }, exitNotRun, "--artifact-digest"},
		"no algorithm":       {good, func(o *verifyOptions) { o.artifact, o.artifactDigest = "", "12" }, exitNotRun, "--artifact-digest"},
		"digest too short":   {good, func(o *verifyOptions) { o.artifact, o.artifactDigest = "", "sha256:12" }, exitNotRun, "--artifact-digest"},
		"no identity":        {good, func(o *verifyOptions) { o.identity = "" }, exitNotRun, "--certificate-identity"},
		"no issuer":          {good, func(o *verifyOptions) { o.issuer = "" }, exitNotRun, "--certificate-oidc-issuer"},
		"bad expression":     {good, func(o *verifyOptions) { *o = regexps(*o, "(", "") }, exitNotRun, "--certificate-oidc-issuer"},
		"bad expression 2":   {good, func(o *verifyOptions) { *o = regexps(*o, "(", "x") }, exitNotRun, "identity"},
		"both":               {good, func(o *verifyOptions) { o.publicKey = l.keyFile }, exitNotRun, "exclude"},
		"value, expression":  {good, func(o *verifyOptions) { o.issuerRegexp = "x" }, exitNotRun, "exclude"},
		"entry for a bundle": {good, func(o *verifyOptions) { o.entry = o.artifact }, exitNotRun, "--entry"},
		"log key":            {good, func(o *verifyOptions) { o.trustedRoot, o.key = "", l.keyFile }, exitNotRun, "--key"},
	} {
		o := base
		c.edit(&o)
		if _, err := verifyData(t, c.data, o); exitCode(err) != c.code || c.says != "" && !strings.Contains(fmt.Sprint(err), c.says) {
			t.Errorf("%s: exit code %d, %v", name, exitCode(err), err)
		}
	}
}

func regexps(o verifyOptions, identity, issuer string) verifyOptions {
	o.identity, o.issuer, o.identityRegexp, o.issuerRegexp = "", "", identity, issuer
	return o
}

// alterHash flips a bit of the inclusion proof in a bundle.
func alterHash(t *testing.T, data []byte) []byte {
	t.Helper()
	var b bundlepb.Bundle
	if err := protojson.Unmarshal(data, &b); err != nil {
		t.Fatal(err)
	}
	b.VerificationMaterial.TlogEntries[0].InclusionProof.Hashes[0][0] ^= 1
	data, err := protojson.Marshal(&b)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func TestVerifyBundleWithKey(t *testing.T) {
	artifact := []byte("an artifact")
	l := newSignedLog(t, 0)
	base := verifyOptions{
		trustedRoot: writeTemp(t, "trusted_root.json", sigstoreRoot(t, l.key.Public(), nil, nil)),
		artifact:    writeTemp(t, "artifact", artifact),
		publicKey:   l.keyFile, // any key can sign
	}
	if said, err := verifyData(t, makeBundle(t, artifact, l.key, nil, nil), base); err != nil {
		t.Errorf("Ed25519: said %q, %v", said, err)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	base.publicKey = writeTemp(t, "key.pem", pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
	good := makeBundle(t, artifact, key, nil, nil)
	if said, err := verifyData(t, good, base); err != nil || !strings.Contains(said, "the key given") {
		t.Errorf("said %q, %v", said, err)
	}
	for name, c := range map[string]struct {
		edit func(o *verifyOptions)
		code int
	}{
		"other key":      {func(o *verifyOptions) { o.publicKey = l.keyFile }, exitWrong},
		"other artifact": {func(o *verifyOptions) { o.artifact = o.publicKey }, exitWrong},
		"identity":       {func(o *verifyOptions) { o.publicKey, o.identity, o.issuer = "", "x", "y" }, exitWrong},
		"no key":         {func(o *verifyOptions) { o.publicKey = "" }, exitNotRun},
		"no such key":    {func(o *verifyOptions) { o.publicKey += ".gone" }, exitNotRun},
		"no PEM":         {func(o *verifyOptions) { o.publicKey = o.artifact }, exitNotRun},
		"no root":        {func(o *verifyOptions) { o.trustedRoot = "" }, exitNotRun},
	} {
		o := base
		c.edit(&o)
		if _, err := verifyData(t, good, o); exitCode(err) != c.code {
			t.Errorf("%s: exit code %d, %v", name, exitCode(err), err)
		}
	}
}

// genuineData is the folder of genuine public Rekor data that may lie beside the
// checkout.
func genuineData(t *testing.T) string {
	t.Helper()
	dir := filepath.Join("..", "..", "..", "shared", "data")
	if _, err := os.Stat(dir); err != nil {
		t.Skipf("no genuine Rekor data: %v", err)
	}
	return dir
}

// Sigstore's conformance suite of bundles: each folder's name says what must be.
func TestVerifyConformance(t *testing.T) {
	dir := genuineData(t)
	index, err := os.ReadFile(filepath.Join(dir, "negative", "conformance-index.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	for line := range bytes.Lines(index) {
		var row struct {
			Dir        string
			ExpectFail bool
		}
		if err := json.Unmarshal(line, &row); err != nil {
			t.Fatal(err)
		}
		folder := filepath.Join(dir, map[bool]string{true: "negative", false: "positive"}[row.ExpectFail], "conformance", row.Dir)
		given := func(name, otherwise string) string {
			if path := filepath.Join(folder, name); exists(path) {
				return path
			}
			return otherwise
		}
		o := verifyOptions{
			file:        filepath.Join(folder, "bundle.sigstore.json"),
			trustedRoot: given("trusted_root.json", filepath.Join(dir, "trusted-roots", "production", "2025-09-22-c9bda74a-trusted_root.json")),
			artifact:    given("artifact", filepath.Join(dir, "a.txt")),
			publicKey:   given("key.pub", ""),
		}
		if o.publicKey == "" {
			o.identity = "https://github.com/sigstore-conformance/extremely-dangerous-public-oidc-beacon/.github/workflows/extremely-dangerous-oidc-beacon.yml@refs/heads/main"
			o.issuer = "https://token.actions.githubusercontent.com"
		}
		if strings.HasPrefix(row.Dir, "intoto-") {
			o = regexps(o, ".", ".")
		}
		var out strings.Builder
		err := verifyFile(t.Context(), o, &out)
		want := exitGood
		switch {
		case row.Dir == "trust-root-tlog-missing-validity-start_fail", row.Dir == "managed-key-wrong-key_fail":
			want = exitNotRun // the trusted root, the key is malformed
		case row.ExpectFail:
			want = exitWrong
		}
		if exitCode(err) != want || err != nil && strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: exit code %d, want %d: %v", row.Dir, exitCode(err), want, err)
		}
	}
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// Genuine entries and proofs, in the forms that "understudy proof" writes.
func TestVerifyGenuineProofs(t *testing.T) {
	dir := genuineData(t)
	roots := map[string]string{
		"production": filepath.Join(dir, "trusted-roots", "production", "2025-09-22-c9bda74a-trusted_root.json"),
		"staging":    filepath.Join(dir, "trusted-roots", "staging", "2026-06-11-8b4e8006-trusted_root.json"),
	}
	verified := 0
	for _, name := range []string{"rekor-v1-entries.jsonl", "rekor-v2-entries.jsonl"} {
		for _, line := range jsonLines(t, dir, name) {
			var row struct {
				Body           []byte
				Env, Log       string
				LeafHash       hexHash
				Complete       bool
				InclusionProof struct {
					Checkpoint         string
					Hashes             []hexHash
					LogIndex, TreeSize uint64
					RootHash           hexHash
				}
			}
			if err := json.Unmarshal(line, &row); err != nil {
				t.Fatal(err)
			}
			if !row.Complete {
				continue
			}
			p := row.InclusionProof
			origin, _, _ := strings.Cut(p.Checkpoint, "\n")
			proof := inclusionJSON{"inclusion", origin, p.LogIndex, p.TreeSize, row.LeafHash, p.RootHash, p.Hashes, p.Checkpoint, nil}
			o := verifyOptions{trustedRoot: roots[row.Env], entry: writeTemp(t, "body", row.Body)}
			for _, form := range []any{proof, proof.tlogProof()} {
				if _, err := verifyData(t, form, o); err != nil {
					t.Errorf("%s entry %d of %s: %v", row.Env, p.LogIndex, origin, err)
				}
			}
			proof.Index ^= 1
			if _, err := verifyData(t, proof, o); exitCode(err) != exitWrong {
				t.Errorf("%s entry %d at another index: %v", row.Env, p.LogIndex, err)
			}
			verified++
		}
	}
	if verified != 119 {
		t.Errorf("verified %d entries, want 119", verified)
	}
	for _, line := range jsonLines(t, dir, "consistency-proofs.jsonl") {
		var row struct {
			Hashes                       []hexHash
			NewCheckpoint, OldCheckpoint string
			NewRoot, OldRoot             hexHash
			NewSize, OldSize             uint64
		}
		if err := json.Unmarshal(line, &row); err != nil {
			t.Fatal(err)
		}
		origin, _, _ := strings.Cut(row.NewCheckpoint, "\n")
		proof := consistencyJSON{"consistency", origin, row.OldSize, row.NewSize, row.OldRoot, row.NewRoot, row.Hashes, row.OldCheckpoint, row.NewCheckpoint, nil}
		env := "production"
		if strings.Contains(origin, "sigstage") {
			env = "staging"
		}
		if _, err := verifyData(t, proof, verifyOptions{trustedRoot: roots[env]}); err != nil {
			t.Errorf("%s from %d to %d: %v", origin, row.OldSize, row.NewSize, err)
		}
	}
}

func jsonLines(t *testing.T, elem ...string) [][]byte {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(elem...))
	if err != nil {
		t.Fatal(err)
	}
	return bytes.Split(bytes.TrimSpace(data), []byte("\n"))
}
