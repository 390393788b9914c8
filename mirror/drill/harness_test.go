package drill

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/transparency-dev/merkle/proof"
	"github.com/transparency-dev/merkle/rfc6962"

	"github.com/understudy-log/understudy/mirror"
	"github.com/understudy-log/understudy/mirror/ledger"
	"github.com/understudy-log/understudy/mirror/outage"
	"github.com/understudy-log/understudy/mirror/trust"
	"github.com/understudy-log/understudy/storage"
	"github.com/understudy-log/understudy/test/synthetic"
)

// mutation breaks one thing that a drill is there to find broken.
type mutation string

const (
	sound       mutation = ""
	detectorOff mutation = "detector off"
	fallbackOff mutation = "fallback off"
	revertOff   mutation = "revert off"
)

const (
	origin = "log.example/drill-test"
	grows  = 20 * time.Second
)

// house is a small daemon with its upstreams, in a bubble: a real mirror and a real monitor, with
// clients that ask through the switchboard.
type house struct {
	t        *testing.T
	mutation mutation
	disk     *vfs.MemFS
	log      *synthetic.Log
	key      trust.Key
	expires  time.Time // of the metadata of TUF

	down  sync.Map // components that are away in earnest
	leaks sync.Map // components that faults reach by mistake: from, to

	db       *storage.DB
	ledger   *ledger.Ledger
	faults   *Faults
	mirror   *mirror.Mirror
	monitor  *outage.Monitor
	runner   *Runner
	config   func(*Config)
	settings outage.Settings
	skew     atomic.Int64 // of the wall clock of this machine

	mu         sync.Mutex
	reconciled time.Time // when the last reconciliation began
	scratch    int       // databases of forks that are open
	reports    [][]byte  // that were appended

	stop func()
	next atomic.Uint64
}

func must[T any](t *testing.T) func(v T, err error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func newHouse(t *testing.T, m mutation) *house {
	h := &house{t: t, mutation: m, disk: vfs.NewMem(), expires: time.Now().Add(7 * 24 * time.Hour)}
	h.log = synthetic.New(synthetic.Options{Origin: origin, Entries: synthetic.Tiny(1)})
	h.log.Grow(600)
	h.key = must[trust.Key](t)(trust.ParseKey([]byte(h.log.Key.Verifier())))
	return h
}

func componentOf(r *http.Request) string {
	switch {
	case r.URL.Host != "rekor.example":
		return strings.TrimSuffix(r.URL.Host, ".example")
	case r.Method == http.MethodPost:
		return "rekor/write"
	}
	return "rekor/read"
}

func (h *house) now() time.Time { return time.Now().Add(time.Duration(h.skew.Load())) }

// RoundTrip is the network behind the switchboard.
func (h *house) RoundTrip(r *http.Request) (*http.Response, error) {
	if _, down := h.down.Load(componentOf(r)); down {
		return refuse(nil, r, nil)
	}
	w := httptest.NewRecorder()
	switch componentOf(r) {
	case "rekor/read":
		h.log.ServeHTTP(w, r)
	case "rekor/write":
		http.Error(w, `{"code":400,"message":"this is no proposed entry"}`, http.StatusBadRequest)
	case "tuf":
		fmt.Fprintf(w, `{"expires":%q}`, h.expires.Format(time.RFC3339))
	default:
		fmt.Fprintln(w, "ok")
	}
	if err := r.Context().Err(); err != nil {
		return nil, err
	}
	resp := w.Result()
	resp.Request = r
	return resp, nil
}

// ask is a small client of everything but the log's read path.
func (h *house) ask(ctx context.Context, client *http.Client, component string, ahead time.Duration) error {
	method, url := http.MethodGet, "http://"+component+".example/timestamp.json"
	if component == "rekor/write" {
		method, url = http.MethodPost, "http://rekor.example/api/v2/log/entries"
	}
	r, err := http.NewRequestWithContext(ctx, method, url, strings.NewReader("{}"))
	if err != nil {
		return err
	}
	resp, err := client.Do(r)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	want := http.StatusOK
	if component == "rekor/write" {
		want = http.StatusBadRequest
	}
	if resp.StatusCode != want {
		return &mirror.StatusError{Code: resp.StatusCode}
	}
	if component != "tuf" {
		return nil
	}
	var metadata struct{ Expires time.Time }
	if err := json.Unmarshal(body, &metadata); err != nil {
		return err
	}
	if !time.Now().Add(ahead).Before(metadata.Expires) {
		return outage.Coded(outage.CodeExpired, errors.New("timestamp.json has expired"))
	}
	return nil
}

// start opens the disk and starts everything.
func (h *house) start() *house {
	t := h.t
	t.Helper()
	options := storage.Options{FS: h.disk, CacheBytes: 4 << 20}
	var tree *storage.Tree
	if must[bool](t)(storage.Exists("db", options)) {
		h.db = must[*storage.DB](t)(storage.Open("db", options))
		tree = must[*storage.Tree](t)(h.db.OpenTree(origin))
	} else {
		h.db = must[*storage.DB](t)(storage.Create("db", options))
		tree = must[*storage.Tree](t)(h.db.CreateTree(origin))
	}
	h.ledger = must[*ledger.Ledger](t)(ledger.Open(h.db, h.now))
	h.faults = NewFaults()
	h.faults.testingOnlyStuck = h.mutation == revertOff
	client := &http.Client{Transport: h.faults.Transport(func(r *http.Request) string {
		component := componentOf(r)
		if to, leaks := h.leaks.Load(component); leaks {
			return to.(string)
		}
		return component
	}, h)}
	h.mirror = must[*mirror.Mirror](t)(mirror.New(mirror.Config{
		Name: "rekor", Origin: origin, URL: "http://rekor.example", Tree: tree, RequestsPerSecond: 1e6, HTTPClient: client,
		Polled: func(started time.Time, err error) {
			if h.mutation != detectorOff {
				h.monitor.Observe("rekor/read", outage.Observation{Started: started, Err: err})
			}
		},
	}))
	h.monitor = must[*outage.Monitor](t)(outage.New(outage.Config{
		DB: h.db, Ledger: h.ledger, Now: h.now, Components: h.components(client), Settings: h.settings,
		Drill: func(component string) string { return h.runner.Affects(component) },
	}))
	cfg := Config{
		DB: h.db, Ledger: h.ledger, Faults: h.faults, Monitor: h.monitor, Now: h.now,
		Control: func(ctx context.Context, component string) error {
			past := &http.Client{Transport: h}
			if component != "rekor/read" {
				return h.ask(ctx, past, component, 0)
			}
			resp, err := past.Get("http://rekor.example/checkpoint")
			if err == nil {
				err = resp.Body.Close()
			}
			return err
		},
		Serve: h.serve,
		FallenBack: func() bool {
			state := h.monitor.State("rekor/write")
			return h.mutation != fallbackOff && (state == outage.Fallback || state == outage.Recovering)
		},
		Reconciled: func(since time.Time) bool {
			h.mu.Lock()
			defer h.mu.Unlock()
			return h.reconciled.After(since)
		},
		OldCheckpoint: func(string) ([]byte, error) { return h.log.Checkpoint(400), nil },
		GrowsWithin:   func(string) time.Duration { return grows },
		OpenScratch:   h.openScratch,
		AppendReport: func(_ context.Context, report []byte) (Place, error) {
			h.mu.Lock()
			defer h.mu.Unlock()
			h.reports = append(h.reports, report)
			return Place{Origin: "private.example", Index: uint64(len(h.reports) - 1)}, nil
		},
	}
	if h.config != nil {
		h.config(&cfg)
	}
	h.runner = must[*Runner](t)(New(cfg))
	if h.mutation == detectorOff {
		h.runner.testingOnlyStage = func(s *stage) { s.stop() }
	}
	if h.mutation == fallbackOff {
		h.runner.testingOnlyStage = func(s *stage) { s.testingOnlyAnswer = errors.New("nothing is served in quarantine") }
	}
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	for _, run := range []func(context.Context) error{
		func(ctx context.Context) error { return h.mirror.Run(ctx, []trust.Key{h.key}) },
		h.monitor.Run, h.runner.Run, h.reconcile, h.grow,
	} {
		wg.Go(func() {
			if err := run(ctx); err != nil {
				t.Errorf("run: %v", err)
			}
		})
	}
	h.stop = func() { cancel(); wg.Wait() }
	time.Sleep(10 * time.Second)
	return h
}

func (h *house) components(client *http.Client) []outage.Component {
	probe := func(component string) func(context.Context) error {
		if h.mutation == detectorOff {
			return nil
		}
		if component == "rekor/read" {
			return func(ctx context.Context) error { return h.mirror.Probe(ctx, []trust.Key{h.key}) }
		}
		return func(ctx context.Context) error { return h.ask(ctx, client, component, h.faults.Clock(component)) }
	}
	components := []outage.Component{
		{Name: "rekor/read", Kind: "read", Probe: probe("rekor/read"), Reconciles: true},
		{Name: "rekor/write", Kind: "write", Probe: probe("rekor/write"), Reconciles: true},
		{Name: "tuf", Kind: "tuf", Probe: probe("tuf")},
		{Name: "fulcio", Kind: "service", Probe: probe("fulcio")},
	}
	if h.mutation != detectorOff {
		components[0].GrowsWithin, components[0].Size = grows, func() uint64 { return h.mirror.Tree().State().Head.Size }
	}
	return components
}

// serve is a client of the mirror.
func (h *house) serve(ctx context.Context) (time.Duration, error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	if h.mutation == fallbackOff && h.monitor.Overall() != outage.Live {
		return 0, errors.New("nothing stands in")
	}
	index := h.next.Add(37) % 600
	p, head, fresh, err := h.mirror.InclusionProof(mirror.Ref{Index: index}, 0)
	if err != nil {
		return 0, err
	}
	hashes := make([][]byte, len(p.Hashes))
	for i := range p.Hashes {
		hashes[i] = p.Hashes[i][:]
	}
	root := h.log.Root(head.Size)
	return fresh.CheckpointAge, proof.VerifyInclusion(rfc6962.DefaultHasher, index, head.Size, p.LeafHash[:], hashes, root[:])
}

// reconcile is what ends recovering, after a while.
func (h *house) reconcile(ctx context.Context) error {
	every(ctx, 100*time.Millisecond, func() bool {
		var recovering []string
		for _, s := range h.monitor.Status() {
			switch {
			case logOf(s.Component) != "rekor":
			case s.State == outage.Recovering:
				recovering = append(recovering, s.Component)
			case s.State == outage.Fallback:
				return true
			}
		}
		if len(recovering) == 0 {
			return true
		}
		began := h.now()
		select {
		case <-ctx.Done():
			return false
		case <-time.After(2 * time.Second):
		}
		h.mu.Lock()
		h.reconciled = began
		h.mu.Unlock()
		for _, component := range recovering {
			if err := h.monitor.Reconciled(component); err != nil && !errors.Is(err, outage.ErrNotRecovering) {
				h.t.Errorf("reconciled: %v", err)
			}
		}
		return true
	}, nil)
	return nil
}

func (h *house) grow(ctx context.Context) error {
	every(ctx, 5*time.Second, func() bool { h.log.Grow(h.log.Size() + 2); return true }, nil)
	return nil
}

func (h *house) openScratch() (*storage.DB, func(), error) {
	db, err := storage.Create("scratch", storage.Options{FS: vfs.NewMem(), CacheBytes: 1 << 20})
	if err != nil {
		return nil, nil, err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.scratch++
	return db, func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		h.scratch--
		if err := db.Close(); err != nil {
			h.t.Errorf("close the scratch database: %v", err)
		}
	}, nil
}

// close stops everything, and looks at what is left: every row and record holds together, and so does
// all that the mirror holds.
func (h *house) close() {
	h.t.Helper()
	h.stop()
	report := must[storage.Report](h.t)(h.mirror.Tree().Check(h.t.Context(), storage.CheckOptions{Verify: func(raw []byte) error {
		_, err := trust.Open(raw, origin, []trust.Key{h.key})
		return err
	}}))
	for _, p := range report.Problems {
		h.t.Errorf("check: %v", &p)
	}
	if ev := h.mirror.Tree().State().Evidence; ev != nil {
		h.t.Errorf("the mirror is quarantined: %s", ev.Reason)
	}
	if _, err := ledger.Check(h.db); err != nil {
		h.t.Error(err)
	}
	if h.scratch != 0 {
		h.t.Errorf("%d databases of forks are left", h.scratch)
	}
	if err := h.db.Close(); err != nil {
		h.t.Error(err)
	}
}

// drill runs a drill to its end, and returns its result.
func (h *house) drill(q Request) Result {
	h.t.Helper()
	id := must[string](h.t)(h.runner.Start(h.t.Context(), q))
	return h.wait(id)
}

// wait waits until a drill is over and its place free, and returns its result.
func (h *house) wait(id string) Result {
	h.t.Helper()
	for range 10000 {
		time.Sleep(time.Second)
		if h.runner.Active() == nil {
			for _, res := range h.runner.History(0) {
				if res.ID == id {
					return res
				}
			}
		}
	}
	h.t.Fatalf("drill %s does not end", id)
	panic("unreachable")
}

// events returns the rows about a drill.
func (h *house) events(id string) (events []string) {
	h.t.Helper()
	err := h.ledger.Rows(1, func(r ledger.Row) error {
		var body row
		if r.Kind != "drill" {
			return nil
		}
		if err := r.Decode(&body); err != nil {
			return err
		}
		if body.ID == id {
			events = append(events, body.Event)
		}
		return nil
	})
	if err != nil {
		h.t.Fatal(err)
	}
	return events
}

func request(scenario string) Request {
	return Request{Scenario: scenario, For: time.Minute, Ticket: "OPS-1", By: "ann"}
}
