package rpc

import (
	"context"
	"fmt"
	"log/slog"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/understudy-log/understudy/mirror"
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
	mirrors  []*mirror.Mirror
	byOrigin map[string]*mirror.Mirror
	batches  chan struct{} // holds one token per batch being answered
	logger   *slog.Logger
}

func newService(mirrors []*mirror.Mirror, logger *slog.Logger) *service {
	s := &service{mirrors: mirrors, byOrigin: map[string]*mirror.Mirror{}, batches: make(chan struct{}, maxBatches), logger: logger}
	for _, m := range mirrors {
		s.byOrigin[m.Origin()] = m
	}
	return s
}

// log returns the mirror of an origin, or the refusal.
func (s *service) log(origin string) (*mirror.Mirror, error) {
	m, ok := s.byOrigin[origin]
	if !ok {
		return nil, unknownOrigin(origin)
	}
	return m, nil
}

// refuse is the refusal of a request about m.
func (s *service) refuse(m *mirror.Mirror, err error) error { return refuse(m.Origin(), s.logger, err) }

// invalid refuses a request that can never be answered.
func (s *service) invalid(m *mirror.Mirror, format string, args ...any) error {
	return s.refuse(m, &mirror.Refusal{
		Kind:      mirror.Invalid,
		Reason:    mirror.ReasonInvalidRequest,
		Text:      fmt.Sprintf(format, args...),
		Freshness: m.Freshness(),
	})
}

// ListLogs implements understudyv1.LogServiceServer.
func (s *service) ListLogs(context.Context, *understudyv1.ListLogsRequest) (*understudyv1.ListLogsResponse, error) {
	out := &understudyv1.ListLogsResponse{Logs: make([]*understudyv1.Log, len(s.mirrors))}
	for i, m := range s.mirrors {
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
	m, err := s.log(in.GetOrigin())
	if err != nil {
		return nil, err
	}
	head, f, err := m.Checkpoint(in.GetTreeSize())
	if err != nil {
		return nil, s.refuse(m, err)
	}
	return &understudyv1.GetCheckpointResponse{
		Origin: m.Origin(), TreeSize: head.Size, RootHash: head.Root[:], Checkpoint: head.Checkpoint, Freshness: freshness(f),
	}, nil
}

// WatchCheckpoints implements understudyv1.LogServiceServer.
func (s *service) WatchCheckpoints(in *understudyv1.WatchCheckpointsRequest, stream grpc.ServerStreamingServer[understudyv1.WatchCheckpointsResponse]) error {
	m, err := s.log(in.GetOrigin())
	if err != nil {
		return err
	}
	err = m.WatchCheckpoints(stream.Context(), func(head mirror.TreeHead, f mirror.Freshness) error {
		return stream.Send(&understudyv1.WatchCheckpointsResponse{
			Origin: m.Origin(), TreeSize: head.Size, RootHash: head.Root[:], Checkpoint: head.Checkpoint, Freshness: freshness(f),
		})
	})
	return s.refuse(m, err)
}

// GetEntry implements understudyv1.LogServiceServer.
func (s *service) GetEntry(_ context.Context, in *understudyv1.GetEntryRequest) (*understudyv1.GetEntryResponse, error) {
	m, err := s.log(in.GetOrigin())
	if err != nil {
		return nil, err
	}
	ref, err := s.ref(m, in.GetEntry())
	if err != nil {
		return nil, err
	}
	e, f, err := m.Entry(ref)
	if err != nil {
		return nil, s.refuse(m, err)
	}
	return &understudyv1.GetEntryResponse{
		Origin: m.Origin(), Index: e.Index, LeafHash: e.LeafHash[:], Body: e.Body, Freshness: freshness(f),
	}, nil
}

// ref reads the oneof that names an entry. Index 0 is an index; nothing is not.
func (s *service) ref(m *mirror.Mirror, oneof any) (mirror.Ref, error) {
	var leafHash []byte
	switch entry := oneof.(type) {
	case *understudyv1.GetEntryRequest_Index:
		return mirror.Ref{Index: entry.Index}, nil
	case *understudyv1.GetInclusionProofRequest_Index:
		return mirror.Ref{Index: entry.Index}, nil
	case *understudyv1.GetEntryRequest_LeafHash:
		leafHash = entry.LeafHash
	case *understudyv1.GetInclusionProofRequest_LeafHash:
		leafHash = entry.LeafHash
	default:
		return mirror.Ref{}, s.invalid(m, "no entry is named: set index (0 is one) or leaf_hash")
	}
	if len(leafHash) != storage.HashSize {
		return mirror.Ref{}, s.invalid(m, "leaf_hash has %d bytes: it is the %d raw bytes of SHA-256(0x00 || entry)", len(leafHash), storage.HashSize)
	}
	hash := storage.Hash(leafHash)
	return mirror.Ref{LeafHash: &hash}, nil
}

// ListEntries implements understudyv1.LogServiceServer.
func (s *service) ListEntries(in *understudyv1.ListEntriesRequest, stream grpc.ServerStreamingServer[understudyv1.ListEntriesResponse]) error {
	m, err := s.log(in.GetOrigin())
	if err != nil {
		return err
	}
	var last mirror.Freshness // entries read together have the same
	var sent *understudyv1.Freshness
	err = m.Entries(stream.Context(), in.GetIndex(), in.GetLimit(), func(e mirror.Entry, f mirror.Freshness) error {
		if sent == nil || f != last {
			last, sent = f, freshness(f)
		}
		return stream.Send(&understudyv1.ListEntriesResponse{Index: e.Index, LeafHash: e.LeafHash[:], Body: e.Body, Freshness: sent})
	})
	return s.refuse(m, err)
}

// GetInclusionProof implements understudyv1.LogServiceServer.
func (s *service) GetInclusionProof(_ context.Context, in *understudyv1.GetInclusionProofRequest) (*understudyv1.GetInclusionProofResponse, error) {
	m, err := s.log(in.GetOrigin())
	if err != nil {
		return nil, err
	}
	ref, err := s.ref(m, in.GetEntry())
	if err != nil {
		return nil, err
	}
	proof, head, f, err := m.InclusionProof(ref, in.GetTreeSize())
	if err != nil {
		return nil, s.refuse(m, err)
	}
	return &understudyv1.GetInclusionProofResponse{
		Origin: m.Origin(), Index: proof.Index, LeafHash: proof.LeafHash[:],
		TreeSize: head.Size, RootHash: head.Root[:], Hashes: appendHashes(nil, proof.Hashes), Checkpoint: head.Checkpoint,
		Freshness: freshness(f),
	}, nil
}

// BatchGetInclusionProofs implements understudyv1.LogServiceServer.
func (s *service) BatchGetInclusionProofs(ctx context.Context, in *understudyv1.BatchGetInclusionProofsRequest) (*understudyv1.BatchGetInclusionProofsResponse, error) {
	m, err := s.log(in.GetOrigin())
	if err != nil {
		return nil, err
	}
	if n := len(in.GetIndexes()); n > maxBatch {
		return nil, s.invalid(m, "%d indexes are too many: ask for at most %d at a time", n, maxBatch)
	}
	select {
	case s.batches <- struct{}{}:
		defer func() { <-s.batches }()
	case <-ctx.Done():
		return nil, s.refuse(m, ctx.Err())
	}
	proofs, head, f, err := m.InclusionProofs(in.GetIndexes(), in.GetTreeSize())
	if err != nil {
		return nil, s.refuse(m, err)
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
func (s *service) GetConsistencyProof(_ context.Context, in *understudyv1.GetConsistencyProofRequest) (*understudyv1.GetConsistencyProofResponse, error) {
	m, err := s.log(in.GetOrigin())
	if err != nil {
		return nil, err
	}
	c, f, err := m.ConsistencyProof(in.GetFirstSize(), in.GetLastSize())
	if err != nil {
		return nil, s.refuse(m, err)
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
