package main

import (
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rogpeppe/go-internal/testscript"
	"golang.org/x/mod/sumdb/note"

	"github.com/understudy-log/understudy/cmd/internal/rest"
	"github.com/understudy-log/understudy/mirror"
	"github.com/understudy-log/understudy/storage"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"understudy": main})
}

// TestScript runs the scripts in testdata/script against a small log on loopback.
// Beside testscript's commands they have:
//
//	exits CODE PROGRAM [ARG...]   runs a program that must end with that code
//	waitfor URL PATTERN           asks until it answers 200 with a match
//	get CODE URL                  asks once; what it answers is stdout
//	terminate NAME                sends SIGTERM to a background program
//	hold ADDRESS                  begins a request that does not end by itself
//	damage GLOB                   flips a bit in the middle of the largest file
func TestScript(t *testing.T) {
	upstream := newScriptLog(t)
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script",
		Setup: func(env *testscript.Env) error {
			env.Setenv("URL", upstream.url)
			env.Setenv("ORIGIN", upstream.origin)
			env.Setenv("ORIGIN_HASH", mirror.OriginHash(upstream.origin))
			env.Setenv("VKEY", upstream.vkey)
			env.Setenv("OTHER_VKEY", upstream.otherVkey)
			packs, err := filepath.Abs("../../witness/archive/testdata")
			if err != nil {
				return err
			}
			env.Setenv("PACKS", packs)
			env.Setenv("HTTPS_PROXY", "http://127.0.0.1:1") // TUF is out of reach
			for _, name := range []string{"HTTP", "GRPC", "ADMIN", "HTTP2", "GRPC2", "ADMIN2"} {
				address, err := freeAddress()
				if err != nil {
					return err
				}
				env.Setenv(name, address)
			}
			return expandFiles(env)
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"exits": func(ts *testscript.TestScript, _ bool, args []string) {
				want, err := strconv.Atoi(args[0])
				ts.Check(err)
				got := 0
				if err := ts.Exec(args[1], args[2:]...); err != nil {
					exit, ok := errors.AsType[*exec.ExitError](err)
					if !ok {
						ts.Fatalf("%v", err)
					}
					got = exit.ExitCode()
				}
				if got != want {
					ts.Fatalf("exit code %d, want %d", got, want)
				}
			},
			"waitfor": func(ts *testscript.TestScript, _ bool, args []string) {
				pattern := regexp.MustCompile(args[1])
				deadline := time.Now().Add(20 * time.Second)
				for {
					code, body, err := ask(args[0])
					if err == nil && code == http.StatusOK && pattern.MatchString(body) {
						return
					}
					if time.Now().After(deadline) {
						ts.Fatalf("last answer: %d %s (%v)", code, body, err)
					}
					time.Sleep(10 * time.Millisecond)
				}
			},
			"get": func(ts *testscript.TestScript, _ bool, args []string) {
				code, body, err := ask(args[1])
				ts.Check(err)
				fmt.Fprint(ts.Stdout(), body)
				if strconv.Itoa(code) != args[0] {
					ts.Fatalf("got %d: %s", code, body)
				}
			},
			"terminate": func(ts *testscript.TestScript, _ bool, args []string) {
				for _, cmd := range ts.BackgroundCmds() {
					ts.Check(cmd.Process.Signal(syscall.SIGTERM))
				}
			},
			"hold": func(ts *testscript.TestScript, _ bool, args []string) {
				conn, err := net.Dial("tcp", args[0])
				ts.Check(err)
				ts.Defer(func() { conn.Close() })
				_, err = fmt.Fprint(conn, "POST /backup HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n")
				ts.Check(err)
			},
			"damage": func(ts *testscript.TestScript, _ bool, args []string) {
				ts.Check(damage(ts.MkAbs(args[0])))
			},
		},
	})
}

// expandFiles replaces $NAME in the configurations of a script.
func expandFiles(env *testscript.Env) error {
	return filepath.WalkDir(env.WorkDir, func(path string, _ fs.DirEntry, err error) error {
		if ext := filepath.Ext(path); err != nil || ext != ".yaml" && ext != ".json" {
			return err
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		return os.WriteFile(path, []byte(os.Expand(string(data), env.Getenv)), 0o600)
	})
}

func ask(url string) (int, string, error) {
	r, err := http.Get(url)
	if err != nil {
		return 0, "", err
	}
	defer r.Body.Close()
	body, err := io.ReadAll(r.Body)
	return r.StatusCode, string(body), err
}

// freeAddress is a loopback address that nothing listens on.
func freeAddress() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	return l.Addr().String(), l.Close()
}

func damage(glob string) error {
	names, err := filepath.Glob(glob)
	if err != nil {
		return err
	}
	var largest []byte
	name := ""
	for _, candidate := range names {
		data, err := os.ReadFile(candidate)
		if err != nil {
			return err
		}
		if len(data) > len(largest) {
			name, largest = candidate, data
		}
	}
	if name == "" {
		return fmt.Errorf("%s matches no file", glob)
	}
	largest[len(largest)/2] ^= 1
	return os.WriteFile(name, largest, 0o644)
}

// scriptLog is a log of 1,000 entries, served over HTTP.
type scriptLog struct{ url, origin, vkey, otherVkey string }

func newScriptLog(t *testing.T) scriptLog {
	t.Helper()
	log := scriptLog{origin: "log.example"}
	skey, vkey, err := note.GenerateKey(rand.Reader, log.origin)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := note.NewSigner(skey)
	if err != nil {
		t.Fatal(err)
	}
	log.vkey = vkey
	if _, log.otherVkey, err = note.GenerateKey(rand.Reader, log.origin); err != nil {
		t.Fatal(err)
	}
	db, err := storage.Create(t.TempDir(), storage.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	tree, err := db.CreateTree(log.origin)
	if err != nil {
		t.Fatal(err)
	}
	var entries [][]byte
	for i := range 1000 {
		// Random, so that the tables that hold them are not small.
		entries = append(entries, fmt.Appendf(nil, "entry %d %s", i, rand.Text()))
	}
	_, err = tree.Extend(entries, func(next storage.Head) (storage.Seal, error) {
		text := fmt.Sprintf("%s\n%d\n%s\n", log.origin, next.Size, base64.StdEncoding.EncodeToString(next.Root[:]))
		raw, err := note.Sign(&note.Note{Text: text}, signer)
		now := time.Now()
		return storage.Seal{Checkpoint: storage.Checkpoint{Head: next, Raw: raw, FirstSeen: now, LastSeen: now}}, err
	})
	if err != nil {
		t.Fatal(err)
	}
	m, err := mirror.New(mirror.Config{Name: "upstream", Origin: log.origin, URL: "http://127.0.0.1:1", Tree: tree})
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(rest.NewPublic(rest.PublicConfig{
		Mirrors: func() []*mirror.Mirror { return []*mirror.Mirror{m} }, Logger: slog.New(slog.DiscardHandler), Registerer: prometheus.NewRegistry(),
	}))
	t.Cleanup(server.Close)
	log.url = server.URL + "/" + mirror.OriginHash(log.origin)
	return log
}
