package archive

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// ledgerBook is an outage ledger, and the reports that were written.
type ledgerBook struct {
	rows    []string
	at      []time.Time
	reports []OutageReport
	broken  uint64 // row that cannot be read; 0 for none
	asked   int    // rows that were read
}

func (l *ledgerBook) append(kind, body string, at time.Time) {
	previous := ""
	if n := len(l.rows); n > 0 {
		sum := sha256.Sum256([]byte(l.rows[n-1]))
		previous = hex.EncodeToString(sum[:])
	}
	l.rows = append(l.rows, fmt.Sprintf(`{"seq":%d,"at":%q,"kind":%q,"previous":%q,"body":%s}`, len(l.rows)+1, at.UTC().Format(time.RFC3339Nano), kind, previous, body))
	l.at = append(l.at, at)
}

func (l *ledgerBook) read(from uint64, yield func(uint64, time.Time, []byte) error) error {
	for i := int(from) - 1; i < len(l.rows); i++ {
		if l.broken == uint64(i+1) {
			return errors.New("a bad block")
		}
		l.asked++
		if err := yield(uint64(i+1), l.at[i], []byte(l.rows[i])); err != nil {
			return err
		}
	}
	return nil
}

func (l *ledgerBook) made(from, to time.Time) (in []OutageReport, err error) {
	for _, r := range l.reports {
		if !r.At.Before(from) && r.At.Before(to) {
			in = append(in, r)
		}
	}
	return in, nil
}

// newLedgerWorld has a log, an outage ledger, and reports that testWorld.envelope signs.
func newLedgerWorld(t testing.TB) (*world, *ledgerBook, *testWorld) {
	book, signer := &ledgerBook{}, newTestWorld(t)
	w := newWorld(t, time.Date(2026, 9, 30, 12, 0, 0, 0, berlin), newGrower(t, "tiles.test"))
	w.cfg = func(c *Config) {
		c.Ledger, c.Reports, c.ReportKey = book.read, book.made, must(x509.MarshalPKIXPublicKey(signer.reporter.Public()))
	}
	w.crash()
	return w, book, signer
}

// packed returns the rows of the ledger in all packs from a number on, and the last report.
func (w *world) packed(number int) (rows []string, report string) {
	w.t.Helper()
	for _, p := range w.archive.Packs()[number-1:] {
		files := untar(w.t, filepath.Join(w.dir, p.Name))
		for row := range strings.Lines(string(files[ledgerFile])) {
			rows = append(rows, strings.TrimSuffix(row, "\n"))
		}
		report = string(files[reportFile])
	}
	return rows, report
}

func (w *world) week() {
	w.t.Helper()
	w.logs[0].grow(w.t, 2, w.now)
	w.now = w.now.AddDate(0, 0, 7)
	if err := w.make(); err != nil {
		w.t.Fatal(err)
	}
}

// TestLedger: each row and each report is in one pack, whatever crashes.
func TestLedger(t *testing.T) {
	w, book, signer := newLedgerWorld(t)
	w.week() // nothing was ever recorded
	name := filepath.Join(w.dir, w.archive.Packs()[0].Name)
	if files := untar(t, name); files[ledgerFile] != nil || bytes.Contains(files[manifestFile], []byte("ledger")) || bytes.Contains(files[manifestFile], []byte("reports")) || bytes.Contains(files[reportFile], []byte("Outage days")) {
		t.Error("a pack without outages has something of them")
	}

	book.append("state", `{"component":"rekor/read","from":"live","to":"fallback","cause":{"code":"TIMEOUT","text":"none"},"drill":"d1"}`, w.now)
	book.append("drill", `{"id":"d1","event":"started","scenario":"hang"}`, w.now)
	book.append("force", "{\"component\":\"rekor/write\",\"state\":\"fallback\",\"until\":\"2026-10-06T00:00:00Z\",\"ticket\":\"T-1\\n# x\",\"by\":\"`eve`\"}", w.now)
	book.append("force-end", `{"component":"rekor/write","why":"expired"}`, w.now)
	book.append("exception", `{"id":"e","event":"requested","policy":"images"}`, w.now)
	book.append("exception", `{"id":"e","event":"approved","policy":"images","until":"2026-10-06T00:00:00Z","ticket":"T-2","by":"ann"}`, w.now)
	book.append("exception", `{"id":"e","event":"expired","policy":"images"}`, w.now)
	book.append("decision", `{"id":"1","decision":"allow","mode":"audit","reasons":[{"code":"AUDIT_WOULD_DENY","text":"x"},"OTHER"]}`, w.now)
	book.append("decision", `{"id":"2","decision":"deny","mode":"enforce","reasons":["SIGNATURE_INVALID"]}`, w.now)
	book.append("state", `{"component":"rekor/read","from":"fallback","to":"live","forced":true}`, w.now)
	book.append("drill", `{"id":"d1","event":"done","scenario":"hang","ticket":"T-3","outcome":"failed"}`, w.now)
	book.append("reconcile", `{"id":"r1","event":"started","log":"rekor"}`, w.now)
	book.append("reconcile", `{"id":"r1","event":"quarantined","log":"rekor"}`, w.now)
	book.append("rollback", `{"event":"added","name":"x"}`, w.now)
	book.append("later", `["anything"]`, w.now)
	report := []byte(`{"id":"d1"}`)
	book.reports = []OutageReport{
		{ID: "d1", At: w.now, JSON: report, Markdown: []byte("# d1\n"), Signed: signer.envelope("application/json", report), Place: "private/v2 index 7"},
		{ID: "unsigned", At: w.now, JSON: report, Markdown: []byte("# d1\n")},
		{ID: "wrong", At: w.now, JSON: []byte("{}"), Markdown: []byte("# d1\n"), Signed: signer.envelope("application/json", report)},
		{ID: "../evil", At: w.now, JSON: []byte("{}")},
		{ID: "large", At: w.now, JSON: make([]byte, maxReport+1)},
		{ID: "place", At: w.now, JSON: []byte("{}"), Place: "a\nb"},
	}
	for _, step := range []string{"write", "rename", "record"} {
		w.fail = func(what string) error {
			if what == step {
				return errors.New("a crash")
			}
			return nil
		}
		w.logs[0].grow(t, 1, w.now)
		now := w.now
		w.now = w.now.AddDate(0, 0, 7)
		if err := w.make(); err == nil {
			t.Fatal("no crash")
		}
		w.fail = nil
		w.crash()
		if step != "record" {
			w.now = now
		}
	}
	if err := w.make(); err != nil {
		t.Fatal(err)
	}
	book.append("exception", `{"id":"e","event":"closed"}`, w.now.Add(-time.Hour))
	book.append("exception", `{"id":"e","event":"denied"}`, w.now.Add(time.Hour))
	book.reports = append(book.reports, OutageReport{ID: "late", At: book.reports[0].At.Add(time.Minute), JSON: report, Signed: signer.envelope("x", report)}) // of the period before
	w.week()
	rows, _ := w.packed(1)
	if strings.Join(rows, "\n") != strings.Join(book.rows[:len(rows)], "\n") || len(rows) != len(book.rows) {
		t.Errorf("%d rows are in packs, of %d:\n%s", len(rows), len(book.rows), strings.Join(rows, "\n"))
	}
	w.verify(w.dir)

	// What a pack says of all this.
	p := w.archive.Packs()[1]
	files := untar(t, filepath.Join(w.dir, p.Name))
	text := string(files[reportFile])
	for _, want := range []string{
		"The outage ledger has 15 new rows (1 to 15), in `ledger.jsonl`.",
		"- `rekor/read` became fallback once, live once, and was live in the end. Causes: TIMEOUT. A drill was behind it once. It was forced once.",
		"- States were forced once; 1 of these ended by themselves, 0 were released.\n  - `rekor/write` forced to fallback until 2026-10-06T00:00:00Z, ticket T-1 # x, by  eve \n",
		"- Exceptions from verification: 1 requested, 1 granted, 0 denied, 1 expired, 0 revoked, 0 closed.\n  - policy `images` until 2026-10-06T00:00:00Z, ticket T-2, approved by ann\n",
		"- Decisions while not all was live: 1 allowed, 1 denied. 1 of them would have been denied without an exception.",
		"- Rollback bundles: 1 added, 0 removed",
		"- Drills: 1 begun, 0 passed, 1 failed, 0 aborted.\n  - `hang` at 2026-10-07 10:00:00 UTC, ticket T-3, failed\n",
		"- Reconciliations: 1 begun, 0 done, 1 ended in quarantine, 0 failed.\n  - that of `rekor` at",
		"- `d1`, of 2026-10-07 10:00:00 UTC, signed, logged at private/v2 index 7\n- `unsigned`, of 2026-10-07 10:00:00 UTC, not signed\n- `wrong`, of 2026-10-07 10:00:00 UTC, not signed\n",
		"The report \"wrong.dsse\" is left out: the signature of this report does not verify: what is signed is not the report.",
		"The report \"../evil\" is left out", "The report \"large\" is left out", "The report \"place\" is left out",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("want %q in\n%s", want, text)
		}
	}
	if files["reports/d1.dsse"] == nil || files["reports/wrong.dsse"] != nil || files["reports/late.json"] != nil || string(files["reports/d1.md"]) != "# d1\n" {
		t.Error("the pack has other reports")
	}
	r := w.report(w.dir)
	if late := r.Packs[2]; len(late.Reports) != 1 || late.Reports[0].ID != "late" || !late.Reports[0].Verified || late.Ledger.Rows != (Rows{16, 17}) {
		t.Errorf("the pack after: %+v, %+v", late.Reports, late.Ledger)
	}

	// Without a ledger in the configuration, the packs still say where it was.
	w.cfg = nil
	w.crash()
	w.week()
	if r := w.verify(w.dir); r.Packs[3].Ledger == nil || r.Packs[3].Ledger.Rows != (Rows{18, 17}) {
		t.Errorf("without a ledger: %+v", r.Packs[3].Ledger)
	}
}

// TestLedgerKeys: reports that were signed with a key that was changed since verify.
func TestLedgerKeys(t *testing.T) {
	w, book, signer := newLedgerWorld(t)
	report := []byte("{}")
	book.reports = append(book.reports, OutageReport{ID: "old", At: w.now, JSON: report, Signed: signer.envelope("x", report)})
	old := must(x509.MarshalPKIXPublicKey(signer.reporter.Public()))
	signer.reporter = newTestWorld(t).reporter
	w.crash()
	book.reports = append(book.reports, OutageReport{ID: "new", At: w.now, JSON: report, Signed: signer.envelope("x", report)})
	w.week()
	r := w.verify(w.dir)
	if s := r.Packs[0]; len(s.Reports) != 2 || !s.Reports[0].Verified || !s.Reports[1].Verified || len(s.ReportKeys) != 2 || s.ReportKeys[1] != sha256.Sum256(old) {
		t.Errorf("%+v", s)
	}
	w.cfg = func(c *Config) { c.ReportKey = []byte("x") }
	if _, err := Open(t.Context(), w.config()); err == nil || !strings.Contains(err.Error(), "key of reports") {
		t.Errorf("a key that is none: %v", err)
	}
}

// TestLedgerDamage: a ledger that cannot be read holds up no pack, and nothing is passed over.
func TestLedgerDamage(t *testing.T) {
	w, book, _ := newLedgerWorld(t)
	for i := range 5 {
		book.append("x", fmt.Sprint(i), w.now)
	}
	book.broken = 3
	w.week()
	book.broken = 2 // the last row that is in a pack
	w.week()
	if rows, report := w.packed(1); len(rows) != 2 || !strings.Contains(report, "behind row 2 is damaged") {
		t.Errorf("%d rows\n%s", len(rows), report)
	}
	book.broken = 0
	good := book.rows[3]
	for name, bad := range map[string]string{"another number": strings.Replace(good, `"seq":4`, `"seq":5`, 1), "two lines": good + "\n", "another row before it": strings.Replace(good, `"previous":"`, `"previous":"0`, 1), "none": "x"} {
		book.rows[3] = bad
		w.week()
		if rows, report := w.packed(1); len(rows) != 3 || !strings.Contains(report, "behind row 3 is damaged") {
			t.Errorf("%s: %d rows\n%s", name, len(rows), report)
		}
	}
	book.rows[3] = good
	w.week()
	if rows, _ := w.packed(1); len(rows) != 5 {
		t.Errorf("%d rows", len(rows))
	}
	w.verify(w.dir)
}

// TestLedgerRestored: after an older database was restored the ledger begins anew in the packs, which
// is told, and the reports are not there twice.
func TestLedgerRestored(t *testing.T) {
	w, book, signer := newLedgerWorld(t)
	report := []byte("{}")
	for i := range 3 {
		book.append("x", fmt.Sprint(i), w.now)
	}
	w.week()
	backup := w.disk.CrashClone(vfs.CrashCloneCfg{})
	book.append("x", `"lost"`, w.now)
	book.reports = append(book.reports, OutageReport{ID: "a", At: w.now, JSON: report, Signed: signer.envelope("x", report)})
	w.week()
	w.close()
	w.disk = backup
	book.rows, book.at = book.rows[:3], book.at[:3]
	w.open()
	if n := len(w.archive.Packs()); n != 2 {
		t.Fatalf("%d packs", n)
	}
	book.append("x", `"other"`, w.now)
	w.week()
	rows, text := w.packed(3)
	if len(rows) != 4 || !strings.Contains(text, "The outage ledger begins anew") {
		t.Errorf("%d rows\n%s", len(rows), text)
	}
	if r := w.verify(w.dir); !strings.Contains(texts(r.Findings), "the outage ledger begins anew") || len(r.Packs[2].Reports) != 0 {
		t.Errorf("%s%+v", texts(r.Findings), r.Packs[2].Reports)
	}
}

// TestLedgerClock: rows go on by their numbers.
func TestLedgerClock(t *testing.T) {
	w, book, _ := newLedgerWorld(t)
	book.append("x", "1", w.now.AddDate(1, 0, 0)) // the clock was ahead
	book.append("x", "2", w.now)
	w.week()
	if rows, _ := w.packed(1); len(rows) != 2 {
		t.Errorf("%d rows", len(rows))
	}
	monday := w.archive.lastRecord().To
	book.append("x", "3", monday.AddDate(0, 0, 7).Add(-1))
	book.append("x", "4", monday.AddDate(0, 0, 7))
	w.week()
	if rows, _ := w.packed(2); len(rows) != 1 {
		t.Errorf("%d rows", len(rows))
	}
	w.week()
	r := w.verify(w.dir)
	if r.Packs[2].Ledger.Rows != (Rows{4, 4}) || !strings.Contains(texts(r.Findings), "1 rows are not of the period, the first of them row 1 of 2027-09-30T10:00:00Z") {
		t.Errorf("%+v\n%s", r.Packs[2].Ledger, texts(r.Findings))
	}
}

// TestLedgerIsBounded: however many rows there are, few are in memory.
func TestLedgerIsBounded(t *testing.T) {
	if testing.Short() {
		t.Skip("many rows")
	}
	const rows, most = 200_000, 24 << 20
	w, book, _ := newLedgerWorld(t)
	body := fmt.Sprintf(`{"component":"c%%d","to":"s%%d","id":"e%%d","event":"approved","cause":{"code":"C%%d"},"text":%q}`, strings.Repeat("x", 300))
	at, kinds := w.now, []string{"state", "exception", "force", "drill"}
	var highest uint64
	measure := func() {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		highest = max(highest, m.HeapAlloc)
	}
	w.cfg = func(c *Config) {
		c.Ledger = func(from uint64, yield func(uint64, time.Time, []byte) error) error { // 90 MB
			previous := ""
			for i := from; i <= rows; i++ {
				if from > 1 {
					panic("not made for that")
				}
				row := fmt.Appendf(nil, `{"seq":%d,"at":%q,"kind":%q,"previous":%q,"body":`+body+`}`, i, at.UTC().Format(time.RFC3339Nano), kinds[i%4], previous, i, i, i, i)
				sum := sha256.Sum256(row)
				previous = hex.EncodeToString(sum[:])
				if err := yield(i, at, row); err != nil {
					return err
				}
				if i%40_000 == 0 {
					measure()
				}
			}
			return nil
		}
	}
	w.crash()
	measure()
	base := highest
	w.week()
	p := w.archive.Packs()[0]
	if p.Size < rows*400 || highest > base+most {
		t.Errorf("a pack of %d bytes took %d bytes of memory to make", p.Size, highest-base)
	}
	_ = book
	f, err := os.Open(filepath.Join(w.dir, p.Name))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	highest = 0
	reads := 0
	r, err := Verify(t.Context(), []Input{{p.Name, readerAt(func(b []byte, off int64) (int, error) {
		if reads++; reads%40 == 0 {
			measure()
		}
		return f.ReadAt(b, off)
	}), p.Size}}, Options{Log: w.keys, Makers: []string{w.vkey}})
	if err != nil || !r.Good() || r.Packs[0].Ledger.Rows.Last != rows || highest == 0 || highest > base+most {
		t.Errorf("%v %s: verified with %d bytes of memory, before %d", err, texts(r.Errors), highest, base)
	}
}

type readerAt func(b []byte, off int64) (int, error)

func (r readerAt) ReadAt(b []byte, off int64) (int, error) { return r(b, off) }

var _ io.ReaderAt = readerAt(nil)
