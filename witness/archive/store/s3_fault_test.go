package store

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// TestS3Lies: what a server says is not what it does.
func TestS3Lies(t *testing.T) {
	always := func(op string, do func(f *fake, o *fakeObject, rec http.Header)) func(f *fake) {
		return func(f *fake) {
			f.behave(func(w http.ResponseWriter, r *http.Request, has string, next http.HandlerFunc) {
				rec := recorded(next, r)
				if has == op {
					do(f, f.object(packName), rec.Header())
				}
				replay(w, rec)
			})
		}
	}
	for name, c := range map[string]struct {
		lie  func(f *fake)
		kind error
		says string
		next error // of the next Put, when it no longer lies
	}{
		"stored nothing": {func(f *fake) {
			f.behave(instead("PUT", func(w http.ResponseWriter, r *http.Request) { io.Copy(io.Discard, r.Body) }))
		}, ErrNotStored, "has nothing", nil},
		"stored other bytes":  {always("PUT", func(_ *fake, o *fakeObject, _ http.Header) { o.data[77]++ }), ErrNotStored, "gives back", ErrDiffers},
		"stored fewer bytes":  {always("PUT", func(_ *fake, o *fakeObject, _ http.Header) { o.data = o.data[:77] }), ErrNotStored, "has 77 bytes", ErrDiffers},
		"stored more bytes":   {always("PUT", func(_ *fake, o *fakeObject, _ http.Header) { o.data = append(o.data, 1) }), ErrNotStored, "has 100001 bytes", ErrDiffers},
		"no retention":        {always("PUT", func(_ *fake, o *fakeObject, _ http.Header) { o.mode, o.until = "", "" }), ErrNotStored, "s3:GetObjectRetention", nil},
		"no end of retention": {always("PUT", func(_ *fake, o *fakeObject, _ http.Header) { o.until = "" }), ErrNotStored, "shows no retention", nil},
		"shorter retention": {always("PUT", func(_ *fake, o *fakeObject, _ http.Header) {
			o.until = time.Now().Add(999 * time.Hour).UTC().Format(time.RFC3339)
		}), ErrNotStored, "retains it until", nil},
		"another mode":      {always("PUT", func(_ *fake, o *fakeObject, _ http.Header) { o.mode = "ADVISORY" }), ErrNotStored, `mode "advisory"`, ErrNotStored},
		"no legal hold":     {always("PUT", func(_ *fake, o *fakeObject, _ http.Header) { o.hold = "OFF" }), ErrNotStored, "shows no legal hold", nil},
		"describes another": {always("HEAD", func(_ *fake, _ *fakeObject, h http.Header) { h.Set("Content-Length", "7") }), ErrNotStored, "with 7 bytes", nil},
		"exists but is not": {func(f *fake) {
			f.behave(instead("PUT", func(w http.ResponseWriter, _ *http.Request) { answer(w, 412, "Precondition") }))
		}, nil, "does not list it", nil},
		"lock that is disabled": {func(f *fake) { f.behave(instead("GET object-lock", func(http.ResponseWriter, *http.Request) {})) }, nil, "", nil},
		"lists for ever": {func(f *fake) {
			f.behave(instead("GET versions", func(w http.ResponseWriter, r *http.Request) {
				fmt.Fprint(w, "<ListVersionsResult><IsTruncated>true</IsTruncated><NextKeyMarker>a</NextKeyMarker></ListVersionsResult>")
			}))
		}, nil, "for ever", nil},
		"an endless answer": {func(f *fake) {
			f.behave(instead("GET versions", func(w http.ResponseWriter, r *http.Request) {
				io.WriteString(w, "<ListVersionsResult><Prefix>")
				for range 3 * maxAnswer / 1024 {
					io.WriteString(w, strings.Repeat("a", 1024))
				}
			}))
		}, errTooLarge, "does not end", nil},
		"garbage": {func(f *fake) {
			f.behave(instead("GET object-lock", func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "<html>") }))
		}, nil, "cannot be read", nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFake(t)
			c.lie(f)
			s := f.store(t, locked, held)
			p := newPack(t, 1, 100_000)
			stored, err := s.Put(t.Context(), p)
			if name == "lock that is disabled" {
				refuse(t, err, ErrNoObjectLock, true, "set no object-lock mode")
			} else {
				refuse(t, err, c.kind, false, c.says)
			}
			if stored != (Stored{}) {
				t.Errorf("stored %+v", stored)
			}
			if err != nil && (strings.Contains(err.Error(), "operation error") || strings.Count(err.Error(), "\n") > 0) {
				t.Errorf("not one clear sentence: %v", err)
			}
			f.behave(nil)
			stored, err = s.Put(t.Context(), p)
			if !errors.Is(err, c.next) {
				t.Errorf("the next Put returns %v, want %v", err, c.next)
			}
			if err == nil && (time.Until(stored.RetainUntil) < 999*time.Hour || !stored.LegalHold) {
				t.Errorf("the next Put stores %+v", stored)
			}
		})
	}
}

// TestS3LiesLater: a change that a server took and did not make is an error.
func TestS3LiesLater(t *testing.T) {
	f := newFake(t)
	s := f.store(t, locked)
	p := newPack(t, 1, 1000)
	until := put(t, s, p).RetainUntil
	taken := func(w http.ResponseWriter, r *http.Request) { io.Copy(io.Discard, r.Body) }
	f.behave(instead("PUT retention", taken))
	refuse(t, s.Extend(t.Context(), p.Name, until.Add(time.Hour)), ErrNotStored, false, "took the longer retention")
	p.Retain = until.Add(time.Hour)
	_, err := s.Put(t.Context(), p)
	refuse(t, err, ErrNotStored, false, "retains it until")
	f.behave(instead("PUT legal-hold", taken))
	refuse(t, s.Hold(t.Context(), p.Name, true), ErrNotStored, false, "took the change of the legal hold")
	_, err = f.store(t, locked, held).Put(t.Context(), p)
	refuse(t, err, ErrNotStored, false, "shows no legal hold")
}

func TestS3Refusals(t *testing.T) {
	for _, c := range []struct {
		op, code  string
		status    int
		permanent bool
		says      string
	}{
		{"GET object-lock", "InvalidAccessKeyId", 403, true, "credentials are wrong"},
		{"GET object-lock", "SignatureDoesNotMatch", 403, true, "credentials are wrong"},
		{"GET object-lock", "AccessDenied", 403, true, "lack a permission"},
		{"GET object-lock", "NoSuchBucket", 404, true, "create the bucket packs"},
		{"GET object-lock", "NotImplemented", 501, true, "no such function"},
		{"GET versions", "PermanentRedirect", 301, true, "another region"},
		{"PUT", "RequestTimeTooSkewed", 403, true, "the clock of this machine"},
		{"PUT", "AccessDenied", 403, true, "lack a permission"},
		{"PUT", "ConditionalRequestConflict", 409, false, "ConditionalRequestConflict"},
		{"PUT", "SlowDown", 503, false, "SlowDown"},
		{"PUT", "InternalError", 500, false, `"InternalError" (500): "says the fake"`},
		{"GET", "InternalError", 500, false, "read back"},
		{"HEAD", "", 403, true, "lack a permission"},
		{"HEAD", "", 500, false, "ask how"},
		{"HEAD", "", 404, false, `"NotFound" (404)`},
	} {
		f := newFake(t)
		f.behave(instead(c.op, func(w http.ResponseWriter, r *http.Request) { answer(w, c.status, c.code) }))
		_, err := f.store(t, locked).Put(t.Context(), newPack(t, 1, 1000))
		refuse(t, err, nil, c.permanent, c.says)
		if err != nil && strings.Contains(err.Error(), "operation error") {
			t.Errorf("not one clear sentence: %v", err)
		}
	}
	f := newFake(t)
	_, err := f.store(t, locked, func(cfg *S3Config) { cfg.Bucket = "others" }).Put(t.Context(), newPack(t, 1, 1000))
	refuse(t, err, nil, true, "create the bucket others")
}

// TestS3Faults: what fails once or twice, before or after it took effect, is tried again by
// the SDK; what fails more often, by the next Put.
func TestS3Faults(t *testing.T) {
	breaks := map[string]func(w http.ResponseWriter){
		"error":              func(w http.ResponseWriter) { answer(w, 500, "InternalError") },
		"nothing":            func(w http.ResponseWriter) { drop(w, "") },
		"half a head":        func(w http.ResponseWriter) { drop(w, "HTTP/1.1 200 OK\r\nContent-") },
		"half a body":        func(w http.ResponseWriter) { drop(w, "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n<Ver") },
		"a body, not chunks": func(w http.ResponseWriter) { drop(w, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz") },
	}
	for what, broken := range breaks {
		for _, op := range []string{"GET object-lock", "GET versions", "PUT", "GET", "HEAD"} {
			for _, after := range []bool{false, true} {
				for _, times := range []int{1, 100} {
					t.Run(fmt.Sprintf("%s/%s/%t/%d", what, op, after, times), func(t *testing.T) {
						t.Parallel()
						f := newFake(t)
						var seen atomic.Int32
						f.behave(func(w http.ResponseWriter, r *http.Request, has string, next http.HandlerFunc) {
							if has != op || int(seen.Add(1)) > times {
								next(w, r)
								return
							}
							if after {
								recorded(next, r)
							}
							broken(w)
						})
						s := f.store(t, locked)
						p := newPack(t, 1, 10_000)
						_, err := s.Put(t.Context(), p)
						if err != nil {
							refuse(t, err, nil, false, "")
						} else if o := f.object(p.Name); o == nil || string(o.data) != p.bytes(t) {
							t.Error("it is not stored")
						}
						f.behave(nil)
						put(t, s, p)
						if string(f.object(p.Name).data) != p.bytes(t) {
							t.Error("it has other bytes")
						}
					})
				}
			}
		}
	}
}

// TestS3Patience: a server that hangs or drips is not waited for for ever.
func TestS3Patience(t *testing.T) {
	drip := func(beginning string) func(*fake) http.HandlerFunc {
		return func(*fake) http.HandlerFunc {
			return func(w http.ResponseWriter, r *http.Request) {
				io.Copy(io.Discard, r.Body)
				conn, _, err := w.(http.Hijacker).Hijack()
				if err != nil {
					panic(err)
				}
				defer conn.Close()
				io.WriteString(conn, beginning)
				for err == nil {
					time.Sleep(20 * time.Millisecond)
					_, err = io.WriteString(conn, "a")
				}
			}
		}
	}
	const body = "HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n"
	for _, op := range []string{"GET object-lock", "GET versions", "PUT", "GET", "HEAD"} {
		for name, do := range map[string]func(*fake) http.HandlerFunc{
			"hangs": func(f *fake) http.HandlerFunc {
				return func(w http.ResponseWriter, r *http.Request) { io.Copy(io.Discard, r.Body); <-f.closed }
			},
			"reads nothing": func(f *fake) http.HandlerFunc {
				return func(http.ResponseWriter, *http.Request) { <-f.closed }
			},
			"hangs in body": func(f *fake) http.HandlerFunc {
				return func(w http.ResponseWriter, r *http.Request) {
					w.Header().Set("Content-Length", "100000")
					io.WriteString(w, "<V")
					w.(http.Flusher).Flush()
					<-f.closed
				}
			},
			"drips a head": drip("HTTP/1.1 200 OK\r\nX: "),
			"drips a body": drip(body + "<V>"),
		} {
			t.Run(op+" "+name, func(t *testing.T) {
				if op == "HEAD" && strings.Contains(name, "body") || op == "PUT" && strings.Contains(name, "body") {
					t.Skip("its answer has no body that anybody reads")
				}
				t.Parallel()
				f := newFake(t)
				f.patience = 500 * time.Millisecond
				f.behave(instead(op, do(f)))
				s := f.store(t, locked)
				p := newPack(t, 1, 100_000)
				start := time.Now()
				_, err := s.Put(t.Context(), p)
				refuse(t, err, nil, false, "")
				if took := time.Since(start); took > 10*time.Second {
					t.Errorf("it took %s", took)
				}
				silent := strings.Contains(fmt.Sprint(err), "was silent for 500ms")
				if hangs := !strings.Contains(name, "drips"); !silent && (hangs || !strings.Contains(fmt.Sprint(err), "not done after 1s")) {
					t.Errorf("it was not the right time limit: %v", err)
				}
			})
		}
	}
}

// TestS3Slow: a server that is slow, and not too slow, is waited for.
func TestS3Slow(t *testing.T) {
	f := newFake(t)
	f.patience = time.Second
	f.behave(instead("GET", func(w http.ResponseWriter, r *http.Request) {
		data := f.object(packName).data
		for len(data) > 0 {
			n := min(len(data), 300_000)
			w.Write(data[:n])
			w.(http.Flusher).Flush()
			data = data[n:]
			time.Sleep(200 * time.Millisecond)
		}
	}))
	s := f.store(t, locked)
	s.limits.rate = 500_000
	put(t, s, newPack(t, 1, 4_000_000)) // in 2.8 s, more than twice the patience
}
