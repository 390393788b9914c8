//go:build linux

package main

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync/atomic"
	"syscall"

	commonpb "github.com/sigstore/protobuf-specs/gen/pb-go/common/v1"
	rekorpb "github.com/sigstore/rekor-tiles/v2/pkg/generated/protobuf"
	"golang.org/x/sync/errgroup"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/understudy-log/understudy/test/authority"
	"github.com/understudy-log/understudy/test/process"
	"github.com/understudy-log/understudy/test/rekorv1"
)

// measureLog measures the private log: what it appends in process, and by the addresses of both
// generations beside the real servers.
func (b *bench) measureLog(ctx context.Context) error {
	ca, err := authority.New()
	if err != nil {
		return err
	}
	b.say("signing %d entries of Rekor v1", logEntries)
	v1, err := prepare(logEntries, func(i int) ([]byte, error) {
		s, err := rekorv1.NewCertified(ca, signerOf(i))
		if err != nil {
			return nil, err
		}
		signed, err := s.HashedRekord(fmt.Appendf(nil, "artifact %d", i))
		return signed.Proposal, err
	})
	if err != nil {
		return err
	}
	b.say("signing %d entries of Rekor v2", logEntries)
	v2, err := prepare(logEntries, func(i int) ([]byte, error) { return proposalV2(ca, i) })
	if err != nil {
		return err
	}
	if err := b.measureLogAppend(ctx, v1); err != nil {
		return err
	}
	if err := b.measureLogV1(ctx, v1); err != nil {
		return err
	}
	return b.measureLogV2(ctx, v2)
}

// signerOf is who signs an entry.
func signerOf(i int) string { return fmt.Sprintf("releaser%d@understudy.test", i%1000) }

// proposalV2 is the JSON of POST /api/v2/log/entries with a key and a certificate of its own.
func proposalV2(ca *authority.Authority, i int) ([]byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	certificate, err := ca.Issue(key.Public(), signerOf(i))
	if err != nil {
		return nil, err
	}
	digest := sha256.Sum256(fmt.Appendf(nil, "artifact %d", i))
	signature, err := key.Sign(rand.Reader, digest[:], crypto.SHA256)
	if err != nil {
		return nil, err
	}
	return protojson.Marshal(&rekorpb.CreateEntryRequest{Spec: &rekorpb.CreateEntryRequest_HashedRekordRequestV002{HashedRekordRequestV002: &rekorpb.HashedRekordRequestV002{
		Digest: digest[:],
		Signature: &rekorpb.Signature{Content: signature, Verifier: &rekorpb.Verifier{
			Verifier:   &rekorpb.Verifier_X509Certificate{X509Certificate: &commonpb.X509Certificate{RawBytes: certificate}},
			KeyDetails: commonpb.PublicKeyDetails_PKIX_ECDSA_P256_SHA_256,
		}},
	}}})
}

// prepare makes n things, on all cores.
func prepare[T any](n int, one func(i int) (T, error)) ([]T, error) {
	all := make([]T, n)
	var next atomic.Int64
	var group errgroup.Group
	for range runtime.NumCPU() {
		group.Go(func() (err error) {
			for i := next.Add(1) - 1; i < int64(n) && err == nil; i = next.Add(1) - 1 {
				all[i], err = one(int(i))
			}
			return err
		})
	}
	return all, group.Wait()
}

// What the private log of a benchmark is called.
const (
	logV1Host   = "rekor.bench.test"
	logV1TreeID = 3141592653589793238
	logV2Origin = "log.bench.test"
)

// privateLog is an installation of understudy with a private log and nothing else.
type privateLog struct {
	v1, v2, admin string // URLs without a path
	trustedRoot   string // file
	*child
}

// privateLog makes a log in an empty folder, as the documentation says, and runs it.
func (b *bench) privateLog(ctx context.Context) (l *privateLog, end func(), err error) {
	dir := filepath.Join(b.dir, "private-log")
	if err := os.RemoveAll(dir); err != nil {
		return nil, nil, err
	}
	if err := os.MkdirAll(filepath.Join(dir, "keys"), 0o700); err != nil {
		return nil, nil, err
	}
	addrs, err := process.FreeAddrs(5)
	if err != nil {
		return nil, nil, err
	}
	config := filepath.Join(dir, "understudy.yaml")
	text := fmt.Sprintf(`data_dir: ./data
listen: {http: %s, grpc: %s, admin: %s, log_v1: %s, log_v2: %s}
log:
  passphrase_file: keys/passphrase
  v1: {host: %s, tree_id: %d, key: keys/log-v1.key}
  v2: {origin: %s, key: keys/log-v2.key, mldsa_key: keys/log-v2-mldsa.key}
  proposals: {key: keys/proposals.key}
  access: {without_authentication: on loopback only}
`, addrs[0], addrs[1], addrs[2], addrs[3], addrs[4], logV1Host, logV1TreeID, logV2Origin)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		return nil, nil, err
	}
	if err := os.WriteFile(filepath.Join(dir, "keys", "passphrase"), []byte("a horse\n"), 0o600); err != nil {
		return nil, nil, err
	}
	for _, args := range [][]string{
		{"log", "init", "keys", "--passphrase-file", "keys/passphrase", "--v1-host", logV1Host, "--v2-origin", logV2Origin},
		{"log", "create"},
		{"log", "material", "material"},
	} {
		cmd := exec.CommandContext(ctx, b.tools.understudy, append(args, "--config", config)...)
		cmd.Dir = dir
		if out, err := cmd.CombinedOutput(); err != nil {
			return nil, nil, fmt.Errorf("understudy %v: %w\n%s", args, err, out)
		}
	}
	l = &privateLog{v1: "http://" + addrs[3], v2: "http://" + addrs[4], admin: "http://" + addrs[2], trustedRoot: filepath.Join(dir, "material", "trusted_root.json")}
	if l.child, err = b.start(b.tools.understudy, "serve", "--config", config); err != nil {
		return nil, nil, err
	}
	if err := process.Until(ctx, func(context.Context) error {
		answer, err := http.Get(l.admin + "/healthz")
		if err != nil {
			return err
		}
		answer.Body.Close()
		if answer.StatusCode != http.StatusOK {
			return fmt.Errorf("healthz: %s", answer.Status)
		}
		return nil
	}); err != nil {
		l.end(syscall.SIGKILL)
		return nil, nil, fmt.Errorf("%w\n%s", err, l.tail())
	}
	return l, func() { l.end(syscall.SIGTERM) }, nil
}
