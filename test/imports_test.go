// Package test holds what the whole repository must obey.
package test

import (
	"go/parser"
	"go/token"
	"io/fs"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "github.com/understudy-log/understudy/"

// mayImport is the import rule: storage <- {log, mirror, witness} <- cmd. Siblings do
// not see each other, but for log/rekor, which is formats only. The API and its client
// stand alone, so that others can take them without the rest.
var mayImport = map[string][]string{
	"storage": {},
	"log":     {"storage"},
	"mirror":  {"storage", "log/rekor"},
	"witness": {"storage", "log/rekor"},
	"proto":   {},
	"cmd":     {"storage", "log", "mirror", "witness", "proto"},
}

// owned says which folders may use a dependency; tests may use any.
var owned = map[string][]string{
	"github.com/cockroachdb/pebble":                 {"storage"},
	"google.golang.org/grpc":                        {"cmd/internal/rpc", "cmd/understudy", "proto"},
	"github.com/grpc-ecosystem/go-grpc-middleware":  {"cmd/internal/rpc"},
	"github.com/prometheus/client_golang":           {"cmd"},
	"github.com/aws/aws-sdk-go-v2":                  {"witness/archive/store"},
	"github.com/understudy-log/understudy/test":     {},
	"github.com/transparency-dev/tessera":           {},
	"github.com/sigstore/rekor-tiles/v2/pkg/client": {},
}

func TestImports(t *testing.T) {
	files := 0
	err := filepath.WalkDir("..", func(name string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name = filepath.ToSlash(strings.TrimPrefix(name, ".."+string(filepath.Separator)))
		if entry.IsDir() && (strings.HasPrefix(name, ".") && name != ".." || entry.Name() == "testdata") {
			return filepath.SkipDir
		}
		if entry.IsDir() || path.Ext(name) != ".go" {
			return nil
		}
		files++
		parsed, err := parser.ParseFile(token.NewFileSet(), filepath.Join("..", name), nil, parser.ImportsOnly)
		if err != nil {
			return err
		}
		for _, spec := range parsed.Imports {
			imported, err := strconv.Unquote(spec.Path.Value)
			if err != nil {
				return err
			}
			if reason := forbidden(name, imported); reason != "" {
				t.Errorf("%s imports %s: %s", name, imported, reason)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if files < 20 {
		t.Errorf("looked at %d files only: the walk is broken", files)
	}
}

// forbidden returns why a file, named from the top of the checkout, must not import a
// package; "" if it may.
func forbidden(file, imported string) string {
	if imported == "log" {
		return "the standard log package is used nowhere; slog is"
	}
	dir := path.Dir(file)
	if within(dir, "test") || strings.HasSuffix(file, "_test.go") {
		return ""
	}
	for dependency, owners := range owned {
		metrics := dependency == "github.com/prometheus/client_golang" && path.Base(file) == "metrics.go"
		if within(imported, dependency) && !metrics && !slices.ContainsFunc(owners, func(owner string) bool { return within(dir, owner) }) {
			return "only for " + strings.Join(append(owners, "tests"), ", ")
		}
	}
	ours, isOurs := strings.CutPrefix(imported, module)
	if !isOurs {
		return ""
	}
	top, _, _ := strings.Cut(dir, "/")
	allowed, known := mayImport[top]
	switch {
	case !known:
		return "no such folder in the import rule: " + top
	case within(ours, top), slices.ContainsFunc(allowed, func(a string) bool { return within(ours, a) }):
		return ""
	}
	return top + " must not know of it"
}

// within reports whether the slash-separated path is folder or lies below it.
func within(path, folder string) bool {
	return path == folder || strings.HasPrefix(path, folder+"/")
}

func TestForbidden(t *testing.T) {
	for _, c := range []struct {
		file, imported string
		allowed        bool
	}{
		{"storage/db.go", "github.com/cockroachdb/pebble/v2/vfs", true},
		{"mirror/copy.go", "github.com/cockroachdb/pebble/v2", false},
		{"mirror/copy_test.go", "github.com/cockroachdb/pebble/v2/vfs", true},
		{"storage/db.go", module + "mirror", false},
		{"mirror/mirror.go", module + "storage", true},
		{"mirror/mirror.go", module + "mirror/trust", true},
		{"mirror/trust/key.go", module + "mirror", true},
		{"mirror/mirror.go", module + "log", false},
		{"mirror/mirror.go", module + "log/rekor", true},
		{"mirror/mirror.go", module + "proto/understudy/v1", false},
		{"log/log.go", module + "witness", false},
		{"cmd/understudy/serve.go", module + "mirror", true},
		{"cmd/understudy/serve.go", module + "cmd/internal/rpc", true},
		{"cmd/understudy/serve.go", module + "test/rekor", false},
		{"cmd/understudy/serve.go", "log", false},
		{"cmd/understudy/serve_test.go", "log", false},
		{"cmd/understudy/serve.go", "log/slog", true},
		{"cmd/internal/rpc/server.go", "google.golang.org/grpc/codes", true},
		{"cmd/internal/rest/tiles.go", "google.golang.org/grpc", false},
		{"mirror/answer.go", "google.golang.org/grpc/codes", false},
		{"proto/understudy/v1/client/client.go", "google.golang.org/grpc", true},
		{"proto/understudy/v1/client/client.go", module + "storage", false},
		{"mirror/metrics.go", "github.com/prometheus/client_golang/prometheus", true},
		{"mirror/mirror.go", "github.com/prometheus/client_golang/prometheus", false},
		{"cmd/understudy/admin.go", "github.com/prometheus/client_golang/prometheus/promhttp", true},
		{"pkg/thing.go", module + "storage", false},
	} {
		if reason := forbidden(c.file, c.imported); (reason == "") != c.allowed {
			t.Errorf("%s imports %s: allowed %t, want %t (%s)", c.file, c.imported, !c.allowed, c.allowed, reason)
		}
	}
}
