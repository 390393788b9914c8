package outagestage

import (
	"bytes"
	"context"
	"crypto"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"sync"
	"time"

	"github.com/sigstore/rekor/pkg/client"
	gen "github.com/sigstore/rekor/pkg/generated/client"
	"github.com/sigstore/rekor/pkg/generated/client/entries"
	"github.com/sigstore/rekor/pkg/verify"
	"github.com/sigstore/sigstore/pkg/cryptoutils"
	"github.com/sigstore/sigstore/pkg/signature"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	understudyv1 "github.com/understudy-log/understudy/proto/understudy/v1"
	"github.com/understudy-log/understudy/test/rekor"
	"github.com/understudy-log/understudy/test/rekorv1"
	"github.com/understudy-log/understudy/test/verifier"
)

// Audience verifies what is held, again and again, in this process: bundles with sigstore-go, whose proofs it
// asks the mirror for, and entries with the client of Rekor v1. It does not retry.
type Audience struct {
	stage  *Stage
	cancel context.CancelFunc
	wait   sync.WaitGroup

	mu     sync.Mutex // guards the fields below
	phase  string
	pause  time.Duration // of each after a verification
	counts map[string]int
	total  int
	failed []error
	hits   int // failures, also those that are not kept
}

// workers are of each kind.
const workers = 2

// keptErrors is how many failures are told.
const keptErrors = 5

// NewAudience begins to verify, slowly.
func (s *Stage) NewAudience(ctx context.Context) (*Audience, error) {
	a := &Audience{stage: s, counts: map[string]int{}, phase: "before"}
	a.Slow()
	sigstore, err := s.Sigstore()
	if err != nil {
		return nil, err
	}
	ctx, a.cancel = context.WithCancel(ctx)
	for range workers {
		if err := a.begin(ctx, sigstore); err != nil {
			a.Close()
			return nil, err
		}
	}
	return a, nil
}

// Sigstore returns a verifier of the bundles of Rekor v2 under Sigstore's own TrustedRoot.
func (s *Stage) Sigstore() (*verifier.Sigstore, error) {
	return verifier.NewSigstore(s.TrustedRootFile, OriginV2, rekor.Identity, rekor.Issuer)
}

// begin starts a worker of each kind.
func (a *Audience) begin(ctx context.Context, sigstore *verifier.Sigstore) error {
	conn, err := grpc.NewClient(a.stage.GRPC, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	key, err := a.stage.V1Verifier()
	if err != nil {
		return err
	}
	rekorClient, err := RekorClient(a.stage.URL)
	if err != nil {
		return err
	}
	api := understudyv1.NewLogServiceClient(conn)
	a.wait.Go(func() {
		defer conn.Close()
		a.work(ctx, "sigstore-go", func() error {
			e := a.stage.V2[rand.IntN(len(a.stage.V2))]
			return VerifyV2(ctx, api, sigstore, e)
		})
	})
	a.wait.Go(func() {
		a.work(ctx, "rekor client", func() error {
			e := a.stage.V1[rand.IntN(len(a.stage.V1))]
			return VerifyV1(ctx, rekorClient, key, e)
		})
	})
	return nil
}

func (a *Audience) work(ctx context.Context, kind string, one func() error) {
	for ctx.Err() == nil {
		err := one()
		if ctx.Err() != nil {
			return // it was cut off
		}
		a.mu.Lock()
		a.counts[a.phase+", "+kind]++
		a.total++
		if err != nil {
			if a.hits++; len(a.failed) < keptErrors {
				a.failed = append(a.failed, fmt.Errorf("%s, %s: %w", a.phase, kind, err))
			}
		}
		pause := a.pause
		a.mu.Unlock()
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
	}
}

// Enter names what comes.
func (a *Audience) Enter(phase string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.phase = phase
}

// Slow has each worker verify some ten a second; Fast as many as it can.
func (a *Audience) Slow() { a.setPause(100 * time.Millisecond) }

// Fast ends what Slow did.
func (a *Audience) Fast() { a.setPause(0) }

func (a *Audience) setPause(d time.Duration) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.pause = d
}

// Total returns how many were verified so far.
func (a *Audience) Total() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.total
}

// Until waits until so many were verified.
func (a *Audience) Until(ctx context.Context, total int) error {
	for a.Total() < total {
		select {
		case <-ctx.Done():
			return fmt.Errorf("%d of %d verified: %w", a.Total(), total, ctx.Err())
		case <-time.After(50 * time.Millisecond):
		}
	}
	return nil
}

// Close ends the verifications, and returns how many there were, by phase and kind, and an error if one
// of them failed.
func (a *Audience) Close() (total int, counts map[string]int, err error) {
	a.cancel()
	a.wait.Wait()
	if a.hits > 0 {
		err = fmt.Errorf("%d of %d verifications failed, such as: %w", a.hits, a.total, errors.Join(a.failed...))
	}
	return a.total, a.counts, err
}

// VerifyV2 asks the mirror for an entry of Rekor v2 and its proof, puts them into the bundle in place of what
// the log had answered, and verifies that.
func VerifyV2(ctx context.Context, api understudyv1.LogServiceClient, sigstore *verifier.Sigstore, e rekor.Entry) error {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	proof, err := proofOf(ctx, api, OriginV2, e.Index())
	if err != nil {
		return err
	}
	return sigstore.Verify(e.Bundle, e.Artifact, proof)
}

func proofOf(ctx context.Context, api understudyv1.LogServiceClient, origin string, index uint64) (verifier.Proof, error) {
	entry, err := api.GetEntry(ctx, &understudyv1.GetEntryRequest{Origin: origin, Entry: &understudyv1.GetEntryRequest_Index{Index: index}})
	if err != nil {
		return verifier.Proof{}, err
	}
	p, err := api.GetInclusionProof(ctx, &understudyv1.GetInclusionProofRequest{Origin: origin, Entry: &understudyv1.GetInclusionProofRequest_Index{Index: index}})
	return verifier.Proof{
		Index: index, TreeSize: p.GetTreeSize(), RootHash: p.GetRootHash(), Hashes: p.GetHashes(), Checkpoint: p.GetCheckpoint(), Body: entry.GetBody(),
	}, err
}

// RekorClient returns Rekor's own client of a log, which asks each thing once.
func RekorClient(url string) (*gen.Rekor, error) {
	return client.GetRekorClient(url, client.WithRetryCount(0), client.WithNoDisableKeepalives(true))
}

// KeyFileV1 is the file with the key of the public Rekor v1.
func (s *Stage) KeyFileV1() string { return s.Rekor1.Shards[len(s.Rekor1.Shards)-1].PublicKeyFile }

// V1Verifier returns the verifier of the public Rekor v1.
func (s *Stage) V1Verifier() (signature.Verifier, error) {
	text, err := os.ReadFile(s.KeyFileV1())
	if err != nil {
		return nil, err
	}
	key, err := cryptoutils.UnmarshalPEMToPublicKey(text)
	if err != nil {
		return nil, err
	}
	return signature.LoadVerifier(key, crypto.SHA256)
}

// VerifyV1 asks a log for an entry and verifies its promise, its proof and the checkpoint of that as Rekor's
// client does, and that it is the entry that was meant.
func VerifyV1(ctx context.Context, log *gen.Rekor, key signature.Verifier, e rekorv1.Entry) error {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	answer, err := log.Entries.GetLogEntryByUUIDContext(ctx, entries.NewGetLogEntryByUUIDParams().WithEntryUUID(e.UUID))
	if err != nil {
		return err
	}
	entry, ok := answer.GetPayload()[e.UUID]
	if !ok || len(answer.GetPayload()) != 1 {
		return fmt.Errorf("asked for %s, got %v", e.UUID, answer.GetPayload())
	}
	if err := verify.VerifyLogEntry(ctx, &entry, key); err != nil {
		return err
	}
	text, ok := entry.Body.(string)
	body, err := base64.StdEncoding.DecodeString(text)
	if err != nil || !ok {
		return fmt.Errorf("entry %s has the body %q", e.UUID, text)
	}
	digest := digestOf(e.Artifact)
	if !bytes.Contains(body, []byte(hex.EncodeToString(digest[:]))) || entry.LogIndex == nil || uint64(*entry.LogIndex) != e.LogIndex {
		return fmt.Errorf("entry %s is another one: index %d, %s", e.UUID, *entry.LogIndex, body)
	}
	return nil
}

// readAll reads what a GET answers.
func readAll(ctx context.Context, url string) ([]byte, error) {
	answer, err := get(ctx, url)
	if err != nil {
		return nil, err
	}
	defer answer.Body.Close()
	return io.ReadAll(answer.Body)
}
