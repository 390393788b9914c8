package rpc

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/time/rate"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/understudy-log/understudy/mirror"
	"github.com/understudy-log/understudy/mirror/verdict"
	understudyv1 "github.com/understudy-log/understudy/proto/understudy/v1"
)

// What one client may have decided. To verify takes a processor some time, and in an outage each
// decision is a row that stays, and its bundle is kept. A large bundle counts as several decisions.
const (
	decisionsPerSecond = 100
	decisionsBurst     = 400
	decisionBytes      = 64 << 10
	// In an outage a denial is a row as well, which anybody can have. Who has had so many has to wait.
	denialsPerSecond = 2
	denialsBurst     = 400
)

// maxVerifyRequest bounds the bytes of one request where bundles are verified: attestations have
// predicates of megabytes.
const maxVerifyRequest = verdict.MaxBundle + 64<<10

// Reasons of refusals to decide.
const (
	reasonNoVerification  = "NO_VERIFICATION"
	reasonNoTrustMaterial = "NO_TRUST_MATERIAL"
)

// verificationService implements understudy.v1.VerificationService.
type verificationService struct {
	understudyv1.UnimplementedVerificationServiceServer
	verifier *verdict.Verifier // nil: none
	limit    *rateLimiter
	denials  *rateLimiter // that were written down
	logger   *slog.Logger
}

// Verify implements understudyv1.VerificationServiceServer.
func (s *verificationService) Verify(ctx context.Context, in *understudyv1.VerifyRequest) (*understudyv1.VerifyResponse, error) {
	if s.verifier == nil {
		return nil, statusOf(codes.Unimplemented, reasonNoVerification, "this server verifies nothing: its operator needs \"verification\" in the configuration", nil)
	}
	if !s.limit.allow(clientOf(ctx), time.Now(), 1+len(in.GetBundle())/decisionBytes) {
		return nil, statusOf(codes.ResourceExhausted, reasonTooManyCalls, "more than 100 decisions a second, or 6 MiB of bundles, were asked for from your address: ask more slowly", nil,
			&errdetails.RetryInfo{RetryDelay: durationpb.New(time.Second)})
	}
	if !s.denials.any(clientOf(ctx), time.Now()) {
		return nil, statusOf(codes.ResourceExhausted, reasonTooManyCalls, "too much was denied to your address in this outage: ask for less that is not good, and more slowly", nil,
			&errdetails.RetryInfo{RetryDelay: durationpb.New(time.Second)})
	}
	r := verdict.Request{Bundle: in.GetBundle(), Algorithm: in.GetAlgorithm(), Digest: in.GetDigest(), Policy: in.GetPolicy(), PublicKey: in.GetPublicKey()}
	if i := in.GetIdentity(); i != nil {
		r.Identity = &verdict.Identity{SAN: i.GetIdentity(), SANRegexp: i.GetIdentityRegexp(), Issuer: i.GetIssuer(), IssuerRegexp: i.GetIssuerRegexp()}
	}
	d, err := s.verifier.Verify(ctx, r)
	switch {
	case errors.Is(err, verdict.ErrNoMaterial):
		return nil, statusOf(codes.Unavailable, reasonNoTrustMaterial, err.Error(), nil)
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return nil, status.FromContextError(err).Err()
	case err != nil:
		s.logger.Error("nothing can be decided", "error", err)
		return nil, statusOf(codes.Internal, reasonInternal, "it could not be decided; the server's operator finds the details in its log", nil)
	}
	if !d.Allow && d.Seq > 0 {
		s.denials.allow(clientOf(ctx), time.Now(), 1)
	}
	return answerOf(d), nil
}

// restsOn is the one table from what a decision rests on to the API's names.
var restsOn = map[verdict.RestsOn]understudyv1.RestsOn{
	verdict.PublicLive: understudyv1.RestsOn_RESTS_ON_PUBLIC_LIVE,
	verdict.Mirrored:   understudyv1.RestsOn_RESTS_ON_MIRRORED,
	verdict.Private:    understudyv1.RestsOn_RESTS_ON_PRIVATE,
	verdict.OwnProof:   understudyv1.RestsOn_RESTS_ON_BUNDLE,
	verdict.Pinned:     understudyv1.RestsOn_RESTS_ON_PINNED,
}

func answerOf(d verdict.Decision) *understudyv1.VerifyResponse {
	out := &understudyv1.VerifyResponse{
		Decision: understudyv1.Decision_DECISION_DENY, Mode: understudyv1.Mode_MODE_ENFORCE, RestsOn: restsOn[d.RestsOn],
		Policy: d.Policy, State: string(d.State), Exception: d.Exception, Origin: d.Origin, Index: d.Index,
		CertificateIdentity: d.Identity, CertificateIssuer: d.Issuer, Decided: timestamppb.New(d.At), Id: d.ID, Row: d.Seq,
	}
	if d.Allow {
		out.Decision = understudyv1.Decision_DECISION_ALLOW
	}
	if d.Mode == verdict.ModeAudit {
		out.Mode = understudyv1.Mode_MODE_AUDIT
	}
	if d.Freshness != (mirror.Freshness{}) {
		out.Freshness = &understudyv1.Freshness{
			Source: d.Freshness.Source, CheckpointAge: durationpb.New(d.Freshness.CheckpointAge), UpstreamState: d.Freshness.UpstreamState,
		}
	}
	for _, r := range d.Reasons {
		out.Reasons = append(out.Reasons, &understudyv1.Reason{Code: r.Code, Text: r.Text})
	}
	return out
}

// rateLimiter lets each client have so much.
type rateLimiter struct {
	perSecond rate.Limit
	burst     int

	mu      sync.Mutex
	clients map[netip.Prefix]*rate.Limiter
	swept   time.Time
}

func newRateLimiter(perSecond rate.Limit, burst int) *rateLimiter {
	return &rateLimiter{perSecond: perSecond, burst: burst, clients: map[netip.Prefix]*rate.Limiter{}}
}

func (l *rateLimiter) allow(client netip.Prefix, now time.Time, n int) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.bucketLocked(client, now).AllowN(now, n)
}

// any says whether a client has anything left.
func (l *rateLimiter) any(client netip.Prefix, now time.Time) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.bucketLocked(client, now).TokensAt(now) >= 1
}

func (l *rateLimiter) bucketLocked(client netip.Prefix, now time.Time) *rate.Limiter {
	// It forgets those whose burst is whole again: they are as good as new.
	if gone := now.Sub(l.swept); gone < 0 || gone > time.Minute {
		for client, bucket := range l.clients {
			if bucket.TokensAt(now) >= float64(l.burst) {
				delete(l.clients, client)
			}
		}
		l.swept = now
	}
	bucket := l.clients[client]
	if bucket == nil {
		bucket = rate.NewLimiter(l.perSecond, l.burst)
		l.clients[client] = bucket
	}
	return bucket
}
