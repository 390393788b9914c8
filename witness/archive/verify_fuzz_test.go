package archive

import (
	"bytes"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"testing"
	"time"
)

// FuzzVerify holds that no bytes but those that the maker wrote are a good pack.
func FuzzVerify(f *testing.F) {
	w := newChain(f)
	for _, p := range w.encoded() {
		f.Add(p)
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		r, err := Verify(t.Context(), inputs(raw), w.options())
		if err != nil {
			t.Fatal(err)
		}
		if r.Good() && !slices.ContainsFunc(w.encoded(), func(p []byte) bool { return bytes.Equal(p, raw) }) {
			t.Error("good, and nobody made it")
		}
		if len(r.Errors) > maxRemarks || len(r.Findings) > maxRemarks {
			t.Error("too many remarks")
		}
	})
}

// FuzzFiles puts any content into a pack, hashed and signed.
func FuzzFiles(f *testing.F) {
	w := newChain(f)
	p := w.packs[0]
	files := p.files()
	list := readTar(p.encoded)
	files[manifestFile] = list[0].content
	for i := range list {
		f.Add(i, list[i].content)
	}
	f.Fuzz(func(t *testing.T, i int, content []byte) {
		file := list[uint(i)%uint(len(list))]
		was := p.m.Files
		raw := p.replaced(file.name, content, files)
		p.m.Files = was
		r, err := Verify(t.Context(), inputs(raw), w.options())
		if err != nil {
			t.Fatal(err)
		}
		signed := strings.HasPrefix(file.name, "logs/") && strings.HasSuffix(file.name, ".txt") || strings.HasSuffix(file.name, "/entry.json")
		if signed && r.Good() && !bytes.Equal(content, file.content) && !bytes.HasPrefix(content, textOf(file.content)) {
			t.Errorf("good, with another %s", file.name)
		}
	})
}

// bigPack has 10,000 checkpoints, each with a cosignature, and as many entries.
func bigPack(t testing.TB, n int, entries bool) (*testWorld, []byte) {
	w := newTestWorld(t)
	l := newTestLog(v1Origin, "logs/rekor", "pinned", n+1)
	w.logs = []*testLog{l}
	p := w.pack()
	for i := range n {
		p.grow(l, uint64(i+1), 0)
	}
	found := []Found{}
	for i := range n {
		if entries {
			found = append(found, Found{p.entry(l, uint64(i), uint64(n))})
		}
	}
	p.answers = []Answer{{Wanted{Index: "0-"}, found, "all of it", true}}
	return w, p.encode()
}

func BenchmarkVerify(b *testing.B) {
	w, pack := bigPack(b, 10_000, true)
	b.Logf("%d MB, on %d cores", len(pack)>>20, runtime.GOMAXPROCS(0))
	for b.Loop() {
		if r := w.verify(pack); !r.Good() {
			b.Fatal(texts(r.Errors))
		}
	}
}

// TestMemory holds that what is in memory does not grow with the sizes of the files.
func TestMemory(t *testing.T) {
	if testing.Short() {
		t.Skip("a big pack")
	}
	defer debug.SetGCPercent(debug.SetGCPercent(10))
	w := newTestWorld(t)
	l := newTestLog(tilesOrigin, "logs/tiles", "full", 1)
	w.logs = []*testLog{l}
	p := w.pack()
	for i := range 8_000 { // 10 KB each
		p.row(l, l.note(l.head(1), fmt.Sprintf("%d %s", i, strings.Repeat("x", 10_000))), l.head(1), map[bool]string{true: "first", false: "same"}[i == 0], []Base64{})
	}
	pack := p.encode()
	size := len(pack)
	name := filepath.Join(t.TempDir(), "pack.tar")
	if err := os.WriteFile(name, pack, 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	p.raw, p.encoded, pack, w.packs = nil, nil, nil, nil // only the file has it now
	var peak uint64
	done, stopped := make(chan bool), make(chan bool)
	var before runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	go func() {
		defer close(stopped)
		for {
			var m runtime.MemStats
			runtime.ReadMemStats(&m)
			peak = max(peak, m.HeapAlloc)
			select {
			case <-done:
				return
			case <-time.After(5 * time.Millisecond):
			}
		}
	}()
	r, err := Verify(t.Context(), []Input{{name, f, int64(size)}}, w.options())
	close(done)
	<-stopped
	if err != nil || !r.Good() {
		t.Fatalf("%v %s", err, texts(r.Errors))
	}
	t.Logf("from %d MB to %d MB", before.HeapAlloc>>20, peak>>20)
	if grown := peak - before.HeapAlloc; peak > before.HeapAlloc && grown > uint64(size)/4 {
		t.Errorf("%d MB in memory, for a pack of %d MB", grown>>20, size>>20)
	}
}

// TestManyErrors holds that a report is bounded, and says what it left out.
func TestManyErrors(t *testing.T) {
	w, _ := bigPack(t, 0, false)
	p := w.pack()
	for i := range 700 {
		p.grow(w.logs[0], 0)
		p.raw[p.rows["logs/rekor"][i].Checkpoint] = []byte("x")
		p.rows["logs/rekor"][i].Relation = "unproven"
	}
	p.outages = slices.Repeat([]Outage{{"", "stopped", at(110), nil, ""}}, 250)
	r := w.verify(p.encode())
	if len(r.Errors) != maxRemarks || r.FurtherErrors != 1300 || len(r.Findings) != maxRemarks || r.FurtherFindings != 151 {
		t.Errorf("%d + %d errors, %d + %d findings", len(r.Errors), r.FurtherErrors, len(r.Findings), r.FurtherFindings)
	}
	if e := r.Errors[0].Place; e != "logs/rekor/checkpoints.jsonl row 1" {
		t.Errorf("the first error is about %s", e)
	}
}

// TestOpenCheckpoint reads what no keys have looked at.
func TestOpenCheckpoint(t *testing.T) {
	l := newTestLog("log.example", "", "", 5)
	good := string(l.note(l.head(5), "extension", "another"))
	c, err := openCheckpoint("log.example", nil, []byte(good))
	if err != nil || c.Head != l.head(5) || fmt.Sprint(c.extensions) != "[extension another]" || string(c.text) != string(textOf([]byte(good))) {
		t.Errorf("%+v: %v", c, err)
	}
	for _, bad := range []string{
		"", "\n\n", "\n\n\n\n\n", "log.example\n5\n\n",
		strings.Replace(good, "log.example\n", "log.example2\n", 1),
		strings.Replace(good, "\n5\n", "\n05\n", 1),
		strings.Replace(good, "\n5\n", "\n+5\n", 1),
		strings.Replace(good, "\n5\n", "\n 5\n", 1),
		strings.Replace(good, "\n5\n", "\n"+fmt.Sprint(uint64(math.MaxUint64))+"\n", 1),
		strings.Replace(good, "=\n", "\n", 1),
		strings.Replace(good, "=\n", "=\r\n", 1),
		strings.Replace(good, "=\n", "=\n\n", 1),
		strings.Replace(good, "another\n", "\nanother\n", 1),
		strings.Replace(good, "another\n", "ano\tther\n", 1),
		strings.Replace(good, "another\n", "ano\xffther\n", 1),
		good[:len(good)-1],
		good + "\n",
		good[:strings.LastIndex(good, "\n\n")+2],
		good + "— x AAAA\n",
		good + "— x AAAAAAA\n",
		good + "— x AAAAAAB=\n",
		good + "— AAAAAAA=\n",
		good + "—  AAAAAAA=\n",
		good + "— a+b AAAAAAA=\n",
		good + "— a\u00a0b AAAAAAA=\n",
		good + "- x AAAAAAA=\n",
		good + strings.Repeat("— x AAAAAAA=\n", 99),
		strings.Replace(good, "another\n", strings.Repeat("x", maxSmall)+"\n", 1),
	} {
		if c, err := openCheckpoint("log.example", nil, []byte(bad)); err == nil {
			t.Errorf("%.300q is %+v", bad, c)
		}
	}
	if _, err := openCheckpoint("log.example", nil, []byte(good+strings.Repeat("— x AAAAAAA=\n", 98))); err != nil {
		t.Error(err)
	}
}
