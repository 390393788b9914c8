package log

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"golang.org/x/mod/sumdb/note"

	"github.com/understudy-log/understudy/storage"
)

// fault is what goes wrong at one time.
type fault int

const (
	well fault = iota
	refuses
	sleeps
	slow  // the witness answers after two seconds
	ahead // the witness knows a larger tree
	noPromise
	noKey
	wrongKey
)

// model is what may be relied on, over crashes and all else. A crash is a moment at which mu is held:
// what was noted before it counts, and nothing that happens in the same life afterwards.
type model struct {
	tb        *testing.T
	verifiers []note.Verifier

	mu        sync.Mutex // guards the fields below
	fault     fault
	over      bool          // the life is over, by a crash or an end
	ends      chan struct{} // closed then by end
	left      *vfs.MemFS    // what the crash has left
	wasAhead  bool          // in this life
	answered  map[string]Receipt
	bodyAt    map[uint64]string
	published []storage.Checkpoint // ever, each larger than the one before
	witnessed storage.Head         // what the witness cosigned last
	answers   map[string]int       // how often Append returned what, and how often it crashed
}

func newModel(t *testing.T) *model {
	return &model{tb: t, answered: map[string]Receipt{}, bodyAt: map[uint64]string{}, answers: map[string]int{}}
}

func (m *model) begin() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.over, m.ends, m.left, m.wasAhead = false, make(chan struct{}), nil, m.fault == ahead
}

func (m *model) end() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.over = true
	close(m.ends)
}

func (m *model) crashed() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.left != nil
}

func (m *model) takeLeft() *vfs.MemFS {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.left
}

// crashNow takes what a crash leaves when k has come down to 0.
func (m *model) crashNow(k *int, leave func() *vfs.MemFS) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if *k--; *k >= 0 || m.over {
		return
	}
	m.over, m.left = true, leave()
	m.answers["crash"]++
}

// frozen does something at one moment and returns what could be relied on then; nil if the life is over.
func (m *model) frozen(do func()) *model {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.over {
		return nil
	}
	do()
	return &model{tb: m.tb, verifiers: m.verifiers, published: m.published[:len(m.published):len(m.published)], witnessed: m.witnessed}
}

func (m *model) set(f fault, key *signs) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.fault = f
	m.wasAhead = m.wasAhead || f == ahead
	switch f {
	case noKey:
		key.will(func([]byte) ([]byte, error) { return nil, errors.New("no key") })
	case wrongKey:
		key.will(func([]byte) ([]byte, error) { return make([]byte, 64), nil })
	default:
		key.will(nil)
	}
}

func (m *model) is(f fault) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.fault == f
}

// answer notes what a client got.
func (m *model) answer(body string, r Receipt, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err != nil {
		expected := false
		for _, known := range results {
			if errors.Is(err, known.err) {
				m.answers[known.name]++
				expected = known.err != ErrTooLarge && (known.err != ErrBehind || m.wasAhead)
				break
			}
		}
		if !expected {
			m.tb.Errorf("%s: %v", body, err)
		}
		return
	}
	m.answers["answered"]++
	if m.over && m.left != nil {
		return // nobody heard it
	}
	old, known := m.answered[body]
	other, taken := m.bodyAt[r.Index]
	switch {
	case known && (old.Index != r.Index || !bytes.Equal(old.Promise, r.Promise)):
		m.tb.Errorf("%s was answered with %d, %q, and is with %d, %q", body, old.Index, old.Promise, r.Index, r.Promise)
	case taken && other != body:
		m.tb.Errorf("%s and %s are both at %d", body, other, r.Index)
	}
	m.answered[body], m.bodyAt[r.Index] = r, body
	m.publishedLocked(r.Checkpoint, false)
}

// watch notes what is published until the life ends.
func (m *model) watch(l *Log, ends <-chan struct{}) {
	for {
		m.mu.Lock()
		p := l.published.Load()
		if p.Raw != nil {
			m.publishedLocked(p.Checkpoint, true)
		}
		m.mu.Unlock()
		select {
		case <-p.replaced:
		case <-ends:
			return
		}
	}
}

// publishedLocked notes a checkpoint that was seen; newest says that it was the published one now.
func (m *model) publishedLocked(c storage.Checkpoint, newest bool) {
	if m.over && m.left != nil {
		return
	}
	if err := verifyCheckpoint(c, m.verifiers); err != nil {
		m.tb.Error(err)
	}
	switch last := m.last(); {
	case last.Raw == nil || c.Size > last.Size:
		m.published = append(m.published, c)
	case c.Size == last.Size && c.Root != last.Root:
		m.tb.Errorf("two trees of size %d are published", c.Size)
	case newest && c.Size < last.Size && !m.over:
		m.tb.Errorf("%d is published after %d", c.Size, last.Size)
	}
}

func (m *model) last() storage.Checkpoint {
	if len(m.published) == 0 {
		return storage.Checkpoint{}
	}
	return m.published[len(m.published)-1]
}

// standsBy holds a log that was opened against all that was ever published or cosigned.
func (m *model) standsBy(s *stage) error {
	if size := s.log.Published().Size; size < m.last().Size && s.log.Published().Raw != nil || s.log.Published().Raw == nil && m.last().Size > 0 {
		return fmt.Errorf("%d was published, and %d is", m.last().Size, size)
	}
	if size := s.newest.Of(testOrigin).Size; size < max(m.last().Size, m.witnessed.Size) {
		return fmt.Errorf("%d was published and %d shown to the witness, and %d is remembered", m.last().Size, m.witnessed.Size, size)
	}
	view := s.log.Tree().View()
	defer view.Close()
	all := m.published
	if m.witnessed.Size > 0 {
		all = append(all[:len(all):len(all)], storage.Checkpoint{Head: m.witnessed})
	}
	for i, c := range all {
		root, err := view.Root(c.Size)
		if err != nil || root != c.Root {
			return fmt.Errorf("root of what was published at %d is %v %w, want %v", c.Size, root, err, c.Root)
		}
		if i == 0 || all[i-1].Size == 0 || all[i-1].Size > c.Size {
			continue
		}
		hashes, err := view.ConsistencyProof(all[i-1].Size, c.Size)
		if err == nil {
			err = consistent(all[i-1].Head, c.Head, hashes)
		}
		if err != nil {
			return fmt.Errorf("consistency from %d to %d: %w", all[i-1].Size, c.Size, err)
		}
	}
	return soundness(s.log)
}

// cosign is the witness. It never forgets, and never sees another history.
func (m *model) cosign(ctx context.Context, c storage.Checkpoint, prove func(uint64) ([]storage.Hash, error)) ([]string, error) {
	m.mu.Lock()
	f, over, known := m.fault, m.over && m.left != nil, m.witnessed
	m.mu.Unlock()
	if over {
		return nil, errAsleep // the machine is off
	}
	switch f {
	case refuses:
		return nil, errAsleep
	case sleeps:
		select {
		case <-time.After(5 * time.Second):
			return nil, errAsleep
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	case ahead:
		return nil, fmt.Errorf("a witness: %w", ErrBehind)
	case slow:
		select {
		case <-time.After(2 * time.Second):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	if c.Size < known.Size {
		m.tb.Errorf("the witness is shown %d after %d", c.Size, known.Size)
		return nil, ErrBehind
	}
	hashes, err := prove(known.Size)
	if err == nil && known.Size > 0 {
		err = consistent(known, c.Head, hashes)
	}
	if err != nil {
		m.tb.Errorf("the witness is shown %d after %d: %v", c.Size, known.Size, err)
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.over && m.left != nil {
		return nil, errAsleep
	}
	m.witnessed = c.Head
	return []string{cosignature}, nil
}

// complete holds a log to which everything was appended in the end against the model.
func (m *model) complete(l *Log, bodies int) {
	m.tb.Helper()
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.answered) != bodies || l.Tree().State().Head.Size != uint64(bodies) || l.Published().Size != uint64(bodies) {
		m.tb.Errorf("%d of %d are answered, %d logged, %d published", len(m.answered), bodies, l.Tree().State().Head.Size, l.Published().Size)
	}
	last := int64(0)
	for index := range l.Published().Size {
		body, r, err := l.Find(index)
		if err != nil {
			m.tb.Error(err)
			continue
		}
		want := m.answered[string(body)]
		audit, err := l.Audit(index)
		if promise := fmt.Sprintf("%d at %d: %s", index, audit.Time, body); err != nil || want.Index != index || string(r.Promise) != promise || string(want.Promise) != promise {
			m.tb.Errorf("entry %d: %q, promise %q, answered %d %q, %+v %v", index, body, r.Promise, want.Index, want.Promise, audit, err)
		}
		if audit.Time < last {
			m.tb.Errorf("entry %d is of %d, and the one before of %d", index, audit.Time, last)
		}
		last = audit.Time
		if proposal, err := l.Proposal(index); err != nil || string(proposal) != "proposal of "+string(body) {
			m.tb.Errorf("entry %d: proposal %q %v", index, proposal, err)
		}
	}
	m.tb.Logf("%d entries, %d checkpoints, answers %v", bodies, len(m.published), m.answers)
}
