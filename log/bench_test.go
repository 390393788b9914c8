package log

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/understudy-log/understudy/storage"
)

// BenchmarkAppend appends prepared entries from 512 goroutines to a log on a real disk, synced.
func BenchmarkAppend(b *testing.B) {
	s := newStage(b, func(c *Config) { c.BatchWait = 0 })
	dir := b.TempDir()
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
	c := s.config
	c.DB, c.Newest = db, newest
	l, err := Create(c)
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { l.Run(ctx) })
	entry := make([]byte, 600)
	var next atomic.Int64
	took := make([]time.Duration, b.N)
	var appenders sync.WaitGroup
	b.ResetTimer()
	for range 512 {
		appenders.Go(func() {
			for i := next.Add(1) - 1; i < int64(b.N); i = next.Add(1) - 1 {
				began := time.Now()
				if _, err := l.Append(ctx, Entry{Body: append(fmt.Appendf(nil, "%d ", i), entry...), Proposed: entry, Identity: "bench"}); err != nil {
					b.Error(err)
				}
				took[i] = time.Since(began)
			}
		})
	}
	appenders.Wait()
	b.StopTimer()
	cancel()
	running.Wait()
	slices.Sort(took)
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "entries/s")
	b.ReportMetric(took[len(took)*99/100].Seconds()*1000, "p99-ms")
}
