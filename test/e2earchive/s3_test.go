package e2earchive

import (
	"crypto/sha256"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	"github.com/aws/smithy-go"

	tests3 "github.com/understudy-log/understudy/test/s3"
	"github.com/understudy-log/understudy/witness/archive/store"
)

const (
	bucket   = "evidence"
	prefix   = "weekly/understudy"
	packName = "understudy-evidence-000012-2026-11-23.tar"
)

// vault is an S3 service with one bucket that locks.
type vault struct {
	*testing.T
	server *tests3.Server
	client *s3.Client // may do everything
}

func newVault(t *testing.T) *vault {
	if os.Getenv("UNDERSTUDY_E2E_ARCHIVE") == "" {
		t.Skip("NOTICE: needs an S3 service that takes a minute to build: make e2e-archive")
	}
	v := &vault{T: t, server: tests3.Start(t.Context(), t)}
	v.client = v.server.Client()
	v.server.CreateLockedBucket(t.Context(), bucket)
	return v
}

// store returns a destination that locks in governance mode for 1,000 hours.
func (v *vault) store(edits ...func(*store.S3Config)) *store.S3 {
	v.Helper()
	cfg := store.S3Config{
		Endpoint: v.server.Endpoint, Region: tests3.Region, Bucket: bucket, Prefix: prefix, PathStyle: true, CredentialsFile: v.server.CredentialsFile(),
		Mode: store.Governance, Retention: 1000 * time.Hour, Timeout: 20 * time.Second,
	}
	for _, edit := range edits {
		edit(&cfg)
	}
	s, err := store.NewS3(v.Context(), cfg)
	if err != nil {
		v.Fatal(err)
	}
	return s
}

func compliance(cfg *store.S3Config) { cfg.Mode = store.Compliance }
func held(cfg *store.S3Config)       { cfg.LegalHold = true }
func unlocked(cfg *store.S3Config)   { cfg.Mode, cfg.Retention = "", 0 }

// pack makes pseudo-random bytes into a pack.
func (v *vault) pack(seed byte, size int) store.Pack {
	v.Helper()
	data := make([]byte, size)
	rand.NewChaCha8([32]byte{seed}).Read(data)
	file := filepath.Join(v.TempDir(), "pack")
	if err := os.WriteFile(file, data, 0o600); err != nil {
		v.Fatal(err)
	}
	return store.Pack{Name: packName, Path: file, Size: int64(size), SHA256: sha256.Sum256(data)}
}

func (v *vault) put(s *store.S3, p store.Pack) store.Stored {
	v.Helper()
	stored, err := s.Put(v.Context(), p)
	if err != nil {
		v.Fatalf("%v\n%s", err, v.server.Tail())
	}
	if stored.Size != p.Size || stored.SHA256 != p.SHA256 || stored.Version == "" || stored.VerifiedAt.IsZero() {
		v.Fatalf("stored %+v", stored)
	}
	return stored
}

// listed returns the one pack that a destination lists.
func (v *vault) listed(s *store.S3) store.Stored {
	v.Helper()
	all, err := s.List(v.Context())
	if err != nil || len(all) != 1 {
		v.Fatalf("listed %+v, %v, want one pack", all, err)
	}
	return all[0]
}

// refused expects the service itself to refuse what somebody who may do everything asks.
func (v *vault) refused(what string, err error) {
	v.Helper()
	var answer smithy.APIError
	if !errors.As(err, &answer) || answer.ErrorCode() != "AccessDenied" {
		v.Errorf("%s is not refused: %v", what, err)
	}
}

// remove asks the service to delete a version.
func (v *vault) remove(s store.Stored, bypass bool) error {
	_, err := v.client.DeleteObject(v.Context(), &s3.DeleteObjectInput{Bucket: aws.String(bucket), Key: aws.String(prefix + "/" + s.Name), VersionId: &s.Version, BypassGovernanceRetention: ifTrue(bypass)})
	return err
}

// shorten asks the service to end a retention earlier.
func (v *vault) shorten(s store.Stored, bypass bool) error {
	_, err := v.client.PutObjectRetention(v.Context(), &s3.PutObjectRetentionInput{
		Bucket: aws.String(bucket), Key: aws.String(prefix + "/" + s.Name), VersionId: &s.Version, BypassGovernanceRetention: ifTrue(bypass),
		Retention: &types.ObjectLockRetention{Mode: types.ObjectLockRetentionMode(strings.ToUpper(string(s.Mode))), RetainUntilDate: aws.Time(time.Now().Add(time.Hour))},
	})
	return err
}

func ifTrue(b bool) *bool {
	if !b {
		return nil
	}
	return &b
}

// versions counts what the bucket holds of the pack.
func (v *vault) versions() (versions, markers int) {
	v.Helper()
	page, err := v.client.ListObjectVersions(v.Context(), &s3.ListObjectVersionsInput{Bucket: aws.String(bucket)})
	if err != nil {
		v.Fatal(err)
	}
	return len(page.Versions), len(page.DeleteMarkers)
}

func TestS3PutAndLock(t *testing.T) {
	for mode, edit := range map[store.Mode]func(*store.S3Config){store.Governance: func(*store.S3Config) {}, store.Compliance: compliance} {
		t.Run(string(mode), func(t *testing.T) {
			v := newVault(t)
			s := v.store(edit)
			p := v.pack(1, 9<<20)
			start := time.Now().Truncate(time.Second)
			stored := v.put(s, p)
			if left := stored.RetainUntil.Sub(start); stored.Mode != mode || left < 1000*time.Hour || left > 1001*time.Hour || stored.LegalHold || stored.Hidden {
				t.Errorf("stored %+v", stored)
			}
			if listed := v.listed(s); !listed.VerifiedAt.IsZero() || listed.SHA256 != p.SHA256 || !listed.RetainUntil.Equal(stored.RetainUntil) || listed.Version != stored.Version {
				t.Errorf("listed %+v, stored %+v", listed, stored)
			}
			v.refused("deletion", v.remove(stored, false))
			v.refused("shortening", v.shorten(stored, false))
			if mode == store.Compliance {
				v.refused("deletion with bypass", v.remove(stored, true))
				v.refused("shortening with bypass", v.shorten(stored, true))
			}

			again := v.put(s, p)
			if again.VerifiedAt = stored.VerifiedAt; again != stored {
				t.Errorf("stored %+v, then %+v", stored, again)
			}
			for _, size := range []int{9 << 20, 1000} {
				if _, err := s.Put(t.Context(), v.pack(2, size)); !errors.Is(err, store.ErrDiffers) || !strings.Contains(err.Error(), "older database") {
					t.Errorf("other bytes: %v", err)
				}
			}
			if versions, markers := v.versions(); versions != 1 || markers != 0 {
				t.Errorf("%d versions, %d delete markers", versions, markers)
			}
			v.put(s, p) // and it is as it was
		})
	}
}

// TestS3RefusalsAreTheLock: the same is granted where nothing is locked.
func TestS3RefusalsAreTheLock(t *testing.T) {
	v := newVault(t)
	stored := v.put(v.store(unlocked), v.pack(1, 1000))
	if stored.Mode != "" || !stored.RetainUntil.IsZero() {
		t.Errorf("stored %+v", stored)
	}
	if err := v.remove(stored, false); err != nil {
		t.Error(err)
	}
	if versions, _ := v.versions(); versions != 0 {
		t.Errorf("%d versions", versions)
	}
}

func TestS3Extend(t *testing.T) {
	v := newVault(t)
	ctx, s := t.Context(), v.store()
	p := v.pack(1, 1000)
	p.Retain = time.Now().Add(2 * time.Second)
	stored := v.put(s, p)
	if err := s.Extend(ctx, packName, stored.RetainUntil.Add(-time.Second)); !errors.Is(err, store.ErrShorter) {
		t.Errorf("shortening: %v", err)
	}
	if err := s.Extend(ctx, packName, stored.RetainUntil.Add(time.Second)); err != nil {
		t.Error(err)
	}
	if again := v.put(s, p); !again.RetainUntil.Equal(stored.RetainUntil.Add(time.Second)) {
		t.Errorf("stored %+v, then %+v", stored, again)
	}
	v.refused("deletion", v.remove(stored, false))
	time.Sleep(time.Until(stored.RetainUntil.Add(1100 * time.Millisecond)))
	// Its retention is over, and Put locks it again, for as long as it still is to be retained.
	p.Retain = time.Now().Add(time.Hour)
	if again := v.put(s, p); again.RetainUntil.Before(p.Retain) || again.Version != stored.Version {
		t.Errorf("stored %+v", again)
	}
	v.refused("deletion", v.remove(stored, false))
	if err := s.Extend(ctx, "no.tar", time.Now()); !errors.Is(err, store.ErrNotFound) {
		t.Error(err)
	}
}

// TestS3Hold: a legal hold keeps what nothing else does. (versitygw 1.8 does not look at it
// once a retention is over, so here there is none, or one that is bypassed.)
func TestS3Hold(t *testing.T) {
	for what, edit := range map[string]func(*store.S3Config){"alone": unlocked, "and retention": func(*store.S3Config) {}} {
		t.Run(what, func(t *testing.T) {
			v := newVault(t)
			ctx, s := t.Context(), v.store(edit, held)
			stored := v.put(s, v.pack(1, 1000))
			if !stored.LegalHold || !v.listed(s).LegalHold {
				t.Errorf("stored %+v", stored)
			}
			v.refused("deletion", v.remove(stored, true))
			for _, on := range []bool{false, true, true} {
				if err := s.Hold(ctx, packName, on); err != nil || v.listed(s).LegalHold != on {
					t.Errorf("hold %t: %+v, %v", on, v.listed(s), err)
				}
			}
			v.refused("deletion", v.remove(stored, true))
			if err := s.Hold(ctx, packName, false); err != nil {
				t.Error(err)
			}
			if err := v.remove(stored, true); err != nil {
				t.Errorf("with nothing in the way: %v", err)
			}
			if err := s.Hold(ctx, packName, true); !errors.Is(err, store.ErrNotFound) {
				t.Error(err)
			}
		})
	}
}

// TestS3DeleteMarker: whoever may not delete a version can hide it. It is there all the same.
func TestS3DeleteMarker(t *testing.T) {
	v := newVault(t)
	s := v.store(held)
	p := v.pack(1, 1000)
	stored := v.put(s, p)
	if !stored.LegalHold {
		t.Errorf("stored %+v", stored)
	}
	if _, err := v.client.DeleteObject(t.Context(), &s3.DeleteObjectInput{Bucket: aws.String(bucket), Key: aws.String(prefix + "/" + packName)}); err != nil {
		t.Fatal(err)
	}
	if _, markers := v.versions(); markers != 1 {
		t.Fatalf("%d delete markers", markers)
	}
	want := stored
	want.Hidden = true
	again := v.put(s, p)
	if again.VerifiedAt = stored.VerifiedAt; again != want {
		t.Errorf("stored %+v, then %+v", stored, again)
	}
	if s := v.listed(s); !s.Hidden || !s.LegalHold || !s.RetainUntil.Equal(stored.RetainUntil) {
		t.Errorf("listed %+v", s)
	}
	if _, err := s.Put(t.Context(), v.pack(2, 1000)); !errors.Is(err, store.ErrDiffers) {
		t.Errorf("other bytes: %v", err)
	}
	if err := s.Extend(t.Context(), packName, stored.RetainUntil.Add(time.Hour)); err != nil {
		t.Error(err)
	}
}

func TestS3WhatPeopleMustMend(t *testing.T) {
	v := newVault(t)
	v.server.CreateBucket(t.Context(), "plain")
	p := v.pack(1, 1000)
	wrong := filepath.Join(t.TempDir(), "credentials")
	if err := os.WriteFile(wrong, []byte("[default]\naws_access_key_id = understudy\naws_secret_access_key = wrong\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for says, edit := range map[string]func(*store.S3Config){
		"bucket plain has no Object Lock": func(cfg *store.S3Config) { cfg.Bucket = "plain" },
		"create the bucket missing":       func(cfg *store.S3Config) { cfg.Bucket = "missing" },
		"credentials are wrong":           func(cfg *store.S3Config) { cfg.CredentialsFile = wrong },
	} {
		_, err := v.store(edit).Put(t.Context(), p)
		if !errors.As(err, new(*store.Permanent)) || !strings.Contains(err.Error(), says) {
			t.Errorf("%v, want a permanent error with %q", err, says)
		}
	}
	v.put(v.store(), p)
	governed := v.listed(v.store())
	if _, err := v.store(compliance).Put(t.Context(), p); !errors.Is(err, store.ErrNotStored) || !strings.Contains(err.Error(), "governance mode") {
		t.Errorf("%+v in compliance mode: %v", governed, err)
	}
	v.server.Stop()
	if _, err := v.store().Put(t.Context(), p); err == nil || errors.As(err, new(*store.Permanent)) || !strings.Contains(err.Error(), "connection refused") {
		t.Errorf("without a service: %v", err)
	}
}

// TestS3Killed kills the service at points of an upload, the last of which is when it has
// stored all and its answer is lost, and has the pack stored again.
func TestS3Killed(t *testing.T) {
	const size = 6 << 20
	for point, at := range map[string]trap{
		"at the beginning": {up: 1000}, "in the middle": {up: size / 2}, "near the end": {up: size - 1000}, "before its answer": {up: size, answer: true},
	} {
		t.Run(point, func(t *testing.T) {
			v := newVault(t)
			p := v.pack(1, size)
			proxy := startProxy(t, strings.TrimPrefix(v.server.Endpoint, "http://"), at, v.server.Kill)
			through := v.store(func(cfg *store.S3Config) { cfg.Endpoint = "http://" + proxy.addr })
			if _, err := through.Put(t.Context(), p); err == nil || errors.As(err, new(*store.Permanent)) {
				t.Errorf("the service is killed, and Put returns %v", err)
			}
			if !proxy.sprung() {
				t.Fatal("it was not killed")
			}
			v.server.Restart(t.Context())
			s := v.store()
			if all, err := s.List(t.Context()); err != nil || (len(all) == 1) != at.answer || len(all) > 1 {
				t.Errorf("after the kill there is %+v, %v", all, err)
			}
			stored := v.put(s, p)
			v.refused("deletion", v.remove(stored, false))
			if versions, _ := v.versions(); versions != 1 {
				t.Errorf("%d versions", versions)
			}
		})
	}
}
