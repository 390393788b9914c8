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

const (
	// kmsTime bounds one request to a key management service. An entry that waits for the batch before
	// it needs three of them: less than its client waits, who is told then that the log cannot sign.
	kmsTime = 8 * time.Second
	// kmsAfter is how long keys can be used after the program was told to stop: who waits for an entry
	// at that moment gets it.
	kmsAfter = 5 * time.Second
)

// openKMS opens a key of a key management service; some time after ctx has ended it signs no more.
func openKMS(ctx context.Context, ref string) (signature.Signer, error) {
	longer, end := context.WithCancel(context.WithoutCancel(ctx))
	context.AfterFunc(ctx, func() { time.AfterFunc(kmsAfter, end) })
	key, err := kms.Get(longer, ref, crypto.SHA256)
	if err != nil {
		return nil, fmt.Errorf("open the key %s: %w", ref, err)
	}
	return &kmsSigner{key: key, ref: ref, limit: func() (context.Context, context.CancelFunc) {
		return context.WithTimeoutCause(longer, kmsTime, fmt.Errorf("it gave no answer within %v", kmsTime))
	}}, nil
}

// kmsSigner gives every request a limit: who signs metadata has no context to give.
type kmsSigner struct {
	key   signature.Signer
	ref   string
	limit func() (context.Context, context.CancelFunc)
}

func (s *kmsSigner) PublicKey(o ...signature.PublicKeyOption) (crypto.PublicKey, error) {
	return askKMS(s, func(ctx context.Context) (crypto.PublicKey, error) {
		return s.key.PublicKey(append(o, options.WithContext(ctx))...)
	})
}

func (s *kmsSigner) SignMessage(message io.Reader, o ...signature.SignOption) ([]byte, error) {
	return askKMS(s, func(ctx context.Context) ([]byte, error) {
		return s.key.SignMessage(message, append(o, options.WithContext(ctx))...)
	})
}

// askKMS asks, until the limit. What does not heed its context is left behind: the library waits for
// all that a plugin has started (cliplugin sets no WaitDelay), and one that hangs must not take the log
// with it.
func askKMS[T any](s *kmsSigner, ask func(context.Context) (T, error)) (T, error) {
	type answer struct {
		value T
		err   error
	}
	ctx, cancel := s.limit()
	defer cancel()
	answers := make(chan answer, 1)
	go func() {
		value, err := ask(ctx)
		answers <- answer{value, err}
	}()
	var got answer
	select {
	case got = <-answers:
	case <-ctx.Done():
		got.err = context.Cause(ctx)
	}
	if got.err != nil {
		return got.value, fmt.Errorf("ask for %s: %w", s.ref, got.err)
	}
	return got.value, nil
}
