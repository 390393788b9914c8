// Package rest serves mirrored logs over HTTP: to everybody the C2SP tlog-tiles
// monitoring prefix of each log (https://c2sp.org/tlog-tiles, at the address that
// https://c2sp.org/tlog-mirror gives it), to the operator an admin handler with
// metrics, health, status, backup and profiles.
//
// It is a thin adapter: what may be served is decided by mirror and storage.
package rest

import (
	"bytes"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/understudy-log/understudy/mirror"
	"github.com/understudy-log/understudy/mirror/trust"
	"github.com/understudy-log/understudy/mirror/trust/publish"
	"github.com/understudy-log/understudy/storage"
	"github.com/understudy-log/understudy/witness"
)

// maxBundles is how many bundles are in memory at once, each up to 16 MiB and
// typically 0.6 MB; further requests wait.
const maxBundles = 64

// keptBuffer is the largest buffer of a bundle that is used again.
const keptBuffer = 4 << 20

// PublicConfig is what NewPublic needs.
type PublicConfig struct {
	Mirrors    func() []*mirror.Mirror // asked for each request: shards appear while the server runs
	Rekor      *mirror.Service         // what is served as Rekor v1; nil if none is mirrored
	RekorLost  bool                    // one is mirrored, and cannot be served
	TUF        *trust.Repository       // what is served at /tuf/; nil if none is mirrored
	Trust      *publish.Publisher      // what is served at /trust/; nil if there is none
	Witness    *witness.Witness        // cosigns; nil if nothing is cosigned
	Logger     *slog.Logger
	Registerer prometheus.Registerer
}

type public struct {
	mirrors func() []*mirror.Mirror
	byHash  sync.Map         // *mirror.Mirror by origin hash, for those that were asked for
	witness *witness.Witness // may be nil
	rekor   string           // name of the service at /api/v1; "" if there is none
	logger  *slog.Logger
	gzip    gzipWriters
	bundles chan struct{} // holds one token per bundle in memory
	buffers sync.Pool     // of *[]byte, for bundles
}

// NewPublic returns the handler for everybody:
//
//	/                                           a page for people
//	/logs                                       what is mirrored, a JSON list of mirror.Status
//	/<origin hash>/checkpoint                   the mirror checkpoint
//	/<origin hash>/tile/<L>/<N>[.p/<W>]         hash tiles
//	/<origin hash>/tile/entries/<N>[.p/<W>]     entry bundles
//	/api/v1/                                    Rekor v1's API for reading; see rekor.go
//	/tuf/<file>, /tuf/targets/<hash>.<name>     the copy of the TUF repository
//	/trust/<file>, and so on                    the TUF repository of our own
//	/witness/add-checkpoint                     the witness (POST); see witness.go
//	/witness/<origin hash>/checkpoint           what it cosigned last
//
// Everything else answers GET and HEAD. A client with more than 512 requests under way
// gets 429.
func NewPublic(c PublicConfig) http.Handler {
	var service rekorService // nil, not a nil *mirror.Service
	if c.Rekor != nil {
		service = c.Rekor
	}
	return newPublic(c, service)
}

func newPublic(c PublicConfig, service rekorService) http.Handler {
	p := &public{
		mirrors: c.Mirrors,
		witness: c.Witness,
		logger:  c.Logger,
		bundles: make(chan struct{}, maxBundles),
	}
	mux := http.NewServeMux()
	for i, handle := range []http.HandlerFunc{p.index, p.logs, p.checkpoint, p.tile} {
		mux.HandleFunc("GET "+routes[i], handle)
	}
	paths := routes[:]
	if service == nil {
		answer := noRekor
		if c.RekorLost {
			answer = lostRekor
		}
		mux.HandleFunc("/api/v1", answer)
		mux.HandleFunc("/api/v1/", answer)
	} else {
		p.rekor = service.Name()
		newRekorAPI(service, c.Logger, mux)
		paths = append(paths, rekorPaths()...)
	}
	logs := mux
	mux = http.NewServeMux() // one mux cannot know that no log has the hash "tuf"
	mux.Handle("/", logs)
	if c.TUF != nil {
		mux.HandleFunc("/tuf/{path...}", serveTUF("/tuf/", c.TUF))
		paths = append(paths, "/tuf/{path...}")
	}
	if c.Trust != nil {
		mux.HandleFunc("/trust/{path...}", serveTUF("/trust/", c.Trust))
		paths = append(paths, "/trust/{path...}")
	}
	if c.Witness != nil {
		handleWitness(mux, c.Witness, c.Logger, submitTime)
		paths = append(paths, witnessPaths...)
	}
	return countRequests(c.Registerer, paths, limitRequests(newLimiter(maxRequests), mux))
}

// routes are the paths that are served, as metrics name them; beside them rekorRoutes.
var routes = [...]string{"/{$}", "/logs", "/{log}/checkpoint", "/{log}/tile/{path...}"}

func (p *public) logs(w http.ResponseWriter, _ *http.Request) {
	writeJSON(w, http.StatusOK, p.statuses())
}

func (p *public) statuses() []mirror.Status {
	mirrors := p.mirrors()
	statuses := make([]mirror.Status, len(mirrors))
	for i, m := range mirrors {
		statuses[i] = m.Status()
		statuses[i].Damage = nil // names files and sources, which are the operator's
	}
	return statuses
}

// find returns the mirror that a request names, or nil.
func (p *public) find(r *http.Request) *mirror.Mirror {
	if r.URL.RawPath != "" { // an escape, which none of our paths needs
		return nil
	}
	originHash := r.PathValue("log")
	if m, ok := p.byHash.Load(originHash); ok {
		return m.(*mirror.Mirror)
	}
	for _, m := range p.mirrors() {
		if mirror.OriginHash(m.Origin()) == originHash {
			p.byHash.Store(originHash, m)
			return m
		}
	}
	return nil
}

func (p *public) checkpoint(w http.ResponseWriter, r *http.Request) {
	m := p.find(r)
	if m == nil {
		refuse(w, http.StatusNotFound, "no such log here; see /logs")
		return
	}
	mirrored := m.Tree().State().Mirrored
	if mirrored.Raw == nil {
		refuse(w, http.StatusNotFound, "the copy of this log is not complete yet; entries and tiles held so far are served")
		return
	}
	freshness := m.Freshness()
	age := max(0, time.Since(mirrored.LastSeen))
	h := w.Header()
	h.Set("Understudy-Source", freshness.Source)
	h.Set("Understudy-Upstream-State", freshness.UpstreamState)
	h.Set("Understudy-Checkpoint-Age", strconv.FormatInt(int64(age.Seconds()), 10))
	// SPEC: the checkpoint MUST be served as text/plain; charset=utf-8. Its headers
	// SHOULD prevent caching beyond a few seconds.
	h.Set("Content-Type", "text/plain; charset=utf-8")
	h.Set("Cache-Control", "public, max-age=1")
	// SPEC: "The mirror checkpoint MUST include the cosignature of the mirror" (tlog-mirror); a
	// cosigner signs a moment after the last entry is durable, and only whole copies.
	mirrored.Raw = m.AsServed(mirrored)
	w.Write(append(bytes.Clone(mirrored.Raw), p.witness.Cosignatures(m.Origin(), mirrored)...))
}

func (p *public) tile(w http.ResponseWriter, r *http.Request) {
	m := p.find(r)
	path, ok := parseTilePath(r.PathValue("path"))
	if m == nil || !ok {
		refuse(w, http.StatusNotFound, "no such tile; see https://c2sp.org/tlog-tiles")
		return
	}
	if path.entries {
		p.bundle(w, r, m, path)
		return
	}
	view := m.Tree().View()
	data, err := view.Tile(path.level, path.index, path.width)
	view.Close()
	if err != nil {
		p.refuseError(w, r, err)
		return
	}
	setImmutable(w.Header())
	w.Header().Set("Content-Length", strconv.Itoa(len(data)))
	w.Write(data)
}

func (p *public) bundle(w http.ResponseWriter, r *http.Request, m *mirror.Mirror, path tilePath) {
	select {
	case p.bundles <- struct{}{}:
		defer func() { <-p.bundles }()
	case <-r.Context().Done():
		return
	}
	buffer, ok := p.buffers.Get().(*[]byte)
	if !ok {
		buffer = new([]byte)
	}
	view := m.Tree().View()
	data, err := view.AppendBundle((*buffer)[:0], path.index, path.width)
	view.Close()
	if *buffer = data; cap(data) <= keptBuffer {
		defer p.buffers.Put(buffer)
	}
	if err != nil {
		p.refuseError(w, r, err)
		return
	}
	setImmutable(w.Header())
	p.gzip.write(w, r, data)
}

// setImmutable sets the headers of tiles and bundles.
// SPEC: tiles and bundles are application/octet-stream; they are immutable, so their
// caching headers SHOULD be long-lived.
func setImmutable(h http.Header) {
	h.Set("Content-Type", "application/octet-stream")
	h.Set("Cache-Control", "public, max-age=31536000, immutable")
}

// refuseError is the one table from errors of storage to HTTP.
func (p *public) refuseError(w http.ResponseWriter, r *http.Request, err error) {
	if errors.Is(err, storage.ErrNotHeld) {
		refuse(w, http.StatusNotFound, "beyond what is held")
		return
	}
	if errors.Is(err, storage.ErrBelowMinimum) {
		refuse(w, http.StatusNotFound, "below the minimum index; see /logs")
		return
	}
	if oversized, ok := errors.AsType[*storage.OversizedEntryError](err); ok {
		refuse(w, http.StatusNotImplemented, oversized.Error()+"; get its entries over gRPC")
		return
	}
	p.logger.Error("request cannot be answered", "path", r.URL.Path, "error", err)
	refuse(w, http.StatusInternalServerError, "stored data is damaged, and is put back as soon as a source has it; ask again in a minute, or another server")
}

// refuse answers with an error that no cache keeps.
func refuse(w http.ResponseWriter, code int, text string) {
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(code)
	w.Write([]byte(text + "\n"))
}

func writeJSON(w http.ResponseWriter, code int, v any) {
	data, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		refuse(w, http.StatusInternalServerError, err.Error())
		return
	}
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	w.Write(append(data, '\n'))
}
