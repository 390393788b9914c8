package trust

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"
)

// TargetVersion is a target of a TUF repository as it was for a while.
type TargetVersion struct {
	Name string
	Hash string // hex SHA-256 of its content
	// Seen is when it was first verified here; Until is when another version, or none, took its
	// place. Zero: it is the newest.
	Seen, Until time.Time
	Targets     int64 // version of the top-level targets metadata that named it first
}

// ErrNoTarget: the repository had no target of that name at the time.
var ErrNoTarget = errors.New("the TUF repository had no such target then")

// BeforeError says that the time asked for is before the first version that was seen: what there
// was is not known here.
type BeforeError struct {
	First time.Time // zero: nothing was seen yet
}

func (e *BeforeError) Error() string {
	if e.First.IsZero() {
		return "no version of the TUF repository was seen yet"
	}
	return "the first version of the TUF repository was seen at " + e.First.UTC().Format(time.RFC3339) + ": what it was before is not known here"
}

// history is every version of every target, by name, in order.
type history struct {
	first   time.Time // when the first version was seen; zero: there is none
	targets map[string][]TargetVersion
	gaps    []gap // what is damaged
}

// gap is a time of which a version is damaged; it has no end if until is zero.
type gap struct{ from, until time.Time }

// ErrGap: what was kept of that time is damaged.
var ErrGap = errors.New("what was kept of the TUF repository at that time is damaged")

// without returns the history with a gap; the next version ends one without an end.
func (h history) without(from, until time.Time) history {
	h.gaps = append(slices.Clip(h.gaps), gap{from, until})
	return h
}

// with returns the history with one version of the repository more.
func (h history) with(v *version) history {
	next := history{first: h.first, targets: maps.Clone(h.targets), gaps: slices.Clone(h.gaps)}
	for i := range next.gaps {
		if next.gaps[i].until.IsZero() {
			next.gaps[i].until = v.Seen
		}
	}
	if next.targets == nil {
		next.first, next.targets = v.Seen, map[string][]TargetVersion{}
	}
	number := int64(0)
	for _, role := range v.Roles {
		if role.Name == metadata.TARGETS {
			number = role.Version
		}
	}
	for name, all := range next.targets { // what is gone, or has changed
		last := all[len(all)-1]
		if last.Until.IsZero() && v.Files[v.Targets[name]] != last.Hash {
			all = slices.Clone(all)
			all[len(all)-1].Until = v.Seen
			next.targets[name] = all
		}
	}
	for name, file := range v.Targets {
		all := next.targets[name]
		if n := len(all); n > 0 && all[n-1].Until.IsZero() || v.Files[file] == "" {
			continue
		}
		next.targets[name] = append(slices.Clip(all), TargetVersion{Name: name, Hash: v.Files[file], Seen: v.Seen, Targets: number})
	}
	return next
}

// at returns the version of a target at a time.
func (h history) at(name string, at time.Time) (TargetVersion, error) {
	if h.first.IsZero() || at.Before(h.first) {
		return TargetVersion{}, &BeforeError{h.first}
	}
	for _, g := range h.gaps {
		if !at.Before(g.from) && (g.until.IsZero() || at.Before(g.until)) {
			return TargetVersion{}, ErrGap
		}
	}
	for _, v := range slices.Backward(h.targets[name]) {
		if !v.Seen.After(at) {
			if !v.Until.IsZero() && !at.Before(v.Until) {
				break
			}
			return v, nil
		}
	}
	return TargetVersion{}, ErrNoTarget
}

// History returns every version of a target that was seen, the oldest first.
func (r *Repository) History(name string) []TargetVersion {
	return slices.Clone(r.served.Load().history.targets[name])
}

// Names returns the names of all targets that were ever seen, in order.
func (r *Repository) Names() []string {
	return slices.Sorted(maps.Keys(r.served.Load().history.targets))
}

// AsOf returns a target as it was at a time. The error is a *BeforeError, ErrNoTarget, ErrGap, or
// that of the database.
func (r *Repository) AsOf(name string, at time.Time) (v TargetVersion, content []byte, err error) {
	if v, err = r.served.Load().history.at(name, at); err != nil {
		return v, nil, err
	}
	content, err = r.cfg.DB.Record(r.contentRecord(v.Hash))
	if err == nil && hashOf(content) != v.Hash {
		err = fmt.Errorf("%s of %s is damaged", name, v.Seen.UTC().Format(time.RFC3339))
	}
	return v, content, err
}
