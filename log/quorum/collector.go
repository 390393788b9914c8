package quorum

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"runtime/debug"
	"strings"
	"sync"
	"time"

	checkpoints "github.com/transparency-dev/formats/log"

	"github.com/understudy-log/understudy/storage"
)

const defaultTimeout = 5 * time.Second

// Config says whom a Collector asks.
type Config struct {
	Policy  *Policy       // required
	Name    string        // of the log, for metrics and messages
	Timeout time.Duration // for a round, and for each witness in it; 0: 5 s

	HTTPClient *http.Client // nil: one of our own. Its redirects are not followed
	Contact    string       // somebody to write to, for the User-Agent
	Logger     *slog.Logger // nil discards
	Metrics    *Metrics     // nil counts nothing
}

// Collector asks the witnesses of a policy to cosign the checkpoints of one log: each log needs one
// of its own. Its methods may be called concurrently.
type Collector struct {
	policy    *Policy
	name      string
	timeout   time.Duration
	client    http.Client
	userAgent string
	logger    *slog.Logger
	metrics   *Metrics
	endpoints []*endpoint
	asking    sync.WaitGroup

	mu        sync.Mutex // guards what follows, and that of the endpoints; nobody waits with it held
	closed    bool
	shown     uint64         // the largest size that the witnesses were shown
	text      string         // of the newest checkpoint
	collected map[int]string // its lines, by witness
	statuses  []Status       // by witness
}

// endpoint is where one or more witnesses of the policy are: one witness may have several keys.
type endpoint struct {
	url  string
	name string       // of its first witness
	keys map[int]*key // by witness

	// Collector.mu guards what follows.
	busy   bool               // it is being asked
	cancel context.CancelFunc // ends that
	next   *job               // what it is asked after that
	size   uint64             // what it last cosigned, as far as we know
	ahead  *AheadError        // what it once said and did not take back by cosigning
	until  time.Time          // when it wants to be asked again
}

// job is what a round wants from one endpoint.
type job struct {
	checkpoint storage.Checkpoint
	text       string
	prove      func(old uint64) ([]storage.Hash, error)
	answers    chan<- answer // never full
}

// answer is what became of a job.
type answer struct {
	from  *endpoint
	lines map[int]string
	err   error
}

// New returns a Collector. It asks nobody yet. The error says if the quorum could never be reached.
func New(cfg Config) (*Collector, error) {
	if cfg.Timeout < 0 {
		return nil, errors.New("the time-out for witnesses is negative")
	}
	c := &Collector{
		policy: cfg.Policy, name: cfg.Name, timeout: cfg.Timeout, userAgent: userAgent(cfg.Contact), logger: cfg.Logger, metrics: cfg.Metrics,
		collected: map[int]string{}, statuses: make([]Status, len(cfg.Policy.witnesses)),
	}
	if c.timeout == 0 {
		c.timeout = defaultTimeout
	}
	if c.logger == nil {
		c.logger = slog.New(slog.DiscardHandler)
	}
	if c.metrics == nil {
		c.metrics = NewMetrics(nil)
	}
	if cfg.HTTPClient != nil {
		c.client = *cfg.HTTPClient
	} else {
		transport := http.DefaultTransport.(*http.Transport).Clone()
		transport.MaxResponseHeaderBytes = maxAnswer
		c.client.Transport = transport
	}
	c.client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	if err := c.addEndpoints(); err != nil {
		return nil, err
	}
	c.metrics.watch(c.name, c.policy)
	return c, nil
}

func (c *Collector) addEndpoints() error {
	byURL := map[string]*endpoint{}
	var without []string
	for i, w := range c.policy.witnesses {
		c.statuses[i] = Status{Name: w.name, URL: w.url}
		if w.url == "" {
			c.statuses[i].Failure = "it has no url in the policy, so it is not asked"
			without = append(without, w.name)
			continue
		}
		e, err := newEndpoint(w.url)
		if err != nil {
			return fmt.Errorf("url %q of the witness %s: %w", w.url, w.name, err)
		}
		if byURL[e.url] == nil {
			e.name = w.name
			byURL[e.url] = e
			c.endpoints = append(c.endpoints, e)
		}
		byURL[e.url].keys[i] = w.key
	}
	if !c.policy.satisfied(func(i int) bool { return c.policy.witnesses[i].url != "" }) {
		return fmt.Errorf("the quorum of the policy, %s, can never be reached: %s without a url cannot be asked; add their submission prefixes", c.policy.want(), list(without))
	}
	return nil
}

func userAgent(contact string) string {
	version := "devel"
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		version = strings.Trim(info.Main.Version, "()")
	}
	agent := "understudy/" + version
	if contact != "" {
		agent += " (" + contact + ")"
	}
	return agent
}

// Cosign asks all witnesses at once to cosign a checkpoint, and returns as soon as those that
// cosigned are the quorum: signature lines without newlines, in the order of the policy. Witnesses
// that have not answered then are heard to the end in the background, and told of the newest
// checkpoint after that.
//
// Fresh cosignatures are asked for also when the same checkpoint comes again; the lines of
// before then count for whoever gives none now.
//
// prove returns the consistency proof from old, between 0 and the size of the checkpoint, to the
// checkpoint. It is called by several goroutines, also after Cosign has returned, until Close.
//
// The error is a [*ShortError], with the lines that there are; an [*AheadError], after which nothing
// may be signed; that of ctx; or ErrClosed.
func (c *Collector) Cosign(ctx context.Context, checkpoint storage.Checkpoint, prove func(old uint64) ([]storage.Hash, error)) (lines []string, err error) {
	text, err := checkText(checkpoint)
	if err != nil {
		return nil, err
	}
	began := time.Now()
	deadline := time.NewTimer(c.timeout)
	defer deadline.Stop()
	answers := make(chan answer, len(c.endpoints))
	waiting, err := c.start(ctx, &job{checkpoint, text, prove, answers})
	if err != nil {
		return nil, err
	}
	fresh := map[int]string{}
	var over bool
	for !over && len(waiting) > 0 && !c.enough(fresh) {
		select {
		case a := <-answers:
			delete(waiting, a.from)
			maps.Copy(fresh, a.lines)
			_, over = errors.AsType[*AheadError](a.err)
		case <-deadline.C:
			over = true
		case <-ctx.Done():
			over, err = true, context.Cause(ctx)
		}
	}
	return c.conclude(text, fresh, waiting, err, began)
}

// checkText returns the text of a checkpoint of ours.
func checkText(c storage.Checkpoint) (string, error) {
	text := textOf(c.Raw)
	var parsed checkpoints.Checkpoint
	if _, err := parsed.Unmarshal([]byte(text)); err != nil || parsed.Size != c.Size || !bytes.Equal(parsed.Hash, c.Root[:]) {
		return "", errors.New("what is to be cosigned is no checkpoint, or not of the tree that it is said to be of")
	}
	return text, nil
}

// start hands a job to all endpoints, and returns those that may answer it.
func (c *Collector) start(ctx context.Context, j *job) (waiting map[*endpoint]bool, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil, ErrClosed
	}
	if j.checkpoint.Size < c.shown {
		return nil, fmt.Errorf("a checkpoint of size %d is older than one of size %d, which witnesses were shown already", j.checkpoint.Size, c.shown)
	}
	c.shown = j.checkpoint.Size
	if c.text != j.text {
		c.text, c.collected = j.text, map[int]string{}
	}
	waiting = map[*endpoint]bool{}
	for _, e := range c.endpoints {
		switch {
		case e.busy:
			if e.next != nil {
				e.next.answers <- answer{e, nil, fail(resultUnreachable, "a newer checkpoint came in between")}
			}
			e.next = j
		case time.Now().Before(e.until):
			continue
		default:
			e.busy = true
			c.asking.Add(1)
			go c.work(context.WithoutCancel(ctx), e, j) // Close waits for it, and ends it
		}
		waiting[e] = true
	}
	return waiting, nil
}

// wasShown reports whether witnesses were shown a tree of this size already, or a larger one. One that
// is asked at two addresses may know it before the slower of the two is through with an older one.
func (c *Collector) wasShown(size uint64) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return size <= c.shown
}

// work asks an endpoint until there is nothing more to ask it.
func (c *Collector) work(ctx context.Context, e *endpoint, j *job) {
	defer c.asking.Done()
	for j != nil {
		ctx, cancel := context.WithTimeout(ctx, c.timeout)
		c.mu.Lock()
		e.cancel = cancel
		if c.closed {
			cancel()
		}
		old := e.size
		c.mu.Unlock()

		began := time.Now()
		lines, size, err := c.ask(ctx, e, j, old)
		cancel()
		for i := range e.keys {
			c.metrics.waited(c.name, c.policy.witnesses[i], time.Since(began))
		}

		c.mu.Lock()
		e.size = size
		c.recordLocked(e, j, lines, err)
		j.answers <- answer{e, lines, err}
		j, e.next = e.next, nil
		if c.closed && j != nil {
			j.answers <- answer{e, nil, ErrClosed}
			j = nil
		}
		e.busy = j != nil
		c.mu.Unlock()
	}
}

// enough reports whether the witnesses of lines are the quorum.
func (c *Collector) enough(lines map[int]string) bool {
	return c.policy.satisfied(func(i int) bool { return lines[i] != "" })
}

// conclude returns what a round has come to. waiting are those that did not answer.
func (c *Collector) conclude(text string, lines map[int]string, waiting map[*endpoint]bool, cause error, began time.Time) ([]string, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.text == text {
		fresh := lines
		lines = maps.Clone(c.collected)
		maps.Copy(lines, fresh)
	}
	var ordered []string
	have := map[int]bool{}
	for i := range c.policy.witnesses {
		if lines[i] != "" {
			ordered = append(ordered, lines[i])
			have[i] = true
		}
	}
	for _, e := range c.endpoints {
		if e.ahead != nil {
			c.metrics.round(c.name, "ahead", time.Since(began))
			return nil, e.ahead
		}
	}
	switch {
	case c.enough(lines):
		c.metrics.round(c.name, "reached", time.Since(began))
		return ordered, nil
	case cause != nil:
		return ordered, cause
	case c.closed:
		return ordered, ErrClosed
	}
	c.metrics.round(c.name, "short", time.Since(began))
	short := &ShortError{Have: c.policy.names(have), Want: c.policy.want(), Witnesses: c.statusesLocked()}
	for e := range waiting {
		for i := range e.keys {
			short.Witnesses[i].Failure = c.silent()
		}
	}
	return ordered, short
}

// Close ends what is under way, and waits until it has ended.
func (c *Collector) Close() {
	c.mu.Lock()
	c.closed = true
	for _, e := range c.endpoints {
		if e.cancel != nil {
			e.cancel()
		}
	}
	c.mu.Unlock()
	c.asking.Wait()
	c.client.CloseIdleConnections()
}
