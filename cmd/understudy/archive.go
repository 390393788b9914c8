package main

import "github.com/spf13/cobra"

func newArchiveCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "archive",
		Short: "Evidence packs: what auditors get",
		Long: `Archive is about evidence packs: files with the signed checkpoints of a period, what
links them, and the entries that were asked for. docs/evidence.md has their format.`,
	}
	cmd.AddCommand(newArchiveListCommand(), newArchiveExportCommand(), newArchiveHoldCommand(), newArchiveVerifyCommand())
	return cmd
}
