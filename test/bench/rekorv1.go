//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	understudyv1 "github.com/understudy-log/understudy/proto/understudy/v1"
	"github.com/understudy-log/understudy/test/rekorv1"
)

// A real Rekor v1 takes some 120 entries a second here, and gives some 200.
const (
	frozenSize    = 2_000 // entries of the frozen shard
	rekorV1Budget = 8     // requests/s: what understudy allows itself without a configuration
	rekorV1Batch  = 10    // entries that one request gives
)

// fillLimit is several times what filling takes within the budget.
const fillLimit = 2 * time.Minute

// rekorV1 is a real Rekor v1 with a frozen shard, and a mirror of it.
type rekorV1 struct {
	log    *rekorv1.Log
	frozen rekorv1.Shard
	asked  atomic.Int64 // requests that the mirror has sent
	relay  *http.Server // counts them
	url    string       // of relay
	copied *daemon      // holds the frozen shard: the last filling left it behind
}

// measureRekorV1 measures beside a real Rekor v1: how fast its frozen shard is copied within
// a budget, and then reading from the copy.
func (b *bench) measureRekorV1(ctx context.Context) error {
	dir := filepath.Join(b.dir, "rekor-v1")
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	r := &rekorV1{}
	var err error
	r.log, err = rekorv1.Start(ctx, rekorv1.Config{Dir: dir, Hostname: origin})
	if errors.Is(err, rekorv1.ErrNoMariaDB) {
		b.say("NOTICE: nothing is compared with Rekor v1: %v", err)
		return nil
	}
	if err != nil {
		return err
	}
	defer r.log.Close()
	b.say("writing %d entries to Rekor v1", frozenSize)
	if _, err := r.log.Fill(ctx, frozenSize); err != nil {
		return err
	}
	if err := r.log.RollOver(ctx); err != nil {
		return err
	}
	r.frozen = r.log.Shards[0]
	if err := r.startRelay(); err != nil {
		return err
	}
	defer r.relay.Close()
	if err := b.measureFilling(ctx, r); err != nil {
		return err
	}
	if _, err := b.serve(ctx, r.copied, r.filled); err != nil {
		return err
	}
	defer r.copied.end(syscall.SIGTERM)
	err = b.measureReads(ctx, r, r.copied,
		read{"Rekor v1's `GET log/entries?logIndex=`, of a copied shard", r.readEntry},
		read{"Rekor v1's `POST log/entries/retrieve` of 10, of a copied shard", r.readBatch},
		read{"Rekor v1's `GET log/proof`, of a copied shard", r.readProof})
	if err != nil {
		return err
	}
	pinned, err := b.pinAll(ctx, r)
	if err != nil {
		return err
	}
	defer pinned.end(syscall.SIGTERM)
	return b.measureReads(ctx, r, pinned,
		read{"Rekor v1's `GET log/entries?logIndex=`, of pinned entries", r.readEntry},
		read{"Rekor v1's `POST log/entries/retrieve` of 10, of pinned entries", r.readBatch})
}

// pinAll runs a mirror of what users asked for, and is the user who asks for everything.
func (b *bench) pinAll(ctx context.Context, r *rekorV1) (*daemon, error) {
	d, err := writeDaemon(filepath.Join(b.dir, "understudy-pinned"), r.config("coverage: pinned, requests_per_second: 1000"))
	if err != nil {
		return nil, err
	}
	if _, err := b.serve(ctx, d, r.follows); err != nil {
		return nil, err
	}
	for at := 0; at < frozenSize && err == nil; at += rekorV1Batch {
		indexes := make([]int, rekorV1Batch)
		for i := range indexes {
			indexes[i] = at + i
		}
		err = readOnce(ctx, http.DefaultClient, d.url, read{request: func(ctx context.Context, url string) (*http.Request, error) {
			return retrieve(ctx, url, indexes)
		}})
	}
	if err != nil {
		d.end(syscall.SIGTERM)
		return nil, err
	}
	return d, nil
}

// config is the keys of the log for a mirror.
func (r *rekorV1) config(coverage string) string {
	var keys []string
	for _, file := range r.log.PublicKeyFiles() {
		keys = append(keys, strconv.Quote(file))
	}
	return fmt.Sprintf("source: rekor-v1, url: %q, public_keys: [%s], %s", r.url, strings.Join(keys, ", "), coverage)
}

// startRelay counts the requests to Rekor.
func (r *rekorV1) startRelay() error {
	target, err := url.Parse(r.log.URL)
	if err != nil {
		return err
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	r.url = "http://" + listener.Addr().String()
	r.relay = &http.Server{Handler: &httputil.ReverseProxy{Rewrite: func(p *httputil.ProxyRequest) {
		r.asked.Add(1)
		p.SetURL(target)
	}}}
	go r.relay.Serve(listener)
	return nil
}

// measureFilling copies the frozen shard into a new folder.
func (b *bench) measureFilling(ctx context.Context, r *rekorV1) error {
	var rate, share, requests sample
	config := r.config(fmt.Sprintf("coverage: pinned, shards: {\"%d\": full}, requests_per_second: %d", r.frozen.TreeID, rekorV1Budget))
	err := b.inTurns(ctx, func() error {
		d, err := writeDaemon(filepath.Join(b.dir, "understudy-v1"), config)
		if err != nil {
			return err
		}
		r.copied = d
		before := r.asked.Load()
		limited, cancel := context.WithTimeout(ctx, fillLimit)
		defer cancel()
		took, err := b.serve(limited, d, r.filled)
		if err != nil {
			return err
		}
		requests.add(float64(r.asked.Load() - before))
		d.end(syscall.SIGTERM)
		rate.add(frozenSize / took.Seconds())
		share.add(100 * rate.last() / (rekorV1Budget * rekorV1Batch))
		b.say("%-28s %8.1f entries/s with %.0f requests", "filling a frozen shard", rate.last(), requests.last())
		return nil
	})
	if err != nil {
		return err
	}
	b.rows = append(b.rows,
		row{what: fmt.Sprintf("filling a frozen shard of Rekor v1 (%s entries) with %d requests/s", number(frozenSize), rekorV1Budget),
			ours: rate.String() + " entries/s", peer: "the budget of 10 entries a request", theirs: fmt.Sprintf("%d entries/s", rekorV1Budget*rekorV1Batch),
			ratio: fmt.Sprintf("%.2f", share.median()/100), goal: "≥ 0.95"},
		row{what: "requests to Rekor v1 for all of that", ours: requests.String(), peer: "10 entries a request", theirs: number(frozenSize / rekorV1Batch)})
	return nil
}

// filled tells whether a mirror holds the frozen shard.
func (r *rekorV1) filled(ctx context.Context, d *daemon) bool {
	return r.status(ctx, d).GetMirrorSize() == frozenSize
}

// follows tells whether a mirror has the newest checkpoint of the frozen shard.
func (r *rekorV1) follows(ctx context.Context, d *daemon) bool {
	return r.status(ctx, d).GetTreeSize() == frozenSize
}

// status is what a mirror says of the frozen shard; nil as long as it does not know it.
func (r *rekorV1) status(ctx context.Context, d *daemon) *understudyv1.Log {
	conn, err := grpc.NewClient(d.grpc, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return nil
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	answer, err := understudyv1.NewLogServiceClient(conn).ListLogs(ctx, &understudyv1.ListLogsRequest{})
	if err != nil {
		return nil
	}
	for _, log := range answer.GetLogs() {
		if log.GetOrigin() == r.log.Origin(r.frozen) {
			return log
		}
	}
	return nil
}
