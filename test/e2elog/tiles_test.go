package e2elog

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"fmt"
	"strings"
	"testing"
	"time"

	commonpb "github.com/sigstore/protobuf-specs/gen/pb-go/common/v1"
	logpb "github.com/sigstore/protobuf-specs/gen/pb-go/rekor/v1"
	"github.com/sigstore/rekor-tiles/v2/pkg/client/read"
	"github.com/sigstore/rekor-tiles/v2/pkg/client/write"
	rekorpb "github.com/sigstore/rekor-tiles/v2/pkg/generated/protobuf"
	rekornote "github.com/sigstore/rekor-tiles/v2/pkg/note"
	"github.com/sigstore/rekor-tiles/v2/pkg/verify"
	"github.com/sigstore/sigstore/pkg/signature"
	"github.com/transparency-dev/merkle/rfc6962"
	"github.com/transparency-dev/tessera/api"
	"golang.org/x/mod/sumdb/note"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
)

// tileWriter writes and reads as users of rekor-tiles' own library do.
type tileWriter struct {
	write.Client
	read     read.Client
	verifier note.Verifier
}

func newTileWriter(t *testing.T, s *stage) *tileWriter {
	t.Helper()
	key := must(signature.LoadVerifier(s.log(t, 2).PublicKey, crypto.SHA256))
	return &tileWriter{
		Client:   must(write.NewWriter(s.v2)),
		read:     must(read.NewReader(s.v2Reads, s.origin(), key)),
		verifier: must(rekornote.NewNoteVerifier(s.origin(), key)),
	}
}

// hashedRekord is a request with a new key and artifact.
func hashedRekord() *rekorpb.HashedRekordRequestV002 {
	key := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	digest := sha256.Sum256([]byte(rand.Text()))
	return &rekorpb.HashedRekordRequestV002{
		Digest: digest[:],
		Signature: &rekorpb.Signature{
			Content: must(key.Sign(rand.Reader, digest[:], crypto.SHA256)),
			Verifier: &rekorpb.Verifier{
				Verifier:   &rekorpb.Verifier_PublicKey{PublicKey: &rekorpb.PublicKey{RawBytes: must(x509.MarshalPKIXPublicKey(key.Public()))}},
				KeyDetails: commonpb.PublicKeyDetails_PKIX_ECDSA_P256_SHA_256,
			},
		},
	}
}

// TestTilesClient: rekor-tiles' library writes at once, verifies each answer, and finds each entry in the
// tiles under the newest checkpoint. The same again gets the first answer, which the real server denies.
func TestTilesClient(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	c := newTileWriter(t, s)
	ctx := within(t, time.Minute)
	requests := make([]*rekorpb.HashedRekordRequestV002, 300) // more than one bundle
	entries := make([]*logpb.TransparencyLogEntry, len(requests))
	var group errgroup.Group
	for i := range requests {
		group.Go(func() (err error) {
			requests[i] = hashedRekord()
			if entries[i], err = c.Add(ctx, requests[i]); err != nil {
				return err
			}
			return c.verify(entries[i])
		})
	}
	if err := group.Wait(); err != nil {
		t.Fatal(err)
	}
	seen := map[int64]bool{}
	for _, e := range entries {
		if seen[e.LogIndex] {
			t.Errorf("index %d was given twice", e.LogIndex)
		}
		seen[e.LogIndex] = true
		if e.IntegratedTime != 0 || e.InclusionPromise != nil {
			t.Errorf("entry %d has a time or a promise, which Rekor v2 does not give: %v", e.LogIndex, e)
		}
		if e.GetKindVersion().GetKind() != "hashedrekord" || e.GetKindVersion().GetVersion() != "0.0.2" {
			t.Errorf("entry %d is a %v", e.LogIndex, e.GetKindVersion())
		}
		if !bytes.Equal(e.GetLogId().GetKeyId(), s.log(t, 2).ID) {
			t.Errorf("entry %d is of the log %x, want %x", e.LogIndex, e.GetLogId().GetKeyId(), s.log(t, 2).ID)
		}
	}
	if err := c.held(ctx, entries); err != nil {
		t.Error(err)
	}

	if asked == realServers { // it remembers the last 256
		last := hashedRekord()
		must(c.Add(ctx, last))
		if again, err := c.Add(ctx, last); err == nil || !strings.Contains(err.Error(), "409") {
			t.Errorf("the same again: %v, %v", again, err)
		}
		return
	}
	again, err := c.Add(ctx, requests[0])
	if err != nil {
		t.Fatalf("the same again: %v", err)
	}
	if err := c.verify(again); err != nil || again.LogIndex != entries[0].LogIndex || !bytes.Equal(again.CanonicalizedBody, entries[0].CanonicalizedBody) {
		t.Errorf("the same again: %v, want %v: %v", again, entries[0], err)
	}
}

// verify verifies an answer under the log's key.
func (c *tileWriter) verify(e *logpb.TransparencyLogEntry) error {
	if err := verify.VerifyLogEntry(e, c.verifier); err != nil {
		return fmt.Errorf("entry %d: %w", e.GetLogIndex(), err)
	}
	return nil
}

// held checks that entries are where they are said to be, in bundles and in tiles of the first level,
// under the newest checkpoint.
func (c *tileWriter) held(ctx context.Context, entries []*logpb.TransparencyLogEntry) error {
	checkpoint, _, err := c.read.ReadCheckpoint(ctx)
	if err != nil {
		return err
	}
	for _, e := range entries {
		index := uint64(e.GetLogIndex())
		if index >= checkpoint.Size {
			return fmt.Errorf("entry %d is not in the published tree of %d", index, checkpoint.Size)
		}
		width := uint8(0) // whole
		if index/256 == checkpoint.Size/256 {
			width = uint8(checkpoint.Size % 256)
		}
		raw, err := c.read.ReadEntryBundle(ctx, index/256, width)
		if err != nil {
			return err
		}
		var b api.EntryBundle
		if err := b.UnmarshalText(raw); err != nil {
			return fmt.Errorf("bundle %d: %w", index/256, err)
		}
		if !bytes.Equal(b.Entries[index%256], e.GetCanonicalizedBody()) {
			return fmt.Errorf("entry %d is not what was answered", index)
		}
		tile, err := c.read.ReadTile(ctx, 0, index/256, width)
		if err != nil {
			return err
		}
		hash := rfc6962.DefaultHasher.HashLeaf(e.GetCanonicalizedBody())
		if at := index % 256 * 32; !bytes.Equal(tile[at:at+32], hash) {
			return fmt.Errorf("entry %d has another hash in its tile", index)
		}
	}
	return nil
}

// TestTilesGRPC: the same by gRPC, and what is wrong is refused with the codes of a client's mistake.
func TestTilesGRPC(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	c := newTileWriter(t, s)
	ctx := within(t, time.Minute)
	conn, err := grpc.NewClient("passthrough:///"+s.v2GRPC, grpc.WithNoProxy(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	rekor := rekorpb.NewRekorClient(conn)
	create := func(r *rekorpb.HashedRekordRequestV002) (*logpb.TransparencyLogEntry, error) {
		return rekor.CreateEntry(ctx, &rekorpb.CreateEntryRequest{Spec: &rekorpb.CreateEntryRequest_HashedRekordRequestV002{HashedRekordRequestV002: r}})
	}
	request := hashedRekord()
	entry, err := create(request)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.verify(entry); err != nil {
		t.Error(err)
	}
	if err := c.held(ctx, []*logpb.TransparencyLogEntry{entry}); err != nil {
		t.Error(err)
	}
	again, err := create(request)
	switch {
	case asked == realServers:
		if status.Code(err) != codes.AlreadyExists {
			t.Errorf("the same again: %v", err)
		}
	case err != nil || again.LogIndex != entry.LogIndex:
		t.Errorf("the same again: %v, %v, want index %d", again, err, entry.LogIndex)
	}
	// What went by one way is there by the other.
	if asked != realServers {
		if other, err := c.Add(ctx, request); err != nil || other.LogIndex != entry.LogIndex {
			t.Errorf("the same again by HTTP: %v, %v, want index %d", other, err, entry.LogIndex)
		}
	}
	for name, spoil := range map[string]func(*rekorpb.HashedRekordRequestV002){
		"no digest":      func(r *rekorpb.HashedRekordRequestV002) { r.Digest = nil },
		"short digest":   func(r *rekorpb.HashedRekordRequestV002) { r.Digest = r.Digest[1:] },
		"another digest": func(r *rekorpb.HashedRekordRequestV002) { r.Digest[0]++ },
		"no signature":   func(r *rekorpb.HashedRekordRequestV002) { r.Signature.Content = nil },
		"no verifier":    func(r *rekorpb.HashedRekordRequestV002) { r.Signature.Verifier = nil },
		"no key":         func(r *rekorpb.HashedRekordRequestV002) { r.Signature.Verifier.GetPublicKey().RawBytes = []byte("key") },
		"another key type": func(r *rekorpb.HashedRekordRequestV002) {
			r.Signature.Verifier.KeyDetails = commonpb.PublicKeyDetails_PKIX_ECDSA_P384_SHA_384
		},
	} {
		wrong := hashedRekord()
		spoil(wrong)
		if _, err := create(wrong); status.Code(err) != codes.InvalidArgument || len(status.Convert(err).Message()) < 10 {
			t.Errorf("%s by gRPC: %v", name, err)
		}
		if _, err := c.Add(ctx, wrong); err == nil || !strings.Contains(err.Error(), "unexpected response: 400") {
			t.Errorf("%s by HTTP: %v", name, err)
		}
	}
}
