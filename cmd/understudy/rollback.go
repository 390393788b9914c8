package main

import (
	"errors"
	"fmt"
	"os"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/understudy-log/understudy/cmd/internal/rest"
	"github.com/understudy-log/understudy/mirror/verdict"
)

func newRollbackCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "rollback",
		Short: "Keep releases that may be deployed whatever happens",
		Long: `A rollback bundle is a bundle of a release that you would go back to on the worst day. It is
verified when it is added, and kept. From then on "verify --server" allows exactly this
bundle for exactly this artifact in any state, with the reason ROLLBACK_BUNDLE. Each hour it
is verified again with the trust material of the day: "list" and a metric say which ones
would not be good any more.`,
	}
	cmd.AddCommand(newRollbackAddCommand(), newRollbackRemoveCommand(), newRollbackListCommand())
	return cmd
}

func newRollbackAddCommand() *cobra.Command {
	var o operator
	var v verifyOptions
	var bundle, policy string
	cmd := &cobra.Command{
		Use:   "add NAME --bundle FILE --artifact FILE --ticket TICKET",
		Short: "Verify a bundle and keep it",
		Long: `Add has the daemon verify a bundle as "verify --server" does, in enforce, and keeps it if it is
good. It needs the role operate.

Exit codes: 0 kept; 2 not kept, for the reason that is told.`,
		Example: `  understudy rollback add shop-4.2 --bundle shop.sigstore.json --artifact shop.tar --policy production --ticket REL-9 \
      --certificate-identity release@example.com --certificate-oidc-issuer https://accounts.example.com`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if bundle == "" {
				return errors.New("add: --bundle is the file with the Sigstore bundle that is to be kept")
			}
			data, err := os.ReadFile(bundle)
			if err != nil {
				return fmt.Errorf("read the bundle: %w; --bundle is its file", err)
			}
			algorithm, digest, err := v.digest(data)
			if err != nil {
				return err
			}
			request := rest.RollbackRequest{Action: "add", Name: args[0], Bundle: data, Algorithm: algorithm, Digest: digest, Policy: policy, Ticket: o.ticket}
			if v.identity+v.identityRegexp+v.issuer+v.issuerRegexp != "" {
				request.Identity = &verdict.Identity{SAN: v.identity, SANRegexp: v.identityRegexp, Issuer: v.issuer, IssuerRegexp: v.issuerRegexp}
			}
			if v.publicKey != "" {
				if request.PublicKey, err = os.ReadFile(v.publicKey); err != nil {
					return err
				}
			}
			if _, err := o.order(cmd, "/rollback", func(dir string) any { request.DataDir = dir; return request }); err != nil {
				return err
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s is verified and kept: it may be deployed in any state\n", args[0])
			return err
		},
	}
	f := cmd.Flags()
	f.StringVar(&bundle, "bundle", "", "`FILE` with the Sigstore bundle")
	f.StringVar(&policy, "policy", "", "`POLICY` that it must satisfy")
	f.StringVar(&v.artifact, "artifact", "", "`FILE` that was signed")
	f.StringVar(&v.artifactDigest, "artifact-digest", "", "digest of it, `sha256:HEX`")
	f.StringVar(&v.identity, "certificate-identity", "", "`NAME` in the certificate")
	f.StringVar(&v.identityRegexp, "certificate-identity-regexp", "", "`EXPRESSION` for it")
	f.StringVar(&v.issuer, "certificate-oidc-issuer", "", "`URL` of its issuer")
	f.StringVar(&v.issuerRegexp, "certificate-oidc-issuer-regexp", "", "`EXPRESSION` for it")
	f.StringVar(&v.publicKey, "public-key", "", "`FILE` with the key that signed, in PEM")
	return o.flags(cmd, true)
}

func newRollbackRemoveCommand() *cobra.Command {
	var o operator
	return o.flags(&cobra.Command{
		Use:     "remove NAME --ticket TICKET",
		Short:   "Give a rollback bundle up",
		Long:    "Remove ends the promise for a bundle: it is verified like any other from then on.\n\nExit codes: 0 done; 2 not done, for the reason that is told.",
		Example: "  understudy rollback remove shop-4.1 --ticket REL-10",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if _, err := o.order(cmd, "/rollback", func(dir string) any {
				return rest.RollbackRequest{DataDir: dir, Action: "remove", Name: args[0], Ticket: o.ticket}
			}); err != nil {
				return err
			}
			_, err := fmt.Fprintf(cmd.OutOrStdout(), "%s is given up\n", args[0])
			return err
		},
	}, true)
}

func newRollbackListCommand() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List rollback bundles, and which would verify today",
		Long: `List prints every rollback bundle with its artifact, and whether it verifies with the trust
material of today.

Exit codes: 0 all verify; 1 one does not; 2 the daemon could not be asked.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var all []verdict.Rollback
			if err := look(cmd.Context(), cmd, "/rollback", &all); err != nil {
				return err
			}
			if asJSON {
				return printJSON(cmd.OutOrStdout(), all)
			}
			w, bad := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', 0), uint64(0)
			fmt.Fprintln(w, "NAME\tTODAY\tARTIFACT\tPOLICY\tADDED\tBY\tTICKET")
			for _, r := range all {
				today := "good"
				if !r.Good {
					today, bad = "bad: "+r.Problem, bad+1
				}
				fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", r.Name, today, r.Artifact, r.Policy, r.Added.UTC().Format(time.RFC3339), r.AddedBy, r.Ticket)
			}
			if err := w.Flush(); err != nil {
				return err
			}
			if bad > 0 {
				return wrongf("%s would not verify today: sign these releases anew, or remove them", count(bad, "rollback bundle", "rollback bundles"))
			}
			return nil
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON, and exit 0")
	return cmd
}
