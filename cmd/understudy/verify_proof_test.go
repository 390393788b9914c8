package main

import (
	"bytes"
	"crypto"
	"crypto/ed25519"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	rekornote "github.com/sigstore/rekor-tiles/v2/pkg/note"
	"github.com/sigstore/sigstore/pkg/signature"
	"github.com/transparency-dev/formats/log"
	tlogproof "github.com/transparency-dev/formats/proof"
	"github.com/transparency-dev/merkle/rfc6962"
	"github.com/transparency-dev/merkle/testonly"
	"golang.org/x/mod/sumdb/note"
)

const verifyOrigin = "log.example"

// signedLog is a log with a key.
type signedLog struct {
	*testonly.Tree
	key     ed25519.PrivateKey
	pem     []byte
	keyFile string
}

func newSignedLog(t *testing.T, entries int) *signedLog {
	t.Helper()
	seed := sha256.Sum256([]byte("the key of log.example"))
	l := &signedLog{Tree: testonly.New(rfc6962.DefaultHasher), key: ed25519.NewKeyFromSeed(seed[:])}
	for i := range entries {
		l.AppendData(entryBody(i))
	}
	der, err := x509.MarshalPKIXPublicKey(l.key.Public())
	if err != nil {
		t.Fatal(err)
	}
	l.pem = pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})
	l.keyFile = writeTemp(t, "log.pem", l.pem)
	return l
}

func entryBody(i int) []byte { return fmt.Appendf(nil, "entry %d", i) }

func writeTemp(t *testing.T, name string, data []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func (l *signedLog) root(size uint64) hexHash { return hexHash(l.HashAt(size)) }

func (l *signedLog) checkpoint(t *testing.T, size uint64) string {
	t.Helper()
	return l.sign(t, verifyOrigin, size)
}

func (l *signedLog) sign(t *testing.T, origin string, size uint64) string {
	t.Helper()
	signer, err := signature.LoadSigner(l.key, crypto.Hash(0))
	if err != nil {
		t.Fatal(err)
	}
	s, err := rekornote.NewNoteSigner(t.Context(), verifyOrigin, signer)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := note.Sign(&note.Note{Text: string(log.Checkpoint{Origin: origin, Size: size, Hash: l.HashAt(size)}.Marshal())}, s)
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}

func (l *signedLog) inclusion(t *testing.T, index, size uint64) inclusionJSON {
	t.Helper()
	path, err := l.InclusionProof(index, size)
	if err != nil {
		t.Fatal(err)
	}
	return inclusionJSON{
		Kind: "inclusion", Origin: verifyOrigin, Index: index, TreeSize: size,
		LeafHash: hexHash(l.LeafHash(index)), RootHash: l.root(size), Hashes: hashesOf(path),
		Checkpoint: l.checkpoint(t, size),
	}
}

func (l *signedLog) consistency(t *testing.T, first, last uint64) consistencyJSON {
	t.Helper()
	path, err := l.ConsistencyProof(first, last)
	if err != nil {
		t.Fatal(err)
	}
	return consistencyJSON{
		Kind: "consistency", Origin: verifyOrigin, FirstSize: first, LastSize: last,
		FirstRootHash: l.root(first), RootHash: l.root(last), Hashes: hashesOf(path),
		FirstCheckpoint: l.checkpoint(t, first), Checkpoint: l.checkpoint(t, last),
	}
}

func hashesOf(path [][]byte) []hexHash {
	hashes := make([]hexHash, len(path))
	for i, h := range path {
		hashes[i] = hexHash(h)
	}
	return hashes
}

func (p inclusionJSON) tlogProof() []byte {
	t := tlogproof.TLogProof{Index: p.Index, Checkpoint: []byte(p.Checkpoint)}
	for _, h := range p.Hashes {
		t.Hashes = append(t.Hashes, h)
	}
	return t.Marshal()
}

// verifyData verifies data as a file, and returns what was said.
func verifyData(t *testing.T, data any, o verifyOptions) (string, error) {
	t.Helper()
	raw, ok := data.([]byte)
	if !ok {
		var err error
		if raw, err = json.Marshal(data); err != nil {
			t.Fatal(err)
		}
	}
	o.file = filepath.Join(t.TempDir(), "proof")
	if err := os.WriteFile(o.file, raw, 0o600); err != nil {
		t.Fatal(err)
	}
	if o.config == nil {
		o.config = func() (*Config, error) { return nil, errors.New("no configuration in this test") }
	}
	var out strings.Builder
	err := verifyFile(t.Context(), o, &out)
	if (err == nil) != strings.HasPrefix(out.String(), "good: ") || err != nil && (out.Len() > 0 || strings.Contains(err.Error(), "\n")) {
		t.Errorf("said %q, error %v", out.String(), err)
	}
	return out.String(), err
}

func TestVerifyEveryProof(t *testing.T) {
	const n = 17
	l := newSignedLog(t, n)
	for size := uint64(1); size <= n; size++ {
		for i := range size {
			p := l.inclusion(t, i, size)
			o := verifyOptions{key: l.keyFile, leafHash: p.LeafHash.String()}
			for _, form := range []any{p, p.tlogProof()} {
				if _, err := verifyData(t, form, o); err != nil {
					t.Fatalf("entry %d of %d: %v", i, size, err)
				}
			}
			if i == 0 {
				continue
			}
			if _, err := verifyData(t, l.consistency(t, i, size), verifyOptions{key: l.keyFile}); err != nil {
				t.Fatalf("%d to %d: %v", i, size, err)
			}
		}
	}
}

func TestVerifySays(t *testing.T) {
	l := newSignedLog(t, 9)
	p := l.inclusion(t, 3, 9)
	entry := writeTemp(t, "entry", entryBody(3))
	want := fmt.Sprintf("good: entry 3 is in the signed tree of 9 entries\n  origin    %s\n  leaf hash %v\n  root hash %v\n", verifyOrigin, p.LeafHash, p.RootHash)
	for _, form := range []any{p, p.tlogProof()} {
		if got, err := verifyData(t, form, verifyOptions{key: string(l.pem), entry: entry}); err != nil || got != want {
			t.Errorf("said %q, error %v", got, err)
		}
	}
	unsigned := l.consistency(t, 4, 9)
	unsigned.FirstCheckpoint = ""
	if _, err := verifyData(t, unsigned, verifyOptions{key: l.keyFile}); err != nil {
		t.Errorf("first tree unsigned: %v", err)
	}
}

func TestVerifyMangledTlogProof(t *testing.T) {
	l := newSignedLog(t, 9)
	p := l.inclusion(t, 3, 9)
	o := verifyOptions{key: l.keyFile, leafHash: p.LeafHash.String()}
	good := p.tlogProof()
	for i := len("c2sp.org/tlog-proof@"); i < len(good); i++ {
		bad := bytes.Clone(good)
		bad[i] ^= 1 << (i % 8)
		if said, err := verifyData(t, bad, o); exitCode(err) != exitWrong {
			t.Fatalf("byte %d changed to %q: said %q, %v", i, bad[i], said, err)
		}
		if said, err := verifyData(t, good[:i], o); exitCode(err) != exitWrong {
			t.Fatalf("cut at %d: said %q, %v", i, said, err)
		}
	}
	for name, edit := range map[string][2]string{
		"leading zero": {"index 3", "index 03"},
		"other index":  {"index 3", "index 2"},
		"past the end": {"index 3", "index 9"},
		"crlf":         {"\n", "\r\n"},
		"no index":     {"index 3\n", ""},
	} {
		if said, err := verifyData(t, bytes.ReplaceAll(good, []byte(edit[0]), []byte(edit[1])), o); exitCode(err) != exitWrong {
			t.Errorf("%s: said %q, %v", name, said, err)
		}
	}
}

func TestVerifyMangledJSON(t *testing.T) {
	l := newSignedLog(t, 9)
	other := sha256.Sum256(nil)
	key := verifyOptions{key: l.keyFile}
	for name, edit := range map[string]func(*inclusionJSON){
		"origin":        func(p *inclusionJSON) { p.Origin = "other.example" },
		"index":         func(p *inclusionJSON) { p.Index++ },
		"index too big": func(p *inclusionJSON) { p.Index = 9 },
		"size":          func(p *inclusionJSON) { p.TreeSize++ },
		"leaf hash":     func(p *inclusionJSON) { p.LeafHash = other },
		"root hash":     func(p *inclusionJSON) { p.RootHash = other },
		"hash":          func(p *inclusionJSON) { p.Hashes[1] = other },
		"hash dropped":  func(p *inclusionJSON) { p.Hashes = p.Hashes[1:] },
		"hash added":    func(p *inclusionJSON) { p.Hashes = append(p.Hashes, other) },
		"hashes turned": func(p *inclusionJSON) { p.Hashes[0], p.Hashes[1] = p.Hashes[1], p.Hashes[0] },
		"no checkpoint": func(p *inclusionJSON) { p.Checkpoint = "" },
		"older one":     func(p *inclusionJSON) { p.Checkpoint = l.checkpoint(t, 8) },
		"no signature":  func(p *inclusionJSON) { p.Checkpoint = strings.SplitAfter(p.Checkpoint, "\n\n")[0] },
		"no note":       func(p *inclusionJSON) { p.Checkpoint = "x" },
	} {
		p := l.inclusion(t, 3, 9)
		edit(&p)
		if said, err := verifyData(t, p, key); exitCode(err) != exitWrong {
			t.Errorf("inclusion, %s: said %q, %v", name, said, err)
		}
	}
	for name, edit := range map[string]func(*consistencyJSON){
		"origin":              func(p *consistencyJSON) { p.Origin = "other.example" },
		"first size":          func(p *consistencyJSON) { p.FirstSize++ },
		"first size unsigned": func(p *consistencyJSON) { p.FirstSize++; p.FirstCheckpoint = "" },
		"first root unsigned": func(p *consistencyJSON) { p.FirstRootHash = other; p.FirstCheckpoint = "" },
		"last size":           func(p *consistencyJSON) { p.LastSize++ },
		"root":                func(p *consistencyJSON) { p.RootHash = other },
		"hash":                func(p *consistencyJSON) { p.Hashes[0] = other },
		"hash dropped":        func(p *consistencyJSON) { p.Hashes = p.Hashes[1:] },
		"no checkpoint":       func(p *consistencyJSON) { p.Checkpoint = "" },
		"other checkpoint":    func(p *consistencyJSON) { p.FirstCheckpoint = l.checkpoint(t, 5) },
		"from nothing": func(p *consistencyJSON) {
			p.FirstSize, p.FirstRootHash, p.FirstCheckpoint, p.Hashes = 0, l.root(0), "", nil
		},
	} {
		p := l.consistency(t, 4, 9)
		edit(&p)
		if said, err := verifyData(t, p, key); exitCode(err) != exitWrong {
			t.Errorf("consistency, %s: said %q, %v", name, said, err)
		}
	}
	text := func(v any) string {
		data, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		return string(data)
	}
	good := text(l.inclusion(t, 3, 9))
	for name, bad := range map[string]string{
		"missing field":    strings.Replace(good, `"index":3,`, "", 1),
		"unknown field":    strings.Replace(good, `"index":3,`, `"index":3,"more":1,`, 1),
		"misspelled field": strings.Replace(good, `"index":3,`, `"Index":3,`, 1),
		"index as text":    strings.Replace(good, `"index":3,`, `"index":"3",`, 1),
		"negative index":   strings.Replace(good, `"index":3,`, `"index":-3,`, 1),
		"upper case hex":   strings.Replace(good, hex.EncodeToString(l.LeafHash(3)), strings.ToUpper(hex.EncodeToString(l.LeafHash(3))), 1),
		"short hash":       strings.Replace(good, hex.EncodeToString(l.LeafHash(3)), "00", 1),
		"cut":              good[:len(good)-1],
		"more after it":    good + "{}",
		"cut consistency":  strings.Replace(text(l.consistency(t, 4, 9)), `"last_size":9,`, "", 1),
	} {
		if said, err := verifyData(t, []byte(bad), key); exitCode(err) != exitWrong {
			t.Errorf("%s: said %q, %v", name, said, err)
		}
	}
}

// A good proof of the wrong thing is wrong; a question that makes no sense cannot
// be answered.
func TestVerifyProofOptions(t *testing.T) {
	l := newSignedLog(t, 9)
	p := l.inclusion(t, 3, 9)
	leaf := p.LeafHash.String()
	entry4 := writeTemp(t, "entry", entryBody(4))
	unsigned := p
	unsigned.Checkpoint = ""
	_, vkey, err := note.GenerateKey(nil, verifyOrigin)
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		data any
		o    verifyOptions
		code int
		says string
	}{
		"another entry":          {p, verifyOptions{key: l.keyFile, entry: entry4}, exitWrong, "another entry"},
		"another entry, tlog":    {p.tlogProof(), verifyOptions{key: l.keyFile, entry: entry4}, exitWrong, "not the logged one"},
		"another leaf hash":      {p, verifyOptions{key: l.keyFile, leafHash: strings.Repeat("0", 64)}, exitWrong, "another entry"},
		"another key":            {p, verifyOptions{key: vkey}, exitWrong, "changed its key"},
		"no entry":               {p.tlogProof(), verifyOptions{key: l.keyFile}, exitNotRun, "--entry"},
		"entry twice":            {p, verifyOptions{key: l.keyFile, entry: entry4, leafHash: leaf}, exitNotRun, "--entry and --leaf-hash"},
		"no such entry file":     {p, verifyOptions{key: l.keyFile, entry: entry4 + ".gone"}, exitNotRun, "no such file"},
		"no leaf hash":           {p, verifyOptions{key: l.keyFile, leafHash: "12"}, exitNotRun, "--leaf-hash"},
		"no key file":            {p, verifyOptions{key: l.keyFile + ".gone"}, exitNotRun, "no such file"},
		"no key in it":           {p, verifyOptions{key: entry4}, exitNotRun, "public key"},
		"no trusted root":        {p, verifyOptions{trustedRoot: l.keyFile}, exitNotRun, "trusted root"},
		"two sources of keys":    {p, verifyOptions{key: l.keyFile, trustedRoot: l.keyFile}, exitNotRun, "--trusted-root and --key"},
		"artifact for a proof":   {p, verifyOptions{key: l.keyFile, artifact: entry4}, exitNotRun, "--artifact"},
		"entry for consistency":  {l.consistency(t, 4, 9), verifyOptions{key: l.keyFile, leafHash: leaf}, exitNotRun, "--leaf-hash"},
		"not a proof":            {[]byte("hello"), verifyOptions{key: l.keyFile}, exitNotRun, "neither"},
		"JSON, but not a proof":  {[]byte("{}"), verifyOptions{key: l.keyFile}, exitNotRun, "no proof"},
		"no key at all":          {p, verifyOptions{}, exitNotRun, "no configuration"},
		"nobody signed it":       {unsigned, verifyOptions{key: l.keyFile}, exitWrong, "nobody signed"},
		"too long":               {make([]byte, maxProofFile+1), verifyOptions{key: l.keyFile}, exitNotRun, "over 64 MiB"},
		"unknown proof version":  {[]byte("c2sp.org/tlog-proof@v9\nindex 1\n\n"), verifyOptions{key: l.keyFile}, exitWrong, "broken"},
		"PEM key cannot sign it": {[]byte(strings.ReplaceAll(string(p.tlogProof()), verifyOrigin+"\n", "a log\n")), verifyOptions{key: l.keyFile, leafHash: leaf}, exitNotRun, "verifier key"},
	} {
		_, err := verifyData(t, c.data, c.o)
		if exitCode(err) != c.code || !strings.Contains(fmt.Sprint(err), c.says) {
			t.Errorf("%s: exit code %d, %v", name, exitCode(err), err)
		}
	}
	o := verifyOptions{key: l.keyFile, file: l.keyFile + ".gone"}
	if err := verifyFile(t.Context(), o, &strings.Builder{}); !errors.Is(err, os.ErrNotExist) || exitCode(err) != exitNotRun {
		t.Errorf("no such file: %v", err)
	}
}

// The first shard of Rekor v1 called itself "Rekor": a trusted root knows its key
// by the signature line.
func TestVerifyLearnsOrigin(t *testing.T) {
	l := newSignedLog(t, 9)
	der, err := x509.MarshalPKIXPublicKey(l.key.Public())
	if err != nil {
		t.Fatal(err)
	}
	id := sha256.Sum256(der)
	o := verifyOptions{trustedRoot: writeTemp(t, "root.json", sigstoreRoot(t, l.key.Public(), id[:], nil))}
	p := l.inclusion(t, 3, 9)
	p.Origin, p.Checkpoint = "Rekor", l.sign(t, "Rekor", 9)
	if _, err := verifyData(t, p, o); err != nil {
		t.Error(err)
	}
}

func TestVerifyWithConfiguration(t *testing.T) {
	l := newSignedLog(t, 9)
	dir := t.TempDir()
	proofFile := filepath.Join(dir, "3.tlog-proof")
	p := l.inclusion(t, 3, 9)
	files := map[string]string{
		proofFile:                            string(p.tlogProof()),
		filepath.Join(dir, "own.yaml"):       "logs: [{url: http://127.0.0.1:1, origin: " + verifyOrigin + ", public_key: " + l.keyFile + "}]\n",
		filepath.Join(dir, "root.yaml"):      "trusted_root: root.json\nlogs: [{url: http://127.0.0.1:1, origin: x.example}]\n",
		filepath.Join(dir, "root.json"):      string(sigstoreRoot(t, l.key.Public(), nil, nil)),
		filepath.Join(dir, "stranger.yaml"):  "logs: [{url: http://127.0.0.1:1, origin: x.example, public_key: " + l.keyFile + "}]\n",
		filepath.Join(dir, "nothing.yaml"):   "logs: [{url: http://127.0.0.1:1, origin: " + verifyOrigin + "}]\n",
		filepath.Join(dir, "misspelled.yml"): "log: []\n",
	}
	for name, text := range files {
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for config, want := range map[string]int{
		"own.yaml": exitGood, "root.yaml": exitGood, "stranger.yaml": exitWrong, "nothing.yaml": exitNotRun, "misspelled.yml": exitNotRun,
	} {
		var out, errs strings.Builder
		args := []string{"verify", "--config", filepath.Join(dir, config), "--leaf-hash", p.LeafHash.String(), proofFile}
		if code := run(t.Context(), args, &out, &errs); code != want {
			t.Errorf("%s: exit code %d, said %q %q", config, code, out.String(), errs.String())
		}
	}
	if _, err := os.Stat(filepath.Join(dir, "understudy-data")); err == nil {
		t.Error("verify made a data directory")
	}
}
