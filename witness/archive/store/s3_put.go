package store

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
)

// Put uploads a pack, unless it is there, and reads back that version, and how it is locked.
func (s *S3) Put(ctx context.Context, p Pack) (Stored, error) {
	if err := p.check(); err != nil {
		return Stored{}, err
	}
	if !p.Retain.IsZero() && s.cfg.Mode == "" {
		return Stored{}, &Permanent{fmt.Errorf("pack %s is to be retained until %s, and nothing is locked in %s", p.Name, p.Retain.UTC().Format(time.RFC3339), s.Name()),
			"set an object-lock mode, or ask for no retention there"}
	}
	if err := s.lockable(ctx); err != nil {
		return Stored{}, err
	}
	at, err := s.newest(ctx, p.Name)
	if err != nil {
		return Stored{}, err
	}
	if at != nil {
		return s.settle(ctx, p, at)
	}
	version, until, err := s.upload(ctx, p)
	if is(err, "PreconditionFailed") {
		// Somebody else was faster, or an answer to us was lost and the SDK asked twice.
		if at, err = s.newest(ctx, p.Name); err == nil && at == nil {
			err = fmt.Errorf("%s says that it has %s, and does not list it", s.Name(), p.Name)
		}
		if err != nil {
			return Stored{}, err
		}
		return s.settle(ctx, p, at)
	} else if err != nil {
		return Stored{}, err
	}
	have, same, err := s.readBack(ctx, p, version)
	switch {
	case is(err, "NoSuchKey"), is(err, "NoSuchVersion"), is(err, "NotFound"):
		return Stored{}, fmt.Errorf("%w: %s said that it had stored %s, and has nothing", ErrNotStored, s.Name(), p.Name)
	case err != nil:
		return Stored{}, err
	case !same:
		return Stored{}, fmt.Errorf("%w: what %s gives back for %s %s", ErrNotStored, s.Name(), p.Name, have)
	}
	stored, err := s.describe(ctx, p.Name, version)
	if err != nil {
		return Stored{}, err
	}
	return s.confirm(p, stored, until)
}

// settle holds what is there under a pack's name against the pack, and locks it for as long
// as is asked.
func (s *S3) settle(ctx context.Context, p Pack, at *object) (Stored, error) {
	if at.size != p.Size {
		return Stored{}, differs(p.Name, s.Name(), fmt.Sprintf("has %d bytes, not %d", at.size, p.Size))
	}
	have, same, err := s.readBack(ctx, p, at.version)
	if err != nil {
		return Stored{}, err
	}
	if !same {
		return Stored{}, differs(p.Name, s.Name(), have)
	}
	stored, err := s.describe(ctx, p.Name, at.version)
	if err != nil {
		return Stored{}, err
	}
	now := time.Now()
	since := at.modified
	if stored.RetainUntil.IsZero() {
		since = now // it never was retained, whoever put it there
	}
	until := s.until(p, since)
	if !until.After(now) {
		until = time.Time{} // what is over needs nothing
	}
	if s.cfg.Mode == Compliance && stored.Mode == Governance && stored.RetainUntil.After(now) {
		return Stored{}, &Permanent{
			Err:  fmt.Errorf("%w: %s retains %s until %s, but in governance mode", ErrNotStored, s.Name(), p.Name, stored.RetainUntil.Format(time.RFC3339)),
			Hint: "whoever may bypass that mode can change it to compliance",
		}
	}
	if until.After(stored.RetainUntil) {
		if err := s.retain(ctx, p.Name, at.version, stronger(s.cfg.Mode, stored.Mode), until); err != nil {
			return Stored{}, err
		}
	}
	if s.cfg.LegalHold && !stored.LegalHold {
		if err := s.hold(ctx, p.Name, at.version, true); err != nil {
			return Stored{}, err
		}
	}
	if stored, err = s.describe(ctx, p.Name, at.version); err != nil {
		return Stored{}, err
	}
	stored.Hidden = at.hidden
	return s.confirm(p, stored, until)
}

// stronger returns the stronger mode: what nobody may delete stays so.
func stronger(a, b Mode) Mode {
	if a == Compliance || b == Compliance {
		return Compliance
	}
	return max(a, b) // one of them may be empty
}

// until returns when the retention of a pack ends; zero: never begins. That of the
// destination counts from when the pack was stored, so that it does not grow by itself.
func (s *S3) until(p Pack, stored time.Time) time.Time {
	switch {
	case s.cfg.Mode == "":
		return time.Time{}
	case !p.Retain.IsZero():
		return wholeSecond(p.Retain)
	}
	return wholeSecond(stored.Add(s.cfg.Retention))
}

// confirm refuses a description that is less than what was asked.
func (s *S3) confirm(p Pack, stored Stored, until time.Time) (Stored, error) {
	lacks := ""
	switch {
	case stored.Size != p.Size:
		lacks = fmt.Sprintf("describes it with %d bytes, not %d", stored.Size, p.Size)
	case !until.IsZero() && stored.RetainUntil.IsZero():
		lacks = "shows no retention for it (does the key have the permission s3:GetObjectRetention?)"
	case stored.RetainUntil.Before(until):
		lacks = fmt.Sprintf("retains it until %s, not until %s", stored.RetainUntil.Format(time.RFC3339), until.Format(time.RFC3339))
	case !until.IsZero() && stored.Mode != Compliance && stored.Mode != s.cfg.Mode:
		lacks = fmt.Sprintf("retains it in mode %q, not %s", stored.Mode, s.cfg.Mode)
	case s.cfg.LegalHold && !stored.LegalHold:
		lacks = "shows no legal hold for it (does the key have the permission s3:GetObjectLegalHold?)"
	}
	if lacks != "" {
		return Stored{}, fmt.Errorf("%w: %s has all bytes of %s, but %s", ErrNotStored, s.Name(), p.Name, lacks)
	}
	stored.SHA256, stored.VerifiedAt = p.SHA256, time.Now()
	return stored, nil
}

// lockable finds out whether the bucket can lock what it is asked to lock, each time anew:
// an operator may have changed it.
func (s *S3) lockable(ctx context.Context) error {
	if !s.cfg.locks() {
		return nil
	}
	enabled := false
	err := s.do(ctx, "ask whether bucket "+s.cfg.Bucket+" has Object Lock", 0, func(ctx context.Context) error {
		answer, err := s.client.GetObjectLockConfiguration(ctx, &s3.GetObjectLockConfigurationInput{Bucket: &s.cfg.Bucket})
		enabled = err == nil && answer.ObjectLockConfiguration != nil && answer.ObjectLockConfiguration.ObjectLockEnabled == types.ObjectLockEnabledEnabled
		return err
	})
	if is(err, "ObjectLockConfigurationNotFoundError") || err == nil && !enabled {
		return &Permanent{fmt.Errorf("bucket %s has %w, and packs are to be locked in it", s.cfg.Bucket, ErrNoObjectLock),
			"enable it (with most services only when a bucket is created), or set no object-lock mode and no legal hold: then anybody who may delete can delete packs"}
	}
	return err
}

// upload stores a pack under a key that nobody uses, and returns the version, if the
// bucket has versions, and until when it is to be retained.
func (s *S3) upload(ctx context.Context, p Pack) (version string, until time.Time, err error) {
	if p.Size > largest {
		return "", until, &Permanent{fmt.Errorf("pack %s has %d bytes", p.Name, p.Size), fmt.Sprintf("an upload has at most %d: make packs of less time", int64(largest))}
	}
	f, err := p.open()
	if err != nil {
		return "", until, err
	}
	defer f.Close()
	// What is locked once cannot be mended. So the file is read before.
	sum := sha256.New()
	n, err := copyContext(ctx, sum, f, p.Size+1)
	if err != nil {
		return "", until, fmt.Errorf("read pack %s: %w", p.Name, err)
	}
	if have, same := p.is(n, sum); !same {
		return "", until, p.changed(have)
	}
	if _, err := f.Seek(0, 0); err != nil {
		return "", until, err
	}
	now := time.Now()
	if until = s.until(p, now); !until.IsZero() && !until.After(now) {
		return "", until, &Permanent{fmt.Errorf("the retention of %s is over since %s", p.Name, until.Format(time.RFC3339)), "ask for a time to come"}
	}
	in := &s3.PutObjectInput{
		Bucket: &s.cfg.Bucket, Key: aws.String(s.key(p.Name)), Body: f, ContentLength: &p.Size, ContentType: aws.String("application/x-tar"),
		IfNoneMatch:    aws.String("*"),
		ChecksumSHA256: aws.String(base64.StdEncoding.EncodeToString(p.SHA256[:])),
	}
	if s.cfg.Mode != "" {
		in.ObjectLockMode, in.ObjectLockRetainUntilDate = types.ObjectLockMode(s.cfg.Mode.apiMode()), &until
	}
	if s.cfg.LegalHold {
		in.ObjectLockLegalHoldStatus = types.ObjectLockLegalHoldStatusOn
	}
	err = s.do(ctx, "upload "+p.Name, p.Size, func(ctx context.Context) error {
		out, err := s.client.PutObject(ctx, in)
		if err == nil {
			version = aws.ToString(out.VersionId)
		}
		return err
	})
	return version, until, err
}

// readBack gets a version and reports whether it is the pack.
func (s *S3) readBack(ctx context.Context, p Pack, version string) (have string, same bool, err error) {
	err = s.do(ctx, "read back "+p.Name, p.Size, func(ctx context.Context) error {
		out, err := s.client.GetObject(ctx, &s3.GetObjectInput{Bucket: &s.cfg.Bucket, Key: aws.String(s.key(p.Name)), VersionId: optional(version)})
		if err != nil {
			return err
		}
		defer out.Body.Close()
		sum := sha256.New()
		n, err := copyContext(ctx, sum, out.Body, p.Size+1)
		if err != nil {
			return err
		}
		have, same = p.is(n, sum)
		return nil
	})
	return have, same, err
}

// optional is nil for what is not sent.
func optional(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}
