package trust

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"strings"
	"testing"

	formats "github.com/transparency-dev/formats/note"
	sumdb "golang.org/x/mod/sumdb/note"
)

// ecVkey is a verifier key of type 0x02, whose key ID is the hash of its SPKI.
func ecVkey(name string, public crypto.PublicKey) string {
	return ecVkeyDER(name, must(x509.MarshalPKIXPublicKey(public)))
}

func ecVkeyDER(name string, der []byte) string {
	id := sha256.Sum256(der)
	return fmt.Sprintf("%s+%x+%s", name, id[:4], base64.StdEncoding.EncodeToString(append([]byte{2}, der...)))
}

// The example of c2sp.org/signed-note.
const (
	specVkey = "example.com/foo+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k"
	specNote = "This is an example message.\n\n— example.com/foo Uw2QOkn8srV1yJGh2VYRlL1Tnagv1YEq6TfXppzi2ONncAlTgK7Ztg1ERYNZXsYjOBH3mFXmRKuwHjG1Yu72IneyaQM=\n"
)

func TestParseKeySpecExample(t *testing.T) {
	k, err := ParseKey([]byte(" " + specVkey + "\r\n"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := sumdb.Open([]byte(specNote), sumdb.VerifierList(must(k.verifier("x")))); err != nil || k.Name != "example.com/foo" {
		t.Errorf("name %q: %v", k.Name, err)
	}
}

func TestParseKeyRefuses(t *testing.T) {
	ec := signingKeys()["P-256"]
	p224 := must(ecdsa.GenerateKey(elliptic.P224(), rand.Reader))
	rsa1024 := &rsa.PublicKey{N: must(rand.Prime(rand.Reader, 1024)), E: 65537}
	private := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: must(x509.MarshalPKCS8PrivateKey(ec))})
	der := must(x509.MarshalPKIXPublicKey(ec.Public()))
	longer := append(der[:len(der):len(der)], 0x05, 0x00) // a NULL that x509 ignores
	longer[1] += 2
	_, mldsa, err := formats.GenerateMLDSAKey("example.com/foo")
	if err != nil {
		t.Fatal(err)
	}
	cosigner, err := formats.VKeyToCosignatureV1(specVkey)
	if err != nil {
		t.Fatal(err)
	}
	good := ecVkey("example.com", ec.Public())
	if _, err := ParseKey([]byte(good)); err != nil {
		t.Fatalf("the good one: %v", err)
	}
	for name, key := range map[string]string{
		"empty":                "",
		"word":                 "key",
		"no key":               "example.com/foo+530d903a+",
		"other name":           "example.com/bar" + strings.TrimPrefix(specVkey, "example.com/foo"),
		"other key ID":         strings.Replace(specVkey, "530d903a", "530d903b", 1),
		"upper case key ID":    strings.Replace(specVkey, "530d903a", "530D903A", 1),
		"long key ID":          strings.Replace(good, "+", "+0", 1),
		"two lines":            specVkey + "\n" + specVkey,
		"no name":              ecVkey("", ec.Public()),
		"space in name":        ecVkey("example com", ec.Public()),
		"broken UTF-8 in name": ecVkey("example\xff", ec.Public()),
		"cosignature key":      cosigner,
		"ML-DSA key":           mldsa,
		"private key":          string(private),
		"mislabelled PEM":      strings.ReplaceAll(string(pemOf(ec.Public())), "PUBLIC KEY", "CERTIFICATE"),
		"two PEM blocks":       string(pemOf(ec.Public())) + string(pemOf(ec.Public())),
		"text after PEM":       string(pemOf(ec.Public())) + "x",
		"truncated PEM":        string(pemOf(ec.Public())[:100]),
		"longer DER as vkey":   ecVkeyDER("example.com", longer),
		"P-224":                string(pemOf(p224.Public())),
		"P-224 as vkey":        ecVkey("example.com", p224.Public()),
		"RSA 1024":             string(pemOf(rsa1024)),
		"trailing DER":         string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: append(der[:len(der):len(der)], 0)})),
		"longer DER":           string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: longer})),
	} {
		if k, err := ParseKey([]byte(key)); err == nil {
			t.Errorf("%s: parsed %+v", name, k)
		}
	}
}

func TestPEMKeyNeedsAName(t *testing.T) {
	key := signingKeys()["Ed25519"]
	for _, origin := range []string{"go.sum database tree", "a+b"} {
		raw := signV2("example.com", key, textOf(origin))
		_, err := Open(raw, origin, []Key{pemKey(t, key)})
		if err == nil || !strings.Contains(err.Error(), "verifier key") {
			t.Errorf("%q: %v", origin, err)
		}
	}
}
