package archive

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sort"
	"time"
)

// spool gathers the files of a pack in one temporary file, in any order: their hashes have to be
// in the manifest, which stands in front of them.
type spool struct {
	f     *os.File
	w     *bufio.Writer
	size  int64
	files []spooled
}

type spooled struct {
	File
	offset int64
}

// newSpool makes the temporary file in dir.
func newSpool(dir string) (*spool, error) {
	f, err := os.CreateTemp(dir, temporary)
	if err != nil {
		return nil, err
	}
	return &spool{f: f, w: bufio.NewWriterSize(f, 1<<20)}, nil
}

// temporary is what the names of unfinished files look like; they are removed at a start.
const temporary = ".unfinished-*"

// add adds a file.
func (s *spool) add(name string, content []byte) error {
	if _, err := s.w.Write(content); err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	s.files = append(s.files, spooled{File{name, int64(len(content)), sha256.Sum256(content)}, s.size})
	s.size += int64(len(content))
	return nil
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
	t := newTarWriter(w, mtime)
	for _, f := range front {
		if err := t.add(f.name, int64(len(f.content)), bytes.NewReader(f.content)); err != nil {
			return err
		}
	}
	var content []byte
	for _, f := range s.sorted() {
		if int64(cap(content)) < f.Size {
			content = make([]byte, f.Size)
		}
		content = content[:f.Size]
		if _, err := s.f.ReadAt(content, f.offset); err != nil {
			return fmt.Errorf("read %s back: %w", f.Name, err)
		}
		if sha256.Sum256(content) != [32]byte(f.Hash) {
			return fmt.Errorf("read %s back: it is not what was written: look after the disk", f.Name)
		}
		if err := t.add(f.Name, f.Size, bytes.NewReader(content)); err != nil {
			return err
		}
	}
	return t.close()
}

// remove removes the temporary file.
func (s *spool) remove() error { return errors.Join(s.f.Close(), os.Remove(s.f.Name())) }

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
