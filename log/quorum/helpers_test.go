package quorum

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"filippo.io/mldsa"
	formats "github.com/transparency-dev/formats/note"
	"golang.org/x/mod/sumdb/note"

	"github.com/understudy-log/understudy/storage"
)

const origin = "log.example.com"

// signer signs as a log (0x01) or cosigns (0x04, 0x06), with a key made from its name.
type signer struct {
	name string
	kind byte
	seed [32]byte
}

func newSigner(name string, kind byte) *signer {
	return &signer{name, kind, sha256.Sum256([]byte(name))}
}

func (s *signer) public() []byte {
	if s.kind == typeMLDSA44 {
		k, err := mldsa.NewPrivateKey(mldsa.MLDSA44(), s.seed[:])
		if err != nil {
			panic(err)
		}
		return k.PublicKey().Bytes()
	}
	return ed25519.NewKeyFromSeed(s.seed[:]).Public().(ed25519.PublicKey)
}

// vkeyOf encodes a verifier key, as signed-note says.
func vkeyOf(name string, kind byte, public []byte) string {
	raw := append([]byte{kind}, public...)
	sum := sha256.Sum256(append([]byte(name+"\n"), raw...))
	return fmt.Sprintf("%s+%x+%s", name, sum[:4], base64.StdEncoding.EncodeToString(raw))
}

func (s *signer) vkey() string { return vkeyOf(s.name, s.kind, s.public()) }

// line signs a text, at a time of its own choice.
func (s *signer) line(text string, at int64) string {
	id, _ := strconv.ParseUint(strings.Split(s.vkey(), "+")[1], 16, 32)
	raw := binary.BigEndian.AppendUint32(nil, uint32(id))
	switch s.kind {
	case typeEd25519:
		raw = append(raw, ed25519.Sign(ed25519.NewKeyFromSeed(s.seed[:]), []byte(text))...)
	case typeEd25519Cosi:
		raw = binary.BigEndian.AppendUint64(raw, uint64(at))
		raw = append(raw, ed25519.Sign(ed25519.NewKeyFromSeed(s.seed[:]), fmt.Appendf(nil, "cosignature/v1\ntime %d\n%s", uint64(at), text))...)
	case typeMLDSA44: // by formats, whose time is now
		skey := fmt.Sprintf("PRIVATE+KEY+%s+%08x+%s", s.name, id, base64.StdEncoding.EncodeToString(append([]byte{s.kind}, s.seed[:]...)))
		k, err := formats.NewMLDSASigner(skey)
		if err != nil {
			panic(err)
		}
		signature, err := k.Sign([]byte(text))
		if err != nil {
			panic(err)
		}
		raw = append(raw, signature...)
	}
	return "— " + s.name + " " + base64.StdEncoding.EncodeToString(raw) + "\n"
}

var logSigner = newSigner(origin, typeEd25519)

// leaf returns entry i of a history; histories differ from entry 5 on.
func leaf(history string, i uint64) storage.Hash {
	if i < 5 {
		history = ""
	}
	return storage.LeafHash(fmt.Appendf(nil, "%s %d", history, i))
}

func nodeOf(history string) storage.NodeFunc {
	var node storage.NodeFunc
	node = func(level int, index uint64) (storage.Hash, error) {
		if level == 0 {
			return leaf(history, index), nil
		}
		left, _ := node(level-1, 2*index)
		right, _ := node(level-1, 2*index+1)
		return storage.NodeHash(left, right), nil
	}
	return node
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func headOf(history string, size uint64) storage.Head {
	return storage.Head{Size: size, Root: must(storage.RootHash(size, nodeOf(history)))}
}

func textFor(history string, size uint64) string {
	root := headOf(history, size).Root
	return fmt.Sprintf("%s\n%d\n%s\n", origin, size, base64.StdEncoding.EncodeToString(root[:]))
}

func checkpointOf(size uint64) storage.Checkpoint {
	text := textFor("", size)
	return storage.Checkpoint{Head: headOf("", size), Raw: []byte(text + "\n" + logSigner.line(text, 0))}
}

func proveTo(size uint64) func(uint64) ([]storage.Hash, error) {
	return func(old uint64) ([]storage.Hash, error) {
		if old == 0 || old >= size {
			return nil, fmt.Errorf("proof from %d to %d was asked for", old, size)
		}
		return storage.ConsistencyProof(old, size, nodeOf(""))
	}
}

// asked is what a fake witness received.
type asked struct {
	old   uint64
	proof []storage.Hash
	size  uint64
	text  string
	raw   string
}

// fake is a witness as tlog-witness says, unless lie answers instead.
type fake struct {
	*signer
	more    []*signer // further keys
	url     string
	history string
	// lie answers instead and returns true, or returns false.
	lie func(w http.ResponseWriter, r *http.Request, a asked) bool

	mu          sync.Mutex
	size        uint64
	requests    []asked
	now, atOnce int
	agent       string
}

func newFake(t *testing.T, name string) *fake {
	f := &fake{signer: newSigner(name, typeEd25519Cosi)}
	s := httptest.NewServer(f)
	t.Cleanup(s.Close)
	f.url = s.URL + "/prefix"
	return f
}

func (f *fake) set(lie func(w http.ResponseWriter, r *http.Request, a asked) bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.lie = lie
}

func (f *fake) cosigned() uint64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.size
}

func (f *fake) heard() []asked {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.requests)
}

func (f *fake) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	a, ok := parseAsked(string(body))
	if err != nil || !ok || r.Method != http.MethodPost || r.URL.Path != "/prefix/add-checkpoint" {
		http.Error(w, "malformed", http.StatusBadRequest)
		return
	}
	f.mu.Lock()
	f.requests = append(f.requests, a)
	f.agent = r.UserAgent()
	f.now++
	f.atOnce = max(f.atOnce, f.now)
	lie := f.lie
	f.mu.Unlock()
	defer func() {
		f.mu.Lock()
		f.now--
		f.mu.Unlock()
	}()
	if lie != nil && lie(w, r, a) {
		return
	}
	f.answer(w, a)
}

func parseAsked(body string) (a asked, ok bool) {
	head, raw, ok := strings.Cut(body, "\n\n")
	lines := strings.Split(head, "\n")
	if _, err := fmt.Sscanf(lines[0], "old %d", &a.old); err != nil || !ok {
		return a, false
	}
	for _, line := range lines[1:] {
		h, err := base64.StdEncoding.DecodeString(line)
		if err != nil || len(h) != storage.HashSize {
			return a, false
		}
		a.proof = append(a.proof, storage.Hash(h))
	}
	n, err := note.Open([]byte(raw), note.VerifierList(must(note.NewVerifier(logSigner.vkey()))))
	if err != nil {
		return a, false
	}
	_, err = fmt.Sscanf(strings.Split(n.Text, "\n")[1], "%d", &a.size)
	a.text, a.raw = n.Text, raw
	return a, err == nil
}

func (f *fake) answer(w http.ResponseWriter, a asked) {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case a.old > a.size:
		http.Error(w, "old size is larger", http.StatusBadRequest)
	case a.old != f.size:
		conflict(w, f.size)
	case storage.VerifyConsistency(headOf(f.history, a.old), headOf("", a.size), a.proof) != nil || a.old == a.size && headOf(f.history, a.old) != headOf("", a.old):
		http.Error(w, "no proof", http.StatusUnprocessableEntity)
	default:
		f.size = a.size
		for _, s := range append([]*signer{f.signer}, f.more...) {
			io.WriteString(w, s.line(a.text, time.Now().Unix()))
		}
	}
}

func conflict(w http.ResponseWriter, size uint64) {
	w.Header().Set("Content-Type", "text/x.tlog.size")
	w.WriteHeader(http.StatusConflict)
	fmt.Fprintf(w, "%d\n", size)
}

// policyFor lists the witnesses, with the quorum: a number, or a line.
func policyFor(t *testing.T, quorum string, fakes ...*fake) *Policy {
	t.Helper()
	var b bytes.Buffer
	var names []string
	for _, f := range fakes {
		fmt.Fprintf(&b, "witness %s %s %s\n", f.name, f.vkey(), f.url)
		names = append(names, f.name)
	}
	if quorum != none {
		fmt.Fprintf(&b, "group all-of-them %s %s\n", quorum, strings.Join(names, " "))
		quorum = "all-of-them"
	}
	fmt.Fprintf(&b, "quorum %s\n", quorum)
	p, err := ParsePolicy(b.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func newCollector(t *testing.T, timeout time.Duration, p *Policy) *Collector {
	t.Helper()
	c, err := New(Config{Policy: p, Name: "v2", Timeout: timeout, Contact: "ops@example.com"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// verify holds that each line cosigns the checkpoint of this size.
func verify(t *testing.T, lines []string, size uint64, by ...*signer) {
	t.Helper()
	if len(lines) != len(by) {
		t.Fatalf("%d lines, want %d: %q", len(lines), len(by), lines)
	}
	for i, s := range by {
		v := must(formats.NewVerifierForCosignatureV1(s.vkey()))
		if _, err := note.Open([]byte(textFor("", size)+"\n"+lines[i]+"\n"), note.VerifierList(v)); err != nil {
			t.Errorf("line of %s: %v", s.name, err)
		}
	}
}

// eventually waits for what happens in the background.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !ok(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("never: %s", what)
		}
	}
}
