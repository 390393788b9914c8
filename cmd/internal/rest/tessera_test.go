package rest

import (
	"net/http/httptest"
	"net/url"
	"testing"

	"github.com/transparency-dev/merkle/proof"
	"github.com/transparency-dev/merkle/rfc6962"
	"github.com/transparency-dev/tessera/api"
	"github.com/transparency-dev/tessera/client"
	"github.com/transparency-dev/tessera/fsck"
)

// TestTessera holds that an unmodified Tessera client and its fsck take a mirror for
// a log, at sizes around the ends of tiles and up to three levels of them.
func TestTessera(t *testing.T) {
	u := newUpstream(t)
	server := httptest.NewServer(u.handler())
	defer server.Close()
	root, err := url.Parse(server.URL + prefix + "/")
	if err != nil {
		t.Fatal(err)
	}
	fetcher, err := client.NewHTTPFetcher(root, server.Client())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := fetcher.ReadCheckpoint(t.Context()); err == nil {
		t.Error("a checkpoint is served before one is mirrored")
	}
	var tracker *client.LogStateTracker
	for _, size := range []int{1, 255, 256, 257, 1000, 65_536 + 300} {
		u.grow(size)
		check := fsck.New(origin, u.verifier, fetcher, leafHashes, fsck.Opts{N: 8})
		if err := check.Check(t.Context()); err != nil {
			t.Errorf("fsck at size %d: %v", size, err)
		}
		if tracker == nil {
			tracker, err = client.NewLogStateTracker(t.Context(), fetcher.ReadTile, nil, u.verifier, origin, client.UnilateralConsensus(fetcher.ReadCheckpoint))
		} else {
			_, _, _, err = tracker.Update(t.Context()) // proves consistency over tiles
		}
		if err != nil {
			t.Errorf("client at size %d: %v", size, err)
		}
	}

	size := uint64(len(u.entries))
	builder, err := client.NewProofBuilder(t.Context(), size, fetcher.ReadTile)
	if err != nil {
		t.Fatal(err)
	}
	for _, index := range []uint64{0, 12_345, 65_535, size - 1} {
		hashes, err := builder.InclusionProof(t.Context(), index)
		if err != nil {
			t.Fatal(err)
		}
		head := u.tree.State().Head
		leaf := rfc6962.DefaultHasher.HashLeaf(u.entries[index])
		if err := proof.VerifyInclusion(rfc6962.DefaultHasher, index, size, leaf, hashes, head.Root[:]); err != nil {
			t.Errorf("inclusion of %d: %v", index, err)
		}
	}
}

func leafHashes(raw []byte) ([][]byte, error) {
	var bundle api.EntryBundle
	if err := bundle.UnmarshalText(raw); err != nil {
		return nil, err
	}
	var hashes [][]byte
	for _, entry := range bundle.Entries {
		hashes = append(hashes, rfc6962.DefaultHasher.HashLeaf(entry))
	}
	return hashes, nil
}
