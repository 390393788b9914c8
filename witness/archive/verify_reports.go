package archive

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"strings"
)

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
	switch key := key.(type) {
	case ed25519.PublicKey:
		return key, nil
	case *ecdsa.PublicKey:
		if key.Curve != elliptic.P224() {
			return key, nil
		}
	}
	return nil, errors.New("it is neither ECDSA nor Ed25519, or of a curve that is not used")
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
		} else if size := p.m.Files[p.index[file]].Size; size > maxReport {
			p.errorf(file, "it has %d bytes, and a report has at most %d", size, maxReport)
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
	if i, ok := p.index[name+".json"]; !ok || p.m.Files[i].Size > maxReport {
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
