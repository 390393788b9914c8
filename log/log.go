package log

import (
	"cmp"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	formats "github.com/transparency-dev/formats/log"
	"golang.org/x/mod/sumdb/note"

	"github.com/understudy-log/understudy/storage"
)

// Errors of Append, to be tested with errors.Is.
var (
	// ErrFull: as many entries wait as may; try again in a moment.
	ErrFull = errors.New("the log has too much to do; try again in a moment")
	// ErrStopping: the log takes no entries any more, because it stops.
	ErrStopping = errors.New("the log is stopping")
	// ErrTooLarge: the entry is larger than Config.MaxEntry, or its proposal than all that may wait.
	ErrTooLarge = errors.New("the entry is too large for this log")
	// ErrUnwitnessed: the entry is logged, and too few witnesses have cosigned that yet. Who appends
	// it again gets the receipt of it.
	ErrUnwitnessed = errors.New("the entry is logged, but not published, because too few witnesses answer; the same request again will be answered with the same entry")
	// ErrClock: the clock of this machine is behind the time that the last entry got.
	ErrClock = errors.New("the clock of the log's machine went back")
	// ErrBehind: a witness has cosigned a larger tree of this log than the one that is held.
	ErrBehind = errors.New("the log's database is older than what it published")
	// ErrForgotten: the log has published, what it published last is not remembered apart from the
	// database, and there are no witnesses, either, that would know whether that is older.
	ErrForgotten = errors.New("it has published, and the memory of that (the folder \"newest\" of data_dir) is lost, so the database may be older than what was published, and to go on would be to sign two histories: bring back that folder as it was at last, name witnesses that have seen the log, or see \"understudy log resume --help\"")
	// ErrSigning: a key could not sign. Nothing was logged.
	ErrSigning = errors.New("the log cannot sign")
)

// BehindError says that the database is older than the newest checkpoint that the log published:
// it was restored from a backup, and going on would be to sign another history.
type BehindError struct {
	Origin    string
	Held      storage.Head
	Published storage.Checkpoint
}

func (e *BehindError) Error() string {
	return fmt.Sprintf("the database holds %d entries of %q, and a checkpoint over %d was published: a log that went on from here would sign two histories; restore a newer backup, or begin a new log with a new name and new keys", e.Held.Size, e.Origin, e.Published.Size)
}

// Is makes a *BehindError an ErrBehind.
func (e *BehindError) Is(target error) bool { return target == ErrBehind }

// KeyError says that the keys of the configuration did not sign the log so far.
type KeyError struct {
	Origin string
	Err    error
}

func (e *KeyError) Error() string {
	return fmt.Sprintf("the newest checkpoint of %q is not signed by the keys of the configuration: %v; give the keys that it was begun with, or begin a new log", e.Origin, e.Err)
}

// Unwrap returns the cause.
func (e *KeyError) Unwrap() error { return e.Err }

// Entry is what is to be logged.
type Entry struct {
	Body     []byte   // canonical: the leaf is H(0x00 || Body)
	Proposed []byte   // what it was made of; kept, encrypted, for Config.Retention. Nil: not kept
	Keys     []string // search keys that only the proposal shows
	Identity string   // who appends it, for the audit row
}

// Receipt is what the log answers about an entry.
type Receipt struct {
	Index     uint64
	Duplicate bool // it was logged before
	// Promise is what Config.Promise made for it when it was logged; nil if there is none.
	Promise []byte
	// Checkpoint is published, and its tree has the entry: Proof is the inclusion proof in it (RFC
	// 6962, section 2.1.1).
	Checkpoint storage.Checkpoint
	Proof      []storage.Hash
}

// Defaults of Config.
const (
	DefaultInterval  = 10 * time.Second
	DefaultRetention = 90 * 24 * time.Hour

	defaultBatchEntries = 256
	defaultBatchWait    = 25 * time.Millisecond
	defaultPoolEntries  = 8192
	defaultPoolBytes    = 64 << 20
	defaultMaxEntry     = 8 << 20

	defaultMaxUnpublished = 1 << 16
	// defaultRoundEvery is how often witnesses are asked at most: they serve others, too.
	defaultRoundEvery = 200 * time.Millisecond
)

// Config is what a Log is made from.
type Config struct {
	DB *storage.DB
	// Newest remembers what was published or shown to witnesses, apart from the database; nil:
	// nothing does, and a backup that is restored goes unnoticed.
	Newest *storage.Newest
	// Origin is the first line of the log's checkpoints.
	Origin string
	// Signers sign checkpoints, one line each, and Verifiers verify those lines, in the same order. The
	// first is the key by which the log is known, for ever; others may come and go.
	Signers   []note.Signer
	Verifiers []note.Verifier
	// Promise returns what is promised about an entry beside its leaf, such as the signed entry
	// timestamp of Rekor v1, for the index and the time (Unix seconds) that it gets. It is called
	// concurrently, and again if the commit fails: what it returned then was never seen by anybody.
	// Nil: nothing is promised.
	Promise func(index uint64, at int64, e *Entry) ([]byte, error)
	// Cosign collects cosignatures on a checkpoint, as lines "— <name> <base64>" without a newline;
	// prove returns the consistency proof from an older size to it. An error means that they are
	// too few; one that is ErrBehind that a witness knows a larger tree. It gives up by itself, and
	// when ctx ends: nothing else is published meanwhile. Nil: there are no witnesses.
	Cosign func(ctx context.Context, c storage.Checkpoint, prove func(old uint64) ([]storage.Hash, error)) (lines []string, err error)
	// WithoutQuorum has checkpoints published with too few cosignatures.
	WithoutQuorum bool
	// Interval is how often a checkpoint is published at least, also when nothing is logged; 0 is
	// DefaultInterval.
	Interval time.Duration
	// ProposalKey encrypts proposals (see NewProposalKey); nil: none are kept. Retention is for how
	// long they are; 0 is DefaultRetention.
	ProposalKey *ProposalKey
	Retention   time.Duration
	// MaxEntry bounds a body in bytes; 0 is 8 MiB.
	MaxEntry int
	// PoolEntries and PoolBytes bound what waits to be sequenced; 0 is 8192 and 64 MiB.
	PoolEntries, PoolBytes int
	// MaxUnpublished bounds the entries that are logged and not published, because witnesses are too
	// few; 0 is 65,536.
	MaxUnpublished int
	// BatchEntries is how many entries have to wait for all that wait to be sequenced at once, and
	// BatchWait how long fewer of them wait for others; 0 is 256 and 25 ms.
	BatchEntries int
	BatchWait    time.Duration
	// Name stands in metrics.
	Name    string
	Logger  *slog.Logger
	Metrics *Metrics

	now        func() time.Time // what entries get the time from; others than time.Now in tests
	roundEvery time.Duration    // how often witnesses are asked at most; 0 is defaultRoundEvery
}

// Log is one log. Its methods may be called concurrently, Run only once.
type Log struct {
	cfg    Config
	logger *slog.Logger
	tree   *storage.Tree
	pool   *pool

	committed chan struct{} // has a token when there is more to publish
	drained   chan struct{} // closed once nothing is published any more
	halted    chan struct{} // closed when stopped is set

	published atomic.Pointer[publication]

	lastTime atomic.Int64 // Unix seconds that the last entry got; written by sequence alone

	mu      sync.Mutex // guards the fields below
	problem *Problem   // why nothing is published; nil while all is well
	stopped error      // set once nothing is signed any more
}

// Problem is why a log does not do all that it should.
type Problem struct {
	Text  string    `json:"text"`
	Since time.Time `json:"since"`
}

// publication is a published checkpoint; replaced is closed when there is another one.
type publication struct {
	storage.Checkpoint
	replaced chan struct{}
}

// Create makes a log that does not exist yet, durably, with the checkpoint of the empty tree, and
// opens it. It returns storage.ErrExists if there is one; one that has signed nothing yet does not
// count. A log is made once in its life: making it again under the same name and keys would be to sign
// two histories.
func Create(cfg Config) (*Log, error) {
	tree, err := cfg.DB.OpenTree(cfg.Origin)
	switch known := cfg.Newest.Of(cfg.Origin); {
	case err == nil && tree.State().Pending.Raw != nil:
		return nil, fmt.Errorf("create %q: %w", cfg.Origin, storage.ErrExists)
	case err == nil: // it crashed before, or a key could not sign
		return Open(cfg)
	case !errors.Is(err, storage.ErrNotExist):
		return nil, err
	case known.Raw != nil:
		return nil, &BehindError{Origin: cfg.Origin, Published: known}
	}
	if _, err := cfg.DB.CreateTree(cfg.Origin); err != nil {
		return nil, err
	}
	return Open(cfg)
}

// Open opens a log. It returns storage.ErrNotExist, a *BehindError or a *KeyError if it cannot go on
// where it ended.
func Open(cfg Config) (*Log, error) {
	tree, err := cfg.DB.OpenTree(cfg.Origin)
	if err != nil {
		return nil, err
	}
	l, err := newLog(cfg, tree)
	if err != nil {
		return nil, err
	}
	state := tree.State()
	switch {
	case state.Evidence != nil:
		return nil, fmt.Errorf("open %q: %w", cfg.Origin, storage.ErrQuarantined)
	case tree.Broken() != nil:
		return nil, fmt.Errorf("open %q: %w", cfg.Origin, tree.Broken())
	}
	if err := l.notBehind(); err != nil {
		return nil, err
	}
	if state.Pending.Raw == nil { // Create got no further than this
		if state, err = l.extend(nil); err != nil {
			return nil, fmt.Errorf("begin %q: %w", cfg.Origin, err)
		}
	}
	if err := l.verifyOld(state.Pending.Raw); err != nil {
		return nil, &KeyError{cfg.Origin, err}
	}
	last, err := l.timeOfLast()
	if err != nil {
		return nil, fmt.Errorf("open %q: %w", cfg.Origin, err)
	}
	l.lastTime.Store(last)
	l.checkProposalKey()
	if err := l.restorePublished(); err != nil {
		return nil, err
	}
	cfg.Metrics.watch(l)
	return l, nil
}

func newLog(cfg Config, tree *storage.Tree) (*Log, error) {
	if len(cfg.Signers) == 0 || len(cfg.Signers) != len(cfg.Verifiers) {
		return nil, fmt.Errorf("open %q: %d keys to sign with and %d to verify", cfg.Origin, len(cfg.Signers), len(cfg.Verifiers))
	}
	set(&cfg.Interval, DefaultInterval)
	set(&cfg.Retention, DefaultRetention)
	set(&cfg.MaxEntry, defaultMaxEntry)
	set(&cfg.PoolEntries, defaultPoolEntries)
	set(&cfg.PoolBytes, defaultPoolBytes)
	set(&cfg.MaxUnpublished, defaultMaxUnpublished)
	set(&cfg.roundEvery, defaultRoundEvery)
	set(&cfg.BatchEntries, defaultBatchEntries)
	set(&cfg.BatchWait, defaultBatchWait)
	set(&cfg.Name, cfg.Origin)
	if cfg.now == nil {
		cfg.now = time.Now
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	l := &Log{cfg: cfg, tree: tree, logger: cfg.Logger.With("log", cfg.Name), committed: make(chan struct{}, 1), drained: make(chan struct{}), halted: make(chan struct{})}
	l.pool = newPool(cfg.PoolEntries, cfg.PoolBytes)
	l.published.Store(&publication{replaced: make(chan struct{})})
	return l, nil
}

func set[T comparable](value *T, otherwise T) {
	if *value == *new(T) {
		*value = otherwise
	}
}

// Origin returns the first line of the log's checkpoints.
func (l *Log) Origin() string { return l.cfg.Origin }

// Name returns Config.Name.
func (l *Log) Name() string { return l.cfg.Name }

// Tree returns the tree of the log. It may be larger than what is published.
func (l *Log) Tree() *storage.Tree { return l.tree }

// Published returns the newest checkpoint that is published, with its cosignatures; its Raw is nil
// if none is, because witnesses have to be asked first after a start.
func (l *Log) Published() storage.Checkpoint { return l.published.Load().Checkpoint }

// text is the body of the checkpoint over a tree (tlog-checkpoint).
func (l *Log) text(head storage.Head) string {
	return fmt.Sprintf("%s\n%d\n%s\n", l.cfg.Origin, head.Size, base64.StdEncoding.EncodeToString(head.Root[:]))
}

// sign returns the signed checkpoint over a tree. What a key signed is verified before it is used:
// one in a key management service may not be the one that it was.
func (l *Log) sign(head storage.Head) (storage.Checkpoint, error) {
	raw, err := note.Sign(&note.Note{Text: l.text(head)}, l.cfg.Signers...)
	if err == nil {
		err = l.verify(raw)
	}
	if err != nil {
		return storage.Checkpoint{}, fmt.Errorf("%w: checkpoint over %d: %w", ErrSigning, head.Size, err)
	}
	now := time.Now()
	return storage.Checkpoint{Head: head, Raw: raw, FirstSeen: now, LastSeen: now, Source: "signed here"}, nil
}

// verify returns why a note does not have a good line of each of the log's keys.
func (l *Log) verify(raw []byte) error { return l.verifyBy(raw, l.cfg.Verifiers) }

// verifyOld is verify of what was signed before: of the first key alone, which is the log's identity.
// Others may have joined or left since.
func (l *Log) verifyOld(raw []byte) error { return l.verifyBy(raw, l.cfg.Verifiers[:1]) }

func (l *Log) verifyBy(raw []byte, verifiers []note.Verifier) error {
	n, err := note.Open(raw, note.VerifierList(verifiers...))
	if err != nil {
		return err
	}
	for _, v := range verifiers {
		good := false
		for _, s := range n.Sigs {
			good = good || s.Name == v.Name() && s.Hash == v.KeyHash()
		}
		if !good {
			return fmt.Errorf("there is no line of %s+%08x", v.Name(), v.KeyHash())
		}
	}
	return nil
}

// notBehind returns a *BehindError unless what is held has all that was ever published.
func (l *Log) notBehind() error {
	known, state := l.cfg.Newest.Of(l.cfg.Origin), l.tree.State()
	if known.Raw == nil {
		return nil
	}
	behind := &BehindError{Origin: l.cfg.Origin, Held: state.Head, Published: known}
	if known.Size > state.Head.Size {
		return behind
	}
	view := l.tree.View()
	defer view.Close()
	root, err := view.Root(known.Size)
	if err != nil {
		return err
	}
	if root != known.Root {
		return behind
	}
	return nil
}

// publishedRecord is the name of the record with the checkpoint that was published last with
// cosignatures, or allPublished.
func (l *Log) publishedRecord() string { return "published " + l.cfg.Origin }

// allPublished says that there were no witnesses: whatever is durable is published.
const allPublished = "all"

// restorePublished makes what was published before the log was closed the published checkpoint: what
// was seen once must not go back, also when witnesses are wanted from now on.
func (l *Log) restorePublished() error {
	c := l.tree.State().Pending
	raw, err := l.cfg.DB.Record(l.publishedRecord())
	switch {
	case err != nil:
		return err
	case l.cfg.Cosign == nil && l.cfg.Newest != nil && raw != nil && l.cfg.Newest.Of(l.cfg.Origin).Raw == nil:
		return fmt.Errorf("open %q: %w", l.cfg.Origin, ErrForgotten)
	case l.cfg.Cosign == nil && string(raw) != allPublished:
		// First: a log that has the record and is not remembered was forgotten.
		if err := l.cfg.Newest.Note(l.cfg.Origin, c); err != nil {
			return err
		}
		if err := l.cfg.DB.PutRecord(l.publishedRecord(), []byte(allPublished)); err != nil {
			return err
		}
	case l.cfg.Cosign == nil:
	case raw == nil:
		return nil
	case string(raw) == allPublished:
		if err := l.cfg.DB.PutRecord(l.publishedRecord(), c.Raw); err != nil {
			return err
		}
	default:
		head, err := l.headOf(raw)
		if err != nil {
			return fmt.Errorf("read what was published last of %q: %w", l.cfg.Origin, err)
		}
		view := l.tree.View()
		defer view.Close()
		root, err := view.Root(head.Size)
		if err == nil && root != head.Root {
			err = storage.ErrFork
		}
		if err != nil {
			return fmt.Errorf("read what was published last of %q: %w", l.cfg.Origin, err)
		}
		c = storage.Checkpoint{Head: head, Raw: raw}
	}
	return l.publish(c)
}

// publish makes a checkpoint, which is durable already, the published one. It is remembered before
// anybody sees it.
func (l *Log) publish(c storage.Checkpoint) error {
	if err := l.cfg.Newest.Note(l.cfg.Origin, c); err != nil {
		return err
	}
	old := l.published.Swap(&publication{c, make(chan struct{})})
	close(old.replaced)
	return nil
}

// headOf reads a checkpoint of the log.
func (l *Log) headOf(raw []byte) (storage.Head, error) {
	if err := l.verifyOld(raw); err != nil {
		return storage.Head{}, err
	}
	var c formats.Checkpoint
	if _, err := c.Unmarshal(raw); err != nil {
		return storage.Head{}, err
	}
	if c.Origin != l.cfg.Origin || len(c.Hash) != storage.HashSize {
		return storage.Head{}, errors.New("it is no checkpoint of this log")
	}
	return storage.Head{Size: c.Size, Root: storage.Hash(c.Hash)}, nil
}

// LastPublished returns the tree that a log which is not open published last; its size is 0 if it
// published none. What it says is not verified: Open does that.
func LastPublished(db *storage.DB, tree *storage.Tree) (storage.Head, error) {
	raw, err := db.Record((&Log{cfg: Config{Origin: tree.Origin()}}).publishedRecord())
	switch {
	case err != nil || raw == nil:
		return storage.Head{}, err
	case string(raw) == allPublished:
		return tree.State().Pending.Head, nil
	}
	var c formats.Checkpoint
	if _, err := c.Unmarshal(raw); err != nil || len(c.Hash) != storage.HashSize {
		return storage.Head{}, fmt.Errorf("read what was published last of %q: %w", tree.Origin(), cmp.Or(err, errors.New("it has no root hash")))
	}
	return storage.Head{Size: c.Size, Root: storage.Hash(c.Hash)}, nil
}
