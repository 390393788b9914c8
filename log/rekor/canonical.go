package rekor

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"

	"github.com/go-openapi/runtime"
	"github.com/go-openapi/strfmt"
	"github.com/sigstore/rekor/pkg/generated/models"
	"github.com/sigstore/rekor/pkg/types"
)

// maxProposed bounds a proposed entry, in bytes of JSON. Rekor has no bound of its own
// unless its operator sets one.
const maxProposed = 32 << 20

// Canonicalize returns the body that the log would store for a proposed entry (the JSON of
// POST log/entries, or one of the entries of POST entries/retrieve), by rekor's own types.
// It never fetches: what a proposal only points at by a URL is missing, and the proposal is
// refused. Every error is an *InputError.
func Canonicalize(ctx context.Context, proposed []byte) (body []byte, err error) {
	defer recoverInto(&err)
	if len(proposed) <= maxProposed {
		if err := boundKeys(proposed); err != nil {
			return nil, err
		}
	}
	entry, err := unmarshalProposed(proposed)
	if err != nil {
		return nil, err
	}
	if err := boundContent(entry); err != nil {
		return nil, &InputError{http.StatusBadRequest, err}
	}
	body, err = types.CanonicalizeEntry(ctx, entry)
	if err != nil {
		return nil, &InputError{http.StatusBadRequest, fmt.Errorf("canonicalize entry: %w", err)}
	}
	return body, nil
}

// recoverInto turns a panic of rekor's types into an error: they dereference what a hostile
// entry leaves out.
func recoverInto(err *error) {
	if r := recover(); r != nil {
		*err = &InputError{http.StatusBadRequest, fmt.Errorf("entry breaks rekor's types: %v", r)}
	}
}

func unmarshalProposed(proposed []byte) (types.EntryImpl, error) {
	if len(proposed) > maxProposed {
		return nil, &InputError{http.StatusRequestEntityTooLarge, fmt.Errorf("entry of %d bytes, want at most %d", len(proposed), maxProposed)}
	}
	model, err := models.UnmarshalProposedEntry(bytes.NewReader(proposed), runtime.JSONConsumer())
	if err != nil {
		return nil, &InputError{http.StatusBadRequest, fmt.Errorf("parse proposed entry: %w", err)}
	}
	if model == nil {
		return nil, &InputError{http.StatusBadRequest, errors.New("parse proposed entry: null")}
	}
	if err := model.Validate(strfmt.Default); err != nil {
		return nil, &InputError{http.StatusUnprocessableEntity, fmt.Errorf("validate proposed entry: %w", err)}
	}
	if err := boundSignatures(model); err != nil {
		return nil, err
	}
	entry, err := types.UnmarshalEntry(model)
	if err != nil {
		return nil, &InputError{http.StatusBadRequest, fmt.Errorf("unmarshal proposed entry: %w", err)}
	}
	return entry, nil
}
