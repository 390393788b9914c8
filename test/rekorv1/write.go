package rekorv1

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"

	"golang.org/x/sync/errgroup"
)

// writers is how many writes wait for their entry's place at a time.
const writers = 64

// Entry is what was signed with its place in the log.
type Entry struct {
	Signed
	UUID     string // 80 hex digits
	LogIndex uint64 // virtual
	Answer   []byte // of the write: JSON, {UUID: entry}
}

// Write uploads what was signed to the active shard.
func (l *Log) Write(ctx context.Context, signed Signed) (Entry, error) {
	return Write(ctx, l.URL, signed)
}

// Write uploads what was signed to any log that speaks Rekor v1; at is its address, without a path.
func Write(ctx context.Context, at string, signed Signed) (Entry, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, at+"/api/v1/log/entries", bytes.NewReader(signed.Proposal))
	if err != nil {
		return Entry{}, err
	}
	request.Header.Set("Content-Type", "application/json")
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return Entry{}, err
	}
	defer response.Body.Close()
	answer, err := io.ReadAll(response.Body)
	if err != nil {
		return Entry{}, err
	}
	if response.StatusCode != http.StatusCreated {
		return Entry{}, fmt.Errorf("write to %s: %s\n%s", at, response.Status, answer)
	}
	var stored map[string]struct{ LogIndex *uint64 }
	if err := json.Unmarshal(answer, &stored); err != nil {
		return Entry{}, err
	}
	for uuid, entry := range stored {
		if len(stored) == 1 && entry.LogIndex != nil {
			return Entry{Signed: signed, UUID: uuid, LogIndex: *entry.LogIndex, Answer: answer}, nil
		}
	}
	return Entry{}, fmt.Errorf("write to %s: answered %s", at, answer)
}

// Fill signs n artifacts with one plain key and writes a hashedrekord of each. It returns
// them in the order of the log.
func (l *Log) Fill(ctx context.Context, n int) ([]Entry, error) { return Fill(ctx, l.URL, n) }

// Fill does the same with any log that speaks Rekor v1; at is its address, without a path.
func Fill(ctx context.Context, at string, n int) ([]Entry, error) {
	signer, err := NewSigner()
	if err != nil {
		return nil, err
	}
	entries := make([]Entry, n)
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(writers)
	for i := range entries {
		group.Go(func() error {
			signed, err := signer.HashedRekord(fmt.Appendf(nil, "artifact %d of %d", i, n))
			if err != nil {
				return err
			}
			entries[i], err = Write(ctx, at, signed)
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	slices.SortFunc(entries, func(a, b Entry) int { return int(a.LogIndex) - int(b.LogIndex) })
	return entries, nil
}
