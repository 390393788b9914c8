package rest

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strconv"
	"time"

	"github.com/understudy-log/understudy/witness"
)

// submitTime is how long a client may take to send a checkpoint.
const submitTime = 10 * time.Second

// witnessStatus is the one table from refusals of the witness to HTTP.
var witnessStatus = map[witness.Why]int{
	witness.UnknownOrigin: http.StatusNotFound,
	witness.Forbidden:     http.StatusForbidden,
	witness.Malformed:     http.StatusBadRequest,
	witness.Conflict:      http.StatusConflict,
	witness.Inconsistent:  http.StatusUnprocessableEntity,
	witness.Unavailable:   http.StatusServiceUnavailable,
}

// witnessPaths are the paths of the witness, as metrics name them.
var witnessPaths = []string{"/witness/add-checkpoint", "/witness/{log}/checkpoint"}

// handleWitness serves the witness (https://c2sp.org/tlog-witness) below /witness/, which is both
// its submission prefix and its monitoring prefix. patience is how long a request may take to arrive.
func handleWitness(mux *http.ServeMux, w *witness.Witness, logger *slog.Logger, patience time.Duration) {
	mux.HandleFunc("/witness/", func(w http.ResponseWriter, _ *http.Request) {
		refuse(w, http.StatusNotFound, "the witness has add-checkpoint and <origin hash>/checkpoint; see https://c2sp.org/tlog-witness")
	})
	mux.HandleFunc(witnessPaths[0], func(rw http.ResponseWriter, r *http.Request) {
		// SPEC: "The request MUST be an HTTP POST."
		if r.Method != http.MethodPost {
			rw.Header().Set("Allow", http.MethodPost)
			refuse(rw, http.StatusMethodNotAllowed, "add-checkpoint is a POST; see https://c2sp.org/tlog-witness")
			return
		}
		addCheckpoint(rw, r, w, logger, patience)
	})
	mux.HandleFunc("GET "+witnessPaths[1], func(rw http.ResponseWriter, r *http.Request) {
		raw := w.CosignedByHash(r.PathValue("log"))
		// SPEC: "If the witness has never cosigned a checkpoint for that log, it MUST respond with a
		// "404 Not Found" HTTP status code instead."
		if raw == nil || r.URL.RawPath != "" {
			refuse(rw, http.StatusNotFound, "this witness has cosigned no checkpoint of such a log")
			return
		}
		rw.Header().Set("Content-Type", "text/plain; charset=utf-8")
		rw.Header().Set("Cache-Control", "public, max-age=1")
		rw.Write(raw)
	})
}

func addCheckpoint(rw http.ResponseWriter, r *http.Request, w *witness.Witness, logger *slog.Logger, patience time.Duration) {
	control := http.NewResponseController(rw)
	if err := control.SetReadDeadline(time.Now().Add(patience)); err != nil && !errors.Is(err, http.ErrNotSupported) {
		logger.Debug("no time limit for a request", "error", err)
	}
	body, err := io.ReadAll(http.MaxBytesReader(rw, r.Body, witness.MaxRequest))
	if _, large := errors.AsType[*http.MaxBytesError](err); large {
		refuse(rw, http.StatusRequestEntityTooLarge, fmt.Sprintf("a checkpoint and its proof take less than %d bytes", witness.MaxRequest))
		return
	}
	if err != nil {
		refuse(rw, http.StatusRequestTimeout, fmt.Sprintf("the checkpoint did not arrive within %v", patience))
		return
	}
	lines, err := w.AddCheckpoint(body)
	refusal, refused := errors.AsType[*witness.Refusal](err)
	switch {
	case refused && refusal.Why == witness.Conflict:
		// SPEC: "The response body MUST consist of the tree size of the latest cosigned checkpoint
		// in decimal, followed by a newline (U+000A). The response MUST have a Content-Type of
		// text/x.tlog.size."
		rw.Header().Set("Content-Type", "text/x.tlog.size")
		rw.Header().Set("Cache-Control", "no-store")
		rw.WriteHeader(http.StatusConflict)
		io.WriteString(rw, strconv.FormatUint(refusal.Size, 10)+"\n")
	case refused:
		if refusal.Why == witness.Unavailable {
			rw.Header().Set("Retry-After", "5")
		}
		refuse(rw, witnessStatus[refusal.Why], refusal.Text)
	case err != nil:
		logger.Error("a checkpoint was not cosigned", "error", err)
		refuse(rw, http.StatusInternalServerError, "the checkpoint could not be stored, and is not cosigned; try again, or tell the operator")
	default:
		rw.Header().Set("Content-Type", "text/plain; charset=utf-8")
		rw.Header().Set("Cache-Control", "no-store")
		rw.Write(lines)
	}
}
