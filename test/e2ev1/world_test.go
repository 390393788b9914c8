// Package e2ev1 runs unmodified clients of Rekor v1 against a real Rekor of two shards, and
// then against a mirror of it after that Rekor was killed: what succeeded must succeed with
// the same answer, and what failed must fail.
//
// It needs MariaDB and programs that take minutes to build: `make e2e-v1` runs it.
package e2ev1

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/understudy-log/understudy/test/rekorv1"
)

const (
	hostname = "rekor.e2e.test"
	email    = "releaser@understudy.test"
	workflow = "https://github.com/understudy-log/e2e/.github/workflows/release.yml@refs/heads/main"
)

// startLimit is how long a service may take until it answers.
const startLimit = time.Minute

// world is one real Rekor with what was written to it.
type world struct {
	*testing.T
	log     *rekorv1.Log
	plain   *rekorv1.Signer
	samples []sample        // of both shards, each type of entry and signer
	entries []rekorv1.Entry // all but unread, samples too, in the order of the log
	unread  rekorv1.Entry   // of the first shard; a mirror's users do not ask for it
	first   uint64          // a size of the active shard before the last writes
}

// sample is an entry with the files that its signer has.
type sample struct {
	rekorv1.Entry
	name  string
	shard int // in world.log.Shards
	files files
}

// newWorld runs a Rekor that has rolled over once. It stands where w.first says; more is for
// the caller to write.
func newWorld(t *testing.T) *world {
	if os.Getenv("UNDERSTUDY_E2E_V1") == "" {
		t.Skip("skipped: run by make e2e-v1")
	}
	if _, err := rekorv1.MariaDB(); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal(err)
		}
		t.Skipf("skipped: %v", err)
	}
	w := &world{T: t}
	var err error
	ctx := w.within(2 * time.Minute)
	if w.plain, err = rekorv1.NewSigner(); err != nil {
		t.Fatal(err)
	}
	if w.log, err = rekorv1.Start(ctx, rekorv1.Config{Dir: t.TempDir(), Hostname: hostname}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.log.Close)
	w.writeSamples()
	entries, err := w.log.Fill(ctx, 1)
	if err != nil {
		t.Fatal(err)
	}
	w.unread = entries[0]
	w.fill(20)
	w.rollOver()
	return w
}

// rollOver begins another shard, with samples. It stands where w.first says.
func (w *world) rollOver() {
	w.Helper()
	if err := w.log.RollOver(w.within(startLimit)); err != nil {
		w.Fatal(err)
	}
	w.writeSamples()
	w.first = w.sizeOf(len(w.log.Shards) - 1)
}

// within limits one step of a test, so that what hangs names itself.
func (w *world) within(limit time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(w.Context(), limit)
	w.Cleanup(cancel)
	return ctx
}

// sizeOf returns how many entries were written to a shard.
func (w *world) sizeOf(shard int) uint64 {
	prefix, n := fmt.Sprintf("%016x", w.log.Shards[shard].TreeID), uint64(0)
	for _, entry := range append(slices.Clone(w.entries), w.unread) {
		if entry.UUID[:16] == prefix {
			n++
		}
	}
	return n
}

// end returns the first virtual index that no entry has.
func (w *world) end() uint64 { return w.entries[len(w.entries)-1].LogIndex + 1 }

// fill writes n entries of no interest to the active shard.
func (w *world) fill(n int) {
	w.Helper()
	entries, err := w.log.Fill(w.within(time.Minute), n)
	if err != nil {
		w.Fatal(err)
	}
	w.entries = append(w.entries, entries...)
}

// writeSamples writes an entry of each kind to the active shard.
func (w *world) writeSamples() {
	w.Helper()
	person, err := w.log.NewCertified(email)
	if err != nil {
		w.Fatal(err)
	}
	machine, err := w.log.NewCertified(workflow)
	if err != nil {
		w.Fatal(err)
	}
	shard := len(w.log.Shards) - 1
	artifact := fmt.Appendf(nil, "an artifact of shard %d", shard)
	statement := fmt.Appendf(nil, `{"_type":"https://in-toto.io/Statement/v0.1","predicateType":"https://understudy.test/e2e","subject":[{"name":"artifact","digest":{"sha256":"%064x"}}],"predicate":{}}`, shard)
	for _, s := range []struct {
		name string
		sign func([]byte) (rekorv1.Signed, error)
		what []byte
	}{
		{"hashedrekord", w.plain.HashedRekord, artifact},
		{"hashedrekord by e-mail", person.HashedRekord, artifact},
		{"hashedrekord by URI", machine.HashedRekord, artifact},
		{"rekord", w.plain.Rekord, artifact},
		{"dsse", w.plain.DSSE, statement},
		{"dsse by e-mail", person.DSSE, statement},
		{"intoto", w.plain.InToto, statement},
	} {
		signed, err := s.sign(s.what)
		if err != nil {
			w.Fatal(err)
		}
		entry, err := w.log.Write(w.within(time.Minute), signed)
		if err != nil {
			w.Fatalf("%s: %v", s.name, err)
		}
		w.entries = append(w.entries, entry)
		w.samples = append(w.samples, sample{Entry: entry, name: fmt.Sprintf("%s in shard %d", s.name, shard), shard: shard, files: w.save(signed)})
	}
}

// files are what a signer has on disk.
type files struct {
	artifact, envelope, signature, signature64, verifier, verifier64 string
}

// save writes what was signed to files of its own folder.
func (w *world) save(signed rekorv1.Signed) files {
	w.Helper()
	dir := w.TempDir()
	f := files{
		artifact:    filepath.Join(dir, "artifact"),
		envelope:    filepath.Join(dir, "envelope.json"),
		signature:   filepath.Join(dir, "signature"),
		signature64: filepath.Join(dir, "signature.base64"),
		verifier:    filepath.Join(dir, "verifier.pem"),
		verifier64:  filepath.Join(dir, "verifier.base64"),
	}
	err := errors.Join(
		os.WriteFile(f.artifact, signed.Artifact, 0o600),
		os.WriteFile(f.envelope, signed.Envelope, 0o600),
		os.WriteFile(f.signature, signed.Signature, 0o600),
		os.WriteFile(f.signature64, []byte(base64Of(signed.Signature)), 0o600),
		os.WriteFile(f.verifier, signed.Signer.Verifier, 0o600),
		os.WriteFile(f.verifier64, []byte(base64Of(signed.Signer.Verifier)), 0o600))
	if err != nil {
		w.Fatal(err)
	}
	return f
}

// neverLogged is an artifact of no shard.
var neverLogged = []byte("an artifact of no shard")

// never returns what is signed well but in no log.
func (w *world) never() files {
	w.Helper()
	signed, err := w.plain.HashedRekord(neverLogged)
	if err != nil {
		w.Fatal(err)
	}
	return w.save(signed)
}

// byName returns the sample of that name.
func (w *world) byName(name string) sample {
	w.Helper()
	for _, s := range w.samples {
		if s.name == name {
			return s
		}
	}
	w.Fatalf("no sample %q", name)
	return sample{}
}
