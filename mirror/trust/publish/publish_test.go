package publish

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	mrand "math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/sigstore/sigstore-go/pkg/tuf"
	"github.com/sigstore/sigstore/pkg/signature"
	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/understudy-log/understudy/mirror/trust"
	"github.com/understudy-log/understudy/storage"
	"github.com/understudy-log/understudy/test/bubble"
)

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

const someRoot = `{"mediaType": "application/vnd.dev.sigstore.trustedroot+json;version=0.1"}`

// house is a repository of our own: people who sign, the daemon, and clients.
type house struct {
	*testing.T
	*Publisher

	dir       string
	folder    *Folder
	keys      map[string]signature.Signer // by role; that of root is the first
	root2     signature.Signer
	disk      *vfs.MemFS
	db        *storage.DB
	online    map[string]signature.Signer // that the daemon has
	noKeys    bool
	signing   signature.Signer // for the role signing; nil: the daemon knows of none
	noSigning error            // why it cannot be opened
	clientDir string
	want      string
}

func newKey() signature.Signer {
	return must(signature.LoadSigner(must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader)), crypto.SHA256))
}

func public(s signature.Signer) crypto.PublicKey { return must(s.PublicKey()) }

// day is one of those of which a timestamp lives seven: short, because in a bubble each tick of Pebble's timers costs.
const day = 5 * time.Minute

// inHouse runs a test in a bubble, with a repository that is signed and published; two of two root
// keys sign roots.
func inHouse(t *testing.T, test func(*house)) {
	t.Helper()
	bubble.Run(t, func(t *testing.T) {
		h := &house{T: t, dir: filepath.Join(t.TempDir(), "repository"), disk: vfs.NewCrashableMem(), keys: map[string]signature.Signer{}, clientDir: t.TempDir()}
		for _, role := range metadata.TOP_LEVEL_ROLE_NAMES {
			h.keys[role] = newKey()
		}
		h.root2 = newKey()
		h.folder = must(Create(h.dir, Holders{
			Root: []crypto.PublicKey{public(h.keys[metadata.ROOT]), public(h.root2)}, Threshold: 2, Targets: public(h.keys[metadata.TARGETS]),
			Snapshot: public(h.keys[metadata.SNAPSHOT]), Timestamp: public(h.keys[metadata.TIMESTAMP]),
		}, time.Now().Add(1000*day), h.roots()))
		h.online = map[string]signature.Signer{metadata.SNAPSHOT: h.keys[metadata.SNAPSHOT], metadata.TIMESTAMP: h.keys[metadata.TIMESTAMP]}
		h.db = must(storage.Create("db", storage.Options{FS: h.disk}))
		t.Cleanup(func() { h.db.Close() })
		h.sign("one")
		h.begin()
		h.publish()
		h.good("one")
		test(h)
	})
}

func (h *house) roots() []signature.Signer {
	return []signature.Signer{h.keys[metadata.ROOT], h.root2}
}

// begin starts the daemon.
func (h *house) begin() {
	h.Helper()
	cfg := Config{DB: h.db, Dir: h.dir, Lifetime: 7 * day, Signers: func(context.Context) (signature.Signer, signature.Signer, error) {
		if h.noKeys {
			return nil, nil, errors.New("the keys are in a cupboard")
		}
		return h.online[metadata.SNAPSHOT], h.online[metadata.TIMESTAMP], nil
	}}
	if h.signing != nil {
		cfg.Signing = func(context.Context) (signature.Signer, error) { return h.signing, h.noSigning }
	}
	h.Publisher = must(New(h.Context(), cfg))
}

// crash begins again with what was synced on a disk.
func (h *house) crash(disk *vfs.MemFS) {
	h.Helper()
	if err := h.db.Close(); err != nil {
		h.Fatal(err)
	}
	h.disk = disk
	h.db = must(storage.Open("db", storage.Options{FS: disk}))
	h.begin()
}

// sign signs the next targets.
func (h *house) sign(what string) {
	h.Helper()
	if _, err := h.folder.SignTargets(map[string][]byte{"what": []byte(what), trust.RootTarget: []byte(someRoot)}, time.Now().Add(500*day), h.keys[metadata.TARGETS]); err != nil {
		h.Fatal(err)
	}
}

func (h *house) publish() {
	h.Helper()
	if err := h.Publish(h.Context()); err != nil {
		h.Fatal(err)
	}
}

// pass lets the daemon run for a while.
func (h *house) pass(d time.Duration) {
	h.Helper()
	for range int(d / (day / 4)) {
		time.Sleep(day / 4)
		h.publish()
	}
	synctest.Wait()
}

// fetch is a client's fetcher.
type fetch func(path string) (trust.File, bool)

func (f fetch) DownloadFile(url string, limit int64, _ time.Duration) ([]byte, error) {
	file, ok := f(strings.TrimPrefix(url, "http://understudy/trust/"))
	switch {
	case !ok:
		return nil, &metadata.ErrDownloadHTTP{StatusCode: 404, URL: url}
	case int64(len(file.Data)) > limit:
		return nil, &metadata.ErrDownloadLengthMismatch{Msg: url}
	}
	return file.Data, nil
}

// client gets the target as a client does that has a cache, and begins at the first root.
func (h *house) client(cache string) (string, error) {
	c, err := tuf.New(&tuf.Options{Root: must(os.ReadFile(filepath.Join(h.dir, "1.root.json"))), RepositoryBaseURL: "http://understudy/trust", CachePath: cache, Fetcher: fetch(h.File)})
	if err != nil {
		return "", err
	}
	data, err := c.GetTarget("what")
	return string(data), err
}

// good demands that a new client, and one that was there from the beginning, get what is wanted, and
// that nothing stands in the way.
func (h *house) good(want string) {
	h.Helper()
	h.serves(want)
	if p := h.Status().Problem; p != nil {
		h.Errorf("problem %+v", p)
	}
}

func (h *house) serves(want string) {
	h.Helper()
	for who, cache := range map[string]string{"a client from the beginning": h.clientDir, "a new client": h.TempDir()} {
		if got, err := h.client(cache); err != nil || got != want {
			h.Errorf("%s: %q, %v, want %q", who, got, err, want)
		}
	}
}

func (h *house) version(role string) int64 { return h.served()[role] }

// TestMonths: clients go on for as long as the daemon signs, and nothing that it signs goes back.
func TestMonths(t *testing.T) {
	inHouse(t, func(h *house) {
		seen := map[string]map[int64]bool{metadata.SNAPSHOT: {}, metadata.TIMESTAMP: {}}
		last := map[string]int64{}
		for range 100 {
			h.pass(day)
			h.good("one")
			for role, versions := range seen {
				v := h.version(role)
				if v < last[role] {
					t.Fatalf("%s went from version %d to %d", role, last[role], v)
				}
				versions[v], last[role] = true, v
			}
		}
		if n := len(seen[metadata.TIMESTAMP]); n < 80 || n > 101 {
			t.Errorf("%d timestamps in 100 days", n)
		}
		if n := len(seen[metadata.SNAPSHOT]); n < 5 || n > 10 {
			t.Errorf("%d snapshots in 100 days", n)
		}
		h.sign("two")
		h.publish()
		h.good("two")
		if history := h.History("what"); len(history) != 2 {
			t.Errorf("history: %+v", history)
		}
	})
}

// TestRun: the daemon does it by itself.
func TestRun(t *testing.T) {
	inHouse(t, func(h *house) {
		done := make(chan error)
		ctx, stop := context.WithCancel(h.Context())
		go func() { done <- h.Publisher.Run(ctx) }()
		time.Sleep(20 * day)
		synctest.Wait()
		h.good("one")
		h.sign("two")
		time.Sleep(time.Minute)
		synctest.Wait()
		h.good("two")
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// TestNothingIsSignedTwice: what does not change is not signed anew within its day, nor when the daemon
// starts.
func TestNothingIsSignedTwice(t *testing.T) {
	inHouse(t, func(h *house) {
		before := must2(h.File("timestamp.json"))
		for range 3 {
			h.publish()
			h.begin()
			time.Sleep(day / 4)
			h.publish()
		}
		if after := must2(h.File("timestamp.json")); after.Hash != before.Hash {
			t.Error("the timestamp is another one")
		}
	})
}

func must2(f trust.File, ok bool) trust.File {
	if !ok {
		panic("no such file")
	}
	return f
}

// TestMistakesInTheFolder: whatever is wrong with what people bring, clients get what was good
// before, and go on for weeks; the reason is said. Once it is mended it is served.
func TestMistakesInTheFolder(t *testing.T) {
	for name, test := range map[string]struct {
		says string
		do   func(h *house)
		mend func(h *house) // nil: nothing newer comes of it
	}{
		"a root that lacks a signature": {"2.root.json", func(h *house) {
			must(h.folder.Rotate(metadata.ROOT, nil, 0, time.Now().Add(900*day), h.roots()[:1]))
		}, func(h *house) { must(h.folder.SignRoot(h.roots())) }},
		"a root by strangers": {"2.root.json", func(h *house) {
			must(h.folder.Rotate(metadata.TIMESTAMP, []crypto.PublicKey{public(newKey())}, 0, time.Now().Add(900*day), nil))
		}, nil},
		"a gap in the roots": {"not 2.root.json", func(h *house) {
			must(h.folder.Rotate(metadata.ROOT, nil, 0, time.Now().Add(900*day), h.roots()))
			must(h.folder.Rotate(metadata.ROOT, nil, 0, time.Now().Add(900*day), h.roots()))
			h.remove("2.root.json")
		}, nil},
		"a root that has expired": {"2.root.json expired", func(h *house) {
			must(h.folder.Rotate(metadata.ROOT, nil, 0, time.Now().Add(-day), h.roots()))
		}, func(h *house) { must(h.folder.Rotate(metadata.ROOT, nil, 0, time.Now().Add(900*day), h.roots())) }},
		"a timestamp key that is not here": {"timestamp key given is not the one that 2.root.json names", func(h *house) {
			h.keys[metadata.TIMESTAMP] = newKey()
			must(h.folder.Rotate(metadata.TIMESTAMP, []crypto.PublicKey{public(h.keys[metadata.TIMESTAMP])}, 0, time.Now().Add(900*day), h.roots()))
		}, func(h *house) { h.online[metadata.TIMESTAMP] = h.keys[metadata.TIMESTAMP]; h.begin() }},
		"a snapshot key that is not here": {"snapshot key given is not the one that 2.root.json names", func(h *house) {
			h.keys[metadata.SNAPSHOT] = newKey()
			must(h.folder.Rotate(metadata.SNAPSHOT, []crypto.PublicKey{public(h.keys[metadata.SNAPSHOT])}, 0, time.Now().Add(900*day), h.roots()))
		}, func(h *house) { h.online[metadata.SNAPSHOT] = h.keys[metadata.SNAPSHOT]; h.begin() }},
		"targets by the key that was": {"1.targets.json", func(h *house) {
			h.keys[metadata.TARGETS] = newKey()
			must(h.folder.Rotate(metadata.TARGETS, []crypto.PublicKey{public(h.keys[metadata.TARGETS])}, 0, time.Now().Add(900*day), h.roots()))
		}, func(h *house) { h.sign("two") }},
		"targets by strangers": {"2.targets.json", func(h *house) {
			h.sign("two")
			edit(h, "2.targets.json", func(m *metadata.Metadata[metadata.TargetsType]) {
				m.ClearSignatures()
				must(m.Sign(newKey()))
			})
		}, nil},
		"targets that have expired": {"2.targets.json expired", func(h *house) {
			must(h.folder.SignTargets(map[string][]byte{"what": []byte("two")}, time.Now().Add(-time.Hour), h.keys[metadata.TARGETS]))
		}, func(h *house) { h.sign("two") }},
		"targets of another version": {"2.targets.json: it has version 7", func(h *house) {
			h.sign("two")
			edit(h, "2.targets.json", func(m *metadata.Metadata[metadata.TargetsType]) {
				m.Signed.Version = 7
				m.ClearSignatures()
				must(m.Sign(h.keys[metadata.TARGETS]))
			})
		}, nil},
		"published targets are another one": {"1.targets.json is another one than was published", func(h *house) {
			edit(h, "1.targets.json", func(m *metadata.Metadata[metadata.TargetsType]) {
				m.ClearSignatures()
				must(m.Sign(h.keys[metadata.TARGETS]))
			})
		}, func(h *house) { h.sign("two") }},
		"a target is not there": {"targets/", func(h *house) {
			h.sign("two")
			h.remove(h.targetFile("two"))
		}, func(h *house) { h.write(h.targetFile("two"), []byte("two")) }},
		"a target has other bytes": {"targets/", func(h *house) {
			h.sign("two")
			h.write(h.targetFile("two"), []byte("tvo"))
		}, func(h *house) { h.write(h.targetFile("two"), []byte("two")) }},
		"a trusted root that nobody can read": {trust.RootTarget, func(h *house) {
			files := map[string][]byte{"what": []byte("two"), trust.RootTarget: []byte("{}")}
			targets := metadata.Targets(time.Now().Add(500 * day))
			targets.Signed.Version = 2
			for name, data := range files {
				meta := must(metadata.TargetFile().FromBytes(name, data, "sha256"))
				targets.Signed.Targets[name] = meta
				h.write(trust.TargetFile(name, meta.Hashes["sha256"]), data)
			}
			must(targets.Sign(h.keys[metadata.TARGETS]))
			h.write("2.targets.json", must(targets.ToBytes(true)))
		}, func(h *house) { h.sign("two") }},
		"junk in the place of a root":  {"2.root.json", func(h *house) { h.write("2.root.json", []byte("junk")) }, nil},
		"junk in the place of targets": {"2.targets.json", func(h *house) { h.write("2.targets.json", []byte(`{"signed": null, "signatures": null}`)) }, nil},
		"an endless file":              {"2.targets.json", func(h *house) { h.write("2.targets.json", make([]byte, maxFile+1)) }, nil},
		"older targets": {"version 1, and 2 was published", func(h *house) {
			h.sign("two")
			h.publish()
			h.good("two")
			h.want = "two"
			h.remove("2.targets.json")
		}, nil},
		"the folder is gone":               {"no such file", func(h *house) { h.away() }, nil},
		"the folder is gone at the start":  {"no such file", func(h *house) { h.away(); h.begin() }, nil},
		"another repository, without keys": {"no such file", func(h *house) { h.away(); h.write("readme", nil); h.begin() }, nil},
	} {
		t.Run(name, func(t *testing.T) {
			inHouse(t, func(h *house) {
				h.want = "one"
				first := must(os.ReadFile(filepath.Join(h.dir, "1.root.json")))
				test.do(h)
				for range 3 {
					_ = h.Publish(h.Context())
					if _, err := os.Stat(h.dir + "/1.root.json"); err != nil {
						h.dir = h.TempDir() // where the client has its root
						h.write("1.root.json", first)
					}
					h.serves(h.want)
					if p := h.Status().Problem; (p == nil || !strings.Contains(p.Text, test.says)) && !strings.Contains(test.says, "no such file") {
						t.Fatalf("problem %+v, want %q", p, test.says)
					}
					h.pass(10 * day)
				}
				if test.mend == nil {
					return
				}
				test.mend(h)
				h.publish()
				want := "one"
				if h.version(metadata.TARGETS) > 1 {
					want = "two"
				}
				h.good(want)
				if newest := must(h.folder.versions(metadata.ROOT)); h.version(metadata.ROOT) != newest[0] {
					t.Errorf("root version %d is served, want %d", h.version(metadata.ROOT), newest[0])
				}
			})
		})
	}
}

// targetFile is the file of the target "what" with a content.
func (h *house) targetFile(content string) string {
	return trust.TargetFile("what", must(metadata.TargetFile().FromBytes("what", []byte(content), "sha256")).Hashes["sha256"])
}

func (h *house) write(file string, data []byte) {
	h.Helper()
	if err := os.MkdirAll(filepath.Dir(filepath.Join(h.dir, file)), 0o755); err != nil {
		h.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(h.dir, file), data, 0o644); err != nil {
		h.Fatal(err)
	}
}

func (h *house) remove(file string) {
	h.Helper()
	if err := os.Remove(filepath.Join(h.dir, file)); err != nil {
		h.Fatal(err)
	}
}

func (h *house) away() {
	h.Helper()
	if err := os.Rename(h.dir, h.dir+".away"); err != nil {
		h.Fatal(err)
	}
}

func edit[T metadata.Roles](h *house, file string, change func(*metadata.Metadata[T])) {
	h.Helper()
	m := new(metadata.Metadata[T])
	if err := json.Unmarshal(must(os.ReadFile(filepath.Join(h.dir, file))), m); err != nil {
		h.Fatal(err)
	}
	change(m)
	h.write(file, must(m.ToBytes(true)))
}

// TestKeysAreLost: each key can be replaced, and clients follow from whatever they have.
func TestKeysAreLost(t *testing.T) {
	inHouse(t, func(h *house) {
		for i, role := range []string{metadata.TIMESTAMP, metadata.SNAPSHOT, metadata.TARGETS, metadata.ROOT, metadata.TIMESTAMP} {
			fresh := newKey()
			keys := []crypto.PublicKey{public(fresh)}
			signers := h.roots()
			if role == metadata.ROOT {
				keys, signers = append(keys, public(h.root2)), append(signers, fresh)
			}
			must(h.folder.Rotate(role, keys, 0, time.Now().Add(900*day), signers))
			h.keys[role] = fresh
			if _, ok := h.online[role]; ok {
				h.online[role] = fresh
				h.begin()
			}
			if role == metadata.TARGETS {
				h.sign("one")
			}
			h.publish()
			h.good("one")
			if v := h.version(metadata.ROOT); v != int64(i+2) {
				t.Errorf("%s: root version %d is served", role, v)
			}
			h.pass(10 * day)
			h.good("one")
		}
	})
}

// TestNoSigners: without its keys the daemon serves what was signed, until it expires; it asks for
// them until they are there.
func TestNoSigners(t *testing.T) {
	inHouse(t, func(h *house) {
		h.noKeys = true
		h.begin()
		h.pass(4 * day)
		h.serves("one")
		if p := h.Status().Problem; p == nil || !strings.Contains(p.Text, "cupboard") {
			t.Errorf("problem %+v", p)
		}
		h.pass(4 * day)
		if _, err := h.client(h.TempDir()); err == nil || !strings.Contains(err.Error(), "expired") {
			t.Errorf("a client: %v", err)
		}
		h.noKeys = false
		h.publish()
		h.good("one")
	})
}

// TestOlderDatabase: one that is restored does not have clients see what is older, or two of a
// number.
func TestOlderDatabase(t *testing.T) {
	inHouse(t, func(h *house) {
		old := h.disk.CrashClone(vfs.CrashCloneCfg{})
		h.sign("two")
		h.publish()
		h.good("two")
		h.pass(3 * day)
		h.good("two")
		h.crash(old)
		h.publish()
		h.good("two")
		if h.version(metadata.TARGETS) != 2 {
			t.Error("the older targets are served")
		}
	})
}

// TestOlderDatabaseOfTheSameTargets: nor does it if only snapshots and timestamps were signed since then,
// whenever that was.
func TestOlderDatabaseOfTheSameTargets(t *testing.T) {
	for _, at := range []time.Duration{0, day / 2, day, 3 * day, 13*day + day/2, 14 * day, 15 * day} {
		for _, later := range []time.Duration{day / 4, day, 2 * day, 14 * day, 15 * day, 20 * day} {
			if testing.Short() && later > 2*day {
				continue // slow under the race detector
			}
			inHouse(t, func(h *house) {
				h.pass(at)
				old := h.disk.CrashClone(vfs.CrashCloneCfg{})
				h.pass(later)
				h.good("one")
				h.crash(old)
				h.publish()
				h.good("one")
			})
		}
	}
}

// TestCrash: whatever was served is served again.
func TestCrash(t *testing.T) {
	inHouse(t, func(h *house) {
		for i := range 10 {
			want := fmt.Sprint("number ", i)
			h.sign(want)
			h.publish()
			served := must2(h.File("timestamp.json"))
			h.crash(h.disk.CrashClone(vfs.CrashCloneCfg{}))
			if again := must2(h.File("timestamp.json")); again.Hash != served.Hash {
				t.Error("another timestamp is served")
			}
			h.good(want)
		}
	})
}

// TestClockGoesBack: what is served is kept, and nothing is signed with an older number.
func TestClockGoesBack(t *testing.T) {
	inHouse(t, func(h *house) {
		roots, problem := h.Publisher.roots()
		if problem != nil {
			t.Fatal(problem)
		}
		for _, behind := range []time.Duration{3 * day, 300 * day} {
			past := time.Now().Add(-behind)
			d := must(h.assemble(roots, 1, past))
			if served := must2(h.File("timestamp.json")); !bytes.Equal(d["timestamp.json"], served.Data) {
				t.Error("another timestamp is signed")
			}
			if err := h.clock(d, past); err == nil || !strings.Contains(err.Error(), "clock is behind") {
				t.Errorf("of the clock it is said: %v", err)
			}
		}
		h.sign("two")
		d := must(h.assemble(roots, 2, time.Now().Add(-3*day)))
		if v := must(metadata.Timestamp().FromBytes(d["timestamp.json"])).Signed.Version; v != h.version(metadata.TIMESTAMP)+1 {
			t.Errorf("version %d after %d", v, h.version(metadata.TIMESTAMP))
		}
	})
}

// TestRotateKeepsTheRest: what is not asked for stays as it was.
func TestRotateKeepsTheRest(t *testing.T) {
	inHouse(t, func(h *house) {
		fresh := newKey()
		must(h.folder.Rotate(metadata.ROOT, []crypto.PublicKey{public(fresh), public(h.root2)}, 0, time.Now().Add(900*day), nil))
		root, previous, err := h.folder.newestRoot()
		if err != nil || root.Signed.Roles[metadata.ROOT].Threshold != 2 || !slices.Equal(root.Signed.Roles[metadata.TARGETS].KeyIDs, previous.Signed.Roles[metadata.TARGETS].KeyIDs) {
			t.Errorf("%+v, %v", root.Signed.Roles, err)
		}
		for i, s := range []signature.Signer{fresh, h.keys[metadata.ROOT], h.root2} { // of the new root, of the old one, of both
			if n := must(h.folder.SignRoot([]signature.Signer{s})); n != 1 {
				t.Errorf("signer %d added %d signatures", i, n)
			}
		}
		if n := must(h.folder.MissingSignatures()); n != 0 {
			t.Errorf("it lacks %d", n)
		}
		if err := h.folder.put("1.targets.json", root); err == nil {
			t.Error("a file that is there is written over")
		}
		h.publish()
		h.good("one")
		for file, names := range map[string]string{"timestamp.json": "snapshot.json", fmt.Sprintf("%d.snapshot.json", h.version(metadata.SNAPSHOT)): "targets.json"} {
			var m struct {
				Signed struct {
					Meta map[string]struct {
						Length int64
						Hashes map[string]string
					}
				}
			}
			if err := json.Unmarshal(must2(h.File(file)).Data, &m); err != nil {
				t.Fatal(err)
			}
			if meta := m.Signed.Meta[names]; meta.Length == 0 || len(meta.Hashes["sha256"]) != 64 {
				t.Errorf("%s names %s without length and hash: %+v", file, names, meta)
			}
		}
	})
}

// TestAnotherRepository: a new first root is a repository of its own, with nothing of the other.
func TestAnotherRepository(t *testing.T) {
	inHouse(t, func(h *house) {
		h.away()
		h.folder = must(Create(h.dir, Holders{
			Root: []crypto.PublicKey{public(h.root2)}, Threshold: 1, Targets: public(h.keys[metadata.TARGETS]),
			Snapshot: public(h.keys[metadata.SNAPSHOT]), Timestamp: public(h.keys[metadata.TIMESTAMP]),
		}, time.Now().Add(1000*day), h.roots()))
		h.sign("another")
		h.begin()
		h.publish()
		h.clientDir = h.TempDir()
		h.good("another")
		if len(h.History("what")) != 1 {
			t.Error("it has the history of the other one")
		}
	})
}

// TestCreateRefuses: what would cost two roles with one key, or what clients cannot verify.
func TestCreateRefuses(t *testing.T) {
	key := func() crypto.PublicKey { return public(newKey()) }
	one := key()
	_, ed, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		says    string
		holders Holders
	}{
		"a key with two roles":     {"each role has keys of its own", Holders{[]crypto.PublicKey{one}, 1, key(), one, key(), nil}},
		"a root key twice":         {"each role has keys of its own", Holders{[]crypto.PublicKey{one, one}, 2, key(), key(), key(), nil}},
		"a threshold of none":      {"a threshold of 0 of 1", Holders{[]crypto.PublicKey{one}, 0, key(), key(), key(), nil}},
		"a threshold of too many":  {"a threshold of 2 of 1", Holders{[]crypto.PublicKey{one}, 2, key(), key(), key(), nil}},
		"RSA":                      {"ECDSA on P-256 and Ed25519", Holders{[]crypto.PublicKey{must(rsa.GenerateKey(rand.Reader, 2048)).Public()}, 1, key(), key(), key(), nil}},
		"P-384":                    {"ECDSA on P-256 and Ed25519", Holders{[]crypto.PublicKey{one}, 1, must(ecdsa.GenerateKey(elliptic.P384(), rand.Reader)).Public(), key(), key(), nil}},
		"no key":                   {"ECDSA on P-256 and Ed25519", Holders{[]crypto.PublicKey{one}, 1, nil, key(), key(), nil}},
		"nothing wrong, but a dir": {"is not empty", Holders{[]crypto.PublicKey{one}, 1, key(), key(), ed.Public(), nil}},
	} {
		dir := filepath.Join(t.TempDir(), "r")
		if strings.HasPrefix(name, "nothing") {
			must(Create(dir, test.holders, time.Now().Add(day), nil))
		}
		if _, err := Create(dir, test.holders, time.Now().Add(day), nil); err == nil || !strings.Contains(err.Error(), test.says) {
			t.Errorf("%s: %v", name, err)
		} else if entries, err := os.ReadDir(dir); len(entries) > 1 || err == nil && !strings.HasPrefix(name, "nothing") {
			t.Errorf("%s: it left %v", name, entries)
		}
	}
}

// TestFolderRefuses: what would be published and harm, or cannot be.
func TestFolderRefuses(t *testing.T) {
	inHouse(t, func(h *house) {
		sign := func(files map[string][]byte, s signature.Signer) error {
			_, err := h.folder.SignTargets(files, time.Now().Add(day), s)
			return err
		}
		targets := h.keys[metadata.TARGETS]
		for name, test := range map[string]struct {
			says string
			err  error
		}{
			"another key":               {"not the targets key", sign(nil, newKey())},
			"the key of a root":         {"not the targets key", sign(nil, h.root2)},
			"a way out":                 {"cannot be called", sign(map[string][]byte{"../x": nil}, targets)},
			"a hidden file":             {"cannot be called", sign(map[string][]byte{".x": nil}, targets)},
			"nothing":                   {"nothing to sign", sign(map[string][]byte{}, targets)},
			"a target that is too long": {"a target has at most", sign(map[string][]byte{"x": make([]byte, maxFile+1)}, targets)},
			"too many bytes":            {"all together", sign(map[string][]byte{"a": make([]byte, maxFile), "b": make([]byte, maxFile), "c": make([]byte, maxFile), "d": {1}}, targets)},
			"two timestamp keys":        {"it has one", second(h.folder.Rotate(metadata.TIMESTAMP, []crypto.PublicKey{public(newKey()), public(newKey())}, 1, time.Now(), nil))},
			"a broken trusted root":     {"parse trusted root", sign(map[string][]byte{trust.RootTarget: []byte("{")}, targets)},
			"a role that is none":       {"no role", second(h.folder.Rotate("mirrors", []crypto.PublicKey{public(newKey())}, 0, time.Now(), nil))},
			"a key of another role":     {"keys of its own", second(h.folder.Rotate(metadata.TIMESTAMP, []crypto.PublicKey{public(targets)}, 0, time.Now(), nil))},
		} {
			if test.err == nil || !strings.Contains(test.err.Error(), test.says) {
				t.Errorf("%s: %v", name, test.err)
			}
		}
		if versions := must(h.folder.versions(metadata.TARGETS)); !slices.Equal(versions, []int64{1}) {
			t.Errorf("targets %v", versions)
		}
		must(h.folder.Rotate(metadata.ROOT, nil, 0, time.Now().Add(day), nil))
		if _, err := h.folder.Rotate(metadata.ROOT, nil, 0, time.Now().Add(day), nil); err == nil || !strings.Contains(err.Error(), "lacks 2 signatures") {
			t.Errorf("a root after one that is not signed: %v", err)
		}
		if n := must(h.folder.SignRoot([]signature.Signer{newKey(), targets})); n != 0 {
			t.Errorf("strangers added %d signatures", n)
		}
		if n := must(h.folder.SignRoot(h.roots())); n != 2 || must(h.folder.MissingSignatures()) != 0 {
			t.Errorf("added %d signatures", n)
		}
		if n := must(h.folder.SignRoot(h.roots())); n != 0 {
			t.Errorf("signed it again %d times", n)
		}
		had := must(h.folder.Targets())
		if names := slices.Sorted(maps.Keys(had)); !slices.Equal(names, []string{trust.RootTarget, "what"}) {
			t.Errorf("targets %v", names)
		}
	})
}

func second[T any](_ T, err error) error { return err }

// TestHalfCopied: files of the folder arrive in any order, and now and then in part. At every moment
// clients get the old or the new.
func TestHalfCopied(t *testing.T) {
	seeds := uint64(8)
	if testing.Short() {
		seeds = 2
	}
	for seed := range seeds {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			inHouse(t, func(h *house) {
				random := mrand.New(mrand.NewPCG(seed, 0))
				before := h.snapshotDir()
				h.sign("between")
				must(h.folder.Rotate(metadata.ROOT, nil, 0, time.Now().Add(900*day), h.roots()))
				fresh := newKey()
				must(h.folder.Rotate(metadata.TARGETS, []crypto.PublicKey{public(fresh)}, 0, time.Now().Add(900*day), h.roots()))
				h.keys[metadata.TARGETS] = fresh
				h.sign("two")
				after := h.snapshotDir()
				if err := os.RemoveAll(h.dir); err != nil {
					t.Fatal(err)
				}
				for name, data := range before {
					h.write(name, data)
				}
				names := slices.Sorted(maps.Keys(after))
				random.Shuffle(len(names), func(i, j int) { names[i], names[j] = names[j], names[i] })
				last := "one"
				for _, name := range names {
					if before[name] != nil {
						continue
					}
					for _, part := range [][]byte{after[name][:random.IntN(len(after[name]))], after[name]} {
						h.write(name, part)
						h.publish()
						got, err := h.client(h.clientDir)
						if err != nil || got != last && (got == "one" || last == "two") {
							t.Fatalf("with %s: %q after %q, %v; %+v", name, got, last, err, h.Status().Problem)
						}
						last = got
					}
				}
				h.good("two")
			})
		})
	}
}

// snapshotDir returns all files of the folder.
func (h *house) snapshotDir() map[string][]byte {
	h.Helper()
	files := map[string][]byte{}
	if err := fs.WalkDir(os.DirFS(h.dir), ".", func(name string, entry fs.DirEntry, err error) error {
		if err == nil && !entry.IsDir() {
			files[name], err = os.ReadFile(filepath.Join(h.dir, name))
		}
		return err
	}); err != nil {
		h.Fatal(err)
	}
	return files
}
