//go:build linux

package main

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"
	"time"

	"github.com/sigstore/sigstore/pkg/signature"
	"golang.org/x/mod/sumdb/note"
	"golang.org/x/sync/errgroup"

	"github.com/understudy-log/understudy/log"
	"github.com/understudy-log/understudy/log/rekor"
	"github.com/understudy-log/understudy/storage"
)

const (
	logEntries   = 40_000 // that are signed for each generation
	logAppenders = 512    // that wait for a receipt each
)

// measureLogAppend appends entries that were verified before, with all that the first generation
// makes of each: its signed entry timestamp, the encrypted proposal and the audit row.
func (b *bench) measureLogAppend(ctx context.Context, proposals [][]byte) error {
	b.say("verifying %d entries", len(proposals))
	entries, err := prepare(len(proposals), func(i int) (log.Entry, error) {
		p, err := rekor.Propose(ctx, proposals[i])
		if err != nil {
			return log.Entry{}, err
		}
		return log.Entry{Body: p.Body, Proposed: proposals[i], Keys: p.Keys, Identity: "bench"}, nil
	})
	if err != nil {
		return err
	}
	var rate, tail sample
	if err := b.inTurns(ctx, func() error { return b.logAppend(ctx, entries, &rate, &tail) }); err != nil {
		return err
	}
	b.rows = append(b.rows,
		row{what: fmt.Sprintf("`Log.Append` of prepared entries, %d appenders, synced", logAppenders), ours: rate.String() + " entries/s", goal: "> 10,000/s"},
		row{what: "99 % of these have their receipt within", ours: tail.String() + " ms", goal: "< 250 ms"})
	return nil
}

func (b *bench) logAppend(ctx context.Context, entries []log.Entry, rate, tail *sample) (err error) {
	dir := filepath.Join(b.dir, "log-append")
	defer os.RemoveAll(dir)
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	db, err := storage.Create(filepath.Join(dir, "db"), storage.Options{
		SearchKeys: rekor.SearchKeys, ReceiptKeys: rekor.ReceiptKeys, SearchVersion: rekor.SearchVersion, // as the daemon
	})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	newest, err := storage.OpenNewest(filepath.Join(dir, "newest"), storage.Options{})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, newest.Close()) }()
	config, verify, err := appendConfig()
	if err != nil {
		return err
	}
	config.DB, config.Newest = db, newest
	l, err := log.Create(config)
	if err != nil {
		return err
	}
	running, stop := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() { ended <- l.Run(running) }()
	defer func() { stop(); err = errors.Join(err, <-ended) }()

	took := make([]time.Duration, len(entries))
	receipts := make([]log.Receipt, len(entries))
	var next atomic.Int64
	var appenders errgroup.Group
	start := time.Now()
	for range logAppenders {
		appenders.Go(func() (err error) {
			for i := next.Add(1) - 1; i < int64(len(entries)) && err == nil; i = next.Add(1) - 1 {
				began := time.Now()
				receipts[i], err = l.Append(ctx, entries[i])
				took[i] = time.Since(began)
			}
			return err
		})
	}
	if err := appenders.Wait(); err != nil {
		return err
	}
	rate.add(float64(len(entries)) / time.Since(start).Seconds())
	slices.Sort(took)
	tail.add(1000 * took[len(took)*99/100].Seconds())
	b.say("%-40s %8.0f entries/s, p99 %.0f ms", "Log.Append", rate.last(), tail.last())
	for i := 0; i < len(entries); i += 100 {
		if err := verify(&entries[i], &receipts[i]); err != nil {
			return fmt.Errorf("receipt of entry %d: %w", receipts[i].Index, err)
		}
	}
	return nil
}

// appendConfig is a log with the promises of the first generation, and what verifies its receipts.
func appendConfig() (config log.Config, verify func(*log.Entry, *log.Receipt) error, err error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return config, nil, err
	}
	signer, err := signature.LoadECDSASigner(key, crypto.SHA256)
	if err != nil {
		return config, nil, err
	}
	logID, err := rekor.LogID(key.Public())
	if err != nil {
		return config, nil, err
	}
	config.Origin = origin
	config.Promise = func(index uint64, at int64, e *log.Entry) ([]byte, error) {
		entry := rekor.Entry{Body: e.Body, IntegratedTime: at, LogID: logID, LogIndex: index}
		if err := entry.SignSET(signer); err != nil {
			return nil, err
		}
		return rekor.EncodeReceipt(&entry, e.Keys), nil
	}
	// Checkpoints, one a batch, by a key of the kind that x/mod has.
	private, vkey, err := note.GenerateKey(nil, origin)
	if err != nil {
		return config, nil, err
	}
	noteSigner, err := note.NewSigner(private)
	if err != nil {
		return config, nil, err
	}
	verifier, err := note.NewVerifier(vkey)
	if err != nil {
		return config, nil, err
	}
	config.Signers, config.Verifiers = []note.Signer{noteSigner}, []note.Verifier{verifier}
	secret := make([]byte, log.ProposalKeySize)
	rand.Read(secret)
	if config.ProposalKey, err = log.NewProposalKey(secret); err != nil {
		return config, nil, err
	}
	verify = func(e *log.Entry, r *log.Receipt) error {
		entry := rekor.Entry{Body: e.Body, LogID: logID, LogIndex: r.Index}
		if _, err := rekor.DecodeReceipt(&entry, r.Promise); err != nil {
			return err
		}
		if _, err := note.Open(r.Checkpoint.Raw, note.VerifierList(verifier)); err != nil {
			return err
		}
		return errors.Join(entry.VerifySET(key.Public()), verifyInclusion(e.Body, r))
	}
	return config, verify, nil
}
