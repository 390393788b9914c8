package rekor

import (
	"bytes"
	"crypto"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net/http"
)

// maxRSA bounds the modulus of an RSA key in bits, as OpenSSL and Go's SSH do. To verify with one key
// of half a million bits, 200 KB of JSON, takes a processor most of a minute, and nothing ends that.
const maxRSA = 16384

// boundKeys refuses a proposed entry with an RSA key beyond maxRSA. It runs before rekor's types, which
// verify as they read: in whatever field they look for keys, they take them as PEM in base64, or, in TUF's
// metadata, as PEM. Keys of SSH have this bound already; those of PGP have one of 65,535 bits, by their form.
func boundKeys(proposed []byte) error {
	decoder := json.NewDecoder(bytes.NewReader(proposed))
	decoder.UseNumber()
	for {
		token, err := decoder.Token()
		if err != nil {
			return nil // the end, or no JSON, which rekor's types refuse
		}
		text, ok := token.(string)
		if !ok || len(text) < maxRSA/8 {
			continue
		}
		if err := boundPEM([]byte(text)); err != nil {
			return err
		}
		if content, err := base64.StdEncoding.DecodeString(text); err == nil {
			if err := boundPEM(content); err != nil {
				return err
			}
		}
	}
}

func boundPEM(content []byte) error {
	for block, rest := pem.Decode(content); block != nil; block, rest = pem.Decode(rest) {
		if key, ok := keyOf(block).(*rsa.PublicKey); ok && key.N.BitLen() > maxRSA {
			return &InputError{http.StatusBadRequest, fmt.Errorf("error processing entry: RSA key of %d bits, want at most %d", key.N.BitLen(), maxRSA)}
		}
	}
	return nil
}

// keyOf returns the public key in a PEM block; nil if it has none that rekor's types read.
func keyOf(block *pem.Block) crypto.PublicKey {
	switch block.Type {
	case "CERTIFICATE":
		if cert, err := x509.ParseCertificate(block.Bytes); err == nil {
			return cert.PublicKey
		}
	case "RSA PUBLIC KEY":
		if key, err := x509.ParsePKCS1PublicKey(block.Bytes); err == nil {
			return key
		}
	default:
		if key, err := x509.ParsePKIXPublicKey(block.Bytes); err == nil {
			return key
		}
	}
	return nil
}
