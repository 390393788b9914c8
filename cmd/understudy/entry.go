package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/understudy-log/understudy/proto/understudy/v1/client"
)

func newEntryCommand() *cobra.Command {
	var q question
	var asJSON bool
	var output string
	cmd := &cobra.Command{
		Use:   "entry INDEX|LEAFHASH",
		Short: "Get one entry, verified",
		Long: `Entry gets the logged bytes of one entry, named by its index or by its leaf hash
(SHA-256 of a zero byte and the entry, in hex), and proves with the log's key
that the entry is in the log before it writes anything.

It asks the running daemon; when none runs, it reads the data directory itself.
How current the answer is goes to standard error.

With --json it prints origin, index, leaf hash, the body in base64, and the
freshness of the answer.

Exit codes: 0 written; 1 the log is known not to have it, or the answer does not
verify; 2 it could not be answered (nobody knows, network, configuration).`,
		Example: `  understudy entry 42
  understudy entry 42 --output 42.json
  understudy entry 6c47f8a5a6d7ae1a9f2f31c2a1ee2e1d4c0b3c1a0f6a3d3a5d5c8e3f9b7a6d21 --json`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			ref, err := parseRef(args[0])
			if err != nil {
				return err
			}
			var e client.Entry
			origin, err := q.ask(cmd, func(ctx context.Context, c *client.Client) (err error) {
				e, err = c.Entry(ctx, ref)
				return err
			})
			if err != nil {
				return err
			}
			return writeEntry(cmd, origin, e, asJSON, output)
		},
	}
	q.addFlags(cmd)
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON on standard output")
	cmd.Flags().StringVarP(&output, "output", "o", "", "write the entry to `FILE`")
	return cmd
}

// entryJSON is an entry as "understudy entry --json" writes it.
type entryJSON struct {
	Origin    string        `json:"origin"`
	Index     uint64        `json:"index"`
	LeafHash  hexHash       `json:"leaf_hash"`
	Body      []byte        `json:"body"` // base64
	Freshness freshnessJSON `json:"freshness"`
}

// writeEntry writes the body to file, JSON to standard output, or the body there.
func writeEntry(cmd *cobra.Command, origin string, e client.Entry, asJSON bool, file string) error {
	if !asJSON || file != "" {
		if err := write(cmd, file, e.Body); err != nil {
			return err
		}
	}
	if asJSON {
		data, err := encode(entryJSON{origin, e.Index, e.LeafHash, e.Body, freshnessOf(e.Freshness)})
		if err != nil {
			return err
		}
		return write(cmd, "", data)
	}
	_, err := fmt.Fprintf(cmd.ErrOrStderr(), "entry %d of %s: %s\n", e.Index, origin, freshnessText(e.Freshness))
	return err
}
