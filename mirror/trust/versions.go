package trust

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/understudy-log/understudy/storage"
)

// version is a record of one version of a repository: everything that was seen up to then.
type version struct {
	Number uint64    `json:"number"`
	Seen   time.Time `json:"seen"`  // when it was verified first
	Roles  []Role    `json:"roles"` // in the order of trust
	// Consistent is whether metadata and targets have their version or hash in their name.
	Consistent bool              `json:"consistent"`
	Names      map[string]string `json:"names"` // role: its file
	// Files are all that there are, by path: the hex SHA-256 of the content. What has a version or
	// a hash in its name stays for good.
	Files   map[string]string `json:"files"`
	Targets map[string]string `json:"targets"` // name: its file
}

// served is a version with the content of its files.
type served struct {
	version

	files   map[string]File
	history history          // up to this version
	floor   map[string]int64 // version of each role that was seen last, whatever is damaged
}

// maxKept bounds the files of earlier versions that stay in memory to be served, in bytes.
const maxKept = 256 << 20

// maxSnapshots is how many snapshots stay, for clients in the middle of an update.
const maxSnapshots = 64

// successor begins the next version: of this one only what has a name for ever is in it. When that
// has more than most bytes it is the roots alone: then clients in the middle of an update begin it
// again. The database has every version all the same.
func (s *served) successor(now time.Time, most int) *served {
	size := 0
	for _, file := range s.files {
		size += len(file.Data)
	}
	next := &served{version: version{
		Number: s.Number + 1, Seen: now, Consistent: s.Consistent,
		Names: map[string]string{}, Files: map[string]string{}, Targets: map[string]string{},
	}, files: map[string]File{}}
	var snapshots []int64
	for name, file := range s.files {
		if !file.Forever || size > most && !isRoot(name) {
			continue
		}
		next.files[name], next.Files[name] = file, file.Hash
		var n int64
		if _, err := fmt.Sscanf(name, "%d.snapshot.json", &n); err == nil {
			snapshots = append(snapshots, n)
		}
	}
	slices.Sort(snapshots)
	for _, n := range snapshots[:max(0, len(snapshots)-maxSnapshots)] { // there is one more every few days
		name := fmt.Sprintf("%d.snapshot.json", n)
		delete(next.files, name)
		delete(next.Files, name)
	}
	return next
}

// put adds a file.
func (s *served) put(name string, data []byte) {
	s.files[name] = File{Data: data, Hash: hashOf(data), Forever: forever(name, s.Consistent)}
	s.Files[name] = s.files[name].Hash
}

// clone returns a copy that can be changed.
func (s *served) clone() *served {
	c := *s
	c.Roles, c.Names, c.Files, c.Targets = slices.Clone(s.Roles), maps.Clone(s.Names), maps.Clone(s.Files), maps.Clone(s.Targets)
	c.files = maps.Clone(s.files)
	return &c
}

// dropRoots takes out all roots.
func (s *served) dropRoots() {
	for name := range s.files {
		if isRoot(name) {
			delete(s.files, name)
			delete(s.Files, name)
		}
	}
}

func isRoot(name string) bool {
	var n int64
	_, err := fmt.Sscanf(name, "%d.root.json", &n)
	return err == nil && name == rootFile(n)
}

// is says which file has the metadata of a role.
func (s *served) is(role, file string, version int64, expires time.Time) {
	s.Names[role] = file
	s.Roles = append(s.Roles, Role{Name: role, Version: version, Expires: expires})
}

// current returns the metadata of a role; nil if there is none.
func (s *served) current(role string) []byte { return s.files[s.Names[role]].Data }

// same says whether two versions are the same but for number and time.
func (s *served) same(other *served) bool {
	a, b := s.version, other.version
	a.Number, a.Seen, b.Number, b.Seen = 0, time.Time{}, 0, time.Time{}
	one, err := json.Marshal(a)
	if err != nil {
		return false
	}
	two, err := json.Marshal(b)
	return err == nil && bytes.Equal(one, two)
}

// roles is the versions of all roles, for the daemon's log.
func (s *served) roles() string {
	text := ""
	for _, role := range s.Roles {
		text += fmt.Sprintf(" %s %d", role.Name, role.Version)
	}
	return text[min(1, len(text)):]
}

// Records are named after the repository: a version by its number, content by its hash.
func (r *Repository) record(name string) string        { return "tuf " + r.url + " " + name }
func (r *Repository) versionRecord(n uint64) string    { return r.record(fmt.Sprintf("version %020d", n)) }
func (r *Repository) contentRecord(hash string) string { return r.record("content " + hash) }

// newest is what is kept of the newest version beside its own record: if that is damaged, nothing
// older is taken for it.
type newest struct {
	Number uint64    `json:"number"`
	Seen   time.Time `json:"seen"`
	Roles  []Role    `json:"roles"`
}

func floorOf(roles []Role) map[string]int64 {
	floor := map[string]int64{}
	for _, role := range roles {
		floor[role.Name] = role.Version
	}
	return floor
}

// keep makes a version durable, in one commit, or that nothing is new.
func (r *Repository) keep(next *served, renewed bool, checked time.Time) error {
	records := map[string][]byte{}
	var err error
	if records[r.record("checked")], err = checked.MarshalText(); err != nil {
		return err
	}
	if renewed {
		before := r.served.Load()
		for name, file := range next.files {
			if before.Files[name] != file.Hash {
				records[r.contentRecord(file.Hash)] = file.Data
			}
		}
		if records[r.versionRecord(next.Number)], err = json.Marshal(next.version); err != nil {
			return err
		}
		if records[r.record("newest")], err = json.Marshal(newest{next.Number, next.Seen, next.Roles}); err != nil {
			return err
		}
	}
	return r.cfg.DB.PutRecords(records)
}

// load returns the newest version that is kept, and when upstream last vouched for it. What is
// damaged is left out, and had again from upstream.
func (r *Repository) load() (*served, time.Time, error) {
	s := &served{files: map[string]File{}}
	var checked time.Time
	lost := func(err error) error {
		if errors.As(err, new(*storage.DamageError)) {
			r.cfg.Logger.Error("a part of the copy of the TUF repository is damaged; it is fetched again", "repository", r.cfg.Name, "error", err)
			return nil
		}
		return err
	}
	if raw, err := r.cfg.DB.Record(r.record("checked")); err != nil {
		if err := lost(err); err != nil {
			return nil, checked, err
		}
	} else if raw != nil {
		if err := checked.UnmarshalText(raw); err != nil {
			checked = time.Time{}
		}
	}
	if err := lost(r.cfg.DB.Records(r.record("version "), func(_ string, raw []byte) error {
		var v version
		if err := json.Unmarshal(raw, &v); err != nil || v.Number <= s.Number {
			return lost(&storage.DamageError{Place: "a version of the TUF repository", Problem: fmt.Sprintf("cannot be read: %v", err)})
		}
		if v.Number != s.Number+1 {
			s.history = s.history.without(s.Seen, v.Seen)
		}
		s.version, s.history = v, s.history.with(&v)
		return nil
	})); err != nil {
		return nil, checked, err
	}
	var last newest
	if raw, err := r.cfg.DB.Record(r.record("newest")); err != nil {
		if err := lost(err); err != nil {
			return nil, checked, err
		}
	} else if raw != nil {
		if err := json.Unmarshal(raw, &last); err != nil {
			_ = lost(&storage.DamageError{Place: "the newest version of the TUF repository", Problem: "cannot be read: " + err.Error()})
		}
	}
	s.floor = floorOf(last.Roles)
	rewound := last.Number > s.Number // nothing older is shown in the place of what is damaged
	if rewound {
		s.history = s.history.without(s.Seen, time.Time{})
		s.Number = last.Number
	}
	for _, name := range slices.Sorted(maps.Keys(s.Files)) {
		hash := s.Files[name]
		data, err := r.cfg.DB.Record(r.contentRecord(hash))
		if err == nil && hashOf(data) != hash {
			err = &storage.DamageError{Place: "content of " + name, Problem: "has another hash"}
		}
		if err != nil {
			if err := lost(err); err != nil {
				return nil, checked, err
			}
			delete(s.Files, name)
			continue
		}
		s.files[name] = File{Data: data, Hash: hash, Forever: forever(name, s.Consistent)}
	}
	for _, role := range metadata.TOP_LEVEL_ROLE_NAMES {
		rewound = rewound || s.current(role) == nil
	}
	if rewound { // what has a name for ever is what it was; the rest is vouched for by nobody
		checked = time.Time{}
		s.Roles, s.Targets = nil, nil
		for name, file := range s.files {
			if !file.Forever {
				delete(s.files, name)
				delete(s.Files, name)
			}
		}
	}
	return s, checked, nil
}
