package main

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"sync"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/sigstore/sigstore-go/pkg/root"
	"google.golang.org/grpc"

	"github.com/understudy-log/understudy/cmd/internal/rpc"
	"github.com/understudy-log/understudy/mirror"
	"github.com/understudy-log/understudy/mirror/ledger"
	"github.com/understudy-log/understudy/mirror/outage"
	"github.com/understudy-log/understudy/mirror/trust"
	"github.com/understudy-log/understudy/mirror/verdict"
	"github.com/understudy-log/understudy/storage"
)

// listenGRPC serves until the test ends, and returns the address.
func listenGRPC(t *testing.T, server *grpc.Server) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var serving sync.WaitGroup
	serving.Go(func() { server.Serve(l) })
	t.Cleanup(func() {
		server.Stop()
		serving.Wait()
	})
	return l.Addr().String()
}

func serveVerifier(t *testing.T, trustedRoot []byte, state outage.State) string {
	t.Helper()
	cfg := rpc.Config{Mirrors: func() []*mirror.Mirror { return nil }, Logger: slog.New(slog.DiscardHandler), Registerer: prometheus.NewRegistry()}
	if trustedRoot != nil {
		db, err := storage.Create("db", storage.Options{FS: vfs.NewMem()})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { db.Close() })
		l, err := ledger.Open(db, nil)
		if err != nil {
			t.Fatal(err)
		}
		parsed, err := trust.ParseRoot(trustedRoot)
		if err != nil {
			t.Fatal(err)
		}
		cfg.Verifier, err = verdict.New(verdict.Config{
			DB: db, Ledger: l, Material: func() root.TrustedMaterial { return parsed.Material() }, State: func() outage.State { return state },
			Policies: []verdict.Policy{{Name: "release", Identities: []verdict.Identity{{SAN: signerName, Issuer: signerIssuer}}}},
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return listenGRPC(t, rpc.NewServer(cfg))
}

// askServer verifies a bundle with what the options say.
func askServer(t *testing.T, data []byte, o verifyOptions) (string, error) {
	t.Helper()
	o.file = writeTemp(t, "bundle", data)
	var out strings.Builder
	err := verifyFile(t.Context(), o, &out)
	return out.String(), err
}

func TestVerifyByServer(t *testing.T) {
	sigstore := newTestSigstore(t)
	artifact := []byte("an artifact")
	good := makeBundle(t, artifact, sigstore.key, sigstore.signer.Raw, sigstore.timestamp)
	l := newSignedLog(t, 0)
	address := serveVerifier(t, sigstoreRoot(t, l.key.Public(), nil, sigstore), outage.Fallback)
	base := verifyOptions{server: address, artifact: writeTemp(t, "artifact", artifact), identity: signerName, issuer: signerIssuer}
	for name, c := range map[string]struct {
		change func(*verifyOptions)
		code   int
		says   []string
	}{
		"allow":         {func(o *verifyOptions) {}, exitGood, []string{"allow\n", "mode      enforce, policy default", "rests on  bundle, entry 5 of " + verifyOrigin, "state     fallback", "OK: ", signerName, "row "}},
		"by the policy": {func(o *verifyOptions) { o.policy, o.identity, o.issuer = "release", "", "" }, exitGood, []string{"allow\n", "policy release"}},
		"by its digest": {func(o *verifyOptions) {
			o.artifact, o.artifactDigest = "", fmt.Sprintf("sha256:%x", sha256.Sum256(artifact))
		}, exitGood, []string{"allow\n"}},
		"another artifact": {func(o *verifyOptions) { o.artifact = writeTemp(t, "other", []byte("another artifact")) }, exitWrong, []string{"deny\n", "rests on  nothing", "ARTIFACT_MISMATCH: "}},
		"another signer":   {func(o *verifyOptions) { o.identity = "other@example.com" }, exitWrong, []string{"deny\n", "IDENTITY_MISMATCH: ", "signer    " + signerName, "not verified"}},
		"no such policy":   {func(o *verifyOptions) { o.policy = "none" }, exitWrong, []string{"deny\n", "POLICY_UNKNOWN: "}},
		"nobody expected":  {func(o *verifyOptions) { o.identity, o.issuer = "", "" }, exitWrong, []string{"deny\n", "IDENTITY_MISMATCH: "}},
		"no issuer":        {func(o *verifyOptions) { o.issuer = "" }, exitNotRun, nil},
		"no artifact":      {func(o *verifyOptions) { o.artifact = "" }, exitNotRun, nil},
		"missing artifact": {func(o *verifyOptions) { o.artifact += "x" }, exitNotRun, nil},
		"both":             {func(o *verifyOptions) { o.publicKey = "key.pem" }, exitNotRun, nil},
		"nobody there":     {func(o *verifyOptions) { o.server = "127.0.0.1:1" }, exitNotRun, nil},
		"not configured":   {func(o *verifyOptions) { o.server = serveVerifier(t, nil, outage.Live) }, exitNotRun, nil},
		"no understudy":    {func(o *verifyOptions) { o.server = listenGRPC(t, grpc.NewServer()) }, exitNotRun, nil},
		"own root":         {func(o *verifyOptions) { o.trustedRoot = "root.json" }, exitNotRun, nil},
		"policy alone":     {func(o *verifyOptions) { o.server, o.policy = "", "release" }, exitNotRun, nil},
		"JSON alone":       {func(o *verifyOptions) { o.server, o.json = "", true }, exitNotRun, nil},
	} {
		t.Run(name, func(t *testing.T) {
			o := base
			c.change(&o)
			said, err := askServer(t, good, o)
			if exitCode(err) != c.code || err != nil && strings.Contains(err.Error(), "\n") {
				t.Errorf("exit code %d, want %d: %v", exitCode(err), c.code, err)
			}
			if c.says == nil && said != "" {
				t.Errorf("it says %s", said)
			}
			for _, part := range c.says {
				if !strings.Contains(said, part) || strings.HasSuffix(part, "\n") && !strings.HasPrefix(said, part) {
					t.Errorf("it says %s; want %q", said, part)
				}
			}
		})
	}

	o := base
	o.json = true
	said, err := askServer(t, good, o)
	var decision struct {
		Decision string `json:"decision"`
		RestsOn  string `json:"rests_on"`
		Reasons  []struct{ Code, Text string }
	}
	if jsonErr := json.Unmarshal([]byte(said), &decision); err != nil || jsonErr != nil || decision.Decision != "DECISION_ALLOW" || decision.RestsOn != "RESTS_ON_BUNDLE" || len(decision.Reasons) != 1 {
		t.Errorf("%v, %v: %s", err, jsonErr, said)
	}
	if said, err := askServer(t, []byte(`{"mediaType":"application/vnd.dev.sigstore.bundle.v0.3+json"}`), base); exitCode(err) != exitWrong || !strings.Contains(said, "BUNDLE_MALFORMED: ") {
		t.Errorf("%v: %s", err, said)
	}
}

// The digest is made with the algorithm that the bundle is about.
func TestVerifyByServerWithKey(t *testing.T) {
	artifact := []byte("an artifact")
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	l := newSignedLog(t, 0)
	address := serveVerifier(t, sigstoreRoot(t, l.key.Public(), nil, nil), outage.Live)
	o := verifyOptions{server: address, artifact: writeTemp(t, "artifact", artifact), publicKey: writeTemp(t, "key.pem", pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))}
	if said, err := askServer(t, makeBundle(t, artifact, key, nil, nil), o); err != nil || !strings.HasPrefix(said, "allow\n") {
		t.Errorf("%v: %s", err, said)
	}
	o.publicKey = o.artifact
	if said, err := askServer(t, makeBundle(t, artifact, key, nil, nil), o); exitCode(err) != exitWrong || !strings.Contains(said, "REQUEST_MALFORMED: ") {
		t.Errorf("%v: %s", err, said)
	}
}
