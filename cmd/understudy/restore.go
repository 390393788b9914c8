package main

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"path/filepath"
	"slices"

	"github.com/spf13/cobra"

	"github.com/understudy-log/understudy/storage"
)

func newRestoreCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "restore DIR",
		Short: "Make the database from a backup",
		Long: `Restore copies the backup in DIR, which it leaves as it is, to where the database
belongs. It never writes over a database: move a damaged one away first. The daemon
must not run.

A backup is older than what was there, and what the logs signed since must not be
forgotten: the newest checkpoint of each log stands apart from the database, in the
folder "newest" of data_dir, and restore leaves it alone. The daemon then asks the
log and its sources first, and copies what is missing; a log that went back, or
that signs another history than before, is found out. So do not restore the folder
"newest" from a backup, unless the whole disk was lost. (A snapshot of the whole
machine takes it back as well: then only the log and its sources know better.)

A private log is nowhere else. One that published more than the backup holds is not
served: going on from there would be to sign a second history. It needs a newer
backup, or a new log takes its place.

Exit codes: 0 restored; 2 not restored, and nothing was changed.`,
		Example: `  mv understudy-data/db understudy-data/db.damaged
  understudy restore /backup/understudy-2026-10-10
  understudy serve`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := configOf(cmd)
			if err != nil {
				return err
			}
			backup, err := filepath.Abs(args[0])
			if err != nil {
				return err
			}
			held, err := storage.Restore(c.databaseDir(), backup, storage.Options{})
			switch {
			case errors.Is(err, storage.ErrExists):
				return fmt.Errorf("%s is there already, and restore never writes over it; stop the daemon and move it away", c.databaseDir())
			case errors.Is(err, storage.ErrNotExist):
				return fmt.Errorf("%s is no backup: there is no database in it", args[0])
			case err != nil:
				return fmt.Errorf("%w; nothing was changed", folded{err})
			}
			for _, origin := range slices.Sorted(maps.Keys(held)) {
				s := held[origin]
				fmt.Fprintf(cmd.OutOrStdout(), "%s: %s, of %s\n", origin, count(s.Head.Size-s.Minimum, "entry", "entries"), s.Pending.LastSeen.UTC().Format("2006-01-02 15:04:05 MST"))
			}
			if err := c.warnBehind(held, cmd.OutOrStdout()); err != nil {
				return err
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "wrote %s; run \"understudy check\" to verify all of it; serve copies what is missing of mirrored logs since then\n", c.databaseDir())
			return err
		},
	}
}

// warnBehind tells which generations of the private log published more than what was restored.
func (c *Config) warnBehind(held map[string]*storage.State, out io.Writer) (err error) {
	if c.Private == nil {
		return nil
	}
	newest, err := c.openNewest(storage.Options{})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, newest.Close()) }()
	for _, origin := range slices.Sorted(maps.Keys(held)) {
		if known := newest.Of(origin); c.privateOrigin(origin) && known.Size > held[origin].Head.Size {
			fmt.Fprintf(out, "%s: will NOT be served: it published a checkpoint over %s; restore a newer backup, or begin a new log with a new name and new keys\n", origin, count(known.Size, "entry", "entries"))
		}
	}
	return nil
}
