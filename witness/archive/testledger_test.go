package archive

import (
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"strings"
	"time"
)

// record adds a row of the outage ledger.
func (p *testPack) record(kind, body string) {
	l := p.m.Ledger
	previous := ""
	if l.Rows.Last++; l.Rows.Last > 1 {
		previous = hex.EncodeToString(l.After[:])
	}
	row := fmt.Sprintf(`{"seq":%d,"at":"2026-03-01T%02d:00:00.5Z","kind":%q,"previous":%q,"body":%s}`, l.Rows.Last, p.m.Period.From.Hour()+1, kind, previous, body)
	p.ledger = append(p.ledger, row)
	l.After = sha256.Sum256([]byte(row))
}

// rehash makes the hash of every row of the ledger right again.
func (p *testPack) rehash() {
	hash := p.m.Ledger.Before
	for i, row := range p.ledger {
		previous := ""
		if hash != (Hex{}) {
			previous = hex.EncodeToString(hash[:])
		}
		before, rest, _ := strings.Cut(row, `"previous":"`)
		_, rest, _ = strings.Cut(rest, `"`)
		p.ledger[i] = before + `"previous":"` + previous + `"` + rest
		hash = sha256.Sum256([]byte(p.ledger[i]))
	}
	p.m.Ledger.After = hash
}

// write adds a report.
func (p *testPack) write(id string) {
	if p.m.Reports == nil {
		p.m.Reports = &Reports{Keys: [][]byte{must(x509.MarshalPKIXPublicKey(p.w.reporter.Public()))}}
	}
	report := fmt.Appendf(nil, `{"report":%q}`, id)
	p.raw["reports/"+id+".json"], p.raw["reports/"+id+".md"], p.raw["reports/"+id+".dsse"] = report, []byte("# Report\n"), p.w.envelope("application/json", report)
	p.m.Reports.List = append(p.m.Reports.List, ReportEntry{id, Time{p.m.Period.From.Add(time.Minute)}, "private log 7", true})
}

// envelope signs a report.
func (w *testWorld) envelope(kind string, report []byte) []byte {
	digest := sha256.Sum256(fmt.Appendf(nil, "DSSEv1 %d %s %d %s", len(kind), kind, len(report), report))
	signature := must(ecdsa.SignASN1(rand.Reader, w.reporter, digest[:]))
	return fmt.Appendf(nil, `{"payloadType":%q,"payload":%q,"signatures":[{"keyid":"x","sig":%q}]}`, kind, base64.StdEncoding.EncodeToString(report), base64.StdEncoding.EncodeToString(signature))
}
