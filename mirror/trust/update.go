package trust

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
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
	anew    bool // the operator has given a root of another chain than the one that is kept
}

// update returns what upstream has now.
func (r *Repository) update(ctx context.Context, now time.Time) (*served, error) {
	kept := r.served.Load()
	u := &updating{Repository: r, ctx: ctx, kept: kept, next: kept.successor(now, maxKept)}
	for _, step := range []func() error{u.root, u.timestamp, u.snapshot, u.targets, u.floor, u.elderRoots} {
		if err := guard(step); err != nil {
			return nil, err
		}
	}
	return u.next, nil
}

// guard makes an error of a panic: go-tuf's readers do not expect null in every place.
func guard(step func() error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = &RepositoryError{Reason: ReasonMalformed, File: "metadata", Err: fmt.Errorf("it cannot be read: %v", p)}
		}
	}()
	return step()
}

// get fetches a file, within the bound on all of them.
func (u *updating) get(file string, limit int64) ([]byte, error) {
	data, err := u.fetch(u.ctx, file, min(limit, maxFetched-u.fetched))
	u.fetched += int64(len(data))
	return data, err
}

// metadata fetches a file of metadata. It is an object of "signed" and "signatures", each once
// and written so: what Go reads of others may be something else than what other clients read.
func (u *updating) metadata(file string, limit int64) ([]byte, error) {
	data, err := u.get(file, limit)
	if err != nil {
		return nil, err
	}
	fail := func(problem string) ([]byte, error) {
		return nil, &RepositoryError{Reason: ReasonMalformed, File: file, Err: errors.New(problem)}
	}
	d := json.NewDecoder(bytes.NewReader(data))
	if t, err := d.Token(); err != nil || t != json.Delim('{') {
		return fail("it is no JSON object")
	}
	seen := map[string]bool{}
	for d.More() {
		name, err := d.Token()
		if err != nil {
			return fail("it is no JSON object")
		}
		key, _ := name.(string)
		if seen[key] || key != "signed" && key != "signatures" {
			return fail(fmt.Sprintf("it has the member %q, or has it twice", key))
		}
		seen[key] = true
		if err := d.Decode(new(json.RawMessage)); err != nil {
			return fail("it is broken: " + err.Error())
		}
	}
	if _, err := d.Token(); err != nil || len(seen) != 2 {
		return fail("it is no signed metadata")
	}
	if _, err := d.Token(); err != io.EOF {
		return fail("something stands behind it")
	}
	return data, nil
}

// floor refuses versions that are older than what was seen last, whatever of that is damaged. A
// newer root may bring lower versions, to recover from stolen keys: then only go-tuf's own rules
// hold.
func (u *updating) floor() error {
	if u.anew {
		return nil
	}
	newer := u.trusted.Root.Signed.Version > u.kept.floor[metadata.ROOT]
	for _, role := range u.next.Roles {
		if least := u.kept.floor[role.Name]; role.Version < least && (!newer || role.Name == metadata.ROOT) && topLevel(role.Name) {
			return refuse(u.next.Names[role.Name], &metadata.ErrBadVersionNumber{Msg: fmt.Sprintf("version %d was seen, this is %d", least, role.Version)})
		}
	}
	return nil
}

func topLevel(role string) bool { return slices.Contains(metadata.TOP_LEVEL_ROLE_NAMES[:], role) }

// timestamp takes upstream's, unless it is the one that is kept.
func (u *updating) timestamp() error {
	const file = "timestamp.json"
	data := u.kept.current(metadata.TIMESTAMP)
	if data != nil { // for protection against rollback; it may have expired, or its key be gone
		_, _ = u.trusted.UpdateTimestamp(data)
	}
	fresh, err := u.metadata(file, maxTimestamp)
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
		good = err == nil && ok && meta.VerifyLengthHashes(data) == nil
	}
	if !good {
		if !ok {
			return refuse("timestamp.json", &metadata.ErrRepository{Msg: "it names no snapshot"})
		}
		var err error
		if data, err = u.metadata(file, length(meta.Length, maxSnapshot)); err != nil {
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
// that these name. What is wrong with a delegated role is the trouble of those who ask for its
// targets: it is said, what is held of it stays, and the rest goes on.
func (u *updating) targets() error {
	if err := u.role(metadata.TARGETS, metadata.ROOT); err != nil {
		return err
	}
	type delegation struct{ role, by string }
	var visit []delegation
	expand := func(by string) error {
		d := u.trusted.Targets[by].Signed.Delegations
		if d == nil {
			return nil
		}
		if d.SuccinctRoles != nil {
			return refuse(by+".json", errors.New("it delegates to succinct roles, which Sigstore does not use and a copy does not follow"))
		}
		for _, role := range d.Roles {
			if topLevel(role.Name) || strings.HasSuffix(role.Name, "."+metadata.ROOT) {
				return refuse(by+".json", fmt.Errorf("it delegates to a role with the reserved name %q", role.Name))
			}
			visit = append(visit, delegation{role.Name, by})
		}
		return nil
	}
	if err := expand(metadata.TARGETS); err != nil {
		return err
	}
	for range maxDelegations {
		if len(visit) == 0 {
			break
		}
		d := visit[0]
		visit = visit[1:]
		if u.trusted.Targets[d.role] != nil {
			continue
		}
		before, queue := u.next.clone(), visit
		if err := guard(func() error {
			if err := u.role(d.role, d.by); err != nil {
				return err
			}
			return expand(d.role)
		}); err != nil {
			if u.ctx.Err() != nil {
				return u.ctx.Err()
			}
			u.next, visit = before, queue
			delete(u.trusted.Targets, d.role)
			u.cfg.Logger.Warn("a delegated role of the TUF repository cannot be copied now; clients that ask for its targets may fail, others do not", "repository", u.cfg.Name, "role", d.role, "error", err)
		}
	}
	if len(visit) > 0 {
		u.cfg.Logger.Warn("the TUF repository delegates to too many roles; the others are not copied", "repository", u.cfg.Name, "most", maxDelegations)
	}
	u.resolve()
	return nil
}

// resolve finds the file of every target, as clients do. Where that cannot be known now, what
// was known before stays.
func (u *updating) resolve() {
	names := maps.Clone(u.kept.Targets)
	if names == nil {
		names = map[string]string{}
	}
	for _, role := range u.trusted.Targets {
		for name := range role.Signed.Targets {
			names[name] = ""
		}
	}
	for name := range names {
		role, certain := u.responsible(name)
		if before := u.kept.Targets[name]; role != "" {
			u.next.Targets[name] = u.targetFiles(name, u.trusted.Targets[role].Signed.Targets[name])[0]
		} else if _, held := u.next.files[before]; !certain && held {
			u.next.Targets[name] = before
		}
	}
}

// responsible returns the role whose word on a target counts: the first that has it, where a
// role is asked before those that it delegates to, these in their order, for paths that they may
// speak of, under the keys that it gives them (specification, section 5.6.7). It is empty if none
// has it, or if that is not certain: a role on the way could not be copied.
func (u *updating) responsible(name string) (role string, certain bool) {
	type delegation struct{ role, by string }
	stack, visited := []delegation{{metadata.TARGETS, ""}}, map[string]bool{}
	for len(stack) > 0 {
		d := stack[len(stack)-1]
		stack = stack[:len(stack)-1]
		if visited[d.role] {
			continue
		}
		visited[d.role] = true
		targets := u.trusted.Targets[d.role]
		if targets == nil || d.by != "" && u.trusted.Targets[d.by].VerifyDelegate(d.role, targets) != nil {
			return "", false // clients fail here
		}
		signed := targets.Signed
		if signed.Targets[name] != nil {
			return d.role, true
		}
		if signed.Delegations == nil {
			continue
		}
		var next []delegation
		for _, r := range signed.Delegations.GetRolesForTarget(name) {
			if next = append(next, delegation{r.Name, d.role}); r.Terminating {
				stack = nil
				break
			}
		}
		slices.Reverse(next)
		stack = append(stack, next...)
	}
	return "", true
}

// role takes the metadata of a role, and the files that it names.
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
		if data, err = u.metadata(file, length(meta.Length, maxTargets)); err != nil {
			return err
		}
		if _, err := u.trusted.UpdateDelegatedTargets(data, role, by); err != nil {
			return refuse(file, err)
		}
	}
	signed := u.trusted.Targets[role].Signed
	u.next.put(file, data)
	u.next.is(role, file, signed.Version, signed.Expires)
	for _, name := range slices.Sorted(maps.Keys(signed.Targets)) {
		if err := u.target(name, signed.Targets[name], role == metadata.TARGETS); err != nil {
			return err
		}
	}
	return nil
}

// targetFiles are the files by which clients ask for a target: any of its hashes may be in the
// name.
func (u *updating) targetFiles(name string, meta *metadata.TargetFiles) []string {
	if !u.trusted.Root.Signed.ConsistentSnapshot {
		return []string{"targets/" + escaped(name)}
	}
	var files []string
	for _, algorithm := range slices.Sorted(maps.Keys(meta.Hashes)) {
		files = append(files, TargetFile(name, meta.Hashes[algorithm]))
	}
	return files
}

// TargetFile is the path of a target below the URL of a repository with consistent snapshots
// (specification, section 5.7.3).
func TargetFile(name string, hash []byte) string {
	dir, base := path.Split(name)
	return "targets/" + escaped(dir+hex.EncodeToString(hash)+"."+base)
}

// target takes a file that a role names.
func (u *updating) target(name string, meta *metadata.TargetFiles, own bool) error {
	files := u.targetFiles(name, meta)
	if len(files) == 0 {
		return refuse("targets/"+name, &metadata.ErrLengthOrHashMismatch{Msg: "it has no hash"})
	}
	file := files[0]
	if meta.Length > maxTarget {
		return &RepositoryError{Reason: ReasonTooLong, File: file, Err: fmt.Errorf("it has %d bytes, more than %d", meta.Length, maxTarget)}
	}
	held, ok := u.next.files[file]
	data := held.Data
	if !ok || meta.VerifyLengthHashes(data) != nil {
		var err error
		if data, err = u.get(file, meta.Length); err != nil {
			return err
		}
		if err := meta.VerifyLengthHashes(data); err != nil {
			return refuse(file, err)
		}
	}
	if own {
		if err := checkTarget(name, data); err != nil {
			return &RepositoryError{Reason: ReasonMalformed, File: file, Err: err}
		}
	}
	for _, file := range files {
		u.next.put(file, data)
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

// hashOf is the name of a file's content.
func hashOf(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}

// forever says whether a file has its version or hash in its name; consistent is whether the
// repository has consistent snapshots.
func forever(file string, consistent bool) bool {
	prefix, rest, _ := strings.Cut(path.Base(file), ".")
	switch {
	case strings.HasPrefix(file, "targets/"):
		_, err := hex.DecodeString(prefix)
		return consistent && err == nil && len(prefix) >= 2*sha256.Size && rest != ""
	case strings.Trim(prefix, "0123456789") != "" || rest == "" || rest == "json":
		return false
	}
	return consistent || rest == "root.json"
}
