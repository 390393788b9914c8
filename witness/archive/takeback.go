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

// verifyOwn verifies a pack after the one before it, if that is in the folder.
func (a *Archive) verifyOwn(ctx context.Context, name string, last record) (err error) {
	var inputs []Input
	for _, path := range []string{a.path(last), name} {
		if path == a.path(record{}) {
			continue
		}
		f, err := os.Open(path)
		if errors.Is(err, os.ErrNotExist) && path != name {
			continue
		}
		if err != nil {
			return err
		}
		defer f.Close()
		info, err := f.Stat()
		if err != nil {
			return err
		}
		inputs = append(inputs, Input{Name: filepath.Base(path), File: f, Size: info.Size()})
	}
	report, err := Verify(ctx, inputs, Options{
		Log: func(origin string) *LogKeys {
			if a.cfg.Keys != nil {
				if keys := a.cfg.Keys(origin); keys != nil {
					return keys
				}
			}
			return unknownKeys // of a log whose key is not known now, such as one that was withdrawn
		},
		Makers:    []string{a.cfg.VKey},
		Timestamp: a.cfg.Timestamp,
	})
	if err != nil {
		return err
	}
	own := report.Packs[len(report.Packs)-1]
	if len(report.Errors) > 0 {
		return errors.New(report.Errors[0].String())
	}
	if last.Number > 0 && len(inputs) == 1 && own.Number != last.Number+1 {
		return fmt.Errorf("it is pack %d, and pack %d comes next", own.Number, last.Number+1)
	}
	return nil
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
		content, err := io.ReadAll(t)
		if err != nil {
			return r, err
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
	for _, l := range m.Logs {
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
	b.log, b.tree, b.rows = l, nil, map[string]Row{}
	for _, s := range b.archive.cfg.Sources() {
		if s.Origin == l.Origin {
			b.tree = s.Tree
		}
	}
	if b.tree == nil {
		return fmt.Errorf("the log %q is in it, and its data is not here any more: restore a backup of the database", l.Origin)
	}
	for line := range bytes.Lines(content) {
		var row Row
		if err := json.Unmarshal(line, &row); err != nil {
			return err
		}
		b.rows[row.Checkpoint] = row
	}
	return nil
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
