package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"os"

	"filippo.io/mldsa"
	formats "github.com/transparency-dev/formats/note"
	"golang.org/x/mod/sumdb/note"
)

// Keys for ML-DSA-44 are files like the others, encrypted PKCS #8, with the seed as in RFC 9881. No
// verifier reads their public keys in PEM: NAME.pub has a verifier key for notes, and so the name that
// it signs under.

// mldsaInfo is what stands in front of the seed: PrivateKeyInfo (RFC 5958) with one algorithm and
// the first of the forms of RFC 9881 is of one length, and has one encoding.
var mldsaInfo = []byte{
	0x30, 0x34, // SEQUENCE
	0x02, 0x01, 0x00, // version
	0x30, 0x0b, 0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x03, 0x11, // id-ml-dsa-44, without parameters
	0x04, 0x22, // privateKey, an OCTET STRING with
	0x80, 0x20, // seed [0] OCTET STRING (SIZE (32))
}

// typeMLDSA44 says in a note key that it is one for ML-DSA-44 (https://c2sp.org/signed-note).
const typeMLDSA44 = 0x06

func marshalMLDSA(key *mldsa.PrivateKey) []byte {
	return append(bytes.Clone(mldsaInfo), key.Bytes()...)
}

// parseMLDSA reads a PrivateKeyInfo of ML-DSA-44.
func parseMLDSA(der []byte) (*mldsa.PrivateKey, error) {
	seed, ok := bytes.CutPrefix(der, mldsaInfo)
	if !ok || len(seed) != mldsa.PrivateKeySize {
		return nil, errors.New("it has no ML-DSA-44 key in the form of a seed")
	}
	return mldsa.NewPrivateKey(mldsa.MLDSA44(), seed)
}

// mldsaVKey returns the verifier key of a key that signs as name.
func mldsaVKey(name string, key *mldsa.PrivateKey) string {
	return noteKey(name, key, key.PublicKey().Bytes())
}

// mldsaSigner makes a key sign notes as name, and verify them.
func mldsaSigner(name string, key *mldsa.PrivateKey) (note.Signer, note.Verifier, error) {
	s, err := formats.NewMLDSASigner("PRIVATE+KEY+" + noteKey(name, key, key.Bytes()))
	if err != nil {
		return nil, nil, err
	}
	v, err := formats.NewMLDSAVerifier(mldsaVKey(name, key))
	if err != nil {
		return nil, nil, err
	}
	return s, v, nil
}

// noteKey is how notes write the key, or the half of it that is given.
func noteKey(name string, key *mldsa.PrivateKey, half []byte) string {
	id := sha256.Sum256(append([]byte(name+"\n"), append([]byte{typeMLDSA44}, key.PublicKey().Bytes()...)...))
	return fmt.Sprintf("%s+%x+%s", name, id[:4], base64.StdEncoding.EncodeToString(append([]byte{typeMLDSA44}, half...)))
}

// makeMLDSAKey makes an ML-DSA-44 key that signs as name, as makeKey does.
func makeMLDSAKey(file, name string, p passphrases) (*mldsa.PrivateKey, error) {
	key, err := mldsa.GenerateKey(mldsa.MLDSA44())
	if err != nil {
		return nil, err
	}
	return key, saveKey(file, marshalMLDSA(key), []byte(mldsaVKey(name, key)+"\n"), p)
}

// openMLDSA opens an ML-DSA-44 key that signs as name. It must be the one of the verifier key beside
// it: damage can make another key of it.
func openMLDSA(file, name string, p passphrases) (*mldsa.PrivateKey, error) {
	vkey, err := os.ReadFile(file + ".pub")
	if err != nil {
		return nil, fmt.Errorf("the verifier key of %s belongs beside it: %w", file, err)
	}
	block, err := readEncrypted(file)
	if err != nil {
		return nil, err
	}
	passphrase, err := p.get(file, false)
	if err != nil {
		return nil, err
	}
	key, err := decryptMLDSA(block, passphrase)
	if err != nil {
		return nil, fmt.Errorf("%s cannot be read: %w", file, err)
	}
	if want := mldsaVKey(name, key); string(bytes.TrimSpace(vkey)) != want {
		return nil, fmt.Errorf("%s.pub is not the verifier key of %s for %s: that file or the key is damaged, or one of them is of another log", file, file, name)
	}
	return key, nil
}

func decryptMLDSA(block *pem.Block, passphrase []byte) (*mldsa.PrivateKey, error) {
	der, err := decryptPKCS8(block.Bytes, passphrase)
	if errors.Is(err, errNotDecrypted) {
		return nil, fmt.Errorf("%w; is the passphrase the right one?", err)
	}
	if errors.Is(err, errNotOurEncryption) {
		return nil, fmt.Errorf("%w; \"understudy log init\" makes such a key", err)
	}
	if err != nil {
		return nil, err
	}
	key, err := parseMLDSA(der)
	if err != nil {
		return nil, fmt.Errorf("%w; is the passphrase the right one, and the key one of \"understudy log init\"?", err)
	}
	return key, nil
}
