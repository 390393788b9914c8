package archive

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"
)

// OutageReport is a report of a drill or a reconciliation, for a pack.
type OutageReport struct {
	ID             string // letters, digits and . _ -, at most 80
	At             time.Time
	JSON, Markdown []byte
	Signed         []byte // a DSSE envelope of JSON; nil if it is not signed
	Place          string // where it was logged; may be empty
}

// reportID is what a report can be called.
var reportID = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,79}$`)

// maxReport bounds the JSON, and the Markdown, of a report in a pack.
const maxReport = 16 << 20

// reportKeysRecord has the keys that ever signed reports.
const reportKeysRecord = "evidence report keys"

// reports adds the reports that no pack has yet. One that cannot be in a pack does not hold it up: a
// note says so.
func (b *builder) reports(ctx context.Context) error {
	if b.a.cfg.Reports == nil {
		return nil
	}
	packed := b.a.packedReports()
	from := b.record.From
	if b.last.Number > 0 { // one may have come while the last pack was made
		from = b.last.From
	}
	reports, err := b.a.cfg.Reports(from, b.record.To)
	if err != nil {
		return fmt.Errorf("reports of outages: %w", err)
	}
	slices.SortFunc(reports, func(x, y OutageReport) int { return strings.Compare(x.ID, y.ID) })
	leftOut := func(id, why string) {
		b.m.Notes = append(b.m.Notes, fmt.Sprintf("The report %.100q is left out: %s.", id, why))
		b.a.logger.Error("a report cannot be put into an evidence pack", "report", id, "reason", why)
	}
	list := &Reports{Keys: b.a.reportKeys, List: []ReportEntry{}}
	for _, r := range reports {
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case packed[r.ID]:
			continue
		case !reportID.MatchString(r.ID):
			leftOut(r.ID, "no file can be called so")
			continue
		case len(r.JSON) > maxReport || len(r.Markdown) > maxReport:
			leftOut(r.ID, fmt.Sprintf("it has more than %d bytes", maxReport))
			continue
		case strings.ContainsFunc(r.Place, isControl) || r.At.Year() < 1970 || r.At.Year() > 2261:
			leftOut(r.ID, "where or when it was made cannot be written down")
			continue
		}
		packed[r.ID] = true
		entry := ReportEntry{ID: r.ID, At: Time{r.At.UTC()}, Place: r.Place, Signed: r.Signed != nil}
		if r.Signed != nil {
			if err := verifyEnvelope(r.Signed, r.JSON, list.Keys); err != nil {
				entry.Signed = false
				leftOut(r.ID+".dsse", "the signature of this report does not verify: "+err.Error())
			}
		}
		name := reportsFolder + r.ID
		err := errors.Join(b.spool.add(name+".json", r.JSON), b.spool.add(name+".md", r.Markdown))
		if entry.Signed {
			err = errors.Join(err, b.spool.add(name+".dsse", r.Signed))
		}
		if err != nil {
			return err
		}
		list.List = append(list.List, entry)
		b.record.Reports = append(b.record.Reports, r.ID)
	}
	if len(list.List) > 0 {
		b.m.Reports = list
	}
	return nil
}

// packedReports are the reports that are in packs.
func (a *Archive) packedReports() map[string]bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	packed := map[string]bool{}
	for _, r := range a.records {
		for _, id := range r.Reports {
			packed[id] = true
		}
	}
	return packed
}

// openReports reads the keys that sign reports, and those that did.
func (a *Archive) openReports() error {
	var configured []string
	if key := a.cfg.ReportKey; key != nil {
		if _, err := parseReportKey(key); err != nil {
			return fmt.Errorf("key of reports: %w", err)
		}
		configured = []string{base64.StdEncoding.EncodeToString(key)}
	}
	if len(configured) == 0 && a.cfg.Reports == nil {
		return nil
	}
	all, err := a.remember(reportKeysRecord, configured...)
	if err != nil {
		return err
	}
	a.reportKeys = [][]byte{}
	for _, text := range all {
		key, err := base64.StdEncoding.DecodeString(text)
		if err != nil {
			return fmt.Errorf("record %q: %w", reportKeysRecord, err)
		}
		a.reportKeys = append(a.reportKeys, key)
	}
	return nil
}

// envelope is a DSSE envelope (github.com/secure-systems-lab/dsse) as packs have it: one signature.
type envelope struct {
	PayloadType string `json:"payloadType"`
	Payload     []byte `json:"payload"`
	Signatures  []struct {
		Sig []byte `json:"sig"`
	} `json:"signatures"`
}

// verifyEnvelope verifies that one of keys signed a report.
func verifyEnvelope(raw, report []byte, keys [][]byte) error {
	var e envelope
	if err := new(decoder).decode(raw, &e); err != nil {
		return fmt.Errorf("it is no DSSE envelope: %w", err)
	}
	if !bytes.Equal(e.Payload, report) {
		return errors.New("what is signed is not the report")
	}
	if len(e.Signatures) != 1 {
		return fmt.Errorf("it has %d signatures, and not one", len(e.Signatures))
	}
	// SPEC: "PAE(type, body) = "DSSEv1" + SP + LEN(type) + SP + type + SP + LEN(body) + SP + body"
	// (DSSE, protocol.md)
	signed := fmt.Appendf(nil, "DSSEv1 %d %s %d ", len(e.PayloadType), e.PayloadType, len(e.Payload))
	signed = append(signed, e.Payload...)
	digest := sha256.Sum256(signed)
	for _, raw := range keys {
		key, err := parseReportKey(raw)
		if err != nil {
			continue // checkReports says so
		}
		switch key := key.(type) {
		case *ecdsa.PublicKey:
			if ecdsa.VerifyASN1(key, digest[:], e.Signatures[0].Sig) {
				return nil
			}
		case ed25519.PublicKey:
			if ed25519.Verify(key, signed, e.Signatures[0].Sig) {
				return nil
			}
		}
	}
	return errors.New("no report key of the manifest signed it")
}

// parseReportKey reads a SubjectPublicKeyInfo of a kind that signs reports.
func parseReportKey(der []byte) (crypto.PublicKey, error) {
	key, err := x509.ParsePKIXPublicKey(der)
	if err != nil {
		return nil, errors.New("it is no public key in DER")
	}
	switch key.(type) {
	case *ecdsa.PublicKey, ed25519.PublicKey:
		return key, nil
	}
	return nil, errors.New("it is neither ECDSA nor Ed25519")
}

// checkReports verifies the reports of a pack. What they say is only said.
func (p *pack) checkReports(ctx context.Context) error {
	m := p.m.Reports
	if m == nil {
		return nil
	}
	bad := func(format string, args ...any) { p.errorf(manifestFile, "reports: "+format, args...) }
	if len(m.List) == 0 {
		bad("the list is empty: it is there only if there are reports")
	}
	for i, key := range m.Keys {
		if _, err := parseReportKey(key); err != nil {
			bad("keys[%d] cannot be used: %v", i, err)
		}
		p.summary.ReportKeys = append(p.summary.ReportKeys, sha256.Sum256(key))
	}
	for i, r := range m.List {
		if err := ctx.Err(); err != nil {
			return err
		}
		if i > 0 && r.ID <= m.List[i-1].ID {
			bad("%.80q does not come after %.80q bytewise", r.ID, m.List[i-1].ID)
		}
		if !reportID.MatchString(r.ID) {
			bad("%.100q is no name of a report", r.ID)
			continue
		}
		if strings.ContainsFunc(r.Place, isControl) {
			bad("the place of %s has control characters", r.ID)
		}
		verified, err := p.checkReport(&r)
		if err != nil {
			return err
		}
		p.summary.Reports = append(p.summary.Reports, ReportSummary{r, verified})
	}
	return nil
}

// checkReport verifies one report.
func (p *pack) checkReport(r *ReportEntry) (verified bool, err error) {
	name := reportsFolder + r.ID
	for _, file := range []string{name + ".json", name + ".md"} {
		if !p.use(file) {
			p.errorf(manifestFile, "reports: the file %s is not in the pack", file)
		}
	}
	if period := p.m.Period; r.At.Before(period.From.Time) || !r.At.Before(period.To.Time) {
		p.findingf(name+".json", "the report was made at %s, outside of the period", r.At.Format(timeLayout))
	}
	if !r.Signed {
		p.findingf(name+".json", "the report is not signed with a key of reports: only the maker of the pack vouches for it")
		return false, nil
	}
	signed := name + ".dsse"
	if !p.use(signed) {
		p.errorf(manifestFile, "reports: the file %s is not in the pack", signed)
		return false, nil
	}
	if _, ok := p.index[name+".json"]; !ok {
		return false, nil
	}
	report, err := p.file(&p.remarks, manifestFile, name+".json", maxReport)
	if report == nil || err != nil {
		return false, err
	}
	raw, err := p.file(&p.remarks, manifestFile, signed, 2*maxReport)
	if raw == nil || err != nil {
		return false, err
	}
	if err := verifyEnvelope(raw, report, p.m.Reports.Keys); err != nil {
		p.errorf(signed, "%v", err)
		return false, nil
	}
	return true, nil
}

// followsReports checks that no report is there twice, and tells of keys that are new.
func (p *pack) followsReports(old *Reports) {
	m := p.m.Reports
	if old == nil || m == nil {
		return
	}
	before := map[string]bool{}
	for _, r := range old.List {
		before[r.ID] = true
	}
	for _, r := range m.List {
		if before[r.ID] {
			p.errorf(manifestFile, "reports: the pack before has %.80s, too", r.ID)
		}
	}
	for _, key := range m.Keys {
		if !slices.ContainsFunc(old.Keys, func(k []byte) bool { return bytes.Equal(k, key) }) {
			p.findingf(manifestFile, "reports: the key with the SHA-256 %x was not among those of the pack before", sha256.Sum256(key))
		}
	}
}
