package mirror

import (
	"cmp"
	"context"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/cenkalti/backoff/v5"
	"golang.org/x/sync/errgroup"

	"github.com/understudy-log/understudy/mirror/trust"
	"github.com/understudy-log/understudy/storage"
)

// Coverage says how much of a shard is held.
type Coverage string

// The coverages of a shard.
const (
	CoveragePinned Coverage = "pinned" // chosen entries
	CoverageWindow Coverage = "window" // every entry from an index on
	CoverageFull   Coverage = "full"   // every entry
)

// Defaults of ServiceConfig.
const (
	DefaultServicePoll              = 10 * time.Second
	DefaultServiceRequestsPerSecond = 8
	DefaultReadThroughBytes         = 1 << 30
	DefaultWatchEvery               = time.Hour
)

// maxShards bounds what a service may list: each shard is a tree and a set of metrics.
const maxShards = 64

// ServiceConfig says which Rekor v1 service to mirror, and how.
type ServiceConfig struct {
	// Name is the operator's name for the service; that of a shard is Name/tree ID.
	Name string
	// URL is the address of the service, in front of /api/v1.
	URL string
	// DB is where the shards are kept, each in a tree of its own, and Newest what was
	// believed of them; see Config.Newest.
	DB     *storage.DB
	Newest *storage.Newest

	// Coverage of every shard that is not in Shards, by tree ID; empty is CoveragePinned.
	Coverage Coverage
	Shards   map[uint64]Coverage
	// LastEntries is how many entries before the end of a shard its window begins, rounded up
	// to whole bundles of 256.
	LastEntries uint64
	// Watch names entries that are pinned as soon as they can be found.
	Watch      []Watch
	WatchEvery time.Duration // between two searches for them; 0 is DefaultWatchEvery

	Poll              time.Duration // 0 is DefaultServicePoll
	RequestsPerSecond float64       // budget for upstream; 0 is DefaultServiceRequestsPerSecond
	// MissesPerSecond is how many entries that are not held each client may have fetched,
	// with a burst of twice that; 0 is RequestsPerSecond.
	MissesPerSecond float64
	// ReadThroughBytes is what pins take that nobody watches or has imported; beyond it those
	// go that were not read for the longest time. 0 is DefaultReadThroughBytes.
	ReadThroughBytes int64
	StaleAfter       time.Duration // 0 is DefaultStaleAfter
	Contact          string
	HTTPClient       *http.Client
	Polled           func(started time.Time, err error) // see Config.Polled
	Logger           *slog.Logger
	Metrics          *Metrics
}

// Service mirrors one Rekor v1 service with all its shards. Each shard is a log of its own,
// with its own origin, key and tree, and has a Mirror; the service reads log info for all of
// them, knows which virtual index lies in which, and fetches and pins entries. Its methods may
// be called concurrently, Run only once.
type Service struct {
	cfg     ServiceConfig
	logger  *slog.Logger
	polls   *rekorAPI // for log info; its failures say that upstream is away
	work    *rekorAPI
	misses  *misses
	flights *flights
	pins    *pinCache
	watched watchKeys
	tailed  tailed          // owned by watch
	absent  map[string]bool // watched UUIDs of which the log says that upstream lacks them; owned by watch

	pinning sync.Mutex // held while a pin and what is known of pins are changed
	adding  sync.Mutex // held while the shards are changed, also on disk

	due       chan struct{} // has a token when upstream is to be polled at once
	relisting chan struct{} // has a token while log info is read out of turn; guards the next two
	relisted  time.Time
	relistErr error

	mu     sync.RWMutex // guards the fields below; never held during I/O
	shards []*shard     // that are known, oldest first
	// listed are the tree IDs as log info last listed them with checkpoints that were all
	// verified; the last one is active. listing is what it lists now.
	listed, listing []uint64
	lost            []lostShard // set once
	keys            []trust.Key
	// problem is why a shard that is listed, or all, are not known.
	problem *Problem
}

// ShardError says that the shards of a service contradict what they were before.
type ShardError struct{ Problem string }

func (e *ShardError) Error() string { return e.Problem }

func shardProblem(format string, args ...any) error {
	return &ShardError{fmt.Sprintf(format, args...)}
}

// NewService returns the mirror of a service with the shards that are known from before.
func NewService(cfg ServiceConfig) (*Service, error) {
	if cfg.Poll <= 0 {
		cfg.Poll = DefaultServicePoll
	}
	if cfg.RequestsPerSecond <= 0 {
		cfg.RequestsPerSecond = DefaultServiceRequestsPerSecond
	}
	if cfg.MissesPerSecond <= 0 {
		cfg.MissesPerSecond = cfg.RequestsPerSecond
	}
	if cfg.ReadThroughBytes <= 0 {
		cfg.ReadThroughBytes = DefaultReadThroughBytes
	}
	if cfg.WatchEvery <= 0 {
		cfg.WatchEvery = DefaultWatchEvery
	}
	if cfg.Coverage == "" {
		cfg.Coverage = CoveragePinned
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	s := &Service{cfg: cfg, logger: cfg.Logger.With("service", cfg.Name)}
	f, err := newFetcher(Config{
		Name: cfg.Name, RequestsPerSecond: cfg.RequestsPerSecond, Contact: cfg.Contact, HTTPClient: cfg.HTTPClient, Metrics: cfg.Metrics,
	}, cfg.URL, s.answered)
	if err != nil {
		return nil, err
	}
	s.polls, s.work = newRekorAPI(f)
	s.misses = newMisses(cfg.MissesPerSecond, cfg.RequestsPerSecond)
	s.flights, s.relisting, s.due = newFlights(), make(chan struct{}, 1), make(chan struct{}, 1)
	s.pins, s.absent = newPinCache(cfg.ReadThroughBytes), map[string]bool{}
	if s.watched, err = newWatchKeys(cfg.Watch); err != nil {
		return nil, err
	}
	if err := s.load(); err != nil {
		return nil, err
	}
	return s, nil
}

// serviceRecord is what is kept of a service.
type serviceRecord struct {
	Shards []shardRecord `json:"shards"`
	Listed []uint64      `json:"listed"` // see Service.listed
}

// shardRecord is what is kept of a shard beside its tree.
type shardRecord struct {
	TreeID    uint64 `json:"tree_id,string"`
	Origin    string `json:"origin"`
	Start     uint64 `json:"start"` // virtual index of the first entry
	PublicKey string `json:"public_key"`
}

// lostShard is a shard whose tree cannot be opened.
type lostShard struct {
	shardRecord
	err error
}

func (s *Service) recordName() string { return "rekor-v1 " + s.cfg.Name }

// load opens the shards that are known from before.
func (s *Service) load() error {
	raw, err := s.cfg.DB.Record(s.recordName())
	if err != nil || raw == nil {
		return err
	}
	var record serviceRecord
	if err := json.Unmarshal(raw, &record); err != nil {
		return fmt.Errorf("read the shards of %s: %w", s.cfg.Name, err)
	}
	s.listed = record.Listed
	for _, r := range record.Shards {
		key, err := trust.ParseKey([]byte(r.PublicKey))
		if err != nil {
			return fmt.Errorf("read the shards of %s: %w", s.cfg.Name, err)
		}
		sh, err := s.newShard(r.TreeID, r.Origin, r.Start, key)
		if err != nil {
			s.logger.Error("this shard is not served, the others are: its stored tree cannot be used; run \"understudy check\" and restore a backup", "origin", r.Origin, "error", err)
			s.lost = append(s.lost, lostShard{r, err})
			continue
		}
		s.shards = append(s.shards, sh)
	}
	return nil
}

// save keeps the shards and what is listed, first durably; adding is held.
func (s *Service) save(shards []*shard, listed []uint64) error {
	record := serviceRecord{Listed: listed}
	for _, sh := range shards {
		record.Shards = append(record.Shards, shardRecord{TreeID: sh.treeID, Origin: sh.origin, Start: sh.start(),
			PublicKey: string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: sh.key.SPKI()}))})
	}
	for _, lost := range s.lost {
		record.Shards = append(record.Shards, lost.shardRecord)
	}
	slices.SortStableFunc(record.Shards, func(a, b shardRecord) int { return cmp.Compare(a.Start, b.Start) })
	raw, err := json.Marshal(record)
	if err != nil {
		return err
	}
	if err := s.cfg.DB.PutRecord(s.recordName(), raw); err != nil {
		return &storageError{err}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.shards, s.listed = shards, listed
	return nil
}

// Name returns the operator's name for the service.
func (s *Service) Name() string { return s.cfg.Name }

// known returns the shards that are known now, oldest first.
func (s *Service) known() []*shard {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.shards
}

// Mirrors returns the mirrors of the shards that are known now, oldest first.
func (s *Service) Mirrors() []*Mirror {
	var mirrors []*Mirror
	for _, sh := range s.known() {
		mirrors = append(mirrors, sh.mirror)
	}
	return mirrors
}

// byTree returns a shard by tree ID, 0 being the active one; nil if it is not known.
func (s *Service) byTree(treeID uint64) *shard {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if n := len(s.listed); treeID == 0 && n > 0 {
		treeID = s.listed[n-1]
	}
	for _, sh := range s.shards {
		if sh.treeID == treeID {
			return sh
		}
	}
	return nil
}

// answered is told of every request whether upstream gave an orderly answer.
func (s *Service) answered(ok bool) {
	for _, sh := range s.known() {
		sh.mirror.answered(ok)
	}
}

// Run follows the service until ctx ends; then it returns nil. A checkpoint is good if one of
// keys signed it. It returns an error only when the database can no longer be read or written.
func (s *Service) Run(ctx context.Context, keys []trust.Key) error {
	s.Trust(keys)
	for _, sh := range s.known() {
		sh.mirror.keyed()
		if err := sh.mirror.recall(); err != nil {
			return fmt.Errorf("mirror %s: %w", s.cfg.Name, err)
		}
	}
	if err := s.recount(ctx); err != nil {
		return fmt.Errorf("mirror %s: %w", s.cfg.Name, err)
	}
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { s.flights.serve(ctx); return nil })
	group.Go(func() error { return s.follow(ctx, group) })
	group.Go(func() error { return s.watch(ctx) })
	group.Go(func() error { return s.evict(ctx) })
	if err := group.Wait(); err != nil {
		return fmt.Errorf("mirror %s: %w", s.cfg.Name, err)
	}
	return nil
}

// follow polls log info again and again, and runs every shard that is known.
func (s *Service) follow(ctx context.Context, group *errgroup.Group) error {
	running := map[*shard]bool{}
	wait := backoff.NewExponentialBackOff()
	wait.InitialInterval, wait.MaxInterval = min(500*time.Millisecond, s.cfg.Poll), maxBackoff
	for ctx.Err() == nil {
		next, started := jitter(s.cfg.Poll), time.Now()
		infos, err := s.looked(ctx)
		if err == nil {
			wait.Reset()
			err = errors.Join(s.poll(ctx, infos), s.anchor(ctx))
			next = max(next, retryAfter(err))
		} else {
			s.failed(ctx, err)
			next = max(min(wait.NextBackOff(), maxBackoff), retryAfter(err))
		}
		if ctx.Err() != nil {
			return nil
		}
		if s.cfg.Polled != nil {
			s.cfg.Polled(started, err)
		}
		if ends(err) {
			return err
		}
		for _, sh := range s.known() {
			if !running[sh] {
				running[sh] = true
				group.Go(func() error { return sh.run(ctx) })
			}
		}
		waitFor(ctx, s.due, next, retryAfter(err))
	}
	return nil
}

// poll judges the checkpoint of every shard. What is wrong with one does not hold up the
// others.
func (s *Service) poll(ctx context.Context, infos []shardInfo) (failures error) {
	s.note(infos)
	start, known := uint64(0), true // where the next shard begins, if that is known
	all := true
	for _, info := range infos {
		sh := s.byTree(info.treeID)
		var err error
		switch {
		case s.isLost(info.treeID):
			err = shardProblem("the stored tree of shard %d cannot be used", info.treeID)
		case sh != nil:
			err = sh.poll(ctx, info, start, known)
		case known:
			sh, err = s.discover(ctx, info, start)
		default:
			err = shardProblem("shard %d cannot be added before those in front of it are known", info.treeID)
		}
		switch {
		case ctx.Err() != nil || ends(err):
			return err
		case err != nil && sh == nil:
			s.unfollowed(err, "a shard is not followed; it is tried again", "tree_id", info.treeID)
		}
		if !s.isLost(info.treeID) { // that is ours, and nothing that upstream did
			failures = errors.Join(failures, err)
		}
		all = all && sh != nil
		if known = sh != nil && (err == nil || sh.closed()); known {
			start = sh.start() + sh.mirror.tree.State().Pending.Size
		}
	}
	if !all {
		return failures
	}
	s.unfollowed(nil, "")
	if err := s.settle(); err != nil {
		return err
	}
	return failures
}

// failed notes that log info could not be had, for every shard.
func (s *Service) failed(ctx context.Context, err error) {
	if ctx.Err() != nil {
		return
	}
	shards := s.known()
	if len(shards) == 0 {
		s.unfollowed(err, "the service cannot be followed; it is tried again")
	}
	for _, sh := range shards {
		sh.mirror.polled(err)
		sh.mirror.note(err)
	}
}

// Shard describes one shard as GET /api/v1/log does.
type Shard struct {
	TreeID     uint64
	Active     bool
	Start      uint64 // virtual index of its first entry
	Head       storage.Head
	Checkpoint []byte // newest archived one, raw
	Mirror     *Mirror
}

// Shards returns all shards, oldest first; the last one is active. It returns a *Refusal
// (Unavailable) until every shard that log info lists has a checkpoint.
func (s *Service) Shards() ([]Shard, error) {
	live := s.anyLive()
	s.mu.RLock()
	listed := s.listed
	if live && s.listing != nil {
		listed = s.listing
	}
	s.mu.RUnlock()
	if len(listed) == 0 {
		return nil, s.refuse(nil, Unavailable, ReasonShardsUnknown, s.cfg.Poll, "the shards of %s are not known yet: try again when upstream is back", s.cfg.Name)
	}
	shards := make([]Shard, len(listed))
	for i, id := range listed {
		sh := s.byTree(id)
		if sh == nil || sh.mirror.tree.State().Pending.Raw == nil {
			return nil, s.refuse(sh, Unavailable, ReasonShardsUnknown, s.cfg.Poll, "no checkpoint of shard %d was verified yet, so the state of the log is not known", id)
		}
		p := sh.mirror.tree.State().Pending
		shards[i] = Shard{TreeID: id, Active: i == len(listed)-1, Start: sh.start(), Head: p.Head, Checkpoint: p.Raw, Mirror: sh.mirror}
	}
	return shards, nil
}

// Trust tells the keys of the service, one of which must sign each checkpoint. Run does it
// too.
func (s *Service) Trust(keys []trust.Key) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.keys = slices.DeleteFunc(slices.Clone(keys), func(k trust.Key) bool { return k.Public() == nil }) // which signs no SET
}

// Keys returns the keys that Trust was told last.
func (s *Service) Keys() []trust.Key {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.keys
}

// Freshness returns that of the active shard.
func (s *Service) Freshness() Freshness {
	if sh := s.byTree(0); sh != nil {
		return sh.mirror.Freshness()
	}
	return Freshness{Source: SourceStale, UpstreamState: UpstreamUnreachable}
}

// refuse is a Refusal about a shard; nil is the service as a whole.
func (s *Service) refuse(sh *shard, kind Kind, reason string, after time.Duration, format string, args ...any) *Refusal {
	r := &Refusal{Kind: kind, Reason: reason, After: after, Text: fmt.Sprintf(format, args...), Freshness: s.Freshness()}
	if sh != nil {
		r.Freshness = sh.mirror.Freshness()
	}
	return r
}

// PublicKey returns the PEM public key (PUBLIC KEY, as Rekor serves it) of a shard; treeID 0
// is the active one. It returns a *Refusal of the kind Invalid if there is no such shard.
func (s *Service) PublicKey(ctx context.Context, treeID uint64) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTime)
	defer cancel()
	sh, err := s.shardOf(ctx, treeID)
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: sh.key.SPKI()}), nil
}

// shardOf is byTree with a *Refusal. While upstream is live, it is asked about a shard that is
// not known.
func (s *Service) shardOf(ctx context.Context, treeID uint64) (*shard, error) {
	sh := s.byTree(treeID)
	if sh == nil && treeID != 0 && s.anyLive() {
		if err := s.relist(ctx); err != nil {
			return nil, s.refuse(nil, Unavailable, ReasonUpstreamUnreachable, max(time.Second, retryAfter(err)), "the shard %d is not known, and upstream did not say whether there is one: %v", treeID, err)
		}
		sh = s.byTree(treeID)
	}
	switch {
	case sh != nil:
		return sh, nil
	case treeID == 0 || s.lists(treeID) || len(s.known()) == 0:
		return nil, s.refuse(nil, Unavailable, ReasonShardsUnknown, s.cfg.Poll, "the shard that is asked for is not known yet: no checkpoint of it was verified")
	}
	return nil, s.refuse(nil, Invalid, ReasonInvalidRequest, 0, "there is no shard with the tree ID %d", treeID)
}
