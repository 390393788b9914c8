package storage

import (
	"cmp"
	"encoding/binary"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/sstable"
	"github.com/cockroachdb/pebble/v2/sstable/block"
)

// Tuned for entries of 0.5 to 5 KB that are written once, in order, and read mostly by
// bundles of 256; docs/decisions.md has the measurements.
const (
	defaultCacheBytes = 64 << 20
	memTableBytes     = 32 << 20
	blockBytes        = 32 << 10
	targetFileBytes   = 64 << 20
	lastLevel         = 6
	cachedTiles       = 2048    // expanded, 16 KiB each
	cachedLinks       = 4096    // proofs between archived checkpoints, 1 to 2 KiB each
	syncBytes         = 1 << 20 // written to a file before the disk begins
	manyBytes         = 4 << 20 // of entries: fewer go through WAL and memtable
)

func (o Options) pebble(db *DB) *pebble.Options {
	cacheBytes := o.CacheBytes
	if cacheBytes == 0 {
		cacheBytes = defaultCacheBytes
	}
	p := &pebble.Options{
		FS:                          db.fs,
		CacheSize:                   cacheBytes,
		ReadOnly:                    o.ReadOnly,
		FormatMajorVersion:          pebble.FormatTableFormatV6,
		MemTableSize:                cmp.Or(o.memTableBytes, memTableBytes),
		MemTableStopWritesThreshold: 3,
		L0CompactionThreshold:       4,
		L0StopWritesThreshold:       24,
		LBaseMaxBytes:               256 << 20,
		MaxOpenFiles:                1000,
		BytesPerSync:                syncBytes,
		WALBytesPerSync:             syncBytes,
		CompactionConcurrencyRange: func() (int, int) {
			if !db.opened.Load() {
				return 0, 1 // Open waits for compactions that it begins
			}
			return 1, 2
		},
		Logger: pebbleLogger{db},
		EventListener: &pebble.EventListener{
			BackgroundError: func(err error) {
				// Damage does not end the process: it would be there after the next start, too.
				if !pebble.IsCorruptionError(err) {
					db.fail(err)
				}
			},
			DataCorruption: db.fileDamaged,
		},
		// A file that is missing is damage like any other: its rows are written anew.
		DisableConsistencyCheck: !o.complete,
		// They are about deletions, of which there are few; and of a damaged file they are tried
		// again and again.
		DisableTableStats: true,
	}
	p.Experimental.SpanPolicyFunc = spanPolicy
	for i := range p.TargetFileSizes {
		p.TargetFileSizes[i] = targetFileBytes
	}
	for i := range p.Levels {
		p.Levels[i] = pebble.LevelOptions{
			BlockSize:   blockBytes,
			Compression: func() *sstable.CompressionProfile { return compressionOf(i) },
		}
		p.Levels[i].EnsureL0Defaults()
	}
	return p
}

// compressionOf a level: an entry passes the upper levels soon, and is compressed well once,
// on its way into the last one.
func compressionOf(level int) *sstable.CompressionProfile {
	if level < lastLevel {
		return block.FastestCompression
	}
	return block.BalancedCompression
}

// spanPolicy ends every file at the end of a table of a tree: entries arrive in order, so a
// file of entries alone overlaps no other, and is not merged with the hashes that
// compactions rewrite. Hashes do not compress.
func spanPolicy(start []byte) (policy pebble.SpanPolicy, end []byte, err error) {
	policy.PreferFastCompression = start[0] == keyTile || start[0] == keyLeaf || start[0] == keySearch
	switch start[0] {
	case keyTile, keyLeaf, keyEntry, keySearch, keyPin:
		if len(start) >= 9 {
			return policy, treeID(binary.BigEndian.Uint64(start[1:9])+1).key(start[0], 9), nil
		}
	}
	return policy, []byte{start[0] + 1}, nil
}
