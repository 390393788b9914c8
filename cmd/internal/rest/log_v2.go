package rest

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"runtime"
	"strconv"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/understudy-log/understudy/cmd/internal/access"
	"github.com/understudy-log/understudy/cmd/internal/private"
	"github.com/understudy-log/understudy/log"
	"github.com/understudy-log/understudy/log/rekor"
	"github.com/understudy-log/understudy/storage"
)

// maxV2Body bounds a request: an entry has at most 65,535 bytes, and a request is not much longer.
const maxV2Body = 128 << 10

// LogV2Config is what NewLogV2 needs.
type LogV2Config struct {
	Log    *private.V2
	Access *access.Control
	// GRPC serves calls of gRPC at the same address; rpc.NewRekorV2 makes it.
	GRPC       http.Handler
	Logger     *slog.Logger
	Registerer prometheus.Registerer
}

type logV2 struct {
	log     *private.V2
	logger  *slog.Logger
	working chan struct{} // has a token per proposal that is verified
	gzip    gzipWriters
}

// logV2Paths are what NewLogV2 serves, as metrics name them.
var logV2Paths = []string{"/api/v2/log/entries", "/api/v2/checkpoint", "/api/v2/tile/{path...}", auditPath}

// NewLogV2 returns the handler of the private log's second generation, as rekor-tiles 2.3.0 and the
// file server beside it answer:
//
//	POST /api/v2/log/entries         201 with the entry, its proof and a checkpoint
//	GET  /api/v2/checkpoint          the published checkpoint
//	GET  /api/v2/tile/<L>/<N>…       tiles, and entry bundles under tile/entries
//	GET  /understudy/v1/audit        who appended what, for who may operate the log
//	GET  /healthz                    for everybody, without a token
//	gRPC dev.sigstore.rekor.v2.Rekor
//
// A duplicate gets the entry of the first time, with 201: the real server answers 409, and its clients
// can do nothing with that.
func NewLogV2(c LogV2Config) http.Handler {
	p := &logV2{log: c.Log, logger: c.Logger, working: make(chan struct{}, runtime.GOMAXPROCS(0))}
	mux := http.NewServeMux()
	mux.Handle("POST /api/v2/log/entries", c.Access.Require(access.Append, http.HandlerFunc(p.append)))
	mux.Handle("GET /api/v2/checkpoint", c.Access.Require(access.Read, http.HandlerFunc(p.checkpoint)))
	mux.Handle("GET /api/v2/tile/{path...}", c.Access.Require(access.Read, http.HandlerFunc(p.tile)))
	mux.Handle("GET "+auditPath, c.Access.Require(access.Operate, serveAudit(func(*http.Request) *log.Log { return c.Log.Log() }, c.Logger)))
	mux.Handle("/", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		refuseV2(w, http.StatusNotFound, codeNotFound, "there is nothing at "+r.URL.EscapedPath())
	}))
	grpc := c.Access.Require(access.Append, c.GRPC)
	guarded := c.Access.Guard(refuseV2Access, countRequestsOf(c.Registerer, "log_v2", logV2Paths, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case access.IsGRPC(r) && strings.HasPrefix(r.URL.Path, "/grpc.health.v1.Health/"): // of any role, and no entry
			c.GRPC.ServeHTTP(w, r)
		case access.IsGRPC(r):
			grpc.ServeHTTP(w, r)
		default:
			mux.ServeHTTP(w, r)
		}
	})))
	return openly("/healthz", mediaJSON, `{"status":"SERVING"}`, guarded)
}

// refuseV2 answers as the gateway of rekor-tiles does.
func refuseV2(w http.ResponseWriter, status int, code grpcCode, text string) {
	data, err := json.Marshal(struct {
		Code    grpcCode `json:"code"`
		Message string   `json:"message"`
		Details []any    `json:"details"`
	}{code, text, []any{}})
	if err != nil {
		panic("rest: marshal error: " + err.Error()) // a string and a number
	}
	w.Header().Set("Cache-Control", "no-store")
	writeRekor(w, status, mediaJSON, data)
}

// v2Codes are the codes of gRPC that stand in the body of a refusal, by HTTP status.
var v2Codes = map[int]grpcCode{
	http.StatusBadRequest:            codeInvalidArgument,
	http.StatusUnauthorized:          codeUnauthenticated,
	http.StatusForbidden:             codePermissionDenied,
	http.StatusRequestEntityTooLarge: codeInvalidArgument,
	http.StatusTooManyRequests:       codeResourceExhausted,
	http.StatusServiceUnavailable:    codeUnavailable,
	http.StatusInternalServerError:   codeInternal,
	http.StatusRequestTimeout:        codeDeadlineExceeded,
	statusClientClosed:               codeCanceled,
}

func refuseV2Access(w http.ResponseWriter, _ *http.Request, status int, text string) {
	code, ok := v2Codes[status]
	if !ok {
		code = codeUnknown
	}
	refuseV2(w, status, code, text)
}

func (p *logV2) append(w http.ResponseWriter, r *http.Request) {
	if err := p.log.Admit(); err != nil {
		p.refuseAppend(w, r, err)
		return
	}
	request, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxV2Body))
	if err != nil {
		e := rekorError{Code: http.StatusBadRequest, Message: "the request could not be read"}
		errors.As(bodyError("request", err), &e)
		refuseV2Access(w, r, e.status(), e.Message)
		return
	}
	select {
	case p.working <- struct{}{}:
	case <-r.Context().Done():
		refuseV2Access(w, r, statusClientClosed, clientClosed.Message)
		return
	}
	proposal, err := rekor.ProposeV2(request)
	<-p.working
	if err != nil {
		status := http.StatusBadRequest
		if input, ok := errors.AsType[*rekor.InputError](err); ok {
			status = input.Status
		}
		refuseV2Access(w, r, status, err.Error())
		return
	}
	identity, _ := access.FromContext(r.Context())
	ctx, cancel := context.WithTimeout(r.Context(), appendTime)
	defer cancel()
	entry, _, err := p.log.Append(ctx, identity.Name, request, proposal)
	if err != nil {
		p.refuseAppend(w, r, err)
		return
	}
	data, err := protojson.MarshalOptions{EmitUnpopulated: true}.Marshal(entry) // so has the real server
	if err != nil {
		p.refuseAppend(w, r, err)
		return
	}
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("X-Log-Index", strconv.FormatInt(entry.GetLogIndex(), 10))
	writeRekor(w, http.StatusCreated, mediaJSON, data)
}

func (p *logV2) refuseAppend(w http.ResponseWriter, r *http.Request, err error) {
	if r.Context().Err() == context.Canceled {
		refuseV2Access(w, r, statusClientClosed, clientClosed.Message)
		return
	}
	status, reason := refusalOf(w, err, p.logger)
	w.Header().Set("Understudy-Reason", string(reason))
	refuseV2Access(w, r, status, reason.Text())
}

func (p *logV2) checkpoint(w http.ResponseWriter, r *http.Request) {
	c := p.log.Log().Published()
	if c.Raw == nil {
		refuse(w, http.StatusNotFound, "no checkpoint is published since the log was started, because too few witnesses answer; try again soon")
		return
	}
	h := w.Header()
	h.Set("Content-Type", "text/plain; charset=utf-8")
	h.Set("Cache-Control", "no-cache") // "public" would let a cache serve what only some may read
	w.Write(c.Raw)
}

func (p *logV2) tile(w http.ResponseWriter, r *http.Request) {
	path, ok := parseTilePath(r.PathValue("path"))
	if !ok || r.URL.RawPath != "" {
		refuse(w, http.StatusNotFound, "no such tile; see https://c2sp.org/tlog-tiles")
		return
	}
	// What is durable and not yet published is no one's: tiles end where the checkpoint does.
	last := (path.index*fullWidth + uint64(path.width) - 1) // of the level below
	if !path.entries {
		if path.level*8 >= 64 || last >= p.log.Log().Published().Size>>(8*path.level) {
			refuse(w, http.StatusNotFound, "beyond what is published")
			return
		}
	} else if last >= p.log.Log().Published().Size {
		refuse(w, http.StatusNotFound, "beyond what is published")
		return
	}
	view := p.log.Log().Tree().View()
	defer view.Close()
	var data []byte
	var err error
	if path.entries {
		data, err = view.Bundle(path.index, path.width)
	} else {
		data, err = view.Tile(path.level, path.index, path.width)
	}
	if errors.Is(err, storage.ErrNotHeld) {
		refuse(w, http.StatusNotFound, "beyond what is published")
		return
	}
	if err != nil {
		p.logger.Error("a tile cannot be read", "path", r.URL.Path, "error", err)
		refuse(w, http.StatusInternalServerError, "what is stored is damaged; the log's operator finds the reason in its log")
		return
	}
	h := w.Header()
	h.Set("Content-Type", "application/octet-stream")
	h.Set("Cache-Control", "private, max-age=31536000, immutable")
	if path.entries {
		p.gzip.write(w, r, data)
		return
	}
	h.Set("Content-Length", strconv.Itoa(len(data)))
	w.Write(data)
}
