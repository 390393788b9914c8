package archive

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/transparency-dev/formats/note"
	sumdb "golang.org/x/mod/sumdb/note"
)

// next lives through a week and makes its pack.
func (w *world) next(grow ...*grower) error {
	w.t.Helper()
	w.now = w.now.AddDate(0, 0, 7)
	for _, g := range grow {
		g.grow(w.t, 2, w.now.AddDate(0, 0, -6))
	}
	return w.make()
}

// cosign has the newest checkpoint of a log cosigned by a new key, and returns its verifier key.
func (w *world) cosign(g *grower) string {
	w.t.Helper()
	private, public, err := sumdb.GenerateKey(nil, "witness.test/w1")
	if err != nil {
		w.t.Fatal(err)
	}
	signer, err := note.NewSignerForCosignatureV1(private)
	if err != nil {
		w.t.Fatal(err)
	}
	vkey, err := note.VKeyToCosignatureV1(public)
	if err != nil {
		w.t.Fatal(err)
	}
	c := g.tree.State().Pending
	text := c.Raw[:bytes.LastIndex(c.Raw, []byte("\n\n"))+1]
	signed, err := sumdb.Sign(&sumdb.Note{Text: string(text)}, signer)
	if err != nil {
		w.t.Fatal(err)
	}
	if err := g.tree.Cosigned(c, []string{strings.TrimSuffix(string(signed[len(text)+1:]), "\n")}); err != nil {
		w.t.Fatal(err)
	}
	return vkey
}

// TestArchiveKeyChanges: packs go on under another archive key.
func TestArchiveKeyChanges(t *testing.T) {
	g := newGrower(t, "tiles.test")
	w := newWorld(t, time.Date(2026, 9, 30, 12, 0, 0, 0, berlin), g)
	if err := w.next(g); err != nil {
		t.Fatal(err)
	}
	private, public, err := sumdb.GenerateKey(nil, "archive.test/a2")
	if err != nil {
		t.Fatal(err)
	}
	if w.signer, err = sumdb.NewSigner(private); err != nil {
		t.Fatal(err)
	}
	w.vkey = public
	w.fail = func(step string) error {
		if step == "record" {
			return errors.New("a crash")
		}
		return nil
	}
	old := w.next(g) // by the key before
	w.fail = nil
	w.crash()
	if n := len(w.archive.Packs()); old == nil || n != 2 {
		t.Errorf("%d packs; %v", n, old)
	}
	for range 2 {
		if err := w.next(g); err != nil {
			t.Fatal(err)
		}
	}
}

// TestLogKeyChanges: what a log signed with the key that it had stays in packs.
func TestLogKeyChanges(t *testing.T) {
	g := newGrower(t, "tiles.test")
	w := newWorld(t, time.Date(2026, 9, 30, 12, 0, 0, 0, berlin), g)
	if err := w.next(g); err != nil {
		t.Fatal(err)
	}
	g.grow(t, 2, w.now)
	other := newGrower(t, "tiles.test")
	g.signer, g.verify = other.signer, other.verify
	for range 2 {
		if err := w.next(g); err != nil {
			t.Fatal(err)
		}
	}
	for i, changed := range []bool{false, true, false} {
		manifest := untar(t, filepath.Join(w.dir, w.archive.Packs()[i].Name))[manifestFile]
		if bytes.Contains(manifest, []byte("were changed")) != changed {
			t.Errorf("pack %d: %s", i+1, manifest)
		}
	}
}

// TestDamagedPackBefore: a pack that the disk damaged holds up no other one.
func TestDamagedPackBefore(t *testing.T) {
	g := newGrower(t, "tiles.test")
	w := newWorld(t, time.Date(2026, 9, 30, 12, 0, 0, 0, berlin), g)
	if err := w.next(g); err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(w.dir, w.archive.Packs()[0].Name)
	if err := os.Chmod(name, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(name, 2000); err != nil {
		t.Fatal(err)
	}
	if err := w.next(g); err != nil {
		t.Fatal(err)
	}
}

// TestCosignerChanges: cosignatures stay in packs when their key is changed, or there is no
// cosigner any more; those of which the key is not known hold up nothing.
func TestCosignerChanges(t *testing.T) {
	g := newGrower(t, "tiles.test")
	w := newWorld(t, time.Date(2026, 9, 30, 12, 0, 0, 0, berlin), g)
	var cosigners []string
	w.cfg = func(c *Config) { c.Cosigners = cosigners }
	for range 2 {
		g.grow(t, 1, w.now)
		cosigners = []string{w.cosign(g)}
		w.openArchive()
	}
	g.grow(t, 1, w.now)
	w.cosign(g) // by a key that is not remembered
	cosigners = nil
	w.openArchive()
	if err := w.next(g); err != nil {
		t.Fatal(err)
	}
	files := untar(t, filepath.Join(w.dir, w.archive.Packs()[0].Name))
	if n := bytes.Count(files["logs/tiles.test/checkpoints.jsonl"], []byte("— witness.test/w1 ")); n != 2 {
		t.Errorf("%d cosignatures, want 2", n)
	}
	if !bytes.Contains(files[manifestFile], []byte("1 cosignatures of")) {
		t.Error("nothing says that one is left out")
	}
	w.verify(w.dir)
}

// TestLogAfterBackup: a log that is not in the database which was restored is taken back as well.
func TestLogAfterBackup(t *testing.T) {
	first, second := newGrower(t, "rekor.test - 1"), newGrower(t, "rekor.test - 2")
	w := newWorld(t, time.Date(2026, 9, 30, 12, 0, 0, 0, berlin), first)
	if err := w.next(first); err != nil {
		t.Fatal(err)
	}
	backup := w.disk.CrashClone(vfs.CrashCloneCfg{})
	w.logs = append(w.logs, second)
	w.openLog(second)
	if err := w.next(first, second); err != nil {
		t.Fatal(err)
	}
	w.close()
	w.disk, w.logs = backup, w.logs[:1]
	w.open()
	w.logs = append(w.logs, second) // it is found again
	w.openLog(second)
	if rows, _ := second.tree.State().ArchiveRows(); rows != 1 {
		t.Errorf("%d rows are taken back", rows)
	}
	second.grow(t, 1, w.now)
	if err := w.next(); err != nil {
		t.Fatal(err)
	}
	w.verify(w.dir)
}
