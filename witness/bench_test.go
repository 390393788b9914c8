package witness

import (
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/understudy-log/understudy/storage"
)

// BenchmarkAddCheckpoint adds checkpoints of 1,000 logs, synced to the disk of TMPDIR, each log
// one after the other and 128 of them at a time, as a witness of many rarely active logs does.
func BenchmarkAddCheckpoint(b *testing.B) {
	for _, kinds := range [][]string{{Ed25519}, {Ed25519, MLDSA44}} {
		b.Run(fmt.Sprint(kinds), func(b *testing.B) {
			const origins, entries = 1000, 300
			dir, err := os.MkdirTemp("", "witness")
			if err != nil {
				b.Fatal(err)
			}
			defer os.RemoveAll(dir)
			db, err := storage.Create(dir+"/db", storage.Options{})
			if err != nil {
				b.Fatal(err)
			}
			defer db.Close()
			newest, err := storage.OpenNewest(dir+"/newest", storage.Options{})
			if err != nil {
				b.Fatal(err)
			}
			defer newest.Close()
			var keys []*Key
			for _, kind := range kinds {
				keys = append(keys, newKey(b, "witness.test/w1", kind))
			}
			w, err := New(Config{Keys: keys, Newest: newest})
			if err != nil {
				b.Fatal(err)
			}
			steps := b.N/origins + 1
			requests := make([][][]byte, origins)
			for i := range requests {
				l := newTestLog(b, fmt.Sprintf("log.test/%d", i), min(steps, entries)+1)
				tree, err := db.CreateTree(l.origin)
				if err != nil {
					b.Fatal(err)
				}
				if err := w.Add(Log{Origin: l.origin, Tree: tree, Open: l.open}); err != nil {
					b.Fatal(err)
				}
				for n := range uint64(steps) {
					if n >= entries {
						b.Fatal("too many steps")
					}
					requests[i] = append(requests[i], l.push(n, n+1))
				}
			}
			var done atomic.Int64
			var running sync.WaitGroup
			b.ResetTimer()
			next := make(chan int)
			for range 128 {
				running.Go(func() {
					for i := range next {
						for _, r := range requests[i] {
							if done.Add(1) > int64(b.N) {
								break
							}
							if _, err := w.AddCheckpoint(r); err != nil {
								b.Error(err)
							}
						}
					}
				})
			}
			for i := range origins {
				next <- i
			}
			close(next)
			running.Wait()
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "checkpoints/s")
		})
	}
}
