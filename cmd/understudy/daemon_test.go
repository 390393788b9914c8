package main

import (
	"context"
	"crypto/ed25519"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health/grpc_health_v1"

	"github.com/understudy-log/understudy/cmd/internal/rpc"
	"github.com/understudy-log/understudy/mirror/trust"
	"github.com/understudy-log/understudy/storage"
)

// TestKeyComesLate holds that a log whose key has to be fetched says so, and is
// followed once a later try brings the key; a log that the root does not list is not.
func TestKeyComesLate(t *testing.T) {
	upstream := newScriptLog(t)
	root, err := trust.ParseRoot([]byte(trustedRootListing(t, upstream)))
	if err != nil {
		t.Fatal(err)
	}
	c, err := parseConfig(filepath.Join(t.TempDir(), "c.yaml"), fmt.Appendf(nil,
		"logs: [{name: late, url: '%s', origin: %s}, {name: unlisted, url: '%[1]s', origin: other.example}]", upstream.url, upstream.origin))
	if err != nil {
		t.Fatal(err)
	}
	keys, err := newKeyring(c)
	if err != nil {
		t.Fatal(err)
	}
	tries, failed := 0, make(chan struct{})
	keys.fetchRoot = func(context.Context, string) (*trust.Root, error) {
		if tries++; tries == 1 {
			close(failed)
			return nil, errors.New("TUF is down")
		}
		return root, nil
	}
	db, err := c.openOrCreate(storage.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	d, err := newDaemon(c, keys, db, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	late, unlisted := d.logs[0], d.logs[1]
	if p := late.status().Problem; p == nil || p.Reason != problemKey {
		t.Errorf("before: %+v", p)
	}
	ctx, stop := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { d.follow(ctx) })
	<-failed
	for {
		changed := late.mirror.Tree().Changed()
		if late.status().MirrorSize == 1000 {
			break
		}
		select {
		case <-changed:
		case <-time.After(20 * time.Second):
			t.Fatalf("not followed: %+v", late.status())
		}
	}
	if p := late.status().Problem; p != nil {
		t.Errorf("after: %+v", p)
	}
	if p := unlisted.status().Problem; p == nil || !strings.Contains(p.Text, "the public trusted root lists no key") {
		t.Errorf("unlisted: %+v", p)
	}
	stop()
	running.Wait()
}

// trustedRootListing is a TrustedRoot that lists a log.
func trustedRootListing(t *testing.T, log scriptLog) string {
	t.Helper()
	parts := strings.SplitN(log.vkey, "+", 3)
	key, err := base64.StdEncoding.DecodeString(parts[2])
	if err != nil {
		t.Fatal(err)
	}
	spki, err := x509.MarshalPKIXPublicKey(ed25519.PublicKey(key[1:]))
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf(`{"mediaType": "application/vnd.dev.sigstore.trustedroot+json;version=0.1", "tlogs": [{
		"baseUrl": "https://%s", "hashAlgorithm": "SHA2_256", "logId": {"keyId": "c2hvcnQ="},
		"publicKey": {"rawBytes": "%s", "keyDetails": "PKIX_ED25519", "validFor": {"start": "2025-01-01T00:00:00Z"}}}]}`,
		log.origin, base64.StdEncoding.EncodeToString(spki))
}

// TestServeGRPCStops holds that a stream that never ends does not keep the daemon
// from stopping.
func TestServeGRPCStops(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		done <- serveGRPC(ctx, l, rpc.NewServer(nil, slog.New(slog.DiscardHandler)), 50*time.Millisecond)
	}()
	conn, err := grpc.NewClient(l.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	stream, err := grpc_health_v1.NewHealthClient(conn).Watch(t.Context(), &grpc_health_v1.HealthCheckRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); err != nil {
		t.Fatal(err)
	}
	stop()
	select {
	case err := <-done:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("the server does not stop")
	}
	if _, err := stream.Recv(); err == nil {
		t.Error("the stream goes on")
	}
}
