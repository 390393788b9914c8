package access

import (
	"context"
	"crypto/tls"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// healthServer stands for any gRPC service: it fails unless its caller is named and the
// token is gone.
type healthServer struct {
	grpc_health_v1.UnimplementedHealthServer
	entered, release chan struct{}
}

func (s healthServer) Check(ctx context.Context, r *grpc_health_v1.HealthCheckRequest) (*grpc_health_v1.HealthCheckResponse, error) {
	identity, ok := FromContext(ctx)
	md, _ := metadata.FromIncomingContext(ctx)
	if !ok || identity.Name != r.Service {
		return nil, status.Errorf(codes.Internal, "identity %q %v", identity.Name, ok)
	}
	for key, values := range md {
		if key == "authorization" || holdsToken(strings.Join(values, " ")) {
			return nil, status.Errorf(codes.Internal, "metadata %s", key)
		}
	}
	if s.entered != nil {
		s.entered <- struct{}{}
		<-s.release
	}
	return &grpc_health_v1.HealthCheckResponse{Status: grpc_health_v1.HealthCheckResponse_SERVING}, nil
}

// TestGRPC holds that a grpc-go client gets answers and status codes through Guard and
// Require, over h2c and TLS.
func TestGRPC(t *testing.T) {
	servers, clients := newAuthority(t, "servers"), newAuthority(t, "clients")
	for _, secure := range []bool{false, true} {
		config := testConfig()
		config.Identities[0].RequestsAtOnce = 1
		config.Identities[0].EntriesPerSecond = 0.001 // one entry, then none
		control := newControl(t, config)
		blocking := healthServer{entered: make(chan struct{}), release: make(chan struct{})}
		grpcServer := grpc.NewServer()
		grpc_health_v1.RegisterHealthServer(grpcServer, healthServer{})
		blockingServer := grpc.NewServer()
		grpc_health_v1.RegisterHealthServer(blockingServer, blocking)
		role, target := Read, http.Handler(grpcServer) // of the next call; nothing runs when they change
		h := control.Guard(nil, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			control.Require(role, target).ServeHTTP(w, r)
		}))
		var serverTLS *tls.Config
		if secure {
			files := standardFiles(t, servers, clients)
			var err error
			if serverTLS, err = control.TLS(files.cert, files.key, files.ca); err != nil {
				t.Fatal(err)
			}
		}
		address := serve(t, serverTLS, h)
		dial := func(cert *tls.Certificate) grpc_health_v1.HealthClient {
			with := insecure.NewCredentials()
			if secure {
				with = credentials.NewTLS(clientConfig(servers, cert))
			}
			conn, err := grpc.NewClient(address, grpc.WithTransportCredentials(with))
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { conn.Close() })
			return grpc_health_v1.NewHealthClient(conn)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		defer cancel()
		client := dial(nil)
		call := func(client grpc_health_v1.HealthClient, token, name string, want codes.Code, message string) {
			t.Helper()
			ctx := ctx
			if token != "" {
				ctx = metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+token)
			}
			_, err := client.Check(ctx, &grpc_health_v1.HealthCheckRequest{Service: name})
			if s := status.Convert(err); s.Code() != want || !strings.Contains(s.Message(), message) {
				t.Errorf("TLS %v: got %v, want %v %q", secure, err, want, message)
			}
		}
		call(client, readToken, "reader", codes.OK, "")
		call(client, "", "", codes.Unauthenticated, "not open to everybody")
		call(client, strayToken, "", codes.Unauthenticated, "not known here")
		if secure {
			call(dial(clients.client(time.Time{})), "", "pipe", codes.OK, "")
		}
		role = Append
		call(client, readToken, "reader", codes.PermissionDenied, "role append")
		call(client, pipeToken, "pipe", codes.OK, "")
		call(client, pipeToken, "pipe", codes.ResourceExhausted, "entries a second")

		role, target = Read, blockingServer
		done := make(chan struct{})
		go func() {
			defer close(done)
			call(client, pipeToken, "pipe", codes.OK, "")
		}()
		<-blocking.entered
		call(client, pipeToken, "pipe", codes.ResourceExhausted, "1 requests under way")
		close(blocking.release)
		<-done
		for range failuresBurst + 1 {
			_, err := client.Check(ctx, &grpc_health_v1.HealthCheckRequest{})
			if status.Code(err) == codes.ResourceExhausted {
				break
			}
		}
		call(client, "", "", codes.ResourceExhausted, "failed attempts")
	}
}

// TestRefuseGRPC holds that any text comes through unchanged, and which code it has.
func TestRefuseGRPC(t *testing.T) {
	text := "100 % and %41 of this – with \"quotes\"\r\nand a line\x00\x7f"
	var code int
	address := serve(t, nil, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { RefuseGRPC(w, code, text) }))
	conn, err := grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	client := grpc_health_v1.NewHealthClient(conn)
	for httpCode, want := range map[int]codes.Code{
		400: codes.InvalidArgument, 401: codes.Unauthenticated, 403: codes.PermissionDenied,
		429: codes.ResourceExhausted, 503: codes.Unavailable, 418: codes.Unknown,
	} {
		code = httpCode
		_, err := client.Check(t.Context(), &grpc_health_v1.HealthCheckRequest{})
		if s := status.Convert(err); s.Code() != want || s.Message() != text {
			t.Errorf("%d: got %v %q", code, s.Code(), s.Message())
		}
	}
}

func TestIsGRPC(t *testing.T) {
	for contentType, want := range map[string]bool{
		"application/grpc": true, "application/grpc+proto": true, "application/grpc;x=y": true,
		"application/grpc-web": false, "application/grpcx": false, "application/json": false, "": false,
	} {
		r := httptest.NewRequest(http.MethodPost, "/", nil)
		r.Header.Set("Content-Type", contentType)
		if got := IsGRPC(r); got != want {
			t.Errorf("%q: got %v", contentType, got)
		}
	}
}
