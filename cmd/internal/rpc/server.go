// Package rpc serves mirrored logs over gRPC: understudy.v1.LogService, TrustService,
// ArchiveService and VerificationService, with the health and reflection services.
//
// It is a thin adapter: it checks the form of requests, asks a [mirror.Mirror], and
// turns what that answers or refuses into messages and status codes. What the API
// promises is written in proto/understudy/v1/log.proto and docs/api.md.
package rpc

import (
	"context"
	"fmt"
	"log/slog"
	"runtime/debug"
	"time"

	"github.com/grpc-ecosystem/go-grpc-middleware/v2/interceptors/recovery"
	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/reflection"

	"github.com/understudy-log/understudy/mirror"
	"github.com/understudy-log/understudy/mirror/trust"
	"github.com/understudy-log/understudy/mirror/verdict"
	understudyv1 "github.com/understudy-log/understudy/proto/understudy/v1"
	"github.com/understudy-log/understudy/storage"
	"github.com/understudy-log/understudy/witness/archive"
)

const (
	// maxStreams is how many calls one connection may have under way; gRPC clients
	// queue the next ones by themselves.
	maxStreams = 256
	// maxRequest bounds the bytes of one request; a batch of maxBatch indexes takes at
	// most 100 kB.
	maxRequest = 256 << 10
	// maxAnswer bounds the bytes of one answer; the largest batch takes 12 MB.
	maxAnswer = 64 << 20
	// maxHeader bounds the bytes of a request's headers.
	maxHeader = 16 << 10
)

// Config is what NewServer needs.
type Config struct {
	Mirrors  func() []*mirror.Mirror // asked for each call: shards appear while the server runs
	Services []*mirror.Service       // of Rekor v1; their shards are among Mirrors
	// Keys returns the keys of a log, as far as they are known now; it may be nil. Of Rekor
	// v2 they give the log ID.
	Keys func(origin string) []trust.Key
	// TUF is the copy of a TUF repository; nil if there is none.
	TUF *trust.Repository
	// Archive makes evidence packs; nil: none are made. Tree returns the tree of an origin, or nil.
	Archive *archive.Archive
	Tree    func(origin string) *storage.Tree
	// Verifier decides about artifacts; nil: nothing is verified here.
	Verifier   *verdict.Verifier
	Logger     *slog.Logger
	Registerer prometheus.Registerer
}

// recovered answers a call that panicked.
func recovered(logger *slog.Logger) recovery.Option {
	return recovery.WithRecoveryHandlerContext(func(_ context.Context, p any) error {
		logger.Error("call panicked", "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
		return statusOf(codes.Internal, reasonInternal, "this is a defect of the server; its operator finds the details in its log", nil)
	})
}

// NewServer returns a server of mirrored logs. Health is SERVING while it runs, whatever the
// upstreams do. Stop and GracefulStop return once no handler runs any more, so that the
// database can be closed.
func NewServer(c Config, options ...grpc.ServerOption) *grpc.Server {
	count, logger := newMetrics(c.Registerer), c.Logger
	limit := newLimiter(maxCalls, maxUnread)
	recovered := recovered(logger)
	largest := maxRequest
	if c.Verifier != nil {
		largest = maxVerifyRequest
	}
	s := grpc.NewServer(append([]grpc.ServerOption{
		grpc.ChainUnaryInterceptor(count.unary, recovery.UnaryServerInterceptor(recovered), limit.unary),
		grpc.ChainStreamInterceptor(count.stream, recovery.StreamServerInterceptor(recovered), limit.stream),
		grpc.StatsHandler(connections{}),
		grpc.InTapHandle(newReceiver(receiveTime).begin),
		grpc.ForceServerCodecV2(newCodec()),
		grpc.KeepaliveParams(keepalive.ServerParameters{MaxConnectionIdle: 30 * time.Minute, Time: time.Minute, Timeout: 20 * time.Second}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 10 * time.Second, PermitWithoutStream: true}),
		grpc.ConnectionTimeout(10 * time.Second),
		grpc.MaxConcurrentStreams(maxStreams),
		grpc.MaxRecvMsgSize(largest),
		grpc.MaxSendMsgSize(maxAnswer),
		grpc.MaxHeaderListSize(maxHeader),
		grpc.WaitForHandlers(true),
	}, options...)...)
	understudyv1.RegisterLogServiceServer(s, newService(c))
	understudyv1.RegisterTrustServiceServer(s, &trustService{repository: c.TUF, logger: c.Logger})
	if c.Tree == nil {
		c.Tree = func(string) *storage.Tree { return nil }
	}
	understudyv1.RegisterArchiveServiceServer(s, &archiveService{archive: c.Archive, tree: c.Tree, logger: c.Logger})
	understudyv1.RegisterVerificationServiceServer(s, &verificationService{verifier: c.Verifier, limit: newRateLimiter(decisionsPerSecond, decisionsBurst), denials: newRateLimiter(denialsPerSecond, denialsBurst), logger: c.Logger})
	h := health.NewServer()
	for _, service := range []string{understudyv1.ArchiveService_ServiceDesc.ServiceName, understudyv1.LogService_ServiceDesc.ServiceName, understudyv1.TrustService_ServiceDesc.ServiceName, understudyv1.VerificationService_ServiceDesc.ServiceName} {
		h.SetServingStatus(service, grpc_health_v1.HealthCheckResponse_SERVING)
	}
	grpc_health_v1.RegisterHealthServer(s, h)
	reflection.Register(s)
	count.begin(s)
	return s
}
