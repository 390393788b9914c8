package rest

import (
	"compress/gzip"
	"net/http"
	"strconv"
	"strings"
	"sync"
)

// gzipWriters keeps writers for reuse: each holds more than half a megabyte. The
// fastest level halves realistic entries already.
type gzipWriters struct{ pool sync.Pool }

// write sends data, compressed if the client takes that.
func (g *gzipWriters) write(w http.ResponseWriter, r *http.Request, data []byte) error {
	w.Header().Add("Vary", "Accept-Encoding")
	if !acceptsGzip(r.Header.Values("Accept-Encoding")) {
		w.Header().Set("Content-Length", strconv.Itoa(len(data)))
		_, err := w.Write(data)
		return err
	}
	w.Header().Set("Content-Encoding", "gzip")
	if r.Method == http.MethodHead {
		return nil
	}
	z, ok := g.pool.Get().(*gzip.Writer)
	if !ok {
		z, _ = gzip.NewWriterLevel(nil, gzip.BestSpeed) // its only error is an unknown level
	}
	defer g.pool.Put(z)
	z.Reset(w)
	if _, err := z.Write(data); err != nil {
		return err
	}
	return z.Close()
}

// acceptsGzip reports whether a client takes gzip (RFC 9110, section 12.5.3):
// named with a weight above 0, or not named and covered by "*".
func acceptsGzip(headers []string) bool {
	star := false
	for _, header := range headers {
		for coding := range strings.SplitSeq(header, ",") {
			name, params, _ := strings.Cut(coding, ";")
			key, weight, _ := strings.Cut(strings.ReplaceAll(params, " ", ""), "=")
			q, err := strconv.ParseFloat(weight, 64)
			takes := !strings.EqualFold(key, "q") || err == nil && q > 0
			switch strings.ToLower(strings.TrimSpace(name)) {
			case "gzip", "x-gzip":
				return takes
			case "*":
				star = takes
			}
		}
	}
	return star
}
