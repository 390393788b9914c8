package e2etrust

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/understudy-log/understudy/test/tufrepo"
)

const signingConfig = "signing_config.v0.2.json"

// pythonClient asks for what sigstore-python asks for, which is not to be had as a Go module. Comments
// name where that is written: sigstore/... are files of sigstore-python v4.5.0, whose uv.lock has
// python-tuf 7.0.0; tuf/... those of python-tuf at commit fee5148abdeb, after its 6.0.0. (7.0.0 has the
// first root always handed in.) What it gets it holds against hashes alone.
type pythonClient struct {
	*testing.T
	url   string            // of a repository, without a slash at the end (sigstore/_internal/tuf.py)
	have  map[string][]byte // its metadata and targets, by their paths in the repository
	asked []string          // paths, of the last update
	heard []string          // answers to them: status, length, hash
}

// get asks for a file, of which the client takes no more than limit bytes, unless it has it.
func (p *pythonClient) get(path string, limit int64) (status int, body []byte) {
	p.Helper()
	if body, ok := p.have[path]; ok {
		return http.StatusOK, body
	}
	req := must(http.NewRequestWithContext(p.Context(), http.MethodGet, p.url+"/"+path, nil))
	// Urllib3Fetcher (tuf/ngclient/urllib3_fetcher.py): this agent, and no conditions. Python's http.client
	// adds that it takes no compression.
	req.Header = http.Header{"User-Agent": {"sigstore-python/4.5.0 python-tuf/7.0.0"}, "Accept-Encoding": {"identity"}}
	answer, err := http.DefaultTransport.RoundTrip(req) // a redirect is an answer
	if err != nil {
		p.Fatal(err)
	}
	defer answer.Body.Close()
	body = must(io.ReadAll(io.LimitReader(answer.Body, limit+1)))
	p.asked = append(p.asked, path)
	if answer.StatusCode != http.StatusOK {
		p.heard = append(p.heard, answer.Status)
		return answer.StatusCode, body
	}
	p.heard = append(p.heard, fmt.Sprintf("%s, length %d: %d bytes, hash %x", answer.Status, answer.ContentLength, len(body), sha256.Sum256(body)))
	// FetcherInterface.download_file (tuf/ngclient/fetcher.py): a longer body is an error.
	if int64(len(body)) > limit {
		p.Fatalf("%s has more than %d bytes", path, limit)
	}
	if path != "timestamp.json" {
		p.have[path] = body
	}
	return answer.StatusCode, body
}

// need asks for a file without which the client gives up.
func (p *pythonClient) need(path string, limit int64) []byte {
	p.Helper()
	status, body := p.get(path, limit)
	if status != http.StatusOK {
		p.Fatalf("%s: status %d: %s", path, status, body)
	}
	return body
}

// update is ClientTrustConfig.from_tuf (sigstore/models.py), given version 1 of the root:
// TrustUpdater (sigstore/_internal/tuf.py) refreshes, and looks up two targets.
func (p *pythonClient) update() {
	p.Helper()
	p.asked, p.heard = nil, nil

	// Updater._load_root (tuf/ngclient/updater.py): at most max_root_rotations of root_max_length
	// (tuf/ngclient/config.py). 403 and 404 end it, another failure is an error.
	for version := int64(2); version < 2+256; version++ {
		status, body := p.get(tufrepo.MetadataFile(version, metadata.ROOT), 512_000)
		if status == http.StatusForbidden || status == http.StatusNotFound {
			break
		}
		if status != http.StatusOK {
			p.Fatalf("root %d: status %d: %s", version, status, body)
		}
	}

	// Updater._load_timestamp: asked for each time, of timestamp_max_length.
	timestamp := must(metadata.Timestamp().FromBytes(p.need("timestamp.json", 16_384)))

	// Updater._load_snapshot, Updater._load_targets: by version, as snapshots are consistent, unless that
	// one is held; of the length in the metadata, or of snapshot_max_length, targets_max_length.
	file := timestamp.Signed.Meta["snapshot.json"]
	snapshot := must(metadata.Snapshot().FromBytes(p.need(tufrepo.MetadataFile(file.Version, metadata.SNAPSHOT), cmp.Or(file.Length, 2_000_000))))
	file = snapshot.Signed.Meta["targets.json"]
	targets := must(metadata.Targets().FromBytes(p.need(tufrepo.MetadataFile(file.Version, metadata.TARGETS), cmp.Or(file.Length, 5_000_000))))

	// TrustUpdater.get_trusted_root_path, get_signing_config_path, Updater.download_target: below targets/,
	// with the first hash before the name, unless find_cached_target has it.
	for _, name := range []string{tufrepo.TrustedRoot, signingConfig} {
		target := targets.Signed.Targets[name]
		body := p.need(fmt.Sprintf("targets/%s.%s", target.Hashes["sha256"], name), target.Length)
		if hash := sha256.Sum256(body); int64(len(body)) != target.Length || !bytes.Equal(hash[:], target.Hashes["sha256"]) {
			p.Errorf("%s has another length or hash", name)
		}
	}
}

// TestRepositoryGonePython: to what sigstore-python asks for, the mirror gives the answers that the
// repository gave before it was gone: to a client with nothing but the first root, to the same once
// more, and when the repository has moved meanwhile.
func TestRepositoryGonePython(t *testing.T) {
	w := newWorld(t)
	trustedRoot := must(os.ReadFile(dataFile(t, "trusted-roots/public-good.json")))
	config := must(os.ReadFile(dataFile(t, "../../../examples/"+signingConfig)))
	path := func(name string, content []byte) string {
		return fmt.Sprintf("targets/%x.%s", sha256.Sum256(content), name)
	}
	publish := func() {
		w.repo.Down(true) // so that nobody sees half of it
		w.repo.Publish(t, trustedRoot, time.Now().Add(24*time.Hour))
		w.repo.Put(path(signingConfig, config), config)
		tufrepo.Edit(t, w.repo, tufrepo.MetadataFile(w.repo.Version, metadata.TARGETS), func(m *metadata.Metadata[metadata.TargetsType]) {
			m.Signed.Targets[signingConfig] = must(metadata.TargetFile().FromBytes(signingConfig, config, "sha256"))
		}, metadata.TARGETS)
		w.repo.Down(false)
		w.status(fmt.Sprintf("timestamp version %d, expires in", w.repo.Version))
	}
	client := func(url string) *pythonClient {
		return &pythonClient{T: t, url: url, have: map[string][]byte{}}
	}
	// compare has a client of the repository and one of the mirror ask for these.
	compare := func(there, here *pythonClient, paths ...string) {
		t.Helper()
		w.repo.Down(false)
		there.update()
		w.repo.Down(true)
		w.status("problem   unreachable")
		here.update()
		if !slices.Equal(there.asked, paths) || !slices.Equal(here.asked, paths) {
			t.Errorf("asked the repository for %q,\nthe mirror for %q, want %q", there.asked, here.asked, paths)
		}
		if !slices.Equal(here.heard, there.heard) {
			t.Errorf("the mirror answered %q,\nthe repository %q", here.heard, there.heard)
		}
	}

	publish()
	there, here := client(w.repo.URL), client(w.url)
	compare(there, here, "2.root.json", "timestamp.json", "2.snapshot.json", "2.targets.json", path(tufrepo.TrustedRoot, trustedRoot), path(signingConfig, config))
	compare(there, here, "2.root.json", "timestamp.json")
	w.repo.Rotate(t, time.Now().Add(100*24*time.Hour))
	w.repo.Rotate(t, time.Now().Add(100*24*time.Hour))
	publish()
	compare(there, here, "2.root.json", "3.root.json", "4.root.json", "timestamp.json", "3.snapshot.json", "3.targets.json")
	compare(there, here, "4.root.json", "timestamp.json")
	compare(client(w.repo.URL), client(w.url), "2.root.json", "3.root.json", "4.root.json", "timestamp.json", "3.snapshot.json", "3.targets.json",
		path(tufrepo.TrustedRoot, trustedRoot), path(signingConfig, config))
}
