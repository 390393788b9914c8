package rest

import (
	"fmt"
	"mime"
	"net/http"
	"net/url"
	"strconv"
	"strings"
)

// uuidPattern is how Rekor's API describes a UUID; isUUID is the same in code.
const uuidPattern = "^([0-9a-fA-F]{64}|[0-9a-fA-F]{80})$"

func isUUID(text string) bool {
	return (len(text) == 64 || len(text) == 80) && strings.Trim(text, "0123456789abcdefABCDEF") == ""
}

// parseTreeID reads what treeIDParameter takes; 0 if it is no tree ID.
func parseTreeID(text string) uint64 {
	treeID, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		return 0
	}
	return uint64(treeID)
}

// last is the value of a parameter that counts: the last one, as Rekor has it.
func last(values url.Values, name string) string {
	if v := values[name]; len(v) > 0 {
		return v[len(v)-1]
	}
	return ""
}

func treeIDParameter(values url.Values) (string, error) {
	text := last(values, "treeID")
	if strings.Trim(text, "0123456789") != "" {
		return "", failedPattern("treeID in query", "^[0-9]+$")
	}
	return text, nil
}

func indexParameter(values url.Values) (uint64, error) {
	return integerParameter(values, "logIndex", 0)
}

// integerParameter reads a required integer, which is at least minimum.
func integerParameter(values url.Values, name string, minimum int64) (uint64, error) {
	text := last(values, name)
	if text == "" {
		return 0, required(name + " in query")
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		return 0, rekorError{Code: codeInvalidType, Message: fmt.Sprintf("%s in query must be of type int64: %q", name, text)}
	}
	if n < minimum {
		return 0, rekorError{Code: codeBelowMinimum, Message: fmt.Sprintf("%s in query should be greater than or equal to %d", name, minimum)}
	}
	return uint64(n), nil
}

// proofQuery is what GET log/proof asks for.
type proofQuery struct {
	first, last uint64
	treeID      string // digits, or "" for the active shard
}

func proofParameters(values url.Values) (proofQuery, error) {
	q := proofQuery{first: 1}
	var err error
	if last(values, "firstSize") != "" {
		if q.first, err = integerParameter(values, "firstSize", 1); err != nil {
			return proofQuery{}, err
		}
	}
	if q.last, err = integerParameter(values, "lastSize", 1); err != nil {
		return proofQuery{}, err
	}
	q.treeID, err = treeIDParameter(values)
	return q, err
}

// negotiate returns the offered media type that a client likes best (RFC 9110, section
// 12.5.1): the first one if it does not say, "" if it takes none of them.
func negotiate(accept []string, offers ...string) string {
	if len(accept) == 0 {
		return offers[0]
	}
	best, bestWeight, bestMatch := "", 0.0, 0
	for _, offer := range offers {
		weight, match := 0.0, 0
		for _, header := range accept {
			for item := range strings.SplitSeq(header, ",") {
				name, params, _ := strings.Cut(item, ";")
				if m := matchMedia(strings.TrimSpace(name), offer); m > match {
					weight, match = weightOf(params), m
				}
			}
		}
		if weight > bestWeight || weight == bestWeight && weight > 0 && match > bestMatch {
			best, bestWeight, bestMatch = offer, weight, match
		}
	}
	return best
}

// matchMedia returns how exactly a range names a media type: 0 not at all, 3 fully.
func matchMedia(name, media string) int {
	kind, _, _ := strings.Cut(media, "/")
	switch {
	case strings.EqualFold(name, media):
		return 3
	case strings.EqualFold(name, kind+"/*"):
		return 2
	case name == "*/*":
		return 1
	}
	return 0
}

// weightOf is the q among the parameters of an Accept header's item.
func weightOf(params string) float64 {
	for param := range strings.SplitSeq(params, ";") {
		key, value, _ := strings.Cut(strings.TrimSpace(param), "=")
		if !strings.EqualFold(key, "q") {
			continue
		}
		if q, err := strconv.ParseFloat(value, 64); err == nil {
			return q
		}
	}
	return 1
}

// accepts answers 406 if the client does not take a media type.
func accepts(w http.ResponseWriter, r *http.Request, media string) bool {
	if negotiate(r.Header.Values("Accept"), media) == "" {
		refuseMedia(w, media)
		return false
	}
	return true
}

// checkContentType refuses a request body that is not JSON.
func checkContentType(h http.Header) error {
	text := h.Get("Content-Type")
	media, _, err := mime.ParseMediaType(text)
	switch {
	case text == "":
		media = "application/octet-stream"
	case err != nil:
		return rekorError{Code: http.StatusBadRequest, Message: fmt.Sprintf("parsing Content-Type header from %q failed, because %v", text, err)}
	}
	if media != mediaJSON {
		return rekorError{Code: http.StatusUnsupportedMediaType, Message: fmt.Sprintf("unsupported media type %q, only [%s] are allowed", media, mediaJSON)}
	}
	return nil
}
