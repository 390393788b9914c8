package archive

import (
	"context"
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
