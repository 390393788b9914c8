//go:build linux

package archive

import (
	"bytes"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

// TestFullDisk lets the disk refuse what the making of a pack writes, from the first byte on and
// later each time: nothing is left over, no number is used up, and once there is room the pack has
// everything.
func TestFullDisk(t *testing.T) {
	// The limit is that of a process: one of its own, since go test writes files for this one.
	const child = "UNDERSTUDY_FULL_DISK"
	if os.Getenv(child) == "" {
		cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestFullDisk$", "-test.v")
		cmd.Env = append(os.Environ(), child+"=1")
		if out, err := cmd.CombinedOutput(); err != nil || !bytes.Contains(out, []byte("--- PASS: TestFullDisk ")) {
			t.Fatalf("%v\n%s", err, out)
		}
		return
	}
	g := newGrower(t, "tiles.test")
	g.full = true
	w := newWorld(t, time.Date(2026, 9, 30, 12, 0, 0, 0, berlin), g)
	w.cfg = func(c *Config) { c.Wanted = []Want{{Wanted: Wanted{Index: "0-9", Log: g.origin}, End: 10}} }
	w.crash()
	for range 20 {
		g.grow(t, 3, w.now)
		w.now = w.now.Add(time.Hour)
	}
	w.now = w.now.AddDate(0, 0, 7)
	var old syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_FSIZE, &old); err != nil {
		t.Fatal(err)
	}
	signal.Ignore(syscall.SIGXFSZ)
	defer signal.Reset(syscall.SIGXFSZ)
	refused := 0
	for limit := uint64(1); ; limit += limit/2 + 500 {
		small := syscall.Rlimit{Cur: limit, Max: old.Max}
		if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &small); err != nil {
			t.Fatal(err)
		}
		err := w.make()
		if reset := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &old); reset != nil {
			t.Fatal(reset)
		}
		if err == nil {
			break
		}
		refused++
		if left, err := filepath.Glob(filepath.Join(w.dir, "*")); err != nil || len(left) > 0 {
			t.Fatalf("with room for %d bytes %q are left over, %v", limit, left, err)
		}
		if left, err := filepath.Glob(filepath.Join(w.dir, temporary)); err != nil || len(left) > 0 {
			t.Fatalf("with room for %d bytes %q are left over, %v", limit, left, err)
		}
		if n := len(w.archive.Packs()); n != 0 {
			t.Fatalf("%d packs with room for %d bytes", n, limit)
		}
	}
	if refused < 5 {
		t.Errorf("the disk refused %d times", refused)
	}
	if packs := w.archive.Packs(); len(packs) == 0 || packs[0].Number != 1 {
		t.Errorf("packs: %v", packs)
	}
	if st := w.archive.Status(); st.Problem != nil {
		t.Errorf("problem afterwards: %v", st.Problem)
	}
	w.verify(w.dir)
}
