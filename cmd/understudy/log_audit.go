package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"path/filepath"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/understudy-log/understudy/cmd/internal/rest"
	"github.com/understudy-log/understudy/mirror/trust"
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
	if origin == "" {
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

func newLogMaterialCommand() *cobra.Command {
	var version int
	cmd := &cobra.Command{
		Use:   "material DIR",
		Short: "Write the TrustedRoot and SigningConfig of the private log alone",
		Long: `Material writes into DIR trusted_root.json, what verifiers of the private log trust, and
signing_config.json, which has signers log there: both generations, or one with
--api-version. Clients use the highest version that is listed, so who is to use the v1
log needs a SigningConfig without the v2 one.

They have no certificate authority and no time-stamping authority. "understudy trust
export" combines them with Sigstore's, which is what most clients want.

Exit codes: 0 written; 2 it could not be written.`,
		Example: `  understudy log material ./material
  understudy log material ./material-v1 --api-version 1`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := configOf(cmd)
			if err != nil {
				return err
			}
			return writeMaterial(cmd.Context(), c, args[0], uint32(version))
		},
	}
	cmd.Flags().IntVar(&version, "api-version", 0, "list only the log of this `VERSION` of Rekor's API in the SigningConfig: 1 or 2")
	return cmd
}

func writeMaterial(ctx context.Context, c *Config, dir string, version uint32) error {
	logs, err := c.ownLogs(ctx)
	if err != nil {
		return err
	}
	if len(logs) == 0 {
		return errors.New("there is no private log in the configuration")
	}
	root, err := trust.OwnRoot(logs)
	if err != nil {
		return err
	}
	if logs, err = ofVersion(logs, version); err != nil {
		return err
	}
	signing, err := trust.OwnSigning(logs)
	if err != nil {
		return err
	}
	return errors.Join(os.MkdirAll(dir, 0o755),
		os.WriteFile(filepath.Join(dir, "trusted_root.json"), root, 0o644),
		os.WriteFile(filepath.Join(dir, "signing_config.json"), signing, 0o644))
}

// ofVersion returns those of our logs that speak a version of Rekor's API; 0 is all.
func ofVersion(logs []trust.OwnLog, version uint32) (some []trust.OwnLog, err error) {
	for _, l := range logs {
		if version == 0 || l.APIVersion == version {
			some = append(some, l)
		}
	}
	if len(some) == 0 {
		return nil, fmt.Errorf("--api-version %d: there is no private log of that version", version)
	}
	return some, nil
}
