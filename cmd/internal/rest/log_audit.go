package rest

import (
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"strconv"
	"time"

	"github.com/understudy-log/understudy/log"
	"github.com/understudy-log/understudy/storage"
)

// AuditRow says who appended an entry, and when: a line of what the audit paths answer.
type AuditRow struct {
	Index    uint64    `json:"index"`
	Time     time.Time `json:"time"`
	Identity string    `json:"identity"`
	LeafHash string    `json:"leaf_hash"` // hex
}

// auditPath is where the audit rows of a private log are, for who may operate it.
const auditPath = "/understudy/v1/audit"

// errAuditEnd ends an answer whose reader went away.
var errAuditEnd = errors.New("the reader went away")

// serveAudit answers with the audit rows of the entries [start, end), a JSON object a line.
func serveAudit(find func(r *http.Request) *log.Log, logger *slog.Logger) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		l := find(r)
		if l == nil {
			refuse(w, http.StatusNotFound, "there is no such private log here, or it is not served: \"understudy status\" says why")
			return
		}
		start, end, err := auditRange(r, l.Tree().State().Head.Size)
		if err != nil {
			refuse(w, http.StatusBadRequest, err.Error())
			return
		}
		w.Header().Set("Cache-Control", "no-store")
		w.Header().Set("Content-Type", "application/x-ndjson")
		if err := WriteAudits(l.Tree(), start, end, json.NewEncoder(w).Encode); err != nil {
			if !errors.Is(err, errAuditEnd) {
				logger.Error("audit rows cannot be read; run \"understudy check\"", "log", l.Name(), "error", err)
			}
			panic(http.ErrAbortHandler) // cut off: an answer that just ended would hide the rest
		}
	}
}

// WriteAudits calls write with an AuditRow for each of the entries [start, end).
func WriteAudits(tree *storage.Tree, start, end uint64, write func(any) error) error {
	view := tree.View()
	defer view.Close()
	return view.Audits(start, end, func(index uint64, row []byte) error {
		a, err := log.ParseAudit(row)
		if err != nil {
			return err
		}
		leaf, err := view.LeafHash(index)
		if err != nil {
			return err
		}
		if write(AuditRow{index, time.Unix(a.Time, 0).UTC(), a.Identity, leaf.String()}) != nil {
			return errAuditEnd
		}
		return nil
	})
}

func auditRange(r *http.Request, size uint64) (start, end uint64, err error) {
	end = size
	for _, p := range []struct {
		name  string
		value *uint64
	}{{"start", &start}, {"end", &end}} {
		if text := r.URL.Query().Get(p.name); text != "" {
			if *p.value, err = strconv.ParseUint(text, 10, 64); err != nil {
				return 0, 0, errors.New(p.name + " must be an index")
			}
		}
	}
	return start, min(end, size), nil
}
