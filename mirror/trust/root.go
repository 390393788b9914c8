package trust

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"net/url"
	"os"
	"slices"
	"time"

	"github.com/sigstore/sigstore-go/pkg/root"
)

// Root is a Sigstore TrustedRoot: the keys of logs and everything else that
// verifying a Sigstore bundle needs.
type Root struct {
	material *root.TrustedRoot
	keys     []Key // by start of validity, then log ID
}

// LoadRoot reads the TrustedRoot JSON in the file path.
func LoadRoot(path string) (*Root, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read trusted root: %w", err)
	}
	r, err := ParseRoot(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return r, nil
}

// ParseRoot reads a TrustedRoot in JSON (protobuf-specs,
// sigstore_trustroot.proto, media type version 0.1).
func ParseRoot(json []byte) (*Root, error) {
	material, err := root.NewTrustedRootFromJSON(json)
	if err != nil {
		return nil, fmt.Errorf("parse trusted root: %w", err)
	}
	r := &Root{material: material}
	for _, l := range material.RekorLogs() {
		base, err := url.Parse(l.BaseURL)
		if err != nil {
			return nil, fmt.Errorf("parse trusted root: baseUrl of a log: %w", err)
		}
		if err := supported(l.PublicKey); err != nil {
			return nil, fmt.Errorf("parse trusted root: key of %s: %w", l.BaseURL, err)
		}
		r.keys = append(r.keys, Key{
			Name:   base.Hostname(),
			LogID:  l.ID,
			Start:  l.ValidityPeriodStart,
			End:    l.ValidityPeriodEnd,
			public: l.PublicKey,
		})
	}
	slices.SortFunc(r.keys, func(a, b Key) int {
		return cmp.Or(a.Start.Compare(b.Start), bytes.Compare(a.LogID, b.LogID))
	})
	return r, nil
}

// Material is the TrustedRoot for sigstore-go's verifier of bundles.
func (r *Root) Material() *root.TrustedRoot { return r.material }

// Keys returns the keys that may sign checkpoints of origin: those whose baseUrl
// has origin as its host name (Rekor v2), or the host of a Rekor v1 origin
// "host - treeID". It is empty when the root knows none.
func (r *Root) Keys(origin string) []Key {
	host, _ := rekorV1Host(origin)
	return r.filter(func(k Key) bool { return k.Name != "" && k.Name == host })
}

// Shard is a Rekor v2 log of a TrustedRoot.
type Shard struct {
	Origin string // the host in URL
	URL    string // the log's baseUrl
	LogID  []byte
	Start  time.Time
}

// Shards returns the Rekor v2 logs, the oldest first: those whose log ID is no hash of their key alone.
func (r *Root) Shards() (shards []Shard) {
	logs := r.material.RekorLogs()
	for _, key := range r.filter(func(k Key) bool { return k.Name != "" && !k.rekorV1() }) {
		shards = append(shards, Shard{key.Name, logs[hex.EncodeToString(key.LogID)].BaseURL, key.LogID, key.Start})
	}
	return shards
}

// Open is the Open of a checkpoint whose origin is learned from the note itself.
// The origin must be one that Keys knows, or the note must be signed by a Rekor v1
// key (one whose log ID is the SHA-256 of its SPKI), which may call itself
// anything: the first shard wrote "Rekor".
func (r *Root) Open(raw []byte) (*Checkpoint, error) {
	origin, err := Origin(raw)
	if err != nil {
		return nil, err
	}
	keys := r.Keys(origin)
	if len(keys) == 0 {
		keys = r.filter(Key.rekorV1)
	}
	return Open(raw, origin, keys)
}

func (r *Root) filter(keep func(Key) bool) []Key {
	var keys []Key
	for _, k := range r.keys {
		if keep(k) {
			keys = append(keys, k)
		}
	}
	return keys
}

// rekorV1 reports whether the log ID of k is that of a Rekor v1 key.
func (k Key) rekorV1() bool {
	spki, err := x509.MarshalPKIXPublicKey(k.public)
	if err != nil || k.Name == "" {
		return false
	}
	sum := sha256.Sum256(spki)
	return bytes.Equal(k.LogID, sum[:])
}
