package main

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/sigstore/sigstore/pkg/cryptoutils"
	"github.com/sigstore/sigstore/pkg/signature"
	"github.com/youmark/pkcs8"
	"golang.org/x/term"
)

// Keys are files of encrypted PKCS #8 (RFC 5958, PEM block ENCRYPTED PRIVATE KEY), each with its
// public key beside it in NAME.pub, or names of keys in a key management service.

const (
	pemEncrypted = "ENCRYPTED PRIVATE KEY"
	pemPublic    = "PUBLIC KEY"
)

// passphrases says how the passphrase of a key file is had.
type passphrases struct {
	file string // that has it; empty: the terminal is asked
}

// get returns the passphrase for a key; twice asks for it twice.
func (p passphrases) get(key string, twice bool) ([]byte, error) {
	if p.file != "" {
		return readPassphrase(p.file)
	}
	tty := int(os.Stdin.Fd())
	if !term.IsTerminal(tty) {
		return nil, fmt.Errorf("the passphrase of %s: there is no terminal to ask for it; give a file that has it", key)
	}
	ask := func(text string) ([]byte, error) {
		fmt.Fprint(os.Stderr, text)
		defer fmt.Fprintln(os.Stderr)
		return term.ReadPassword(tty)
	}
	passphrase, err := ask("Passphrase of " + key + ": ")
	if err != nil || !twice {
		return passphrase, err
	}
	again, err := ask("The same once more: ")
	switch {
	case err != nil:
		return nil, err
	case !bytes.Equal(passphrase, again):
		return nil, errors.New("the two are not the same: begin again")
	case len(passphrase) == 0:
		return nil, errors.New("an empty passphrase protects nothing")
	}
	return passphrase, nil
}

func readPassphrase(file string) ([]byte, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("read the passphrase: %w%s", err, missing(err))
	}
	if data = bytes.TrimRight(data, "\r\n"); len(data) == 0 {
		return nil, fmt.Errorf("read the passphrase: %s is empty", file)
	}
	return data, nil
}

// isKMS says whether a key is one of a key management service.
func isKMS(ref string) bool { return strings.Contains(ref, "://") }

// openSigner opens a key to sign with.
func openSigner(ctx context.Context, ref string, p passphrases) (signature.Signer, error) {
	if isKMS(ref) {
		return openKMS(ctx, ref)
	}
	block, err := readEncrypted(ref)
	if err != nil {
		return nil, err
	}
	passphrase, err := p.get(ref, false)
	if err != nil {
		return nil, err
	}
	private, err := decrypt(block.Bytes, passphrase)
	if err != nil {
		return nil, fmt.Errorf("%s cannot be decrypted: %w; is the passphrase the right one?", ref, err)
	}
	signer, err := signature.LoadSigner(private, crypto.SHA256)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", ref, err)
	}
	return signer, nil
}

// readEncrypted reads the file of a key that is encrypted.
func readEncrypted(file string) (*pem.Block, error) {
	block, err := readPEM(file)
	if err != nil {
		return nil, err
	}
	switch block.Type {
	case pemEncrypted:
		return block, nil
	case "PRIVATE KEY", "EC PRIVATE KEY":
		return nil, fmt.Errorf("%s is not encrypted: encrypt it with \"openssl pkcs8 -topk8 -v2 aes-256-cbc\"", file)
	}
	return nil, fmt.Errorf("%s has a %s; it takes an %s", file, block.Type, pemEncrypted)
}

// decrypt reads encrypted PKCS #8. The library expects whole blocks.
func decrypt(der, passphrase []byte) (private any, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("it is damaged: %v", p)
		}
	}()
	private, _, err = pkcs8.ParsePrivateKey(der, passphrase)
	return private, err
}

// openPublic returns the public key of a key, without its passphrase.
func openPublic(ctx context.Context, ref string) (crypto.PublicKey, error) {
	if isKMS(ref) {
		signer, err := openKMS(ctx, ref)
		if err != nil {
			return nil, err
		}
		return signer.PublicKey()
	}
	block, err := readPEM(ref)
	if err != nil {
		return nil, err
	}
	if block.Type != pemPublic {
		if block, err = readPEM(ref + ".pub"); err != nil {
			return nil, fmt.Errorf("the public key of %s belongs beside it: %w", ref, err)
		}
	}
	public, err := cryptoutils.UnmarshalPEMToPublicKey(pem.EncodeToMemory(block))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", ref, err)
	}
	return public, nil
}

// missing is the hint for a file that is not there.
func missing(err error) string {
	if errors.Is(err, fs.ErrNotExist) {
		return "; correct the path, or bring the file back from where a copy is kept"
	}
	return ""
}

func readPEM(name string) (*pem.Block, error) {
	data, err := os.ReadFile(name)
	if err != nil {
		return nil, fmt.Errorf("read a key: %w%s", err, missing(err))
	}
	block, _ := pem.Decode(data)
	if block == nil {
		return nil, fmt.Errorf("%s has no PEM block", name)
	}
	return block, nil
}

// keyCost makes each try at a passphrase cost some tenths of a second. OpenSSL reads it: it refuses
// more than 32 MiB of memory.
var keyCost = pkcs8.ScryptOpts{SaltSize: 16, CostParameter: 1 << 14, BlockSize: 8, ParallelizationParameter: 5}

// makeKey makes an ECDSA key on P-256 and writes it, encrypted, with its public key beside it. It
// never overwrites a file.
func makeKey(file string, p passphrases) (signature.Signer, error) {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	return keepKey(file, private, p)
}

// makeEd25519Key makes an Ed25519 key, as makeKey does.
func makeEd25519Key(file string, p passphrases) (signature.Signer, error) {
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	return keepKey(file, private, p)
}

func keepKey(file string, private crypto.Signer, p passphrases) (signature.Signer, error) {
	der, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		return nil, err
	}
	public, err := cryptoutils.MarshalPublicKeyToPEM(private.Public())
	if err != nil {
		return nil, err
	}
	if err := saveKey(file, der, public, p); err != nil {
		return nil, err
	}
	return signature.LoadSigner(private, crypto.SHA256)
}

// saveKey writes the PrivateKeyInfo of a new key, encrypted, and its public half beside it.
func saveKey(file string, der, public []byte, p passphrases) error {
	if _, err := os.Stat(file); err == nil {
		return fmt.Errorf("%s is there already, and is not overwritten: give it by a flag if it is to be used, or move it away if no repository has it", file)
	}
	passphrase, err := p.get(file, true)
	if err != nil {
		return err
	}
	if der, err = encryptPKCS8(der, passphrase); err != nil {
		return err
	}
	if err := writeSecret(file, pem.EncodeToMemory(&pem.Block{Type: pemEncrypted, Bytes: der})); err != nil {
		return err
	}
	if err := writeKeyFile(file+".pub", public, 0o644); err != nil {
		return errors.Join(err, os.Remove(file)) // nobody has it yet
	}
	return nil
}

// writeSecret writes a new file, durably, that only its owner can read.
func writeSecret(name string, data []byte) error {
	if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
		return err
	}
	return writeKeyFile(name, data, 0o600)
}

func writeKeyFile(name string, data []byte, mode os.FileMode) error {
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return errors.Join(err, os.Remove(name)) // half a file would be in the way of the next try
	}
	d, err := os.Open(filepath.Dir(name))
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// makePassphrase writes a random passphrase into a file, unless there is one.
func makePassphrase(file string) error {
	secret := make([]byte, 32)
	rand.Read(secret)
	if err := writeSecret(file, []byte(hex.EncodeToString(secret)+"\n")); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return nil
}
