//go:build linux

package main

import (
	"context"
	"crypto"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"
	"time"

	logpb "github.com/sigstore/protobuf-specs/gen/pb-go/rekor/v1"
	rekornote "github.com/sigstore/rekor-tiles/v2/pkg/note"
	tilesverify "github.com/sigstore/rekor-tiles/v2/pkg/verify"
	"github.com/sigstore/rekor/pkg/generated/models"
	rekorverify "github.com/sigstore/rekor/pkg/verify"
	"github.com/sigstore/sigstore-go/pkg/root"
	"github.com/sigstore/sigstore/pkg/cryptoutils"
	"github.com/sigstore/sigstore/pkg/signature"
	"github.com/transparency-dev/merkle/proof"
	"github.com/transparency-dev/merkle/rfc6962"
	"golang.org/x/sync/errgroup"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/understudy-log/understudy/log"
	"github.com/understudy-log/understudy/test/rekor"
	"github.com/understudy-log/understudy/test/rekorv1"
	"github.com/understudy-log/understudy/test/tools/tool"
)

const (
	logWriters = 512             // that wait for an answer at once, each on a kept connection
	v1Writers  = 64              // the same for Rekor v1, which answers more of them with errors
	logTime    = 5 * time.Second // during which they begin requests
	logSample  = 50              // every so many answers one is verified
)

// writing is a server that takes entries.
type writing struct {
	who     string
	url     string // of POST
	clients int
	time    time.Duration
	verify  func(answer []byte) error
}

// measureLogV1 writes to the first generation and to a real Rekor v1.
func (b *bench) measureLogV1(ctx context.Context, proposals [][]byte) error {
	peer := fmt.Sprintf("rekor-server 1.5.4 on Trillian and MariaDB, %d clients", v1Writers)
	dir := filepath.Join(b.dir, "log-rekor-v1")
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	server, err := rekorv1.Start(ctx, rekorv1.Config{Dir: dir, Hostname: origin})
	if errors.Is(err, rekorv1.ErrNoMariaDB) {
		b.say("NOTICE: the private log is not compared with Rekor v1: %v", err)
		server = nil
	} else if err != nil {
		return err
	} else {
		defer server.Close()
	}
	var ours, theirs, ourTail, theirTail, cost sample
	theirProposals := proposals
	measurements := []func() error{func() error {
		l, end, err := b.privateLog(ctx)
		if err != nil {
			return err
		}
		defer end()
		return b.writePrivate(ctx, l, writing{"the private log, v1", l.v1 + "/api/v1/log/entries", logWriters, logTime, verifierV1(ctx, l.v1)}, proposals, &ours, &ourTail, &cost)
	}}
	if server != nil {
		measurements = append(measurements, func() error {
			used, err := b.writeAtOnce(ctx, writing{"Rekor v1", server.URL + "/api/v1/log/entries", v1Writers, logTime, verifierV1(ctx, server.URL)}, theirProposals, &theirs, &theirTail)
			theirProposals = theirProposals[used:] // it goes on, and takes nothing twice
			return err
		})
	}
	if err := b.inTurns(ctx, measurements...); err != nil {
		return err
	}
	what := fmt.Sprintf("Rekor v1's `POST log/entries`, %d clients", logWriters)
	if server == nil {
		b.rows = append(b.rows, row{what: what, ours: ours.String() + " entries/s", goal: "> 4,000/s"}, costRow(cost))
		return nil
	}
	b.compare(what, "entries/s", ours, peer, theirs, "> 4,000/s, ≥ 30")
	b.rows = append(b.rows, row{what: "99 % of these are answered within", ours: ourTail.String() + " ms", peer: peer, theirs: theirTail.String() + " ms"}, costRow(cost))
	return nil
}

// measureLogV2 writes to the second generation and to the real server, whose answers wait for its next
// checkpoint: with the interval that it has if nobody says otherwise, and with a short one.
func (b *bench) measureLogV2(ctx context.Context, proposals [][]byte) error {
	binary, err := tool.Path(ctx, "rekor-tiles")
	if err != nil {
		return err
	}
	var ours, ourTail, cost sample
	intervals := []time.Duration{10 * time.Second, 250 * time.Millisecond}
	theirs, theirTail := make([]sample, len(intervals)), make([]sample, len(intervals))
	measurements := []func() error{func() error {
		l, end, err := b.privateLog(ctx)
		if err != nil {
			return err
		}
		defer end()
		verify, err := verifierV2(l.trustedRoot, logV2Origin)
		if err != nil {
			return err
		}
		return b.writePrivate(ctx, l, writing{"the private log, v2", l.v2 + "/api/v2/log/entries", logWriters, logTime, verify}, proposals, &ours, &ourTail, &cost)
	}}
	for i, interval := range intervals {
		measurements = append(measurements, func() error {
			dir, err := os.MkdirTemp(b.dir, "rekor-tiles-")
			if err != nil {
				return err
			}
			defer os.RemoveAll(dir)
			server, err := rekor.Start(ctx, rekor.Config{Binary: binary, Dir: dir, Origin: logV2Origin, CheckpointInterval: interval})
			if err != nil {
				return err
			}
			defer server.Close()
			verify, err := verifierV2(server.TrustedRootFile, logV2Origin)
			if err != nil {
				return err
			}
			_, err = b.writeAtOnce(ctx, writing{fmt.Sprintf("rekor-tiles, checkpoints every %v", interval), server.WriteURL() + "/api/v2/log/entries", logWriters, max(logTime, 3*interval), verify}, proposals, &theirs[i], &theirTail[i])
			return err
		})
	}
	if err := b.inTurns(ctx, measurements...); err != nil {
		return err
	}
	for i, interval := range intervals {
		peer := fmt.Sprintf("rekor-tiles 2.3.0, POSIX, checkpoints every %v", interval)
		b.compare(fmt.Sprintf("Rekor v2's `POST log/entries`, %d clients", logWriters), "entries/s", ours, peer, theirs[i], "≥ 20")
		b.rows = append(b.rows, row{what: "99 % of these are answered within", ours: ourTail.String() + " ms", peer: peer, theirs: theirTail[i].String() + " ms"})
	}
	b.rows = append(b.rows, costRow(cost))
	return nil
}

// costRow says what does not depend on what else the machine does.
func costRow(cost sample) row {
	return row{what: "processor time of the daemon for each of these", ours: cost.String() + " µs"}
}

// writePrivate is writeAtOnce with the processor time of the daemon for each entry, in microseconds.
func (b *bench) writePrivate(ctx context.Context, l *privateLog, to writing, proposals [][]byte, rate, tail, cost *sample) error {
	before, err := l.processorTime()
	if err != nil {
		return err
	}
	logged, err := b.writeAtOnce(ctx, to, proposals, rate, tail)
	if err != nil {
		return err
	}
	after, err := l.processorTime()
	cost.add(float64((after - before).Microseconds()) / float64(logged))
	b.say("%-40s %8.0f µs of the daemon's processor time an entry", to.who, cost.last())
	return err
}

// writeAtOnce has all writers propose entries, each the next one as soon as it is answered, until the
// time is over or no entry is left. It returns how many were logged.
func (b *bench) writeAtOnce(ctx context.Context, to writing, proposals [][]byte, rate, tail *sample) (int, error) {
	took, samples := make([][]time.Duration, to.clients), make([][][]byte, to.clients)
	var next atomic.Int64
	group, ctx := errgroup.WithContext(ctx)
	posters := make([]*poster, to.clients)
	for w := range posters {
		p, hangUp, err := dialPoster(ctx, to.url)
		if err != nil {
			return 0, fmt.Errorf("%s: %w", to.who, err)
		}
		defer hangUp()
		posters[w] = p
	}
	start := time.Now()
	for w := range took {
		group.Go(func() error {
			for time.Since(start) < to.time {
				i := int(next.Add(1) - 1)
				if i >= len(proposals) {
					return nil
				}
				began := time.Now()
				answer, err := posters[w].post(proposals[i])
				if err != nil {
					return err
				}
				took[w] = append(took[w], time.Since(began))
				if i%logSample == 0 {
					samples[w] = append(samples[w], answer)
				}
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return 0, fmt.Errorf("%s: %w", to.who, err)
	}
	elapsed := time.Since(start)
	for _, answer := range slices.Concat(samples...) {
		if err := to.verify(answer); err != nil {
			return 0, fmt.Errorf("%s: %w\n%s", to.who, err, answer)
		}
	}
	all := slices.Sorted(slices.Values(slices.Concat(took...)))
	rate.add(float64(len(all)) / elapsed.Seconds())
	tail.add(1000 * all[len(all)*99/100].Seconds())
	b.say("%-40s %8.0f entries/s, p99 %.0f ms", to.who, rate.last(), tail.last())
	return len(all), nil
}

// verifierV1 verifies answers of a Rekor v1 as rekor-cli does: timestamp, proof and checkpoint.
func verifierV1(ctx context.Context, url string) func([]byte) error {
	return func(answer []byte) error {
		key, err := http.Get(url + "/api/v1/log/publicKey")
		if err != nil {
			return err
		}
		defer key.Body.Close()
		text, err := io.ReadAll(key.Body)
		if err != nil {
			return err
		}
		public, err := cryptoutils.UnmarshalPEMToPublicKey(text)
		if err != nil {
			return err
		}
		verifier, err := signature.LoadVerifier(public, crypto.SHA256)
		if err != nil {
			return err
		}
		var entries models.LogEntry
		if err := json.Unmarshal(answer, &entries); err != nil {
			return err
		}
		for _, entry := range entries {
			if err := rekorverify.VerifyLogEntry(ctx, &entry, verifier); err != nil {
				return err
			}
		}
		if len(entries) != 1 {
			return fmt.Errorf("%d entries", len(entries))
		}
		return nil
	}
}

// verifierV2 verifies answers of a Rekor v2 as rekor-tiles' client does: proof and checkpoint.
func verifierV2(trustedRoot, host string) (func([]byte) error, error) {
	trusted, err := root.NewTrustedRootFromPath(trustedRoot)
	if err != nil {
		return nil, err
	}
	for _, l := range trusted.RekorLogs() {
		at, err := url.Parse(l.BaseURL)
		if err != nil || at.Hostname() != host {
			continue
		}
		key, err := signature.LoadVerifier(l.PublicKey, crypto.SHA256)
		if err != nil {
			return nil, err
		}
		verifier, err := rekornote.NewNoteVerifier(host, key)
		if err != nil {
			return nil, err
		}
		return func(answer []byte) error {
			var entry logpb.TransparencyLogEntry
			if err := protojson.Unmarshal(answer, &entry); err != nil {
				return err
			}
			return tilesverify.VerifyLogEntry(&entry, verifier)
		}, nil
	}
	return nil, fmt.Errorf("%s has no log %s", trustedRoot, host)
}

// verifyInclusion verifies the proof of a receipt.
func verifyInclusion(body []byte, r *log.Receipt) error {
	hashes := make([][]byte, len(r.Proof))
	for i := range r.Proof {
		hashes[i] = r.Proof[i][:]
	}
	return proof.VerifyInclusion(rfc6962.DefaultHasher, r.Index, r.Checkpoint.Size, rfc6962.DefaultHasher.HashLeaf(body), hashes, r.Checkpoint.Root[:])
}
