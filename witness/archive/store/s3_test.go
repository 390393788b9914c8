package store

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestS3(t *testing.T) {
	f := newFake(t)
	s := f.store(t, locked)
	p := newPack(t, 1, 100_000)
	start := time.Now()
	stored := put(t, s, p)
	if left := stored.RetainUntil.Sub(start); left < 1000*time.Hour || left > 1001*time.Hour || stored.Mode != Governance || stored.LegalHold || stored.Version != "v1" || stored.Hidden {
		t.Errorf("stored %+v", stored)
	}
	if asked, want := f.asked(), "GET-object-lock GET-versions PUT GET HEAD"; asked != want {
		t.Errorf("asked %s, want %s", asked, want)
	}
	if string(f.object(p.Name).data) != p.bytes(t) || s.Name() != "s3://packs/some/folder" {
		t.Errorf("it is not under its key, or not in %s", s.Name())
	}

	// Again: nothing is sent, and all is read back.
	f.modified = start.Add(-time.Hour) // so that its own retention is no longer
	again := put(t, s, p)
	if asked, want := f.asked(), "GET-object-lock GET-versions GET HEAD HEAD"; asked != want {
		t.Errorf("asked %s, want %s", asked, want)
	}
	again.VerifiedAt = stored.VerifiedAt
	if again != stored {
		t.Errorf("stored %+v, then %+v", stored, again)
	}
	if listed := list(t, s); listed.VerifiedAt != (time.Time{}) || listed.SHA256 != p.SHA256 || listed.Mode != Governance || !listed.RetainUntil.Equal(stored.RetainUntil) {
		t.Errorf("listed %+v, want %+v", listed, stored)
	}
	f.markers = true
	stored.Hidden = true
	for _, again := range []Stored{list(t, s), put(t, s, p)} {
		if again.VerifiedAt = stored.VerifiedAt; again != stored {
			t.Errorf("hidden by a delete marker: %+v, want %+v", again, stored)
		}
	}
	if f.object(p.Name).hold = "ON"; !list(t, s).LegalHold {
		t.Error("the hold of what is hidden is not seen")
	}
	f.markers = false

	for _, size := range []int{100_000, 99_999, 100_001} {
		_, err := s.Put(t.Context(), newPack(t, 2, size))
		refuse(t, err, ErrDiffers, true, "If an older database was restored")
	}
	if string(f.object(p.Name).data) != p.bytes(t) {
		t.Error("it was replaced")
	}

	p.Name = "no-prefix.tar"
	put(t, f.store(t, func(cfg *S3Config) { cfg.Prefix = "" }), p)
	if f.objects[p.Name] == nil {
		t.Error("without a prefix it is elsewhere")
	}
}

func TestS3Retention(t *testing.T) {
	f := newFake(t)
	s := f.store(t, locked)
	p := newPack(t, 1, 1000)
	p.Retain = time.Now().Add(time.Hour)
	stored := put(t, s, p)
	if !stored.RetainUntil.Equal(wholeSecond(p.Retain)) {
		t.Errorf("stored %+v, want it until %s", stored, p.Retain)
	}
	ctx, until := t.Context(), stored.RetainUntil

	p.Retain = p.Retain.Add(-time.Minute) // shorter: as it was
	if again := put(t, s, p); !again.RetainUntil.Equal(until) {
		t.Errorf("stored %+v", again)
	}
	p.Retain = until.Add(time.Minute)
	if again := put(t, s, p); !again.RetainUntil.Equal(p.Retain) {
		t.Errorf("stored %+v, want it until %s", again, p.Retain)
	}
	until = p.Retain
	refuse(t, s.Extend(ctx, p.Name, until.Add(-time.Second)), ErrShorter, true, "ours only to extend")
	for _, later := range []time.Duration{0, time.Millisecond, time.Hour} {
		if err := s.Extend(ctx, p.Name, until.Add(later)); err != nil {
			t.Error(err)
		}
	}
	if s := list(t, s); !s.RetainUntil.Equal(until.Add(time.Hour)) || s.Mode != Governance {
		t.Errorf("listed %+v", s)
	}
	for _, on := range []bool{true, true, false, false} {
		if err := s.Hold(ctx, p.Name, on); err != nil || list(t, s).LegalHold != on {
			t.Errorf("hold %t: %+v, %v", on, list(t, s), err)
		}
	}
	refuse(t, s.Hold(ctx, "no.tar", true), ErrNotFound, true, "list of packs")
	refuse(t, s.Extend(ctx, "no.tar", until), ErrNotFound, true, "list of packs")

	// Legal hold is put on what is there without, if that is configured.
	if s := put(t, f.store(t, locked, held), p); !s.LegalHold {
		t.Errorf("stored %+v", s)
	}
	// The destination's own retention counts from when the pack was stored.
	p.Retain = time.Time{}
	f.modified = time.Now().Add(-900 * time.Hour)
	if s := put(t, s, p); !s.RetainUntil.Equal(wholeSecond(f.modified.Truncate(time.Second).Add(1000 * time.Hour))) {
		t.Errorf("stored %+v", s)
	}
	// But of a pack that never was locked, from now.
	*f.object(p.Name) = fakeObject{data: f.object(p.Name).data}
	if s := put(t, s, p); time.Until(s.RetainUntil) < 999*time.Hour || s.Mode != Governance {
		t.Errorf("stored %+v", s)
	}
	// What is over is as it is.
	f.object(p.Name).until = time.Now().Add(-1500 * time.Hour).UTC().Format(time.RFC3339)
	f.modified = time.Now().Add(-2000 * time.Hour)
	f.asked()
	put(t, s, p)
	if asked := f.asked(); strings.Contains(asked, "PUT") {
		t.Errorf("asked %s", asked)
	}
	p.Name, p.Retain = "over.tar", time.Now().Add(-time.Hour)
	_, err := s.Put(ctx, p)
	refuse(t, err, nil, true, "a time to come")
}

func TestS3Modes(t *testing.T) {
	f := newFake(t)
	p := newPack(t, 1, 1000)
	governance := f.store(t, locked)
	compliance := f.store(t, locked, func(cfg *S3Config) { cfg.Mode = Compliance })
	plain := f.store(t)
	put(t, governance, p)
	_, err := compliance.Put(t.Context(), p)
	refuse(t, err, ErrNotStored, true, "but in governance mode")

	// What nobody may delete stays so, also when it is retained longer.
	p.Name = "strict.tar"
	if s := put(t, compliance, p); s.Mode != Compliance {
		t.Errorf("stored %+v", s)
	}
	p.Retain = time.Now().Add(2000 * time.Hour)
	if s := put(t, governance, p); s.Mode != Compliance || !s.RetainUntil.Equal(wholeSecond(p.Retain)) {
		t.Errorf("stored %+v", s)
	}
	_, err = plain.Put(t.Context(), p)
	refuse(t, err, nil, true, "nothing is locked")
	p.Retain = time.Time{}
	if s := put(t, plain, p); s.Mode != Compliance {
		t.Errorf("stored %+v", s)
	}
	p.Name = "loose.tar"
	f.asked()
	if s := put(t, plain, p); s.Mode != "" || !s.RetainUntil.IsZero() {
		t.Errorf("stored %+v", s)
	}
	if asked, want := f.asked(), "GET-versions PUT GET HEAD"; asked != want {
		t.Errorf("asked %s, want %s", asked, want)
	}
	refuse(t, plain.Extend(t.Context(), p.Name, time.Now().Add(time.Hour)), nil, true, "nothing is locked")

	f.noLock = true
	p.Name = "never.tar"
	for _, edit := range []func(*S3Config){locked, held} {
		_, err = f.store(t, edit).Put(t.Context(), p)
		refuse(t, err, ErrNoObjectLock, true, "bucket packs has no Object Lock")
	}
	if f.object(p.Name) != nil {
		t.Error("it was stored all the same")
	}
}

// TestS3Versions: of several versions, on several pages, the newest counts.
func TestS3Versions(t *testing.T) {
	f := newFake(t)
	s := f.store(t, locked)
	put(t, s, newPack(t, 1, 1000))
	version := func(name, id string, latest bool) string {
		return fmt.Sprintf("<Version><Key>%s%s</Key><VersionId>%s</VersionId><IsLatest>%t</IsLatest><Size>1000</Size></Version>", fakePrefix, name, id, latest)
	}
	used := map[string]bool{}
	f.behave(func(w http.ResponseWriter, r *http.Request, op string, next http.HandlerFunc) {
		switch query := r.URL.Query(); {
		case op == "HEAD":
			used[query.Get("versionId")] = true
			next(w, r)
		case op != "GET versions":
			next(w, r)
		case query.Get("key-marker") == "":
			fmt.Fprintf(w, "<ListVersionsResult><IsTruncated>true</IsTruncated><NextKeyMarker>%s</NextKeyMarker><NextVersionIdMarker>v3</NextVersionIdMarker>%s%s%s%s</ListVersionsResult>",
				fakePrefix+packName, version("0/deeper.tar", "v9", true), version(".hidden", "v9", true), "<DeleteMarker><Key>"+fakePrefix+packName+"</Key></DeleteMarker>", version(packName, "v3", false))
		default:
			fmt.Fprintf(w, "<ListVersionsResult><IsTruncated>false</IsTruncated>%s%s</ListVersionsResult>", version(packName, "v2", false), version(packName+"x", "v9", true))
		}
	})
	if err := s.Hold(t.Context(), packName, false); err != nil || len(used) != 1 || !used["v3"] {
		t.Errorf("asked for %v, %v, want v3", used, err)
	}
	f.objects[fakePrefix+packName+"x"] = f.object(packName)
	all, err := s.List(t.Context())
	if err != nil || len(all) != 2 || all[0].Version != "v3" || !all[0].Hidden || all[1].Version != "v9" || all[1].Hidden {
		t.Errorf("listed %+v, %v", all, err)
	}
}

// TestS3Race: a pack that appears after it was looked for is not replaced.
func TestS3Race(t *testing.T) {
	for seed, want := range map[byte]error{1: nil, 2: ErrDiffers} {
		f := newFake(t)
		p, theirs := newPack(t, 1, 1000), newPack(t, seed, 1000).bytes(t)
		f.behave(func(w http.ResponseWriter, r *http.Request, op string, next http.HandlerFunc) {
			if op == "PUT" && f.object(p.Name) == nil {
				f.mu.Lock()
				f.objects[fakePrefix+p.Name] = &fakeObject{data: []byte(theirs)}
				f.mu.Unlock()
			}
			next(w, r)
		})
		if stored, err := f.store(t, locked).Put(t.Context(), p); !errors.Is(err, want) || err == nil && stored.RetainUntil.IsZero() {
			t.Errorf("%+v, %v, want %v", stored, err, want)
		}
		if string(f.object(p.Name).data) != theirs {
			t.Error("theirs was replaced")
		}
	}
}

func TestS3Credentials(t *testing.T) {
	f := newFake(t)
	for name, value := range map[string]string{
		"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": "", "AWS_PROFILE": "", "AWS_REGION": "", "AWS_DEFAULT_REGION": "",
		"AWS_SHARED_CREDENTIALS_FILE": "/nowhere", "AWS_CONFIG_FILE": "/nowhere", "AWS_EC2_METADATA_DISABLED": "true",
	} {
		t.Setenv(name, value)
	}
	p := newPack(t, 1, 1000)
	none := f.store(t, func(cfg *S3Config) { cfg.CredentialsFile = "" })
	_, err := none.Put(t.Context(), p)
	refuse(t, err, nil, true, "name a credentials file")
	_, err = none.List(t.Context())
	refuse(t, err, nil, true, "name a credentials file")

	// A file that is put right is read without a restart.
	file := filepath.Join(t.TempDir(), "credentials")
	write := func(text string) {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	used := ""
	f.behave(func(w http.ResponseWriter, r *http.Request, _ string, next http.HandlerFunc) {
		_, after, _ := strings.Cut(r.Header.Get("Authorization"), "Credential=")
		used, _, _ = strings.Cut(after, "/")
		next(w, r)
	})
	write("[vault]\naws_access_key_id = first\naws_secret_access_key = s\n[default]\naws_access_key_id = other\naws_secret_access_key = s\n")
	t.Setenv("AWS_ACCESS_KEY_ID", "environment")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "s")
	s := f.store(t, func(cfg *S3Config) { cfg.CredentialsFile, cfg.Profile = file, "vault" })
	put(t, s, p)
	if used != "first" {
		t.Errorf("used %q", used)
	}
	write("[vault]\n")
	_, err = s.Put(t.Context(), p)
	refuse(t, err, nil, true, "aws_access_key_id = ...")
	write("[vault]\naws_access_key_id = second\naws_secret_access_key = s\n")
	put(t, s, p)
	if used != "second" {
		t.Errorf("used %q", used)
	}
	put(t, f.store(t, func(cfg *S3Config) { cfg.CredentialsFile = "" }), p)
	if used != "environment" {
		t.Errorf("used %q", used)
	}
	for _, cfg := range []S3Config{
		{Bucket: "b", Endpoint: f.url, CredentialsFile: file}, // has no default profile
		{Bucket: "b", Endpoint: f.url, CredentialsFile: file + "-"},
		{Bucket: "b"}, // in no region
		{}, {Bucket: "a/b"}, {Bucket: "b", Endpoint: "localhost:9000"}, {Bucket: "b", Endpoint: "https://user@host"}, {Bucket: "b", Endpoint: "ftp://host"},
		{Bucket: "b", Endpoint: f.url, Prefix: "/a"}, {Bucket: "b", Endpoint: f.url, Prefix: "a//"}, {Bucket: "b", Endpoint: f.url, Prefix: "a/../b"}, {Bucket: "b", Endpoint: f.url, Prefix: "/"},
		{Bucket: "b", Endpoint: f.url, Mode: "GOVERNANCE", Retention: 1}, {Bucket: "b", Endpoint: f.url, Mode: Governance}, {Bucket: "b", Endpoint: f.url, Retention: 1},
		{Bucket: "b", Endpoint: f.url, Mode: Governance, Retention: -1}, {Bucket: "b", Endpoint: f.url, Timeout: -1},
	} {
		if _, err := NewS3(t.Context(), cfg); err == nil {
			t.Errorf("%+v is taken", cfg)
		}
	}
	if _, err := NewS3(t.Context(), S3Config{Bucket: "b", Region: "eu-central-1", Prefix: "a/", Mode: Compliance, Retention: time.Hour}); err != nil {
		t.Error(err)
	}
}
