package outagestage

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/sigstore/sigstore-go/pkg/root"
	"golang.org/x/sync/errgroup"

	"github.com/understudy-log/understudy/mirror/trust"
	"github.com/understudy-log/understudy/test/authority"
	"github.com/understudy-log/understudy/test/rekor"
	"github.com/understudy-log/understudy/test/rekorv1"
	"github.com/understudy-log/understudy/test/tufrepo"
)

// Upstream is what is public: both Rekors, the TUF repository, and a time-stamping authority. The
// authority is of somebody else, and never away.
type Upstream struct {
	Rekor1 *rekorv1.Log
	Rekor2 *rekor.Log
	TUF    *tufrepo.Repo
	TSA    string // URL

	Authority *authority.Authority // certifies signers, and stamps

	TrustedRootFile   string // of Sigstore, as the TUF repository has it
	SigningConfigFile string // which lists the public logs
	TUFRootFile       string // of the TUF repository, to begin with

	stamps  *httptest.Server
	harness *harness
}

func newUpstream(ctx context.Context, dir string) (*Upstream, error) {
	tiles, files, err := binaries(ctx)
	if err != nil {
		return nil, err
	}
	older, err1 := folder(dir, "rekor1")
	newer, err2 := folder(dir, "rekor2")
	if err := errors.Join(err1, err2); err != nil {
		return nil, err
	}
	u := &Upstream{
		TrustedRootFile:   filepath.Join(dir, "trusted_root.json"),
		SigningConfigFile: filepath.Join(dir, "signing_config.json"),
		TUFRootFile:       filepath.Join(dir, "tuf-root.json"),
		harness:           new(harness),
	}
	group, groupCtx := errgroup.WithContext(ctx)
	group.Go(func() (err error) {
		u.Rekor1, err = rekorv1.Start(groupCtx, rekorv1.Config{Dir: older, Hostname: HostV1})
		return err
	})
	group.Go(func() (err error) {
		u.Rekor2, err = rekor.Start(groupCtx, rekor.Config{Binary: tiles, Dir: newer, Origin: OriginV2, FileServer: files})
		return err
	})
	if err := group.Wait(); err != nil {
		u.close()
		return nil, err
	}
	u.Authority = u.Rekor1.Authority
	u.stamps = httptest.NewServer(http.HandlerFunc(u.stamp))
	u.TSA = u.stamps.URL + "/api/v1/timestamp"
	if err := u.publish(); err != nil {
		u.close()
		return nil, err
	}
	return u, nil
}

// publish writes the trust material and makes the TUF repository that distributes it.
func (u *Upstream) publish() error {
	older, err1 := os.ReadFile(u.Rekor1.TrustedRootFile)
	newer, err2 := os.ReadFile(u.Rekor2.TrustedRootFile)
	if err := errors.Join(err1, err2); err != nil {
		return err
	}
	trusted, err := trust.CombineRoots(older, newer)
	if err != nil {
		return err
	}
	signing, err := json.MarshalIndent(u.signingConfig(), "", "  ")
	if err != nil {
		return err
	}
	return u.harness.run(func() error {
		u.TUF = tufrepo.New(u.harness, trusted)
		return errors.Join(
			os.WriteFile(u.TrustedRootFile, trusted, 0o600),
			os.WriteFile(u.SigningConfigFile, signing, 0o600),
			os.WriteFile(u.TUFRootFile, u.TUF.Files()["1.root.json"], 0o600))
	})
}

type object map[string]any

// signingConfig is what Sigstore's operators would tell signers.
func (u *Upstream) signingConfig() object {
	service := func(url string, version int) object {
		return object{"url": url, "majorApiVersion": version, "operator": "public.test",
			"validFor": object{"start": u.Authority.Start.UTC().Format(time.RFC3339)}}
	}
	return object{
		"mediaType":       root.SigningConfigMediaType02,
		"caUrls":          []object{service("https://fulcio.public.test", 1)},
		"rekorTlogUrls":   []object{service(u.Rekor1.URL, 1), service(u.Rekor2.WriteURL(), 2)},
		"rekorTlogConfig": object{"selector": "ANY"},
		"tsaUrls":         []object{service(u.TSA, 1)},
		"tsaConfig":       object{"selector": "ANY"},
	}
}

// stamp answers as a time-stamping authority.
func (u *Upstream) stamp(w http.ResponseWriter, r *http.Request) {
	query, err := io.ReadAll(r.Body)
	if err == nil {
		query, err = u.Authority.Answer(query)
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	w.Header().Set("Content-Type", "application/timestamp-reply")
	w.WriteHeader(http.StatusCreated)
	w.Write(query)
}

// CopyRekor2 copies, to a folder of its own, what Rekor v2 has published so far, for which it is killed
// for a moment, and returns the folder and how many entries are in it.
func (u *Upstream) CopyRekor2(ctx context.Context, dir string) (size uint64, err error) {
	u.Rekor2.Kill()
	if err := os.CopyFS(dir, os.DirFS(u.Rekor2.StorageDir())); err != nil {
		return 0, err
	}
	if err := u.Rekor2.Restart(ctx); err != nil {
		return 0, err
	}
	checkpoint, err := os.ReadFile(filepath.Join(dir, "checkpoint"))
	if err != nil {
		return 0, err
	}
	return sizeOf(checkpoint)
}

// TwinOfRekor2 is another instance of Rekor v2, with the same name and keys, that goes on from a folder with
// what was published before.
func (u *Upstream) TwinOfRekor2(ctx context.Context, dir, storage string) (*rekor.Log, error) {
	tiles, files, err := binaries(ctx)
	if err != nil {
		return nil, err
	}
	return rekor.Start(ctx, rekor.Config{Binary: tiles, FileServer: files, Dir: dir, Twin: u.Rekor2, Storage: storage})
}

// Stop halts both logs with SIGSTOP.
func (u *Upstream) Stop() error { return errors.Join(u.Rekor1.Stop(), u.Rekor2.Stop()) }

// Continue ends what Stop did.
func (u *Upstream) Continue() error { return errors.Join(u.Rekor1.Continue(), u.Rekor2.Continue()) }

// KillLogs takes both logs and the TUF repository away at once.
func (u *Upstream) KillLogs() {
	u.Rekor1.Kill()
	u.Rekor2.Kill()
	u.TUF.Down(true)
}

// RestartLogs starts on their data what KillLogs has killed, both at a time. It returns when they answer.
func (u *Upstream) RestartLogs(ctx context.Context) error {
	u.TUF.Down(false)
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return u.Rekor1.Restart(ctx) })
	group.Go(func() error { return u.Rekor2.Restart(ctx) })
	return group.Wait()
}

func (u *Upstream) close() {
	if u.Rekor1 != nil {
		u.Rekor1.Close()
	}
	if u.Rekor2 != nil {
		u.Rekor2.Close()
	}
	if u.stamps != nil {
		u.stamps.Close()
	}
	u.harness.close()
}

// harness lets a program use what was written for tests: what would fail a test is an error here.
type harness struct {
	testing.TB // nil: only what stands below is called
	cleanups   []func()
}

// failure is what Fatal panics with.
type failure struct{ text string }

func (h *harness) Helper()           {}
func (h *harness) Cleanup(f func())  { h.cleanups = append(h.cleanups, f) }
func (h *harness) Fatal(args ...any) { panic(failure{fmt.Sprint(args...)}) }

func (h *harness) run(f func() error) (err error) {
	defer func() {
		switch r := recover().(type) {
		case nil:
		case failure:
			err = errors.New(r.text)
		default:
			panic(r)
		}
	}()
	return f()
}

func (h *harness) close() {
	for _, f := range h.cleanups {
		f()
	}
	h.cleanups = nil
}
