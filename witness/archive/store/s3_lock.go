package store

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
)

// object is a version of an object, as a bucket lists it.
type object struct {
	name     string // without the prefix
	version  string // empty: there is only one
	size     int64
	modified time.Time
	hidden   bool // by a delete marker
}

// newest returns the newest version of a pack, also if a delete marker hides it, or nil.
// Whoever asks without a version is told that a hidden one is not there, which is not so.
func (s *S3) newest(ctx context.Context, name string) (*object, error) {
	all, err := s.objects(ctx, s.key(name), func(key string) bool { return key != s.key(name) })
	for i := range all {
		if all[i].name == name {
			return &all[i], err
		}
	}
	return nil, err
}

const maxPages = 1000 // of a list, of up to 1,000 versions each

// objects lists the newest version of each key below a prefix, in order, until one that is
// the last to be of interest. Keys that are no name of a pack are left out.
func (s *S3) objects(ctx context.Context, prefix string, last func(key string) bool) ([]object, error) {
	var all []object
	in := &s3.ListObjectVersionsInput{Bucket: &s.cfg.Bucket, Prefix: optional(prefix)}
	seen := map[string]bool{}
	for range maxPages {
		var page *s3.ListObjectVersionsOutput
		err := s.do(ctx, "list bucket "+s.cfg.Bucket, 0, func(ctx context.Context) (err error) {
			page, err = s.client.ListObjectVersions(ctx, in)
			return err
		})
		if err != nil {
			return nil, err
		}
		for _, v := range page.Versions {
			name, ours := strings.CutPrefix(aws.ToString(v.Key), s.prefix())
			if !ours || seen[name] || checkName(name) != nil {
				continue
			}
			seen[name] = true // those after it are older
			all = append(all, object{name, aws.ToString(v.VersionId), aws.ToInt64(v.Size), aws.ToTime(v.LastModified), v.IsLatest != nil && !*v.IsLatest})
		}
		if !aws.ToBool(page.IsTruncated) || len(all) > 0 && last(aws.ToString(page.NextKeyMarker)) {
			return all, nil
		}
		if aws.ToString(page.NextKeyMarker) == aws.ToString(in.KeyMarker) && aws.ToString(page.NextVersionIdMarker) == aws.ToString(in.VersionIdMarker) {
			break
		}
		in.KeyMarker, in.VersionIdMarker = page.NextKeyMarker, page.NextVersionIdMarker
	}
	return nil, fmt.Errorf("list bucket %s: it goes on for ever", s.cfg.Bucket)
}

// List returns the newest version of each pack, by name, and how it is locked: one request
// each. What a delete marker hides is there, and is listed.
func (s *S3) List(ctx context.Context) ([]Stored, error) {
	all, err := s.objects(ctx, s.prefix(), func(string) bool { return false })
	if err != nil {
		return nil, err
	}
	list := make([]Stored, len(all))
	for i, at := range all {
		if list[i], err = s.describe(ctx, at.name, at.version); err != nil {
			return nil, err
		}
		list[i].Hidden = at.hidden
	}
	slices.SortFunc(list, func(a, b Stored) int { return strings.Compare(a.Name, b.Name) })
	return list, nil
}

// describe asks how a version is locked.
func (s *S3) describe(ctx context.Context, name, version string) (Stored, error) {
	var out *s3.HeadObjectOutput
	err := s.do(ctx, "ask how "+name+" is locked", 0, func(ctx context.Context) (err error) {
		out, err = s.client.HeadObject(ctx, &s3.HeadObjectInput{
			Bucket: &s.cfg.Bucket, Key: aws.String(s.key(name)), VersionId: optional(version), ChecksumMode: types.ChecksumModeEnabled,
		})
		return err
	})
	if err != nil {
		return Stored{}, err
	}
	stored := Stored{
		Name: name, Size: aws.ToInt64(out.ContentLength), Version: version,
		Mode: modeOf(out.ObjectLockMode), LegalHold: out.ObjectLockLegalHoldStatus == types.ObjectLockLegalHoldStatusOn,
	}
	if stored.Version == "" {
		stored.Version = aws.ToString(out.VersionId)
	}
	if stored.Mode != "" {
		stored.RetainUntil = aws.ToTime(out.ObjectLockRetainUntilDate).UTC()
	}
	// The checksum of an upload in parts is one of checksums, and is longer by a number.
	if sum, err := base64.StdEncoding.DecodeString(aws.ToString(out.ChecksumSHA256)); err == nil && len(sum) == sha256.Size {
		stored.SHA256 = [sha256.Size]byte(sum)
	}
	if stored.Mode == "" && !stored.LegalHold && s.cfg.locks() {
		return stored, s.askForLocks(ctx, &stored)
	}
	return stored, nil
}

// askForLocks asks for retention and legal hold by themselves, because some services (versitygw
// 1.8) do not tell them about a version that is not the newest, as one that is hidden.
func (s *S3) askForLocks(ctx context.Context, stored *Stored) error {
	key, version := aws.String(s.key(stored.Name)), optional(stored.Version)
	err := s.do(ctx, "ask how long "+stored.Name+" is retained", 0, func(ctx context.Context) error {
		out, err := s.client.GetObjectRetention(ctx, &s3.GetObjectRetentionInput{Bucket: &s.cfg.Bucket, Key: key, VersionId: version})
		if err == nil && out.Retention != nil {
			stored.Mode, stored.RetainUntil = modeOf(out.Retention.Mode), aws.ToTime(out.Retention.RetainUntilDate).UTC()
		}
		return err
	})
	if err != nil && !isUnlocked(err) {
		return err
	}
	err = s.do(ctx, "ask whether "+stored.Name+" is under legal hold", 0, func(ctx context.Context) error {
		out, err := s.client.GetObjectLegalHold(ctx, &s3.GetObjectLegalHoldInput{Bucket: &s.cfg.Bucket, Key: key, VersionId: version})
		stored.LegalHold = err == nil && out.LegalHold != nil && out.LegalHold.Status == types.ObjectLockLegalHoldStatusOn
		return err
	})
	if isUnlocked(err) {
		return nil
	}
	return err
}

// isUnlocked reports whether a service answered that an object has no lock.
func isUnlocked(err error) bool {
	return is(err, "NoSuchObjectLockConfiguration") || is(err, "ObjectLockConfigurationNotFoundError")
}

// retain locks a version until a time. It never asks to bypass a lock.
func (s *S3) retain(ctx context.Context, name, version string, mode Mode, until time.Time) error {
	return s.do(ctx, "retain "+name+" until "+until.Format(time.RFC3339), 0, func(ctx context.Context) error {
		_, err := s.client.PutObjectRetention(ctx, &s3.PutObjectRetentionInput{
			Bucket: &s.cfg.Bucket, Key: aws.String(s.key(name)), VersionId: optional(version),
			Retention: &types.ObjectLockRetention{Mode: types.ObjectLockRetentionMode(mode.apiMode()), RetainUntilDate: &until},
		})
		return err
	})
}

func (s *S3) hold(ctx context.Context, name, version string, on bool) error {
	status := types.ObjectLockLegalHoldStatusOff
	if on {
		status = types.ObjectLockLegalHoldStatusOn
	}
	return s.do(ctx, "set the legal hold of "+name, 0, func(ctx context.Context) error {
		_, err := s.client.PutObjectLegalHold(ctx, &s3.PutObjectLegalHoldInput{
			Bucket: &s.cfg.Bucket, Key: aws.String(s.key(name)), VersionId: optional(version),
			LegalHold: &types.ObjectLockLegalHold{Status: status},
		})
		return err
	})
}

// find returns the newest version of a pack that has to be there.
func (s *S3) find(ctx context.Context, name string) (Stored, error) {
	if err := checkName(name); err != nil {
		return Stored{}, err
	}
	at, err := s.newest(ctx, name)
	if err != nil {
		return Stored{}, err
	}
	if at == nil {
		return Stored{}, &Permanent{fmt.Errorf("%w: %s in %s", ErrNotFound, name, s.Name()), "see the list of packs for their names"}
	}
	return s.describe(ctx, name, at.version)
}

// Hold sets or lifts the legal hold of the newest version of a pack, and asks whether
// that is so then.
func (s *S3) Hold(ctx context.Context, name string, on bool) error {
	stored, err := s.find(ctx, name)
	if err != nil || stored.LegalHold == on {
		return err
	}
	if err := s.hold(ctx, name, stored.Version, on); err != nil {
		return err
	}
	switch stored, err := s.describe(ctx, name, stored.Version); {
	case err != nil:
		return err
	case stored.LegalHold != on:
		return fmt.Errorf("%w: %s took the change of the legal hold of %s, and shows it as before", ErrNotStored, s.Name(), name)
	}
	return nil
}

// Extend retains the newest version of a pack for longer, and asks whether that is so then.
func (s *S3) Extend(ctx context.Context, name string, until time.Time) error {
	stored, err := s.find(ctx, name)
	if err != nil {
		return err
	}
	until = wholeSecond(until)
	mode := stronger(s.cfg.Mode, stored.Mode)
	switch {
	case until.Before(stored.RetainUntil):
		return shorter(name, stored.RetainUntil, until)
	case until.Equal(stored.RetainUntil):
		return nil
	case mode == "":
		return &Permanent{errors.New("nothing is locked in " + s.Name()), "set an object-lock mode"}
	}
	if err := s.retain(ctx, name, stored.Version, mode, until); err != nil {
		return err
	}
	switch stored, err := s.describe(ctx, name, stored.Version); {
	case err != nil:
		return err
	case stored.RetainUntil.Before(until):
		return fmt.Errorf("%w: %s took the longer retention of %s, and shows it until %s", ErrNotStored, s.Name(), name, stored.RetainUntil.Format(time.RFC3339))
	}
	return nil
}
