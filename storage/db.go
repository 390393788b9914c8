package storage

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	lru "github.com/hashicorp/golang-lru/v2"
)

// Errors of Create and Open, to be tested with errors.Is.
var (
	ErrExists   = errors.New("already exists")
	ErrNotExist = errors.New("does not exist")
	// ErrLocked: another process has the database open.
	ErrLocked = errors.New("locked by another process")
)

// FormatError is returned by Open for a database that this version cannot read.
type FormatError struct{ Found string }

func (e *FormatError) Error() string {
	return fmt.Sprintf("data has the format %s, and this version of understudy reads only %s %d: use the version that wrote it",
		e.Found, formatName, formatVersion)
}

// Options are the settings of a database. The zero value is good.
type Options struct {
	// FS is the file system; nil is the machine's. Tests inject faults here.
	FS vfs.FS
	// Logger receives what goes wrong in the background; nil discards it.
	Logger *slog.Logger
	// CacheBytes is the size of the block cache; 0 is 64 MiB.
	CacheBytes int64
	// Fatal is called when the disk refused a write or a sync: what is in memory may
	// no longer be what is on disk, so the process must end, and opening the database
	// again recovers. It should not return. Nil panics.
	Fatal func(error)
	// ReadOnly opens for reading alone; it still needs the lock.
	ReadOnly bool
	// SearchKeys returns the keys under which an entry is found, the same ones every time. It
	// is called concurrently and does not keep the entry. Nil: no search index is kept, and the
	// one that there is ends with the first entry that is added or pin that changes.
	SearchKeys func(entry []byte) []string
	// ReceiptKeys returns further keys, which stand in the receipt of a held entry; those of a pin
	// are among its Keys. Nil: none.
	ReceiptKeys func(receipt []byte) []string
	// SearchVersion changes whenever one of the two does: then the search index begins anew.
	SearchVersion uint32

	manyBytes     int    // in tests
	maxLeaves     uint64 // in tests
	memTableBytes uint64 // 0 is memTableBytes
	complete      bool   // every file must be there
}

// DB is one database: trees by origin. Its methods may be called concurrently; close
// it only after every reader has stopped.
type DB struct {
	pebble        *pebble.DB
	fs            vfs.FS
	lock          *pebble.Lock
	dir           string
	logger        *slog.Logger
	fatal         func(error)
	options       *pebble.Options // as Pebble was opened
	manyBytes     int             // from how many bytes on entries get a table of their own
	maxLeaves     uint64          // 0 is maxLeaves
	search        func(entry []byte) []string
	receiptKeys   func(receipt []byte) []string
	searchVersion uint32
	tiles         *lru.Cache[tileKey, *expandedTile]
	links         *lru.Cache[linkKey, []Hash] // consistency proofs between archived checkpoints

	mu    sync.Mutex // guards trees and the numbering of new ones
	trees map[string]*Tree

	dead   atomic.Pointer[error] // the first fatal error
	opened atomic.Bool           // compactions may begin

	backup   sync.Mutex   // held through every backup
	freezing sync.RWMutex // held while files are frozen for a backup; shared by every write

	damages damages
	damaged sync.Map // paths of files whose damage was logged

	swap  sync.RWMutex // held while rows are written anew; guards swaps
	swaps uint64       // how often that was done
}

// Exists says whether dir holds a database.
func Exists(dir string, o Options) (bool, error) {
	desc, err := pebble.Peek(dir, fileSystem(o))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("look into %s: %w", dir, err)
	}
	return desc.Exists, nil
}

// Create makes a new, empty database in dir and opens it. It returns ErrExists if
// there is one.
func Create(dir string, o Options) (*DB, error) {
	if err := makeDirectory(fileSystem(o), dir); err != nil {
		return nil, fmt.Errorf("create database: %w", err)
	}
	db, err := open(dir, o, func(p *pebble.Options) { p.ErrorIfExists = true })
	if err != nil {
		return nil, fmt.Errorf("create database: %w", err)
	}
	if err := db.pebble.Set([]byte{keyFormat}, formatRecord(), pebble.Sync); err != nil {
		return nil, errors.Join(fmt.Errorf("write format: %w", err), db.Close())
	}
	return db, nil
}

// CreateScratch makes an empty database in memory, for what is thrown away.
func CreateScratch(o Options) (*DB, error) {
	o.FS = vfs.NewMem()
	return Create("scratch", o)
}

// Open opens the database in dir and loads its trees; it costs O(log n) for each. It
// returns ErrNotExist, ErrLocked or a *FormatError if it cannot.
func Open(dir string, o Options) (*DB, error) {
	db, err := open(dir, o, func(p *pebble.Options) { p.ErrorIfNotExists = true })
	if err != nil {
		return nil, fmt.Errorf("open database: %w", err)
	}
	if err := db.load(o.ReadOnly); err != nil {
		return nil, errors.Join(fmt.Errorf("open database %s: %w", dir, err), db.Close())
	}
	return db, nil
}

func syncDirectory(files vfs.FS, dir string) error {
	d, err := files.OpenDir(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

func open(dir string, o Options, mode func(*pebble.Options)) (_ *DB, err error) {
	db := &DB{dir: dir, logger: o.Logger, fatal: o.Fatal, trees: map[string]*Tree{}, maxLeaves: o.maxLeaves, search: o.SearchKeys, receiptKeys: o.ReceiptKeys, searchVersion: o.SearchVersion}
	db.damages.known, db.damages.changed = map[treeID][]DamageError{}, make(chan struct{})
	db.fs = &ownFS{FS: fileSystem(o), dir: dir, fail: db.fail}
	if db.manyBytes = o.manyBytes; db.manyBytes == 0 {
		db.manyBytes = manyBytes
	}
	if db.logger == nil {
		db.logger = slog.New(slog.DiscardHandler)
	}
	if db.tiles, err = lru.New[tileKey, *expandedTile](cachedTiles); err != nil {
		return nil, err
	}
	if db.links, err = lru.New[linkKey, []Hash](cachedLinks); err != nil {
		return nil, err
	}
	lock, err := lockDirectory(dir, db.fs)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, lock.Close())
		}
	}()
	p := o.pebble(db)
	p.Lock, db.lock, db.options = lock, lock, p
	mode(p)
	defer db.recoverFatal(&err)
	db.pebble, err = pebble.Open(dir, p)
	switch {
	case err == nil && o.ReadOnly:
		return db, nil
	case err == nil:
		if err := db.sweepIncoming(); err != nil {
			return nil, errors.Join(fmt.Errorf("clear %s: %w", db.incoming(), err), db.pebble.Close())
		}
		db.opened.Store(true) // compactions, from the next flush on
		return db, nil
	case errors.Is(err, pebble.ErrDBAlreadyExists):
		return nil, fmt.Errorf("%s: %w", dir, ErrExists)
	case errors.Is(err, pebble.ErrDBDoesNotExist):
		return nil, fmt.Errorf("%s: %w", dir, ErrNotExist)
	}
	return nil, fmt.Errorf("%s: %w", dir, err)
}

// makeDirectory makes a directory and its parents, durably.
func makeDirectory(files vfs.FS, dir string) error {
	parent := files.PathDir(dir)
	if _, err := files.Stat(dir); err == nil || !errors.Is(err, fs.ErrNotExist) || parent == dir {
		return err
	}
	if err := makeDirectory(files, parent); err != nil {
		return err
	}
	if err := files.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	return syncDirectory(files, parent)
}

func lockDirectory(dir string, files vfs.FS) (*pebble.Lock, error) {
	lock, err := pebble.LockDirectory(dir, files)
	var pathError *fs.PathError
	switch {
	case err == nil:
		return lock, nil
	case errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("%s: %w", dir, ErrNotExist)
	case errors.As(err, &pathError):
		return nil, fmt.Errorf("lock %s: %w", dir, err)
	}
	// What is left is the answer of the lock call itself.
	return nil, fmt.Errorf("%s: %w", dir, ErrLocked)
}

func formatRecord() []byte { return append([]byte(formatName), formatVersion) }

// olderFormat says whether a format is one that this version converts, row by row as they are
// written.
func olderFormat(format []byte) bool {
	version, ok := bytes.CutPrefix(format, []byte(formatName))
	return ok && len(version) == 1 && version[0] > 0 && version[0] < formatVersion
}

func (db *DB) load(readOnly bool) error {
	format, err := db.get([]byte{keyFormat})
	switch {
	case errors.Is(err, pebble.ErrNotFound):
		// Create crashed before its first write, or this is somebody else's database.
		if empty, err := db.empty(); err != nil || !empty {
			return errors.Join(&FormatError{Found: "unknown"}, err)
		}
		if readOnly {
			return nil
		}
		return db.pebble.Set([]byte{keyFormat}, formatRecord(), pebble.Sync)
	case err != nil:
		return err
	case olderFormat(format) && readOnly:
	case olderFormat(format):
		if err := db.pebble.Set([]byte{keyFormat}, formatRecord(), pebble.Sync); err != nil {
			return err
		}
	case string(format) != string(formatRecord()):
		return &FormatError{Found: fmt.Sprintf("%q", format)}
	}
	return db.eachOrigin(func(origin string, id treeID) error {
		t, err := loadTree(db, origin, id)
		if dead := db.Err(); dead != nil {
			return dead
		}
		if err != nil {
			// STYLE 8: a damaged tree stops that tree, not the others.
			db.logger.Error("tree cannot be opened", "origin", origin, "error", err)
			t = &Tree{db: db, origin: origin, id: id, lost: err}
		}
		db.trees[origin] = t
		return nil
	})
}

func (db *DB) empty() (bool, error) {
	it, err := db.pebble.NewIter(nil)
	if err != nil {
		return false, err
	}
	empty := !it.First()
	return empty, it.Close()
}

func (db *DB) eachOrigin(f func(origin string, id treeID) error) (err error) {
	it, err := db.pebble.NewIter(&pebble.IterOptions{LowerBound: []byte{keyOrigin}, UpperBound: []byte{keyOrigin + 1}})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, it.Close()) }()
	for ok := it.First(); ok; ok = it.Next() {
		if len(it.Value()) != 8 {
			return fmt.Errorf("number of tree %q: %w", it.Key()[1:], errRecord)
		}
		if err := f(string(it.Key()[1:]), treeID(binary.BigEndian.Uint64(it.Value()))); err != nil {
			return err
		}
	}
	return nil
}

// Close closes the database. Every View must have been closed, and no method may run.
func (db *DB) Close() (err error) {
	defer db.recoverFatal(&err)
	db.opened.Store(false) // Close waits for compactions, too
	return errors.Join(db.pebble.Close(), db.lock.Close())
}

// DiskUsage returns the bytes that the database takes on disk.
func (db *DB) DiskUsage() uint64 {
	m := db.pebble.Metrics()
	// Of the open log file Pebble counts only what is preallocated.
	return m.DiskSpaceUsage() - m.WAL.PhysicalSize + max(m.WAL.PhysicalSize, m.WAL.Size)
}

// Origins returns the origins of all trees, sorted.
func (db *DB) Origins() []string {
	db.mu.Lock()
	defer db.mu.Unlock()
	origins := make([]string, 0, len(db.trees))
	for origin := range db.trees {
		origins = append(origins, origin)
	}
	slices.Sort(origins)
	return origins
}

// CreateTree makes the empty tree of an origin, durably. It returns ErrExists if there
// is one.
func (db *DB) CreateTree(origin string) (_ *Tree, err error) {
	defer db.recoverFatal(&err)
	db.mu.Lock()
	defer db.mu.Unlock()
	if _, ok := db.trees[origin]; ok {
		return nil, fmt.Errorf("tree of %q: %w", origin, ErrExists)
	}
	id := treeID(1)
	for _, t := range db.trees {
		id = max(id, t.id+1)
	}
	s := &State{Head: Head{Root: emptyRoot()}}
	if db.search != nil {
		s.search = coverage{present: true, version: db.searchVersion, pins: allPins}
	}
	t := newTree(db, origin, id, s)
	b := db.pebble.NewBatch()
	defer b.Close()
	key := append([]byte{keyOrigin}, origin...)
	if err := errors.Join(
		b.Set(key, binary.BigEndian.AppendUint64(nil, uint64(id)), nil),
		b.Set(id.head(), encodeState(t.State()), nil),
		db.commit(b),
	); err != nil {
		return nil, fmt.Errorf("create tree of %q: %w", origin, err)
	}
	db.trees[origin] = t
	return t, nil
}

// OpenTree returns the tree of an origin. It returns ErrNotExist if there is none, and
// the cause if the tree's state could not be read.
func (db *DB) OpenTree(origin string) (*Tree, error) {
	db.mu.Lock()
	defer db.mu.Unlock()
	t, ok := db.trees[origin]
	if !ok {
		return nil, fmt.Errorf("tree of %q: %w", origin, ErrNotExist)
	}
	if t.lost != nil {
		return nil, fmt.Errorf("tree of %q: %w", origin, t.lost)
	}
	return t, nil
}

// commit makes a batch durable.
func (db *DB) commit(b *pebble.Batch) error {
	if err := db.Err(); err != nil {
		return err
	}
	db.freezing.RLock()
	defer db.freezing.RUnlock()
	return b.Commit(pebble.Sync)
}

func (db *DB) get(key []byte) ([]byte, error) { return get(db.pebble, key) }

func get(r pebble.Reader, key []byte) ([]byte, error) {
	v, closer, err := r.Get(key)
	if err != nil {
		return nil, err
	}
	out := append([]byte(nil), v...)
	return out, closer.Close()
}
