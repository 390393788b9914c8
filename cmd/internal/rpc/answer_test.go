package rpc_test

import (
	"bytes"
	"context"
	"math/rand/v2"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/understudy-log/understudy/mirror"
	understudyv1 "github.com/understudy-log/understudy/proto/understudy/v1"
	"github.com/understudy-log/understudy/proto/understudy/v1/client"
)

func byIndex(index uint64) *understudyv1.GetInclusionProofRequest {
	return &understudyv1.GetInclusionProofRequest{Origin: origin, Entry: &understudyv1.GetInclusionProofRequest_Index{Index: index}}
}

// TestAnswers asks every call and verifies the answers with the Go client, and with
// what upstream has.
func TestAnswers(t *testing.T) {
	ctx := t.Context()
	s := newStage(t, 1, 300, 3000)
	c := s.client()

	head, err := c.Checkpoint(ctx, 0)
	check(t, err)
	if !bytes.Equal(head.Head.Checkpoint, s.log.Checkpoint(3000)) || head.Size != 3000 || head.Freshness.Source != mirror.SourceLive || head.Freshness.UpstreamState != mirror.UpstreamLive {
		t.Errorf("newest checkpoint: %+v", head)
	}
	old, err := c.Checkpoint(ctx, 300)
	check(t, err)
	if !bytes.Equal(old.Head.Checkpoint, s.log.Checkpoint(300)) {
		t.Errorf("checkpoint of size 300: %q", old.Head.Checkpoint)
	}

	logs, err := s.api.ListLogs(ctx, &understudyv1.ListLogsRequest{})
	check(t, err)
	root := s.log.Root(3000)
	want := &understudyv1.Log{
		Origin: origin, Name: "test", OriginHash: mirror.OriginHash(origin), Url: "http://upstream.example", Coverage: "full",
		NextIndex: 3000, TreeSize: 3000, RootHash: root[:], Checkpoint: s.log.Checkpoint(3000), MirrorSize: 3000, Freshness: logs.Logs[0].Freshness,
	}
	if len(logs.Logs) != 1 || !proto.Equal(logs.Logs[0], want) || want.Freshness.GetSource() != "live" || want.Freshness.CheckpointAge == nil {
		t.Errorf("logs: %v, want %v", logs.Logs, want)
	}

	for _, index := range []uint64{0, 1, 255, 256, 299, 300, 2999} {
		e, err := c.Entry(ctx, client.Index(index))
		check(t, err)
		if !bytes.Equal(e.Body, s.log.Entries(index)) || e.Index != index {
			t.Errorf("entry %d: %+v", index, e)
		}
		if again, err := c.Entry(ctx, client.LeafHash(e.LeafHash)); err != nil || again.Index != index {
			t.Errorf("entry of leaf hash %x: %+v, error %v", e.LeafHash, again, err)
		}
		for _, size := range []uint64{0, 300, 3000} {
			if size != 0 && index >= size {
				continue
			}
			p, err := c.InclusionProof(ctx, client.Index(index), size)
			check(t, err)
			if p.Head.Size != max(size, 3000*uint64(1-min(size, 1))) || p.Index != index {
				t.Errorf("entry %d in size %d: %+v", index, size, p)
			}
		}
		// A size without a checkpoint: the answer is empty there, and is proven all the same.
		proven, err := c.ConsistencyProof(ctx, index+1, 0)
		check(t, err)
		p, err := c.InclusionProofAt(ctx, client.Index(index), proven.First)
		check(t, err)
		if proven.First.Root != s.log.Root(index+1) || p.Head.Size != index+1 {
			t.Errorf("size %d: %+v", index+1, proven.First)
		}
	}
	n := uint64(0)
	for e, err := range c.Entries(ctx, 5, 0) {
		check(t, err)
		if e.Index != 5+n || !bytes.Equal(e.Body, s.log.Entries(5+n)) {
			t.Fatalf("place %d: entry %d, %q", n, e.Index, e.Body)
		}
		n++
	}
	if n != 2995 {
		t.Errorf("%d entries listed", n)
	}
	for head, err := range c.WatchCheckpoints(ctx) {
		check(t, err)
		if head.Size != 3000 {
			t.Errorf("watched size %d", head.Size)
		}
		break
	}
}

// TestUnsigned: a size without a checkpoint is answered, and says so.
func TestUnsigned(t *testing.T) {
	s := newStage(t, 10)
	in := byIndex(0)
	in.TreeSize = 7
	answer, err := s.api.GetInclusionProof(t.Context(), in)
	check(t, err)
	root := s.log.Root(7)
	if len(answer.Checkpoint) != 0 || answer.TreeSize != 7 || !bytes.Equal(answer.RootHash, root[:]) || answer.Freshness.GetCheckpointAge() == nil {
		t.Errorf("proof in size 7: %v", answer)
	}
	head, err := s.api.GetCheckpoint(t.Context(), &understudyv1.GetCheckpointRequest{Origin: origin, TreeSize: 7})
	check(t, err)
	if len(head.Checkpoint) != 0 || head.TreeSize != 7 || !bytes.Equal(head.RootHash, root[:]) {
		t.Errorf("checkpoint of size 7: %v", head)
	}
}

// TestBatch: a batch of 10,000 indexes, in no order and with repetitions, equals 10,000
// single answers.
func TestBatch(t *testing.T) {
	ctx := t.Context()
	s := newStage(t, 2900, 3000)
	for _, size := range []uint64{0, 2900} {
		random := rand.New(rand.NewPCG(1, size))
		in := &understudyv1.BatchGetInclusionProofsRequest{Origin: origin, Indexes: make([]uint64, 10_000), TreeSize: size}
		for i := range in.Indexes {
			in.Indexes[i] = random.Uint64N(2900)
		}
		batch, err := s.api.BatchGetInclusionProofs(ctx, in)
		check(t, err)
		if len(batch.Proofs) != len(in.Indexes) {
			t.Fatalf("%d proofs", len(batch.Proofs))
		}
		for i, index := range in.Indexes {
			in := byIndex(index)
			in.TreeSize = size
			single, err := s.api.GetInclusionProof(ctx, in)
			check(t, err)
			if !proto.Equal(batch.Proofs[i], &understudyv1.InclusionProof{Index: single.Index, LeafHash: single.LeafHash, Hashes: single.Hashes}) ||
				batch.TreeSize != single.TreeSize || !bytes.Equal(batch.RootHash, single.RootHash) || !bytes.Equal(batch.Checkpoint, single.Checkpoint) || len(batch.Checkpoint) == 0 {
				t.Fatalf("place %d: batch has %v, single is %v", i, batch.Proofs[i], single)
			}
		}
	}
	c := s.client()
	for range 20 {
		proofs, err := c.InclusionProofs(ctx, []uint64{2999, 0, 7, 0}, 0)
		check(t, err)
		if len(proofs) != 4 || proofs[3].Index != 0 {
			t.Errorf("proofs: %+v", proofs)
		}
	}
}

// TestStreams cancels streams in their middle, lets a deadline end one, and sees growth.
func TestStreams(t *testing.T) {
	s := newStage(t, 3000)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	list, err := s.api.ListEntries(ctx, &understudyv1.ListEntriesRequest{Origin: origin})
	check(t, err)
	for i := range uint64(10) {
		e, err := list.Recv()
		check(t, err)
		if e.Index != i || e.Freshness.GetSource() != "live" {
			t.Errorf("entry %d: %v", i, e)
		}
	}
	watch, err := s.api.WatchCheckpoints(ctx, &understudyv1.WatchCheckpointsRequest{Origin: origin})
	check(t, err)
	if head, err := watch.Recv(); err != nil || head.TreeSize != 3000 {
		t.Errorf("watched %v, error %v", head, err)
	}
	s.unplug()
	s.log.Grow(3001)
	ended := make(chan error)
	go func() {
		_, err := watch.Recv()
		ended <- err
	}()
	cancel()
	if err := <-ended; status.Code(err) != codes.Canceled {
		t.Errorf("watch after cancel: %v", err)
	}
	for err = nil; err == nil; {
		_, err = list.Recv()
	}
	if status.Code(err) != codes.Canceled {
		t.Errorf("list after cancel: %v", err)
	}

	ctx, cancel = context.WithTimeout(t.Context(), 100e6)
	defer cancel()
	watch, err = s.api.WatchCheckpoints(ctx, &understudyv1.WatchCheckpointsRequest{Origin: origin})
	for err == nil {
		_, err = watch.Recv()
	}
	if status.Code(err) != codes.DeadlineExceeded {
		t.Errorf("watch after its deadline: %v", err)
	}
}

// TestHealthAndReflection: the server says that it works, and what it serves.
func TestHealthAndReflection(t *testing.T) {
	s := newStage(t)
	for _, service := range []string{"", "understudy.v1.LogService"} {
		answer, err := grpc_health_v1.NewHealthClient(s.conn).Check(t.Context(), &grpc_health_v1.HealthCheckRequest{Service: service})
		if err != nil || answer.Status != grpc_health_v1.HealthCheckResponse_SERVING {
			t.Errorf("health of %q: %v, error %v", service, answer, err)
		}
	}
	stream, err := grpc_reflection_v1.NewServerReflectionClient(s.conn).ServerReflectionInfo(t.Context())
	check(t, err)
	check(t, stream.Send(&grpc_reflection_v1.ServerReflectionRequest{MessageRequest: &grpc_reflection_v1.ServerReflectionRequest_FileContainingSymbol{FileContainingSymbol: "understudy.v1.LogService"}}))
	answer, err := stream.Recv()
	check(t, err)
	if len(answer.GetFileDescriptorResponse().GetFileDescriptorProto()) == 0 {
		t.Errorf("reflection: %v", answer)
	}
	check(t, stream.CloseSend())
}
