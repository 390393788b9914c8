package trust

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"
	"github.com/theupdateframework/go-tuf/v2/metadata/trustedmetadata"
)

// Bounds of what an update takes; those of metadata are go-tuf's.
const (
	maxRoot        = 512_000
	maxTimestamp   = 16_384
	maxSnapshot    = 2_000_000
	maxTargets     = 5_000_000
	maxTarget      = 16 << 20
	maxFetched     = 64 << 20 // by one update
	maxRotations   = 256      // of roots, in one update
	maxDelegations = 32       // roles below targets
)

// updating is an update under way: the workflow of a TUF client (specification, section 5.3 to
// 5.7) with the files that it verified.
type updating struct {
	*Repository

	ctx     context.Context
	kept    *served
	next    *served
	trusted *trustedmetadata.TrustedMetadata
	fetched int64
}

// update returns what upstream has now.
func (r *Repository) update(ctx context.Context, now time.Time) (*served, error) {
	kept := r.served.Load()
	u := &updating{Repository: r, ctx: ctx, kept: kept, next: kept.successor(now)}
	for _, step := range []func() error{u.root, u.timestamp, u.snapshot, u.targets, u.elderRoots} {
		if err := step(); err != nil {
			return nil, err
		}
	}
	return u.next, nil
}

// get fetches a file, within the bound on all of them.
func (u *updating) get(file string, limit int64) ([]byte, error) {
	data, err := u.fetch(u.ctx, file, min(limit, maxFetched-u.fetched))
	u.fetched += int64(len(data))
	return data, err
}

// root begins with the newest root that is trusted already, and follows the chain of its
// successors to the end.
func (u *updating) root() (err error) {
	anchor := u.cfg.Root
	if u.trusted, err = trustedmetadata.New(anchor); err != nil {
		return refuse("root.json", err)
	}
	if kept := u.kept.current(metadata.ROOT); kept != nil {
		trusted, err := trustedmetadata.New(kept)
		if err == nil && trusted.Root.Signed.Version >= u.trusted.Root.Signed.Version {
			anchor, u.trusted = kept, trusted
		}
	}
	u.next.put(rootFile(u.trusted.Root.Signed.Version), anchor)
	for range maxRotations {
		file := rootFile(u.trusted.Root.Signed.Version + 1)
		data, err := u.get(file, maxRoot)
		if errors.Is(err, errAbsent) {
			break
		}
		if err != nil {
			return err
		}
		if _, err := u.trusted.UpdateRoot(data); err != nil {
			return refuse(file, err)
		}
		u.next.put(file, data)
	}
	root := u.trusted.Root.Signed
	u.next.is(metadata.ROOT, rootFile(root.Version), root.Version, root.Expires)
	return nil
}

func rootFile(version int64) string { return fmt.Sprintf("%d.root.json", version) }

// timestamp takes upstream's, unless it is the one that is kept.
func (u *updating) timestamp() error {
	const file = "timestamp.json"
	data := u.kept.current(metadata.TIMESTAMP)
	if data != nil { // for protection against rollback; it may have expired, or its key be gone
		_, _ = u.trusted.UpdateTimestamp(data)
	}
	fresh, err := u.get(file, maxTimestamp)
	if err != nil {
		return err
	}
	_, err = u.trusted.UpdateTimestamp(fresh)
	switch {
	case err == nil:
		data = fresh
	case !errors.Is(err, &metadata.ErrEqualVersionNumber{}): // clients keep the one they have
		return refuse(file, err)
	}
	timestamp := u.trusted.Timestamp.Signed
	if timestamp.IsExpired(u.trusted.RefTime) {
		return refuse(file, &metadata.ErrExpiredMetadata{Msg: "it expired at " + timestamp.Expires.Format(time.RFC3339)})
	}
	u.next.put(file, data)
	u.next.is(metadata.TIMESTAMP, file, timestamp.Version, timestamp.Expires)
	return nil
}

// named is the file of a role's metadata.
func (u *updating) named(role string, version int64) string {
	if u.trusted.Root.Signed.ConsistentSnapshot {
		return fmt.Sprintf("%d.%s.json", version, url.PathEscape(role))
	}
	return url.PathEscape(role) + ".json"
}

func (u *updating) snapshot() error {
	meta, ok := u.trusted.Timestamp.Signed.Meta["snapshot.json"]
	file := u.named(metadata.SNAPSHOT, 0)
	if ok {
		file = u.named(metadata.SNAPSHOT, meta.Version)
	}
	data := u.kept.current(metadata.SNAPSHOT)
	good := false
	if data != nil { // for protection against rollback; it may be the one
		_, err := u.trusted.UpdateSnapshot(data, true)
		good = err == nil
	}
	if !good {
		if !ok {
			return refuse("timestamp.json", &metadata.ErrRepository{Msg: "it names no snapshot"})
		}
		var err error
		if data, err = u.get(file, length(meta.Length, maxSnapshot)); err != nil {
			return err
		}
		if _, err := u.trusted.UpdateSnapshot(data, false); err != nil {
			return refuse(file, err)
		}
	}
	snapshot := u.trusted.Snapshot.Signed
	u.next.put(file, data)
	u.next.is(metadata.SNAPSHOT, file, snapshot.Version, snapshot.Expires)
	return nil
}

// length bounds a file by the length that metadata gives it, if it does.
func length(given, most int64) int64 {
	if given > 0 {
		return min(given, most)
	}
	return most
}

// targets takes the metadata of targets and of every role that they delegate to, and all files
// that these name.
func (u *updating) targets() error {
	type delegation struct{ role, by string }
	visit, seen := []delegation{{metadata.TARGETS, metadata.ROOT}}, map[string]bool{}
	for len(visit) > 0 {
		d := visit[0]
		visit = visit[1:]
		if seen[d.role] {
			continue
		}
		if seen[d.role] = true; len(seen) > maxDelegations {
			return refuse(d.role+".json", fmt.Errorf("there are more than %d roles", maxDelegations))
		}
		if err := u.role(d.role, d.by); err != nil {
			return err
		}
		role := u.trusted.Targets[d.role].Signed
		for _, name := range slices.Sorted(maps.Keys(role.Targets)) {
			if err := u.target(name, role.Targets[name], d.role == metadata.TARGETS); err != nil {
				return err
			}
		}
		if role.Delegations == nil {
			continue
		}
		for _, next := range role.Delegations.Roles {
			visit = append(visit, delegation{next.Name, d.role})
		}
		if role.Delegations.SuccinctRoles != nil {
			return refuse(d.role+".json", errors.New("it delegates to succinct roles, which Sigstore does not use and a copy does not follow"))
		}
	}
	return nil
}

func (u *updating) role(role, by string) error {
	meta, ok := u.trusted.Snapshot.Signed.Meta[role+".json"]
	if !ok {
		return refuse(u.named(metadata.SNAPSHOT, u.trusted.Snapshot.Signed.Version), &metadata.ErrRepository{Msg: "it does not name " + role})
	}
	file := u.named(role, meta.Version)
	data := u.kept.current(role)
	good := false
	if data != nil {
		_, err := u.trusted.UpdateDelegatedTargets(data, role, by)
		good = err == nil
	}
	if !good {
		var err error
		if data, err = u.get(file, length(meta.Length, maxTargets)); err != nil {
			return err
		}
		if _, err := u.trusted.UpdateDelegatedTargets(data, role, by); err != nil {
			return refuse(file, err)
		}
	}
	signed := u.trusted.Targets[role].Signed
	u.next.put(file, data)
	u.next.is(role, file, signed.Version, signed.Expires)
	return nil
}

// target takes a file that a role names. Clients ask for it by any of its hashes.
func (u *updating) target(name string, meta *metadata.TargetFiles, own bool) error {
	files := []string{"targets/" + escaped(name)}
	if u.trusted.Root.Signed.ConsistentSnapshot {
		files = files[:0]
		dir, base := path.Split(name)
		for _, algorithm := range slices.Sorted(maps.Keys(meta.Hashes)) {
			files = append(files, "targets/"+escaped(dir+hex.EncodeToString(meta.Hashes[algorithm])+"."+base))
		}
	}
	if len(files) == 0 {
		return refuse("targets/"+name, &metadata.ErrLengthOrHashMismatch{Msg: "it has no hash"})
	}
	file := files[0]
	if meta.Length > maxTarget {
		return &RepositoryError{Reason: ReasonTooLong, File: file, Err: fmt.Errorf("it has %d bytes, more than %d", meta.Length, maxTarget)}
	}
	data := u.next.files[file].Data
	if meta.VerifyLengthHashes(data) != nil {
		var err error
		if data, err = u.get(file, meta.Length); err != nil {
			return err
		}
		if err := meta.VerifyLengthHashes(data); err != nil {
			return refuse(file, err)
		}
		if own {
			if err := checkTarget(name, data); err != nil {
				return &RepositoryError{Reason: ReasonMalformed, File: file, Err: err}
			}
		}
	}
	for _, file := range files {
		u.next.put(file, data)
	}
	if own || u.next.Targets[name] == "" {
		u.next.Targets[name] = file
	}
	return nil
}

// escaped escapes the parts of a target's path for a URL.
func escaped(name string) string {
	parts := strings.Split(name, "/")
	for i := range parts {
		parts[i] = url.PathEscape(parts[i])
	}
	return strings.Join(parts, "/")
}

// checkTarget refuses trust material that no verifier could use, however well it is signed.
func checkTarget(name string, data []byte) error {
	if name != RootTarget {
		return nil
	}
	_, err := ParseRoot(data)
	return err
}

// elderRoots takes the roots before the one that was trusted first, for clients that begin at an
// older one: a root vouches for the one before it by that one's signatures on it.
func (u *updating) elderRoots() error {
	if u.eldest {
		return nil
	}
	version := u.trusted.Root.Signed.Version
	for u.next.files[rootFile(version-1)].Data != nil {
		version--
	}
	next, err := metadata.Root().FromBytes(u.next.files[rootFile(version)].Data)
	for ; err == nil && version > 1; version-- {
		file := rootFile(version - 1)
		var data []byte
		if data, err = u.get(file, maxRoot); err != nil {
			break
		}
		var elder *metadata.Metadata[metadata.RootType]
		if elder, err = metadata.Root().FromBytes(data); err != nil {
			break
		}
		if elder.Signed.Version != version-1 {
			err = errors.New("it has another version")
			break
		}
		if err = errors.Join(elder.VerifyDelegate(metadata.ROOT, next), elder.VerifyDelegate(metadata.ROOT, elder)); err != nil {
			break
		}
		u.next.put(file, data)
		next = elder
	}
	if refused, ok := errors.AsType[*RepositoryError](err); ok && refused.Reason == ReasonUnreachable {
		return u.ctx.Err() // it is tried again
	}
	if u.eldest = true; err != nil { // what is newer is good all the same
		u.cfg.Logger.Info("older roots of the TUF repository cannot be had; clients that begin before the first one kept are not served",
			"url", u.cfg.URL, "first", version, "error", err)
	}
	return nil
}

// hashOf is the name of a file's content.
func hashOf(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}

// forever says whether a file has its version or hash in its name.
func forever(file string) bool {
	prefix, rest, _ := strings.Cut(path.Base(file), ".")
	if rest == "" || rest == "json" {
		return false
	}
	if strings.HasPrefix(file, "targets/") {
		_, err := hex.DecodeString(prefix)
		return err == nil && len(prefix) >= 2*sha256.Size
	}
	return strings.Trim(prefix, "0123456789") == ""
}
