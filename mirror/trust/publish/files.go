package publish

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/theupdateframework/go-tuf/v2/metadata"
	"github.com/theupdateframework/go-tuf/v2/metadata/trustedmetadata"

	"github.com/understudy-log/understudy/mirror/trust"
)

// Targets returns the targets of the newest version by name; nil if there is none. The content of
// one whose file is lost, or is another one than was signed, is nil.
func (f *Folder) Targets() (map[string][]byte, error) {
	newest, err := f.newestTargets()
	if err != nil || newest == nil {
		return nil, err
	}
	files := map[string][]byte{}
	for name, meta := range newest.Signed.Targets {
		if files[name], err = f.target(name, meta); err == nil && files[name] == nil {
			files[name] = []byte{}
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

// newestTargets returns the newest targets metadata; nil if there is none. It is of a targets key of
// ours: else who can write to the folder would have his own signed again.
func (f *Folder) newestTargets() (*metadata.Metadata[metadata.TargetsType], error) {
	versions, err := f.versions(metadata.TARGETS)
	if err != nil || len(versions) == 0 {
		return nil, err
	}
	return f.targetsOf(versions[0])
}

// targetsOf returns the targets metadata of a version, if it is of a targets key of ours.
func (f *Folder) targetsOf(version int64) (*metadata.Metadata[metadata.TargetsType], error) {
	file := targetsFile(version)
	data, err := f.read(file)
	if err != nil {
		return nil, err
	}
	targets, err := readTargets(data, version)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w; if it was never given away, delete it", file, err)
	}
	roots, err := chain(f.read)
	if len(roots) == 0 {
		return nil, err
	}
	for i, data := range slices.Backward(roots) { // as far as they are signed
		if root, err := readRoot(data, int64(i+1)); err == nil && root.VerifyDelegate(metadata.TARGETS, targets) == nil {
			return targets, nil
		}
	}
	return nil, fmt.Errorf("%s is signed by no targets key of this repository: nothing is signed after it; if it was never given away, delete it", file)
}

// complete says whether the folder can be published: its newest root has all signatures, and its
// newest targets are of it, with every file.
func (f *Folder) complete() bool {
	return safely(func() error {
		missing, err := f.MissingSignatures()
		if err != nil || missing > 0 {
			return errors.Join(err, errors.New("it lacks signatures"))
		}
		files, err := f.Targets()
		if err != nil || len(files) == 0 {
			return errors.Join(err, errors.New("it has no targets"))
		}
		for name, data := range files {
			if data == nil {
				return fmt.Errorf("%s is lost", name)
			}
		}
		return nil
	}) == nil
}

// root reads a root.
func (f *Folder) root(version int64) (*metadata.Metadata[metadata.RootType], error) {
	data, err := f.read(rootFile(version))
	if err != nil {
		return nil, err
	}
	root, err := readRoot(data, version)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", rootFile(version), err)
	}
	return root, nil
}

// chain returns the roots from the first one, as far as each is signed by its own keys and those of
// the one before. The error is why it ends before the last file.
func chain(read func(file string) ([]byte, error)) (roots [][]byte, err error) {
	var trusted *trustedmetadata.TrustedMetadata
	for version := int64(1); ; version++ {
		file := rootFile(version)
		data, err := read(file)
		if errors.Is(err, fs.ErrNotExist) && version > 1 {
			return roots, nil
		}
		if err == nil {
			err = safely(func() (err error) {
				if _, err := readRoot(data, version); err != nil {
					return err
				}
				if trusted == nil {
					trusted, err = trustedmetadata.New(data)
				} else {
					_, err = trusted.UpdateRoot(data)
				}
				return err
			})
		}
		switch {
		case errors.Is(err, &metadata.ErrUnsignedMetadata{}):
			return roots, fmt.Errorf("%s: %w; \"understudy trust sign --root\" adds a signature that is lacking", file, err)
		case err != nil:
			return roots, fmt.Errorf("%s: %w", file, err)
		}
		roots = append(roots, data)
	}
}

// readRoot reads a root of a version. go-tuf takes null where it does not expect it.
func readRoot(data []byte, version int64) (*metadata.Metadata[metadata.RootType], error) {
	root, err := metadata.Root().FromBytes(data)
	if err != nil {
		return nil, err
	}
	for _, role := range metadata.TOP_LEVEL_ROLE_NAMES {
		if root.Signed.Roles[role] == nil {
			return nil, fmt.Errorf("it has no role %s", role)
		}
	}
	for id, key := range root.Signed.Keys {
		if key == nil {
			return nil, fmt.Errorf("its key %s is null", id)
		}
		// Else an ID that people know could get another key, or one key two IDs, and two roles.
		public, err := key.ToPublicKey()
		if err != nil {
			return nil, fmt.Errorf("its key %s: %w", id, err)
		}
		if canonical, err := metadata.KeyFromPublicKey(public); err != nil {
			return nil, fmt.Errorf("its key %s: %w", id, err)
		} else if is, err := canonical.ID(); err != nil || is != id {
			return nil, fmt.Errorf("its key %s has another ID", id)
		}
	}
	if root.Signed.Version != version {
		return nil, fmt.Errorf("it has version %d", root.Signed.Version)
	}
	return root, nil
}

// readTargets reads targets of a version.
func readTargets(data []byte, version int64) (*metadata.Metadata[metadata.TargetsType], error) {
	targets, err := metadata.Targets().FromBytes(data)
	if err != nil {
		return nil, err
	}
	for name, meta := range targets.Signed.Targets {
		if meta == nil {
			return nil, fmt.Errorf("its target %q is null", name)
		}
	}
	if given := targets.Signed.Delegations; given != nil {
		for id, key := range given.Keys {
			if key == nil {
				return nil, fmt.Errorf("its key %s is null", id)
			}
		}
	}
	if targets.Signed.Version != version {
		return nil, fmt.Errorf("it has version %d", targets.Signed.Version)
	}
	return targets, nil
}

// keysOfOthers are the IDs of all keys that have or had another role than the one given, which may be
// SigningRole.
func (f *Folder) keysOfOthers(role string) (map[string]bool, error) {
	versions, err := f.versions(metadata.ROOT)
	if err != nil {
		return nil, err
	}
	ids := map[string]bool{}
	if role != SigningRole {
		ids = f.delegatedKeys()
	}
	for _, version := range versions {
		root, err := f.root(version)
		if err != nil {
			return nil, err
		}
		for other, r := range root.Signed.Roles {
			for _, id := range r.KeyIDs {
				if other != role {
					ids[id] = true
				}
			}
		}
	}
	return ids, nil
}

// newestRoot returns the newest root, and the one before it; nil if there is none.
func (f *Folder) newestRoot() (newest, previous *metadata.Metadata[metadata.RootType], err error) {
	versions, err := f.versions(metadata.ROOT)
	if err != nil {
		return nil, nil, err
	}
	if len(versions) == 0 {
		return nil, nil, fmt.Errorf("%s has no root", f.dir)
	}
	if newest, err = f.root(versions[0]); err == nil && len(versions) > 1 {
		previous, err = f.root(versions[1])
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
		version, err := strconv.ParseInt(number, 10, 64)
		if ok && err == nil && version > 0 && strconv.FormatInt(version, 10) == number {
			versions = append(versions, version)
		}
	}
	slices.Sort(versions)
	slices.Reverse(versions)
	return versions, nil
}

func (f *Folder) read(file string) ([]byte, error) {
	name := filepath.Join(f.dir, filepath.FromSlash(file))
	if info, err := os.Stat(name); err != nil {
		return nil, err
	} else if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is no regular file", name)
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
