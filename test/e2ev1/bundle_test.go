package e2ev1

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sigstore/sigstore-go/pkg/bundle"

	"github.com/understudy-log/understudy/test/daemon"
	"github.com/understudy-log/understudy/test/tools/tool"
)

// TestBundles has a mirror alone give proofs to the newest checkpoint for bundles that cosign
// made before, and make bundles of signatures that have none; sigstore-go verifies them.
// Another mirror, which has never seen Rekor, stands in with what the bundles have.
func TestBundles(t *testing.T) {
	w := newWorld(t)
	m := w.newMirror("coverage: pinned, public_keys: " + w.keyList())
	m.live()
	actor := w.user(w.log.URL)
	key, person := w.byName("hashedrekord in shard 0"), w.byName("hashedrekord by e-mail in shard 1")
	made := map[string]string{}
	for _, s := range []sample{key, person} {
		m.read(s.LogIndex)
		made[s.name] = filepath.Join(actor.home, strings.ReplaceAll(s.name, " ", "-")+".json")
		verifier := "--key=" + s.files.verifier
		if isCertificate(s.Signer.Verifier) {
			verifier = "--certificate=" + s.files.verifier64
		}
		if err := actor.createBundle(made[s.name], s.files, verifier); err != nil {
			t.Fatal(err)
		}
	}
	list := w.write("uuids.txt", []byte("# one that nobody has read\n"+w.unread.UUID+"\n"))
	if out := m.command("pin", list); !strings.Contains(out, "pinned "+w.unread.UUID) {
		t.Errorf("pin of a UUID: %s", out)
	}
	w.fill(15)
	m.live()
	m.alone()

	for _, s := range []sample{key, person} {
		w.wantFresh(s, m.command("bundle", "refresh", made[s.name]), w.sizeOf(s.shard))
		w.wantFresh(s, m.command("bundle", "refresh", w.legacyBundle(actor, s)), w.sizeOf(s.shard))
		digest := fmt.Sprintf("sha256:%x", sha256.Sum256(s.Artifact))
		w.wantFresh(s, m.command("bundle", "refresh", "--signature", s.files.signature, "--verifier", s.files.verifier, "--digest", digest), w.sizeOf(s.shard))
	}
	never := w.never()
	m.commandFails(1, "no entry of the log is known", "bundle", "refresh", "--signature", never.signature, "--verifier", w.strangeKey())
	m.commandFails(1, "not with this signature", "bundle", "refresh", "--signature", never.signature, "--verifier", key.files.verifier)
	if _, err := m.user(m.daemon.URL()).ask(http.MethodGet, "/api/v1/log/entries/"+w.unread.UUID, nil); err != nil {
		t.Errorf("entry that was pinned by UUID: %v", err)
	}
	m.sound()

	heir := w.newHeir()
	for _, s := range []sample{key, person} {
		if out := heir.command("pin", made[s.name]); !strings.Contains(out, "pinned "+s.UUID) || !strings.Contains(out, "as soon as Rekor answers") {
			t.Errorf("pin of a bundle: %s", out)
		}
	}
	heir.commandFails(1, "signed entry timestamp", "pin", w.forged(made[key.name]))
	heir.commandFails(2, "cannot be reached", "pin", list)
	if err := heir.daemon.Start(w.within(startLimit)); err != nil {
		t.Fatal(err)
	}
	reader := w.user(heir.daemon.URL())
	for _, s := range []sample{key, person} {
		got, err := reader.ask(http.MethodGet, "/api/v1/log/entries/"+s.UUID, nil)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := reader.verified(got); err != nil {
			t.Errorf("%s: %v", s.name, err)
		}
	}
	for _, path := range []string{"/api/v1/log", "/api/v1/log/entries/" + w.byName("rekord in shard 0").UUID} {
		if got, err := reader.ask(http.MethodGet, path, nil); err == nil || !strings.Contains(err.Error(), "503") {
			t.Errorf("%s: %s, %v", path, got, err)
		}
	}
	heir.sound()
}

// wantFresh verifies a bundle, and that its proof leads to a tree of that size.
func (w *world) wantFresh(s sample, made string, size uint64) {
	w.Helper()
	u := w.user("")
	if err := u.verifyBundle([]byte(made), s.Signer, s.Artifact); err != nil {
		w.Errorf("%s: %v\n%s", s.name, err, made)
		return
	}
	if u.verifyBundle([]byte(made), s.Signer, []byte("wrong")) == nil {
		w.Errorf("%s: sigstore-go accepts a wrong artifact", s.name)
	}
	var b bundle.Bundle
	if err := b.UnmarshalJSON([]byte(made)); err != nil {
		w.Fatal(err)
	}
	if got := b.VerificationMaterial.GetTlogEntries()[0].GetInclusionProof().GetTreeSize(); uint64(got) != size {
		w.Errorf("%s is proven to a tree of size %d, want %d", s.name, got, size)
	}
}

// legacyBundle returns a file as cosign sign-blob wrote it before there were Sigstore bundles.
func (w *world) legacyBundle(actor *user, s sample) string {
	w.Helper()
	answer, err := actor.askOnce(s)
	if err != nil {
		w.Fatal(err)
	}
	var legacy struct {
		Signature []byte `json:"base64Signature"`
		Cert      []byte `json:"cert,omitempty"`
		Bundle    struct {
			SET     []byte `json:"SignedEntryTimestamp"`
			Payload struct {
				Body           json.RawMessage `json:"body"`
				IntegratedTime int64           `json:"integratedTime"`
				LogIndex       uint64          `json:"logIndex"`
				LogID          string          `json:"logID"`
			}
		} `json:"rekorBundle"`
	}
	if legacy.Signature, err = os.ReadFile(s.files.signature); err != nil {
		w.Fatal(err)
	}
	if isCertificate(s.Signer.Verifier) {
		legacy.Cert = s.Signer.Verifier
	}
	legacy.Bundle.SET = answer.Verification.SET
	p := &legacy.Bundle.Payload
	p.Body, p.IntegratedTime, p.LogIndex, p.LogID = answer.Body, answer.IntegratedTime, answer.LogIndex, answer.LogID
	data, err := json.Marshal(legacy)
	if err != nil {
		w.Fatal(err)
	}
	return w.write("legacy.json", data)
}

// askedEntry is what a legacy bundle takes from an answer of Rekor.
type askedEntry struct {
	Body           json.RawMessage `json:"body"`
	IntegratedTime int64           `json:"integratedTime"`
	LogIndex       uint64          `json:"logIndex"`
	LogID          string          `json:"logID"`
	Verification   struct {
		SET []byte `json:"signedEntryTimestamp"`
	} `json:"verification"`
}

// askOnce reads what Rekor answered when the entry was written.
func (u *user) askOnce(s sample) (askedEntry, error) {
	var answer map[string]askedEntry
	if err := json.Unmarshal(s.Answer, &answer); err != nil {
		return askedEntry{}, err
	}
	entry, ok := answer[s.UUID]
	if !ok {
		return askedEntry{}, fmt.Errorf("no entry %s in %s", s.UUID, s.Answer)
	}
	return entry, nil
}

// forged returns a file with a bundle whose signed entry timestamp is of another time.
func (w *world) forged(file string) string {
	w.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		w.Fatal(err)
	}
	var b bundle.Bundle
	if err := b.UnmarshalJSON(data); err != nil {
		w.Fatal(err)
	}
	b.VerificationMaterial.TlogEntries[0].IntegratedTime++
	if data, err = b.MarshalJSON(); err != nil {
		w.Fatal(err)
	}
	return w.write("forged.json", data)
}

func (w *world) write(name string, data []byte) string {
	w.Helper()
	path := filepath.Join(w.TempDir(), name)
	if err := os.WriteFile(path, data, 0o600); err != nil {
		w.Fatal(err)
	}
	return path
}

// newHeir returns a mirror that does not run, and whose Rekor is dead.
func (w *world) newHeir() *mirror {
	w.Helper()
	binary, err := tool.Understudy(w.Context())
	if err != nil {
		w.Fatal(err)
	}
	m := &mirror{world: w}
	if m.daemon, err = daemon.New(daemon.Config{
		Binary: binary, Dir: w.TempDir(), URL: w.log.URL, TrustedRoot: w.log.TrustedRootFile,
		Poll: time.Second, RequestsPerSecond: 200, Coverage: "coverage: pinned, public_keys: " + w.keyList(),
	}); err != nil {
		w.Fatal(err)
	}
	w.Cleanup(m.daemon.Kill)
	return m
}

// command runs a verb that must succeed.
func (m *mirror) command(verb ...string) string {
	m.Helper()
	out, err := m.daemon.Command(m.within(startLimit), verb...)
	if err != nil {
		m.Fatalf("%v\n%s", err, out)
	}
	return out
}

// commandFails runs a verb that must fail.
func (m *mirror) commandFails(code int, why string, verb ...string) {
	m.Helper()
	_, err := m.daemon.Command(m.within(startLimit), verb...)
	if err == nil || !strings.Contains(err.Error(), why) || !strings.Contains(err.Error(), fmt.Sprintf("exit status %d", code)) {
		m.Errorf("understudy %v: %v; want exit code %d and %q", verb, err, code, why)
	}
}
