package e2elog

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	logpb "github.com/sigstore/protobuf-specs/gen/pb-go/rekor/v1"

	"github.com/understudy-log/understudy/test/process"
	"github.com/understudy-log/understudy/test/witnesses"
)

// witnessed is a v2 log with two real witnesses.
type witnessed struct {
	*testing.T
	*stage
	writer     *tileWriter
	omni, lite *witnesses.Peer
	since      time.Time
}

// newWitnessed runs a log whose checkpoints need a quorum of omniwitness and litewitness.
func newWitnessed(t *testing.T, quorum, withoutQuorum string) *witnessed {
	t.Helper()
	skipUnlessAsked(t)
	w := &witnessed{T: t, since: time.Now()}
	dir, err := os.MkdirTemp("", "lite") // short, for the sake of its socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	policy := func(origin, vkey string) string {
		logs := []*witnesses.Log{{Origin: origin, VKey: vkey}}
		w.omni = must(witnesses.NewOmniwitness(t.Context(), t.TempDir(), logs, witnesses.Ed25519))
		w.lite = must(witnesses.NewLitewitness(t.Context(), dir, logs))
		for _, peer := range []*witnesses.Peer{w.omni, w.lite} {
			t.Cleanup(peer.Kill)
			if err := peer.Start(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		return fmt.Sprintf("witness omni %s %s\nwitness lite %s %s\ngroup both %s omni lite\nquorum both\n",
			w.omni.VKeys[0], w.omni.URL, w.lite.VKeys[0], w.lite.URL, quorum)
	}
	if asked == realServers {
		w.stage = newTilesWitnessed(t, policy)
	} else {
		w.stage = newUnderstudy(t, settings{without: 1, withoutQuorum: withoutQuorum, policy: func(d *daemon) string { return policy(d.v2Host, d.vkeyV2()) }}).stage()
	}
	w.writer = newTileWriter(t, w.stage)
	return w
}

// cosigners returns which of the witnesses have cosigned a checkpoint; each line of theirs must verify.
func (w *witnessed) cosigners(checkpoint string) (names []string) {
	w.Helper()
	text := checkpoint[:strings.LastIndex(checkpoint, "\n\n")+1]
	for name, peer := range map[string]*witnesses.Peer{"omni": w.omni, "lite": w.lite} {
		key, _, _ := strings.Cut(peer.VKeys[0], "+")
		lines := ""
		for line := range strings.Lines(checkpoint[len(text)+1:]) {
			if strings.HasPrefix(line, "— "+key+" ") {
				lines += line
			}
		}
		if lines == "" {
			continue
		}
		if err := witnesses.Cosigned(text, lines, peer.VKeys, w.since.Add(-time.Second), time.Now().Add(time.Second)); err != nil {
			w.Errorf("%s: %v:\n%s", name, err, checkpoint)
		}
		names = append(names, name)
	}
	return names
}

// add writes an entry; the checkpoint of the answer must be cosigned by so many.
func (w *witnessed) add(least int) *logpb.TransparencyLogEntry {
	w.Helper()
	entry, err := w.writer.Add(within(w.T, 20*time.Second), hashedRekord())
	if err != nil {
		w.Fatal(err)
	}
	if err := w.writer.verify(entry); err != nil {
		w.Error(err)
	}
	checkpoint := entry.GetInclusionProof().GetCheckpoint().GetEnvelope()
	if names := w.cosigners(checkpoint); len(names) < least {
		w.Errorf("entry %d: cosigned by %v, want %d:\n%s", entry.LogIndex, names, least, checkpoint)
	}
	return entry
}

// published returns the checkpoint that everybody can read.
func (w *witnessed) published(ctx context.Context) (string, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, w.v2Reads+"/checkpoint", nil)
	if err != nil {
		return "", err
	}
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		return "", err
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	if err == nil && answer.StatusCode != http.StatusOK {
		err = fmt.Errorf("checkpoint: %s", answer.Status)
	}
	return string(body), err
}

// until waits until the published checkpoint is cosigned by so many.
func (w *witnessed) until(least int) {
	w.Helper()
	if err := process.Until(within(w.T, 20*time.Second), func(ctx context.Context) error {
		checkpoint, err := w.published(ctx)
		if err != nil {
			return err
		}
		if names := w.cosigners(checkpoint); len(names) < least {
			return fmt.Errorf("cosigned by %v, want %d", names, least)
		}
		return nil
	}); err != nil {
		w.Fatal(err)
	}
}

// TestWitnessesAny: one cosignature is enough, whichever witness is dead.
func TestWitnessesAny(t *testing.T) {
	t.Parallel()
	w := newWitnessed(t, "any", "wait")
	w.add(1)
	w.omni.Kill()
	for range 3 {
		w.add(1)
	}
	if err := w.omni.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.add(1)
	w.lite.Kill()
	for range 3 {
		w.add(1)
	}
	w.until(1)
}

// TestWitnessesBoth: without its quorum the log publishes nothing and answers nobody, also after it was
// killed; once the witness is back, the same head is cosigned, and who tries again gets the answer.
func TestWitnessesBoth(t *testing.T) {
	t.Parallel()
	understudyOnly(t) // the real one publishes what nobody has cosigned
	w := newWitnessed(t, "2", "wait")
	first := w.add(2)
	w.omni.Kill()
	request := hashedRekord()
	if answer, err := w.writer.Add(within(t, 5*time.Second), request); err == nil {
		t.Fatalf("answered without a quorum: %v", answer)
	} else {
		t.Logf("without a quorum: %v", err)
	}
	for _, restarted := range []bool{false, true} {
		if restarted {
			w.kill()
			if err := w.restart(); err != nil {
				t.Fatal(err)
			}
		}
		checkpoint, err := w.published(within(t, 5*time.Second))
		if err != nil {
			t.Fatal(err)
		}
		if names := w.cosigners(checkpoint); len(names) < 2 {
			t.Errorf("restarted %t: a checkpoint is published that is cosigned by %v:\n%s", restarted, names, checkpoint)
		}
	}
	if err := w.omni.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	var second *logpb.TransparencyLogEntry
	if err := process.Until(within(t, 30*time.Second), func(ctx context.Context) (err error) {
		second, err = w.writer.Add(ctx, request)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	if second.LogIndex != first.LogIndex+1 {
		t.Errorf("the entry that waited is at %d, want %d", second.LogIndex, first.LogIndex+1)
	}
	w.until(2)
}

// TestWitnessesDegrade: the log goes on without its quorum when it may, and says what it has.
func TestWitnessesDegrade(t *testing.T) {
	t.Parallel()
	w := newWitnessed(t, "all", "publish")
	w.add(2)
	w.omni.Kill()
	w.add(0)
	w.lite.Kill()
	w.add(0)
	if err := w.omni.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.add(0)
	w.until(1)
}
