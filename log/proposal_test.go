package log

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"sync/atomic"
	"testing"
	"time"

	"github.com/understudy-log/understudy/storage"
	"github.com/understudy-log/understudy/test/bubble"
)

// TestForget: what is dropped is exactly what is over, for every moment, whatever was dropped before.
func TestForget(t *testing.T) {
	var c clock
	times := []int64{100, 100, 100, 101, 103, 103, 200, 200, 201, 500} // of entries
	s := newStage(t, func(config *Config) { config.now = c.now; config.Retention = math.MaxInt64 })
	if err := s.openOnly(true); err != nil {
		t.Fatal(err)
	}
	s.run()
	for i, at := range times {
		c.at.Store(at)
		s.append(fmt.Sprint(i))
	}
	dropped := int64(0)
	for _, before := range []int64{0, 99, 100, 101, 102, 103, 104, 103, 200, 201, 499, 500, 501, 501, 1000} {
		if err := s.log.forget(before); err != nil {
			t.Fatal(err)
		}
		dropped = max(dropped, before)
		for i, at := range times {
			over := at < dropped
			proposal, err := s.log.Proposal(uint64(i))
			want := "proposal of " + fmt.Sprint(i)
			if err != nil || over && proposal != nil || !over && string(proposal) != want {
				t.Errorf("before %d: entry %d of %d has the proposal %q %v", before, i, at, proposal, err)
			}
			if audit, err := s.log.Audit(uint64(i)); err != nil || audit.Time != at {
				t.Errorf("audit row %d: %+v %v", i, audit, err)
			}
		}
		s.sound()
	}
	c.at.Store(500)
	s.append("new")
	if proposal, err := s.log.Proposal(uint64(len(times))); err != nil || string(proposal) != "proposal of new" {
		t.Errorf("of a new entry: %q %v", proposal, err)
	}
}

func (s *stage) dropped(index uint64) bool {
	proposal, err := s.log.Proposal(index)
	return err == nil && proposal == nil
}

// TestRetention: a log that runs forgets by itself, and what a crash brings back, too.
func TestRetention(t *testing.T) {
	bubble.Run(t, func(t *testing.T) {
		s := newStage(t, func(c *Config) { c.Retention, c.Interval = 10*time.Hour, time.Hour })
		s.open(true)
		began := time.Now()
		for hour := range 15 {
			s.append(fmt.Sprint(hour))
			time.Sleep(time.Hour)
			for i := range hour {
				age := time.Since(began.Add(time.Duration(i) * time.Hour))
				if s.dropped(uint64(i)) && age < s.config.Retention || !s.dropped(uint64(i)) && age > s.config.Retention+3*time.Hour {
					t.Errorf("proposal that is %v old: dropped %v", age, s.dropped(uint64(i)))
				}
			}
		}
		s.crash(0, nil)
		s.open(false)
		time.Sleep(time.Hour + time.Second)
		for i := range 3 {
			if !s.dropped(uint64(i)) {
				t.Errorf("proposal %d is back", i)
			}
		}
		s.sound()
		s.close()
	})
}

// TestClockAhead: a clock that is years ahead for less than an hour takes no proposals with it.
func TestClockAhead(t *testing.T) {
	bubble.Run(t, func(t *testing.T) {
		var c clock
		c.at.Store(1_800_000_000)
		s := newStage(t, func(config *Config) { config.Retention, config.now = 100*time.Hour, c.now })
		s.open(true)
		s.append("0")
		time.Sleep(90 * time.Minute) // two looks
		c.jump(10_000 * time.Hour)
		time.Sleep(time.Hour) // one look
		c.jump(-10_000 * time.Hour)
		time.Sleep(24 * time.Hour)
		if s.dropped(0) {
			t.Error("dropped")
		}
		c.jump(200 * time.Hour)
		time.Sleep(3 * time.Hour)
		if !s.dropped(0) {
			t.Error("its time is over, and it is kept")
		}
		s.close()
	})
}

// TestProposalKey: with another key old proposals cannot be read, and that is told; the log goes on.
func TestProposalKey(t *testing.T) {
	var told atomic.Int64
	s := newStage(t, func(c *Config) { c.Logger = slog.New(errorsOf(func() { told.Add(1) })) })
	s.open(true)
	s.append("0")
	s.close()
	if told.Load() != 0 {
		t.Error("something was told")
	}
	first := s.config.ProposalKey
	for _, key := range []*ProposalKey{proposalKey(t, 9), nil} {
		told.Store(0)
		s.config.ProposalKey = key
		s.open(false)
		if told.Load() != 1 {
			t.Errorf("it was told %d times", told.Load())
		}
		if proposal, err := s.log.Proposal(0); !errors.Is(err, ErrProposalKey) {
			t.Errorf("read with another key: %q %v", proposal, err)
		}
		s.append(fmt.Sprint("with ", key))
		s.close()
	}
	s.config.ProposalKey = first
	s.open(false)
	if proposal, err := s.log.Proposal(0); err != nil || string(proposal) != "proposal of 0" {
		t.Errorf("with the first key again: %q %v", proposal, err)
	}
	if proposal, err := s.log.Proposal(2); err != nil || proposal != nil {
		t.Errorf("one that was not kept: %q %v", proposal, err)
	}
	s.sound()
}

// errorsOf is a log handler that is called for errors.
type errorsOf func()

func (errorsOf) Enabled(_ context.Context, level slog.Level) bool { return level >= slog.LevelError }
func (f errorsOf) Handle(context.Context, slog.Record) error      { f(); return nil }
func (f errorsOf) WithAttrs([]slog.Attr) slog.Handler             { return f }
func (f errorsOf) WithGroup(string) slog.Handler                  { return f }

// TestProposalRow: a row says nothing to who has not the key, is never the same twice, and is refused
// when it is mangled, or in the place of another entry or log.
func TestProposalRow(t *testing.T) {
	key, leaf := proposalKey(t, 1), storage.LeafHash([]byte("leaf"))
	secret := []byte("what nobody else should read")
	row := key.seal("origin", leaf, secret)
	if bytes.Contains(row, secret[:8]) || bytes.Equal(row, key.seal("origin", leaf, secret)) {
		t.Error("it is no secret")
	}
	if got, err := key.open("origin", leaf, row); err != nil || !bytes.Equal(got, secret) {
		t.Errorf("open: %q %v", got, err)
	}
	refused := func(what string, k *ProposalKey, origin string, leaf storage.Hash, row []byte) {
		t.Helper()
		if got, err := k.open(origin, leaf, row); err == nil {
			t.Errorf("%s: %q", what, got)
		}
	}
	refused("another key", proposalKey(t, 2), "origin", leaf, row)
	refused("no key", nil, "origin", leaf, row)
	refused("another entry", key, "origin", storage.LeafHash([]byte("other")), row)
	refused("another log", key, "origins", leaf, row)
	for i := range row {
		flipped := bytes.Clone(row)
		flipped[i] ^= 1
		refused(fmt.Sprint("flipped at ", i), key, "origin", leaf, flipped)
		refused(fmt.Sprint("cut at ", i), key, "origin", leaf, row[:i])
	}
	refused("longer", key, "origin", leaf, append(bytes.Clone(row), 0))
	if empty := key.seal("origin", leaf, []byte{}); empty == nil {
		t.Error("an empty proposal is not kept")
	} else if got, err := key.open("origin", leaf, empty); err != nil || len(got) != 0 {
		t.Errorf("an empty proposal: %q %v", got, err)
	}
	if key.seal("origin", leaf, nil) != nil || (*ProposalKey)(nil).seal("origin", leaf, secret) != nil {
		t.Error("kept what should not be")
	}
}

// FuzzAuditRow: what is read encodes to the same bytes.
func FuzzAuditRow(f *testing.F) {
	f.Add(Audit{5, "somebody"}.marshal())
	f.Add([]byte{})
	f.Add([]byte{2, 0, 0, 0, 0, 0, 0, 0, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		if a, err := ParseAudit(b); err == nil && !bytes.Equal(a.marshal(), b) {
			t.Errorf("%x is read as %+v, which is %x", b, a, a.marshal())
		}
	})
}
