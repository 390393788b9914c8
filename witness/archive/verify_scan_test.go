package archive

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestScan changes what the tar and the first files are.
func TestScan(t *testing.T) {
	w := newChain(t)
	p := w.packs[0]
	files, mtime := readTar(p.encoded), p.m.Period.To.Unix()
	last := tarFile{files[len(files)-1].name, files[len(files)-1].content}
	for _, c := range []struct {
		reason string
		list   []tarFile
	}{
		{"there is no file in it", nil},
		{"manifest.note: the first file must be manifest.json", files[1:]},
		{"manifest.note: the file is missing: nobody signed the pack", slices.Delete(slices.Clone(files), 1, 2)},
		{"manifest.note: the file is there twice", slices.Insert(slices.Clone(files), 1, files[1])},
		{"timestamp.tsr: the file is not at its place", append([]tarFile{files[0], files[2], files[1]}, files[3:]...)},
		{"manifest.note: the file is not at its place", append([]tarFile{files[0], files[3], files[1], files[2]}, files[4:]...)},
		{"REPORT.md: manifest.note must stand before it", append([]tarFile{files[0], files[3], files[1], files[2]}, files[4:]...)},
		{"manifest.json: the manifest does not list this file", append(slices.Clone(files), files[0])},
		{"x: the manifest does not list this file", append(slices.Clone(files), tarFile{"x", nil})},
		{last.name + ": the file is there twice", append(slices.Clone(files), last)},
		{"the file is not at the place that it has in the manifest", append(slices.Clone(files[:len(files)-2]), last, files[len(files)-2])},
		{last.name + ": the manifest lists this file, and it is missing", files[:len(files)-1]},
		{"REPORT.md: the manifest lists this file, and it is missing", slices.Delete(slices.Clone(files), 3, 4)},
		{last.name + ": the file has 8 bytes, and the manifest says 7", append(slices.Clone(files[:len(files)-1]), tarFile{last.name, []byte(`{"n":1} `)})},
		{last.name + ": the file was changed", append(slices.Clone(files[:len(files)-1]), tarFile{last.name, []byte(`{"n":2}`)})},
		{"manifest.note: it has 1048577 bytes: more than 1048576 are not read", append([]tarFile{files[0], {noteFile, make([]byte, 1<<20+1)}}, files[2:]...)},
		{"manifest.json: it is not what a manifest is: format: is missing", append([]tarFile{{manifestFile, []byte("{}")}}, files[1:]...)},
	} {
		r := w.verify(writeTar(c.list, mtime))
		if !strings.Contains(texts(r.Errors), c.reason) {
			t.Errorf("want %q in:\n%s", c.reason, texts(r.Errors))
		}
	}
	// What is missing or changed is said once, not of everything that is about it.
	for _, name := range []string{"logs/tiles/checkpoints/00000002-size-9.txt", "logs/rekor/checkpoints.jsonl", "entries/000002/proof.txt", "entries/000002/entry.json", outagesFile, reportFile} {
		i := slices.IndexFunc(files, func(f tarFile) bool { return f.name == name })
		refused(t, w.verify(writeTar(slices.Delete(slices.Clone(files), i, i+1), mtime)), name+": the manifest lists this file, and it is missing")
		changed := slices.Clone(files)
		changed[i].content = slices.Concat(changed[i].content[1:], []byte("x"))
		refused(t, w.verify(writeTar(changed, mtime)), name+": the file was changed")
	}
	refused(t, w.verify(writeTar(files, mtime+1)), "the files are of another time than the end of the period")
	if r := w.verify([]byte(strings.Repeat("x", 2000))); !strings.Contains(texts(r.Errors), "this is no evidence pack") {
		t.Error(texts(r.Errors))
	}
	// Behind bytes that should be zero it goes on.
	raw := slices.Clone(p.encoded)
	raw[bytes.Index(raw, last.content)+len(last.content)] = 1
	refused(t, w.verify(raw), last.name+": the bytes behind it")

	p.m.Format = "understudy evidence pack v2"
	refused(t, w.verify(p.encode()), `its format is "understudy evidence pack v2"`)
	p.m.Format = format

	// What is signed in another form than it has.
	all := p.files()
	for _, c := range []struct {
		name, reason string
		change       func(content []byte) []byte
	}{
		{outagesFile, "outages.jsonl line 2: the last line does not end with a newline", func(c []byte) []byte { return c[:len(c)-1] }},
		{outagesFile, "outages.jsonl line 1: the line is not what it should be", func(c []byte) []byte { return append([]byte("\n"), c...) }},
		{outagesFile, "outages.jsonl line 3: the line is not what it should be", func(c []byte) []byte { return append(c, '\n') }},
		{outagesFile, "outages.jsonl line 1: the line is not what it should be", func(c []byte) []byte { return append([]byte("\xef\xbb\xbf"), c...) }},
		{outagesFile, "outages.jsonl line 1: the line is longer than", func(c []byte) []byte { return bytes.Repeat([]byte{' '}, maxLine+2<<20) }},
		{"logs/tiles/checkpoints/00000002-size-9.txt", "more than 1048576 are not read", func(c []byte) []byte { return append(c, make([]byte, 1<<20)...) }},
	} {
		r := w.verify(p.replaced(c.name, c.change(slices.Clone(all[c.name])), all))
		if !strings.Contains(texts(r.Errors), c.reason) {
			t.Errorf("want %q in:\n%s", c.reason, texts(r.Errors))
		}
	}
	// A list of files that is not sorted, or has names that no file can have.
	for name, reason := range map[string]string{"a/../b": "is not one that a listed file can have", manifestFile: "is not one that a listed file can have", noteFile: "is not one that", timestampFile: "is not one that", "REPORT.md": "does not come after"} {
		p.encode()
		p.m.Files = append(p.m.Files, File{name, 0, Hex{}})
		if r := w.verify(p.encodeManifest(must(json.Marshal(p.m)), all)); !strings.Contains(texts(r.Errors), reason) {
			t.Errorf("%s: want %q in:\n%s", name, reason, texts(r.Errors))
		}
	}
}

var update = flag.Bool("update", false, "make the packs in testdata anew")

// TestGolden holds that the packs in testdata, with which others test too, are good.
func TestGolden(t *testing.T) {
	if *update {
		w := newChain(t)
		for i, p := range w.encoded() {
			writeGolden(t, fmt.Sprintf("pack%d.tar", i+1), p)
		}
		writeGolden(t, "archive.vkey", []byte(w.vkey+"\n"))
		writeGolden(t, "cosigner.vkey", []byte(w.cosigners[0].vkey+"\n"))
		var logs []string
		for _, l := range w.logs {
			der := must(x509.MarshalPKIXPublicKey(l.public))
			writeGolden(t, l.folder[len("logs/"):]+".pem", pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
			details, id := "PKIX_ECDSA_P256_SHA_256", sha256Of(der)
			if l.signer == l.origin {
				details, id = "PKIX_ED25519", sha256Of(append([]byte(l.origin+"\n\x01"), der[len(der)-32:]...))
			}
			if l.origin != lateOrigin {
				logs = append(logs, fmt.Sprintf(`{"baseUrl": "https://%s", "hashAlgorithm": "SHA2_256", "publicKey": {"rawBytes": %q, "keyDetails": %q, "validFor": {"start": "2026-01-01T00:00:00Z"}}, "logId": {"keyId": %q}}`,
					l.signer, base64.StdEncoding.EncodeToString(der), details, base64.StdEncoding.EncodeToString(id)))
			}
		}
		writeGolden(t, "trusted_root.json", fmt.Appendf(nil, "{\"mediaType\": \"application/vnd.dev.sigstore.trustedroot+json;version=0.1\", \"tlogs\": [\n%s]}\n", strings.Join(logs, ",\n")))
	}
	var packs [][]byte
	for i := range 3 {
		packs = append(packs, must(os.ReadFile(filepath.Join("testdata", fmt.Sprintf("pack%d.tar", i+1)))))
	}
	r, err := Verify(t.Context(), inputs(packs...), Options{})
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range r.Errors {
		if !strings.Contains(e.Text, "no key is trusted") {
			t.Error(e)
		}
	}
	if len(r.Errors) != 7 {
		t.Errorf("%d errors: without keys there is one for each log of each pack that signed something in it", len(r.Errors))
	}
}

func sha256Of(b []byte) []byte {
	h := sha256.Sum256(b)
	return h[:]
}

func writeGolden(t *testing.T, name string, content []byte) {
	if err := os.WriteFile(filepath.Join("testdata", name), content, 0o644); err != nil {
		t.Fatal(err)
	}
}
