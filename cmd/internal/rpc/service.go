package rpc

import (
	"context"
	"fmt"
	"log/slog"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/understudy-log/understudy/mirror"
	"github.com/understudy-log/understudy/mirror/trust"
	understudyv1 "github.com/understudy-log/understudy/proto/understudy/v1"
	"github.com/understudy-log/understudy/storage"
)

// maxBatch is how many indexes one batch may have.
const maxBatch = 10_000

// maxBatches is how many batches are answered at once, each up to some 20 MB of
// memory; further ones wait.
const maxBatches = 8

// service implements understudy.v1.LogService.
type service struct {
	understudyv1.UnimplementedLogServiceServer
	mirrors  func() []*mirror.Mirror
	services []*mirror.Service
	keys     func(origin string) []trust.Key
	batches  chan struct{} // holds one token per batch being answered
	searches chan struct{} // and one per search
	logger   *slog.Logger
}

func newService(c Config) *service {
	return &service{
		mirrors: c.Mirrors, services: c.Services, keys: c.Keys, logger: c.Logger,
		batches: make(chan struct{}, maxBatches), searches: make(chan struct{}, maxSearches),
	}
}

// log returns the mirror of an origin, or the refusal.
func (s *service) log(origin string) (found, error) {
	for _, m := range s.mirrors() {
		if m.Origin() == origin {
			return found{m, s.serviceOf(m)}, nil
		}
	}
	return found{}, unknownOrigin(origin)
}

// refuse is the refusal of a request about f.
func (s *service) refuse(f found, err error) error {
	return refuse(f.origin(), s.logger, f.notCopied(err))
}

// invalid refuses a request that can never be answered.
func (s *service) invalid(f found, format string, args ...any) error {
	return s.refuse(f, &mirror.Refusal{
		Kind:      mirror.Invalid,
		Reason:    mirror.ReasonInvalidRequest,
		Text:      fmt.Sprintf(format, args...),
		Freshness: f.freshness(),
	})
}

// malformed refuses a request that can never be answered, whatever log it is about.
func (s *service) malformed(name, text string) error {
	return statusOf(codes.InvalidArgument, mirror.ReasonInvalidRequest, sendable(text), map[string]string{"origin": sendable(name)})
}

// ListLogs implements understudyv1.LogServiceServer.
func (s *service) ListLogs(context.Context, *understudyv1.ListLogsRequest) (*understudyv1.ListLogsResponse, error) {
	mirrors := s.mirrors()
	out := &understudyv1.ListLogsResponse{Logs: make([]*understudyv1.Log, len(mirrors))}
	for i, m := range mirrors {
		out.Logs[i] = describe(m)
	}
	return out, nil
}

func describe(m *mirror.Mirror) *understudyv1.Log {
	status, state := m.Status(), m.Tree().State()
	log := &understudyv1.Log{
		Origin:       m.Origin(),
		Name:         m.Name(),
		OriginHash:   status.OriginHash,
		Url:          status.URL,
		Coverage:     status.Coverage,
		MinimumIndex: status.MinimumIndex,
		NextIndex:    state.Head.Size,
		MirrorSize:   state.Mirrored.Size,
		Freshness:    freshness(m.Freshness()),
	}
	if p := state.Pending; p.Raw != nil {
		log.TreeSize, log.RootHash, log.Checkpoint = p.Size, p.Root[:], p.Raw
	}
	if status.Problem != nil {
		log.Problem = status.Problem.Text
	}
	return log
}

// GetCheckpoint implements understudyv1.LogServiceServer.
func (s *service) GetCheckpoint(_ context.Context, in *understudyv1.GetCheckpointRequest) (*understudyv1.GetCheckpointResponse, error) {
	about, err := s.log(in.GetOrigin())
	if err != nil {
		return nil, err
	}
	m := about.log
	head, f, err := m.Checkpoint(in.GetTreeSize())
	if about.unanswered(err) {
		return s.pinnedCheckpoint(about, in, err)
	}
	if err != nil {
		return nil, s.refuse(about, err)
	}
	return &understudyv1.GetCheckpointResponse{
		Origin: m.Origin(), TreeSize: head.Size, RootHash: head.Root[:], Checkpoint: head.Checkpoint, Freshness: freshness(f),
	}, nil
}

// WatchCheckpoints implements understudyv1.LogServiceServer.
func (s *service) WatchCheckpoints(in *understudyv1.WatchCheckpointsRequest, stream grpc.ServerStreamingServer[understudyv1.WatchCheckpointsResponse]) error {
	about, err := s.log(in.GetOrigin())
	if err != nil {
		return err
	}
	m := about.log
	err = m.WatchCheckpoints(stream.Context(), func(head mirror.TreeHead, f mirror.Freshness) error {
		return stream.Send(&understudyv1.WatchCheckpointsResponse{
			Origin: m.Origin(), TreeSize: head.Size, RootHash: head.Root[:], Checkpoint: head.Checkpoint, Freshness: freshness(f),
		})
	})
	return s.refuse(about, err)
}

// ref reads the oneof that names an entry. Index 0 is an index; nothing is not.
func (s *service) ref(f found, oneof any) (mirror.Ref, error) {
	var leafHash []byte
	switch entry := oneof.(type) {
	case *understudyv1.GetEntryRequest_Index:
		return mirror.Ref{Index: entry.Index}, nil
	case *understudyv1.GetInclusionProofRequest_Index:
		return mirror.Ref{Index: entry.Index}, nil
	case *understudyv1.GetTransparencyLogEntryRequest_Index:
		return mirror.Ref{Index: entry.Index}, nil
	case *understudyv1.GetTransparencyLogEntryRequest_LeafHash:
		leafHash = entry.LeafHash
	case *understudyv1.GetEntryRequest_LeafHash:
		leafHash = entry.LeafHash
	case *understudyv1.GetInclusionProofRequest_LeafHash:
		leafHash = entry.LeafHash
	default:
		return mirror.Ref{}, s.invalid(f, "no entry is named: set index (0 is one), leaf_hash or, where there is one, uuid")
	}
	if len(leafHash) != storage.HashSize {
		return mirror.Ref{}, s.invalid(f, "leaf_hash has %d bytes: it is the %d raw bytes of SHA-256(0x00 || entry)", len(leafHash), storage.HashSize)
	}
	hash := storage.Hash(leafHash)
	return mirror.Ref{LeafHash: &hash}, nil
}

// ListEntries implements understudyv1.LogServiceServer.
func (s *service) ListEntries(in *understudyv1.ListEntriesRequest, stream grpc.ServerStreamingServer[understudyv1.ListEntriesResponse]) error {
	about, err := s.log(in.GetOrigin())
	if err != nil {
		return err
	}
	m := about.log
	var last mirror.Freshness // entries read together have the same
	var sent *understudyv1.Freshness
	err = m.Entries(stream.Context(), in.GetIndex(), in.GetLimit(), func(e mirror.Entry, f mirror.Freshness) error {
		if sent == nil || f != last {
			last, sent = f, freshness(f)
		}
		return stream.Send(&understudyv1.ListEntriesResponse{Index: e.Index, LeafHash: e.LeafHash[:], Body: e.Body, Freshness: sent})
	})
	return s.refuse(about, err)
}

// GetInclusionProof implements understudyv1.LogServiceServer.
func (s *service) GetInclusionProof(ctx context.Context, in *understudyv1.GetInclusionProofRequest) (*understudyv1.GetInclusionProofResponse, error) {
	about, err := s.log(in.GetOrigin())
	if err != nil {
		return nil, err
	}
	m := about.log
	ref, err := s.ref(about, in.GetEntry())
	if err != nil {
		return nil, err
	}
	proof, head, f, err := m.InclusionProof(ref, in.GetTreeSize())
	if about.unanswered(err) {
		return s.pinnedInclusion(ctx, about, in, ref, err)
	}
	if err != nil {
		return nil, s.refuse(about, err)
	}
	return &understudyv1.GetInclusionProofResponse{
		Origin: m.Origin(), Index: proof.Index, LeafHash: proof.LeafHash[:],
		TreeSize: head.Size, RootHash: head.Root[:], Hashes: appendHashes(nil, proof.Hashes), Checkpoint: head.Checkpoint,
		Freshness: freshness(f),
	}, nil
}

// BatchGetInclusionProofs implements understudyv1.LogServiceServer.
func (s *service) BatchGetInclusionProofs(ctx context.Context, in *understudyv1.BatchGetInclusionProofsRequest) (*understudyv1.BatchGetInclusionProofsResponse, error) {
	about, err := s.log(in.GetOrigin())
	if err != nil {
		return nil, err
	}
	m := about.log
	if n := len(in.GetIndexes()); n > maxBatch {
		return nil, s.invalid(about, "%d indexes are too many: ask for at most %d at a time", n, maxBatch)
	}
	select {
	case s.batches <- struct{}{}:
		defer func() { <-s.batches }()
	case <-ctx.Done():
		return nil, s.refuse(about, ctx.Err())
	}
	proofs, head, f, err := m.InclusionProofs(in.GetIndexes(), in.GetTreeSize())
	if err != nil {
		return nil, s.refuse(about, err)
	}
	return &understudyv1.BatchGetInclusionProofsResponse{
		Origin: m.Origin(), TreeSize: head.Size, RootHash: head.Root[:], Checkpoint: head.Checkpoint,
		Proofs: proofMessages(proofs), Freshness: freshness(f),
	}, nil
}

// proofMessages makes all messages of a batch in three allocations, sharing the bytes
// of proofs.
func proofMessages(proofs []mirror.Inclusion) []*understudyv1.InclusionProof {
	total := 0
	for i := range proofs {
		total += len(proofs[i].Hashes)
	}
	hashes := make([][]byte, 0, total)
	messages := make([]understudyv1.InclusionProof, len(proofs))
	out := make([]*understudyv1.InclusionProof, len(proofs))
	for i := range proofs {
		p, start := &proofs[i], len(hashes)
		hashes = appendHashes(hashes, p.Hashes)
		out[i] = &messages[i]
		out[i].Index, out[i].LeafHash, out[i].Hashes = p.Index, p.LeafHash[:], hashes[start:]
	}
	return out
}

// GetConsistencyProof implements understudyv1.LogServiceServer.
func (s *service) GetConsistencyProof(ctx context.Context, in *understudyv1.GetConsistencyProofRequest) (*understudyv1.GetConsistencyProofResponse, error) {
	about, err := s.log(in.GetOrigin())
	if err != nil {
		return nil, err
	}
	m := about.log
	c, f, err := m.ConsistencyProof(in.GetFirstSize(), in.GetLastSize())
	if about.unanswered(err) {
		return s.pinnedConsistency(ctx, about, in, err)
	}
	if err != nil {
		return nil, s.refuse(about, err)
	}
	return &understudyv1.GetConsistencyProofResponse{
		Origin:    m.Origin(),
		FirstSize: c.First.Size, FirstRootHash: c.First.Root[:], FirstCheckpoint: c.First.Checkpoint,
		LastSize: c.Last.Size, TreeSize: c.Last.Size, RootHash: c.Last.Root[:], Checkpoint: c.Last.Checkpoint,
		Hashes: appendHashes(nil, c.Hashes), Freshness: freshness(f),
	}, nil
}

// appendHashes appends hashes to dst as messages have them, sharing their bytes.
func appendHashes(dst [][]byte, hashes []storage.Hash) [][]byte {
	if dst == nil {
		dst = make([][]byte, 0, len(hashes))
	}
	for i := range hashes {
		dst = append(dst, hashes[i][:])
	}
	return dst
}

func freshness(f mirror.Freshness) *understudyv1.Freshness {
	return &understudyv1.Freshness{
		Source:        f.Source,
		CheckpointAge: durationpb.New(f.CheckpointAge),
		UpstreamState: f.UpstreamState,
	}
}
