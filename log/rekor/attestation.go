package rekor

import (
	"encoding/json"
	"maps"
	"slices"
	"strings"
)

// Attestation returns what a canonical dsse or intoto entry is about: the hash of the payload
// that was signed, as "algorithm:hex". cosign asks for an attestation in both forms at once,
// since it cannot know in which it was logged. It is empty for other kinds.
func Attestation(body []byte) string {
	if kind, hash := attested(body); kind != "cose" {
		return hash
	}
	return ""
}

// AttestationHash returns the hash of what Rekor may store beside a canonical entry, as
// "algorithm:hex": of the payload of a dsse or intoto entry, and of the message of a cose one.
// It is empty for other kinds.
func AttestationHash(body []byte) string {
	_, hash := attested(body)
	return hash
}

func attested(body []byte) (kind, hash string) {
	type digest struct {
		Algorithm string `json:"algorithm"`
		Value     string `json:"value"`
	}
	var e struct {
		Kind string `json:"kind"`
		Spec struct {
			PayloadHash digest `json:"payloadHash"` // dsse
			Content     struct {
				PayloadHash digest `json:"payloadHash"` // intoto
			} `json:"content"`
			Data struct {
				EnvelopeHash digest `json:"envelopeHash"` // cose
			} `json:"data"`
		} `json:"spec"`
	}
	if err := json.Unmarshal(body, &e); err != nil {
		return "", ""
	}
	d := map[string]digest{
		"dsse": e.Spec.PayloadHash, "intoto": e.Spec.Content.PayloadHash, "cose": e.Spec.Data.EnvelopeHash,
	}[e.Kind]
	if d.Value == "" {
		return e.Kind, ""
	}
	return e.Kind, d.Algorithm + ":" + d.Value
}

const (
	maxDigestKey     = 256 // characters; no digest is that long
	maxStatementKeys = 256 // of one attestation: whoever signs it chooses how many there are
)

// StatementKeys returns the search keys of an attestation that was stored beside an entry: the
// digests of the subjects of an in-toto statement, then of the materials of its predicate, as
// Rekor has them; the first maxStatementKeys. They are those of SearchKeys that the entry alone
// does not show.
func StatementKeys(attestation []byte) (keys []string) {
	type digests []struct {
		Digest map[string]string `json:"digest"`
	}
	var statement struct {
		Subject   digests         `json:"subject"`
		Predicate json.RawMessage `json:"predicate"`
	}
	if len(attestation) == 0 || json.Unmarshal(attestation, &statement) != nil {
		return nil
	}
	var predicate struct {
		Materials digests `json:"materials"`
	}
	if len(statement.Predicate) > 0 && json.Unmarshal(statement.Predicate, &predicate) != nil {
		predicate.Materials = nil
	}
	known := map[string]bool{}
	for _, list := range []digests{statement.Subject, predicate.Materials} {
		for _, d := range list {
			for _, algorithm := range slices.Sorted(maps.Keys(d.Digest)) {
				if len(keys) == maxStatementKeys {
					return keys
				}
				if key := strings.ToLower(algorithm + ":" + d.Digest[algorithm]); len(key) <= maxDigestKey && !known[key] {
					known[key] = true
					keys = append(keys, key)
				}
			}
		}
	}
	return keys
}
