package rest

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"runtime"
	"slices"
	"strconv"
	"strings"

	"github.com/understudy-log/understudy/cmd/internal/private"
	"github.com/understudy-log/understudy/log/rekor"
	"github.com/understudy-log/understudy/mirror"
	"github.com/understudy-log/understudy/storage"
)

// rekorService is a *mirror.Service, or what tests put in its place.
type rekorService interface {
	Name() string
	Shards() ([]mirror.Shard, error)
	PublicKey(ctx context.Context, treeID uint64) (pem []byte, err error)
	Consistency(ctx context.Context, client mirror.Client, treeID, first, last uint64) ([]storage.Hash, storage.Hash, error)
	Entry(ctx context.Context, client mirror.Client, ref mirror.EntryRef) (rekor.Item, mirror.Freshness, error)
	Entries(ctx context.Context, client mirror.Client, refs []mirror.EntryRef) ([]rekor.Item, mirror.Freshness, error)
	Search(ctx context.Context, client mirror.Client, q rekor.Query) (mirror.SearchResult, mirror.Freshness, error)
}

// rekorAPI serves Rekor v1's API for reading as rekor-server 1.5.4 does: the same paths,
// parameters, checks in the same order, status codes, JSON and error texts. Where it
// differs, on purpose:
//
//   - what is not known is 503, with a reason, and never 404;
//   - HEAD is answered where GET is;
//   - a mirror takes nothing in: POST log/entries is 405, for ever;
//   - request bodies are bounded;
//   - a UUID with the tree ID 0 is a bad request (400), not an error of the server (500).
type rekorAPI struct {
	service             rekorService
	private             *private.V1 // takes entries in; nil: it is a mirror
	logger              *slog.Logger
	mux                 *http.ServeMux
	bodies              costly
	proposals, searches costly
}

const (
	mediaJSON = "application/json"
	mediaPEM  = "application/x-pem-file"
)

// rekorRoutes are the patterns of rekorAPI, in the order of its handlers.
var rekorRoutes = [...]string{
	"GET /api/v1/log",
	"GET /api/v1/log/publicKey",
	"GET /api/v1/log/proof",
	"GET /api/v1/log/entries",
	"GET /api/v1/log/entries/{entryUUID}",
	"POST /api/v1/log/entries/retrieve",
	"POST /api/v1/index/retrieve",
	"POST /api/v1/log/entries",
	"GET /ping",
}

// rekorPaths are the paths of rekorRoutes, each once.
func rekorPaths() []string {
	var paths []string
	for _, route := range rekorRoutes {
		if _, path, _ := strings.Cut(route, " "); !slices.Contains(paths, path) {
			paths = append(paths, path)
		}
	}
	return paths
}

func newRekorAPI(service rekorService, logger *slog.Logger, mux *http.ServeMux) *rekorAPI {
	p := &rekorAPI{service: service, logger: logger, mux: mux, bodies: newCostly(maxLargeBodies, maxClientLarge, "large requests"),
		proposals: newCostly(runtime.GOMAXPROCS(0), maxClientProposals, "proposed entries"), searches: newCostly(maxSearches, maxClientSearches, "searches")}
	for i, handle := range [len(rekorRoutes)]http.HandlerFunc{
		p.logInfo, p.publicKey, p.proof, p.entryByIndex, p.entryByUUID, p.retrieve, p.search, p.write, p.ping,
	} {
		mux.HandleFunc(rekorRoutes[i], p.serve(handle))
	}
	for _, path := range []string{"/api/v1", "/api/v1/"} {
		mux.HandleFunc(path, p.serve(p.other))
	}
	return p
}

// noRekor answers in place of a rekorAPI.
func noRekor(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Cache-Control", "no-store")
	refuseRekor(w, http.StatusNotFound, "no Rekor v1 service is mirrored here; /logs names the logs that are")
}

// lostRekor answers for a service that is mirrored, and that cannot be served.
func lostRekor(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Cache-Control", "no-store")
	writeRekor(w, http.StatusServiceUnavailable, mediaJSON, rekorError{Code: http.StatusServiceUnavailable,
		Message: "what is stored of the mirrored service cannot be used; its operator finds the reason in the log", Reason: mirror.ReasonDamaged}.json())
}

// serve sets the headers that every answer has.
func (p *rekorAPI) serve(next http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Cache-Control", "no-store")
		h.Set("X-Content-Type-Options", "nosniff")
		// What is public may be read by the web pages of any site. A private log may not: a page that
		// its operator's browser shows would read it over loopback.
		if p.private == nil {
			if h.Set("Vary", "Origin"); r.Header.Get("Origin") != "" {
				h.Set("Access-Control-Allow-Origin", "*")
			}
		}
		next(w, r)
	}
}

// shardInfo is a shard as Rekor describes it; the order of the fields is Rekor's.
type shardInfo struct {
	RootHash       string `json:"rootHash"`
	SignedTreeHead string `json:"signedTreeHead"`
	TreeID         string `json:"treeID"`
	TreeSize       uint64 `json:"treeSize"`
}

func (p *rekorAPI) logInfo(w http.ResponseWriter, r *http.Request) {
	if !accepts(w, r, mediaJSON) {
		return
	}
	shards, err := p.service.Shards()
	if err != nil {
		p.refuse(w, r, err)
		return
	}
	var info struct {
		InactiveShards []shardInfo `json:"inactiveShards"` // null if there are none
		shardInfo
	}
	for _, s := range shards {
		described := shardInfo{hex.EncodeToString(s.Head.Root[:]), string(s.Checkpoint), strconv.FormatUint(s.TreeID, 10), s.Head.Size}
		if !s.Active {
			info.InactiveShards = append(info.InactiveShards, described)
			continue
		}
		info.shardInfo = described
		setShardFreshness(w.Header(), s)
	}
	if info.TreeID == "" {
		p.refuse(w, r, errors.New("no shard is active"))
		return
	}
	writeRekorJSON(w, http.StatusOK, info)
}

func (p *rekorAPI) publicKey(w http.ResponseWriter, r *http.Request) {
	media := negotiate(r.Header.Values("Accept"), mediaPEM, mediaJSON)
	if media == "" {
		refuseMedia(w, mediaPEM, mediaJSON)
		return
	}
	text, err := treeIDParameter(r.URL.Query())
	if err != nil {
		refuseInvalid(w, err)
		return
	}
	var treeID uint64
	if text != "" {
		if treeID = parseTreeID(text); treeID == 0 {
			refuseKey(w, media)
			return
		}
	}
	pem, err := p.service.PublicKey(r.Context(), treeID)
	if refusal, ok := errors.AsType[*mirror.Refusal](err); ok && (refusal.Kind == mirror.NotFound || refusal.Kind == mirror.Invalid) {
		setFreshness(w.Header(), refusal.Freshness)
		refuseKey(w, media)
		return
	}
	if err != nil {
		p.refuse(w, r, err)
		return
	}
	if media == mediaJSON { // a string, as rekor-server has it
		writeRekorJSON(w, http.StatusOK, string(pem))
		return
	}
	writeRekor(w, http.StatusOK, mediaPEM, pem)
}

// refuseKey answers that there is no such tree: in the media type that was asked for,
// as rekor-server does.
func refuseKey(w http.ResponseWriter, media string) {
	writeRekor(w, http.StatusBadRequest, media, refused(http.StatusBadRequest, http.StatusText(http.StatusBadRequest)).json())
}

func (p *rekorAPI) proof(w http.ResponseWriter, r *http.Request) {
	if !accepts(w, r, mediaJSON) {
		return
	}
	q, err := proofParameters(r.URL.Query())
	if err != nil {
		refuseInvalid(w, err)
		return
	}
	if q.first > q.last {
		refuseRekor(w, http.StatusBadRequest, fmt.Sprintf("firstSize(%d) must be less than lastSize(%d)", q.first, q.last))
		return
	}
	shards, err := p.service.Shards()
	if err != nil {
		p.refuse(w, r, err)
		return
	}
	var treeID uint64
	if q.treeID != "" {
		if treeID = parseTreeID(q.treeID); treeID == 0 && strings.Trim(q.treeID, "0") != "" {
			refuseRekor(w, http.StatusBadRequest, "invalid tree ID specified: "+q.treeID)
			return
		}
	}
	i := slices.IndexFunc(shards, func(s mirror.Shard) bool {
		return s.TreeID == treeID || q.treeID == "" && s.Active
	})
	if i >= 0 {
		setShardFreshness(w.Header(), shards[i])
	} else if q.treeID != "" && treeID == 0 { // which stands for the active shard below, but is no tree
		refuseRekor(w, http.StatusBadRequest, "no log range found for tree ID 0")
		return
	}
	hashes, root, err := p.service.Consistency(r.Context(), clientID(r), treeID, q.first, q.last)
	if refusal, ok := errors.AsType[*mirror.Refusal](err); ok && (refusal.Kind == mirror.NotFound || refusal.Kind == mirror.Invalid) {
		text := refusal.Text
		if i < 0 {
			text = fmt.Sprintf("no log range found for tree ID %d", treeID)
		} else if size := shards[i].Head.Size; q.last > size {
			text = fmt.Sprintf("the tree size requested(%d) was greater than what is currently observable(%d)", q.last, size)
		}
		setFreshness(w.Header(), refusal.Freshness)
		refuseRekor(w, http.StatusBadRequest, text)
		return
	}
	if err != nil {
		p.refuse(w, r, err)
		return
	}
	out := append(make([]byte, 0, 100+67*len(hashes)), `{"hashes":[`...)
	for i := range hashes {
		if i > 0 {
			out = append(out, ',')
		}
		out = append(hex.AppendEncode(append(out, '"'), hashes[i][:]), '"')
	}
	out = hex.AppendEncode(append(out, `],"rootHash":"`...), root[:])
	writeRekor(w, http.StatusOK, mediaJSON, append(out, "\"}\n"...))
}

func (p *rekorAPI) entryByIndex(w http.ResponseWriter, r *http.Request) {
	if !accepts(w, r, mediaJSON) {
		return
	}
	index, err := indexParameter(r.URL.Query())
	if err != nil {
		refuseInvalid(w, err)
		return
	}
	p.entry(w, r, mirror.EntryRef{Index: index})
}

func (p *rekorAPI) entryByUUID(w http.ResponseWriter, r *http.Request) {
	if !accepts(w, r, mediaJSON) {
		return
	}
	text := r.PathValue("entryUUID")
	if !isUUID(text) {
		refuseInvalid(w, failedPattern("entryUUID in path", uuidPattern))
		return
	}
	uuid, err := rekor.ParseUUID(text)
	if err != nil { // it has the form of one, but no tree ID
		refuseRekor(w, http.StatusBadRequest, "validation error: "+text[:16]+" is not a valid TreeID")
		return
	}
	p.entry(w, r, mirror.EntryRef{UUID: &uuid})
}

func (p *rekorAPI) entry(w http.ResponseWriter, r *http.Request, ref mirror.EntryRef) {
	item, freshness, err := p.service.Entry(r.Context(), clientID(r), ref)
	if err != nil {
		p.refuse(w, r, err)
		return
	}
	data, err := rekor.MarshalItem(item)
	if err != nil {
		p.refuse(w, r, err)
		return
	}
	setFreshness(w.Header(), freshness)
	writeRekor(w, http.StatusOK, mediaJSON, append(data, '\n'))
}

func (p *rekorAPI) retrieve(w http.ResponseWriter, r *http.Request) {
	refs, err := p.readRefs(w, r)
	if err != nil {
		refuseInvalid(w, err)
		return
	}
	var items []rekor.Item
	if len(refs) > 0 {
		var freshness mirror.Freshness
		if items, freshness, err = p.service.Entries(r.Context(), clientID(r), refs); err != nil {
			p.refuse(w, r, err)
			return
		}
		setFreshness(w.Header(), freshness)
	}
	out := []byte{'['}
	for i, item := range items {
		data, err := rekor.MarshalItem(item)
		if err != nil {
			p.refuse(w, r, err)
			return
		}
		if i > 0 {
			out = append(out, ',')
		}
		out = append(out, data...)
	}
	writeRekor(w, http.StatusOK, mediaJSON, append(out, "]\n"...))
}

func (p *rekorAPI) search(w http.ResponseWriter, r *http.Request) {
	query, any, err := p.readQuery(w, r)
	if err != nil {
		refuseInvalid(w, err)
		return
	}
	uuids := []string{}
	if any {
		if err := p.searches.enter(r); err != nil {
			refuseInvalid(w, err)
			return
		}
		defer p.searches.leave(r)
		found, freshness, err := p.service.Search(r.Context(), clientID(r), query)
		if err != nil {
			p.refuse(w, r, err)
			return
		}
		for _, uuid := range found.UUIDs {
			uuids = append(uuids, uuid.String())
		}
		setFreshness(w.Header(), freshness)
		w.Header().Set("Understudy-Index-Covered", covered(found.Covered))
	}
	writeRekorJSON(w, http.StatusOK, uuids)
}

// covered is the text form of what a search has seen: a list (RFC 9651, section 3.1) of
// origins, each with the range [start, end) of its tree that the index covers and the
// number of chosen entries in the index beside that range.
func covered(ranges []mirror.IndexRange) string {
	var out []byte
	for i, c := range ranges {
		if i > 0 {
			out = append(out, ", "...)
		}
		out = strconv.AppendQuoteToASCII(out, c.Origin)
		out = fmt.Appendf(out, ";start=%d;end=%d;pinned=%d", c.Start, c.End, c.Pinned)
	}
	return string(out)
}

// write takes a new entry, or refuses it without a look at the body.
func (p *rekorAPI) write(w http.ResponseWriter, r *http.Request) {
	if p.private != nil {
		p.append(w, r)
		return
	}
	w.Header().Set("Allow", "GET, HEAD")
	refuseRekor(w, http.StatusMethodNotAllowed, "this is a mirror of Rekor and takes no entries; write to Rekor itself, or to a private log at its own address")
}

// ping is rekor-server's check that it runs; it says nothing about the log.
func (p *rekorAPI) ping(w http.ResponseWriter, _ *http.Request) {
	writeRekor(w, http.StatusOK, "text/plain", []byte{'.'})
}

// other answers what no pattern with a method takes.
func (p *rekorAPI) other(w http.ResponseWriter, r *http.Request) {
	path := strings.TrimRight(r.URL.Path, "/")
	var allowed []string
	for _, method := range []string{http.MethodGet, http.MethodPost} {
		probe := &http.Request{Method: method, URL: &url.URL{Path: path}}
		if _, pattern := p.mux.Handler(probe); strings.HasPrefix(pattern, method+" ") {
			if allowed = append(allowed, method); method == http.MethodGet {
				allowed = append(allowed, http.MethodHead)
			}
		}
	}
	switch {
	case allowed == nil:
		refuseRoute(w, http.StatusNotFound, "path "+r.URL.EscapedPath()+" was not found")
	case p.private == nil && r.Method == http.MethodOptions && r.Header.Get("Access-Control-Request-Method") != "":
		// Rekor lets web pages of any origin read it.
		w.Header().Set("Access-Control-Allow-Methods", "GET, HEAD, POST")
		w.Header().Set("Access-Control-Allow-Headers", "Accept, Content-Type, X-Requested-With")
		w.WriteHeader(http.StatusNoContent)
	case slices.Contains(allowed, r.Method): // but for a slash at the end, which Rekor does not mind
		r.URL.Path, r.URL.RawPath = path, ""
		p.mux.ServeHTTP(w, r)
	default:
		w.Header().Set("Allow", strings.Join(allowed, ", "))
		refuseRoute(w, http.StatusMethodNotAllowed, fmt.Sprintf("method %s is not allowed, but [%s] are", r.Method, strings.Join(allowed, ",")))
	}
}

// clientID is who misses are counted for.
func clientID(r *http.Request) mirror.Client { return mirror.Client(clientOf(r.RemoteAddr).String()) }

// writeRekorJSON writes v as rekor-server does: HTML is not escaped, a newline ends it.
func writeRekorJSON(w http.ResponseWriter, code int, v any) {
	var out bytes.Buffer
	e := json.NewEncoder(&out)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		panic("rest: marshal answer: " + err.Error()) // our own types
	}
	writeRekor(w, code, mediaJSON, out.Bytes())
}

func writeRekor(w http.ResponseWriter, code int, media string, data []byte) {
	w.Header().Set("Content-Type", media)
	w.Header().Set("Content-Length", strconv.Itoa(len(data)))
	w.WriteHeader(code)
	w.Write(data) // a failure is the client's: it went away
}
