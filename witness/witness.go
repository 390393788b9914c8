// Package witness cosigns checkpoints (https://c2sp.org/tlog-cosignature) for those who need
// somebody beside the log to have seen them.
//
// It speaks as two cosigners, with keys and names of their own: the witness says that a
// checkpoint is consistent with all that it saw of the log (https://c2sp.org/tlog-witness), the
// mirror says beside that that it holds and serves all of it (https://c2sp.org/tlog-mirror).
// What the package promises:
//
//   - nothing is cosigned that was not proven to extend what was cosigned, or is held;
//   - a cosignature leaves once it is durable, in a database apart from the trees
//     ([storage.Newest]): restoring one of the two rewinds nothing, and a tree that is older than
//     what was cosigned gets no cosignature until it has caught up;
//   - checkpoints that were pushed here and those that a mirror read move an origin by one
//     function, [storage.Tree.Advance];
//   - two irreconcilable signed checkpoints are kept as evidence, and quarantine that log.
package witness

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/understudy-log/understudy/storage"
)

// Errors of Log.Open.
var (
	ErrMalformed = errors.New("not a checkpoint")                      // c2sp.org/tlog-checkpoint in c2sp.org/signed-note
	ErrUnsigned  = errors.New("no good signature of a key of the log") // none is there, or one does not verify
)

// Config says what a Witness cosigns with.
type Config struct {
	// Keys are those of the witness, MirrorKeys those of the mirror. All names of one differ
	// from those of the other.
	Keys, MirrorKeys []*Key
	// Newest remembers what was cosigned.
	Newest *storage.Newest
	// Find returns the log of an origin that is not among those that were added: of one that is
	// mirrored. Mirrored returns all of them. Both may be nil.
	Find     func(origin string) (Log, bool)
	Mirrored func() []Log

	Logger  *slog.Logger // nil discards
	Metrics *Metrics     // nil counts nothing
}

// Log is a log whose checkpoints are cosigned.
type Log struct {
	Origin string
	Tree   *storage.Tree
	// Open verifies a checkpoint with the keys of the log, and returns it with their signature
	// lines alone. The error is ErrMalformed, ErrUnsigned, or why it cannot be said now.
	Open func(raw []byte) (storage.Checkpoint, error)
	// Frozen says whether a checkpoint says that no larger one follows; nil: none does.
	Frozen func(raw []byte) bool
	// Offer makes a checkpoint pending, and Behind says that the tree has to catch up first; both
	// are nil for a log that is only witnessed.
	Offer  func(next storage.Checkpoint, consistency []storage.Hash) error
	Behind func() bool
	// Full says that the log is mirrored whole: its mirror checkpoints are cosigned as such.
	Full bool
}

// Witness cosigns. Its methods may be called concurrently, Run only once.
type Witness struct {
	cfg     Config
	logger  *slog.Logger
	metrics *Metrics
	logs    sync.Map // *watched by origin
	hashes  sync.Map // origin by origin hash
}

// watched is what is known of a log beside its tree.
type watched struct {
	Log
	mu       sync.Mutex // held while the witness checks, persists and cosigns
	archived [2]time.Time
	retold   time.Time // when another text for the pending tree was last archived; mu guards both
}

// New returns a witness without logs.
func New(cfg Config) (*Witness, error) {
	names := map[string]bool{}
	for i, k := range cfg.Keys {
		names[k.Name()] = true
		if slices.ContainsFunc(cfg.Keys[:i], k.sameKey) {
			return nil, fmt.Errorf("the witness has the key of %q twice: one is enough, and a name of its own needs a key of its own", k.Name())
		}
	}
	for i, k := range cfg.MirrorKeys {
		if slices.ContainsFunc(cfg.MirrorKeys[:i], k.sameKey) {
			return nil, fmt.Errorf("the mirror has the key of %q twice: one is enough, and a name of its own needs a key of its own", k.Name())
		}
	}
	for _, k := range cfg.MirrorKeys {
		// SPEC: "A cosigner operator that operates multiple Ed25519 cosigners (e.g. with distinct
		// additional statements, see below) MUST use distinct public keys for each cosigner."
		// (tlog-cosignature)
		if names[k.Name()] {
			return nil, fmt.Errorf("the witness and the mirror have a key of the name %q: what they say differs, so their names must", k.Name())
		}
		for _, other := range cfg.Keys {
			if k.sameKey(other) {
				return nil, fmt.Errorf("%q and %q are one key: the witness and the mirror need one each", k.Name(), other.Name())
			}
		}
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Find == nil {
		cfg.Find = func(string) (Log, bool) { return Log{}, false }
	}
	if cfg.Mirrored == nil {
		cfg.Mirrored = func() []Log { return nil }
	}
	if cfg.Metrics == nil {
		cfg.Metrics = NewMetrics(nil)
	}
	w := &Witness{cfg: cfg, logger: cfg.Logger, metrics: cfg.Metrics}
	w.metrics.watch(w)
	return w, nil
}

// Add adds a log that is only witnessed. If its tree is older than what is remembered of it, an
// older database was restored: then it takes back what it lost.
func (w *Witness) Add(log Log) error {
	if len(log.Origin) > maxName {
		return fmt.Errorf("an origin of %d bytes cannot be cosigned: %d is the most", len(log.Origin), maxName)
	}
	newest, pending := w.cfg.Newest.Of(log.Origin), log.Tree.State().Pending
	log.Tree.Remember(w.cfg.Newest)
	log.Tree.KeepLinks()
	_, older := log.Tree.Behind()
	if log.Behind == nil {
		log.Behind = func() bool { _, behind := log.Tree.Behind(); return behind }
	}
	switch {
	case older && log.Tree.State().Head.Size > 0: // nobody gives the proofs that what is held precedes it
		w.logger.Error("this log was mirrored once, and the database is older than what was cosigned: nothing is cosigned for it until a newer database is restored, or it is mirrored again",
			"origin", log.Origin, "tree_size", pending.Size, "newest_known_size", newest.Size)
	case newest.Raw != nil && (pending.Raw == nil || newest.Size > pending.Size) && log.Tree.State().Evidence == nil:
		w.logger.Warn("the database is older than what was cosigned: it was restored from a backup, or lost; the log goes on from the newest checkpoint that is remembered",
			"origin", log.Origin, "tree_size", pending.Size, "newest_known_size", newest.Size)
		newest.Source = "memory, after the database was restored"
		if err := log.Tree.Recall(newest); err != nil {
			return err
		}
	case pending.Raw != nil && pending.Size > newest.Size:
		if err := w.cfg.Newest.Note(log.Origin, pending); err != nil {
			return err
		}
	}
	if _, ok := w.logs.LoadOrStore(log.Origin, &watched{Log: log}); ok {
		return fmt.Errorf("%q is witnessed already", log.Origin)
	}
	w.hashes.Store(originHash(log.Origin), log.Origin)
	return nil
}

// originHash is how a URL names a log.
// SPEC: "The origin hash is the SHA-256 hash of the log's origin, hex encoded, in lowercase."
func originHash(origin string) string {
	sum := sha256.Sum256([]byte(origin))
	return hex.EncodeToString(sum[:])
}

// find returns a log; nil if its origin is not known.
func (w *Witness) find(origin string) *watched {
	if l, ok := w.logs.Load(origin); ok {
		return l.(*watched)
	}
	log, ok := w.cfg.Find(origin)
	if !ok || len(origin) > maxName {
		return nil
	}
	return w.watch(log)
}

// watch returns what is known of a mirrored log; one that is also listed to be only witnessed is
// mirrored from the moment on at which a mirror has it, such as a shard that was found later.
func (w *Witness) watch(log Log) *watched {
	l, ok := w.logs.Load(log.Origin)
	if ok && l.(*watched).Offer == nil && log.Offer != nil {
		w.logs.Store(log.Origin, &watched{Log: log}) // whoever has the other one still is kept apart by the tree and by what is remembered
		return w.watch(log)
	}
	if !ok {
		l, _ = w.logs.LoadOrStore(log.Origin, &watched{Log: log})
		w.hashes.Store(originHash(log.Origin), log.Origin)
	}
	return l.(*watched)
}

// CosignedByHash returns the newest checkpoint that the witness cosigned of the log whose origin
// has the SHA-256 hash given in lower-case hex, with the signatures of the log and of the
// witness; nil if there is none.
func (w *Witness) CosignedByHash(originHash string) []byte {
	origin, ok := w.hashes.Load(originHash)
	if !ok {
		return nil
	}
	return w.cfg.Newest.Cosigned(storage.CosignerWitness, origin.(string)).Raw
}

// Cosignatures returns the lines of the mirror for a checkpoint that is served whole; none if it
// is not the one that was cosigned last.
func (w *Witness) Cosignatures(origin string, c storage.Checkpoint) []byte {
	if w == nil || c.Raw == nil {
		return nil
	}
	cosigned := w.cfg.Newest.Cosigned(storage.CosignerMirror, origin)
	if cosigned.Raw == nil || noteText(cosigned.Raw) != noteText(c.Raw) {
		return nil
	}
	var lines []byte
	for line := range bytes.Lines(linesOf(cosigned.Raw, w.cfg.MirrorKeys)) {
		if !bytes.Contains(c.Raw, line) { // a copy had it from here, and we have the checkpoint from the copy
			lines = append(lines, line...)
		}
	}
	return lines
}

// VKeys returns the verifier keys of the witness and of the mirror.
func (w *Witness) VKeys() (keys []string) {
	for _, k := range slices.Concat(w.cfg.Keys, w.cfg.MirrorKeys) {
		keys = append(keys, k.VKey())
	}
	return keys
}

// Status is the state of a Witness.
type Status struct {
	Keys        []string `json:"keys"`                  // verifier keys of the witness and of the mirror
	Logs        int      `json:"logs"`                  // whose checkpoints are cosigned
	Quarantined []string `json:"quarantined,omitempty"` // origins of those that get no cosignature any more
}

// Status returns the state of the witness.
func (w *Witness) Status() Status {
	s := Status{Keys: w.VKeys()}
	w.logs.Range(func(origin, l any) bool {
		if s.Logs++; l.(*watched).Tree.State().Evidence != nil {
			s.Quarantined = append(s.Quarantined, origin.(string))
		}
		return true
	})
	slices.Sort(s.Quarantined)
	return s
}
