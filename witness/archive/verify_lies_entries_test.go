package archive

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"strings"
)

var entryLies = []lie{
	{"nothing wanted", "what is wanted is not one of", 1, func(p *testPack) { p.answers[3].Wanted = Wanted{Log: "x"} }},
	{"two wanted", "what is wanted is not one of", 1, func(p *testPack) { p.answers[3].Wanted.UUID = "x" }},
	{"two wanted, one of them empty", "what is wanted is not one of", 1, func(p *testPack) { p.wantedIn(3, `{"identity":"x","uuid":""}`) }},
	{"something empty wanted", "", 1, func(p *testPack) { p.wantedIn(3, `{"identity":""}`) }},
	{"null wanted", "wanted.uuid: is not text", 1, func(p *testPack) { p.wantedIn(3, `{"identity":"x","uuid":null}`) }},
	{"null as a log", "wanted.log: is not text", 1, func(p *testPack) { p.wantedIn(3, `{"identity":"x","log":null}`) }},
	{"nothing named", "entries.jsonl: the file is empty", 3, func(p *testPack) { p.answers = []Answer{} }},
	{"found in another log", `entries.jsonl line 2: entries/000003 is an entry of "log2030-1.rekor.example", and only those of`, 1, func(p *testPack) {
		p.answers[1].Found = append(p.answers[1].Found, Found{"entries/000003"})
	}},
	{"found in a log of another name", `entries.jsonl line 2: entries/000002 is an entry of "` + v1Origin + `", and only those of "name of logs/tiles"`, 1, func(p *testPack) { p.answers[1].Wanted.Log = "name of logs/tiles" }},
	{"found in a log of half a name", "and only those of \"name of\"", 1, func(p *testPack) { p.answers[1].Wanted.Log = "name of" }},
	{"found in no log", `and only those of ""`, 1, func(p *testPack) { p.wantedIn(1, `{"index":"4","log":""}`) }},
	{"found in a log of that name", "", 1, func(p *testPack) { p.answers[1].Wanted.Log = "name of logs/rekor" }},
	{"found twice", `it names "entries/000001" twice`, 1, func(p *testPack) { p.answers[0].Found = append(p.answers[0].Found, Found{"entries/000001"}) }},
	{"found elsewhere", `"logs/rekor" is no folder of an entry`, 1, func(p *testPack) { p.answers[0].Found = append(p.answers[0].Found, Found{"logs/rekor"}) }},
	{"a short number", `"entries/1" is no folder of an entry`, 1, func(p *testPack) { p.answers[0].Found = append(p.answers[0].Found, Found{"entries/1"}) }},
	{"a number with a further zero", `"entries/0000001" is no folder of an entry`, 1, func(p *testPack) { p.answers[0].Found = append(p.answers[0].Found, Found{"entries/0000001"}) }},
	{"a long number", "", 1, func(p *testPack) { p.moveEntry(3, "entries/12345678901234567890123") }},
	{"no number", `"entries/00000a" is no folder of an entry`, 1, func(p *testPack) { p.answers[0].Found = append(p.answers[0].Found, Found{"entries/00000a"}) }},
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
	{"an empty extra line", "it is no proof in the form of", 1, func(p *testPack) { p.replace("entries/000003/proof.txt", "index", "extra \nindex") }},
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
	{"a promise without a place", "there is no virtual index", 1, func(p *testPack) { p.place(1, func(e *EntryPlace) { e.VirtualIndex = nil }) }},
	{"a place without a promise", "there is no signed entry timestamp", 1, func(p *testPack) { p.place(1, func(e *EntryPlace) { e.SET = nil }) }},
	{"neither promise nor place", "there is no signed entry timestamp", 1, func(p *testPack) { p.place(1, func(e *EntryPlace) { e.SET, e.VirtualIndex = nil, nil }) }},
	{"a promise by no hash", "is not a hash in hexadecimal", 1, func(p *testPack) { p.place(1, func(e *EntryPlace) { e.SET.LogID = "x" }) }},
	{"a promise of tiles", "there is a signed entry timestamp, and", 1, func(p *testPack) {
		p.place(3, func(e *EntryPlace) {
			virtual := uint64(0)
			e.SET, e.VirtualIndex = p.places["entries/000001"].SET, &virtual
		})
	}},
	{"a place of tiles", "there is a virtual index, and", 1, func(p *testPack) { p.place(3, func(e *EntryPlace) { virtual := uint64(0); e.VirtualIndex = &virtual }) }},
	{"no UUID", "is not the UUID of this entry", 1, func(p *testPack) { p.place(1, func(e *EntryPlace) { e.UUID = "" }) }},
	{"UUID without a tree", "is not the UUID of this entry", 1, func(p *testPack) { p.place(1, func(e *EntryPlace) { e.UUID = e.UUID[16:] }) }},
	{"UUID of tiles", "is not the UUID of this entry", 1, func(p *testPack) {
		p.place(3, func(e *EntryPlace) {
			sum := sha256.Sum256(append([]byte{0}, p.raw["entries/000003/entry.json"]...))
			e.UUID = hex.EncodeToString(sum[:])
		})
	}},
	{"another UUID", "is not the UUID of this entry", 1, func(p *testPack) { p.place(1, func(e *EntryPlace) { e.UUID = "2" + e.UUID[1:] }) }},
	{"UUID of another leaf", "is not the UUID of this entry", 1, func(p *testPack) {
		p.place(1, func(e *EntryPlace) { sum := sha256.Sum256(nil); e.UUID = e.UUID[:16] + hex.EncodeToString(sum[:]) })
	}},
}
