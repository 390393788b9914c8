package storage

import (
	"encoding/base64"
	"encoding/binary"
	"errors"
	"slices"
)

// Codecs: the first byte of a stored entry.
const (
	// codecPlain: the entry follows as it is.
	codecPlain = 0
	// codecPacked: long runs of base64 text are stored as the bytes that they stand for.
	// What follows is blocks of
	//
	//	literal length 2, raw length 2, literal bytes, raw bytes
	//
	// and the entry is, block by block, the literal bytes and the base64 text of the raw
	// ones (RFC 4648, section 4; whole groups of four characters, so never padded). Rekor's
	// entries are mostly certificates and signatures in base64. Of that a compressor sees
	// little: what repeats has three different texts, one for each phase, and text of
	// random bytes is a third longer than they are.
	codecPacked = 1
)

const (
	minRun     = 32    // characters that are worth the 4 bytes of lengths
	maxLiteral = 65535 // bytes in one block
	maxRaw     = 65535 // bytes in one block; a multiple of 3
)

var (
	errStored = errors.New("stored form is malformed")
	errCodec  = errors.New("codec is unknown")
)

// notSextet is the value of a byte that is no base64 character.
const notSextet = 0xff

var sextets = func() (values [256]byte) {
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
	for i := range values {
		values[i] = notSextet
	}
	for i, c := range []byte(alphabet) {
		values[c] = byte(i)
	}
	return values
}()

// appendStored appends an entry as it is stored: packed, where that is shorter.
func appendStored(dst, entry []byte) []byte {
	start := len(dst)
	dst = slices.Grow(dst, 1+len(entry)+4*(2+len(entry)/maxLiteral))
	dst = append(dst, codecPacked)
	for at := 0; at < len(entry); {
		run := findRun(entry[:min(len(entry), at+maxLiteral+minRun-1)], at)
		run = min(run, at+maxLiteral)
		lengths := len(dst)
		dst = append(dst, 0, 0, 0, 0)
		dst = append(dst, entry[at:run]...)
		raw := len(dst)
		dst, at = appendRaw(dst, entry, run)
		binary.BigEndian.PutUint16(dst[lengths:], uint16(raw-lengths-4))
		binary.BigEndian.PutUint16(dst[lengths+2:], uint16(len(dst)-raw))
	}
	if len(dst)-start > len(entry) {
		return append(append(dst[:start], codecPlain), entry...)
	}
	return dst
}

// findRun returns where the next minRun base64 characters begin, at a position or behind
// it; len(text) if there are none.
func findRun(text []byte, at int) int {
	for at+minRun <= len(text) {
		last := at + minRun - 1
		for last >= at && sextets[text[last]] != notSextet {
			last--
		}
		if last < at {
			return at
		}
		at = last + 1
	}
	return len(text)
}

// sextetAt are sextets where they stand in a group of four characters that makes 24 bits.
var sextetAt = func() (at [4][256]uint32) {
	for c, value := range sextets {
		for i := range at {
			if at[i][c] = notGroup; value != notSextet {
				at[i][c] = uint32(value) << (18 - 6*i)
			}
		}
	}
	return at
}()

// notGroup is set in what a byte gives that is no base64 character.
const notGroup = 1 << 31

// appendRaw appends what the base64 characters at a position stand for, and returns where
// they end: at most maxRaw bytes, and none if there are less than minRun characters.
func appendRaw(dst, text []byte, at int) ([]byte, int) {
	if findRun(text[:min(len(text), at+minRun)], at) != at {
		return dst, at
	}
	text = text[:min(len(text), at+maxRaw/3*4)]
	for ; at+8 <= len(text); at += 8 { // two groups at a time
		t := text[at : at+8]
		high := sextetAt[0][t[0]] | sextetAt[1][t[1]] | sextetAt[2][t[2]] | sextetAt[3][t[3]]
		low := sextetAt[0][t[4]] | sextetAt[1][t[5]] | sextetAt[2][t[6]] | sextetAt[3][t[7]]
		if high|low >= notGroup {
			break
		}
		n := len(dst)
		dst = binary.BigEndian.AppendUint64(dst, uint64(high)<<40|uint64(low)<<16)[:n+6]
	}
	for ; at+4 <= len(text); at += 4 {
		group := sextetAt[0][text[at]] | sextetAt[1][text[at+1]] | sextetAt[2][text[at+2]] | sextetAt[3][text[at+3]]
		if group >= notGroup {
			break
		}
		dst = append(dst, byte(group>>16), byte(group>>8), byte(group))
	}
	return dst, at
}

// storedLen returns the length of the entry, or an error if no entry is stored so.
func storedLen(stored []byte) (int, error) {
	switch {
	case len(stored) == 0:
		return 0, errStored
	case stored[0] == codecPlain:
		return len(stored) - 1, nil
	case stored[0] != codecPacked:
		return 0, errCodec
	}
	n := 0
	for rest := stored[1:]; len(rest) > 0; {
		if len(rest) < 4 {
			return 0, errStored
		}
		literal, raw := int(binary.BigEndian.Uint16(rest)), int(binary.BigEndian.Uint16(rest[2:]))
		if rest = rest[4:]; len(rest) < literal+raw || raw%3 != 0 {
			return 0, errStored
		}
		rest = rest[literal+raw:]
		n += literal + raw/3*4
	}
	return n, nil
}

// appendEntry appends the entry that is stored.
func appendEntry(dst, stored []byte) ([]byte, error) {
	n, err := storedLen(stored)
	if err != nil {
		return dst, err
	}
	if stored[0] == codecPlain {
		return append(dst, stored[1:]...), nil
	}
	dst = slices.Grow(dst, n)
	for rest := stored[1:]; len(rest) > 0; {
		literal, raw := int(binary.BigEndian.Uint16(rest)), int(binary.BigEndian.Uint16(rest[2:]))
		rest = rest[4:]
		dst = append(dst, rest[:literal]...)
		dst = base64.StdEncoding.AppendEncode(dst, rest[literal:literal+raw])
		rest = rest[literal+raw:]
	}
	return dst, nil
}
