// Command drillstory tells an outage of the public log from its first second to its report, all on loopback: a
// real Rekor v1, a real Rekor v2 and a TUF repository are mirrored by understudy, hang, die and come back, while
// cosign and rekor-cli sign and verify. Then the same is rehearsed. It ends with a table of what was shown; it
// exits with 1 as soon as anything is not as it should be. Its folder and processes go with it.
package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
	"text/tabwriter"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "drill:", err)
		os.Exit(1)
	}
}

// run shows one step after the other and then the table of them all.
func run(ctx context.Context, out io.Writer) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Minute)
	defer cancel()
	dir, err := os.MkdirTemp("", "understudy-drill-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	s := &story{out: out, dir: dir}
	defer s.clear()

	start := time.Now()
	shown := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	for i, step := range []struct {
		title string
		do    func(context.Context) (string, error)
	}{
		{"a day like any other", s.begin},
		{"the logs hang", s.hang},
		{"signing goes on", s.sign},
		{"verification goes on", s.verify},
		{"the logs die", s.die},
		{"decisions, and why", s.decide},
		{"an exception, by two people", s.except},
		{"a note for customers", s.note},
		{"the logs come back", s.comeBack},
		{"the report", s.report},
		{"a day like any other, again", s.everyday},
		{"a drill", s.drill},
		{"all of it is on record", s.record},
	} {
		fmt.Fprintf(out, "\n%d. %s\n", i+1, step.title)
		result, err := step.do(ctx)
		if err != nil {
			return fmt.Errorf("%s: %w", step.title, err)
		}
		fmt.Fprintf(out, "   %s\n", result)
		fmt.Fprintf(shown, "  %s\t%s\n", step.title, result)
	}
	fmt.Fprintf(out, "\nShown in %s:\n", time.Since(start).Round(10*time.Second))
	return shown.Flush()
}
