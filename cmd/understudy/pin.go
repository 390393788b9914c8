package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/understudy-log/understudy/cmd/internal/rest"
	"github.com/understudy-log/understudy/log/rekor"
	"github.com/understudy-log/understudy/mirror"
	"github.com/understudy-log/understudy/storage"
)

func newPinCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "pin FILE...",
		Short: "Keep the Rekor v1 entries that bundles or lists of UUIDs name",
		Long: `Pin keeps Rekor v1 entries for good, so that they are served whatever becomes of
Rekor. A FILE ("-" is standard input) is one of

  a Sigstore bundle, or a list of them,
  a legacy cosign bundle or signature annotation,
  an answer of Rekor's API,
  UUIDs, one per line.

The signed entry timestamp, the inclusion proof and the signature of the
checkpoint are verified before an entry is kept. A file that has all of them is
enough; for what is missing, and for UUIDs, a running daemon asks Rekor, ten
entries at a time and within its budget. A long list may take hours; what was
pinned stays when it is broken off, and is passed over quickly the next time.

A running daemon is asked over its admin address; the data of a stopped one is
opened here. There must be one log with "source: rekor-v1" in the configuration.

Exit codes: 0 all are pinned; 1 one does not verify, or is not in the log, and is
named; 2 one could not be pinned for another reason.`,
		Example: `  understudy pin artifact.sigstore.json
  understudy pin releases/*.sigstore.json
  rekor-cli search --email ci@example.com | understudy pin -`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := configOf(cmd)
			if err != nil {
				return err
			}
			return pinFiles(cmd, c, args)
		},
	}
}

// pinFiles pins what every file names, and tells how that went.
func pinFiles(cmd *cobra.Command, c *Config, files []string) (err error) {
	pin, done, err := pinner(cmd.Context(), c)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, done()) }()
	wrong, failed, kept := 0, 0, 0
	for _, name := range files {
		err := pinFile(cmd, pin, name, func(r rest.PinResult) {
			switch {
			case r.Wrong:
				wrong++
			case r.Error != "":
				failed++
			default:
				kept++
			}
		})
		if err != nil {
			failed++
			fmt.Fprintf(cmd.OutOrStdout(), "%s: %s\n", name, oneLine(err))
		}
	}
	switch {
	case wrong > 0:
		return wrongf("%s wrong and not pinned, named above; %s pinned", are(wrong), are(kept))
	case failed > 0:
		return fmt.Errorf("%s not pinned, named above; %s pinned", are(failed), are(kept))
	}
	return nil
}

func are(n int) string {
	if n == 1 {
		return "1 entry is"
	}
	return fmt.Sprintf("%d entries are", n)
}

func pinText(r rest.PinResult) string {
	switch {
	case r.Error != "" && r.UUID != "":
		return fmt.Sprintf("%s: %s", r.UUID, r.Error)
	case r.Error != "":
		return r.Error
	}
	text := fmt.Sprintf("pinned %s, entry %d", r.UUID, r.Index)
	if r.Before {
		text += ", which was held already"
	}
	if !r.Linked {
		text += "; its checkpoint is tied to the archived ones as soon as Rekor answers"
	}
	return text
}

// pinFunc pins what a file names: it tells how many entries, and then what became of each.
type pinFunc func(ctx context.Context, file []byte, count func(entries int) error, each func(rest.PinResult) error) error

// pinner returns what pins: the daemon, or the database of a stopped one.
func pinner(ctx context.Context, c *Config) (pinFunc, func() error, error) {
	i := -1
	for j := range c.Logs {
		if c.Logs[j].isService() {
			i = j
		}
	}
	if i < 0 {
		return nil, nil, errors.New("no log with \"source: rekor-v1\" is configured, so there is nothing to pin entries of")
	}
	db, err := c.openOrCreate(storage.Options{})
	if errors.Is(err, storage.ErrLocked) {
		return func(ctx context.Context, file []byte, count func(int) error, each func(rest.PinResult) error) error {
			err := askToPin(ctx, c, file, count, each)
			if errors.Is(err, errNoDaemon) {
				err = fmt.Errorf("another process uses %s, but %w; is listen.admin in the configuration that of the daemon?", c.DataDir, err)
			}
			return err
		}, func() error { return nil }, nil
	}
	if err != nil {
		return nil, nil, err
	}
	newest, err := c.openNewest(storage.Options{})
	if err != nil {
		return nil, nil, errors.Join(err, db.Close())
	}
	service, err := heldService(ctx, c, i, db, newest)
	if err != nil {
		return nil, nil, errors.Join(err, newest.Close(), db.Close())
	}
	pin := func(ctx context.Context, file []byte, count func(int) error, each func(rest.PinResult) error) error {
		return pinAll(ctx, service, file, count, each)
	}
	return pin, func() error { return errors.Join(newest.Close(), db.Close()) }, nil
}

// askToPin has a running daemon pin what a file names.
func askToPin(ctx context.Context, c *Config, file []byte, begin func(int) error, each func(rest.PinResult) error) error {
	reply, err := callDaemon(ctx, c, "/pin", rest.PinRequest{DataDir: c.absoluteDataDir(), File: file})
	if err != nil {
		return err
	}
	defer reply.Close()
	lines := json.NewDecoder(reply)
	lines.DisallowUnknownFields()
	var n rest.PinCount
	if err := lines.Decode(&n); err != nil {
		return strangeAnswer(c, err)
	}
	if err := begin(n.Entries); err != nil {
		return err
	}
	for i := range n.Entries {
		var r rest.PinResult
		if err := lines.Decode(&r); err != nil {
			return fmt.Errorf("the daemon on %s broke off after %d of %s (%w); run it again: what was pinned stays", c.Listen.Admin, i, count(uint64(n.Entries), "entry", "entries"), err)
		}
		if err := each(r); err != nil {
			return err
		}
	}
	return nil
}

// heldService is a Rekor v1 service that is not followed.
func heldService(ctx context.Context, c *Config, i int, db *storage.DB, newest *storage.Newest) (*mirror.Service, error) {
	keyring, err := newKeyring(c)
	if err != nil {
		return nil, err
	}
	if len(c.Logs[i].PublicKeys) == 0 && keyring.root == nil {
		if err := keyring.fetchHeld(ctx, c, db); err != nil {
			return nil, err
		}
	}
	keys, err := keyring.serviceKeys(&c.Logs[i])
	if err != nil {
		return nil, err
	}
	cfg, err := c.service(i, db)
	if err != nil {
		return nil, err
	}
	cfg.Newest = newest
	service, err := mirror.NewService(cfg)
	if err != nil {
		return nil, c.explainDatabase(err)
	}
	service.Trust(keys)
	return service, nil
}

// pinFile pins what a file names, and tells each of it to the user and to done.
func pinFile(cmd *cobra.Command, pin pinFunc, name string, done func(rest.PinResult)) error {
	in := cmd.InOrStdin()
	if name != "-" {
		f, err := os.Open(name)
		if err != nil {
			return err
		}
		defer f.Close()
		in = f
	}
	data, err := io.ReadAll(io.LimitReader(in, maxPinFile+1))
	if err != nil {
		return err
	}
	if len(data) > maxPinFile {
		return fmt.Errorf("more than %d MiB: split it", maxPinFile>>20)
	}
	ctx, cancel := context.WithCancelCause(cmd.Context())
	defer cancel(nil)
	stalled := time.AfterFunc(pinPatience, func() {
		cancel(fmt.Errorf("nothing was heard for %v: run it again, what was pinned stays", pinPatience))
	})
	defer stalled.Stop()
	out, progress := cmd.OutOrStdout(), cmd.ErrOrStderr()
	show, total, n := progressBar(progress, name), uint64(0), uint64(0)
	err = pin(ctx, data, func(entries int) error {
		stalled.Reset(pinPatience)
		total = uint64(entries)
		return nil
	}, func(r rest.PinResult) error {
		stalled.Reset(pinPatience)
		done(r)
		long := total >= longPin
		if long && isTerminal(progress) {
			fmt.Fprint(progress, "\r\x1b[K") // the line with the progress
		}
		fmt.Fprintf(out, "%s: %s\n", name, pinText(r))
		if n++; long {
			show(n, total)
		}
		return nil
	})
	if err != nil && ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

const (
	maxPinFile = 64 << 20
	// pinPatience is how long nothing may be heard; a list takes as long as the budget makes it.
	pinPatience = 15 * time.Minute
	longPin     = 100 // entries of which the progress is shown
)

// pin pins what a file names, for the operator of a running daemon.
func (d *daemon) pin(ctx context.Context, file []byte, count func(int) error, each func(rest.PinResult) error) error {
	service := d.service()
	if service == nil {
		return errors.New("no Rekor v1 service is served here")
	}
	return pinAll(ctx, service, file, count, each)
}

// pinAll pins every entry that a file names.
func pinAll(ctx context.Context, service *mirror.Service, file []byte, count func(int) error, each func(rest.PinResult) error) error {
	imports, err := rekor.ParseBundle(file)
	if err != nil {
		return err
	}
	if err := count(len(imports)); err != nil {
		return err
	}
	n := 0
	return service.ImportAll(ctx, imports, func(done mirror.Imported, err error) error {
		imp := imports[n]
		n++
		if err == nil {
			return each(rest.PinResult{UUID: done.UUID.String(), Index: done.Index, Before: done.Before, Linked: done.Linked})
		}
		r := rest.PinResult{Error: oneLine(err), Wrong: isWrong(err)}
		if imp.UUID != nil {
			r.UUID = imp.UUID.String()
		}
		return each(r)
	})
}

// isWrong tells an entry that does not verify, or is not in the log, from one that could not
// be looked at.
func isWrong(err error) bool {
	if refusal, ok := errors.AsType[*mirror.Refusal](err); ok {
		return refusal.Kind == mirror.NotFound || refusal.Reason == mirror.ReasonUpstreamRefused
	}
	return mirror.IsProblem(err)
}
