//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"syscall"
	"time"

	"github.com/transparency-dev/tessera/client"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	understudyv1 "github.com/understudy-log/understudy/proto/understudy/v1"
	"github.com/understudy-log/understudy/storage"
)

// provers make the same proofs in four ways.
type provers struct {
	size    uint64
	indexes []uint64
	view    *storage.View
	builder *client.ProofBuilder // with every tile that it needs in its cache
	api     understudyv1.LogServiceClient
}

func (b *bench) measureProofs(ctx context.Context) (err error) {
	db, err := storage.Open(b.appended(), storage.Options{})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	tree, err := db.OpenTree(origin)
	if err != nil {
		return err
	}
	view := tree.View()
	defer view.Close()
	builder, err := client.NewProofBuilder(ctx, b.upstream.size, client.FileFetcher{Root: b.upstream.dir}.ReadTile)
	if err != nil {
		return err
	}
	if _, err := b.serve(ctx, b.daemon, servesTiles); err != nil {
		return err
	}
	defer b.daemon.end(syscall.SIGTERM)
	conn, err := grpc.NewClient(b.daemon.grpc, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(64<<20)))
	if err != nil {
		return err
	}
	defer conn.Close()
	p := &provers{b.upstream.size, b.indexes(), view, builder, understudyv1.NewLogServiceClient(conn)}
	if err := p.agree(ctx); err != nil {
		return err
	}
	return b.compareProofs(ctx, p)
}

// indexes are the entries that are proven.
func (b *bench) indexes() []uint64 {
	random := rand.New(rand.NewPCG(2, 3))
	indexes := make([]uint64, 20_000)
	for i := range indexes {
		indexes[i] = random.Uint64N(b.upstream.size)
	}
	return indexes
}

func (b *bench) compareProofs(ctx context.Context, p *provers) error {
	var theirs, local, unary, batched sample
	measure := func(s *sample, name string, prove func(context.Context) error) func() error {
		return func() error {
			start := time.Now()
			if err := prove(ctx); err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
			s.add(float64(len(p.indexes)) / time.Since(start).Seconds())
			b.say("%-28s %8.0f proofs/s", name, s.last())
			return nil
		}
	}
	err := b.inTurns(ctx,
		measure(&theirs, "Tessera ProofBuilder", p.byTessera),
		measure(&local, "View.InclusionProof", p.byView),
		measure(&unary, "GetInclusionProof", p.byCalls),
		measure(&batched, "BatchGetInclusionProofs", p.byBatches))
	if err != nil {
		return err
	}
	const peer = "Tessera's `ProofBuilder`, one goroutine, warm cache"
	b.compare("inclusion proofs, `storage.View`, one goroutine", "proofs/s", local, peer, theirs, "≥ 2")
	b.compare("inclusion proofs over gRPC, `BatchGetInclusionProofs` of 10,000", "proofs/s", batched, peer, theirs, "≥ 2")
	b.compare(fmt.Sprintf("inclusion proofs over gRPC, `GetInclusionProof`, %d callers", callers), "proofs/s", unary, peer, theirs, "")
	return nil
}

// agree makes every proof in every way, which fills the caches, and holds them against
// each other.
func (p *provers) agree(ctx context.Context) error {
	same := func(i uint64, what string, a []storage.Hash, b [][]byte) error {
		if !slices.EqualFunc(a, b, func(a storage.Hash, b []byte) bool { return string(a[:]) == string(b) }) {
			return fmt.Errorf("proofs of entry %d differ: ours is %v, %s %x", i, a, what, b)
		}
		return nil
	}
	ours := map[uint64][]storage.Hash{}
	for _, i := range p.indexes {
		proof, err := p.view.InclusionProof(i, p.size)
		if err != nil {
			return err
		}
		ours[i] = proof
		theirs, err := p.builder.InclusionProof(ctx, i)
		if err != nil {
			return err
		}
		if err := same(i, "Tessera's", proof, theirs); err != nil {
			return err
		}
	}
	return p.inBatches(ctx, func(answer *understudyv1.BatchGetInclusionProofsResponse) error {
		for _, proof := range answer.GetProofs() {
			if err := same(proof.GetIndex(), "over gRPC", ours[proof.GetIndex()], proof.GetHashes()); err != nil {
				return err
			}
		}
		return nil
	})
}

func (p *provers) byTessera(ctx context.Context) error {
	for _, i := range p.indexes {
		if _, err := p.builder.InclusionProof(ctx, i); err != nil {
			return err
		}
	}
	return nil
}

func (p *provers) byView(context.Context) error {
	for _, i := range p.indexes {
		if _, err := p.view.InclusionProof(i, p.size); err != nil {
			return err
		}
	}
	return nil
}

// callers is how many unary calls are on their way at once.
const callers = 16

func (p *provers) byCalls(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	for c := range callers {
		g.Go(func() error {
			for k := c; k < len(p.indexes); k += callers {
				_, err := p.api.GetInclusionProof(ctx, &understudyv1.GetInclusionProofRequest{
					Origin:   origin,
					Entry:    &understudyv1.GetInclusionProofRequest_Index{Index: p.indexes[k]},
					TreeSize: p.size,
				})
				if err != nil {
					return err
				}
			}
			return nil
		})
	}
	return g.Wait()
}

func (p *provers) byBatches(ctx context.Context) error {
	return p.inBatches(ctx, func(*understudyv1.BatchGetInclusionProofsResponse) error { return nil })
}

func (p *provers) inBatches(ctx context.Context, use func(*understudyv1.BatchGetInclusionProofsResponse) error) error {
	for indexes := range slices.Chunk(p.indexes, 10_000) {
		answer, err := p.api.BatchGetInclusionProofs(ctx, &understudyv1.BatchGetInclusionProofsRequest{Origin: origin, Indexes: indexes, TreeSize: p.size})
		if err != nil {
			return err
		}
		if len(answer.GetProofs()) != len(indexes) {
			return fmt.Errorf("%d proofs for %d entries", len(answer.GetProofs()), len(indexes))
		}
		if err := use(answer); err != nil {
			return err
		}
	}
	return nil
}
