package main

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"
)

func newLogCommand() *cobra.Command {
	log := &cobra.Command{
		Use:   "log",
		Short: "Make a private log, and who may use it",
		Long: `Log makes a private log: its keys and its configuration, its empty trees, and tokens
for those who may use it. "understudy serve" then runs it.`,
	}
	log.AddCommand(newLogInitCommand(), newLogCreateCommand(), newLogTokenCommand(), newLogMaterialCommand(), newLogAuditCommand(), newLogResumeCommand())
	return log
}

const noPrivateLog = "there is no private log here: \"understudy log init\" makes its keys and prints the section \"log\""

func newLogCreateCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "create",
		Short: "Make the empty trees of the private log, once",
		Long: `Create makes the trees of the private log in the data directory, empty, each with a
signed checkpoint. It is done once, with the daemon stopped. A tree that is there
already stays as it is: a log is never begun anew under its old name.

Exit codes: 0 made; 2 all are there already, or one cannot be made.`,
		Example: `  understudy log create
  understudy log create --config /etc/understudy/understudy.yaml`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := configOf(cmd)
			if err != nil {
				return err
			}
			if c.Private == nil {
				return c.mistake(noPrivateLog)
			}
			return createLogs(cmd.Context(), c, cmd.OutOrStdout())
		},
	}
}

func newLogTokenCommand() *cobra.Command {
	var has []string
	cmd := &cobra.Command{
		Use:   "token NAME",
		Short: "Make a token for somebody who may use the private log",
		Long: `Token makes a bearer token and prints it, on the first line, once: it is stored nowhere.
Below stands what the configuration needs, under "identities": the name, the hash of the
token, and what its bearer may do. The daemon reads it when it starts.

  append   append entries
  read     read entries, and search
  operate  read the audit rows: who appended what, and when; with "outage", force states, hold
           drills, reconcile, ask for exceptions and keep rollback bundles
  approve  approve or deny an exception that somebody else asked for

Exit codes: 0 printed; 2 the name or a role is wrong.`,
		Example: `  understudy log token release-pipeline
  understudy log token on-call --role read --role operate`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if !identityName.MatchString(args[0]) {
				return errors.New("make a token: " + notIdentityName(args[0]))
			}
			for i, role := range has {
				if !slices.Contains(roles, role) {
					return fmt.Errorf("make a token: unknown role %q; %s", role, suggest(role, roles))
				}
				if slices.Contains(has[:i], role) {
					return fmt.Errorf("make a token: the role %q is given twice", role)
				}
			}
			if len(has) == 0 {
				return errors.New("make a token: without a role its bearer may do nothing; known: " + strings.Join(roles, ", "))
			}
			token, hash := newToken()
			_, err := fmt.Fprintf(cmd.OutOrStdout(), `%s

# Give the line above to %[2]s; it is stored nowhere. In the configuration, under identities:
      - name: %[2]q
        token_sha256: %[3]q
        roles: [%[4]s]
`, token, args[0], hash, strings.Join(has, ", "))
			return err
		},
	}
	cmd.Flags().StringArrayVar(&has, "role", []string{roleAppend, roleRead}, "`ROLE` of its bearer: "+strings.Join(roles, ", ")+" (may be repeated)")
	return cmd
}

// newToken makes a bearer token, and the hash by which it is known.
func newToken() (token, hash string) {
	secret := make([]byte, 32)
	rand.Read(secret)
	token = "us_" + hex.EncodeToString(secret)
	sum := sha256.Sum256([]byte(token))
	return token, hex.EncodeToString(sum[:])
}
