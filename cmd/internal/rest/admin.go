package rest

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"net/http/pprof"
	"net/netip"
	"path/filepath"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/understudy-log/understudy/log"
	"github.com/understudy-log/understudy/mirror"
	"github.com/understudy-log/understudy/mirror/trust"
	"github.com/understudy-log/understudy/storage"
	"github.com/understudy-log/understudy/witness"
	"github.com/understudy-log/understudy/witness/archive"
)

// AdminConfig is what NewAdmin needs; every field is.
type AdminConfig struct {
	Status func() Status
	Backup func(dir string) error // storage.DB.Backup
	// Pin pins the entries that a file names: it tells how many these are, and then what became
	// of each; an error of either ends it.
	Pin func(ctx context.Context, file []byte, count func(entries int) error, each func(PinResult) error) error
	// Archive makes evidence packs; nil: none are made.
	Archive  *archive.Archive
	Gatherer prometheus.Gatherer
	// Private returns a generation of the private log, v1 or v2; nil if it is not there, or not served.
	Private func(name string) *log.Log
	// Outage is the operator's part about outages; nil: none are looked for.
	Outage *OutageConfig
	// OutageLost is why none are looked for, though the configuration asks for that.
	OutageLost string
	Logger     *slog.Logger
}

// Status is what /status answers and "understudy status --json" prints.
type Status struct {
	Version      string          `json:"version"`
	DataDir      string          `json:"data_dir"` // absolute
	Running      bool            `json:"running"`  // false: read from the data directory of a stopped daemon
	StorageBytes uint64          `json:"storage_bytes"`
	Logs         []mirror.Status `json:"logs"`
	// TUF is the copy of the TUF repository; nil if none is configured.
	TUF *trust.RepositoryStatus `json:"tuf,omitempty"`
	// Trust is the TUF repository of our own; nil if none is configured.
	Trust *TrustStatus `json:"trust,omitempty"`
	// Witness is the state of the witness; nil if nothing is cosigned.
	Witness *witness.Status `json:"witness,omitempty"`
	// Archive is the state of the evidence packs; nil if none are made.
	Archive *archive.Status `json:"archive,omitempty"`
	// Private is the private log, by generation; none: there is no such log.
	Private []PrivateStatus `json:"private_log,omitempty"`
	// Outage is the state of the upstreams; nil if nobody looks.
	Outage *OutageStatus `json:"outage,omitempty"`
}

// PrivateStatus is the state of one generation of the private log.
type PrivateStatus struct {
	Name   string `json:"name"` // v1 or v2
	Origin string `json:"origin"`
	URL    string `json:"url"`
	// Since is when it was made: verifiers trust it from then on. Zero: that cannot be read.
	Since time.Time `json:"since"`
	Size  uint64    `json:"size"` // entries that are durable
	// Published and Root are of the published checkpoint; PublishedAt is when it was signed, or
	// signed again; nil: none is published since the start.
	Published   uint64     `json:"published_size"`
	Root        string     `json:"published_root"`
	PublishedAt *time.Time `json:"published_at,omitempty"`
	// Problem is why it does not publish as it should, or is not served at all.
	Problem   *log.Problem   `json:"problem,omitempty"`
	Witnesses []WitnessOfLog `json:"witnesses,omitempty"`
}

// WitnessOfLog is a witness that is asked to cosign the private log.
type WitnessOfLog struct {
	Name    string `json:"name"`
	URL     string `json:"url,omitempty"`
	Size    uint64 `json:"size"`              // of the newest checkpoint that it cosigned since the start
	Failure string `json:"failure,omitempty"` // why it did not when it was last asked
}

// TrustStatus is the state of the TUF repository of our own.
type TrustStatus struct {
	trust.RepositoryStatus

	// Behind says that the copy of Sigstore's has another TrustedRoot than the one that was signed:
	// it has to be signed again.
	Behind bool `json:"behind"`
}

// BackupRequest is the body of POST /backup.
type BackupRequest struct {
	DataDir string `json:"data_dir"` // absolute; must be the one that this daemon serves
	Dir     string `json:"dir"`      // absolute; must not exist; on the machine of the daemon
}

// PinRequest is the body of POST /pin.
type PinRequest struct {
	DataDir string `json:"data_dir"` // absolute; must be the one that this daemon serves
	File    []byte `json:"file"`     // a bundle, or a list of UUIDs
}

// PinCount begins the answer to a PinRequest: as many PinResults follow, one a line, each as soon
// as it is there. With fewer, the answer was cut off.
type PinCount struct {
	Entries int `json:"entries"`
}

// PinResult is what became of one entry of a file.
type PinResult struct {
	UUID   string `json:"uuid,omitempty"`
	Index  uint64 `json:"index,omitempty"`  // virtual
	Before bool   `json:"before,omitempty"` // it was held already
	Linked bool   `json:"linked,omitempty"` // its checkpoint is tied to an archived one
	Error  string `json:"error,omitempty"`  // why it is not pinned
	Wrong  bool   `json:"wrong,omitempty"`  // it is not pinned because it does not verify
}

// NewAdmin returns the handler for the operator; whoever can reach it can fill the
// disk with backups:
//
//	/metrics        Prometheus metrics
//	/healthz        200 while the process works
//	/readyz         200 once every log has a verified checkpoint to serve, and the private log one that is published
//	/status         Status
//	/backup         POST a BackupRequest
//	/pin            POST a PinRequest, get a PinCount and as many PinResults, one a line
//	/log/audit      AuditRow of each entry of the private log ?log=v1 or v2, from ?start= to before ?end=
//	/packs          archive.PackStatus of each evidence pack
//	/pack           POST a PackRequest: make one now, or hold one
//	/debug/pprof/   profiles
func NewAdmin(c AdminConfig) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(c.Gatherer, promhttp.HandlerOpts{}))
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		writeJSON(w, http.StatusOK, map[string]string{"status": "ok"})
	})
	mux.HandleFunc("GET /readyz", c.ready)
	mux.HandleFunc("GET /status", func(w http.ResponseWriter, _ *http.Request) {
		status := c.Status()
		if c.Outage != nil {
			outage := c.Outage.status()
			status.Outage = &outage
		}
		writeJSON(w, http.StatusOK, status)
	})
	mux.HandleFunc("POST /backup", c.backup)
	mux.HandleFunc("POST /pin", c.pin)
	mux.HandleFunc("GET /log/audit", serveAudit(func(r *http.Request) *log.Log { return c.Private(r.URL.Query().Get("log")) }, c.Logger))
	mux.HandleFunc("GET /packs", c.packs)
	mux.HandleFunc("POST /pack", c.pack)
	c.outage(mux)
	mux.HandleFunc("GET /debug/pprof/", pprof.Index)
	mux.HandleFunc("GET /debug/pprof/cmdline", pprof.Cmdline)
	mux.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("GET /debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("GET /debug/pprof/trace", pprof.Trace)
	return sameMachine(mux)
}

// sameMachine refuses what a browser asks for after it was told that some site is this machine (DNS rebinding): it
// sends the name of that site. Who listens for other machines is asked by many names.
func sameMachine(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		local, _ := r.Context().Value(http.LocalAddrContextKey).(net.Addr)
		if local != nil && isLoopback(local.String()) && !isOwnName(r.Host) {
			refuse(w, http.StatusForbidden, "this is the address of the daemon's operator, on its own machine: ask 127.0.0.1 or localhost")
			return
		}
		next.ServeHTTP(w, r)
	})
}

func isLoopback(address string) bool {
	at, err := netip.ParseAddrPort(address)
	return err == nil && at.Addr().Unmap().IsLoopback()
}

// OwnName is what "understudy" calls the daemon that it asks.
const OwnName = "daemon"

func isOwnName(host string) bool {
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	_, err := netip.ParseAddr(strings.Trim(host, "[]"))
	return err == nil || host == "localhost" || host == OwnName
}

// ready answers 200, or 503 with the reason for each log that has nothing to serve.
func (c AdminConfig) ready(w http.ResponseWriter, _ *http.Request) {
	missing := map[string]string{}
	status := c.Status()
	for _, p := range status.Private {
		if p.PublishedAt == nil && p.Problem != nil {
			missing["private log "+p.Name] = p.Problem.Text
		}
	}
	for _, log := range status.Logs {
		if log.HasCheckpoint {
			continue
		}
		missing[log.Name] = "no checkpoint has been verified yet"
		if log.Problem != nil {
			missing[log.Name] = log.Problem.Text
		}
	}
	if len(missing) > 0 {
		writeJSON(w, http.StatusServiceUnavailable, map[string]any{"status": "not ready", "logs": missing})
		return
	}
	writeJSON(w, http.StatusOK, map[string]string{"status": "ready"})
}

func (c AdminConfig) backup(w http.ResponseWriter, r *http.Request) {
	var request BackupRequest
	if !c.read(w, r, 64<<10, &request, func() string { return request.DataDir }) {
		return
	}
	if !filepath.IsAbs(request.Dir) {
		refuse(w, http.StatusBadRequest, "dir must be an absolute path")
		return
	}
	err := c.Backup(request.Dir)
	switch {
	case err == nil:
		writeJSON(w, http.StatusOK, map[string]string{"dir": request.Dir})
	case errors.Is(err, storage.ErrExists), errors.Is(err, fs.ErrExist):
		refuse(w, http.StatusConflict, err.Error()+BackupHint)
	default:
		refuse(w, http.StatusInternalServerError, err.Error())
	}
}

// BackupHint is what to do if there is something already where a backup should be.
const BackupHint = "; name another folder: a backup is never written over"

// PackRequest is the body of POST /pack.
type PackRequest struct {
	DataDir string `json:"data_dir"` // absolute; must be the one that this daemon serves
	// Make makes a pack of what there is now; else the legal hold of pack Number is set, or lifted.
	Make   bool   `json:"make,omitempty"`
	Number uint64 `json:"number,omitempty"`
	Hold   bool   `json:"hold,omitempty"`
}

// PackAnswer is the answer to a PackRequest.
type PackAnswer struct {
	Number uint64 `json:"number"`
}

const noArchive = "no evidence packs are made here: \"archive\" is not in the configuration"

func (c AdminConfig) packs(w http.ResponseWriter, _ *http.Request) {
	if c.Archive == nil {
		refuse(w, http.StatusNotFound, noArchive)
		return
	}
	writeJSON(w, http.StatusOK, c.Archive.Packs())
}

func (c AdminConfig) pack(w http.ResponseWriter, r *http.Request) {
	var request PackRequest
	if !c.read(w, r, 64<<10, &request, func() string { return request.DataDir }) {
		return
	}
	if c.Archive == nil {
		refuse(w, http.StatusNotFound, noArchive)
		return
	}
	number, err := request.Number, error(nil)
	if request.Make {
		number, err = c.Archive.Make(r.Context())
	} else {
		err = c.Archive.Hold(r.Context(), number, request.Hold)
	}
	switch {
	case errors.Is(err, archive.ErrNoPack):
		refuse(w, http.StatusNotFound, err.Error())
	case err != nil:
		refuse(w, http.StatusInternalServerError, err.Error())
	default:
		writeJSON(w, http.StatusOK, PackAnswer{number})
	}
}

// maxPinFile bounds a PinRequest.
const maxPinFile = 96 << 20

func (c AdminConfig) pin(w http.ResponseWriter, r *http.Request) {
	var request PinRequest
	if !c.read(w, r, maxPinFile, &request, func() string { return request.DataDir }) {
		return
	}
	lines, stream, begun := json.NewEncoder(w), http.NewResponseController(w), false
	send := func(v any) error { return errors.Join(lines.Encode(v), stream.Flush()) }
	err := c.Pin(r.Context(), request.File, func(entries int) error {
		begun = true
		w.Header().Set("Content-Type", "application/x-ndjson")
		return send(PinCount{entries})
	}, func(result PinResult) error { return send(result) })
	if err != nil && !begun {
		refuse(w, http.StatusBadRequest, err.Error())
	}
}

// read reads the body of an operator's request, or refuses it. It must be meant for the data
// directory that this daemon serves.
func (c AdminConfig) read(w http.ResponseWriter, r *http.Request, limit int64, request any, dataDir func() string) bool {
	// A web page that the operator has open must not reach this. Browsers send Origin
	// with every POST of a page, also after DNS rebinding, and ask before they send JSON.
	if r.Header.Get("Origin") != "" || r.Header.Get("Sec-Fetch-Site") != "" {
		refuse(w, http.StatusForbidden, "not for browsers; use the understudy command")
		return false
	}
	if r.Header.Get("Content-Type") != "application/json" {
		refuse(w, http.StatusUnsupportedMediaType, "send application/json")
		return false
	}
	body := json.NewDecoder(http.MaxBytesReader(w, r.Body, limit))
	body.DisallowUnknownFields()
	if err := body.Decode(request); err != nil {
		refuse(w, http.StatusBadRequest, "body is not such a request: "+err.Error())
		return false
	}
	if own := c.Status().DataDir; dataDir() != own {
		refuse(w, http.StatusConflict, "this daemon serves "+own+", not "+dataDir()+"; give the configuration of the daemon that is meant")
		return false
	}
	return true
}
