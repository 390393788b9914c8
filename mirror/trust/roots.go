package trust

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"

	"github.com/theupdateframework/go-tuf/v2/metadata"
	"github.com/theupdateframework/go-tuf/v2/metadata/trustedmetadata"
)

// root follows the chain of roots to its end: from the newest one that is kept, if the one that
// the operator has given is of that chain, and otherwise from that one, with nothing of the other
// chain.
func (u *updating) root() error {
	given, err := trustedmetadata.New(u.cfg.Root)
	if err != nil {
		return refuse("root.json", err)
	}
	at := given.Root.Signed.Version
	if u.trusted, err = trustedmetadata.New(u.kept.current(metadata.ROOT)); err == nil {
		err := u.walk()
		refused, ok := errors.AsType[*RepositoryError](err)
		switch same, known := u.descends(at); {
		case err != nil && (!ok || refused.Reason == ReasonUnreachable || same):
			return err
		case same:
			return u.endRoot()
		case known: // the operator has another chain
			u.anew = true
		}
	}
	u.next.dropRoots()
	u.next.put(rootFile(at), u.given(at))
	u.trusted = given
	if err := u.walk(); err != nil {
		return err
	}
	return u.endRoot()
}

// walk follows the chain of roots from the one that is trusted.
func (u *updating) walk() error {
	for range maxRotations {
		file := rootFile(u.trusted.Root.Signed.Version + 1)
		data, err := u.metadata(file, maxRoot)
		if errors.Is(err, errAbsent) {
			return nil
		}
		if err != nil {
			return err
		}
		if _, err := u.trusted.UpdateRoot(data); err != nil {
			return refuse(file, err)
		}
		u.next.put(file, data)
	}
	return nil
}

// descends says whether the chain at hand has the root that the operator has given; known is
// false if it has none of that version.
func (u *updating) descends(version int64) (same, known bool) {
	f, known := u.next.files[rootFile(version)]
	return known && sameRoot(f.Data, u.cfg.Root), known
}

func (u *updating) endRoot() error {
	u.trusted.RefTime = u.cfg.Now()
	root := u.trusted.Root.Signed
	u.next.Consistent = root.ConsistentSnapshot
	u.next.is(metadata.ROOT, rootFile(root.Version), root.Version, root.Expires)
	return nil
}

// given returns the root that the operator has given in upstream's own bytes, if it has the same.
func (u *updating) given(version int64) []byte {
	data, err := u.metadata(rootFile(version), maxRoot)
	if err != nil {
		return u.cfg.Root
	}
	var one, other any
	if json.Unmarshal(data, &one) != nil || json.Unmarshal(u.cfg.Root, &other) != nil || !reflect.DeepEqual(one, other) {
		return u.cfg.Root
	}
	return data
}

// sameRoot says whether two roots are good by themselves and sign the same.
func sameRoot(a, b []byte) bool {
	return guard(func() error {
		x, err := trustedmetadata.New(a)
		if err != nil {
			return err
		}
		y, err := trustedmetadata.New(b)
		if err != nil {
			return err
		}
		one, err := json.Marshal(x.Root.Signed)
		if err != nil {
			return err
		}
		if other, err := json.Marshal(y.Root.Signed); err != nil || !bytes.Equal(one, other) {
			return errors.New("they differ")
		}
		return nil
	}) == nil
}

func rootFile(version int64) string { return fmt.Sprintf("%d.root.json", version) }

// elderRoots takes the roots before the first one of the chain, for clients that begin at an
// older one. A root is taken if the one after it, which is trusted, is its successor by its own
// keys and threshold, and if the keys of the successor have signed it: else anybody could write
// an older root that names the genuine keys beside others.
func (u *updating) elderRoots() error {
	version := u.trusted.Root.Signed.Version
	for u.next.files[rootFile(version-1)].Data != nil {
		version--
	}
	next, err := metadata.Root().FromBytes(u.next.files[rootFile(version)].Data)
	for ; err == nil && version > 1; version-- {
		file := rootFile(version - 1)
		var data []byte
		if data, err = u.metadata(file, maxRoot); err != nil {
			break
		}
		if err = guard(func() error {
			elder, err := metadata.Root().FromBytes(data)
			if err != nil {
				return err
			}
			if elder.Signed.Version != version-1 {
				return errors.New("it has another version")
			}
			if err := errors.Join(elder.VerifyDelegate(metadata.ROOT, elder), elder.VerifyDelegate(metadata.ROOT, next), next.VerifyDelegate(metadata.ROOT, elder)); err != nil {
				return err
			}
			next = elder
			return nil
		}); err != nil {
			break
		}
		u.next.put(file, data)
	}
	if u.ctx.Err() != nil {
		return u.ctx.Err()
	}
	if err != nil && err.Error() != u.elders { // what is newer is good all the same
		u.elders = err.Error()
		u.cfg.Logger.Info("older roots of the TUF repository cannot be had; clients that begin before the first one kept are not served",
			"repository", u.cfg.Name, "first", version, "error", err)
	}
	return nil
}
