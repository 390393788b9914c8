package rpc_test

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"strings"
	"testing"

	protorekor "github.com/sigstore/protobuf-specs/gen/pb-go/rekor/v1"
	rekornote "github.com/sigstore/rekor-tiles/v2/pkg/note"
	"github.com/sigstore/sigstore-go/pkg/root"
	"github.com/sigstore/sigstore-go/pkg/tlog"
	"github.com/sigstore/sigstore/pkg/signature"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/understudy-log/understudy/mirror"
	"github.com/understudy-log/understudy/mirror/trust"
	understudyv1 "github.com/understudy-log/understudy/proto/understudy/v1"
	"github.com/understudy-log/understudy/proto/understudy/v1/client"
	"github.com/understudy-log/understudy/storage"
	"github.com/understudy-log/understudy/test/synthetic"
)

func getIndex(name string, index uint64) *understudyv1.GetEntryRequest {
	return &understudyv1.GetEntryRequest{Origin: name, Entry: &understudyv1.GetEntryRequest_Index{Index: index}}
}

func getHash(name string, hash [32]byte) *understudyv1.GetEntryRequest {
	return &understudyv1.GetEntryRequest{Origin: name, Entry: &understudyv1.GetEntryRequest_LeafHash{LeafHash: hash[:]}}
}

func getUUID(name, uuid string) *understudyv1.GetEntryRequest {
	return &understudyv1.GetEntryRequest{Origin: name, Entry: &understudyv1.GetEntryRequest_Uuid{Uuid: uuid}}
}

// bundled is the same request for what stands in a bundle.
func bundled(in *understudyv1.GetEntryRequest) *understudyv1.GetTransparencyLogEntryRequest {
	out := &understudyv1.GetTransparencyLogEntryRequest{}
	raw, _ := proto.Marshal(in) // the fields have the same numbers
	if err := proto.Unmarshal(raw, out); err != nil {
		panic(err)
	}
	return out
}

// TestRekorEntries asks for entries of each shard by every name that they have. What
// sigstore-go makes of the answers verifies with the TrustedRoot of the service.
func TestRekorEntries(t *testing.T) {
	s := newRekorStage(t)
	ctx := t.Context()
	material, err := root.NewTrustedRootFromJSON(s.v1.TrustedRootJSON())
	check(t, err)
	for i, size := range []uint64{endedSize, activeSize} {
		sh, start := s.v1.Shard(i), s.v1.Start(i)
		name := s.service.Mirrors()[i].Name()
		for _, index := range []uint64{0, 7, size - 1} {
			uuid, leaf := sh.UUID(index), sh.LeafHash(index)
			for _, in := range []*understudyv1.GetEntryRequest{
				getIndex("rekor", start+index), getIndex(sh.Origin(), index), getIndex(name, index),
				getHash("rekor", leaf), getHash(sh.Origin(), leaf),
				getUUID("", uuid), getUUID("", uuid[16:]), getUUID("rekor", strings.ToUpper(uuid)), getUUID(sh.Origin(), uuid), getUUID(name, uuid[16:]),
			} {
				e, err := s.api.GetEntry(ctx, in)
				check(t, err)
				if e.Origin != sh.Origin() || e.Index != index || !bytes.Equal(e.LeafHash, leaf[:]) || !bytes.Equal(e.Body, sh.Body(index)) || e.Uuid != uuid || e.Freshness.GetSource() != "live" {
					t.Errorf("%v: got %v", in, e)
				}
				b, err := s.api.GetTransparencyLogEntry(ctx, bundled(in))
				check(t, err)
				if b.Origin != sh.Origin() || b.Index != index || !bytes.Equal(b.LeafHash, leaf[:]) || b.Uuid != uuid {
					t.Errorf("%v: got %v", in, b)
				}
				entry := parseBundled(t, b)
				if entry.LogIndex() != int64(start+index) || entry.LogKeyID() != rawHex(t, sh.LogID()) {
					t.Errorf("%v: index %d of the log %x", in, entry.LogIndex(), entry.LogKeyID())
				}
				log := material.RekorLogs()[sh.LogID()]
				verifier, err := signature.LoadVerifier(log.PublicKey, log.SignatureHashFunc)
				check(t, err)
				if err := tlog.VerifyInclusion(entry, verifier); err != nil {
					t.Errorf("%v: inclusion: %v", in, err)
				}
				if err := tlog.VerifySET(entry, material.RekorLogs()); err != nil {
					t.Errorf("%v: SET: %v", in, err)
				}
			}
		}
	}
	// What was asked for once is kept; the rest is not known when upstream is away.
	s.outage()
	for _, index := range []uint64{0, 7, activeSize - 1} {
		e, err := s.api.GetEntry(ctx, getUUID("", s.v1.Shard(1).UUID(index)))
		if err != nil || e.Freshness.GetSource() == "live" {
			t.Errorf("pinned entry %d: %v, error %v", index, e, err)
		}
	}
	if _, err := s.api.GetEntry(ctx, getIndex(s.v1.Shard(0).Origin(), 20)); err != nil {
		t.Errorf("entry of the full shard: %v", err)
	}
	s.wantAway("unpinned", getUUID("", s.v1.Shard(1).UUID(3)))
}

func rawHex(t *testing.T, text string) string {
	raw, err := hex.DecodeString(text)
	check(t, err)
	return string(raw)
}

func parseBundled(t *testing.T, b *understudyv1.GetTransparencyLogEntryResponse) *tlog.Entry {
	t.Helper()
	var tle protorekor.TransparencyLogEntry
	check(t, proto.Unmarshal(b.TransparencyLogEntry, &tle))
	entry, err := tlog.ParseTransparencyLogEntry(&tle)
	check(t, err)
	return entry
}

// wantAway: an entry that is not held is unavailable, not missing.
func (s *rekorStage) wantAway(name string, in *understudyv1.GetEntryRequest) {
	s.t.Helper()
	for call, ask := range map[string]func() error{
		"entry":  func() error { _, err := s.api.GetEntry(s.t.Context(), in); return err },
		"bundle": func() error { _, err := s.api.GetTransparencyLogEntry(s.t.Context(), bundled(in)); return err },
	} {
		err := ask()
		info := infoOf(err)
		if status.Code(err) != codes.Unavailable || info.GetReason() == "" || info.GetMetadata()["source"] == "live" || info.GetMetadata()["origin"] == "" {
			s.t.Errorf("%s of %s: got %v, %v", call, name, err, info)
		}
	}
}

// TestBundledV2: an entry of Rekor v2 comes with a proof to the newest checkpoint, and names
// the log as a TrustedRoot does.
func TestBundledV2(t *testing.T) {
	s := newRekorStage(t)
	_, want, err := rekornote.KeyHash(v2Origin, s.keys[0].Public())
	check(t, err)
	verifier, err := signature.LoadDefaultVerifier(s.keys[0].Public())
	check(t, err)
	leaf := storage.LeafHash(s.log.Entries(299))
	for _, in := range []*understudyv1.GetEntryRequest{
		getIndex(v2Origin, 299), getIndex("v2", 299), getHash(v2Origin, leaf), getUUID(v2Origin, leaf.String()),
	} {
		b, err := s.api.GetTransparencyLogEntry(t.Context(), bundled(in))
		check(t, err)
		entry := parseBundled(t, b)
		if b.Origin != v2Origin || b.Index != 299 || b.Uuid != "" || entry.LogKeyID() != string(want) || entry.LogIndex() != 299 {
			t.Errorf("%v: got %v", in, b)
		}
		if err := tlog.VerifyCheckpointAndInclusion(entry, verifier, v2Origin); err != nil {
			t.Errorf("%v: %v", in, err)
		}
		e, err := s.api.GetEntry(t.Context(), in)
		if err != nil || e.Index != 299 || e.Uuid != "" {
			t.Errorf("%v: got %v, %v", in, e, err)
		}
	}
	// The ID of a TrustedRoot goes before what is computed; a verifier key has none.
	key := s.keys[0]
	key.LogID = []byte("of the root")
	s.serve(func(string) []trust.Key { return []trust.Key{key} })
	b, err := s.api.GetTransparencyLogEntry(t.Context(), bundled(getIndex("v2", 0)))
	check(t, err)
	if entry := parseBundled(t, b); entry.LogKeyID() != "of the root" {
		t.Errorf("log ID %q", entry.LogKeyID())
	}
	vkey, err := trust.ParseKey([]byte(s.log.Key.Verifier()))
	check(t, err)
	for _, keys := range []func(string) []trust.Key{nil, func(string) []trust.Key { return nil }, func(string) []trust.Key { return []trust.Key{vkey} }} {
		s.serve(keys)
		_, err := s.api.GetTransparencyLogEntry(t.Context(), bundled(getIndex("v2", 0)))
		if status.Code(err) != codes.FailedPrecondition || infoOf(err).GetReason() != "LOG_ID_UNKNOWN" || infoOf(err).GetMetadata()["origin"] != v2Origin {
			t.Errorf("without log ID: %v", err)
		}
	}
}

// TestNoBundle: what is no entry of Rekor cannot stand in a bundle.
func TestNoBundle(t *testing.T) {
	s := newStage(t, 10)
	key, err := trust.ParseKey(s.log.Key.PEM())
	check(t, err)
	r := &rekorStage{stage: s, service: &mirror.Service{}}
	r.serve(func(string) []trust.Key { return []trust.Key{key} })
	_, err = s.api.GetTransparencyLogEntry(t.Context(), bundled(getIndex(origin, 3)))
	if status.Code(err) != codes.InvalidArgument || infoOf(err).GetReason() != "INVALID_REQUEST" {
		t.Errorf("entry of another kind: %v", err)
	}
}

// TestRekorEntryRefusals goes through the requests that are refused, while upstream is live.
func TestRekorEntryRefusals(t *testing.T) {
	s := newRekorStage(t)
	first, second := s.v1.Shard(0), s.v1.Shard(1)
	absent := strings.Repeat("ab", 32)
	for _, test := range []struct {
		name   string
		in     *understudyv1.GetEntryRequest
		code   codes.Code
		reason string
	}{
		{"short UUID", getUUID("rekor", absent[1:]), codes.InvalidArgument, "INVALID_REQUEST"},
		{"UUID that is no hex", getUUID("rekor", "xy"+absent[2:]), codes.InvalidArgument, "INVALID_REQUEST"},
		{"UUID of tree 0", getUUID("rekor", "0000000000000000"+absent), codes.InvalidArgument, "INVALID_REQUEST"},
		{"UUID that is not text", getUUID("rekor", strings.Repeat("é", 4000)), codes.InvalidArgument, "INVALID_REQUEST"},
		{"UUID of another shard", getUUID(first.Origin(), second.UUID(0)), codes.InvalidArgument, "INVALID_REQUEST"},
		{"UUID with a tree in Rekor v2", getUUID(v2Origin, second.UUID(0)), codes.InvalidArgument, "INVALID_REQUEST"},
		{"nothing named", &understudyv1.GetEntryRequest{Origin: "rekor"}, codes.InvalidArgument, "INVALID_REQUEST"},
		{"empty UUID", getUUID("rekor", ""), codes.InvalidArgument, "INVALID_REQUEST"},
		{"short leaf hash", &understudyv1.GetEntryRequest{Origin: "rekor", Entry: &understudyv1.GetEntryRequest_LeafHash{LeafHash: make([]byte, 31)}}, codes.InvalidArgument, "INVALID_REQUEST"},
		{"index without a log", getIndex("", 3), codes.NotFound, "UNKNOWN_ORIGIN"},
		{"unknown name", getUUID("nobody", absent), codes.NotFound, "UNKNOWN_ORIGIN"},
		{"unknown UUID", getUUID("", absent), codes.NotFound, "NOT_FOUND"},
		{"unknown UUID of a shard", getUUID(second.Origin(), absent), codes.NotFound, "NOT_FOUND"},
		{"UUID of an unknown tree", getUUID("rekor", "0000000000000123"+absent), codes.NotFound, "NOT_FOUND"},
		{"index beyond", getIndex("rekor", 1000), codes.NotFound, "NOT_FOUND"},
		{"index beyond an ended shard", getIndex(first.Origin(), endedSize), codes.NotFound, "NOT_FOUND"},
		{"index beyond the active shard", getIndex(second.Origin(), activeSize), codes.NotFound, "NOT_FOUND"},
		{"greatest index", getIndex(second.Origin(), 1<<64-1), codes.NotFound, "NOT_FOUND"},
		{"index beyond Rekor v2", getIndex("v2", v2Size), codes.NotFound, "NOT_FOUND"},
	} {
		for call, ask := range map[string]func(context.Context) error{
			"entry": func(c context.Context) error { _, err := s.api.GetEntry(c, test.in); return err },
			"bundle": func(c context.Context) error {
				_, err := s.api.GetTransparencyLogEntry(c, bundled(test.in))
				return err
			},
		} {
			err := ask(t.Context())
			if info := infoOf(err); status.Code(err) != test.code || info.GetReason() != test.reason || info.GetDomain() != "understudy.v1" {
				t.Errorf("%s of %s: got %v (%v), want %v with %s", call, test.name, err, info, test.code, test.reason)
			}
		}
	}
	s.outage()
	s.wantAway("unknown UUID", getUUID("", absent))
	s.wantAway("index beyond", getIndex("rekor", 1000))
	s.wantAway("index beyond the active shard", getIndex(second.Origin(), activeSize))
	if _, err := s.api.GetEntry(t.Context(), getIndex("v2", 3)); err != nil {
		t.Errorf("Rekor v2 while v1 is away: %v", err)
	}
}

// TestPinnedShard: the Go client verifies what it asks of a shard of which only chosen
// entries are held, also without upstream.
func TestPinnedShard(t *testing.T) {
	s := newRekorStage(t)
	sh := s.v1.Shard(1)
	verify := func(raw []byte) (uint64, client.Hash, error) {
		c, err := trust.Open(raw, sh.Origin(), s.v1Keys())
		if err != nil {
			return 0, client.Hash{}, err
		}
		return c.Size, c.Root, nil
	}
	c := client.New(s.conn, sh.Origin(), verify)
	ctx := t.Context()
	for _, index := range []uint64{0, 5} {
		e, err := c.Entry(ctx, client.Index(index))
		if err != nil || !bytes.Equal(e.Body, sh.Body(index)) {
			t.Errorf("entry %d: %+v, %v", index, e, err)
		}
	}
	sh.Grow(40, synthetic.HashedRekordV1(4)) // by 40
	s.until("it grew", func() bool { return s.service.Mirrors()[1].Tree().State().Pending.Size == sh.Size() })
	if sh.Size() <= activeSize {
		t.Fatalf("size %d", sh.Size())
	}
	e, err := c.Entry(ctx, client.Index(sh.Size()-1))
	if err != nil || e.Index != sh.Size()-1 {
		t.Errorf("newest entry: %+v, %v", e, err)
	}
	for name, err := range map[string]error{
		"list":        list(ctx, s.api, &understudyv1.ListEntriesRequest{Origin: sh.Origin()}),
		"checkpoint":  second(c.Checkpoint(ctx, activeSize+1)),
		"consistency": second(c.ConsistencyProof(ctx, activeSize-1, 0)),
	} {
		if status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), "chosen entries") {
			t.Errorf("%s of what is not pinned: %v", name, err)
		}
	}
	s.outage()
	for _, ref := range []client.Ref{client.Index(0), client.LeafHash(sh.LeafHash(5))} {
		p, err := c.InclusionProof(ctx, ref, 0)
		if err != nil || p.Head.Size != activeSize && p.Head.Size != sh.Size() {
			t.Errorf("proof of %v: %+v, %v", ref, p, err)
		}
	}
	proven, err := c.ConsistencyProof(ctx, activeSize, 0)
	if err != nil || proven.First.Root != sh.Root(activeSize) || proven.First.Checkpoint == nil || proven.Last.Size != sh.Size() {
		t.Errorf("consistency: %+v, %v", proven, err)
	}
	head, err := c.Checkpoint(ctx, activeSize)
	if err != nil || head.Root != sh.Root(activeSize) || head.Freshness.Source == mirror.SourceLive {
		t.Errorf("checkpoint: %+v, %v", head, err)
	}
	for name, err := range map[string]error{
		"entry":           second(c.Entry(ctx, client.Index(3))),
		"proof":           second(c.InclusionProof(ctx, client.Index(3), 0)),
		"proof in a size": second(c.InclusionProof(ctx, client.Index(0), activeSize+1)),
		"checkpoint":      second(c.Checkpoint(ctx, activeSize+1)),
		"consistency":     second(c.ConsistencyProof(ctx, activeSize-1, 0)),
	} {
		if status.Code(errors.Unwrap(err)) != codes.Unavailable || client.Reason(err) == "" {
			t.Errorf("%s of what is not held: %v", name, err)
		}
	}
}

func second[T any](_ T, err error) error { return err }
