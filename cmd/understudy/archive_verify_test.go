package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"os"
	"strings"
	"testing"

	formats "github.com/transparency-dev/formats/note"
	"golang.org/x/mod/sumdb/note"

	"github.com/understudy-log/understudy/witness/archive"
)

// TestArchiveKeys reads every form of --key.
func TestArchiveKeys(t *testing.T) {
	_, ed, err := note.GenerateKey(rand.Reader, "log.example")
	if err != nil {
		t.Fatal(err)
	}
	_, odd, err := note.GenerateKey(rand.Reader, "a=b")
	if err != nil {
		t.Fatal(err)
	}
	cosigner, err := formats.VKeyToCosignatureV1(ed)
	if err != nil {
		t.Fatal(err)
	}
	_, mldsa, err := formats.GenerateMLDSAKey("log.example")
	if err != nil {
		t.Fatal(err)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	id := sha256.Sum256(der)
	ec := fmt.Sprintf("rekor.example+%x+%s", id[:4], base64.StdEncoding.EncodeToString(append([]byte{2}, der...)))
	block := string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
	file, pemFile := writeTemp(t, "a=key", []byte(ed+"\n")), writeTemp(t, "pem", []byte(block))
	const v1 = "rekor.example - 12"

	for source, want := range map[string]archiveKeys{
		ed:                    {makers: []string{ed}, logs: []archiveLogKey{{origin: "log.example"}}},
		odd:                   {makers: []string{odd}, logs: []archiveLogKey{{origin: "a=b"}}},
		file:                  {makers: []string{ed}, logs: []archiveLogKey{{origin: "log.example"}}},
		ec:                    {logs: []archiveLogKey{{origin: "rekor.example"}}},
		cosigner:              {cosigners: []string{cosigner}},
		mldsa:                 {cosigners: []string{mldsa}},
		"other.example=" + ed: {logs: []archiveLogKey{{origin: "other.example"}}},
		v1 + "=" + ec:         {logs: []archiveLogKey{{origin: v1}}},
		v1 + "=" + pemFile:    {logs: []archiveLogKey{{origin: v1}}},
		v1 + "=" + file:       {logs: []archiveLogKey{{origin: v1}}},
		v1 + "=" + block:      {logs: []archiveLogKey{{origin: v1}}},
	} {
		var k archiveKeys
		if err := k.add(source); err != nil {
			t.Errorf("%.60s: %v", source, err)
			continue
		}
		if fmt.Sprint(k.makers, k.cosigners) != fmt.Sprint(want.makers, want.cosigners) || len(k.logs) != len(want.logs) {
			t.Errorf("%.60s: %+v", source, k)
			continue
		}
		for i, l := range k.logs {
			if l.origin != want.logs[i].origin || l.public == nil || k.log(l.origin) == nil || k.log("elsewhere.example") != nil {
				t.Errorf("%.60s: %+v", source, l)
			}
		}
	}
	for _, source := range []string{"", "x", "=", "x=", "=" + ed, block, pemFile, "log.example=" + cosigner, "log.example=" + mldsa,
		strings.Replace(cosigner, "log.example", "other.example", 1), strings.Replace(ed, "log.example", "other.example", 1), ed[:len(ed)-2] + "==", mldsa + "=", "a+01234567+AA==", "a+01234567+AQ=A"} {
		var k archiveKeys
		if err := k.add(source); err == nil {
			t.Errorf("%.60q: %+v", source, k)
		}
	}
}

// TestArchiveReportIsPlain: a pack cannot steer the terminal of who reads the report.
func TestArchiveReportIsPlain(t *testing.T) {
	const evil = "a\x1b[2J\nerr\u202eor\u0085"
	r := &archive.Report{
		Packs:    []archive.Summary{{Name: evil, Number: 1, Notes: []string{evil}, Archive: archive.Identity{Key: evil, Vantage: evil}, Logs: []archive.LogSummary{{Origin: evil, Coverage: evil, Quarantined: true}}}},
		Findings: []archive.Remark{{Pack: evil, Text: evil}}, FurtherFindings: 7,
		Errors: []archive.Remark{{Pack: evil, Place: evil, Text: evil}}, FurtherErrors: 1200,
	}
	text := archiveReport(r)
	if strings.ContainsAny(text, "\x1b\u202e\u0085") || strings.Contains(text, "\nerr") {
		t.Errorf("%q", text)
	}
	for _, want := range []string{"  and 7 more\n", "  and 1,200 more\n", "\nwrong: 1,201 errors, and 8 findings\n", "the log contradicted itself"} {
		if !strings.Contains(text, want) {
			t.Errorf("want %q in\n%s", want, text)
		}
	}
}

// TestArchiveReportOutages: who reads the report is told of the ledger, and which key signs reports.
func TestArchiveReportOutages(t *testing.T) {
	s := archive.Summary{Name: "x", Number: 1, Ledger: &archive.LedgerSummary{Rows: archive.Rows{First: 3, Last: 2}}}
	r := &archive.Report{Packs: []archive.Summary{s}}
	if text := archiveReport(r); !strings.Contains(text, "no new rows in the outage ledger, of which there are 2 rows\n") || strings.Contains(text, "reports of drills") {
		t.Error(text)
	}
	s.Ledger = &archive.LedgerSummary{Rows: archive.Rows{First: 3, Last: 1202}, Kinds: map[string]uint64{"state": 1100, "\x1b[2Jforce": 100}}
	s.Reports = []archive.ReportSummary{{Verified: true}, {}}
	s.ReportKeys = []archive.Hex{{0xab}}
	r.Packs[0] = s
	text := archiveReport(r)
	for _, want := range []string{"1,200 rows of the outage ledger (3 to 1202), none changed or missing since: 100 ?[2Jforce, 1,100 state\n", "2 reports of drills and reconciliations, 1 signed with a key of reports:\n",
		"a key with the SHA-256 ab00000", "what the outage ledger and the reports say\n"} {
		if !strings.Contains(text, want) {
			t.Errorf("want %q in\n%s", want, text)
		}
	}
	r.Packs[0] = archive.Summary{Name: "x", Number: 1}
	if text := archiveReport(r); strings.Contains(text, "outage ledger") {
		t.Error(text)
	}
}

// TestArchiveSET: the promise of a log is verified with the key that it names.
func TestArchiveSET(t *testing.T) {
	const packs = "../../witness/archive/testdata/"
	var out strings.Builder
	for _, name := range []string{"archive.vkey", "pack1.tar"} {
		if _, err := os.Stat(packs + name); err != nil {
			t.Fatal(err)
		}
	}
	// Another key of the same log, in front of the right one, is no hindrance.
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	other := writeTemp(t, "other.pem", pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
	const v1 = "rekor.example - 1193050959916656506="
	args := []string{"archive", "verify", packs + "pack1.tar", "--key", v1 + other, "--key", v1 + packs + "rekor.pem", "--key", "log2030-1.rekor.example=" + packs + "tiles.pem"}
	if code := run(t.Context(), args, &out, &out); code != exitGood {
		t.Errorf("exit code %d\n%s", code, out.String())
	}
	out.Reset()
	if code := run(t.Context(), append(args[:5:5], args[7:]...), &out, &out); code != exitWrong || !strings.Contains(out.String(), "the signed entry timestamp does not verify") {
		t.Errorf("exit code %d\n%s", code, out.String())
	}
}
