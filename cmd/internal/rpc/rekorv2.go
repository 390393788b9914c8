package rpc

import (
	"context"
	"errors"
	"log/slog"
	"runtime"
	"strconv"
	"time"

	"github.com/grpc-ecosystem/go-grpc-middleware/v2/interceptors/recovery"
	protorekor "github.com/sigstore/protobuf-specs/gen/pb-go/rekor/v1"
	rekorv2 "github.com/sigstore/rekor-tiles/v2/pkg/generated/protobuf"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/health"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/understudy-log/understudy/cmd/internal/access"
	"github.com/understudy-log/understudy/cmd/internal/private"
	"github.com/understudy-log/understudy/log/rekor"
)

// maxRekorV2Message bounds a message: an entry has at most 65,535 bytes.
const maxRekorV2Message = 128 << 10

// appendTime is how long a client waits for its entry, as over HTTP: less than what the address gives an
// answer, so that who has no deadline of its own gets the reason, and not a stream that breaks off.
const appendTime = 25 * time.Second

// NewRekorV2 returns the server of dev.sigstore.rekor.v2.Rekor for a private log. It is served over
// HTTP (ServeHTTP), behind the access control of its address. Like the real server it answers
// CreateEntry alone: tiles and checkpoint are read over HTTP.
func NewRekorV2(log *private.V2, logger *slog.Logger) *grpc.Server {
	server := grpc.NewServer(grpc.MaxRecvMsgSize(maxRekorV2Message), grpc.WaitForHandlers(true),
		grpc.UnaryInterceptor(recovery.UnaryServerInterceptor(recovered(logger))))
	rekorv2.RegisterRekorServer(server, &rekorV2{log: log, logger: logger, working: make(chan struct{}, runtime.GOMAXPROCS(0))})
	h := health.NewServer()
	h.SetServingStatus(rekorv2.Rekor_ServiceDesc.ServiceName, healthv1.HealthCheckResponse_SERVING)
	healthv1.RegisterHealthServer(server, h)
	return server
}

type rekorV2 struct {
	rekorv2.UnimplementedRekorServer
	log     *private.V2
	logger  *slog.Logger
	working chan struct{} // has a token per proposal that is verified
}

// CreateEntry logs an entry.
func (s *rekorV2) CreateEntry(ctx context.Context, request *rekorv2.CreateEntryRequest) (*protorekor.TransparencyLogEntry, error) {
	if err := s.log.Admit(); err != nil {
		return nil, s.refuse(ctx, err)
	}
	select {
	case s.working <- struct{}{}:
	case <-ctx.Done():
		return nil, status.FromContextError(ctx.Err()).Err()
	}
	proposal, err := rekor.ProposeV2Message(request)
	<-s.working
	var proposed []byte // as over HTTP
	if err == nil {
		proposed, err = protojson.Marshal(request)
	}
	if err != nil {
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	identity, _ := access.FromContext(ctx)
	ctx, cancel := context.WithTimeout(ctx, appendTime)
	defer cancel()
	entry, _, err := s.log.Append(ctx, identity.Name, proposed, proposal)
	if err != nil {
		return nil, s.refuse(ctx, err)
	}
	// A header that cannot be sent any more is no reason to hide the entry.
	_ = grpc.SetHeader(ctx, metadata.Pairs("x-log-index", strconv.FormatInt(entry.GetLogIndex(), 10)))
	return entry, nil
}

// refuse is the one table from the reasons of the private log to codes of gRPC.
func (s *rekorV2) refuse(ctx context.Context, err error) error {
	if errors.Is(ctx.Err(), context.Canceled) {
		return status.FromContextError(ctx.Err()).Err()
	}
	reason := private.ReasonOf(err)
	code := codes.Unavailable
	switch reason {
	case private.ReasonFull:
		code = codes.ResourceExhausted
	case private.ReasonTooLarge:
		code = codes.InvalidArgument
	case private.ReasonTimeout:
		code = codes.DeadlineExceeded
	case private.ReasonFailed:
		code = codes.Internal
		s.logger.Error("an entry could not be logged", "error", err)
	}
	return statusOf(code, string(reason), reason.Text(), nil)
}
