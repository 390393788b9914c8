package rekor

import (
	"bytes"
	"context"
	"crypto"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"

	openapi "github.com/go-openapi/errors"
	"github.com/go-openapi/runtime"
	"github.com/go-openapi/strfmt"
	common "github.com/sigstore/protobuf-specs/gen/pb-go/common/v1"
	"github.com/sigstore/rekor/pkg/generated/models"
	"github.com/sigstore/rekor/pkg/types"
	hashedrekord "github.com/sigstore/rekor/pkg/types/hashedrekord/v0.0.1"
	"github.com/sigstore/sigstore/pkg/signature"
)

// Proposal is what a log takes of an entry that was proposed to it and found good.
type Proposal struct {
	Body []byte   // canonical: the leaf
	Keys []string // search keys that only the proposal shows; not those of SearchKeys(Body)
	Kind string   // "hashedrekord", "dsse", …
}

// maxProposedKeys bounds Proposal.Keys: whoever signs a statement chooses how many subjects it
// has, and all are kept beside the entry.
const maxProposedKeys = 256

// Propose does with the JSON of POST log/entries what the server of Rekor v1 does before it
// logs: it verifies the signature over the content, and the algorithms of a hashedrekord
// against the default of Rekor's client-signing-algorithms, and returns the canonical body. Like
// Canonicalize it never fetches. Every error is an *InputError, whose text is the message that
// Rekor's API gives.
func Propose(ctx context.Context, proposed []byte) (*Proposal, error) {
	p := &Proposal{Kind: "hashedrekord"}
	var ok bool
	if p.Body, ok = fastPropose(proposed); !ok {
		var err error
		if p, err = slowPropose(ctx, proposed); err != nil {
			return nil, err
		}
	}
	// A certificate can have more names than all other entries of a day, and each is a row of the index.
	if len(p.Body) > plainBody && len(SearchKeys(p.Body)) > maxBodyKeys {
		return nil, refuseEntry(fmt.Errorf("more than %d names in its certificates", maxBodyKeys))
	}
	return p, nil
}

const (
	plainBody   = 64 << 10 // bytes; no body of this size has more keys than maxBodyKeys by far
	maxBodyKeys = 1024
)

// slowPropose is Propose by rekor's types alone.
func slowPropose(ctx context.Context, proposed []byte) (p *Proposal, err error) {
	defer recoverInto(&err)
	model, err := parseProposed(proposed)
	if err != nil {
		return nil, err
	}
	if err := boundKeys(proposed); err != nil {
		return nil, err
	}
	if err := boundSignatures(model); err != nil {
		return nil, err
	}
	entry, err := types.CreateVersionedEntry(model)
	if err != nil {
		return nil, refuseEntry(err)
	}
	if err := boundContent(entry); err != nil {
		return nil, refuseEntry(err)
	}
	if err := checkAlgorithms(entry); err != nil {
		return nil, refuseEntry(err)
	}
	body, err := types.CanonicalizeEntry(ctx, entry)
	if err != nil {
		if _, invalid := errors.AsType[*types.InputValidationError](err); invalid {
			return nil, refuseEntry(err)
		}
		return nil, &InputError{http.StatusBadRequest, fmt.Errorf("error generating canonicalized entry: %w", err)}
	}
	keys, _ := entry.IndexKeys() // on an error: those before it
	return &Proposal{Body: body, Keys: proposedKeys(keys, body), Kind: model.Kind()}, nil
}

// refuseEntry gives an error the words of Rekor's API.
func refuseEntry(err error) error {
	return &InputError{http.StatusBadRequest, fmt.Errorf("error processing entry: %w", err)}
}

// parseProposed reads a proposed entry and checks it against Rekor's schema.
func parseProposed(proposed []byte) (models.ProposedEntry, error) {
	if len(proposed) > maxProposed {
		return nil, &InputError{http.StatusRequestEntityTooLarge, fmt.Errorf("entry of %d bytes, want at most %d", len(proposed), maxProposed)}
	}
	model, err := models.UnmarshalProposedEntry(bytes.NewReader(proposed), runtime.JSONConsumer())
	if errors.Is(err, io.EOF) {
		err = openapi.Required("proposedEntry", "body", "")
	}
	if err == nil {
		err = model.Validate(strfmt.Default)
	}
	if err == nil {
		return model, nil
	}
	// Rekor shows the first of several errors, and has the status 500 for what is no JSON.
	for {
		composite, ok := errors.AsType[*openapi.CompositeError](err)
		if !ok || len(composite.Errors) == 0 {
			break
		}
		err = composite.Errors[0]
	}
	if _, schema := errors.AsType[openapi.Error](err); schema {
		return nil, &InputError{http.StatusUnprocessableEntity, err}
	}
	return nil, refuseEntry(err)
}

// errAlgorithms is Rekor's answer to a key or hash that it does not allow.
var errAlgorithms = errors.New("entry algorithms are not allowed")

// algorithms are those that Rekor, v1 and v2, allows by default to who signs an entry.
var algorithms = sync.OnceValue(func() *signature.AlgorithmRegistryConfig {
	registry, err := signature.NewAlgorithmRegistryConfig([]common.PublicKeyDetails{
		common.PublicKeyDetails_PKIX_RSA_PKCS1V15_2048_SHA256,
		common.PublicKeyDetails_PKIX_RSA_PKCS1V15_3072_SHA256,
		common.PublicKeyDetails_PKIX_RSA_PKCS1V15_4096_SHA256,
		common.PublicKeyDetails_PKIX_ECDSA_P256_SHA_256,
		common.PublicKeyDetails_PKIX_ECDSA_P384_SHA_384,
		common.PublicKeyDetails_PKIX_ECDSA_P521_SHA_512,
		common.PublicKeyDetails_PKIX_ED25519,
		common.PublicKeyDetails_PKIX_ED25519_PH,
	})
	if err != nil {
		panic(err) // sigstore does not know its own algorithms
	}
	return registry
})

// checkAlgorithms refuses keys and hashes that are not allowed. Rekor looks at those of
// hashedrekord alone.
func checkAlgorithms(entry types.EntryImpl) error {
	if _, ok := entry.(*hashedrekord.V001Entry); !ok {
		return nil
	}
	verifiers, err := entry.Verifiers()
	if err != nil {
		return err
	}
	hash := crypto.SHA256
	if digest, err := entry.ArtifactHash(); err == nil {
		switch algorithm, _, _ := strings.Cut(digest, ":"); algorithm {
		case "sha384":
			hash = crypto.SHA384
		case "sha512":
			hash = crypto.SHA512
		}
	}
	for _, v := range verifiers {
		identities, err := v.Identities()
		if err != nil {
			return err
		}
		for _, id := range identities {
			key := crypto.PublicKey(id.Crypto)
			if cert, ok := key.(*x509.Certificate); ok {
				key = cert.PublicKey
			}
			permitted, err := algorithms().IsAlgorithmPermitted(key, hash)
			if err != nil {
				return fmt.Errorf("checking if algorithm is permitted: %w", err)
			}
			if !permitted {
				return errAlgorithms
			}
		}
	}
	return nil
}

// proposedKeys returns the keys of a proposed entry that the body does not have itself: the
// first maxProposedKeys, in the form of SearchKeys.
func proposedKeys(keys []string, body []byte) []string {
	known := map[string]bool{}
	for _, k := range SearchKeys(body) {
		known[k] = true
	}
	var fresh []string
	for i := range keys {
		one := normalize(keys[i : i+1 : i+1])
		if len(one) == 1 && !known[one[0]] && len(fresh) < maxProposedKeys {
			known[one[0]] = true
			fresh = append(fresh, one[0])
		}
	}
	return normalize(fresh)
}
