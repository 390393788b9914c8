package rekor

import (
	"encoding/json"
	"fmt"
	"net/http"

	"github.com/sigstore/rekor/pkg/generated/models"
	dssev1 "github.com/sigstore/rekor/pkg/types/dsse/v0.0.1"
	intotov2 "github.com/sigstore/rekor/pkg/types/intoto/v0.0.2"
)

// maxVerifications bounds how often a signature of an envelope is verified: each is tried with each key.
// 20 keys and 2,000 signatures, 230 KB of JSON, take seconds; what fits into a request takes hours, and
// nothing ends that.
const maxVerifications = 1024

// boundSignatures refuses a proposed envelope whose signatures and keys are too many for each other.
// What is not as rekor's types want it they refuse themselves.
func boundSignatures(model models.ProposedEntry) error {
	signatures, keys := 0, 0
	switch m := model.(type) {
	case *models.DSSE:
		var schema models.DSSEV001Schema
		var envelope struct {
			Signatures []json.RawMessage `json:"signatures"`
		}
		if dssev1.DecodeEntry(m.Spec, &schema) != nil || schema.ProposedContent == nil || schema.ProposedContent.Envelope == nil ||
			json.Unmarshal([]byte(*schema.ProposedContent.Envelope), &envelope) != nil {
			return nil
		}
		signatures, keys = len(envelope.Signatures), len(schema.ProposedContent.Verifiers)
	case *models.Intoto:
		var schema models.IntotoV002Schema
		if intotov2.DecodeEntry(m.Spec, &schema) != nil || schema.Content == nil || schema.Content.Envelope == nil || len(schema.Content.Envelope.Payload) == 0 {
			return nil // or a stored one, with which nothing is verified
		}
		signatures = len(schema.Content.Envelope.Signatures)
		keys = signatures
	}
	if signatures > 0 && keys > maxVerifications/signatures {
		return &InputError{http.StatusBadRequest, fmt.Errorf("error processing entry: an envelope with %d signatures and %d keys: at most %d pairs of them are verified", signatures, keys, maxVerifications)}
	}
	return nil
}
