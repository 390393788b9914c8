package rpc

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"strings"

	"github.com/understudy-log/understudy/log/rekor"
	"github.com/understudy-log/understudy/mirror"
	understudyv1 "github.com/understudy-log/understudy/proto/understudy/v1"
	"github.com/understudy-log/understudy/storage"
)

// found is what a request is about: a log, a shard of a service, or a whole service.
type found struct {
	log     *mirror.Mirror  // nil: the whole service
	service *mirror.Service // nil: a log that is no shard
}

func (f found) origin() string {
	if f.log != nil {
		return f.log.Origin()
	}
	return f.service.Name()
}

func (f found) freshness() mirror.Freshness {
	if f.log != nil {
		return f.log.Freshness()
	}
	return f.service.Freshness()
}

// find returns what is called name: the origin or name of a log, or the name of a service.
func (s *service) find(name string) (found, error) {
	for _, service := range s.services {
		if service.Name() == name {
			return found{service: service}, nil
		}
	}
	for _, m := range s.mirrors() {
		if m.Origin() == name || m.Name() == name {
			return found{m, s.serviceOf(m)}, nil
		}
	}
	return found{}, unknownOrigin(name)
}

// serviceOf returns the service that a log is a shard of; nil if it is none.
func (s *service) serviceOf(m *mirror.Mirror) *mirror.Service {
	for _, service := range s.services {
		if slices.Contains(service.Mirrors(), m) {
			return service
		}
	}
	return nil
}

// shardOf returns a shard by tree ID; nil if the service has none with it.
func shardOf(service *mirror.Service, treeID uint64) *mirror.Mirror {
	for _, m := range service.Mirrors() {
		if treeIDOf(m) == treeID {
			return m
		}
	}
	return nil
}

// treeIDOf is the tree ID in the origin of a shard: "host - tree ID".
func treeIDOf(m *mirror.Mirror) uint64 {
	origin := m.Origin()
	treeID, _ := strconv.ParseUint(origin[strings.LastIndexByte(origin, ' ')+1:], 10, 64) // 0 is no shard's
	return treeID
}

// ref names an entry: by hash when it is set, otherwise by index.
type ref struct {
	index  uint64
	hash   *storage.Hash
	treeID uint64 // of a UUID of 80 digits
	uuid   bool   // that it was given by UUID
}

// findEntry reads which entry a request names, and where.
func (s *service) findEntry(name, uuid string, oneof any) (found, ref, error) {
	if uuid == "" {
		f, err := s.find(name)
		if err != nil {
			return f, ref{}, err
		}
		r, err := s.ref(f, oneof)
		return f, ref{index: r.Index, hash: r.LeafHash}, err
	}
	parsed, err := rekor.ParseUUID(uuid)
	if err != nil {
		return found{}, ref{}, s.malformed(name, "uuid is not 64 or 80 hex digits of a Rekor v1 UUID")
	}
	r := ref{hash: &parsed.LeafHash, treeID: parsed.TreeID, uuid: true}
	if name == "" {
		f, err := s.findUUID(parsed)
		return f, r, err
	}
	f, err := s.find(name)
	switch {
	case err != nil || r.treeID == 0:
		return f, r, err
	case f.service == nil:
		return f, r, s.malformed(name, "the log is no shard of a Rekor v1 service, so its entries have no tree ID: give the last 64 digits of the UUID")
	case f.log != nil && treeIDOf(f.log) != r.treeID:
		return f, r, s.malformed(name, "the UUID is of another shard: name the service, or leave origin empty")
	}
	return f, r, nil
}

// findUUID returns the service in which a UUID lies that stands alone.
func (s *service) findUUID(uuid rekor.UUID) (found, error) {
	for _, service := range s.services {
		if uuid.TreeID != 0 && shardOf(service, uuid.TreeID) != nil {
			return found{service: service}, nil
		}
	}
	if len(s.services) == 1 {
		return found{service: s.services[0]}, nil
	}
	return found{}, s.malformed("", "the UUID does not say which log it is of: name one in origin")
}

// item returns an entry of a service with all that proves it.
func (s *service) item(ctx context.Context, f found, r ref) (rekor.Item, mirror.Freshness, error) {
	e := mirror.EntryRef{Index: r.index}
	switch {
	case r.hash != nil:
		e.UUID = &rekor.UUID{TreeID: r.treeID, LeafHash: *r.hash}
		if f.log != nil {
			e.UUID.TreeID = treeIDOf(f.log)
		}
	case f.log != nil:
		shards, err := f.service.Shards()
		if err != nil {
			return rekor.Item{}, mirror.Freshness{}, s.refuse(f, err)
		}
		i := slices.IndexFunc(shards, func(sh mirror.Shard) bool { return sh.Mirror == f.log })
		if i < 0 { // never: shards do not go away
			return rekor.Item{}, mirror.Freshness{}, unknownOrigin(f.origin())
		}
		end := ^uint64(0) // of the shard's virtual indexes, as far as they are known
		if i+1 < len(shards) {
			end = shards[i+1].Start
		}
		if r.index >= end-shards[i].Start {
			return rekor.Item{}, mirror.Freshness{}, s.refuse(f, &mirror.Refusal{Kind: mirror.NotFound, Reason: mirror.ReasonNotFound,
				Text: "the shard has ended before index " + strconv.FormatUint(r.index, 10), Freshness: f.freshness()})
		}
		e.Index += shards[i].Start
	}
	item, fresh, err := f.service.FreshEntry(ctx, mirror.Client(clientOf(ctx).String()), e)
	return item, fresh, s.refuse(f, err)
}

// itemOrigin returns the origin of an item's shard, and its index there.
func itemOrigin(service *mirror.Service, item *rekor.Item) (origin string, index uint64) {
	if m := shardOf(service, item.UUID.TreeID); m != nil {
		origin = m.Origin()
	}
	if item.Entry.Proof != nil {
		index = item.Entry.Proof.Index
	}
	return origin, index
}

// GetEntry implements understudyv1.LogServiceServer.
func (s *service) GetEntry(ctx context.Context, in *understudyv1.GetEntryRequest) (*understudyv1.GetEntryResponse, error) {
	f, r, err := s.findEntry(in.GetOrigin(), in.GetUuid(), in.GetEntry())
	if err != nil {
		return nil, err
	}
	if f.log != nil {
		e, fresh, err := f.log.Entry(mirror.Ref{Index: r.index, LeafHash: r.hash})
		if err == nil {
			out := &understudyv1.GetEntryResponse{
				Origin: f.log.Origin(), Index: e.Index, LeafHash: e.LeafHash[:], Body: e.Body, Freshness: freshness(fresh),
			}
			if f.service != nil {
				out.Uuid = rekor.UUID{TreeID: treeIDOf(f.log), LeafHash: e.LeafHash}.String()
			}
			return out, nil
		}
		refusal, ok := errors.AsType[*mirror.Refusal](err)
		if f.service == nil || !ok || refusal.Kind != mirror.Unavailable && refusal.Kind != mirror.Damaged {
			return nil, s.refuse(f, err)
		}
	}
	item, fresh, err := s.item(ctx, f, r) // pinned, or fetched now
	if err != nil {
		return nil, err
	}
	origin, index := itemOrigin(f.service, &item)
	return &understudyv1.GetEntryResponse{
		Origin: origin, Index: index, LeafHash: item.UUID.LeafHash[:], Body: item.Entry.Body, Freshness: freshness(fresh), Uuid: item.UUID.String(),
	}, nil
}
