package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/understudy-log/understudy/mirror/trust"
)

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
