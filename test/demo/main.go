// Command demo shows the main job on real input, all on loopback: entries written into
// a real Rekor v2 server by a real client, mirrored by understudy, and proven after
// that server has been killed. It ends with a table of what was shown; it exits with 1
// as soon as anything is not as it should be. Its folder and processes go with it.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
	"text/tabwriter"
	"time"
)

func main() {
	entries := flag.Int("entries", 5_000, "signed entries to write, at least 2")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Stdout, max(*entries, 2)); err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
}

// run shows one step after the other and then the table of them all.
func run(ctx context.Context, out io.Writer, entries int) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Minute)
	defer cancel()
	dir, err := os.MkdirTemp("", "understudy-demo-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	s := &stage{out: out, dir: dir, wanted: entries}
	defer s.clear()

	start := time.Now()
	shown := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	for i, step := range []struct {
		title string
		do    func(context.Context) (string, error)
	}{
		{"build the programs", s.build},
		{"run a real Rekor v2 log", s.startLog},
		{"write signed entries", s.write},
		{"mirror and verify them", s.mirror},
		{"begin another at the end", s.window},
		{"kill the log", s.killLog},
		{"prove with sigstore-go", s.proveWithSigstore},
		{"refuse what is not so", s.refuseForgeries},
		{"prove with Tessera's client", s.proveWithTessera},
		{"Tessera's fsck", s.fsck},
		{"restart, the log still dead", s.restart},
		{"complete the other one", s.complete},
		{"stop on SIGTERM", s.stop},
		{"understudy check", s.check},
	} {
		fmt.Fprintf(out, "\n%d. %s\n", i+1, step.title)
		began := time.Now()
		result, err := step.do(ctx)
		if err != nil {
			return fmt.Errorf("%s: %w", step.title, err)
		}
		took := time.Since(began).Round(10 * time.Millisecond)
		fmt.Fprintf(out, "   %s (%s)\n", result, took)
		fmt.Fprintf(shown, "  %s\t%s\t%s\n", step.title, result, took)
	}
	fmt.Fprintf(out, "\nShown in %s:\n", time.Since(start).Round(time.Second))
	return shown.Flush()
}
