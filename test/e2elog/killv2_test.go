package e2elog

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"strconv"
	"testing"

	logpb "github.com/sigstore/protobuf-specs/gen/pb-go/rekor/v1"
	"github.com/sigstore/rekor-tiles/v2/pkg/client/read"
	rekorpb "github.com/sigstore/rekor-tiles/v2/pkg/generated/protobuf"
	"github.com/transparency-dev/formats/log"
	"github.com/transparency-dev/merkle/proof"
	"github.com/transparency-dev/merkle/rfc6962"
	"github.com/transparency-dev/tessera/api/layout"
	"github.com/transparency-dev/tessera/client"
	"google.golang.org/protobuf/encoding/protojson"
)

// killedV2 is the v2 API, checked by rekor-tiles' verification and Tessera's proofs from tiles.
type killedV2 struct {
	*tileWriter
	http    *http.Client
	at      func() string
	newest  *log.Checkpoint
	builder *client.ProofBuilder
}

func newKilledV2(t *testing.T, s *stage) *killedV2 {
	t.Helper()
	return &killedV2{
		tileWriter: newTileWriter(t, s),
		http:       &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 2 * killWriters}},
		at:         func() string { return direct(s.v2) },
	}
}

func (k *killedV2) propose() proposal {
	return must(protojson.Marshal(&rekorpb.CreateEntryRequest{
		Spec: &rekorpb.CreateEntryRequest_HashedRekordRequestV002{HashedRekordRequestV002: hashedRekord()},
	}))
}

func (k *killedV2) write(ctx context.Context, p proposal) (receipt, error) {
	answer, body, err := post(ctx, k.http, k.at()+"/api/v2/log/entries", p)
	if err != nil {
		return receipt{}, err
	}
	if asked == realServers && answer.StatusCode == http.StatusConflict { // it says no more than where
		index, err := strconv.ParseUint(answer.Header.Get("X-Log-Index"), 10, 64)
		return receipt{index: index}, wrong(err)
	}
	if answer.StatusCode != http.StatusCreated {
		return receipt{}, refused(answer, body)
	}
	var entry logpb.TransparencyLogEntry
	if err := protojson.Unmarshal(body, &entry); err != nil {
		return receipt{}, wrong(err)
	}
	return receipt{index: uint64(entry.LogIndex), body: entry.CanonicalizedBody}, wrong(k.verify(&entry))
}

func (k *killedV2) advance(ctx context.Context) error {
	checkpoint, _, err := k.read.ReadCheckpoint(ctx)
	if err != nil {
		return err
	}
	if k.builder, err = client.NewProofBuilder(ctx, checkpoint.Size, k.read.ReadTile); err != nil {
		return err
	}
	if old := k.newest; old != nil {
		if checkpoint.Size < old.Size {
			return fmt.Errorf("it had %d entries, and has %d", old.Size, checkpoint.Size)
		}
		path, err := k.builder.ConsistencyProof(ctx, old.Size, checkpoint.Size)
		if err != nil {
			return err
		}
		if err := proof.VerifyConsistency(rfc6962.DefaultHasher, old.Size, checkpoint.Size, path, old.Hash, checkpoint.Hash); err != nil {
			return err
		}
	}
	k.newest = checkpoint
	return nil
}

func (k *killedV2) proves(ctx context.Context, r receipt) error {
	b, err := client.GetEntryBundle(ctx, readBundle(k.read), r.index/layout.EntryBundleWidth, k.newest.Size)
	if err != nil {
		return fmt.Errorf("bundle of entry %d: %w", r.index, err)
	}
	at := r.index % layout.EntryBundleWidth
	if asked == realServers && r.body == nil && at < uint64(len(b.Entries)) {
		r.body = b.Entries[at]
	}
	if at >= uint64(len(b.Entries)) || !bytes.Equal(b.Entries[at], r.body) {
		return fmt.Errorf("entry %d is not what was answered", r.index)
	}
	path, err := k.builder.InclusionProof(ctx, r.index)
	if err != nil {
		return err
	}
	if err := proof.VerifyInclusion(rfc6962.DefaultHasher, r.index, k.newest.Size, rfc6962.DefaultHasher.HashLeaf(r.body), path, k.newest.Hash); err != nil {
		return fmt.Errorf("entry %d: %w", r.index, err)
	}
	return nil
}

func readBundle(r read.Client) client.EntryBundleFetcherFunc { return r.ReadEntryBundle }
