package main

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/understudy-log/understudy/log"
	"github.com/understudy-log/understudy/storage"
)

func newLogResumeCommand() *cobra.Command {
	var size uint64
	cmd := &cobra.Command{
		Use:   "resume {v1|v2} --size N",
		Short: "Let a log go on whose memory of what it published is lost",
		Long: `Resume is for a log that does not open because the folder "newest" of the data directory is
lost, such as after a backup was restored on a new machine. What was published last is not
known here then, and a log that goes on from an older database signs two histories: whoever
verifies it would be right never to trust it again.

Find out how large the tree of the newest checkpoint was that anybody has: in the newest
evidence pack, at a monitor or a witness, in the newest bundles. If the backup is older,
restore a newer one, or begin a new log with a new name and new keys. If it is not, say so
with --size. Nobody can check it for you.

The daemon must be stopped.

Exit codes: 0 the log goes on; 2 it does not, for the reason that is told.`,
		Example: `  understudy log resume v2 --size 48213`,
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if !cmd.Flags().Changed("size") {
				return errors.New("resume: --size is how many entries the newest checkpoint has that was ever published")
			}
			c, err := configOf(cmd)
			if err != nil {
				return err
			}
			return resume(cmd.Context(), c, args[0], size, cmd.OutOrStdout())
		},
	}
	cmd.Flags().Uint64Var(&size, "size", 0, "`N`umber of entries in the newest checkpoint that was ever published")
	return cmd
}

func resume(ctx context.Context, c *Config, name string, size uint64, out io.Writer) (err error) {
	logs, err := c.privateLogs(ctx)
	if err != nil {
		return err
	}
	for _, l := range logs {
		if l.name != name {
			continue
		}
		if l.lost != nil {
			return fmt.Errorf("resume %q: %s", l.origin, l.lost.Text)
		}
		db, err := c.openHeld(storage.Options{})
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, db.Close()) }()
		newest, err := c.openNewest(storage.Options{})
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, newest.Close()) }()
		l.config.DB, l.config.Newest = db, newest
		head, err := log.Resume(l.config, size)
		if err != nil {
			return err
		}
		_, err = fmt.Fprintf(out, "%s  %s  goes on from %s, root %v\n", name, l.origin, count(head.Size, "entry", "entries"), head.Root)
		return err
	}
	return fmt.Errorf("there is no private log %q in the configuration; want v1 or v2", name)
}
