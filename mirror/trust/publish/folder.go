// Package publish makes a TUF repository of our own (TUF specification 1.0): one whose clients go
// on when Sigstore's can no longer be had, because we sign its metadata.
//
// Its keys are apart. Root and targets are signed where people hold these keys, into a Folder,
// which is then brought to the daemon. There a Publisher, with the keys of snapshot and timestamp
// alone, signs those anew on schedule and serves the whole. So who owns the daemon can hold back
// what is new, and cannot say anything of its own.
package publish

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/sigstore/sigstore/pkg/signature"
	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/understudy-log/understudy/mirror/trust"
)

// Folder is a directory with what is signed offline: N.root.json, N.targets.json and, below
// targets/, what these name. It is laid out as clients see it. A file, once written, stays as it is,
// but for signatures that are added to a root. It is for one caller at a time.
type Folder struct{ dir string }

// OpenFolder returns the folder that Create made.
func OpenFolder(dir string) (*Folder, error) {
	f := &Folder{dir}
	if _, err := os.Stat(filepath.Join(dir, rootFile(1))); err != nil {
		return nil, fmt.Errorf("%s has no repository: %w; \"understudy trust init\" makes one", dir, err)
	}
	return f, nil
}

// Holders are the public keys of a repository: ECDSA on P-256, or Ed25519. No key has two roles.
type Holders struct {
	Root                         []crypto.PublicKey
	Threshold                    int // how many of Root must sign a root
	Targets, Snapshot, Timestamp crypto.PublicKey
}

// Create makes a folder with the first root, which expires at a time, signed by those of its keys
// that are at hand. The directory must be empty or missing.
func Create(dir string, holders Holders, expires time.Time, signers []signature.Signer) (*Folder, error) {
	if entries, err := os.ReadDir(dir); err == nil && len(entries) > 0 {
		return nil, fmt.Errorf("%s is not empty: a repository is made once, and its clients trust its first root for good", dir)
	} else if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	root := metadata.Root(expires.UTC().Truncate(time.Second))
	root.Signed.ConsistentSnapshot = true
	for _, h := range []struct {
		role      string
		keys      []crypto.PublicKey
		threshold int
	}{
		{metadata.ROOT, holders.Root, holders.Threshold}, {metadata.TARGETS, []crypto.PublicKey{holders.Targets}, 1},
		{metadata.SNAPSHOT, []crypto.PublicKey{holders.Snapshot}, 1}, {metadata.TIMESTAMP, []crypto.PublicKey{holders.Timestamp}, 1},
	} {
		if err := setKeys(root, h.role, h.keys, h.threshold); err != nil {
			return nil, err
		}
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	f := &Folder{dir}
	if _, err := sign(root, signers, root); err != nil {
		return nil, err
	}
	return f, f.put(rootFile(1), root)
}

// setKeys makes keys those of a role.
func setKeys(root *metadata.Metadata[metadata.RootType], role string, keys []crypto.PublicKey, threshold int) error {
	if threshold < 1 || threshold > len(keys) {
		return fmt.Errorf("a threshold of %d of %d keys for %s: it is at least 1, and at most all of them", threshold, len(keys), role)
	}
	for _, id := range slices.Clone(root.Signed.Roles[role].KeyIDs) {
		if err := root.Signed.RevokeKey(id, role); err != nil {
			return err
		}
	}
	for _, public := range keys {
		if err := usable(public); err != nil {
			return fmt.Errorf("key of %s: %w", role, err)
		}
		key, err := metadata.KeyFromPublicKey(public)
		if err != nil {
			return fmt.Errorf("key of %s: %w", role, err)
		}
		id, err := key.ID()
		if err != nil {
			return err
		}
		if _, ok := root.Signed.Keys[id]; ok {
			return fmt.Errorf("a key of %s has a role already: each role has keys of its own, or one lost key would cost two roles", role)
		}
		if err := root.Signed.AddKey(key, role); err != nil {
			return err
		}
	}
	root.Signed.Roles[role].Threshold = threshold
	return nil
}

// usable refuses keys that clients of TUF do not all verify.
func usable(public crypto.PublicKey) error {
	switch k := public.(type) {
	case ed25519.PublicKey:
		return nil
	case *ecdsa.PublicKey:
		if k.Curve == elliptic.P256() {
			return nil
		}
	}
	return fmt.Errorf("a %T: clients of TUF all verify ECDSA on P-256 and Ed25519, take one of these", public)
}

// Rotate makes keys those of a role, in a next root that expires at a time, signed by those of
// its keys and of the last root's that are at hand. Without keys it only expires later.
func (f *Folder) Rotate(role string, keys []crypto.PublicKey, threshold int, expires time.Time, signers []signature.Signer) (version int64, err error) {
	root, _, err := f.newestRoot()
	if err != nil {
		return 0, err
	}
	if missing, err := f.MissingSignatures(); err != nil {
		return 0, err
	} else if missing > 0 {
		return 0, fmt.Errorf("%s lacks %d signatures still: have it signed before the next one is made; if it is wrong and was never given away, delete it", rootFile(root.Signed.Version), missing)
	}
	old, ok := root.Signed.Roles[role]
	if !ok {
		return 0, fmt.Errorf("there is no role %q: it is root, targets, snapshot or timestamp", role)
	}
	if len(keys) > 0 {
		if threshold == 0 {
			threshold = old.Threshold
		}
		if err := setKeys(root, role, keys, threshold); err != nil {
			return 0, err
		}
	}
	previous, _, err := f.newestRoot()
	if err != nil {
		return 0, err
	}
	root.ClearSignatures()
	root.Signed.Version++
	root.Signed.Expires = expires.UTC().Truncate(time.Second)
	if _, err := sign(root, signers, root, previous); err != nil {
		return 0, err
	}
	return root.Signed.Version, f.put(rootFile(root.Signed.Version), root)
}

// SignRoot adds signatures to the newest root, and says how many.
func (f *Folder) SignRoot(signers []signature.Signer) (added int, err error) {
	root, previous, err := f.newestRoot()
	if err != nil {
		return 0, err
	}
	if added, err = sign(root, signers, root, previous); err != nil || added == 0 {
		return 0, err
	}
	data, err := root.ToBytes(true)
	if err != nil {
		return 0, err
	}
	return added, f.write(rootFile(root.Signed.Version), data, true)
}

// MissingSignatures is how many signatures the newest root lacks until clients take it.
func (f *Folder) MissingSignatures() (int, error) {
	root, previous, err := f.newestRoot()
	if err != nil {
		return 0, err
	}
	missing := 0
	for _, by := range []*metadata.Metadata[metadata.RootType]{root, previous} {
		if by != nil {
			missing = max(missing, by.Signed.Roles[metadata.ROOT].Threshold-len(signedBy(by, root)))
		}
	}
	return missing, nil
}

// signedBy returns which root keys of one root have signed another one.
func signedBy(by, root *metadata.Metadata[metadata.RootType]) (ids []string) {
	for _, id := range by.Signed.Roles[metadata.ROOT].KeyIDs {
		one := &metadata.Metadata[metadata.RootType]{Signed: by.Signed}
		one.Signed.Roles = map[string]*metadata.Role{metadata.ROOT: {KeyIDs: []string{id}, Threshold: 1}}
		if one.VerifyDelegate(metadata.ROOT, root) == nil {
			ids = append(ids, id)
		}
	}
	return ids
}

// sign adds the signatures of those signers that have a root key of one of the roots.
func sign(root *metadata.Metadata[metadata.RootType], signers []signature.Signer, of ...*metadata.Metadata[metadata.RootType]) (added int, err error) {
	for _, signer := range signers {
		id, err := keyID(signer)
		if err != nil {
			return added, err
		}
		has := slices.ContainsFunc(of, func(r *metadata.Metadata[metadata.RootType]) bool {
			return r != nil && slices.Contains(r.Signed.Roles[metadata.ROOT].KeyIDs, id)
		})
		if !has || slices.ContainsFunc(root.Signatures, func(s metadata.Signature) bool { return s.KeyID == id }) {
			continue
		}
		if _, err := root.Sign(signer); err != nil {
			return added, fmt.Errorf("sign the root: %w", err)
		}
		added++
	}
	return added, nil
}

// keyID is the name of a signer's key in TUF metadata.
func keyID(signer signature.PublicKeyProvider) (string, error) {
	public, err := signer.PublicKey()
	if err != nil {
		return "", fmt.Errorf("read the public key of a signer: %w", err)
	}
	key, err := metadata.KeyFromPublicKey(public)
	if err != nil {
		return "", err
	}
	return key.ID()
}

// Has says whether a public key is one of a role, in the newest root or, as a root key, in the one
// before.
func (f *Folder) Has(role string, public crypto.PublicKey) bool {
	newest, previous, err := f.newestRoot()
	if err != nil {
		return false
	}
	key, err := metadata.KeyFromPublicKey(public)
	if err != nil {
		return false
	}
	id, err := key.ID()
	has := func(r *metadata.Metadata[metadata.RootType]) bool {
		return r != nil && r.Signed.Roles[role] != nil && slices.Contains(r.Signed.Roles[role].KeyIDs, id)
	}
	return err == nil && (has(newest) || role == metadata.ROOT && has(previous))
}

// TargetName is what targets are called: parts of letters, digits, dot, dash and underline.
var TargetName = regexp.MustCompile(`^[A-Za-z0-9_-][A-Za-z0-9._-]*(/[A-Za-z0-9_-][A-Za-z0-9._-]*)*$`)

// SignTargets writes the next version of targets, which expires at a time. files are all targets
// by name; nil: those of the newest version.
func (f *Folder) SignTargets(files map[string][]byte, expires time.Time, signer signature.Signer) (version int64, err error) {
	newest, err := f.newestTargets()
	if err != nil {
		return 0, err
	}
	if files == nil {
		if files, err = f.Targets(); err != nil {
			return 0, err
		}
	}
	root, _, err := f.newestRoot()
	if err != nil {
		return 0, err
	}
	if id, err := keyID(signer); err != nil {
		return 0, err
	} else if !slices.Contains(root.Signed.Roles[metadata.TARGETS].KeyIDs, id) {
		return 0, fmt.Errorf("the key given is not the targets key of %s", rootFile(root.Signed.Version))
	}
	targets := metadata.Targets(expires.UTC().Truncate(time.Second))
	targets.Signed.Version = 1
	if newest != nil {
		targets.Signed.Version = newest.Signed.Version + 1
	}
	if len(files) == 0 {
		return 0, errors.New("there is nothing to sign: no targets are given")
	}
	for _, name := range slices.Sorted(maps.Keys(files)) {
		if !TargetName.MatchString(name) {
			return 0, fmt.Errorf("a target cannot be called %q", name)
		}
		if name == trust.RootTarget {
			if _, err := trust.ParseRoot(files[name]); err != nil {
				return 0, fmt.Errorf("%s: %w", name, err)
			}
		}
		meta, err := metadata.TargetFile().FromBytes(name, files[name], "sha256")
		if err != nil {
			return 0, err
		}
		targets.Signed.Targets[name] = meta
		if err := f.write(trust.TargetFile(name, meta.Hashes["sha256"]), files[name], true); err != nil {
			return 0, err
		}
	}
	if _, err := targets.Sign(signer); err != nil {
		return 0, fmt.Errorf("sign the targets: %w", err)
	}
	return targets.Signed.Version, f.put(targetsFile(targets.Signed.Version), targets)
}

// Targets returns the targets of the newest version by name; nil if there is none.
func (f *Folder) Targets() (map[string][]byte, error) {
	newest, err := f.newestTargets()
	if err != nil || newest == nil {
		return nil, err
	}
	files := map[string][]byte{}
	for name, meta := range newest.Signed.Targets {
		if files[name], err = f.target(name, meta); err != nil {
			return nil, err
		}
	}
	return files, nil
}

// target reads a target, and holds it against what was signed.
func (f *Folder) target(name string, meta *metadata.TargetFiles) ([]byte, error) {
	file := trust.TargetFile(name, meta.Hashes["sha256"])
	data, err := f.read(file)
	if err != nil {
		return nil, err
	}
	if err := meta.VerifyLengthHashes(data); err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return data, nil
}

// newestTargets returns the newest targets metadata; nil if there is none.
func (f *Folder) newestTargets() (*metadata.Metadata[metadata.TargetsType], error) {
	versions, err := f.versions(metadata.TARGETS)
	if err != nil || len(versions) == 0 {
		return nil, err
	}
	file := targetsFile(versions[0])
	data, err := f.read(file)
	if err != nil {
		return nil, err
	}
	targets, err := metadata.Targets().FromBytes(data)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", file, err)
	}
	return targets, nil
}

// newestRoot returns the newest root, and the one before it; nil if there is none.
func (f *Folder) newestRoot() (newest, previous *metadata.Metadata[metadata.RootType], err error) {
	versions, err := f.versions(metadata.ROOT)
	if err != nil {
		return nil, nil, err
	}
	for i, version := range versions[:min(2, len(versions))] {
		data, err := f.read(rootFile(version))
		if err != nil {
			return nil, nil, err
		}
		root, err := metadata.Root().FromBytes(data)
		if err != nil {
			return nil, nil, fmt.Errorf("read %s: %w", rootFile(version), err)
		}
		if i == 0 {
			newest = root
		} else {
			previous = root
		}
	}
	if newest == nil {
		err = fmt.Errorf("%s has no root", f.dir)
	}
	return newest, previous, err
}

// versions returns which versions of a role's metadata there are, the newest first.
func (f *Folder) versions(role string) ([]int64, error) {
	entries, err := os.ReadDir(f.dir)
	if err != nil {
		return nil, err
	}
	var versions []int64
	for _, entry := range entries {
		number, ok := strings.CutSuffix(entry.Name(), "."+role+".json")
		if version, err := strconv.ParseInt(number, 10, 64); ok && err == nil && version > 0 {
			versions = append(versions, version)
		}
	}
	slices.Sort(versions)
	slices.Reverse(versions)
	return versions, nil
}

// maxFile bounds what is read of one file.
const maxFile = 16 << 20

func (f *Folder) read(file string) ([]byte, error) {
	name := filepath.Join(f.dir, filepath.FromSlash(file))
	if info, err := os.Stat(name); err != nil {
		return nil, err
	} else if info.Size() > maxFile {
		return nil, fmt.Errorf("%s has more than %d bytes", name, maxFile)
	}
	return os.ReadFile(name)
}

// put writes metadata that is new.
func (f *Folder) put(file string, m interface{ ToBytes(bool) ([]byte, error) }) error {
	data, err := m.ToBytes(true)
	if err != nil {
		return err
	}
	return f.write(file, data, false)
}

// write writes a file as a whole, durably; another one stays unless it may be replaced.
func (f *Folder) write(file string, data []byte, replace bool) error {
	name := filepath.Join(f.dir, filepath.FromSlash(file))
	if old, err := os.ReadFile(name); err == nil {
		if bytes.Equal(old, data) {
			return nil
		}
		if !replace {
			return fmt.Errorf("%s is there already", name)
		}
	}
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		return err
	}
	t, err := os.CreateTemp(filepath.Dir(name), ".new-*")
	if err != nil {
		return err
	}
	defer os.Remove(t.Name())
	_, err = t.Write(data)
	if err = errors.Join(err, t.Chmod(0o644), t.Sync(), t.Close()); err != nil {
		return err
	}
	if err := os.Rename(t.Name(), name); err != nil {
		return err
	}
	d, err := os.Open(filepath.Dir(name))
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

func rootFile(version int64) string    { return fmt.Sprintf("%d.root.json", version) }
func targetsFile(version int64) string { return fmt.Sprintf("%d.targets.json", version) }
