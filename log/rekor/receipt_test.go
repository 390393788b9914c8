package rekor

import (
	"bytes"
	"encoding/hex"
	"reflect"
	"slices"
	"strings"
	"testing"
)

// The bytes of both versions, which databases hold.
func TestReceipt(t *testing.T) {
	const start = "000000006553f100" + "03" + "736574" // 1700000000, "set"
	for _, c := range []struct {
		entry Entry
		keys  []string
		hex   string
	}{
		{Entry{IntegratedTime: 1700000000, SET: []byte("set")}, nil, "01" + start},
		{Entry{IntegratedTime: 1700000000, SET: []byte("set"), Attestation: []byte("{}")}, nil, "01" + start + "7b7d"},
		{Entry{IntegratedTime: 1700000000, SET: []byte("set")}, []string{"sha256:aa"}, "02" + start + "00" + "09" + "7368613235363a6161"},
		{Entry{IntegratedTime: 1700000000, SET: []byte("set"), Attestation: []byte("{}")}, []string{"a", "b"}, "02" + start + "027b7d" + "0161" + "0162"},
		{Entry{IntegratedTime: -1, SET: []byte{}}, nil, "01ffffffffffffffff00"},
	} {
		receipt := EncodeReceipt(&c.entry, c.keys)
		if got := hex.EncodeToString(receipt); got != c.hex {
			t.Errorf("receipt %s, want %s", got, c.hex)
		}
		var e Entry
		keys, err := DecodeReceipt(&e, receipt)
		if err != nil || !reflect.DeepEqual(e, c.entry) || !slices.Equal(keys, c.keys) {
			t.Errorf("%s: %+v, %q, %v", c.hex, e, keys, err)
		}
	}
	// Keys are written in one form, whatever theirs, and are left as they are.
	keys := []string{"B", "", "a", "b", strings.Repeat("k", maxKey+1)}
	e := &Entry{}
	if !bytes.Equal(EncodeReceipt(e, keys), EncodeReceipt(e, []string{"a", "b"})) || keys[0] != "B" {
		t.Errorf("keys %q", keys)
	}
	if !bytes.Equal(EncodeReceipt(e, []string{""}), EncodeReceipt(e, nil)) {
		t.Error("a receipt with keys, and none in it")
	}
}

func TestReceiptKeys(t *testing.T) {
	e := &Entry{Attestation: []byte(statement)}
	shown := []string{"gitcommit:0123", "sha256:aabb", "sha1:cc"}
	for _, c := range []struct {
		receipt []byte
		want    []string
	}{
		{EncodeReceipt(e, nil), shown},
		{EncodeReceipt(e, []string{"a"}), append(shown, "a")},
		{EncodeReceipt(&Entry{}, []string{"a"}), []string{"a"}},
		{EncodeReceipt(&Entry{}, nil), nil},
		{[]byte("no receipt"), nil},
		{nil, nil},
	} {
		if got := ReceiptKeys(c.receipt); !slices.Equal(got, c.want) {
			t.Errorf("%x: keys %q, want %q", c.receipt, got, c.want)
		}
	}
}

func TestReceiptRefuses(t *testing.T) {
	const start = "0000000000000000"
	for name, s := range map[string]string{
		"nothing":                     "",
		"version 0":                   "00" + start + "00",
		"version 3":                   "03" + start + "00",
		"no SET":                      "01" + start,
		"a longer SET":                "01" + start + "0273",
		"a length in two bytes":       "01" + start + "8100" + "73",
		"a length beyond all":         "01" + start + "ffffffffffffffffff01",
		"no attestation":              "02" + start + "00",
		"no keys":                     "02" + start + "00" + "00",
		"an empty key":                "02" + start + "00" + "00" + "00",
		"a longer key":                "02" + start + "00" + "00" + "0261",
		"a longer attestation":        "02" + start + "00" + "0561" + "0161",
		"a key's length in two bytes": "02" + start + "00" + "00" + "810061",
		"an upper-case key":           "02" + start + "00" + "00" + "0141",
		"keys in another order":       "02" + start + "00" + "00" + "0162" + "0161",
		"a key twice":                 "02" + start + "00" + "00" + "0161" + "0161",
		"a key that is no UTF-8":      "02" + start + "00" + "00" + "01ff",
		"a byte behind":               "02" + start + "00" + "00" + "0161" + "01",
	} {
		receipt, err := hex.DecodeString(s)
		if err != nil {
			t.Fatal(err)
		}
		e := Entry{IntegratedTime: 5}
		if keys, err := DecodeReceipt(&e, receipt); err == nil || keys != nil || !reflect.DeepEqual(e, Entry{IntegratedTime: 5}) {
			t.Errorf("%s: %+v, %q, %v", name, e, keys, err)
		}
	}
}

// What is accepted re-encodes to the same bytes.
func FuzzReceipt(f *testing.F) {
	for _, e := range []Entry{
		{IntegratedTime: 1700000000, SET: []byte("a signature"), Attestation: []byte("{}")},
		{IntegratedTime: -1, SET: bytes.Repeat([]byte("s"), 300)},
		{},
	} {
		f.Add(EncodeReceipt(&e, nil))
		f.Add(EncodeReceipt(&e, []string{"gitcommit:01", "sha256:aa"}))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var e Entry
		keys, err := DecodeReceipt(&e, b)
		if err != nil {
			return
		}
		if again := EncodeReceipt(&e, keys); !bytes.Equal(again, b) {
			t.Fatalf("%x re-encodes to %x", b, again)
		}
	})
}
