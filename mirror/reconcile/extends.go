package reconcile

import (
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"time"
)

// extendsV1 says whether a late entry of Rekor v1 may be added to the bundle that has the private log's
// entry. Verifiers take the integrated time for the time of the signature, and refuse the whole bundle if
// that is outside the life of the certificate; those of keyless signatures live for minutes.
func extendsV1(proposal []byte, integrated int64) (ok bool, reason string) {
	var entry struct {
		Kind string
		Spec any
	}
	if err := json.Unmarshal(proposal, &entry); err != nil {
		return false, "the proposal cannot be read"
	}
	switch entry.Kind {
	case "hashedrekord", "dsse", "intoto":
	default:
		return false, fmt.Sprintf("no bundle has entries of the kind %q", plain(entry.Kind, 40))
	}
	at := time.Unix(integrated, 0).UTC()
	for _, cert := range certificatesIn(entry.Spec, false) {
		if cert == nil {
			return false, "its certificate cannot be read"
		}
		if at.Before(cert.NotBefore) || at.After(cert.NotAfter) {
			return false, fmt.Sprintf("it was logged at %s, and the certificate was valid from %s to %s: with this entry the bundle would be refused, so keep it beside the bundle",
				at.Format(time.RFC3339), cert.NotBefore.UTC().Format(time.RFC3339), cert.NotAfter.UTC().Format(time.RFC3339))
		}
	}
	return true, ""
}

// verifierFields are the fields in which proposals have who signed: all kinds of entries use one of them.
var verifierFields = map[string]bool{"publicKey": true, "publicKeys": true, "verifiers": true, "verifier": true}

// certificatesIn returns the first certificate of each key in the spec of a proposal, nil for one that
// cannot be read; within says that value stands in such a field. They are base64 of PEM.
func certificatesIn(value any, within bool) []*x509.Certificate {
	var found []*x509.Certificate
	switch value := value.(type) {
	case map[string]any:
		for name, field := range value {
			found = append(found, certificatesIn(field, within || verifierFields[name])...)
		}
	case []any:
		for _, item := range value {
			found = append(found, certificatesIn(item, within)...)
		}
	case string:
		if within {
			found = append(found, certificateOf(value)...)
		}
	}
	return found
}

// certificateOf returns the certificate in a base64 text; none for another key. The first of a chain is
// the signer's.
func certificateOf(text string) []*x509.Certificate {
	raw, err := base64.StdEncoding.DecodeString(text)
	if err != nil {
		return nil
	}
	for block, rest := pem.Decode(raw); block != nil; block, rest = pem.Decode(rest) {
		if block.Type == "CERTIFICATE" {
			cert, err := x509.ParseCertificate(block.Bytes)
			if err != nil {
				cert = nil
			}
			return []*x509.Certificate{cert}
		}
	}
	return nil
}
