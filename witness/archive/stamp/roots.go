package stamp

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"time"

	"github.com/sigstore/sigstore-go/pkg/root"
)

// Roots are the authorities that are believed. The zero value believes none.
type Roots struct{ anchors []anchor }

// anchor is one authority.
type anchor struct {
	roots         []*x509.Certificate // of which the chain must reach one
	intermediates []*x509.Certificate
	leaf          *x509.Certificate // if not nil, the only signer
	start, end    time.Time         // of tokens, both included; zero is unbounded
}

// RootsFromPEM reads certificates in PEM, as `openssl ts -verify -CAfile` and a TSA's certificate
// chain have them. The signer of a token must be one of them, or chain to one of them.
func RootsFromPEM(data []byte) (Roots, error) {
	var a anchor
	for {
		var block *pem.Block
		if block, data = pem.Decode(data); block == nil {
			break
		}
		if block.Type != "CERTIFICATE" {
			return Roots{}, fmt.Errorf("roots of time-stamp authorities: a PEM block is a %q: give certificates only", block.Type)
		}
		certificate, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return Roots{}, fmt.Errorf("roots of time-stamp authorities: certificate %d: %w", len(a.roots)+1, err)
		}
		a.roots = append(a.roots, certificate)
	}
	if len(a.roots) == 0 || bytes.Contains(data, []byte("-----BEGIN")) {
		return Roots{}, errors.New("roots of time-stamp authorities: not PEM certificates: they begin with -----BEGIN CERTIFICATE-----")
	}
	return Roots{[]anchor{a}}, nil
}

// RootsFromTrustedRoot reads the timestampAuthorities of a Sigstore TrustedRoot in JSON
// (trusted_root.json), each for the time that it is valid for.
func RootsFromTrustedRoot(data []byte) (Roots, error) {
	trusted, err := root.NewTrustedRootFromJSON(data)
	if err != nil {
		return Roots{}, fmt.Errorf("roots of time-stamp authorities: read the trusted root: %w", err)
	}
	var r Roots
	for i, authority := range trusted.TimestampingAuthorities() {
		tsa, ok := authority.(*root.SigstoreTimestampingAuthority)
		if !ok || tsa.Root == nil {
			return Roots{}, fmt.Errorf("roots of time-stamp authorities: timestampAuthorities[%d] of the trusted root has no root certificate", i)
		}
		r.anchors = append(r.anchors, anchor{
			roots:         []*x509.Certificate{tsa.Root},
			intermediates: tsa.Intermediates,
			leaf:          tsa.Leaf,
			start:         tsa.ValidityPeriodStart,
			end:           tsa.ValidityPeriodEnd,
		})
	}
	if len(r.anchors) == 0 {
		return Roots{}, errors.New("roots of time-stamp authorities: the trusted root lists no timestampAuthorities: give certificates in PEM instead")
	}
	return r, nil
}

// certificates are all that are known of the authorities.
func (r Roots) certificates() []*x509.Certificate {
	var all []*x509.Certificate
	for _, a := range r.anchors {
		all = append(append(all, a.roots...), a.intermediates...)
	}
	return all
}

// verify says why none of the authorities vouches for signer at that time.
func (r Roots) verify(signer *x509.Certificate, others []*x509.Certificate, at time.Time) error {
	var first error
	for _, a := range r.anchors {
		err := a.verify(signer, others, at)
		if err == nil {
			return nil
		}
		if first == nil {
			first = err
		}
	}
	if len(r.anchors) > 1 {
		return fmt.Errorf("none of %d authorities vouches for it; of the first: %w", len(r.anchors), first)
	}
	return first
}

func (a *anchor) verify(signer *x509.Certificate, others []*x509.Certificate, at time.Time) error {
	if a.leaf != nil && !a.leaf.Equal(signer) {
		return fmt.Errorf("the authority signs with another certificate, that of %q", a.leaf.Subject)
	}
	if at.Before(a.start) || !a.end.IsZero() && at.After(a.end) {
		return errors.New("the authority is not trusted for that time")
	}
	_, err := signer.Verify(x509.VerifyOptions{
		Roots:         pool(a.roots),
		Intermediates: pool(a.intermediates, others),
		KeyUsages:     []x509.ExtKeyUsage{x509.ExtKeyUsageTimeStamping},
		CurrentTime:   at,
	})
	return err
}

func pool(lists ...[]*x509.Certificate) *x509.CertPool {
	p := x509.NewCertPool()
	for _, list := range lists {
		for _, certificate := range list {
			p.AddCert(certificate)
		}
	}
	return p
}
