package quorum

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"

	formats "github.com/transparency-dev/formats/note"
	"golang.org/x/mod/sumdb/note"
)

// Types of keys (https://c2sp.org/signed-note).
const (
	typeEd25519     = 0x01
	typeECDSA       = 0x02
	typeEd25519Cosi = 0x04
	typeRFC6962     = 0x05
	typeMLDSA44     = 0x06
)

// maxName bounds the names of whoever signs with ML-DSA-44: a length of one byte stands in front
// of them in what is signed (tlog-cosignature).
const maxName = 255

// key is a verifier key.
type key struct {
	note.Verifier
	vkey   string
	kind   byte
	public string // the public key whatever type and name it is used with
}

// parseKey reads a verifier key; what is accepted encodes to itself again.
//
// SPEC: "<key name>+hex(32-bit key ID)+base64(signature type || public key)" (signed-note)
func parseKey(vkey string) (*key, error) {
	name, rest, _ := strings.Cut(vkey, "+")
	id, encoded, ok := strings.Cut(rest, "+")
	if !ok {
		return nil, errors.New("not a verifier key: want <name>+<key ID in hex>+<base64>")
	}
	// SPEC: "Key names MUST be non-empty and MUST NOT contain any Unicode spaces or plus (U+002B)
	// characters." (signed-note)
	if name == "" || !utf8.ValidString(name) || strings.ContainsFunc(name, unicode.IsSpace) {
		return nil, fmt.Errorf("a key cannot be named %q", name)
	}
	raw, err := base64.StdEncoding.DecodeString(encoded)
	if err != nil || len(raw) < 2 || base64.StdEncoding.EncodeToString(raw) != encoded {
		return nil, fmt.Errorf("the key of %q is not in base64", name)
	}
	k := &key{vkey: vkey, kind: raw[0]}
	if k.public, err = publicOf(k.kind, raw[1:]); err != nil {
		return nil, fmt.Errorf("the key of %q: %w", name, err)
	}
	if k.kind == typeMLDSA44 && len(name) > maxName {
		return nil, fmt.Errorf("a key for ML-DSA-44 has a name of %d bytes: %d is the most", len(name), maxName)
	}
	if k.Verifier, err = formats.NewVerifier(vkey); err != nil {
		return nil, fmt.Errorf("the key of %q: %w", name, err)
	}
	// SPEC: "the hex encoding of a positive integer is the fixed length lowercase Base 16 encoding
	// of its zero-padded big endian representation." (signed-note)
	if want := fmt.Sprintf("%08x", k.KeyHash()); id != want {
		return nil, fmt.Errorf("the key of %q has the ID %s, not %q: it was damaged or edited", name, want, id)
	}
	return k, nil
}

// publicOf returns what two keys have in common that are one.
func publicOf(kind byte, raw []byte) (string, error) {
	switch kind {
	case typeEd25519, typeEd25519Cosi:
		return "ed25519 " + string(raw), nil
	case typeMLDSA44:
		return "ml-dsa-44 " + string(raw), nil
	case typeECDSA, typeRFC6962:
		public, err := x509.ParsePKIXPublicKey(raw)
		if err != nil {
			return "", errors.New("not a public key in DER")
		}
		if e, ok := public.(ed25519.PublicKey); ok {
			return "ed25519 " + string(e), nil
		}
		// SPEC: "The ECDSA curve MUST be one of NIST P-256, NIST P-384, or NIST P-521" (signed-note)
		if e, ok := public.(*ecdsa.PublicKey); ok && e.Curve == elliptic.P224() {
			return "", errors.New("its curve is none of P-256, P-384 and P-521")
		}
		return "der " + string(raw), nil
	}
	return "", fmt.Errorf("signature type %#02x is not known", kind)
}
