// Package authority certifies signers for tests: a certificate authority in the manner of
// Fulcio and a timestamp authority, both under one root certificate, that live for one test.
package authority

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"math/big"
	"net/url"
	"time"

	"github.com/digitorus/timestamp"
	"github.com/sigstore/sigstore-go/pkg/fulcio/certificate"
)

// Issuer is what every certificate says about who vouched for its identity.
const Issuer = "https://accounts.understudy.test"

// Lifetimes, the second as Fulcio's.
const (
	authorityLifetime   = 24 * time.Hour
	certificateLifetime = 10 * time.Minute
)

// oidIssuer is Fulcio's first extension for the issuer, which has a successor.
var oidIssuer = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 57264, 1, 1}

// Authority is one root certificate with its key, and the timestamp authority under it.
type Authority struct {
	Start            time.Time         // nothing that it signs is older
	Root             *x509.Certificate // issues the certificates of signers, too
	StampCertificate *x509.Certificate // of the timestamp authority

	key, stampKey *ecdsa.PrivateKey
}

// New makes an authority with keys of its own.
func New() (*Authority, error) {
	a := &Authority{Start: time.Now().Add(-time.Minute)}
	var err error
	if a.key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		return nil, err
	}
	if a.stampKey, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		Subject:               pkix.Name{Organization: []string{"understudy.test"}, CommonName: "test authority"},
		NotBefore:             a.Start,
		NotAfter:              a.Start.Add(authorityLifetime),
		KeyUsage:              x509.KeyUsageCertSign,
		BasicConstraintsValid: true,
		IsCA:                  true,
	}
	if a.Root, err = a.certify(template, template, a.key.Public()); err != nil {
		return nil, err
	}
	// RFC 3161, section 2.3: the extended key usage must be critical, and alone.
	usage, err := asn1.Marshal([]asn1.ObjectIdentifier{{1, 3, 6, 1, 5, 5, 7, 3, 8}})
	if err != nil {
		return nil, err
	}
	a.StampCertificate, err = a.certify(&x509.Certificate{
		Subject:         pkix.Name{CommonName: "test timestamps"},
		NotBefore:       a.Start,
		NotAfter:        a.Start.Add(authorityLifetime),
		KeyUsage:        x509.KeyUsageDigitalSignature,
		ExtraExtensions: []pkix.Extension{{Id: asn1.ObjectIdentifier{2, 5, 29, 37}, Critical: true, Value: usage}},
	}, a.Root, a.stampKey.Public())
	return a, err
}

// Issue returns a code signing certificate for key, DER encoded. identity is a URI if it has a
// scheme, and an e-mail address otherwise.
func (a *Authority) Issue(key crypto.PublicKey, identity string) ([]byte, error) {
	issuer, err := asn1.MarshalWithParams(Issuer, "utf8")
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		NotBefore:   time.Now().Add(-time.Minute),
		NotAfter:    time.Now().Add(certificateLifetime),
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning},
		ExtraExtensions: []pkix.Extension{
			{Id: oidIssuer, Value: []byte(Issuer)}, // bare text; cosign reads this one
			{Id: certificate.OIDIssuerV2, Value: issuer},
		},
	}
	if uri, err := url.Parse(identity); err == nil && uri.Scheme != "" {
		template.URIs = []*url.URL{uri}
	} else {
		template.EmailAddresses = []string{identity}
	}
	issued, err := a.certify(template, a.Root, key)
	if err != nil {
		return nil, err
	}
	return issued.Raw, nil
}

// Stamp returns an RFC 3161 response that says that signature exists now.
func (a *Authority) Stamp(signature []byte) ([]byte, error) {
	query, err := timestamp.CreateRequest(bytes.NewReader(signature), &timestamp.RequestOptions{Hash: crypto.SHA256})
	if err != nil {
		return nil, err
	}
	return a.Answer(query)
}

// Answer answers an RFC 3161 request of anybody.
func (a *Authority) Answer(query []byte) ([]byte, error) {
	request, err := timestamp.ParseRequest(query)
	if err != nil {
		return nil, err
	}
	response := timestamp.Timestamp{
		HashAlgorithm:     request.HashAlgorithm,
		HashedMessage:     request.HashedMessage,
		Nonce:             request.Nonce,
		Time:              time.Now(),
		Policy:            asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 57264, 2}, // Sigstore's
		AddTSACertificate: request.Certificates,
	}
	return response.CreateResponseWithOpts(a.StampCertificate, a.stampKey, crypto.SHA256)
}

// certify signs template with the root's key, under a random serial number.
func (a *Authority) certify(template, parent *x509.Certificate, key crypto.PublicKey) (*x509.Certificate, error) {
	var err error
	template.SerialNumber, err = rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 128))
	if err != nil {
		return nil, err
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key, a.key)
	if err != nil {
		return nil, err
	}
	return x509.ParseCertificate(der)
}
