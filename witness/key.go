package witness

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"unicode"

	"filippo.io/mldsa"
	formats "github.com/transparency-dev/formats/note"
	"golang.org/x/mod/sumdb/note"
)

// Algorithms of keys.
const (
	Ed25519 = "ed25519"
	MLDSA44 = "ml-dsa-44"
)

// Bytes that say what a key in a note key is (https://c2sp.org/signed-note).
const (
	typeEd25519     = 0x01
	typeEd25519Cosi = 0x04
	typeMLDSA44     = 0x06
)

// Key cosigns. It is made by ParseKey.
type Key struct {
	note.Signer
	vkey   string
	public string // without name and type
}

// GenerateKey makes a key: the private one, PRIVATE+KEY+<name>+<hash>+<base64>, and the
// verifier key for cosignatures under it. algorithm is Ed25519 or MLDSA44.
func GenerateKey(name, algorithm string) (private, vkey string, err error) {
	if name == "" || strings.ContainsFunc(name, unicode.IsSpace) || strings.Contains(name, "+") {
		return "", "", fmt.Errorf("make key %q: a name has no spaces and no +, such as witness.example.com/w1", name)
	}
	switch algorithm {
	case Ed25519:
		if private, vkey, err = note.GenerateKey(rand.Reader, name); err != nil {
			return "", "", fmt.Errorf("make key %q: %w", name, err)
		}
		if vkey, err = formats.VKeyToCosignatureV1(vkey); err != nil {
			return "", "", fmt.Errorf("make key %q: %w", name, err)
		}
		return private, vkey, nil
	case MLDSA44:
		if len(name) > maxName {
			return "", "", fmt.Errorf("make key %q: a name has at most %d bytes", name, maxName)
		}
		if private, vkey, err = formats.GenerateMLDSAKey(name); err != nil {
			return "", "", fmt.Errorf("make key %q: %w", name, err)
		}
		return private, vkey, nil
	}
	return "", "", fmt.Errorf("no key of type %q: want %q or %q", algorithm, Ed25519, MLDSA44)
}

// maxName bounds the names of cosigners and logs: a length of one byte stands in front of each
// in what ML-DSA-44 signs (tlog-cosignature).
const maxName = 255

var errKey = errors.New("not a note key: want one line PRIVATE+KEY+<name>+<hash>+<base64>, as \"understudy keys generate\" writes it")

// ParseKey reads a private key; white space around is ignored.
func ParseKey(data []byte) (*Key, error) {
	text := string(bytes.TrimSpace(data))
	signer, err := formats.NewSignerForCosignatureV1(text)
	if err != nil {
		return nil, errKey
	}
	parts := strings.SplitN(text, "+", 5)
	raw, err := base64.StdEncoding.DecodeString(parts[4])
	if err != nil || len(signer.Name()) > maxName {
		return nil, errKey
	}
	k := &Key{Signer: signer}
	if k.public, err = publicOf(raw); err != nil {
		return nil, err
	}
	kind := byte(typeEd25519Cosi)
	if raw[0] == typeMLDSA44 {
		kind = typeMLDSA44
	}
	k.vkey = fmt.Sprintf("%s+%08x+%s", signer.Name(), signer.KeyHash(), base64.StdEncoding.EncodeToString(append([]byte{kind}, k.public...)))
	if raw[0] == typeEd25519 {
		_, err = note.NewSigner(text)
	}
	if err != nil || parts[3] != strings.ToLower(parts[3]) || raw[0] != typeEd25519 && parts[3] != fmt.Sprintf("%08x", signer.KeyHash()) {
		return nil, fmt.Errorf("key %q does not have the hash %s that it names: the file is damaged", signer.Name(), parts[3])
	}
	v, err := formats.NewVerifierForCosignatureV1(k.vkey)
	if err != nil {
		return nil, fmt.Errorf("key %q: %w", signer.Name(), err)
	}
	text = "a\n0\nAA==\n"
	if signature, err := k.Sign([]byte(text)); err != nil || !v.Verify([]byte(text), signature) {
		return nil, fmt.Errorf("key %q does not verify what it signs: %w", signer.Name(), errors.Join(errKey, err))
	}
	return k, nil
}

// publicOf returns the public key of a private one that begins with its type.
func publicOf(raw []byte) (string, error) {
	if raw[0] == typeMLDSA44 {
		key, err := mldsa.NewPrivateKey(mldsa.MLDSA44(), raw[1:])
		if err != nil {
			return "", fmt.Errorf("%w: %w", errKey, err)
		}
		return string(key.PublicKey().Bytes()), nil
	}
	return string(ed25519.NewKeyFromSeed(raw[1:]).Public().(ed25519.PublicKey)), nil
}

// VKey returns the verifier key for the key's cosignatures.
func (k *Key) VKey() string { return k.vkey }

func (k *Key) sameKey(other *Key) bool { return k.public == other.public }

// line cosigns the text of a checkpoint.
func (k *Key) line(text string) (string, error) {
	signature, err := k.Sign([]byte(text))
	if err != nil {
		return "", fmt.Errorf("cosign as %s: %w", k.Name(), err)
	}
	h := k.KeyHash()
	return "— " + k.Name() + " " + base64.StdEncoding.EncodeToString(append([]byte{byte(h >> 24), byte(h >> 16), byte(h >> 8), byte(h)}, signature...)), nil
}

// noteText returns the text of a signed note: what stands before the blank line in front of the
// signatures, with its last newline.
func noteText(raw []byte) string {
	if i := bytes.LastIndex(raw, []byte("\n\n")); i >= 0 {
		return string(raw[:i+1])
	}
	return string(raw)
}

// linesOf returns the signature lines of a note that have the name and the hash of one of keys.
func linesOf(raw []byte, keys []*Key) (lines []byte) {
	i := bytes.LastIndex(raw, []byte("\n\n"))
	for line := range bytes.Lines(raw[i+2:]) {
		fields := strings.Fields(string(line))
		if len(fields) != 3 {
			continue
		}
		signature, err := base64.StdEncoding.DecodeString(fields[2])
		if err != nil || len(signature) < 4 {
			continue
		}
		for _, k := range keys {
			h := k.KeyHash()
			if fields[1] == k.Name() && bytes.Equal(signature[:4], []byte{byte(h >> 24), byte(h >> 16), byte(h >> 8), byte(h)}) {
				lines = append(lines, line...)
			}
		}
	}
	return lines
}
