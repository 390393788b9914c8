package archive

import (
	"context"
	"crypto/sha256"
	"fmt"
	"runtime"
	"strings"

	formats "github.com/transparency-dev/formats/note"
	"golang.org/x/mod/sumdb/note"
	"golang.org/x/sync/errgroup"
)

// batch is how many rows or entries are verified at a time, by all cores.
const batch = 512

// each calls work for 0 to n-1, on all cores, and gathers what they say in order.
func (r *remarks) each(ctx context.Context, n int, work func(i int, r *remarks) error) error {
	said := make([]remarks, n)
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(runtime.GOMAXPROCS(0))
	const chunk = 16
	for from := 0; from < n; from += chunk {
		g.Go(func() error {
			for i := from; i < min(from+chunk, n); i++ {
				if err := ctx.Err(); err != nil {
					return err
				}
				said[i].pack = r.pack
				if err := work(i, &said[i]); err != nil {
					return err
				}
			}
			return nil
		})
	}
	err := g.Wait()
	for i := range said {
		r.join(&said[i])
	}
	return err
}

// logCheck verifies what a pack has of one log.
type logCheck struct {
	p         *pack
	l         *Log
	keys      *LogKeys // nil if there are none
	cosigners []cosigner
	file      string // checkpoints.jsonl
	base      *Head  // of the next row
	hash      Hex    // of the row before it
	next      uint64 // number of the next row
	jobs      []rowJob
	outside   uint64 // rows that were first seen outside of the period, of which this is the first
	stray     string
	summary   LogSummary
}

// rowJob is what is left to verify of a row, in any order.
type rowJob struct {
	Row
	place          string
	base           *Head
	proven         bool // the relation has a proof
	good, goodOurs int  // cosignatures
}

// cosigner is a key of the manifest.
type cosigner struct {
	note.Verifier
	vouched bool
}

// checkLog verifies one log of the manifest: its rows, and the evidence against it.
func (p *pack) checkLog(ctx context.Context, l *Log) error {
	c := &logCheck{p: p, l: l, keys: p.v.log(l.Origin), file: l.Folder + "/checkpoints.jsonl", base: l.Before.Newest, hash: l.Before.RowHash, next: l.Rows.First}
	c.summary = LogSummary{Origin: l.Origin, Name: l.Name, Coverage: l.Coverage, Rows: l.Rows, Before: l.Before.Newest, After: l.After.Newest}
	sound := p.checkLogEntry(l)
	if l.Rows.Last >= l.Rows.First || l.Quarantine != nil {
		p.needKey(l.Origin)
	}
	c.readCosigners()
	switch i, ok := p.index[c.file]; {
	case !sound:
		p.partial = true
	case l.Rows.Last < l.Rows.First:
		c.end()
	default:
		if err := c.rows(ctx); err != nil {
			return err
		}
		if ok && p.offsets[i] >= 0 {
			c.end()
		}
	}
	if err := c.quarantine(); err != nil {
		return err
	}
	p.summary.Logs = append(p.summary.Logs, c.summary)
	return nil
}

// readCosigners reads the keys of the maker's cosigners.
func (c *logCheck) readCosigners() {
	for _, key := range c.l.Cosigners {
		v, err := parseCosigner(key)
		if err != nil {
			c.p.errorf(manifestFile, "log %.120q: the cosigner key %.200q cannot be used: %v", c.l.Origin, key, err)
			continue
		}
		for _, other := range c.cosigners {
			if other.Name() == v.Name() && other.KeyHash() == v.KeyHash() {
				c.p.errorf(manifestFile, "log %.120q: two cosigner keys have the name and the key ID of %.200q", c.l.Origin, key)
			}
		}
		vouched := false
		for _, given := range c.p.v.o.Cosigners {
			vouched = vouched || given == key
		}
		c.cosigners = append(c.cosigners, cosigner{v, vouched})
	}
}

// parseCosigner reads a verifier key of type 4 or 6.
func parseCosigner(key string) (note.Verifier, error) {
	name, id, encoded := cutKey(key)
	raw, err := decodeBase64(encoded)
	if err != nil || len(raw) == 0 || raw[0] != 4 && raw[0] != 6 {
		return nil, fmt.Errorf("it is no verifier key of type 4 or 6")
	}
	v, err := formats.NewVerifierForCosignatureV1(key)
	if err != nil {
		return nil, err
	}
	if name != v.Name() || id != fmt.Sprintf("%08x", v.KeyHash()) {
		return nil, fmt.Errorf("its key ID is %08x", v.KeyHash())
	}
	return v, nil
}

// rows verifies checkpoints.jsonl and the checkpoints that it names.
func (c *logCheck) rows(ctx context.Context) error {
	err := lines(c.p, c.file, func(place string, r *Row) error {
		c.row(fmt.Sprintf("%s row %d", c.file, r.Row), place, r)
		if len(c.jobs) < batch {
			return ctx.Err()
		}
		return c.flush(ctx)
	})
	if err != nil {
		return err
	}
	if c.outside > 0 {
		c.p.findingf(c.file, "%s, the first of them %s: the clock of the maker was changed", counted(c.outside, "row was", "rows were")+" first seen outside of the period", c.stray)
	}
	return c.flush(ctx)
}

// counted is a number with what it counts.
func counted(n uint64, one, more string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, more)
}

// row checks what of a row depends on the one before it.
func (c *logCheck) row(place, line string, r *Row) {
	bad := func(format string, args ...any) { c.p.errorf(place, format, args...) }
	if r.Row != c.next {
		c.p.errorf(line, "it is row %d, and row %d is due: a row is missing, or at another place", r.Row, c.next)
	}
	c.next = r.Row + 1
	if r.Previous != c.hash {
		bad("the row before it has the hash %v, and the row says %v: one of the two was changed", c.hash, r.Previous)
	}
	if name := fmt.Sprintf("%s/checkpoints/%08d-size-%d.txt", c.l.Folder, r.Row, r.Size); r.Checkpoint != name {
		bad("its file is called %.120q, not %s", r.Checkpoint, name)
	}
	if strings.ContainsFunc(r.Source, isControl) {
		bad("the source has control characters")
	}
	if y := r.FirstSeen.Year(); y < 1970 || y > 2261 {
		bad("it cannot have been seen in the year %d", y)
	}
	if period := c.p.m.Period; r.FirstSeen.Before(period.From.Time) || !r.FirstSeen.Before(period.To.Time) {
		if c.outside++; c.outside == 1 {
			c.stray = fmt.Sprintf("row %d at %s", r.Row, r.FirstSeen.Format(timeLayout))
		}
	}
	if r.LastSeen.Before(r.FirstSeen.Time) {
		bad("it was last seen at %s, before it was first seen at %s", r.LastSeen.Format(timeLayout), r.FirstSeen.Format(timeLayout))
	}
	if r.Size == 0 && r.Root != emptyRoot {
		bad("a tree without entries has another root than this")
	}
	job := rowJob{Row: *r, place: place, base: c.base, proven: r.Relation == "extends" || r.Relation == "precedes"}
	c.relation(&job)
	if c.p.use(r.Checkpoint) {
		c.hash = r.hash(c.l.Origin, c.p.m.Files[c.p.index[r.Checkpoint]].Hash)
	} else {
		c.hash = Hex{}
	}
	c.jobs = append(c.jobs, job)
	c.summary.Checkpoints++
}

// hash returns the hash of a row.
func (r *Row) hash(origin string, note Hex) Hex {
	return sha256.Sum256(fmt.Appendf(nil, "understudy archive row v1\n%s\n%d\n%v\n%d\n%s\n%d\n%s\n%v\n",
		origin, r.Row, r.Previous, r.FirstSeen.UnixNano(), r.Source, r.Size, encodeBase64(r.Root), note))
}

// relation checks that a row has the relation which the sizes and roots demand, and moves the base.
func (c *logCheck) relation(j *rowJob) {
	want, base := "first", c.base
	head := &Head{j.Size, j.Root}
	switch {
	case j.Row.Row == 1 || base == nil:
	case j.Size > base.Size:
		want = "extends"
	case j.Size < base.Size:
		want = "precedes"
	case j.Root == base.Root:
		want = "same"
	default:
		want = "contradicts"
	}
	unproven := j.Relation == "unproven" && (want == "extends" || want == "precedes")
	switch {
	case j.Relation != want && !unproven:
		c.p.errorf(j.place, "its relation is said to be %.40q, and is %q", j.Relation, want)
		j.proven = false
	case !j.proven && len(j.Proof) > 0:
		c.p.errorf(j.place, "a row that is %q has a proof", j.Relation)
	}
	switch {
	case unproven:
		c.summary.Unproven++
		c.p.findingf(j.place, "that the tree of size %d is consistent with that of size %d is not proven", j.Size, base.Size)
	case want == "contradicts":
		c.summary.Unproven++
		c.p.findingf(j.place, "the log contradicts itself: it signed two trees of size %d with different roots", j.Size)
	}
	if want == "first" || want == "extends" || want == "same" {
		c.base = head
	}
}

// flush verifies proofs and signatures of the rows that wait for it.
func (c *logCheck) flush(ctx context.Context) error {
	err := c.p.each(ctx, len(c.jobs), func(i int, r *remarks) error { return c.job(&c.jobs[i], r) })
	for i := range c.jobs {
		c.summary.Cosignatures += uint64(c.jobs[i].good)
		c.summary.CosignaturesVouched += uint64(c.jobs[i].goodOurs)
	}
	c.jobs = c.jobs[:0]
	return err
}

// job verifies one row's proof, checkpoint and cosignatures.
func (c *logCheck) job(j *rowJob, r *remarks) error {
	if j.proven {
		if err := precedes(Head{j.Size, j.Root}, *j.base, j.Proof); err != nil {
			r.errorf(j.place, "the proof does not show that the trees of size %d and %d are consistent: %v", j.base.Size, j.Size, err)
		}
	}
	raw, err := c.p.file(r, j.place, j.Checkpoint, maxSmall)
	if raw == nil || err != nil {
		return err
	}
	cp, err := c.open(raw)
	if err != nil {
		r.errorf(j.Checkpoint, "%v", err)
		return nil
	}
	if cp.Head != (Head{j.Size, j.Root}) {
		r.errorf(j.place, "it says size %d and root %s, and the checkpoint %d and %s", j.Size, encodeBase64(j.Root), cp.Size, encodeBase64(cp.Root))
	}
	c.cosignatures(j, cp.text, r)
	return nil
}

// cosignatures verifies those of one row. A cosigner may have several.
func (c *logCheck) cosignatures(j *rowJob, text []byte, r *remarks) {
lines:
	for n, line := range j.Cosignatures {
		for _, key := range c.cosigners {
			signature, ok := signatureOf(line, key)
			switch {
			case !ok:
				continue
			case !key.Verify(text, signature):
				r.errorf(j.place, "cosignatures[%d]: the cosignature by %q does not verify", n, key.Name())
			default:
				j.good++
				if key.vouched {
					j.goodOurs++
				}
			}
			continue lines
		}
		r.errorf(j.place, "cosignatures[%d]: %.60q is no cosignature by a key of the manifest", n, line)
	}
}

// end checks that the rows end where the manifest says.
func (c *logCheck) end() {
	bad := func(format string, args ...any) {
		c.p.errorf(manifestFile, "log %.120q: "+format, append([]any{c.l.Origin}, args...)...)
	}
	if c.next != c.l.Rows.Last+1 {
		bad("the rows end with %d, and the manifest says %d", int64(c.next)-1, c.l.Rows.Last)
	}
	if c.hash != c.l.After.RowHash {
		bad("the last row has another hash than the manifest says: a row was changed, or is missing")
	}
	if !sameHead(c.base, c.l.After.Newest) {
		bad("the largest checkpoint after the rows is not the one that the manifest says")
	}
}

func sameHead(a, b *Head) bool { return a == b || a != nil && b != nil && *a == *b }

// quarantine verifies the evidence against the log.
func (c *logCheck) quarantine() error {
	q := c.l.Quarantine
	if q == nil {
		return nil
	}
	place := fmt.Sprintf("quarantine of %.120q", c.l.Origin)
	var both [2]*checkpoint
	var sums [2]Hex
	names := []string{q.First, q.Second}
	for _, name := range names {
		c.p.use(name)
	}
	for _, name := range names {
		if !strings.HasPrefix(name, c.l.Folder+"/") {
			c.p.errorf(place, "%.120q is not in the folder of the log", name)
			return nil
		}
	}
	for i, name := range names {
		raw, err := c.p.file(&c.p.remarks, place, name, maxSmall)
		if raw == nil || err != nil {
			return err
		}
		sums[i] = sha256.Sum256(raw)
		if both[i], err = c.open(raw); err != nil {
			c.p.errorf(name, "%v", err)
			return nil
		}
	}
	c.p.evidence[c.l.Origin] = sums
	if err := irreconcilable(q, both[0], both[1]); err != nil {
		c.p.errorf(place, "the evidence does not show that the log contradicted itself: %v", err)
		return nil
	}
	c.summary.Quarantined = true
	c.p.findingf(place, "the log contradicted itself, as two checkpoints that it signed show: %.300q (at %s)", q.Reason, q.At.Format(timeLayout))
	return nil
}

// irreconcilable verifies that no log has both checkpoints.
func irreconcilable(q *Quarantine, a, b *checkpoint) error {
	if a.Size > b.Size {
		a, b = b, a
	}
	if q.Root == nil {
		switch {
		case len(q.Proof) > 0:
			return fmt.Errorf("there is a proof, and no root for it")
		case a.Size == b.Size && a.Root != b.Root, a.Size < b.Size && a.frozen():
			return nil
		}
		return fmt.Errorf("the sizes %d and %d with these roots do not contradict each other", a.Size, b.Size)
	}
	at := Head{a.Size, *q.Root}
	switch {
	case a.Size == b.Size:
		return fmt.Errorf("there is a root for two trees of one size")
	case at.Root == a.Root:
		return fmt.Errorf("the smaller one has the root that the larger one grew from")
	case a.Size == 0 && at.Root != emptyRoot:
		return fmt.Errorf("a tree without entries has another root than this")
	}
	return precedes(at, b.Head, q.Proof)
}
