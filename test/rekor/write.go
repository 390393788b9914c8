package rekor

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"slices"
	"sync/atomic"

	bundlepb "github.com/sigstore/protobuf-specs/gen/pb-go/bundle/v1"
	commonpb "github.com/sigstore/protobuf-specs/gen/pb-go/common/v1"
	logpb "github.com/sigstore/protobuf-specs/gen/pb-go/rekor/v1"
	"github.com/sigstore/rekor-tiles/v2/pkg/client/write"
	rekorpb "github.com/sigstore/rekor-tiles/v2/pkg/generated/protobuf"
	"golang.org/x/sync/errgroup"
)

// writers is how many writes wait for their checkpoint at a time.
const writers = 512

// Entry is one artifact with its signature and log entry, as the signing client
// got them.
type Entry struct {
	Artifact []byte
	Bundle   *bundlepb.Bundle // with the proof that Rekor answered
}

// Index returns the entry's place in the log.
func (e Entry) Index() uint64 {
	return uint64(e.Bundle.GetVerificationMaterial().GetTlogEntries()[0].GetLogIndex())
}

// Body returns the entry as it stands in the log.
func (e Entry) Body() []byte {
	return e.Bundle.GetVerificationMaterial().GetTlogEntries()[0].GetCanonicalizedBody()
}

// Write signs n random artifacts, each with a new key and certificate and a timestamp,
// and writes them through the log's API. It returns them in the order of the log. wrote, if
// set, is called with the number written so far, from several goroutines.
func (l *Log) Write(ctx context.Context, n int, wrote func(total int)) ([]Entry, error) {
	entries, err := l.WriteTo(ctx, l.writeURL, n, wrote)
	if err != nil {
		return nil, fmt.Errorf("%w\n%s", err, l.server.Tail())
	}
	return entries, nil
}

// WriteTo does what Write does, with the same authority, at another log that speaks Rekor v2; at is its
// address, without a path.
func (l *Log) WriteTo(ctx context.Context, at string, n int, wrote func(total int)) ([]Entry, error) {
	client, err := write.NewWriter(at)
	if err != nil {
		return nil, err
	}
	entries := make([]Entry, n)
	var total atomic.Int64
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(writers)
	for i := range entries {
		group.Go(func() error {
			if ctx.Err() != nil {
				return ctx.Err() // one has failed: do not begin the rest
			}
			var err error
			if entries[i], err = l.writeOne(ctx, client); err != nil {
				return fmt.Errorf("write to %s: %w", at, err)
			}
			if done := total.Add(1); wrote != nil {
				wrote(int(done))
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	slices.SortFunc(entries, func(a, b Entry) int { return int(a.Index()) - int(b.Index()) })
	return entries, nil
}

func (l *Log) writeOne(ctx context.Context, client write.Client) (Entry, error) {
	artifact := make([]byte, 64)
	rand.Read(artifact) // never fails
	digest := sha256.Sum256(artifact)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return Entry{}, err
	}
	der, err := l.authority.Issue(key.Public(), Identity)
	if err != nil {
		return Entry{}, err
	}
	certificate := &commonpb.X509Certificate{RawBytes: der}
	signature, err := key.Sign(rand.Reader, digest[:], crypto.SHA256)
	if err != nil {
		return Entry{}, err
	}
	stamp, err := l.authority.Stamp(signature)
	if err != nil {
		return Entry{}, err
	}
	logEntry, err := client.Add(ctx, &rekorpb.HashedRekordRequestV002{
		Digest: digest[:],
		Signature: &rekorpb.Signature{
			Content: signature,
			Verifier: &rekorpb.Verifier{
				Verifier:   &rekorpb.Verifier_X509Certificate{X509Certificate: certificate},
				KeyDetails: commonpb.PublicKeyDetails_PKIX_ECDSA_P256_SHA_256,
			},
		},
	})
	if err != nil {
		return Entry{}, err
	}
	return Entry{Artifact: artifact, Bundle: &bundlepb.Bundle{
		MediaType: "application/vnd.dev.sigstore.bundle.v0.3+json",
		VerificationMaterial: &bundlepb.VerificationMaterial{
			Content:     &bundlepb.VerificationMaterial_Certificate{Certificate: certificate},
			TlogEntries: []*logpb.TransparencyLogEntry{logEntry},
			TimestampVerificationData: &bundlepb.TimestampVerificationData{
				Rfc3161Timestamps: []*commonpb.RFC3161SignedTimestamp{{SignedTimestamp: stamp}},
			},
		},
		Content: &bundlepb.Bundle_MessageSignature{MessageSignature: &commonpb.MessageSignature{
			MessageDigest: &commonpb.HashOutput{Algorithm: commonpb.HashAlgorithm_SHA2_256, Digest: digest[:]},
			Signature:     signature,
		}},
	}}, nil
}
