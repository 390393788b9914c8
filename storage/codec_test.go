package storage

import (
	"bytes"
	"encoding/base64"
	"errors"
	"math/rand/v2"
	"testing"

	"github.com/understudy-log/understudy/test/synthetic"
)

func base64Of(n int) []byte {
	raw := make([]byte, n)
	rand.NewChaCha8([32]byte{byte(n)}).Read(raw)
	return []byte(base64.StdEncoding.EncodeToString(raw))
}

func join(parts ...[]byte) []byte { return bytes.Join(parts, nil) }

// storedSeeds are entries at every border of the codec.
func storedSeeds() [][]byte {
	seeds := [][]byte{
		nil,
		[]byte("plain"),
		[]byte(`{"a":"` + string(base64Of(30)) + `"}`),
		join([]byte{0}, base64Of(1), []byte("-"), base64Of(64), []byte("="), base64Of(65)),
		bytes.Repeat([]byte{'-'}, maxLiteral),
		bytes.Repeat([]byte{'-'}, maxLiteral+1),
		join(bytes.Repeat([]byte{'-'}, maxLiteral), base64Of(999)),
		join(bytes.Repeat([]byte{'-'}, maxLiteral+1), base64Of(999)),
		bytes.Repeat([]byte("-"+string(base64Of(24))), 100),
		synthetic.HashedRekord(1)(0),
	}
	for n := minRun - 5; n < minRun+9; n++ {
		seeds = append(seeds, base64Of(99)[:n], join([]byte("\""), base64Of(99)[:n], []byte("\"")))
	}
	for n := maxRaw - 4; n < maxRaw+4; n++ {
		seeds = append(seeds, base64Of(n), join(base64Of(n), bytes.Repeat([]byte("-"), 9)), base64Of(2*n))
	}
	return seeds
}

// TestStored: every entry comes back as it was, after at most one byte more than it has.
func TestStored(t *testing.T) {
	for _, entry := range storedSeeds() {
		checkStored(t, entry)
	}
	entry := synthetic.HashedRekord(2)(7)
	if n := len(appendStored(nil, entry)); n*100 > 80*len(entry) {
		t.Errorf("a Rekor entry of %d bytes is stored in %d", len(entry), n)
	}
}

func checkStored(t *testing.T, entry []byte) {
	t.Helper()
	front := []byte("front")
	stored := appendStored(front, entry)
	if stored = stored[len(front):]; len(stored) > 1+len(entry) {
		t.Fatalf("%d bytes are stored in %d", len(entry), len(stored))
	}
	if n, err := storedLen(stored); err != nil || n != len(entry) {
		t.Fatalf("length is %d, %v, want %d", n, err, len(entry))
	}
	back, err := appendEntry(front, stored)
	if err != nil || !bytes.Equal(back[len(front):], entry) {
		t.Fatalf("entry of %d bytes came back with %d, %v", len(entry), len(back)-len(front), err)
	}
}

func FuzzStored(f *testing.F) {
	for _, entry := range storedSeeds() {
		if len(entry) < 10_000 {
			f.Add(entry)
		}
	}
	f.Fuzz(checkStored)
}

// FuzzStoredRubbish: what is no stored entry is refused, and what is accepted has the
// length that was said.
func FuzzStoredRubbish(f *testing.F) {
	for _, entry := range storedSeeds() {
		if stored := appendStored(nil, entry); len(stored) < 10_000 {
			f.Add(stored)
			f.Add(stored[:len(stored)-1])
		}
	}
	f.Fuzz(func(t *testing.T, stored []byte) {
		n, err := storedLen(stored)
		entry, readErr := appendEntry(nil, stored)
		if (err == nil) != (readErr == nil) || err == nil && len(entry) != n {
			t.Fatalf("length %d, %v; entry of %d bytes, %v", n, err, len(entry), readErr)
		}
	})
}

func TestStoredRefused(t *testing.T) {
	v := newTestTree(t, "log").View()
	defer v.Close()
	for name, stored := range map[string][]byte{
		"nothing":                  {},
		"unknown codec":            {2, 'a'},
		"lengths cut off":          {codecPacked, 0, 0, 0},
		"literal cut off":          {codecPacked, 0, 2, 0, 0, 'a'},
		"raw cut off":              {codecPacked, 0, 0, 0, 3, 'a', 'b'},
		"raw of a part of a group": {codecPacked, 0, 0, 0, 2, 'a', 'b'},
		"one byte more":            {codecPacked, 0, 1, 0, 0, 'a', 'b'},
	} {
		if entry, err := appendEntry(nil, stored); err == nil {
			t.Errorf("%s: gave %q", name, entry)
		}
		if _, err := v.decodeEntry(nil, 7, stored); !errors.As(err, new(*DamageError)) {
			t.Errorf("%s: %v is no damage", name, err)
		}
	}
}

func BenchmarkStored(b *testing.B) {
	entry := synthetic.HashedRekord(1)(0)
	stored := appendStored(nil, entry)
	var buf []byte
	b.Run("write", func(b *testing.B) {
		b.SetBytes(int64(len(entry)))
		for b.Loop() {
			buf = appendStored(buf[:0], entry)
		}
	})
	b.Run("read", func(b *testing.B) {
		b.SetBytes(int64(len(entry)))
		for b.Loop() {
			buf, _ = appendEntry(buf[:0], stored)
		}
	})
}
