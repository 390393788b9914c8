package rpc

import (
	"bytes"
	"cmp"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"slices"
	"strings"

	"github.com/understudy-log/understudy/log/rekor"
	"github.com/understudy-log/understudy/mirror"
	understudyv1 "github.com/understudy-log/understudy/proto/understudy/v1"
)

const (
	// maxHits is how many hits one answer has.
	maxHits = 1000
	// maxLogHits is how many a mirror looks for in one log.
	maxLogHits = 10_000
	// maxSearches is how many searches run at once; further ones wait.
	maxSearches = 8
	// maxTerm bounds the bytes of what is searched for, and of a page token.
	maxTerm = 4 << 10
)

// SearchEntries implements understudyv1.LogServiceServer.
func (s *service) SearchEntries(ctx context.Context, in *understudyv1.SearchEntriesRequest) (*understudyv1.SearchEntriesResponse, error) {
	q, keys, err := s.query(in)
	if err != nil {
		return nil, err
	}
	places, err := s.places(in.GetOrigin())
	if err != nil {
		return nil, err
	}
	at, err := parseCursor(in.GetPageToken())
	start := 0
	if err == nil && at.Place != "" {
		start = slices.IndexFunc(places, func(f found) bool { return f.origin() == at.Place })
	}
	if err != nil || start < 0 {
		return nil, s.malformed(in.GetOrigin(), "page_token is not one of an answer to this search")
	}
	select {
	case s.searches <- struct{}{}:
		defer func() { <-s.searches }()
	case <-ctx.Done():
		return nil, refuse(in.GetOrigin(), s.logger, ctx.Err())
	}
	size := int(min(cmp.Or(in.GetPageSize(), maxHits), maxHits))
	out := &understudyv1.SearchEntriesResponse{}
	for i, f := range places[start:] {
		if len(out.Hits) == size { // full, and it is not known whether more follows
			out.NextPageToken = cursor{Place: f.origin()}.String()
			break
		}
		hits, covered, err := s.searchIn(ctx, f, q, keys)
		if err != nil {
			return nil, err
		}
		if i == 0 {
			if hits, err = at.after(hits, covered); err != nil {
				return nil, s.malformed(in.GetOrigin(), "page_token is not one of an answer to this search")
			}
		}
		out.Covered = append(out.Covered, covered...)
		rest := hits[min(len(hits), size-len(out.Hits)):]
		out.Hits = append(out.Hits, hits[:len(hits)-len(rest)]...)
		if len(rest) > 0 {
			out.NextPageToken = cursorAt(f.origin(), out.Hits[len(out.Hits)-1]).String()
			break
		}
	}
	return out, nil
}

// query reads what is searched for.
func (s *service) query(in *understudyv1.SearchEntriesRequest) (rekor.Query, []string, error) {
	q := rekor.Query{Hash: in.GetDigest(), Issuer: in.GetIssuer(), Format: in.GetPublicKey().GetFormat(), PublicKey: in.GetPublicKey().GetContent()}
	if in.GetAll() {
		q.Operator = "and"
	}
	if who := in.GetIdentity(); strings.Contains(who, "@") && !strings.ContainsAny(who, ":/") {
		q.Email = who // as upstream's own search wants it
	} else {
		q.Subject = who
	}
	if max(len(q.Hash), len(q.Issuer), len(in.GetIdentity()), len(q.Format)) > maxTerm {
		return q, nil, s.malformed(in.GetOrigin(), "what is searched for may have 4,096 bytes")
	}
	if q.Hash != "" && !isDigest(q.Hash) {
		return q, nil, s.malformed(in.GetOrigin(), "digest is not the hex digits of a hash, with or without its \"sha256:\"")
	}
	if in.GetPublicKey() != nil && (q.Format == "" || len(q.PublicKey) == 0) {
		return q, nil, s.malformed(in.GetOrigin(), "public_key needs its format and its content")
	}
	keys, _, err := rekor.QueryKeys(q)
	if input, ok := errors.AsType[*rekor.InputError](err); ok {
		return q, nil, s.malformed(in.GetOrigin(), "search: "+input.Error())
	}
	if err == nil && len(keys) == 0 {
		return q, nil, s.malformed(in.GetOrigin(), "nothing is searched for: set digest, identity, issuer or public_key")
	}
	return q, keys, refuse(in.GetOrigin(), s.logger, err)
}

// isDigest says whether text is the hex digits of a hash, with or without its name.
func isDigest(text string) bool {
	name, digits, named := strings.Cut(strings.ToLower(text), ":")
	if !named {
		name, digits = "", name
	}
	if strings.Trim(digits, "0123456789abcdef") != "" {
		return false
	}
	switch len(digits) {
	case 40:
		return !named || name == "sha1"
	case 64:
		return !named || name == "sha256"
	case 96:
		return !named || name == "sha384"
	case 128:
		return !named || name == "sha512"
	}
	return false
}

// places are the logs and services to look through, each by itself.
func (s *service) places(name string) ([]found, error) {
	if name != "" {
		f, err := s.find(name)
		return []found{f}, err
	}
	var places []found
	for _, m := range s.mirrors() {
		if s.serviceOf(m) == nil {
			places = append(places, found{log: m})
		}
	}
	for _, service := range s.services {
		places = append(places, found{service: service})
	}
	return places, nil
}

// searchIn looks through a log, or a service and, while it is live, its upstream's own
// search.
func (s *service) searchIn(ctx context.Context, f found, q rekor.Query, keys []string) ([]*understudyv1.SearchHit, []*understudyv1.SearchCoverage, error) {
	if f.log != nil {
		hits, covered, err := f.log.Search(ctx, keys, q.Operator == "and")
		if err != nil {
			return nil, nil, s.refuse(f, err)
		}
		coverage, err := s.coverageOf(ctx, f, f.log, covered, hits, keys, q)
		if err != nil {
			return nil, nil, err
		}
		return f.heldHits(f.log, hits), []*understudyv1.SearchCoverage{coverage}, nil
	}
	result, fresh, err := f.service.Search(ctx, mirror.Client(clientOf(ctx).String()), q)
	if err != nil {
		return nil, nil, s.refuse(f, err)
	}
	var out []*understudyv1.SearchHit
	var coverage []*understudyv1.SearchCoverage
	held := map[string]bool{}
	shards := f.service.Mirrors()
	for _, covered := range result.Covered {
		i := slices.IndexFunc(shards, func(m *mirror.Mirror) bool { return m.Origin() == covered.Origin })
		if i < 0 {
			continue // never: shards do not go away
		}
		var hits []mirror.SearchHit
		for _, hit := range result.Hits {
			if hit.Origin == covered.Origin {
				hits = append(hits, hit)
			}
		}
		c, err := s.coverageOf(ctx, f, shards[i], covered, hits, keys, q)
		if err != nil {
			return nil, nil, err
		}
		c.UpstreamAsked = fresh.Source == mirror.SourceLive // which Service.Search says in this way
		coverage = append(coverage, c)
		for _, hit := range f.heldHits(shards[i], hits) {
			held[hit.Uuid] = true
			out = append(out, hit)
		}
	}
	slices.SortFunc(result.UUIDs, func(a, b rekor.UUID) int { return cmp.Compare(a.String(), b.String()) })
	for _, uuid := range result.UUIDs {
		if held[uuid.String()] {
			continue
		}
		hit := &understudyv1.SearchHit{LeafHash: bytes.Clone(uuid.LeafHash[:]), Uuid: uuid.String()}
		if m := shardOf(f.service, uuid.TreeID); m != nil {
			hit.Origin = m.Origin()
		}
		out = append(out, hit)
	}
	return out, coverage, nil
}

func (f found) heldHits(m *mirror.Mirror, hits []mirror.SearchHit) []*understudyv1.SearchHit {
	out := make([]*understudyv1.SearchHit, len(hits))
	for i := range hits {
		hit := &hits[i]
		out[i] = &understudyv1.SearchHit{Origin: m.Origin(), Index: &hit.Index, LeafHash: hit.LeafHash[:], Uuid: f.leafUUID(m, hit.LeafHash), Held: true}
	}
	return out
}

// coverageOf says what of a log was looked through. Entries that have all of several keys are
// looked for among those of a key that has few: some may be missing if none has.
func (s *service) coverageOf(ctx context.Context, f found, m *mirror.Mirror, c mirror.IndexRange, hits []mirror.SearchHit, keys []string, q rekor.Query) (*understudyv1.SearchCoverage, error) {
	out := &understudyv1.SearchCoverage{
		Origin: c.Origin, StartIndex: c.Start, EndIndex: c.End, Pinned: c.Pinned, Truncated: len(hits) >= maxLogHits, Freshness: freshness(m.Freshness()),
	}
	if q.Operator != "and" || len(keys) < 2 {
		return out, nil
	}
	all := true
	for _, key := range keys {
		each, _, err := m.Search(ctx, []string{key}, false)
		if err != nil {
			return nil, s.refuse(f, err)
		}
		all = all && len(each) >= maxLogHits
	}
	out.Truncated = out.Truncated || all
	return out, nil
}

// cursor is where a page ended. Clients get it as text and need not understand it.
type cursor struct {
	Place  string `json:"p"`           // origin of a log or name of a service; where the next page begins
	Origin string `json:"o,omitempty"` // of the last hit, if it was a held one
	Index  uint64 `json:"i,omitempty"` // of the last hit
	UUID   string `json:"u,omitempty"` // of the last hit, if it was not held; with neither, the place begins
}

func cursorAt(place string, last *understudyv1.SearchHit) cursor {
	if last.Held {
		return cursor{Place: place, Origin: last.Origin, Index: last.GetIndex()}
	}
	return cursor{Place: place, UUID: last.Uuid}
}

func (c cursor) String() string {
	data, err := json.Marshal(c)
	if err != nil {
		panic("rpc: marshal cursor: " + err.Error()) // strings and a number
	}
	return base64.RawURLEncoding.EncodeToString(data)
}

// parseCursor reads a page token; "" is the beginning.
func parseCursor(token string) (c cursor, err error) {
	if token == "" {
		return c, nil
	}
	if len(token) > maxTerm {
		return c, errors.New("page token is too long")
	}
	data, err := base64.RawURLEncoding.DecodeString(token)
	if err != nil {
		return c, err
	}
	if err := json.Unmarshal(data, &c); err != nil {
		return c, err
	}
	if c.Place == "" || c.String() != token {
		return c, errors.New("page token is not canonical")
	}
	return c, nil
}

// after returns the hits behind the cursor. New ones may have come before it.
func (c cursor) after(hits []*understudyv1.SearchHit, covered []*understudyv1.SearchCoverage) ([]*understudyv1.SearchHit, error) {
	if c.Origin == "" && c.UUID == "" {
		return hits, nil
	}
	order := func(origin string) int {
		return slices.IndexFunc(covered, func(s *understudyv1.SearchCoverage) bool { return s.Origin == origin })
	}
	last := order(c.Origin)
	if c.UUID == "" && last < 0 {
		return nil, errors.New("page token is of another log")
	}
	i := slices.IndexFunc(hits, func(hit *understudyv1.SearchHit) bool {
		switch {
		case !hit.Held:
			return hit.Uuid > c.UUID // also if the last hit was a held one
		case c.UUID != "":
			return false
		}
		at := order(hit.Origin)
		return at > last || at == last && hit.GetIndex() > c.Index
	})
	if i < 0 {
		return nil, nil
	}
	return hits[i:], nil
}
