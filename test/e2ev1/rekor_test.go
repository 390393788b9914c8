package e2ev1

import "testing"

// TestRekor holds the steps against the real Rekor, whose results a mirror has to match: twice,
// because what changes from one time to the next could not be compared.
func TestRekor(t *testing.T) {
	w := newWorld(t)
	first, second := w.user(w.log.URL), w.user(w.log.URL)
	first.do([]step{logInfo})
	second.do([]step{logInfo})
	w.fill(15)
	second.same(second.do(w.steps()), first.do(w.steps()))
}

// TestRollOver begins a third shard while users are there, and then takes the service away and
// back.
func TestRollOver(t *testing.T) {
	w := newWorld(t)
	w.rollOver()
	w.fill(5)
	if err := w.log.Restart(w.within(startLimit)); err != nil {
		t.Fatal(err)
	}
	w.user(w.log.URL).do(w.shardSteps())
}

// steps is all that users do.
func (w *world) steps() []step {
	var all []step
	for _, some := range [][]step{w.rekorCLISteps(), w.cosignSteps(), w.monitorSteps(), w.entrySteps()} {
		all = append(all, some...)
	}
	return all
}

// shardSteps is what users do however many shards there are.
func (w *world) shardSteps() []step {
	return append(append(w.monitorSteps(), w.entrySteps()...), logInfo)
}
