package archive

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"path/filepath"
	"sort"
	"time"
)

// spool gathers the files of a pack in one temporary file, in any order: their hashes have to be
// in the manifest, which stands in front of them.
type spool struct {
	dir   string
	f     *os.File
	w     *bufio.Writer
	size  int64
	files []spooled
	long  *longFiles // nil if there are none
}

type spooled struct {
	File
	in     *os.File
	offset int64
}

// newSpool makes the temporary file in dir.
func newSpool(dir string) (*spool, error) {
	f, err := os.CreateTemp(dir, temporary)
	if err != nil {
		return nil, err
	}
	return &spool{dir: dir, f: f, w: bufio.NewWriterSize(f, 1<<20)}, nil
}

// temporary is what the names of unfinished files look like; they are removed at a start.
const temporary = ".unfinished-*"

// add adds a file.
func (s *spool) add(name string, content []byte) error {
	if _, err := s.w.Write(content); err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	s.files = append(s.files, spooled{File{name, int64(len(content)), sha256.Sum256(content)}, s.f, s.size})
	s.size += int64(len(content))
	return nil
}

// longFiles are files that are written line by line while others are added, one after the other.
type longFiles struct {
	f          *os.File
	w          *bufio.Writer
	hash       hash.Hash // of the one that is written
	start, end int64     // where it is
}

// begin begins a long file.
func (s *spool) begin() error {
	if s.long == nil {
		f, err := os.CreateTemp(s.dir, temporary)
		if err != nil {
			return err
		}
		s.long = &longFiles{f: f, w: bufio.NewWriterSize(f, 1<<20)}
	}
	s.long.hash, s.long.start = sha256.New(), s.long.end
	return nil
}

// line writes a line of the long file that was begun.
func (s *spool) line(line []byte) error {
	s.long.hash.Write(line)
	s.long.end += int64(len(line))
	_, err := s.long.w.Write(line)
	return err
}

// end adds the long file, unless nothing was written.
func (s *spool) end(name string) {
	if l := s.long; l.end > l.start {
		s.files = append(s.files, spooled{File{name, l.end - l.start, Hex(l.hash.Sum(nil))}, l.f, l.start})
	}
}

// sorted returns the files in the order of a pack.
func (s *spool) sorted() []spooled {
	sort.Slice(s.files, func(i, j int) bool { return s.files[i].Name < s.files[j].Name })
	return s.files
}

// writeTo writes a pack: what stands in front, and then all files.
func (s *spool) writeTo(w io.Writer, mtime time.Time, front []fileContent) error {
	if err := s.w.Flush(); err != nil {
		return err
	}
	if s.long != nil {
		if err := s.long.w.Flush(); err != nil {
			return err
		}
	}
	t := newTarWriter(w, mtime)
	for _, f := range front {
		if err := t.add(f.name, int64(len(f.content)), bytes.NewReader(f.content)); err != nil {
			return err
		}
	}
	for _, f := range s.sorted() {
		read := sha256.New()
		if err := t.add(f.Name, f.Size, io.TeeReader(io.NewSectionReader(f.in, f.offset, f.Size), read)); err != nil {
			return fmt.Errorf("read %s back: %w", f.Name, err)
		}
		if Hex(read.Sum(nil)) != f.Hash {
			return fmt.Errorf("read %s back: it is not what was written: look after the disk", f.Name)
		}
	}
	return t.close()
}

// remove removes the temporary files.
func (s *spool) remove() error {
	err := errors.Join(s.f.Close(), os.Remove(s.f.Name()))
	if s.long != nil {
		err = errors.Join(err, s.long.f.Close(), os.Remove(s.long.f.Name()))
	}
	return err
}

// sweep removes what a crash left in dir.
func sweep(dir string) error {
	names, err := filepath.Glob(filepath.Join(dir, temporary))
	for _, name := range names {
		err = errors.Join(err, os.Remove(name))
	}
	return err
}

type fileContent struct {
	name    string
	content []byte
}
