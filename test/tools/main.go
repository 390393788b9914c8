// Command tools builds the programs of test/tools.txt into .tools/bin: all of
// them, or those named. What is there at the right version is left alone.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/understudy-log/understudy/test/tools/tool"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "tools:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, names []string) error {
	if len(names) == 0 {
		all, err := tool.Names()
		if err != nil {
			return err
		}
		names = all
	}
	for _, name := range names {
		if _, err := tool.Path(ctx, name); err != nil {
			return err
		}
	}
	return nil
}
