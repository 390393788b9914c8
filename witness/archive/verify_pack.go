package archive

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"strings"

	"golang.org/x/mod/sumdb/note"
)

// Bounds of files that are held in memory.
const (
	maxManifest = 512 << 20        // about two million files
	maxSmall    = 1 << 20          // a checkpoint, a proof, a time-stamp
	maxProof    = maxSmall + 1<<14 // a checkpoint with an inclusion proof
	maxEntry    = 64 << 20
	maxLine     = 64 << 20
)

// Offsets of files that are not in the pack, or not as the manifest has them.
const (
	missing = -1
	broken  = -2
)

// pack is a pack that is verified.
type pack struct {
	remarks
	v        *verification
	in       Input
	m        Manifest
	manifest Hex  // hash of manifest.json
	read     bool // m was read
	summary  Summary
	index    map[string]int // of the files in m.Files
	offsets  []int64        // of their contents, or missing or broken
	used     []bool         // something in the pack is about it
	partial  bool           // not everything that files can be about was read
	notes    map[string][]byte
	keyless  map[string]bool   // origins for which a key is missing, which was said
	evidence map[string][2]Hex // hashes of the evidence, by origin
}

// pack verifies one pack, alone. The error is that of reading it.
func (v *verification) pack(ctx context.Context, in Input) (*pack, error) {
	p := &pack{v: v, in: in, notes: map[string][]byte{}, keyless: map[string]bool{}, evidence: map[string][2]Hex{}}
	p.remarks.pack = in.Name
	p.summary = Summary{Name: in.Name, Bytes: in.Size, Notes: []string{}, Logs: []LogSummary{}}
	whole, err := p.scan(ctx)
	if err != nil || !p.read {
		return p, err
	}
	p.checkNote()
	p.checkTimestamp()
	p.checkManifest()
	if !whole {
		return p, nil // what is missing would be said of every row
	}
	for i := range p.m.Logs {
		if err := p.checkLog(ctx, &p.m.Logs[i]); err != nil {
			return p, err
		}
	}
	if err := p.checkEntries(ctx); err != nil {
		return p, err
	}
	if err := p.checkOutages(); err != nil {
		return p, err
	}
	if err := p.checkLedger(ctx); err != nil {
		return p, err
	}
	if err := p.checkReports(ctx); err != nil {
		return p, err
	}
	p.checkTrust()
	for i, used := range p.used {
		if !used && !p.partial && p.m.Files[i].Name != reportFile {
			p.errorf(p.m.Files[i].Name, "nothing in the pack is about this file")
		}
	}
	return p, nil
}

// scan reads the whole file once: its form, its order, and the hash of each file. It reports
// whether it got to the end.
func (p *pack) scan(ctx context.Context) (whole bool, err error) {
	t := newTarReader(bufio.NewReaderSize(io.NewSectionReader(p.in.File, 0, p.in.Size), 1<<20))
	place := 0 // in m.Files, behind what was read
	for files := 0; ; files++ {
		if err := ctx.Err(); err != nil {
			return false, err
		}
		name := t.name
		err := t.next()
		if err == errTarPadding {
			p.errorf(name, "%v", err)
			err = t.next()
		}
		var malformed *tarError
		switch {
		case err == io.EOF:
			return p.scanned(files), nil
		case errors.As(err, &malformed):
			p.errorf("", "%v", err)
			if files == 0 {
				p.errorf("", "this is no evidence pack")
			}
			return false, nil
		case err != nil:
			return false, err
		}
		if err := p.scanFile(t, &place); err != nil {
			if errors.As(err, &malformed) {
				p.errorf(t.name, "%v", err)
				return false, nil
			}
			return false, err
		}
		if !p.read {
			return false, nil
		}
	}
}

// scanned says what is missing at the end of the tar.
func (p *pack) scanned(files int) bool {
	if files == 0 {
		p.errorf("", "there is no file in it")
		return false
	}
	if p.notes[noteFile] == nil {
		p.errorf(noteFile, "the file is missing: nobody signed the pack")
	}
	for i, f := range p.m.Files {
		if p.offsets[i] == missing {
			p.errorf(f.Name, "the manifest lists this file, and it is missing")
		}
	}
	return true
}

// scanFile reads one file of the tar. place is the first in the list of the manifest that it
// may be.
func (p *pack) scanFile(t *tarReader, place *int) error {
	name, at := t.name, t.offset
	if !p.read {
		if name != manifestFile {
			p.errorf(name, "the first file must be %s", manifestFile)
			return nil
		}
		return p.readManifest(t)
	}
	if name == noteFile || name == timestampFile {
		return p.readFront(t, *place)
	}
	if p.notes[noteFile] == nil && *place == 0 {
		p.errorf(name, "%s must stand before it", noteFile)
	}
	sum := sha256.New()
	if _, err := io.Copy(sum, t); err != nil {
		return err
	}
	i, ok := p.index[name]
	switch {
	case !ok:
		p.errorf(name, "the manifest does not list this file")
		return nil
	case p.offsets[i] != missing:
		p.errorf(name, "the file is there twice")
		return nil
	case i < *place:
		p.errorf(name, "the file is not at the place that it has in the manifest")
	}
	*place = max(*place, i+1)
	p.offsets[i] = broken
	switch f := p.m.Files[i]; {
	case f.Size != t.size:
		p.errorf(name, "the file has %d bytes, and the manifest says %d", t.size, f.Size)
	case Hex(sum.Sum(nil)) != f.Hash:
		p.errorf(name, "the file was changed: it does not have the hash that the manifest says")
	default:
		p.offsets[i] = at
	}
	return nil
}

// readManifest reads the first file.
func (p *pack) readManifest(t *tarReader) error {
	if t.size > maxManifest {
		p.errorf(manifestFile, "it has %d bytes: more than %d are not read", t.size, maxManifest)
		return nil
	}
	raw, err := io.ReadAll(t)
	if err != nil {
		return err
	}
	p.manifest = sha256.Sum256(raw)
	p.summary.Manifest = p.manifest
	if err := new(decoder).decode(raw, &p.m); err != nil {
		p.errorf(manifestFile, "it is not what a manifest is: %v", err)
		return nil
	}
	if p.m.Format != format {
		p.errorf(manifestFile, "its format is %.60q, and this program knows %q", p.m.Format, format)
		return nil
	}
	m := &p.m
	p.read = true
	p.summary.Number, p.summary.Period, p.summary.Built, p.summary.Archive, p.summary.Notes = m.Number, m.Period, m.Built, m.Archive, m.Notes
	p.index, p.offsets, p.used = make(map[string]int, len(m.Files)), make([]int64, len(m.Files)), make([]bool, len(m.Files))
	for i, f := range m.Files {
		p.index[f.Name], p.offsets[i] = i, missing
	}
	if t.mtime != m.Period.To.Unix() {
		p.errorf(manifestFile, "the files are of another time than the end of the period, %s", m.Period.To.Format(timeLayout))
	}
	return nil
}

// readFront reads one of the two files that may stand between the manifest and those that it lists.
func (p *pack) readFront(t *tarReader, place int) error {
	name := t.name
	if p.notes[name] != nil {
		p.errorf(name, "the file is there twice")
		return nil
	}
	if place > 0 || name == timestampFile && p.notes[noteFile] == nil || name == noteFile && p.notes[timestampFile] != nil {
		p.errorf(name, "the file is not at its place at the beginning")
	}
	if t.size > maxSmall {
		p.errorf(name, "it has %d bytes: more than %d are not read", t.size, maxSmall)
		return nil
	}
	raw, err := io.ReadAll(t)
	p.notes[name] = raw
	return err
}

// use says that something in the pack is about a file, and whether there is such a file.
func (p *pack) use(name string) bool {
	i, ok := p.index[name]
	if ok {
		p.used[i] = true
	}
	return ok
}

// content returns a file that a place in the pack names; nil, with an error in r, if it cannot be
// used.
func (p *pack) content(r *remarks, place, name string, limit int64) (io.Reader, error) {
	i, ok := p.index[name]
	if !ok {
		r.errorf(place, "the file %.120q is not in the manifest", name)
		return nil, nil
	}
	f := p.m.Files[i]
	if p.offsets[i] < 0 {
		return nil, nil // scan said so
	}
	if limit > 0 && f.Size > limit {
		r.errorf(place, "the file %s has %d bytes: more than %d are not read", name, f.Size, limit)
		return nil, nil
	}
	return io.NewSectionReader(p.in.File, p.offsets[i], f.Size), nil
}

// file is content in memory.
func (p *pack) file(r *remarks, place, name string, limit int64) ([]byte, error) {
	c, err := p.content(r, place, name, limit)
	if c == nil || err != nil {
		return nil, err
	}
	b := make([]byte, p.m.Files[p.index[name]].Size)
	if _, err := io.ReadFull(c, b); err != nil {
		return nil, fmt.Errorf("read %s again: %w", name, err)
	}
	return b, nil
}

// lines calls line for each line of a JSONL file, decoded into a new T.
func lines[T any](p *pack, name string, line func(place string, v *T) error) error {
	return rawLines(p, name, func(place string, _ []byte, v *T) error { return line(place, v) })
}

// rawLines is lines that also gives the line itself, without its newline.
func rawLines[T any](p *pack, name string, line func(place string, raw []byte, v *T) error) error {
	p.use(name)
	c, err := p.content(&p.remarks, name, name, 0)
	if c == nil || err != nil {
		p.partial = true
		return err
	}
	b := bufio.NewReaderSize(c, 1<<20)
	var d decoder
	for n := uint64(1); ; n++ {
		raw, err := readLine(b)
		place := fmt.Sprintf("%s line %d", name, n)
		switch {
		case err == io.EOF && len(raw) == 0:
			return nil
		case err == io.EOF:
			p.errorf(place, "the last line does not end with a newline")
			p.partial = true
			return nil
		case err == bufio.ErrTooLong:
			p.errorf(place, "the line is longer than %d bytes", maxLine)
			p.partial = true
			return nil
		case err != nil:
			return err
		}
		v := new(T)
		raw = raw[:len(raw)-1]
		if err := d.decode(raw, v); err != nil {
			p.errorf(place, "the line is not what it should be: %v", err)
			p.partial = true
			continue
		}
		if err := line(place, raw, v); err != nil {
			return err
		}
	}
}

// readLine reads up to the next newline.
func readLine(b *bufio.Reader) (line []byte, err error) {
	for {
		part, err := b.ReadSlice('\n')
		line = append(line, part...)
		if err != bufio.ErrBufferFull {
			return line, err
		}
		if len(line) > maxLine {
			return nil, bufio.ErrTooLong
		}
	}
}

// checkNote verifies the signature of the maker: over the hash of the manifest, and so over all
// that the manifest lists, and the time-stamp.
func (p *pack) checkNote() {
	raw := p.notes[noteFile]
	if raw == nil {
		return
	}
	stamped := "none"
	if token := p.notes[timestampFile]; token != nil {
		stamped = fmt.Sprintf("%x", sha256.Sum256(token))
	}
	text := fmt.Sprintf("%s\n%d\n%v\n%s\n", format, p.m.Number, p.manifest, stamped)
	rest, ok := bytes.CutPrefix(raw, []byte(text+"\n"))
	if !ok {
		p.errorf(noteFile, "what is signed is not the manifest and the time-stamp of this pack")
		return
	}
	key, err := parseMaker(p.m.Archive.Key)
	if err != nil {
		return // checkManifest says so
	}
	signature, ok := signatureOf(string(bytes.TrimSuffix(rest, []byte("\n"))), key)
	if !ok || !bytes.HasSuffix(rest, []byte("\n")) {
		p.errorf(noteFile, "it does not have exactly one signature, of the archive key %q", p.m.Archive.Key)
		return
	}
	if !key.Verify([]byte(text), signature) {
		p.errorf(noteFile, "the signature of the archive key %q does not verify", p.m.Archive.Key)
	}
}

// signatureOf returns the signature in a line of a note, if it has the name and the ID of key.
func signatureOf(line string, key note.Verifier) (signature []byte, ok bool) {
	encoded, ok := strings.CutPrefix(line, "— "+key.Name()+" ")
	if !ok {
		return nil, false
	}
	raw, err := decodeBase64(encoded)
	id := key.KeyHash()
	if err != nil || len(raw) <= 4 || !bytes.Equal(raw[:4], []byte{byte(id >> 24), byte(id >> 16), byte(id >> 8), byte(id)}) {
		return nil, false
	}
	return raw[4:], true
}

// parseMaker reads the verifier key of an archive: Ed25519, type 1.
func parseMaker(key string) (note.Verifier, error) {
	v, err := note.NewVerifier(key)
	if err != nil {
		return nil, errors.New("it is no verifier key of type 1")
	}
	name, id, encoded := cutKey(key)
	raw, err := decodeBase64(encoded)
	if err != nil || len(raw) != 33 || name != v.Name() || id != fmt.Sprintf("%08x", v.KeyHash()) {
		return nil, errors.New("it is no verifier key in the one form that it has")
	}
	return v, nil
}

// cutKey cuts a verifier key into name, key ID and base64.
func cutKey(key string) (name, id, encoded string) {
	name, rest, _ := strings.Cut(key, "+")
	id, encoded, _ = strings.Cut(rest, "+")
	return name, id, encoded
}

// checkTimestamp verifies the time-stamp.
func (p *pack) checkTimestamp() {
	token := p.notes[timestampFile]
	if token == nil {
		if p.m.Authority == "" {
			p.findingf("", "the pack has no time-stamp: only its maker says when it was made")
		} else {
			p.findingf("", "the pack has no time-stamp, since %q could not be reached: that of a later pack covers it", p.m.Authority)
		}
		return
	}
	if p.v.o.Timestamp == nil {
		p.findingf(timestampFile, "the time-stamp was not verified: %v", ErrNoAuthority)
		return
	}
	at, signer, err := p.v.o.Timestamp(token, [32]byte(p.manifest))
	switch {
	case errors.Is(err, ErrNoAuthority):
		p.findingf(timestampFile, "the time-stamp was not verified: %v", err)
	case err != nil:
		p.errorf(timestampFile, "the time-stamp does not verify: %v", err)
	default:
		p.summary.Stamped, p.summary.Signer = &Time{at.UTC()}, signer
		if at.Before(p.m.Period.To.Time) {
			p.findingf(timestampFile, "the time-stamp is of %s, before the end of the period, %s: one of the clocks was wrong", at.UTC().Format(timeLayout), p.m.Period.To.Format(timeLayout))
		}
	}
}

func encodeBase64(h Base64) string { return base64.StdEncoding.EncodeToString(h[:]) }
