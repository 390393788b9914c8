package reconcile

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"maps"
	"slices"
	"time"

	"github.com/understudy-log/understudy/mirror/ledger"
	"github.com/understudy-log/understudy/storage"
)

// rows returns all rows of an event.
func (w *world) rows(event string) []row {
	w.t.Helper()
	var out []row
	if err := w.life.ledger.Rows(1, func(r ledger.Row) error {
		var body row
		if r.Kind != "reconcile" {
			return nil
		}
		if err := r.Decode(&body); err != nil {
			return err
		}
		if body.Event == event {
			out = append(out, body)
		}
		return nil
	}); err != nil {
		w.t.Fatal(err)
	}
	return out
}

// documents returns all reports.
func (w *world) documents() []*Document {
	w.t.Helper()
	reports, err := w.life.r.Reports(time.Time{}, time.Now())
	if err != nil {
		w.t.Fatal(err)
	}
	var out []*Document
	for _, p := range reports {
		d := new(Document)
		if err := json.Unmarshal(p.JSON, d); err != nil {
			w.t.Fatal(err)
		}
		if len(p.Markdown) == 0 || p.Place == nil {
			w.t.Errorf("report %s has the place %v and %d bytes for people: %s", p.ID, p.Place, len(p.Markdown), p.Problem)
		}
		out = append(out, d)
	}
	return out
}

// sound holds that nothing was lost and nothing done twice, once all is live.
func (w *world) sound() {
	w.t.Helper()
	if _, err := ledger.Check(w.life.db); err != nil {
		w.t.Error(err)
	}
	w.decisions = 0 // but for those that a crash was faster than
	if err := w.life.ledger.Rows(1, func(r ledger.Row) error {
		if r.Kind == "decision" {
			w.decisions++
		}
		return nil
	}); err != nil {
		w.t.Error(err)
	}
	w.mu.Lock()
	private, at := slices.Clone(w.private), maps.Clone(w.at)
	w.mu.Unlock()
	kept, unkept, bad := 0, 0, 0
	for i, p := range private {
		receipt, err := w.life.r.Proof(privateOrigin, uint64(i))
		if err != nil {
			w.t.Fatal(err)
		}
		switch {
		case p == nil:
			unkept++
		case bytes.HasPrefix(p, []byte("bad")):
			bad++
		default:
			kept++
			if w.times(string(p)) != 1 || receipt == nil || receipt.LogIndex != at[string(p)] {
				w.t.Errorf("entry %d is %d times in the public log, at %d; its proof is %+v", i, w.times(string(p)), at[string(p)], receipt)
			}
		}
	}
	looked, submitted, refused, notKept, decisions := 0, 0, 0, 0, 0
	for _, d := range w.documents() {
		decisions += d.Decisions.Total
		if t := d.Decisions; t.Total != t.Same+t.Differs+t.NotKept {
			w.t.Errorf("decisions do not add up: %+v", t)
		}
		for _, p := range d.Proposals {
			if p.Total != p.Submitted+p.Refused+p.NotKept+p.Unreadable+p.Failed || p.Total != int(p.Next-p.First)+p.Again {
				w.t.Errorf("proposals do not add up: %+v", p)
			}
			looked += p.Total - p.Again
			submitted, refused, notKept = submitted+p.Submitted, refused+p.Refused, notKept+p.NotKept
		}
	}
	if looked != len(private) || submitted != kept || refused != bad || notKept != unkept {
		w.t.Errorf("of %d entries, %d kept, %d bad, %d not kept, the reports have looked at %d, submitted %d, refused %d, not kept %d", len(private), kept, bad, unkept, looked, submitted, refused, notKept)
	}
	recorded := 0
	for _, r := range w.rows("decisions") {
		recorded += r.Reconcile
	}
	if decisions != w.decisions || recorded != w.decisions {
		w.t.Errorf("of %d decisions %d stand in reports and %d in rows", w.decisions, decisions, recorded)
	}
}

// rootOf and consistency are RFC 6962, sections 2.1 and 2.1.2, as they stand there.
func rootOf(d []storage.Hash) storage.Hash {
	switch len(d) {
	case 0:
		return sha256.Sum256(nil)
	case 1:
		return d[0]
	}
	k := split(len(d))
	return storage.NodeHash(rootOf(d[:k]), rootOf(d[k:]))
}

func split(n int) int {
	k := 1
	for k*2 < n {
		k *= 2
	}
	return k
}

func consistency(d []storage.Hash, m uint64) []storage.Hash { return subproof(int(m), d, true) }

func subproof(m int, d []storage.Hash, whole bool) []storage.Hash {
	if m == len(d) {
		if whole {
			return nil
		}
		return []storage.Hash{rootOf(d)}
	}
	if k := split(len(d)); m <= k {
		return append(subproof(m, d[:k], whole), rootOf(d[k:]))
	} else {
		return append(subproof(m-k, d[k:], false), rootOf(d[:k]))
	}
}
