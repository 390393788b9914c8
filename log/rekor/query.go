package rekor

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"

	"github.com/go-openapi/strfmt"
	"github.com/sigstore/rekor/pkg/generated/models"
	"github.com/sigstore/rekor/pkg/pki"
	"github.com/sigstore/rekor/pkg/util"
)

// Query asks for entries. Empty fields ask for nothing.
type Query struct {
	Hash      string // hex, with or without its "sha256:"
	Email     string
	Subject   string // any subject alternative name
	Issuer    string // URL of the identity provider; not in Rekor's API
	Format    string // of PublicKey: x509, pgp, minisign, ssh, tuf or pkcs7
	PublicKey []byte // a key or certificate in that format
	Operator  string // "and", "or"; "" is "or"
}

// ParseQuery reads the JSON of POST index/retrieve. Every error is an *InputError.
func ParseQuery(data []byte) (Query, error) {
	var q models.SearchIndex
	d := json.NewDecoder(bytes.NewReader(data))
	if err := d.Decode(&q); errors.Is(err, io.EOF) {
		return Query{}, &InputError{http.StatusUnprocessableEntity, errors.New("query in body is required")}
	} else if err != nil {
		return Query{}, &InputError{http.StatusBadRequest, fmt.Errorf("parse query: %w", err)}
	}
	if _, err := d.Token(); err != io.EOF {
		return Query{}, &InputError{http.StatusBadRequest, errors.New("parse query: bytes after the value")}
	}
	if err := q.Validate(strfmt.Default); err != nil {
		return Query{}, &InputError{http.StatusUnprocessableEntity, fmt.Errorf("validate query: %w", err)}
	}
	query := Query{Hash: q.Hash, Email: q.Email.String(), Subject: q.Subject, Operator: q.Operator}
	if q.PublicKey != nil {
		// Rekor once fetched such keys; now its model has no such field.
		var remote struct {
			PublicKey struct {
				URL string `json:"url"`
			} `json:"publicKey"`
		}
		if err := json.Unmarshal(data, &remote); err != nil || remote.PublicKey.URL != "" {
			return Query{}, &InputError{http.StatusBadRequest, errors.New("parse query: a public key by URL is not fetched; give its content")}
		}
		query.Format, query.PublicKey = *q.PublicKey.Format, q.PublicKey.Content
	}
	return query, nil
}

// QueryKeys returns the search keys that a query asks for, as Rekor forms them, and whether
// an entry must have all of them (operator "and") or one. No keys: the query asks for
// nothing, and Rekor answers with nothing. Every error is an *InputError.
func QueryKeys(q Query) (keys []string, all bool, err error) {
	defer recoverInto(&err)
	switch strings.ToLower(q.Operator) {
	case "", models.SearchIndexOperatorOr:
	case models.SearchIndexOperatorAnd:
		all = true
	default:
		return nil, false, &InputError{http.StatusUnprocessableEntity, fmt.Errorf("operator %q, want and, or", q.Operator)}
	}
	if q.Hash != "" {
		keys = append(keys, strings.ToLower(util.PrefixSHA(q.Hash)))
	}
	if q.Format != "" || len(q.PublicKey) > 0 {
		key, err := publicKeyKey(q.Format, q.PublicKey)
		if err != nil {
			return nil, false, &InputError{http.StatusBadRequest, err}
		}
		keys = append(keys, key)
	}
	if q.Email != "" {
		keys = append(keys, strings.ToLower(q.Email))
	}
	if q.Subject != "" {
		keys = append(keys, strings.ToLower(q.Subject))
	}
	if q.Issuer != "" {
		keys = append(keys, strings.ToLower(issuerKey(q.Issuer)))
	}
	return keys, all, nil
}

func publicKeyKey(format string, content []byte) (string, error) {
	factory, err := pki.NewArtifactFactory(pki.Format(format))
	if err != nil {
		return "", fmt.Errorf("public key: %w", err)
	}
	key, err := factory.NewPublicKey(bytes.NewReader(content))
	if err != nil {
		return "", fmt.Errorf("malformed public key: %w", err)
	}
	canonical, err := key.CanonicalValue()
	if err != nil {
		return "", fmt.Errorf("canonicalize public key: %w", err)
	}
	return hexSum(canonical), nil
}
