package archive

import "time"

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
	{"a row that follows another", "row 3: the row before it has the hash", 1, func(p *testPack) {
		r, _ := rowOf(p, 3)
		p.unbound, r.Previous = r.Checkpoint, Hex{1}
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
	{"an unproven that is smaller, after which the base moves", `its relation is said to be "extends", and is "same"`, 1, func(p *testPack) {
		r, l := rowOf(p, 7)
		p.resign(l, r, l.note(l.head(20), "again"))
		r.Root, r.Relation, r.Proof = l.head(20).Root, "extends", l.proof(6, 20)
	}},
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
	{"a checkpoint of another log", "it is a checkpoint of \"log2030-1.rekor.example\", not of", 1, func(p *testPack) {
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
	{"a checkpoint with a second signature", "", 1, func(p *testPack) {
		r, l := rowOf(p, 4)
		p.raw[r.Checkpoint] = append(p.raw[r.Checkpoint], signatureLine(l.signer, l.id, l.sign(textOf(p.raw[r.Checkpoint])))+"\n"...)
	}},
	{"a checkpoint with 100 lines of signatures", "", 1, func(p *testPack) { p.strangers(98) }},
	{"a checkpoint with 101 lines of signatures", "it has 101 signature lines, and a note has at most 100", 1, func(p *testPack) { p.strangers(99) }},
	{"a checkpoint with a line of a stranger that is no signature", "is no signature line", 1, func(p *testPack) {
		r, _ := rowOf(p, 4)
		p.raw[r.Checkpoint] = append(p.raw[r.Checkpoint], "— x AAAA\n"...)
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
	{"two cosignatures of one", "", 1, func(p *testPack) {
		r, _ := rowOf(p, 1)
		r.Cosignatures = append(r.Cosignatures, r.Cosignatures[0])
	}},
	{"two cosignatures of one, and the second is broken", `cosignatures[2]: the cosignature by "witness.example.com/w1" does not verify`, 1, func(p *testPack) {
		r, l := rowOf(p, 1)
		r.Cosignatures = append(r.Cosignatures, p.w.cosigners[0].line(l.note(l.head(4))))
	}},
	{"a cosignature of a stranger", "is no cosignature by a key of the manifest", 1, func(p *testPack) { l := p.log(v1Origin); l.Cosigners = l.Cosigners[:1] }},
	{"the log as its own cosigner", "is no cosignature by a key of the manifest", 1, func(p *testPack) {
		r, l := rowOf(p, 3)
		r.Cosignatures[0] = signatureLine(l.signer, l.id, l.sign(textOf(p.raw[r.Checkpoint])))
	}},
}

// strangers adds so many lines of others to a checkpoint that has two.
func (p *testPack) strangers(n int) {
	r, _ := rowOf(p, 4)
	for i := range n {
		p.raw[r.Checkpoint] = append(p.raw[r.Checkpoint], signatureLine("x", [4]byte{}, []byte{byte(i)})+"\n"...)
	}
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
		{"another log signed the second", `logs/late/evidence/second.txt: it is a checkpoint of "log2030-1.rekor.example"`, func(p *testPack, l *testLog) {
			p.raw["logs/late/evidence/second.txt"] = p.w.logs[0].note(Head{12, Base64{1}})
		}},
		{"a row as evidence", "", func(p *testPack, l *testLog) {
			q := p.log(lateOrigin).Quarantine
			p.quarantine(l.note(Head{1, Base64{1}}), nil, nil, []Base64{})
			delete(p.raw, q.Second)
			q.Second = p.rows["logs/late"][0].Checkpoint
		}},
		{"evidence of an empty tree with a proof", not + "proof from size 0 to 9 must be empty", func(p *testPack, l *testLog) {
			p.quarantine(l.note(Head{0, Base64{1}}), l.note(l.head(9)), &emptyRoot, []Base64{{}})
		}},
		{"evidence elsewhere", `"logs/later/second.txt" is not in the folder of the log`, func(p *testPack, _ *testLog) {
			q := p.log(lateOrigin).Quarantine
			p.raw["logs/later/second.txt"] = p.raw[q.Second]
			delete(p.raw, q.Second)
			q.Second = "logs/later/second.txt"
		}},
		{"evidence that is missing", `the file "logs/late/x" is not in the manifest`, func(p *testPack, _ *testLog) {
			q := p.log(lateOrigin).Quarantine
			delete(p.raw, q.First)
			q.First = "logs/late/x"
			q.Second = p.rows["logs/late"][0].Checkpoint
			delete(p.raw, "logs/late/evidence/second.txt")
		}},
	} {
		lies = append(lies, lie{"quarantine: " + c.name, c.reason, 2, func(p *testPack) { c.tell(p, p.w.logs[2]) }})
	}
	return lies
}
