//go:build linux

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"
)

// readers is how many clients read at once, each one request after the other, for readTime.
const (
	readers  = 64
	readTime = 5 * time.Second
)

// read is one kind of request to Rekor v1's API, about random entries of the frozen shard.
type read struct {
	name    string
	request func(ctx context.Context, url string) (*http.Request, error)
}

func (r *rekorV1) readEntry(ctx context.Context, url string) (*http.Request, error) {
	return http.NewRequestWithContext(ctx, http.MethodGet, fmt.Sprintf("%s/api/v1/log/entries?logIndex=%d", url, rand.IntN(frozenSize)), nil)
}

func (r *rekorV1) readBatch(ctx context.Context, url string) (*http.Request, error) {
	indexes := make([]int, rekorV1Batch)
	for i := range indexes {
		indexes[i] = rand.IntN(frozenSize)
	}
	return retrieve(ctx, url, indexes)
}

func (r *rekorV1) readProof(ctx context.Context, url string) (*http.Request, error) {
	first := 1 + rand.IntN(frozenSize)
	last := first + rand.IntN(frozenSize-first+1)
	return http.NewRequestWithContext(ctx, http.MethodGet,
		fmt.Sprintf("%s/api/v1/log/proof?firstSize=%d&lastSize=%d&treeID=%d", url, first, last, r.frozen.TreeID), nil)
}

// retrieve asks for entries by their virtual indexes.
func retrieve(ctx context.Context, url string, indexes []int) (*http.Request, error) {
	body, err := json.Marshal(map[string][]int{"logIndexes": indexes})
	if err != nil {
		return nil, err
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, url+"/api/v1/log/entries/retrieve", bytes.NewReader(body))
	if err == nil {
		request.Header.Set("Content-Type", "application/json")
	}
	return request, err
}

// measureReads has many clients read from a mirror and from Rekor, in turns: as fast as they
// are answered, and then from the mirror with pauses, so that all together ask as often as the
// goal wants.
func (b *bench) measureReads(ctx context.Context, r *rekorV1, mirror *daemon, kinds ...read) error {
	const peer, goal = "rekor-server 1.5.4 on Trillian and MariaDB", 20
	for _, kind := range kinds {
		var ours, theirs, ourTail, theirTail, pacedTail sample
		err := b.inTurns(ctx, func() error {
			return b.readAtOnce(ctx, "Rekor v1", r.log.URL, kind, 0, &theirs, &theirTail)
		}, func() error {
			return b.readAtOnce(ctx, "the mirror", mirror.url, kind, 0, &ours, &ourTail)
		}, func() error {
			pause := time.Duration(readers * float64(time.Second) / (goal * theirs.last()))
			return b.readAtOnce(ctx, "the mirror, with pauses", mirror.url, kind, pause, new(sample), &pacedTail)
		})
		if err != nil {
			return fmt.Errorf("%s: %w", kind.name, err)
		}
		b.compare(fmt.Sprintf("%s, %d clients", kind.name, readers), "requests/s", ours, peer, theirs, fmt.Sprintf("≥ %d", goal))
		b.rows = append(b.rows,
			row{what: "99 % of these are answered within", ours: ourTail.String() + " ms", peer: peer, theirs: theirTail.String() + " ms"},
			row{what: fmt.Sprintf("99 %% of %d times the peer's requests/s are answered within", goal), ours: pacedTail.String() + " ms", goal: "< 10 ms"})
	}
	return nil
}

// readAtOnce has all readers read for readTime. Each begins a request every pause, or as soon
// as the last one was answered; what is late counts from when it should have begun.
func (b *bench) readAtOnce(ctx context.Context, who, url string, kind read, pause time.Duration, rate, tail *sample) error {
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: readers, DisableCompression: true}}
	defer client.CloseIdleConnections()
	took := make([][]time.Duration, readers)
	group, ctx := errgroup.WithContext(ctx)
	start := time.Now()
	for i := range took {
		group.Go(func() error {
			begin := start.Add(pause * time.Duration(i) / readers)
			for begin.Sub(start) < readTime {
				time.Sleep(time.Until(begin))
				if err := readOnce(ctx, client, url, kind); err != nil {
					return fmt.Errorf("%s: %w", who, err)
				}
				took[i] = append(took[i], time.Since(begin))
				if begin = begin.Add(pause); pause == 0 {
					begin = time.Now()
				}
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	elapsed := time.Since(start)
	all := slices.Concat(took...)
	slices.Sort(all)
	rate.add(float64(len(all)) / elapsed.Seconds())
	tail.add(1000 * all[len(all)*99/100].Seconds())
	b.say("%-28s %8.0f requests/s, p99 %.1f ms: %s", who, rate.last(), tail.last(), kind.name)
	return nil
}

func readOnce(ctx context.Context, client *http.Client, url string, kind read) error {
	request, err := kind.request(ctx, url)
	if err != nil {
		return err
	}
	request.Header.Set("Accept", "application/json")
	answer, err := client.Do(request)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		var body bytes.Buffer
		io.Copy(&body, io.LimitReader(answer.Body, 500))
		return fmt.Errorf("%s: %s", answer.Status, &body)
	}
	_, err = io.Copy(io.Discard, answer.Body)
	return err
}
