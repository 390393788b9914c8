package synthetic

import "fmt"

// Entries gives the entry at an index. It is deterministic and may be called by many
// goroutines; the result belongs to the caller.
type Entries func(index uint64) []byte

// Tiny makes entries of some twenty bytes: the seed and the index in decimal.
func Tiny(seed uint64) Entries {
	return func(index uint64) []byte { return fmt.Appendf(nil, "entry %d of %d\n", index, seed) }
}

// Then gives the entries of e below index k and those of next from there on.
func (e Entries) Then(k uint64, next Entries) Entries {
	return func(index uint64) []byte {
		if index < k {
			return e(index)
		}
		return next(index)
	}
}
