package rekor

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	protorekor "github.com/sigstore/protobuf-specs/gen/pb-go/rekor/v1"
	"github.com/sigstore/rekor/pkg/generated/models"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/understudy-log/understudy/storage"
)

// Import is one entry that a file names. Nothing of it is verified but that the body hashes
// to the UUID, where both are given.
type Import struct {
	Entry   *Entry // nil if the file only names it; Proof is nil where there is none
	UUID    *UUID  // nil if the file does not give it
	Skipped error  // why this entry of the file is no import; the others are nil then
}

// errV2 is the reason why entries of Rekor v2 are skipped.
var errV2 = errors.New("an entry of Rekor v2: its log is mirrored as a whole, it needs no pin")

// ParseBundle reads a file that is to be pinned: JSON, or a list of JSON values, in which it
// finds, however deep, and in strings that are JSON themselves,
//
//   - the log entries of Sigstore bundles (v0.1 to v0.3) and PEP 740 attestations,
//   - the "rekorBundle" of cosign's older bundles and signature images,
//   - what Rekor's API answered, {uuid: entry};
//
// or else text with one UUID a line, where # begins a comment. Imports come in the order of
// the file, but for the fields of one JSON object: those in the order of their names. A file
// with an entry that is malformed, or with none at all, is an error.
func ParseBundle(data []byte) ([]Import, error) {
	if len(data) > maxAnswer {
		return nil, fmt.Errorf("file of %d bytes, want at most %d", len(data), maxAnswer)
	}
	var imports []Import
	var err error
	if text := bytes.TrimSpace(data); len(text) > 0 && (text[0] == '{' || text[0] == '[') {
		imports, err = parseJSONBundle(text)
	} else {
		imports, err = parseUUIDs(string(text))
	}
	if err != nil {
		return nil, err
	}
	if len(imports) == 0 {
		return nil, errors.New("no log entry in it; want a Sigstore bundle, an answer of Rekor, or UUIDs")
	}
	return imports, nil
}

func parseUUIDs(text string) ([]Import, error) {
	var imports []Import
	n := 0
	for line := range strings.Lines(text) {
		n++
		line, _, _ = strings.Cut(line, "#")
		if line = strings.TrimSpace(line); line == "" {
			continue
		}
		uuid, err := ParseUUID(line)
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", n, err)
		}
		imports = append(imports, Import{UUID: &uuid})
	}
	return imports, nil
}

func parseJSONBundle(data []byte) ([]Import, error) {
	var imports []Import
	d := json.NewDecoder(bytes.NewReader(data))
	d.UseNumber()
	for {
		var value any
		if err := d.Decode(&value); err == io.EOF {
			return imports, nil
		} else if err != nil {
			return nil, fmt.Errorf("parse JSON: %w", err)
		}
		var err error
		if imports, err = appendImports(imports, value); err != nil {
			return nil, err
		}
	}
}

// appendImports walks a JSON value. encoding/json bounds its depth.
func appendImports(imports []Import, value any) ([]Import, error) {
	var err error
	switch value := value.(type) {
	case []any:
		for _, v := range value {
			if imports, err = appendImports(imports, v); err != nil {
				return nil, err
			}
		}
	case map[string]any:
		if imp, ok, err := importOf(value); err != nil {
			return nil, err
		} else if ok {
			return append(imports, imp), nil
		}
		for _, name := range slices.Sorted(maps.Keys(value)) {
			if imports, err = appendField(imports, name, value[name]); err != nil {
				return nil, err
			}
		}
	}
	return imports, nil
}

// appendField looks at one field of an object that is no entry itself.
func appendField(imports []Import, name string, value any) ([]Import, error) {
	// cosign's OCI annotation dev.sigstore.cosign/bundle, and formats around a bundle.
	if text, ok := value.(string); ok && strings.HasPrefix(text, "{") && json.Valid([]byte(text)) {
		inner, err := parseJSONBundle([]byte(text))
		if err != nil {
			return nil, fmt.Errorf("in %q: %w", name, err)
		}
		return append(imports, inner...), nil
	}
	if object, ok := value.(map[string]any); ok && object["body"] != nil && object["logIndex"] != nil {
		if _, err := ParseUUID(name); err == nil {
			answer, err := json.Marshal(map[string]any{name: object})
			if err != nil {
				return nil, err
			}
			items, err := ParseAnswer(answer)
			if err != nil {
				return nil, err
			}
			return append(imports, Import{Entry: &items[0].Entry, UUID: &items[0].UUID}), nil
		}
	}
	return appendImports(imports, value)
}

// importOf reads an object that is an entry itself.
func importOf(object map[string]any) (Import, bool, error) {
	var entry *Entry
	var err error
	switch {
	case object["canonicalizedBody"] != nil && object["logId"] != nil:
		entry, err = fromLogEntry(object)
	case object["SignedEntryTimestamp"] != nil && object["Payload"] != nil:
		entry, err = fromRekorBundle(object)
	default:
		return Import{}, false, nil
	}
	if errors.Is(err, errV2) {
		return Import{Skipped: err}, true, nil
	}
	if err != nil {
		return Import{}, false, fmt.Errorf("log entry: %w", err)
	}
	return Import{Entry: entry}, true, nil
}

// fromLogEntry reads a TransparencyLogEntry message.
func fromLogEntry(object map[string]any) (*Entry, error) {
	data, err := json.Marshal(object)
	if err != nil {
		return nil, err
	}
	var msg protorekor.TransparencyLogEntry
	if err := (protojson.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(data, &msg); err != nil {
		return nil, err
	}
	switch {
	case len(msg.CanonicalizedBody) == 0:
		return nil, errors.New("empty body")
	case isV2(msg.CanonicalizedBody):
		return nil, errV2
	case msg.LogIndex < 0 || msg.IntegratedTime < 0:
		return nil, errors.New("negative index or time")
	case len(msg.GetLogId().GetKeyId()) != storage.HashSize:
		return nil, fmt.Errorf("log ID of %d bytes", len(msg.GetLogId().GetKeyId()))
	}
	e := &Entry{
		Body:           msg.CanonicalizedBody,
		IntegratedTime: msg.IntegratedTime,
		LogID:          hex.EncodeToString(msg.LogId.KeyId),
		LogIndex:       uint64(msg.LogIndex),
	}
	if set := msg.GetInclusionPromise().GetSignedEntryTimestamp(); len(set) > 0 {
		e.SET = set
	}
	if e.Proof, err = proofFromMessage(msg.InclusionProof); err != nil {
		return nil, fmt.Errorf("inclusion proof: %w", err)
	}
	return e, nil
}

func proofFromMessage(msg *protorekor.InclusionProof) (*Proof, error) {
	note := msg.GetCheckpoint().GetEnvelope()
	if note == "" {
		return nil, nil
	}
	p := &Proof{Checkpoint: []byte(note), Hashes: make([]storage.Hash, len(msg.Hashes))}
	var err error
	if p.Index, p.TreeSize, err = checkPlace(msg.LogIndex, msg.TreeSize, len(msg.Hashes)); err != nil {
		return nil, err
	}
	if len(msg.RootHash) != storage.HashSize {
		return nil, fmt.Errorf("root hash of %d bytes", len(msg.RootHash))
	}
	p.RootHash = storage.Hash(msg.RootHash)
	for i, h := range msg.Hashes {
		if len(h) != storage.HashSize {
			return nil, fmt.Errorf("hash of %d bytes", len(h))
		}
		p.Hashes[i] = storage.Hash(h)
	}
	return p, nil
}

// fromRekorBundle reads what cosign kept of Rekor's answer before there were bundles.
func fromRekorBundle(object map[string]any) (*Entry, error) {
	data, err := json.Marshal(object)
	if err != nil {
		return nil, err
	}
	var b struct {
		SignedEntryTimestamp []byte
		Payload              models.LogEntryAnon
	}
	if err := json.Unmarshal(data, &b); err != nil {
		return nil, err
	}
	b.Payload.Verification = &models.LogEntryAnonVerification{SignedEntryTimestamp: b.SignedEntryTimestamp}
	return fromModel(&b.Payload)
}
