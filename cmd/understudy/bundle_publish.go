package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"

	protobundle "github.com/sigstore/protobuf-specs/gen/pb-go/bundle/v1"
	protorekor "github.com/sigstore/protobuf-specs/gen/pb-go/rekor/v1"
	"github.com/spf13/cobra"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/understudy-log/understudy/log/rekor"
	"github.com/understudy-log/understudy/mirror/reconcile"
)

func newBundlePublishCommand() *cobra.Command {
	var output string
	var replace bool
	cmd := &cobra.Command{
		Use:   "publish FILE",
		Short: "Add the public log's entry to a bundle that was signed in an outage",
		Long: `Publish takes a bundle whose entry is in the private log, and adds the entry that the public log
has of it since the reconciliation, where that keeps the bundle valid: a late entry of Rekor v1
has a time outside the life of a keyless certificate, so it is written beside the bundle, as
OUTPUT.public-entry.json, and the bundle stays as it is.

With --replace the public entry takes the place of the private one: for verifiers that do not
know the private log.

Exit codes: 0 written; 1 the public entry cannot be added, for the reason that is told; 2 it is
not in the public log yet, or the daemon could not be asked.`,
		Example: `  understudy bundle publish app.sigstore.json -o app.public.sigstore.json --replace`,
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if output == "" {
				return errors.New("publish: --output is the file to write")
			}
			return publishBundle(cmd, args[0], output, replace)
		},
	}
	cmd.Flags().StringVarP(&output, "output", "o", "", "`FILE` to write")
	cmd.Flags().BoolVar(&replace, "replace", false, "take the private entries out")
	return cmd
}

func publishBundle(cmd *cobra.Command, file, output string, replace bool) error {
	c, err := configOf(cmd)
	if err != nil {
		return err
	}
	data, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	var b protobundle.Bundle
	if err := (protojson.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(data, &b); err != nil {
		return wrongf("%s is no Sigstore bundle (%w)", file, err)
	}
	entries := b.GetVerificationMaterial().GetTlogEntries()
	var public, private []*protorekor.TransparencyLogEntry
	for _, entry := range entries {
		origin, _, _ := strings.Cut(entry.GetInclusionProof().GetCheckpoint().GetEnvelope(), "\n")
		if !c.privateOrigin(origin) {
			continue
		}
		private = append(private, entry)
		var receipt reconcile.Receipt
		query := url.Values{"origin": {origin}, "index": {strconv.FormatInt(entry.GetInclusionProof().GetLogIndex(), 10)}}
		if err := look(cmd.Context(), cmd, "/reconcile/proof?"+query.Encode(), &receipt); err != nil {
			return err
		}
		if !receipt.Extends {
			beside := output + ".public-entry.json"
			if err := os.WriteFile(beside, receipt.JSON, 0o644); err != nil {
				return err
			}
			return wrongf("the public entry is in %s, and must not be in the bundle: %s", beside, receipt.Reason)
		}
		added, err := publicEntry(&receipt)
		if err != nil {
			return fmt.Errorf("read the public entry: %w", err)
		}
		public = append(public, added)
	}
	if len(private) == 0 {
		return wrongf("no entry of the bundle is in the private log of the configuration, so there is nothing to publish")
	}
	if replace {
		entries = slices.DeleteFunc(entries, func(e *protorekor.TransparencyLogEntry) bool { return slices.Contains(private, e) })
	}
	b.VerificationMaterial.TlogEntries = append(entries, public...)
	out, err := protojson.MarshalOptions{Multiline: true, Indent: "  "}.Marshal(&b)
	if err != nil {
		return err
	}
	if err := os.WriteFile(output, append(out, '\n'), 0o644); err != nil {
		return err
	}
	_, err = fmt.Fprintf(cmd.OutOrStdout(), "wrote %s, with the entry of %s; verify it before you hand it out\n", output, strings.Join(names(public), ", "))
	return err
}

// publicEntry is what a receipt has, as it stands in bundles.
func publicEntry(r *reconcile.Receipt) (*protorekor.TransparencyLogEntry, error) {
	if r.UUID == "" {
		entry := new(protorekor.TransparencyLogEntry)
		return entry, (protojson.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(r.JSON, entry)
	}
	items, err := rekor.ParseAnswers(append(append([]byte{'['}, r.JSON...), ']'))
	if err != nil {
		return nil, err
	}
	if len(items) != 1 || !json.Valid(r.JSON) {
		return nil, errors.New("it is not one entry")
	}
	return rekor.TransparencyLogEntry(items[0])
}

// names are the logs of entries.
func names(entries []*protorekor.TransparencyLogEntry) (all []string) {
	for _, e := range entries {
		origin, _, _ := strings.Cut(e.GetInclusionProof().GetCheckpoint().GetEnvelope(), "\n")
		all = append(all, origin)
	}
	return all
}
