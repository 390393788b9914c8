//go:build linux

// Command bench measures understudy beside Tessera, with the same generated log, in
// one run: the verified catch-up, the append, and proofs; and beside a real Rekor v1,
// where MariaDB is installed; the witness beside transparency-dev's; evidence packs; and
// the private log beside the real servers of both generations. It writes its table into
// docs/benchmarks.md, unless flags made the run a smaller one.
//
// Every number is the median of several runs in which the peers take turns; the file
// system is synced before each. It gates nothing.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"syscall"
	"time"

	"github.com/understudy-log/understudy/test/tools/tool"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// A run of this size at least is worth writing down.
const fullSize, fullRuns = 1_000_000, 3

func run(ctx context.Context) (err error) {
	n := flag.Uint64("n", fullSize, "entries of the log; fewer than the default only print")
	runs := flag.Int("runs", fullRuns, "runs of each measurement; fewer than the default only print")
	only := flag.String("only", "", "measure only this `part`, and only print: catch-up, append, rekor-v1, witness, evidence or log")
	flag.Parse()
	if *n < 2*batch || *runs < 1 || flag.NArg() != 0 {
		return fmt.Errorf("want -n of at least %d and -runs of at least 1, and no arguments", 2*batch)
	}
	if *only != "" && !slices.Contains([]string{"catch-up", "append", "rekor-v1", "witness", "evidence", "log"}, *only) {
		return fmt.Errorf("-only %s: no part of that name can be measured alone", *only)
	}
	small := *n < fullSize || *runs < fullRuns
	root, err := tool.Root()
	if err != nil {
		return err
	}
	scratch := filepath.Join(root, "bench-data")
	if err := os.MkdirAll(scratch, 0o755); err != nil {
		return err
	}
	dir, err := os.MkdirTemp(scratch, "run-")
	if err != nil {
		return err
	}
	defer func() {
		err = errors.Join(err, os.RemoveAll(dir))
		os.Remove(scratch) // unless another run uses it
	}()
	if *n, err = affordable(dir, *n); err != nil {
		return err
	}

	b := &bench{dir: dir, runs: *runs, started: time.Now()}
	if b.tools.understudy, err = tool.Understudy(ctx); err != nil {
		return err
	}
	parts := []part{
		{"catch-up", b.measureCatchUp},
		{"append", b.measureAppend},
		{"proofs", b.measureProofs}, // over what the others left behind
		{"windows", b.measureWindow},
		{"rekor-v1", b.measureRekorV1},
		{"witness", b.measureWitness},
		{"evidence", b.measureEvidence},
		{"log", b.measureLog},
	}
	if *only != "" {
		parts = slices.DeleteFunc(parts, func(p part) bool { return p.name != *only })
	}
	if !slices.Contains([]string{"rekor-v1", "witness", "evidence", "log"}, *only) {
		if err := b.prepare(ctx, *n); err != nil {
			return fmt.Errorf("prepare: %w", err)
		}
		defer b.upstream.close()
	}
	for _, part := range parts {
		b.say("measuring %s", part.name)
		if err := part.measure(ctx); err != nil {
			return fmt.Errorf("%s: %w", part.name, err)
		}
	}
	table := b.table()
	fmt.Println(table)
	if small || *only != "" {
		return nil
	}
	return write(filepath.Join(root, "docs", "benchmarks.md"), table)
}

// part is one chapter of the table.
type part struct {
	name    string
	measure func(context.Context) error
}

// affordable returns how many entries, at most n, the free disk allows: 20 GB for a
// million.
func affordable(dir string, n uint64) (uint64, error) {
	const diskPerEntry = 20_000
	var fs syscall.Statfs_t
	if err := syscall.Statfs(dir, &fs); err != nil {
		return 0, fmt.Errorf("look for free disk: %w", err)
	}
	free := fs.Bavail * uint64(fs.Bsize)
	if free >= n*diskPerEntry {
		return n, nil
	}
	fewer := free / diskPerEntry / batch * batch
	if fewer < 2*batch {
		return 0, fmt.Errorf("only %d MB of disk are free: %d MB are needed for the smallest run", free/1e6, 2*batch*diskPerEntry/1_000_000)
	}
	fmt.Printf("NOTICE: %.1f GB of disk are free, %d entries want %.1f GB: scaled down to %d entries\n",
		float64(free)/1e9, n, math.Ceil(float64(n*diskPerEntry)/1e8)/10, fewer)
	return fewer, nil
}

// bench is one run of the program.
type bench struct {
	dir      string
	runs     int
	started  time.Time
	upstream *upstream
	tools    tools
	daemon   *daemon // whose data the last catch-up filled
	caughtUp sample  // entries/s of the catch-ups
	rows     []row
}

type tools struct{ understudy, mirror, fsck string }

func (b *bench) prepare(ctx context.Context, n uint64) (err error) {
	b.say("building the programs")
	if b.tools.mirror, err = tool.Path(ctx, "tessera-mirror"); err != nil {
		return err
	}
	if b.tools.fsck, err = tool.Path(ctx, "tessera-fsck"); err != nil {
		return err
	}
	b.say("generating %d entries", n)
	b.upstream, err = newUpstream(ctx, filepath.Join(b.dir, "upstream"), n)
	return err
}

// inTurns runs the measurements in alternation, each on an idle disk.
func (b *bench) inTurns(ctx context.Context, measurements ...func() error) error {
	for range b.runs {
		for _, measure := range measurements {
			if err := ctx.Err(); err != nil {
				return err
			}
			syscall.Sync()
			runtime.GC()
			if err := measure(); err != nil {
				return err
			}
		}
	}
	return nil
}

// addRate records that all entries were handled in a time.
func (b *bench) addRate(s *sample, name string, elapsed time.Duration) {
	s.add(float64(b.upstream.size) / elapsed.Seconds())
	b.say("%-28s %8.0f entries/s", name, s.last())
}

func (b *bench) say(format string, args ...any) {
	fmt.Printf("%6.1fs  %s\n", time.Since(b.started).Seconds(), fmt.Sprintf(format, args...))
}
