package storage

import (
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"slices"
	"strings"
)

// The archive keeps every distinct checkpoint of an origin, in the order in which they came.
// Each has a row with the hash of the row before it, so that a row that is removed or changed
// shows; the head record has the number of rows and the hash of the last one.

// A Relation says how a checkpoint of the archive stands to the newest one of the rows before
// it, its base.
type Relation byte

// The relations. Those with a proof have it in ArchiveRow.Proof.
const (
	RelationFirst       Relation = iota // there is no row before it
	RelationExtends                     // it is larger: the proof goes from the base to it
	RelationSame                        // size and root are the base's
	RelationPrecedes                    // it is smaller: the proof goes from it to the base
	RelationContradicts                 // both are signed, and no tree has both
	RelationUnproven                    // no proof is held: see Tree.Recall
)

var relationNames = [...]string{"first", "extends", "same", "precedes", "contradicts", "unproven"}

func (r Relation) String() string {
	if int(r) < len(relationNames) {
		return relationNames[r]
	}
	return fmt.Sprintf("relation %d", byte(r))
}

// ParseRelation returns the relation of a name.
func ParseRelation(name string) (r Relation, ok bool) {
	i := slices.Index(relationNames[:], name)
	return Relation(max(i, 0)), i >= 0
}

// ArchiveRow is one row of the archive.
type ArchiveRow struct {
	Number   uint64 // from 1 on, without gaps
	Previous Hash   // of the row before it; zero for the first
	// Checkpoint has the note as it came first, and where from.
	Checkpoint Checkpoint
	Relation   Relation
	Base       Head   // the newest checkpoint of the rows before it; zero for the first
	Proof      []Hash // consistency proof between Base and Checkpoint (RFC 6962, section 2.1.2)
	// Cosignatures are the lines that were added to the note since, a line each.
	Cosignatures []string

	note Hash // SHA-256 of the note
	text Hash // of its text
}

// Hash returns the hash of the row: of all that never changes about it, in lines.
// docs/evidence.md has the format.
func (r *ArchiveRow) Hash(origin string) Hash {
	return sha256.Sum256(fmt.Appendf(nil, "understudy archive row v1\n%s\n%d\n%x\n%d\n%s\n%d\n%s\n%x\n",
		origin, r.Number, r.Previous[:], r.Checkpoint.FirstSeen.UnixNano(), r.Checkpoint.Source,
		r.Checkpoint.Size, base64.StdEncoding.EncodeToString(r.Checkpoint.Root[:]), r.note[:]))
}

// proven says whether the row has to have a proof.
func (r *ArchiveRow) proven() bool {
	return r.Relation == RelationExtends || r.Relation == RelationPrecedes
}

// ends returns the two heads of the row, the smaller one first.
func (r *ArchiveRow) ends() (first, last Head) {
	if r.Checkpoint.Size < r.Base.Size {
		return r.Checkpoint.Head, r.Base
	}
	return r.Base, r.Checkpoint.Head
}

// oneLine keeps what stands in a line of its own to one.
func oneLine(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return '?'
		}
		return r
	}, s)
}

// signerOf returns key ID and name of a signature line (https://c2sp.org/signed-note).
func signerOf(line string) (id []byte, ok bool) {
	fields := strings.Split(line, " ")
	if len(fields) != 3 || fields[0] != "—" || fields[1] == "" || strings.Contains(line, "\n") {
		return nil, false
	}
	signature, err := base64.StdEncoding.DecodeString(fields[2])
	if err != nil || len(signature) < 5 {
		return nil, false
	}
	return append(signature[:4:4], fields[1]...), true
}

func encodeArchiveRow(r *ArchiveRow) []byte {
	var e encoder
	e.byte(recordVersion)
	e.hash(r.Previous)
	e.head(r.Checkpoint.Head)
	e.hash(r.text)
	e.hash(r.note)
	e.time(r.Checkpoint.FirstSeen)
	e.bytes([]byte(r.Checkpoint.Source))
	e.byte(byte(r.Relation))
	e.head(r.Base)
	e.hashes(r.Proof)
	return e
}

func decodeArchiveRow(number uint64, b []byte) (ArchiveRow, error) {
	d := decoder{rest: b}
	if v := d.byte(); v != recordVersion {
		return ArchiveRow{}, fmt.Errorf("it has version %d: %w", v, errRecord)
	}
	r := ArchiveRow{Number: number, Previous: d.hash()}
	r.Checkpoint.Head = d.head()
	r.text, r.note = d.hash(), d.hash()
	r.Checkpoint.FirstSeen = d.time()
	r.Checkpoint.Source = string(d.bytes())
	r.Relation = Relation(d.byte())
	r.Base = d.head()
	r.Proof = d.hashes()
	return r, d.end()
}
