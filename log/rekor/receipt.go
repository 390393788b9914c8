package rekor

import (
	"bytes"
	"encoding/binary"
	"errors"
	"slices"
)

// A receipt is what a log of Rekor v1 promised about an entry and the leaf does not contain,
// in one of two forms:
//
//	1, integrated time, length of the SET, SET, attestation
//	2, integrated time, length of the SET, SET, length of the attestation, attestation,
//	   and at least once: length of a key, key
//
// The time is 8 bytes, big endian; lengths are varints; the attestation may be empty. The keys
// are search keys that only the proposal showed, in the order and form of SearchKeys.
const (
	receiptPlain = 1
	receiptKeys  = 2
)

// EncodeReceipt writes the integrated time, SET and attestation of an entry, and further search
// keys: those of its Proposal, none for a mirrored entry.
func EncodeReceipt(e *Entry, keys []string) []byte {
	keys = normalize(slices.Clone(keys))
	b := make([]byte, 0, 64+len(e.SET)+len(e.Attestation))
	version := byte(receiptPlain)
	if len(keys) > 0 {
		version = receiptKeys
	}
	b = append(b, version)
	b = binary.BigEndian.AppendUint64(b, uint64(e.IntegratedTime))
	b = appendSized(b, e.SET)
	if version == receiptPlain {
		return append(b, e.Attestation...)
	}
	b = appendSized(b, e.Attestation)
	for _, key := range keys {
		b = appendSized(b, key)
	}
	return b
}

// DecodeReceipt puts a receipt into an entry and returns the search keys in it. It accepts only
// what EncodeReceipt writes. On an error the entry is as it was.
func DecodeReceipt(e *Entry, receipt []byte) (keys []string, err error) {
	malformed := errors.New("receipt is malformed")
	if len(receipt) < 10 {
		return nil, malformed
	}
	at := int64(binary.BigEndian.Uint64(receipt[1:9]))
	set, rest, ok := cutSized(receipt[9:])
	attestation := rest
	switch receipt[0] {
	case receiptPlain:
	case receiptKeys:
		if ok {
			attestation, rest, ok = cutSized(rest)
		}
		for ok && len(rest) > 0 {
			var key []byte
			key, rest, ok = cutSized(rest)
			keys = append(keys, string(key))
		}
		ok = ok && len(keys) > 0 && slices.Equal(keys, normalize(slices.Clone(keys)))
	default:
		ok = false
	}
	if !ok {
		return nil, malformed
	}
	e.IntegratedTime, e.SET, e.Attestation = at, bytes.Clone(set), nil
	if len(attestation) > 0 {
		e.Attestation = bytes.Clone(attestation)
	}
	return keys, nil
}

// ReceiptKeys returns the search keys of a receipt: those in it, and those of the attestation in
// it, of which its log has seen that it is what the entry is about.
func ReceiptKeys(receipt []byte) []string {
	var e Entry
	keys, err := DecodeReceipt(&e, receipt)
	if err != nil {
		return nil
	}
	return append(StatementKeys(e.Attestation), keys...)
}

func appendSized[T []byte | string](b []byte, value T) []byte {
	b = binary.AppendUvarint(b, uint64(len(value)))
	return append(b, value...)
}

// cutSized reads a length, in its one shortest form, and so many bytes.
func cutSized(b []byte) (value, rest []byte, ok bool) {
	n, used := binary.Uvarint(b)
	if used <= 0 || used != len(binary.AppendUvarint(nil, n)) || n > uint64(len(b)-used) {
		return nil, nil, false
	}
	b = b[used:]
	return b[:n], b[n:], true
}
