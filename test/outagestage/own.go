package outagestage

import (
	"context"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"os"
	"slices"
	"time"

	"github.com/sigstore/sigstore-go/pkg/root"
	"github.com/sigstore/sigstore-go/pkg/tuf"
)

// SigningLogs returns the addresses of the logs that our own TUF repository tells signers now, as
// sigstore-go's TUF client sees them that has never seen any.
func (s *Stage) SigningLogs() ([]string, error) {
	first, err := os.ReadFile(s.RootFile)
	if err != nil {
		return nil, err
	}
	s.homes++
	cache, err := folder(s.config.Dir, fmt.Sprintf("cache%d", s.homes))
	if err != nil {
		return nil, err
	}
	client, err := tuf.New(&tuf.Options{Root: first, RepositoryBaseURL: s.URL + "/trust", CachePath: cache})
	if err != nil {
		return nil, err
	}
	config, err := root.GetSigningConfig(client)
	if err != nil {
		return nil, err
	}
	var urls []string
	for _, log := range config.RekorLogURLs() {
		urls = append(urls, log.URL)
	}
	slices.Sort(urls)
	return urls, nil
}

// PublicURLs are the addresses of the public logs, and PrivateURLs those of ours, as signers are told them.
func (s *Stage) PublicURLs() []string {
	return slices.Sorted(slices.Values([]string{s.Rekor1.URL, s.Rekor2.WriteURL()}))
}

// PrivateURLs are those of the private log.
func (s *Stage) PrivateURLs() []string {
	return slices.Sorted(slices.Values([]string{s.Private1, s.Private2}))
}

// UntilSigning waits until signers are told these logs, and returns when that was seen.
func (s *Stage) UntilSigning(ctx context.Context, limit time.Duration, urls []string) (time.Time, error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	for {
		got, err := s.SigningLogs()
		if err == nil && slices.Equal(got, urls) {
			return time.Now(), nil
		}
		select {
		case <-ctx.Done():
			return time.Time{}, fmt.Errorf("signers are told %v (%v), not %v", got, err, urls)
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// LogIDs returns the IDs of the logs in a TrustedRoot whose base URL has a host, as base64.
func LogIDs(trustedRootFile, baseURL string) (ids []string, err error) {
	trusted, err := root.NewTrustedRootFromPath(trustedRootFile)
	if err != nil {
		return nil, err
	}
	for id, log := range trusted.RekorLogs() {
		if log.BaseURL == baseURL {
			raw, err := hex.DecodeString(id)
			if err != nil {
				return nil, err
			}
			ids = append(ids, base64.StdEncoding.EncodeToString(raw))
		}
	}
	return ids, nil
}
