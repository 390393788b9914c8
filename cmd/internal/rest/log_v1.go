package rest

import (
	"context"
	"encoding/json"
	"log/slog"
	"net/http"
	"runtime"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/understudy-log/understudy/cmd/internal/access"
	"github.com/understudy-log/understudy/cmd/internal/private"
	"github.com/understudy-log/understudy/log"
	"github.com/understudy-log/understudy/log/rekor"
)

// appendTime is how long a client waits for a receipt: less than the 30 seconds that rekor's and
// sigstore's clients have patience for, so that they get the reason.
const appendTime = 25 * time.Second

// LogV1Config is what NewLogV1 needs.
type LogV1Config struct {
	Log        *private.V1
	Access     *access.Control
	Logger     *slog.Logger
	Registerer prometheus.Registerer
}

// NewLogV1 returns the handler of the private log's first generation: all of Rekor v1's API, of
// which a mirror serves the part that reads. Proposals are bounded as those of a mirror are, and what
// one identity may have under way is bounded by access.
func NewLogV1(c LogV1Config) http.Handler {
	mux := http.NewServeMux()
	p := newRekorAPI(c.Log, c.Logger, mux)
	p.private = c.Log
	mux.HandleFunc("/", p.serve(p.other))
	mux.Handle("GET "+auditPath, c.Access.Require(access.Operate, serveAudit(func(*http.Request) *log.Log { return c.Log.Log() }, c.Logger)))
	p.bodies = newCostly(maxLargeBodies, maxRequests, "large requests")
	p.proposals = newCostly(runtime.GOMAXPROCS(0), maxRequests*8, "proposed entries")
	h := http.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		// other takes a path with slashes at its end for the one without.
		switch path := strings.TrimRight(r.URL.Path, "/"); {
		case path == auditPath: // who may see it is asked there
			mux.ServeHTTP(w, r)
		case r.Method == http.MethodPost && path == "/api/v1/log/entries":
			c.Access.Require(access.Append, mux).ServeHTTP(w, r)
		default:
			c.Access.Require(access.Read, mux).ServeHTTP(w, r)
		}
	}))
	guarded := c.Access.Guard(refuseRekorAccess, countRequestsOf(c.Registerer, "log_v1", append(rekorPaths(), auditPath), h))
	return openly("/ping", "text/plain", ".", guarded)
}

// refuseRekorAccess refuses in the shape of Rekor's API.
func refuseRekorAccess(w http.ResponseWriter, _ *http.Request, status int, text string) {
	w.Header().Set("Cache-Control", "no-store")
	refuseRekor(w, status, text)
}

// append logs a proposed entry.
func (p *rekorAPI) append(w http.ResponseWriter, r *http.Request) {
	if !accepts(w, r, mediaJSON) {
		return
	}
	if err := p.private.Admit(); err != nil {
		p.refuseAppend(w, r, err)
		return
	}
	var proposed json.RawMessage
	var proposal *rekor.Proposal
	err := p.readBody(w, r, "proposedEntry", &proposed, func() (err error) {
		if err = p.proposals.enter(r); err != nil {
			return err
		}
		defer p.proposals.leave(r)
		proposal, err = rekor.Propose(r.Context(), proposed)
		return err
	})
	if err != nil {
		refuseProposal(w, err)
		return
	}
	identity, _ := access.FromContext(r.Context())
	ctx, cancel := context.WithTimeout(r.Context(), appendTime)
	defer cancel()
	item, duplicate, err := p.private.Append(ctx, identity.Name, proposed, proposal)
	if err != nil {
		p.refuseAppend(w, r, err)
		return
	}
	uuid := item.UUID.String()
	w.Header().Set("Location", "/api/v1/log/entries/"+uuid)
	if duplicate {
		// Rekor's clients take the entry from there: it has the receipt of the first time.
		refuseRekor(w, http.StatusConflict, "an equivalent entry already exists in the transparency log with UUID "+uuid)
		return
	}
	data, err := rekor.MarshalItem(item)
	if err != nil {
		p.refuse(w, r, err)
		return
	}
	w.Header()["ETag"] = []string{uuid} // not quoted: so has Rekor
	writeRekor(w, http.StatusCreated, mediaJSON, append(data, '\n'))
}

// refuseProposal answers a request whose entry is not good.
func refuseProposal(w http.ResponseWriter, err error) {
	if input, ok := err.(*rekor.InputError); ok {
		err = refused(input.Status, input.Error())
	}
	refuseInvalid(w, err)
}

func (p *rekorAPI) refuseAppend(w http.ResponseWriter, r *http.Request, err error) {
	if r.Context().Err() == context.Canceled {
		clientClosed.write(w)
		return
	}
	status, reason := refusalOf(w, err, p.logger)
	rekorError{Code: status, Message: reason.Text(), Reason: string(reason), Line: true}.write(w)
}
