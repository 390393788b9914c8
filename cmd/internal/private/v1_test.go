package private_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/understudy-log/understudy/cmd/internal/private"
	"github.com/understudy-log/understudy/log"
	"github.com/understudy-log/understudy/log/rekor"
	"github.com/understudy-log/understudy/mirror"
	"github.com/understudy-log/understudy/storage"
	"github.com/understudy-log/understudy/test/logstage"
)

// TestNotFoundIsNo: while the first checkpoint is published, nobody who looks for an entry in it is told
// that there is none.
func TestNotFoundIsNo(t *testing.T) {
	for range 5 {
		s := logstage.New(t, 1, func(s *logstage.Stage) {
			promise, err := private.PromiseV1(s.Public, s.Signer, false)
			if err != nil {
				t.Fatal(err)
			}
			s.Config.Promise = promise
			s.Witnessed()
			s.Asleep.Store(true)
		})
		v, err := private.NewV1(s.Log, logstage.TreeID, s.Public)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		if _, err := s.Log.Append(ctx, log.Entry{Body: []byte("a")}); err == nil {
			t.Fatal("it is published")
		}
		cancel()
		s.AwaitHeld(1)
		if s.Log.Published().Raw != nil {
			t.Fatal("something is published")
		}
		uuid := rekor.UUID{TreeID: logstage.TreeID, LeafHash: storage.LeafHash([]byte("a"))}
		var group sync.WaitGroup
		for i := range 8 {
			group.Go(func() {
				ref := mirror.EntryRef{}
				if i%2 == 0 {
					ref.UUID = &uuid
				}
				for {
					_, _, err := v.Entry(t.Context(), mirror.Operator, ref)
					refusal, ok := errors.AsType[*mirror.Refusal](err)
					switch {
					case err == nil:
						return
					case !ok || refusal.Kind != mirror.Unavailable:
						t.Errorf("an entry that is there: %v", err)
						return
					}
				}
			})
		}
		s.Asleep.Store(false)
		group.Wait()
		s.Close()
	}
}
