package archive

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"strings"
)

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
