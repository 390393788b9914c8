package synthetic_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	f_log "github.com/transparency-dev/formats/log"
	f_note "github.com/transparency-dev/formats/note"
	"github.com/transparency-dev/merkle/rfc6962"
	"github.com/transparency-dev/tessera/api"
	"github.com/transparency-dev/tessera/client"
	"github.com/transparency-dev/tessera/fsck"

	"github.com/understudy-log/understudy/test/bubble"
	"github.com/understudy-log/understudy/test/synthetic"
)

const origin = "log.example/synthetic"

func tiny(size uint64) *synthetic.Log {
	l := synthetic.New(synthetic.Options{Origin: origin, Entries: synthetic.Tiny(1)})
	l.Grow(size)
	return l
}

// mth is RFC 6962's definition of a tree's root.
func mth(leaves [][]byte) [32]byte {
	switch n := len(leaves); n {
	case 0:
		return sha256.Sum256(nil)
	case 1:
		return sha256.Sum256(append([]byte{0}, leaves[0]...))
	default:
		k := 1
		for k*2 < n {
			k *= 2
		}
		l, r := mth(leaves[:k]), mth(leaves[k:])
		return sha256.Sum256(append(append([]byte{1}, l[:]...), r[:]...))
	}
}

func TestRootAtEverySize(t *testing.T) {
	l := synthetic.New(synthetic.Options{Origin: origin, Entries: synthetic.Tiny(1)})
	var leaves [][]byte
	for size := range uint64(600) {
		l.Grow(size)
		if got, want := l.Root(size), mth(leaves); got != want {
			t.Fatalf("root of size %d is %x, want %x", size, got, want)
		}
		leaves = append(leaves, l.Entries(size))
	}
	if got, want := l.Root(300), mth(leaves[:300]); got != want {
		t.Errorf("root of the first 300 is %x, want %x", got, want)
	}
}

// check runs Tessera's fsck against a log.
func check(t *testing.T, l *synthetic.Log, httpClient *http.Client) error {
	t.Helper()
	base, _ := url.Parse("http://upstream.example/")
	src, err := client.NewHTTPFetcher(base, httpClient)
	if err != nil {
		t.Fatal(err)
	}
	return fsckOf(t, l, src)
}

func fsckOf(t *testing.T, l *synthetic.Log, src fsck.Fetcher) error {
	t.Helper()
	v, err := f_note.NewVerifier(l.Key.Verifier())
	if err != nil {
		t.Fatal(err)
	}
	return fsck.New(l.Origin, v, src, leafHashes, fsck.Opts{N: 4}).Check(t.Context())
}

func leafHashes(bundle []byte) (hashes [][]byte, err error) {
	var b api.EntryBundle
	if err := b.UnmarshalText(bundle); err != nil {
		return nil, err
	}
	for _, e := range b.Entries {
		hashes = append(hashes, rfc6962.DefaultHasher.HashLeaf(e))
	}
	return hashes, nil
}

func TestTesseraFsckAcceptsTheLog(t *testing.T) {
	for name, o := range map[string]synthetic.Options{
		"ed25519":      {},
		"ecdsa":        {Key: synthetic.ECDSA(origin, 0)},
		"gzip":         {Gzip: true},
		"hashedrekord": {Entries: synthetic.HashedRekord(0)},
	} {
		t.Run(name, func(t *testing.T) {
			o.Origin = origin
			if o.Entries == nil {
				o.Entries = synthetic.Tiny(1)
			}
			l := synthetic.New(o)
			httpClient, stop := synthetic.InMemory(l)
			defer stop()
			for _, size := range []uint64{1, 255, 256, 257, 1000} {
				l.Grow(size)
				if err := check(t, l, httpClient); err != nil {
					t.Errorf("size %d: %v", size, err)
				}
			}
		})
	}
}

func TestTesseraFsckAcceptsTheFiles(t *testing.T) {
	l := tiny(70_000)
	dir := t.TempDir()
	entryBytes, err := l.WriteFiles(dir)
	if err != nil {
		t.Fatal(err)
	}
	want := 0
	for i := range l.Size() {
		want += len(l.Entries(i))
	}
	if entryBytes != uint64(want) {
		t.Errorf("entries are said to be %d bytes, want %d", entryBytes, want)
	}
	if err := fsckOf(t, l, client.FileFetcher{Root: dir}); err != nil {
		t.Error(err)
	}
	// SPEC: tlog-tiles, Partial Tiles: "273 full level 0 tiles, one partial level 0 tile
	// of width 112, one full level 1 tile, one partial level 1 tile of width 17, and one
	// partial level 2 tile of width 1". Tessera's fetcher would take full ones instead.
	for name, hashes := range map[string]int64{"tile/0/272": 256, "tile/0/273.p/112": 112, "tile/1/000": 256, "tile/1/001.p/17": 17, "tile/2/000.p/1": 1} {
		if info, err := os.Stat(filepath.Join(dir, name)); err != nil || info.Size() != 32*hashes {
			t.Errorf("%s: %v, %v; want %d hashes", name, info, err, hashes)
		}
	}
}

// A client that follows the log accepts its growth, and calls a fork by its name.
func TestTesseraTrackerFollowsAndSeesTheFork(t *testing.T) {
	l := tiny(300)
	httpClient, stop := synthetic.InMemory(l)
	defer stop()
	base, _ := url.Parse("http://upstream.example/")
	src, err := client.NewHTTPFetcher(base, httpClient)
	if err != nil {
		t.Fatal(err)
	}
	v, err := f_note.NewVerifier(l.Key.Verifier())
	if err != nil {
		t.Fatal(err)
	}
	tracker, err := client.NewLogStateTracker(t.Context(), src.ReadTile, nil, v, origin, client.UnilateralConsensus(src.ReadCheckpoint))
	if err != nil {
		t.Fatal(err)
	}
	l.Grow(700)
	if _, _, raw, err := tracker.Update(t.Context()); err != nil || !bytes.Equal(raw, l.Checkpoint(700)) {
		t.Fatalf("update to 700: %v, got %q", err, raw)
	}
	fork := l.Fork(500, synthetic.Tiny(2))
	fork.Grow(900)
	l.Misbehave(synthetic.Equivocate(fork))
	var inconsistent client.ErrInconsistency
	if _, _, _, err := tracker.Update(t.Context()); !errors.As(err, &inconsistent) {
		t.Fatalf("update to a fork: %v, want an inconsistency", err)
	}
	if fork.Root(500) != l.Root(500) || fork.Root(501) == l.Root(501) {
		t.Error("the fork does not part at 500")
	}
	if err := check(t, l, httpClient); err != nil {
		t.Errorf("the fork itself is not a good log: %v", err)
	}
}

func get(t *testing.T, c *http.Client, path string) (*http.Response, []byte, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://upstream.example/"+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	r, err := c.Do(req)
	if err != nil {
		return nil, nil, err
	}
	defer r.Body.Close()
	body, err := io.ReadAll(io.LimitReader(r.Body, 1<<20))
	return r, body, err
}

func TestPaths(t *testing.T) {
	l := tiny(300)
	l.Grow(700)
	l.Prune = true
	c, stop := synthetic.InMemory(l)
	defer stop()
	for path, want := range map[string]int{
		"checkpoint":             200,
		"tile/0/000":             200,
		"tile/0/001.p/44":        404, // pruned
		"tile/0/002.p/188":       200,
		"tile/0/002.p/187":       404, // never published
		"tile/0/002.p/189":       404,
		"tile/0/002":             404,
		"tile/1/000.p/1":         200, // 300>>8: the next one up is not full
		"tile/1/000.p/2":         200,
		"tile/entries/001":       200,
		"tile/entries/002.p/188": 200,
		"tile/entries/003":       404,
		"tile/00/000":            404,
		"tile/0/0":               404,
		"tile/0/002.p/0188":      404,
		"tile/0/000.p/256":       404,
		"":                       404,
	} {
		r, _, err := get(t, c, path)
		if err != nil || r.StatusCode != want {
			t.Errorf("%q: %v %v, want %d", path, r, err, want)
		}
	}
	if got := len(l.Requests(synthetic.Bundle)); got != 3 {
		t.Errorf("%d requests for bundles were counted, want 3", got)
	}
	if !slices.ContainsFunc(l.Requests(synthetic.Tile), func(q synthetic.Request) bool {
		return q.Level == 1 && q.Index == 0 && q.Width == 2 && strings.HasPrefix(q.UserAgent, "Go-http-client")
	}) {
		t.Errorf("tile 1/000.p/2 is not among %v", l.Requests(synthetic.Tile))
	}
}

// Each fault breaks what it says that it breaks, and goes away when it is taken back.
func TestFaults(t *testing.T) {
	l := tiny(600)
	honest := func(path string) []byte {
		c, stop := synthetic.InMemory(l)
		defer stop()
		_, b, err := get(t, c, path)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	const cp, bundle, tile = "checkpoint", "tile/entries/001", "tile/0/001"
	good := map[string][]byte{cp: honest(cp), bundle: honest(bundle), tile: honest(tile)}
	v, err := f_note.NewVerifier(l.Key.Verifier())
	if err != nil {
		t.Fatal(err)
	}
	unsigned := func(_ *http.Response, b []byte, _ error) bool {
		_, _, _, err := f_log.ParseCheckpoint(b, origin, v)
		return err != nil
	}
	lies := func(_ *http.Response, b []byte, _ error) bool {
		c, _, _, err := f_log.ParseCheckpoint(b, origin, v)
		return err == nil && (c.Size != 600 || [32]byte(c.Hash) != l.Root(600))
	}
	isStatus := func(status int) func(*http.Response, []byte, error) bool {
		return func(r *http.Response, _ []byte, err error) bool { return err == nil && r.StatusCode == status }
	}
	fails := func(_ *http.Response, _ []byte, err error) bool { return err != nil }
	for _, f := range []struct {
		name, path string
		fault      synthetic.Fault
		broken     func(*http.Response, []byte, error) bool
	}{
		{"rollback", cp, l.Rollback(300), func(_ *http.Response, b []byte, err error) bool { return bytes.Equal(b, l.Checkpoint(300)) }},
		{"wrong signature", cp, l.WrongSignature(), unsigned},
		{"changed key", cp, l.ChangedKey(synthetic.Ed25519(origin, 9)), unsigned},
		{"wrong origin", cp, l.WrongOrigin("log.example/other"), unsigned},
		{"wrong size", cp, l.WrongSize(3), lies},
		{"wrong root", cp, l.WrongRoot(0), lies},
		{"corrupt bundle", bundle, synthetic.CorruptBundle(1), func(_ *http.Response, b []byte, _ error) bool {
			return len(b) == len(good[bundle]) && !bytes.Equal(b, good[bundle])
		}},
		{"garbage tile", tile, synthetic.GarbageTile(0), func(_ *http.Response, b []byte, _ error) bool { return len(b) == 8192 && !bytes.Equal(b, good[tile]) }},
		{"truncate", bundle, synthetic.Truncate(), func(_ *http.Response, b []byte, err error) bool {
			return err == nil && len(b) == len(good[bundle])/2
		}},
		{"cut off", bundle, synthetic.CutOff(), fails},
		{"reset", bundle, synthetic.Reset(), fails},
		{"oversize", tile, synthetic.Oversize(9000), func(_ *http.Response, b []byte, err error) bool { return err == nil && len(b) == 9000 }},
		{"endless", bundle, synthetic.Endless(), func(_ *http.Response, b []byte, err error) bool { return len(b) == 1<<20 }},
		{"bomb", bundle, synthetic.Bomb(), func(_ *http.Response, b []byte, err error) bool { return len(b) == 1<<20 }},
		{"drip", bundle, synthetic.Drip(time.Second), fails},
		{"hang", cp, synthetic.Hang(), fails},
		{"500", cp, synthetic.Status(500), isStatus(500)},
		{"throttle", tile, synthetic.Throttle(40 * time.Second), func(r *http.Response, _ []byte, _ error) bool {
			return r.StatusCode == 429 && r.Header.Get("Retry-After") == "40"
		}},
		{"404", cp, synthetic.Status(404), isStatus(404)},
		{"redirect loop", cp, synthetic.RedirectLoop(), fails},
		{"wrong encoding", bundle, synthetic.WrongEncoding(), fails},
	} {
		t.Run(f.name, func(t *testing.T) {
			bubble.Run(t, func(t *testing.T) {
				c, stop := synthetic.InMemory(l)
				defer stop()
				l.Misbehave(f.fault)
				if r, b, err := get(t, c, f.path); !f.broken(r, b, err) {
					t.Errorf("the fault does not show: %v, %d bytes, error %v", r, len(b), err)
				}
				l.Misbehave()
				if _, b, err := get(t, c, f.path); err != nil || !bytes.Equal(b, good[f.path]) {
					t.Errorf("the fault stays: %d bytes, error %v", len(b), err)
				}
			})
		})
	}
	l.Forget()
	if l.Written() != 0 || len(l.Requests(synthetic.Checkpoint|synthetic.Tile|synthetic.Bundle|synthetic.Other)) != 0 {
		t.Error("counts are kept")
	}
}
