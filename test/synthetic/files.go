package synthetic

import (
	"fmt"
	"os"
	"path/filepath"
	"sync"

	"github.com/transparency-dev/tessera/api/layout"
)

// WriteFiles writes the log as it is now as static files, for any file server: its
// checkpoint and every tile and bundle that the checkpoint needs. It returns the
// sum of the entries' sizes.
func (l *Log) WriteFiles(dir string) (entryBytes uint64, err error) {
	size := l.Size()
	var mu sync.Mutex
	put := func(name string, content []byte) {
		path := filepath.Join(dir, name)
		e := os.MkdirAll(filepath.Dir(path), 0o755)
		if e == nil {
			e = os.WriteFile(path, content, 0o644)
		}
		mu.Lock()
		defer mu.Unlock()
		if e != nil && err == nil {
			err = fmt.Errorf("write log file: %w", e)
		}
	}
	for level, n := 0, size; n > 0; level, n = level+1, n/256 {
		inParallel((n+255)/256, func(index uint64) {
			width := int(min(256, n-index*256))
			tile, _ := l.Tile(level, index, width)
			put(layout.TilePath(uint64(level), index, uint8(width)), tile) // uint8(256) means full
			if level > 0 {
				return
			}
			bundle, _ := l.Bundle(index, width)
			put(layout.EntriesPath(index, uint8(width)), bundle)
			mu.Lock()
			defer mu.Unlock()
			entryBytes += uint64(len(bundle) - 2*width)
		})
	}
	put(layout.CheckpointPath, l.Checkpoint(size))
	return entryBytes, err
}
