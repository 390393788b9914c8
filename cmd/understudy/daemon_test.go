package main

import (
	"context"
	"crypto/ed25519"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/test/bufconn"

	"github.com/understudy-log/understudy/cmd/internal/rest"
	"github.com/understudy-log/understudy/cmd/internal/rpc"
	"github.com/understudy-log/understudy/mirror"
	"github.com/understudy-log/understudy/mirror/trust"
	understudyv1 "github.com/understudy-log/understudy/proto/understudy/v1"
	"github.com/understudy-log/understudy/storage"
	"github.com/understudy-log/understudy/test/bubble"
	"github.com/understudy-log/understudy/test/tufrepo"
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
	d, err := newDaemon(t.Context(), c, keys, db, nil, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	late, unlisted := d.logs[0], d.logs[1]
	if p := late.statuses()[0].Problem; p == nil || p.Reason != mirror.ProblemKey {
		t.Errorf("before: %+v", p)
	}
	wantListed(t, d, "late", "no key is known for")
	ctx, stop := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { d.follow(ctx) })
	<-failed
	for {
		changed := late.mirror.Tree().Changed()
		if late.statuses()[0].MirrorSize == 1000 {
			break
		}
		select {
		case <-changed:
		case <-time.After(20 * time.Second):
			t.Fatalf("not followed: %+v", late.statuses()[0])
		}
	}
	if p := late.statuses()[0].Problem; p != nil {
		t.Errorf("after: %+v", p)
	}
	if p := unlisted.statuses()[0].Problem; p == nil || !strings.Contains(p.Text, "the public trusted root lists no key") {
		t.Errorf("unlisted: %+v", p)
	}
	wantListed(t, d, "late", "")
	wantListed(t, d, "unlisted", "the public trusted root lists no key")
	stop()
	running.Wait()
}

// openDaemon makes the daemon of a configuration; the other function closes its database.
func openDaemon(t *testing.T, c *Config) (*daemon, func()) {
	t.Helper()
	keys, err := newKeyring(c)
	if err != nil {
		t.Fatal(err)
	}
	db, err := c.openOrCreate(storage.Options{})
	if err != nil {
		t.Fatal(err)
	}
	d, err := newDaemon(t.Context(), c, keys, db, nil, slog.New(slog.DiscardHandler))
	if err != nil {
		db.Close()
		t.Fatal(err)
	}
	return d, func() {
		t.Helper()
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	}
}

// wantListed demands that /logs and ListLogs say why a log is not followed.
func wantListed(t *testing.T, d *daemon, name, problem string) {
	t.Helper()
	h := rest.NewPublic(rest.PublicConfig{Mirrors: d.mirrors, Logger: d.logger, Registerer: prometheus.NewRegistry()})
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest("GET", "/logs", nil))
	var logs []mirror.Status
	if err := json.Unmarshal(w.Body.Bytes(), &logs); err != nil {
		t.Fatal(err)
	}
	for _, log := range logs {
		if p := log.Problem; log.Name == name && (p == nil) != (problem == "") || p != nil && log.Name == name && (p.Reason != "key" || !strings.Contains(p.Text, problem)) {
			t.Errorf("/logs: problem of %s is %+v, want %q", name, p, problem)
		}
	}

	l := bufconn.Listen(1 << 16)
	server := rpc.NewServer(rpc.Config{Mirrors: d.mirrors, Logger: d.logger, Registerer: prometheus.NewRegistry()})
	go server.Serve(l)
	defer server.Stop()
	conn, err := grpc.NewClient("passthrough:memory", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return l.DialContext(ctx) }))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	answer, err := understudyv1.NewLogServiceClient(conn).ListLogs(t.Context(), &understudyv1.ListLogsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	for _, log := range answer.GetLogs() {
		if got := log.GetProblem(); log.GetName() == name && ((got == "") != (problem == "") || !strings.Contains(got, problem)) {
			t.Errorf("ListLogs: problem of %s is %q, want %q", name, got, problem)
		}
	}
}

// TestLostService holds that a service whose stored state cannot be used is neither denied nor
// empty: the port for everybody says that it cannot be served, and goes on.
func TestLostService(t *testing.T) {
	c, err := parseConfig(filepath.Join(t.TempDir(), "c.yaml"), []byte(oneService+"listen: {http: '127.0.0.1:0', grpc: '127.0.0.1:0', admin: '127.0.0.1:0'}\n"))
	if err != nil {
		t.Fatal(err)
	}
	keys, err := newKeyring(c)
	if err != nil {
		t.Fatal(err)
	}
	db, err := c.openOrCreate(storage.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if err := db.PutRecord("rekor-v1 rekor", []byte("damaged")); err != nil {
		t.Fatal(err)
	}
	d, err := newDaemon(t.Context(), c, keys, db, nil, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	l, err := listen(c)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() {
		if err := d.run(ctx, l); err != nil {
			t.Error(err)
		}
	})
	for _, path := range []string{"/api/v1/log", "/api/v1/log/publicKey", "/api/v1/log/entries?logIndex=7"} {
		code, body, err := ask("http://" + l.http.Addr().String() + path)
		if err != nil || code != 503 || !strings.Contains(body, mirror.ReasonDamaged) {
			t.Errorf("%s: got %d %s (%v)", path, code, body, err)
		}
	}
	if code, _, err := ask("http://" + l.http.Addr().String() + "/logs"); err != nil || code != 200 {
		t.Errorf("/logs: got %d (%v)", code, err)
	}
	stop()
	running.Wait()
}

// TestMetricsAreDocumented holds that docs/metrics.md names every metric that a daemon has.
func TestMetricsAreDocumented(t *testing.T) {
	page, err := os.ReadFile("../../docs/metrics.md")
	if err != nil {
		t.Fatal(err)
	}
	repo, root := tufrepo.New(t, []byte(trustedRootListing(t, newScriptLog(t)))), filepath.Join(t.TempDir(), "root.json")
	if err := os.WriteFile(root, repo.PublishRoot(t), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := parseConfig(filepath.Join(t.TempDir(), "c.yaml"), fmt.Appendf(nil, "logs: [{url: 'http://127.0.0.1:1', origin: a.example}]\ntuf: {url: %s, root: %s}", repo.URL, root))
	if err != nil {
		t.Fatal(err)
	}
	d, closeDB := openDaemon(t, c)
	defer closeDB()
	if err := d.tuf.Update(t.Context()); err != nil {
		t.Fatal(err)
	}
	repo.Down(true)
	if err := d.tuf.Update(t.Context()); err == nil {
		t.Fatal("updated from a repository that is down")
	}
	h := rest.NewPublic(rest.PublicConfig{Mirrors: d.mirrors, TUF: d.tuf, Logger: d.logger, Registerer: d.registry})
	h.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("GET", "/logs", nil))
	rpc.NewServer(rpc.Config{Mirrors: d.mirrors, Logger: d.logger, Registerer: d.registry})
	families, err := d.registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	names := 0
	for _, family := range families {
		if name := family.GetName(); strings.HasPrefix(name, "understudy_") {
			if names++; !strings.Contains(string(page), "| `"+name+"` |") {
				t.Errorf("docs/metrics.md does not have %s", name)
			}
		}
	}
	if names < 10 {
		t.Errorf("only %d metrics", names)
	}
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

// TestAwaitStop holds that a signal ends the daemon within ten seconds and with code 0,
// also while the database cannot be closed because of a compaction; that a daemon which
// hangs elsewhere is not called well; and that a failed disk is told at any time.
func TestAwaitStop(t *testing.T) {
	broken := errors.New("no space left")
	for name, test := range map[string]struct {
		stops    time.Duration // after the signal
		closes   bool          // all but the database has stopped at the signal
		fails    time.Duration // when the disk fails, after the signal; 0 is never
		want     string        // of the error
		atLatest time.Duration
	}{
		"idle":            {stops: time.Second, closes: true, atLatest: time.Second},
		"in a compaction": {stops: time.Hour, closes: true, atLatest: 10 * time.Second},
		"hangs":           {stops: time.Hour, want: "not everything stopped", atLatest: 10 * time.Second},
		"disk fails":      {stops: time.Hour, fails: time.Second, want: "no space left", atLatest: time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			bubble.Run(t, func(t *testing.T) {
				ctx, signal := context.WithCancel(t.Context())
				done, closing, fatal := make(chan error, 1), make(chan struct{}), make(chan error, 1)
				time.AfterFunc(time.Minute, func() {
					signal()
					if test.closes {
						close(closing)
					}
					time.AfterFunc(test.stops, func() { done <- nil })
					if test.fails > 0 {
						time.AfterFunc(test.fails, func() { fatal <- broken })
					}
				})
				start := time.Now()
				err := awaitStop(ctx, done, closing, fatal, slog.New(slog.DiscardHandler))
				if (err == nil) != (test.want == "") || err != nil && !strings.Contains(err.Error(), test.want) {
					t.Errorf("error %v, want %q", err, test.want)
				}
				if took := time.Since(start) - time.Minute; took < 0 || took > test.atLatest {
					t.Errorf("took %s", took)
				}
			})
		})
	}
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
		done <- serveGRPC(ctx, l, rpc.NewServer(rpc.Config{Logger: slog.New(slog.DiscardHandler), Registerer: prometheus.NewRegistry()}), 50*time.Millisecond)
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

// TestServeGRPCStopsBeforeItBegins: a signal right after the start is no error.
func TestServeGRPCStopsBeforeItBegins(t *testing.T) {
	for range 50 {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		ctx, stop := context.WithCancel(t.Context())
		stop()
		if err := serveGRPC(ctx, l, rpc.NewServer(rpc.Config{Logger: slog.New(slog.DiscardHandler), Registerer: prometheus.NewRegistry()}), time.Second); err != nil {
			t.Fatal(err)
		}
	}
}
