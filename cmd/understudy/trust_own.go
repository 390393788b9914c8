package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"time"

	"github.com/understudy-log/understudy/mirror/trust"
)

// ownGeneration is one generation of our own log, as the configuration and the log itself have it.
type ownGeneration struct {
	version     uint32 // of Rekor's API
	origin, url string
	key         string    // a file, with the public key in NAME.pub beside it, or one of a KMS
	start, end  time.Time // when it takes entries
}

// ownLogs returns our own logs as clients know them. No passphrase is needed: public keys lie beside.
func ownLogs(ctx context.Context, operator string, generations ...ownGeneration) ([]trust.OwnLog, error) {
	var logs []trust.OwnLog
	for _, g := range generations {
		public, err := openPublic(ctx, g.key)
		if err != nil {
			return nil, fmt.Errorf("the key of our log %q: %w", g.origin, err)
		}
		logs = append(logs, trust.OwnLog{URL: g.url, APIVersion: g.version, Origin: g.origin, Operator: operator, Public: public, Start: g.start, End: g.end})
	}
	return logs, nil
}

// checkLogs says whether what --logs asks for is at hand.
func (o *exportOptions) checkLogs(logs trust.SigningLogs) error {
	switch {
	case o.apiVersion != 0 && (o.ownSigning != "" || len(o.own) == 0):
		return errors.New("--api-version chooses among the logs of the configuration that signers use: it needs \"log\" there, and no --own-signing-config")
	case logs != trust.SigningPublic && o.ownSigning == "" && len(o.own) == 0:
		return errors.New("--logs always and --logs fallback need a log of yours: \"log\" in the configuration, or --own-signing-config")
	}
	return nil
}

// addToRoot adds to the trusted root what is given by hand, and then our own logs, which verifiers must
// know before anybody signs there. What is given by hand stays as it is.
func (o *exportOptions) addToRoot(e *exported, notes io.Writer) (err error) {
	var more [][]byte
	for _, file := range o.addRoots {
		data, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		more = append(more, data)
	}
	if e.root == nil {
		fmt.Fprintln(notes, "note: there is neither a TUF repository nor --trusted-root: trusted_root.json has our logs, and what --add-trusted-root adds, alone")
		if len(more) > 0 {
			e.root, more = more[0], more[1:]
		}
	}
	if len(more) > 0 {
		if e.root, err = trust.CombineRoots(e.root, more...); err != nil {
			return err
		}
	}
	if len(o.own) == 0 {
		return nil
	}
	var kept []trust.OwnLog
	if e.root, kept, err = trust.AddOwn(e.root, o.own); err != nil {
		return err
	}
	for _, log := range o.own {
		window := "from " + log.Start.UTC().Format(time.RFC3339)
		if !log.End.IsZero() {
			window += " until " + log.End.UTC().Format(time.RFC3339)
		}
		if slices.ContainsFunc(kept, func(k trust.OwnLog) bool { return k.Origin == log.Origin }) {
			window = "as the one that was given says: it has this log already"
		}
		fmt.Fprintf(notes, "note: trusted_root.json: our log %q (API version %d) is trusted %s\n", log.Origin, log.APIVersion, window)
	}
	return nil
}

// ownSigningConfig is the SigningConfig with our own logs: the one given by hand, or one of those that are
// configured; nil if signers are not to use them.
func (o *exportOptions) ownSigningConfig(logs trust.SigningLogs) ([]byte, error) {
	switch {
	case o.ownSigning != "":
		return os.ReadFile(o.ownSigning)
	case logs == trust.SigningPublic:
		return nil, nil
	}
	own, err := ofVersion(o.own, uint32(o.apiVersion))
	if err != nil {
		return nil, err
	}
	return trust.OwnSigning(own)
}
