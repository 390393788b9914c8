package mirror

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"

	"github.com/understudy-log/understudy/log/rekor"
	"github.com/understudy-log/understudy/storage"
)

// Limits of Rekor v1's API (rekor, openapi.yaml) and of its answers.
const (
	retrieveLimit  = 10       // items of one entries/retrieve
	maxLogInfo     = 1 << 20  // bytes
	maxProofAnswer = 64 << 10 // bytes; a proof has at most 64 hashes and a bit
	maxEntryAnswer = 32 << 20
	maxSearch      = 16 << 20
)

// rekorAPI is a source that speaks Rekor v1's API. It verifies nothing but the form of what
// it reads.
type rekorAPI struct {
	*fetcher
	flight *flight // bounds the bytes of entries that are being read
}

// newRekorAPI returns the source twice: for log info, which tells whether upstream is there, and
// quiet for everything else.
func newRekorAPI(f *fetcher) (polls, work *rekorAPI) {
	quiet := *f
	quiet.quiet = true
	bytes := newFlight(0, aheadBytes)
	return &rekorAPI{f, bytes}, &rekorAPI{&quiet, bytes}
}

// shardInfo is what log info says of one shard.
type shardInfo struct {
	treeID     uint64
	checkpoint []byte
	active     bool
	since      uint64 // tree size that was known when it was asked for
}

// info reads the newest checkpoints of all shards, oldest shard first.
func (a *rekorAPI) info(ctx context.Context) ([]shardInfo, error) {
	raw, err := a.get(ctx, "log", "/api/v1/log", maxLogInfo, nil)
	if err != nil {
		return nil, fmt.Errorf("read log info: %w", err)
	}
	return parseInfo(raw)
}

func parseInfo(raw []byte) ([]shardInfo, error) {
	type head struct {
		TreeID         string `json:"treeID"`
		SignedTreeHead string `json:"signedTreeHead"`
	}
	var answer struct {
		head
		InactiveShards []head `json:"inactiveShards"`
	}
	if err := decodeAnswer(raw, &answer); err != nil {
		return nil, fmt.Errorf("read log info: %w", err)
	}
	var shards []shardInfo
	for i, h := range append(answer.InactiveShards, answer.head) {
		id, err := parseTreeID(h.TreeID)
		if err != nil {
			return nil, fmt.Errorf("read log info: %w", err)
		}
		for _, other := range shards {
			if other.treeID == id {
				return nil, fmt.Errorf("read log info: %w", &FormatError{fmt.Sprintf("tree %d is listed twice", id)})
			}
		}
		shards = append(shards, shardInfo{treeID: id, checkpoint: []byte(h.SignedTreeHead), active: i == len(answer.InactiveShards)})
	}
	return shards, nil
}

func parseTreeID(s string) (uint64, error) {
	id, err := strconv.ParseUint(s, 10, 63)
	if err != nil || id == 0 || strconv.FormatUint(id, 10) != s {
		return 0, &FormatError{fmt.Sprintf("%q is no tree ID", s)}
	}
	return id, nil
}

// consistency reads the consistency proof between two sizes of a shard, 0 < first < last.
func (a *rekorAPI) consistency(ctx context.Context, treeID, first, last uint64) ([]storage.Hash, error) {
	var answer struct {
		Hashes []string `json:"hashes"`
	}
	path := fmt.Sprintf("/api/v1/log/proof?firstSize=%d&lastSize=%d&treeID=%d", first, last, treeID)
	if err := a.getJSON(ctx, "proof", path, maxProofAnswer, &answer); err != nil {
		return nil, fmt.Errorf("read consistency proof from size %d to %d: %w", first, last, err)
	}
	hashes := make([]storage.Hash, len(answer.Hashes))
	for i, text := range answer.Hashes {
		raw, err := hex.DecodeString(text)
		if err != nil || len(raw) != storage.HashSize {
			return nil, fmt.Errorf("read consistency proof from size %d to %d: %w", first, last, &FormatError{fmt.Sprintf("hash %d is malformed", i)})
		}
		hashes[i] = storage.Hash(raw)
	}
	return hashes, nil
}

// entries reads up to retrieveLimit entries. Those that upstream does not have are left out;
// one that was not asked for is an error. (The API's other ways to an entry answer 404, which
// anything in between may do as well.)
func (a *rekorAPI) entries(ctx context.Context, refs []EntryRef) ([]rekor.Item, error) {
	var ask struct {
		LogIndexes []uint64 `json:"logIndexes,omitempty"`
		EntryUUIDs []string `json:"entryUUIDs,omitempty"`
	}
	for _, ref := range refs {
		if ref.UUID != nil {
			ask.EntryUUIDs = append(ask.EntryUUIDs, ref.UUID.String())
		} else {
			ask.LogIndexes = append(ask.LogIndexes, ref.Index)
		}
	}
	body, err := json.Marshal(ask)
	if err != nil {
		return nil, err
	}
	read := share{flight: a.flight, bundle: 1} // which is never the one that is needed next
	defer read.free()
	raw, err := a.post(ctx, "retrieve", "/api/v1/log/entries/retrieve", body, maxEntryAnswer, &read)
	if err != nil {
		return nil, fmt.Errorf("retrieve %d entries: %w", len(refs), err)
	}
	items, err := rekor.ParseAnswers(raw)
	if err != nil {
		return nil, fmt.Errorf("retrieve %d entries: %w", len(refs), &FormatError{err.Error()})
	}
	for i := range items {
		if !slices.ContainsFunc(refs, func(ref EntryRef) bool { return ref.names(&items[i]) }) {
			return nil, &EntryError{Entry: items[i].UUID.String(), Problem: fmt.Sprintf("with the virtual index %d was given and not asked for", items[i].Entry.LogIndex)}
		}
	}
	return items, nil
}

// search asks for the UUIDs of entries.
func (a *rekorAPI) search(ctx context.Context, q rekor.Query) ([]rekor.UUID, error) {
	type publicKey struct {
		Format  string `json:"format"`
		Content []byte `json:"content"`
	}
	ask := struct {
		Hash      string     `json:"hash,omitempty"`
		Email     string     `json:"email,omitempty"`
		Subject   string     `json:"subject,omitempty"`
		PublicKey *publicKey `json:"publicKey,omitempty"`
		Operator  string     `json:"operator,omitempty"`
	}{Hash: q.Hash, Email: q.Email, Subject: q.Subject, Operator: q.Operator}
	if len(q.PublicKey) > 0 {
		ask.PublicKey = &publicKey{q.Format, q.PublicKey}
	}
	query, err := json.Marshal(ask)
	if err != nil {
		return nil, err
	}
	raw, err := a.post(ctx, "search", "/api/v1/index/retrieve", query, maxSearch, nil)
	if err != nil {
		return nil, fmt.Errorf("search: %w", err)
	}
	var names []string
	if err := json.Unmarshal(raw, &names); err != nil {
		return nil, fmt.Errorf("search: %w", &FormatError{err.Error()})
	}
	var uuids []rekor.UUID
	for _, name := range names {
		uuid, err := rekor.ParseUUID(name)
		if err != nil {
			return nil, fmt.Errorf("search: %w", &FormatError{err.Error()})
		}
		uuids = append(uuids, uuid)
	}
	return uuids, nil
}

func (a *rekorAPI) getJSON(ctx context.Context, kind, path string, limit int64, v any) error {
	raw, err := a.get(ctx, kind, path, limit, nil)
	if err != nil {
		return err
	}
	return decodeAnswer(raw, v)
}

func decodeAnswer(raw []byte, v any) error {
	d := json.NewDecoder(bytes.NewReader(raw))
	if err := d.Decode(v); err != nil {
		return &FormatError{fmt.Sprintf("answer is not the JSON of Rekor's API (%v): look at what stands between here and the log", err)}
	}
	return nil
}

// provenTree is the signedTree of a shard, read as consistency proofs.
type provenTree struct {
	api    *rekorAPI
	treeID uint64
	head   storage.Head
	proofs map[uint64][]storage.Hash // from a size to head, as received
}

// tree returns the tree of a signed head as upstream proves it.
func (a *rekorAPI) tree(treeID uint64, head storage.Head) *provenTree {
	return &provenTree{api: a, treeID: treeID, head: head, proofs: map[uint64][]storage.Hash{}}
}

func (t *provenTree) consistencyFrom(ctx context.Context, size uint64) ([]storage.Hash, error) {
	if size == 0 || size == t.head.Size {
		return nil, nil
	}
	if proof, ok := t.proofs[size]; ok {
		return proof, nil
	}
	proof, err := t.api.consistency(ctx, t.treeID, size, t.head.Size)
	if err == nil {
		t.proofs[size] = proof
	}
	return proof, err
}

// rootAt needs one proof where the claim is right. Otherwise the root comes out of the proof,
// if that gives the root of the head; one that gives nothing proves nothing.
func (t *provenTree) rootAt(ctx context.Context, size uint64, claimed storage.Hash) (storage.Hash, error) {
	proof, err := t.consistencyFrom(ctx, size)
	if err != nil {
		return storage.Hash{}, err
	}
	if storage.VerifyConsistency(storage.Head{Size: size, Root: claimed}, t.head, proof) == nil {
		return claimed, nil
	}
	if size == 0 || size >= t.head.Size {
		return t.head.Root, nil
	}
	root, err := storage.RootFromConsistency(size, size, t.head, proof)
	if err != nil && size > 1 { // of a power of two the proof does not contain the root; that of a neighbour does
		near := size + 1
		if near == t.head.Size {
			near = size - 1
		}
		if proof, err = t.consistencyFrom(ctx, near); err != nil {
			return storage.Hash{}, err
		}
		root, err = storage.RootFromConsistency(size, near, t.head, proof)
	}
	if err != nil {
		return storage.Hash{}, &ProofError{Problem: fmt.Sprintf("consistency of size %d with the signed size %d is not proven: %v", size, t.head.Size, err)}
	}
	return root, nil
}

// ProofError says that a proof that upstream gave does not prove what it should. It is no
// evidence: the proof may be what is wrong.
type ProofError struct{ Problem string }

func (e *ProofError) Error() string { return e.Problem }
