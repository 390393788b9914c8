//go:build darwin || linux

package store

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"syscall"
	"testing"
)

const childEnv = "UNDERSTUDY_STORE_CHILD"

// TestMain is also the process that crashes, or whose disk is full.
func TestMain(m *testing.M) {
	if os.Getenv(childEnv) == "" {
		os.Exit(m.Run())
	}
	if err := child(os.Getenv(childEnv)); err != nil {
		fmt.Println(err)
		os.Exit(3)
	}
}

// child stores a pack: WHAT K FOLDER FILE.
func child(args string) error {
	var what, folder, file string
	var k int
	if _, err := fmt.Sscan(args, &what, &k, &folder, &file); err != nil {
		return err
	}
	data, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	d, err := NewDirectory(DirectoryConfig{Path: folder, LegalHold: true})
	if err != nil {
		return err
	}
	switch what {
	case "full":
		signal.Ignore(syscall.SIGXFSZ)
		limit := syscall.Rlimit{Cur: uint64(k), Max: uint64(k)}
		if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &limit); err != nil {
			return err
		}
	default:
		d.testingOnlyStep, _ = fail(k, what == "after", func() error {
			syscall.Kill(os.Getpid(), syscall.SIGKILL)
			select {}
		})
	}
	_, err = d.Put(context.Background(), Pack{Name: packName, Path: file, Size: int64(len(data)), SHA256: sha256.Sum256(data)})
	return err
}

// runChild runs child and returns what it printed, and how it ended.
func runChild(t *testing.T, what string, k int, d *Directory, p Pack) (string, error) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%s %d %s %s", childEnv, what, k, d.cfg.Path, p.Path))
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// TestDirectoryCrash kills a process before and after each step of Put.
func TestDirectoryCrash(t *testing.T) {
	for _, when := range []string{"before", "after"} {
		for k, done := 0, false; !done; k++ {
			d := newDirectory(t, DirectoryConfig{LegalHold: true})
			p := newPack(t, 1, 50_000)
			out, err := runChild(t, when, k, d, p)
			if done = err == nil; done && k < 8 {
				t.Errorf("%d steps", k)
			} else if !done && !strings.Contains(err.Error(), "killed") {
				t.Fatalf("%v: %s", err, out)
			}
			if have, err := os.ReadFile(d.file(p.Name)); err == nil && string(have) != p.bytes(t) || err != nil && !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("killed %s step %d: %d bytes, %v", when, k, len(have), err)
			}
			if s := put(t, d, p); !s.LegalHold {
				t.Errorf("stored %+v", s)
			}
			holds(t, d, p.bytes(t))
		}
	}
}

// TestDirectoryFull has the system refuse to write more than some bytes of a file.
func TestDirectoryFull(t *testing.T) {
	p := newPack(t, 1, 100_000)
	for _, room := range []int{0, 50, 4096, 99_999} {
		d := newDirectory(t, DirectoryConfig{})
		out, err := runChild(t, "full", room, d, p)
		if err == nil || !strings.Contains(out, "too large") {
			t.Errorf("with room for %d bytes: %v: %s", room, err, out)
		}
		if entries, err := os.ReadDir(d.cfg.Path); err != nil || len(entries) != 1 || entries[0].Name() != lockFile {
			t.Errorf("with room for %d bytes there is %v, %v", room, entries, err)
		}
		put(t, d, p)
		holds(t, d, p.bytes(t))
	}
}
