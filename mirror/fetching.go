package mirror

import (
	"context"
	"sync"

	"github.com/understudy-log/understudy/log/rekor"
)

// flights are the entries that are being fetched. Whoever asks for one of them waits for it.
// They are fetched while serve runs, and by it.
type flights struct {
	mu     sync.Mutex
	now    map[string]*fetching
	launch func(func(context.Context)) // nil while serve does not run
}

// fetching is one entry under way.
type fetching struct {
	done chan struct{} // closed when the fields below are set
	item rekor.Item
	err  error // a *Refusal
}

func newFlights() *flights { return &flights{now: map[string]*fetching{}} }

// serve lets flights be launched until ctx ends, and waits for them.
func (f *flights) serve(ctx context.Context) {
	var running sync.WaitGroup
	f.mu.Lock()
	f.launch = func(flight func(context.Context)) { running.Go(func() { flight(ctx) }) }
	f.mu.Unlock()
	<-ctx.Done()
	f.mu.Lock()
	f.launch = nil
	f.mu.Unlock()
	running.Wait()
}

// join returns what is under way for each entry. For those for which nothing was, it launches
// fetch, which calls land. It returns nil if nothing can be launched.
func (f *flights) join(refs []EntryRef, fetch func(ctx context.Context, owned []EntryRef)) (all []*fetching) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.launch == nil {
		return nil
	}
	var owned []EntryRef
	for _, ref := range refs {
		under := f.now[ref.String()]
		if under == nil {
			under = &fetching{done: make(chan struct{})}
			f.now[ref.String()] = under
			owned = append(owned, ref)
		}
		all = append(all, under)
	}
	if len(owned) > 0 {
		f.launch(func(ctx context.Context) { fetch(ctx, owned) })
	}
	return all
}

// land ends the fetching of an entry.
func (f *flights) land(ref EntryRef, item rekor.Item, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	under := f.now[ref.String()]
	delete(f.now, ref.String())
	under.item, under.err = item, err
	close(under.done)
}
