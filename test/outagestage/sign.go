package outagestage

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"

	"golang.org/x/sync/errgroup"

	"github.com/understudy-log/understudy/test/rekorv1"
)

// SignPrivately has n artifacts signed and logged in the private log, half of them in each generation, and
// returns their digests in hex.
func (s *Stage) SignPrivately(ctx context.Context, n int) (digests []string, err error) {
	var older, newer []string
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error {
		entries, err := rekorv1.Fill(ctx, s.Private1, n/2)
		for _, e := range entries {
			older = append(older, digestHex(e.Artifact))
		}
		return err
	})
	group.Go(func() error {
		entries, err := s.Rekor2.WriteTo(ctx, s.Private2, n-n/2, nil)
		for _, e := range entries {
			newer = append(newer, digestHex(e.Artifact))
		}
		return err
	})
	err = group.Wait()
	return append(older, newer...), err
}

// Refused tries to log something in the private log, in each generation, and returns an error unless both
// refuse with 503.
func (s *Stage) Refused(ctx context.Context) error {
	signer, err := rekorv1.NewSigner()
	if err != nil {
		return err
	}
	signed, err := signer.HashedRekord([]byte("one that is too early, or too late"))
	if err != nil {
		return err
	}
	for url, proposal := range map[string][]byte{
		s.Private1 + "/api/v1/log/entries": signed.Proposal,
		s.Private2 + "/api/v2/log/entries": []byte(`{"hashedRekordRequestV002":{}}`),
	} {
		request, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(proposal))
		if err != nil {
			return err
		}
		request.Header.Set("Content-Type", "application/json")
		answer, err := http.DefaultClient.Do(request)
		if err != nil {
			return err
		}
		text, err := io.ReadAll(answer.Body)
		answer.Body.Close()
		if err != nil || answer.StatusCode != http.StatusServiceUnavailable {
			return fmt.Errorf("POST %s: %s, want 503: %s %v", url, answer.Status, text, err)
		}
	}
	return nil
}

// PublicCounts returns how often each digest is logged in the public logs, as they say themselves: every entry
// of both is read from the servers.
func (s *Stage) PublicCounts(ctx context.Context) (map[string]int, error) {
	counts := map[string]int{}
	if err := s.countV1(ctx, counts); err != nil {
		return nil, err
	}
	return counts, s.countV2(ctx, counts)
}

// countV1 reads the entries of Rekor v1 from the first one that was not there in the beginning.
func (s *Stage) countV1(ctx context.Context, counts map[string]int) error {
	var info struct{ TreeSize uint64 }
	data, err := readAll(ctx, s.Rekor1.URL+"/api/v1/log")
	if err == nil {
		err = json.Unmarshal(data, &info)
	}
	if err != nil {
		return err
	}
	const batch = 10 // at most, in one request
	for first := s.V1[len(s.V1)-1].LogIndex + 1; first < info.TreeSize; first += batch {
		var indexes []uint64
		for i := first; i < min(first+batch, info.TreeSize); i++ {
			indexes = append(indexes, i)
		}
		list, err := retrieve(ctx, s.Rekor1.URL, indexes)
		if err != nil {
			return err
		}
		if len(list) != len(indexes) {
			return fmt.Errorf("asked Rekor v1 for %d entries, got %d", len(indexes), len(list))
		}
		for _, body := range list {
			counts[digestInV1(body)]++
		}
	}
	return nil
}

// retrieve asks a log that speaks Rekor v1 for the bodies of entries.
func retrieve(ctx context.Context, url string, indexes []uint64) (bodies [][]byte, err error) {
	ask, err := json.Marshal(map[string]any{"logIndexes": indexes})
	if err != nil {
		return nil, err
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, url+"/api/v1/log/entries/retrieve", bytes.NewReader(ask))
	if err != nil {
		return nil, err
	}
	request.Header.Set("Content-Type", "application/json")
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		return nil, err
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("retrieve from %s: %s", url, answer.Status)
	}
	var list []map[string]struct{ Body []byte }
	if err := json.NewDecoder(answer.Body).Decode(&list); err != nil {
		return nil, err
	}
	for _, one := range list {
		for _, e := range one {
			bodies = append(bodies, e.Body)
		}
	}
	return bodies, nil
}

// digestInV1 returns the digest in the body of a hashedrekord; "" if it is something else.
func digestInV1(body []byte) string {
	var entry struct {
		Spec struct {
			Data struct {
				Hash struct{ Value string }
			}
		}
	}
	if json.Unmarshal(body, &entry) != nil {
		return ""
	}
	return entry.Spec.Data.Hash.Value
}

// countV2 reads all entries of Rekor v2 over its tiles.
func (s *Stage) countV2(ctx context.Context, counts map[string]int) error {
	return eachEntry(ctx, s.Rekor2.ReadURL, func(body []byte) { counts[digestInV2(body)]++ })
}

// eachEntry reads all entries of a log over its tiles; at is the prefix of checkpoint and tile/...
func eachEntry(ctx context.Context, at string, do func(body []byte)) error {
	checkpoint, err := readAll(ctx, at+"/checkpoint")
	if err != nil {
		return err
	}
	size, err := sizeOf(checkpoint)
	if err != nil {
		return err
	}
	const width = 256 // of a full bundle
	for n := uint64(0); n*width < size; n++ {
		bundle, err := readAll(ctx, fmt.Sprintf("%s/tile/entries/%s%s", at, tilePath(n), partial(min(width, size-n*width))))
		if err != nil {
			return err
		}
		for len(bundle) > 0 {
			if len(bundle) < 2 || len(bundle) < 2+int(binary.BigEndian.Uint16(bundle)) {
				return errors.New("a bundle of entries is cut off")
			}
			length := 2 + int(binary.BigEndian.Uint16(bundle))
			do(bundle[2:length])
			bundle = bundle[length:]
		}
	}
	return nil
}

// sizeOf returns the size that a checkpoint is for.
func sizeOf(checkpoint []byte) (uint64, error) {
	lines := strings.SplitN(string(checkpoint), "\n", 3)
	if len(lines) < 3 {
		return 0, fmt.Errorf("a strange checkpoint: %q", checkpoint)
	}
	return strconv.ParseUint(lines[1], 10, 64)
}

// tilePath is the number of a tile in a path; so few are here that it has one part.
func tilePath(n uint64) string { return fmt.Sprintf("%03d", n) }

func partial(width uint64) string {
	if width == 256 {
		return ""
	}
	return fmt.Sprintf(".p/%d", width)
}

// digestInV2 returns the digest in the body of a hashedrekord; "" if it is something else.
func digestInV2(body []byte) string {
	var entry struct {
		Spec struct {
			HashedRekordV002 struct {
				Data struct{ Digest []byte }
			}
		}
	}
	if json.Unmarshal(body, &entry) != nil {
		return ""
	}
	return hex.EncodeToString(entry.Spec.HashedRekordV002.Data.Digest)
}

// Once returns an error unless each of some digests is counted exactly once.
func Once(counts map[string]int, digests []string) error {
	lacking, twice := 0, 0
	for _, digest := range digests {
		switch n := counts[digest]; {
		case n == 0:
			lacking++
		case n > 1:
			twice++
		}
	}
	if lacking+twice > 0 {
		return fmt.Errorf("of %d entries %d are not in the public logs, and %d are there more than once", len(digests), lacking, twice)
	}
	return nil
}

func digestOf(artifact []byte) [sha256.Size]byte { return sha256.Sum256(artifact) }

func digestHex(artifact []byte) string {
	digest := digestOf(artifact)
	return hex.EncodeToString(digest[:])
}
