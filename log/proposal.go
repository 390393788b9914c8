package log

import (
	"context"
	"crypto/cipher"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"sort"
	"time"

	"golang.org/x/crypto/chacha20poly1305"

	"github.com/understudy-log/understudy/storage"
)

// ProposalKeySize is the length of the key of proposals in bytes.
const ProposalKeySize = chacha20poly1305.KeySize

// A ProposalKey encrypts what entries were made of. A DSSE entry has only hashes of its envelope, so
// without the envelope it could not be submitted to another log; and envelopes may say what nobody
// else should read.
type ProposalKey struct {
	aead cipher.AEAD
	id   uint32
}

// NewProposalKey returns the key of ProposalKeySize random bytes.
func NewProposalKey(secret []byte) (*ProposalKey, error) {
	aead, err := chacha20poly1305.NewX(secret)
	if err != nil {
		return nil, fmt.Errorf("key of proposals: %w", err)
	}
	sum := sha256.Sum256(append([]byte("understudy key of proposals\n"), secret...))
	return &ProposalKey{aead, binary.BigEndian.Uint32(sum[:])}, nil
}

// A kept proposal is: version, number of the key, nonce, and the proposal encrypted with
// XChaCha20-Poly1305, whose nonces may be chosen at random for ever. What is authenticated beside it
// is the log and the leaf, so that no row can take the place of another.
const (
	proposalVersion = 1
	proposalHeader  = 1 + 4
)

// ErrProposalKey says that a proposal was encrypted with another key.
var ErrProposalKey = errors.New("the proposal was encrypted with another key")

func proposalContext(origin string, leaf storage.Hash) []byte {
	return append(append([]byte(origin), '\n'), leaf[:]...)
}

// seal encrypts a proposal; nil for none, or without a key.
func (k *ProposalKey) seal(origin string, leaf storage.Hash, proposal []byte) []byte {
	if k == nil || proposal == nil {
		return nil
	}
	b := make([]byte, proposalHeader+chacha20poly1305.NonceSizeX, proposalHeader+chacha20poly1305.NonceSizeX+len(proposal)+chacha20poly1305.Overhead)
	b[0] = proposalVersion
	binary.BigEndian.PutUint32(b[1:], k.id)
	rand.Read(b[proposalHeader:])
	return k.aead.Seal(b, b[proposalHeader:], proposal, proposalContext(origin, leaf))
}

// open decrypts what seal made.
func (k *ProposalKey) open(origin string, leaf storage.Hash, b []byte) ([]byte, error) {
	if len(b) < proposalHeader+chacha20poly1305.NonceSizeX || b[0] != proposalVersion {
		return nil, errors.New("the kept proposal is malformed")
	}
	if k == nil || binary.BigEndian.Uint32(b[1:]) != k.id {
		return nil, ErrProposalKey
	}
	nonce, text := b[proposalHeader:proposalHeader+chacha20poly1305.NonceSizeX], b[proposalHeader+chacha20poly1305.NonceSizeX:]
	proposal, err := k.aead.Open(nil, nonce, text, proposalContext(origin, leaf))
	if err != nil {
		return nil, fmt.Errorf("decrypt the kept proposal: %w", err)
	}
	return proposal, nil
}

// Proposal returns what an entry was made of; nil if it is not kept, or no longer. ErrProposalKey: the
// key of the configuration is not the one of that time.
func (l *Log) Proposal(index uint64) ([]byte, error) {
	view := l.tree.View()
	defer view.Close()
	kept, err := view.Proposal(index)
	if err != nil || kept == nil {
		return nil, err
	}
	leaf, err := view.LeafHash(index)
	if err != nil {
		return nil, err
	}
	proposal, err := l.cfg.ProposalKey.open(l.cfg.Origin, leaf, kept)
	if err != nil {
		return nil, fmt.Errorf("proposal of entry %d: %w", index, err)
	}
	return proposal, nil
}

// checkProposalKey tells if what is kept was encrypted with another key: the log goes on, since it is
// needed most when something is wrong, but those cannot be submitted elsewhere.
func (l *Log) checkProposalKey() {
	view := l.tree.View()
	defer view.Close()
	size := l.tree.State().Head.Size
	stop := errors.New("stop")
	err := view.Proposals(0, size, func(index uint64, _ []byte) error {
		if _, err := l.Proposal(index); err != nil {
			return err
		}
		return stop
	})
	if err != nil && err != stop {
		l.logger.Error("the oldest proposals that are kept cannot be read: if the key of proposals was replaced, keep the old one until they have expired", "error", err)
	}
}

// forgetting drops proposals whose time is over until ctx ends. What a look finds to be over is dropped
// at the next one, so that a clock that was far ahead for a while takes nothing with it.
func (l *Log) forgetting(ctx context.Context) {
	every := min(time.Hour, max(l.cfg.Retention/10, time.Second))
	for last := int64(0); ; {
		over := l.cfg.now().Add(-l.cfg.Retention).Unix()
		if err := l.forget(min(last, over)); err != nil {
			l.logger.Error("old proposals cannot be dropped", "error", err)
		}
		last = over
		select {
		case <-ctx.Done():
			return
		case <-time.After(every):
		}
	}
}

// forget drops the proposals of entries that were logged before a time. Times never go back from one
// entry to the next, so there is one place to look for.
func (l *Log) forget(before int64) error {
	size := l.tree.State().Head.Size
	var failed error
	end := sort.Search(int(size), func(i int) bool {
		audit, err := l.Audit(uint64(i))
		failed = errors.Join(failed, err)
		return err != nil || audit.Time >= before
	})
	if failed != nil || end == 0 {
		return failed
	}
	view := l.tree.View()
	defer view.Close()
	any := false
	stop := errors.New("stop")
	if err := view.Proposals(0, uint64(end), func(uint64, []byte) error { any = true; return stop }); err != nil && err != stop {
		return err
	}
	if !any {
		return nil
	}
	l.logger.Info("proposals have expired", "before_index", end)
	return l.tree.DropProposals(uint64(end))
}
