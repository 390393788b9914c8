package archive

import (
	"archive/tar"
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/understudy-log/understudy/log/rekor"
	"github.com/understudy-log/understudy/storage"
)

// takeBack looks for packs in the folder that follow the last one that is recorded: of a crash
// after one was made, or of an older database that was restored. They are recorded again, and what
// they have of the logs' archives is put back: rows that other people have seen must not be written
// anew with other content.
func (a *Archive) takeBack(ctx context.Context) error {
	names, err := filepath.Glob(filepath.Join(a.cfg.Dir, "understudy-evidence-*.tar"))
	if err != nil {
		return err
	}
	slices.Sort(names)
	for _, name := range names {
		last := a.lastRecord()
		var number uint64
		if _, err := fmt.Sscanf(filepath.Base(name), "understudy-evidence-%d-", &number); err != nil || number <= last.Number {
			continue
		}
		if number > last.Number+1 {
			return fmt.Errorf("pack %d is in %s and pack %d is not, and the database knows neither: put it there from where it was stored", number, a.cfg.Dir, last.Number+1)
		}
		if err := a.verifyOwn(ctx, name, last); err != nil {
			return fmt.Errorf("%s is not known to the database, and does not verify: %w; if it is not one of ours, move it away", name, err)
		}
		r, err := a.read(name)
		if err != nil {
			return fmt.Errorf("take back %s: %w", name, err)
		}
		if err := a.keep(r); err != nil {
			return err
		}
		a.logger.Warn("an evidence pack was there that the database did not know: it crashed when it was made, or an older database was restored", "name", r.Name)
	}
	return nil
}

// verifyOwn verifies a pack after the one before it, if that is in the folder as it was made. Keys
// that were changed in the configuration since are no reason to refuse it: those of the pack before
// are not looked at, and those of a log only warn, since what it signed was verified when it came.
func (a *Archive) verifyOwn(ctx context.Context, name string, last record) (err error) {
	paths := []string{name}
	if last.Number > 0 {
		switch same, err := a.same(ctx, last); {
		case err != nil:
			return err
		case same:
			paths = []string{a.path(last), name}
		}
	}
	report, err := VerifyFiles(ctx, paths, Options{
		Log:       a.ownKeys,
		Makers:    a.makers,
		Timestamp: a.cfg.Timestamp,
	})
	if err != nil {
		return err
	}
	own := report.Packs[len(report.Packs)-1]
	for _, e := range report.Errors {
		if e.Pack == own.Name {
			return errors.New(e.String())
		}
	}
	if report.FurtherErrors > 0 {
		return errors.New(report.Errors[0].String())
	}
	if last.Number > 0 && len(paths) == 1 && own.Number != last.Number+1 {
		return fmt.Errorf("it is pack %d, and pack %d comes next", own.Number, last.Number+1)
	}
	return nil
}

// same says whether the file of a pack is what was made.
func (a *Archive) same(ctx context.Context, r record) (bool, error) {
	f, err := os.Open(a.path(r))
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer f.Close()
	hash := sha256.New()
	for err == nil {
		if err = ctx.Err(); err == nil {
			_, err = io.CopyN(hash, f, 16<<20)
		}
	}
	if !errors.Is(err, io.EOF) {
		return false, err
	}
	if Hex(hash.Sum(nil)) != r.Hash {
		a.logger.Error("an evidence pack was changed after it was made; put it back from where it was stored", "file", a.path(r))
		return false, nil
	}
	return true, nil
}

// changedKeys says whether a checkpoint that is held is not signed by the keys that its log has now.
func (a *Archive) changedKeys(origin string, raw []byte) bool {
	if a.cfg.Keys == nil {
		return false
	}
	keys := a.cfg.Keys(origin)
	return keys != nil && keys.Checkpoint(raw) != nil
}

// ownKeys verify what a log signed, and accept what they cannot: of a log whose keys were withdrawn,
// or are others now.
func (a *Archive) ownKeys(origin string) *LogKeys {
	var keys *LogKeys
	if a.cfg.Keys != nil {
		keys = a.cfg.Keys(origin)
	}
	if keys == nil {
		return unknownKeys
	}
	var once sync.Once
	warn := func(err error) error {
		if err != nil {
			once.Do(func() {
				a.logger.Warn("an evidence pack has what this log signed with a key that is not its key here now: who verifies the pack needs the key of that time as well", "origin", origin, "error", err)
			})
		}
		return nil
	}
	return &LogKeys{
		Checkpoint: func(raw []byte) error { return warn(keys.Checkpoint(raw)) },
		SET: func(e *rekor.Entry) error {
			if keys.SET == nil {
				return nil
			}
			return warn(keys.SET(e))
		},
	}
}

// read makes the record of a pack that was verified, and puts back the rows that its logs lack.
func (a *Archive) read(name string) (r record, err error) {
	f, err := os.Open(name)
	if err != nil {
		return r, err
	}
	defer f.Close()
	hash := sha256.New()
	source := io.TeeReader(bufio.NewReaderSize(f, 1<<20), hash)
	t := tar.NewReader(source)
	var m Manifest
	back := putBack{archive: a}
	for {
		h, err := t.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return r, err
		}
		var content []byte
		if h.Name == manifestFile || strings.HasPrefix(h.Name, "logs/") { // others can be large
			if content, err = io.ReadAll(t); err != nil {
				return r, err
			}
		}
		switch {
		case h.Name == manifestFile:
			if err := json.Unmarshal(content, &m); err != nil {
				return r, err
			}
			if last := a.lastRecord(); last.Number > 0 && (m.Previous == nil || m.Previous.Hash != last.Manifest) {
				return r, fmt.Errorf("it does not follow pack %d that is recorded", last.Number)
			}
			r = record{Number: m.Number, Name: filepath.Base(name), Manifest: sha256.Sum256(content), From: m.Period.From.Time, To: m.Period.To.Time, Built: m.Built.Time, Logs: map[string]Place{}, Rows: map[string]uint64{}}
			back.m = &m
		case h.Name == timestampFile:
			r.Stamped = true
		case strings.HasPrefix(h.Name, "logs/"):
			if err := back.file(h.Name, content); err != nil {
				return r, err
			}
		}
	}
	if _, err := io.Copy(io.Discard, source); err != nil {
		return r, err
	}
	info, err := f.Stat()
	if err != nil {
		return r, err
	}
	r.Size, r.Hash = info.Size(), Hex(hash.Sum(nil))
	if l := m.Ledger; l != nil {
		r.Ledger = &ledgerPlace{l.Rows.Last, l.After}
	}
	if m.Reports != nil {
		for _, report := range m.Reports.List {
			r.Reports = append(r.Reports, report.ID)
		}
	}
	for i := range m.Logs {
		l := &m.Logs[i]
		if _, err := a.tree(l.Origin); err != nil { // also of a log without rows: the next pack has it
			return r, err
		}
		r.Logs[l.Origin], r.Rows[l.Origin] = l.After, l.Rows.Last
	}
	return r, nil
}

// putBack puts rows of a pack into the archives of their logs.
type putBack struct {
	archive *Archive
	m       *Manifest
	log     *Log
	tree    *storage.Tree
	rows    map[string]Row // by the file of the checkpoint
}

func (b *putBack) file(name string, content []byte) error {
	for i := range b.m.Logs {
		if name == b.m.Logs[i].Folder+"/checkpoints.jsonl" {
			return b.begin(&b.m.Logs[i], content)
		}
	}
	row, ok := b.rows[name]
	if !ok {
		return nil
	}
	return b.row(row, content)
}

// begin reads the rows of a log, of which the checkpoints follow.
func (b *putBack) begin(l *Log, content []byte) error {
	tree, err := b.archive.tree(l.Origin)
	if err != nil {
		return err
	}
	b.log, b.tree, b.rows = l, tree, map[string]Row{}
	for line := range bytes.Lines(content) {
		var row Row
		if err := json.Unmarshal(line, &row); err != nil {
			return err
		}
		b.rows[row.Checkpoint] = row
	}
	return nil
}

// tree returns the tree of a log that is in a pack. One that came after the backup that was
// restored is made anew: whoever follows the log finds it.
func (a *Archive) tree(origin string) (*storage.Tree, error) {
	tree, err := a.cfg.DB.OpenTree(origin)
	if errors.Is(err, storage.ErrNotExist) {
		tree, err = a.cfg.DB.CreateTree(origin)
	}
	if err != nil {
		return nil, fmt.Errorf("the log %q is in it, and what is stored of it cannot be used: restore a backup of the database (%w)", origin, err)
	}
	return tree, nil
}

// row puts one back, or makes sure that it is the one that is held.
func (b *putBack) row(row Row, raw []byte) error {
	relation, ok := storage.ParseRelation(row.Relation)
	if !ok {
		return fmt.Errorf("row %d has the relation %q", row.Row, row.Relation)
	}
	r := storage.ArchiveRow{
		Number: row.Row, Previous: storage.Hash(row.Previous), Relation: relation, Proof: hashes(row.Proof), Cosignatures: row.Cosignatures,
		Checkpoint: storage.Checkpoint{
			Head: storage.Head{Size: row.Size, Root: storage.Hash(row.Root)}, Raw: raw,
			FirstSeen: row.FirstSeen.Time, LastSeen: row.LastSeen.Time, Source: row.Source,
		},
	}
	if held, _ := b.tree.State().ArchiveRows(); row.Row > held {
		return b.tree.RestoreArchive(r)
	}
	v := b.tree.View()
	defer v.Close()
	return v.Archive(row.Row, row.Row, func(have storage.ArchiveRow) error {
		if !bytes.Equal(have.Checkpoint.Raw, raw) || have.Previous != r.Previous || !have.Checkpoint.FirstSeen.Equal(row.FirstSeen.Time) {
			return fmt.Errorf("row %d of the archive of %q is another one in it: the database went on after an older one was restored, before its packs were put back; begin with the newest backup, and with all packs in %s", row.Row, b.log.Origin, b.archive.cfg.Dir)
		}
		return nil
	})
}

// unknownKeys accept everything: of what is made of verified checkpoints the rest is verified.
var unknownKeys = &LogKeys{Checkpoint: func([]byte) error { return nil }, SET: func(*rekor.Entry) error { return nil }}
