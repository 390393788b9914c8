package main

import (
	"context"
	"crypto"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/signal"
	"strings"

	"github.com/spf13/cobra"

	"github.com/understudy-log/understudy/cmd/internal/private"
	"github.com/understudy-log/understudy/mirror"
	"github.com/understudy-log/understudy/mirror/ledger"
	"github.com/understudy-log/understudy/mirror/trust"
	"github.com/understudy-log/understudy/storage"
)

func newCheckCommand() *cobra.Command {
	repair := false
	cmd := &cobra.Command{
		Use:   "check",
		Short: "Verify everything that is stored, and repair it",
		Long: `Check reads everything that a stopped daemon has stored and holds it together:
every entry against its hash tile, every tile against the root, the index
against the entries, the root against the signed checkpoints, and every
checkpoint and signed entry timestamp against the log's key.

It needs no network. Keys come from public_key, from the trusted_root file, or
from the cache of a trusted root that the daemon fetched; when there is none,
it says that signatures were not checked, and checks the rest.

With --repair it puts back entries, tiles and index rows that are damaged or
missing, and checks again: out of what is good, or else from the log and the
sources in the configuration, verified like everything. What no source has is
named; the rest stays served. (A running daemon does all this by itself: it reads
everything again and again, slowly, and repairs what it meets.)

A pinned entry of Rekor v1 that is damaged is given up, and named: it is fetched
again when somebody asks for it, or watches it; one that was imported has to be
imported again. (A daemon does that when it starts.)

To check a backup, put its folder into an empty data_dir under the name "db".

Exit codes: 0 all is good, or good again; 1 something is damaged, and named; 2 it
could not be checked (a daemon is running, there is no data).`,
		Example: `  understudy check
  understudy check --repair
  understudy check --config /etc/understudy/understudy.yaml`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := configOf(cmd)
			if err != nil {
				return err
			}
			ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt)
			defer stop()
			return check(ctx, c, repair, cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
	cmd.Flags().BoolVar(&repair, "repair", false, "put back what is damaged, then check again")
	return cmd
}

// check checks every log of the data directory, and repairs it if that is asked for:
// findings go to out, progress to progress.
func check(ctx context.Context, c *Config, repair bool, out, progress io.Writer) (err error) {
	keys, err := newKeyring(c)
	if err != nil {
		return err
	}
	if c.Witness != nil {
		logs, _, err := c.witnessLogs()
		if err != nil {
			return err
		}
		for _, log := range logs {
			keys.own[log.Origin] = log.keys
		}
	}
	for origin, key := range c.privateKeys(ctx) {
		keys.own[origin] = []trust.Key{key}
	}
	db, err := c.openHeld(storage.Options{ReadOnly: !repair})
	if err != nil {
		return checkOpenError(err)
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	var cacheErr error
	if keys.missing(db.Origins()) {
		cacheErr = keys.fetchHeld(ctx, c, db)
	}
	damaged, ours := 0, false
	for _, origin := range db.Origins() {
		tree, err := db.OpenTree(origin)
		if err != nil {
			fmt.Fprintf(out, "%s: damaged: %s\n", origin, oneLine(err))
			damaged, ours = damaged+1, ours || c.privateOrigin(origin)
			continue
		}
		o := storage.CheckOptions{Progress: progressBar(progress, origin), MaxProblems: maxProblems}
		logKeys, keyErr := keys.keys(origin)
		if keyErr == nil {
			o.Verify = func(raw []byte) error {
				_, err := trust.Open(raw, origin, logKeys)
				return err
			}
			switch m, err := heldMirror(c, db, tree); {
			case c.privateOrigin(origin):
				o.VerifyEntry = c.verifyPrivate(origin, logKeys)
			case err != nil:
				keyErr = fmt.Errorf("those of entries: %w", err)
			case m != nil:
				o.VerifyEntry = m.VerifyEntry
			case shardOrigin.MatchString(origin):
				keyErr = errors.New("those of entries: no configured service has this shard")
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
		if repair && len(report.Problems) > 0 {
			if report, err = repairTree(ctx, c, db, tree, o, out); err != nil {
				return err
			}
			printReport(out, report, keyErr)
		}
		damaged, ours = damaged+len(report.Problems), ours || len(report.Problems) > 0 && c.privateOrigin(origin)
	}
	switch rows, err := ledger.Check(db); {
	case errors.As(err, new(*ledger.DamageError)):
		fmt.Fprintf(out, "ledger of outages: damaged: %s\n", oneLine(err))
		damaged++
	case err != nil:
		return err
	case rows > 0:
		fmt.Fprintf(out, "ledger of outages: %s, each with the hash of the one before\n", count(rows, "row", "rows"))
	}
	things := fmt.Sprintf("%d things are", damaged)
	switch damaged {
	case 0:
		return nil
	case 1:
		things = "1 thing is"
	}
	switch {
	case ours && repair:
		return wrongf("%s damaged in %s and cannot be put back, named above; keep the folder: nobody has another copy of the private log but its newest backup", things, c.DataDir)
	case ours:
		return wrongf("%s damaged in %s, named above; run \"understudy check --repair\", and keep the folder: nobody has another copy of the private log but its newest backup", things, c.DataDir)
	case repair:
		return wrongf("%s damaged in %s and cannot be put back, named above; name another source, restore a backup, or move the folder away and mirror again", things, c.DataDir)
	}
	return wrongf("%s damaged in %s, named above; run \"understudy check --repair\", restore a backup, or move the folder away and mirror again", things, c.DataDir)
}

// verifyPrivate returns what verifies the promises of a generation of the private log, by the keys that
// are known of it.
func (c *Config) verifyPrivate(origin string, keys []trust.Key) func(index uint64, entry, receipt []byte) error {
	var public []crypto.PublicKey
	for _, key := range keys {
		public = append(public, key.Public())
	}
	return private.VerifyEntry(c.Private.V1 != nil && c.Private.V1.origin() == origin, public...)
}

// maxProblems is how many problems a report names.
const maxProblems = 100

// heldMirror returns what mirrors a log that is held; nil if nothing in the configuration does.
func heldMirror(c *Config, db *storage.DB, tree *storage.Tree) (*mirror.Mirror, error) {
	if log, ok, err := c.logOf(tree.Origin(), db); err != nil || ok {
		if err != nil {
			return nil, err
		}
		return mirror.New(c.mirror(log, tree))
	}
	for i, log := range c.Logs {
		if log.isService() && shardOrigin.MatchString(tree.Origin()) {
			if m, err := c.heldShard(i, db, tree.Origin()); err != nil || m != nil {
				return m, err
			}
		}
	}
	return nil, nil
}

// repairTree puts back what a check found, and checks again. Repairing uncovers damage that
// was hidden, so it goes on while that leads anywhere.
func repairTree(ctx context.Context, c *Config, db *storage.DB, tree *storage.Tree, o storage.CheckOptions, out io.Writer) (report storage.Report, err error) {
	repair := func(ctx context.Context) (storage.Repaired, error) { return tree.Repair(ctx, storage.Elsewhere{}) }
	m, err := heldMirror(c, db, tree)
	if err != nil {
		return report, err
	}
	if m != nil {
		repair = m.Repair
	}
	for left := -1; ; left = len(report.Problems) { // a report names maxProblems of them at most
		done, err := repair(ctx)
		if err != nil {
			return report, err
		}
		fmt.Fprintf(out, "  written anew: %s, %s and %s; %s and %s came from elsewhere\n",
			count(done.Entries, "entry", "entries"), count(done.Tiles, "tile", "tiles"), count(done.IndexRows, "index row", "index rows"),
			count(done.FetchedBundles, "bundle", "bundles"), count(done.FetchedTiles, "tile", "tiles"))
		gone, err := tree.MendPins()
		if err != nil {
			return report, err
		}
		for _, index := range gone {
			fmt.Fprintf(out, "  given up: the damaged pin of entry %d; it is fetched again when somebody asks for it or watches it; if it was imported, import it again\n", index)
		}
		report, err = tree.Check(ctx, o)
		written := done.Entries + done.Tiles + done.IndexRows + uint64(len(gone))
		if n := len(report.Problems); err != nil || n == 0 || written == 0 || left >= 0 && n >= left && n < maxProblems {
			for _, damage := range tree.Damage() {
				if damage.Stuck != "" {
					fmt.Fprintf(out, "  %s\n", oneLine(&damage))
				}
			}
			return report, err
		}
	}
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
