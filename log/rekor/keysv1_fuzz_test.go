package rekor

import (
	"bytes"
	"crypto/x509"
	"encoding/base64"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// Whatever is changed, in DER, PEM or JSON: what the fast way reads rekor's types read, with the
// same keys.
func TestFastKeysV1Mutated(t *testing.T) {
	key := newKey(t)
	var certs, keys [][]byte
	for _, edit := range []func(*x509.Certificate){nil, manyNames(t), otherName(t, "n!x"), ia5Name(t)} {
		certs = append(certs, newCert(t, key, edit))
	}
	for _, der := range verifierKeys(t) {
		keys = append(keys, der)
	}
	slices.SortFunc(keys, bytes.Compare)
	pieces := []string{"{", "}", `"`, ",", ":", " ", `\`, "\n", "=", "A", "null", "[]", `"kind"`, "sha512", "00", "\x00", "\xff", "-----"}
	fast := 0
	rapid.Check(t, func(r *rapid.T) {
		where := rapid.SampledFrom([]string{"", "der", "pem", "digest", "signature", "json"}).Draw(r, "where")
		mutate := func(here string, b []byte) []byte {
			if here != where {
				return b
			}
			return mutated(r, b, pieces)
		}
		verifier := func() []byte {
			if rapid.Bool().Draw(r, "certificate") {
				return mutate("pem", pemOf("CERTIFICATE", mutate("der", rapid.SampledFrom(certs).Draw(r, "cert"))))
			}
			return mutate("pem", pemOf("PUBLIC KEY", mutate("der", rapid.SampledFrom(keys).Draw(r, "key"))))
		}
		digest := string(mutate("digest", []byte(strings.Repeat("0aF9", 16))))
		signature := mutate("signature", []byte("a signature"))
		body := hashedrekordBody("sha256", digest, signature, verifier())
		if rapid.Bool().Draw(r, "dsse") {
			body = dsseBody(digest, strings.Repeat("00", 32), signature, verifier(), verifier())
		}
		if checkFastV1(r, mutate("json", body)) {
			fast++
		}
	})
	if fast == 0 {
		t.Error("none was read by the fast way")
	}
}

// FuzzFastKeysV1 takes a body; with a kind it takes what a PEM block of that kind holds, for it
// would hardly find through base64 what crypto/x509 and our reader see differently.
func FuzzFastKeysV1(f *testing.F) {
	key := newKey(f)
	digest := strings.Repeat("ab", 32)
	spki := spkiOf(f, key.Public())
	f.Add("", hashedrekordBody("sha256", digest, []byte("signature"), pemOf("PUBLIC KEY", spki)))
	f.Add("", dsseBody(digest, digest, []byte("signature"), pemOf("PUBLIC KEY", spki)))
	f.Add("PUBLIC KEY", spki)
	f.Add("CERTIFICATE", newCert(f, key, nil))
	f.Fuzz(func(t *testing.T, kind string, data []byte) {
		if kind == "" {
			checkFastV1(t, data)
			return
		}
		verifier := pemOf(kind, data)
		checkFastV1(t, hashedrekordBody("sha256", digest, []byte("signature"), verifier))
		checkFastV1(t, dsseBody(digest, digest, []byte("signature"), verifier))
	})
}

// The genuine entries of the common kinds go the fast way, all of them, with their keys.
func TestGenuineKeysV1(t *testing.T) {
	dir := genuine(t)
	read := map[string]int{}
	for _, r := range records(t, dir, "rekor-v1-entries.jsonl") {
		body := r.body(t)
		common := r.Kind == "hashedrekord/0.0.1" || r.Kind == "dsse/0.0.1"
		if got := checkFastV1(t, body); got != common {
			t.Errorf("%s: a %s, read by the fast way: %t", r.ID, r.Kind, got)
		} else if common {
			read[r.Kind]++
		}
		if slow := normalize(keysV1(body)); !slices.Equal(SearchKeys(body), slow) {
			t.Errorf("%s: keys %q, by the slow way %q", r.ID, SearchKeys(body), slow)
		}
	}
	if read["hashedrekord/0.0.1"] != 43 || read["dsse/0.0.1"] != 35 {
		t.Errorf("%v were read by the fast way", read)
	}
	for _, r := range records(t, dir, "negative", "entries.jsonl") {
		if body, err := base64.StdEncoding.DecodeString(r.Body); err == nil {
			checkFastV1(t, body)
		}
	}
}

func BenchmarkSearchKeysV1(b *testing.B) {
	key := newKey(b)
	cert, public := pemOf("CERTIFICATE", newCert(b, key, nil)), pemOf("PUBLIC KEY", spkiOf(b, key.Public()))
	for name, proposed := range map[string][]byte{
		"hashedrekord certificate": hashedrekordV1(b, key, cert, []byte("artifact")),
		"hashedrekord key":         hashedrekordV1(b, key, public, []byte("artifact")),
		"dsse certificate":         dsseV1(b, key, cert, []byte("payload")),
		"dsse key":                 dsseV1(b, key, public, []byte("payload")),
	} {
		body, err := Canonicalize(b.Context(), proposed)
		if err != nil {
			b.Fatal(err)
		}
		for way, keys := range map[string]func([]byte) []string{
			"ours":  SearchKeys,
			"rekor": func(body []byte) []string { return normalize(keysV1(body)) },
		} {
			b.Run(name+"/"+way, func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					if len(keys(body)) < 2 {
						b.Fatal("keys are missing")
					}
				}
			})
		}
	}
}
