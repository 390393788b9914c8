package store

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/xml"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// fake is as much of an S3 service as misbehaving takes: one bucket with one version of
// each key. What it does when it behaves is held against a real service in test/e2earchive.
type fake struct {
	url    string
	closed chan struct{} // when the test ends

	patience time.Duration // of its clients; set it before store

	mu       sync.Mutex
	around   around // unless nil, in the place of handling a request
	objects  map[string]*fakeObject
	ops      []string // since clear
	noLock   bool     // the bucket has no Object Lock
	markers  bool     // delete markers hide all
	modified time.Time
}

// around handles a request, and may call next for that.
type around func(w http.ResponseWriter, r *http.Request, op string, next http.HandlerFunc)

type fakeObject struct {
	data        []byte
	mode, until string
	hold        string
}

const fakeBucket, fakePrefix = "packs", "some/folder/"

func newFake(t *testing.T) *fake {
	f := &fake{objects: map[string]*fakeObject{}, closed: make(chan struct{}), patience: 30 * time.Second}
	server := httptest.NewServer(f)
	t.Cleanup(func() { close(f.closed); server.Close() })
	f.url = server.URL
	return f
}

// locked edits a configuration to lock packs for 1,000 hours.
func locked(cfg *S3Config) { cfg.Mode, cfg.Retention = Governance, 1000*time.Hour }

func held(cfg *S3Config) { cfg.LegalHold = true }

// store returns a destination in the bucket.
func (f *fake) store(t *testing.T, edits ...func(*S3Config)) *S3 {
	t.Helper()
	file := filepath.Join(t.TempDir(), "credentials")
	if err := os.WriteFile(file, []byte("[default]\naws_access_key_id = key\naws_secret_access_key = secret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	cfg := S3Config{Endpoint: f.url, Bucket: fakeBucket, Prefix: fakePrefix, PathStyle: true, CredentialsFile: file}
	for _, edit := range edits {
		edit(&cfg)
	}
	s, err := newS3(t.Context(), cfg, limits{patience: f.patience, rate: 1 << 20, backoff: time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// behave has all requests from now on handled by a; nil: as they should be.
func (f *fake) behave(a around) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.around = a
}

// asked returns what was asked since the last call.
func (f *fake) asked() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	ops := strings.Join(f.ops, " ")
	f.ops = nil
	return ops
}

func (f *fake) object(name string) *fakeObject {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.objects[fakePrefix+name]
}

func (f *fake) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	op := r.Method
	for _, sub := range []string{"object-lock", "versions", "retention", "legal-hold"} {
		if r.URL.Query().Has(sub) {
			op += " " + sub
		}
	}
	f.mu.Lock()
	f.ops = append(f.ops, strings.ReplaceAll(op, " ", "-"))
	around := f.around
	f.mu.Unlock()
	next := func(w http.ResponseWriter, r *http.Request) { f.serve(w, r, op) }
	if around != nil {
		around(w, r, op, next)
	} else {
		next(w, r)
	}
}

func (f *fake) serve(w http.ResponseWriter, r *http.Request, op string) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	bucket, key, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/")
	o := f.objects[key]
	switch {
	case bucket != fakeBucket:
		answer(w, 404, "NoSuchBucket")
	case op == "GET object-lock":
		if f.noLock {
			answer(w, 404, "ObjectLockConfigurationNotFoundError")
			return
		}
		io.WriteString(w, "<ObjectLockConfiguration><ObjectLockEnabled>Enabled</ObjectLockEnabled></ObjectLockConfiguration>")
	case op == "GET versions":
		io.WriteString(w, "<ListVersionsResult><IsTruncated>false</IsTruncated>")
		for key, o := range f.objects {
			if strings.HasPrefix(key, r.URL.Query().Get("prefix")) {
				fmt.Fprintf(w, "<Version><Key>%s</Key><VersionId>v1</VersionId><IsLatest>%t</IsLatest><Size>%d</Size><LastModified>%s</LastModified></Version>",
					key, !f.markers, len(o.data), f.when().Format(time.RFC3339))
			}
		}
		io.WriteString(w, "</ListVersionsResult>")
	case op == "PUT":
		sum := sha256.Sum256(body)
		switch {
		case o != nil && r.Header.Get("If-None-Match") == "*":
			answer(w, 412, "PreconditionFailed")
		case r.Header.Get("x-amz-checksum-sha256") != base64.StdEncoding.EncodeToString(sum[:]):
			answer(w, 400, "BadDigest")
		default:
			f.objects[key] = &fakeObject{body, r.Header.Get("x-amz-object-lock-mode"), r.Header.Get("x-amz-object-lock-retain-until-date"), r.Header.Get("x-amz-object-lock-legal-hold")}
			w.Header().Set("x-amz-version-id", "v1")
		}
	case o == nil:
		answer(w, 404, "NoSuchKey")
	case op == "GET", op == "HEAD":
		o.describe(w, f.when(), f.markers)
		if op == "GET" {
			w.Write(o.data)
		}
	case op == "GET retention" && o.mode == "", op == "GET legal-hold" && o.hold == "":
		answer(w, 404, "NoSuchObjectLockConfiguration")
	case op == "GET retention":
		until := ""
		if o.until != "" {
			until = "<RetainUntilDate>" + o.until + "</RetainUntilDate>"
		}
		fmt.Fprintf(w, "<Retention><Mode>%s</Mode>%s</Retention>", o.mode, until)
	case op == "GET legal-hold":
		fmt.Fprintf(w, "<LegalHold><Status>%s</Status></LegalHold>", o.hold)
	case op == "PUT retention":
		var in struct{ Mode, RetainUntilDate string }
		if err := xml.Unmarshal(body, &in); err != nil || r.Header.Get("x-amz-bypass-governance-retention") != "" {
			answer(w, 400, "MalformedXML")
			return
		}
		o.mode, o.until = in.Mode, in.RetainUntilDate
	case op == "PUT legal-hold":
		var in struct{ Status string }
		if err := xml.Unmarshal(body, &in); err != nil {
			answer(w, 400, "MalformedXML")
			return
		}
		o.hold = in.Status
	default:
		answer(w, 405, "MethodNotAllowed")
	}
}

func (f *fake) when() time.Time {
	if f.modified.IsZero() {
		return time.Now().UTC()
	}
	return f.modified.UTC()
}

func (o *fakeObject) describe(w http.ResponseWriter, modified time.Time, hidden bool) {
	sum := sha256.Sum256(o.data)
	h := w.Header()
	h.Set("Content-Length", fmt.Sprint(len(o.data)))
	h.Set("Last-Modified", modified.Format(http.TimeFormat))
	h.Set("x-amz-version-id", "v1")
	h.Set("x-amz-checksum-sha256", base64.StdEncoding.EncodeToString(sum[:]))
	if hidden {
		return // as versitygw 1.8 does
	}
	for name, value := range map[string]string{"mode": o.mode, "retain-until-date": o.until, "legal-hold": o.hold} {
		if value != "" {
			h.Set("x-amz-object-lock-"+name, value)
		}
	}
}

// answer answers with an error.
func answer(w http.ResponseWriter, status int, code string) {
	w.WriteHeader(status)
	fmt.Fprintf(w, "<Error><Code>%s</Code><Message>says the fake</Message></Error>", code)
}

// drop ends a connection in the middle of an answer.
func drop(w http.ResponseWriter, beginning string) {
	conn, _, err := w.(http.Hijacker).Hijack()
	if err != nil {
		panic(err)
	}
	io.WriteString(conn, beginning)
	conn.Close()
}

// instead returns an around that does something else in the place of one operation.
func instead(of string, do http.HandlerFunc) around {
	return func(w http.ResponseWriter, r *http.Request, op string, next http.HandlerFunc) {
		if op == of {
			do(w, r)
			return
		}
		next(w, r)
	}
}

// recorded is an answer that can be changed before it is sent.
func recorded(next http.HandlerFunc, r *http.Request) *httptest.ResponseRecorder {
	rec := httptest.NewRecorder()
	rec.Body = &bytes.Buffer{}
	next(rec, r)
	return rec
}

// replay sends a recorded answer.
func replay(w http.ResponseWriter, rec *httptest.ResponseRecorder) {
	for name, values := range rec.Header() {
		w.Header()[name] = values
	}
	w.WriteHeader(rec.Code)
	w.Write(rec.Body.Bytes())
}
