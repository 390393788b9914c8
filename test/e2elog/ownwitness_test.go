package e2elog

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/understudy-log/understudy/test/process"
	"github.com/understudy-log/understudy/test/witnesses"
)

// ownWitness is an understudy that witnesses logs, and nothing else.
type ownWitness struct {
	*testing.T
	url, vkey string
	config    string
	admin     string
	process   *process.Process
}

// newOwnWitness runs one that knows logs, as entries of its configuration.
func newOwnWitness(t *testing.T, logs ...string) *ownWitness {
	t.Helper()
	dir, addrs := t.TempDir(), must(process.FreeAddrs(3))
	key := filepath.Join(dir, "w.key")
	vkey, err := exec.CommandContext(t.Context(), understudy(), "keys", "generate", "--name", "witness.us.test/w1", "--output", key).Output()
	if err != nil {
		t.Fatal(err)
	}
	w := &ownWitness{T: t, url: "http://" + addrs[0] + "/witness", vkey: strings.TrimSpace(string(vkey)), config: filepath.Join(dir, "understudy.yaml"), admin: addrs[2]}
	save(t, w.config, fmt.Appendf(nil, "data_dir: ./data\nlisten: {http: %s, grpc: %s, admin: %s}\nwitness: {keys: [w.key], logs: [%s]}\n",
		addrs[0], addrs[1], addrs[2], strings.Join(logs, ", ")))
	w.start()
	t.Cleanup(w.kill)
	return w
}

func (w *ownWitness) start() {
	w.Helper()
	w.process = must(process.Start(w.config+".log", understudy(), "serve", "--config", w.config))
	if err := w.process.Until(within(w.T, 20*time.Second), func(context.Context) error {
		answer, err := http.Get("http://" + w.admin + "/healthz")
		if err == nil {
			answer.Body.Close()
		}
		return err
	}); err != nil {
		w.Fatal(err)
	}
}

func (w *ownWitness) kill() { w.process.Kill() }

// line is the witness in a policy.
func (w *ownWitness) line() string { return fmt.Sprintf("witness ours %s %s\n", w.vkey, w.url) }

// published returns what is read at an address.
func (d *daemon) published(at string) (string, error) {
	answer, err := http.Get(at)
	if err != nil {
		return "", err
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	return string(body), err
}

// TestOwnWitness: our own understudy witnesses both generations of our log. While it is away nothing is
// published, also over a kill of the log; then what waited is. When it knows a larger tree than the
// log, whose database was restored from an old copy, that generation signs nothing more, and the other
// goes on.
func TestOwnWitness(t *testing.T) {
	t.Parallel()
	understudyOnly(t)
	var w *ownWitness
	d := newUnderstudy(t, settings{withoutQuorum: "wait", policy: func(d *daemon) string {
		s := d.stage()
		// A key of Rekor v1 has no name of its own in its PEM: the origin is told.
		w = newOwnWitness(t, fmt.Sprintf("{origin: '%s - %s', public_key: '%s'}", d.v1Host, treeID, s.keyFile(t, 1)), fmt.Sprintf("{public_key: '%s'}", d.vkeyV2()))
		return w.line() + "quorum ours\n"
	}})
	s := d.stage()
	all := func(what string) {
		t.Helper()
		for name, p := range s.proposals(t) {
			p.logged(t, what+", "+name)
		}
	}
	all("at first")
	all("again")
	since := time.Now().Add(-time.Minute)
	checkpoint := must(d.published(direct(s.v2) + "/api/v2/checkpoint"))
	text := checkpoint[:strings.LastIndex(checkpoint, "\n\n")+1]
	lines := ""
	for line := range strings.Lines(checkpoint[len(text)+1:]) {
		if strings.HasPrefix(line, "— witness.us.test/w1 ") {
			lines += line
		}
	}
	if err := witnesses.Cosigned(text, lines, []string{w.vkey}, since, time.Now().Add(time.Second)); err != nil {
		t.Errorf("%v:\n%s", err, checkpoint)
	}
	d.says("witness   ours: cosigned 2")

	// The witness is away.
	v1, v2 := s.sizes(t)
	w.kill()
	waiting := s.proposals(t)
	unanswered := func(what string) {
		t.Helper()
		var asking sync.WaitGroup
		for name, p := range waiting {
			asking.Go(func() {
				if answer, body, err := p.send(within(t, 3*time.Second)); err == nil {
					t.Errorf("%s, %s: answered without the witness: %s: %s", what, name, answer.Status, body)
				}
			})
		}
		asking.Wait()
		if now1, now2 := s.sizes(t); now1 != v1 || now2 != v2 {
			t.Errorf("%s: %d and %d entries are published, want %d and %d", what, now1, now2, v1, v2)
		}
	}
	unanswered("the witness is away")
	d.kill()
	if err := d.start(); err != nil {
		t.Fatal(err)
	}
	unanswered("the log was killed meanwhile")
	d.says("problem ")
	w.start()
	// They are logged already: Rekor v1's clients are told where.
	for name, p := range waiting {
		if err := process.Until(within(t, 30*time.Second), func(ctx context.Context) error {
			answer, body, err := p.send(ctx)
			if err == nil && answer.StatusCode != http.StatusCreated && answer.StatusCode != http.StatusConflict {
				err = fmt.Errorf("%s: %s", answer.Status, body)
			}
			return err
		}); err != nil {
			t.Errorf("the witness is back, %s: %v", name, err)
		}
	}
	if now1, now2 := s.sizes(t); now1 != v1+1 || now2 != v2+1 {
		t.Errorf("the witness is back: %d and %d entries, want %d and %d", now1, now2, v1+1, v2+1)
	}
	all("the witness is back")

	// An old copy of the database, without what remembers the newest checkpoints.
	d.kill()
	data, old, newer := filepath.Join(d.dir, "data"), filepath.Join(d.dir, "old"), filepath.Join(d.dir, "newer")
	if err := os.CopyFS(old, os.DirFS(data)); err != nil {
		t.Fatal(err)
	}
	if err := d.start(); err != nil {
		t.Fatal(err)
	}
	s.proposals(t)["v2"].logged(t, "after the copy")
	v1, v2 = s.sizes(t)
	d.kill()
	if err := os.Rename(data, newer); err != nil {
		t.Fatal(err)
	}
	if err := os.CopyFS(data, os.DirFS(old)); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(filepath.Join(data, "newest")); err != nil {
		t.Fatal(err)
	}
	if err := d.start(); err != nil {
		t.Fatal(err)
	}
	d.says(fmt.Sprintf("has cosigned %d entries", v2))
	before := must(d.published(direct(s.v2) + "/api/v2/checkpoint"))
	for range 2 {
		proposals := s.proposals(t)
		proposals["v2"].refused(t, "an old database", "DATABASE_BEHIND")
		proposals["v1"].logged(t, "the other generation")
	}
	if now1, now2 := s.sizes(t); now1 != v1+2 || now2 != v2-1 {
		t.Errorf("an old database: %d and %d entries, want %d and %d", now1, now2, v1+2, v2-1)
	}
	time.Sleep(2 * time.Second) // it signs each second, while it signs
	if after := must(d.published(direct(s.v2) + "/api/v2/checkpoint")); after != before {
		t.Errorf("it signs still:\n%s\n%s", before, after)
	}
	d.says("private log, Rekor v1")
	if out, _ := d.try("status", "--config", d.config); strings.Count(out, "\n  problem   ") != 1 {
		t.Errorf("status:\n%s", out)
	}

	// With the database that was there last, all goes on. What the first generation logged meanwhile is
	// lost with the old one: it is that which is behind now.
	d.kill()
	if err := os.RemoveAll(data); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(newer, data); err != nil {
		t.Fatal(err)
	}
	if err := d.start(); err != nil {
		t.Fatal(err)
	}
	proposals := s.proposals(t)
	proposals["v2"].logged(t, "the newest database")
	proposals["v1"].refused(t, "the newest database, of which a part is older", "DATABASE_BEHIND")
}

// TestOwnWitnessInGroup: two of three, ours among them, are enough, whichever is away; one is not.
func TestOwnWitnessInGroup(t *testing.T) {
	t.Parallel()
	understudyOnly(t)
	dir, err := os.MkdirTemp("", "lite") // short, for the sake of its socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	var ours *ownWitness
	var omni, lite *witnesses.Peer
	d := newUnderstudy(t, settings{without: 1, withoutQuorum: "wait", policy: func(d *daemon) string {
		logs := []*witnesses.Log{{Origin: d.v2Host, VKey: d.vkeyV2()}}
		ours = newOwnWitness(t, fmt.Sprintf("{public_key: '%s'}", d.vkeyV2()))
		omni = must(witnesses.NewOmniwitness(t.Context(), t.TempDir(), logs, witnesses.Ed25519))
		lite = must(witnesses.NewLitewitness(t.Context(), dir, logs))
		for _, peer := range []*witnesses.Peer{omni, lite} {
			t.Cleanup(peer.Kill)
			if err := peer.Start(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		return ours.line() + fmt.Sprintf("witness omni %s %s\nwitness lite %s %s\ngroup some 2 ours omni lite\nquorum some\n",
			omni.VKeys[0], omni.URL, lite.VKeys[0], lite.URL)
	}})
	s := d.stage()
	writer := newTileWriter(t, s)
	add := func(what string) {
		t.Helper()
		entry, err := writer.Add(within(t, 20*time.Second), hashedRekord())
		if err == nil {
			err = writer.verify(entry)
		}
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		if n := strings.Count(entry.GetInclusionProof().GetCheckpoint().GetEnvelope(), "\n— "); n < 4 { // Ed25519 and ML-DSA-44 of the log
			t.Errorf("%s: %d signatures, want at least 4", what, n)
		}
	}
	add("all are there")
	ours.kill()
	add("ours is away")
	d.kill()
	if err := d.start(); err != nil {
		t.Fatal(err)
	}
	add("ours is away, and the log was killed")
	ours.start()
	omni.Kill()
	add("omniwitness is away")
	ours.kill()
	if answer, err := writer.Add(within(t, 3*time.Second), hashedRekord()); err == nil {
		t.Errorf("one of three: %v", answer)
	}
	ours.start()
	add("ours is back")
}
