package quorum

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"time"

	"golang.org/x/mod/sumdb/note"
)

// maxSkew is how far the clock of a witness may be ahead of ours.
const maxSkew = 5 * time.Minute

// readLines returns, by witness, the cosignatures in the answer to an add-checkpoint: lines
// without the newline, as they encode. keys are those of the witnesses that were asked, by their
// index in the policy.
//
// SPEC: "The response body MUST be a sequence of one or more note signature lines, each starting
// with the — character (U+2014) and ending with a newline character (U+000A)." (tlog-witness)
func readLines(text string, body []byte, keys map[int]*key, now time.Time) (map[int]string, error) {
	verifiers := make([]note.Verifier, 0, len(keys))
	for _, k := range keys {
		verifiers = append(verifiers, k)
	}
	// SPEC: "To parse the response, the client MAY concatenate it to the checkpoint, and use a note
	// verification function configured with the witness keys it trusts." (tlog-witness)
	n, err := note.Open([]byte(text+"\n"+string(body)), note.VerifierList(verifiers...))
	unverified, isUnverified := errors.AsType[*note.UnverifiedNoteError](err)
	wrong, isWrong := errors.AsType[*note.InvalidSignatureError](err)
	switch {
	case isUnverified && unverified.Note.Text == text:
		return nil, fmt.Errorf("no line of its answer is a cosignature under its name and key; the first is by %.80q with the key ID %08x", unverified.Note.UnverifiedSigs[0].Name, unverified.Note.UnverifiedSigs[0].Hash)
	case isWrong:
		return nil, fmt.Errorf("its cosignature as %s+%08x does not verify", wrong.Name, wrong.Hash)
	case err != nil || n.Text != text: // an empty line in the answer would move the end of the text
		return nil, errors.New("its answer is not made of signature lines")
	}
	lines := map[int]string{}
	// SPEC: "The client MUST ignore any cosignatures from unknown keys." (tlog-witness) They are
	// among n.UnverifiedSigs.
	for _, s := range n.Sigs {
		t, err := timestampOf(s)
		if err != nil {
			return nil, fmt.Errorf("its cosignature is refused: %w", err)
		}
		if t.After(now.Add(maxSkew)) {
			return nil, fmt.Errorf("its cosignature is of %s, which is yet to come: one of the clocks is wrong", t.UTC().Format(time.RFC3339))
		}
		raw, err := base64.StdEncoding.DecodeString(s.Base64)
		if err != nil {
			return nil, err
		}
		for i, k := range keys {
			if matches(k, s) {
				lines[i] = "— " + s.Name + " " + base64.StdEncoding.EncodeToString(raw)
			}
		}
	}
	return lines, nil
}

// textOf returns the text of a signed note; "" if there is no empty line after it.
func textOf(raw []byte) string {
	return string(raw[:bytes.LastIndex(raw, []byte("\n\n"))+1])
}
