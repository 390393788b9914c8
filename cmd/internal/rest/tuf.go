package rest

import (
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/understudy-log/understudy/mirror/trust"
)

// tufFiles are the files of a TUF repository; nil is none.
type tufFiles interface {
	File(path string) (trust.File, bool)
}

// serveTUF serves the files of a TUF repository below a prefix, byte for byte. What has a version or a hash in
// its name may be kept for ever; of the rest a client asks each time whether it has changed.
func serveTUF(prefix string, files tufFiles) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			h.Set("Allow", "GET, HEAD")
			http.Error(w, "the TUF repository is changed by its owners alone", http.StatusMethodNotAllowed)
			return
		}
		path := escapedOnce(strings.TrimPrefix(r.URL.EscapedPath(), prefix))
		f, ok := files.File(path)
		if !ok {
			h.Set("Cache-Control", "no-store") // the next root is asked for until it is there
			http.Error(w, "the TUF repository has no such file", http.StatusNotFound)
			return
		}
		etag := `"` + f.Hash + `"`
		h.Set("ETag", etag)
		if f.Forever {
			h.Set("Cache-Control", "public, max-age=31536000, immutable")
		} else {
			h.Set("Cache-Control", "no-cache")
		}
		if matches(r.Header.Get("If-None-Match"), etag) {
			w.WriteHeader(http.StatusNotModified)
			return
		}
		h.Set("Content-Type", "application/json")
		if strings.HasPrefix(path, "targets/") && !strings.HasSuffix(path, ".json") {
			h.Set("Content-Type", "application/octet-stream")
		}
		h.Set("Content-Length", strconv.Itoa(len(f.Data)))
		w.Write(f.Data)
	}
}

// escapedOnce returns a path in the one form of escapes that files have.
func escapedOnce(path string) string {
	parts := strings.Split(path, "/")
	for i, part := range parts {
		if plain, err := url.PathUnescape(part); err == nil {
			parts[i] = url.PathEscape(plain)
		}
	}
	return strings.Join(parts, "/")
}

// matches evaluates If-None-Match (RFC 9110, section 13.1.2).
func matches(condition, etag string) bool {
	for tag := range strings.SplitSeq(condition, ",") {
		if tag = strings.TrimSpace(tag); tag == "*" || strings.TrimPrefix(tag, "W/") == etag {
			return true
		}
	}
	return false
}
