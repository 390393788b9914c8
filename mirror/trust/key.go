package trust

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/sha256"
	_ "crypto/sha512" // P-384 and P-521 notes
	"crypto/x509"
	"encoding/base64"
	"encoding/binary"
	"encoding/pem"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	rekornote "github.com/sigstore/rekor-tiles/v2/pkg/note"
	formats "github.com/transparency-dev/formats/note"
	"golang.org/x/mod/sumdb/note"
)

// Key verifies the checkpoints of one log.
type Key struct {
	// Name is the name that the key signs with: that of a verifier key, or the
	// host of a TrustedRoot's baseUrl. A PEM key has none and takes it from the
	// origin: the whole origin, or the host of a Rekor v1 origin "host - treeID".
	Name string

	// LogID is the log ID of the TrustedRoot; nil for a key from elsewhere.
	LogID []byte

	// Start and End are the validity window of the TrustedRoot, both ends
	// included; zero means unbounded. Open does not enforce it.
	Start, End time.Time

	public crypto.PublicKey // nil for a verifier key
	vkey   note.Verifier    // set for a verifier key, whose name and key ID are fixed
	text   string           // of a verifier key
}

// ParseKey reads one public key: a C2SP verifier key line (Ed25519 or ECDSA), or a
// PEM block "PUBLIC KEY" (SubjectPublicKeyInfo of an Ed25519, ECDSA or RSA key, as
// Rekor's publicKey endpoint and openssl write it). White space around is ignored.
func ParseKey(data []byte) (Key, error) {
	data = bytes.TrimSpace(data)
	if bytes.HasPrefix(data, []byte("-----BEGIN ")) {
		public, err := parsePEM(data)
		if err != nil {
			return Key{}, fmt.Errorf("parse PEM public key: %w", err)
		}
		return Key{public: public}, nil
	}
	v, err := parseVkey(string(data))
	if err != nil {
		return Key{}, fmt.Errorf("parse public key: %w; want a PEM block PUBLIC KEY or one line name+0123abcd+base64", err)
	}
	return Key{Name: v.Name(), vkey: v, text: string(data)}, nil
}

func parsePEM(data []byte) (crypto.PublicKey, error) {
	block, rest := pem.Decode(data)
	if block == nil || len(bytes.TrimSpace(rest)) > 0 {
		return nil, errors.New("want exactly one PEM block")
	}
	if block.Type != "PUBLIC KEY" {
		return nil, fmt.Errorf("PEM block is a %s, want a PUBLIC KEY", block.Type)
	}
	return parseSPKI(block.Bytes)
}

func parseSPKI(der []byte) (crypto.PublicKey, error) {
	public, err := x509.ParsePKIXPublicKey(der)
	if err != nil {
		return nil, err
	}
	// Key IDs hash the encoded key, so there must be one encoding.
	again, err := x509.MarshalPKIXPublicKey(public)
	if err != nil || !bytes.Equal(again, der) {
		return nil, errors.New("key is not in canonical DER")
	}
	return public, supported(public)
}

// supported says which keys can sign notes here.
func supported(public crypto.PublicKey) error {
	switch k := public.(type) {
	case ed25519.PublicKey:
		return nil
	case *ecdsa.PublicKey:
		_, err := curveHash(k)
		return err
	case *rsa.PublicKey:
		if k.N.BitLen() < 2048 {
			return fmt.Errorf("RSA key of %d bits, want at least 2048", k.N.BitLen())
		}
		return nil
	default:
		return fmt.Errorf("key of type %T, want Ed25519, ECDSA or RSA", public)
	}
}

// parseVkey reads a verifier key (c2sp.org/signed-note) of type 0x01 or 0x02.
// Cosignature keys are refused: a cosignature may leave the extension lines out.
func parseVkey(s string) (note.Verifier, error) {
	name, rest, _ := strings.Cut(s, "+")
	id, encoded, _ := strings.Cut(rest, "+")
	key, err := base64.StdEncoding.DecodeString(encoded)
	if err != nil || len(key) == 0 || !validName(name) {
		return nil, errors.New("malformed verifier key")
	}
	if key[0] != 1 && key[0] != 2 {
		return nil, fmt.Errorf("verifier key of signature type %d, want 1 (Ed25519) or 2 (ECDSA)", key[0])
	}
	v, err := formats.NewVerifier(s)
	if err != nil {
		return nil, err
	}
	if fmt.Sprintf("%08x+%s", v.KeyHash(), base64.StdEncoding.EncodeToString(key)) != id+"+"+encoded {
		return nil, errors.New("verifier key is not in canonical form")
	}
	if key[0] == 2 {
		if _, err := parseSPKI(key[1:]); err != nil {
			return nil, err
		}
	}
	return v, nil
}

// Public returns the public key; nil for a verifier key, which is for notes alone.
func (k Key) Public() crypto.PublicKey { return k.public }

// SPKI returns the DER SubjectPublicKeyInfo of the key; nil for a verifier key.
func (k Key) SPKI() []byte {
	if k.public == nil {
		return nil
	}
	der, err := x509.MarshalPKIXPublicKey(k.public)
	if err != nil {
		return nil // of a type that supported refuses
	}
	return der
}

// Text returns the key as ParseKey reads it: a verifier key, or PEM.
func (k Key) Text() string {
	if k.vkey != nil {
		return k.text
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: k.SPKI()}))
}

// verifier returns what verifies the signature lines of k under a checkpoint of
// origin. The key ID follows from the form of the origin, as in sigstore-go.
func (k Key) verifier(origin string) (note.Verifier, error) {
	if k.vkey != nil {
		return k.vkey, nil
	}
	name := k.Name
	host, v1 := rekorV1Host(origin)
	if name == "" {
		name = host
	}
	if !validName(name) {
		return nil, fmt.Errorf("origin %q is no name that a PEM key can sign with: give the log's key as a verifier key", origin)
	}
	v := &verifier{name: name, public: k.public, hash: crypto.SHA256}
	if v1 {
		// Rekor v1, pkg/util/signed_note.go: the ID of every kind of key is the hash
		// of its SPKI, and every kind but Ed25519 signs a SHA-256 digest.
		spki, err := x509.MarshalPKIXPublicKey(k.public)
		if err != nil {
			return nil, fmt.Errorf("encode key of %q: %w", origin, err)
		}
		sum := sha256.Sum256(spki)
		v.id = binary.BigEndian.Uint32(sum[:])
		return v, nil
	}
	var err error
	if v.id, _, err = rekornote.KeyHash(name, k.public); err != nil {
		return nil, fmt.Errorf("key ID of %q: %w", origin, err)
	}
	if ec, ok := k.public.(*ecdsa.PublicKey); ok {
		if v.hash, err = curveHash(ec); err != nil {
			return nil, fmt.Errorf("key of %q: %w", origin, err)
		}
	}
	return v, nil
}

// validName is the rule of c2sp.org/signed-note: "Key names MUST be non-empty and
// MUST NOT contain any Unicode spaces or plus (U+002B) characters."
func validName(name string) bool {
	return name != "" && utf8.ValidString(name) && !strings.Contains(name, "+") && !strings.ContainsFunc(name, unicode.IsSpace)
}

// rekorV1Host splits a Rekor v1 origin, "host - treeID", and reports whether
// origin is one; otherwise it returns the whole origin.
func rekorV1Host(origin string) (host string, v1 bool) {
	i := strings.LastIndex(origin, " - ")
	if i < 0 {
		return origin, false
	}
	if _, err := strconv.ParseUint(origin[i+3:], 10, 64); err != nil {
		return origin, false
	}
	return origin[:i], true
}

// curveHash is the digest that Rekor v2 signs with a key on each curve (sigstore,
// pkg/signature: the default algorithm of a key).
func curveHash(k *ecdsa.PublicKey) (crypto.Hash, error) {
	switch k.Curve {
	case elliptic.P256():
		return crypto.SHA256, nil
	case elliptic.P384():
		return crypto.SHA384, nil
	case elliptic.P521():
		return crypto.SHA512, nil
	default:
		return 0, fmt.Errorf("ECDSA key on %s, want P-256, P-384 or P-521", k.Params().Name)
	}
}

// verifier is a note.Verifier for a key as Rekor uses it.
type verifier struct {
	name   string
	id     uint32
	public crypto.PublicKey
	hash   crypto.Hash // of the text, for ECDSA and RSA
}

func (v *verifier) Name() string    { return v.name }
func (v *verifier) KeyHash() uint32 { return v.id }

func (v *verifier) Verify(text, sig []byte) bool {
	switch k := v.public.(type) {
	case ed25519.PublicKey:
		return ed25519.Verify(k, text, sig)
	case *ecdsa.PublicKey:
		return ecdsa.VerifyASN1(k, v.digest(text), sig)
	case *rsa.PublicKey:
		return rsa.VerifyPKCS1v15(k, v.hash, v.digest(text), sig) == nil
	default:
		return false
	}
}

func (v *verifier) digest(text []byte) []byte {
	h := v.hash.New()
	h.Write(text)
	return h.Sum(nil)
}
