package archive

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"
)

// A pack is a tar file in one form only, which docs/evidence.md gives byte by byte: whoever reads
// one makes each header again, and compares.

const (
	tarBlock   = 512
	maxTarSize = 1<<33 - 1 // 11 octal digits
	maxTarName = 100
)

var errTarName = errors.New("not a name that a file of a pack can have")

// tarHeader returns the one header that a file of that name, size and time has.
func tarHeader(name string, size int64, mtime int64) ([tarBlock]byte, error) {
	var h [tarBlock]byte
	switch {
	case !validTarName(name):
		return h, fmt.Errorf("%.120q: %w", name, errTarName)
	case size < 0 || size > maxTarSize:
		return h, fmt.Errorf("%s: a file of %d bytes does not fit into a pack", name, size)
	case mtime < 0 || mtime > maxTarSize:
		return h, fmt.Errorf("a period cannot end %d seconds after 1970", mtime)
	}
	copy(h[0:], name)
	copy(h[100:], "0000644\x000000000\x000000000\x00")
	copy(h[124:], fmt.Sprintf("%011o\x00%011o\x00", size, mtime))
	copy(h[148:], "        ")
	copy(h[156:], "0")
	copy(h[257:], "ustar\x0000")
	sum := 0
	for _, b := range h {
		sum += int(b)
	}
	copy(h[148:], fmt.Sprintf("%06o\x00 ", sum))
	return h, nil
}

// validTarName says whether a file of a pack can have the name.
func validTarName(name string) bool {
	if len(name) > maxTarName {
		return false
	}
	for part := range strings.SplitSeq(name, "/") {
		if part == "" || part == "." || part == ".." {
			return false
		}
		for i := range len(part) {
			c := part[i]
			if !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '.' || c == '_' || c == '-') {
				return false
			}
		}
	}
	return true
}

// tarPadding is the number of zero bytes after a file.
func tarPadding(size int64) int64 { return -size & (tarBlock - 1) }

// tarWriter writes a pack.
type tarWriter struct {
	w     io.Writer
	mtime int64
}

// newTarWriter returns a writer of a pack whose period ends at mtime.
func newTarWriter(w io.Writer, mtime time.Time) *tarWriter { return &tarWriter{w, mtime.Unix()} }

// add writes one file: the size bytes that r has.
func (t *tarWriter) add(name string, size int64, r io.Reader) error {
	h, err := tarHeader(name, size, t.mtime)
	if err != nil {
		return err
	}
	if _, err := t.w.Write(h[:]); err != nil {
		return err
	}
	if n, err := io.Copy(t.w, io.LimitReader(r, size+1)); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	} else if n != size {
		return fmt.Errorf("%s has another size than %d bytes", name, size)
	}
	_, err = t.w.Write(make([]byte, tarPadding(size)))
	return err
}

// close writes the end. It does not close what is written to.
func (t *tarWriter) close() error {
	_, err := t.w.Write(make([]byte, 2*tarBlock))
	return err
}

// tarReader reads a pack in order, and refuses every other form. It holds one header.
type tarReader struct {
	r      io.Reader
	offset int64 // of what is read next
	left   int64 // of the content
	mtime  int64 // of the first file, which all have; -1 before it
	name   string
	size   int64
}

func newTarReader(r io.Reader) *tarReader { return &tarReader{r: r, mtime: -1} }

// A tarError says that a file is no tar in the form of packs.
type tarError struct{ reason string }

func (e *tarError) Error() string { return e.reason }

func tarErrorf(format string, args ...any) error { return &tarError{fmt.Sprintf(format, args...)} }

var errTarPadding = &tarError{"the bytes behind it, up to the next block, are not zero"}

// next goes to the next file, of which Read then gives the content; io.EOF after the last one.
// errTarPadding is about the file before it, and the next call goes on.
func (t *tarReader) next() error {
	if t.name != "" {
		padding := tarPadding(t.size)
		if _, err := io.Copy(io.Discard, t); err != nil {
			return err
		}
		t.name, t.size = "", 0
		var block [tarBlock]byte
		if err := t.full(block[:padding]); err != nil {
			return err
		}
		if block != [tarBlock]byte{} {
			return errTarPadding
		}
	}
	var block [tarBlock]byte
	at := t.offset
	if err := t.full(block[:]); err != nil {
		return err
	}
	if block == [tarBlock]byte{} {
		return t.end()
	}
	name, _, _ := bytes.Cut(block[:100], []byte{0})
	size, err := parseOctal(block[124:136])
	if err != nil {
		return tarErrorf("the header at byte %d has no size", at)
	}
	mtime, err := parseOctal(block[136:148])
	if err != nil {
		return tarErrorf("the header at byte %d has no time", at)
	}
	if t.mtime < 0 {
		t.mtime = mtime
	}
	if mtime != t.mtime {
		return tarErrorf("the header at byte %d has another time than the first file", at)
	}
	want, err := tarHeader(string(name), size, mtime)
	if err != nil {
		return tarErrorf("the header at byte %d: %v", at, err)
	}
	if block != want {
		i := 0
		for block[i] == want[i] {
			i++
		}
		return tarErrorf("the header at byte %d is not in the one form that it can have: its byte %d is another", at, i)
	}
	t.name, t.size, t.left = string(name), size, size
	return nil
}

// end reads what follows the first block of zeros.
func (t *tarReader) end() error {
	var block [tarBlock]byte
	if err := t.full(block[:]); err != nil {
		return err
	}
	if block != [tarBlock]byte{} {
		return tarErrorf("there is one block of zeros where the tar should end with two")
	}
	if n, err := io.ReadFull(t.r, block[:1]); n > 0 {
		return tarErrorf("something follows the end of the tar")
	} else if err != io.EOF {
		return err
	}
	return io.EOF
}

// Read reads the content of the file.
func (t *tarReader) Read(p []byte) (int, error) {
	if t.left == 0 {
		return 0, io.EOF
	}
	n, err := t.r.Read(p[:min(int64(len(p)), t.left)])
	t.left -= int64(n)
	t.offset += int64(n)
	if err == io.EOF {
		if err = nil; t.left > 0 {
			err = t.truncated()
		}
	}
	return n, err
}

func (t *tarReader) full(p []byte) error {
	n, err := io.ReadFull(t.r, p)
	t.offset += int64(n)
	if err == io.EOF || err == io.ErrUnexpectedEOF {
		return t.truncated()
	}
	return err
}

func (t *tarReader) truncated() error {
	return tarErrorf("it ends after %d bytes, in the middle: it was not copied to its end", t.offset)
}

func parseOctal(field []byte) (int64, error) {
	digits, rest, _ := bytes.Cut(field, []byte{0})
	if len(digits) != 11 || len(rest) != 0 {
		return 0, strconv.ErrSyntax
	}
	return strconv.ParseInt(string(digits), 8, 64)
}
