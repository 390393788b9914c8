package archive

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"strings"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/note"
)

// lie is a pack that its maker hashed and signed correctly, and that is wrong in one thing. The
// verifier must name that, and nothing else: so the check that finds it is the only one that does.
type lie struct {
	name, reason string
	pack         int // of newChain, from 1
	tell         func(p *testPack)
}

// rowOf returns row n of the v1 log in the first pack, and its log.
func rowOf(p *testPack, n int) (*Row, *testLog) {
	return &p.rows["logs/rekor"][n-1], p.w.logs[1]
}

// resign signs the checkpoint of a row again.
func (p *testPack) resign(l *testLog, r *Row, raw []byte) {
	p.raw[r.Checkpoint] = raw
	for i := range r.Cosignatures {
		r.Cosignatures[i] = p.w.cosigners[i].line(raw)
	}
}

// place changes place.json of an entry.
func (p *testPack) place(n int, change func(e *EntryPlace)) {
	folder := fmt.Sprintf("entries/%06d", n)
	e := p.places[folder]
	change(&e)
	p.places[folder] = e
}

// replace changes text in a file.
func (p *testPack) replace(name, old, new string) {
	if !strings.Contains(string(p.raw[name]), old) {
		panic(name + " does not have " + old)
	}
	p.raw[name] = []byte(strings.Replace(string(p.raw[name]), old, new, 1))
}

func otherKey(name string) string {
	_, vkey, err := note.GenerateKey(zeros{}, name)
	return must(vkey, err)
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

var manifestLies = []lie{
	{"number 0", "the first pack has the number 1, not 0", 1, func(p *testPack) { p.m.Number = 0 }},
	{"a pack before the first", "it is the first pack, and names one before it", 1, func(p *testPack) { p.m.Previous = &Previous{} }},
	{"no pack before the second", "is pack 2, and names none before it", 2, func(p *testPack) { p.m.Previous = nil }},
	{"another pack before the second", "names pack 7 as the one before it", 2, func(p *testPack) { p.m.Previous.Number = 7 }},
	{"another name of the archive", `is called "Sigstore", and its key "archive.example.com/understudy"`, 1, func(p *testPack) { p.m.Archive.Name = "Sigstore" }},
	{"another archive key", "does not verify", 1, func(p *testPack) {
		p.m.Archive.Key = otherKey(archiveName)
		_, id, _ := cutKey(p.m.Archive.Key)
		p.signer = &renamed{p.signer, archiveName, must(hex.DecodeString(id))}
	}},
	{"archive key of type 4", "cannot be used: it is no verifier key of type 1", 1, func(p *testPack) { p.m.Archive.Key = p.w.cosigners[0].vkey; p.m.Archive.Name = "" }},
	{"archive key with an upper case ID", "cannot be used: it is no verifier key in the one form", 1, func(p *testPack) {
		name, id, encoded := cutKey(p.w.vkey)
		for strings.ToUpper(id) == id {
			p.w.setMaker()
			name, id, encoded = cutKey(p.w.vkey)
		}
		p.m.Archive.Key = name + "+" + strings.ToUpper(id) + "+" + encoded
		p.signer = p.w.maker
	}},
	{"note about another number", "what is signed is not the manifest", 1, func(p *testPack) { p.text = "understudy evidence pack v1\n2\n" + strings.Repeat("0", 64) + "\nnone\n" }},
	{"note with two signatures", "does not have exactly one signature", 1, func(p *testPack) { p.more = signatureLine("x", [4]byte{}, []byte("y")) + "\n" }},
	{"note with something behind it", "does not have exactly one signature", 1, func(p *testPack) { p.more = "\n" }},
	{"note with a name and no key", "does not have exactly one signature", 1, func(p *testPack) { p.signer = &renamed{p.signer, "x", nil} }},
	{"no log trusted", `log "other.example": no key is trusted for it`, 1, func(p *testPack) {
		p.m.Logs = append(p.m.Logs[:1:1], Log{Origin: "other.example", Folder: "logs/o", Coverage: "full", Keys: []string{}, Cosigners: []string{}, Rows: Rows{1, 0}}, p.m.Logs[1])
	}},
	{"a clock that was set back", "", 1, func(p *testPack) { p.m.Period.From = at(900) }},
	{"an origin of two lines", "this cannot be an origin", 1, func(p *testPack) {
		p.w.logs = append(p.w.logs, newTestLog("a\nb", "logs/x", "full", 0))
		p.m.Logs = append([]Log{{Origin: "a\nb", Folder: "logs/x", Coverage: "full", Keys: []string{}, Cosigners: []string{}, Rows: Rows{1, 0}}}, p.m.Logs...)
	}},
	{"no origin", "this cannot be an origin", 1, func(p *testPack) {
		p.w.logs = append(p.w.logs, newTestLog("", "logs/x", "full", 0))
		p.m.Logs = append([]Log{{Origin: "", Folder: "logs/x", Coverage: "full", Keys: []string{}, Cosigners: []string{}, Rows: Rows{1, 0}}}, p.m.Logs...)
	}},
	{"logs out of order", "logs[1]: ", 1, func(p *testPack) { p.m.Logs[0], p.m.Logs[1] = p.m.Logs[1], p.m.Logs[0] }},
	{"one folder of two logs", `logs[2]: the folder "logs/tiles" is that of`, 3, func(p *testPack) {
		p.files()
		p.linked, p.log(v1Origin).Folder = true, "logs/tiles"
	}},
	{"folder elsewhere", "is not logs/ and one more part", 3, func(p *testPack) { p.log(v1Origin).Folder = "entries/x" }},
	{"folder too deep", "is not logs/ and one more part", 3, func(p *testPack) { p.log(v1Origin).Folder = "logs/x/y" }},
	{"another coverage", `there is no coverage "all"`, 1, func(p *testPack) { p.m.Logs[0].Coverage = "all" }},
	{"rows that run backwards", "there cannot be rows from 9 to 7", 3, func(p *testPack) { p.log(v1Origin).Rows = Rows{9, 7} }},
	{"rows from 0 on", "there cannot be rows from 0 to 9", 3, func(p *testPack) { p.log(v1Origin).Rows = Rows{0, 9} }},
	{"hash of row 0", "before.row_hash cannot be that of row 0", 1, func(p *testPack) {
		l := p.log(tilesOrigin)
		l.Before.RowHash = Hex{1}
	}},
	{"a head before row 1", "before.newest cannot be that of row 0", 1, func(p *testPack) { p.log(v1Origin).Before.Newest = &Head{1, Base64{}} }},
	{"an empty tree before", "before.newest is an empty tree with another root", 2, func(p *testPack) {
		p.log(v1Origin).Before.Newest = &Head{}
		p.rows["logs/rekor"][0].Proof = []Base64{}
	}},
	{"no report", "the pack has no REPORT.md", 1, func(p *testPack) { delete(p.raw, reportFile) }},
	{"a file about nothing", "zzz.txt: nothing in the pack is about this file", 1, func(p *testPack) { p.raw["zzz.txt"] = nil }},
	{"trust material of another kind", `trust[0]: there is no kind "root.json"`, 1, func(p *testPack) { p.m.Trust[0].Kind = "root.json" }},
	{"trust material that ends early", "trust[0]: it ends at", 1, func(p *testPack) { p.m.Trust[0].To = &Time{at(-1).Time} }},
	{"trust material that is missing", `trust[1]: the file "trust/x" is not in the pack`, 1, func(p *testPack) {
		p.m.Trust = append(p.m.Trust, Material{"trust/x", "trusted_root.json", at(0), nil})
	}},
	{"two cosigners with one ID", "two cosigner keys have the name and the key ID", 1, func(p *testPack) { l := p.log(tilesOrigin); l.Cosigners = append(l.Cosigners, l.Cosigners[1]) }},
	{"cosigner of type 1", "it is no verifier key of type 4 or 6", 1, func(p *testPack) { l := p.log(tilesOrigin); l.Cosigners = append(l.Cosigners, otherKey("x")) }},
	{"cosigner that is no key", "cannot be used", 1, func(p *testPack) { l := p.log(tilesOrigin); l.Cosigners = append(l.Cosigners, "x") }},
	{"cosigner that is no base64", "cannot be used", 1, func(p *testPack) { l := p.log(tilesOrigin); l.Cosigners = append(l.Cosigners, "x+00000000+BA") }},
	{"cosigner with a short key", "cannot be used", 1, func(p *testPack) { l := p.log(tilesOrigin); l.Cosigners = append(l.Cosigners, "x+00000000+BAAA") }},
	{"two cosigners of one name", "", 1, func(p *testPack) {
		l := p.log(tilesOrigin)
		l.Cosigners = append(l.Cosigners, newTestCosigner("witness.example.com/w1", true).vkey, newTestCosigner("witness.example.com/w1", false).vkey)
	}},
	{"cosigner with another ID", "its key ID is", 1, func(p *testPack) {
		l := p.log(tilesOrigin)
		name, _, encoded := cutKey(l.Cosigners[0])
		l.Cosigners = append(l.Cosigners, name+"+00000000+"+encoded)
	}},
	{"an outage of a stranger", `the pack does not have the log "x"`, 1, func(p *testPack) { p.outages[0].Origin = "x" }},
	{"another kind of outage", `there is no outage that is "strike"`, 1, func(p *testPack) { p.outages[0].What = "strike" }},
	{"an outage that runs backwards", "it ends at", 1, func(p *testPack) { p.outages[0].To = &Time{at(105).Time} }},
	{"an outage before", "it is not in the period", 1, func(p *testPack) { p.outages[0].From, p.outages[0].To = at(1), &Time{at(99).Time} }},
	{"an outage after", "it is not in the period", 1, func(p *testPack) { p.outages[0].From, p.outages[0].To = at(201), nil }},
}

// renamed signs under another name and ID.
type renamed struct {
	note.Signer
	name string
	id   []byte
}

func (r *renamed) Name() string { return strings.SplitN(r.name, " ", 2)[0] }

func (r *renamed) KeyHash() uint32 {
	if r.id == nil {
		return r.Signer.KeyHash()
	}
	return uint32(r.id[0])<<24 | uint32(r.id[1])<<16 | uint32(r.id[2])<<8 | uint32(r.id[3])
}

var rowLies = []lie{
	{"a row left out", "it is row 4, and row 3 is due", 1, func(p *testPack) {
		rows := p.rows["logs/rekor"]
		delete(p.raw, rows[2].Checkpoint)
		p.rows["logs/rekor"] = append(rows[:2:2], rows[3:]...)
	}},
	{"a row too few", "the rows end with 7, and the manifest says 8", 1, func(p *testPack) {
		rows := p.rows["logs/rekor"]
		delete(p.raw, rows[7].Checkpoint)
		p.rows["logs/rekor"] = rows[:7]
		newest := &Head{rows[4].Size, rows[4].Root}
		p.log(v1Origin).After.Newest = newest
		p.place(1, func(e *EntryPlace) { e.To, e.Tie = *newest, p.w.logs[1].proof(21, 20) })
		p.place(2, func(e *EntryPlace) { e.To, e.Tie = *newest, p.w.logs[1].proof(5, 20) })
	}},
	{"a row that was changed", "row 3: the row before it has the hash", 1, func(p *testPack) {
		p.files()
		p.linked = true
		r, _ := rowOf(p, 2)
		r.Source += "x"
	}},
	{"a last row that was changed", "the last row has another hash", 1, func(p *testPack) {
		p.files()
		p.linked = true
		r, _ := rowOf(p, 8)
		r.FirstSeen = Time{r.FirstSeen.Add(1)}
	}},
	{"another file name", `its file is called "logs/rekor/checkpoints/8.txt"`, 1, func(p *testPack) {
		r, _ := rowOf(p, 8)
		p.raw["logs/rekor/checkpoints/8.txt"] = p.raw[r.Checkpoint]
		delete(p.raw, r.Checkpoint)
		r.Checkpoint = "logs/rekor/checkpoints/8.txt"
	}},
	{"a source of two lines", "the source has control characters", 1, func(p *testPack) { r, _ := rowOf(p, 2); r.Source = "x\n8" }},
	{"seen long ago", "cannot have been seen in the year 1969", 1, func(p *testPack) {
		r, _ := rowOf(p, 2)
		r.FirstSeen = Time{time.Unix(-1, 0).UTC()}
	}},
	{"seen last before first", "before it was first seen", 1, func(p *testPack) { r, _ := rowOf(p, 2); r.LastSeen = at(0) }},
	{"an empty tree that has entries", "a tree without entries has another root", 1, func(p *testPack) {
		l := p.w.logs[0]
		r := &p.rows["logs/tiles"][2]
		r.Root = Base64{1}
		p.resign(l, r, l.note(Head{0, Base64{1}}))
	}},
	{"a precedes that is called unproven and same", `its relation is said to be "same", and is "precedes"`, 1, func(p *testPack) { r, _ := rowOf(p, 4); r.Relation = "same" }},
	{"a same that is called unproven", `its relation is said to be "unproven", and is "same"`, 1, func(p *testPack) { r, _ := rowOf(p, 3); r.Relation = "unproven" }},
	{"a contradiction that is called unproven", `its relation is said to be "unproven", and is "contradicts"`, 1, func(p *testPack) { r, _ := rowOf(p, 7); r.Relation = "unproven" }},
	{"a first that is called unproven", `its relation is said to be "unproven", and is "first"`, 1, func(p *testPack) { r, _ := rowOf(p, 1); r.Relation = "unproven" }},
	{"a relation of another kind", `its relation is said to be "x"`, 1, func(p *testPack) { r, _ := rowOf(p, 2); r.Relation = "x" }},
	{"a proof that is not needed", `a row that is "same" has a proof`, 1, func(p *testPack) { r, _ := rowOf(p, 3); r.Proof = []Base64{{}} }},
	{"no proof", "the proof does not show that the trees of size 5 and 8", 1, func(p *testPack) { r, _ := rowOf(p, 2); r.Proof = []Base64{} }},
	{"another proof", "the proof does not show that the trees of size 8 and 3", 1, func(p *testPack) { r, _ := rowOf(p, 4); r.Proof[0][0] ^= 1 }},
	{"a proof from nothing", "the proof does not show that the trees of size 0 and 9", 1, func(p *testPack) { p.rows["logs/tiles"][1].Proof = []Base64{{}} }},
	{"a fork that was proven", "the proof does not show that the trees of size 5 and 8", 1, func(p *testPack) {
		r, l := rowOf(p, 2)
		fork := Head{8, Base64{7}}
		r.Root = fork.Root
		p.resign(l, r, l.note(fork))
		r, _ = rowOf(p, 3)
		r.Root = fork.Root
		p.resign(l, r, l.note(fork, "again"))
		r, _ = rowOf(p, 4)
		r.Relation, r.Proof = "unproven", []Base64{}
	}},
	{"a checkpoint of another size", "it says size 8 and root", 1, func(p *testPack) {
		r, l := rowOf(p, 3)
		p.resign(l, r, l.note(l.head(9)))
	}},
	{"a checkpoint of another root", "it says size 8 and root", 1, func(p *testPack) {
		r, l := rowOf(p, 3)
		p.resign(l, r, l.note(Head{8, Base64{}}))
	}},
	{"a checkpoint of another log", "checkpoint of \"log2030-1.rekor.example\", want one of", 1, func(p *testPack) {
		r, _ := rowOf(p, 3)
		p.resign(nil, r, p.w.logs[0].note(p.w.logs[0].head(8)))
	}},
	{"a checkpoint that nobody signed", "is signed by", 1, func(p *testPack) {
		r, _ := rowOf(p, 4)
		p.replace(r.Checkpoint, "— rekor.example ", "— rekor2.example ")
	}},
	{"a checkpoint with a broken signature", "that does not verify", 1, func(p *testPack) {
		r, l := rowOf(p, 4)
		good := l.sign
		l.sign = func(text []byte) []byte { return good(append(text, 'x')) }
		p.raw[r.Checkpoint] = l.note(l.head(3))
		l.sign = good
	}},
	{"a checkpoint with a second, broken signature", "that does not verify", 1, func(p *testPack) {
		r, l := rowOf(p, 4)
		p.raw[r.Checkpoint] = append(p.raw[r.Checkpoint], signatureLine(l.signer, l.id, l.sign([]byte("x")))+"\n"...)
	}},
	{"another newest", "the largest checkpoint after the rows is not the one", 3, func(p *testPack) { p.log(tilesOrigin).After.Newest = &Head{9, p.w.logs[0].head(9).Root} }},
	{"a cosignature that is broken", `cosignatures[0]: the cosignature by "witness.example.com/w1" does not verify`, 1, func(p *testPack) {
		r, l := rowOf(p, 1)
		r.Cosignatures[0] = p.w.cosigners[0].line(l.note(l.head(4)))
	}},
	{"a cosignature of ML-DSA that is broken", `cosignatures[1]: the cosignature by "witness.example.com/pq" does not verify`, 1, func(p *testPack) {
		r, l := rowOf(p, 1)
		r.Cosignatures[1] = p.w.cosigners[1].line(l.note(l.head(4)))
	}},
	{"two cosignatures of one", `cosignatures[2]: there is another one by "witness.example.com/w1"`, 1, func(p *testPack) {
		r, _ := rowOf(p, 1)
		r.Cosignatures = append(r.Cosignatures, r.Cosignatures[0])
	}},
	{"a cosignature of a stranger", "is no cosignature by a key of the manifest", 1, func(p *testPack) { l := p.log(v1Origin); l.Cosigners = l.Cosigners[:1] }},
	{"the log as its own cosigner", "is no cosignature by a key of the manifest", 1, func(p *testPack) {
		r, l := rowOf(p, 3)
		r.Cosignatures[0] = signatureLine(l.signer, l.id, l.sign(textOf(p.raw[r.Checkpoint])))
	}},
}

// quarantine makes the evidence of the second pack another one.
func (p *testPack) quarantine(first, second []byte, root *Base64, proof []Base64) {
	q := p.log(lateOrigin).Quarantine
	q.Root, q.Proof = root, proof
	p.raw[q.First], p.raw[q.Second] = first, second
}

func quarantineLies() (lies []lie) {
	const not = "the evidence does not show that the log contradicted itself: "
	for _, c := range []struct {
		name, reason string // none: it is good
		tell         func(p *testPack, l *testLog)
	}{
		{"equal sizes", "", func(p *testPack, l *testLog) {
			p.quarantine(l.note(l.head(9)), l.note(Head{9, Base64{1}}), nil, []Base64{})
		}},
		{"frozen", "", func(p *testPack, l *testLog) {
			p.quarantine(l.note(l.head(9), "Log frozen — 2026-03-01"), l.note(l.head(10)), nil, []Base64{})
		}},
		{"frozen, the other way round", "", func(p *testPack, l *testLog) {
			p.quarantine(l.note(l.head(10)), l.note(l.head(9), "x", "Log frozen"), nil, []Base64{})
		}},
		{"an empty tree that has entries", "", func(p *testPack, l *testLog) {
			p.quarantine(l.note(Head{0, Base64{1}}), l.note(l.head(9)), &emptyRoot, []Base64{})
		}},
		{"one tree", not + "the sizes 9 and 9", func(p *testPack, l *testLog) {
			p.quarantine(l.note(l.head(9)), l.note(l.head(9), "x"), nil, []Base64{})
		}},
		{"two trees", not + "the sizes 8 and 9", func(p *testPack, l *testLog) { p.quarantine(l.note(l.head(9)), l.note(l.head(8)), nil, []Base64{}) }},
		{"frozen at the end", not + "the sizes 8 and 9", func(p *testPack, l *testLog) {
			p.quarantine(l.note(l.head(9), "Log frozen — 2026-03-01"), l.note(l.head(8)), nil, []Base64{})
		}},
		{"proof without root", not + "there is a proof, and no root", func(p *testPack, l *testLog) {
			p.quarantine(l.note(l.head(9)), l.note(Head{9, Base64{1}}), nil, []Base64{{}})
		}},
		{"root for one size", not + "there is a root for two trees of one size", func(p *testPack, l *testLog) {
			p.quarantine(l.note(l.head(9)), l.note(Head{9, Base64{1}}), &Base64{2}, []Base64{})
		}},
		{"root of the smaller one", not + "the smaller one has the root", func(p *testPack, l *testLog) {
			root := l.head(8).Root
			p.quarantine(l.note(l.head(9)), l.note(l.head(8)), &root, l.proof(8, 9))
		}},
		{"root of no tree", not + "a tree without entries", func(p *testPack, l *testLog) {
			p.quarantine(l.note(l.head(9)), l.note(l.head(0)), &Base64{1}, []Base64{})
		}},
		{"root that is not proven", not + "from size 8 to 9", func(p *testPack, l *testLog) {
			p.quarantine(l.note(l.head(9)), l.note(l.head(8)), &Base64{1}, l.proof(8, 9))
		}},
		{"nobody signed the first", "logs/late/evidence/first.txt: checkpoint of", func(p *testPack, l *testLog) {
			p.replace("logs/late/evidence/first.txt", "\n30\n", "\n31\n")
		}},
		{"another log signed the second", "logs/late/evidence/second.txt: checkpoint of", func(p *testPack, l *testLog) {
			p.raw["logs/late/evidence/second.txt"] = p.w.logs[0].note(Head{12, Base64{1}})
		}},
		{"evidence that is missing", `the file "logs/x" is not in the manifest`, func(p *testPack, _ *testLog) {
			q := p.log(lateOrigin).Quarantine
			delete(p.raw, q.First)
			q.First = "logs/x"
			q.Second = p.rows["logs/late"][0].Checkpoint
			delete(p.raw, "logs/late/evidence/second.txt")
		}},
	} {
		lies = append(lies, lie{"quarantine: " + c.name, c.reason, 2, func(p *testPack) { c.tell(p, p.w.logs[2]) }})
	}
	return lies
}

var entryLies = []lie{
	{"nothing wanted", "what is wanted is not one of", 1, func(p *testPack) { p.answers[2].Wanted = Wanted{Log: "x"} }},
	{"two wanted", "what is wanted is not one of", 1, func(p *testPack) { p.answers[2].Wanted.UUID = "x" }},
	{"found twice", `it names "entries/000001" twice`, 1, func(p *testPack) { p.answers[0].Found = append(p.answers[0].Found, Found{"entries/000001"}) }},
	{"found elsewhere", `"logs/rekor" is no folder of an entry`, 1, func(p *testPack) { p.answers[0].Found = append(p.answers[0].Found, Found{"logs/rekor"}) }},
	{"a short number", `"entries/1" is no folder of an entry`, 1, func(p *testPack) { p.answers[0].Found = append(p.answers[0].Found, Found{"entries/1"}) }},
	{"a fourth file", "entries/000001/more: nothing in the pack is about this file", 1, func(p *testPack) { p.raw["entries/000001/more"] = nil }},
	{"one entry twice", "entries/000004: the entry is that of entries/000001 once more", 1, func(p *testPack) {
		p.entry(p.w.logs[1], 2, 20)
		p.answers[0].Found = append(p.answers[0].Found, Found{"entries/000004"})
	}},
	{"another log", `the pack does not have the log "x"`, 1, func(p *testPack) { p.place(3, func(e *EntryPlace) { e.Origin = "x" }) }},
	{"no member of place.json", "set: is missing", 1, func(p *testPack) {
		raw := `{"origin":"x","index":1,"tie":[],"to":{"size":0,"root":"` + base64.StdEncoding.EncodeToString(emptyRoot[:]) + `"},"virtual_index":null,"uuid":""}`
		delete(p.places, "entries/000003")
		p.raw["entries/000003/place.json"] = []byte(raw)
	}},
	{"another index", "the index is 0, and place.json says 1", 1, func(p *testPack) { p.place(3, func(e *EntryPlace) { e.Index = 1 }) }},
	{"another body", "the proof does not show that the entry is at index 0", 1, func(p *testPack) { p.raw["entries/000003/entry.json"] = []byte("{}") }},
	{"another path", "the proof does not show that the entry is at index 8 of the tree of size 9", 2, func(p *testPack) {
		p.replace("entries/000001/proof.txt", "index 8\n", "index 8\n"+base64.StdEncoding.EncodeToString(make([]byte, 32))+"\n")
	}},
	{"more in the proof", "it is no proof in the form of", 1, func(p *testPack) { p.replace("entries/000003/proof.txt", "index", "extra YQ==\nindex") }},
	{"a leading zero", "it is no proof in the form of", 1, func(p *testPack) { p.replace("entries/000003/proof.txt", "index 0", "index 00") }},
	{"a proof whose checkpoint nobody signed", "its checkpoint: checkpoint of", 1, func(p *testPack) { p.replace("entries/000003/proof.txt", "— "+tilesOrigin, "— x") }},
	{"another newest", "it ties the entry to another tree than the newest", 1, func(p *testPack) { p.place(2, func(e *EntryPlace) { e.To, e.Tie = p.w.logs[1].head(5), []Base64{} }) }},
	{"no tie", "the trees of size 5 and 21 are consistent", 1, func(p *testPack) { p.place(2, func(e *EntryPlace) { e.Tie = []Base64{} }) }},
	{"a tie too many", "the trees of size 21 and 21 are consistent", 1, func(p *testPack) { p.place(1, func(e *EntryPlace) { e.Tie = []Base64{{}} }) }},
	{"a fork under the proof", "are consistent", 2, func(p *testPack) {
		// The tree of the proof is one that the log signed, and has another entry.
		l := newTestLog(tilesOrigin, "logs/tiles", "full", 0)
		l.signer, l.id, l.sign = tilesOrigin, p.w.logs[0].id, p.w.logs[0].sign
		l.entries = [][]byte{[]byte("{}")}
		l.tree.AppendData(l.entries[0])
		newest := *p.log(tilesOrigin).After.Newest
		p.raw["entries/000001/entry.json"] = l.entries[0]
		p.raw["entries/000001/proof.txt"] = fmt.Appendf(nil, "c2sp.org/tlog-proof@v1\nindex 0\n\n%s", l.note(l.head(1)))
		p.place(1, func(e *EntryPlace) { e.Index, e.Tie, e.To = 0, p.w.logs[0].proof(1, 9), newest })
	}},
	{"a promise about another time", "signed entry timestamp does not verify", 1, func(p *testPack) { p.place(1, func(e *EntryPlace) { e.SET.IntegratedTime++ }) }},
	{"a promise about another place", "signed entry timestamp does not verify", 1, func(p *testPack) { p.place(1, func(e *EntryPlace) { *e.VirtualIndex++ }) }},
	{"a promise by another log", "signed entry timestamp does not verify", 1, func(p *testPack) { p.place(1, func(e *EntryPlace) { e.SET.LogID = strings.Repeat("0", 64) }) }},
	{"a promise without a place", "and no virtual index", 1, func(p *testPack) { p.place(1, func(e *EntryPlace) { e.VirtualIndex = nil }) }},
	{"another UUID", "is not the UUID of this entry", 1, func(p *testPack) { p.place(1, func(e *EntryPlace) { e.UUID = "2" + e.UUID[1:] }) }},
	{"UUID of another leaf", "is not the UUID of this entry", 1, func(p *testPack) {
		p.place(3, func(e *EntryPlace) { sum := sha256.Sum256(nil); e.UUID = hex.EncodeToString(sum[:]) })
	}},
}

func TestLies(t *testing.T) {
	var lies []lie
	for _, list := range [][]lie{manifestLies, rowLies, quarantineLies(), entryLies} {
		lies = append(lies, list...)
	}
	for _, l := range lies {
		t.Run(l.name, func(t *testing.T) {
			w := newChain(t)
			p := w.packs[l.pack-1]
			l.tell(p)
			o := w.options()
			o.Makers = nil
			r, err := Verify(t.Context(), inputs(p.encode()), o)
			if err != nil {
				t.Fatal(err)
			}
			if l.reason == "" {
				if !r.Good() {
					t.Errorf("errors: %s", texts(r.Errors))
				}
				return
			}
			refused(t, r, l.reason)
		})
	}
}
