package archive

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
)

// change changes text in a row of the ledger.
func (p *testPack) change(row int, old, new string) {
	if !strings.Contains(p.ledger[row-1], old) {
		panic("no " + old + " in " + p.ledger[row-1])
	}
	p.ledger[row-1] = strings.Replace(p.ledger[row-1], old, new, 1)
}

var ledgerLies = []lie{
	{"ledger: a row that was changed", "ledger.jsonl line 3: the row before it has the hash", 1, func(p *testPack) { p.change(2, "images", "imagez") }},
	{"ledger: a last row that was changed", "ledger: the last row has another hash", 1, func(p *testPack) { p.change(3, "recovering", "live") }},
	{"ledger: a space more", "ledger.jsonl line 2: the row before it has the hash", 1, func(p *testPack) { p.change(1, "{", "{ ") }},
	{"ledger: a row left out", "it is row 3, and row 2 is due: a row is missing", 1, func(p *testPack) {
		p.ledger = append(p.ledger[:1:1], p.ledger[2:]...)
		p.rehash()
	}},
	{"ledger: a row left out, and the others numbered", "ledger: the rows end with 2, and the manifest says 3", 1, func(p *testPack) {
		p.ledger = append(p.ledger[:1:1], p.ledger[2:]...)
		p.change(2, `"seq":3`, `"seq":2`)
		p.rehash()
	}},
	{"ledger: a last row left out", "ledger: the rows end with 2, and the manifest says 3", 1, func(p *testPack) {
		p.ledger = p.ledger[:2]
		p.rehash()
	}},
	{"ledger: a row twice", "it is row 3, and row 4 is due", 1, func(p *testPack) {
		p.ledger = append(p.ledger, p.ledger[2])
		p.rehash()
	}},
	{"ledger: all rows changed", "", 1, func(p *testPack) { // the maker can say anything, once
		p.change(1, "TIMEOUT", "FORCED")
		p.rehash()
	}},
	{"ledger: another first row", "ledger: the rows begin with 2, and this is the first pack", 1, func(p *testPack) {
		p.m.Ledger.Rows.First, p.m.Ledger.Before = 2, Hex{1}
		p.ledger = p.ledger[1:]
		p.rehash()
	}},
	{"ledger: rows from 0 on", "there cannot be rows from 0 to 3", 1, func(p *testPack) { p.m.Ledger.Rows.First = 0 }},
	{"ledger: rows that run backwards", "there cannot be rows from 3 to 1", 1, func(p *testPack) { p.m.Ledger.Rows = Rows{3, 1} }},
	{"ledger: a hash of row 0", "ledger: before cannot be the hash of row 0", 1, func(p *testPack) {
		p.m.Ledger.Before = Hex{1}
		p.rehash()
	}},
	{"ledger: no hash at the end", "ledger: the last row has another hash", 1, func(p *testPack) {
		p.m.Ledger.After = Hex{}
	}},
	{"ledger: no file", "ledger: the pack has no ledger.jsonl", 1, func(p *testPack) { p.noLedger = true }},
	{"ledger: a file and no word of it", "ledger.jsonl: nothing in the pack is about this file", 1, func(p *testPack) { p.m.Ledger, p.raw[ledgerFile] = nil, []byte("{}\n") }},
	{"ledger: a row that is no row", "ledger.jsonl line 3: the line is not what it should be: body: is missing", 1, func(p *testPack) { p.change(3, `,"body":`, `,"bodi":`) }},
	{"ledger: a time in another form", "is not a time in the form of RFC 3339", 1, func(p *testPack) { p.change(3, ".5Z", ".50Z") }},
	{"ledger: a time of another zone", "is not a time in the form of RFC 3339", 1, func(p *testPack) { p.change(3, ".5Z", ".5+00:00") }},
	{"ledger: no newline at the end", "the last line does not end with a newline", 1, func(p *testPack) { p.raw[ledgerFile] = []byte(strings.Join(p.ledger, "\n")) }},
	{"ledger: no kind", `"" is no kind of row`, 1, func(p *testPack) {
		p.change(1, `"kind":"state"`, `"kind":""`)
		p.rehash()
	}},
	{"ledger: a kind of two lines", `is no kind of row`, 1, func(p *testPack) {
		p.change(1, `"kind":"state"`, `"kind":"a\nb"`)
		p.rehash()
	}},
	{"ledger: another time", "", 1, func(p *testPack) {
		p.change(1, "2026-03-01T", "2026-02-01T")
		p.rehash()
	}},
}

var reportLies = []lie{
	{"reports: a changed report", "reports/drill-1.dsse: what is signed is not the report", 1, func(p *testPack) { p.raw["reports/drill-1.json"] = []byte(`{"report":"x"}`) }},
	{"reports: a changed page", "", 1, func(p *testPack) { p.raw["reports/drill-1.md"] = []byte("x") }}, // it is only for reading
	{"reports: the signature of another", "reports/drill-1.dsse: what is signed is not the report", 1, func(p *testPack) { p.raw["reports/drill-1.dsse"] = p.raw["reports/reconcile-1.dsse"] }},
	{"reports: a broken signature", "reports/drill-1.dsse: no report key of the manifest signed it", 1, func(p *testPack) { p.replace("reports/drill-1.dsse", "application/json", "application/jsom") }},
	{"reports: another key", "reports/drill-1.dsse: no report key of the manifest signed it", 1, func(p *testPack) {
		p.raw["reports/drill-1.dsse"] = newTestWorld(p.w.t).envelope("application/json", p.raw["reports/drill-1.json"])
	}},
	{"reports: a key of Ed25519", "", 1, func(p *testPack) {
		public, key, err := ed25519.GenerateKey(rand.Reader)
		must(public, err)
		p.m.Reports.Keys = append(p.m.Reports.Keys, must(x509.MarshalPKIXPublicKey(public)))
		report := p.raw["reports/drill-1.json"]
		signature := ed25519.Sign(key, fmt.Appendf(nil, "DSSEv1 1 x %d %s", len(report), report))
		p.raw["reports/drill-1.dsse"] = must(json.Marshal(map[string]any{"payloadType": "x", "payload": report, "signatures": []any{map[string]any{"sig": signature}}}))
	}},
	{"reports: two signatures", "it has 2 signatures", 1, func(p *testPack) {
		p.replace("reports/drill-1.dsse", `"signatures":[`, `"signatures":[{"sig":""},`)
	}},
	{"reports: no envelope", "it is no DSSE envelope: payload: is missing", 1, func(p *testPack) { p.replace("reports/drill-1.dsse", `"payload":`, `"payloaf":`) }},
	{"reports: a report that says it is not signed", "reports/drill-1.dsse: nothing in the pack is about this file", 1, func(p *testPack) { p.m.Reports.List[0].Signed = false }},
	{"reports: a report that is not signed", "", 1, func(p *testPack) {
		p.m.Reports.List[0].Signed = false
		delete(p.raw, "reports/drill-1.dsse")
	}},
	{"reports: no signature", "reports: the file reports/drill-1.dsse is not in the pack", 1, func(p *testPack) { delete(p.raw, "reports/drill-1.dsse") }},
	{"reports: no report", "reports: the file reports/drill-1.json is not in the pack", 1, func(p *testPack) { delete(p.raw, "reports/drill-1.json") }},
	{"reports: no page", "reports: the file reports/drill-1.md is not in the pack", 1, func(p *testPack) { delete(p.raw, "reports/drill-1.md") }},
	{"reports: one that is not listed", "reports/x.json: nothing in the pack is about this file", 1, func(p *testPack) { p.raw["reports/x.json"] = nil }},
	{"reports: none", "reports: the list is empty", 2, func(p *testPack) {
		p.m.Reports.List = []ReportEntry{}
		for _, kind := range []string{".json", ".md", ".dsse"} {
			delete(p.raw, "reports/reconcile-2"+kind)
		}
	}},
	{"reports: out of order", `reports: "drill-1" does not come after "reconcile-1" bytewise`, 1, func(p *testPack) {
		l := p.m.Reports.List
		l[0], l[1] = l[1], l[0]
	}},
	{"reports: one twice", `reports: "drill-1" does not come after "drill-1" bytewise`, 1, func(p *testPack) {
		l := p.m.Reports.List
		p.m.Reports.List = append(l[:1:1], l...)
	}},
	{"reports: a name that is a path", `"a/b" is no name of a report`, 2, func(p *testPack) {
		p.m.Reports.List = append([]ReportEntry{p.m.Reports.List[0]}, p.m.Reports.List...)
		p.m.Reports.List[0].ID = "a/b"
	}},
	{"reports: a place of two lines", "the place of drill-1 has control characters", 1, func(p *testPack) { p.m.Reports.List[0].Place = "a\nb" }},
	{"reports: another time", "", 1, func(p *testPack) { p.m.Reports.List[0].At = at(1) }},
	{"reports: a large one", "reports/drill-1.md: it has 16777217 bytes, and a report has at most 16777216", 1, func(p *testPack) { p.raw["reports/drill-1.md"] = make([]byte, maxReport+1) }},
	{"reports: a key of another curve", "reports: keys[1] cannot be used: it is neither ECDSA nor Ed25519, or of a curve", 1, func(p *testPack) {
		key := must(ecdsa.GenerateKey(elliptic.P224(), rand.Reader))
		p.m.Reports.Keys = append(p.m.Reports.Keys, must(x509.MarshalPKIXPublicKey(key.Public())))
	}},
	{"reports: a key that is none", "reports: keys[1] cannot be used: it is no public key in DER", 1, func(p *testPack) { p.m.Reports.Keys = append(p.m.Reports.Keys, []byte("x")) }},
	{"reports: a key of RSA", "reports: keys[1] cannot be used: it is neither ECDSA nor Ed25519", 1, func(p *testPack) {
		key := must(rsa.GenerateKey(rand.Reader, 2048))
		p.m.Reports.Keys = append(p.m.Reports.Keys, must(x509.MarshalPKIXPublicKey(key.Public())))
	}},
}

// TestLedgerChain: the rows of the ledger go on from pack to pack.
func TestLedgerChain(t *testing.T) {
	for reason, lie := range map[string]func(p *testPack){
		"ledger: the rows begin with 5, and those of the pack before ended with 3": func(p *testPack) { // a gap
			p.m.Ledger.Rows.First = 5
			p.m.Ledger.Before = sha256.Sum256([]byte(p.ledger[0]))
			p.ledger = p.ledger[1:]
		},
		"ledger: the rows begin with 3, and those of the pack before ended with 3": func(p *testPack) {
			p.m.Ledger.Rows.First = 3
			p.ledger = append([]string{`{"seq":3,"at":"2026-03-01T04:00:00Z","kind":"x","previous":"","body":{}}`}, p.ledger...)
			p.rehash()
		},
		"ledger: the row before the first is not the one that the pack before ended with": func(p *testPack) {
			p.m.Ledger.Before[0] ^= 1
			p.rehash()
		},
		"ledger: the pack before has rows up to 3, and this one says nothing of them": func(p *testPack) { p.m.Ledger = nil },
		"reports: the pack before has drill-1, too": func(p *testPack) {
			p.write("drill-1")
			l := p.m.Reports.List
			l[0], l[1] = l[1], l[0]
		},
	} {
		w := newChain(t)
		lie(w.packs[1])
		refused(t, w.verify(w.packs[0].encoded, w.packs[1].encode()), reason)
		if strings.HasPrefix(reason, "reports") || strings.Contains(reason, "says nothing") {
			continue
		}
		w = newChain(t) // alone, it is not known
		lie(w.packs[1])
		if r := w.verify(w.packs[1].encode()); !r.Good() {
			t.Errorf("%s: %s", reason, texts(r.Errors))
		}
	}

	// A ledger begins when outages are configured, with its first row.
	w := newChain(t)
	w.packs[0].m.Ledger = nil
	refused(t, w.verify(w.packs[0].encode(), func() []byte {
		w.packs[1].m.Previous.Hash = Hex(w.packs[0].manifest)
		return w.packs[1].encode()
	}()), "ledger: the pack before does not have it, and its rows begin with 4, not with 1")
	p := w.packs[1]
	p.m.Ledger.Rows, p.m.Ledger.Before = Rows{1, 2}, Hex{}
	p.change(1, `"seq":4`, `"seq":1`)
	p.change(2, `"seq":5`, `"seq":2`)
	p.rehash()
	if r := w.verify(w.packs[0].encoded, p.encode()); !r.Good() {
		t.Error(texts(r.Errors))
	}

	// After an older database was restored it begins anew, which is told.
	w = newChain(t)
	p = w.packs[1]
	p.m.Ledger.Rows, p.m.Ledger.Before = Rows{1, 2}, Hex{}
	p.change(1, `"seq":4`, `"seq":1`)
	p.change(2, `"seq":5`, `"seq":2`)
	p.rehash()
	if r := w.verify(w.packs[0].encoded, p.encode()); !r.Good() || !strings.Contains(texts(r.Findings), "the outage ledger begins anew") {
		t.Error(texts(r.Errors), texts(r.Findings))
	}

	// Another key of reports, rows of another time, and what is not signed are told.
	w = newChain(t)
	p = w.packs[1]
	p.change(1, "2026-03-01T04", "2026-02-01T04")
	p.rehash()
	w.reporter = newTestWorld(t).reporter
	p.m.Reports = nil
	p.write("reconcile-2")
	p.write("reconcile-3")
	p.m.Reports.List[1].Signed, p.m.Reports.List[1].At = false, at(7)
	delete(p.raw, "reports/reconcile-3.dsse")
	r := w.verify(w.packs[0].encoded, p.encode())
	for _, want := range []string{"was not among those of the pack before", "1 rows are not of the period, the first of them row 4 of 2026-02-01T04:00:00.5Z",
		"reports/reconcile-3.json: the report is not signed", "reports/reconcile-3.json: the report was made at 2026-03-01T00:07"} {
		if !r.Good() || !strings.Contains(texts(r.Findings), want) {
			t.Errorf("want %q in %s%s", want, texts(r.Errors), texts(r.Findings))
		}
	}
}
