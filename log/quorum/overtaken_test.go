package quorum

import (
	"net/http"
	"testing"
	"time"
)

// TestOvertaken: a witness that was shown a newer checkpoint at another of its addresses is not ahead of
// the log, and the log does not stop for it.
func TestOvertaken(t *testing.T) {
	a, b := newFake(t, "a"), newFake(t, "b")
	asked10, shown20, asked20, shown21 := make(chan bool, 1), make(chan bool), make(chan bool, 1), make(chan bool)
	b.set(func(w http.ResponseWriter, _ *http.Request, q asked) bool {
		if q.size == 20 {
			asked20 <- true
			<-shown21
		}
		if q.size != 10 {
			return false
		}
		asked10 <- true
		<-shown20
		b.mu.Lock()
		b.size = 20
		b.mu.Unlock()
		conflict(w, 20)
		return true
	})
	c := newCollector(t, 10*time.Second, policyFor(t, "any", a, b))
	for _, size := range []uint64{10, 20} {
		lines, err := c.Cosign(t.Context(), checkpointOf(size), proveTo(size))
		if err != nil {
			t.Fatal(err)
		}
		verify(t, lines, size, a.signer)
		if size == 10 {
			<-asked10
		}
	}
	close(shown20)
	<-asked20
	if _, err := c.Cosign(t.Context(), checkpointOf(21), proveTo(21)); err != nil {
		t.Errorf("the log stops: %v", err)
	}
	close(shown21)
	eventually(t, "b cosigns 21", func() bool { return c.Statuses()[1].Size == 21 })
}
