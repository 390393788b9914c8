package archive

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"golang.org/x/mod/sumdb/note"

	"github.com/understudy-log/understudy/storage"
	"github.com/understudy-log/understudy/witness/archive/calendar"
)

// grower is a log of which only checkpoints are read, or all of it.
type grower struct {
	origin string
	signer note.Signer
	verify note.Verifier
	leaves []storage.Hash
	bodies [][]byte
	tree   *storage.Tree
	seen   []string // the checkpoints that were archived, in order: what a chain of packs must have
	full   bool
}

func newGrower(t testing.TB, origin string) *grower {
	t.Helper()
	private, public, err := note.GenerateKey(nil, strings.ReplaceAll(origin, " ", ""))
	if err != nil {
		t.Fatal(err)
	}
	g := &grower{origin: origin}
	if g.signer, err = note.NewSigner(private); err != nil {
		t.Fatal(err)
	}
	if g.verify, err = note.NewVerifier(public); err != nil {
		t.Fatal(err)
	}
	return g
}

func (g *grower) node(level int, index uint64) (storage.Hash, error) {
	if level == 0 {
		return g.leaves[index], nil
	}
	left, _ := g.node(level-1, 2*index)
	right, _ := g.node(level-1, 2*index+1)
	return storage.NodeHash(left, right), nil
}

// checkpoint signs the tree as it is, with n entries.
func (g *grower) checkpoint(t testing.TB, n uint64, at time.Time) storage.Checkpoint {
	t.Helper()
	root, err := storage.RootHash(n, g.node)
	if err != nil {
		t.Fatal(err)
	}
	return g.sign(t, n, root, at)
}

func (g *grower) sign(t testing.TB, n uint64, root storage.Hash, at time.Time) storage.Checkpoint {
	t.Helper()
	raw, err := note.Sign(&note.Note{Text: fmt.Sprintf("%s\n%d\n%s\n", g.origin, n, base64.StdEncoding.EncodeToString(root[:]))}, g.signer)
	if err != nil {
		t.Fatal(err)
	}
	return storage.Checkpoint{Head: storage.Head{Size: n, Root: root}, Raw: raw, FirstSeen: at, LastSeen: at, Source: "https://" + g.origin}
}

// grow adds entries, and has the checkpoint archived.
func (g *grower) grow(t testing.TB, n int, at time.Time) {
	t.Helper()
	for range n {
		body := fmt.Appendf(nil, `{"entry":%d,"of":%q}`, len(g.leaves), g.origin)
		g.leaves, g.bodies = append(g.leaves, storage.LeafHash(body)), append(g.bodies, body)
	}
	old := g.tree.State()
	c := g.checkpoint(t, uint64(len(g.leaves)), at)
	if old.Pending.Raw != nil && old.Pending.Head == c.Head {
		return
	}
	proof := func(first uint64) []storage.Hash {
		if first == 0 {
			return nil
		}
		hashes, err := storage.ConsistencyProof(first, c.Size, g.node)
		if err != nil {
			t.Fatal(err)
		}
		return hashes
	}
	if _, err := g.tree.Advance(c, proof(old.Pending.Size), proof(old.Head.Size)); err != nil {
		t.Fatal(err)
	}
	if g.full {
		if _, err := g.tree.Extend(g.bodies[old.Head.Size:], func(storage.Head) (storage.Seal, error) { return storage.Seal{Checkpoint: c}, nil }); err != nil {
			t.Fatal(err)
		}
	}
	g.seen = append(g.seen, string(c.Raw))
}

// older has an older checkpoint archived, as a cache would serve it.
func (g *grower) older(t testing.TB, n uint64, at time.Time) {
	t.Helper()
	c := g.checkpoint(t, n, at)
	proof, err := storage.ConsistencyProof(n, g.tree.State().Pending.Size, g.node)
	if err != nil {
		t.Fatal(err)
	}
	if err := g.tree.Link(c, proof); err != nil {
		t.Fatal(err)
	}
	for _, raw := range g.seen {
		if raw == string(c.Raw) {
			return
		}
	}
	g.seen = append(g.seen, string(c.Raw))
}

// world is an archive with its logs, on a disk and by a clock that a test moves.
type world struct {
	t       testing.TB
	disk    *vfs.MemFS
	db      *storage.DB
	dir     string
	now     time.Time
	logs    []*grower
	signer  note.Signer
	vkey    string
	archive *Archive
	cfg     func(*Config)
	fail    func(string) error
}

func newWorld(t testing.TB, start time.Time, logs ...*grower) *world {
	t.Helper()
	w := &world{t: t, disk: vfs.NewCrashableMem(), dir: t.TempDir(), now: start, logs: logs}
	private, public, err := note.GenerateKey(nil, "archive.test/a1")
	if err != nil {
		t.Fatal(err)
	}
	if w.signer, err = note.NewSigner(private); err != nil {
		t.Fatal(err)
	}
	w.vkey = public
	w.open()
	t.Cleanup(func() { w.close() })
	return w
}

func (w *world) config() Config {
	schedule, err := calendar.Parse("0 0 * * 1", "Europe/Berlin")
	if err != nil {
		w.t.Fatal(err)
	}
	cfg := Config{
		DB: w.db, Dir: w.dir, Signer: w.signer, VKey: w.vkey, Vantage: "a test", Schedule: schedule, Expression: "0 0 * * 1", TimeZone: "Europe/Berlin",
		Sources: func() (sources []Source) {
			for _, g := range w.logs {
				s := Source{Origin: g.origin, Name: g.origin, Coverage: "pinned", Tree: g.tree, Followed: true}
				if g.full {
					s.Coverage = "full"
				}
				sources = append(sources, s)
			}
			return sources
		},
		Keys:            w.keys,
		testingOnlyNow:  func() time.Time { return w.now },
		testingOnlyStep: func(what string) error { return w.failing(what) },
	}
	if w.cfg != nil {
		w.cfg(&cfg)
	}
	return cfg
}

func (w *world) failing(what string) error {
	if w.fail != nil {
		return w.fail(what)
	}
	return nil
}

// keys verify with the keys of the logs.
func (w *world) keys(origin string) *LogKeys {
	for _, g := range w.logs {
		if g.origin == origin {
			return &LogKeys{Checkpoint: func(raw []byte) error {
				_, err := note.Open(raw, note.VerifierList(g.verify))
				return err
			}}
		}
	}
	return nil
}

func (w *world) open() {
	w.t.Helper()
	var err error
	openDB := storage.Create
	if exists, err := storage.Exists("db", storage.Options{FS: w.disk}); err != nil {
		w.t.Fatal(err)
	} else if exists {
		openDB = storage.Open
	}
	if w.db, err = openDB("db", storage.Options{FS: w.disk, CacheBytes: 1 << 20, SearchKeys: func(entry []byte) []string { return []string{string(entry)} }}); err != nil {
		w.t.Fatal(err)
	}
	for _, g := range w.logs {
		w.openLog(g)
	}
	w.openArchive()
}

func (w *world) openLog(g *grower) {
	w.t.Helper()
	tree, err := w.db.OpenTree(g.origin)
	if errors.Is(err, storage.ErrNotExist) {
		tree, err = w.db.CreateTree(g.origin)
	}
	if err != nil {
		w.t.Fatal(err)
	}
	g.tree = tree
}

func (w *world) openArchive() {
	w.t.Helper()
	var err error
	if w.archive, err = Open(w.t.Context(), w.config()); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) close() {
	if w.db != nil {
		if err := w.db.Close(); err != nil {
			w.t.Error(err)
		}
		w.db = nil
	}
}

// crash ends the process: what was not synced of the database is lost.
func (w *world) crash() {
	w.t.Helper()
	disk := w.disk.CrashClone(vfs.CrashCloneCfg{})
	w.close()
	w.disk = disk
	w.open()
}

// make makes what is due; an error of one is returned.
func (w *world) make() error {
	for {
		due := w.archive.due(w.now)
		if len(due) == 0 {
			return nil
		}
		if err := w.archive.make(context.Background(), due[0]); err != nil {
			return err
		}
	}
}

// verify verifies all packs as one chain, with the keys of the logs, and that they have every
// checkpoint once.
func (w *world) verify(folder string) *Report {
	w.t.Helper()
	report := w.report(folder)
	for _, e := range report.Errors {
		w.t.Errorf("%v", e)
	}
	got := map[string][]string{}
	for _, p := range w.archive.Packs() {
		for name, content := range untar(w.t, filepath.Join(folder, p.Name)) {
			if strings.HasSuffix(name, "/checkpoints.jsonl") {
				files := untar(w.t, filepath.Join(folder, p.Name))
				for line := range bytes.Lines(content) {
					var row Row
					if err := json.Unmarshal(line, &row); err != nil {
						w.t.Fatal(err)
					}
					raw := string(files[row.Checkpoint])
					origin, _, _ := strings.Cut(raw, "\n")
					if row.Row != uint64(len(got[origin])+1) {
						w.t.Errorf("%s: row %d after %d", origin, row.Row, len(got[origin]))
					}
					got[origin] = append(got[origin], raw)
				}
			}
		}
	}
	for _, g := range w.logs {
		want, have := g.seen, got[g.origin]
		if len(have) > len(want) || strings.Join(have, "") != strings.Join(want[:len(have)], "") {
			w.t.Errorf("%s: the packs have %d checkpoints, and not those that were seen", g.origin, len(have))
		}
	}
	return report
}

func (w *world) report(folder string) *Report {
	w.t.Helper()
	var inputs []Input
	for _, p := range w.archive.Packs() {
		data, err := os.ReadFile(filepath.Join(folder, p.Name))
		if err != nil {
			w.t.Fatal(err)
		}
		inputs = append(inputs, Input{Name: p.Name, File: bytes.NewReader(data), Size: int64(len(data))})
	}
	report, err := Verify(w.t.Context(), inputs, Options{Log: w.keys, Makers: []string{w.vkey}})
	if err != nil {
		w.t.Fatal(err)
	}
	return report
}

func untar(t testing.TB, name string) map[string][]byte {
	t.Helper()
	data, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	files := map[string][]byte{}
	for len(data) > 2*tarBlock {
		file := strings.TrimRight(string(data[:100]), "\x00")
		var size int64
		if _, err := fmt.Sscanf(string(data[124:135]), "%o", &size); err != nil {
			t.Fatal(err)
		}
		files[file] = data[tarBlock : tarBlock+size]
		data = data[tarBlock+(size+tarBlock-1)/tarBlock*tarBlock:]
	}
	return files
}

var berlin = func() *time.Location {
	l, err := time.LoadLocation("Europe/Berlin")
	if err != nil {
		panic(err)
	}
	return l
}()
