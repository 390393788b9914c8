package rekorv1

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/sigstore/sigstore-go/pkg/root"
)

// newKey makes the key of the next shard, with the files of both halves.
func (l *Log) newKey() (Shard, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return Shard{}, err
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return Shard{}, err
	}
	spki, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return Shard{}, err
	}
	name := filepath.Join(l.dir, fmt.Sprintf("shard%d", len(l.Shards)+1))
	s := Shard{PublicKeyFile: name + ".pem", signerFile: name + "-signer.pem"}
	return s, errors.Join(
		os.WriteFile(s.signerFile, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8}), 0o600),
		os.WriteFile(s.PublicKeyFile, pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: spki}), 0o600))
}

// PublicKeyFiles returns the files with the keys that are published: those of all shards,
// oldest first, and that of the shard that the next RollOver adds.
func (l *Log) PublicKeyFiles() []string {
	var files []string
	for _, s := range append(slices.Clone(l.Shards), l.next) {
		files = append(files, s.PublicKeyFile)
	}
	return files
}

// writeTrustedRoot publishes what the operator of such a service would: its certificate
// authority, and a log for every key, all under one URL.
func (l *Log) writeTrustedRoot() error {
	logs := make(map[string]*root.TransparencyLog)
	for _, file := range l.PublicKeyFiles() {
		text, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		block, _ := pem.Decode(text) // ours
		key, err := x509.ParsePKIXPublicKey(block.Bytes)
		if err != nil {
			return err
		}
		id := sha256.Sum256(block.Bytes)
		logs[hex.EncodeToString(id[:])] = &root.TransparencyLog{
			BaseURL:             "https://" + l.Hostname,
			ID:                  id[:],
			ValidityPeriodStart: l.Authority.Start,
			HashFunc:            crypto.SHA256,
			PublicKey:           key,
			SignatureHashFunc:   crypto.SHA256,
		}
	}
	trusted, err := root.NewTrustedRoot(root.TrustedRootMediaType01,
		[]root.CertificateAuthority{&root.FulcioCertificateAuthority{
			Root:                l.Authority.Root,
			ValidityPeriodStart: l.Authority.Start,
			URI:                 "https://fulcio.understudy.test",
		}},
		nil, // no certificate transparency
		[]root.TimestampingAuthority{&root.SigstoreTimestampingAuthority{
			Root:                l.Authority.Root,
			Leaf:                l.Authority.StampCertificate,
			ValidityPeriodStart: l.Authority.Start,
			URI:                 "https://timestamp.understudy.test",
		}},
		logs)
	if err != nil {
		return err
	}
	text, err := trusted.MarshalJSON()
	if err != nil {
		return err
	}
	return os.WriteFile(l.TrustedRootFile, text, 0o600)
}
