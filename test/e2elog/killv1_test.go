package e2elog

import (
	"bytes"
	"context"
	"crypto"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"testing"

	"github.com/sigstore/rekor/pkg/client"
	gen "github.com/sigstore/rekor/pkg/generated/client"
	"github.com/sigstore/rekor/pkg/generated/client/tlog"
	"github.com/sigstore/rekor/pkg/generated/models"
	"github.com/sigstore/rekor/pkg/util"
	"github.com/sigstore/rekor/pkg/verify"
	"github.com/sigstore/sigstore/pkg/signature"

	"github.com/understudy-log/understudy/test/process"
	"github.com/understudy-log/understudy/test/rekorv1"
)

// direct returns the address behind a URL, without the proxy.
func direct(at string) string { return "http://" + names.lookup(must(url.Parse(at)).Hostname()) }

// post writes as clients do and returns status, body and headers.
func post(ctx context.Context, client *http.Client, at string, body []byte) (*http.Response, []byte, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, at, bytes.NewReader(body))
	if err != nil {
		return nil, nil, err
	}
	request.Header.Set("Content-Type", "application/json")
	answer, err := client.Do(request)
	if err != nil {
		return nil, nil, err
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	return answer, text, err
}

// killedV1 is the v1 API, checked by Rekor's own verification.
type killedV1 struct {
	http     *http.Client
	at       func() string // it may move when the real one is started again
	client   *gen.Rekor
	verifier signature.Verifier
	signer   *rekorv1.Signer
	newest   *util.SignedCheckpoint
}

func newKilledV1(t *testing.T, s *stage) *killedV1 {
	t.Helper()
	return &killedV1{
		http:     &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 2 * killWriters}},
		at:       func() string { return direct(s.v1) },
		client:   must(client.GetRekorClient(s.v1)),
		verifier: must(signature.LoadVerifier(s.log(t, 1).PublicKey, crypto.SHA256)),
		signer:   must(rekorv1.NewSigner()),
	}
}

func (k *killedV1) propose() proposal {
	return must(k.signer.HashedRekord([]byte(rand.Text()))).Proposal
}

func (k *killedV1) write(ctx context.Context, p proposal) (receipt, error) {
	answer, body, err := post(ctx, k.http, k.at()+"/api/v1/log/entries", p)
	if err != nil {
		return receipt{}, err
	}
	switch answer.StatusCode {
	case http.StatusCreated:
		entry, uuid, err := k.entry(ctx, body)
		if err == nil && answer.Header.Get("ETag") != uuid { // bare: clients find the entry by it
			err = fmt.Errorf("the ETag is %s, and the entry %s", answer.Header.Get("ETag"), uuid)
		}
		return entry, wrong(err)
	case http.StatusConflict:
		at := answer.Header.Get("Location")
		answer, err := k.get(ctx, at)
		if asked == realServers { // it knows what is in no tree yet
			err = process.Until(ctx, func(ctx context.Context) error {
				answer, err = k.get(ctx, at)
				return err
			})
		}
		if err != nil {
			return receipt{}, err
		}
		entry, _, err := k.entry(ctx, answer)
		return entry, wrong(err)
	}
	return receipt{}, refused(answer, body)
}

// refused is the error of an answer that is no receipt. A log may only say that it cannot just now.
func refused(answer *http.Response, body []byte) error {
	err := fmt.Errorf("%s: %s", answer.Status, body)
	if asked == realServers || answer.StatusCode == http.StatusTooManyRequests || answer.StatusCode == http.StatusServiceUnavailable {
		return err
	}
	return wrong(err)
}

func (k *killedV1) get(ctx context.Context, path string) ([]byte, error) {
	if at, err := url.Parse(path); err == nil {
		path = at.RequestURI() // Location may be absolute
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, k.at()+path, nil)
	if err != nil {
		return nil, err
	}
	answer, err := k.http.Do(request)
	if err != nil {
		return nil, err
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	if err == nil && answer.StatusCode != http.StatusOK {
		err = fmt.Errorf("GET %s: %s: %s", path, answer.Status, body)
	}
	return body, err
}

// wrong says that an answer must not be, if there is an error.
func wrong(err error) error {
	if err != nil {
		return wrongError{err}
	}
	return nil
}

// entry verifies an entry with promise, proof and checkpoint.
func (k *killedV1) entry(ctx context.Context, answer []byte) (receipt, string, error) {
	var entries models.LogEntry
	if err := json.Unmarshal(answer, &entries); err != nil || len(entries) != 1 {
		return receipt{}, "", fmt.Errorf("answered %s: %w", answer, err)
	}
	for uuid, entry := range entries {
		if err := verify.VerifyLogEntry(ctx, &entry, k.verifier); err != nil {
			return receipt{}, "", fmt.Errorf("entry %s: %w", uuid, err)
		}
		body, err := base64.StdEncoding.DecodeString(entry.Body.(string))
		return receipt{index: uint64(*entry.LogIndex), body: body}, uuid, err
	}
	panic("there is one")
}

func (k *killedV1) advance(ctx context.Context) (err error) {
	if k.newest != nil {
		k.newest, err = verify.VerifyCurrentCheckpoint(ctx, k.client, k.verifier, k.newest)
		return err
	}
	answer, err := k.client.Tlog.GetLogInfoContext(ctx, tlog.NewGetLogInfoParams())
	if err != nil {
		return err
	}
	var checkpoint util.SignedCheckpoint
	if err := checkpoint.UnmarshalText([]byte(*answer.Payload.SignedTreeHead)); err != nil {
		return err
	}
	if !checkpoint.Verify(k.verifier) {
		return errors.New("it is not signed by the log")
	}
	if checkpoint.Size > 0 { // to nothing there is no proof
		k.newest = &checkpoint
	}
	return nil
}

func (k *killedV1) proves(ctx context.Context, r receipt) error {
	answer, err := k.get(ctx, fmt.Sprintf("/api/v1/log/entries?logIndex=%d", r.index))
	if err != nil {
		return err
	}
	entry, uuid, err := k.entry(ctx, answer)
	if err == nil && (entry.index != r.index || !bytes.Equal(entry.body, r.body)) {
		err = fmt.Errorf("entry %d is not what was answered, but %s", r.index, uuid)
	}
	return err
}
