package main

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/understudy-log/understudy/mirror"
	"github.com/understudy-log/understudy/mirror/outage"
)

// components are the parts of the upstreams whose states are kept.
func (k *desk) components() (all []outage.Component) {
	defer func() { k.watch(all) }()
	for _, f := range k.d.followers() {
		all = append(all, k.componentsOf(f)...)
	}
	if k.d.tuf != nil {
		all = append(all, outage.Component{Name: "tuf", Kind: "tuf", Probe: k.probeTUF})
	}
	for _, service := range []struct{ name, url, path string }{
		{"fulcio", k.d.config.Outage.Probes.Fulcio, "/api/v2/configuration"},
		{"tsa", k.d.config.Outage.Probes.TSA, "/api/v1/timestamp/certchain"},
		{"ct_log", k.d.config.Outage.Probes.CTLog, "/ct/v1/get-sth"},
	} {
		if service.url == "" {
			continue
		}
		address := strings.TrimSuffix(strings.TrimRight(service.url, "/"), "/api/v1/timestamp") + service.path
		client := k.client(service.name, service.url)
		all = append(all, outage.Component{Name: service.name, Kind: "service", Probe: func(ctx context.Context) error {
			_, err := fetch(ctx, client, address, k.d.config.Contact)
			return coded(err)
		}})
	}
	return all
}

// componentsOf are those of one log: its read path, and its write path if it has one. Of a log whose tree is damaged
// nobody follows the read path, which would be called live, or away, for ever; and nobody could reconcile it.
func (k *desk) componentsOf(f *follower) (all []outage.Component) {
	name := f.config.Name
	read := outage.Component{Name: name + "/read", Kind: "read", Reconciles: true, GrowsWithin: time.Duration(f.config.GrowsWithin), Size: f.size, Ended: f.ended}
	switch {
	case f.mirror != nil:
		read.Probe = func(ctx context.Context) error { return coded(f.mirror.Probe(ctx, k.d.logKeys(f.config.Origin))) }
		all = append(all, read)
	case f.service != nil:
		read.Probe = func(ctx context.Context) error { return coded(f.service.Probe(ctx)) }
		all = append(all, read)
	}
	if address := f.config.writeURL(); address != "" {
		write := outage.Component{Name: name + "/write", Kind: "write", Reconciles: f.followed()}
		w := &writeProbe{client: k.client(write.Name, address), address: address + "/log/entries", v1: f.config.isService(), contact: k.d.config.Contact, entry: k.d.config.Outage.WriteProbe == writeProbeEntry}
		if w.v1 {
			w.address = address + "/api/v1/log/entries"
		}
		if k.d.config.Outage.WriteProbe != writeProbeOff {
			write.Probe = func(ctx context.Context) error {
				if f.ended() {
					return nil // nobody proposes anything to it any more, so that it takes nothing is no outage
				}
				return coded(w.ask(ctx))
			}
		}
		all = append(all, write)
	}
	return all
}

// watch keeps components, for who asks one of them past its states.
func (k *desk) watch(all []outage.Component) {
	for _, c := range all {
		k.watched.Store(c.Name, c)
	}
}

// size is how many entries upstream has shown, of all shards.
func (f *follower) size() (n uint64) {
	for _, m := range f.mirrors() {
		n += m.Tree().State().Pending.Size
	}
	return n
}

// ended says whether upstream has ended the log with all its shards, and everything else is in order.
func (f *follower) ended() bool {
	mirrors := f.mirrors()
	return len(mirrors) > 0 && !slices.ContainsFunc(mirrors, func(m *mirror.Mirror) bool {
		return m.Freshness().UpstreamState != mirror.UpstreamFrozen
	})
}

// client is one for an upstream, whose way a drill may break.
func (k *desk) client(component, address string) *http.Client {
	host := ""
	if u, err := url.Parse(address); err == nil {
		host = u.Host
	}
	return mirror.NewClient(func(base http.RoundTripper) http.RoundTripper {
		return &passable{base: base, disturbed: k.faults.Transport(func(r *http.Request) string {
			if r.URL.Host == host {
				return component
			}
			return "" // a copy of the log, or where a redirection leads
		}, base)}
	})
}

// passable is a way to an upstream that a drill may disturb, with a way past the drill.
type passable struct{ base, disturbed http.RoundTripper }

// RoundTrip sends a request.
func (p *passable) RoundTrip(r *http.Request) (*http.Response, error) {
	if pastDrills(r.Context()) {
		return p.base.RoundTrip(r)
	}
	return p.disturbed.RoundTrip(r)
}

// CloseIdleConnections is for http.Client.
func (p *passable) CloseIdleConnections() { (&http.Client{Transport: p.base}).CloseIdleConnections() }

type pastDrillsKey struct{}

// pastDrills says whether what is asked must not be disturbed.
func pastDrills(ctx context.Context) bool { return ctx.Value(pastDrillsKey{}) != nil }

// reading is the client for the read path of a log: what fails of it is seen. Log info and checkpoints are
// left out, which probes and polls tell of, and of a Rekor v1 service all that clients ask for: what they ask
// for may be what fails.
func (k *desk) reading(log LogConfig) *http.Client {
	component := log.Name + "/read"
	client := k.client(component, log.URL)
	client.Transport = &observing{
		next: client.Transport,
		counts: func(r *http.Request) bool {
			path := r.URL.Path
			return (!log.isService() || strings.HasSuffix(path, "/log/proof")) && !strings.HasSuffix(path, "/checkpoint") && strings.HasPrefix(r.URL.String(), log.URL)
		},
		seen: func(started time.Time, err error) { k.observe(component, started, err) },
	}
	return client
}

// observing tells what went wrong with requests, if it goes on. What goes well is not told, so one request of many
// that fails says nothing: beside a few probes it would look like all of them.
type observing struct {
	next   http.RoundTripper
	counts func(r *http.Request) bool
	seen   func(started time.Time, err error)

	mu   sync.Mutex
	good time.Time // when the last one that went well was answered
	bad  bool      // one has failed since
}

// RoundTrip sends a request.
func (o *observing) RoundTrip(r *http.Request) (*http.Response, error) {
	started := time.Now()
	response, err := o.next.RoundTrip(r)
	switch {
	case !o.counts(r):
	case err != nil && r.Context().Err() != nil:
	case err != nil:
		o.failed(started, err)
	case response.StatusCode >= 500 || response.StatusCode == http.StatusTooManyRequests:
		o.failed(started, &mirror.StatusError{Code: response.StatusCode})
	default:
		o.mu.Lock()
		defer o.mu.Unlock()
		o.good, o.bad = time.Now(), false
	}
	return response, err
}

// failed tells of a request that failed, unless others have gone well since it began, or right before.
func (o *observing) failed(started time.Time, err error) {
	o.mu.Lock()
	alone := started.Before(o.good) || !o.bad && !o.good.IsZero()
	o.bad = o.bad || !started.Before(o.good)
	o.mu.Unlock()
	if !alone {
		o.seen(started, err)
	}
}

// observe tells the monitor of something that went well, or not; before there is one, nobody.
func (k *desk) observe(component string, started time.Time, err error) {
	if k.monitor != nil {
		k.monitor.Observe(component, outage.Observation{Started: started, Took: time.Since(started), Err: coded(err)})
	}
}

// polls are the looks at one upstream.
type polls struct {
	mu      sync.Mutex
	started time.Time // of the last one that ended
	err     error
	changed chan struct{}
}

func newPolls() *polls { return &polls{changed: make(chan struct{})} }

// told takes note of a look.
func (p *polls) told(started time.Time, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.started, p.err = started, err
	close(p.changed)
	p.changed = make(chan struct{})
}

// next has upstream looked at, and returns what became of that.
func (p *polls) next(ctx context.Context, poll func()) error {
	asked := time.Now()
	for {
		p.mu.Lock()
		started, err, changed := p.started, p.err, p.changed
		p.mu.Unlock()
		if started.After(asked) {
			return err
		}
		poll()
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-changed:
		case <-time.After(5 * time.Second):
		}
	}
}

// pollsOf are the looks at a log, which the monitor is told of.
func (k *desk) pollsOf(log LogConfig) func(started time.Time, err error) {
	p := newPolls()
	k.pollsMu.Lock()
	k.polls[log.Name] = p
	k.pollsMu.Unlock()
	return func(started time.Time, err error) {
		p.told(started, err)
		k.observe(log.Name+"/read", started, err)
	}
}

// poll has a log looked at now.
func (f *follower) poll() {
	switch {
	case f.mirror != nil:
		f.mirror.Poll()
	case f.service != nil:
		f.service.Poll()
	}
}

// unreachable has answers of a log not called live.
func (f *follower) unreachable() {
	switch {
	case f.mirror != nil:
		f.mirror.Unreachable()
	case f.service != nil:
		f.service.Unreachable()
	}
}

// clientClosed is what rekor-tiles answers when it has taken too long for the one who asks.
const clientClosed = 499

// maxProbed bounds the answer to a probe.
const maxProbed = 4 << 20

// fetch reads what is at an address; the error of another status than 200 has it.
func fetch(ctx context.Context, client *http.Client, address, contact string) ([]byte, error) {
	return roundTrip(ctx, client, http.MethodGet, address, contact, nil)
}

func roundTrip(ctx context.Context, client *http.Client, method, address, contact string, body []byte) ([]byte, error) {
	r, err := http.NewRequestWithContext(ctx, method, address, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	r.Header.Set("User-Agent", mirror.UserAgent(contact))
	if body != nil {
		r.Header.Set("Content-Type", "application/json")
	}
	reply, err := client.Do(r)
	if err != nil {
		return nil, err
	}
	defer reply.Body.Close()
	data, err := io.ReadAll(io.LimitReader(reply.Body, maxProbed))
	if err != nil {
		return nil, err
	}
	if reply.StatusCode != http.StatusOK {
		return data, mirror.NewStatusError(reply)
	}
	return data, nil
}

// probeTUF asks for the timestamp of the TUF repository, and whether clients would take it by its age.
func (k *desk) probeTUF(ctx context.Context) error {
	data, err := fetch(ctx, k.tufClient, k.d.config.tufURL()+"/timestamp.json", k.d.config.Contact)
	if err != nil {
		return coded(err)
	}
	var timestamp struct {
		Signed struct {
			Expires time.Time `json:"expires"`
		} `json:"signed"`
	}
	switch err := json.Unmarshal(data, &timestamp); {
	case err != nil:
		return &mirror.FormatError{Problem: "timestamp.json is not metadata of TUF: " + err.Error()}
	case !timestamp.Signed.Expires.After(k.tufNow(ctx)):
		return outage.Coded(outage.CodeExpired, fmt.Errorf("the timestamp of the TUF repository expired at %s", timestamp.Signed.Expires.UTC().Format(time.RFC3339)))
	}
	return nil
}

// outageCodes are the codes of causes by the problems of mirrors, where these say more than the error.
var outageCodes = map[string]string{
	mirror.ProblemRollback: outage.CodeRollback, mirror.ProblemFork: outage.CodeFork,
	mirror.ProblemSignature: outage.CodeSignature, mirror.ProblemOrigin: outage.CodeSignature,
	mirror.ProblemTile: outage.CodeMalformed, mirror.ProblemBundle: outage.CodeMalformed, mirror.ProblemMalformed: outage.CodeMalformed,
	mirror.ProblemInconsistent: outage.CodeMalformed, mirror.ProblemEntry: outage.CodeMalformed, mirror.ProblemShard: outage.CodeMalformed,
}

// coded gives an error of following a log the code of its cause.
func coded(err error) error {
	if errors.Is(err, context.DeadlineExceeded) {
		return outage.Coded(outage.CodeTimeout, errors.New("no answer in time"))
	}
	if code := outageCodes[mirror.ProblemOf(err)]; err != nil && code != "" {
		return outage.Coded(code, err)
	}
	return err
}

// tufNow is the time by which TUF metadata expires; a drill may shift it.
func (k *desk) tufNow(ctx context.Context) time.Time {
	if pastDrills(ctx) {
		return time.Now()
	}
	return time.Now().Add(k.faults.Clock("tuf"))
}

// writeProbe asks the write path of a log whether it works.
type writeProbe struct {
	client           *http.Client
	address, contact string
	v1, entry        bool

	mu  sync.Mutex
	key *ecdsa.PrivateKey // of the entries; made once
}

// ask proposes what is no entry, and expects that it is refused; or an entry, and expects that it is taken.
func (w *writeProbe) ask(ctx context.Context) error {
	body := []byte("{}")
	if w.entry {
		var err error
		if body, err = w.proposal(); err != nil {
			return err
		}
	}
	data, err := roundTrip(ctx, w.client, http.MethodPost, w.address, w.contact, body)
	status, answered := errors.AsType[*mirror.StatusError](err)
	switch {
	case !answered && err == nil:
		return &mirror.FormatError{Problem: "a log answered a proposal with 200, which no log does: look at what stands before it"}
	case !answered:
		return err
	case w.entry && (status.Code == http.StatusCreated || status.Code == http.StatusConflict):
		return nil
	case !w.entry && (status.Code == http.StatusBadRequest || status.Code == http.StatusUnprocessableEntity):
		return nil
	case status.Code >= clientClosed || status.Code == http.StatusTooManyRequests:
		return err
	}
	return &mirror.FormatError{Problem: fmt.Sprintf("a log answered a proposal with %d (%.80s): look at write_url, and at what stands before the log", status.Code, bytes.TrimSpace(data))}
}

// proposal is an entry that nobody has logged before.
func (w *writeProbe) proposal() ([]byte, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.key == nil {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			return nil, err
		}
		w.key = key
	}
	var random [32]byte
	rand.Read(random[:])
	digest := sha256.Sum256(random[:])
	signature, err := ecdsa.SignASN1(rand.Reader, w.key, digest[:])
	if err != nil {
		return nil, err
	}
	spki, err := x509.MarshalPKIXPublicKey(w.key.Public())
	if err != nil {
		return nil, err
	}
	if w.v1 {
		return hashedRekordV1(digest, signature, pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: spki}))
	}
	return hashedRekordV2(digest, signature, spki)
}
