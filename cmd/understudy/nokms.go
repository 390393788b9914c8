//go:build !kms

package main

import (
	"context"
	"fmt"

	"github.com/sigstore/sigstore/pkg/signature"
)

func openKMS(_ context.Context, ref string) (signature.Signer, error) {
	return nil, fmt.Errorf("%s is a key of a key management service, for which this program was not built: build it with \"go build -tags kms\"", ref)
}
