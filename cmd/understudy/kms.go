//go:build kms

package main

import (
	"context"
	"crypto"
	"fmt"
	"io"
	"time"

	"github.com/sigstore/sigstore/pkg/signature"
	"github.com/sigstore/sigstore/pkg/signature/kms"
	_ "github.com/sigstore/sigstore/pkg/signature/kms/aws"
	_ "github.com/sigstore/sigstore/pkg/signature/kms/azure"
	_ "github.com/sigstore/sigstore/pkg/signature/kms/gcp"
	_ "github.com/sigstore/sigstore/pkg/signature/kms/hashivault"
	"github.com/sigstore/sigstore/pkg/signature/options"
)

// kmsTime bounds one request to a key management service.
const kmsTime = 30 * time.Second

// openKMS opens a key of a key management service; ctx ends what is asked of it.
func openKMS(ctx context.Context, ref string) (signature.Signer, error) {
	key, err := kms.Get(ctx, ref, crypto.SHA256)
	if err != nil {
		return nil, fmt.Errorf("open the key %s: %w", ref, err)
	}
	return &kmsSigner{key: key, limit: func() (context.Context, context.CancelFunc) { return context.WithTimeout(ctx, kmsTime) }}, nil
}

// kmsSigner gives every request a limit: who signs metadata has no context to give.
type kmsSigner struct {
	key   signature.Signer
	limit func() (context.Context, context.CancelFunc)
}

func (s *kmsSigner) PublicKey(o ...signature.PublicKeyOption) (crypto.PublicKey, error) {
	ctx, cancel := s.limit()
	defer cancel()
	return s.key.PublicKey(append(o, options.WithContext(ctx))...)
}

func (s *kmsSigner) SignMessage(message io.Reader, o ...signature.SignOption) ([]byte, error) {
	ctx, cancel := s.limit()
	defer cancel()
	return s.key.SignMessage(message, append(o, options.WithContext(ctx))...)
}
