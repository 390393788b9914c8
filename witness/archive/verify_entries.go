package archive

import (
	"bytes"
	"context"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"

	tlogproof "github.com/transparency-dev/formats/proof"
	"github.com/transparency-dev/merkle/proof"
	"github.com/transparency-dev/merkle/rfc6962"

	"github.com/understudy-log/understudy/log/rekor"
	"github.com/understudy-log/understudy/storage"
)

// entriesCheck verifies the entries of a pack.
type entriesCheck struct {
	p       *pack
	logs    map[string]*Log
	folders []string
	seen    map[string]bool
	placed  map[placed]string // folder
	origins map[string]string // by folder
	claims  []claim
}

// claim is that an entry is of the log or logs that were named.
type claim struct{ place, log, folder string }

// answerLine is a line of entries.jsonl, which tells what is empty from what is missing.
type answerLine struct {
	Wanted struct {
		Digest   *string `json:"digest,omitempty"`
		Identity *string `json:"identity,omitempty"`
		UUID     *string `json:"uuid,omitempty"`
		Index    *string `json:"index,omitempty"`
		Log      *string `json:"log,omitempty"`
	} `json:"wanted"`
	Found    []Found `json:"found"`
	Looked   string  `json:"looked"`
	Complete bool    `json:"complete"`
}

// placed is where an entry is.
type placed struct {
	origin string
	index  uint64
}

// checkEntries verifies entries.jsonl and the entries that it names.
func (p *pack) checkEntries(ctx context.Context) error {
	i, ok := p.index[entriesFile]
	if !ok {
		return nil // folders of entries that are there nevertheless are about nothing
	}
	if p.m.Files[i].Size == 0 {
		p.errorf(entriesFile, "the file is empty: it is there only if entries were named")
	}
	e := &entriesCheck{p: p, logs: map[string]*Log{}, seen: map[string]bool{}, placed: map[placed]string{}, origins: map[string]string{}}
	for i := range p.m.Logs {
		e.logs[p.m.Logs[i].Origin] = &p.m.Logs[i]
	}
	if err := lines(p, entriesFile, func(place string, a *answerLine) error {
		e.answer(place, a)
		return ctx.Err()
	}); err != nil {
		return err
	}
	for from := 0; from < len(e.folders); from += batch {
		folders := e.folders[from:min(from+batch, len(e.folders))]
		places := make([]placed, len(folders))
		if err := p.each(ctx, len(folders), func(i int, r *remarks) (err error) {
			places[i], err = e.entry(folders[i], r)
			return err
		}); err != nil {
			return err
		}
		for i, at := range places {
			if other, ok := e.placed[at]; ok && at != (placed{}) {
				p.errorf(folders[i], "the entry is that of %s once more", other)
			}
			e.placed[at] = folders[i]
			if at.origin != "" {
				p.needKey(at.origin)
				e.origins[folders[i]] = at.origin
			}
		}
	}
	for _, c := range e.claims {
		if l := e.logs[e.origins[c.folder]]; l != nil && c.log != l.Origin && c.log != l.Name && c.log != serviceOf(l.Name) {
			p.errorf(c.place, "%s is an entry of %.120q, and only those of %.120q are meant", c.folder, l.Origin, c.log)
		}
	}
	p.summary.Entries = uint64(len(e.folders))
	return nil
}

// answer checks one line of entries.jsonl.
func (e *entriesCheck) answer(place string, a *answerLine) {
	p := e.p
	p.summary.Wanted++
	what := a.named()
	if len(what) != 1 {
		p.errorf(place, "what is wanted is not one of digest, identity, uuid and index")
		return
	}
	if len(a.Found) == 0 {
		p.findingf(place, "%s was not found (%.300q)", what[0], a.Looked)
	}
	if !a.Complete {
		p.findingf(place, "not all was looked through for %s: it is not known whether there is more (%.300q)", what[0], a.Looked)
	}
	here := map[string]bool{}
	for _, f := range a.Found {
		if here[f.Folder] {
			p.errorf(place, "it names %.60q twice", f.Folder)
			continue
		}
		here[f.Folder] = true
		if a.Wanted.Log != nil {
			e.claims = append(e.claims, claim{place, *a.Wanted.Log, f.Folder})
		}
		if e.seen[f.Folder] {
			continue
		}
		e.seen[f.Folder] = true
		if !entryFolder.MatchString(f.Folder) {
			p.errorf(place, "%.60q is no folder of an entry", f.Folder)
			continue
		}
		e.folders = append(e.folders, f.Folder)
		for _, name := range []string{"entry.json", "place.json", "proof.txt"} {
			p.use(f.Folder + "/" + name)
		}
	}
}

// entryFolder is the name of the folder of an entry.
var entryFolder = regexp.MustCompile(`^entries/([0-9]{6}|[1-9][0-9]{6,})$`)

// named returns what is wanted, in words.
func (a *answerLine) named() (what []string) {
	for _, m := range []struct {
		name string
		text *string
	}{{"digest", a.Wanted.Digest}, {"identity", a.Wanted.Identity}, {"UUID", a.Wanted.UUID}, {"index", a.Wanted.Index}} {
		if m.text != nil {
			what = append(what, fmt.Sprintf("%s %.200q", m.name, *m.text))
		}
	}
	return what
}

// entry verifies one entry, and returns where it is.
func (e *entriesCheck) entry(folder string, r *remarks) (at placed, err error) {
	var raw [3][]byte
	for i, name := range []string{"place.json", "proof.txt", "entry.json"} {
		limit := [3]int64{maxSmall, maxProof, maxEntry}[i]
		if raw[i], err = e.p.file(r, folder, folder+"/"+name, limit); err != nil {
			return at, err
		}
	}
	if raw[0] == nil || raw[1] == nil || raw[2] == nil {
		return at, nil
	}
	var place EntryPlace
	var d decoder
	if err := d.decode(raw[0], &place); err != nil {
		r.errorf(folder+"/place.json", "the file is not what it should be: %v", err)
		return at, nil
	}
	l := e.logs[place.Origin]
	if l == nil {
		r.errorf(folder+"/place.json", "the pack does not have the log %.120q", place.Origin)
		return at, nil
	}
	keys := e.p.v.logs[l.Origin]
	e.proof(folder, raw[1], raw[2], &place, l, keys, r)
	e.promise(folder, raw[2], &place, keys, r)
	return placed{place.Origin, place.Index}, nil
}

// proof verifies that an entry is in the tree of its checkpoint, and that in the newest one.
func (e *entriesCheck) proof(folder string, raw, body []byte, place *EntryPlace, l *Log, keys *LogKeys, r *remarks) {
	file, about := folder+"/proof.txt", folder+"/place.json"
	var t tlogproof.TLogProof
	if err := t.Unmarshal(raw); err != nil || t.ExtraData != nil || !bytes.Equal(t.Marshal(), raw) {
		r.errorf(file, "it is no proof in the form of c2sp.org/tlog-proof")
		return
	}
	if t.Index != place.Index {
		r.errorf(file, "the index is %d, and place.json says %d", t.Index, place.Index)
	}
	c, err := openCheckpoint(l.Origin, keys, t.Checkpoint)
	if err != nil {
		r.errorf(file, "its checkpoint: %v", err)
		return
	}
	path := make([][]byte, len(t.Hashes))
	for i := range path {
		path[i] = t.Hashes[i][:]
	}
	leaf := storage.LeafHash(body)
	if err := proof.VerifyInclusion(rfc6962.DefaultHasher, t.Index, c.Size, leaf[:], path, c.Root[:]); err != nil {
		r.errorf(file, "the proof does not show that the entry is at index %d of the tree of size %d: %v", t.Index, c.Size, err)
	}
	if l.After.Newest == nil || place.To != *l.After.Newest {
		r.errorf(about, "it ties the entry to another tree than the newest of %q in this pack", l.Origin)
		return
	}
	if err := precedes(c.Head, place.To, place.Tie); err != nil {
		r.errorf(about, "the proof does not show that the trees of size %d and %d are consistent: %v", c.Size, place.To.Size, err)
	}
}

// promise verifies what Rekor v1 promised, and the names that it gave: a log of any other kind gives
// none.
func (e *entriesCheck) promise(folder string, body []byte, place *EntryPlace, keys *LogKeys, r *remarks) {
	bad := func(format string, args ...any) { r.errorf(folder+"/place.json", format, args...) }
	tree, v1 := treeID(place.Origin)
	leaf, uuid := storage.LeafHash(body), ""
	if v1 {
		uuid = fmt.Sprintf("%016x%x", tree, leaf[:])
	}
	if place.UUID != uuid {
		bad("%.100q is not the UUID of this entry, %q", place.UUID, uuid)
	}
	switch {
	case !v1 && place.SET != nil:
		bad("there is a signed entry timestamp, and %.120q is no log of Rekor v1", place.Origin)
	case !v1 && place.VirtualIndex != nil:
		bad("there is a virtual index, and %.120q is no log of Rekor v1", place.Origin)
	case !v1:
	case place.SET == nil:
		bad("there is no signed entry timestamp")
	case place.VirtualIndex == nil:
		bad("there is no virtual index")
	case new(Hex).parse(place.SET.LogID) != nil:
		bad("the log_id %.80q of the signed entry timestamp is not a hash in hexadecimal", place.SET.LogID)
	case keys != nil:
		set := rekor.Entry{Body: body, IntegratedTime: place.SET.IntegratedTime, LogID: place.SET.LogID, LogIndex: *place.VirtualIndex, SET: place.SET.Signature}
		if err := keys.SET(&set); err != nil {
			bad("the signed entry timestamp does not verify: %v", err)
		}
	}
}

// treeID returns the number at the end of an origin of Rekor v1.
func treeID(origin string) (id uint64, ok bool) {
	i := strings.LastIndex(origin, " - ")
	if i < 0 {
		return 0, false
	}
	id, err := strconv.ParseUint(origin[i+3:], 10, 64)
	return id, err == nil
}

// checkOutages checks outages.jsonl, of which each line is a finding.
func (p *pack) checkOutages() error {
	if _, ok := p.index[outagesFile]; !ok {
		return nil // checkManifest says so
	}
	origins := []string{""}
	for i := range p.m.Logs {
		origins = append(origins, p.m.Logs[i].Origin)
	}
	from, to := p.m.Period.From, p.m.Period.To
	return lines(p, outagesFile, func(place string, o *Outage) error {
		p.summary.Outages++
		said := map[string]string{"stopped": "the maker did not run", "unreachable": "the log did not answer in order", "quarantined": "the log was quarantined"}[o.What]
		if said == "" {
			p.errorf(place, "there is no outage that is %.40q", o.What)
		}
		if !slices.Contains(origins, o.Origin) {
			p.errorf(place, "the pack does not have the log %.120q", o.Origin)
		}
		until := "the end of the period, and on"
		if o.To != nil {
			until = o.To.Format(timeLayout)
		}
		switch {
		case o.To != nil && o.To.Before(o.From.Time):
			p.errorf(place, "it ends at %s, before it begins at %s", until, o.From.Format(timeLayout))
		case !to.Before(from.Time) && (o.From.After(to.Time) || o.To != nil && o.To.Before(from.Time)):
			p.errorf(place, "it is not in the period of the pack")
		}
		of := "all logs"
		if o.Origin != "" {
			of = fmt.Sprintf("%.120q", o.Origin)
		}
		p.findingf(place, "nothing was seen of %s from %s to %s: %s (%.300q)", of, o.From.Format(timeLayout), until, said, o.Text)
		return nil
	})
}
