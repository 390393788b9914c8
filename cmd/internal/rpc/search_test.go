package rpc_test

import (
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/understudy-log/understudy/log/rekor"
	understudyv1 "github.com/understudy-log/understudy/proto/understudy/v1"
	"github.com/understudy-log/understudy/storage"
)

// search returns all pages of a search.
func (s *rekorStage) search(in *understudyv1.SearchEntriesRequest) (hits []*understudyv1.SearchHit, covered []*understudyv1.SearchCoverage) {
	s.t.Helper()
	in = proto.Clone(in).(*understudyv1.SearchEntriesRequest)
	for range 5000 {
		page, err := s.api.SearchEntries(s.t.Context(), in)
		check(s.t, err)
		if n := len(page.Hits); in.PageSize > 0 && n > int(in.PageSize) || n > 1000 || len(page.Covered) == 0 && n > 0 {
			s.t.Errorf("page of %d hits, %d logs covered", n, len(page.Covered))
		}
		hits = append(hits, page.Hits...)
		for _, c := range page.Covered {
			if len(covered) == 0 || covered[len(covered)-1].Origin != c.Origin && !slices.ContainsFunc(covered, func(o *understudyv1.SearchCoverage) bool { return o.Origin == c.Origin }) {
				covered = append(covered, c)
			}
		}
		if in.PageToken = page.NextPageToken; in.PageToken == "" {
			return hits, covered
		}
	}
	s.t.Fatal("pages without end")
	return nil, nil
}

// name is how tests write a hit.
func name(hit *understudyv1.SearchHit) string {
	if !hit.Held {
		return "not held: " + hit.Uuid
	}
	return fmt.Sprintf("%s %d", hit.Origin, hit.GetIndex())
}

func names(hits []*understudyv1.SearchHit) (out []string) {
	for _, hit := range hits {
		out = append(out, name(hit))
	}
	return out
}

// having returns the entries of the log of Rekor v2 that have any of the keys, or all.
func (s *rekorStage) having(all bool, keys ...string) (out []string) {
	for index := range uint64(v2Size) {
		n := 0
		for _, key := range rekor.SearchKeys(s.log.Entries(index)) {
			if slices.Contains(keys, strings.ToLower(key)) {
				n++
			}
		}
		if n == len(keys) || !all && n > 0 {
			out = append(out, fmt.Sprintf("%s %d", v2Origin, index))
		}
	}
	return out
}

// TestSearch: entries of both generations are found by everything that they have, also
// page by page, and what was looked through is said.
func TestSearch(t *testing.T) {
	s := newRekorStage(t)
	ended, active := s.v1.Shard(0), s.v1.Shard(1)

	// By digest, in Rekor v1: upstream names it, and once it was fetched it is held.
	in := &understudyv1.SearchEntriesRequest{Digest: "sha256:" + strings.ToUpper(hex.EncodeToString(digestV1(2, 5)))}
	hits, covered := s.search(in)
	leaf := active.LeafHash(5)
	if len(hits) != 1 || hits[0].Held || hits[0].Index != nil || hits[0].Uuid != active.UUID(5) || hits[0].Origin != active.Origin() || storage.Hash(hits[0].LeafHash) != leaf {
		t.Errorf("by digest, not held: %v", hits)
	}
	if len(covered) != 3 || covered[0].Origin != v2Origin || covered[0].EndIndex != v2Size || covered[0].StartIndex != 0 || covered[0].UpstreamAsked ||
		covered[1].Origin != ended.Origin() || !covered[1].UpstreamAsked || covered[2].Origin != active.Origin() || !covered[2].UpstreamAsked || covered[2].Pinned != 0 {
		t.Errorf("covered: %v", covered)
	}
	for _, c := range covered {
		if c.Freshness.GetSource() != "live" || c.Truncated {
			t.Errorf("coverage %v", c)
		}
	}
	_, err := s.api.GetEntry(t.Context(), getUUID("", active.UUID(5)))
	check(t, err)
	hits, covered = s.search(in)
	if len(hits) != 1 || !hits[0].Held || hits[0].GetIndex() != 5 || hits[0].Uuid != active.UUID(5) || hits[0].Origin != active.Origin() || storage.Hash(hits[0].LeafHash) != leaf || covered[2].Pinned != 1 {
		t.Errorf("by digest, held: %v, covered %v", hits, covered)
	}
	in.Digest = strings.TrimPrefix(in.Digest, "sha256:")
	if again, _ := s.search(in); len(again) != 1 || again[0].Uuid != hits[0].Uuid {
		t.Errorf("by digest without prefix: %v", again)
	}

	// By digest, identity and issuer, in Rekor v2.
	for _, index := range []uint64{0, 17, v2Size - 1} {
		keys := rekor.SearchKeys(s.log.Entries(index))
		if len(keys) < 3 {
			t.Fatalf("keys %q", keys)
		}
		for _, key := range keys {
			in := &understudyv1.SearchEntriesRequest{Origin: "v2", PageSize: 7}
			switch {
			case strings.HasPrefix(key, "sha256:"):
				in.Digest = key
			case strings.Contains(key, "@") || strings.Contains(key, "://"):
				in.Identity = key
			default:
				continue // of a public key, or of an issuer
			}
			hits, _ := s.search(in)
			if got, want := names(hits), s.having(false, strings.ToLower(key)); !slices.Equal(got, want) || !slices.Contains(want, fmt.Sprintf("%s %d", v2Origin, index)) {
				t.Errorf("by %q: got %v, want %v", key, got, want)
			}
		}
	}
	const issuer = "https://token.actions.githubusercontent.com"
	byIssuer := &understudyv1.SearchEntriesRequest{Issuer: issuer}
	keys, _, err := rekor.QueryKeys(rekor.Query{Issuer: issuer})
	check(t, err)
	want := s.having(false, keys...)
	if len(want) < 100 {
		t.Fatalf("%d entries of the issuer", len(want))
	}
	hits, covered = s.search(byIssuer)
	if got := names(hits); !slices.Equal(got[:min(len(got), len(want))], want) {
		t.Errorf("by issuer: got %v, want %v", got, want)
	}
	for _, c := range covered {
		if c.UpstreamAsked { // Rekor v1 has no search by issuer
			t.Errorf("by issuer: covered %v", c)
		}
	}
	for _, size := range []uint32{1, 3, 64, uint32(len(hits)), uint32(len(hits)) + 1, 1 << 31} {
		byIssuer.PageSize = size
		if paged, _ := s.search(byIssuer); !slices.Equal(names(paged), names(hits)) {
			t.Errorf("pages of %d: got %d hits, want %d", size, len(paged), len(hits))
		}
	}
	// All of it.
	index := v2Index(t, want[0])
	found := rekor.SearchKeys(s.log.Entries(index))
	digest := found[slices.IndexFunc(found, func(key string) bool { return strings.HasPrefix(key, "sha256:") })]
	both := &understudyv1.SearchEntriesRequest{Issuer: issuer, Digest: digest, All: true, Origin: v2Origin}
	if hits, _ := s.search(both); len(hits) != 1 || hits[0].GetIndex() != index {
		t.Errorf("by issuer and %s: %v", digest, hits)
	}
}

func v2Index(t *testing.T, name string) (index uint64) {
	_, err := fmt.Sscanf(name, v2Origin+" %d", &index)
	check(t, err)
	return index
}

// TestSearchV1 finds what a key has signed, in both shards: what is held first, then what
// upstream names. Without upstream the rest is not said not to exist.
func TestSearchV1(t *testing.T) {
	s := newRekorStage(t)
	const plain = 3 // an entry whose key stands alone
	for i, want := range []string{s.v1.Shard(0).Origin() + " 3", "not held: " + s.v1.Shard(1).UUID(plain)} {
		var body struct {
			Spec struct {
				Signature struct {
					PublicKey struct{ Content []byte }
				}
			}
		}
		check(t, json.Unmarshal(s.v1.Shard(i).Body(plain), &body))
		hits, _ := s.search(&understudyv1.SearchEntriesRequest{
			Origin: "rekor", PublicKey: &understudyv1.PublicKey{Format: "x509", Content: body.Spec.Signature.PublicKey.Content},
		})
		if got := names(hits); !slices.Equal(got, []string{want}) {
			t.Errorf("by public key: got %v, want %v", got, want)
		}
	}
	for i := range 2 { // hold some, and let upstream name them all under one more key
		for index := range uint64(9) {
			uuid := s.v1.Shard(i).UUID(index)
			s.v1.Index(uuid, "team@example.com")
			if index%2 == 0 {
				_, err := s.api.GetEntry(t.Context(), getUUID("", uuid))
				check(t, err)
			}
		}
	}
	// No entry of them shows that name itself. Of pins what upstream says is kept.
	var want []string
	for i := range 2 {
		for index := range uint64(9) {
			if i == 0 || index%2 == 1 {
				want = append(want, "not held: "+s.v1.Shard(i).UUID(index))
			}
		}
	}
	slices.Sort(want)
	for index := uint64(8); index <= 8; index -= 2 {
		want = slices.Insert(want, 0, fmt.Sprintf("%s %d", s.v1.Shard(1).Origin(), index))
	}
	for _, size := range []uint32{0, 1, 5, 18} {
		if hits, _ := s.search(&understudyv1.SearchEntriesRequest{Identity: "Team@example.com", PageSize: size}); !slices.Equal(names(hits), want) {
			t.Errorf("by identity, pages of %d: got %v, want %v", size, names(hits), want)
		}
	}
	// Held ones stand in front of those that upstream names.
	s.v1.Index(s.v1.Shard(1).UUID(7), "sha256:"+hex.EncodeToString(digestV1(1, 4)))
	mixed := &understudyv1.SearchEntriesRequest{Digest: hex.EncodeToString(digestV1(1, 4))}
	for _, size := range []uint32{0, 1} {
		mixed.PageSize = size
		want := []string{s.v1.Shard(0).Origin() + " 4", "not held: " + s.v1.Shard(1).UUID(7)}
		if hits, _ := s.search(mixed); !slices.Equal(names(hits), want) {
			t.Errorf("held and named, pages of %d: got %v, want %v", size, names(hits), want)
		}
	}
	s.outage()
	hits, covered := s.search(mixed)
	if got, want := names(hits), []string{s.v1.Shard(0).Origin() + " 4"}; !slices.Equal(got, want) {
		t.Errorf("without upstream: got %v, want %v", got, want)
	}
	if len(covered) != 3 || covered[1].EndIndex != endedSize || covered[2].EndIndex != 0 || covered[2].Pinned != 5 ||
		covered[1].UpstreamAsked || covered[2].UpstreamAsked || covered[1].Freshness.GetSource() == "live" {
		t.Errorf("without upstream: covered %v", covered)
	}
}

// TestSearchRefusals: what is no search is refused.
func TestSearchRefusals(t *testing.T) {
	s := newRekorStage(t)
	token := func(text string) string { return base64.RawURLEncoding.EncodeToString([]byte(text)) }
	for _, test := range []struct {
		name   string
		in     *understudyv1.SearchEntriesRequest
		code   codes.Code
		reason string
	}{
		{"nothing", &understudyv1.SearchEntriesRequest{}, codes.InvalidArgument, "INVALID_REQUEST"},
		{"nothing in a log", &understudyv1.SearchEntriesRequest{Origin: "v2", All: true}, codes.InvalidArgument, "INVALID_REQUEST"},
		{"short digest", &understudyv1.SearchEntriesRequest{Digest: "abcd"}, codes.InvalidArgument, "INVALID_REQUEST"},
		{"digest of another name", &understudyv1.SearchEntriesRequest{Digest: "sha512:" + strings.Repeat("ab", 32)}, codes.InvalidArgument, "INVALID_REQUEST"},
		{"digest that is no hex", &understudyv1.SearchEntriesRequest{Digest: strings.Repeat("xy", 32)}, codes.InvalidArgument, "INVALID_REQUEST"},
		{"key without format", &understudyv1.SearchEntriesRequest{PublicKey: &understudyv1.PublicKey{Content: []byte("x")}}, codes.InvalidArgument, "INVALID_REQUEST"},
		{"key without content", &understudyv1.SearchEntriesRequest{PublicKey: &understudyv1.PublicKey{Format: "x509"}}, codes.InvalidArgument, "INVALID_REQUEST"},
		{"rubbish as key", &understudyv1.SearchEntriesRequest{PublicKey: &understudyv1.PublicKey{Format: "x509", Content: []byte("x\x00")}}, codes.InvalidArgument, "INVALID_REQUEST"},
		{"key of an unknown format", &understudyv1.SearchEntriesRequest{PublicKey: &understudyv1.PublicKey{Format: "é", Content: []byte("x")}}, codes.InvalidArgument, "INVALID_REQUEST"},
		{"giant identity", &understudyv1.SearchEntriesRequest{Identity: strings.Repeat("a", 5000)}, codes.InvalidArgument, "INVALID_REQUEST"},
		{"unknown log", &understudyv1.SearchEntriesRequest{Identity: "a", Origin: "nobody"}, codes.NotFound, "UNKNOWN_ORIGIN"},
		{"rubbish as token", &understudyv1.SearchEntriesRequest{Identity: "a", PageToken: "?"}, codes.InvalidArgument, "INVALID_REQUEST"},
		{"token that is no object", &understudyv1.SearchEntriesRequest{Identity: "a", PageToken: token("[]")}, codes.InvalidArgument, "INVALID_REQUEST"},
		{"token of no place", &understudyv1.SearchEntriesRequest{Identity: "a", PageToken: token("{}")}, codes.InvalidArgument, "INVALID_REQUEST"},
		{"token of another place", &understudyv1.SearchEntriesRequest{Identity: "a", PageToken: token(`{"p":"nobody"}`)}, codes.InvalidArgument, "INVALID_REQUEST"},
		{"token of another log", &understudyv1.SearchEntriesRequest{Identity: "a", PageToken: token(`{"p":"rekor","o":"nobody"}`)}, codes.InvalidArgument, "INVALID_REQUEST"},
		{"token with more in it", &understudyv1.SearchEntriesRequest{Identity: "a", PageToken: token(`{"p":"rekor","x":1}`)}, codes.InvalidArgument, "INVALID_REQUEST"},
		{"giant token", &understudyv1.SearchEntriesRequest{Identity: "a", PageToken: strings.Repeat("a", 5000)}, codes.InvalidArgument, "INVALID_REQUEST"},
	} {
		_, err := s.api.SearchEntries(t.Context(), test.in)
		if info := infoOf(err); status.Code(err) != test.code || info.GetReason() != test.reason {
			t.Errorf("%s: got %v (%v), want %v with %s", test.name, err, info, test.code, test.reason)
		}
	}
	for _, place := range []string{"rekor", v2Origin} { // a place begins
		if _, err := s.api.SearchEntries(t.Context(), &understudyv1.SearchEntriesRequest{Identity: "a", PageToken: token(`{"p":"` + place + `"}`)}); err != nil {
			t.Errorf("token of %s: %v", place, err)
		}
	}
}
