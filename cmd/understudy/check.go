package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/signal"
	"strings"

	"github.com/spf13/cobra"

	"github.com/understudy-log/understudy/mirror/trust"
	"github.com/understudy-log/understudy/storage"
)

func newCheckCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "check",
		Short: "Verify everything that is stored",
		Long: `Check reads everything that a stopped daemon has stored and holds it together:
every entry against its hash tile, every tile against the root, the index
against the entries, the root against the signed checkpoints, and every
checkpoint against the log's key.

It needs no network. Keys come from public_key, from the trusted_root file, or
from the cache of a trusted root that the daemon fetched; when there is none,
it says that signatures were not checked, and checks the rest.

To check a backup, put its folder into an empty data_dir under the name "db".

Exit codes: 0 all is good; 1 something is damaged, and named; 2 it could not be
checked (a daemon is running, there is no data, the disk does not read).`,
		Example: `  understudy check
  understudy check --config /etc/understudy/understudy.yaml`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := configOf(cmd)
			if err != nil {
				return err
			}
			ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt)
			defer stop()
			return check(ctx, c, cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
}

// check checks every log of the data directory: findings go to out, progress to
// progress.
func check(ctx context.Context, c *Config, out, progress io.Writer) (err error) {
	keys, err := newKeyring(c)
	if err != nil {
		return err
	}
	db, err := c.openHeld(storage.Options{ReadOnly: true})
	if err != nil {
		return checkOpenError(err)
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	var cacheErr error
	if keys.missing(db.Origins()) {
		cacheErr = keys.fetchCached(ctx, c.tufDir())
	}
	damaged := 0
	for _, origin := range db.Origins() {
		tree, err := db.OpenTree(origin)
		if err != nil {
			fmt.Fprintf(out, "%s: damaged: %s\n", origin, oneLine(err))
			damaged++
			continue
		}
		o := storage.CheckOptions{Progress: progressBar(progress, origin)}
		logKeys, keyErr := keys.keys(origin)
		if keyErr == nil {
			o.Verify = func(raw []byte) error {
				_, err := trust.Open(raw, origin, logKeys)
				return err
			}
		}
		report, err := tree.Check(ctx, o)
		if err != nil {
			return err
		}
		if keyErr != nil && cacheErr != nil {
			keyErr = fmt.Errorf("%w (%w)", keyErr, cacheErr)
		}
		printReport(out, report, keyErr)
		damaged += len(report.Problems)
	}
	switch damaged {
	case 0:
		return nil
	case 1:
		return wrongf("1 thing is damaged in %s, named above; restore a backup, or move the folder away and mirror again", c.DataDir)
	}
	return wrongf("%d things are damaged in %s, named above; restore a backup, or move the folder away and mirror again", damaged, c.DataDir)
}

// checkOpenError tells a database that is damaged from one that cannot be looked at.
func checkOpenError(err error) error {
	_, format := errors.AsType[*storage.FormatError](err)
	if format || errors.Is(err, storage.ErrLocked) || errors.Is(err, storage.ErrNotExist) || errors.Is(err, fs.ErrPermission) {
		return err
	}
	return wrongf("damaged: %w", err)
}

func printReport(out io.Writer, r storage.Report, keyErr error) {
	verdict := "good"
	if len(r.Problems) > 0 {
		verdict = "damaged"
	}
	window := ""
	if r.Minimum > 0 {
		window = " from " + number(r.Minimum) + " on"
	}
	fmt.Fprintf(out, "%s: %s: %s%s, %s, %s\n", r.Origin, verdict,
		count(r.Entries, "entry", "entries"), window, count(r.Tiles, "tile", "tiles"), count(r.Checkpoints, "checkpoint", "checkpoints"))
	if keyErr != nil {
		fmt.Fprintf(out, "  signatures NOT checked: %s\n", oneLine(keyErr))
	}
	for _, problem := range r.Problems {
		fmt.Fprintf(out, "  %s\n", oneLine(&problem))
	}
}

// oneLine is the text of an error without its line breaks; errors of the database
// have some.
func oneLine(err error) string { return strings.Join(strings.Fields(err.Error()), " ") }

// progressBar shows the progress of one check: a bar on a terminal, elsewhere a line
// for each tenth.
func progressBar(out io.Writer, origin string) func(done, total uint64) {
	terminal, tenth := isTerminal(out), uint64(0)
	return func(done, total uint64) {
		switch {
		case total == 0: // a window that has just begun
		case terminal && done < total:
			fmt.Fprintf(out, "\r%s: %s of %s, %s\x1b[K", origin, number(done), count(total, "entry", "entries"), percent(float64(done)/float64(total)))
		case terminal:
			fmt.Fprint(out, "\r\x1b[K")
		case done*10/total > tenth:
			tenth = done * 10 / total
			fmt.Fprintf(out, "%s: %s of %s, %d %%\n", origin, number(done), count(total, "entry", "entries"), tenth*10)
		}
	}
}
