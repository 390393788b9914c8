package rpc

import (
	"context"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/sigstore/sigstore-go/pkg/root"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"

	"github.com/understudy-log/understudy/mirror"
	"github.com/understudy-log/understudy/mirror/ledger"
	"github.com/understudy-log/understudy/mirror/outage"
	"github.com/understudy-log/understudy/mirror/verdict"
	understudyv1 "github.com/understudy-log/understudy/proto/understudy/v1"
	"github.com/understudy-log/understudy/storage"
)

// dialVerifier serves a verifier in memory until the test ends.
func dialVerifier(t *testing.T, v *verdict.Verifier) *grpc.ClientConn {
	t.Helper()
	server := NewServer(Config{Mirrors: func() []*mirror.Mirror { return nil }, Verifier: v, Logger: slog.New(slog.DiscardHandler), Registerer: prometheus.NewRegistry()})
	l := bufconn.Listen(1 << 20)
	var serving sync.WaitGroup
	serving.Go(func() { server.Serve(l) })
	t.Cleanup(func() {
		server.Stop()
		serving.Wait()
	})
	conn, err := grpc.NewClient("passthrough:memory", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return l.DialContext(ctx) }))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

func newVerifier(t *testing.T, material func() root.TrustedMaterial, state outage.State) *verdict.Verifier {
	t.Helper()
	db, err := storage.Create("db", storage.Options{FS: vfs.NewMem()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	l, err := ledger.Open(db, nil)
	if err != nil {
		t.Fatal(err)
	}
	v, err := verdict.New(verdict.Config{DB: db, Ledger: l, Material: material, State: func() outage.State { return state }})
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func wantRefusal(t *testing.T, err error, code codes.Code, reason, text string) {
	t.Helper()
	s := status.Convert(err)
	got := ""
	for _, d := range s.Details() {
		if info, ok := d.(*errdetails.ErrorInfo); ok {
			got = info.GetReason()
		}
	}
	if s.Code() != code || got != reason || !strings.Contains(s.Message(), text) {
		t.Errorf("got %v (%s), want %v (%s) with %q", err, got, code, reason, text)
	}
}

// A server without policies says what its operator has to do, and health knows the service.
func TestVerificationNotConfigured(t *testing.T) {
	conn := dialVerifier(t, nil)
	_, err := understudyv1.NewVerificationServiceClient(conn).Verify(t.Context(), &understudyv1.VerifyRequest{})
	wantRefusal(t, err, codes.Unimplemented, reasonNoVerification, `"verification" in the configuration`)
	h, err := grpc_health_v1.NewHealthClient(conn).Check(t.Context(), &grpc_health_v1.HealthCheckRequest{Service: understudyv1.VerificationService_ServiceDesc.ServiceName})
	if err != nil || h.GetStatus() != grpc_health_v1.HealthCheckResponse_SERVING {
		t.Errorf("health: %v, %v", h, err)
	}
}

// What is wrong with a request is a denial with a reason; what cannot be decided is an error.
func TestVerificationAnswers(t *testing.T) {
	empty := func() root.TrustedMaterial { return &root.BaseTrustedMaterial{} }
	api := understudyv1.NewVerificationServiceClient(dialVerifier(t, newVerifier(t, empty, outage.Fallback)))
	identity := &understudyv1.ExpectedIdentity{Identity: "me@example.com", Issuer: "https://example.com"}
	for name, c := range map[string]struct {
		in   *understudyv1.VerifyRequest
		want string
	}{
		"nothing":     {&understudyv1.VerifyRequest{}, verdict.CodeRequestMalformed},
		"not a text":  {&understudyv1.VerifyRequest{Bundle: []byte{0xff, 0xfe}, Algorithm: "sha256", Digest: make([]byte, 32), Identity: identity}, verdict.CodeBundleMalformed},
		"large":       {&understudyv1.VerifyRequest{Bundle: make([]byte, verdict.MaxBundle), Algorithm: "sha256", Digest: make([]byte, 32), Identity: identity}, verdict.CodeBundleMalformed},
		"too large":   {&understudyv1.VerifyRequest{Bundle: make([]byte, verdict.MaxBundle+1), Algorithm: "sha256", Digest: make([]byte, 32), Identity: identity}, verdict.CodeBundleMalformed},
		"policy":      {&understudyv1.VerifyRequest{Policy: "none", Identity: identity}, verdict.CodePolicyUnknown},
		"expressions": {&understudyv1.VerifyRequest{Identity: &understudyv1.ExpectedIdentity{IdentityRegexp: "(", IssuerRegexp: "["}}, verdict.CodeRequestMalformed},
	} {
		d, err := api.Verify(t.Context(), c.in)
		if err != nil || d.GetDecision() != understudyv1.Decision_DECISION_DENY || len(d.GetReasons()) == 0 || d.GetRow() == 0 || d.GetState() != "fallback" || d.GetMode() != understudyv1.Mode_MODE_ENFORCE {
			t.Errorf("%s: %v, %v", name, d, err)
			continue
		}
		if !slices.ContainsFunc(d.GetReasons(), func(r *understudyv1.Reason) bool { return r.GetCode() == c.want && r.GetText() != "" }) {
			t.Errorf("%s: %v, want %s", name, d.GetReasons(), c.want)
		}
	}
	_, err := api.Verify(t.Context(), &understudyv1.VerifyRequest{Bundle: make([]byte, 2*verdict.MaxBundle)})
	if status.Code(err) != codes.ResourceExhausted {
		t.Errorf("twice too large: %v", err)
	}
}

// Beyond 400 at once a client has to wait; others have not.
func TestVerificationLimit(t *testing.T) {
	v := newVerifier(t, func() root.TrustedMaterial { return nil }, outage.Live)
	api := understudyv1.NewVerificationServiceClient(dialVerifier(t, v))
	var refused error
	for i := 0; refused == nil && i < 2*decisionsBurst+decisionsPerSecond*30; i++ {
		if _, err := api.Verify(t.Context(), &understudyv1.VerifyRequest{Policy: "none"}); err != nil {
			if refused = err; i < decisionsBurst {
				t.Errorf("refused after %d", i)
			}
		}
	}
	wantRefusal(t, refused, codes.ResourceExhausted, reasonTooManyCalls, "more slowly")

	l := newRateLimiter(decisionsPerSecond, decisionsBurst)
	now, one, other := time.Now(), netip.MustParsePrefix("192.0.2.1/32"), netip.MustParsePrefix("192.0.2.2/32")
	for i := range decisionsBurst + 1 {
		if ok := l.allow(one, now, 1); ok != (i < decisionsBurst) {
			t.Fatalf("call %d: %t", i, ok)
		}
	}
	if !l.allow(other, now, 1) {
		t.Error("another client waits, too")
	}
	allowed := 0
	for range 200 {
		if l.allow(one, now.Add(time.Second), 1) {
			allowed++
		}
	}
	if allowed != decisionsPerSecond {
		t.Errorf("%d after a second", allowed)
	}
	l.allow(other, now.Add(time.Hour), 1)
	if len(l.clients) != 1 {
		t.Errorf("it remembers %d clients", len(l.clients))
	}
}

// Large bundles are few: each is verified, and may be kept.
func TestVerificationLimitOfBytes(t *testing.T) {
	v := newVerifier(t, func() root.TrustedMaterial { return nil }, outage.Live)
	api := understudyv1.NewVerificationServiceClient(dialVerifier(t, v))
	large := make([]byte, verdict.MaxBundle)
	for i := range 40 {
		if _, err := api.Verify(t.Context(), &understudyv1.VerifyRequest{Policy: "none", Bundle: large}); err != nil {
			if i < 4 {
				t.Errorf("refused after %d", i)
			}
			wantRefusal(t, err, codes.ResourceExhausted, reasonTooManyCalls, "more slowly")
			return
		}
	}
	t.Error("never refused")
}

// Each part of a decision has its place in the answer.
func TestVerificationAnswer(t *testing.T) {
	d := verdict.Decision{
		ID: "d-1", Allow: true, Reasons: []verdict.Reason{{Code: "C", Text: "t"}}, RestsOn: verdict.Mirrored, Origin: "o", Index: 7, Mode: verdict.ModeAudit, Policy: "p",
		State: outage.Recovering, Exception: "x", Identity: "i", Issuer: "s", Freshness: mirror.Freshness{Source: "stale", CheckpointAge: time.Second, UpstreamState: "live"}, At: time.Unix(1, 0), Seq: 9,
	}
	out := answerOf(d)
	if out.GetDecision() != understudyv1.Decision_DECISION_ALLOW || out.GetMode() != understudyv1.Mode_MODE_AUDIT || out.GetRestsOn() != understudyv1.RestsOn_RESTS_ON_MIRRORED ||
		out.GetReasons()[0].GetCode() != "C" || out.GetPolicy() != "p" || out.GetState() != "recovering" || out.GetException() != "x" || out.GetOrigin() != "o" || out.GetIndex() != 7 ||
		out.GetCertificateIdentity() != "i" || out.GetCertificateIssuer() != "s" || out.GetFreshness().GetSource() != "stale" || out.GetDecided().GetSeconds() != 1 || out.GetId() != "d-1" || out.GetRow() != 9 {
		t.Errorf("%v", out)
	}
	for _, rests := range []verdict.RestsOn{verdict.PublicLive, verdict.Mirrored, verdict.Private, verdict.OwnProof, verdict.Pinned} {
		if restsOn[rests] == understudyv1.RestsOn_RESTS_ON_UNSPECIFIED {
			t.Errorf("%s has no name in the API", rests)
		}
	}
	if out := answerOf(verdict.Decision{}); out.GetDecision() != understudyv1.Decision_DECISION_DENY || out.GetMode() != understudyv1.Mode_MODE_ENFORCE || out.GetFreshness() != nil {
		t.Errorf("%v", out)
	}
}

// Denials are rows in an outage: who has had many waits, and others do not.
func TestVerificationDenials(t *testing.T) {
	l := newRateLimiter(denialsPerSecond, 3)
	a, b, now := netip.MustParsePrefix("192.0.2.1/32"), netip.MustParsePrefix("192.0.2.2/32"), time.Unix(1e9, 0)
	for range 3 {
		if !l.any(a, now) {
			t.Fatal("refused early")
		}
		l.allow(a, now, 1)
	}
	if l.any(a, now) || !l.any(b, now) || !l.any(a, now.Add(time.Second)) {
		t.Error("the limit of denials does not hold, or never ends")
	}
	empty := func() root.TrustedMaterial { return &root.BaseTrustedMaterial{} }
	for _, state := range []outage.State{outage.Live, outage.Fallback} {
		api := understudyv1.NewVerificationServiceClient(dialVerifier(t, newVerifier(t, empty, state)))
		refused := false
		for began := time.Now(); !refused && time.Since(began) < 4*time.Second; {
			_, err := api.Verify(t.Context(), &understudyv1.VerifyRequest{Bundle: []byte("{}"), Algorithm: "sha256", Digest: make([]byte, 32)})
			if status.Code(err) == codes.ResourceExhausted && strings.Contains(status.Convert(err).Message(), "denied") {
				refused = true
			} else if err != nil {
				time.Sleep(20 * time.Millisecond) // the limit of all decisions
			}
		}
		if refused != (state == outage.Fallback) {
			t.Errorf("%s: refused %v", state, refused)
		}
	}
}
