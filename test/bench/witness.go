//go:build linux

package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/understudy-log/understudy/test/process"
	"github.com/understudy-log/understudy/test/witnesses"
)

const (
	witnessOrigins = 1000
	witnessSteps   = 20 // checkpoints of each
	witnessClients = 128
)

// measureWitness adds checkpoints of 1,000 logs over HTTP, as logs do: each waits for its
// cosignature before it sends the next one.
func (b *bench) measureWitness(ctx context.Context) error {
	b.say("signing %d checkpoints", witnessOrigins*witnessSteps)
	logs := make([]*witnesses.Log, witnessOrigins)
	requests := make([][][]byte, witnessOrigins)
	for i := range logs {
		name := fmt.Sprintf("log.example/%d", i)
		logs[i] = witnesses.NewLog(name, name)
		for n := range uint64(witnessSteps) {
			body := fmt.Sprintf("old %d\n", n)
			if n > 0 {
				for _, line := range logs[i].Proof(n, n+1) {
					body += line + "\n"
				}
			}
			requests[i] = append(requests[i], []byte(body+"\n"+logs[i].Checkpoint(n+1)))
		}
	}
	for _, kinds := range []struct {
		name  string
		keys  []byte
		steps int // of the second the peer would take minutes
	}{{"Ed25519", []byte{witnesses.Ed25519}, witnessSteps}, {"Ed25519 and ML-DSA-44", []byte{witnesses.Ed25519, witnesses.MLDSA44}, witnessSteps / 4}} {
		for i := range requests {
			requests[i] = requests[i][:kinds.steps]
		}
		var ours, theirs sample
		err := b.inTurns(ctx, func() error {
			url, end, err := b.witness(ctx, logs, kinds.keys)
			if err != nil {
				return err
			}
			defer end()
			return b.submit(ctx, &ours, "add-checkpoint, "+kinds.name, url, requests)
		}, func() error {
			dir, err := os.MkdirTemp(b.dir, "omniwitness-")
			if err != nil {
				return err
			}
			defer os.RemoveAll(dir)
			peer, err := witnesses.NewOmniwitness(ctx, dir, logs, kinds.keys...)
			if err != nil {
				return err
			}
			defer peer.Kill()
			if err := peer.Start(ctx); err != nil {
				return err
			}
			return b.submit(ctx, &theirs, "the same, omniwitness", peer.URL, requests)
		})
		if err != nil {
			return err
		}
		goal := "> 3,000/s"
		if len(kinds.keys) > 1 {
			goal = ""
		}
		b.compare(fmt.Sprintf("add-checkpoint over HTTP, %d logs, synced, cosigned with %s", witnessOrigins, kinds.name), "checkpoints/s", ours, "transparency-dev's witness", theirs, goal)
	}
	return nil
}

// witness starts the daemon as a witness of logs, in an empty folder.
func (b *bench) witness(ctx context.Context, logs []*witnesses.Log, kinds []byte) (url string, end func(), err error) {
	dir := filepath.Join(b.dir, "witness")
	if err := os.RemoveAll(dir); err != nil {
		return "", nil, err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", nil, err
	}
	addrs, err := process.FreeAddrs(3)
	if err != nil {
		return "", nil, err
	}
	list, keys := "logs/v0\n", []string{}
	for _, l := range logs {
		list += fmt.Sprintf("vkey %s\norigin none\n", l.VKey)
	}
	for i, kind := range kinds {
		private, _, err := witnesses.NewKey(kind, "witness.example/w1")
		if err != nil {
			return "", nil, err
		}
		name := fmt.Sprintf("w%d.key", i)
		if err := os.WriteFile(filepath.Join(dir, name), []byte(private), 0o600); err != nil {
			return "", nil, err
		}
		keys = append(keys, name)
	}
	config := filepath.Join(dir, "understudy.yaml")
	text := fmt.Sprintf("data_dir: ./data\nlisten: {http: %s, grpc: %s, admin: %s}\nwitness: {keys: [%s], log_list: list}\n", addrs[0], addrs[1], addrs[2], strings.Join(keys, ", "))
	if err := os.WriteFile(filepath.Join(dir, "list"), []byte(list), 0o600); err != nil {
		return "", nil, err
	}
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		return "", nil, err
	}
	child, err := b.start(b.tools.understudy, "serve", "--config", config)
	if err != nil {
		return "", nil, err
	}
	url = "http://" + addrs[0] + "/witness"
	if err := process.Until(ctx, func(ctx context.Context) error {
		answer, err := http.Get("http://" + addrs[2] + "/healthz")
		if err == nil {
			answer.Body.Close()
		}
		return err
	}); err != nil {
		child.end(syscall.SIGKILL)
		return "", nil, err
	}
	return url, func() { child.end(syscall.SIGTERM) }, nil
}

// submit sends all requests, those of one log one after the other.
func (b *bench) submit(ctx context.Context, s *sample, name, url string, requests [][][]byte) error {
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: witnessClients}}
	defer client.CloseIdleConnections()
	logs, failed := make(chan [][]byte), make(chan error, witnessClients)
	var running sync.WaitGroup
	start := time.Now()
	for range witnessClients {
		running.Go(func() {
			for log := range logs {
				for _, body := range log {
					if err := add(ctx, client, url, body); err != nil {
						failed <- err
						for range logs { // the sender waits
						}
						return
					}
				}
			}
		})
	}
	for _, log := range requests {
		logs <- log
	}
	close(logs)
	running.Wait()
	elapsed := time.Since(start)
	select {
	case err := <-failed:
		return fmt.Errorf("%s: %w", name, err)
	default:
	}
	s.add(float64(len(requests)*len(requests[0])) / elapsed.Seconds())
	b.say("%-40s %8.0f checkpoints/s", name, s.last())
	return nil
}

// add sends one request, again as long as the witness says that it is too much.
func add(ctx context.Context, client *http.Client, url string, body []byte) error {
	for {
		request, err := http.NewRequestWithContext(ctx, http.MethodPost, url+"/add-checkpoint", bytes.NewReader(body))
		if err != nil {
			return err
		}
		answer, err := client.Do(request)
		if err != nil {
			return err
		}
		text, err := io.ReadAll(answer.Body)
		answer.Body.Close()
		switch {
		case err != nil:
			return err
		case answer.StatusCode == http.StatusTooManyRequests:
			time.Sleep(time.Millisecond)
		case answer.StatusCode != http.StatusOK || !bytes.HasPrefix(text, []byte("— ")):
			return fmt.Errorf("%s: %s", answer.Status, text)
		default:
			return nil
		}
	}
}
