package e2e

import (
	"bytes"
	"errors"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	formatslog "github.com/transparency-dev/formats/log"
	"github.com/transparency-dev/merkle/proof"
	"github.com/transparency-dev/merkle/rfc6962"
	"golang.org/x/mod/sumdb/note"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/encoding/protojson"

	understudyv1 "github.com/understudy-log/understudy/proto/understudy/v1"
	"github.com/understudy-log/understudy/proto/understudy/v1/client"
	"github.com/understudy-log/understudy/test/rekor"
	"github.com/understudy-log/understudy/test/tools/tool"
	"github.com/understudy-log/understudy/test/verifier"
)

// TestOutage goes through the life of a mirror whose upstream dies and comes back.
func TestOutage(t *testing.T) {
	w := newWorld(t)
	entries := w.write(600)
	w.start()
	w.held(600)
	entries = append(entries, w.write(400)...)
	w.held(1000)
	live := w.checkpoint(0)
	w.refused(1000, codes.NotFound, "NOT_FOUND")
	w.refused(1<<40, codes.NotFound, "NOT_FOUND")

	w.log.Kill()
	w.dead(1000)
	w.everythingProven(entries)
	w.ourClientAgrees(entries)
	w.consistent(w.checkpoint(600), live)

	offline := w.bundle(entries[700])
	code, took, err := w.daemon.Terminate()
	if err != nil || code != 0 || took > 10*time.Second {
		t.Fatalf("SIGTERM: exit code %d after %s, want 0 within 10s (%v)\n%s", code, took, err, w.daemon.Tail())
	}
	w.sound()
	w.verifiedOffline(offline, entries[700], entries[701])

	// It serves at once, though nobody answers it, and never calls that live.
	started := time.Now()
	w.start()
	if err := w.daemon.Ready(w.within(time.Second)); err != nil {
		t.Errorf("not ready with all it ever had: %v", err)
	}
	w.provable(entries[0], entries[999])
	if took := time.Since(started); took > 2*time.Second {
		t.Errorf("first answers after %s", took)
	}
	w.dead(1000)

	// Upstream returns, with more, and what is held is not fetched again.
	w.reads.forget()
	if err := w.log.Restart(w.within(time.Minute)); err != nil {
		t.Fatal(err)
	}
	entries = append(entries, w.write(100)...)
	w.held(1100)
	w.provable(spread(entries, 20)...)
	w.consistent(live, w.checkpoint(0))
	if n := w.reads.below(1000 / 256); n != 0 {
		t.Errorf("%d requests for bundles that were held", n)
	}
}

// dead waits until the mirror has seen that upstream is gone, and then holds its words
// against that: old answers with their age, and "I do not know" beyond.
func (w *world) dead(size int) {
	w.Helper()
	w.until("mirrored and unreachable", func(log *understudyv1.Log) bool {
		return log.GetFreshness().GetSource() == "mirrored" && log.GetFreshness().GetUpstreamState() == "unreachable"
	})
	log, err := w.daemon.Log(w.within(time.Second))
	if err != nil {
		w.Fatal(err)
	}
	if log.GetNextIndex() != uint64(size) || log.GetTreeSize() != uint64(size) || log.GetMirrorSize() != uint64(size) {
		w.Errorf("holds %d of %d (mirror checkpoint %d), want %d", log.GetNextIndex(), log.GetTreeSize(), log.GetMirrorSize(), size)
	}
	if age := log.GetFreshness().GetCheckpointAge().AsDuration(); age <= 0 || age > 10*time.Minute {
		w.Errorf("checkpoint age %s", age)
	}
	w.refused(uint64(size), codes.Unavailable, "UPSTREAM_UNREACHABLE")
}

// everythingProven holds all answers of the mirror against every verifier.
func (w *world) everythingProven(entries []rekor.Entry) {
	w.Helper()
	w.provable(spread(entries, 200)...)

	ctx := w.within(time.Minute)
	head := w.checkpoint(0)
	indexes := make([]uint64, len(entries))
	for i := range indexes {
		indexes[i] = uint64(i)
	}
	batch, err := w.daemon.API().BatchGetInclusionProofs(ctx, &understudyv1.BatchGetInclusionProofsRequest{Origin: origin, Indexes: indexes})
	if err != nil {
		w.Fatal(err)
	}
	if len(batch.GetProofs()) != len(entries) || batch.GetTreeSize() != head.Size {
		w.Fatalf("%d proofs in a tree of %d, want %d in %d", len(batch.GetProofs()), batch.GetTreeSize(), len(entries), head.Size)
	}
	for i, p := range batch.GetProofs() {
		leaf := rfc6962.DefaultHasher.HashLeaf(entries[i].Body())
		if err := proof.VerifyInclusion(rfc6962.DefaultHasher, uint64(i), head.Size, leaf, p.GetHashes(), head.Hash); err != nil {
			w.Fatalf("batch, entry %d: %v", i, err)
		}
	}

	tessera, err := verifier.NewTessera(ctx, w.daemon.Prefix(), w.log.VKey)
	if err != nil {
		w.Fatal(err)
	}
	if tessera.Size() != head.Size {
		w.Errorf("tiles end at %d, want %d", tessera.Size(), head.Size)
	}
	for _, entry := range spread(entries, 50) {
		if err := tessera.Verify(ctx, entry.Index(), entry.Body()); err != nil {
			w.Fatal(err)
		}
	}
	fsck, err := tool.Path(ctx, "tessera-fsck")
	if err != nil {
		w.Fatal(err)
	}
	if size, err := verifier.Fsck(ctx, fsck, w.daemon.Prefix(), w.log.VKeyFile); err != nil || size != head.Size {
		w.Fatalf("fsck accepts %d, want %d (%v)", size, head.Size, err)
	}
}

// ourClientAgrees reads the whole log with the Go client that verifies.
func (w *world) ourClientAgrees(entries []rekor.Entry) {
	w.Helper()
	key, err := note.NewVerifier(w.log.VKey)
	if err != nil {
		w.Fatal(err)
	}
	ours := client.New(w.daemon.Conn(), origin, client.NoteVerifier(origin, key))
	next := 0
	for entry, err := range ours.Entries(w.within(time.Minute), 0, 0) {
		if err != nil {
			w.Fatal(err)
		}
		if next == len(entries) || entry.Index != uint64(next) || !bytes.Equal(entry.Body, entries[next].Body()) {
			w.Fatalf("entry %d is not what was written as %d", entry.Index, next)
		}
		next++
	}
	if next != len(entries) {
		w.Errorf("%d entries, want %d", next, len(entries))
	}
	_, err = ours.Entry(w.within(time.Minute), client.Index(uint64(len(entries))))
	if reason := client.Reason(err); reason != "UPSTREAM_UNREACHABLE" {
		w.Errorf("reason %q, want UPSTREAM_UNREACHABLE (%v)", reason, err)
	}
}

// bundle returns the Sigstore bundle of an entry with the mirror's proof in it.
func (w *world) bundle(entry rekor.Entry) []byte {
	w.Helper()
	proof, err := w.daemon.Proof(w.within(10*time.Second), entry.Index())
	if err != nil {
		w.Fatal(err)
	}
	bundle, err := protojson.Marshal(w.sigstore.Assemble(entry.Bundle, proof))
	if err != nil {
		w.Fatal(err)
	}
	return bundle
}

// verifiedOffline runs `understudy proof` and `understudy verify` while no daemon runs:
// on a Sigstore bundle and on a proof from the stopped mirror's data, each for what it is
// about and for something else.
func (w *world) verifiedOffline(bundle []byte, entry, other rekor.Entry) {
	w.Helper()
	dir, ctx := w.TempDir(), w.within(time.Minute)
	file := func(name string, data []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, data, 0o600); err != nil {
			w.Fatal(err)
		}
		return path
	}
	proof := filepath.Join(dir, "entry.tlog-proof")
	if _, err := w.daemon.Command(ctx, "proof", "inclusion", strconv.FormatUint(entry.Index(), 10), "-o", proof); err != nil {
		w.Fatal(err)
	}
	signed := []string{"verify", file("entry.sigstore.json", bundle), "--certificate-identity", rekor.Identity, "--certificate-oidc-issuer", rekor.Issuer, "--artifact"}
	logged := []string{"verify", proof, "--entry"}
	for _, c := range []struct {
		verb []string
		of   string
		code int
	}{
		{signed, file("artifact", entry.Artifact), 0},
		{signed, file("other-artifact", other.Artifact), 1},
		{logged, file("body", entry.Body()), 0},
		{logged, file("other-body", other.Body()), 1},
	} {
		code := 0
		_, err := w.daemon.Command(ctx, append(c.verb[:len(c.verb):len(c.verb)], c.of)...)
		if exit := new(exec.ExitError); errors.As(err, &exit) {
			code = exit.ExitCode()
		} else if err != nil {
			w.Fatal(err)
		}
		if code != c.code {
			w.Errorf("exit code %d, want %d (%v)", code, c.code, err)
		}
	}
}

// checkpoint returns the signed checkpoint of a size (0: the newest), verified.
func (w *world) checkpoint(size uint64) *formatslog.Checkpoint {
	w.Helper()
	answer, err := w.daemon.API().GetCheckpoint(w.within(10*time.Second), &understudyv1.GetCheckpointRequest{Origin: origin, TreeSize: size})
	if err != nil {
		w.Fatal(err)
	}
	checkpoint, err := verifier.Checkpoint(answer.GetCheckpoint(), w.log.VKey)
	if err != nil {
		w.Fatal(err)
	}
	if checkpoint.Size != answer.GetTreeSize() || string(checkpoint.Hash) != string(answer.GetRootHash()) || size != 0 && checkpoint.Size != size {
		w.Fatalf("checkpoint of size %d, answered as %d, asked for %d", checkpoint.Size, answer.GetTreeSize(), size)
	}
	return checkpoint
}

// consistent fails unless the mirror proves that one signed tree is a prefix of another.
func (w *world) consistent(first, last *formatslog.Checkpoint) {
	w.Helper()
	answer, err := w.daemon.API().GetConsistencyProof(w.within(10*time.Second), &understudyv1.GetConsistencyProofRequest{
		Origin: origin, FirstSize: first.Size, LastSize: last.Size,
	})
	if err != nil {
		w.Fatal(err)
	}
	if err := proof.VerifyConsistency(rfc6962.DefaultHasher, first.Size, last.Size, answer.GetHashes(), first.Hash, last.Hash); err != nil {
		w.Fatal(err)
	}
}

// TestDeadFromTheStart begins with an upstream that nobody has ever reached: no
// checkpoint, no "not found" and no readiness, until it answers.
func TestDeadFromTheStart(t *testing.T) {
	w := newWorld(t)
	w.log.Kill()
	w.start()
	w.refused(0, codes.Unavailable, "UPSTREAM_UNREACHABLE")
	if w.daemon.Ready(w.within(time.Second)) == nil {
		t.Error("ready with nothing to serve")
	}
	response, err := http.Get(w.daemon.Prefix() + "/checkpoint")
	if err != nil {
		t.Fatal(err)
	}
	response.Body.Close()
	if response.StatusCode != http.StatusNotFound {
		t.Errorf("checkpoint: %s, want 404", response.Status)
	}
	if err := w.log.Restart(w.within(time.Minute)); err != nil {
		t.Fatal(err)
	}
	entries := w.write(3)
	w.held(3)
	w.provable(entries...)
}
