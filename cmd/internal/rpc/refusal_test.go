package rpc_test

import (
	"context"
	"strings"
	"testing"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	understudyv1 "github.com/understudy-log/understudy/proto/understudy/v1"
	"github.com/understudy-log/understudy/storage"
	"github.com/understudy-log/understudy/test/synthetic"
)

// infoOf returns the reason that is attached to an error.
func infoOf(err error) *errdetails.ErrorInfo {
	for _, detail := range status.Convert(err).Details() {
		if info, ok := detail.(*errdetails.ErrorInfo); ok {
			return info
		}
	}
	return nil
}

type api = understudyv1.LogServiceClient

// ask is a request that is refused.
type ask struct {
	name   string
	call   func(context.Context, api) error
	code   codes.Code
	reason string
}

func entry(ctx context.Context, a api, in *understudyv1.GetEntryRequest) error {
	in.Origin = origin
	_, err := a.GetEntry(ctx, in)
	return err
}

func prove(ctx context.Context, a api, in *understudyv1.GetInclusionProofRequest) error {
	in.Origin = origin
	_, err := a.GetInclusionProof(ctx, in)
	return err
}

func list(ctx context.Context, a api, in *understudyv1.ListEntriesRequest) error {
	stream, err := a.ListEntries(ctx, in)
	for err == nil {
		_, err = stream.Recv()
	}
	return err
}

// malformed can never be answered, whatever the state of the log.
func malformed() []ask {
	shortHash := &understudyv1.GetEntryRequest_LeafHash{LeafHash: make([]byte, 31)}
	longHash := &understudyv1.GetInclusionProofRequest_LeafHash{LeafHash: make([]byte, 33)}
	noHash := &understudyv1.GetInclusionProofRequest_LeafHash{}
	tooMany := make([]uint64, 10_001)
	unknown := "x" + strings.Repeat("é", 150)
	return []ask{
		{"entry without oneof", func(c context.Context, a api) error { return entry(c, a, &understudyv1.GetEntryRequest{}) }, codes.InvalidArgument, "INVALID_REQUEST"},
		{"entry of a short hash", func(c context.Context, a api) error {
			return entry(c, a, &understudyv1.GetEntryRequest{Entry: shortHash})
		}, codes.InvalidArgument, "INVALID_REQUEST"},
		{"proof without oneof", func(c context.Context, a api) error {
			return prove(c, a, &understudyv1.GetInclusionProofRequest{TreeSize: 5})
		}, codes.InvalidArgument, "INVALID_REQUEST"},
		{"proof of a long hash", func(c context.Context, a api) error {
			return prove(c, a, &understudyv1.GetInclusionProofRequest{Entry: longHash})
		}, codes.InvalidArgument, "INVALID_REQUEST"},
		{"proof of an empty hash", func(c context.Context, a api) error {
			return prove(c, a, &understudyv1.GetInclusionProofRequest{Entry: noHash})
		}, codes.InvalidArgument, "INVALID_REQUEST"},
		{"batch of 10,001", func(c context.Context, a api) error {
			_, err := a.BatchGetInclusionProofs(c, &understudyv1.BatchGetInclusionProofsRequest{Origin: origin, Indexes: tooMany})
			return err
		}, codes.InvalidArgument, "INVALID_REQUEST"},
		{"consistency from 0", func(c context.Context, a api) error {
			_, err := a.GetConsistencyProof(c, &understudyv1.GetConsistencyProofRequest{Origin: origin, LastSize: 5})
			return err
		}, codes.InvalidArgument, "INVALID_REQUEST"},
		{"consistency backwards", func(c context.Context, a api) error {
			_, err := a.GetConsistencyProof(c, &understudyv1.GetConsistencyProofRequest{Origin: origin, FirstSize: 6, LastSize: 5})
			return err
		}, codes.InvalidArgument, "INVALID_REQUEST"},
		{"unknown log", func(c context.Context, a api) error {
			_, err := a.GetCheckpoint(c, &understudyv1.GetCheckpointRequest{Origin: unknown})
			return err
		}, codes.NotFound, "UNKNOWN_ORIGIN"},
		{"watch of an unknown log", func(c context.Context, a api) error {
			stream, err := a.WatchCheckpoints(c, &understudyv1.WatchCheckpointsRequest{})
			for err == nil {
				_, err = stream.Recv()
			}
			return err
		}, codes.NotFound, "UNKNOWN_ORIGIN"},
		{"list of an unknown log", func(c context.Context, a api) error { return list(c, a, &understudyv1.ListEntriesRequest{}) }, codes.NotFound, "UNKNOWN_ORIGIN"},
	}
}

// beyond asks for what is not held.
func beyond(code codes.Code, reason string) []ask {
	absent := storage.LeafHash([]byte("absent"))
	return []ask{
		{"entry", func(c context.Context, a api) error {
			return entry(c, a, &understudyv1.GetEntryRequest{Entry: &understudyv1.GetEntryRequest_Index{Index: 700}})
		}, code, reason},
		{"entry by leaf hash", func(c context.Context, a api) error {
			return entry(c, a, &understudyv1.GetEntryRequest{Entry: &understudyv1.GetEntryRequest_LeafHash{LeafHash: absent[:]}})
		}, code, reason},
		{"proof", func(c context.Context, a api) error { return prove(c, a, byIndex(700)) }, code, reason},
		{"proof by leaf hash", func(c context.Context, a api) error {
			return prove(c, a, &understudyv1.GetInclusionProofRequest{Entry: &understudyv1.GetInclusionProofRequest_LeafHash{LeafHash: absent[:]}})
		}, code, reason},
		{"batch", func(c context.Context, a api) error {
			_, err := a.BatchGetInclusionProofs(c, &understudyv1.BatchGetInclusionProofsRequest{Origin: origin, Indexes: []uint64{0, 700}})
			return err
		}, code, reason},
		{"checkpoint", func(c context.Context, a api) error {
			_, err := a.GetCheckpoint(c, &understudyv1.GetCheckpointRequest{Origin: origin, TreeSize: 701})
			return err
		}, code, reason},
		{"consistency", func(c context.Context, a api) error {
			_, err := a.GetConsistencyProof(c, &understudyv1.GetConsistencyProofRequest{Origin: origin, FirstSize: 1, LastSize: 701})
			return err
		}, code, reason},
		{"list", func(c context.Context, a api) error {
			return list(c, a, &understudyv1.ListEntriesRequest{Origin: origin, Index: 700})
		}, code, reason},
	}
}

func (s *stage) want(source, state string, asks ...ask) {
	s.t.Helper()
	for _, ask := range asks {
		err := ask.call(s.t.Context(), s.api)
		info := infoOf(err)
		if status.Code(err) != ask.code || info.GetReason() != ask.reason || info.GetDomain() != "understudy.v1" {
			s.t.Errorf("%s: got %v (%v), want %v with %s", ask.name, err, info, ask.code, ask.reason)
			continue
		}
		if ask.reason == "UNKNOWN_ORIGIN" {
			if m := status.Convert(err).Message(); !strings.Contains(m, "ListLogs") || len(m) > 300 {
				s.t.Errorf("%s: %v gives no hint, or is too long", ask.name, err)
			}
			continue
		}
		m := info.GetMetadata()
		if m["origin"] != origin || m["source"] != source || m["upstream_state"] != state || m["checkpoint_age"] == "" {
			s.t.Errorf("%s: metadata %v, want %s and %s", ask.name, m, source, state)
		}
	}
}

// TestRefusals goes through the states of a log; index 0 is answered in all but the first.
func TestRefusals(t *testing.T) {
	t.Run("empty", func(t *testing.T) {
		s := newStage(t)
		s.want("stale", "unreachable", malformed()...)
		s.want("stale", "unreachable", beyond(codes.Unavailable, "UPSTREAM_UNREACHABLE")...)
		s.want("stale", "unreachable", ask{"newest checkpoint", func(ctx context.Context, a api) error {
			_, err := a.GetCheckpoint(ctx, &understudyv1.GetCheckpointRequest{Origin: origin})
			return err
		}, codes.Unavailable, "UPSTREAM_UNREACHABLE"})
	})
	t.Run("live and unreachable", func(t *testing.T) {
		s := newStage(t, 300)
		s.want("live", "live", malformed()...)
		s.want("live", "live", beyond(codes.NotFound, "NOT_FOUND")...)
		s.want("live", "live", ask{"entry outside the tree", func(ctx context.Context, a api) error {
			in := byIndex(299)
			in.TreeSize = 299
			return prove(ctx, a, in)
		}, codes.InvalidArgument, "INVALID_REQUEST"})
		if _, err := s.api.GetInclusionProof(t.Context(), byIndex(0)); err != nil {
			t.Errorf("index 0: %v", err)
		}
		s.again()
		s.want("mirrored", "unreachable", malformed()...)
		s.want("mirrored", "unreachable", beyond(codes.Unavailable, "UPSTREAM_UNREACHABLE")...)
		if _, err := s.api.GetInclusionProof(t.Context(), byIndex(0)); err != nil {
			t.Errorf("index 0 without upstream: %v", err)
		}
	})
	t.Run("not yet mirrored", func(t *testing.T) {
		s := newStage(t, 300)
		s.unplug()
		s.log.Grow(2000)
		s.log.Misbehave(synthetic.On(synthetic.Bundle, synthetic.Hang()))
		s.plug(s.mirror.Tree())
		s.waitFor(func(held *storage.State) bool { return held.Pending.Size == 2000 })
		s.serve()
		s.want("live", "live", beyond(codes.Unavailable, "NOT_YET_MIRRORED")[:3]...)
		// What is held is proven to the checkpoint that is not held yet.
		answer, err := s.api.GetInclusionProof(t.Context(), byIndex(0))
		if err != nil || answer.TreeSize != 2000 {
			t.Errorf("index 0 during the copy: %v, error %v", answer, err)
		}
	})
	t.Run("quarantined", func(t *testing.T) {
		s := newStage(t, 300)
		fork := s.log.Fork(200, synthetic.Tiny(2))
		fork.Grow(300)
		s.unplug()
		s.log.Misbehave(synthetic.Equivocate(fork))
		s.plug(s.mirror.Tree())
		s.waitFor(func(held *storage.State) bool { return held.Evidence != nil })
		s.serve()
		s.want("mirrored", "quarantined", malformed()...)
		s.want("mirrored", "quarantined", beyond(codes.Unavailable, "QUARANTINED")...)
		if _, err := s.api.GetInclusionProof(t.Context(), byIndex(0)); err != nil {
			t.Errorf("index 0 in quarantine: %v", err)
		}
	})
}

// TestPanic: a defect in one call ends that call alone. Pebble panics when it is used
// after Close.
func TestPanic(t *testing.T) {
	s := newStage(t, 300)
	s.unplug()
	check(t, s.db.Close())
	s.db = nil
	if _, err := s.api.GetInclusionProof(t.Context(), byIndex(0)); status.Code(err) != codes.Internal || infoOf(err).GetReason() != "INTERNAL" {
		t.Errorf("call that panics: %v", err)
	}
	if err := list(t.Context(), s.api, &understudyv1.ListEntriesRequest{Origin: origin}); status.Code(err) != codes.Internal {
		t.Errorf("stream that panics: %v", err)
	}
	if _, err := grpc_health_v1.NewHealthClient(s.conn).Check(t.Context(), &grpc_health_v1.HealthCheckRequest{}); err != nil {
		t.Errorf("health after that: %v", err)
	}
}
