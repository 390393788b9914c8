package witnesses

import (
	"context"
	"encoding/base64"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	formatsnote "github.com/transparency-dev/formats/note"
	"github.com/transparency-dev/merkle/proof"
	"github.com/transparency-dev/merkle/rfc6962"
	"golang.org/x/mod/sumdb/note"
)

// reference is a witness that does what the specification says, but for one fault. It shows that
// the conformance test can fail.
type reference struct {
	logs    map[string]*Log // by origin
	signers []note.Signer
	fault   string

	mu    sync.Mutex
	known map[string]state // by origin
}

type state struct {
	size       uint64
	root       []byte
	checkpoint string // with all lines
}

func newReference(t *testing.T, fault string) *Target {
	r := &reference{logs: map[string]*Log{}, fault: fault, known: map[string]state{}}
	target := &Target{Logs: NewLogs()}
	for _, l := range target.Logs {
		r.logs[l.Origin] = l
	}
	for _, kind := range []byte{Ed25519, MLDSA44} {
		skey, vkey, err := NewKey(kind, "reference.example")
		if err != nil {
			t.Fatal(err)
		}
		signer, err := formatsnote.NewSignerForCosignatureV1(skey)
		if err != nil {
			t.Fatal(err)
		}
		r.signers, target.VKeys = append(r.signers, signer), append(target.VKeys, vkey)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("/s/add-checkpoint", r.add)
	mux.HandleFunc("/m/{hash}/checkpoint", r.monitor)
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	target.Submission, target.Monitoring = server.URL+"/s", server.URL+"/m"
	target.Restart = func(context.Context) error {
		if r.is("forgets") {
			r.known = map[string]state{}
		}
		return nil
	}
	return target
}

func (r *reference) is(fault string) bool { return r.fault == fault }

var (
	oldLine    = regexp.MustCompile(`^old (0|[1-9][0-9]*)$`)
	sizeLine   = regexp.MustCompile(`^(0|[1-9][0-9]*)$`)
	anyOldLine = regexp.MustCompile(`^old 0*([0-9]+)$`)
)

func hashes(lines []string, strict bool) ([][]byte, bool) {
	all := make([][]byte, len(lines))
	for i, line := range lines {
		raw, err := base64.StdEncoding.DecodeString(line)
		if err != nil || len(raw) != 32 || strict && base64.StdEncoding.EncodeToString(raw) != line {
			return nil, false
		}
		all[i] = raw
	}
	return all, true
}

func (r *reference) add(w http.ResponseWriter, request *http.Request) {
	raw, err := io.ReadAll(request.Body)
	if err != nil {
		return
	}
	status, body := r.answer(request.Method, string(raw))
	if status == http.StatusConflict && !r.is("content type") {
		w.Header().Set("Content-Type", "text/x.tlog.size")
	}
	if r.is("500") && status == http.StatusBadRequest {
		status = http.StatusInternalServerError
	}
	if r.is("hangs up") && status != http.StatusOK {
		w.Header().Set("Connection", "close")
	}
	w.WriteHeader(status)
	io.WriteString(w, body)
}

func (r *reference) answer(method, body string) (int, string) {
	if r.is("CRLF") {
		body = strings.ReplaceAll(body, "\r\n", "\n")
	}
	if r.is("newline") && !strings.HasSuffix(body, "\n") {
		body += "\n"
	}
	head, checkpoint, ok := strings.Cut(body, "\n\n")
	lines := strings.Split(head, "\n")
	old := oldLine.FindStringSubmatch(lines[0])
	if r.is("zeroes") {
		old = anyOldLine.FindStringSubmatch(lines[0])
	}
	if method != http.MethodPost && !r.is("GET") || !ok || old == nil {
		return 400, ""
	}
	oldSize, err := strconv.ParseUint(old[1], 10, 64)
	hashes, ok := hashes(lines[1:], !r.is("base64"))
	if err != nil || !ok || len(hashes) > 63 || len(hashes) > 62 && r.is("62 lines") {
		return 400, ""
	}
	origin, _, _ := strings.Cut(checkpoint, "\n")
	log, ok := r.logs[origin]
	if !ok {
		if r.is("403 for 404") {
			return 403, ""
		}
		return 404, ""
	}
	end := strings.LastIndex(checkpoint, "\n\n")
	if end < 0 || !strings.HasSuffix(checkpoint, "\n") {
		return 400, ""
	}
	text := checkpoint[:end+1]
	if status := r.open(log, text, checkpoint[end+2:]); status != 200 {
		return status, ""
	}
	fields := strings.Split(text, "\n")
	if len(fields) < 4 || !sizeLine.MatchString(fields[1]) || slices.Contains(fields[3:len(fields)-1], "") {
		return 400, ""
	}
	size, err := strconv.ParseUint(fields[1], 10, 64)
	root, err2 := base64.StdEncoding.DecodeString(fields[2])
	if err != nil || err2 != nil || len(root) != 32 || base64.StdEncoding.EncodeToString(root) != fields[2] {
		return 400, ""
	}
	if oldSize > size && !r.is("old size") {
		return 400, ""
	}
	return r.advance(log, oldSize, state{size, root, checkpoint}, hashes, text)
}

// open returns the status for a note's signatures.
func (r *reference) open(log *Log, text, lines string) int {
	verifier, err := note.NewVerifier(log.VKey)
	if err != nil {
		panic(err) // the log made it
	}
	if verifier.Name() != log.Origin && r.is("key name") {
		return 403
	}
	if strings.Count(lines, "\n") > 15 && r.is("15 signatures") {
		return 400
	}
	good := false
	for line := range strings.Lines(lines) {
		sig, err := parseLine(strings.TrimSuffix(line, "\n"))
		switch {
		case err != nil:
			return 400
		case sig.name != verifier.Name() || sig.id != verifier.KeyHash():
			if r.is("unknown signatures") {
				return 403
			}
		case verifier.Verify([]byte(text), sig.raw) || r.is("any signature"):
			good = true
		case good && r.is("first signature"):
		default:
			return 403
		}
	}
	if !good && !r.is("no signature") {
		return 403
	}
	return 200
}

// advance checks the consistency and cosigns.
func (r *reference) advance(log *Log, oldSize uint64, next state, hashes [][]byte, text string) (int, string) {
	if !r.is("race") {
		r.mu.Lock()
		defer r.mu.Unlock()
	}
	known := r.read(log.Origin)
	if oldSize != known.size && !r.is("old size") && (known.root != nil || !r.is("first")) {
		if r.is("409 body") {
			return 409, strconv.FormatUint(known.size, 10)
		}
		return 409, fmt.Sprintln(known.size)
	}
	switch {
	case next.size == 0 && string(next.root) != string(rfc6962.DefaultHasher.EmptyRoot()) && !r.is("empty root"):
		return 422, ""
	case oldSize == 0:
		if len(hashes) > 0 && !r.is("proof from zero") {
			return 422, ""
		}
	case oldSize == next.size && r.is("equal size"): // whatever the root
	case proof.VerifyConsistency(rfc6962.DefaultHasher, known.size, next.size, hashes, known.root, next.root) != nil && !r.is("any proof"):
		return 422, ""
	}
	var answer strings.Builder
	for i, signer := range r.signers {
		if i > 0 && r.is("one key") {
			break
		}
		if r.is("no extensions") {
			text = strings.Join(strings.SplitAfter(text, "\n")[:3], "")
		}
		signature, err := signer.Sign([]byte(text))
		if err != nil {
			panic(err) // checked before
		}
		if r.is("timestamp") {
			signature = append(make([]byte, 8), signature[8:]...)
		}
		answer.WriteString(Line(signer.Name(), signer.KeyHash(), signature))
	}
	next.checkpoint += answer.String()
	if r.is("race") {
		time.Sleep(5 * time.Millisecond)
		r.mu.Lock()
		defer r.mu.Unlock()
	}
	r.known[log.Origin] = next
	if r.is("echo") {
		return 200, next.checkpoint
	}
	return 200, answer.String()
}

func (r *reference) read(origin string) state {
	if r.is("race") {
		r.mu.Lock()
		defer r.mu.Unlock()
	}
	return r.known[origin]
}

func (r *reference) monitor(w http.ResponseWriter, request *http.Request) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if request.Method != http.MethodGet && !r.is("monitor POST") {
		w.WriteHeader(http.StatusMethodNotAllowed)
		return
	}
	for origin, known := range r.known {
		if hashOf(origin) == request.PathValue("hash") || r.is("monitor case") && strings.EqualFold(hashOf(origin), request.PathValue("hash")) {
			if r.is("monitor without cosignatures") {
				known.checkpoint = known.checkpoint[:strings.LastIndex(known.checkpoint, "— reference")]
			}
			io.WriteString(w, known.checkpoint)
			return
		}
	}
	if r.is("monitor 404") {
		return
	}
	w.WriteHeader(http.StatusNotFound)
}
