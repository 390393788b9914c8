package publish

import (
	"bytes"
	"context"
	"crypto"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
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
)

// configOf is a SigningConfig that lists one log.
func configOf(host string) []byte {
	return fmt.Appendf(nil, `{"mediaType": "application/vnd.dev.sigstore.signingconfig.v0.2+json", "rekorTlogUrls": [{"url": "https://%s", "majorApiVersion": 1, "operator": "%[1]s", "validFor": {"start": "2021-01-12T11:53:27Z"}}], "rekorTlogConfig": {"selector": "ANY"}}`, host)
}

const (
	publicLog, privateLog = "rekor.public.example", "rekor.us.example"

	onPublic, onFallback = trust.SigningPublic, trust.SigningFallback
)

// inSwitchHouse is inHouse with targets that delegate the SigningConfig to a key that the daemon has.
func inSwitchHouse(t *testing.T, test func(*house)) {
	t.Helper()
	inHouse(t, func(h *house) {
		h.delegate(newKey())
		h.approve("one", nil)
		h.begin()
		h.publish()
		h.switched(onPublic)
		test(h)
	})
}

// delegate has the next targets name a key, which the daemon gets.
func (h *house) delegate(key signature.Signer) {
	h.Helper()
	h.signing = key
	must(h.folder.Delegate(public(key)))
}

// approve signs targets with both contents, but for what is changed.
func (h *house) approve(what string, change func(files map[string][]byte)) {
	h.Helper()
	files := map[string][]byte{"what": []byte(what), trust.RootTarget: []byte(someRoot), PublicTarget: configOf(publicLog), FallbackTarget: configOf(privateLog)}
	if change != nil {
		change(files)
	}
	if _, err := h.folder.SignTargets(files, time.Now().Add(500*day), h.keys[metadata.TARGETS]); err != nil {
		h.Fatal(err)
	}
}

// fromClient gets a target as a client does.
func (h *house) fromClient(files fetch, cache, target string) (string, error) {
	c, err := tuf.New(&tuf.Options{Root: must(os.ReadFile(filepath.Join(h.dir, "1.root.json"))), RepositoryBaseURL: "http://understudy/trust", CachePath: cache, Fetcher: files})
	if err != nil {
		return "", err
	}
	data, err := c.GetTarget(target)
	return string(data), err
}

// switched demands that new and old clients see the log of a mode, and no other, and that nothing stands in
// the way.
func (h *house) switched(mode trust.SigningLogs) {
	h.Helper()
	h.see(mode)
	if p := h.Status().Problem; p != nil {
		h.Errorf("problem %+v", p)
	}
	if m := h.Mode(); m.Served != mode || m.Wanted != mode || m.Since.IsZero() {
		h.Errorf("mode %+v, want %s", m, mode)
	}
}

func (h *house) see(mode trust.SigningLogs) {
	h.Helper()
	want := string(configOf(map[trust.SigningLogs]string{onPublic: publicLog, onFallback: privateLog}[mode]))
	for who, cache := range map[string]string{"a client from the beginning": h.clientDir, "a new client": h.TempDir()} {
		if got, err := h.fromClient(h.File, cache, trust.SigningTarget); err != nil || got != want {
			h.Errorf("%s: %q, %v, want %s", who, got, err, mode)
		}
		if got, err := h.fromClient(h.File, cache, "what"); err != nil {
			h.Errorf("%s: %q, %v", who, got, err)
		}
	}
}

func (h *house) to(mode trust.SigningLogs) {
	h.Helper()
	if err := h.Switch(mode); err != nil {
		h.Fatal(err)
	}
}

// signingVersion is the number of what is served of the role signing.
func (h *house) signingVersion() int64 { return h.Seen(SigningRole) }

// TestSwitch: clients see the log of the mode and no other, at their next refresh, as often as that changes;
// numbers go up only.
func TestSwitch(t *testing.T) {
	inSwitchHouse(t, func(h *house) {
		before := h.signingVersion()
		for i := range 6 {
			mode := onFallback
			if i%2 == 1 {
				mode = onPublic
			}
			h.to(mode)
			h.to(mode)
			h.publish()
			h.switched(mode)
			if v := h.signingVersion(); v <= before {
				t.Errorf("version %d after %d", v, before)
			} else {
				before = v
			}
			h.publish()
			if v := h.signingVersion(); v != before {
				t.Errorf("it is signed again: version %d after %d", v, before)
			}
		}
		if n := len(h.History(trust.SigningTarget)); n != 7 {
			t.Errorf("%d versions in the history", n)
		}
		m := must(metadata.Targets().FromBytes(must2(h.File(signingFile(before))).Data))
		if len(m.Signed.Targets) != 1 || m.Signed.Targets[trust.SigningTarget] == nil || m.Signed.Delegations != nil {
			t.Errorf("%+v", m.Signed)
		}
		if err := h.Switch(trust.SigningAlways); err == nil || !strings.Contains(err.Error(), "want public or fallback") {
			t.Error(err)
		}
	})
}

// TestSwitchAtOnce: Run serves another mode within a second, though it looks at the folder every five.
func TestSwitchAtOnce(t *testing.T) {
	inSwitchHouse(t, func(h *house) {
		ctx, stop := context.WithCancel(h.Context())
		done := make(chan error)
		go func() { done <- h.Publisher.Run(ctx) }()
		synctest.Wait()
		for _, mode := range []trust.SigningLogs{onFallback, onPublic, onFallback} {
			h.to(mode)
			time.Sleep(time.Second)
			synctest.Wait()
			h.switched(mode)
		}
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// TestSwitchMonths: in either mode what is signed is signed anew in time, and numbers go up only.
func TestSwitchMonths(t *testing.T) {
	if testing.Short() {
		t.Skip("slow under the race detector")
	}
	inSwitchHouse(t, func(h *house) {
		last := map[string]int64{}
		n := 0
		for i := range 60 {
			if i == 30 {
				h.to(onFallback)
			}
			h.pass(day)
			h.switched(h.Mode().Wanted)
			for _, role := range []string{metadata.SNAPSHOT, metadata.TIMESTAMP, SigningRole} {
				v := h.Seen(role)
				if v < last[role] {
					t.Fatalf("%s went from version %d to %d", role, last[role], v)
				}
				if role == SigningRole && v > last[role] {
					n++
				}
				last[role] = v
			}
		}
		if n < 5 || n > 8 { // 1, a switch, and every 14 days
			t.Errorf("signed %d times in 60 days", n)
		}
	})
}

// TestSwitchCannot: what is in the way is told with a code and with what to do; clients notice nothing, and
// what was wanted is served once it can be.
func TestSwitchCannot(t *testing.T) {
	for name, test := range map[string]struct {
		code, says string
		do         func(h *house) // before the daemon starts
		mend       func(h *house)
	}{
		"an older folder": {CodeNotDelegated, `"understudy trust rotate DIR signing"`, func(h *house) {
			h.signing = nil
			h.approve("one", func(files map[string][]byte) {
				files[trust.SigningTarget] = files[PublicTarget]
				delete(files, PublicTarget)
				delete(files, FallbackTarget)
			})
		}, func(h *house) { h.delegate(newKey()); h.approve("one", nil) }},
		"no fallback": {CodeNoContent, FallbackTarget, func(h *house) {
			h.delegate(newKey())
			h.approve("one", func(files map[string][]byte) { delete(files, FallbackTarget) })
		}, func(h *house) { h.approve("one", nil) }},
		"no key": {CodeNoKey, "signing_key", func(h *house) {
			h.delegate(newKey())
			h.approve("one", nil)
			h.begin()
			h.publish()
			h.signing = nil
		}, func(h *house) { h.delegate(newKey()); h.approve("one", nil) }},
		"another key": {CodeWrongKey, "signing key given is not the one that 2.targets.json names", func(h *house) {
			h.delegate(newKey())
			h.approve("one", nil)
			h.begin()
			h.publish()
			h.signing = newKey()
		}, func(h *house) { h.delegate(h.signing); h.approve("one", nil) }},
		"a key that cannot be opened": {CodeKeyFails, "in a safe", func(h *house) {
			h.delegate(newKey())
			h.approve("one", nil)
			h.begin()
			h.publish()
			h.noSigning = errors.New("it is in a safe")
		}, func(h *house) { h.noSigning = nil }},
	} {
		t.Run(name, func(t *testing.T) {
			inHouse(t, func(h *house) {
				test.do(h)
				h.begin()
				h.publish()
				h.see(onPublic)
				if err := h.Switch(onPublic); err != nil {
					t.Errorf("what clients have: %v", err)
				}
				err := h.Switch(onFallback)
				if e, ok := errors.AsType[*SwitchError](err); !ok || e.Code != test.code || !strings.Contains(err.Error(), test.says) || !strings.Contains(err.Error(), test.code) {
					t.Errorf("got %v, want %s with %q", err, test.code, test.says)
				}
				if m := h.Mode(); m.Wanted != onFallback || m.Served == onFallback {
					t.Errorf("mode %+v", m)
				}
				h.weeks(2 * day)
				h.see(onPublic)
				test.mend(h)
				h.begin()
				h.publish()
				h.switched(onFallback)
			})
		})
	}
	inHouse(t, func(h *house) {
		h.Publisher = must(New(h.Context(), Config{DB: h.otherDB(), Dir: h.dir}))
		if e, ok := errors.AsType[*SwitchError](h.Switch(onFallback)); !ok || e.Code != CodeNotPublished {
			t.Errorf("nothing is published: %v", e)
		}
	})
}

// otherDB is another database.
func (h *house) otherDB() *storage.DB {
	h.Helper()
	db := must(storage.Create("other", storage.Options{FS: vfs.NewMem()}))
	h.Cleanup(func() { db.Close() })
	return db
}

// TestSwitchKeyFails: without its key the mode stays, and those who only verify go on, also when the
// SigningConfig has expired; with it all is as wanted.
func TestSwitchKeyFails(t *testing.T) {
	if testing.Short() {
		t.Skip("slow under the race detector")
	}
	inSwitchHouse(t, func(h *house) {
		h.noSigning = errors.New("it is in a safe")
		h.begin()
		h.to2(onFallback)
		h.weeks(10 * day)
		h.see(onPublic)
		if p := h.Status().Problem; p == nil || !strings.Contains(p.Text, "in a safe") || !strings.Contains(p.Text, "stays public") {
			t.Errorf("problem %+v", p)
		}
		h.weeks(30 * day)
		h.serves("one")
		if _, err := h.fromClient(h.File, h.TempDir(), trust.SigningTarget); err == nil || !strings.Contains(err.Error(), "expired") {
			t.Errorf("an old SigningConfig: %v", err)
		}
		h.noSigning = nil
		h.publish()
		h.switched(onFallback)
	})
}

// to2 switches, whatever it says.
func (h *house) to2(mode trust.SigningLogs) { _ = h.Switch(mode) }

// TestSwitchKeyArrives: a key that is brought while the daemon runs is used without a restart.
func TestSwitchKeyArrives(t *testing.T) {
	inSwitchHouse(t, func(h *house) {
		right := h.signing
		h.signing = newKey()
		h.begin()
		h.publish()
		h.to2(onFallback)
		h.publish()
		h.see(onPublic)
		h.signing = right
		h.publish()
		h.switched(onFallback)
	})
}

// TestSwitchCrash: what Switch has returned for is served after a crash at any moment, by clients' rules.
func TestSwitchCrash(t *testing.T) {
	inSwitchHouse(t, func(h *house) {
		for _, mode := range []trust.SigningLogs{onFallback, onPublic, onFallback} {
			h.to(mode)
			h.crash(h.disk.CrashClone(vfs.CrashCloneCfg{})) // between the record and what follows
			if m := h.Mode(); m.Wanted != mode || m.Served == mode || m.WantedSince.IsZero() {
				t.Errorf("mode %+v", m)
			}
			h.publish()
			h.switched(mode)
			since := h.Mode().Since
			h.crash(h.disk.CrashClone(vfs.CrashCloneCfg{}))
			if m := h.Mode(); m.Served != mode || !m.Since.Equal(since) {
				t.Errorf("mode %+v, want since %v", m, since)
			}
			h.see(mode)
			h.publish()
			h.switched(mode)
		}
	})
}

// TestSwitchOlderDatabase: one that was restored, to before a switch of which it knows nothing, does not
// have clients see older numbers; nor does one in which nothing had changed.
func TestSwitchOlderDatabase(t *testing.T) {
	for _, at := range []time.Duration{0, day / 2, 3 * day, 14 * day} {
		for _, later := range []time.Duration{time.Second, day / 4, 2 * day} {
			if testing.Short() && (at > day || later > day) {
				continue // slow under the race detector
			}
			inSwitchHouse(t, func(h *house) {
				h.pass(at)
				old := h.disk.CrashClone(vfs.CrashCloneCfg{})
				time.Sleep(time.Second)
				h.to(onFallback)
				h.publish()
				h.switched(onFallback)
				time.Sleep(later)
				h.publish()
				h.see(onFallback)
				time.Sleep(time.Second)
				h.crash(old)
				h.publish()
				h.switched(onPublic) // it knows no better; who watches the log says it again
				h.to(onFallback)
				h.publish()
				h.switched(onFallback)
			})
		}
	}
}

// TestSwitchKeyIsReplaced: under another key clients follow, and until it is here all is as before.
func TestSwitchKeyIsReplaced(t *testing.T) {
	inSwitchHouse(t, func(h *house) {
		h.to(onFallback)
		h.publish()
		fresh := newKey()
		must(h.folder.Delegate(public(fresh)))
		h.approve("two", nil)
		h.weeks(3 * day)
		h.see(onFallback)
		if p := h.Status().Problem; p == nil || !strings.Contains(p.Text, "signing key given is not the one that 3.targets.json names") {
			t.Errorf("problem %+v", p)
		}
		h.to(onPublic)
		h.publish()
		h.see(onPublic)
		h.signing = fresh // in the place of the other one: no restart
		h.publish()
		h.publish()
		h.switched(onPublic)
		h.good("two")
		if id := must(h.folder.SigningKey()); id != must(keyID(fresh)) {
			t.Errorf("delegated to %s", id)
		}
		h.folder = must(OpenFolder(h.dir))
		if _, err := h.folder.SignTargets(nil, time.Now().Add(500*day), h.keys[metadata.TARGETS]); err != nil { // the same again
			t.Fatal(err)
		}
		h.to(onFallback)
		h.publish()
		h.switched(onFallback)
	})
}

// TestSwitchEnds: targets that no longer delegate, and do again, lose no client.
func TestSwitchEnds(t *testing.T) {
	inSwitchHouse(t, func(h *house) {
		h.to(onFallback)
		h.publish()
		h.switched(onFallback)
		h.approve("two", func(files map[string][]byte) {
			files[trust.SigningTarget] = configOf(publicLog)
			delete(files, PublicTarget)
			delete(files, FallbackTarget)
		})
		h.publish()
		h.good("two")
		h.see(onPublic)
		if m := h.Mode(); m.Served != "" || m.Wanted != onFallback {
			t.Errorf("mode %+v", m)
		}
		h.pass(3 * day)
		h.good("two")
		h.approve("three", nil)
		h.publish()
		h.switched(onFallback)
	})
}

// TestSwitchOthersContent: nothing is signed but what the targets approve, whatever lies in the folder.
func TestSwitchOthersContent(t *testing.T) {
	inSwitchHouse(t, func(h *house) {
		targets := must(h.folder.targetsOf(2))
		d := delegationOf(targets)
		content := d.contents[onFallback]
		for name, data := range map[string][]byte{"another": configOf("evil.example"), "none": nil, "one byte more": append(configOf(privateLog), '\n')} {
			if _, _, err := h.signSigning(targets, d.id, content, data, 1, time.Now().Add(day)); err == nil || !strings.Contains(err.Error(), "not one that the targets approve") {
				t.Errorf("%s: %v", name, err)
			}
		}
		h.approve("two", func(files map[string][]byte) { files[FallbackTarget] = configOf("other.example") })
		h.write(trust.TargetFile(FallbackTarget, must(metadata.TargetFile().FromBytes("x", configOf("other.example"), "sha256")).Hashes["sha256"]), configOf("evil.example"))
		h.to(onFallback)
		h.publish()
		h.see(onFallback) // of the targets before
		if p := h.Status().Problem; p == nil {
			t.Error("nothing is said of a content that is another one")
		}
	})
}

// TestSwitchOtherDelegations: only the delegation that SignTargets makes is signed for; others are as they
// were before there was any.
func TestSwitchOtherDelegations(t *testing.T) {
	inSwitchHouse(t, func(h *house) {
		for name, change := range map[string]func(s *metadata.TargetsType){
			"another name":     func(s *metadata.TargetsType) { s.Delegations.Roles[0].Name = "other" },
			"more paths":       func(s *metadata.TargetsType) { s.Delegations.Roles[0].Paths = []string{trust.SigningTarget, "*"} },
			"all paths":        func(s *metadata.TargetsType) { s.Delegations.Roles[0].Paths = []string{"*"} },
			"by hash":          func(s *metadata.TargetsType) { s.Delegations.Roles[0].PathHashPrefixes = []string{"0"} },
			"not terminating":  func(s *metadata.TargetsType) { s.Delegations.Roles[0].Terminating = false },
			"a threshold of 0": func(s *metadata.TargetsType) { s.Delegations.Roles[0].Threshold = 0 },
			"no key":           func(s *metadata.TargetsType) { s.Delegations.Keys = nil },
			"a null key":       func(s *metadata.TargetsType) { s.Delegations.Keys[s.Delegations.Roles[0].KeyIDs[0]] = nil },
			"two roles": func(s *metadata.TargetsType) {
				s.Delegations.Roles = append(s.Delegations.Roles, s.Delegations.Roles[0])
			},
			"listed besides": func(s *metadata.TargetsType) { s.Targets[trust.SigningTarget] = s.Targets[PublicTarget] },
			"a key by another ID": func(s *metadata.TargetsType) {
				for id, key := range s.Delegations.Keys {
					s.Delegations.Keys["ab"] = key
					delete(s.Delegations.Keys, id)
				}
				s.Delegations.Roles[0].KeyIDs = []string{"ab"}
			},
		} {
			targets := must(h.folder.targetsOf(2))
			if delegationOf(targets) == nil {
				t.Fatal("its own is not known")
			}
			change(&targets.Signed)
			if delegationOf(targets) != nil {
				t.Errorf("%s: it is taken", name)
			}
		}
	})
}

// TestSwitchFolderRefuses: what cannot be delegated, or not to this key.
func TestSwitchFolderRefuses(t *testing.T) {
	inSwitchHouse(t, func(h *house) {
		sign := func(f *Folder, change func(files map[string][]byte)) error {
			files := map[string][]byte{trust.RootTarget: []byte(someRoot), PublicTarget: configOf(publicLog), FallbackTarget: configOf(privateLog)}
			change(files)
			_, err := f.SignTargets(files, time.Now().Add(day), h.keys[metadata.TARGETS])
			return err
		}
		dir := filepath.Join(t.TempDir(), "r")
		other := must(Create(dir, Holders{[]crypto.PublicKey{public(h.root2)}, 1, public(h.keys[metadata.TARGETS]), public(h.keys[metadata.SNAPSHOT]), public(h.keys[metadata.TIMESTAMP]), nil}, time.Now().Add(day), h.roots()))
		for name, test := range map[string]struct {
			says string
			err  error
		}{
			"a root key":                {"keys of its own", second(h.folder.Delegate(public(h.root2)))},
			"the timestamp key":         {"keys of its own", second(h.folder.Delegate(public(h.keys[metadata.TIMESTAMP])))},
			"no key":                    {"ECDSA on P-256", second(h.folder.Delegate(nil))},
			"its key for timestamps":    {"keys of its own", second(h.folder.Rotate(metadata.TIMESTAMP, []crypto.PublicKey{public(h.signing)}, 0, time.Now(), nil))},
			"fallback alone":            {"belongs beside it", sign(h.folder, func(f map[string][]byte) { delete(f, PublicTarget) })},
			"the target itself, too":    {"cannot be a target of its own", sign(h.folder, func(f map[string][]byte) { f[trust.SigningTarget] = f[PublicTarget] })},
			"a fallback of other bytes": {FallbackTarget, sign(h.folder, func(f map[string][]byte) { f[FallbackTarget] = []byte("{}") })},
			"without a key":             {"trust rotate DIR signing", sign(other, func(map[string][]byte) {})},
			"a key of two roles, at the beginning": {"another role", second(Create(filepath.Join(t.TempDir(), "r"), Holders{[]crypto.PublicKey{public(h.root2)}, 1, public(h.keys[metadata.TARGETS]),
				public(h.keys[metadata.SNAPSHOT]), public(h.keys[metadata.TIMESTAMP]), public(h.root2)}, time.Now().Add(day), h.roots()))},
		} {
			if test.err == nil || !strings.Contains(test.err.Error(), test.says) {
				t.Errorf("%s: %v", name, test.err)
			}
		}
	})
}

// TestSwitchCopy: a copy of our repository follows the delegated role, and its clients do.
func TestSwitchCopy(t *testing.T) {
	inSwitchHouse(t, func(h *house) {
		copied := must(trust.NewRepository(trust.RepositoryConfig{DB: h.otherDB(), URL: "http://first/trust", Root: must(os.ReadFile(filepath.Join(h.dir, "1.root.json"))),
			HTTPClient: &http.Client{Transport: transport(h.File)}}))
		cache := t.TempDir()
		for _, mode := range []trust.SigningLogs{onPublic, onFallback, onPublic, onFallback} {
			h.to(mode)
			h.publish()
			if err := copied.Update(h.Context()); err != nil {
				t.Fatal(err)
			}
			want := configOf(map[trust.SigningLogs]string{onPublic: publicLog, onFallback: privateLog}[mode])
			if !bytes.Equal(copied.Target(trust.SigningTarget), want) {
				t.Errorf("%s: the copy has %s", mode, copied.Target(trust.SigningTarget))
			}
			for _, cache := range []string{cache, t.TempDir()} {
				if got, err := h.fromClient(copied.File, cache, trust.SigningTarget); err != nil || got != string(want) {
					t.Errorf("%s: a client of the copy: %q, %v", mode, got, err)
				}
			}
		}
		if n := len(copied.History(trust.SigningTarget)); n != 4 {
			t.Errorf("%d versions in the history of the copy", n)
		}
	})
}

// transport answers requests below /trust/ out of a repository.
type transport func(path string) (trust.File, bool)

func (t transport) RoundTrip(r *http.Request) (*http.Response, error) {
	f, ok := t(strings.TrimPrefix(r.URL.EscapedPath(), "/trust/"))
	answer := &http.Response{StatusCode: http.StatusOK, Header: http.Header{}, Request: r, Body: io.NopCloser(bytes.NewReader(f.Data))}
	if !ok {
		answer.StatusCode = http.StatusNotFound
	}
	return answer, nil
}
