package publish

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/sigstore/sigstore/pkg/signature"
	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/understudy-log/understudy/mirror/trust"
)

// assemble returns a version of the repository, with snapshot and timestamp.
func (p *Publisher) assemble(roots [][]byte, version int64, now time.Time) (draft, error) {
	d := draft{}
	for i, root := range roots {
		d[rootFile(int64(i+1))] = root
	}
	root, err := metadata.Root().FromBytes(roots[len(roots)-1])
	if err != nil {
		return nil, err
	}
	if root.Signed.IsExpired(now) {
		return nil, fmt.Errorf("%s expired at %s: \"understudy trust rotate DIR root --renew\" makes one that does not", rootFile(root.Signed.Version), root.Signed.Expires.Format(time.RFC3339))
	}
	if err := p.assembleTargets(d, root, version, now); err != nil {
		return nil, err
	}
	if err := p.assembleSnapshot(d, root, version, now); err != nil {
		return nil, err
	}
	return d, nil
}

// assembleTargets adds targets, and what they name.
func (p *Publisher) assembleTargets(d draft, root *metadata.Metadata[metadata.RootType], version int64, now time.Time) error {
	file := targetsFile(version)
	data, err := p.published(file)
	if err != nil {
		return err
	}
	targets, err := readTargets(data, version)
	if err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	switch err := root.VerifyDelegate(metadata.TARGETS, targets); {
	case err != nil:
		return fmt.Errorf("%s: %w; \"understudy trust sign\" with the targets key of %s makes the next one", file, err, rootFile(root.Signed.Version))
	case targets.Signed.IsExpired(now):
		return fmt.Errorf("%s expired at %s: \"understudy trust sign\" makes the next one", file, targets.Signed.Expires.Format(time.RFC3339))
	}
	d[file] = data
	for _, name := range slices.Sorted(maps.Keys(targets.Signed.Targets)) {
		meta := targets.Signed.Targets[name]
		file := trust.TargetFile(name, meta.Hashes["sha256"])
		if f, ok := p.File(file); ok && meta.VerifyLengthHashes(f.Data) == nil {
			d[file] = f.Data
		} else if d[file], err = p.folder.target(name, meta); err != nil {
			return err
		}
		if name == trust.RootTarget {
			if _, err := trust.ParseRoot(d[file]); err != nil {
				return fmt.Errorf("%s: %w", file, err)
			}
		}
	}
	return nil
}

// assembleSnapshot adds what the role signing has, a snapshot and a timestamp: those that are served, or
// others if these name something else, or have been good for long enough.
func (p *Publisher) assembleSnapshot(d draft, root *metadata.Metadata[metadata.RootType], targets int64, now time.Time) error {
	for _, role := range []string{metadata.SNAPSHOT, metadata.TIMESTAMP} {
		signer := p.signers[role]
		if err := isKeyOf(root, role, signer); err != nil {
			return err
		}
	}
	life := 4 * p.cfg.Lifetime
	served := p.served()
	file := fmt.Sprintf("%d.snapshot.json", served[metadata.SNAPSHOT])
	names := map[string]*metadata.MetaFiles{"targets.json": metaOf(targets, d[targetsFile(targets)])}
	switch signing, err := p.assembleSigning(d, targets, now); {
	case err != nil:
		return err
	case signing != nil:
		names[SigningRole+".json"] = signing
	}
	if f, ok := p.File(file); ok {
		if s, err := metadata.Snapshot().FromBytes(f.Data); err == nil && root.VerifyDelegate(metadata.SNAPSHOT, s) == nil &&
			maps.EqualFunc(s.Signed.Meta, names, same) && s.Signed.Expires.Sub(now) > life/2 {
			d[file] = f.Data
		}
	}
	version := served[metadata.SNAPSHOT]
	if d[file] == nil {
		s := metadata.Snapshot(expiry(now, life))
		version = nextVersion(version, now)
		s.Signed.Version, s.Signed.Meta = version, names
		file = fmt.Sprintf("%d.snapshot.json", version)
		var err error
		if d[file], err = signed(s, p.signers[metadata.SNAPSHOT]); err != nil {
			return fmt.Errorf("sign the snapshot: %w", err)
		}
	}
	named := metaOf(version, d[file])
	if f, ok := p.File("timestamp.json"); ok {
		if t, err := metadata.Timestamp().FromBytes(f.Data); err == nil && root.VerifyDelegate(metadata.TIMESTAMP, t) == nil &&
			same(t.Signed.Meta["snapshot.json"], named) && t.Signed.Expires.Sub(now) > p.cfg.Lifetime/7*6 {
			d["timestamp.json"] = f.Data
			return nil
		}
	}
	t := metadata.Timestamp(expiry(now, p.cfg.Lifetime))
	t.Signed.Version, t.Signed.Meta = nextVersion(served[metadata.TIMESTAMP], now), map[string]*metadata.MetaFiles{"snapshot.json": named}
	var err error
	if d["timestamp.json"], err = signed(t, p.signers[metadata.TIMESTAMP]); err != nil {
		return fmt.Errorf("sign the timestamp: %w", err)
	}
	return nil
}

// nextVersion is the number of what is signed now: the time in seconds. So an older database that
// is restored does not sign with numbers that clients have seen; and what it has is signed anew, because
// what was signed after it was due by its age, or by what it names.
func nextVersion(served int64, now time.Time) int64 { return max(served+1, now.Unix()) }

func expiry(now time.Time, life time.Duration) time.Time {
	return now.Add(life).UTC().Truncate(time.Second)
}

// metaOf describes a file of metadata.
func metaOf(version int64, data []byte) *metadata.MetaFiles {
	m, sum := metadata.MetaFile(version), sha256.Sum256(data)
	m.Length, m.Hashes = int64(len(data)), metadata.Hashes{"sha256": sum[:]}
	return m
}

func same(a, b *metadata.MetaFiles) bool {
	return a != nil && b != nil && a.Version == b.Version && a.Length == b.Length && bytes.Equal(a.Hashes["sha256"], b.Hashes["sha256"])
}

func signed[T metadata.Roles](m *metadata.Metadata[T], signer signature.Signer) ([]byte, error) {
	if err := signMetadata(m, signer); err != nil {
		return nil, err
	}
	return m.ToBytes(false)
}

// isKeyOf refuses a signer that a root does not name for a role.
func isKeyOf(root *metadata.Metadata[metadata.RootType], role string, signer signature.Signer) error {
	id, err := keyID(signer)
	if err != nil {
		return err
	}
	for _, has := range root.Signed.Roles[role].KeyIDs {
		if has == id {
			return nil
		}
	}
	return &wrongKeyError{role, rootFile(root.Signed.Version)}
}

// wrongKeyError says that a key is not the one that a file, a root or targets, names for a role.
type wrongKeyError struct{ role, file string }

func (e *wrongKeyError) Error() string {
	return fmt.Sprintf("the %s key given is not the one that %s names for it: bring the key that it was rotated to", e.role, e.file)
}
