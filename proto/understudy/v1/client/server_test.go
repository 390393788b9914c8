package client_test

import (
	"context"
	"crypto/sha256"
	"math/bits"
	"net"
	"runtime"
	"sync"
	"testing"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	understudyv1 "github.com/understudy-log/understudy/proto/understudy/v1"
	"github.com/understudy-log/understudy/test/synthetic"
)

const origin = "log.example"

// server is an honest server of a small log, written from RFC 6962 alone, that can be
// told to lie or to break.
type server struct {
	understudyv1.UnimplementedLogServiceServer
	key *synthetic.Key

	mu      sync.Mutex
	entries [][]byte
	signed  map[uint64]bool // sizes with a checkpoint
	// tamper sees every answer before it is sent, and may change it or return an error
	// in its place.
	tamper  func(answer proto.Message) error
	changed chan struct{}
	cutEnd  bool // the next list breaks after its last entry, or watch after its first checkpoint
	lists   int  // calls of ListEntries
	watches int  // streams of WatchCheckpoints that are open
	watched int  // checkpoints sent on them
}

func newServer(sizes ...uint64) *server {
	s := &server{key: synthetic.Ed25519(origin, 0), signed: map[uint64]bool{}, changed: make(chan struct{})}
	for _, size := range sizes {
		s.grow(size)
	}
	return s
}

func (s *server) grow(size uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := uint64(len(s.entries)); i < size; i++ {
		s.entries = append(s.entries, synthetic.Tiny(0)(i))
	}
	s.signed[size] = true
	close(s.changed)
	s.changed = make(chan struct{})
}

func (s *server) setTamper(f func(proto.Message) error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tamper = f
}

func (s *server) send(answer proto.Message) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.tamper == nil {
		return nil
	}
	return s.tamper(answer)
}

// dial serves s in memory until the test ends.
func (s *server) dial(t testing.TB) *grpc.ClientConn {
	conn, stop := s.start()
	t.Cleanup(stop)
	return conn
}

// start serves s in memory until stop is called.
func (s *server) start() (conn *grpc.ClientConn, stop func()) {
	l := bufconn.Listen(1 << 20)
	g := grpc.NewServer(
		grpc.UnaryInterceptor(func(ctx context.Context, in any, _ *grpc.UnaryServerInfo, h grpc.UnaryHandler) (any, error) {
			out, err := h(ctx, in)
			if err != nil {
				return nil, err
			}
			return out, s.send(out.(proto.Message))
		}),
		grpc.StreamInterceptor(func(service any, stream grpc.ServerStream, _ *grpc.StreamServerInfo, h grpc.StreamHandler) error {
			return h(service, tamperedStream{stream, s})
		}))
	understudyv1.RegisterLogServiceServer(g, s)
	var serving sync.WaitGroup
	serving.Go(func() { g.Serve(l) })
	conn, err := grpc.NewClient("passthrough:memory", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return l.DialContext(ctx) }))
	if err != nil {
		panic(err)
	}
	return conn, func() {
		conn.Close()
		g.Stop()
		serving.Wait()
	}
}

type tamperedStream struct {
	grpc.ServerStream
	s *server
}

func (t tamperedStream) SendMsg(m any) error {
	if err := t.s.send(m.(proto.Message)); err != nil {
		return err
	}
	return t.ServerStream.SendMsg(m)
}

func node(l, r []byte) []byte {
	h := sha256.Sum256(append(append([]byte{1}, l...), r...))
	return h[:]
}

func leaf(entry []byte) []byte {
	h := sha256.Sum256(append([]byte{0}, entry...))
	return h[:]
}

// The functions of RFC 6962, sections 2.1 to 2.1.2.

func split(n int) int { return 1 << (bits.Len(uint(n-1)) - 1) }

func mth(d [][]byte) []byte {
	switch len(d) {
	case 0:
		h := sha256.Sum256(nil)
		return h[:]
	case 1:
		return leaf(d[0])
	}
	k := split(len(d))
	return node(mth(d[:k]), mth(d[k:]))
}

func path(m int, d [][]byte) [][]byte {
	if len(d) == 1 {
		return nil
	}
	k := split(len(d))
	if m < k {
		return append(path(m, d[:k]), mth(d[k:]))
	}
	return append(path(m-k, d[k:]), mth(d[:k]))
}

func subproof(m int, d [][]byte, whole bool) [][]byte {
	if m == len(d) {
		if whole {
			return nil
		}
		return [][]byte{mth(d)}
	}
	k := split(len(d))
	if m <= k {
		return append(subproof(m, d[:k], whole), mth(d[k:]))
	}
	return append(subproof(m-k, d[k:], false), mth(d[:k]))
}

// tree returns the tree of a size (0: the newest signed), with its root and checkpoint.
func (s *server) tree(size uint64) (d [][]byte, root, checkpoint []byte, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if size == 0 {
		for n := range s.signed {
			size = max(size, n)
		}
	}
	if size > uint64(len(s.entries)) {
		return nil, nil, nil, refusal("UPSTREAM_UNREACHABLE")
	}
	d = s.entries[:size]
	root = mth(d)
	if s.signed[size] {
		checkpoint = s.sign(size)
	}
	return d, root, checkpoint, nil
}

// sign returns the checkpoint of a size.
func (s *server) sign(size uint64) []byte {
	return synthetic.Note(origin, size, [32]byte(mth(s.entries[:size])), nil, s.key)
}

func refusal(reason string) error {
	s, err := status.New(codes.Unavailable, "it is not known").WithDetails(&errdetails.ErrorInfo{
		Reason: reason, Domain: "understudy.v1", Metadata: map[string]string{"source": "stale"}})
	if err != nil {
		panic(err)
	}
	return s.Err()
}

func fresh() *understudyv1.Freshness {
	return &understudyv1.Freshness{Source: "live", CheckpointAge: durationpb.New(1e9), UpstreamState: "live"}
}

func find(d [][]byte, hash []byte, index uint64) (int, error) {
	for i := range d {
		if hash == nil && uint64(i) == index || string(leaf(d[i])) == string(hash) {
			return i, nil
		}
	}
	return 0, refusal("UPSTREAM_UNREACHABLE")
}

func (s *server) GetCheckpoint(_ context.Context, in *understudyv1.GetCheckpointRequest) (*understudyv1.GetCheckpointResponse, error) {
	d, root, checkpoint, err := s.tree(in.TreeSize)
	return &understudyv1.GetCheckpointResponse{Origin: origin, TreeSize: uint64(len(d)), RootHash: root, Checkpoint: checkpoint, Freshness: fresh()}, err
}

func (s *server) add(count *int, n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	*count += n
}

// wait waits for a count.
func (s *server) wait(count *int, n int) {
	for {
		s.mu.Lock()
		done := *count == n
		s.mu.Unlock()
		if done {
			return
		}
		runtime.Gosched()
	}
}

func (s *server) WatchCheckpoints(_ *understudyv1.WatchCheckpointsRequest, stream grpc.ServerStreamingServer[understudyv1.WatchCheckpointsResponse]) error {
	s.add(&s.watches, 1)
	defer s.add(&s.watches, -1)
	for {
		s.mu.Lock()
		changed := s.changed
		s.mu.Unlock()
		d, root, checkpoint, err := s.tree(0)
		if err != nil {
			return err
		}
		if err := stream.Send(&understudyv1.WatchCheckpointsResponse{Origin: origin, TreeSize: uint64(len(d)), RootHash: root, Checkpoint: checkpoint, Freshness: fresh()}); err != nil {
			return err
		}
		s.add(&s.watched, 1)
		if err := s.cut(); err != nil {
			return err
		}
		select {
		case <-stream.Context().Done():
			return stream.Context().Err()
		case <-changed:
		}
	}
}

func (s *server) GetEntry(_ context.Context, in *understudyv1.GetEntryRequest) (*understudyv1.GetEntryResponse, error) {
	d, _, _, err := s.tree(0)
	if err != nil {
		return nil, err
	}
	i, err := find(d, in.GetLeafHash(), in.GetIndex())
	return &understudyv1.GetEntryResponse{Origin: origin, Index: uint64(i), LeafHash: leaf(d[i]), Body: d[i], Freshness: fresh()}, err
}

func (s *server) ListEntries(in *understudyv1.ListEntriesRequest, stream grpc.ServerStreamingServer[understudyv1.ListEntriesResponse]) error {
	d, _, _, err := s.tree(0)
	if err != nil {
		return err
	}
	s.add(&s.lists, 1)
	if in.Index >= uint64(len(d)) {
		return refusal("UPSTREAM_UNREACHABLE")
	}
	for i := in.Index; i < uint64(len(d)) && (in.Limit == 0 || i < in.Index+in.Limit); i++ {
		if err := stream.Send(&understudyv1.ListEntriesResponse{Index: i, LeafHash: leaf(d[i]), Body: d[i], Freshness: fresh()}); err != nil {
			return err
		}
	}
	return s.cut()
}

func (s *server) cut() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cutEnd {
		s.cutEnd = false
		return status.Error(codes.Unavailable, "connection reset")
	}
	return nil
}

func (s *server) GetInclusionProof(_ context.Context, in *understudyv1.GetInclusionProofRequest) (*understudyv1.GetInclusionProofResponse, error) {
	d, root, checkpoint, err := s.tree(in.TreeSize)
	if err != nil {
		return nil, err
	}
	i, err := find(d, in.GetLeafHash(), in.GetIndex())
	return &understudyv1.GetInclusionProofResponse{Origin: origin, Index: uint64(i), LeafHash: leaf(d[i]), TreeSize: uint64(len(d)),
		RootHash: root, Hashes: path(i, d), Checkpoint: checkpoint, Freshness: fresh()}, err
}

func (s *server) BatchGetInclusionProofs(_ context.Context, in *understudyv1.BatchGetInclusionProofsRequest) (*understudyv1.BatchGetInclusionProofsResponse, error) {
	d, root, checkpoint, err := s.tree(in.TreeSize)
	out := &understudyv1.BatchGetInclusionProofsResponse{Origin: origin, TreeSize: uint64(len(d)), RootHash: root, Checkpoint: checkpoint, Freshness: fresh()}
	for _, i := range in.Indexes {
		out.Proofs = append(out.Proofs, &understudyv1.InclusionProof{Index: i, LeafHash: leaf(d[i]), Hashes: path(int(i), d)})
	}
	return out, err
}

func (s *server) GetConsistencyProof(_ context.Context, in *understudyv1.GetConsistencyProofRequest) (*understudyv1.GetConsistencyProofResponse, error) {
	if in.FirstSize == 0 { // an honest server refuses that
		return &understudyv1.GetConsistencyProofResponse{Origin: origin, FirstRootHash: make([]byte, 32), LastSize: 41, TreeSize: 41,
			RootHash: mth(s.entries), Checkpoint: s.sign(41), Freshness: fresh()}, nil
	}
	first, firstRoot, firstCheckpoint, err := s.tree(in.FirstSize)
	if err != nil {
		return nil, err
	}
	last, root, checkpoint, err := s.tree(in.LastSize)
	if err != nil {
		return nil, err
	}
	if len(first) > len(last) {
		return nil, status.Error(codes.InvalidArgument, "sizes out of order")
	}
	return &understudyv1.GetConsistencyProofResponse{Origin: origin, FirstSize: uint64(len(first)), FirstRootHash: firstRoot, FirstCheckpoint: firstCheckpoint,
		LastSize: uint64(len(last)), TreeSize: uint64(len(last)), RootHash: root, Checkpoint: checkpoint, Hashes: subproof(len(first), last, true), Freshness: fresh()}, nil
}
