package archive

import (
	"crypto/sha256"
	"fmt"
	"reflect"
	"slices"
	"strings"

	"github.com/understudy-log/understudy/storage"
)

// emptyRoot is the root of the tree without entries.
var emptyRoot = Base64(sha256.Sum256(nil))

// checkManifest checks what the manifest says by itself.
func (p *pack) checkManifest() {
	m := &p.m
	bad := func(format string, args ...any) { p.errorf(manifestFile, format, args...) }
	switch {
	case m.Number == 0:
		bad("the first pack has the number 1, not 0")
	case m.Number == 1 && m.Previous != nil:
		bad("it is the first pack, and names one before it")
	case m.Number > 1 && m.Previous == nil:
		bad("it is pack %d, and names none before it", m.Number)
	case m.Previous != nil && m.Previous.Number != m.Number-1:
		bad("it is pack %d, and names pack %d as the one before it", m.Number, m.Previous.Number)
	case m.Previous != nil && !isPackName(m.Previous.Name, m.Previous.Number):
		bad("it names %.120q as the one before it, and that of pack %d begins with understudy-evidence-%06[2]d", m.Previous.Name, m.Previous.Number)
	}
	if key, err := parseMaker(m.Archive.Key); err != nil {
		bad("the archive key %.200q cannot be used: %v", m.Archive.Key, err)
	} else if key.Name() != m.Archive.Name {
		bad("the archive is called %.200q, and its key %q", m.Archive.Name, key.Name())
	} else if strings.ContainsFunc(m.Archive.Name, isControl) {
		bad("the name of the archive has control characters")
	}
	if strings.ContainsFunc(m.Archive.Vantage, isControl) {
		bad("the vantage has control characters")
	}
	if m.Period.To.Before(m.Period.From.Time) {
		p.findingf(manifestFile, "the period ends at %s, before it begins at %s: the clock of the maker was set back", m.Period.To.Format(timeLayout), m.Period.From.Format(timeLayout))
	}
	if m.Built.Before(m.Period.To.Time) {
		p.findingf(manifestFile, "the pack was made at %s, before the end of the period, %s: the clock of the maker was changed", m.Built.Format(timeLayout), m.Period.To.Format(timeLayout))
	}
	for i := range m.Files {
		f := &m.Files[i]
		if !validTarName(f.Name) || f.Name == manifestFile || f.Name == noteFile || f.Name == timestampFile {
			bad("files[%d]: the name %.120q is not one that a listed file can have", i, f.Name)
		}
		if i > 0 && f.Name <= m.Files[i-1].Name {
			bad("files[%d]: %.120q does not come after %.120q bytewise", i, f.Name, m.Files[i-1].Name)
		}
	}
	for _, name := range []string{outagesFile, reportFile} {
		if _, ok := p.index[name]; !ok {
			bad("the pack has no %s", name)
		}
	}
	folders := map[string]string{}
	for i := range m.Logs {
		l := &m.Logs[i]
		if i > 0 && l.Origin <= m.Logs[i-1].Origin {
			bad("logs[%d]: %.120q does not come after %.120q bytewise", i, l.Origin, m.Logs[i-1].Origin)
		}
		if other, ok := folders[l.Folder]; ok {
			bad("logs[%d]: the folder %.120q is that of %.120q as well", i, l.Folder, other)
		}
		folders[l.Folder] = l.Origin
	}
}

// isPackName says whether a pack of that number can have the name.
func isPackName(name string, number uint64) bool {
	rest, ok := strings.CutPrefix(name, fmt.Sprintf("understudy-evidence-%06d", number))
	return ok && (rest == "" || rest[0] < '0' || rest[0] > '9') && !strings.ContainsFunc(name, isControl)
}

// checkLogEntry checks what the manifest says of one log, and reports whether its rows can be
// looked at.
func (p *pack) checkLogEntry(l *Log) bool {
	bad := func(format string, args ...any) {
		p.errorf(manifestFile, "log %.120q: %s", l.Origin, fmt.Sprintf(format, args...))
	}
	if l.Origin == "" || strings.ContainsFunc(l.Origin, isControl) {
		bad("this cannot be an origin")
	}
	if strings.ContainsFunc(l.Name, isControl) {
		bad("the name has control characters")
	}
	if part, ok := strings.CutPrefix(l.Folder, "logs/"); !ok || strings.Contains(part, "/") || !validTarName(l.Folder) {
		bad("the folder %.120q is not logs/ and one more part", l.Folder)
	}
	if !slices.Contains([]string{"full", "window", "pinned", "witnessed"}, l.Coverage) {
		bad("there is no coverage %.40q", l.Coverage)
	}
	if l.Rows.First == 0 || l.Rows.Last < l.Rows.First-1 {
		bad("there cannot be rows from %d to %d", l.Rows.First, l.Rows.Last)
		return false
	}
	if p.m.Number == 1 && l.Rows.First != 1 {
		bad("the rows begin with %d, and this is the first pack", l.Rows.First)
	}
	for _, place := range []struct {
		name string
		row  uint64
		Place
	}{{"before", l.Rows.First - 1, l.Before}, {"after", l.Rows.Last, l.After}} {
		if (place.row == 0) != (place.RowHash == Hex{}) {
			bad("%s.row_hash cannot be that of row %d", place.name, place.row)
		}
		if (place.row == 0) != (place.Newest == nil) {
			bad("%s.newest cannot be that of row %d", place.name, place.row)
		}
		if n := place.Newest; n != nil && n.Size == 0 && n.Root != emptyRoot {
			bad("%s.newest is an empty tree with another root than that of the empty tree", place.name)
		}
	}
	return true
}

// checkTrust checks the list of trust material.
func (p *pack) checkTrust() {
	for i, t := range p.m.Trust {
		place := fmt.Sprintf("trust[%d]", i)
		if t.Kind != "trusted_root.json" && t.Kind != "signing_config.json" {
			p.errorf(manifestFile, "%s: there is no kind %.60q", place, t.Kind)
		}
		if t.To != nil && t.To.Before(t.From.Time) {
			p.errorf(manifestFile, "%s: it ends at %s, before it begins at %s", place, t.To.Format(timeLayout), t.From.Format(timeLayout))
		}
		_, ok := p.index[t.File]
		switch {
		case !ok:
			p.errorf(manifestFile, "%s: the file %.120q is not in the pack", place, t.File)
			continue
		case !strings.HasPrefix(t.File, "trust/"):
			p.errorf(manifestFile, "%s: the name of the file %.120q does not begin with trust/", place, t.File)
		}
		p.use(t.File)
	}
}

// follows checks that the pack follows before; alone says that it is the first one that was given.
func (p *pack) follows(before *pack, alone bool) {
	m := &p.m
	bad := func(format string, args ...any) { p.errorf(manifestFile, format, args...) }
	if alone {
		if m.Number > 1 {
			p.findingf("", "the packs before number %d were not given: that it follows them is only said", m.Number)
		}
		return
	}
	b := &before.m
	if !before.read {
		bad("the pack cannot be compared with the one given before it, %s, of which the manifest was not read", before.in.Name)
		return
	}
	if m.Number != b.Number+1 {
		bad("pack %d was given after pack %d, %s: give packs in the order of their numbers, each once, and none left out", m.Number, b.Number, before.in.Name)
		return
	}
	if m.Previous != nil && m.Previous.Hash != before.manifest {
		bad("pack %d names %v as the hash of the manifest before it, and %s has %v: it follows another pack", m.Number, m.Previous.Hash, before.in.Name, before.manifest)
	}
	if !m.Period.From.Equal(b.Period.To.Time) {
		bad("the period begins at %s, and that of the pack before it ended at %s", m.Period.From.Format(timeLayout), b.Period.To.Format(timeLayout))
	}
	if m.Archive.Key != b.Archive.Key {
		p.findingf(manifestFile, "the archive key is another one than that of the pack before it, %q", b.Archive.Key)
	}
	was := map[string]*Log{}
	for i := range b.Logs {
		was[b.Logs[i].Origin] = &b.Logs[i]
	}
	for i := range m.Logs {
		l := &m.Logs[i]
		old, ok := was[l.Origin]
		delete(was, l.Origin)
		switch {
		case !ok && l.Rows.First != 1:
			bad("log %.120q: the pack before does not have it, and its rows begin with %d, not with 1", l.Origin, l.Rows.First)
		case ok && l.Rows.First != old.Rows.Last+1:
			bad("log %.120q: the rows begin with %d, and those of the pack before ended with %d", l.Origin, l.Rows.First, old.Rows.Last)
		case ok && !reflect.DeepEqual(l.Before, old.After):
			bad("log %.120q: what was before its rows is not what the pack before ended with", l.Origin)
		}
		switch had, has := before.evidence[l.Origin], p.evidence[l.Origin]; {
		case !ok || old.Quarantine == nil:
		case l.Quarantine == nil:
			p.findingf(manifestFile, "log %.120q: the pack before has evidence that it contradicted itself (%.300q), and this one does not", l.Origin, old.Quarantine.Reason)
		case had != has && had != [2]Hex{has[1], has[0]}:
			p.findingf(manifestFile, "log %.120q: the evidence that it contradicted itself is other evidence than in the pack before (%.300q)", l.Origin, old.Quarantine.Reason)
		}
	}
	for i := range b.Logs {
		if origin := b.Logs[i].Origin; was[origin] != nil {
			bad("log %.120q: the pack before has it, and it is missing here", origin)
		}
	}
	p.followsLedger(b.Ledger)
	p.followsReports(b.Reports)
}

// isControl says whether a character breaks what is written in lines.
func isControl(r rune) bool { return r < ' ' || r == 0x7f }

// storageHead returns a head as storage has it.
func storageHead(h Head) storage.Head { return storage.Head{Size: h.Size, Root: storage.Hash(h.Root)} }

func hashes(proof []Base64) []storage.Hash {
	out := make([]storage.Hash, len(proof))
	for i, h := range proof {
		out[i] = storage.Hash(h)
	}
	return out
}

// precedes verifies a consistency proof from the smaller to the larger one of two heads, which is
// empty if they have one size, or one is empty.
func precedes(a, b Head, proof []Base64) error {
	if a.Size > b.Size {
		a, b = b, a
	}
	return storage.VerifyConsistency(storageHead(a), storageHead(b), hashes(proof))
}
