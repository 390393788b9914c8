package rekor

//lint:file-ignore SA1019 logs hold dsse 0.0.2 from before it was given up

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	common "github.com/sigstore/protobuf-specs/gen/pb-go/common/v1"
	pb "github.com/sigstore/rekor-tiles/v2/pkg/generated/protobuf"
	"github.com/sigstore/sigstore/pkg/cryptoutils"
	"google.golang.org/protobuf/encoding/protojson"
	"pgregory.net/rapid"
)

// An artifact signed with one certificate has the same keys in both generations.
func TestSearchKeysGenerations(t *testing.T) {
	key := newKey(t)
	artifact := []byte("artifact")
	for name, edit := range map[string]func(*x509.Certificate){
		"workflow":   nil,
		"many names": manyNames(t),
		"other name": otherName(t, "Name!example.com"),
	} {
		cert := newCert(t, key, edit)
		v1, err := Canonicalize(t.Context(), hashedrekordV1(t, key, pemOf("CERTIFICATE", cert), artifact))
		if err != nil {
			t.Fatal(err)
		}
		keys1, keys2 := SearchKeys(v1), SearchKeys(hashedrekordV2(t, artifact, certVerifier(cert)))
		if !slices.Equal(keys1, keys2) {
			t.Errorf("%s: v1 %q, v2 %q", name, keys1, keys2)
		}
		checkKeys(t, name, v1)
		digest := sha256.Sum256(artifact)
		for _, want := range []string{
			"sha256:" + hex.EncodeToString(digest[:]),
			hexSum(pemOf("CERTIFICATE", cert)),
			"issuer:" + testIssuer,
		} {
			if !slices.Contains(keys1, want) {
				t.Errorf("%s: no key %q in %q", name, want, keys1)
			}
		}
	}
	names := SearchKeys(hashedrekordV2(t, artifact, certVerifier(newCert(t, key, manyNames(t)))))
	for _, want := range []string{
		strings.ToLower(testIdentity), "jane.doe@example.com", "example.com", "*.example.org", "192.0.2.1", "2001:db8::1",
		"spiffe://td/ns/a%20b", "https://example.com:8443/a%2fb?x=y#z", "https://example.com", "https://example.com/a%41b",
	} {
		if !slices.Contains(names, want) {
			t.Errorf("no key %q in %q", want, names)
		}
	}
	if keys := SearchKeys(hashedrekordV2(t, artifact, certVerifier(newCert(t, key, otherName(t, "Name!example.com"))))); !slices.Contains(keys, "name!example.com") {
		t.Errorf("no other name in %q", keys)
	}
}

// dsse: payload and key alike; the envelope is only in v1.
func TestSearchKeysDSSE(t *testing.T) {
	key := newKey(t)
	cert := newCert(t, key, nil)
	payload := []byte("payload")
	v1, err := Canonicalize(t.Context(), dsseV1(t, key, pemOf("CERTIFICATE", cert), payload))
	if err != nil {
		t.Fatal(err)
	}
	checkKeys(t, "dsse", v1)
	keys1, keys2 := SearchKeys(v1), SearchKeys(dsseV2(t, payload, certVerifier(cert)))
	var body struct {
		Spec struct {
			EnvelopeHash struct{ Value string }
		}
	}
	if err := json.Unmarshal(v1, &body); err != nil {
		t.Fatal(err)
	}
	envelope := "sha256:" + body.Spec.EnvelopeHash.Value
	if rest := slices.DeleteFunc(slices.Clone(keys1), func(k string) bool { return k == envelope }); len(rest) != len(keys1)-1 || !slices.Equal(rest, keys2) {
		t.Errorf("v1 %q, v2 %q, envelope %s", keys1, keys2, envelope)
	}
	digest := sha256.Sum256(payload)
	certHash := hexSum(pemOf("CERTIFICATE", cert))
	for _, want := range []string{"sha256:" + hex.EncodeToString(digest[:]), certHash, "sha256:" + certHash, "issuer:" + testIssuer} {
		if !slices.Contains(keys2, want) {
			t.Errorf("no key %q in %q", want, keys2)
		}
	}
	two := SearchKeys(dsseV2(t, payload, certVerifier(cert), keyVerifier(spkiOf(t, key.Public()))))
	if !slices.Contains(two, hexSum(pemOf("PUBLIC KEY", spkiOf(t, key.Public())))) || !slices.Contains(two, certHash) {
		t.Errorf("two signatures: %q", two)
	}
}

// Every sort of public key is found as v1 and its search form it.
func TestSearchKeysPublicKeys(t *testing.T) {
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	edPublic, _, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for _, public := range []any{newKey(t).Public(), p384.Public(), rsaKey.Public(), edPublic} {
		der := spkiOf(t, public)
		body := hashedrekordV2(t, []byte("artifact"), keyVerifier(der))
		query, _, err := QueryKeys(Query{Format: "x509", PublicKey: pemOf("PUBLIC KEY", der)})
		if err != nil {
			t.Fatal(err)
		}
		if keys := SearchKeys(body); len(keys) != 2 || !slices.Contains(keys, query[0]) {
			t.Errorf("%T: keys %q, want %q", public, keys, query)
		}
		if _, fast := fastKeysV2(body); fast != isCommonKey(der) {
			t.Errorf("%T: fast is %v", public, fast)
		}
	}
}

func TestSearchKeysDigests(t *testing.T) {
	sum384, sum512 := sha512.Sum384(nil), sha512.Sum512(nil)
	for want, data := range map[string]*common.HashOutput{
		"sha384:" + hex.EncodeToString(sum384[:]): {Algorithm: common.HashAlgorithm_SHA2_384, Digest: sum384[:]},
		"sha512:" + hex.EncodeToString(sum512[:]): {Algorithm: common.HashAlgorithm_SHA2_512, Digest: sum512[:]},
	} {
		body := canonicalV2(t, &pb.Entry{Kind: "hashedrekord", ApiVersion: "0.0.2", Spec: &pb.Spec{Spec: &pb.Spec_HashedRekordV002{
			HashedRekordV002: &pb.HashedRekordLogEntryV002{
				Data:      data,
				Signature: &pb.Signature{Content: []byte("s"), Verifier: keyVerifier(spkiOf(t, newKey(t).Public()))},
			},
		}}})
		if keys := SearchKeys(body); !slices.Contains(keys, want) {
			t.Errorf("no key %q in %q", want, keys)
		}
		if _, ok := fastKeysV2(body); !ok {
			t.Errorf("%s: not read by the fast way", want)
		}
		q, _, err := QueryKeys(Query{Hash: strings.ToUpper(want[len("sha384:"):])})
		if err != nil || !slices.Equal(q, []string{want}) {
			t.Errorf("query of %s gives %q, %v", want, q, err)
		}
	}
}

// A v1 entry that mentions the field of a v2 entry stays a v1 entry.
func TestIsV2(t *testing.T) {
	for body, want := range map[string]bool{
		`{"spec":{"hashedRekordV002":{}}}`:                                  true,
		`{"spec":{"dsseV002":{}}}`:                                          true,
		`{"kind":"rpm","spec":{"package":{"headers":{"a":"dsseV002"}}}}`:    false,
		`{"kind":"rpm","spec":{"package":{"dsseV002":{}}},"dsseV002":{}}`:   false,
		`{"kind":"hashedRekordV002"}`:                                       false,
		`"hashedRekordV002"`:                                                false,
		`{"spec":{"a":"\"hashedRekordV002\""}}`:                             false,
		`{"spec":{"hashedRekordV002":`:                                      false,
		`{"kind":"hashedrekord","apiVersion":"0.0.1","spec":{"data":null}}`: false,
	} {
		if got := isV2([]byte(body)); got != want {
			t.Errorf("%s: %v", body, got)
		}
	}
}

func TestSearchKeysRubbish(t *testing.T) {
	key := newKey(t)
	body := hashedrekordV2(t, []byte("artifact"), certVerifier([]byte("no certificate")))
	if keys := SearchKeys(body); len(keys) != 2 {
		t.Errorf("a certificate that is none: %q", keys)
	}
	long := "https://example.com/" + strings.Repeat("x", maxKey)
	body = hashedrekordV2(t, []byte("artifact"), certVerifier(newCert(t, key, otherName(t, long))))
	if keys := SearchKeys(body); slices.Contains(keys, long) || len(keys) != 3 {
		t.Errorf("a name that is too long: %q", keys)
	}
	for _, s := range []string{
		"", "{}", "null", "[]", "\x00", "text", `{"kind":"hashedrekord","apiVersion":"0.0.1"}`,
		`{"kind":"hashedrekord","apiVersion":"0.0.1","spec":{}}`,
		`{"kind":"dsse","apiVersion":"0.0.1","spec":{"signatures":[null]}}`,
		`{"kind":"intoto","apiVersion":"0.0.2","spec":{"content":{"envelope":null}}}`,
		`{"kind":"unknown","apiVersion":"0.0.1","spec":{}}`,
		`{"apiVersion":"0.0.2","kind":"hashedrekord","spec":{"hashedRekordV002":{}}}`,
		`{"apiVersion":"0.0.2","kind":"dsse","spec":{"hashedRekordV002":{"data":{"algorithm":"SHA2_256","digest":"AA=="}}}}`,
		`{"apiVersion":"0.0.1","kind":"hashedrekord","spec":{"hashedRekordV002":{"data":{"algorithm":"SHA2_256","digest":"AA=="}}}}`,
	} {
		if keys := SearchKeys([]byte(s)); len(keys) > 0 {
			t.Errorf("%s: keys %q", s, keys)
		}
	}
}

// checkFast demands the law of fastKeysV2: what it reads the slow way reads alike.
func checkFast(tb interface {
	Helper()
	Errorf(string, ...any)
}, body []byte) bool {
	tb.Helper()
	fast, ok := fastKeysV2(body)
	if !ok {
		return false
	}
	var entry pb.Entry
	if err := protojson.Unmarshal(body, &entry); err != nil {
		tb.Errorf("protojson refuses %q: %v", body, err)
	}
	if !isV2(body) {
		tb.Errorf("not told as v2: %q", body)
	}
	if slow := normalize(slowKeysV2(body)); !slices.Equal(normalize(fast), slow) {
		tb.Errorf("%q: fast %q, slow %q", body, fast, slow)
	}
	return true
}

// Entries of every shape that rekor-tiles' message can have.
func TestFastKeysV2(t *testing.T) {
	key := newKey(t)
	certs := [][]byte{newCert(t, key, nil), newCert(t, key, manyNames(t)), newCert(t, key, otherName(t, "n!x")), []byte("rubbish")}
	keys := [][]byte{spkiOf(t, key.Public()), spkiOf(t, ed25519.PublicKey(make([]byte, 32))), []byte("rubbish")}
	fast, tb := 0, t
	rapid.Check(t, func(t *rapid.T) {
		verifier := func() *pb.Verifier {
			v := &pb.Verifier{KeyDetails: common.PublicKeyDetails(rapid.IntRange(0, 25).Draw(t, "details"))}
			switch rapid.IntRange(0, 3).Draw(t, "verifier") {
			case 0, 1:
				v.Verifier = certVerifier(rapid.SampledFrom(certs).Draw(t, "certificate")).Verifier
			case 2:
				v.Verifier = keyVerifier(rapid.SampledFrom(keys).Draw(t, "key")).Verifier
			}
			return v
		}
		signature := func() *pb.Signature {
			return &pb.Signature{Content: rapid.SliceOfN(rapid.Byte(), 0, 100).Draw(t, "content"), Verifier: verifier()}
		}
		hash := &common.HashOutput{
			Algorithm: common.HashAlgorithm(rapid.IntRange(0, 6).Draw(t, "algorithm")),
			Digest:    rapid.SliceOfN(rapid.Byte(), 0, 70).Draw(t, "digest"),
		}
		entry := &pb.Entry{Kind: "hashedrekord", ApiVersion: "0.0.2", Spec: &pb.Spec{}}
		if rapid.Bool().Draw(t, "dsse") {
			spec := &pb.DSSELogEntryV002{PayloadHash: hash}
			for range rapid.IntRange(0, 3).Draw(t, "signatures") {
				spec.Signatures = append(spec.Signatures, signature())
			}
			entry.Kind, entry.Spec.Spec = "dsse", &pb.Spec_DsseV002{DsseV002: spec}
		} else {
			entry.Spec.Spec = &pb.Spec_HashedRekordV002{HashedRekordV002: &pb.HashedRekordLogEntryV002{Data: hash, Signature: signature()}}
		}
		body := canonicalV2(tb, entry)
		if checkFast(t, body) {
			fast++
		}
		// Changed anywhere, by any byte, cut anywhere.
		at := rapid.IntRange(0, len(body)-1).Draw(t, "at")
		changed := bytes.Clone(body)
		changed[at] = rapid.Byte().Draw(t, "byte")
		checkFast(t, changed)
		checkFast(t, append(changed[:at:at], body[at+1:]...))
		checkFast(t, body[:at])
	})
	if fast == 0 {
		t.Error("none was read by the fast way")
	}
}

// Bodies that are almost canonical.
func TestFastKeysV2Refuses(t *testing.T) {
	body := string(hashedrekordV2(t, []byte("artifact"), keyVerifier(spkiOf(t, newKey(t).Public()))))
	_, encoded, _ := strings.Cut(body, `"rawBytes":"`)
	encoded, _, _ = strings.Cut(encoded, `"`)
	last := encoded[len(encoded)-3:] // 91 bytes: one character, of which 4 bits count, and ==
	other := string(rune(last[0])+1) + "=="
	for name, s := range map[string]string{
		"another spelling of base64": strings.Replace(body, last+`"`, other+`"`, 1),
		"base64 for URLs":            strings.Replace(body, encoded, "-_-_", 1),
		"base64 unpadded":            strings.Replace(body, last+`"`, last[:1]+`"`, 1),
		"line feed in base64":        strings.Replace(body, encoded, encoded[:8]+"\n"+encoded[8:], 1),
		"carriage return in base64":  strings.Replace(body, encoded, encoded[:8]+"\r"+encoded[8:], 1),
		"no base64":                  strings.Replace(body, encoded, "", 1),
		"bytes behind":               body + "x",
		"second body behind":         body + body,
		"space behind":               body + "\n",
		"space inside":               strings.Replace(body, `:`, `: `, 1),
		"escape":                     strings.Replace(body, `SHA2_256`, `SHA2\u005f256`, 1),
		"another digest":             strings.Replace(body, `SHA2_256`, `SHA3_256`, 1),
		"unknown details":            strings.Replace(body, `PKIX_ECDSA_P256_SHA_256`, `PKIX`, 1),
		"another version":            strings.Replace(body, `0.0.2`, `0.0.3`, 1),
		"cut":                        body[:len(body)-1],
	} {
		if s == body {
			t.Fatalf("%s: nothing to change in %s", name, body)
		}
		if checkFast(t, []byte(s)) {
			t.Errorf("%s: read by the fast way", name)
		}
	}
}

// The names that are read by hand are those of crypto/x509 and of sigstore.
func checkCertificateKeys(t *testing.T, der []byte) {
	t.Helper()
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return
	}
	var want []string
	want = append(want, cryptoutils.GetSubjectAlternateNames(cert)...)
	got := appendCertificateKeys(nil, der)
	for _, name := range want {
		if !slices.Contains(got, name) {
			t.Errorf("no name %q in %q", name, got)
		}
	}
}

func TestCertificateKeys(t *testing.T) {
	key := newKey(t)
	for _, edit := range []func(*x509.Certificate){nil, manyNames(t), otherName(t, "Name!example.com")} {
		der := newCert(t, key, edit)
		checkCertificateKeys(t, der)
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		names := cryptoutils.GetSubjectAlternateNames(cert)
		// And no others: two extensions state the issuer.
		if got := appendCertificateKeys(nil, der); len(got) != len(names)+2 {
			t.Errorf("%q, want the names %q and the issuer twice", got, names)
		}
		for i := range der {
			_ = appendCertificateKeys(nil, der[:i]) // no panic
		}
	}
}

// Names that no certificate should have.
func TestCertificateKeysOdd(t *testing.T) {
	der := newCert(t, newKey(t), manyNames(t))
	for old, tt := range map[string]struct{ with, key string }{
		"https://example.com/a%41b": {"https://example.com/a  bc", "https://example.com/a%20%20bc"},
		"spiffe://td/ns/a%20b":      {"spiffe://td/ns/a%zzb", ""},
		"Jane.Doe@Example.com":      {"Jane.Doe@Ex\xffmple.com", ""},
		"*.example.org":             {"*.ex\xffmple.org", ""},
	} {
		changed := bytes.Replace(der, []byte(old), []byte(tt.with), 1)
		if bytes.Equal(changed, der) {
			t.Fatalf("no %q", old)
		}
		checkCertificateKeys(t, changed)
		want := appendCertificateKeys(nil, der)
		i := slices.Index(want, old)
		if want = slices.Delete(want, i, i+1); tt.key != "" {
			want = slices.Insert(want, i, tt.key)
		}
		if got := appendCertificateKeys(nil, changed); !slices.Equal(got, want) {
			t.Errorf("%q: %q, want %q", tt.with, got, want)
		}
	}
}

func FuzzCertificateKeys(f *testing.F) {
	key := newKey(f)
	f.Add(newCert(f, key, nil))
	f.Add(newCert(f, key, manyNames(f)))
	f.Add(newCert(f, key, otherName(f, "Name!example.com")))
	f.Fuzz(func(t *testing.T, der []byte) { checkCertificateKeys(t, der) })
}

func FuzzSearchKeys(f *testing.F) {
	key := newKey(f)
	cert := newCert(f, key, nil)
	f.Add(hashedrekordV2(f, []byte("artifact"), certVerifier(cert)))
	f.Add(hashedrekordV2(f, []byte("artifact"), keyVerifier(spkiOf(f, key.Public()))))
	f.Add(dsseV2(f, []byte("payload"), certVerifier(cert), keyVerifier(spkiOf(f, key.Public()))))
	for _, proposed := range [][]byte{
		hashedrekordV1(f, key, pemOf("CERTIFICATE", cert), []byte("artifact")),
		dsseV1(f, key, pemOf("CERTIFICATE", cert), []byte("payload")),
	} {
		body, err := Canonicalize(f.Context(), proposed)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(body)
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		checkFast(t, body)
		keys := SearchKeys(body)
		if !slices.IsSorted(keys) || len(slices.Compact(slices.Clone(keys))) != len(keys) {
			t.Errorf("keys %q", keys)
		}
		for _, k := range keys {
			if k == "" || k != strings.ToLower(k) {
				t.Errorf("key %q", k)
			}
		}
	})
}

func BenchmarkSearchKeys(b *testing.B) {
	key := newKey(b)
	cert := newCert(b, key, nil)
	v1, err := Canonicalize(b.Context(), hashedrekordV1(b, key, pemOf("CERTIFICATE", cert), []byte("artifact")))
	if err != nil {
		b.Fatal(err)
	}
	for _, tt := range []struct {
		name string
		body []byte
		keys func([]byte) []string
	}{
		{"v2 hashedrekord certificate", hashedrekordV2(b, []byte("a"), certVerifier(cert)), SearchKeys},
		{"v2 hashedrekord key", hashedrekordV2(b, []byte("a"), keyVerifier(spkiOf(b, key.Public()))), SearchKeys},
		{"v2 dsse certificate", dsseV2(b, []byte("a"), certVerifier(cert)), SearchKeys},
		{"v2 slow", hashedrekordV2(b, []byte("a"), certVerifier(cert)), slowKeysV2},
		{"v1 hashedrekord certificate", v1, SearchKeys},
	} {
		b.Run(tt.name, func(b *testing.B) {
			b.ReportAllocs()
			b.SetBytes(int64(len(tt.body)))
			for b.Loop() {
				if len(tt.keys(tt.body)) < 2 {
					b.Fatal("keys are missing")
				}
			}
		})
	}
}

// TestStatementKeysAreBounded: whoever signs a statement does not choose how much is indexed.
func TestStatementKeysAreBounded(t *testing.T) {
	var b strings.Builder
	for i := range 10_000 {
		fmt.Fprintf(&b, `{"digest":{"sha256":"%[1]d","SHA1":"%[1]d"}},`, i)
	}
	keys := StatementKeys([]byte(`{"subject":[` + strings.TrimSuffix(b.String(), ",") + `]}`))
	if len(keys) != maxStatementKeys || keys[0] != "sha1:0" || keys[1] != "sha256:0" {
		t.Errorf("%d keys: %q", len(keys), keys[:2])
	}
}
