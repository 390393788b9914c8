package main

import (
	"context"
	"crypto"
	"crypto/ed25519"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"time"

	"github.com/spf13/cobra"
	formats "github.com/transparency-dev/formats/note"

	"github.com/understudy-log/understudy/log/rekor"
	"github.com/understudy-log/understudy/mirror/trust"
	"github.com/understudy-log/understudy/witness/archive"
	"github.com/understudy-log/understudy/witness/archive/stamp"
)

func newArchiveVerifyCommand() *cobra.Command {
	var o archiveVerifyOptions
	cmd := &cobra.Command{
		Use:   "verify PACK...",
		Short: "Verify evidence packs, offline",
		Long: `Verify checks evidence packs with no network and no database: every byte of them, the
signature of their maker, their time-stamps, every signature and cosignature of
every checkpoint, the proofs between checkpoints, every entry with its proof, that
no row of the outage ledger is changed or missing, and the signatures of reports.
Give packs that follow each other in the order of their numbers: then it is also
proven that nothing is missing between them.

Nothing in a pack says whom to believe. The keys of logs come from --trusted-root (a
Sigstore TrustedRoot) and --key; a log without a key is an error. --key takes a
verifier key, or a file with one or with PEM, and may be repeated:

  of a log         type 1 (Ed25519) or 2 (ECDSA), whose name is the log's origin; as
                   ORIGIN=KEY any of these, or PEM, for the log of that origin
  of an archive    type 1: who you were told makes the packs. If one is given, packs of
                   another maker are an error; else it is not known who made them
  of a cosigner    type 4 or 6: whose cosignatures you rely on; they are counted

Reports of drills and reconciliations are signed with a key that is in the pack: the
report says its fingerprint, to compare with what you were told.

Time-stamps are verified with the time-stamping authorities of --trusted-root and the
certificates of --tsa-certificates; without any, the report says that they were not.

The report says what is proven, what is only said by the maker, what a person should
know (findings), and what does not verify (errors).

Exit codes: 0 all verifies, also with findings; 1 something does not, and what; 2 it
could not be checked.`,
		Example: `  understudy archive verify understudy-evidence-*.tar --trusted-root trusted_root.json \
      --key archive.example.com/understudy+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k
  understudy archive verify pack.tar --key 'rekor.example.com - 1193050959916656506=rekor.pem'
  understudy archive verify pack.tar --trusted-root trusted_root.json --format json`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt)
			defer stop()
			return o.verify(ctx, args, cmd.OutOrStdout())
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.trustedRoot, "trusted-root", "", "Sigstore TrustedRoot JSON `FILE`")
	f.StringArrayVar(&o.keys, "key", nil, "`KEY` of a log, an archive or a cosigner, or its file; ORIGIN=KEY for one log (may be repeated)")
	f.StringVar(&o.authorities, "tsa-certificates", "", "PEM `FILE` with certificates of time-stamping authorities")
	f.StringVar(&o.format, "format", "text", "what the report is written as: `text` or json")
	return cmd
}

// archiveVerifyOptions say how to verify packs.
type archiveVerifyOptions struct {
	trustedRoot, authorities, format string
	keys                             []string
}

// verify verifies packs and writes a report. The error of packs that are wrong is one of wrongf.
func (o *archiveVerifyOptions) verify(ctx context.Context, paths []string, out io.Writer) error {
	if o.format != "text" && o.format != "json" {
		return fmt.Errorf("--format %q: want text or json", o.format)
	}
	believed, err := o.believed()
	if err != nil {
		return err
	}
	report, err := archive.VerifyFiles(ctx, paths, believed)
	if err != nil {
		return err
	}
	if o.format == "json" {
		e := json.NewEncoder(out)
		e.SetIndent("", "  ")
		e.SetEscapeHTML(false)
		if err := e.Encode(report); err != nil {
			return err
		}
	} else if _, err := io.WriteString(out, archiveReport(report)); err != nil {
		return err
	}
	if !report.Good() {
		return wrongf("%s: the evidence does not prove what it says", count(uint64(len(report.Errors)+report.FurtherErrors), "error", "errors"))
	}
	return nil
}

// believed reads the keys and certificates that are believed.
func (o *archiveVerifyOptions) believed() (archive.Options, error) {
	var k archiveKeys
	var err error
	if o.trustedRoot != "" {
		if k.root, err = trust.LoadRoot(o.trustedRoot); err != nil {
			return archive.Options{}, err
		}
	}
	for _, source := range o.keys {
		if err := k.add(source); err != nil {
			return archive.Options{}, fmt.Errorf("--key: %w", err)
		}
	}
	timestamp, err := o.timestamp()
	return archive.Options{Log: k.log, Makers: k.makers, Cosigners: k.cosigners, Timestamp: timestamp}, err
}

// archiveKeys are the keys that somebody who verifies packs was told.
type archiveKeys struct {
	root              *trust.Root // nil for none
	logs              []archiveLogKey
	makers, cosigners []string
}

// archiveLogKey is a key that may be of a log.
type archiveLogKey struct {
	trust.Key
	origin string           // that it was given for, or its name
	public crypto.PublicKey // for signed entry timestamps
}

// add reads one --key.
func (k *archiveKeys) add(source string) error {
	origin, source := cutOrigin(source)
	text := source
	if !isInlineKey(source) {
		data, err := os.ReadFile(source)
		if err != nil {
			return fmt.Errorf("%w: want a verifier key, a file with one or with PEM, or ORIGIN= and one of these", err)
		}
		text = strings.TrimSpace(string(data))
	}
	var raw []byte // of a verifier key: its type and the key
	if vkeyText.MatchString(text) {
		var err error
		if raw, err = base64.StdEncoding.DecodeString(strings.SplitN(text, "+", 3)[2]); err != nil || len(raw) == 0 {
			return fmt.Errorf("%.100q is no verifier key", text)
		}
	}
	if raw != nil && (raw[0] == 4 || raw[0] == 6) {
		v, err := formats.NewVerifierForCosignatureV1(text)
		if err != nil || text != fmt.Sprintf("%s+%08x+%s", v.Name(), v.KeyHash(), base64.StdEncoding.EncodeToString(raw)) {
			return fmt.Errorf("%.100q is no verifier key of a cosigner: a part of it is that of another", text)
		}
		if origin != "" {
			return fmt.Errorf("%.100q is the key of a cosigner, not of the log %q", text, origin)
		}
		k.cosigners = append(k.cosigners, text)
		return nil
	}
	key, err := trust.ParseKey([]byte(text))
	if err != nil {
		return fmt.Errorf("%.100s: %w", source, err)
	}
	l := archiveLogKey{Key: key, origin: origin, public: key.Public()}
	switch {
	case raw == nil && origin == "":
		return fmt.Errorf("%.100s does not say which log it is of: give it as ORIGIN=FILE", source)
	case raw == nil:
	case raw[0] == 1:
		l.public = ed25519.PublicKey(raw[1:])
		if origin == "" {
			k.makers = append(k.makers, text)
		}
	default:
		if l.public, err = x509.ParsePKIXPublicKey(raw[1:]); err != nil {
			return fmt.Errorf("%.100s: %w", source, err)
		}
	}
	if l.origin == "" {
		l.origin = key.Name
	}
	k.logs = append(k.logs, l)
	return nil
}

// cutOrigin cuts ORIGIN=KEY. Files, and keys by themselves, can have equals signs too.
func cutOrigin(source string) (origin, key string) {
	exists := func(name string) bool {
		_, err := os.Stat(name)
		return err == nil
	}
	name, _, _ := strings.Cut(source, "+")
	if exists(source) || vkeyText.MatchString(source) && !strings.Contains(name, "=") || strings.HasPrefix(source, "-----BEGIN ") {
		return "", source
	}
	if _, err := trust.ParseKey([]byte(source)); err == nil {
		return "", source
	}
	if before, after, ok := strings.Cut(source, "="); ok && before != "" {
		return before, after
	}
	return "", source
}

// log returns what verifies the signatures of a log; nil if no key is known for it.
func (k *archiveKeys) log(origin string) *archive.LogKeys {
	var keys []trust.Key
	var public []crypto.PublicKey
	for _, l := range k.logs {
		if l.origin == origin {
			keys, public = append(keys, l.Key), append(public, l.public)
		}
	}
	if k.root != nil {
		for _, key := range k.root.Keys(origin) {
			keys, public = append(keys, key), append(public, key.Public())
		}
	}
	if len(keys) == 0 {
		return nil
	}
	return &archive.LogKeys{
		Checkpoint: func(raw []byte) error {
			_, err := trust.Open(raw, origin, keys)
			return err
		},
		SET: func(e *rekor.Entry) error {
			var err error
			for _, key := range public {
				err = e.VerifySET(key)
				if _, other := errors.AsType[*rekor.LogIDError](err); !other {
					return err
				}
			}
			return err
		},
	}
}

// timestamp returns what verifies time-stamps; nil if no authority is believed.
func (o *archiveVerifyOptions) timestamp() (func(response []byte, digest [32]byte) (at time.Time, signer string, err error), error) {
	var all []stamp.Roots
	if o.authorities != "" {
		data, err := os.ReadFile(o.authorities)
		if err != nil {
			return nil, fmt.Errorf("--tsa-certificates: %w", err)
		}
		roots, err := stamp.RootsFromPEM(data)
		if err != nil {
			return nil, fmt.Errorf("--tsa-certificates: %s: %w", o.authorities, err)
		}
		all = append(all, roots)
	}
	if o.trustedRoot != "" {
		data, err := os.ReadFile(o.trustedRoot)
		if err != nil {
			return nil, err
		}
		if roots, err := stamp.RootsFromTrustedRoot(data); err == nil { // one without authorities is one, too
			all = append(all, roots)
		}
	}
	return verifyTimestamp(all), nil
}

// verifyTimestamp returns what verifies time-stamps by one of several sets of certificates; nil if
// there are none.
func verifyTimestamp(all []stamp.Roots) func(response []byte, digest [32]byte) (time.Time, string, error) {
	if len(all) == 0 {
		return nil
	}
	return func(response []byte, digest [32]byte) (at time.Time, signer string, err error) {
		for _, roots := range all {
			if at, signer, err = stamp.Verify(response, digest, roots); err == nil {
				return at, signer, nil
			}
			if invalid, ok := errors.AsType[*stamp.InvalidError](err); !ok || !invalid.Untrusted {
				return at, signer, err
			}
		}
		return at, signer, fmt.Errorf("%w: %w", archive.ErrNoAuthority, err)
	}
}
