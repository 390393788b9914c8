// Package e2earchive runs understudy's witness and archive with other people's programs.
package e2earchive

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/understudy-log/understudy/test/witnesses"
)

// witnessesOnly skips a test of witnesses unless it is asked for.
func witnessesOnly(t *testing.T) {
	t.Helper()
	if os.Getenv("UNDERSTUDY_E2E_ARCHIVE") == "" {
		t.Skip("NOTICE: needs other people's programs: make e2e-archive")
	}
}

// witness is a witness that runs for the time of a test.
type witness struct {
	url     string // submission prefix
	vkeys   []string
	restart func(context.Context) error
	monitor string // monitoring prefix; empty: there is none

	quarantines bool // witnesses.Target's
}

// omniwitness starts transparency-dev's witness.
func omniwitness(t *testing.T, logs ...*witnesses.Log) *witness {
	t.Helper()
	peer, err := witnesses.NewOmniwitness(t.Context(), t.TempDir(), logs, witnesses.Ed25519, witnesses.MLDSA44)
	return started(t, peer, err)
}

// litewitness starts torchwood's witness.
func litewitness(t *testing.T, logs ...*witnesses.Log) *witness {
	t.Helper()
	dir, err := os.MkdirTemp("", "lite") // short, for the sake of its socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	peer, err := witnesses.NewLitewitness(t.Context(), dir, logs)
	return started(t, peer, err)
}

func started(t *testing.T, peer *witnesses.Peer, err error) *witness {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(peer.Kill)
	if err := peer.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	return &witness{url: peer.URL, vkeys: peer.VKeys, restart: peer.Restart}
}

// all are the witnesses that there are, each started for a test with the logs that it knows.
var all = []struct {
	name  string
	start func(t *testing.T, logs ...*witnesses.Log) *witness
}{
	{"understudy", understudy},
	{"omniwitness", omniwitness},
	{"litewitness", litewitness},
}

// submit has a witness cosign a checkpoint of a log, and returns the lines.
func (w *witness) submit(t *testing.T, request witnesses.Request) string {
	t.Helper()
	from := time.Now()
	answer, err := witnesses.Submit(t.Context(), http.DefaultClient, w.url, request.String())
	if err != nil {
		t.Fatal(err)
	}
	if answer.Status != http.StatusOK {
		t.Fatalf("want 200, got %v to\n%v", answer, request)
	}
	w.verify(t, request.Checkpoint, answer.Body, from)
	return answer.Body
}

// verify checks lines that are cosignatures of all the witness's keys since a time.
func (w *witness) verify(t *testing.T, checkpoint, lines string, from time.Time) {
	t.Helper()
	if err := witnesses.Cosigned(textOf(checkpoint), lines, w.vkeys, from.Add(-time.Second), time.Now().Add(time.Second)); err != nil {
		t.Fatal(err)
	}
}

// textOf returns the text of a signed note.
func textOf(checkpoint string) string { return checkpoint[:strings.LastIndex(checkpoint, "\n\n")+1] }

// published checks that a log has published a checkpoint of a size with a cosignature of a key,
// made since a time.
func published(t *testing.T, log *witnesses.Tessera, size int, vkey string, from time.Time) {
	t.Helper()
	checkpoint, err := log.Published()
	if err != nil {
		t.Fatal(err)
	}
	text := textOf(checkpoint)
	if !strings.HasPrefix(text, fmt.Sprintf("%s\n%d\n", log.Origin, size)) {
		t.Fatalf("want a checkpoint of size %d, got\n%s", size, checkpoint)
	}
	name, _, _ := strings.Cut(vkey, "+")
	lines := ""
	for line := range strings.Lines(strings.TrimPrefix(checkpoint, text+"\n")) {
		if strings.HasPrefix(line, "— "+name+" ") {
			lines += line
		}
	}
	if err := witnesses.Cosigned(text, lines, []string{vkey}, from.Add(-time.Second), time.Now().Add(time.Second)); err != nil {
		t.Fatalf("%v:\n%s", err, checkpoint)
	}
}

// TestTesseraSubmits: a Tessera log has its growing checkpoints cosigned before it publishes
// them, with keys of both kinds, and also when it has forgotten what its witness knows.
func TestTesseraSubmits(t *testing.T) {
	witnessesOnly(t)
	for _, peer := range all {
		t.Run(peer.name, func(t *testing.T) {
			program, library := witnesses.NewTessera(t.TempDir(), "tessera.example/program"), witnesses.NewTessera(t.TempDir(), "tessera.example/library")
			w := peer.start(t, program.Log, library.Log)
			for i, size := range []int{1, 4, 260, 261} {
				if i == 3 { // has to ask: 409
					if err := program.Forget(); err != nil {
						t.Fatal(err)
					}
				}
				from := time.Now()
				if err := program.Oneshot(t.Context(), size-[]int{0, 1, 4, 260}[i], witnesses.Policy([2]string{w.vkeys[0], w.url})); err != nil {
					t.Fatal(err)
				}
				published(t, program, size, w.vkeys[0], from)
			}

			vkey := w.vkeys[len(w.vkeys)-1] // of ML-DSA-44, if there is one
			for i, size := range []int{2, 5, 6} {
				if i == 2 {
					if err := library.Forget(); err != nil {
						t.Fatal(err)
					}
				}
				from := time.Now()
				if err := library.Append(t.Context(), size-[]int{0, 2, 5}[i], vkey, w.url); err != nil {
					t.Fatal(err)
				}
				published(t, library, size, vkey, from)
			}
		})
	}
}

// TestTesseraWantsAll: a policy of several witnesses is met by one checkpoint.
func TestTesseraWantsAll(t *testing.T) {
	witnessesOnly(t)
	log := witnesses.NewTessera(t.TempDir(), "tessera.example/all")
	var running []*witness
	var policy [][2]string
	for _, peer := range all {
		w := peer.start(t, log.Log)
		running, policy = append(running, w), append(policy, [2]string{w.vkeys[0], w.url})
	}
	for size := 1; size <= 3; size++ {
		from := time.Now()
		if err := log.Oneshot(t.Context(), 1, witnesses.Policy(policy...)); err != nil {
			t.Fatal(err)
		}
		for _, w := range running {
			published(t, log, size, w.vkeys[0], from)
		}
	}
}

// TestFeeder: transparency-dev's feeder brings the checkpoints of a log that knows no
// witnesses, also when it is new and the witness is not.
func TestFeeder(t *testing.T) {
	witnessesOnly(t)
	log := witnesses.NewTessera(t.TempDir(), "tessera.example/fed")
	server := httptest.NewServer(http.FileServer(http.Dir(log.Dir)))
	t.Cleanup(server.Close)
	feeder, err := witnesses.NewFeeder(t.Context(), t.TempDir(), log.Origin, log.VKey, server.URL+"/")
	if err != nil {
		t.Fatal(err)
	}
	grow := func(t *testing.T) string {
		t.Helper()
		if err := log.Oneshot(t.Context(), 3, ""); err != nil {
			t.Fatal(err)
		}
		checkpoint, err := log.Published()
		if err != nil {
			t.Fatal(err)
		}
		return checkpoint
	}
	for _, peer := range all {
		t.Run(peer.name, func(t *testing.T) {
			w := peer.start(t, log.Log)
			t.Cleanup(feeder.Kill)
			for range 2 {
				for range 2 {
					from, checkpoint := time.Now(), grow(t)
					if err := feeder.Start(w.url); err != nil {
						t.Fatal(err)
					}
					fed(t, feeder, w, checkpoint, from)
					fed(t, feeder, w, grow(t), from)
					feeder.Kill() // it keeps nothing
				}
				if err := w.restart(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
}

// fed waits until a feeder says that it got cosignatures of a checkpoint.
func fed(t *testing.T, feeder *witnesses.Feeder, w *witness, checkpoint string, from time.Time) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if err := feeder.Until(ctx, func(output string) error {
		all := strings.Split(output, "updated with signature(s):\n")
		rest := all[len(all)-1]
		lines := ""
		for line := range strings.Lines(rest) {
			if !strings.HasPrefix(line, "— ") {
				break
			}
			lines += line
		}
		return witnesses.Cosigned(textOf(checkpoint), lines, w.vkeys, from.Add(-time.Second), time.Now().Add(time.Second))
	}); err != nil {
		t.Fatal(err)
	}
}

// TestCosignedNote: a witness takes a checkpoint with the lines of others, of any kind, and
// adds its own.
func TestCosignedNote(t *testing.T) {
	witnessesOnly(t)
	log := witnesses.NewLog("log.example/passed-on", "log.example/passed-on")
	var running []*witness
	for _, peer := range all {
		running = append(running, peer.start(t, log))
	}
	old := uint64(0)
	for size := uint64(1); size <= 12; size++ {
		request := log.Request(old, size)
		var before []string // lines of the witnesses before
		for i := range running {
			w := running[(i+int(size))%len(running)] // each is the first and the last at times
			lines := w.submit(t, request)
			request.Checkpoint += lines
			before = append(before, lines)
		}
		for i, lines := range before { // the whole note verifies
			running[(i+int(size))%len(running)].verify(t, request.Checkpoint, lines, time.Now().Add(-time.Minute))
		}
		for _, w := range running { // its own lines are no reason to refuse it, either
			w.submit(t, witnesses.Request{Old: fmt.Sprint("old ", size), Checkpoint: request.Checkpoint})
		}
		old = size
	}
}
