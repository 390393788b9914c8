package main

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/understudy-log/understudy/cmd/internal/rest"
	"github.com/understudy-log/understudy/storage"
)

func newBackupCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "backup DIR",
		Short: "Copy the database, also of a running daemon",
		Long: `Backup writes a consistent copy of the database into DIR, which must not exist.
A running daemon writes it itself, asked over its admin address, and goes on
serving; then DIR must be on its machine and writable for it.

On the file system of the data directory the copy shares its files (hard links):
it is quick and small, and dies with that disk. Copy it elsewhere.

"understudy restore" makes the database from it again; what the logs have grown by
since then is mirrored again. A private log is nowhere else: it can go on from a backup only
if it published nothing after it. Keys and configuration are not in a backup.

Exit codes: 0 written; 2 not written.`,
		Example: `  understudy backup /backup/understudy-2026-10-10
  understudy backup --config /etc/understudy/understudy.yaml /backup/today`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := configOf(cmd)
			if err != nil {
				return err
			}
			dir, err := filepath.Abs(args[0])
			if err != nil {
				return err
			}
			err = backupHeld(c, dir)
			if errors.Is(err, storage.ErrLocked) {
				var answer struct{ Dir string }
				err = askDaemon(cmd.Context(), c, "/backup", rest.BackupRequest{DataDir: c.absoluteDataDir(), Dir: dir}, &answer)
				if errors.Is(err, errNoDaemon) {
					err = fmt.Errorf("another process uses %s, but %w; is listen.admin in the configuration that of the daemon?", c.DataDir, err)
				}
			}
			if err != nil {
				return err
			}
			_, err = fmt.Fprintln(cmd.OutOrStdout(), "wrote", dir)
			return err
		},
	}
}

// backupHeld backs up the data directory of a stopped daemon.
func backupHeld(c *Config, dir string) (err error) {
	db, err := c.openHeld(storage.Options{})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	err = db.Backup(dir)
	if errors.Is(err, storage.ErrExists) || errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("%w%s", err, rest.BackupHint)
	}
	return err
}
