package verifier

import (
	"bytes"
	"context"
	"fmt"
	"net/url"
	"os/exec"
	"strings"

	formatslog "github.com/transparency-dev/formats/log"
	formatsnote "github.com/transparency-dev/formats/note"
	"github.com/transparency-dev/merkle/proof"
	"github.com/transparency-dev/merkle/rfc6962"
	"github.com/transparency-dev/tessera/api/layout"
	"github.com/transparency-dev/tessera/client"
)

// Tessera reads a log over its tiles, with Tessera's client.
type Tessera struct {
	fetcher *client.HTTPFetcher
	size    uint64
	root    []byte
	builder *client.ProofBuilder
}

// NewTessera fetches the checkpoint below prefix and verifies it with vkey, whose
// name is the log's origin.
func NewTessera(ctx context.Context, prefix, vkey string) (*Tessera, error) {
	base, err := url.Parse(prefix)
	if err != nil {
		return nil, err
	}
	verifier, err := formatsnote.NewVerifier(vkey)
	if err != nil {
		return nil, err
	}
	fetcher, err := client.NewHTTPFetcher(base, nil)
	if err != nil {
		return nil, err
	}
	checkpoint, _, _, err := client.FetchCheckpoint(ctx, fetcher.ReadCheckpoint, verifier, verifier.Name())
	if err != nil {
		return nil, fmt.Errorf("checkpoint of %s: %w", prefix, err)
	}
	builder, err := client.NewProofBuilder(ctx, checkpoint.Size, fetcher.ReadTile)
	if err != nil {
		return nil, fmt.Errorf("tiles of %s: %w", prefix, err)
	}
	return &Tessera{fetcher: fetcher, size: checkpoint.Size, root: checkpoint.Hash, builder: builder}, nil
}

// Checkpoint parses a signed note and verifies it with vkey, whose name is the log's
// origin.
func Checkpoint(raw []byte, vkey string) (*formatslog.Checkpoint, error) {
	verifier, err := formatsnote.NewVerifier(vkey)
	if err != nil {
		return nil, err
	}
	checkpoint, _, _, err := formatslog.ParseCheckpoint(raw, verifier.Name(), verifier)
	return checkpoint, err
}

// Size returns the size of the verified checkpoint.
func (t *Tessera) Size() uint64 { return t.size }

// Verify fetches the entry's bundle and the tiles on its path, and proves that the
// log holds body at index under the verified checkpoint.
func (t *Tessera) Verify(ctx context.Context, index uint64, body []byte) error {
	bundle, err := client.GetEntryBundle(ctx, t.fetcher.ReadEntryBundle, index/layout.EntryBundleWidth, t.size)
	if err != nil {
		return fmt.Errorf("bundle of entry %d: %w", index, err)
	}
	at := int(index % layout.EntryBundleWidth)
	if at >= len(bundle.Entries) || !bytes.Equal(bundle.Entries[at], body) {
		return fmt.Errorf("entry %d: its bundle holds something else", index)
	}
	path, err := t.builder.InclusionProof(ctx, index)
	if err != nil {
		return fmt.Errorf("proof of entry %d: %w", index, err)
	}
	if err := proof.VerifyInclusion(rfc6962.DefaultHasher, index, t.size, rfc6962.DefaultHasher.HashLeaf(body), path, t.root); err != nil {
		return fmt.Errorf("proof of entry %d: %w", index, err)
	}
	return nil
}

// Fsck runs Tessera's fsck over the whole log below prefix and returns the size of
// the checkpoint that it accepted.
func Fsck(ctx context.Context, binary, prefix, vkeyFile string) (uint64, error) {
	cmd := exec.CommandContext(ctx, binary, "--storage_url="+prefix, "--public_key="+vkeyFile, "--ui=false", "--N=4")
	out, err := cmd.CombinedOutput()
	if err != nil {
		return 0, fmt.Errorf("fsck of %s: %w\n%s", prefix, err, out)
	}
	// It exits with 0 whatever it found: what it prints counts.
	const accepted = "Successfully fsck'd log with size "
	var size uint64
	_, after, _ := strings.Cut(string(out), accepted)
	if _, err := fmt.Sscan(after, &size); err != nil {
		return 0, fmt.Errorf("fsck of %s did not accept it:\n%.1000s", prefix, out) // it may print whole tiles
	}
	return size, nil
}
