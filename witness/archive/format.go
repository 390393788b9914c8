// Package archive makes evidence packs out of the archived checkpoints of all logs, keeps them
// in order, and verifies them. docs/evidence.md has their format, and what they prove.
//
// What the package promises:
//
//   - every row of every archive is in exactly one pack, whatever crashes or the clock does:
//     a pack goes on where the one before it ended, by row numbers, and its place in the chain is
//     one durable record;
//   - nothing is in a pack that its own verifier would refuse;
//   - a pack is never given up: it stays in the data directory, and is tried at each destination
//     until it is stored there and was read back.
package archive

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/understudy-log/understudy/storage"
)

// format is the first line of a manifest's note, and of every manifest.
const format = "understudy evidence pack v1"

// Names of files in a pack.
const (
	manifestFile  = "manifest.json"
	noteFile      = "manifest.note"
	timestampFile = "timestamp.tsr"
	reportFile    = "REPORT.md"
	entriesFile   = "entries.jsonl"
	outagesFile   = "outages.jsonl"
	ledgerFile    = "ledger.jsonl"
	reportsFolder = "reports/"
)

// Manifest is manifest.json.
type Manifest struct {
	Format    string     `json:"format"`
	Number    uint64     `json:"number"`
	Previous  *Previous  `json:"previous"`
	Archive   Identity   `json:"archive"`
	Period    Period     `json:"period"`
	Built     Time       `json:"built"`
	Authority string     `json:"time_stamping_authority"`
	Notes     []string   `json:"notes"`
	Logs      []Log      `json:"logs"`
	Trust     []Material `json:"trust"`
	Files     []File     `json:"files"`
	Ledger    *Ledger    `json:"ledger,omitempty"`
	Reports   *Reports   `json:"reports,omitempty"`
}

// Previous names the pack before.
type Previous struct {
	Number uint64 `json:"number"`
	Name   string `json:"name"`
	Hash   Hex    `json:"manifest_sha256"`
}

// Identity says who made a pack.
type Identity struct {
	Name    string `json:"name"`
	Key     string `json:"key"` // verifier key
	Vantage string `json:"vantage"`
}

// Period is the time that a pack is about.
type Period struct {
	From     Time   `json:"from"`
	To       Time   `json:"to"`
	TimeZone string `json:"time_zone"`
	Schedule string `json:"schedule"`
}

// Log is what a pack has of one log.
type Log struct {
	Origin     string      `json:"origin"`
	Name       string      `json:"name"`
	Folder     string      `json:"folder"`
	Coverage   string      `json:"coverage"`
	Keys       []string    `json:"keys"`
	Cosigners  []string    `json:"cosigners"`
	Rows       Rows        `json:"rows"`
	Before     Place       `json:"before"`
	After      Place       `json:"after"`
	Quarantine *Quarantine `json:"quarantine"`
}

// Rows are rows of an archive, both ends included; Last is First - 1 if there are none.
type Rows struct {
	First uint64 `json:"first"`
	Last  uint64 `json:"last"`
}

// Place is a place in the archive of a log.
type Place struct {
	RowHash Hex   `json:"row_hash"`
	Newest  *Head `json:"newest"`
}

// Head is a tree head.
type Head struct {
	Size uint64 `json:"size"`
	Root Base64 `json:"root"`
}

// Quarantine is the evidence against a log.
type Quarantine struct {
	Reason string   `json:"reason"`
	At     Time     `json:"at"`
	First  string   `json:"first"`
	Second string   `json:"second"`
	Root   *Base64  `json:"root"`
	Proof  []Base64 `json:"proof"`
}

// Material is a file of trust material.
type Material struct {
	File string `json:"file"`
	Kind string `json:"kind"`
	From Time   `json:"from"`
	To   *Time  `json:"to"`
}

// Ledger is what a pack has of the outage ledger. Before and After are the hashes of the row before the
// first and of the last one; zeros of row 0.
type Ledger struct {
	Rows   Rows `json:"rows"`
	Before Hex  `json:"before"`
	After  Hex  `json:"after"`
}

// LedgerRow is a line of ledger.jsonl.
type LedgerRow struct {
	Seq      uint64  `json:"seq"`
	At       rfcTime `json:"at"`
	Kind     string  `json:"kind"`
	Previous string  `json:"previous"`
	Body     rawJSON `json:"body"`
}

// Reports are the reports in a pack. Keys are those that sign them, SubjectPublicKeyInfos in DER.
type Reports struct {
	Keys [][]byte      `json:"keys"`
	List []ReportEntry `json:"list"`
}

// ReportEntry is one report: the files reports/<id>.json and .md, and .dsse if it is signed.
type ReportEntry struct {
	ID     string `json:"id"`
	At     Time   `json:"at"`
	Place  string `json:"place"` // where it was logged
	Signed bool   `json:"signed"`
}

// File is a file of the pack.
type File struct {
	Name string `json:"name"`
	Size int64  `json:"size"`
	Hash Hex    `json:"sha256"`
}

// Row is a line of checkpoints.jsonl.
type Row struct {
	Row          uint64   `json:"row"`
	Previous     Hex      `json:"previous"`
	FirstSeen    Time     `json:"first_seen"`
	LastSeen     Time     `json:"last_seen"`
	Source       string   `json:"source"`
	Size         uint64   `json:"size"`
	Root         Base64   `json:"root"`
	Checkpoint   string   `json:"checkpoint"`
	Relation     string   `json:"relation"`
	Proof        []Base64 `json:"proof"`
	Cosignatures []string `json:"cosignatures"`
}

// Wanted is what the customer named: one of the first four, in one log or in all.
type Wanted struct {
	Digest   string `json:"digest,omitempty"`
	Identity string `json:"identity,omitempty"`
	UUID     string `json:"uuid,omitempty"`
	Index    string `json:"index,omitempty"`
	Log      string `json:"log,omitempty"`
}

// Answer is a line of entries.jsonl.
type Answer struct {
	Wanted   Wanted  `json:"wanted"`
	Found    []Found `json:"found"`
	Looked   string  `json:"looked"`
	Complete bool    `json:"complete"`
}

// Found names the folder of an entry.
type Found struct {
	Folder string `json:"folder"`
}

// EntryPlace is place.json of an entry.
type EntryPlace struct {
	Origin       string   `json:"origin"`
	Index        uint64   `json:"index"`
	Tie          []Base64 `json:"tie"`
	To           Head     `json:"to"`
	SET          *SET     `json:"set"`
	VirtualIndex *uint64  `json:"virtual_index"`
	UUID         string   `json:"uuid"`
}

// SET is the signed entry timestamp of Rekor v1.
type SET struct {
	IntegratedTime int64  `json:"integrated_time"`
	LogID          string `json:"log_id"`
	Signature      []byte `json:"signature"`
}

// Outage is a line of outages.jsonl.
type Outage struct {
	Origin string `json:"origin"`
	What   string `json:"what"`
	From   Time   `json:"from"`
	To     *Time  `json:"to"`
	Text   string `json:"text"`
}

// timeLayout is how a time is written: UTC, with all digits.
const timeLayout = "2006-01-02T15:04:05.000000000Z"

// Time is a time in a pack.
type Time struct{ time.Time }

// MarshalJSON writes the one form of a time.
func (t Time) MarshalJSON() ([]byte, error) {
	return json.Marshal(t.UTC().Format(timeLayout))
}

// UnmarshalJSON reads the one form of a time.
func (t *Time) UnmarshalJSON(b []byte) error { return unmarshalText(b, t.parse) }

func (t *Time) parse(text string) error {
	v, err := time.Parse(timeLayout, text)
	if err != nil || v.Format(timeLayout) != text {
		return fmt.Errorf("%q is not a time in the form %s", text, timeLayout)
	}
	t.Time = v
	return nil
}

// rfcTime is a time as encoding/json writes it: RFC 3339, UTC, without zeros at the end of a fraction.
type rfcTime struct{ time.Time }

func (t *rfcTime) parse(text string) error {
	v, err := time.Parse(time.RFC3339Nano, text)
	if err != nil || v.UTC().Format(time.RFC3339Nano) != text || v.Year() < 1970 || v.Year() > 2261 {
		return fmt.Errorf("%.60q is not a time in the form of RFC 3339, in UTC, from 1970 to 2261", text)
	}
	t.Time = v
	return nil
}

// rawJSON is any JSON value, as it is written.
type rawJSON []byte

// Hex is a hash in hexadecimal.
type Hex storage.Hash

func (h Hex) String() string { return fmt.Sprintf("%x", h[:]) }

// MarshalJSON writes lower-case hexadecimal.
func (h Hex) MarshalJSON() ([]byte, error) { return json.Marshal(h.String()) }

// UnmarshalJSON reads lower-case hexadecimal.
func (h *Hex) UnmarshalJSON(b []byte) error { return unmarshalText(b, h.parse) }

func (h *Hex) parse(text string) error {
	raw, err := hex.DecodeString(text)
	if err != nil || len(raw) != len(h) || text != strings.ToLower(text) {
		return fmt.Errorf("%.80q is not a hash in hexadecimal", text)
	}
	*h = Hex(raw)
	return nil
}

// Base64 is a hash in base64.
type Base64 storage.Hash

// MarshalJSON writes base64.
func (h Base64) MarshalJSON() ([]byte, error) {
	return json.Marshal(base64.StdEncoding.EncodeToString(h[:]))
}

// UnmarshalJSON reads base64, canonically.
func (h *Base64) UnmarshalJSON(b []byte) error { return unmarshalText(b, h.parse) }

func (h *Base64) parse(text string) error {
	raw, err := decodeBase64(text)
	if err != nil || len(raw) != len(h) {
		return fmt.Errorf("%.80q is not a hash in base64", text)
	}
	*h = Base64(raw)
	return nil
}

// unmarshalText hands the text of a JSON string to parse.
func unmarshalText(b []byte, parse func(string) error) error {
	var text string
	if err := json.Unmarshal(b, &text); err != nil {
		return err
	}
	return parse(text)
}

func base64s(hashes []storage.Hash) []Base64 {
	out := make([]Base64, len(hashes))
	for i, h := range hashes {
		out[i] = Base64(h)
	}
	return out
}

// headOf returns a head as a pack has it; nil for none.
func headOf(h storage.Head, some bool) *Head {
	if !some {
		return nil
	}
	return &Head{h.Size, Base64(h.Root)}
}

// line encodes v as one line of JSON.
func line(v any) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	err := e.Encode(v)
	return b.Bytes(), err
}
