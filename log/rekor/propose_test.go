package rekor

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha512"
	"crypto/x509"
	"encoding/asn1"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/sigstore/rekor/pkg/types"
	"pgregory.net/rapid"
)

const statement = `{"_type":"https://in-toto.io/Statement/v1","subject":[{"name":"a","digest":{"sha256":"AABB","gitCommit":"0123"}},{"name":"b","digest":{"sha256":"aabb"}}],` +
	`"predicate":{"materials":[{"uri":"git+https://example.com","digest":{"sha1":"cc"}}]}}`

// What is accepted has the body of Canonicalize, and all keys of the proposal.
func TestPropose(t *testing.T) {
	all := proposals(t)
	delete(all, "tuf") // expired
	key := newKey(t)
	cert := pemOf("CERTIFICATE", newCert(t, key, nil))
	all["intoto"] = intotoV2(t, key, cert, []byte(statement))
	all["dsse"] = dsseStatement(t, key, cert, []byte(statement))
	for kind, proposed := range all {
		p, err := Propose(t.Context(), proposed)
		if err != nil {
			t.Errorf("%s: %v", kind, err)
			continue
		}
		body, entry, err := canonicalByRekor(proposed)
		if err != nil || !bytes.Equal(p.Body, body) || p.Kind != kind {
			t.Errorf("%s: %v, kind %q, %s, want %s", kind, err, p.Kind, p.Body, body)
		}
		if again, err := Canonicalize(t.Context(), proposed); err != nil || !bytes.Equal(p.Body, again) {
			t.Errorf("%s: %v, Canonicalize gives another body", kind, err)
		}
		shown := SearchKeys(p.Body)
		theirs, err := entry.IndexKeys()
		if err != nil {
			t.Errorf("%s: %v", kind, err)
		}
		for _, k := range normalize(theirs) {
			if slices.Contains(shown, k) == slices.Contains(p.Keys, k) {
				t.Errorf("%s: key %q is in the body's %q and the proposal's %q", kind, k, shown, p.Keys)
			}
		}
		var want []string
		if kind == "dsse" || kind == "intoto" {
			want = []string{"gitcommit:0123", "sha1:cc", "sha256:aabb"}
		}
		if !slices.Equal(p.Keys, want) {
			t.Errorf("%s: keys %q, want %q", kind, p.Keys, want)
		}
	}
}

// dsseStatement returns a proposed entry for an envelope around an in-toto statement.
func dsseStatement(tb testing.TB, key *ecdsa.PrivateKey, verifier, payload []byte) []byte {
	tb.Helper()
	const kind = "application/vnd.in-toto+json"
	return dsseOf(tb, mustJSON(tb, map[string]any{
		"payload": payload, "payloadType": kind,
		"signatures": []any{map[string]any{"sig": sign(tb, key, pae(kind, payload))}},
	}), verifier)
}

func dsseOf(tb testing.TB, envelope, verifier []byte) []byte {
	tb.Helper()
	return mustJSON(tb, map[string]any{"apiVersion": "0.0.1", "kind": "dsse", "spec": map[string]any{
		"proposedContent": map[string]any{"envelope": string(envelope), "verifiers": []any{verifier}},
	}})
}

func TestProposedKeysBounded(t *testing.T) {
	var s struct {
		Subject []any `json:"subject"`
	}
	for i := range maxProposedKeys + 50 {
		s.Subject = append(s.Subject, map[string]any{"digest": map[string]any{"sha256": fmt.Sprintf("%064x", i)}})
	}
	key := newKey(t)
	p, err := Propose(t.Context(), dsseStatement(t, key, pemOf("PUBLIC KEY", spkiOf(t, key.Public())), mustJSON(t, s)))
	if err != nil || len(p.Keys) != maxProposedKeys || p.Keys[maxProposedKeys-1] != fmt.Sprintf("sha256:%064x", maxProposedKeys-1) {
		t.Errorf("%v, %d keys", err, len(p.Keys))
	}
	if keys := proposedKeys([]string{strings.Repeat("k", maxKey+1), "", "K"}, nil); !slices.Equal(keys, []string{"k"}) {
		t.Errorf("keys %q", keys)
	}
}

// TestProposeNames: whoever makes a certificate decides how many names it has, and each is a row of the
// search index.
func TestProposeNames(t *testing.T) {
	for names, want := range map[int]string{1000: "", maxBodyKeys + 1: "more than 1024 names", 20_000: "more than 1024 names"} {
		key := newKey(t)
		cert := newCert(t, key, func(c *x509.Certificate) {
			for i := range names {
				c.DNSNames = append(c.DNSNames, fmt.Sprintf("name-%d.%s.example.com", i, strings.Repeat("x", 40)))
			}
		})
		_, err := Propose(t.Context(), dsseStatement(t, key, pemOf("CERTIFICATE", cert), []byte("{}")))
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%d names: %v", names, err)
		}
	}
}

// What rekor-server says to the same proposals; where it is no JSON, it says it with 500.
func TestProposeRefuses(t *testing.T) {
	key := newKey(t)
	cert := pemOf("CERTIFICATE", newCert(t, key, nil))
	good := string(hashedrekordV1(t, key, cert, []byte("artifact")))
	other := string(hashedrekordV1(t, newKey(t), pemOf("PUBLIC KEY", spkiOf(t, key.Public())), []byte("artifact")))
	p, err := Propose(t.Context(), dsseV1(t, key, cert, []byte("payload")))
	if err != nil {
		t.Fatal(err)
	}
	const failed = "error processing entry: "
	all := proposals(t)
	for _, c := range []struct {
		proposed string
		status   int
		text     string // all of it, or the beginning if it ends with "…"
	}{
		{"", http.StatusUnprocessableEntity, "proposedEntry in body is required"},
		{"null", http.StatusUnprocessableEntity, "kind in body is required"},
		{"{}", http.StatusUnprocessableEntity, "kind in body is required"},
		{"[]", http.StatusBadRequest, failed + "json: cannot unmarshal array…"},
		{"<html>", http.StatusBadRequest, failed + "invalid character '<'…"},
		{good[:99], http.StatusBadRequest, failed + "unexpected EOF"},
		{`{"kind":"unknown","apiVersion":"0.0.1","spec":{}}`, http.StatusUnprocessableEntity, `invalid kind value: "unknown"`},
		{`{"kind":"ProposedEntry"}`, http.StatusBadRequest, failed + "could not unmarshal entry for kind 'ProposedEntry'"},
		{`{"kind":"hashedrekord","spec":{}}`, http.StatusUnprocessableEntity, "apiVersion in body is required"},
		{`{"kind":"hashedrekord","apiVersion":"one"}`, http.StatusUnprocessableEntity, "apiVersion in body should match…"},
		{`{"kind":"hashedrekord","apiVersion":"0.0.1"}`, http.StatusUnprocessableEntity, "spec in body is required"},
		{`{"kind":"hashedrekord","apiVersion":"9.9.9","spec":{}}`, http.StatusBadRequest, failed + "hashedrekord implementation for version '9.9.9' not found: unable to locate entry for version 9.9.9"},
		{`{"kind":"hashedrekord","apiVersion":"0.0.1","spec":{}}`, http.StatusBadRequest, failed + "validation failure list:…"},
		{other, http.StatusBadRequest, failed + "verifying signature: invalid signature when validating ASN.1 encoded signature"},
		{string(p.Body), http.StatusBadRequest, failed + "entry not insertable into log…"}, // a stored entry is no proposal
		{string(hashedrekordOf(t, "sha512", sha512Of("a"), signDigest(t, key, sha512Of("a"), crypto.SHA512), cert)), http.StatusBadRequest, failed + "entry algorithms are not allowed"},
		{`{"kind":"tuf","apiVersion":"0.0.1","spec":{"metadata":{"content":"x"},"root":{"content":"y"}}}`, http.StatusBadRequest, "error generating canonicalized entry: base64 decoding TUF metadata content…"},
		{string(all["tuf"]), http.StatusBadRequest, failed + "expired at…"},
		{string(mustJSON(t, map[string]any{"kind": "jar", "apiVersion": "0.0.1", "spec": map[string]any{"archive": map[string]any{"content": "AA=="}}})), http.StatusBadRequest, failed + "unpack jar: zip: not a valid zip file"},
		{strings.Repeat(" ", maxProposed+1), http.StatusRequestEntityTooLarge, "entry of 33554433 bytes, want at most 33554432"},
		{good + strings.Repeat(" ", maxProposed), http.StatusRequestEntityTooLarge, "entry of…"},
	} {
		p, err := Propose(t.Context(), []byte(c.proposed))
		wrong, ok := errors.AsType[*InputError](err)
		begin, cut := strings.CutSuffix(c.text, "…")
		if !ok || p != nil || wrong.Status != c.status || !strings.HasPrefix(err.Error(), begin) || !cut && err.Error() != c.text {
			t.Errorf("%.60q: %v, %v (%T), want %d %s", c.proposed, p, err, err, c.status, c.text)
		}
	}
	// As rekor-server, which reads one value from a stream.
	if _, err := Propose(t.Context(), []byte(good+"\n{}")); err != nil {
		t.Errorf("a second value: %v", err)
	}
}

// A panic of rekor's types is the client's mistake.
func TestProposePanics(t *testing.T) {
	types.TypeMap.Store("ProposedEntry", func() types.TypeImpl { panic("test") })
	defer types.TypeMap.Delete("ProposedEntry")
	p, err := Propose(t.Context(), []byte(`{"kind":"ProposedEntry"}`))
	if wrong, ok := errors.AsType[*InputError](err); !ok || p != nil || wrong.Status != http.StatusBadRequest {
		t.Errorf("%v, %v", p, err)
	}
}

func sha512Of(s string) []byte {
	sum := sha512.Sum512([]byte(s))
	return sum[:]
}

// hashedrekordOf returns a proposed entry of the parts.
func hashedrekordOf(tb testing.TB, algorithm string, digest, signature, verifier []byte) []byte {
	tb.Helper()
	return mustJSON(tb, map[string]any{"apiVersion": "0.0.1", "kind": "hashedrekord", "spec": map[string]any{
		"data":      map[string]any{"hash": map[string]any{"algorithm": algorithm, "value": hex.EncodeToString(digest)}},
		"signature": map[string]any{"content": signature, "publicKey": map[string]any{"content": verifier}},
	}})
}

func signDigest(tb testing.TB, key crypto.Signer, digest []byte, hash crypto.Hash) []byte {
	tb.Helper()
	signed, err := key.Sign(rand.Reader, digest, hash)
	if err != nil {
		tb.Fatal(err)
	}
	return signed
}

// signers returns a key of each kind, with the algorithm of its keyDetails for each hash.
func signers(tb testing.TB) map[string]crypto.Signer {
	tb.Helper()
	keys := map[string]crypto.Signer{}
	for name, curve := range map[string]elliptic.Curve{"P-224": elliptic.P224(), "P-256": elliptic.P256(), "P-384": elliptic.P384(), "P-521": elliptic.P521()} {
		key, err := ecdsa.GenerateKey(curve, rand.Reader)
		if err != nil {
			tb.Fatal(err)
		}
		keys[name] = key
	}
	for name, bits := range map[string]int{"RSA-2048": 2048, "RSA-2056": 2056} {
		key, err := rsa.GenerateKey(rand.Reader, bits)
		if err != nil {
			tb.Fatal(err)
		}
		keys[name] = key
	}
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		tb.Fatal(err)
	}
	keys["Ed25519"] = key
	return keys
}

// The pairs of key and hash that Rekor allows by default.
func TestProposeAlgorithms(t *testing.T) {
	allowed := []string{"P-256 sha256", "P-384 sha384", "P-521 sha512", "RSA-2048 sha256", "Ed25519 sha512"}
	for name, key := range signers(t) {
		for algorithm, hash := range map[string]crypto.Hash{"sha256": crypto.SHA256, "sha384": crypto.SHA384, "sha512": crypto.SHA512} {
			if name == "Ed25519" && hash != crypto.SHA512 {
				continue // signs no other prehash
			}
			h := hash.New()
			h.Write([]byte("artifact"))
			digest := h.Sum(nil)
			proposed := hashedrekordOf(t, algorithm, digest, signDigest(t, key, digest, hash), pemOf("PUBLIC KEY", spkiOf(t, key.Public())))
			_, err := Propose(t.Context(), proposed)
			pair := name + " " + algorithm
			if slices.Contains(allowed, pair) {
				if err != nil {
					t.Errorf("%s: %v", pair, err)
				}
			} else if !errors.Is(err, errAlgorithms) {
				t.Errorf("%s: %v", pair, err)
			}
		}
	}
}

// checkPropose holds the fast way against rekor's types.
func checkPropose(tb interface {
	Errorf(string, ...any)
	Helper()
}, proposed []byte) (fast bool) {
	tb.Helper()
	body, fast := fastPropose(proposed)
	if !fast {
		return false
	}
	p, err := slowPropose(context.TODO(), proposed) // nothing is fetched
	switch {
	case err != nil:
		tb.Errorf("the fast way accepts %q: %v", proposed, err)
	case !bytes.Equal(p.Body, body):
		tb.Errorf("%q: body %s, want %s", proposed, body, p.Body)
	case len(p.Keys) > 0 || p.Kind != "hashedrekord":
		tb.Errorf("%q: a %s with keys %q", proposed, p.Kind, p.Keys)
	}
	return true
}

// goClient is the order in which Rekor's Go client writes a proposal.
func goClient(digest, signature, verifier string) string {
	return `{"apiVersion":"0.0.1","spec":{"data":{"hash":{"algorithm":"sha256","value":"` + digest + `"}},"signature":{"content":"` + signature +
		`","publicKey":{"content":"` + verifier + `"}}},"kind":"hashedrekord"}` + "\n"
}

// parts returns the strings of a genuine proposal with its DER: of a key or of a certificate.
func proposalParts(tb testing.TB) (digest, signature string, key, cert []byte) {
	tb.Helper()
	k := newKey(tb)
	var f struct {
		Spec struct {
			Data      struct{ Hash struct{ Value string } }
			Signature struct{ Content string }
		}
	}
	cert = newCert(tb, k, nil)
	if err := json.Unmarshal(hashedrekordV1(tb, k, pemOf("CERTIFICATE", cert), []byte("artifact")), &f); err != nil {
		tb.Fatal(err)
	}
	return f.Spec.Data.Hash.Value, f.Spec.Signature.Content, spkiOf(tb, k.Public()), cert
}

// Which forms go the fast way, and that they are no others.
func TestFastPropose(t *testing.T) {
	digest, signature, key, cert := proposalParts(t)
	text := func(p []byte) string { return base64.StdEncoding.EncodeToString(p) }
	keyPEM, certPEM := text(pemOf("PUBLIC KEY", key)), text(pemOf("CERTIFICATE", cert))
	plain := goClient(digest, signature, certPEM)
	raw, err := base64.StdEncoding.DecodeString(signature)
	if err != nil {
		t.Fatal(err)
	}
	replace := func(old, by string) string {
		t.Helper()
		changed := strings.Replace(plain, old, by, 1)
		if changed == plain {
			t.Fatalf("%q is not there", old)
		}
		return changed
	}
	const (
		fast = iota
		slow // and accepted
		no
	)
	for name, c := range map[string]struct {
		proposed string
		want     int
	}{
		"certificate":          {plain, fast},
		"key":                  {goClient(digest, signature, keyPEM), fast},
		"upper-case digest":    {goClient(strings.ToUpper(digest), signature, certPEM), fast},
		"white space":          {" " + strings.NewReplacer(`:`, " :\t", `,`, "\r\n, ", `{`, "{ ", `}`, " }").Replace(plain), fast},
		"other order":          {`{"spec":{"signature":{"publicKey":{"content":"` + certPEM + `"},"content":"` + signature + `"},"data":{"hash":{"value":"` + digest + `","algorithm":"sha256"}}},"kind":"hashedrekord","apiVersion":"0.0.1"}`, fast},
		"unknown field":        {replace(`"spec":`, `"more":1,"spec":`), slow},
		"unknown inner field":  {replace(`"content":`, `"format":"x509","content":`), slow},
		"name in other case":   {replace(`"kind"`, `"Kind"`), slow},
		"a second value":       {plain + "{}", slow},
		"escape":               {replace(`"hashedrekord"`, `"hashed\u0072ekord"`), slow},
		"escaped name":         {replace(`"kind"`, `"k\u0069nd"`), slow},
		"escaped base64":       {replace(certPEM[:8], certPEM[:4]+`\u00`+fmt.Sprintf("%02x", certPEM[4])+certPEM[5:8]), slow},
		"escaped line breaks":  {replace(certPEM[:8], certPEM[:4]+`\n`+certPEM[4:8]), slow},
		"twice the same":       {replace(`"kind":"hashedrekord"`, `"kind":"hashedrekord","kind":"hashedrekord"`), slow},
		"an empty spec first":  {replace(`"spec":`, `"spec":{"data":{"hash":{"value":"00"}}},"spec":`), slow},
		"an empty spec last":   {replace(`,"kind"`, `,"spec":{},"kind"`), no},
		"two halves of a spec": {replace(`},"signature":`, `}},"spec":{"signature":`), no},
		"no algorithm":         {replace(`"algorithm":"sha256",`, ``), no},
		"other algorithm":      {replace(`"sha256"`, `"sha512"`), no},
		"short digest":         {goClient(digest[2:], signature, certPEM), no},
		"digest is not hex":    {goClient("zz"+digest[2:], signature, certPEM), no},
		"other digest":         {goClient(strings.Repeat("00", 32), signature, certPEM), no},
		"other version":        {replace(`"0.0.1"`, `"0.0.2"`), no},
		"other kind":           {replace(`"hashedrekord"`, `"rekord"`), no},
		"no signature":         {goClient(digest, "", certPEM), no},
		"no key":               {goClient(digest, signature, ""), no},
		"cut":                  {plain[:len(plain)-2], no},
		"line break in base64": {replace(certPEM[:8], certPEM[:4]+"\n"+certPEM[4:8]), no},
		"P1363 signature":      {goClient(digest, text(p1363(t, raw)), certPEM), slow},
		"tail of signature":    {goClient(digest, text(append(slices.Clone(raw), 0)), certPEM), no},
		"PEM of long lines":    {goClient(digest, signature, text([]byte("-----BEGIN CERTIFICATE-----\n"+text(cert)+"\n-----END CERTIFICATE-----\n"))), slow},
		"PEM with a header":    {goClient(digest, signature, text(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Headers: map[string]string{"a": "b"}, Bytes: cert}))), slow},
		"PEM without last LF":  {goClient(digest, signature, text(bytes.TrimSpace(pemOf("CERTIFICATE", cert)))), slow},
		"PEM after text":       {goClient(digest, signature, text(append([]byte("text\n"), pemOf("CERTIFICATE", cert)...))), slow},
		"PEM twice":            {goClient(digest, signature, text(bytes.Repeat(pemOf("CERTIFICATE", cert), 2))), slow}, // a chain
		"PEM of another type":  {goClient(digest, signature, text(pemOf("EC PUBLIC KEY", key))), no},
		"key with a tail":      {goClient(digest, signature, text(pemOf("PUBLIC KEY", append(slices.Clone(key), 0)))), no},
		"cert with a tail":     {goClient(digest, signature, text(pemOf("CERTIFICATE", append(slices.Clone(cert), 0)))), no},
		"point off the curve":  {goClient(digest, signature, text(pemOf("PUBLIC KEY", append(bytes.Clone(key[:len(key)-1]), key[len(key)-1]^1)))), no},
		"DER, no PEM":          {goClient(digest, signature, text(key)), no},
		"base64 with a rest":   {goClient(digest, signature, strings.TrimSuffix(keyPEM, "g==")+"h=="), slow},
	} {
		if got := checkPropose(t, []byte(c.proposed)); got != (c.want == fast) {
			t.Errorf("%s: the fast way: %t", name, got)
		}
		if _, err := Propose(t.Context(), []byte(c.proposed)); (err == nil) != (c.want != no) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// p1363 returns r and s of an ECDSA signature, which sigstore takes as well.
func p1363(tb testing.TB, der []byte) []byte {
	tb.Helper()
	var sig struct{ R, S *big.Int }
	if _, err := asn1.Unmarshal(der, &sig); err != nil {
		tb.Fatal(err)
	}
	return append(sig.R.FillBytes(make([]byte, 32)), sig.S.FillBytes(make([]byte, 32))...)
}

// Whatever is changed in a proposal: what the fast way accepts, rekor's types accept, with the
// same body.
func TestFastProposeMutated(t *testing.T) {
	digest, signature, key, cert := proposalParts(t)
	text := base64.StdEncoding.EncodeToString
	pieces := []string{"{", "}", `"`, ",", ":", " ", `\`, `\n`, "=", "A", "null", "[]", `"kind"`, `"spec":`, `"content":""`, "\x00", "\xff", "-----"}
	rapid.Check(t, func(r *rapid.T) {
		// Changed below the base64: in DER or PEM, or in the JSON.
		where := rapid.SampledFrom([]string{"", "der", "pem", "signature", "json"}).Draw(r, "where")
		mutate := func(here string, b []byte) []byte {
			if here != where {
				return b
			}
			return mutated(r, b, pieces)
		}
		kind, der := "PUBLIC KEY", key
		if rapid.Bool().Draw(r, "certificate") {
			kind, der = "CERTIFICATE", cert
		}
		raw, err := base64.StdEncoding.DecodeString(signature)
		if err != nil {
			t.Fatal(err)
		}
		verifier := text(mutate("pem", pemOf(kind, mutate("der", der))))
		checkPropose(r, mutate("json", []byte(goClient(digest, text(mutate("signature", raw)), verifier))))
	})
}

func FuzzPropose(f *testing.F) {
	digest, signature, key, cert := proposalParts(f)
	text := base64.StdEncoding.EncodeToString
	f.Add([]byte(goClient(digest, signature, text(pemOf("CERTIFICATE", cert)))))
	f.Add([]byte(goClient(digest, signature, text(pemOf("PUBLIC KEY", key)))))
	f.Fuzz(func(t *testing.T, proposed []byte) {
		checkPropose(t, proposed)
		p, err := Propose(t.Context(), proposed)
		if err != nil {
			if _, ok := errors.AsType[*InputError](err); !ok || p != nil {
				t.Errorf("%T: %v, %v", err, err, p)
			}
			return
		}
		if body, err := Canonicalize(t.Context(), proposed); err != nil || !bytes.Equal(body, p.Body) {
			t.Errorf("%q: body %s, Canonicalize: %s, %v", proposed, p.Body, body, err)
		}
		shown := SearchKeys(p.Body)
		if len(p.Keys) > maxProposedKeys || !slices.Equal(p.Keys, normalize(slices.Clone(p.Keys))) || slices.ContainsFunc(p.Keys, func(k string) bool { return slices.Contains(shown, k) }) {
			t.Errorf("%q: keys %q beside %q", proposed, p.Keys, shown)
		}
	})
}
