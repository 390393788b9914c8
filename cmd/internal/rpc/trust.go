package rpc

import (
	"context"
	"encoding/hex"
	"errors"
	"log/slog"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/understudy-log/understudy/mirror"
	"github.com/understudy-log/understudy/mirror/trust"
	understudyv1 "github.com/understudy-log/understudy/proto/understudy/v1"
)

// Reasons of refusals about trust material.
const (
	reasonNoRepository  = "NO_TUF_REPOSITORY"
	reasonBeforeFirst   = "BEFORE_FIRST_VERSION"
	defaultTrustedRoot  = "trusted_root.json"
	noRepositoryMessage = "no TUF repository is mirrored here: its operator needs \"tuf\" in the configuration"
)

// trustService implements understudy.v1.TrustService.
type trustService struct {
	understudyv1.UnimplementedTrustServiceServer
	repository *trust.Repository // nil: none
	logger     *slog.Logger
}

// GetTrustMaterial implements understudyv1.TrustServiceServer.
func (s *trustService) GetTrustMaterial(_ context.Context, in *understudyv1.GetTrustMaterialRequest) (*understudyv1.GetTrustMaterialResponse, error) {
	name := in.GetName()
	if name == "" {
		name = defaultTrustedRoot
	}
	about := map[string]string{"name": sendable(name)}
	if s.repository == nil {
		return nil, statusOf(codes.FailedPrecondition, reasonNoRepository, noRepositoryMessage, about)
	}
	at := time.Now()
	if in.GetAsOf() != nil {
		if err := in.GetAsOf().CheckValid(); err != nil {
			return nil, statusOf(codes.InvalidArgument, mirror.ReasonInvalidRequest, "as_of is no time: "+err.Error(), about)
		}
		at = in.GetAsOf().AsTime()
	}
	v, content, err := s.repository.AsOf(name, at)
	before, isBefore := errors.AsType[*trust.BeforeError](err)
	switch {
	case isBefore && before.First.IsZero():
		return nil, statusOf(codes.Unavailable, mirror.ReasonNotYetMirrored, err.Error(), about)
	case isBefore:
		return nil, statusOf(codes.Unavailable, reasonBeforeFirst, err.Error(), about)
	case errors.Is(err, trust.ErrNoTarget):
		return nil, statusOf(codes.NotFound, mirror.ReasonNotFound, err.Error()+": ListTrustMaterial names those that there were", about)
	case err != nil:
		s.logger.Error("trust material cannot be read", "name", name, "error", err)
		return nil, statusOf(codes.DataLoss, mirror.ReasonDamaged, "what is stored of it is damaged; the server's operator finds the details in its log", about)
	}
	return &understudyv1.GetTrustMaterialResponse{Material: materialOf(v), Content: content, Checked: s.checked()}, nil
}

// ListTrustMaterial implements understudyv1.TrustServiceServer.
func (s *trustService) ListTrustMaterial(_ context.Context, in *understudyv1.ListTrustMaterialRequest) (*understudyv1.ListTrustMaterialResponse, error) {
	if s.repository == nil {
		return nil, statusOf(codes.FailedPrecondition, reasonNoRepository, noRepositoryMessage, nil)
	}
	names := s.repository.Names()
	if in.GetName() != "" {
		names = []string{in.GetName()}
	}
	out := &understudyv1.ListTrustMaterialResponse{Checked: s.checked()}
	for _, name := range names {
		for _, v := range s.repository.History(name) {
			out.Materials = append(out.Materials, materialOf(v))
		}
	}
	return out, nil
}

func (s *trustService) checked() *timestamppb.Timestamp {
	if at := s.repository.Status().Checked; at != nil {
		return timestamppb.New(*at)
	}
	return nil
}

func materialOf(v trust.TargetVersion) *understudyv1.TrustMaterial {
	hash, _ := hex.DecodeString(v.Hash)
	out := &understudyv1.TrustMaterial{Name: v.Name, Sha256: hash, Seen: timestamppb.New(v.Seen), TargetsVersion: v.Targets}
	if !v.Until.IsZero() {
		out.Until = timestamppb.New(v.Until)
	}
	return out
}
