package rpc

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	protorekor "github.com/sigstore/protobuf-specs/gen/pb-go/rekor/v1"
	rekorv2 "github.com/sigstore/rekor-tiles/v2/pkg/generated/protobuf"
	"github.com/transparency-dev/merkle/proof"
	"github.com/transparency-dev/merkle/rfc6962"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/understudy-log/understudy/cmd/internal/access"
	"github.com/understudy-log/understudy/cmd/internal/private"
	"github.com/understudy-log/understudy/cmd/internal/rest"
	"github.com/understudy-log/understudy/log"
	"github.com/understudy-log/understudy/storage"
	"github.com/understudy-log/understudy/test/bubble"
	"github.com/understudy-log/understudy/test/logstage"
)

func tokenOf(name string) string { return fmt.Sprintf("us_%x", sha256.Sum256([]byte(name))) }

// v2Address serves a log of Rekor v2 as the daemon does, with TLS if secure, and returns what dials it.
func v2Address(t *testing.T, s *logstage.Stage, secure bool) func(identity string) *grpc.ClientConn {
	t.Helper()
	return v2AddressOf(t, private.NewV2(s.Log, s.LogID), secure)
}

func v2AddressOf(t *testing.T, v2 *private.V2, secure bool) func(identity string) *grpc.ClientConn {
	t.Helper()
	logger := slog.New(slog.DiscardHandler)
	c := access.Config{Logger: logger, Registerer: prometheus.NewRegistry()}
	for _, role := range []access.Role{access.Append, access.Read} {
		sum := sha256.Sum256([]byte(tokenOf(string(role))))
		c.Identities = append(c.Identities, access.Identity{Name: string(role), TokenSHA256: sum[:], Roles: []access.Role{role}, EntriesPerSecond: 1e6, RequestsAtOnce: 200})
	}
	control, err := access.New(c)
	if err != nil {
		t.Fatal(err)
	}
	h := rest.NewLogV2(rest.LogV2Config{Log: v2, Access: control, GRPC: NewRekorV2(v2, logger), Logger: logger, Registerer: prometheus.NewRegistry()})
	with := insecure.NewCredentials()
	var config *tls.Config
	if secure {
		cert, key, roots := serverCertificate(t)
		if config, err = control.TLS(cert, key, ""); err != nil {
			t.Fatal(err)
		}
		with = credentials.NewClientTLSFromCert(roots, "")
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- rest.ServeLog(ctx, l, h, config, logger) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return func(identity string) *grpc.ClientConn {
		t.Helper()
		options := []grpc.DialOption{grpc.WithTransportCredentials(with)}
		if identity != "" {
			options = append(options, grpc.WithUnaryInterceptor(func(ctx context.Context, method string, request, reply any, conn *grpc.ClientConn, invoke grpc.UnaryInvoker, o ...grpc.CallOption) error {
				return invoke(metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+tokenOf(identity)), method, request, reply, conn, o...)
			}))
		}
		conn, err := grpc.NewClient(l.Addr().String(), options...)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		return conn
	}
}

func serverCertificate(t *testing.T) (cert, key string, roots *x509.CertPool) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	cert, key = filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key")
	chain := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	if err := errors.Join(os.WriteFile(cert, chain, 0o600), os.WriteFile(key, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8}), 0o600)); err != nil {
		t.Fatal(err)
	}
	roots = x509.NewCertPool()
	roots.AppendCertsFromPEM(chain)
	return cert, key, roots
}

// wantStatus holds an error to its code, its reason if there is one, and a part of its text.
func wantStatus(t *testing.T, name string, err error, code codes.Code, reason, text string) {
	t.Helper()
	s := status.Convert(err)
	got := ""
	for _, d := range s.Details() {
		if info, ok := d.(*errdetails.ErrorInfo); ok {
			got = info.Reason
		}
	}
	if s.Code() != code || got != reason || !strings.Contains(s.Message(), text) || strings.Contains(s.Message(), "secret") {
		t.Errorf("%s: %v %q %q, want %v %q %q", name, s.Code(), got, s.Message(), code, reason, text)
	}
}

// TestRekorV2: a gRPC client logs, over h2c and TLS, and gets what proves it; again it gets the same.
func TestRekorV2(t *testing.T) {
	for _, secure := range []bool{false, true} {
		s := logstage.New(t, 2, func(s *logstage.Stage) { s.Witnessed() })
		dial := v2Address(t, s, secure)
		c := rekorv2.NewRekorClient(dial("append"))
		var entries [3]*protorekor.TransparencyLogEntry
		var running sync.WaitGroup
		request := logstage.RequestV2("a")
		for i := range entries {
			running.Go(func() {
				var header metadata.MD
				var err error
				if entries[i], err = c.CreateEntry(t.Context(), request, grpc.Header(&header)); err != nil {
					t.Error(err)
					return
				}
				if got := header.Get("x-log-index"); len(got) != 1 || got[0] != "0" {
					t.Errorf("%v", header)
				}
			})
		}
		running.Wait()
		for _, e := range entries {
			p := e.GetInclusionProof()
			if err := proof.VerifyInclusion(rfc6962.DefaultHasher, uint64(p.GetLogIndex()), uint64(p.GetTreeSize()), rfc6962.DefaultHasher.HashLeaf(e.GetCanonicalizedBody()), p.GetHashes(), p.GetRootHash()); err != nil || e.GetLogIndex() != 0 {
				t.Errorf("%v: %v", err, e)
			}
		}
		wrong := logstage.RequestV2("b")
		wrong.GetHashedRekordRequestV002().Digest[0] ^= 1
		for name, r := range map[string]*rekorv2.CreateEntryRequest{"empty": {}, "hollow": {Spec: &rekorv2.CreateEntryRequest_HashedRekordRequestV002{}}, "dsse": {Spec: &rekorv2.CreateEntryRequest_DsseRequestV002{}}, "signature": wrong} {
			_, err := c.CreateEntry(t.Context(), r)
			wantStatus(t, name, err, codes.InvalidArgument, "", "invalid")
		}
		_, err := c.CreateEntry(t.Context(), logstage.LargeRequestV2())
		wantStatus(t, "large", err, codes.InvalidArgument, "", "65535")
		huge := logstage.RequestV2("c")
		huge.GetHashedRekordRequestV002().GetSignature().Content = make([]byte, 1<<20)
		_, err = c.CreateEntry(t.Context(), huge)
		wantStatus(t, "huge", err, codes.ResourceExhausted, "", "larger than max")

		for name, c := range map[string]struct {
			identity string
			code     codes.Code
		}{"nobody": {"", codes.Unauthenticated}, "stranger": {"stranger", codes.Unauthenticated}, "reader": {"read", codes.PermissionDenied}} {
			_, err := rekorv2.NewRekorClient(dial(c.identity)).CreateEntry(t.Context(), request)
			wantStatus(t, name, err, c.code, "", "")
		}
		for identity, code := range map[string]codes.Code{"read": codes.OK, "append": codes.OK, "": codes.Unauthenticated} {
			for _, service := range []string{"", rekorv2.Rekor_ServiceDesc.ServiceName} {
				answer, err := healthv1.NewHealthClient(dial(identity)).Check(t.Context(), &healthv1.HealthCheckRequest{Service: service})
				if status.Code(err) != code || err == nil && answer.GetStatus() != healthv1.HealthCheckResponse_SERVING {
					t.Errorf("health of %q as %q: %v %v", service, identity, answer, err)
				}
			}
		}
		if size := s.Log.Tree().State().Head.Size; size != 1 {
			t.Errorf("%d entries", size)
		}
		s.Sound()
	}
}

// TestRekorV2Cannot: whatever keeps the log from logging has a code and a reason.
func TestRekorV2Cannot(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*logstage.Stage)
		before func(*logstage.Stage)
		code   codes.Code
		reason string
	}{
		"signing":   {nil, func(s *logstage.Stage) { s.Sick.Store(true) }, codes.Unavailable, "CANNOT_SIGN"},
		"too large": {func(s *logstage.Stage) { s.Config.MaxEntry = 100 }, nil, codes.InvalidArgument, "ENTRY_TOO_LARGE"},
		"full": {func(s *logstage.Stage) { s.Config.PoolEntries, s.Config.BatchWait = 1, 500*time.Millisecond }, func(s *logstage.Stage) {
			go s.Log.Append(context.Background(), log.Entry{Body: []byte("first")})
			time.Sleep(100 * time.Millisecond)
		}, codes.ResourceExhausted, "LOG_FULL"},
		"stopping": {nil, func(s *logstage.Stage) { s.Stop() }, codes.Unavailable, "STOPPING"},
		"behind": {func(s *logstage.Stage) {
			s.Config.Cosign = func(context.Context, storage.Checkpoint, func(uint64) ([]storage.Hash, error)) ([]string, error) {
				return nil, fmt.Errorf("%w: secret-name-of-the-witness", log.ErrBehind)
			}
		}, nil, codes.Unavailable, "DATABASE_BEHIND"},
	} {
		s := logstage.New(t, 2, c.change)
		client := rekorv2.NewRekorClient(v2Address(t, s, false)("append"))
		if c.before != nil {
			c.before(s)
		}
		_, err := client.CreateEntry(t.Context(), logstage.RequestV2("a"))
		wantStatus(t, name, err, c.code, c.reason, "")
	}
}

// TestRekorV2Gate: a log for outages refuses entries but while one is there, and goes on being read and
// asked for its health.
func TestRekorV2Gate(t *testing.T) {
	s := logstage.New(t, 2, nil)
	v2 := private.NewV2(s.Log, s.LogID)
	var open atomic.Bool
	v2.Open = open.Load
	dial := v2AddressOf(t, v2, false)
	client := rekorv2.NewRekorClient(dial("append"))
	for i, opens := range []bool{false, true, false, true} {
		open.Store(opens)
		entry, err := client.CreateEntry(t.Context(), logstage.RequestV2(fmt.Sprint(i/2)))
		if !opens {
			wantStatus(t, "closed", err, codes.Unavailable, "NOT_IN_FALLBACK", "use the public log")
		} else if err != nil || entry.GetLogIndex() != int64(i/2) {
			t.Errorf("open: %v %v", entry, err)
		}
	}
	open.Store(false)
	if _, err := client.CreateEntry(t.Context(), &rekorv2.CreateEntryRequest{}); status.Code(err) != codes.Unavailable {
		t.Errorf("a proposal that is wrong: %v", err)
	}
	if _, err := rekorv2.NewRekorClient(dial("read")).CreateEntry(t.Context(), logstage.RequestV2("a")); status.Code(err) != codes.PermissionDenied {
		t.Errorf("who may not: %v", err)
	}
	if answer, err := healthv1.NewHealthClient(dial("read")).Check(t.Context(), &healthv1.HealthCheckRequest{}); err != nil || answer.GetStatus() != healthv1.HealthCheckResponse_SERVING {
		t.Errorf("health: %v %v", answer, err)
	}
	s.Sound()
}

// TestRekorV2Patience: who has no deadline gets the reason, and not a stream that breaks off; who
// hangs up or has a deadline gets the same entry with the next try.
func TestRekorV2Patience(t *testing.T) {
	request := logstage.RequestV2("a")
	bubble.Run(t, func(t *testing.T) {
		s := logstage.New(t, 2, func(s *logstage.Stage) {
			s.Witnessed()
			s.Asleep.Store(true)
		})
		server := &rekorV2{log: private.NewV2(s.Log, s.LogID), logger: slog.New(slog.NewTextHandler(io.Discard, nil)), working: make(chan struct{}, 1)}
		time.Sleep(time.Second) // the witnesses have been asked
		began := time.Now()
		_, err := server.CreateEntry(t.Context(), request)
		wantStatus(t, "unwitnessed", err, codes.Unavailable, "NOT_YET_WITNESSED", "too few witnesses")
		if took := time.Since(began); took > 29*time.Second {
			t.Errorf("it took %v", took)
		}
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(time.Second, cancel)
		_, err = server.CreateEntry(ctx, request)
		wantStatus(t, "hung up", err, codes.Canceled, "", "")
		ctx, cancel = context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err = server.CreateEntry(ctx, request)
		wantStatus(t, "deadline", err, codes.Unavailable, "NOT_YET_WITNESSED", "")
		s.Asleep.Store(false)
		if entry, err := server.CreateEntry(t.Context(), request); err != nil || entry.GetLogIndex() != 0 || s.Log.Tree().State().Head.Size != 1 {
			t.Errorf("%v %v", entry, err)
		}
		s.Close()
	})
}
