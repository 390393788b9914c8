package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/understudy-log/understudy/test/outagestage"
)

func (s *story) report(ctx context.Context) (string, error) {
	rows, err := s.Ledger(ctx)
	if err != nil {
		return "", err
	}
	submitted, verifiedAgain, differs := 0, 0, 0
	for i, row := range outagestage.Rows(rows, "reconcile", "event", "done") {
		r, err := s.Report(ctx, row.Field("id"))
		if err != nil {
			return "", err
		}
		if err := s.InPrivateLog(ctx, r.Payload); err != nil {
			return "", err
		}
		if i == 0 {
			s.quote("understudy reconcile report", excerpt(r.Markdown, 28))
		}
		for _, p := range r.Document.Proposals {
			submitted += p.Submitted
		}
		verifiedAgain += r.Document.Decisions.Total
		differs += r.Document.Decisions.Differs
	}
	// The report of one log is an entry of the private log, too, which the other log may get.
	if want := len(s.digests) + 1; submitted < want || submitted > want+2 {
		return "", fmt.Errorf("the reports say that %d entries were submitted, want %d", submitted, want)
	}
	if differs != 1 { // the one that the exception allowed
		return "", fmt.Errorf("%d decisions would not be taken again, want 1", differs)
	}
	return fmt.Sprintf("a report of each log, signed, and in the private log: %d decisions were verified again, and the one that the exception had allowed is named", verifiedAgain), nil
}

// excerpt is the beginning of a text.
func excerpt(text string, lines int) string {
	all := strings.Split(strings.TrimSpace(text), "\n")
	if len(all) > lines {
		all = append(all[:lines], fmt.Sprintf("… (%d lines more)", len(all)-lines))
	}
	return strings.Join(all, "\n")
}

func (s *story) everyday(ctx context.Context) (string, error) {
	if _, err := s.UntilSigning(ctx, 10e9, s.PublicURLs()); err != nil {
		return "", err
	}
	if err := s.Refused(ctx); err != nil {
		return "", err
	}
	if err := s.cosignSigns(ctx, "after", "https://"+outagestage.OriginV2); err != nil {
		return "", err
	}
	for _, name := range []string{"before", "during", "after"} {
		if err := s.signer.Verify(ctx, name, name+".bundle"); err != nil {
			return "", err
		}
	}
	// For those who do not know the private log, what was signed there gets the public log's entry.
	if s.signer.VerifyUnder(ctx, s.TrustedRootFile, "during", "during.bundle") == nil {
		return "", errors.New("a verifier that does not know the private log believes it")
	}
	s.tell("$ understudy bundle publish during.bundle -o published.bundle --replace")
	if _, err := s.Command(ctx, "bundle", "publish", s.signer.File("during.bundle"), "-o", s.signer.File("published.bundle"), "--replace"); err != nil {
		return "", err
	}
	if err := s.signer.VerifyUnder(ctx, s.TrustedRootFile, "during", "published.bundle"); err != nil {
		return "", err
	}
	return "cosign signs in the public log, the private log takes nothing; what was signed before, during and after verifies, with the public log's entry also for those who do not know ours", nil
}

func (s *story) drill(ctx context.Context) (string, error) {
	report, err := s.show(ctx, 0, outagestage.Operator, "drill", "run", "refuse", "--component", outagestage.LogV2, "--for", "15s", "--ticket", "OPS-200", "--wait")
	if err == nil && !strings.Contains(report, "passed") {
		err = fmt.Errorf("the drill did not pass")
	}
	if err != nil {
		return "", err
	}
	var list struct{ History []struct{ ID string } }
	out, err := s.Command(ctx, "drill", "list", "--json")
	if err == nil {
		err = json.Unmarshal([]byte(out), &list)
	}
	if err != nil || len(list.History) != 1 {
		return "", fmt.Errorf("drill list: %d drills (%w)", len(list.History), err)
	}
	out, err = s.Command(ctx, "drill", "report", list.History[0].ID, "--json")
	if err != nil {
		return "", err
	}
	return "rehearsed at the daemon's own clients, which the log did not notice; passed, and in the private log", s.InPrivateLog(ctx, []byte(out))
}

func (s *story) record(ctx context.Context) (string, error) {
	rows, err := s.Ledger(ctx)
	if err != nil {
		return "", err
	}
	kinds := map[string]int{}
	for _, row := range rows {
		kinds[row.Kind]++
	}
	var parts []string
	for _, kind := range slices.Sorted(maps.Keys(kinds)) {
		parts = append(parts, fmt.Sprintf("%d %s", kinds[kind], kind))
	}
	s.tell("the ledger has %d rows, each with the hash of the one before: %s", len(rows), strings.Join(parts, ", "))
	if err := s.Terminate(); err != nil {
		return "", err
	}
	if _, err := s.show(ctx, 0, "", "check"); err != nil {
		return "", err
	}
	return fmt.Sprintf("%d rows of a ledger that holds together; everything stored is sound", len(rows)), nil
}
