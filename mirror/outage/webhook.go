package outage

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/understudy-log/understudy/mirror/ledger"
	"github.com/understudy-log/understudy/storage"
)

// hookRecord has the number of the last row that the receiver has taken.
const hookRecord = "outage-webhook"

const (
	hookTimeout  = 10 * time.Second
	hookFirst    = time.Second // from the first failure to the next try; it doubles
	hookLongest  = time.Minute
	hookBatch    = 64  // rows held in memory
	hookUnsaved  = 256 // rows that nobody is told of and that are read again after a restart
	signatureKey = "Understudy-Signature"
)

// hookKinds says of which rows a receiver is told; decisions are too many.
func hookKinds(kind string) bool {
	switch kind {
	case rowState, rowForce, rowForceEnd, "exception", "reconcile", "drill":
		return true
	}
	return false
}

// hook tells a receiver of rows. Its fields are run's alone once that runs.
type hook struct {
	address, shown string
	secret         []byte
	client         *http.Client
	db             *storage.DB
	ledger         *ledger.Ledger
	logger         *slog.Logger
	metrics        *Metrics

	cursor  uint64 // the last row that is done with
	saved   uint64 // the cursor that is kept
	counted uint64 // the last row that waiting knows of
	waiting int    // rows to be told of after cursor
}

// newHook reads the cursor. A receiver that is new is told of what comes from now on: that is
// kept at once, so that a crash before the first row loses none.
func newHook(cfg Config) (*hook, error) {
	h := &hook{
		address: cfg.Webhook.URL, secret: bytes.Clone(cfg.Webhook.Secret), client: &http.Client{},
		db: cfg.DB, ledger: cfg.Ledger, logger: cfg.Logger, metrics: cfg.Metrics,
	}
	if cfg.Webhook.Client != nil {
		*h.client = *cfg.Webhook.Client
	}
	// A redirect would turn a POST into a GET, whose answer says nothing.
	h.client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	receiver, err := url.Parse(h.address)
	if err != nil || receiver.Host == "" || receiver.Scheme != "http" && receiver.Scheme != "https" {
		return nil, errors.New("webhook: its URL is none of http or https; give it one such as https://alerts.example.com/understudy")
	}
	h.shown = receiver.Host // a URL may have a secret in its path
	raw, err := h.db.Record(hookRecord)
	if err != nil {
		return nil, err
	}
	head, _ := h.ledger.Head()
	if raw == nil {
		h.cursor, h.counted = head, head
		return h, h.save()
	}
	if h.cursor, err = strconv.ParseUint(string(raw), 10, 64); err != nil || h.cursor > head {
		return nil, fmt.Errorf("record of what the webhook was told: %q, and the ledger has %d rows; it is damaged: restore a backup", raw, head)
	}
	h.saved, h.counted = h.cursor, h.cursor
	return h, nil
}

// save keeps the cursor.
func (h *hook) save() error {
	if err := h.db.PutRecord(hookRecord, strconv.AppendUint(nil, h.cursor, 10)); err != nil {
		return fmt.Errorf("keep what the webhook was told: %w", err)
	}
	h.saved = h.cursor
	return nil
}

// run tells of rows until ctx ends. It returns an error only if the database is broken.
func (h *hook) run(ctx context.Context) error {
	for {
		changed := h.ledger.Changed()
		rows, end, err := h.read()
		if err != nil {
			return err
		}
		for _, row := range rows {
			if err := h.deliver(ctx, row); err != nil {
				if ctx.Err() != nil {
					return nil
				}
				return err
			}
			h.cursor = row.Seq
			if err := h.save(); err != nil {
				return err
			}
		}
		if h.cursor = end; h.cursor-h.saved >= hookUnsaved {
			if err := h.save(); err != nil {
				return err
			}
		}
		if len(rows) > 0 {
			continue
		}
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
		}
	}
}

var errEnough = errors.New("enough rows")

// read returns the next rows to be told of, and the last row that was looked at.
func (h *hook) read() (rows []ledger.Row, end uint64, err error) {
	end = h.cursor
	err = h.ledger.Rows(h.cursor+1, func(row ledger.Row) error {
		if len(rows) == hookBatch {
			return errEnough
		}
		if end = row.Seq; hookKinds(row.Kind) {
			rows = append(rows, row)
		}
		return nil
	})
	if err != nil && !errors.Is(err, errEnough) {
		return nil, 0, err
	}
	return rows, end, h.count()
}

// count looks for more rows that wait.
func (h *hook) count() error {
	err := h.ledger.Rows(h.counted+1, func(row ledger.Row) error {
		if h.counted = row.Seq; hookKinds(row.Kind) {
			h.waiting++
		}
		return nil
	})
	h.metrics.waiting(h.waiting)
	return err
}

// deliver tells of one row until the receiver has taken it. Its error is of ctx, or of the database.
func (h *hook) deliver(ctx context.Context, row ledger.Row) error {
	for pause := hookFirst; ; pause = min(2*pause, hookLongest) {
		err := h.post(ctx, row)
		if err == nil {
			h.waiting--
			h.metrics.waiting(h.waiting)
			return nil
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		h.metrics.hookFailed()
		h.logger.Warn("outage: the webhook was not told, and will be", "receiver", h.shown, "row", row.Seq, "again_in", pause, "error", err)
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(pause - time.Duration(rand.Int64N(int64(pause)/10))):
		}
		if err := h.count(); err != nil {
			return err
		}
	}
}

// post tells of a row once.
func (h *hook) post(ctx context.Context, row ledger.Row) error {
	ctx, cancel := context.WithTimeout(ctx, hookTimeout)
	defer cancel()
	body := row.Raw()
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, h.address, bytes.NewReader(body))
	if err != nil {
		return err
	}
	request.Header.Set("Content-Type", "application/json")
	request.Header.Set("User-Agent", "understudy")
	if len(h.secret) > 0 {
		mac := hmac.New(sha256.New, h.secret)
		mac.Write(body)
		request.Header.Set(signatureKey, "sha256="+hex.EncodeToString(mac.Sum(nil)))
	}
	answer, err := h.client.Do(request)
	if err != nil {
		var all *url.Error
		if errors.As(err, &all) {
			err = all.Err // without the URL
		}
		return err
	}
	defer answer.Body.Close()
	_, _ = io.Copy(io.Discard, io.LimitReader(answer.Body, 1<<16)) // so that the connection is used again
	if answer.StatusCode/100 != 2 {
		return fmt.Errorf("the receiver answered %d", answer.StatusCode)
	}
	return nil
}
