// Package tool builds the programs that tests run: the pinned peers listed in
// test/tools.txt, each by `go install PACKAGE@VERSION` with its own go.mod, and
// the understudy binary of this checkout. All go to .tools/bin of the checkout.
package tool

import (
	"bufio"
	"context"
	"debug/buildinfo"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"
)

// pinned is one line of test/tools.txt.
type pinned struct {
	name, pkg, version string
}

// Names returns the names of all pinned programs, in the order of the list.
func Names() ([]string, error) {
	list, _, err := load()
	if err != nil {
		return nil, err
	}
	names := make([]string, len(list))
	for i, p := range list {
		names[i] = p.name
	}
	return names, nil
}

// Path returns the absolute path of the pinned program called name, building it
// first if it is missing or was built from another version or by another Go.
func Path(ctx context.Context, name string) (string, error) {
	list, root, err := load()
	if err != nil {
		return "", err
	}
	for _, p := range list {
		if p.name == name {
			return p.install(ctx, filepath.Join(root, ".tools", "bin"))
		}
	}
	return "", fmt.Errorf("tool %q is not in test/tools.txt", name)
}

// Understudy builds cmd/understudy without cgo and returns its absolute path.
func Understudy(ctx context.Context) (string, error) {
	root, err := Root()
	if err != nil {
		return "", err
	}
	if err := lookAtSources(root); err != nil {
		return "", err
	}
	binary := filepath.Join(root, ".tools", "bin", "understudy")
	return binary, goCommand(ctx, root, nil, "build", "-buildvcs=false", "-o", binary, "./cmd/understudy")
}

// Command builds the program in a folder of this checkout, such as test/rekor/fileserver, and returns
// its absolute path.
func Command(ctx context.Context, folder string) (string, error) {
	root, err := Root()
	if err != nil {
		return "", err
	}
	binary := filepath.Join(root, ".tools", "bin", filepath.Base(folder))
	return binary, goCommand(ctx, root, nil, "build", "-buildvcs=false", "-o", binary, "./"+folder)
}

// Nested builds the program in the folder test/NAME, which has a module of its own so that it
// uses what its dependencies chose, and returns its absolute path.
func Nested(ctx context.Context, name string) (string, error) {
	root, err := Root()
	if err != nil {
		return "", err
	}
	binary := filepath.Join(root, ".tools", "bin", name)
	return binary, goCommand(ctx, filepath.Join(root, "test", name), []string{"GOFLAGS=-mod=mod"},
		"build", "-buildvcs=false", "-ldflags=-s -w", "-o", binary, ".")
}

// lookAtSources reads every source folder of the product. The go command notices that,
// and repeats a test that runs the binary when a source has changed, though the test
// imports none of it.
func lookAtSources(root string) error {
	return filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if name := entry.Name(); err == nil && entry.IsDir() && path != root && (strings.HasPrefix(name, ".") || name == "test") {
			return filepath.SkipDir
		}
		return err
	})
}

// Root returns the top folder of the checkout that holds the working directory.
func Root() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "test", "tools.txt")); err == nil {
			return dir, nil
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			return "", errors.New("no test/tools.txt above the working directory: run this inside the checkout")
		}
		dir = parent
	}
}

// load reads test/tools.txt and returns its lines and the top of the checkout.
func load() ([]pinned, string, error) {
	root, err := Root()
	if err != nil {
		return nil, "", err
	}
	file, err := os.Open(filepath.Join(root, "test", "tools.txt"))
	if err != nil {
		return nil, "", err
	}
	defer file.Close()
	var list []pinned
	lines := bufio.NewScanner(file)
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		if len(fields) == 0 || strings.HasPrefix(fields[0], "#") {
			continue
		}
		pkg, version, ok := strings.Cut(fields[len(fields)-1], "@")
		if len(fields) != 2 || !ok {
			return nil, "", fmt.Errorf("test/tools.txt: want NAME PACKAGE@VERSION, have %q", lines.Text())
		}
		list = append(list, pinned{name: fields[0], pkg: pkg, version: version})
	}
	return list, root, lines.Err()
}

// install puts the program at bin/name. It builds beside and renames, because the
// last path elements of two packages may be equal and another process may be
// looking.
func (p pinned) install(ctx context.Context, bin string) (string, error) {
	binary := filepath.Join(bin, p.name)
	if p.builtAt(binary) {
		return binary, nil
	}
	if err := os.MkdirAll(bin, 0o755); err != nil {
		return "", err
	}
	scratch, err := os.MkdirTemp(filepath.Dir(bin), "build-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(scratch)

	start := time.Now()
	fmt.Fprintf(os.Stderr, "building %s %s ...\n", p.name, p.version)
	if err := goCommand(ctx, scratch, []string{"GOBIN=" + scratch}, "install", "-ldflags=-s -w", p.pkg+"@"+p.version); err != nil {
		return "", err
	}
	built, err := filepath.Glob(filepath.Join(scratch, "*"))
	if err != nil {
		return "", err
	}
	if len(built) != 1 {
		return "", fmt.Errorf("build %s: want one program, have %q", p.name, built)
	}
	if err := os.Rename(built[0], binary); err != nil {
		return "", err
	}
	fmt.Fprintf(os.Stderr, "built %s in %s\n", p.name, time.Since(start).Round(time.Second))
	return binary, nil
}

// builtAt reports whether binary is this program, as its build information says.
func (p pinned) builtAt(binary string) bool {
	info, err := buildinfo.ReadFile(binary)
	return err == nil && info.Path == p.pkg && info.Main.Version == p.version && info.GoVersion == runtime.Version()
}

// goCommand runs the go command without cgo; what it prints is the error's text.
func goCommand(ctx context.Context, dir string, env []string, args ...string) error {
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Dir = dir
	cmd.Env = append(append(os.Environ(), "CGO_ENABLED=0"), env...)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("go %s: %w\n%s", strings.Join(args, " "), err, out)
	}
	return nil
}
