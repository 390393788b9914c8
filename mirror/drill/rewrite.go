package drill

import (
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
)

const maxCheckpointAnswer = 4 << 20

// isCheckpoint says whether a request asks for the newest checkpoint: that of a C2SP log, or the
// log info of Rekor v1.
func isCheckpoint(r *http.Request) bool {
	return r.Method == http.MethodGet && (strings.HasSuffix(r.URL.Path, "/checkpoint") || isLogInfo(r))
}

func isLogInfo(r *http.Request) bool { return strings.HasSuffix(r.URL.Path, "/api/v1/log") }

// stale serves each checkpoint for ever as it was when it was first asked for: a cache that is not
// renewed any more.
func stale() fault {
	type kept struct {
		header http.Header
		body   []byte
	}
	var (
		mu      sync.Mutex // guards answers
		answers = map[string]kept{}
	)
	return func(_ *arming, r *http.Request, base http.RoundTripper) (*http.Response, error) {
		if !isCheckpoint(r) {
			return base.RoundTrip(r)
		}
		key := r.URL.String()
		mu.Lock()
		k, ok := answers[key]
		mu.Unlock()
		if ok {
			unsent(r)
			return withBody(&http.Response{
				Status: "200 OK", StatusCode: http.StatusOK, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Header: k.header.Clone(), Request: r,
			}, k.body), nil
		}
		resp, body, err := whole(base.RoundTrip(r))
		if err != nil || resp.StatusCode != http.StatusOK {
			return resp, err
		}
		mu.Lock()
		defer mu.Unlock()
		if first, ok := answers[key]; ok { // of another request at the same time
			return withBody(resp, first.body), nil
		}
		answers[key] = kept{resp.Header.Clone(), body}
		return resp, nil
	}
}

// rollBack serves an older checkpoint in the place of the newest one.
func rollBack(note []byte) fault {
	return func(_ *arming, r *http.Request, base http.RoundTripper) (*http.Response, error) {
		if !isCheckpoint(r) {
			return base.RoundTrip(r)
		}
		r = r.Clone(r.Context())
		r.Header.Set("Accept-Encoding", "identity") // it has to be read
		resp, body, err := whole(base.RoundTrip(r))
		if err != nil || resp.StatusCode != http.StatusOK {
			return resp, err
		}
		if isLogInfo(r) {
			body = rewriteLogInfo(body, note)
		} else {
			body = rewriteCheckpoint(body, note)
		}
		return withBody(resp, body), nil
	}
}

// whole reads the body of an answer, unpacked, and gives the answer that body.
func whole(resp *http.Response, err error) (*http.Response, []byte, error) {
	if err != nil {
		return nil, nil, err
	}
	defer resp.Body.Close()
	body := io.Reader(resp.Body)
	if strings.EqualFold(resp.Header.Get("Content-Encoding"), "gzip") {
		if body, err = gzip.NewReader(body); err != nil {
			return nil, nil, err
		}
		resp.Header.Del("Content-Encoding")
	}
	raw, err := io.ReadAll(io.LimitReader(body, maxCheckpointAnswer))
	if err != nil {
		return nil, nil, err
	}
	return withBody(resp, raw), raw, nil
}

func withBody(resp *http.Response, body []byte) *http.Response {
	resp.Body, resp.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
	resp.Header.Set("Content-Length", strconv.Itoa(len(body)))
	return resp
}

// rewriteCheckpoint returns note in the place of current, if it is older and of the same log; else
// current.
func rewriteCheckpoint(current, note []byte) []byte {
	was, ok1 := headOf(current)
	is, ok2 := headOf(note)
	if !ok1 || !ok2 || was.origin != is.origin || is.size >= was.size {
		return current
	}
	return note
}

// rewriteLogInfo puts note in the place of a shard's checkpoint in the log info of Rekor v1, if that
// shard is there and has a newer one. What it does not know stays as it is.
func rewriteLogInfo(current, note []byte) []byte {
	var info map[string]json.RawMessage
	if json.Unmarshal(current, &info) != nil || info == nil {
		return current
	}
	changed := rewriteShard(info, note)
	var inactive []map[string]json.RawMessage
	if json.Unmarshal(info["inactiveShards"], &inactive) == nil {
		for _, shard := range inactive {
			changed = shard != nil && rewriteShard(shard, note) || changed
		}
		if len(inactive) > 0 {
			info["inactiveShards"] = mustJSON(inactive)
		}
	}
	if !changed {
		return current
	}
	return mustJSON(info)
}

func rewriteShard(shard map[string]json.RawMessage, note []byte) bool {
	var signed string
	if json.Unmarshal(shard["signedTreeHead"], &signed) != nil || bytes.Equal(rewriteCheckpoint([]byte(signed), note), []byte(signed)) {
		return false
	}
	head, _ := headOf(note)
	shard["signedTreeHead"] = mustJSON(string(note))
	shard["treeSize"] = mustJSON(head.size)
	shard["rootHash"] = mustJSON(hex.EncodeToString(head.root))
	return true
}

// mustJSON encodes what always can be.
func mustJSON(v any) json.RawMessage {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		panic("drill: " + err.Error())
	}
	return bytes.TrimRight(b.Bytes(), "\n")
}

// noteHead is what a checkpoint says. Nothing is verified here: clients do that.
type noteHead struct {
	origin string
	size   uint64
	root   []byte
}

func headOf(note []byte) (h noteHead, ok bool) {
	lines := strings.SplitN(string(note), "\n", 4)
	if len(lines) < 4 || lines[0] == "" {
		return h, false
	}
	size, err := strconv.ParseUint(lines[1], 10, 64)
	if err != nil {
		return h, false
	}
	root, err := base64.StdEncoding.DecodeString(lines[2])
	return noteHead{lines[0], size, root}, err == nil
}
