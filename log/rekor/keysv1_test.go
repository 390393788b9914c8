package rekor

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/go-openapi/runtime"
	"github.com/go-openapi/strfmt"
	"github.com/sigstore/rekor/pkg/generated/models"
	"github.com/sigstore/rekor/pkg/types"
	hashedrekord "github.com/sigstore/rekor/pkg/types/hashedrekord/v0.0.1"
)

// unverified reads an entry by rekor's types as parseV1 does, but for the signature of a
// hashedrekord.
func unverified(body []byte) (entry types.EntryImpl, err error) {
	defer recoverInto(&err)
	if len(body) > maxProposed {
		return nil, fmt.Errorf("%d bytes", len(body))
	}
	model, err := models.UnmarshalProposedEntry(bytes.NewReader(body), runtime.JSONConsumer())
	if err != nil {
		return nil, err
	}
	if err := model.Validate(strfmt.Default); err != nil {
		return nil, err
	}
	m, ok := model.(*models.Hashedrekord)
	if !ok {
		return types.UnmarshalEntry(model)
	}
	if *m.APIVersion != hashedrekord1 {
		return nil, fmt.Errorf("version %q", *m.APIVersion)
	}
	e := new(hashedrekord.V001Entry)
	if err := hashedrekord.DecodeEntry(m.Spec, &e.HashedRekordObj); err != nil {
		return nil, err
	}
	return e, e.HashedRekordObj.Validate(strfmt.Default)
}

// checkFastV1 demands the law of fastKeysV1: what it reads rekor's types read, with the same
// keys. At most they find the signature false.
func checkFastV1(tb interface {
	Helper()
	Errorf(string, ...any)
}, body []byte) bool {
	tb.Helper()
	fast, ok := fastKeysV1(body)
	if !ok {
		return false
	}
	if _, err := parseV1(body); err != nil && !strings.Contains(err.Error(), "verifying signature: ") {
		tb.Errorf("rekor's types refuse %q: %v", body, err)
	}
	entry, err := unverified(body)
	if err != nil {
		tb.Errorf("%q: %v", body, err)
		return true
	}
	if slow := normalize(entryKeys(entry)); !slices.Equal(normalize(fast), slow) {
		tb.Errorf("%q: fast %q, slow %q", body, fast, slow)
	}
	if isV2(body) {
		tb.Errorf("told as v2: %q", body)
	}
	return true
}

// hashedrekordBody returns a hashedrekord as Rekor stores it.
func hashedrekordBody(algorithm, digest string, signature, verifier []byte) []byte {
	text := base64.StdEncoding.EncodeToString
	return []byte(`{"apiVersion":"0.0.1","kind":"hashedrekord","spec":{"data":{"hash":{"algorithm":"` + algorithm + `","value":"` + digest +
		`"}},"signature":{"content":"` + text(signature) + `","publicKey":{"content":"` + text(verifier) + `"}}}}`)
}

// dsseBody returns a dsse as Rekor stores it, with a signature for each verifier.
func dsseBody(envelope, payload string, signature []byte, verifiers ...[]byte) []byte {
	text := base64.StdEncoding.EncodeToString
	var list []string
	for _, v := range verifiers {
		list = append(list, `{"signature":"`+text(signature)+`","verifier":"`+text(v)+`"}`)
	}
	return []byte(`{"apiVersion":"0.0.1","kind":"dsse","spec":{"envelopeHash":{"algorithm":"sha256","value":"` + envelope +
		`"},"payloadHash":{"algorithm":"sha256","value":"` + payload + `"},"signatures":[` + strings.Join(list, ",") + `]}}`)
}

// ia5Name names a certificate by a user name that is no UTF8String, which sigstore reads and
// appendCertificateKeys does not.
func ia5Name(tb testing.TB) func(*x509.Certificate) {
	return func(c *x509.Certificate) {
		otherName(tb, "Name!example.com")(c)
		names := &c.ExtraExtensions[len(c.ExtraExtensions)-1]
		changed := bytes.Replace(names.Value, []byte("\x0c\x10Name!"), []byte("\x16\x10Name!"), 1)
		if bytes.Equal(changed, names.Value) {
			tb.Fatalf("no UTF8String in %x", names.Value)
		}
		names.Value = changed
	}
}

// looseKey returns another encoding of a P-256 key: the bits of the point not to the right but
// to the left of its last byte.
func looseKey(tb testing.TB, der []byte) []byte {
	tb.Helper()
	point := slices.Clone(der[len(der)-65:])
	const unused = 5
	for i := range point {
		point[i] <<= unused
		if i+1 < len(point) {
			point[i] |= der[len(der)-65+i+1] >> (8 - unused)
		}
	}
	var curve asn1.RawValue
	if _, err := asn1.Unmarshal(der[13:23], &curve); err != nil {
		tb.Fatal(err)
	}
	loose, err := asn1.Marshal(struct {
		Algorithm pkix.AlgorithmIdentifier
		Point     asn1.BitString
	}{
		pkix.AlgorithmIdentifier{Algorithm: asn1.ObjectIdentifier{1, 2, 840, 10045, 2, 1}, Parameters: curve},
		asn1.BitString{Bytes: point, BitLength: 8*len(point) - unused},
	})
	if err != nil {
		tb.Fatal(err)
	}
	if key, err := x509.ParsePKIXPublicKey(loose); err != nil || bytes.Equal(loose, der) || !bytes.Equal(spkiOf(tb, key), der) {
		tb.Fatalf("%x is not another encoding of %x: %v", loose, der, err)
	}
	return loose
}

// The common kinds go the fast way, also as Rekor's own code writes them, with the keys that they
// have by the slow way.
func TestFastKeysV1(t *testing.T) {
	key := newKey(t)
	bodies := map[string][]byte{}
	for name, edit := range map[string]func(*x509.Certificate){
		"workflow": nil, "many names": manyNames(t), "other name": otherName(t, "Name!example.com"), "IA5 name": ia5Name(t),
		"no names": func(c *x509.Certificate) { c.URIs, c.ExtraExtensions = nil, nil },
	} {
		cert := pemOf("CERTIFICATE", newCert(t, key, edit))
		bodies["hashedrekord, "+name] = hashedrekordV1(t, key, cert, []byte("artifact"))
		bodies["dsse, "+name] = dsseV1(t, key, cert, []byte("payload"))
	}
	public := pemOf("PUBLIC KEY", spkiOf(t, key.Public()))
	bodies["hashedrekord, key"] = hashedrekordV1(t, key, public, []byte("artifact"))
	bodies["dsse, key"] = dsseV1(t, key, public, []byte("payload"))
	// Rekor's types write these as they write all.
	bodies["hashedrekord, key with space around"] = hashedrekordV1(t, key, slices.Concat([]byte("\n"), public, []byte(" ")), []byte("artifact"))
	bodies["hashedrekord, key in another encoding"] = hashedrekordV1(t, key, pemOf("PUBLIC KEY", looseKey(t, spkiOf(t, key.Public()))), []byte("artifact"))
	for name, proposed := range bodies {
		body, err := Canonicalize(t.Context(), proposed)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if !checkFastV1(t, body) {
			t.Errorf("%s: not read by the fast way", name)
		}
		if slow := normalize(keysV1(body)); len(slow) < 2 || !slices.Equal(SearchKeys(body), slow) {
			t.Errorf("%s: keys %q, by the slow way %q", name, SearchKeys(body), slow)
		}
	}
}

// Every sort of key and digest, whoever signed.
func TestFastKeysV1Kinds(t *testing.T) {
	signature := []byte("signature")
	for name, der := range verifierKeys(t) {
		verifier := pemOf("PUBLIC KEY", der)
		for algorithm, size := range map[string]int{"sha256": 64, "sha384": 96, "sha512": 128} {
			body := hashedrekordBody(algorithm, strings.Repeat("aB", size/2), signature, verifier)
			if !checkFastV1(t, body) {
				t.Errorf("%s, %s: not read by the fast way", name, algorithm)
			}
			want := []string{hexSum(verifier), algorithm + ":" + strings.Repeat("ab", size/2)}
			slices.Sort(want)
			if got := SearchKeys(body); !slices.Equal(got, want) {
				t.Errorf("%s, %s: %q, want %q", name, algorithm, got, want)
			}
		}
		digest := strings.Repeat("0f", 32)
		body := dsseBody(digest, strings.Repeat("f0", 32), signature, verifier, pemOf("CERTIFICATE", newCert(t, newKey(t), nil)), verifier)
		if !checkFastV1(t, body) {
			t.Errorf("%s: dsse not read by the fast way", name)
		}
	}
}

func verifierKeys(tb testing.TB) map[string][]byte {
	tb.Helper()
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		tb.Fatal(err)
	}
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		tb.Fatal(err)
	}
	edPublic, _, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		tb.Fatal(err)
	}
	return map[string][]byte{
		"P-256": spkiOf(tb, newKey(tb).Public()), "P-384": spkiOf(tb, p384.Public()),
		"RSA": spkiOf(tb, rsaKey.Public()), "Ed25519": spkiOf(tb, edPublic),
	}
}

// A false signature costs an entry no keys: nobody verifies it here.
func TestFastKeysV1FalseSignature(t *testing.T) {
	verifier := pemOf("PUBLIC KEY", spkiOf(t, newKey(t).Public()))
	digest := strings.Repeat("00", 32)
	body := hashedrekordBody("sha256", digest, []byte("false"), verifier)
	want := []string{hexSum(verifier), "sha256:" + digest}
	slices.Sort(want)
	if got := SearchKeys(body); !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
	if got := keysV1(body); got != nil {
		t.Errorf("rekor's types take a false signature, with the keys %q", got)
	}
}

// Bodies that are almost of the common kind: what they are is for rekor's types to say.
func TestFastKeysV1Refuses(t *testing.T) {
	key := newKey(t)
	spki, cert := spkiOf(t, key.Public()), newCert(t, key, nil)
	keyPEM, certPEM := pemOf("PUBLIC KEY", spki), pemOf("CERTIFICATE", cert)
	digest := strings.Repeat("ab", 32)
	signature := []byte("a signature")
	text := base64.StdEncoding.EncodeToString
	long := text(cert)
	lines := func(n int) []byte {
		var b strings.Builder
		for rest := long; len(rest) > 0; {
			m := min(n, len(rest))
			b.WriteString(rest[:m] + "\n")
			rest = rest[m:]
		}
		return []byte("-----BEGIN CERTIFICATE-----\n" + b.String() + "-----END CERTIFICATE-----\n")
	}
	if !bytes.Equal(lines(64), certPEM) {
		t.Fatalf("%s, want %s", lines(64), certPEM)
	}
	// Its base64 fills the last line, so that an empty one may follow.
	full := spki
	for n := 1; len(full)%48 != 0; n++ {
		full = newCert(t, key, func(c *x509.Certificate) { c.DNSNames = []string{strings.Repeat("x", n)} })
	}
	verifiers := map[string][]byte{
		"none":                    {},
		"DER":                     spki,
		"PEM in long lines":       lines(76),
		"PEM in short lines":      lines(60),
		"PEM in one line":         lines(len(long)),
		"PEM without last LF":     bytes.TrimSpace(certPEM),
		"PEM with an empty line":  bytes.Replace(certPEM, []byte("-----END"), []byte("\n-----END"), 1),
		"PEM, full, with one":     bytes.Replace(pemOf("CERTIFICATE", full), []byte("-----END"), []byte("\n-----END"), 1),
		"PEM, full, and rubbish":  bytes.Replace(pemOf("CERTIFICATE", full), []byte("-----END"), []byte("!!!!\n-----END"), 1),
		"PEM with CRLF":           bytes.ReplaceAll(certPEM, []byte("\n"), []byte("\r\n")),
		"PEM with a header":       pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Headers: map[string]string{"a": "b"}, Bytes: cert}),
		"PEM after text":          append([]byte("text\n"), certPEM...),
		"PEM before text":         append(slices.Clone(certPEM), "text\n"...),
		"PEM after space":         append([]byte("\n"), certPEM...),
		"PEM twice":               bytes.Repeat(certPEM, 2),
		"PEM of two keys":         bytes.Repeat(keyPEM, 2),
		"PEM of another type":     pemOf("EC PUBLIC KEY", spki),
		"PEM of PKCS #1":          pemOf("RSA PUBLIC KEY", spki),
		"PEM of a chain type":     pemOf("TRUSTED CERTIFICATE", cert),
		"PEM of two types":        bytes.Replace(certPEM, []byte("END CERTIFICATE"), []byte("END PUBLIC KEY"), 1),
		"PEM with a space for LF": bytes.Replace(certPEM, []byte(long[60:64]+"\n"), []byte(long[60:64]+" "), 1),
		"PEM without a beginning": bytes.TrimPrefix(certPEM, []byte("-----BEGIN ")),
		"PEM without an end":      bytes.Replace(certPEM, []byte("-----END"), []byte("-----eND"), 1),
		"PEM without END":         certPEM[:bytes.Index(certPEM, []byte("-----END"))],
		"PEM of nothing":          []byte("-----BEGIN PUBLIC KEY-----\n-----END PUBLIC KEY-----\n"),
		"PEM without a line":      []byte("-----BEGIN PUBLIC KEY-----"),
		"base64 with a rest":      bytes.Replace(keyPEM, []byte("==\n"), []byte("=\n"), 1),
		"another spelling":        respell(t, keyPEM),
		"a key as a certificate":  pemOf("CERTIFICATE", spki),
		"a certificate as a key":  pemOf("PUBLIC KEY", cert),
		"certificate, cut":        pemOf("CERTIFICATE", cert[:len(cert)-1]),
		"certificate and more":    pemOf("CERTIFICATE", append(slices.Clone(cert), 0)),
		"key, cut":                pemOf("PUBLIC KEY", spki[:len(spki)-1]),
		"key and more":            pemOf("PUBLIC KEY", append(slices.Clone(spki), 0)),
		"key off the curve":       pemOf("PUBLIC KEY", append(slices.Clone(spki[:len(spki)-1]), spki[len(spki)-1]^1)),
		"key in another way":      pemOf("PUBLIC KEY", looseKey(t, spki)),
	}
	bodies := map[string][]byte{}
	for name, v := range verifiers {
		bodies["hashedrekord, "+name] = hashedrekordBody("sha256", digest, signature, v)
		bodies["dsse, "+name] = dsseBody(digest, digest, signature, v)
		bodies["dsse, second "+name] = dsseBody(digest, digest, signature, certPEM, v)
	}
	// The PEM's own base64: its 178 bytes leave 4 bits that do not count.
	for kind, body := range map[string][]byte{"hashedrekord": hashedrekordBody("sha256", digest, signature, keyPEM), "dsse": dsseBody(digest, digest, signature, keyPEM)} {
		at := bytes.LastIndex(body, []byte("Cg=="))
		bodies[kind+", key in another spelling"] = slices.Replace(body, at, at+4, []byte("Ch==")...)
	}
	bodies["no signature"] = hashedrekordBody("sha256", digest, nil, keyPEM)
	bodies["dsse, no signature"] = dsseBody(digest, digest, nil, keyPEM)
	bodies["dsse, no signatures"] = dsseBody(digest, digest, signature)
	for name, s := range map[string]string{
		"short": digest[2:], "odd": digest[1:], "long": digest + "ab", "none": "", "no hex": "xy" + digest[2:], "escaped": `\u0061b` + digest[2:], "sha512": strings.Repeat("ab", 64),
	} {
		bodies["digest, "+name] = hashedrekordBody("sha256", s, signature, keyPEM)
		bodies["dsse, envelope, "+name] = dsseBody(s, digest, signature, keyPEM)
		bodies["dsse, payload, "+name] = dsseBody(digest, s, signature, keyPEM)
	}
	for _, algorithm := range []string{"sha1", "SHA256", "sha384", "sha512", "", `sha\u0032`} {
		bodies["algorithm "+algorithm] = hashedrekordBody(algorithm, digest, signature, keyPEM)
	}
	bodies["sha512, short"] = hashedrekordBody("sha512", strings.Repeat("ab", 48), signature, keyPEM)
	bodies["sha384, long"] = hashedrekordBody("sha384", strings.Repeat("ab", 64), signature, keyPEM)
	good := map[string]string{
		"hashedrekord": string(hashedrekordBody("sha256", digest, signature, certPEM)),
		"dsse":         string(dsseBody(digest, digest, signature, certPEM, keyPEM)),
	}
	for kind, body := range good {
		if !checkFastV1(t, []byte(body)) {
			t.Fatalf("%s: not read by the fast way", body)
		}
		edits := map[string][2]string{
			"space inside":            {`:`, `: `},
			"a field more":            {`"spec":{`, `"spec":{"a":1,`},
			"another version":         {`0.0.1`, `0.0.2`},
			"another kind":            {kind, "rekord"},
			"escape":                  {`"algorithm"`, `"\u0061lgorithm"`},
			"another hash":            {`sha256`, `sha384`},
			"signature with LF":       {text(signature), text(signature)[:4] + "\n" + text(signature)[4:]},
			"signature, escaped":      {text(signature), text(signature)[:4] + `\n` + text(signature)[4:]},
			"signature, URL's base64": {text(signature), "_-_-"},
			"signature, respelt":      {text(signature), text(signature)[:14] + "V="},
			"signature, unpadded":     {text(signature), text(signature)[:15]},
		}
		if kind == "dsse" {
			edits["another payload hash"] = [2]string{`"payloadHash":{"algorithm":"sha256"`, `"payloadHash":{"algorithm":"sha512"`}
			edits["no comma"] = [2]string{`},{`, `}{`}
			edits["comma at the end"] = [2]string{`]}}`, `,]}}`}
			edits["no brace"] = [2]string{`},{`, `,{`}
			edits["null"] = [2]string{`]}}`, `,null]}}`}
		}
		for name, e := range edits {
			changed := strings.Replace(body, e[0], e[1], 1)
			if changed == body {
				t.Fatalf("%s: no %q in %s", name, e[0], body)
			}
			bodies[kind+", "+name] = []byte(changed)
		}
		for _, piece := range []string{
			hashedrekordV1Start, hashedrekordV1Signature, hashedrekordV1Key, hashedrekordV1End,
			dsseV1Start, dsseV1Payload, dsseV1Signatures, dsseV1Signature, dsseV1Verifier, dsseV1End,
		} {
			if changed := strings.Replace(body, piece, "", 1); changed != body {
				bodies[kind+" without "+piece] = []byte(changed)
			}
		}
		bodies[kind+", bytes behind"] = []byte(body + "x")
		bodies[kind+", second body behind"] = []byte(body + body)
		bodies[kind+", space behind"] = []byte(body + "\n")
		bodies[kind+", cut"] = []byte(body[:len(body)-1])
	}
	for name, body := range bodies {
		if checkFastV1(t, body) {
			t.Errorf("%s: read by the fast way: %s", name, body)
		}
	}
	for _, body := range good {
		for i := range body {
			if checkFastV1(t, []byte(body[:i])) {
				t.Errorf("read by the fast way: %s", body[:i])
			}
		}
	}
}

// respell writes the base64 of a PEM block that ends in == in another way, with the same meaning.
func respell(tb testing.TB, text []byte) []byte {
	tb.Helper()
	i := bytes.Index(text, []byte("==\n"))
	if i < 0 {
		tb.Fatalf("no padding in %s", text)
	}
	text = slices.Clone(text)
	text[i-1]++ // the character has 4 bits that do not count
	return text
}

// A body that is longer than rekor's types are given.
func TestFastKeysV1Bound(t *testing.T) {
	verifier := pemOf("PUBLIC KEY", spkiOf(t, newKey(t).Public()))
	digest := strings.Repeat("ab", 32)
	rest := maxProposed - len(hashedrekordBody("sha256", digest, nil, verifier))
	signature := make([]byte, rest/4*3)
	if !checkFastV1(t, hashedrekordBody("sha256", digest, signature, verifier)) {
		t.Error("a long signature is not read by the fast way")
	}
	if checkFastV1(t, hashedrekordBody("sha256", digest, append(signature, 0, 0, 0), verifier)) {
		t.Error("too long a body is read by the fast way")
	}
}
