// Command kms is a key management service for tests: a program that sigstore's signature library
// runs as sigstore-kms-shelf for keys shelf://NAME. It keeps them in the folder $SHELF, and makes each
// when it is first asked for: an Ed25519 key if its name ends in "ed25519", else one for ECDSA on P-256.
//
// While there is a file "away" in the folder, each request fails with what stands in the file; if that is
// "hang" it takes longer than anybody waits, and if it is "slow", half a second.
package main

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/sigstore/sigstore/pkg/signature"
	"github.com/sigstore/sigstore/pkg/signature/kms/cliplugin/handler"
)

func main() {
	if err := serve(); err != nil {
		handler.WriteErrorResponse(os.Stdout, err)
		os.Exit(1)
	}
}

// away is the file that says what is wrong with the service.
const away = "away"

func serve() error {
	args, err := handler.GetPluginArgs(os.Args)
	if err != nil {
		return err
	}
	shelf := os.Getenv("SHELF")
	if why, err := os.ReadFile(filepath.Join(shelf, away)); err == nil {
		switch string(why) {
		case "hang":
			time.Sleep(time.Minute)
		case "slow":
			time.Sleep(time.Second / 2)
		default:
			return errors.New(string(why))
		}
	}
	signer, err := key(filepath.Join(shelf, filepath.Base(args.InitOptions.KeyResourceID)))
	if err != nil {
		return err
	}
	_, err = handler.Dispatch(os.Stdout, os.Stdin, args, &service{signer})
	return err
}

func key(file string) (signature.SignerVerifier, error) {
	der, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		private, err := newKey(filepath.Base(file))
		if err != nil {
			return nil, err
		}
		if der, err = x509.MarshalPKCS8PrivateKey(private); err != nil {
			return nil, err
		}
		if err := os.WriteFile(file, der, 0o600); err != nil {
			return nil, err
		}
	} else if err != nil {
		return nil, err
	}
	private, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		return nil, err
	}
	return signature.LoadSignerVerifier(private, crypto.SHA256)
}

func newKey(name string) (crypto.PrivateKey, error) {
	if strings.HasSuffix(name, "ed25519") {
		_, private, err := ed25519.GenerateKey(rand.Reader)
		return private, err
	}
	return ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
}

// service is what the library wants of a key management service.
type service struct{ signature.SignerVerifier }

func (*service) CreateKey(context.Context, string) (crypto.PublicKey, error) {
	return nil, fmt.Errorf("keys are made when they are asked for")
}

func (*service) CryptoSigner(context.Context, func(error)) (crypto.Signer, crypto.SignerOpts, error) {
	return nil, nil, errors.New("not in the protocol")
}
func (*service) SupportedAlgorithms() []string { return []string{"ecdsa-p256-sha256", "ed25519"} }
func (*service) DefaultAlgorithm() string      { return "ecdsa-p256-sha256" }
