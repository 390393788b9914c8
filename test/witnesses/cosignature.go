package witnesses

import (
	"crypto/ed25519"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	formatsnote "github.com/transparency-dev/formats/note"
	"golang.org/x/mod/sumdb/note"
)

// Signature types of cosigners' keys.
const (
	Ed25519 byte = 0x04
	MLDSA44 byte = 0x06
)

// cosigner is a parsed verifier key.
type cosigner struct {
	vkey string
	name string
	id   uint32
	kind byte
	key  []byte
}

func parseVKey(vkey string) (cosigner, error) {
	parts := strings.SplitN(vkey, "+", 3)
	if len(parts) != 3 {
		return cosigner{}, fmt.Errorf("vkey %q has no three parts", vkey)
	}
	id, err := strconv.ParseUint(parts[1], 16, 32)
	if err != nil {
		return cosigner{}, fmt.Errorf("vkey %q: %w", vkey, err)
	}
	key, err := base64.StdEncoding.DecodeString(parts[2])
	if err != nil || len(key) < 2 {
		return cosigner{}, fmt.Errorf("vkey %q has no key", vkey)
	}
	return cosigner{vkey: vkey, name: parts[0], id: uint32(id), kind: key[0], key: key[1:]}, nil
}

// signature is a parsed line of a note.
type signature struct {
	name string
	id   uint32
	raw  []byte // without the ID
}

// parseLine parses a signature line, without the newline at its end.
func parseLine(line string) (signature, error) {
	rest, ok := strings.CutPrefix(line, "— ")
	name, text, ok2 := strings.Cut(rest, " ")
	if !ok || !ok2 {
		return signature{}, fmt.Errorf("not a signature line: %q", line)
	}
	raw, err := base64.StdEncoding.Strict().DecodeString(text)
	if err != nil || len(raw) < 5 {
		return signature{}, fmt.Errorf("signature line %q has no key ID and signature in base64", line)
	}
	return signature{name: name, id: binary.BigEndian.Uint32(raw), raw: raw[4:]}, nil
}

// Cosigned returns an error unless lines are what a witness that has exactly these keys answers
// to a checkpoint with this text: one line from each key, made between the two times.
func Cosigned(text, lines string, vkeys []string, from, to time.Time) error {
	if !strings.HasSuffix(lines, "\n") {
		return fmt.Errorf("it does not end with a newline: %q", lines)
	}
	seen := map[string]bool{}
	for line := range strings.Lines(lines) {
		sig, err := parseLine(strings.TrimSuffix(line, "\n"))
		if err != nil {
			return err
		}
		key, err := keyOf(sig, vkeys)
		if err != nil {
			return err
		}
		if seen[key.vkey] {
			return fmt.Errorf("%s signed twice", key.name)
		}
		seen[key.vkey] = true
		if err := key.verify(text, sig.raw); err != nil {
			return fmt.Errorf("cosignature of %s: %w", key.name, err)
		}
		// SPEC: It MUST NOT exceed 2^63 - 1
		at := binary.BigEndian.Uint64(sig.raw)
		if at == 0 || at > math.MaxInt64 || int64(at) < from.Unix() || int64(at) > to.Unix() {
			return fmt.Errorf("cosignature of %s says time %d, was made from %d to %d", key.name, at, from.Unix(), to.Unix())
		}
	}
	for _, vkey := range vkeys {
		if !seen[vkey] {
			return fmt.Errorf("no cosignature of the key %.60s", vkey)
		}
	}
	return nil
}

func keyOf(sig signature, vkeys []string) (cosigner, error) {
	for _, vkey := range vkeys {
		key, err := parseVKey(vkey)
		if err != nil {
			return cosigner{}, err
		}
		if key.name == sig.name && key.id == sig.id {
			return key, nil
		}
	}
	return cosigner{}, fmt.Errorf("a line of %s with key ID %08x, which is no key of the witness", sig.name, sig.id)
}

// verify checks a cosignature of a checkpoint's text: for Ed25519 by the letter of
// tlog-cosignature, for ML-DSA-44 with the library.
func (c cosigner) verify(text string, raw []byte) error {
	const timestampSize, mldsaSize = 8, 2420
	switch c.kind {
	case Ed25519:
		if len(raw) != timestampSize+ed25519.SignatureSize {
			return fmt.Errorf("%d bytes are no time and Ed25519 signature", len(raw))
		}
		message := fmt.Sprintf("cosignature/v1\ntime %d\n%s", binary.BigEndian.Uint64(raw), text)
		if !ed25519.Verify(c.key, []byte(message), raw[timestampSize:]) {
			return errors.New("the Ed25519 signature does not verify")
		}
	case MLDSA44:
		if len(raw) != timestampSize+mldsaSize {
			return fmt.Errorf("%d bytes are no time and ML-DSA-44 signature", len(raw))
		}
		verifier, err := formatsnote.NewVerifierForCosignatureV1(c.vkey)
		if err != nil {
			return err
		}
		if !verifier.Verify([]byte(text), raw) {
			return errors.New("the ML-DSA-44 signature of the whole tree does not verify")
		}
	default:
		return fmt.Errorf("signature type %#x is no cosigner's", c.kind)
	}
	return nil
}

// ed25519VKey returns the verifier key of an Ed25519 cosigner.
func ed25519VKey(name string, key ed25519.PublicKey) (string, error) {
	vkey, err := note.NewEd25519VerifierKey(name, key)
	if err != nil {
		return "", err
	}
	return formatsnote.VKeyToCosignatureV1(vkey)
}
