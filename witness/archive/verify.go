package archive

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/understudy-log/understudy/log/rekor"
)

// Input is a pack to verify: a file, and what messages call it.
type Input struct {
	Name string
	File io.ReaderAt
	Size int64
}

// Options say whom Verify believes. Nothing in a pack is believed about that.
type Options struct {
	// Log returns what verifies the signatures of the log of an origin; nil if no key is trusted
	// for it, which is an error.
	Log func(origin string) *LogKeys
	// Makers are verifier keys of type 1 that somebody vouched for. A pack that is signed by none of
	// them is an error if one has the name of its archive, or one is not named like a log of which
	// the packs have checkpoints: those may be meant for the logs.
	Makers []string
	// Cosigners are verifier keys (of types 4 and 6) of cosigners that somebody vouched for: the
	// report says how many cosignatures are theirs.
	Cosigners []string
	// Timestamp verifies the answer of a time-stamping authority about a digest, and returns its
	// time and who signed it. The error is ErrNoAuthority if no certificate is trusted for it. Nil
	// trusts none.
	Timestamp func(response []byte, digest [32]byte) (at time.Time, signer string, err error)
}

// ErrNoAuthority says that no certificate is trusted for a time-stamp.
var ErrNoAuthority = errors.New("no certificate is trusted for this time-stamp")

// LogKeys verify what a log signed, and may be called by several at a time.
type LogKeys struct {
	// Checkpoint verifies a checkpoint of the log: each signature line that has the name and ID of a
	// key is good, and there is one.
	Checkpoint func(raw []byte) error
	// SET verifies a signed entry timestamp with the key that it names.
	SET func(e *rekor.Entry) error
}

// Report is what packs show. If Errors is empty, all that docs/evidence.md calls proven is.
type Report struct {
	Packs    []Summary `json:"packs"`
	Findings []Remark  `json:"findings"`
	Errors   []Remark  `json:"errors"`
	// FurtherFindings and FurtherErrors were left out, beyond the first hundred.
	FurtherFindings int `json:"further_findings"`
	FurtherErrors   int `json:"further_errors"`
}

// Good says whether all verifies.
func (r *Report) Good() bool { return len(r.Errors) == 0 }

// Remark is a sentence about a pack, or a place in it.
type Remark struct {
	Pack  string `json:"pack"`
	Place string `json:"place,omitempty"` // a file, and maybe the row or line in it
	Text  string `json:"text"`
}

func (r Remark) String() string {
	if r.Place == "" {
		return r.Pack + ": " + r.Text
	}
	return r.Pack + ": " + r.Place + ": " + r.Text
}

// Summary is what one pack has. Everything but Manifest and Bytes is empty if its manifest cannot be read.
type Summary struct {
	Name     string   `json:"name"`
	Bytes    int64    `json:"bytes"`
	Manifest Hex      `json:"manifest_sha256"`
	Number   uint64   `json:"number"`
	Period   Period   `json:"period"`
	Built    Time     `json:"built"`
	Archive  Identity `json:"archive"`
	// Vouched says that the archive key is among those that were given.
	Vouched bool `json:"archive_key_vouched"`
	// Stamped is the time of the time-stamp, if it was verified, and Signer who gave it.
	Stamped *Time        `json:"time_stamp"`
	Signer  string       `json:"time_stamp_signer"`
	Notes   []string     `json:"notes"`
	Logs    []LogSummary `json:"logs"`
	Entries uint64       `json:"entries"`
	Wanted  uint64       `json:"wanted"`
	Outages uint64       `json:"outages"`
	// Ledger is what the pack has of the outage ledger; nil if the pack is one without.
	Ledger *LedgerSummary `json:"ledger,omitempty"`
	// ReportKeys are the SHA-256 of the keys that sign reports, in the order of the manifest.
	ReportKeys []Hex           `json:"report_keys,omitempty"`
	Reports    []ReportSummary `json:"reports,omitempty"`
}

// LogSummary is what a pack has of one log.
type LogSummary struct {
	Origin      string `json:"origin"`
	Name        string `json:"name"`
	Coverage    string `json:"coverage"`
	Rows        Rows   `json:"rows"`
	Checkpoints uint64 `json:"checkpoints"`
	// Unproven are those that are not proven to be consistent with the others: the relation is
	// unproven or contradicts.
	Unproven uint64 `json:"unproven"`
	Before   *Head  `json:"before"`
	After    *Head  `json:"after"`
	// Cosignatures are those that verify, CosignaturesVouched those of them whose key was given.
	Cosignatures        uint64 `json:"cosignatures"`
	CosignaturesVouched uint64 `json:"cosignatures_vouched"`
	Quarantined         bool   `json:"quarantined"`
}

// LedgerSummary is what a pack has of the outage ledger.
type LedgerSummary struct {
	Rows Rows `json:"rows"`
	// Kinds are how many rows there are of each kind.
	Kinds map[string]uint64 `json:"kinds"`
}

// ReportSummary is one report in a pack. Verified says that its signature is that of a report key.
type ReportSummary struct {
	ReportEntry
	Verified bool `json:"verified"`
}

// maxRemarks is how many findings and how many errors a report names.
const maxRemarks = 100

// VerifyFiles is Verify of the packs in files.
func VerifyFiles(ctx context.Context, paths []string, o Options) (*Report, error) {
	var inputs []Input
	for _, path := range paths {
		f, err := os.Open(path)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		info, err := f.Stat()
		if err != nil {
			return nil, err
		}
		if !info.Mode().IsRegular() {
			return nil, fmt.Errorf("%s is not a file: give the packs themselves", path)
		}
		inputs = append(inputs, Input{Name: filepath.Base(path), File: f, Size: info.Size()})
	}
	return Verify(ctx, inputs, o)
}

// Verify verifies packs that follow each other, in the order of their numbers, as docs/evidence.md
// says. It goes on after an error where that makes sense. The error is that of reading a pack, or of
// ctx: what does not verify is in the report.
func Verify(ctx context.Context, inputs []Input, o Options) (*Report, error) {
	v := &verification{o: o, logs: map[string]*LogKeys{}, needed: map[string]bool{}}
	packs := []Summary{}
	var before *pack
	for i, in := range inputs {
		p, err := v.pack(ctx, in)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", in.Name, err)
		}
		if p.read {
			p.follows(before, i == 0)
		}
		packs = append(packs, p.summary)
		v.join(&p.remarks)
		// What is compared with the next one is small: the list of files is not.
		p.m.Files, p.offsets, p.index, p.used = nil, nil, nil, nil
		before = p
	}
	v.makers(packs)
	return &Report{packs, append([]Remark{}, v.findings...), append([]Remark{}, v.errors...), v.furtherFindings, v.furtherErrors}, nil
}

// verification is one call of Verify.
type verification struct {
	remarks
	o      Options
	logs   map[string]*LogKeys // by origin
	needed map[string]bool     // origins of which there are checkpoints
}

// log returns the keys of an origin, which are asked for once.
func (v *verification) log(origin string) *LogKeys {
	keys, ok := v.logs[origin]
	if !ok && v.o.Log != nil {
		keys = v.o.Log(origin)
		v.logs[origin] = keys
	}
	return keys
}

// needKey says that something in the pack is signed by a log.
func (p *pack) needKey(origin string) {
	p.v.needed[origin] = true
	if p.v.log(origin) == nil && !p.keyless[origin] {
		p.keyless[origin] = true
		p.errorf(manifestFile, "log %.120q: no key is trusted for it: give one, or a trusted root that has it", origin)
	}
}

// makers says of each pack who is known to have made it.
func (v *verification) makers(packs []Summary) {
	told := slices.DeleteFunc(slices.Clone(v.o.Makers), func(key string) bool {
		name, _, _ := cutKey(key)
		return v.needed[name]
	})
	for i := range packs {
		s := &packs[i]
		v.remarks.pack = s.Name
		switch {
		case s.Number == 0: // it could not be read
		case slices.Contains(v.o.Makers, s.Archive.Key):
			s.Vouched = true
		case len(told) > 0 || slices.ContainsFunc(v.o.Makers, func(key string) bool { name, _, _ := cutKey(key); return name == s.Archive.Name }):
			v.errorf(manifestFile, "the pack is signed with the archive key %q, which is none of those that were given", s.Archive.Key)
		default:
			v.findingf(manifestFile, "nobody vouched for the archive key %q: it is not known who made the pack", s.Archive.Key)
		}
	}
}

// remarks gathers what is said of one pack, or of a part of it.
type remarks struct {
	pack                           string
	findings, errors               []Remark
	furtherFindings, furtherErrors int
}

func (r *remarks) findingf(place, format string, args ...any) {
	if len(r.findings) == maxRemarks {
		r.furtherFindings++
		return
	}
	r.findings = append(r.findings, Remark{r.pack, place, fmt.Sprintf(format, args...)})
}

func (r *remarks) errorf(place, format string, args ...any) {
	if len(r.errors) == maxRemarks {
		r.furtherErrors++
		return
	}
	r.errors = append(r.errors, Remark{r.pack, place, fmt.Sprintf(format, args...)})
}

// join moves what others said behind what r says.
func (r *remarks) join(other *remarks) {
	move := func(to *[]Remark, further *int, from []Remark, more int) {
		n := min(len(from), maxRemarks-len(*to))
		*to = append(*to, from[:n]...)
		*further += len(from) - n + more
	}
	move(&r.findings, &r.furtherFindings, other.findings, other.furtherFindings)
	move(&r.errors, &r.furtherErrors, other.errors, other.furtherErrors)
}
