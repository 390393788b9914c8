package e2elog

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"encoding/pem"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sigstore/sigstore-go/pkg/root"

	"github.com/understudy-log/understudy/mirror/trust"
	"github.com/understudy-log/understudy/test/rekor"
	"github.com/understudy-log/understudy/test/rekorv1"
	"github.com/understudy-log/understudy/test/tools/tool"
)

// servers are the real ones, if tests are to run against those: they take too long to start to
// have them for each test.
var servers *stage

// startServers starts the real servers of both generations as if they were one log of ours.
func startServers(dir string) (closeServers func(), err error) {
	ctx := context.Background()
	nothing := func() {}
	var v1 *rekorv1.Log
	host := names.name("v1", nowhere) // before the log, which is known by it
	older := filepath.Join(dir, "v1")
	if err := os.Mkdir(older, 0o700); err != nil {
		return nothing, err
	}
	if v1, err = rekorv1.Start(ctx, rekorv1.Config{Dir: older, Hostname: host}); err != nil {
		return nothing, err
	}
	names.lead(host, strings.TrimPrefix(v1.URL, "http://"))
	newer := filepath.Join(dir, "v2")
	if err := os.Mkdir(newer, 0o700); err != nil {
		return v1.Close, err
	}
	v2, err := startTiles(ctx, newer, nil)
	if err != nil {
		return v1.Close, err
	}
	closeServers = func() { v1.Close(); v2.log.Close() }
	servers = &stage{
		v1: "http://" + host, v2: v2.v2, v2Reads: v2.v2Reads, v2GRPC: v2.v2GRPC,
		trustedRoot:   filepath.Join(dir, "trusted_root.json"),
		signingConfig: filepath.Join(dir, "signing_config.json"),
		kill:          func() { v1.Kill(); v2.kill() },
		restart: func() error {
			if err := v1.Restart(ctx); err != nil {
				return err
			}
			err := v2.restart()
			servers.v2GRPC = v2.v2GRPC
			return err
		},
	}
	// Not the key of the next shard, too: it is no log yet.
	block, _ := pem.Decode(must(os.ReadFile(v1.Shards[0].PublicKeyFile)))
	id := sha256.Sum256(block.Bytes)
	logs, err := trust.CombineRoots(logsOf(v1.TrustedRootFile, id[:]), must(os.ReadFile(v2.trustedRoot)))
	if err == nil {
		err = os.WriteFile(servers.trustedRoot, logs, 0o600)
	}
	if err == nil {
		err = os.WriteFile(servers.signingConfig, signingConfigOf(servers), 0o600)
	}
	return closeServers, err
}

// tiles is a real Rekor v2 log with the process.
type tiles struct {
	*stage
	log *rekor.Log
}

// newTiles starts a real Rekor v2 log for a test: the public one.
func newTiles(t *testing.T) *stage {
	t.Helper()
	return newTilesWitnessed(t, nil)
}

// newTilesWitnessed starts one with witnesses, if a policy is given.
func newTilesWitnessed(t *testing.T, policy func(origin, vkey string) string) *stage {
	t.Helper()
	s, err := startTiles(t.Context(), t.TempDir(), policy)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.log.Close)
	return s.stage
}

func startTiles(ctx context.Context, dir string, policy func(origin, vkey string) string) (*tiles, error) {
	host := names.name("v2", nowhere)
	config := rekor.Config{Binary: must(tool.Path(ctx, "rekor-tiles")), Dir: dir, Origin: host}
	if policy != nil {
		config.WitnessPolicy = func(vkey string) string { return policy(host, vkey) }
	}
	log, err := rekor.Start(ctx, config)
	if err != nil {
		return nil, err
	}
	s := &stage{
		v2: "http://" + host, v2Reads: log.ReadURL, v2GRPC: log.GRPCAddr(),
		trustedRoot:   filepath.Join(dir, "logs.json"),
		signingConfig: filepath.Join(dir, "signing_config.json"),
		kill:          log.Kill,
	}
	lead := func() { names.lead(host, strings.TrimPrefix(log.WriteURL(), "http://")) }
	s.restart = func() error {
		err := log.Restart(context.Background())
		s.v2GRPC = log.GRPCAddr()
		lead()
		return err
	}
	lead()
	err = os.WriteFile(s.trustedRoot, logsOf(log.TrustedRootFile, nil), 0o600)
	if err == nil {
		err = os.WriteFile(s.signingConfig, signingConfigOf(s), 0o600)
	}
	return &tiles{stage: s, log: log}, err
}

// logsOf returns a TrustedRoot without any authorities, and, if an ID is given, with that log alone.
func logsOf(trustedRoot string, id []byte) []byte {
	var parts struct {
		MediaType string
		Tlogs     []struct{ LogID struct{ KeyID []byte } }
	}
	var whole struct{ Tlogs []any }
	data := must(os.ReadFile(trustedRoot))
	if err := errors.Join(json.Unmarshal(data, &parts), json.Unmarshal(data, &whole)); err != nil {
		panic(err)
	}
	var logs []any
	for i, log := range parts.Tlogs {
		if id == nil || bytes.Equal(log.LogID.KeyID, id) {
			logs = append(logs, whole.Tlogs[i])
		}
	}
	return marshal(object{"mediaType": parts.MediaType, "tlogs": logs})
}

// signingConfigOf is what an operator of real servers would write.
func signingConfigOf(s *stage) []byte {
	var logs []object
	for version, at := range map[int]string{1: s.v1, 2: s.v2} {
		if at != "" {
			logs = append(logs, object{"url": at, "majorApiVersion": version, "operator": "us.test",
				"validFor": object{"start": ca.Authority.Start.UTC().Format(time.RFC3339)}})
		}
	}
	return marshal(object{"mediaType": root.SigningConfigMediaType02, "rekorTlogUrls": logs, "rekorTlogConfig": object{"selector": "ANY"}})
}
