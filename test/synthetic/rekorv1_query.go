package synthetic

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/go-openapi/runtime"
	"github.com/sigstore/rekor/pkg/generated/models"
	"github.com/sigstore/rekor/pkg/pki/x509"
	"github.com/sigstore/rekor/pkg/types"
	"github.com/transparency-dev/merkle/rfc6962"
)

// maxV1Items is how many entries may be asked for in one request.
const maxV1Items = 10

var (
	uuidPattern = regexp.MustCompile(`^([0-9a-fA-F]{64}|[0-9a-fA-F]{80})$`)
	treePattern = regexp.MustCompile(`^[0-9]+$`)
)

// v1View is the shards at the time of a request.
type v1View []v1Shard

type v1Shard struct {
	*Shard
	start  uint64 // virtual index of the first entry
	frozen []byte // checkpoint; nil for the active shard
}

func (s *RekorV1) view() v1View {
	s.mu.RLock()
	defer s.mu.RUnlock()
	v := make(v1View, len(s.shards))
	start := uint64(0)
	for i, sh := range s.shards {
		v[i] = v1Shard{sh, start, sh.frozen}
		start += sh.Size()
	}
	return v
}

func (v v1View) active() v1Shard { return v[len(v)-1] }

// newestFirst returns the shards as the real server goes through them to find an entry:
// the active one, then the others from the oldest on.
func (v v1View) newestFirst() v1View { return append(v1View{v.active()}, v[:len(v)-1]...) }

func (v v1View) byTreeID(id uint64) (v1Shard, bool) {
	i := slices.IndexFunc(v, func(sh v1Shard) bool { return sh.TreeID == id })
	if i < 0 {
		return v1Shard{}, false
	}
	return v[i], true
}

func (v v1View) info() *models.LogInfo {
	var inactive []*models.InactiveShardLogInfo
	for _, sh := range v[:len(v)-1] {
		size := sh.Size()
		inactive = append(inactive, &models.InactiveShardLogInfo{
			RootHash: new(rootHex(sh.Root(size))), TreeSize: new(int64(size)),
			SignedTreeHead: new(string(sh.frozen)), TreeID: new(strconv.FormatUint(sh.TreeID, 10)),
		})
	}
	sh := v.active()
	size := sh.Size()
	return &models.LogInfo{
		RootHash: new(rootHex(sh.Root(size))), TreeSize: new(int64(size)),
		SignedTreeHead: new(string(sh.Checkpoint(size))), TreeID: new(strconv.FormatUint(sh.TreeID, 10)),
		InactiveShards: inactive,
	}
}

func (v v1View) keyOwner(treeID string) (v1Shard, error) {
	if treeID == "" {
		return v.active(), nil
	}
	if !treePattern.MatchString(treeID) {
		return v1Shard{}, refuse(605, "treeID in query should match '%v'", treePattern)
	}
	id, err := strconv.ParseInt(treeID, 10, 64)
	sh, ok := v.byTreeID(uint64(id))
	if err != nil || !ok {
		return v1Shard{}, refuse(http.StatusBadRequest, "Bad Request")
	}
	return sh, nil
}

func (v v1View) consistency(firstSize, lastSize []string, treeID string) (*models.ConsistencyProof, error) {
	first := int64(1)
	if len(firstSize) > 0 && firstSize[len(firstSize)-1] != "" {
		var err error
		if first, err = parseInt("firstSize", firstSize, 1); err != nil {
			return nil, err
		}
	}
	last, err := parseInt("lastSize", lastSize, 1)
	if err != nil {
		return nil, err
	}
	if treeID != "" && !treePattern.MatchString(treeID) {
		return nil, refuse(605, "treeID in query should match '%v'", treePattern)
	}
	if first > last {
		return nil, refuse(http.StatusBadRequest, "firstSize(%d) must be less than lastSize(%d)", first, last)
	}
	sh := v.active()
	if treeID != "" {
		id, err := strconv.ParseInt(treeID, 10, 64)
		if err != nil {
			return nil, refuse(http.StatusBadRequest, "invalid tree ID specified: %s", treeID)
		}
		var ok bool
		if sh, ok = v.byTreeID(uint64(id)); !ok {
			return nil, refuse(http.StatusBadRequest, "no log range found for tree ID %d", id)
		}
	}
	size := sh.Size()
	if uint64(last) > size {
		return nil, refuse(http.StatusBadRequest, "the tree size requested(%d) was greater than what is currently observable(%d)", last, size)
	}
	return &models.ConsistencyProof{
		Hashes:   hexes(sh.Consistency(uint64(first), uint64(last))),
		RootHash: new(rootHex(sh.Root(size))), // of the present size, whatever was asked for
	}, nil
}

func (sh v1Shard) entry(index uint64) models.LogEntry {
	uuid, e := sh.answer(index, sh.start, sh.frozen)
	return models.LogEntry{uuid: e}
}

func (v v1View) byIndex(index int64) (models.LogEntry, error) {
	for _, sh := range slices.Backward(v) {
		if uint64(index) >= sh.start {
			if at := uint64(index) - sh.start; at < sh.Size() {
				return sh.entry(at), nil
			}
			break
		}
	}
	return nil, errNoEntry
}

func (v v1View) byUUID(uuid string) (models.LogEntry, error) {
	if !uuidPattern.MatchString(uuid) {
		return nil, refuse(605, "entryUUID in path should match '%v'", uuidPattern)
	}
	shards := v.newestFirst()
	if len(uuid) == 80 {
		id, err := strconv.ParseInt(uuid[:16], 16, 64)
		switch {
		case err != nil:
			return nil, refuse(http.StatusBadRequest, "validation error: %s is not a valid TreeID", uuid[:16])
		case id == 0:
			return nil, refuse(http.StatusInternalServerError, "unexpected error communicating with transparency log")
		}
		sh, ok := v.byTreeID(uint64(id))
		if !ok {
			return nil, errNoEntry
		}
		shards, uuid = v1View{sh}, uuid[16:]
	}
	if found := shards.byLeaf(leafOf(uuid)); len(found) > 0 {
		return found[0], nil
	}
	return nil, errNoEntry
}

// byLeaf returns the entry of every shard that holds the leaf.
func (v v1View) byLeaf(leaf [32]byte) (found []models.LogEntry) {
	for _, sh := range v {
		if index, ok := sh.Find(leaf); ok {
			found = append(found, sh.entry(index))
		}
	}
	return found
}

// leafOf decodes 64 hex digits.
func leafOf(digits string) (leaf [32]byte) {
	hex.Decode(leaf[:], []byte(digits))
	return leaf
}

func (v v1View) retrieve(ctx context.Context, asked *models.SearchLogQuery) ([]models.LogEntry, error) {
	if len(asked.EntryUUIDs)+len(asked.Entries())+len(asked.LogIndexes) > maxV1Items {
		return nil, refuse(http.StatusUnprocessableEntity, "more than max allowed %d entries in request", maxV1Items)
	}
	found := []models.LogEntry{} // never null in JSON
	var leaves [][32]byte        // those looked for in every shard come after those of one
	for _, uuid := range asked.EntryUUIDs {
		if len(uuid) == 64 {
			leaves = append(leaves, leafOf(uuid))
			continue
		}
		if id, err := strconv.ParseInt(uuid[:16], 16, 64); err != nil || id == 0 {
			return nil, refuse(http.StatusBadRequest, "invalid entryID %s", uuid)
		}
		if e, err := v.byUUID(uuid); err == nil {
			found = append(found, e)
		}
	}
	for _, proposed := range asked.Entries() {
		entry, err := types.UnmarshalEntry(proposed)
		if err != nil {
			return nil, refuse(http.StatusBadRequest, "%v", err)
		}
		body, err := types.CanonicalizeEntry(ctx, entry)
		if err != nil {
			return nil, refuse(http.StatusBadRequest, "%v", err)
		}
		leaves = append(leaves, [32]byte(rfc6962.DefaultHasher.HashLeaf(body)))
	}
	for _, leaf := range leaves {
		found = append(found, v.newestFirst().byLeaf(leaf)...)
	}
	for _, index := range asked.LogIndexes {
		var at int64 // null is 0
		if index != nil {
			at = *index
		}
		if e, err := v.byIndex(at); err == nil {
			found = append(found, e)
		}
	}
	return found, nil
}

// unmarshalEntry reads a proposed or logged entry by rekor's own types.
func unmarshalEntry(body []byte) (types.EntryImpl, error) {
	proposed, err := models.UnmarshalProposedEntry(bytes.NewReader(body), runtime.JSONConsumer())
	if err != nil {
		return nil, err
	}
	return types.UnmarshalEntry(proposed)
}

// search looks up search keys; of public keys it knows the x509 format only.
func (s *RekorV1) search(asked *models.SearchIndex) ([]string, error) {
	var keys []string
	if asked.Hash != "" {
		prefix := map[int]string{40: "sha1:", 64: "sha256:", 128: "sha512:"}[len(asked.Hash)] // "" if it has one
		keys = append(keys, prefix+asked.Hash)
	}
	if asked.PublicKey != nil {
		if *asked.PublicKey.Format != "x509" {
			return nil, refuse(http.StatusBadRequest, "the PKI format requested is not supported by this server")
		}
		key, err := x509.NewPublicKey(bytes.NewReader(asked.PublicKey.Content))
		if err != nil {
			return nil, refuse(http.StatusBadRequest, "public key provided could not be parsed")
		}
		canonical, err := key.CanonicalValue()
		if err != nil {
			return nil, refuse(http.StatusInternalServerError, "error generating canonicalized public key")
		}
		keys = append(keys, fmt.Sprintf("%x", sha256.Sum256(canonical)))
	}
	for _, key := range []string{asked.Email.String(), asked.Subject} {
		if key != "" {
			keys = append(keys, key)
		}
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	found := []string{}
	hits := map[string]int{}
	for _, key := range keys {
		for _, uuid := range s.index[strings.ToLower(key)] {
			if hits[uuid]++; hits[uuid] == 1 {
				found = append(found, uuid)
			}
		}
	}
	if asked.Operator == "and" {
		found = slices.DeleteFunc(found, func(uuid string) bool { return hits[uuid] < len(keys) })
	}
	return found, nil
}
