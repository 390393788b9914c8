package synthetic

import (
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	// The kinds of entry that RekorV1 canonicalises.
	_ "github.com/sigstore/rekor/pkg/types/dsse/v0.0.1"
	_ "github.com/sigstore/rekor/pkg/types/hashedrekord/v0.0.1"
	_ "github.com/sigstore/rekor/pkg/types/intoto/v0.0.2"
)

// RekorV1 is a Rekor v1 service in memory: several shards with their own keys, of which
// the last is active, behind the read API of rekor-server 1.5.4 at the root of its URL.
// Entries get into it by its methods only. It may be used by many goroutines.
type RekorV1 struct {
	Host string // of its URL, its origins and its signature lines
	URL  string // without a slash at the end

	mu       sync.RWMutex
	shards   []*Shard            // oldest first
	index    map[string][]string // UUIDs by search key
	faults   []Fault
	requests []Request
	refusing bool
}

// NewRekorV1 makes a service with one empty shard.
func NewRekorV1(host string) *RekorV1 {
	s := &RekorV1{Host: host, URL: "http://" + host, index: map[string][]string{}}
	s.RollOver(RekorKey(host, 0))
	return s
}

// RollOver makes the active shard inactive, if there is one, and starts an empty one
// with the given key, whose name must be the host; nil keeps the last key.
func (s *RekorV1) RollOver(key *Key) *Shard {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := len(s.shards)
	if n > 0 {
		last := s.shards[n-1]
		last.frozen = last.Checkpoint(last.Size())
		if key == nil {
			key = last.Key
		}
	}
	id := binary.BigEndian.Uint64(hashOf(fmt.Sprintf("tree %d of %s", n, s.Host))) >> 1
	sh := &Shard{TreeID: id, Key: key, history: &history{places: map[[32]byte]uint64{}}}
	s.shards = append(s.shards, sh)
	return sh
}

// Restart signs the checkpoints of the inactive shards again, as a restart of the real
// server does.
func (s *RekorV1) Restart() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, sh := range s.shards[:len(s.shards)-1] {
		sh.frozen = sh.Checkpoint(sh.Size())
	}
}

// Shards returns the shards, oldest first.
func (s *RekorV1) Shards() []*Shard {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return slices.Clone(s.shards)
}

// Shard returns a shard by its number, the oldest being 0.
func (s *RekorV1) Shard(i int) *Shard { return s.Shards()[i] }

// Active returns the active shard.
func (s *RekorV1) Active() *Shard {
	shards := s.Shards()
	return shards[len(shards)-1]
}

// Start returns the virtual index of a shard's first entry.
func (s *RekorV1) Start(i int) (start uint64) {
	for _, sh := range s.Shards()[:i] {
		start += sh.Size()
	}
	return start
}

// Size is the number of entries in all shards.
func (s *RekorV1) Size() uint64 { return s.Start(len(s.Shards())) }

// Add logs a body in the active shard and returns its virtual index.
func (s *RekorV1) Add(body []byte) (virtualIndex uint64) {
	shards := s.Shards()
	last := len(shards) - 1
	return s.Start(last) + shards[last].Add(body)
}

// Index makes an entry found under search keys, in addition to those that it has.
func (s *RekorV1) Index(uuid string, keys ...string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, key := range keys {
		key = strings.ToLower(key)
		if !slices.Contains(s.index[key], uuid) {
			s.index[key] = append(s.index[key], uuid)
		}
	}
}

// IndexAll makes every entry of a shard found under the keys that rekor's own types give it.
func (s *RekorV1) IndexAll(i int) error {
	sh := s.Shard(i)
	for at := range sh.Size() {
		entry, err := unmarshalEntry(sh.Body(at))
		if err != nil {
			return fmt.Errorf("read entry %d: %w", at, err)
		}
		keys, err := entry.IndexKeys()
		if err != nil {
			return fmt.Errorf("find keys of entry %d: %w", at, err)
		}
		s.Index(sh.UUID(at), keys...)
	}
	return nil
}

// Fork returns a service that differs in one shard: it has the same key, size and first
// entries, and other entries from index at on. Both can grow further, on their own.
func (s *RekorV1) Fork(i int, at uint64) *RekorV1 {
	return s.with(i, func(sh *Shard) { sh.history = sh.fork(at) })
}

// Rollback returns a service that differs in one shard: it has the first size entries only.
func (s *RekorV1) Rollback(i int, size uint64) *RekorV1 {
	return s.with(i, func(sh *Shard) { sh.history = sh.prefix(size) })
}

// Rekey returns a service that differs in one shard: all is signed with another key,
// whose name must be the host. The entries are shared, also those to come.
func (s *RekorV1) Rekey(i int, key *Key) *RekorV1 {
	return s.with(i, func(sh *Shard) { sh.Key = key })
}

func (s *RekorV1) with(i int, change func(sh *Shard)) *RekorV1 {
	s.mu.RLock()
	defer s.mu.RUnlock()
	other := &RekorV1{Host: s.Host, URL: s.URL, shards: slices.Clone(s.shards), index: maps.Clone(s.index)}
	sh := *s.shards[i]
	change(&sh)
	if sh.frozen != nil {
		sh.frozen = sh.Checkpoint(sh.Size())
	}
	other.shards[i] = &sh
	return other
}

// TrustedRootJSON returns a Sigstore TrustedRoot with the keys of all shards, and
// nothing else.
func (s *RekorV1) TrustedRootJSON() []byte {
	type log map[string]any
	var logs []log
	seen := map[string]bool{}
	for _, sh := range s.Shards() {
		if id := sh.LogID(); !seen[id] {
			seen[id] = true
			keyID, _ := hex.DecodeString(id)
			logs = append(logs, log{
				"baseUrl":       s.URL,
				"hashAlgorithm": "SHA2_256",
				"publicKey": log{
					"rawBytes":   mustSPKI(sh.Key.public),
					"keyDetails": "PKIX_ECDSA_P256_SHA_256",
					"validFor":   log{"start": "1999-01-01T00:00:00Z"}, // before synctest's time
				},
				"logId": log{"keyId": keyID},
			})
		}
	}
	out, err := json.Marshal(log{"mediaType": "application/vnd.dev.sigstore.trustedroot+json;version=0.1", "tlogs": logs})
	if err != nil {
		panic(fmt.Sprintf("synthetic: encode trusted root: %v", err))
	}
	return out
}

// Requests returns the requests of the given kinds since the last Forget. Their paths
// have the query.
func (s *RekorV1) Requests(kinds Kind) []Request {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return slices.DeleteFunc(slices.Clone(s.requests), func(q Request) bool { return q.Kind&kinds == 0 })
}

// Busiest returns the greatest number of requests within any span of the given length.
func (s *RekorV1) Busiest(span time.Duration) (most int) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	first := 0
	for i, q := range s.requests {
		for q.At.Sub(s.requests[first].At) >= span {
			first++
		}
		most = max(most, i-first+1)
	}
	return most
}

// Forget empties what Requests and Busiest look at.
func (s *RekorV1) Forget() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.requests = nil
}

// Client returns a client that reaches the service by any host name, as InMemory does.
// The caller calls stop.
func (s *RekorV1) Client() (client *http.Client, stop func()) {
	client, stop = InMemory(s)
	client.Transport = &door{s, client.Transport.(*http.Transport)}
	return client, stop
}

// Refuse makes connections of its Clients fail, or not any more, as if nothing listened
// there. Such requests are not counted.
func (s *RekorV1) Refuse(on bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.refusing = on
}

// door is the way to a service that may refuse connections.
type door struct {
	service *RekorV1
	*http.Transport
}

// RoundTrip implements http.RoundTripper.
func (d *door) RoundTrip(r *http.Request) (*http.Response, error) {
	d.service.mu.RLock()
	refusing := d.service.refusing
	d.service.mu.RUnlock()
	if refusing {
		if r.Body != nil {
			r.Body.Close()
		}
		return nil, &net.OpError{Op: "dial", Net: "tcp", Err: syscall.ECONNREFUSED}
	}
	return d.Transport.RoundTrip(r)
}
