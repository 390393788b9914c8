package log

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	mathrand "math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
)

// TestDiskFails lets the disk of the database, or of the memory of what was published, refuse what a
// commit needs, before and after it takes effect. Nobody gets a receipt for what is not durable, all
// of Append and Run end by themselves, and what is on the disk then is gone on with.
func TestDiskFails(t *testing.T) {
	isSync := func(k errorfs.OpKind) bool {
		return k == errorfs.OpFileSync || k == errorfs.OpFileSyncData || k == errorfs.OpFileSyncTo
	}
	isWrite := func(k errorfs.OpKind) bool { return k == errorfs.OpFileWrite || k == errorfs.OpFileWriteAt }
	for _, c := range []struct {
		name, dir string
		err       error
		op        func(errorfs.OpKind) bool
		survives  int // percent of what was not synced: 100 is a failure after it took effect
	}{
		{"full", "db/", syscall.ENOSPC, isWrite, 0},
		{"sync fails before it takes effect", "db/", syscall.EIO, isSync, 0},
		{"sync fails after it took effect", "db/", syscall.EIO, isSync, 100},
		{"memory is full", "newest/", syscall.ENOSPC, isWrite, 0},
		{"memory: sync fails", "newest/", syscall.EIO, isSync, 0},
		{"memory: sync fails after it took effect", "newest/", syscall.EIO, isSync, 100},
	} {
		for _, witnesses := range []string{"no witness", "witness", "witness that refuses"} {
			t.Run(c.name+", "+witnesses, func(t *testing.T) {
				w := &witness{t: t}
				s := newStage(t, func(config *Config) {
					if witnesses != "no witness" {
						config.Cosign = w.Cosign
					}
				})
				s.open(true)
				for i := range 5 {
					s.append(fmt.Sprint("before ", i))
				}
				if witnesses == "witness that refuses" {
					w.will(refuse)
					if _, err := s.within(50*time.Millisecond, "during 0"); !errors.Is(err, context.DeadlineExceeded) {
						t.Errorf("without witnesses: %v", err)
					}
				}
				s.fail(func(o errorfs.Op) error {
					if c.op(o.Kind) && strings.Contains(o.Path, c.dir) {
						return c.err
					}
					return nil
				})
				var appends sync.WaitGroup
				for i := range 20 {
					appends.Go(func() {
						r, err := s.log.Append(context.Background(), entryOf(fmt.Sprint("during ", i)))
						if !errors.Is(err, c.err) && !errors.Is(err, ErrStopping) {
							t.Errorf("answered without a disk: %+v %v", r, err)
						}
					})
				}
				appends.Wait()
				ended := make(chan error)
				go func() { ended <- s.ended() }()
				select {
				case err := <-ended:
					if !errors.Is(err, c.err) {
						t.Errorf("run ended with %v, want %v", err, c.err)
					}
				case <-time.After(10 * time.Second):
					t.Error("run goes on without a disk")
				}
				if size := s.log.Published().Size; size != 5 {
					t.Errorf("%d entries are published without a disk", size)
				}
				w.will(nil)
				s.crash(c.survives, mathrand.New(mathrand.NewPCG(1, 1)))
				s.open(false)
				for i := range 5 {
					if r := s.append(fmt.Sprint("before ", i)); !r.Duplicate {
						t.Errorf("entry %d was lost", i)
					}
				}
				for i := range 20 {
					s.append(fmt.Sprint("during ", i))
				}
				if size := s.log.Published().Size; size != 25 {
					t.Errorf("%d entries afterwards", size)
				}
				s.sound()
			})
		}
	}
}

// TestReceiptUnreadable: the disk does not read what was promised about a duplicate. That is an
// error, and no answer without a promise.
func TestReceiptUnreadable(t *testing.T) {
	s := newStage(t, nil)
	big := strings.Repeat("x", 20_000)
	s.open(true)
	for i := range 200 {
		s.append(fmt.Sprint(i, big))
	}
	// A backup has everything in tables, and so has what is restored from it.
	if err := s.db.Backup("backup"); err != nil {
		t.Fatal(err)
	}
	s.close()
	failures := 0
	for k := int64(17); k <= 40; k++ { // the k-th read fails; those before are of opening
		s.sick = true
		s.open(false)
		var reads, failed atomic.Int64
		s.fail(func(o errorfs.Op) error {
			if o.Kind == errorfs.OpFileReadAt && strings.HasSuffix(o.Path, ".sst") && reads.Add(1) == k {
				failed.Add(1)
				return syscall.EIO
			}
			return nil
		})
		for i := range 20 {
			body := fmt.Sprint(i*9, big)
			r, err := s.log.Append(context.Background(), entryOf(body))
			if err != nil {
				failures++
				continue
			}
			if !r.Duplicate || r.Index != uint64(i*9) || !bytes.HasSuffix(r.Promise, []byte(body)) {
				t.Fatalf("read %d fails: entry %d is answered as %d, duplicate %v, promise of %d bytes", k, i*9, r.Index, r.Duplicate, len(r.Promise))
			}
		}
		s.close()
		s.ask.Store(nil)
	}
	t.Logf("%d appends failed", failures)
	if failures < 5 {
		t.Errorf("only %d reads mattered", failures)
	}
	s.sick = false
}
