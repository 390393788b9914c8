package rekor

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
	"time"

	"github.com/digitorus/timestamp"
	"github.com/sigstore/sigstore-go/pkg/fulcio/certificate"
)

// Identity and Issuer are what every certificate says about its signer.
const (
	Identity = "releaser@understudy.test"
	Issuer   = "https://accounts.understudy.test"
)

// Lifetimes, the second as Fulcio's.
const (
	authorityLifetime   = 24 * time.Hour
	certificateLifetime = 10 * time.Minute
)

// authority is a certificate authority in the manner of Fulcio and a timestamp
// authority, both under one root certificate.
type authority struct {
	start time.Time
	key   *ecdsa.PrivateKey
	root  *x509.Certificate

	stampKey         *ecdsa.PrivateKey
	stampCertificate *x509.Certificate
}

func newAuthority() (*authority, error) {
	a := &authority{start: time.Now().Add(-time.Minute)}
	var err error
	if a.key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		return nil, err
	}
	if a.stampKey, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		Subject:               pkix.Name{Organization: []string{"understudy.test"}, CommonName: "test authority"},
		NotBefore:             a.start,
		NotAfter:              a.start.Add(authorityLifetime),
		KeyUsage:              x509.KeyUsageCertSign,
		BasicConstraintsValid: true,
		IsCA:                  true,
	}
	if a.root, err = a.certify(template, template, a.key.Public()); err != nil {
		return nil, err
	}
	// RFC 3161, section 2.3: the extended key usage must be critical, and alone.
	usage, err := asn1.Marshal([]asn1.ObjectIdentifier{{1, 3, 6, 1, 5, 5, 7, 3, 8}})
	if err != nil {
		return nil, err
	}
	a.stampCertificate, err = a.certify(&x509.Certificate{
		Subject:         pkix.Name{CommonName: "test timestamps"},
		NotBefore:       a.start,
		NotAfter:        a.start.Add(authorityLifetime),
		KeyUsage:        x509.KeyUsageDigitalSignature,
		ExtraExtensions: []pkix.Extension{{Id: asn1.ObjectIdentifier{2, 5, 29, 37}, Critical: true, Value: usage}},
	}, a.root, a.stampKey.Public())
	return a, err
}

// issue returns a code signing certificate for key, DER encoded.
func (a *authority) issue(key crypto.PublicKey) ([]byte, error) {
	issuer, err := asn1.MarshalWithParams(Issuer, "utf8")
	if err != nil {
		return nil, err
	}
	issued, err := a.certify(&x509.Certificate{
		NotBefore:       time.Now().Add(-time.Minute),
		NotAfter:        time.Now().Add(certificateLifetime),
		KeyUsage:        x509.KeyUsageDigitalSignature,
		ExtKeyUsage:     []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning},
		EmailAddresses:  []string{Identity},
		ExtraExtensions: []pkix.Extension{{Id: certificate.OIDIssuerV2, Value: issuer}},
	}, a.root, key)
	if err != nil {
		return nil, err
	}
	return issued.Raw, nil
}

// stamp returns an RFC 3161 response that says that signature exists now.
func (a *authority) stamp(signature []byte) ([]byte, error) {
	query, err := timestamp.CreateRequest(bytes.NewReader(signature), &timestamp.RequestOptions{Hash: crypto.SHA256})
	if err != nil {
		return nil, err
	}
	request, err := timestamp.ParseRequest(query)
	if err != nil {
		return nil, err
	}
	response := timestamp.Timestamp{
		HashAlgorithm: request.HashAlgorithm,
		HashedMessage: request.HashedMessage,
		Time:          time.Now(),
		Policy:        asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 57264, 2}, // Sigstore's
	}
	return response.CreateResponseWithOpts(a.stampCertificate, a.stampKey, crypto.SHA256)
}

// certify signs template with the root's key, under a random serial number.
func (a *authority) certify(template, parent *x509.Certificate, key crypto.PublicKey) (*x509.Certificate, error) {
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
