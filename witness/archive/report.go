package archive

import (
	"bytes"
	"fmt"
	"strings"
	"time"

	"github.com/understudy-log/understudy/storage"
)

// reportData is what REPORT.md tells beside the manifest.
type reportData struct {
	seen    map[string]*rowsSeen // by origin
	answers []Answer
	outages []Outage
	ledger  ledgerReport
}

type rowsSeen struct {
	first, last  time.Time
	smallest     uint64
	unproven     []uint64
	contradicted []uint64
	older        int
	cosigned     int
}

func (d *reportData) row(origin string, r storage.ArchiveRow) {
	if d.seen == nil {
		d.seen = map[string]*rowsSeen{}
	}
	s := d.seen[origin]
	if s == nil {
		s = &rowsSeen{first: r.Checkpoint.FirstSeen, smallest: r.Checkpoint.Size}
		d.seen[origin] = s
	}
	s.last, s.smallest = r.Checkpoint.FirstSeen, min(s.smallest, r.Checkpoint.Size)
	if len(r.Cosignatures) > 0 {
		s.cosigned++
	}
	switch r.Relation {
	case storage.RelationUnproven:
		s.unproven = append(s.unproven, r.Number)
	case storage.RelationContradicts:
		s.contradicted = append(s.contradicted, r.Number)
	case storage.RelationPrecedes:
		s.older++
	}
}

const reportTime = "2006-01-02 15:04:05 UTC"

func when(t Time) string { return t.UTC().Format(reportTime) }

// text returns the report of a pack.
func (d *reportData) text(m *Manifest) []byte {
	var b bytes.Buffer
	p := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	p("# Evidence pack %d\n", m.Number)
	p("What an Understudy saw of %d transparency logs from %s to %s (schedule `%s`, time zone %s).", len(m.Logs), when(m.Period.From), when(m.Period.To), m.Period.Schedule, m.Period.TimeZone)
	p("Made at %s by `%s`, which watches from: %s.", when(m.Built), m.Archive.Name, m.Archive.Vantage)
	if m.Previous == nil {
		p("It is the first of its chain.")
	} else {
		p("It follows pack %d (`%s`, manifest `%s`): together they have every checkpoint once.", m.Previous.Number, m.Previous.Name, m.Previous.Hash)
	}
	p("\nThis page is for reading. What it says is checked with\n\n    understudy archive verify PACK... --trusted-root trusted_root.json --key '%s'\n", m.Archive.Key)
	p("where the trusted root and the key come from somebody other than the maker of the pack. docs/evidence.md of Understudy has the format; another verifier can be written from it.")
	for _, n := range m.Notes {
		p("\n%s", n)
	}
	p("\n## Logs\n")
	for i := range m.Logs {
		d.log(p, &m.Logs[i])
	}
	p("\n## Entries\n")
	if len(d.answers) == 0 {
		p("None were named.")
	}
	for _, a := range d.answers {
		w := Want{Wanted: a.Wanted}
		p("- %s: %d found. Looked through: %s.%s", w.what(), len(a.Found), a.Looked, map[bool]string{false: " **There may be more.**"}[a.Complete])
	}
	p("\n## Outages and gaps\n")
	if len(d.outages) == 0 {
		p("None.")
	}
	for _, o := range d.outages {
		to, of := "still lasting when the pack was made", "all logs"
		if o.To != nil {
			to = "to " + when(*o.To)
		}
		if o.Origin != "" {
			of = "`" + o.Origin + "`"
		}
		p("- %s, %s: from %s %s. %s", of, o.What, when(o.From), to, o.Text)
	}
	d.ledger.text(p, m)
	p("\n## Trust material\n")
	if len(m.Trust) == 0 {
		p("None is kept: the keys of the logs stand in the configuration of the maker, and in the manifest.")
	}
	for _, t := range m.Trust {
		to := "and newest when the pack was made"
		if t.To != nil {
			to = "to " + when(*t.To)
		}
		p("- `%s`: in force from %s %s", t.File, when(t.From), to)
	}
	return b.Bytes()
}

func (d *reportData) log(p func(string, ...any), l *Log) {
	p("### %s\n", l.Origin)
	what := map[string]string{"full": "every entry is held", "window": "a part of the entries is held", "pinned": "chosen entries are held", "witnessed": "no entries are held"}[l.Coverage]
	p("Checkpoints are watched, and %s.", what)
	if l.Rows.Last < l.Rows.First {
		p("No new checkpoint in this period.")
	} else {
		s := d.seen[l.Origin]
		p("%d checkpoints (rows %d to %d of its archive), first seen between %s and %s.", l.Rows.Last-l.Rows.First+1, l.Rows.First, l.Rows.Last, s.first.UTC().Format(reportTime), s.last.UTC().Format(reportTime))
		if s.older > 0 {
			p("%d of them are older than what was seen before, and consistent with it.", s.older)
		}
		if s.cosigned > 0 {
			p("%d of them have our cosignatures.", s.cosigned)
		}
		if len(s.unproven) > 0 {
			p("**For the rows %s no proof is held** that ties them to the others.", numbers(s.unproven))
		}
		if len(s.contradicted) > 0 {
			p("**The rows %s contradict the others.**", numbers(s.contradicted))
		}
	}
	if n := l.After.Newest; n != nil {
		p("The log had %d entries in the newest checkpoint.", n.Size)
	}
	if q := l.Quarantine; q != nil {
		p("**The log signed two irreconcilable checkpoints** (%s): %s. Both are in `%s` and `%s`.", when(q.At), q.Reason, q.First, q.Second)
	}
	p("")
}

func numbers(rows []uint64) string {
	var text []string
	for i, r := range rows {
		if i == 20 {
			text = append(text, "...")
			break
		}
		text = append(text, fmt.Sprint(r))
	}
	return strings.Join(text, ", ")
}
