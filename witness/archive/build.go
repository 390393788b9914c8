package archive

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/mod/sumdb/note"

	"github.com/understudy-log/understudy/storage"
)

// Source is a log whose archive goes into packs.
type Source struct {
	Origin   string
	Name     string
	Coverage string   // full, window, pinned or witnessed
	Keys     []string // PEM, or verifier keys
	Tree     *storage.Tree
	// Followed says that the log is read here, so that it is an outage when nothing is seen of it.
	Followed bool
	// Gone says that it is not in the configuration any more.
	Gone bool
	Poll time.Duration // between two looks at it
	// Start is the virtual index of its first entry, if it is a shard of a Rekor v1 service, of which
	// TreeID is the number then.
	Start, TreeID uint64
}

// TrustFile is trust material for a pack.
type TrustFile struct {
	Kind     string // trusted_root.json or signing_config.json
	Content  []byte
	From, To time.Time // To is zero if it is the newest
}

// builder makes one pack.
type builder struct {
	a       *Archive
	spool   *spool
	record  record // of the pack that is made
	last    record // of the one before
	m       Manifest
	views   []*logView
	report  reportData
	entries entryBuilder
}

// logView is a log as it is when a pack is made.
type logView struct {
	Source
	view  *storage.View
	log   *Log
	newer uint64 // rows that come after the period
}

// build makes the pack of a period that ends at to, and records it, or does nothing that lasts.
func (a *Archive) build(ctx context.Context, to time.Time) (err error) {
	b := &builder{a: a, last: a.lastRecord()}
	defer func() {
		for _, v := range b.views {
			v.view.Close()
		}
	}()
	if b.spool, err = newSpool(a.cfg.Dir); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.spool.remove()) }()
	b.begin(to)
	for _, step := range []func(context.Context) error{b.logs, b.named, b.trust, b.outages, b.ledger, b.reports} {
		if err := step(ctx); err != nil {
			return err
		}
	}
	if err := b.spool.add(reportFile, b.report.text(&b.m)); err != nil {
		return err
	}
	return b.finish(ctx)
}

// begin fills in what is known from the start.
func (b *builder) begin(to time.Time) {
	a := b.a
	from := b.last.To
	if b.last.Number == 0 {
		from = a.began()
	}
	b.m = Manifest{
		Format: format, Number: b.last.Number + 1,
		Archive: Identity{Name: a.cfg.Signer.Name(), Key: a.cfg.VKey, Vantage: a.cfg.Vantage},
		Period:  Period{From: Time{from}, To: Time{to}, TimeZone: a.cfg.TimeZone, Schedule: a.cfg.Expression},
		Built:   Time{a.now()}, Authority: a.cfg.Authority,
		Notes: []string{}, Logs: []Log{}, Trust: []Material{}, Files: []File{},
	}
	if b.last.Number > 0 {
		b.m.Previous = &Previous{Number: b.last.Number, Name: b.last.Name, Hash: b.last.Manifest}
	}
	if to.Before(from) {
		b.m.Notes = append(b.m.Notes, "The clock of the machine was set back: this period ends before the one before it. Nothing is missing: packs go on by rows, not by time.")
	}
	b.record = record{Number: b.m.Number, From: from, To: to, Built: b.m.Built.Time, Logs: map[string]Place{}, Rows: map[string]uint64{}}
	b.record.Name = fmt.Sprintf("understudy-evidence-%06d-%s.tar", b.m.Number, to.In(a.cfg.location()).Format(time.DateOnly))
}

// logs adds the rows of every log.
func (b *builder) logs(ctx context.Context) error {
	sources := b.a.cfg.Sources()
	slices.SortFunc(sources, func(x, y Source) int { return strings.Compare(x.Origin, y.Origin) })
	folders := map[string]bool{}
	for _, s := range sources {
		v := &logView{Source: s, view: s.Tree.View()}
		b.views = append(b.views, v)
		folder := "logs/" + folderName(cmp.Or(s.Name, s.Origin))
		if folders[folder] {
			sum := sha256.Sum256([]byte(s.Origin))
			folder = folder[:min(len(folder), 36)] + "-" + hex.EncodeToString(sum[:4]) // a tar has room for 100 characters
		}
		folders[folder] = true
		v.log = &Log{Origin: s.Origin, Name: s.Name, Folder: folder, Coverage: s.Coverage, Keys: nonNil(s.Keys), Cosigners: nonNil(b.a.cosigners)}
		if s.Gone {
			b.m.Notes = append(b.m.Notes, fmt.Sprintf("%q is not in the configuration of the maker any more: it is not watched, and its entries are not looked through.", s.Origin))
		}
		if err := b.rows(ctx, v); err != nil {
			return fmt.Errorf("checkpoints of %q: %w", s.Origin, err)
		}
		if err := b.quarantine(v); err != nil {
			return err
		}
		b.m.Logs = append(b.m.Logs, *v.log)
		b.record.Logs[s.Origin], b.record.Rows[s.Origin] = v.log.After, v.log.Rows.Last
	}
	for origin, place := range b.last.Logs {
		if _, ok := b.record.Logs[origin]; !ok {
			b.lost(origin, place)
		}
	}
	slices.SortFunc(b.m.Logs, func(x, y Log) int { return strings.Compare(x.Origin, y.Origin) })
	b.beginEarlier()
	return nil
}

// lost adds a log of the last pack of which nothing can be read now: a tree that is damaged does not
// hold up the packs of the others. Its rows come in a later pack, when a backup was restored.
func (b *builder) lost(origin string, place Place) {
	sum, last := sha256.Sum256([]byte(origin)), b.last.Rows[origin]
	b.m.Logs = append(b.m.Logs, Log{
		Origin: origin, Name: origin, Folder: "logs/lost-" + hex.EncodeToString(sum[:16]), Coverage: "witnessed", Keys: []string{}, Cosigners: nonNil(b.a.cosigners),
		Rows: Rows{last + 1, last}, Before: place, After: place,
	})
	b.record.Logs[origin], b.record.Rows[origin] = place, last
	b.m.Notes = append(b.m.Notes, fmt.Sprintf("What the maker has stored of %q is damaged: this pack has no checkpoint of it. They follow in a later one.", origin))
	b.a.logger.Error("a log that was in the last evidence pack cannot be read: the packs go on without it; run \"understudy check\" and restore a backup", "origin", origin)
}

// beginEarlier has the first period begin with what was seen before packs were made.
func (b *builder) beginEarlier() {
	if b.last.Number > 0 {
		return
	}
	for _, s := range b.report.seen {
		if s.first.Before(b.record.From) {
			b.record.From, b.m.Period.From = s.first, Time{s.first}
		}
	}
}

func nonNil(list []string) []string { return append([]string{}, list...) }

// folderName makes a name a part of a path.
func folderName(name string) string {
	name = strings.Trim(strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '.' || r == '_' {
			return r
		}
		return '-'
	}, name), ".-")
	if len(name) > 40 {
		name = name[:40]
	}
	return cmp.Or(name, "log")
}

// errPeriod ends the rows of a period.
var errPeriod = errors.New("the period has ended")

// maxLater bounds how far is looked behind the end of a period for rows that were seen in it: a
// clock that was ahead for a while is no reason to keep back what came after.
const maxLater = 20_000

// rows adds the rows of a log from where the last pack ended up to the last one that was seen in
// the period. Packs go on by row numbers: whatever the clock did, each row is in one pack.
func (b *builder) rows(ctx context.Context, v *logView) error {
	before := Place{}
	if place, ok := b.last.Logs[v.Origin]; ok {
		before = place
	}
	first, base, hash := b.last.Rows[v.Origin]+1, before.Newest, storage.Hash(before.RowHash)
	v.log.Rows, v.log.Before = Rows{first, first - 1}, before
	total, _ := v.view.State().ArchiveRows()
	if total < first-1 {
		return fmt.Errorf("the database has %d rows of its archive, and the last pack ended with row %d: an older database was restored; put the packs that were made since into %s and start again", total, first-1, b.a.cfg.Dir)
	}
	if err := b.spool.begin(); err != nil {
		return err
	}
	strange := 0 // cosignatures of which the key is not known
	add := func(r storage.ArchiveRow) error {
		if r.Previous != hash {
			return fmt.Errorf("row %d of the archive does not follow what the last pack has: the database is another one; put the packs that were made since into %s and start again", r.Number, b.a.cfg.Dir)
		}
		name := fmt.Sprintf("%s/checkpoints/%08d-size-%d.txt", v.log.Folder, r.Number, r.Checkpoint.Size)
		cosignatures, others := ofCosigners(r.Cosignatures, b.a.cosigners)
		strange += others
		row, err := line(Row{
			Row: r.Number, Previous: Hex(r.Previous), FirstSeen: Time{r.Checkpoint.FirstSeen}, LastSeen: Time{later(r.Checkpoint)}, Source: r.Checkpoint.Source,
			Size: r.Checkpoint.Size, Root: Base64(r.Checkpoint.Root), Checkpoint: name, Relation: r.Relation.String(), Proof: base64s(r.Proof), Cosignatures: cosignatures,
		})
		if err != nil {
			return err
		}
		if r.Number == first && b.a.changedKeys(v.Origin, r.Checkpoint.Raw) {
			b.m.Notes = append(b.m.Notes, fmt.Sprintf("The keys of %q were changed: its first checkpoint here is signed by one that the maker does not have any more. Verify with the keys of that time as well.", v.Origin))
		}
		if err := b.spool.line(row); err != nil {
			return err
		}
		hash, v.log.Rows.Last = r.Hash(v.Origin), r.Number
		if moves(r, base) {
			base = headOf(r.Checkpoint.Head, true)
		}
		b.report.row(v.Origin, r)
		return b.spool.add(name, r.Checkpoint.Raw)
	}
	var later []storage.ArchiveRow // seen after the period, unless one that was seen in it follows
	err := v.view.Archive(first, total, func(r storage.ArchiveRow) error {
		// What was seen after now came while the clock was ahead, and before now.
		ahead := len(later) == 0 && r.Checkpoint.FirstSeen.After(b.m.Built.Time)
		if !ahead && !r.Checkpoint.FirstSeen.Before(b.record.To) && !b.record.To.Before(b.record.From) {
			if later = append(later, r); len(later) > maxLater {
				return errPeriod
			}
			return ctx.Err()
		}
		for _, r := range append(later, r) {
			if err := add(r); err != nil {
				return err
			}
		}
		later = later[:0]
		return ctx.Err()
	})
	if err != nil && err != errPeriod {
		return err
	}
	if strange > 0 {
		b.m.Notes = append(b.m.Notes, fmt.Sprintf("%d cosignatures of %q are left out: the keys of their cosigners are not known any more.", strange, v.Origin))
	}
	v.newer = total - v.log.Rows.Last
	v.log.After = Place{RowHash: Hex(hash), Newest: base}
	b.spool.end(v.log.Folder + "/checkpoints.jsonl")
	return nil
}

// later returns when a checkpoint was last seen; what came from a copy, or was pushed, vouches for no
// time but that.
func later(c storage.Checkpoint) time.Time {
	if c.LastSeen.Before(c.FirstSeen) {
		return c.FirstSeen
	}
	return c.LastSeen
}

// moves says whether a row makes its head the base of the next one.
func moves(r storage.ArchiveRow, base *Head) bool {
	switch r.Relation {
	case storage.RelationFirst, storage.RelationExtends, storage.RelationSame:
		return true
	case storage.RelationUnproven:
		return base == nil || r.Checkpoint.Size > base.Size
	}
	return false
}

// quarantine adds the evidence against a log.
func (b *builder) quarantine(v *logView) error {
	ev := v.view.State().Evidence
	if ev == nil {
		return nil
	}
	q := &Quarantine{Reason: ev.Reason, At: Time{ev.At}, First: v.log.Folder + "/evidence/first.txt", Second: v.log.Folder + "/evidence/second.txt", Proof: base64s(ev.Proof)}
	if ev.Root != (storage.Hash{}) {
		root := Base64(ev.Root)
		q.Root = &root
	}
	v.log.Quarantine = q
	return errors.Join(b.spool.add(q.First, ev.First), b.spool.add(q.Second, ev.Second))
}

// trust adds the trust material of the period.
func (b *builder) trust(ctx context.Context) error {
	if b.a.cfg.Trust == nil {
		return nil
	}
	files, err := b.a.cfg.Trust(ctx, b.record.From, b.record.To)
	if err != nil {
		return fmt.Errorf("trust material: %w", err)
	}
	for i, f := range files {
		name := fmt.Sprintf("trust/%s-%03d.json", strings.TrimSuffix(f.Kind, ".json"), i+1)
		if err := b.spool.add(name, f.Content); err != nil {
			return err
		}
		m := Material{File: name, Kind: f.Kind, From: Time{f.From}}
		if !f.To.IsZero() {
			m.To = &Time{f.To}
		}
		b.m.Trust = append(b.m.Trust, m)
	}
	return nil
}

// outages adds what was not seen.
func (b *builder) outages(context.Context) error {
	all, err := b.a.outagesIn(b.record.From, b.record.To)
	if err != nil {
		return err
	}
	var lines bytes.Buffer
	for _, o := range all {
		l, err := line(o)
		if err != nil {
			return err
		}
		lines.Write(l)
	}
	b.report.outages = all
	return b.spool.add(outagesFile, lines.Bytes())
}

// finish signs the pack, writes it, verifies it, and records it.
func (b *builder) finish(ctx context.Context) error {
	a := b.a
	for _, f := range b.spool.sorted() {
		b.m.Files = append(b.m.Files, f.File)
	}
	manifest, err := json.MarshalIndent(&b.m, "", " ")
	if err != nil {
		return err
	}
	manifest = append(manifest, '\n')
	digest := sha256.Sum256(manifest)
	b.record.Manifest = Hex(digest)
	front := []fileContent{{manifestFile, manifest}, {noteFile, nil}}
	stamped := "none"
	if token := a.stamp(ctx, digest); token != nil {
		front = append(front, fileContent{timestampFile, token})
		sum := sha256.Sum256(token)
		stamped = hex.EncodeToString(sum[:])
		b.record.Stamped = true
	}
	front[1].content, err = note.Sign(&note.Note{Text: fmt.Sprintf("%s\n%d\n%x\n%s\n", format, b.m.Number, digest, stamped)}, a.cfg.Signer)
	if err != nil {
		return fmt.Errorf("sign the manifest: %w", err)
	}
	if err := a.step("write"); err != nil {
		return err
	}
	name, err := b.write(front)
	if err != nil {
		return err
	}
	if err := a.verifyOwn(ctx, name, b.last); err != nil {
		return errors.Join(fmt.Errorf("the pack that was made does not verify, and is not kept: %w", err), os.Remove(name))
	}
	if err := a.step("rename"); err != nil {
		return err
	}
	if there, err := filepath.Glob(filepath.Join(a.cfg.Dir, fmt.Sprintf("understudy-evidence-%06d-*.tar", b.m.Number))); err != nil || len(there) > 0 {
		return errors.Join(fmt.Errorf("pack %d is there already, as %q, and the database does not know it; start again, and it is taken back", b.m.Number, there), err, os.Remove(name))
	}
	if err := os.Rename(name, filepath.Join(a.cfg.Dir, b.record.Name)); err != nil {
		return errors.Join(err, os.Remove(name))
	}
	if err := syncFolder(a.cfg.Dir); err != nil {
		return errors.Join(err, os.Remove(filepath.Join(a.cfg.Dir, b.record.Name)))
	}
	if err := a.step("record"); err != nil {
		return err
	}
	return a.keep(b.record)
}

// write writes the tar under a temporary name, durably.
func (b *builder) write(front []fileContent) (name string, err error) {
	f, err := os.CreateTemp(b.a.cfg.Dir, temporary)
	if err != nil {
		return "", err
	}
	name = f.Name()
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(name))
		}
	}()
	hash := sha256.New()
	w := bufio.NewWriterSize(f, 1<<20)
	err = b.spool.writeTo(&teeWriter{w, hash, &b.record.Size}, b.record.To, front)
	err = errors.Join(err, w.Flush(), f.Chmod(0o444), f.Sync(), f.Close())
	hash.Sum(b.record.Hash[:0])
	return name, err
}

// teeWriter writes, hashes and counts.
type teeWriter struct {
	w    *bufio.Writer
	hash interface{ Write([]byte) (int, error) }
	size *int64
}

func (t *teeWriter) Write(p []byte) (int, error) {
	t.hash.Write(p)
	*t.size += int64(len(p))
	return t.w.Write(p)
}

func syncFolder(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
