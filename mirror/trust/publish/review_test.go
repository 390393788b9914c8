package publish

import (
	"context"
	"crypto"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/sigstore/sigstore/pkg/signature"
	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/understudy-log/understudy/mirror/trust"
	"github.com/understudy-log/understudy/storage"
)

// weeks lets the daemon run for a while; what cannot be published is no error here.
func (h *house) weeks(d time.Duration) {
	for range int(d / (day / 4)) {
		time.Sleep(day / 4)
		_ = h.Publish(h.Context())
	}
	synctest.Wait()
}

// TestReviewMistakesThatStopTheDaemonFromSigning: what assemble lets through and Update refuses ends the signing of
// timestamps: clients die with the one that is served.
func TestReviewMistakesThatStopTheDaemonFromSigning(t *testing.T) {
	for name, do := range map[string]func(h *house){
		"a root with a member more": func(h *house) {
			must(h.folder.Rotate(metadata.ROOT, nil, 0, time.Now().Add(900*day), h.roots()))
			h.addMember("2.root.json")
		},
		"targets with a member more": func(h *house) {
			h.sign("two")
			h.addMember("2.targets.json")
		},
		"metadata of targets of more than 5 MB": func(h *house) {
			files := map[string][]byte{"what": []byte("two"), trust.RootTarget: []byte(someRoot)}
			custom := json.RawMessage(fmt.Sprintf("%q", strings.Repeat("x", 5_100_000)))
			must(h.folder.SignTargets(files, time.Now().Add(500*day), h.keys[metadata.TARGETS]))
			edit(h, "2.targets.json", func(m *metadata.Metadata[metadata.TargetsType]) {
				m.Signed.Targets["what"].Custom = &custom
				m.ClearSignatures()
				must(m.Sign(h.keys[metadata.TARGETS]))
			})
		},
	} {
		t.Run(name, func(t *testing.T) {
			if testing.Short() && strings.Contains(name, "5 MB") {
				t.Skip("slow under the race detector")
			}
			inHouse(t, func(h *house) {
				do(h)
				h.weeks(8 * day)
				t.Logf("problem: %+v", h.Status().Problem)
				h.serves("one")
			})
		})
	}
}

func (h *house) addMember(file string) {
	data := must(os.ReadFile(filepath.Join(h.dir, file)))
	h.write(file, append([]byte(`{"comment": "of the second ceremony",`), data[1:]...))
}

// slow is a signer that does not answer.
type slow struct {
	signature.Signer
	until chan struct{}
}

func (s slow) SignMessage(r io.Reader, o ...signature.SignOption) ([]byte, error) {
	<-s.until
	return s.Signer.SignMessage(r, o...)
}

// TestReviewHangingKMS: while a signer (or the folder: a disk that hangs) does not answer, nobody is told, and Run does not end.
// Who signs by a KMS has a limit of its own; what else hangs has none.
func TestReviewHangingKMS(t *testing.T) {
	inHouse(t, func(h *house) {
		until := make(chan struct{})
		h.online[metadata.TIMESTAMP] = slow{h.online[metadata.TIMESTAMP], until}
		h.begin()
		ctx, stop := context.WithCancel(h.Context())
		done := make(chan error, 1)
		go func() { done <- h.Publisher.Run(ctx) }()
		time.Sleep(6 * day)
		synctest.Wait()
		if p := h.Status().Problem; p == nil {
			t.Error("a signer has not answered for five of seven days, and there is no problem to see")
		}
		stop()
		time.Sleep(day)
		synctest.Wait()
		select {
		case <-done:
		default:
			t.Error("the context ended, and Run does not")
		}
		close(until)
		synctest.Wait()
	})
}

// refusing is a signer whose service says no.
type refusing struct{ signature.Signer }

func (refusing) SignMessage(io.Reader, ...signature.SignOption) ([]byte, error) {
	return nil, errors.New("AccessDenied: kms:Sign on alias/timestamp")
}

// TestReviewKMSSaysWhy: what the service says is told.
func TestReviewKMSSaysWhy(t *testing.T) {
	inHouse(t, func(h *house) {
		h.online[metadata.TIMESTAMP] = refusing{h.online[metadata.TIMESTAMP]}
		h.begin()
		h.weeks(3 * day)
		if p := h.Status().Problem; p == nil || !strings.Contains(p.Text, "AccessDenied") {
			t.Errorf("problem %+v", p)
		}
	})
}

// TestReviewOddFiles: a pipe or a device in the folder must not stop the daemon.
func TestReviewOddFiles(t *testing.T) {
	inHouse(t, func(h *house) {
		if err := syscall.Mkfifo(filepath.Join(h.dir, "2.targets.json"), 0o644); err != nil {
			t.Skip(err)
		}
		done := make(chan error, 1)
		go func() { _, err := h.folder.newestTargets(); done <- err }()
		// not time.Sleep: a read of a pipe is not durably blocked
		for range 200 {
			select {
			case err := <-done:
				t.Log(err)
				return
			default:
				syscall.Select(0, nil, nil, nil, &syscall.Timeval{Usec: 10_000})
			}
		}
		t.Error("reading the folder hangs at a pipe")
		w := must(os.OpenFile(filepath.Join(h.dir, "2.targets.json"), os.O_WRONLY, 0))
		w.Close()
		<-done
	})
}

// TestReviewAnotherRootOfTheSameNumber: it is as much a mistake as other targets of the same number.
func TestReviewAnotherRootOfTheSameNumber(t *testing.T) {
	inHouse(t, func(h *house) {
		must(h.folder.Rotate(metadata.ROOT, nil, 0, time.Now().Add(900*day), h.roots()))
		h.publish()
		h.good("one")
		h.remove("2.root.json") // "if it is wrong and was never given away, delete it"
		h.keys[metadata.TARGETS] = newKey()
		must(h.folder.Rotate(metadata.TARGETS, []crypto.PublicKey{public(h.keys[metadata.TARGETS])}, 0, time.Now().Add(900*day), h.roots()))
		h.publish()
		if p := h.Status().Problem; p == nil {
			t.Error("2.root.json is another one than was published, and nothing is said")
		}
		h.sign("two")
		h.publish()
		t.Logf("then: %+v", h.Status().Problem)
	})
}

// TestReviewNull: what anybody could leave in the folder must not end the daemon.
func TestReviewNull(t *testing.T) {
	for name, text := range map[string]string{
		"roles":    `{"signed": {"_type": "root", "spec_version": "1.0.31", "version": 1, "expires": "2100-01-01T00:00:00Z", "keys": {}, "roles": {"root": null}, "consistent_snapshot": true}, "signatures": []}`,
		"no roles": `{"signed": {"_type": "root", "spec_version": "1.0.31", "version": 1, "expires": "2100-01-01T00:00:00Z"}, "signatures": []}`,
		"keys":     `{"signed": {"_type": "root", "spec_version": "1.0.31", "version": 1, "expires": "2100-01-01T00:00:00Z", "keys": {"aa": null}, "roles": {"root": {"keyids": ["aa"], "threshold": 1}}, "consistent_snapshot": true}, "signatures": []}`,
	} {
		t.Run("1.root.json "+name, func(t *testing.T) {
			inHouse(t, func(h *house) {
				h.write("1.root.json", []byte(text))
				defer func() {
					if p := recover(); p != nil {
						t.Errorf("New panics: %v", p)
					}
				}()
				h.begin()
				h.publish()
			})
		})
		t.Run("2.root.json "+name, func(t *testing.T) {
			inHouse(t, func(h *house) {
				h.write("2.root.json", []byte(strings.Replace(text, `"version": 1`, `"version": 2`, 1)))
				func() {
					defer func() {
						if p := recover(); p != nil {
							t.Errorf("Publish panics: %v", p)
						}
					}()
					h.publish()
				}()
				defer func() {
					if p := recover(); p != nil {
						t.Errorf("MissingSignatures panics: %v", p)
					}
				}()
				_, err := h.folder.MissingSignatures()
				t.Log(err)
			})
		})
	}
	t.Run("a target", func(t *testing.T) {
		inHouse(t, func(h *house) {
			targets := metadata.Targets(time.Now().Add(500 * day))
			targets.Signed.Version = 2
			targets.Signed.Targets["what"] = nil
			must(targets.Sign(h.keys[metadata.TARGETS]))
			h.write("2.targets.json", must(targets.ToBytes(true)))
			defer func() {
				if p := recover(); p != nil {
					t.Errorf("Publish panics: %v", p)
				}
			}()
			h.publish()
		})
	})
}

// damage overwrites the newest record of a version of the repository.
func (h *house) damage() {
	name := ""
	if err := h.db.Records("tuf http://own.invalid/", func(n string, _ []byte) error {
		if strings.Contains(n, " version ") {
			name = n
		}
		return nil
	}); err != nil {
		h.Fatal(err)
	}
	if err := h.db.PutRecord(name, []byte("junk")); err != nil {
		h.Fatal(err)
	}
}

// TestReviewDamagedRecord: after damage no number is signed that clients have seen.
func TestReviewDamagedRecord(t *testing.T) {
	t.Run("one number twice", func(t *testing.T) {
		inHouse(t, func(h *house) {
			before, number := must2(h.File("timestamp.json")), h.version(metadata.TIMESTAMP)
			h.damage()
			h.begin()
			h.publish()
			after, again := must2(h.File("timestamp.json")), h.version(metadata.TIMESTAMP)
			if number == again && before.Hash != after.Hash {
				t.Errorf("there are two timestamps of version %d", number)
			}
		})
	})
	t.Run("a lower number", func(t *testing.T) {
		inHouse(t, func(h *house) {
			for i := range 50 { // the clock was wrong for a while, or much was signed at once: the number is ahead of it
				h.sign(fmt.Sprint(i))
				h.publish()
			}
			h.good("49")
			h.damage()
			h.begin()
			err := h.Publish(h.Context())
			if err != nil {
				t.Errorf("nothing is served: %v", err)
			}
			h.serves("49")
		})
	})
}

// TestReviewNewMachine: a new database, and the newest targets not copied yet, or damaged: no way back.
func TestReviewNewMachine(t *testing.T) {
	inHouse(t, func(h *house) {
		h.sign("two")
		h.publish()
		h.good("two")
		time.Sleep(day)
		h.remove(h.targetFile("two"))
		h.db.Close()
		h.disk = vfs.NewCrashableMem()
		h.db = must(storage.Create("db", storage.Options{FS: h.disk}))
		h.begin()
		_ = h.Publish(h.Context())
		if got, err := h.client(h.TempDir()); got == "one" {
			t.Errorf("a new client gets the older target: %v", err)
		}
		_, err := h.client(h.clientDir)
		t.Logf("a client that has seen the newer one: %v", err)
	})
}

// TestReviewKeyOfTwoRoles: a key that was online, or lost, must not come back in another role.
func TestReviewKeyOfTwoRoles(t *testing.T) {
	inHouse(t, func(h *house) {
		once := h.keys[metadata.TIMESTAMP]
		must(h.folder.Rotate(metadata.TIMESTAMP, []crypto.PublicKey{public(newKey())}, 0, time.Now().Add(900*day), h.roots()))
		if _, err := h.folder.Rotate(metadata.TARGETS, []crypto.PublicKey{public(once)}, 0, time.Now().Add(900*day), h.roots()); err == nil {
			t.Error("what was the timestamp key, which the daemon has, is the targets key now")
		}
	})
}

// TestReviewBadSignature: one that is no good must not keep a good one out.
func TestReviewBadSignature(t *testing.T) {
	inHouse(t, func(h *house) {
		must(h.folder.Rotate(metadata.ROOT, nil, 0, time.Now().Add(900*day), h.roots()))
		edit(h, "2.root.json", func(m *metadata.Metadata[metadata.RootType]) { m.Signatures[0].Signature[8] ^= 1 })
		added, err := h.folder.SignRoot(h.roots())
		if missing := must(h.folder.MissingSignatures()); missing > 0 {
			t.Errorf("with both holders at hand the root lacks %d signatures (added %d, %v)", missing, added, err)
		}
	})
}

// TestReviewSignsWhatAStrangerWrote: who can write to the folder, and has no key, has his targets signed.
func TestReviewSignsWhatAStrangerWrote(t *testing.T) {
	inHouse(t, func(h *house) {
		evil := []byte("evil")
		targets := metadata.Targets(time.Now().Add(500 * day))
		targets.Signed.Version = 2
		meta := must(metadata.TargetFile().FromBytes("what", evil, "sha256"))
		targets.Signed.Targets["what"] = meta
		h.write(trust.TargetFile("what", meta.Hashes["sha256"]), evil)
		h.write("2.targets.json", must(targets.ToBytes(true))) // without any signature
		if _, err := h.folder.SignTargets(nil, time.Now().Add(500*day), h.keys[metadata.TARGETS]); err != nil {
			return
		}
		h.publish()
		if got, err := h.client(h.TempDir()); got == "evil" {
			t.Errorf("clients get what a stranger wrote: %q, %v", got, err)
		}
	})
}

// TestReviewFarVersion: who can write to the folder uses up the numbers.
func TestReviewFarVersion(t *testing.T) {
	inHouse(t, func(h *house) {
		edit(h, "1.targets.json", func(m *metadata.Metadata[metadata.TargetsType]) { m.Signed.Version = 1<<62 - 1 })
		h.remove("1.targets.json")
		targets := metadata.Targets(time.Now())
		targets.Signed.Version = 1 << 62
		h.write("2.targets.json", must(targets.ToBytes(true)))
		if v, err := h.folder.SignTargets(map[string][]byte{"what": []byte("two")}, time.Now().Add(500*day), h.keys[metadata.TARGETS]); err == nil && v > 100 {
			t.Errorf("version %d is signed after an unsigned file: no JavaScript client can count on from there", v)
		}
	})
}

// TestReviewKeyFileReplaced: the new key in the place of the old one is taken.
func TestReviewKeyFileReplaced(t *testing.T) {
	inHouse(t, func(h *house) {
		fresh := newKey()
		must(h.folder.Rotate(metadata.TIMESTAMP, []crypto.PublicKey{public(fresh)}, 0, time.Now().Add(900*day), h.roots()))
		h.publish()
		h.online[metadata.TIMESTAMP] = fresh // as if its file had been replaced
		h.publish()
		if p := h.Status().Problem; p != nil {
			t.Errorf("the key was brought, and yet: %s", p.Text)
		}
	})
}

// counting counts the lines of a log.
type counting struct{ n *int }

func (c counting) Enabled(context.Context, slog.Level) bool { return true }
func (c counting) Handle(_ context.Context, r slog.Record) error {
	if r.Level >= slog.LevelError {
		*c.n++
	}
	return nil
}
func (c counting) WithAttrs([]slog.Attr) slog.Handler { return c }
func (c counting) WithGroup(string) slog.Handler      { return c }

// TestReviewLogs: one mistake is said once.
func TestReviewLogs(t *testing.T) {
	inHouse(t, func(h *house) {
		n := 0
		h.cfg.Logger = slog.New(counting{&n})
		h.Publisher.cfg.Logger = h.cfg.Logger
		files := map[string][]byte{trust.RootTarget: []byte(someRoot)}
		for i := range 20 {
			files[fmt.Sprintf("history/%d.json", i)] = []byte{byte(i)}
		}
		must(h.folder.SignTargets(files, time.Now().Add(500*day), h.keys[metadata.TARGETS]))
		if err := os.RemoveAll(filepath.Join(h.dir, "targets", "history")); err != nil { // not copied yet
			t.Fatal(err)
		}
		for range 50 {
			h.publish()
		}
		if n > 2 {
			t.Errorf("%d lines for one mistake", n)
		}
	})
}

// TestReviewClockWasAhead: a timestamp that a clock which was ahead has signed is kept, since it may be the clock of now that is
// wrong, and it is said, with the way out.
func TestReviewClockWasAhead(t *testing.T) {
	inHouse(t, func(h *house) {
		roots, _ := h.Publisher.roots()
		h.Publisher.draft = must(h.assemble(roots, 1, time.Now().Add(300*day))) // served as with that clock
		if err := h.Update(h.Context()); err != nil {
			t.Fatal(err)
		}
		h.publish()
		h.serves("one")
		if p := h.Status().Problem; p == nil || !strings.Contains(p.Text, "was ahead") {
			t.Errorf("problem %+v", p)
		}
		h.keys[metadata.TIMESTAMP] = newKey()
		must(h.folder.Rotate(metadata.TIMESTAMP, []crypto.PublicKey{public(h.keys[metadata.TIMESTAMP])}, 0, time.Now().Add(900*day), h.roots()))
		h.online[metadata.TIMESTAMP] = h.keys[metadata.TIMESTAMP]
		h.publish()
		h.publish()
		h.good("one")
	})
}

// TestReviewEndlessSigning: what is refused is not signed every few seconds anew: a service costs, and limits.
func TestReviewEndlessSigning(t *testing.T) {
	inHouse(t, func(h *house) {
		h.sign("two")
		h.addMember("2.targets.json")
		n := 0
		h.online[metadata.TIMESTAMP] = counted{h.online[metadata.TIMESTAMP], &n}
		h.begin()
		for range 100 {
			_ = h.Publish(h.Context())
		}
		if n > 10 {
			t.Errorf("signed %d times in 100 looks", n)
		}
		h.serves("one")
		h.sign("three")
		h.publish()
		h.good("three")
	})
}

type counted struct {
	signature.Signer
	n *int
}

func (c counted) SignMessage(r io.Reader, o ...signature.SignOption) ([]byte, error) {
	*c.n++
	return c.Signer.SignMessage(r, o...)
}

// TestReviewFolderIsStuck: what was signed wrongly, or damaged, can be mended by signing what is right.
func TestReviewFolderIsStuck(t *testing.T) {
	right := map[string][]byte{"what": []byte("two"), trust.RootTarget: []byte(someRoot)}
	t.Run("a target that is too long is signed", func(t *testing.T) {
		inHouse(t, func(h *house) {
			if _, err := h.folder.SignTargets(map[string][]byte{"what": make([]byte, maxFile+1), trust.RootTarget: []byte(someRoot)}, time.Now().Add(500*day), h.keys[metadata.TARGETS]); err == nil {
				t.Error("it is signed, and no daemon can read it")
			}
			if _, err := h.folder.Targets(); err != nil {
				t.Errorf("trust sign --material begins with this: %v", err)
			}
		})
	})
	t.Run("a file of another name", func(t *testing.T) {
		inHouse(t, func(h *house) {
			h.write("+9.targets.json", []byte("{}"))
			if _, err := h.folder.SignTargets(right, time.Now().Add(500*day), h.keys[metadata.TARGETS]); err != nil {
				t.Error(err)
			}
		})
	})
	t.Run("a target is lost", func(t *testing.T) {
		inHouse(t, func(h *house) {
			h.remove(h.targetFile("one"))
			if _, err := h.folder.Targets(); err != nil {
				t.Errorf("trust sign --material begins with this: %v", err)
			}
		})
	})
	t.Run("a last root that names no other targets key can be taken back", func(t *testing.T) {
		inHouse(t, func(h *house) {
			must(h.folder.Rotate(metadata.TARGETS, []crypto.PublicKey{public(newKey())}, 0, time.Now().Add(900*day), nil)) // lacks both signatures
			if _, err := h.folder.SignTargets(right, time.Now().Add(500*day), h.keys[metadata.TARGETS]); err != nil {
				t.Errorf("until it is signed nobody can sign targets: %v", err)
			}
		})
	})
}

// TestReviewMissing: how many signatures a root lacks.
func TestReviewMissing(t *testing.T) {
	inHouse(t, func(h *house) {
		c, d := newKey(), newKey()
		must(h.folder.Rotate(metadata.ROOT, []crypto.PublicKey{public(c), public(d)}, 2, time.Now().Add(900*day), []signature.Signer{h.keys[metadata.ROOT], c}))
		if n := must(h.folder.MissingSignatures()); n != 2 {
			t.Errorf("it lacks one signature of the old keys and one of the new: %d are told", n)
		}
	})
}

// TestReviewRenewWithThreshold: a threshold that is asked for is not dropped.
func TestReviewRenewWithThreshold(t *testing.T) {
	inHouse(t, func(h *house) {
		if _, err := h.folder.Rotate(metadata.ROOT, nil, 1, time.Now().Add(900*day), h.roots()); err != nil {
			return
		}
		root, _, err := h.folder.newestRoot()
		if err != nil || root.Signed.Roles[metadata.ROOT].Threshold != 1 {
			t.Errorf("a threshold of 1 was asked for, it is %d", root.Signed.Roles[metadata.ROOT].Threshold)
		}
	})
}

// TestReviewFreshFolderInTheWay: a folder that has a first root and nothing else must not end what is served.
func TestReviewFreshFolderInTheWay(t *testing.T) {
	inHouse(t, func(h *house) {
		first := must(os.ReadFile(filepath.Join(h.dir, "1.root.json")))
		h.away()
		must(Create(h.dir, Holders{
			Root: []crypto.PublicKey{public(newKey())}, Threshold: 1, Targets: public(newKey()), Snapshot: public(newKey()), Timestamp: public(newKey()),
		}, time.Now().Add(1000*day), nil))
		h.begin() // without a signature it is not taken
		_ = h.Publish(h.Context())
		h.dir = h.TempDir()
		h.write("1.root.json", first)
		h.serves("one")
	})
	inHouse(t, func(h *house) {
		first := must(os.ReadFile(filepath.Join(h.dir, "1.root.json")))
		h.away()
		other := newKey()
		must(Create(h.dir, Holders{
			Root: []crypto.PublicKey{public(other)}, Threshold: 1, Targets: public(newKey()), Snapshot: public(newKey()), Timestamp: public(newKey()),
		}, time.Now().Add(1000*day), []signature.Signer{other}))
		h.begin() // it has no targets, and its keys are not here
		_ = h.Publish(h.Context())
		t.Logf("problem: %+v", h.Status().Problem)
		h.dir = h.TempDir()
		h.write("1.root.json", first)
		h.serves("one")
	})
}

// TestReviewPermission: what is said of a folder that may not be read.
func TestReviewPermission(t *testing.T) {
	inHouse(t, func(h *house) {
		db := must(storage.Create("db3", storage.Options{FS: vfs.NewCrashableMem()}))
		h.Cleanup(func() { db.Close() })
		h.remove("1.root.json")
		if err := os.Symlink("1.root.json", filepath.Join(h.dir, "1.root.json")); err != nil { // reads as ELOOP, also for root
			t.Fatal(err)
		}
		_, err := New(h.Context(), Config{DB: db, Dir: h.dir})
		if err == nil || strings.Contains(err.Error(), "adds a signature") {
			t.Errorf("a file that cannot be read lacks no signature: %v", err)
		}
	})
}

// TestReviewCopiedInAnyOrder: whatever of the folder is there, and half of which file, and whether the new keys
// are there: clients are served, and nothing goes back. (It holds.)
func TestReviewCopiedInAnyOrder(t *testing.T) {
	seeds := uint64(8)
	if testing.Short() {
		seeds = 2
	}
	for seed := range seeds {
		inHouse(t, func(h *house) {
			r := rand.New(rand.NewPCG(seed, 1))
			origin := filepath.Join(h.TempDir(), "origin")
			if err := os.CopyFS(origin, os.DirFS(h.dir)); err != nil {
				t.Fatal(err)
			}
			folder := must(OpenFolder(origin))
			for i := range 6 {
				role := []string{metadata.TIMESTAMP, metadata.SNAPSHOT, metadata.TARGETS, metadata.ROOT}[r.IntN(4)]
				fresh, keys, signers := newKey(), []crypto.PublicKey(nil), h.roots()
				keys = append(keys, public(fresh))
				if role == metadata.ROOT {
					keys, signers = append(keys, public(h.root2)), append(signers, fresh)
				}
				must(folder.Rotate(role, keys, 0, time.Now().Add(900*day), signers))
				h.keys[role] = fresh
				if role == metadata.TARGETS || r.IntN(2) == 0 {
					must(folder.SignTargets(map[string][]byte{"what": []byte(fmt.Sprint(i)), trust.RootTarget: []byte(someRoot)}, time.Now().Add(500*day), h.keys[metadata.TARGETS]))
				}
			}
			var files []string
			if err := filepath.WalkDir(origin, func(name string, e fs.DirEntry, err error) error {
				if err == nil && !e.IsDir() {
					files = append(files, must(filepath.Rel(origin, name)))
				}
				return err
			}); err != nil {
				t.Fatal(err)
			}
			r.Shuffle(len(files), func(i, j int) { files[i], files[j] = files[j], files[i] })
			at := r.IntN(2 * len(files))
			seen := map[string]int64{}
			look := func() {
				_ = h.Publish(h.Context())
				for _, cache := range []string{h.clientDir, h.TempDir()} {
					if _, err := h.client(cache); err != nil {
						h.Fatalf("seed %d: %v", seed, err)
					}
				}
				for role, v := range h.served() {
					if v < seen[role] {
						h.Fatalf("seed %d: %s went from %d to %d", seed, role, seen[role], v)
					}
					seen[role] = v
				}
			}
			for i, file := range files {
				data := must(os.ReadFile(filepath.Join(origin, file)))
				for j, part := range [][]byte{data[:r.IntN(len(data))], data} {
					if 2*i+j == at {
						h.online = map[string]signature.Signer{metadata.SNAPSHOT: h.keys[metadata.SNAPSHOT], metadata.TIMESTAMP: h.keys[metadata.TIMESTAMP]}
						h.begin()
					}
					h.write(file, part)
					if file == "1.root.json" && j == 0 {
						continue // clients begin at it
					}
					time.Sleep(time.Duration(r.IntN(int(day / 5))))
					look()
				}
			}
			look()
			if p := h.Status().Problem; p != nil {
				h.Errorf("seed %d: %+v", seed, p)
			}
		})
	}
}

// TestReviewFirstRootOfAnotherNumber: 1.root.json that is no version 1.
func TestReviewFirstRootOfAnotherNumber(t *testing.T) {
	inHouse(t, func(h *house) {
		edit(h, "1.root.json", func(m *metadata.Metadata[metadata.RootType]) {
			m.Signed.Version = 5
			m.ClearSignatures()
			for _, s := range h.roots() {
				must(m.Sign(s))
			}
		})
		db := must(storage.Create("db4", storage.Options{FS: vfs.NewCrashableMem()}))
		h.db.Close()
		h.db = db
		defer func() {
			if p := recover(); p != nil {
				t.Logf("New: %v", p) // an error is right
			}
		}()
		h.begin()
		h.publish()
		n := 0
		h.online[metadata.TIMESTAMP] = counted{h.online[metadata.TIMESTAMP], &n}
		if p := h.Status().Problem; p == nil {
			t.Error("1.root.json is version 5, and nothing is said")
		}
	})
}
