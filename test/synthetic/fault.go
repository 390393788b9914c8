package synthetic

import (
	"bytes"
	"encoding/base64"
	"math/rand/v2"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// Answer is what a log is about to send. A Fault changes it.
type Answer struct {
	Status int
	Header http.Header
	Body   []byte
	// Serve, if set, answers instead.
	Serve http.HandlerFunc
}

// Fault is one way to misbehave: it may change the answer to a request.
type Fault func(q Request, a *Answer)

// Misbehave makes the log commit the given faults, in order, from the next request on.
// Without any it is honest again.
func (l *Log) Misbehave(faults ...Fault) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.faults = faults
}

// On limits a fault to requests of the given kinds.
func On(kinds Kind, fault Fault) Fault {
	return func(q Request, a *Answer) {
		if q.Kind&kinds != 0 {
			fault(q, a)
		}
	}
}

// Equivocate answers as the other log does: on a fork, or at an older size.
func Equivocate(other *Log) Fault {
	return func(q Request, a *Answer) { *a = other.answer(q) }
}

// Body answers 200 with the given body.
func Body(body []byte) Fault {
	return func(_ Request, a *Answer) { a.Status, a.Body = http.StatusOK, body }
}

// checkpoint serves a checkpoint that is made for each request.
func checkpoint(raw func() []byte) Fault {
	return On(Checkpoint, func(_ Request, a *Answer) { a.Body = raw() })
}

// Rollback serves the signed checkpoint of an older size.
func (l *Log) Rollback(size uint64) Fault {
	return checkpoint(func() []byte { return l.Checkpoint(size) })
}

// WrongSignature flips a bit of the checkpoint's signature.
func (l *Log) WrongSignature() Fault {
	return checkpoint(func() []byte {
		raw := string(l.Checkpoint(l.Size()))
		at := strings.LastIndexByte(raw, ' ') + 1
		sig, _ := base64.StdEncoding.DecodeString(strings.TrimSuffix(raw[at:], "\n"))
		sig[len(sig)-20] ^= 1
		return []byte(raw[:at] + base64.StdEncoding.EncodeToString(sig) + "\n")
	})
}

// ChangedKey signs with another key of the same name.
func (l *Log) ChangedKey(key *Key) Fault { return l.lie(l.Origin, 0, nil, key) }

// WrongOrigin signs, with the log's key, a checkpoint of another origin.
func (l *Log) WrongOrigin(origin string) Fault { return l.lie(origin, 0, nil, l.Key) }

// WrongSize signs the root hash with a size that is greater by delta.
func (l *Log) WrongSize(delta uint64) Fault { return l.lie(l.Origin, delta, nil, l.Key) }

// WrongRoot signs a root hash that belongs to no tree, with a size that is greater by
// delta.
func (l *Log) WrongRoot(delta uint64) Fault {
	return l.lie(l.Origin, delta, hashOf("no tree"), l.Key)
}

func (l *Log) lie(origin string, delta uint64, root []byte, key *Key) Fault {
	return checkpoint(func() []byte {
		size := l.Size()
		r := l.Root(size)
		if root != nil {
			r = [32]byte(root)
		}
		return Note(origin, size+delta, r, nil, key)
	})
}

// CorruptBundle flips a bit in an entry of one bundle.
func CorruptBundle(index uint64) Fault {
	return On(Bundle, func(q Request, a *Answer) {
		if q.Index == index && a.Status == http.StatusOK {
			a.Body = bytes.Clone(a.Body)
			a.Body[len(a.Body)-1] ^= 1
		}
	})
}

// GarbageTile serves tiles of one level that have the right length and wrong hashes.
func GarbageTile(level int) Fault {
	return On(Tile, func(q Request, a *Answer) {
		if q.Level == level && a.Status == http.StatusOK {
			a.Body = make([]byte, 32*q.Width)
			rand.NewChaCha8([32]byte{1, byte(q.Level), byte(q.Index)}).Read(a.Body)
		}
	})
}

// Truncate sends the first half of the body, with its own length: a well-formed answer.
func Truncate() Fault {
	return func(_ Request, a *Answer) { a.Body = a.Body[:len(a.Body)/2] }
}

// CutOff sends half of the body under the length of the whole, then hangs up.
func CutOff() Fault {
	return func(_ Request, a *Answer) {
		status, body := a.Status, a.Body
		a.Serve = func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", strconv.Itoa(len(body)))
			w.WriteHeader(status)
			w.Write(body[:len(body)/2])
			panic(http.ErrAbortHandler)
		}
	}
}

// Reset closes the connection without an answer.
func Reset() Fault {
	return func(_ Request, a *Answer) {
		a.Serve = func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }
	}
}

// Oversize sends the body, and zeros up to the given number of bytes.
func Oversize(total int) Fault {
	return func(_ Request, a *Answer) {
		body := make([]byte, total)
		copy(body, a.Body)
		a.Body = body
	}
}

// endlessLimit ends a body that should have no end, for the good of the machine. A
// client that reads that far has no limit of its own.
const endlessLimit = 256 << 20

// Endless sends a body that ends only when the client hangs up (or after 256 MiB).
func Endless() Fault {
	return func(_ Request, a *Answer) {
		chunk := bytes.Repeat([]byte("endless\n"), 8<<10)
		a.Serve = func(w http.ResponseWriter, r *http.Request) {
			for sent := 0; sent < endlessLimit && r.Context().Err() == nil; sent += len(chunk) {
				if _, err := w.Write(chunk); err != nil {
					return
				}
			}
		}
	}
}

// Bomb sends a small gzip stream that unpacks to 32 MiB.
func Bomb() Fault {
	packed := zip(make([]byte, 32<<20))
	return func(_ Request, a *Answer) {
		a.Status, a.Body = http.StatusOK, packed
		a.Header.Set("Content-Encoding", "gzip")
	}
}

// Drip sends one byte of the body at a time.
func Drip(every time.Duration) Fault {
	return func(_ Request, a *Answer) {
		body := a.Body
		a.Serve = func(w http.ResponseWriter, r *http.Request) {
			flusher := http.NewResponseController(w)
			for i := range body {
				w.Write(body[i : i+1])
				if flusher.Flush() != nil || !wait(r, every) {
					return
				}
			}
		}
	}
}

// Hang never answers.
func Hang() Fault {
	return func(_ Request, a *Answer) {
		a.Serve = func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }
	}
}

// wait tells whether the client is still there after a while.
func wait(r *http.Request, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-r.Context().Done():
		return false
	}
}

// Status answers with an HTTP status and a text.
func Status(status int) Fault {
	return func(_ Request, a *Answer) {
		*a = Answer{Status: status, Header: http.Header{}, Body: []byte(http.StatusText(status) + "\n")}
	}
}

// Throttle answers 429 with Retry-After, in whole seconds.
func Throttle(after time.Duration) Fault {
	return func(q Request, a *Answer) {
		Status(http.StatusTooManyRequests)(q, a)
		a.Header.Set("Retry-After", strconv.Itoa(int(after.Seconds())))
	}
}

// RedirectLoop redirects every request to its own address.
func RedirectLoop() Fault {
	return func(_ Request, a *Answer) {
		a.Serve = func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, r.URL.String(), http.StatusFound)
		}
	}
}

// WrongEncoding says that a plain body is gzip.
func WrongEncoding() Fault {
	return func(_ Request, a *Answer) { a.Header.Set("Content-Encoding", "gzip") }
}
