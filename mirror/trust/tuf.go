package trust

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/sigstore/sigstore-go/pkg/tuf"
	"github.com/theupdateframework/go-tuf/v2/metadata"
	"github.com/theupdateframework/go-tuf/v2/metadata/fetcher"
)

const (
	// RootTarget is the target with Sigstore's TrustedRoot.
	RootTarget = "trusted_root.json"

	userAgent = "understudy (+https://github.com/understudy-log/understudy)"
)

// FetchRoot returns the TrustedRoot of the public Sigstore, from its TUF
// repository, with the root of trust that sigstore-go carries. It asks the
// repository and keeps what it answers in cacheDir; when the repository does not
// answer, the cache does, until its metadata expires (about a week for Sigstore).
// One request takes at most 30 seconds; when ctx ends no more is asked, so with a
// ctx that has ended only the cache answers.
func FetchRoot(ctx context.Context, cacheDir string) (*Root, error) {
	return repository{tuf.DefaultMirror, tuf.DefaultRoot()}.fetch(ctx, cacheDir)
}

// FetchRootFrom returns the TrustedRoot of a TUF repository, such as the copy that a daemon
// serves, beginning with one of its root.json. Nothing is kept.
func FetchRootFrom(ctx context.Context, url string, root []byte) (*Root, error) {
	json, err := getTarget(tuf.Options{Root: root, RepositoryBaseURL: url, Fetcher: newFetcher(ctx), DisableLocalCache: true})
	if err != nil {
		return nil, fmt.Errorf("fetch trusted root from %s: %w", url, err)
	}
	return ParseRoot(json)
}

// repository is a TUF repository and the root of trust for it.
type repository struct {
	url  string
	root []byte // root.json
}

func (r repository) fetch(ctx context.Context, cacheDir string) (*Root, error) {
	options := tuf.Options{
		Root:              r.anchor(cacheDir),
		CachePath:         cacheDir,
		RepositoryBaseURL: r.url,
		Fetcher:           newFetcher(ctx),
	}
	json, err := getTarget(options)
	if err != nil {
		cached := options
		cached.ForceCache = true // go-tuf still checks signatures and expiry
		cached.Fetcher = offline{}
		var cacheErr error
		if json, cacheErr = getTarget(cached); cacheErr != nil {
			return nil, fmt.Errorf("fetch trusted root from %s: %w (and from the cache in %s: %w); give a trusted root file or the key of the log instead", r.url, err, cacheDir, cacheErr)
		}
	}
	return ParseRoot(json)
}

// anchor is the newest root of trust: the built-in one, or a later one that an
// earlier fetch verified and kept. go-tuf begins at what it is given and writes it
// over the one kept, so offline it would be stuck with the built-in root, which
// expires about half a year after a release.
func (r repository) anchor(cacheDir string) []byte {
	kept, err := os.ReadFile(filepath.Join(cacheDir, tuf.URLToPath(r.url), metadata.ROOT+".json"))
	if err != nil {
		return r.root
	}
	keptRoot, err := metadata.Root().FromBytes(kept)
	if err != nil {
		return r.root
	}
	builtIn, err := metadata.Root().FromBytes(r.root)
	if err != nil || builtIn.Signed.Version >= keptRoot.Signed.Version {
		return r.root
	}
	return kept
}

func getTarget(o tuf.Options) ([]byte, error) {
	client, err := tuf.New(&o)
	if err != nil {
		return nil, err
	}
	return client.GetTarget(RootTarget)
}

// newFetcher is go-tuf's fetcher, bound to ctx.
func newFetcher(ctx context.Context) fetcher.Fetcher {
	client := &http.Client{Timeout: 30 * time.Second}
	f := fetcher.NewDefaultFetcher()
	f.SetHTTPUserAgent(userAgent)
	f.SetHTTPClient(doFunc(func(req *http.Request) (*http.Response, error) {
		return client.Do(req.WithContext(ctx))
	}))
	return f
}

type doFunc func(*http.Request) (*http.Response, error)

func (f doFunc) Do(req *http.Request) (*http.Response, error) { return f(req) }

// offline is a fetcher that reaches nothing. go-tuf asks it once what is cached is
// missing, expired or not signed.
type offline struct{}

func (offline) DownloadFile(string, int64, time.Duration) ([]byte, error) {
	return nil, errors.New("nothing valid is there")
}
