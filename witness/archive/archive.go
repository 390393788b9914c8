package archive

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/sync/errgroup"

	"github.com/understudy-log/understudy/storage"
	"github.com/understudy-log/understudy/witness/archive/calendar"
	"github.com/understudy-log/understudy/witness/archive/store"
)

// Config is what an Archive works with.
type Config struct {
	DB *storage.DB // has the records of packs and outages
	// Dir is where packs are made and stay.
	Dir string
	// Signer is the archive key, an Ed25519 note key; VKey is its verifier key.
	Signer note.Signer
	VKey   string
	// Vantage says from where the logs are watched.
	Vantage string
	// Schedule says when periods end; Expression and TimeZone are what it was parsed from.
	Schedule             *calendar.Schedule
	Expression, TimeZone string
	// Sources returns all logs whose archive is held.
	Sources func() []Source
	// Cosigners are the verifier keys of our own cosigners. Those that they had before are remembered.
	Cosigners []string
	// Wanted are the entries that the customer named; SET reads the promise in the receipt of one.
	Wanted []Want
	SET    func(origin string, receipt []byte) (*SET, error)
	// Keys verify what the log of an origin signed, and Timestamp the answer of Authority, when a
	// pack that was made is verified; nil: that is left out.
	Keys      func(origin string) *LogKeys
	Timestamp func(response []byte, digest [32]byte) (at time.Time, signer string, err error)
	// Trust returns the trust material that was in force at some time in a period; nil: none.
	Trust func(ctx context.Context, from, to time.Time) ([]TrustFile, error)
	// Ledger reads the outage ledger; nil: there is none.
	Ledger LedgerFunc
	// Reports returns the reports of drills and reconciliations that were made in a period; nil: none.
	// ReportKey is what they are signed with now, a SubjectPublicKeyInfo in DER (ECDSA or Ed25519); nil if
	// they are not. Keys that they were signed with before are remembered.
	Reports   func(from, to time.Time) ([]OutageReport, error)
	ReportKey []byte
	// Stamp gets a time-stamp token from Authority; nil: none is configured.
	Stamp     func(ctx context.Context, digest [32]byte) (token []byte, at time.Time, err error)
	Authority string
	// Destinations are where packs are stored, each by a name of its own.
	Destinations []store.Destination
	// Retention is how long a pack is kept at a destination, by its name, from its making on; none
	// leaves that to the destination.
	Retention map[string]time.Duration

	Logger  *slog.Logger // nil discards
	Metrics *Metrics     // nil counts nothing

	testingOnlyNow  func() time.Time
	testingOnlyWait func()                  // unless nil, nothing is waited for between two tries
	testingOnlyStep func(what string) error // called before a pack is written, kept and recorded
}

func (a *Archive) now() time.Time {
	if a.cfg.testingOnlyNow != nil {
		return a.cfg.testingOnlyNow()
	}
	return time.Now()
}

func (a *Archive) since(t time.Time) time.Duration { return a.now().Sub(t) }

func (a *Archive) step(what string) error {
	if a.cfg.testingOnlyStep != nil {
		return a.cfg.testingOnlyStep(what)
	}
	return nil
}

func (c *Config) location() *time.Location {
	l, err := time.LoadLocation(c.TimeZone)
	if err != nil {
		return time.UTC
	}
	return l
}

// Archive makes packs and keeps them. Its methods may be called concurrently, Run only once.
type Archive struct {
	cfg     Config
	logger  *slog.Logger
	metrics *Metrics

	cosigners, makers []string // verifier keys of ours, those of now first; as Open found them
	reportKeys        [][]byte // the same of reports

	building sync.Mutex // held while a pack is made

	mu       sync.Mutex // guards what follows; never held during I/O but that of records
	records  []record
	start    time.Time // of the first period
	failure  *Failure  // why no pack can be made; nil if nothing is wrong
	changed  chan struct{}
	outage   outages
	lastTick time.Time
	jumped   time.Time // when the clock last jumped ahead
	behind   behind
}

// Failure is what went wrong, since when.
type Failure struct {
	Since time.Time `json:"since"`
	Text  string    `json:"text"`
	Tries int       `json:"tries"`
}

// record is what is remembered of a pack. It is durable before the pack goes anywhere.
type record struct {
	Number   uint64              `json:"number"`
	Name     string              `json:"name"`
	Size     int64               `json:"size"`
	Hash     Hex                 `json:"sha256"`
	Manifest Hex                 `json:"manifest_sha256"`
	From     time.Time           `json:"from"`
	To       time.Time           `json:"to"`
	Built    time.Time           `json:"built"`
	Stamped  bool                `json:"stamped"`
	Logs     map[string]Place    `json:"logs"` // where each log is at the end of the pack
	Rows     map[string]uint64   `json:"rows"` // its last row
	Ledger   *ledgerPlace        `json:"ledger,omitempty"`
	Reports  []string            `json:"reports,omitempty"` // those in it
	Stored   map[string]Delivery `json:"stored,omitempty"`
	Failures map[string]Failure  `json:"-"`
}

const (
	recordPrefix = "evidence pack "
	beganRecord  = "evidence began"
	behindRecord = "evidence clock behind"
)

func recordName(number uint64) string { return fmt.Sprintf("%s%020d", recordPrefix, number) }

// Open opens the archive. Packs in its folder that the database does not know of, because it
// crashed before it recorded one, or because an older one was restored, are taken back, with what
// they have of the logs' archives: so it comes before anything follows a log.
func Open(ctx context.Context, cfg Config) (*Archive, error) {
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	a := &Archive{cfg: cfg, logger: cfg.Logger, changed: make(chan struct{})}
	if err := os.MkdirAll(cfg.Dir, 0o755); err != nil {
		return nil, fmt.Errorf("folder of evidence packs: %w", err)
	}
	if err := sweep(cfg.Dir); err != nil {
		return nil, fmt.Errorf("folder of evidence packs: %w", err)
	}
	if err := a.load(); err != nil {
		return nil, err
	}
	var err error
	if a.cosigners, err = a.remember(cosignersRecord, cfg.Cosigners...); err != nil {
		return nil, err
	}
	if a.makers, err = a.remember(makersRecord, cfg.VKey); err != nil {
		return nil, err
	}
	if err := a.openReports(); err != nil {
		return nil, err
	}
	if err := a.takeBack(ctx); err != nil {
		return nil, err
	}
	if err := a.openOutages(); err != nil {
		return nil, err
	}
	if a.metrics = cfg.Metrics; a.metrics == nil {
		a.metrics = NewMetrics(nil)
	}
	a.metrics.watch(a)
	return a, nil
}

// load reads the records.
func (a *Archive) load() error {
	if err := a.cfg.DB.Records(recordPrefix, func(name string, raw []byte) error {
		var r record
		if err := json.Unmarshal(raw, &r); err != nil || name != recordName(r.Number) || r.Number != uint64(len(a.records)+1) {
			return fmt.Errorf("record %q of an evidence pack cannot be used: %w", name, errors.Join(err, errRecord))
		}
		a.records = append(a.records, r)
		return nil
	}); err != nil {
		return err
	}
	raw, err := a.cfg.DB.Record(behindRecord)
	if err == nil && raw != nil {
		err = json.Unmarshal(raw, &a.behind)
	}
	if err != nil {
		return fmt.Errorf("record %q: %w", behindRecord, err)
	}
	if raw, err = a.cfg.DB.Record(beganRecord); err != nil {
		return err
	}
	if raw != nil {
		return a.start.UnmarshalText(raw)
	}
	if a.start = a.now().Round(0); a.logger == nil { // only read
		return nil
	}
	text, err := a.start.MarshalText()
	return errors.Join(err, a.cfg.DB.PutRecord(beganRecord, text))
}

var errRecord = errors.New("it is not what was written; restore a backup of the database")

// began is when the first period begins.
func (a *Archive) began() time.Time { return a.start }

// lastRecord returns the record of the newest pack; its Number is 0 if there is none.
func (a *Archive) lastRecord() record {
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.records) == 0 {
		return record{}
	}
	return a.records[len(a.records)-1]
}

// keep remembers a pack, durably.
func (a *Archive) keep(r record) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.keepLocked(r)
}

func (a *Archive) keepLocked(r record) error {
	raw, err := json.Marshal(r)
	if err != nil {
		return err
	}
	if err := a.cfg.DB.PutRecord(recordName(r.Number), raw); err != nil {
		return err
	}
	if i := slices.IndexFunc(a.records, func(have record) bool { return have.Number == r.Number }); i >= 0 {
		a.records[i] = r
	} else {
		a.records = append(a.records, r)
	}
	close(a.changed)
	a.changed = make(chan struct{})
	return nil
}

// path returns where a pack is.
func (a *Archive) path(r record) string { return filepath.Join(a.cfg.Dir, r.Name) }

// Run makes packs when they are due and stores them, until ctx ends; then it returns nil.
func (a *Archive) Run(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { a.makeDue(ctx); return nil })
	group.Go(func() error { return a.watch(ctx) })
	for _, d := range a.cfg.Destinations {
		group.Go(func() error { a.deliver(ctx, d); return nil })
	}
	return group.Wait()
}

// lookEvery is how often is looked whether a pack is due.
const lookEvery = 15 * time.Second

// longestWait is the longest time between two tries.
const longestWait = time.Hour

// makeDue makes a pack for each period that has ended, the oldest first.
func (a *Archive) makeDue(ctx context.Context) {
	wait := time.Duration(0)
	for {
		next := lookEvery
		if due := a.due(a.now()); len(due) > 0 {
			if err := a.make(ctx, due[0]); err == nil {
				wait, next = 0, 0
			} else if ctx.Err() == nil {
				wait = min(max(2*wait, time.Minute), longestWait)
				next = wait
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(next):
		}
	}
}

// jump is by how much a clock may be set ahead without more.
const jump = time.Minute

// settle is how long is waited before a pack is made after the clock has jumped: it may jump back.
const settle = 15 * time.Minute

// due returns the ends of the periods that have no pack yet, the oldest first.
func (a *Archive) due(now time.Time) []time.Time {
	a.mu.Lock()
	defer a.mu.Unlock()
	last := a.start
	if n := len(a.records); n > 0 {
		last = a.records[n-1].To
	}
	a.jumpedAhead(now, now.Round(0))
	if j := a.jumped; !j.IsZero() && now.Sub(j) < settle {
		return nil
	}
	if last.After(now) { // the clock was ahead when the last pack was made
		return a.rewound(len(a.records), a.cfg.Schedule.Before(now))
	}
	return a.cfg.Schedule.Due(last, now)
}

// jumpedAhead notes that the clock has jumped: that now is later than it was by the time that has
// passed since. wall is now by the clock. a.mu is held.
func (a *Archive) jumpedAhead(now, wall time.Time) {
	if before := a.lastTick; !before.IsZero() {
		if by := wall.Sub(before.Round(0)) - now.Sub(before); by > jump {
			a.jumped = now
			a.logger.Warn("the clock has jumped ahead; the next evidence pack waits until it has stayed so for a while", "by", by, "wait", settle)
		}
	}
	a.lastTick = now
}

// rewound returns the end of the period that is due by a clock that is behind the last pack, of
// that number: the first one that passes after this was seen. a.mu is held.
func (a *Archive) rewound(number int, boundary time.Time) []time.Time {
	if a.behind.Number != number || a.behind.Boundary.IsZero() {
		a.behind = behind{number, boundary}
		raw, err := json.Marshal(a.behind)
		if err := errors.Join(err, a.cfg.DB.PutRecord(behindRecord, raw)); err != nil {
			a.logger.Error("that the clock is behind cannot be noted", "error", err)
		}
		a.logger.Warn("the clock is behind the end of the last evidence pack; packs go on when the next period ends", "next", a.cfg.Schedule.Next(boundary))
	}
	if boundary.After(a.behind.Boundary) {
		return []time.Time{boundary}
	}
	return nil
}

// behind is since when the clock is behind the last pack: the boundary that had passed already.
type behind struct {
	Number   int       `json:"number"` // of that pack
	Boundary time.Time `json:"boundary"`
}

// make makes the pack of a period that is due, unless it was made while another one was.
func (a *Archive) make(ctx context.Context, to time.Time) error {
	a.building.Lock()
	defer a.building.Unlock()
	if !slices.ContainsFunc(a.due(a.now()), to.Equal) {
		return nil
	}
	began := a.now()
	err := a.makeLocked(ctx, to)
	if err == nil || ctx.Err() != nil {
		return err
	}
	a.mu.Lock()
	if a.failure == nil {
		a.failure = &Failure{Since: began}
	}
	a.failure = &Failure{Since: a.failure.Since, Text: err.Error(), Tries: a.failure.Tries + 1}
	a.mu.Unlock()
	a.logger.Error("an evidence pack could not be made; nothing is lost, and it is tried again", "period_end", to, "error", err)
	return err
}

// makeLocked makes one pack. It needs building held.
func (a *Archive) makeLocked(ctx context.Context, to time.Time) error {
	began := a.now()
	err := a.build(ctx, to)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err != nil {
		a.metrics.failed("build")
		return err
	}
	a.mu.Lock()
	a.failure = nil
	a.mu.Unlock()
	r := a.lastRecord()
	a.logger.Info("evidence pack made", "name", r.Name, "bytes", r.Size, "from", r.From, "to", r.To, "stamped", r.Stamped, "elapsed", a.since(began))
	return nil
}

// Make makes a pack of what there is now, before its period has ended, and returns its number.
func (a *Archive) Make(ctx context.Context) (uint64, error) {
	a.building.Lock()
	defer a.building.Unlock()
	to := a.now().Truncate(time.Second).Add(time.Second) // time-stamps have no fractions
	select {
	case <-ctx.Done():
		return 0, ctx.Err()
	case <-time.After(to.Sub(a.now())):
	}
	if err := a.makeLocked(ctx, to); err != nil {
		return 0, err
	}
	return a.lastRecord().Number, nil
}

// stampTries is how often a time-stamp is asked for before a pack is made without.
const stampTries = 4

// stamp gets a token, or nil: a pack is not held up for it, since the token of a later one covers
// it as well.
func (a *Archive) stamp(ctx context.Context, digest [32]byte) []byte {
	if a.cfg.Stamp == nil {
		return nil
	}
	var err error
	for try, wait := 0, 2*time.Second; try < stampTries; try, wait = try+1, wait*2 {
		if try > 0 {
			if a.cfg.testingOnlyWait != nil {
				wait = 0
			}
			select {
			case <-ctx.Done():
				return nil
			case <-time.After(wait):
			}
		}
		var token []byte
		if token, _, err = a.cfg.Stamp(ctx, digest); err == nil {
			return token
		}
	}
	a.metrics.failed("timestamp")
	a.logger.Error("an evidence pack is made without a time-stamp: the authority gave none; that of the next pack covers it, too", "authority", a.cfg.Authority, "error", err)
	return nil
}

// Read returns an archive that only tells what packs there are: of a stopped daemon.
func Read(cfg Config) (*Archive, error) {
	a := &Archive{cfg: cfg, changed: make(chan struct{})}
	return a, a.load()
}
