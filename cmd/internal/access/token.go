package access

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"strings"
)

// A token is tokenPrefix and 64 lower-case hexadecimal digits. Nothing else is taken for
// one, so nobody can use a word that could be guessed, and no token needs an escape in a
// URL. The prefix lets people and secret scanners see what they have found.
const (
	tokenPrefix = "us_"
	tokenDigits = 64
)

// NewToken returns a new token of 256 random bits, and its SHA-256 in hex, which is all
// that the log needs to know of it.
func NewToken() (token, sha256Hex string) {
	var secret [tokenDigits / 2]byte
	rand.Read(secret[:]) // never fails: it ends the program instead
	token = tokenPrefix + hex.EncodeToString(secret[:])
	sum := sha256.Sum256([]byte(token))
	return token, hex.EncodeToString(sum[:])
}

// IsToken says whether s has the form of a token.
func IsToken(s string) bool { return isToken(s) }

func isToken(s string) bool {
	return len(s) == len(tokenPrefix)+tokenDigits && holdsToken(s)
}

// holdsToken reports whether a token stands anywhere in s.
func holdsToken(s string) bool {
	for {
		_, after, found := strings.Cut(s, tokenPrefix)
		if !found {
			return false
		}
		if len(after) >= tokenDigits && strings.Trim(after[:tokenDigits], "0123456789abcdef") == "" {
			return true
		}
		s = after
	}
}
