// Command kms is a key management service for tests: a program that sigstore's signature library
// runs as sigstore-kms-shelf for keys shelf://NAME. It keeps them in the folder $SHELF, and makes each
// when it is first asked for.
package main

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/sigstore/sigstore/pkg/signature"
	"github.com/sigstore/sigstore/pkg/signature/kms/cliplugin/handler"
)

func main() {
	if err := serve(); err != nil {
		handler.WriteErrorResponse(os.Stdout, err)
		os.Exit(1)
	}
}

func serve() error {
	args, err := handler.GetPluginArgs(os.Args)
	if err != nil {
		return err
	}
	signer, err := key(filepath.Join(os.Getenv("SHELF"), filepath.Base(args.InitOptions.KeyResourceID)))
	if err != nil {
		return err
	}
	_, err = handler.Dispatch(os.Stdout, os.Stdin, args, &service{signer})
	return err
}

func key(file string) (*signature.ECDSASignerVerifier, error) {
	der, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			return nil, err
		}
		if der, err = x509.MarshalECPrivateKey(private); err != nil {
			return nil, err
		}
		if err := os.WriteFile(file, der, 0o600); err != nil {
			return nil, err
		}
	} else if err != nil {
		return nil, err
	}
	private, err := x509.ParseECPrivateKey(der)
	if err != nil {
		return nil, err
	}
	return signature.LoadECDSASignerVerifier(private, crypto.SHA256)
}

// service is what the library wants of a key management service.
type service struct{ *signature.ECDSASignerVerifier }

func (*service) CreateKey(context.Context, string) (crypto.PublicKey, error) {
	return nil, fmt.Errorf("keys are made when they are asked for")
}

func (*service) CryptoSigner(context.Context, func(error)) (crypto.Signer, crypto.SignerOpts, error) {
	return nil, nil, errors.New("not in the protocol")
}
func (*service) SupportedAlgorithms() []string { return []string{"ecdsa-p256-sha256"} }
func (*service) DefaultAlgorithm() string      { return "ecdsa-p256-sha256" }
