package synthetic

import (
	"bytes"
	"compress/gzip"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/transparency-dev/tessera/api/layout"
)

// Kind is a set of the kinds of resource that a log serves.
type Kind int

// The kinds of resource.
const (
	Checkpoint Kind = 1 << iota
	Tile
	Bundle
	Other // anything else
)

// Request is one that the log got.
type Request struct {
	At        time.Time
	Path      string
	UserAgent string
	Kind      Kind
	Level     int    // of a Tile
	Index     uint64 // of a Tile or Bundle
	Width     int    // of a Tile or Bundle, 256 for a full one
}

// Requests returns the requests of the given kinds since the last Forget.
func (l *Log) Requests(kinds Kind) []Request {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return slices.DeleteFunc(slices.Clone(l.requests), func(q Request) bool { return q.Kind&kinds == 0 })
}

// Written returns how many bytes were sent as bodies since the last Forget.
func (l *Log) Written() uint64 {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.written
}

// Forget empties what Requests and Written return.
func (l *Log) Forget() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.requests, l.written = nil, 0
}

// ServeHTTP serves the log at the root of its URL: checkpoint, tile/… and
// tile/entries/…, unless it was told to misbehave.
func (l *Log) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	q := parse(r)
	l.mu.Lock()
	l.requests = append(l.requests, q)
	faults := l.faults
	l.mu.Unlock()

	a := l.answer(q)
	for _, fault := range faults {
		fault(q, &a)
	}
	w = &countingWriter{w, l}
	if a.Serve != nil {
		a.Serve(w, r)
		return
	}
	if l.Gzip && a.Status == http.StatusOK && q.Kind&(Tile|Bundle) != 0 && a.Header.Get("Content-Encoding") == "" {
		a.Header.Set("Content-Encoding", "gzip")
		a.Body = zip(a.Body)
	}
	for name, values := range a.Header {
		w.Header()[name] = values
	}
	w.WriteHeader(a.Status)
	w.Write(a.Body)
}

func parse(r *http.Request) Request {
	q := Request{At: time.Now(), Path: r.URL.Path, UserAgent: r.UserAgent(), Kind: Other}
	path := strings.TrimPrefix(r.URL.Path, "/")
	if path == layout.CheckpointPath {
		q.Kind = Checkpoint
		return q
	}
	rest, isTile := strings.CutPrefix(path, "tile/")
	level, index, ok := strings.Cut(rest, "/")
	if !isTile || !ok {
		return q
	}
	kind := Tile
	if level == "entries" {
		kind, level = Bundle, "0"
	}
	lvl, n, width, err := layout.ParseTileLevelIndexPartial(level, index)
	if err != nil || layout.NWithSuffix(lvl, n, width) != index || strconv.FormatUint(lvl, 10) != level {
		return q
	}
	q.Kind, q.Level, q.Index, q.Width = kind, int(lvl), n, int(width)
	if width == 0 {
		q.Width = 256
	}
	return q
}

// answer is what an honest log answers.
func (l *Log) answer(q Request) Answer {
	var body []byte
	var ok bool
	a := Answer{Status: http.StatusOK, Header: http.Header{"Content-Type": {"application/octet-stream"}, "Cache-Control": {"max-age=31536000, immutable"}}}
	switch q.Kind {
	case Checkpoint:
		body, ok = l.Checkpoint(l.Size()), true
		a.Header = http.Header{"Content-Type": {"text/plain; charset=utf-8"}, "Cache-Control": {"no-cache"}}
	case Tile:
		if l.serves(q) {
			body, ok = l.Tile(q.Level, q.Index, q.Width)
		}
	case Bundle:
		if l.serves(q) {
			body, ok = l.Bundle(q.Index, q.Width)
		}
	}
	if !ok {
		return Answer{Status: http.StatusNotFound, Header: http.Header{}, Body: []byte("not found\n")}
	}
	a.Body = body
	return a
}

// serves tells whether a resource is published: a full one always, a partial one if a
// checkpoint needed it, until it is pruned.
func (l *Log) serves(q Request) bool {
	l.mu.RLock()
	defer l.mu.RUnlock()
	shift, first := 8*q.Level, q.Index*256
	if q.Width == 256 {
		return true
	}
	if l.Prune && l.right.End()>>shift >= first+256 {
		return false
	}
	for size := range l.published {
		if size>>shift == first+uint64(q.Width) {
			return true
		}
	}
	return false
}

func zip(b []byte) []byte {
	var out bytes.Buffer
	z := gzip.NewWriter(&out)
	z.Write(b)
	z.Close()
	return out.Bytes()
}

// countingWriter adds what it writes to the log's count.
type countingWriter struct {
	http.ResponseWriter
	log *Log
}

func (w *countingWriter) Write(p []byte) (int, error) {
	n, err := w.ResponseWriter.Write(p)
	w.log.mu.Lock()
	defer w.log.mu.Unlock()
	w.log.written += uint64(n)
	return n, err
}

// Unwrap is for http.ResponseController.
func (w *countingWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }
