// Package e2elog has unmodified clients of Rekor write to a private log of ours and verify what it
// answers: cosign, rekor-cli, rekor-tiles' and sigstore-go's libraries, witnesses.
//
// It needs programs that take minutes to build: `make e2e-log` runs it. With
// UNDERSTUDY_E2E_LOG=real the real servers stand in for understudy, which shows what a test
// asks of a log and not of understudy; what the real servers cannot do is skipped then.
package e2elog

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/understudy-log/understudy/test/authority"
	"github.com/understudy-log/understudy/test/tools/tool"
	"github.com/understudy-log/understudy/test/tsa"
)

// asked is which log the tests are to run against: understudy, or the real servers.
var asked = os.Getenv("UNDERSTUDY_E2E_LOG")

const realServers = "real"

// skipUnlessAsked skips a test that needs what `make e2e-log` builds.
func skipUnlessAsked(t *testing.T) {
	t.Helper()
	if asked == "" {
		t.Skip("NOTICE: needs clients that take minutes to build: make e2e-log")
	}
}

// understudyOnly skips a test of what the real servers do not do.
func understudyOnly(t *testing.T) {
	t.Helper()
	skipUnlessAsked(t)
	if asked == realServers {
		t.Skip("the real servers cannot do this")
	}
}

// names leads the clients of all tests, and this process, to the logs.
var names *proxy

// ca certifies the signers of all tests.
var ca *certifier

// stamps is the time-stamp authority of all tests: a second one on a machine would not start.
var stamps *tsa.Server

func TestMain(m *testing.M) {
	if asked == "" {
		os.Exit(m.Run())
	}
	os.Exit(run(m))
}

func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "e2elog")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 2
	}
	defer os.RemoveAll(dir)
	names = newProxy()
	defer names.Close()
	// Before any client of this process reads it, which each does once.
	os.Setenv("HTTP_PROXY", names.URL)
	os.Setenv("HTTPS_PROXY", names.URL)
	os.Setenv("NO_PROXY", "")
	root, err := authority.New()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 2
	}
	ca = newCertifier(root)
	defer ca.Close()
	// It has to be there before a real rekor-server, which gives way where the two clash.
	if stamps, err = tsa.New(context.Background(), filepath.Join(dir, "timestamp-server.log")); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 2
	}
	defer stamps.Kill()
	if asked == realServers {
		closeServers, err := startServers(dir)
		defer closeServers()
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 2
		}
	}
	return m.Run()
}

// understudy builds the program once and returns its path.
var understudy = sync.OnceValue(func() string { return must(tool.Understudy(context.Background())) })

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func save(t *testing.T, file string, content []byte) string {
	t.Helper()
	if err := os.WriteFile(file, content, 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// within limits one step of a test, so that what hangs names itself.
func within(t *testing.T, limit time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	t.Cleanup(cancel)
	return ctx
}

// object is a JSON object.
type object map[string]any

func marshal(v any) []byte { return must(json.MarshalIndent(v, "", "  ")) }
