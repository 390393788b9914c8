package archive

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
	"time"
)

var tarTime = time.Date(2026, 3, 1, 0, 0, 0, 999, time.UTC)

// tarFiles are files of every length around the ends of blocks.
func tarFiles() (files []tarFile) {
	for _, n := range []int{0, 1, 511, 512, 513, 1024, 5000} {
		files = append(files, tarFile{fmt.Sprintf("a/%04d.txt", n), bytes.Repeat([]byte{'x'}, n)})
	}
	return append(files, tarFile{strings.Repeat("n", 100), []byte("long name")})
}

func written(t testing.TB, files []tarFile) []byte {
	var b bytes.Buffer
	w := newTarWriter(&b, tarTime)
	for _, f := range files {
		if err := w.add(f.name, int64(len(f.content)), bytes.NewReader(f.content)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// readAll reads a tar as the verifier does.
func readAll(r io.Reader) (files []tarFile, mtime int64, err error) {
	t := newTarReader(r)
	for {
		if err := t.next(); err == io.EOF {
			return files, t.mtime, nil
		} else if err != nil {
			return files, t.mtime, err
		}
		content, err := io.ReadAll(t)
		files = append(files, tarFile{t.name, content})
		if err != nil {
			return files, t.mtime, err
		}
	}
}

func sameFiles(a, b []tarFile) bool {
	return slices.EqualFunc(a, b, func(x, y tarFile) bool { return x.name == y.name && bytes.Equal(x.content, y.content) })
}

func TestTar(t *testing.T) {
	files := tarFiles()
	raw := written(t, files)
	if !bytes.Equal(raw, writeTar(files, tarTime.Unix())) {
		t.Error("the writer does not write what the page says")
	}
	for _, r := range []io.Reader{bytes.NewReader(raw), iotest.OneByteReader(bytes.NewReader(raw)), iotest.DataErrReader(bytes.NewReader(raw))} {
		got, mtime, err := readAll(r)
		if err != nil || mtime != tarTime.Unix() || !sameFiles(got, files) {
			t.Errorf("read again: %d files, time %d, %v", len(got), mtime, err)
		}
	}
	// Others read it too.
	r := tar.NewReader(bytes.NewReader(raw))
	for _, f := range files {
		h, err := r.Next()
		if err != nil || h.Name != f.name || h.Mode != 0o644 || !h.ModTime.Equal(tarTime.Truncate(time.Second)) || h.Typeflag != tar.TypeReg {
			t.Fatalf("%s: %+v, %v", f.name, h, err)
		}
		if content, err := io.ReadAll(r); err != nil || !bytes.Equal(content, f.content) {
			t.Errorf("%s: %d bytes, %v", f.name, len(content), err)
		}
	}
	if _, err := r.Next(); err != io.EOF {
		t.Error(err)
	}
}

// TestTarRefuses changes every byte that is no content, and cuts everywhere.
func TestTarRefuses(t *testing.T) {
	files := tarFiles()
	raw := written(t, files)
	for i := range raw {
		for _, bit := range []byte{1, 0x80} {
			raw[i] ^= bit
			if got, _, err := readAll(bytes.NewReader(raw)); err == nil && sameFiles(got, files) {
				t.Fatalf("byte %d does not count", i)
			}
			raw[i] ^= bit
		}
		if i%7 == 0 {
			if _, _, err := readAll(bytes.NewReader(raw[:i])); err == nil {
				t.Fatalf("good when cut at byte %d", i)
			}
		}
	}
	for _, c := range [][]byte{append(slices.Clone(raw), 0), append(slices.Clone(raw), make([]byte, 512)...), raw[:len(raw)-512], raw[256:], nil} {
		if _, _, err := readAll(bytes.NewReader(c)); err == nil {
			t.Errorf("good: %d bytes", len(c))
		}
	}
	// Each header alone is good, and they have different times.
	one, two := writeTar(files[:1], 1), writeTar(files[1:2], 2)
	if _, _, err := readAll(bytes.NewReader(append(one[:len(one)-1024:len(one)-1024], two...))); err == nil || !strings.Contains(err.Error(), "has another time than the first file") {
		t.Errorf("two times: %v", err)
	}
	// One after an error in the padding is readable.
	raw[512+512+1+3] = 1
	r := newTarReader(bytes.NewReader(raw))
	for i, want := range []error{nil, nil, errTarPadding, nil} {
		if err := r.next(); err != want {
			t.Errorf("call %d: %v", i, err)
		}
	}
	broken := errors.New("broken disk")
	if _, _, err := readAll(io.MultiReader(bytes.NewReader(raw[:900]), iotest.ErrReader(broken))); !errors.Is(err, broken) {
		t.Error(err)
	}
}

func TestTarWriterRefuses(t *testing.T) {
	for _, name := range []string{"", "/", "/a", "a/", "a//b", ".", "..", "a/../b", "a b", "ä", "a\x00", "a\\b", strings.Repeat("a", 101)} {
		if err := newTarWriter(io.Discard, tarTime).add(name, 0, strings.NewReader("")); !errors.Is(err, errTarName) {
			t.Errorf("%q: %v", name, err)
		}
	}
	for size, reason := range map[int64]string{3: "another size", 1: "another size", -1: "does not fit", 1 << 33: "does not fit"} {
		if err := newTarWriter(io.Discard, tarTime).add("a", size, strings.NewReader("ab")); err == nil || !strings.Contains(err.Error(), reason) {
			t.Errorf("2 bytes as %d: %v", size, err)
		}
	}
	for _, at := range []time.Time{time.Unix(-1, 0), time.Unix(1<<33, 0)} {
		if err := newTarWriter(io.Discard, at).add("a", 0, strings.NewReader("")); err == nil {
			t.Error(at)
		}
	}
	broken := errors.New("broken")
	if err := newTarWriter(io.Discard, tarTime).add("a", 1, iotest.ErrReader(broken)); !errors.Is(err, broken) {
		t.Error(err)
	}
	for left := range 3 {
		w := newTarWriter(&failingWriter{left}, tarTime)
		if err := w.add("a", 1, strings.NewReader("x")); err == nil {
			t.Errorf("good after write %d failed", left)
		}
	}
	if err := newTarWriter(&failingWriter{}, tarTime).close(); err == nil {
		t.Error("good without an end")
	}
}

type failingWriter struct{ left int }

func (w *failingWriter) Write(p []byte) (int, error) {
	if w.left--; w.left < 0 {
		return 0, errors.New("full disk")
	}
	return len(p), nil
}

// FuzzTar holds that what is read is written again to the same bytes.
func FuzzTar(f *testing.F) {
	raw := written(f, tarFiles()[:3])
	f.Add(raw)
	f.Add(raw[:len(raw)-512])
	f.Add(written(f, nil))
	f.Fuzz(func(t *testing.T, raw []byte) {
		files, mtime, err := readAll(bytes.NewReader(raw))
		if err != nil {
			return
		}
		var b bytes.Buffer
		w := newTarWriter(&b, time.Unix(mtime, 0))
		for _, f := range files {
			if err := w.add(f.name, int64(len(f.content)), bytes.NewReader(f.content)); err != nil {
				t.Fatal(err)
			}
		}
		if w.close(); !bytes.Equal(b.Bytes(), raw) {
			t.Error("read and written again, it is another tar")
		}
	})
}
