package e2elog

import (
	"bytes"
	"encoding/json"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/sigstore/sigstore-go/pkg/root"
	"github.com/sigstore/sigstore/pkg/cryptoutils"

	"github.com/understudy-log/understudy/mirror/trust"
)

// stage is a running log as its users know it: where it takes entries, and what its operator hands
// out. A generation that it has not is empty.
type stage struct {
	v1, v2  string // URLs for clients; the names in them are known to the proxy
	v2Reads string // prefix of checkpoint and tile/...
	v2GRPC  string // address

	trustedRoot, signingConfig string // files, with these logs and nothing else

	kill    func()       // with SIGKILL, as often as wanted
	restart func() error // where it was left; nil: it cannot
}

// newStage returns a log of both generations that nobody has written to, or, with the real
// servers, the one that there is.
func newStage(t *testing.T) *stage {
	skipUnlessAsked(t)
	if asked == realServers {
		return servers
	}
	return newUnderstudy(t, settings{}).stage()
}

// origin returns the name of the v2 log.
func (s *stage) origin() string { return must(url.Parse(s.v2)).Hostname() }

// ofVersion returns a copy of the log's SigningConfig with one generation alone. A client that
// finds two of one operator never uses the older.
func (s *stage) ofVersion(t *testing.T, version int) string {
	t.Helper()
	var config object
	if err := json.Unmarshal(must(os.ReadFile(s.signingConfig)), &config); err != nil {
		t.Fatal(err)
	}
	logs := slices.DeleteFunc(config["rekorTlogUrls"].([]any), func(log any) bool {
		return log.(map[string]any)["majorApiVersion"] != float64(version)
	})
	if len(logs) != 1 {
		t.Fatalf("the SigningConfig has %d logs of version %d, want 1: %v", len(logs), version, config)
	}
	config["rekorTlogUrls"] = logs
	return save(t, filepath.Join(t.TempDir(), "signing_config.json"), marshal(config))
}

// log returns what the log's TrustedRoot says about a generation.
func (s *stage) log(t *testing.T, version int) *root.TransparencyLog {
	t.Helper()
	trusted, err := root.NewTrustedRootFromPath(s.trustedRoot)
	if err != nil {
		t.Fatal(err)
	}
	at := map[int]string{1: s.v1, 2: s.v2}[version]
	for _, log := range trusted.RekorLogs() {
		if must(url.Parse(log.BaseURL)).Hostname() == must(url.Parse(at)).Hostname() {
			return log
		}
	}
	t.Fatalf("no log at %s in %s", at, s.trustedRoot)
	return nil
}

// keyFile returns a file with the public key of a generation.
func (s *stage) keyFile(t *testing.T, version int) string {
	t.Helper()
	return save(t, filepath.Join(t.TempDir(), "log.pem"), must(cryptoutils.MarshalPublicKeyToPEM(s.log(t, version).PublicKey)))
}

// material is what signers and verifiers are given.
type material struct{ signingConfig, trustedRoot string }

// public returns what everybody has without us: the certificate authority, the time-stamp authority
// unless it is left out, and public logs of one operator.
func public(t *testing.T, stamped bool, logs ...*stage) material {
	t.Helper()
	start := ca.Authority.Start.UTC().Format(time.RFC3339)
	service := func(url string, version int, operator string) object {
		return object{"url": url, "majorApiVersion": version, "operator": operator, "validFor": object{"start": start}}
	}
	config := object{
		"mediaType":       root.SigningConfigMediaType02,
		"caUrls":          []object{service(ca.URL, 1, "public.test")},
		"rekorTlogConfig": object{"selector": "ANY"},
		"tsaConfig":       object{"selector": "ANY"},
	}
	parts := [][]byte{must(publicRoot(stamped).MarshalJSON())}
	if stamped {
		config["tsaUrls"] = []object{service(stamps.URL, 1, "public.test")}
	}
	tlogs := []object{}
	for _, s := range logs {
		if s.v1 != "" {
			tlogs = append(tlogs, service(s.v1, 1, "public.test"))
		}
		if s.v2 != "" {
			tlogs = append(tlogs, service(s.v2, 2, "public.test"))
		}
		parts = append(parts, must(os.ReadFile(s.trustedRoot)))
	}
	if len(tlogs) == 0 { // one that does not answer
		tlogs = append(tlogs, service("http://rekor.public.test", 1, "public.test"))
	}
	config["rekorTlogUrls"] = tlogs
	dir := t.TempDir()
	return material{
		signingConfig: save(t, filepath.Join(dir, "signing_config.json"), marshal(config)),
		trustedRoot:   save(t, filepath.Join(dir, "trusted_root.json"), must(trust.CombineRoots(parts[0], parts[1:]...))),
	}
}

func publicRoot(stamped bool) *root.TrustedRoot {
	var tsas []root.TimestampingAuthority
	if chain := must(cryptoutils.LoadCertificatesFromPEM(bytes.NewReader(stamps.Chain))); stamped {
		tsas = append(tsas, &root.SigstoreTimestampingAuthority{
			Leaf: chain[0], Intermediates: chain[1 : len(chain)-1], Root: chain[len(chain)-1],
			ValidityPeriodStart: ca.Authority.Start.Add(-time.Hour), URI: stamps.URL,
		})
	}
	return must(root.NewTrustedRoot(root.TrustedRootMediaType01,
		[]root.CertificateAuthority{&root.FulcioCertificateAuthority{Root: ca.Root, ValidityPeriodStart: ca.Authority.Start, URI: ca.URL}},
		nil, tsas, nil))
}

// export has understudy add a generation of a log of ours: always beside the public one, or as the
// fallback for it.
func (m material) export(t *testing.T, logs string, s *stage, version int) material {
	t.Helper()
	dir := t.TempDir()
	config := save(t, filepath.Join(dir, "understudy.yaml"), []byte("logs: [{name: log, url: 'http://127.0.0.1:1', origin: log.public.test, public_key: none.pem}]\n"))
	out, err := exec.CommandContext(t.Context(), understudy(), "trust", "export", dir, "--config", config,
		"--trusted-root", m.trustedRoot, "--signing-config", m.signingConfig,
		"--logs", logs, "--own-signing-config", s.ofVersion(t, version), "--add-trusted-root", s.trustedRoot).CombinedOutput()
	if err != nil {
		t.Fatalf("export: %v\n%s", err, out)
	}
	return material{signingConfig: filepath.Join(dir, "signing_config.json"), trustedRoot: filepath.Join(dir, "trusted_root.json")}
}
