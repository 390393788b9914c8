package synthetic

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/go-openapi/runtime"
	"github.com/go-openapi/strfmt"
	"github.com/sigstore/rekor/pkg/generated/models"
)

// The kinds of resource that RekorV1 serves, and Other.
const (
	LogInfo       Kind = Other << (1 + iota) // GET  /api/v1/log
	LogKey                                   // GET  /api/v1/log/publicKey
	LogProof                                 // GET  /api/v1/log/proof
	EntryByIndex                             // GET  /api/v1/log/entries
	EntryByUUID                              // GET  /api/v1/log/entries/{uuid}
	RetrieveEntry                            // POST /api/v1/log/entries/retrieve
	RetrieveIndex                            // POST /api/v1/index/retrieve

	anyEntry = EntryByIndex | EntryByUUID | RetrieveEntry
)

// maxV1Request is how much of a request's body is read.
const maxV1Request = 32 << 20

// ServeHTTP answers like rekor-server 1.5.4, unless it was told to misbehave.
func (s *RekorV1) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(io.LimitReader(r.Body, maxV1Request))
	if err != nil {
		panic(http.ErrAbortHandler) // the client is gone
	}
	r.Body = io.NopCloser(bytes.NewReader(body)) // AnsweredBy reads it again
	q := Request{At: time.Now(), Path: r.URL.RequestURI(), UserAgent: r.UserAgent(), Kind: v1Kind(r)}
	s.mu.Lock()
	s.requests = append(s.requests, q)
	faults := s.faults
	s.mu.Unlock()

	a := s.answer(q.Kind, r, body)
	for _, fault := range faults {
		fault(q, &a)
	}
	if a.Serve != nil {
		a.Serve(w, r)
		return
	}
	for name, values := range a.Header {
		w.Header()[name] = values
	}
	w.WriteHeader(a.Status)
	w.Write(a.Body)
}

func v1Kind(r *http.Request) Kind {
	path := strings.TrimPrefix(r.URL.Path, "/api/v1/")
	rest, isEntry := strings.CutPrefix(path, "log/entries/")
	switch get, post := r.Method == http.MethodGet, r.Method == http.MethodPost; {
	case path == "log" && get:
		return LogInfo
	case path == "log/publicKey" && get:
		return LogKey
	case path == "log/proof" && get:
		return LogProof
	case path == "log/entries" && get:
		return EntryByIndex
	case path == "log/entries/retrieve" && post:
		return RetrieveEntry
	case path == "index/retrieve" && post:
		return RetrieveIndex
	case isEntry && get && rest != "" && !strings.Contains(rest, "/"):
		return EntryByUUID
	}
	return Other
}

// refusal is an answer other than 200. Codes from 600 on are those of request validation and
// have the status 422.
type refusal struct {
	Code    int32  `json:"code"`
	Message string `json:"message"`
}

// Error implements error.
func (e *refusal) Error() string { return e.Message }

func refuse(code int32, format string, args ...any) *refusal {
	return &refusal{code, fmt.Sprintf(format, args...)}
}

// errNoEntry is 404 without a body.
var errNoEntry = errors.New("no such entry")

// answer is what an honest service answers.
func (s *RekorV1) answer(kind Kind, r *http.Request, body []byte) Answer {
	payload, err := s.payload(kind, r, body)
	a := Answer{Status: http.StatusOK, Header: http.Header{}}
	if kind&(RetrieveEntry|RetrieveIndex|Other) == 0 {
		a.Header.Set("Cache-Control", "no-cache, no-store, no-transform, must-revalidate, private, max-age=0")
	}
	var refused *refusal
	switch {
	case errors.Is(err, errNoEntry):
		a.Status = http.StatusNotFound
		return a
	case errors.As(err, &refused):
		a.Status = int(refused.Code)
		if refused.Code >= 600 {
			a.Status = http.StatusUnprocessableEntity
		}
		payload = refused
	case err != nil:
		panic(fmt.Sprintf("synthetic: answer %s: %v", r.URL, err))
	case kind == LogKey:
		a.Header.Set("Content-Type", "application/x-pem-file")
		a.Body = payload.([]byte)
		return a
	}
	a.Header.Set("Content-Type", "application/json")
	a.Body = marshalV1(payload)
	return a
}

func marshalV1(payload any) []byte {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(payload); err != nil {
		panic(fmt.Sprintf("synthetic: encode answer: %v", err))
	}
	return b.Bytes()
}

func (s *RekorV1) payload(kind Kind, r *http.Request, body []byte) (any, error) {
	if err := negotiate(kind, r, body); err != nil {
		return nil, err
	}
	v := s.view()
	query := r.URL.Query()
	switch kind {
	case LogInfo:
		return v.info(), nil
	case LogKey:
		sh, err := v.keyOwner(query.Get("treeID"))
		if err != nil {
			return nil, err
		}
		return sh.PublicKeyPEM(), nil
	case LogProof:
		return v.consistency(query["firstSize"], query["lastSize"], query.Get("treeID"))
	case EntryByIndex:
		index, err := parseInt("logIndex", query["logIndex"], 0)
		if err != nil {
			return nil, err
		}
		return v.byIndex(index)
	case EntryByUUID:
		return v.byUUID(r.URL.Path[strings.LastIndexByte(r.URL.Path, '/')+1:])
	case RetrieveEntry:
		var asked models.SearchLogQuery
		if err := decode("entry", body, &asked, asked.Validate); err != nil {
			return nil, err
		}
		return v.retrieve(r.Context(), &asked)
	case RetrieveIndex:
		var asked models.SearchIndex
		if err := decode("query", body, &asked, asked.Validate); err != nil {
			return nil, err
		}
		return s.search(&asked)
	}
	if r.URL.Path == "/api/v1/log/entries" && r.Method == http.MethodPost {
		return nil, refuse(http.StatusNotImplemented, "Create Entry API not enabled in this Rekor instance")
	}
	return nil, refuse(http.StatusNotFound, "path %s was not found", r.URL.Path)
}

// negotiate refuses what the API's description does not offer.
func negotiate(kind Kind, r *http.Request, body []byte) error {
	if kind == Other {
		return nil
	}
	if len(body) > 0 {
		got, _, _ := strings.Cut(r.Header.Get("Content-Type"), ";")
		if got == "" {
			got = "application/octet-stream"
		}
		if got != "application/json" {
			return refuse(http.StatusUnsupportedMediaType, "unsupported media type %q, only [application/json] are allowed", got)
		}
	}
	offer := "application/json"
	if kind == LogKey {
		offer = "application/x-pem-file"
	}
	accepted := r.Header.Values("Accept")
	if len(accepted) == 0 {
		return nil
	}
	for _, accept := range strings.Split(strings.Join(accepted, ","), ",") {
		accept, _, _ = strings.Cut(accept, ";")
		if accept = strings.TrimSpace(accept); accept == offer || accept == "application/*" || accept == "*/*" {
			return nil
		}
	}
	return refuse(http.StatusNotAcceptable, "unsupported media type requested, only [%s] are available", offer)
}

// parseInt reads a number in a query, of which the last value counts.
func parseInt(name string, values []string, least int64) (int64, error) {
	if len(values) == 0 || values[len(values)-1] == "" {
		return 0, refuse(602, "%s in query is required", name)
	}
	raw := values[len(values)-1]
	n, err := strconv.ParseInt(raw, 10, 64)
	switch {
	case err != nil:
		return 0, refuse(601, "%s in query must be of type int64: %q", name, raw)
	case n < least:
		return 0, refuse(609, "%s in query should be greater than or equal to %d", name, least)
	}
	return n, nil
}

// decode reads the first JSON value of a body and validates it by rekor's own model.
func decode(name string, body []byte, into any, validate func(strfmt.Registry) error) error {
	if len(body) == 0 {
		return refuse(602, "%s in body is required", name)
	}
	if err := runtime.JSONConsumer().Consume(bytes.NewReader(body), into); err != nil {
		return refuse(http.StatusBadRequest, `parsing %s body from "" failed, because %v`, name, err)
	}
	err := validate(strfmt.Default)
	for {
		several, ok := err.(interface{ Unwrap() []error })
		if !ok || len(several.Unwrap()) == 0 {
			break
		}
		err = several.Unwrap()[0] // the real server answers with the first one
	}
	if coded, ok := err.(interface{ Code() int32 }); ok {
		return refuse(coded.Code(), "%v", err)
	}
	return err
}
