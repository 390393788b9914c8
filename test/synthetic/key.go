package synthetic

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/binary"
	"encoding/pem"
	"fmt"
	"strings"

	"golang.org/x/mod/sumdb/note"
)

// Key signs the checkpoints of a log. It is a [note.Signer].
type Key struct {
	name    string
	hash    uint32
	encoded []byte // the algorithm's byte and the public key, as in a verifier key
	sign    func(msg []byte) ([]byte, error)
	public  crypto.PublicKey
}

// Ed25519 makes an Ed25519 key of the given name.
func Ed25519(name string, seed uint64) *Key {
	private := ed25519.NewKeyFromSeed(keySeed(name, seed))
	k := &Key{name: name, public: private.Public()}
	k.encoded = append([]byte{1}, private.Public().(ed25519.PublicKey)...)
	// SPEC: C2SP signed-note: the key ID is the first four bytes of
	// SHA-256(name || 0x0A || signature type || public key).
	h := sha256.Sum256(append([]byte(name+"\n"), k.encoded...))
	k.hash = binary.BigEndian.Uint32(h[:])
	k.sign = func(msg []byte) ([]byte, error) { return ed25519.Sign(private, msg), nil }
	return k
}

// ECDSA makes an ECDSA P-256 key of the given name. Its key ID is that of Rekor v1:
// the first four bytes of SHA-256(SubjectPublicKeyInfo).
func ECDSA(name string, seed uint64) *Key {
	scalar := keySeed(name, seed)
	scalar[0] = scalar[0]&0x7f | 1
	private, err := ecdsa.ParseRawPrivateKey(elliptic.P256(), scalar)
	if err != nil {
		panic(fmt.Sprintf("synthetic: scalar is no P-256 key: %v", err))
	}
	spki := mustSPKI(&private.PublicKey)
	k := &Key{name: name, public: &private.PublicKey, encoded: append([]byte{2}, spki...)}
	h := sha256.Sum256(spki)
	k.hash = binary.BigEndian.Uint32(h[:])
	k.sign = func(msg []byte) ([]byte, error) {
		digest := sha256.Sum256(msg)
		return private.Sign(nil, digest[:], crypto.SHA256) // a nil reader: RFC 6979
	}
	return k
}

func keySeed(name string, seed uint64) []byte {
	return hashOf(fmt.Sprintf("key %d of %s", seed, name))
}

func mustSPKI(public crypto.PublicKey) []byte {
	der, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		panic(fmt.Sprintf("synthetic: encode public key: %v", err))
	}
	return der
}

// Name is the key's name in signature lines.
func (k *Key) Name() string { return k.name }

// KeyHash is the key ID.
func (k *Key) KeyHash() uint32 { return k.hash }

// Sign signs the text of a note.
func (k *Key) Sign(msg []byte) ([]byte, error) { return k.sign(msg) }

// Verifier returns the verifier key, one C2SP vkey line without its end.
func (k *Key) Verifier() string {
	return fmt.Sprintf("%s+%08x+%s", k.name, k.hash, base64.StdEncoding.EncodeToString(k.encoded))
}

// PEM returns the public key as a PEM block "PUBLIC KEY".
func (k *Key) PEM() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: mustSPKI(k.public)})
}

// Note signs a checkpoint: an origin, a size, a root hash and extension lines.
func Note(origin string, size uint64, root [32]byte, extensions []string, signers ...*Key) []byte {
	text := fmt.Sprintf("%s\n%d\n%s\n", origin, size, base64.StdEncoding.EncodeToString(root[:]))
	if len(extensions) > 0 {
		text += strings.Join(extensions, "\n") + "\n"
	}
	ns := make([]note.Signer, len(signers))
	for i := range signers {
		ns[i] = signers[i]
	}
	raw, err := note.Sign(&note.Note{Text: text}, ns...)
	if err != nil {
		panic(fmt.Sprintf("synthetic: sign checkpoint of %q: %v", origin, err))
	}
	return raw
}
