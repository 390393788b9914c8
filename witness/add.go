package witness

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"time"

	"github.com/transparency-dev/formats/log"

	"github.com/understudy-log/understudy/storage"
)

// AddCheckpoint answers an add-checkpoint request (https://c2sp.org/tlog-witness): it returns the
// signature lines of the witness once they are durable. The error is a *Refusal, or of the disk.
func (w *Witness) AddCheckpoint(body []byte) (lines []byte, err error) {
	defer func() { w.metrics.answered(err) }()
	r, err := parseRequest(body)
	if err != nil {
		return nil, err
	}
	var head log.Checkpoint
	if _, err := head.Unmarshal(r.checkpoint); err != nil {
		return nil, refuse(Malformed, "what follows the empty line is not a checkpoint: %v", err)
	}
	l := w.find(head.Origin)
	// SPEC: "If the checkpoint origin is unknown, the witness MUST respond with a "404 Not Found"
	// HTTP status code."
	if l == nil || len(w.cfg.Keys) == 0 {
		return nil, refuse(UnknownOrigin, "this witness does not cosign for the origin %.200q", head.Origin)
	}
	next, err := l.Open(r.checkpoint)
	switch {
	case errors.Is(err, ErrMalformed):
		return nil, refuse(Malformed, "%v", err)
	// SPEC: "The witness MUST respond with a "403 Forbidden" HTTP status code if either no signature
	// from a trusted key for the origin is present, or a signature line's key name and ID match a
	// trusted key but the signature itself fails to verify."
	case errors.Is(err, ErrUnsigned):
		return nil, refuse(Forbidden, "%v", err)
	case err != nil:
		return nil, refuse(Unavailable, "%v", err)
	}
	next.FirstSeen = time.Now()
	next.LastSeen, next.Source = next.FirstSeen, "add-checkpoint"
	// SPEC: "The old size MUST be equal to or lower than the checkpoint size. Otherwise, the
	// witness MUST respond with a "400 Bad Request" HTTP status code."
	if r.old > next.Size {
		return nil, refuse(Malformed, "the old size %d is greater than the size %d of the checkpoint", r.old, next.Size)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return w.add(l, r, next)
}

// add checks, persists and cosigns; l.mu is held, so that nothing that was pushed comes between.
//
// SPEC: "checking the old size against the latest checkpoint and persisting the new checkpoint
// must be performed atomically".
func (w *Witness) add(l *watched, r *request, next storage.Checkpoint) ([]byte, error) {
	for {
		latest, err := w.latest(l)
		if err != nil {
			return nil, err
		}
		if ev := w.contradicts(l, next); ev != nil {
			w.logger.Error("a log signed two irreconcilable checkpoints; it is quarantined and gets no cosignature any more: keep the data directory as evidence and tell the log's operator",
				"origin", l.Origin, "reason", ev.Reason)
			if err := l.Tree.Quarantine(*ev); err != nil {
				return nil, err
			}
			w.metrics.evidence()
			if latest.Size == r.old {
				return nil, refuse(Inconsistent, "this contradicts what the log signed before, which is kept as evidence: %s", ev.Reason)
			}
		}
		// SPEC: "The witness MUST check that the old size matches the size of the latest checkpoint
		// it cosigned for the checkpoint's origin (or zero if it never cosigned a checkpoint for that
		// origin). If it doesn't match, the witness MUST respond with a "409 Conflict" HTTP status
		// code. The response body MUST consist of the tree size of the latest cosigned checkpoint in
		// decimal".
		if r.old != latest.Size {
			refusal := refuse(Conflict, "the latest checkpoint that was cosigned has size %d", latest.Size)
			refusal.Size = latest.Size
			return nil, refusal
		}
		if err := consistent(latest, next, r); err != nil {
			return nil, err
		}
		if lines := w.again(latest, next); lines != nil {
			return lines, nil
		}
		switch kept, err := l.advance(next, r.proof); {
		case l.Tree.State().Pending.Head == next.Head && err == nil:
			return w.cosign(l, storage.CosignerWitness, next, kept)
		case errors.Is(err, storage.ErrQuarantined):
			return nil, refuse(Forbidden, "this log is quarantined: it signed two irreconcilable checkpoints")
		case err == nil || l.Tree.State().Pending.Head != latest.Head:
			continue // a mirror moved it meanwhile
		case errors.Is(err, storage.ErrInconsistent) || errors.Is(err, storage.ErrRollback) || errors.Is(err, storage.ErrFork):
			return nil, refuse(Inconsistent, "%v", err)
		default:
			return nil, err
		}
	}
}

// latest returns the latest checkpoint that was cosigned, after cosigning what a mirror read
// since; it is empty if there is none.
func (w *Witness) latest(l *watched) (storage.Checkpoint, error) {
	s := l.Tree.State()
	if s.Evidence != nil {
		return storage.Checkpoint{}, refuse(Forbidden, "this log is quarantined: %s", s.Evidence.Reason)
	}
	if err := l.Tree.Broken(); err != nil {
		return storage.Checkpoint{}, refuse(Unavailable, "what is stored of this log is damaged, and is being put back; try again in a minute")
	}
	if l.Behind != nil && l.Behind() {
		return storage.Checkpoint{}, refuse(Unavailable, "the log was not read here yet, or an older database was restored and has not caught up with what was cosigned: nothing is cosigned until it has")
	}
	latest := w.cfg.Newest.Cosigned(storage.CosignerWitness, l.Origin)
	if s.Pending.Raw == nil || latest.Raw != nil && latest.Head == s.Pending.Head {
		return latest, nil
	}
	if latest.Raw != nil && latest.Size >= s.Pending.Size { // Behind, but for a whole database that was exchanged
		return storage.Checkpoint{}, refuse(Unavailable, "what was cosigned is not what is held: nothing is cosigned for this log; restore the database that belongs to it")
	}
	pending, err := l.Open(s.Pending.Raw)
	if errors.Is(err, ErrUnsigned) {
		return s.Pending, nil // under a key that the log had then: not cosigned any more, and still to be extended
	}
	if err != nil {
		return storage.Checkpoint{}, refuse(Unavailable, "the checkpoint that is held cannot be verified: %v", err)
	}
	if _, err := w.cosign(l, storage.CosignerWitness, pending, true); err != nil {
		return storage.Checkpoint{}, err
	}
	return w.cfg.Newest.Cosigned(storage.CosignerWitness, l.Origin), nil
}

// consistent holds a checkpoint against the latest one, whose size is the old size.
func consistent(latest, next storage.Checkpoint, r *request) error {
	switch {
	// SPEC: "A checkpoint of size zero MUST have the root hash of the empty tree [...]. Otherwise,
	// the witness MUST respond with a "422 Unprocessable Entity" HTTP status code."
	case next.Size == 0 && next.Root != sha256.Sum256(nil):
		return refuse(Inconsistent, "a tree of size 0 has the root of the empty tree, and this checkpoint has another")
	// SPEC: "If the old size is zero, the consistency proof MUST be empty". "If the proof is not
	// empty when the old size is zero, or if a Merkle Consistency Proof doesn't verify, the witness
	// MUST respond with a "422 Unprocessable Entity" HTTP status code."
	case r.old == 0 && len(r.proof) > 0:
		return refuse(Inconsistent, "a consistency proof from size 0 is empty, and this one is not")
	// SPEC: "If the old size matches the checkpoint size, the witness MUST check that the root
	// hashes are also identical. If they don't match, the witness MUST respond with a "422
	// Unprocessable Entity" HTTP status code."
	case r.old == next.Size && latest.Raw != nil && latest.Root != next.Root:
		return refuse(Inconsistent, "another root was cosigned for size %d", next.Size)
	case latest.Raw == nil:
		return nil
	}
	if err := storage.VerifyConsistency(latest.Head, next.Head, r.proof); err != nil {
		return refuse(Inconsistent, "%v", err)
	}
	return nil
}

// advance makes a checkpoint pending. kept says that the archive has it: of other texts for one tree
// it keeps one a minute, or who can have texts signed would decide how fast it grows.
func (l *watched) advance(next storage.Checkpoint, consistency []storage.Hash) (kept bool, err error) {
	p := l.Tree.State().Pending
	if p.Raw != nil && p.Head == next.Head {
		if noteText(p.Raw) == noteText(next.Raw) {
			return true, nil // replayed: only the time is another
		}
		ends := l.Frozen != nil && l.Frozen(next.Raw) && !l.Frozen(p.Raw)
		if !ends && time.Since(l.retold).Abs() < keepEvery {
			return false, nil
		}
		if !ends {
			l.retold = time.Now()
		}
	}
	return true, l.move(p, next, consistency)
}

func (l *watched) move(p, next storage.Checkpoint, consistency []storage.Hash) error {
	if l.Offer != nil {
		return l.Offer(next, consistency)
	}
	if p.Raw != nil && p.Head == next.Head && l.Frozen != nil && l.Frozen(p.Raw) && !l.Frozen(next.Raw) {
		return l.Tree.Archive(next) // a note from before the end takes nothing back
	}
	v := l.Tree.View()
	defer v.Close()
	precedes, err := v.PrecedesVia(consistency, next.Head) // a log that was mirrored once has entries
	if err != nil {
		return err
	}
	_, err = l.Tree.Advance(next, consistency, precedes)
	return err
}

// again returns the lines of a checkpoint that was cosigned in this very second: the same time
// would stand in new ones. So whoever repeats requests costs the disk nothing.
func (w *Witness) again(latest, next storage.Checkpoint) []byte {
	if latest.Raw == nil || noteText(latest.Raw) != noteText(next.Raw) || latest.LastSeen.Unix() != time.Now().Unix() {
		return nil
	}
	lines := linesOf(latest.Raw, w.cfg.Keys)
	if bytes.Count(lines, []byte("\n")) != len(w.cfg.Keys) {
		return nil // a key is new
	}
	return lines
}

// contradicts returns the evidence that a signed checkpoint cannot be reconciled with what the
// log signed before; nil if nothing is known against it. A proof that does not verify is no
// evidence: it may be what is wrong.
func (w *Witness) contradicts(l *watched, next storage.Checkpoint) *storage.Evidence {
	v := l.Tree.View()
	defer v.Close()
	s := v.State()
	ev := &storage.Evidence{First: s.Pending.Raw, Second: next.Raw, At: next.FirstSeen}
	switch {
	case s.Pending.Raw == nil:
		return nil
	case next.Size > s.Pending.Size:
		if l.Frozen == nil || !l.Frozen(s.Pending.Raw) {
			return nil
		}
		ev.Reason = fmt.Sprintf("the log was declared frozen at size %d and has now signed size %d", s.Pending.Size, next.Size)
		return ev
	case next.Size == s.Pending.Size:
		if next.Root == s.Pending.Root {
			return nil
		}
		ev.Reason = fmt.Sprintf("two roots are signed for size %d: %v and %v", next.Size, s.Pending.Root, next.Root)
		return ev
	}
	if root, err := v.Root(next.Size); err == nil {
		if root == next.Root {
			return nil
		}
		ev.Root = root
		if ev.Proof, err = v.ConsistencyProof(next.Size, s.Pending.Size); err != nil {
			return nil
		}
		ev.Reason = fmt.Sprintf("the tree signed at size %d has the root %v at size %d, where %v was signed", s.Pending.Size, root, next.Size, next.Root)
		return ev
	}
	held, err := v.Linked(next.Size)
	if err != nil || held.Root == next.Root {
		return nil
	}
	ev.First = held.Raw
	ev.Reason = fmt.Sprintf("two roots are signed for size %d: %v and %v", next.Size, held.Root, next.Root)
	return ev
}

// cosign signs a checkpoint, remembers it, and returns the lines once that is durable. keep says
// that the archive keeps the lines, too. l.mu is held.
func (w *Witness) cosign(l *watched, by storage.Cosigner, c storage.Checkpoint, keep bool) ([]byte, error) {
	keys := w.cfg.Keys
	if by == storage.CosignerMirror {
		keys = w.cfg.MirrorKeys
	}
	text := noteText(c.Raw)
	var all []string
	var lines bytes.Buffer
	for _, k := range keys {
		line, err := k.line(text)
		if err != nil {
			return nil, err
		}
		all = append(all, line)
		fmt.Fprintln(&lines, line)
	}
	cosigned := c
	cosigned.Raw = append(bytes.Clone(c.Raw), lines.Bytes()...)
	cosigned.LastSeen = time.Now()
	// SPEC: "The witness MUST persist the new checkpoint before responding."
	switch err := w.cfg.Newest.NoteCosigned(by, l.Origin, cosigned); {
	case errors.Is(err, storage.ErrRollback) || errors.Is(err, storage.ErrFork):
		return nil, refuse(Unavailable, "nothing is cosigned for this log: %v", err)
	case err != nil:
		return nil, err
	}
	w.metrics.cosigned(by)
	if keep {
		if err := l.Tree.Cosigned(c, all); err != nil {
			return nil, err
		}
	}
	return lines.Bytes(), nil
}
