package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/understudy-log/understudy/cmd/internal/rest"
	"github.com/understudy-log/understudy/storage"
)

func newLogAuditCommand() *cobra.Command {
	var start, end uint64
	cmd := &cobra.Command{
		Use:   "audit {v1|v2}",
		Short: "Show who appended which entry, and when",
		Long: `Audit prints a JSON object a line for each entry of one generation of the private log:
its index, the time, the identity that appended it, and its leaf hash. The rows are part
of the commit that logs an entry: none is missing, and none can be changed by the API.

It asks the running daemon on its admin address, or reads the data of a stopped one.

Exit codes: 0 shown; 2 neither daemon nor data answered, or there is no such log.`,
		Example: `  understudy log audit v2 --start 1000
  understudy log audit v1 | jq -r .identity | sort | uniq -c`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := configOf(cmd)
			if err != nil {
				return err
			}
			return audit(cmd.Context(), c, args[0], start, end, cmd.OutOrStdout())
		},
	}
	cmd.Flags().Uint64Var(&start, "start", 0, "`INDEX` of the first entry")
	cmd.Flags().Uint64Var(&end, "end", 0, "`INDEX` behind the last one (default: all)")
	return cmd
}

func audit(ctx context.Context, c *Config, name string, start, end uint64, out io.Writer) (err error) {
	origin := ""
	if p := c.Private; p != nil && name == "v1" && p.V1 != nil {
		origin = p.V1.origin()
	} else if p != nil && name == "v2" && p.V2 != nil {
		origin = p.V2.Origin
	}
	switch {
	case c.Private == nil:
		return c.mistake(noPrivateLog)
	case origin == "":
		return fmt.Errorf("there is no private log %q in the configuration; want v1 or v2", name)
	}
	query := url.Values{"log": {name}, "start": {strconv.FormatUint(start, 10)}}
	if end > 0 {
		query.Set("end", strconv.FormatUint(end, 10))
	}
	rows, err := callDaemon(ctx, c, "/log/audit?"+query.Encode(), nil)
	if err == nil {
		defer rows.Close()
		_, err = io.Copy(out, rows)
		return err
	}
	if !errors.Is(err, errNoDaemon) {
		return err
	}
	db, err := c.openHeld(storage.Options{ReadOnly: true})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	tree, err := db.OpenTree(origin)
	if err != nil {
		return err
	}
	if end == 0 {
		end = tree.State().Head.Size
	}
	return rest.WriteAudits(tree, start, end, json.NewEncoder(out).Encode)
}
