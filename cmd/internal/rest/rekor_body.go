package rest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"time"

	"github.com/sigstore/rekor/pkg/generated/models"

	"github.com/understudy-log/understudy/log/rekor"
	"github.com/understudy-log/understudy/mirror"
	"github.com/understudy-log/understudy/storage"
)

// Bounds of request bodies. A proposed entry holds the signed envelope, and with it a
// bill of materials of some megabytes; all others fit into smallBody. Decoding takes up
// to some twenty times the size of a hostile body.
const (
	maxBody        = 8 << 20
	smallBody      = 32 << 10
	maxLargeBodies = 4 // at once, for all clients; further ones wait
	// roomTime is how long they wait: who waited on would be cut off without a reason when its time
	// for an answer is over.
	roomTime       = 10 * time.Second
	maxClientLarge = 2 // for one client; further ones get 429

	// Others may wait for the place of a large body, so it has to keep coming: at half the
	// pace of a link of 2 Mbit/s. What comes faster makes up for pauses, but not for long ones.
	leastPace = 128 << 10 // bytes a second
	longPause = 3 * time.Second

	// Proposed entries of a few kilobytes can unpack to megabytes; and a search reads each
	// entry that it finds.
	maxClientProposals = 16 // of one client, worked on by as many processors as there are
	maxSearches        = 8  // as over gRPC
	maxClientSearches  = 4
)

// maxItems is how many entries one retrieve may ask for.
const maxItems = 10

// costly bounds how many requests that cost much are worked on at once.
type costly struct {
	tokens   chan struct{}
	byClient *limiter
	what     string
}

func newCostly(all, client int, what string) costly {
	return costly{tokens: make(chan struct{}, all), byClient: newLimiter(client), what: what}
}

// enter waits for room. Every enter without an error needs a leave.
func (b *costly) enter(r *http.Request) error {
	client := clientOf(r.RemoteAddr)
	if !b.byClient.enter(client) {
		return rekorError{Code: http.StatusTooManyRequests, Message: "too many " + b.what + " at once from your address; wait for answers before you ask again"}
	}
	select {
	case b.tokens <- struct{}{}:
		return nil
	default:
	}
	patience := time.NewTimer(roomTime)
	defer patience.Stop()
	select {
	case b.tokens <- struct{}{}:
		return nil
	case <-r.Context().Done():
		b.byClient.leave(client)
		return r.Context().Err()
	case <-patience.C:
		b.byClient.leave(client)
		return rekorError{Code: http.StatusTooManyRequests, Message: "too many " + b.what + " at once; try again in a moment"}
	}
}

func (b *costly) leave(r *http.Request) {
	<-b.tokens
	b.byClient.leave(clientOf(r.RemoteAddr))
}

// growingBody calls enter before it reads more than smallBody bytes. From there on it waits
// for its client no longer than leastPace and longPause allow, and readTime in all.
type growingBody struct {
	io.Reader
	left  int // until enter is called; negative once it was
	enter func() error

	conn     *http.ResponseController
	patience time.Duration // for the next bytes; each that comes earns some, up to longPause
	end      time.Time     // when all has to be there
}

func (b *growingBody) Read(p []byte) (int, error) {
	if b.left == 0 {
		if err := b.enter(); err != nil {
			return 0, err
		}
		b.left, b.patience, b.end = -1, longPause, time.Now().Add(readTime)
	}
	if b.left < 0 {
		return b.readSteadily(p)
	}
	n, err := b.Reader.Read(p[:min(len(p), b.left)])
	b.left -= n
	return n, err
}

func (b *growingBody) readSteadily(p []byte) (int, error) {
	began := time.Now()
	deadline := began.Add(b.patience)
	if b.end.Before(deadline) {
		deadline = b.end
	}
	b.conn.SetReadDeadline(deadline) // the server lifts it at the end of the body; if it cannot be set, readTime holds
	n, err := b.Reader.Read(p)
	b.patience = min(b.patience-time.Since(began)+time.Duration(n)*time.Second/leastPace, longPause)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		err = rekorError{Code: http.StatusRequestTimeout, Message: fmt.Sprintf(
			"the request came too slowly: what is over %d KiB has to come at %d KiB a second, without a pause of %v, and within %v", smallBody>>10, leastPace>>10, longPause, readTime)}
	}
	return n, err
}

// readBody decodes the JSON body of a request, of which only the first value is read,
// and calls use while the body counts as being in memory.
func (p *rekorAPI) readBody(w http.ResponseWriter, r *http.Request, name string, body any, use func() error) error {
	if r.ContentLength == 0 {
		return required(name + " in body")
	}
	if err := checkContentType(r.Header); err != nil {
		return err
	}
	reader := &growingBody{Reader: http.MaxBytesReader(w, r.Body, maxBody), left: smallBody, enter: func() error { return p.bodies.enter(r) }, conn: http.NewResponseController(w)}
	defer func() {
		if reader.left < 0 {
			p.bodies.leave(r)
		}
	}()
	decoder := json.NewDecoder(reader)
	decoder.UseNumber()
	if err := decoder.Decode(body); err != nil {
		return bodyError(name, err)
	}
	return use()
}

// bodyError is the refusal of a body that cannot be read or decoded.
func bodyError(name string, err error) error {
	if _, ok := errors.AsType[rekorError](err); ok || errors.Is(err, context.Canceled) {
		return err
	}
	if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return rekorError{Code: http.StatusRequestEntityTooLarge, Message: "Request Entity Too Large"}
	}
	switch {
	case errors.Is(err, io.EOF): // not io.ErrUnexpectedEOF
		return required(name + " in body")
	case errors.Is(err, os.ErrDeadlineExceeded):
		return rekorError{Code: http.StatusRequestTimeout, Message: "the request came too slowly"}
	}
	return rekorError{Code: http.StatusBadRequest, Message: fmt.Sprintf(`parsing %s body from "" failed, because %v`, name, err)}
}

// readRefs reads what entries/retrieve asks for, in the order of Rekor's answers: full
// UUIDs; those without a tree and proposed entries, which are looked up in every shard;
// virtual indexes.
func (p *rekorAPI) readRefs(w http.ResponseWriter, r *http.Request) (refs []mirror.EntryRef, err error) {
	var query models.SearchLogQuery
	err = p.readBody(w, r, "entry", &query, func() error {
		if err = query.Validate(nil); err == nil { // nil: formats as the specification has them
			if len(query.Entries()) > 0 {
				if err = p.proposals.enter(r); err != nil {
					return err
				}
				defer p.proposals.leave(r)
			}
			refs, err = refsOf(r.Context(), &query)
		}
		return err
	})
	return refs, err
}

func refsOf(ctx context.Context, query *models.SearchLogQuery) ([]mirror.EntryRef, error) {
	if len(query.EntryUUIDs)+len(query.Entries())+len(query.LogIndexes) > maxItems {
		return nil, refused(http.StatusUnprocessableEntity, fmt.Sprintf("more than max allowed %d entries in request", maxItems))
	}
	var refs, anywhere []mirror.EntryRef
	for _, text := range query.EntryUUIDs {
		uuid, err := rekor.ParseUUID(text)
		switch {
		case err != nil: // it has the form of one, but no tree ID
			return nil, refused(http.StatusBadRequest, "invalid entryID "+text)
		case uuid.TreeID != 0:
			refs = append(refs, mirror.EntryRef{UUID: &uuid})
		default:
			anywhere = append(anywhere, mirror.EntryRef{UUID: &uuid})
		}
	}
	forms := map[string]bool{} // by kind and form
	for _, proposed := range query.Entries() {
		data, err := json.Marshal(proposed)
		if err != nil {
			return nil, refused(http.StatusBadRequest, err.Error())
		}
		canonical, err := rekor.Canonicalize(ctx, data)
		if err != nil {
			return nil, inRekorsWords(err)
		}
		ref := mirror.EntryRef{UUID: &rekor.UUID{LeafHash: storage.LeafHash(canonical)}, Form: rekor.Attestation(canonical)}
		if kind := proposed.Kind() + " " + ref.Form; forms[kind] {
			ref.Form = "" // another signature on the same payload: it has to be known by itself
		} else {
			forms[kind] = true
		}
		anywhere = append(anywhere, ref)
	}
	refs = append(refs, anywhere...)
	for _, index := range query.LogIndexes {
		ref := mirror.EntryRef{} // null is 0
		if index != nil {
			ref.Index = uint64(*index)
		}
		refs = append(refs, ref)
	}
	return refs, nil
}

// inRekorsWords is the refusal of a proposed entry with the text that Rekor has for it:
// without what package rekor says first.
func inRekorsWords(err error) error {
	input, ok := errors.AsType[*rekor.InputError](err)
	if !ok {
		return err
	}
	text := input.Err
	if cause := errors.Unwrap(text); cause != nil {
		text = cause
	}
	return refused(input.Status, text.Error())
}

// readQuery reads what index/retrieve asks for; any says that it names something.
func (p *rekorAPI) readQuery(w http.ResponseWriter, r *http.Request) (q rekor.Query, any bool, err error) {
	var query models.SearchIndex
	err = p.readBody(w, r, "query", &query, func() error {
		if err := query.Validate(nil); err != nil {
			return err
		}
		q = rekor.Query{Email: query.Email.String(), Hash: query.Hash, Subject: query.Subject, Operator: query.Operator}
		if query.PublicKey != nil {
			q.Format, q.PublicKey = *query.PublicKey.Format, query.PublicKey.Content
		}
		keys, _, err := rekor.QueryKeys(q)
		if err != nil { // all else was checked
			return refused(http.StatusBadRequest, "public key provided could not be parsed")
		}
		any = len(keys) > 0
		return nil
	})
	return q, any, err
}
