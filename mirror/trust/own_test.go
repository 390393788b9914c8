package trust

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	bundlepb "github.com/sigstore/protobuf-specs/gen/pb-go/bundle/v1"
	common "github.com/sigstore/protobuf-specs/gen/pb-go/common/v1"
	rekorpb "github.com/sigstore/protobuf-specs/gen/pb-go/rekor/v1"
	tilespb "github.com/sigstore/rekor-tiles/v2/pkg/generated/protobuf"
	"github.com/sigstore/rekor-tiles/v2/pkg/types/hashedrekord"
	"github.com/sigstore/sigstore-go/pkg/bundle"
	"github.com/sigstore/sigstore-go/pkg/root"
	sgverify "github.com/sigstore/sigstore-go/pkg/verify"
	"github.com/sigstore/sigstore/pkg/signature"
	"google.golang.org/protobuf/encoding/protojson"
)

// ourStart has a fraction of a second, as clocks do.
var ourStart = time.Date(2026, 3, 1, 12, 0, 0, 700_000_000, time.UTC)

const (
	ourV1Origin = "rekor.us.example - 3141592653589793238"
	ourV2Origin = "rekor2026-1.us.example"
)

// ours are two logs of our own, that of version 1 first.
func ours() []OwnLog {
	return []OwnLog{
		{URL: "https://rekor.us.example:3000", APIVersion: 1, Origin: ourV1Origin, Operator: "us", Public: signingKeys()["P-256"].Public(), Start: ourStart},
		{URL: "https://rekor2026-1.us.example", APIVersion: 2, Origin: ourV2Origin, Operator: "us", Public: signingKeys()["Ed25519"].Public(), Start: ourStart},
	}
}

// artifact is what somebody signs with a key of their own.
var artifact = []byte("an artifact")

// signed is a bundle with a signature of artifact, not logged yet.
func signed(t *testing.T) (*bundlepb.Bundle, *ecdsa.PrivateKey) {
	t.Helper()
	key := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	digest := sha256.Sum256(artifact)
	return &bundlepb.Bundle{
		MediaType: "application/vnd.dev.sigstore.bundle.v0.3+json",
		VerificationMaterial: &bundlepb.VerificationMaterial{
			Content: &bundlepb.VerificationMaterial_PublicKey{PublicKey: &common.PublicKeyIdentifier{Hint: "key"}},
		},
		Content: &bundlepb.Bundle_MessageSignature{MessageSignature: &common.MessageSignature{
			MessageDigest: &common.HashOutput{Algorithm: common.HashAlgorithm_SHA2_256, Digest: digest[:]}, Signature: must(ecdsa.SignASN1(rand.Reader, key, digest[:])),
		}},
	}, key
}

// logV1 logs the signature in a log of version 1, as its first entry.
func logV1(t *testing.T, b *bundlepb.Bundle, public crypto.PublicKey, log crypto.Signer, origin string, at time.Time) {
	t.Helper()
	s := b.GetMessageSignature()
	body := fmt.Appendf(nil, `{"apiVersion":"0.0.1","kind":"hashedrekord","spec":{"data":{"hash":{"algorithm":"sha256","value":"%x"}},"signature":{"content":"%s","publicKey":{"content":"%s"}}}}`,
		s.GetMessageDigest().GetDigest(), base64.StdEncoding.EncodeToString(s.GetSignature()), base64.StdEncoding.EncodeToString(pemOf(public)))
	id := sha256.Sum256(Key{public: log.Public()}.SPKI())
	set := sha256.Sum256(fmt.Appendf(nil, `{"body":"%s","integratedTime":%d,"logID":"%x","logIndex":0}`, base64.StdEncoding.EncodeToString(body), at.Unix(), id))
	leaf := sha256.Sum256(append([]byte{0}, body...))
	host, _ := rekorV1Host(origin)
	b.VerificationMaterial.TlogEntries = append(b.VerificationMaterial.TlogEntries, &rekorpb.TransparencyLogEntry{
		LogId: &common.LogId{KeyId: id[:]}, KindVersion: &rekorpb.KindVersion{Kind: "hashedrekord", Version: "0.0.1"}, IntegratedTime: at.Unix(), CanonicalizedBody: body,
		InclusionPromise: &rekorpb.InclusionPromise{SignedEntryTimestamp: must(log.Sign(rand.Reader, set[:], crypto.SHA256))},
		InclusionProof:   proofOf(leaf[:], signV1(host, log, checkpointText(origin, leaf[:]))),
	})
}

// logV2 logs the signature in a log of version 2, as its first entry.
func logV2(t *testing.T, b *bundlepb.Bundle, public crypto.PublicKey, log crypto.Signer, origin string) {
	t.Helper()
	s := b.GetMessageSignature()
	sig := &tilespb.Signature{Content: s.GetSignature(), Verifier: &tilespb.Verifier{
		KeyDetails: common.PublicKeyDetails_PKIX_ECDSA_P256_SHA_256, Verifier: &tilespb.Verifier_PublicKey{PublicKey: &tilespb.PublicKey{RawBytes: Key{public: public}.SPKI()}},
	}}
	body := must(protojson.Marshal(&tilespb.Entry{Kind: "hashedrekord", ApiVersion: "0.0.2", Spec: &tilespb.Spec{Spec: &tilespb.Spec_HashedRekordV002{
		HashedRekordV002: &tilespb.HashedRekordLogEntryV002{Data: s.GetMessageDigest(), Signature: sig},
	}}}))
	leaf := must(hashedrekord.ToEntryHash(s.GetMessageDigest().GetDigest(), sig))
	id := sha256.Sum256(append([]byte(origin+"\n\x01"), log.Public().(ed25519.PublicKey)...))
	b.VerificationMaterial.TlogEntries = append(b.VerificationMaterial.TlogEntries, &rekorpb.TransparencyLogEntry{
		LogId: &common.LogId{KeyId: id[:]}, KindVersion: &rekorpb.KindVersion{Kind: "hashedrekord", Version: "0.0.2"}, CanonicalizedBody: body,
		InclusionProof: proofOf(leaf, signV2(origin, log, checkpointText(origin, leaf))),
	})
}

func checkpointText(origin string, leaf []byte) string {
	return fmt.Sprintf("%s\n1\n%s\n", origin, base64.StdEncoding.EncodeToString(leaf))
}

func proofOf(leaf, checkpoint []byte) *rekorpb.InclusionProof {
	return &rekorpb.InclusionProof{TreeSize: 1, RootHash: leaf, Checkpoint: &rekorpb.Checkpoint{Envelope: string(checkpoint)}}
}

// verifies has sigstore-go verify a bundle, with as many times of logs.
func verifies(t *testing.T, trustedRoot []byte, b *bundlepb.Bundle, public crypto.PublicKey, times int) error {
	t.Helper()
	read, err := bundle.NewBundle(b)
	if err != nil {
		t.Fatal(err)
	}
	keys := root.NewTrustedPublicKeyMaterialFromMapping(map[string]*root.ExpiringKey{
		"key": root.NewExpiringKey(must(signature.LoadVerifier(public, crypto.SHA256)), time.Time{}, time.Time{}),
	})
	observed := sgverify.WithNoObserverTimestamps()
	if times > 0 {
		observed = sgverify.WithIntegratedTimestamps(times)
	}
	v := must(sgverify.NewVerifier(root.TrustedMaterialCollection{must(root.NewTrustedRootFromJSON(trustedRoot)), keys}, sgverify.WithTransparencyLog(len(b.GetVerificationMaterial().GetTlogEntries())), observed))
	_, err = v.Verify(read, sgverify.NewPolicy(sgverify.WithArtifact(bytes.NewReader(artifact)), sgverify.WithKey()))
	return err
}

// TestOwnRoot: sigstore-go verifies what our logs sign against the trusted root that is made of them, alone
// and beside every one that Sigstore has published; and nothing that they did not sign.
func TestOwnRoot(t *testing.T) {
	v1Key, v2Key := signingKeys()["P-256"], signingKeys()["Ed25519"]
	roots := map[string][]byte{"alone": must(OwnRoot(ours()))}
	for name, base := range genuineFiles(t, "*/*trusted_root.json") {
		if _, err := ParseRoot(base); err == nil {
			roots[name] = must(CombineRoots(base, roots["alone"]))
		}
	}
	b, key := signed(t)
	logV1(t, b, key.Public(), v1Key, ourV1Origin, ourStart.Truncate(time.Second)) // in its first second
	logV2(t, b, key.Public(), v2Key, ourV2Origin)
	for name, root := range roots {
		if err := verifies(t, root, b, key.Public(), 1); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	otherV1 := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	for name, log := range map[string]func(b *bundlepb.Bundle, key crypto.PublicKey){
		"v1, before it begins": func(b *bundlepb.Bundle, key crypto.PublicKey) {
			logV1(t, b, key, v1Key, ourV1Origin, ourStart.Add(-time.Second))
		},
		"v1, another key": func(b *bundlepb.Bundle, key crypto.PublicKey) { logV1(t, b, key, otherV1, ourV1Origin, ourStart) },
		"v2, another name": func(b *bundlepb.Bundle, key crypto.PublicKey) {
			logV2(t, b, key, v2Key, "rekor2025-1.us.example")
		},
	} {
		b, key := signed(t)
		log(b, key.Public())
		if err := verifies(t, roots["alone"], b, key.Public(), 0); err == nil {
			t.Errorf("%s: it verifies", name)
		}
	}
	// Ours alone are enough for our own verifier of checkpoints.
	parsed := must(ParseRoot(roots["alone"]))
	for name, raw := range map[string][]byte{"v1": signV1("rekor.us.example", v1Key, textOf(ourV1Origin)), "v2": signV2(ourV2Origin, v2Key, textOf(ourV2Origin))} {
		if _, err := parsed.Open(raw); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestOwnRootEnds: of a log that has an end, what it gave a time after that is refused, and what it gave
// before is not; the log that follows it is a second entry.
func TestOwnRootEnds(t *testing.T) {
	next := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	logs := ours()[:1]
	logs[0].End = ourStart.Add(time.Hour)
	logs = append(logs, OwnLog{URL: logs[0].URL, APIVersion: 1, Origin: "rekor.us.example - 2", Operator: "us", Public: next.Public(), Start: logs[0].End})
	made := must(OwnRoot(logs))
	for name, test := range map[string]struct {
		log    crypto.Signer
		origin string
		at     time.Time
		good   bool
	}{
		"before":              {signingKeys()["P-256"], ourV1Origin, logs[0].End.Add(-time.Second), true},
		"after":               {signingKeys()["P-256"], ourV1Origin, logs[0].End.Add(time.Second), false},
		"the next one":        {next, "rekor.us.example - 2", logs[0].End, true},
		"the next one, early": {next, "rekor.us.example - 2", logs[0].End.Add(-time.Minute), false},
	} {
		b, key := signed(t)
		logV1(t, b, key.Public(), test.log, test.origin, test.at)
		if err := verifies(t, made, b, key.Public(), 1); (err == nil) != test.good {
			t.Errorf("%s: %v", name, err)
		}
	}
	config := must(root.NewSigningConfigFromJSON(must(OwnSigning(logs))))
	for at, origin := range map[time.Time]time.Time{ourStart.Add(time.Minute): logs[0].Start, logs[1].Start.Add(time.Minute): logs[1].Start} {
		s := must(root.SelectService(config.RekorLogURLs(), []uint32{1}, at))
		if !s.ValidityPeriodStart.Equal(origin.Truncate(time.Second)) {
			t.Errorf("at %s signers use the log that begins at %s", at, s.ValidityPeriodStart)
		}
	}
}

// TestOwnRefused: what clients could not use, or would take for another log, is not written.
func TestOwnRefused(t *testing.T) {
	for says, change := range map[string]func(v1, v2 *OwnLog){
		"API version 3":                  func(v1, _ *OwnLog) { v1.APIVersion = 3 },
		"ECDSA key on P-256":             func(v1, v2 *OwnLog) { v1.Public = v2.Public },
		"an ECDSA key on P-256":          func(v1, _ *OwnLog) { v1.Public = signingKeys()["P-384"].Public() },
		"has an ECDSA key on P-256":      func(v1, _ *OwnLog) { v1.Public = nil },
		"an Ed25519 key":                 func(v1, v2 *OwnLog) { v2.Public = v1.Public },
		"has an Ed25519 key":             func(_, v2 *OwnLog) { v2.Public = ed25519.PublicKey{1} },
		"its tree ID, like":              func(v1, _ *OwnLog) { v1.Origin = "rekor.us.example" },
		"dash and its tree ID":           func(v1, _ *OwnLog) { v1.Origin = "rekor.us.example - 0" },
		"a dash and its tree ID":         func(v1, _ *OwnLog) { v1.Origin = "rekor.us.example - 007" },
		", a dash and its tree ID":       func(v1, _ *OwnLog) { v1.Origin = "rekor.us.example - 9223372036854775808" },
		"for one of API version 1":       func(_, v2 *OwnLog) { v2.Origin = "rekor2026-1.us.example - 1" },
		"no host without a port":         func(v1, _ *OwnLog) { v1.Origin = "rekor.us.example:3000 - 1" },
		`"a/b" is no host`:               func(v1, _ *OwnLog) { v1.Origin = "a/b - 1" },
		`" " is no host`:                 func(v1, _ *OwnLog) { v1.Origin = "  - 1" },
		"none that clients can use":      func(v1, _ *OwnLog) { v1.URL = "rekor.us.example" },
		"is none that clients can use":   func(v1, _ *OwnLog) { v1.URL = "https://rekor.us.example/?a" },
		"want one like https://rekor.us": func(v1, _ *OwnLog) { v1.URL = "https://a:b@rekor.us.example" },
		"address \"ftp://":               func(v1, _ *OwnLog) { v1.URL = "ftp://rekor.us.example" },
		"address \"https://:3000":        func(v1, _ *OwnLog) { v1.URL = "https://:3000" },
		"rekor.us.example#a\" is none":   func(v1, _ *OwnLog) { v1.URL = "https://rekor.us.example#a" },
		`"a+b" is no host`:               func(v1, _ *OwnLog) { v1.Origin = "a+b - 1" },
		"1 has an ECDSA key on P-256":    func(v1, _ *OwnLog) { v1.Public = (*ecdsa.PublicKey)(nil) },
		"must be the origin":             func(_, v2 *OwnLog) { v2.URL = "https://rekor.us.example" },
		"has no operator":                func(v1, _ *OwnLog) { v1.Operator = "" },
		"no time at which it begins":     func(_, v2 *OwnLog) { v2.Start = time.Time{} },
		"before it begins":               func(_, v2 *OwnLog) { v2.End = v2.Start },
		"it is there twice":              func(v1, v2 *OwnLog) { *v2 = *v1 },
		"clients tell logs by their":     func(v1, v2 *OwnLog) { *v2 = *v1; v2.Origin = "rekor.us.example - 2" },
	} {
		logs := ours()
		change(&logs[0], &logs[1])
		for what, make := range map[string]func([]OwnLog) ([]byte, error){"TrustedRoot": OwnRoot, "SigningConfig": OwnSigning} {
			if _, err := make(logs); err == nil || !strings.Contains(err.Error(), says) || !strings.Contains(err.Error(), "our log") {
				t.Errorf("%s, want %q: %v", what, says, err)
			}
		}
	}
	if _, err := OwnRoot(nil); err == nil {
		t.Error("no log is taken")
	}
	if _, err := OwnSigning(nil); err == nil {
		t.Error("no log is taken")
	}
}

// TestOwnName: the trusted root has the name that checkpoints are signed with, also if signers reach the
// log elsewhere.
func TestOwnName(t *testing.T) {
	logs := ours()
	logs[0].URL = "http://127.0.0.1:3000"
	logs[1].URL = "http://rekor2026-1.us.example:3003"
	made, config := must(OwnRoot(logs)), must(OwnSigning(logs))
	var names []string
	for _, log := range must(ParseRoot(made)).Material().RekorLogs() {
		names = append(names, log.BaseURL)
	}
	slices.Sort(names)
	if want := []string{"http://rekor.us.example", "http://rekor2026-1.us.example:3003"}; !slices.Equal(names, want) {
		t.Errorf("the trusted root has %v, want %v", names, want)
	}
	for i, s := range must(root.NewSigningConfigFromJSON(config)).RekorLogURLs() {
		if s.URL != logs[i].URL {
			t.Errorf("signers use %s", s.URL)
		}
	}
	// So it is known by its key, and not by its address.
	if unknown := must(UnknownLogs(config, made, time.Now(), logs...)); len(unknown) > 0 {
		t.Errorf("unknown are %v", unknown)
	}
	if unknown := must(UnknownLogs(config, made, time.Now())); len(unknown) != 1 {
		t.Errorf("of whatever log unknown are %v", unknown)
	}
	other := slices.Clone(logs)
	other[1].Public = ed25519.PublicKey(bytes.Repeat([]byte{7}, 32))
	if unknown := must(UnknownLogs(config, must(OwnRoot(other)), time.Now(), logs...)); !slices.Equal(unknown, []string{logs[1].URL}) {
		t.Errorf("with another key unknown are %v", unknown)
	}
	if lines := must(Describe(RootTarget, made)); len(lines) != 2 || !strings.Contains(lines[0], "http://rekor.us.example ") || !strings.HasSuffix(lines[0], "from 2026-03-01") {
		t.Errorf("it is described as %q", lines)
	}
	if lines := must(Describe(SigningTarget, config)); !slices.Contains(lines, `logged in http://127.0.0.1:3000, API version 1, operator "us" from 2026-03-01`) {
		t.Errorf("it is described as %q", lines)
	}
}

// TestAddOwn: a log that is in the base stays as it is there, and is not there twice; another key under
// its ID is refused.
func TestAddOwn(t *testing.T) {
	logs := ours()
	all, kept, err := AddOwn(nil, logs)
	if err != nil || len(kept) > 0 || !bytes.Equal(all, must(OwnRoot(logs))) {
		t.Errorf("without a base: %s, %v, %v", all, kept, err)
	}
	given := slices.Clone(logs[:1])
	given[0].End = ourStart.Add(time.Hour)
	base := must(OwnRoot(given))
	both, kept, err := AddOwn(base, logs)
	if err != nil || len(kept) != 1 || kept[0].Origin != ourV1Origin {
		t.Fatalf("one is there: %v, %v", kept, err)
	}
	if keys := must(ParseRoot(both)).Keys(ourV1Origin); len(keys) != 1 || !keys[0].End.Equal(given[0].End.Truncate(time.Second)) {
		t.Errorf("what was given has become %v", keys)
	}
	if keys := must(ParseRoot(both)).Keys(ourV2Origin); len(keys) != 1 {
		t.Errorf("the other one: %v", keys)
	}
	if again, kept, err := AddOwn(both, logs); err != nil || len(kept) != 2 || !bytes.Equal(again, both) {
		t.Errorf("both are there: %v, %v", kept, err)
	}
	renamed := logs[1]
	renamed.Origin, renamed.URL = "rekor2025-1.us.example", "https://rekor2025-1.us.example"
	if _, kept, err := AddOwn(must(OwnRoot([]OwnLog{renamed})), logs[1:]); err != nil || len(kept) > 0 {
		t.Errorf("the key under another name counts as the log: %v, %v", kept, err)
	}
	id := must(hex.DecodeString(idOf(must(logs[1].instance()))))
	taken := rootOf(logJSON("logId", "keyId", base64.StdEncoding.EncodeToString(id), otherKey, "PKIX_ECDSA_P256_SHA_256"))
	if _, _, err := AddOwn(taken, logs); err == nil || !strings.Contains(err.Error(), "is there already") {
		t.Errorf("another key has its ID: %v", err)
	}
	if _, _, err := AddOwn(base, append(logs, logs[0])); err == nil {
		t.Error("one of ours twice is taken")
	}
	if _, _, err := AddOwn([]byte("{}"), logs); err == nil {
		t.Error("a base that is none is taken")
	}
}

// TestOwnSigning: what clients choose of our own logs, and what is said when nobody gives times.
func TestOwnSigning(t *testing.T) {
	const old = "2020-01-01T00:00:00Z"
	now := ourStart.Add(24 * time.Hour)
	publicV1, publicV2 := service("https://public-v1", 1, "public", old, ""), service("https://public-v2", 2, "public", old, "")
	tsa := func(end string) []string { return []string{service("https://tsa", 1, "public", old, end)} }
	v1, v2 := ours()[0], ours()[1]
	over := v2
	over.End = now.Add(-time.Minute)
	public := []string{publicV1, publicV2}
	for name, test := range map[string]struct {
		base, tsas []string
		own        []OwnLog
		logs       SigningLogs
		want       []string
		notes      []string // each is said once
	}{
		"fallback":                           {public, tsa(""), []OwnLog{v1, v2}, SigningFallback, []string{v2.URL}, nil},
		"fallback, no times":                 {public, nil, []OwnLog{v1, v2}, SigningFallback, []string{v1.URL}, []string{"only our log of API version 1 is listed"}},
		"fallback, no times, v1 alone":       {public, nil, []OwnLog{v1}, SigningFallback, []string{v1.URL}, nil},
		"fallback, no times, v2 alone":       {public, nil, []OwnLog{v2}, SigningFallback, []string{v2.URL}, []string{"signing with short-lived certificates will fail; add a time-stamping authority"}},
		"fallback, no times, v2 over":        {public, nil, []OwnLog{v1, over}, SigningFallback, []string{v1.URL}, []string{"only our log of API version 1 is listed"}},
		"fallback, times are over":           {public, tsa("2026-01-01T00:00:00Z"), []OwnLog{v1, v2}, SigningFallback, []string{v1.URL}, []string{"https://tsa is not listed: it ended at 2026-01-01", "only our log of API version 1"}},
		"fallback, times are over, v2 alone": {public, tsa("2026-01-01T00:00:00Z"), []OwnLog{v2}, SigningFallback, []string{v2.URL}, []string{"https://tsa is not listed: it ended at 2026-01-01", "signing with short-lived certificates will fail; add"}},
		"fallback, times end soon":           {public, tsa("2026-03-15T00:00:00Z"), []OwnLog{v1, v2}, SigningFallback, []string{v2.URL}, []string{"no time-stamping authority that is listed goes on until 2026-05-31"}},
		"fallback, times end soon, v1 alone": {public, tsa("2026-03-15T00:00:00Z"), []OwnLog{v1}, SigningFallback, []string{v1.URL}, nil},
		"always":                             {public, tsa(""), []OwnLog{v1, v2}, SigningAlways, []string{"https://public-v2", v2.URL}, []string{"only logs of API version 2 are listed"}},
		"always, no times":                   {public, nil, []OwnLog{v1, v2}, SigningAlways, []string{"https://public-v1", v1.URL}, []string{"only logs of API version 1 are listed: those of version 2 give no time"}},
		"always, no times, v2 alone":         {public, nil, []OwnLog{v2}, SigningAlways, []string{"https://public-v2", v2.URL}, []string{"only logs of API version 2 are listed", "signing with short-lived certificates will fail; add"}},
		"always, no times, public v2 alone":  {public[1:], nil, []OwnLog{v1, v2}, SigningAlways, []string{"https://public-v2", v2.URL}, []string{"only logs of API version 2 are listed", "signing with short-lived certificates will fail; add"}},
		"always, times are over":             {public, tsa("2026-01-01T00:00:00Z"), []OwnLog{v1, v2}, SigningAlways, []string{"https://public-v1", v1.URL}, []string{"https://tsa is not listed", "those of version 2 give no time"}},
		"public":                             {public, tsa(""), []OwnLog{v1, v2}, SigningPublic, []string{"https://public-v2"}, nil},
	} {
		base := signing(test.base, test.tsas)
		out, notes, err := CombineSigning(base, must(OwnSigning(test.own)), test.logs, now)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if test.logs == SigningPublic && !bytes.Equal(out, base) {
			t.Errorf("%s: it has become %s", name, out)
		}
		config := must(root.NewSigningConfigFromJSON(out))
		var got []string
		for _, s := range must(root.SelectServices(config.RekorLogURLs(), config.RekorLogURLsConfig(), []uint32{1, 2}, now)) {
			got = append(got, s.URL)
		}
		slices.Sort(got)
		if !slices.Equal(got, test.want) {
			t.Errorf("%s: clients use %v, want %v", name, got, test.want)
		}
		if len(notes) != len(test.notes) || !slices.EqualFunc(notes, test.notes, strings.Contains) {
			t.Errorf("%s: notes %q, want %q", name, notes, test.notes)
		}
	}
	// It is whole by itself, where there is nothing else.
	alone := must(root.NewSigningConfigFromJSON(must(OwnSigning(ours()))))
	if s := must(root.SelectServices(alone.RekorLogURLs(), alone.RekorLogURLsConfig(), []uint32{1, 2}, now)); len(s) != 1 || alone.TimestampAuthorityURLsConfig().Selector == 0 {
		t.Errorf("alone: %v", alone)
	}
}

// TestOwnCosigned: what clients make of a cosignature on a checkpoint in a receipt. Of version 1 they take
// none (rekor's pkg/util has every line be of the log's key; sigstore-js, too), and no matter which name
// stands there; of version 2 they look for the line of the name alone.
func TestOwnCosigned(t *testing.T) {
	made := must(OwnRoot(ours()))
	witness := "— witness.example " + base64.StdEncoding.EncodeToString(make([]byte, 76)) + "\n"
	for name, test := range map[string]struct {
		version int
		change  func(checkpoint string) string
		good    bool
	}{
		"v1, cosigned":     {1, func(c string) string { return c + witness }, false},
		"v1, another name": {1, func(c string) string { return strings.Replace(c, "— rekor.us.example ", "— elsewhere.example ", 1) }, true},
		"v2, cosigned":     {2, func(c string) string { return c + witness }, true},
		"v2, another name": {2, func(c string) string { return strings.Replace(c, "— "+ourV2Origin+" ", "— elsewhere.example ", 1) }, false},
	} {
		b, key := signed(t)
		if test.version == 1 {
			logV1(t, b, key.Public(), signingKeys()["P-256"], ourV1Origin, ourStart)
		} else {
			logV2(t, b, key.Public(), signingKeys()["Ed25519"], ourV2Origin)
		}
		checkpoint := b.GetVerificationMaterial().GetTlogEntries()[0].GetInclusionProof().GetCheckpoint()
		changed := test.change(checkpoint.GetEnvelope())
		if changed == checkpoint.GetEnvelope() {
			t.Fatalf("%s: nothing has changed", name)
		}
		checkpoint.Envelope = changed
		if err := verifies(t, made, b, key.Public(), 0); (err == nil) != test.good {
			t.Errorf("%s: %v", name, err)
		}
	}
}
