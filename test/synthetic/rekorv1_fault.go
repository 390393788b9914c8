package synthetic

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/sigstore/rekor/pkg/generated/models"
)

// Misbehave makes the service commit the given faults, in order, from the next request
// on. Without any it is honest again.
func (s *RekorV1) Misbehave(faults ...Fault) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults = slices.Clone(faults)
}

// AnsweredBy lets another handler answer, such as a Fork, a Rollback or a Rekey.
func AnsweredBy(other http.Handler) Fault {
	return func(_ Request, a *Answer) { a.Serve = other.ServeHTTP }
}

// HTML answers 200 with a web page, as a proxy in between does.
func HTML() Fault {
	return func(_ Request, a *Answer) {
		*a = Answer{
			Status: http.StatusOK,
			Header: http.Header{"Content-Type": {"text/html; charset=utf-8"}},
			Body:   []byte("<!doctype html><html><body><h1>We will be right back</h1></body></html>\n"),
		}
	}
}

// Times limits a fault to the next n requests that reach it. Inside On these are the
// ones of the given kinds.
func Times(n int64, fault Fault) Fault {
	var left atomic.Int64
	left.Store(n)
	return func(q Request, a *Answer) {
		if left.Add(-1) >= 0 {
			fault(q, a)
		}
	}
}

// On limits a fault to requests that name the shard or whose honest answer has an
// entry of it. LogInfo is about all shards, so it never is one of those.
func (sh *Shard) On(fault Fault) Fault {
	decimal, digits := fmt.Sprintf("treeID=%d", sh.TreeID), fmt.Sprintf("%016x", sh.TreeID)
	return func(q Request, a *Answer) {
		if q.Kind != LogInfo && (strings.Contains(q.Path, decimal) || strings.Contains(q.Path, "/"+digits) ||
			bytes.Contains(a.Body, []byte(`"`+digits))) {
			fault(q, a)
		}
	}
}

// editEntries changes every entry of the shard in an answer. The edit returns the name
// under which the entry is answered.
func (sh *Shard) editEntries(edit func(uuid string, e *models.LogEntryAnon) string) Fault {
	prefix := fmt.Sprintf("%016x", sh.TreeID)
	one := func(entry models.LogEntry) {
		for uuid, e := range entry {
			if strings.HasPrefix(uuid, prefix) {
				delete(entry, uuid)
				entry[edit(uuid, &e)] = e
				return // there is only one
			}
		}
	}
	return On(anyEntry, func(q Request, a *Answer) {
		if a.Status != http.StatusOK {
			return
		}
		if q.Kind != RetrieveEntry {
			var entry models.LogEntry
			mustUnmarshal(a.Body, &entry)
			one(entry)
			a.Body = marshalV1(entry)
			return
		}
		var entries []models.LogEntry
		mustUnmarshal(a.Body, &entries)
		for _, entry := range entries {
			one(entry)
		}
		a.Body = marshalV1(entries)
	})
}

func mustUnmarshal(body []byte, into any) {
	if err := json.Unmarshal(body, into); err != nil {
		panic(fmt.Sprintf("synthetic: a fault that edits JSON follows one that spoils it: %v", err))
	}
}

func bodyOf(e *models.LogEntryAnon) []byte {
	body, err := base64.StdEncoding.DecodeString(e.Body.(string))
	if err != nil {
		panic(fmt.Sprintf("synthetic: body of an entry: %v", err))
	}
	return body
}

// WrongSET gives a SET that the shard's key made for a later time.
func (sh *Shard) WrongSET() Fault {
	return sh.editEntries(func(uuid string, e *models.LogEntryAnon) string {
		later := *e
		later.IntegratedTime = new(*e.IntegratedTime + 1)
		sh.sign(&later, bodyOf(e)) // Verification is shared
		return uuid
	})
}

// NoSET leaves out the SET.
func (sh *Shard) NoSET() Fault {
	return sh.editEntries(func(uuid string, e *models.LogEntryAnon) string {
		e.Verification.SignedEntryTimestamp = nil
		return uuid
	})
}

// NoProof leaves out the inclusion proof.
func (sh *Shard) NoProof() Fault {
	return sh.editEntries(func(uuid string, e *models.LogEntryAnon) string {
		e.Verification.InclusionProof = nil
		return uuid
	})
}

// WrongBody gives a body that does not hash to the UUID, under a SET that holds for it.
func (sh *Shard) WrongBody() Fault {
	return sh.editEntries(func(uuid string, e *models.LogEntryAnon) string {
		body := bytes.Replace(bodyOf(e), []byte(`{`), []byte(`{ `), 1)
		e.Body = body
		sh.sign(e, body)
		return uuid
	})
}

// WrongUUID gives an entry that is right in itself under the UUID of another leaf.
func (sh *Shard) WrongUUID() Fault {
	return sh.editEntries(func(uuid string, _ *models.LogEntryAnon) string {
		return uuid[:16] + fmt.Sprintf("%x", hashOf(uuid))
	})
}

// Neighbour answers with the next entry, or the first after the last, in place of the
// one that was asked for. It is right in itself.
func (sh *Shard) Neighbour() Fault {
	return sh.editEntries(func(_ string, e *models.LogEntryAnon) (uuid string) {
		at := *e.Verification.InclusionProof.LogIndex
		uuid, *e = sh.answer(uint64(at+1)%sh.Size(), uint64(*e.LogIndex-at), nil)
		return uuid
	})
}

// WrongVirtualIndex gives a virtual index that is off by delta, under a SET that holds for it.
func (sh *Shard) WrongVirtualIndex(delta int64) Fault {
	return sh.editEntries(func(uuid string, e *models.LogEntryAnon) string {
		e.LogIndex = new(*e.LogIndex + delta)
		sh.sign(e, bodyOf(e))
		return uuid
	})
}

// ForeignProof gives the inclusion proof of another leaf at the same index of a tree of the
// same size, to a checkpoint that the shard's key signed. It holds for entries that
// are there when it is called.
func (sh *Shard) ForeignProof() Fault {
	other := &Shard{TreeID: sh.TreeID, Key: sh.Key, history: &history{places: map[[32]byte]uint64{}}}
	other.Grow(sh.Size(), Tiny(0))
	return sh.editEntries(func(uuid string, e *models.LogEntryAnon) string {
		if p := e.Verification.InclusionProof; uint64(*p.LogIndex) < other.Size() {
			_, foreign := other.answer(uint64(*p.LogIndex), 0, nil)
			e.Verification.InclusionProof = foreign.Verification.InclusionProof
		}
		return uuid
	})
}

// ForeignCheckpoint gives the present checkpoint of another shard with each proof.
func (sh *Shard) ForeignCheckpoint(other *Shard) Fault {
	return sh.editEntries(func(uuid string, e *models.LogEntryAnon) string {
		e.Verification.InclusionProof.Checkpoint = new(string(other.Checkpoint(other.Size())))
		return uuid
	})
}

// WrongConsistency changes consistency proofs: the first hash, or one too many if there
// is none.
func WrongConsistency() Fault {
	return On(LogProof, func(_ Request, a *Answer) {
		if a.Status != http.StatusOK {
			return
		}
		var p models.ConsistencyProof
		mustUnmarshal(a.Body, &p)
		wrong := rootHex([32]byte(hashOf("no node")))
		if len(p.Hashes) == 0 {
			p.Hashes = append(p.Hashes, wrong)
		}
		p.Hashes[0] = wrong
		a.Body = marshalV1(&p)
	})
}

// v1Head is what LogInfo says of one shard.
type v1Head struct {
	size       uint64 // beside the checkpoint
	root       [32]byte
	checkpoint []byte
}

// editHead changes what LogInfo says of the shard.
func (sh *Shard) editHead(edit func(size uint64) v1Head) Fault {
	id := fmt.Sprint(sh.TreeID)
	return On(LogInfo, func(_ Request, a *Answer) {
		if a.Status != http.StatusOK {
			return
		}
		var info models.LogInfo
		mustUnmarshal(a.Body, &info)
		if *info.TreeID == id {
			h := edit(uint64(*info.TreeSize))
			info.TreeSize, info.RootHash, info.SignedTreeHead = new(int64(h.size)), new(rootHex(h.root)), new(string(h.checkpoint))
		}
		for _, in := range info.InactiveShards {
			if *in.TreeID == id {
				h := edit(uint64(*in.TreeSize))
				in.TreeSize, in.RootHash, in.SignedTreeHead = new(int64(h.size)), new(rootHex(h.root)), new(string(h.checkpoint))
			}
		}
		a.Body = marshalV1(&info)
	})
}

// WrongOrigin signs, with the shard's key, a checkpoint of another origin in LogInfo.
func (sh *Shard) WrongOrigin(origin string) Fault {
	return sh.editHead(func(size uint64) v1Head {
		root := sh.Root(size)
		return v1Head{size, root, Note(origin, size, root, nil, sh.Key)}
	})
}

// WrongRoot signs in LogInfo a root hash that belongs to no tree, with a size that is
// greater by delta.
func (sh *Shard) WrongRoot(delta uint64) Fault {
	return sh.editHead(func(size uint64) v1Head {
		size, root := size+delta, [32]byte(hashOf("no tree"))
		return v1Head{size, root, Note(sh.Origin(), size, root, nil, sh.Key)}
	})
}

// WrongKey signs the shard's checkpoint in LogInfo with another key, and nothing else.
func (sh *Shard) WrongKey(key *Key) Fault {
	return sh.editHead(func(size uint64) v1Head {
		root := sh.Root(size)
		return v1Head{size, root, Note(sh.Origin(), size, root, nil, key)}
	})
}

// WrongFields states in LogInfo a size and root beside the checkpoint that are not its own.
func (sh *Shard) WrongFields(delta uint64) Fault {
	return sh.editHead(func(size uint64) v1Head {
		return v1Head{size + delta, [32]byte(hashOf("no tree")), sh.Checkpoint(size)}
	})
}
