package quorum

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/understudy-log/understudy/storage"
)

const (
	long  = 20 * time.Second       // never reached by a good test
	short = 300 * time.Millisecond // waited for
)

func cosign(t *testing.T, c *Collector, size uint64) ([]string, error) {
	t.Helper()
	return c.Cosign(t.Context(), checkpointOf(size), proveTo(size))
}

func TestCosign(t *testing.T) {
	a, b := newFake(t, "a"), newFake(t, "b")
	c := newCollector(t, long, policyFor(t, "all", a, b))
	for _, size := range []uint64{0, 1, 3, 3, 8, 21} {
		lines, err := cosign(t, c, size)
		if err != nil {
			t.Fatal(err)
		}
		verify(t, lines, size, a.signer, b.signer)
	}
	if got := a.heard(); len(got) != 6 || got[0].raw != string(checkpointOf(0).Raw) || got[5].old != 8 {
		t.Errorf("witness was asked %+v", got)
	}
	if !strings.HasPrefix(a.agent, "understudy/") || !strings.HasSuffix(a.agent, " (ops@example.com)") {
		t.Errorf("User-Agent %q", a.agent)
	}
	for _, s := range c.Statuses() {
		if s.Size != 21 || s.Failure != "" || time.Since(s.Cosigned) > time.Minute || s.URL == "" {
			t.Errorf("status %+v", s)
		}
	}
}

// TestCosignFromElsewhere has witnesses that know more than a Collector that has just started.
func TestCosignFromElsewhere(t *testing.T) {
	a, b, d := newFake(t, "a"), newFake(t, "b"), newFake(t, "d")
	a.size, b.size, d.size = 4, 21, 21
	d.history = "another" // from entry 5 on
	c := newCollector(t, long, policyFor(t, "all", a, b, d))
	lines, err := cosign(t, c, 21)
	verify(t, lines, 21, a.signer, b.signer)
	failed, ok := errors.AsType[*ShortError](err)
	if !ok || !strings.Contains(err.Error(), "d: it answered 422") || !strings.Contains(err.Error(), "another tree with 21 entries") {
		t.Fatal(err)
	}
	if strings.Join(failed.Have, " ") != "a b" || failed.Want != "3 of (a, b, d)" || len(failed.Witnesses) != 3 || failed.Witnesses[2].Since.IsZero() {
		t.Errorf("%+v", failed)
	}
	if strings.Contains(err.Error(), "a:") {
		t.Errorf("who cosigned is said to have failed: %v", err)
	}
	if got := a.heard(); len(got) != 2 || got[0].old != 0 || got[1].old != 4 {
		t.Errorf("witness was asked %+v", got)
	}
	_, err = cosign(t, c, 30)
	if _, ok := errors.AsType[*ShortError](err); !ok || !strings.Contains(err.Error(), "not the beginning of this log") {
		t.Error(err)
	}
}

func TestCosignTwoKeysAtOneURL(t *testing.T) {
	a, m, stranger := newFake(t, "a"), newSigner("m", typeMLDSA44), newSigner("stranger", typeEd25519Cosi)
	a.more = []*signer{stranger, m}
	p, err := ParsePolicy([]byte("witness a " + a.vkey() + " " + a.url + "/\nwitness m " + m.vkey() + " " + a.url + "\ngroup g all a m\nquorum g\n"))
	if err != nil {
		t.Fatal(err)
	}
	c := newCollector(t, long, p)
	lines, err := cosign(t, c, 7)
	if err != nil {
		t.Fatal(err)
	}
	verify(t, lines, 7, a.signer, m)
	if len(a.heard()) != 1 {
		t.Errorf("asked %d times", len(a.heard()))
	}
	a.mu.Lock()
	a.more = nil
	a.mu.Unlock()
	_, err = cosign(t, c, 8)
	if _, ok := errors.AsType[*ShortError](err); !ok || !strings.Contains(err.Error(), "(m: its answer has no cosignature") {
		t.Error(err)
	}
}

// TestLies has one witness that answers wrongly; the other one cosigns all the time.
func TestLies(t *testing.T) {
	type reply func(w http.ResponseWriter, a asked)
	now := func() int64 { return time.Now().Unix() }
	bad, stranger := newSigner("bad", typeEd25519Cosi), newSigner("stranger", typeEd25519Cosi)
	impostor := &signer{"bad", typeEd25519Cosi, stranger.seed}
	write := func(lines func(a asked) string) reply {
		return func(w http.ResponseWriter, a asked) { io.WriteString(w, lines(a)) }
	}
	status := func(code int, header, value, body string) reply {
		return func(w http.ResponseWriter, _ asked) {
			w.Header().Set(header, value)
			w.WriteHeader(code)
			io.WriteString(w, body)
		}
	}
	flip := func(line string, i int) string { // of base64, so that it is still some
		b := []byte(line)
		if b[i]++; b[i] == '['|1 || b[i] == '[' || b[i] == '{' || b[i] == ':' || b[i] == ',' || b[i] == '0' {
			b[i] = 'x'
		}
		return string(b)
	}
	for _, tc := range []struct {
		name   string
		reply  reply
		want   string // in the failure; "" if it is no lie
		result string
	}{
		{"good", write(func(a asked) string { return bad.line(a.text, now()) }), "", resultCosigned},
		{"clock a little ahead", write(func(a asked) string { return bad.line(a.text, now()+120) }), "", resultCosigned},
		{"line twice", write(func(a asked) string { return bad.line(a.text, now()) + bad.line(a.text, now()) }), "", resultCosigned},
		{"lines of strangers beside its own", write(func(a asked) string {
			return stranger.line(a.text, now()) + impostor.line(a.text, now()) + bad.line(a.text, now()) + logSigner.line(a.text, 0)
		}), "", resultCosigned},
		{"wrong key", write(func(a asked) string { return impostor.line(a.text, now()) }), "no line of its answer is a cosignature under its name and key", resultInvalid},
		{"line of the other witness", write(func(a asked) string { return newSigner("good", typeEd25519Cosi).line(a.text, now()) }), "no line of its answer", resultInvalid},
		{"line of the log", write(func(a asked) string { return logSigner.line(a.text, 0) }), "no line of its answer", resultInvalid},
		{"wrong signature", write(func(a asked) string { return flip(bad.line(a.text, now()), 60) }), "does not verify", resultInvalid},
		{"another text", write(func(a asked) string { return bad.line(textFor("", 1), now()) }), "does not verify", resultInvalid},
		{"another time", write(func(a asked) string { return flip(bad.line(a.text, now()), len("— bad ")+14) }), "", resultInvalid},
		{"good line, then a wrong one of its own name", write(func(a asked) string { return bad.line(a.text, now()) + "— bad AAAA\n" }), "not made of signature lines", resultInvalid},
		{"time zero", write(func(a asked) string { return bad.line(a.text, 0) }), "it has no time", resultInvalid},
		{"time negative", write(func(a asked) string { return bad.line(a.text, -1) }), "its time is out of range", resultInvalid},
		{"time far ahead", write(func(a asked) string { return bad.line(a.text, now()+400) }), "yet to come", resultInvalid},
		{"garbage", write(func(asked) string { return "hello\n" }), "not made of signature lines", resultInvalid},
		{"garbage after a good line", write(func(a asked) string { return bad.line(a.text, now()) + "hello\n" }), "not made of signature lines", resultInvalid},
		{"nothing", write(func(asked) string { return "" }), "not made of signature lines", resultInvalid},
		{"no newline", write(func(a asked) string { return strings.TrimSuffix(bad.line(a.text, now()), "\n") }), "not made of signature lines", resultInvalid},
		{"note of its own", write(func(a asked) string {
			longer := a.text + "\nmore\n"
			return "more\n\n" + bad.line(longer, now())
		}), "not made of signature lines", resultInvalid},
		{"note of its own, unsigned", write(func(a asked) string { return "more\n\n" + stranger.line(a.text, now()) }), "not made of signature lines", resultInvalid},
		{"huge", write(func(a asked) string {
			return bad.line(a.text, now()) + strings.Repeat(stranger.line(a.text, now()), 700)
		}), "more than 65536 bytes", resultInvalid},
		{"201", status(201, "X", "y", ""), "it answered 201", resultRefused},
		{"400", status(400, "X", "y", "bad thing\nmore"), `it answered 400 Bad Request and says "bad thing"`, resultRefused},
		{"403", status(403, "X", "y", ""), "does not have the key of this log", resultRefused},
		{"404", status(404, "X", "y", ""), "does not know this log", resultRefused},
		{"422", status(422, "X", "y", ""), "not the beginning of this log", resultRefused},
		{"500", status(500, "X", "y", ""), "it answered 500", resultUnreachable},
		{"429", status(429, "X", "y", ""), "it answered 429", resultUnreachable},
		{"redirect", status(307, "Location", "http://127.0.0.1:1/", ""), "redirect to", resultInvalid},
		{"409 without a type", status(409, "Content-Type", "text/plain", "3\n"), "without the type", resultInvalid},
		{"409 without a size", status(409, "Content-Type", typeSize, "three\n"), "without the size", resultInvalid},
		{"409 without a newline", status(409, "Content-Type", typeSize, "3"), "without the size", resultInvalid},
		{"409 with zeros", status(409, "Content-Type", typeSize, "03\n"), "without the size", resultInvalid},
		{"409 with what was asked", status(409, "Content-Type", typeSize+"; charset=utf-8", "0\n"), "it refuses a proof from size 0", resultInvalid},
		{"409 again and again", func(w http.ResponseWriter, a asked) { conflict(w, (a.old+1)%9) }, "it said twice", resultRefused},
		{"hangs up", func(http.ResponseWriter, asked) { panic(http.ErrAbortHandler) }, "EOF", resultUnreachable},
		{"ends early", func(w http.ResponseWriter, a asked) {
			w.Header().Set("Content-Length", "1000")
			io.WriteString(w, bad.line(a.text, now()))
		}, "EOF", resultUnreachable},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			good, liar := newFake(t, "good"), newFake(t, "bad")
			liar.lie = func(w http.ResponseWriter, _ *http.Request, a asked) bool { tc.reply(w, a); return true }
			metrics := NewMetrics(prometheus.NewRegistry())
			c, err := New(Config{Policy: policyFor(t, "all", good, liar), Name: "v2", Timeout: long, Metrics: metrics})
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			lines, err := cosign(t, c, 9)
			if n := testutil.ToFloat64(metrics.asked.WithLabelValues("v2", "bad", tc.result)); n != 1 {
				t.Errorf("result %q was counted %g times", tc.result, n)
			}
			if tc.result == resultCosigned {
				if err != nil {
					t.Fatal(err)
				}
				verify(t, lines, 9, good.signer, liar.signer)
				return
			}
			verify(t, lines, 9, good.signer)
			if _, ok := errors.AsType[*ShortError](err); !ok || !strings.Contains(err.Error(), "(bad: ") || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v, want %q", err, tc.want)
			}
			if s := c.Statuses()[1]; s.Failure == "" || s.Since.IsZero() || s.Size != 0 {
				t.Errorf("status %+v", s)
			}
			if len(liar.heard()) > 2 {
				t.Errorf("asked %d times", len(liar.heard()))
			}
		})
	}
}

// TestLooseLine holds that a line is returned as it encodes, whatever form it came in.
func TestLooseLine(t *testing.T) {
	a := newFake(t, "a") // 4+8+64 bytes: the last digit has bits to spare
	want := make(chan string, 1)
	a.lie = func(w http.ResponseWriter, _ *http.Request, q asked) bool {
		line := strings.TrimSuffix(a.line(q.text, time.Now().Unix()), "\n")
		want <- line
		io.WriteString(w, loosen(line)+"\n")
		return true
	}
	lines, err := cosign(t, newCollector(t, long, policyFor(t, "1", a)), 9)
	if err != nil {
		t.Fatal(err)
	}
	if w := <-want; loosen(w) == w || lines[0] != w {
		t.Errorf("got  %s\nwant %s", lines[0], w)
	}
}

func TestSlow(t *testing.T) {
	for name, slow := range map[string]func(w http.ResponseWriter, r *http.Request, a asked) bool{
		"sleeps": func(_ http.ResponseWriter, r *http.Request, _ asked) bool { <-r.Context().Done(); return true },
		"drips": func(w http.ResponseWriter, r *http.Request, _ asked) bool {
			for r.Context().Err() == nil {
				io.WriteString(w, "—")
				w.(http.Flusher).Flush()
				time.Sleep(10 * time.Millisecond)
			}
			return true
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a, b := newFake(t, "a"), newFake(t, "b")
			b.lie = slow
			c := newCollector(t, short, policyFor(t, "all", a, b))
			began := time.Now()
			lines, err := cosign(t, c, 5)
			if elapsed := time.Since(began); elapsed < short || elapsed > short+5*time.Second {
				t.Errorf("took %s", elapsed)
			}
			verify(t, lines, 5, a.signer)
			if _, ok := errors.AsType[*ShortError](err); !ok || !strings.Contains(err.Error(), "b: no whole answer within 300ms") {
				t.Error(err)
			}
			eventually(t, "status says why", func() bool { return strings.Contains(c.Statuses()[1].Failure, "no whole answer") })
			b.set(nil)
			lines, err = cosign(t, c, 6)
			if err != nil {
				t.Fatal(err)
			}
			verify(t, lines, 6, a.signer, b.signer)
			if s := c.Statuses()[1]; s.Failure != "" || !s.Since.IsZero() || s.Size != 6 {
				t.Errorf("status %+v", s)
			}
		})
	}
}

// TestParallel has witnesses that wait for each other.
func TestParallel(t *testing.T) {
	var fakes []*fake
	var inside atomic.Int32
	all := make(chan struct{})
	for _, name := range []string{"a", "b", "c", "d", "e"} {
		f := newFake(t, name)
		f.lie = func(http.ResponseWriter, *http.Request, asked) bool {
			if inside.Add(1) == 5 {
				close(all)
			}
			<-all
			return false
		}
		fakes = append(fakes, f)
	}
	if _, err := cosign(t, newCollector(t, long, policyFor(t, "all", fakes...)), 9); err != nil {
		t.Fatal(err)
	}
}

// TestSleeper has a witness that answers after three rounds went on without it: it is asked once at
// a time, then about the newest checkpoint, and its proof starts at what it has cosigned.
func TestSleeper(t *testing.T) {
	a, b, sleeper := newFake(t, "a"), newFake(t, "b"), newFake(t, "c")
	wake := make(chan struct{})
	sleeper.lie = func(http.ResponseWriter, *http.Request, asked) bool { <-wake; return false }
	c := newCollector(t, long, policyFor(t, "2", a, b, sleeper))
	began := time.Now()
	for size := uint64(10); size < 14; size++ {
		lines, err := cosign(t, c, size)
		if err != nil {
			t.Fatal(err)
		}
		verify(t, lines, size, a.signer, b.signer)
	}
	if elapsed := time.Since(began); elapsed > long/2 {
		t.Errorf("rounds took %s", elapsed)
	}
	eventually(t, "the sleeper is asked", func() bool { return len(sleeper.heard()) == 1 })
	close(wake)
	eventually(t, "the sleeper is up to date", func() bool { return sleeper.cosigned() == 13 })
	var olds, sizes []uint64
	for _, q := range sleeper.heard() {
		olds, sizes = append(olds, q.old), append(sizes, q.size)
	}
	if len(sizes) != 2 || sizes[0] != 10 || sizes[1] != 13 || olds[1] != 10 || sleeper.atOnce != 1 {
		t.Errorf("asked from %d to %d, %d at once", olds, sizes, sleeper.atOnce)
	}
	eventually(t, "its status", func() bool { return c.Statuses()[2].Size == 13 })
	// Its line for the newest checkpoint counts when that comes again.
	lines, err := cosign(t, c, 13)
	if err != nil {
		t.Fatal(err)
	}
	verify(t, lines, 13, a.signer, b.signer, sleeper.signer)
}

// TestSleeperNeeded holds that a round waits for a witness that was busy with the one before, if
// the quorum needs it.
func TestSleeperNeeded(t *testing.T) {
	a, b := newFake(t, "a"), newFake(t, "b")
	wake := make(chan struct{})
	b.lie = func(http.ResponseWriter, *http.Request, asked) bool { <-wake; return false }
	c := newCollector(t, long, policyFor(t, "1", a, b))
	if _, err := cosign(t, c, 10); err != nil {
		t.Fatal(err)
	}
	a.set(func(w http.ResponseWriter, _ *http.Request, q asked) bool {
		close(wake)
		http.Error(w, "away", http.StatusServiceUnavailable)
		return true
	})
	lines, err := cosign(t, c, 11)
	if err != nil {
		t.Fatal(err)
	}
	verify(t, lines, 11, b.signer)
}

// TestDeadline holds that a round ends with its time-out, also if a witness was asked late in it.
func TestDeadline(t *testing.T) {
	t.Parallel()
	a, b := newFake(t, "a"), newFake(t, "b")
	b.lie = func(_ http.ResponseWriter, r *http.Request, _ asked) bool { <-r.Context().Done(); return true }
	const timeout = 2 * time.Second
	c := newCollector(t, timeout, policyFor(t, "1", a, b))
	if _, err := cosign(t, c, 10); err != nil {
		t.Fatal(err)
	}
	a.set(func(w http.ResponseWriter, _ *http.Request, _ asked) bool { http.Error(w, "away", 500); return true })
	began := time.Now()
	if _, err := cosign(t, c, 11); err == nil || !strings.Contains(err.Error(), "b: no whole answer") {
		t.Error(err)
	}
	if elapsed := time.Since(began); elapsed > timeout*7/4 {
		t.Errorf("took %s", elapsed)
	}
}

// TestAgain asks about one text twice: fresh lines replace old ones, and the old one counts of who
// gives none.
func TestAgain(t *testing.T) {
	a, b := newFake(t, "a"), newFake(t, "b")
	var clock atomic.Int64
	clock.Store(1000)
	a.lie = func(w http.ResponseWriter, _ *http.Request, q asked) bool {
		io.WriteString(w, a.line(q.text, clock.Add(1)))
		return true
	}
	c := newCollector(t, long, policyFor(t, "all", a, b))
	first, err := cosign(t, c, 9)
	if err != nil {
		t.Fatal(err)
	}
	b.set(func(w http.ResponseWriter, _ *http.Request, q asked) bool { http.Error(w, "away", 500); return true })
	second, err := cosign(t, c, 9)
	if err != nil {
		t.Fatal(err)
	}
	verify(t, second, 9, a.signer, b.signer)
	if first[0] == second[0] || first[1] != second[1] {
		t.Errorf("first  %q\nsecond %q", first, second)
	}
	lines, err := cosign(t, c, 10) // another text: nothing of before counts
	if _, ok := errors.AsType[*ShortError](err); !ok {
		t.Error(err)
	}
	verify(t, lines, 10, a.signer)
}

func TestAhead(t *testing.T) {
	a, b, d := newFake(t, "a"), newFake(t, "b"), newFake(t, "d")
	d.size = 30
	held := make(chan struct{})
	hold := func(http.ResponseWriter, *http.Request, asked) bool { <-held; return false }
	a.lie, b.lie = hold, hold // so that d is heard in this round
	metrics := NewMetrics(nil)
	c, err := New(Config{Policy: policyFor(t, "any", a, b, d), Timeout: long, Metrics: metrics})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	began := time.Now()
	lines, err := cosign(t, c, 20)
	if elapsed := time.Since(began); elapsed > long/2 {
		t.Errorf("took %s", elapsed)
	}
	if ahead, ok := errors.AsType[*AheadError](err); !ok || *ahead != (AheadError{"d", 30, 20}) || len(lines) != 0 {
		t.Fatalf("%q, %v", lines, err)
	}
	if !strings.Contains(err.Error(), "restore the newest one") {
		t.Error(err)
	}
	close(held)
	eventually(t, "the others cosign", func() bool { return a.cosigned() == 20 && b.cosigned() == 20 })
	// The others are enough now, and it is still so. Nor does it help to grow past it another way.
	d.mu.Lock()
	d.history = "another"
	d.mu.Unlock()
	for _, size := range []uint64{20, 21, 31} {
		if _, err := cosign(t, c, size); !isAhead(err) {
			t.Errorf("size %d: %v", size, err)
		}
		eventually(t, "d has answered", func() bool { return !busy(c) })
	}
	if n := testutil.ToFloat64(metrics.asked.WithLabelValues("", "d", resultAhead)); n < 2 {
		t.Errorf("counted %g times", n)
	}
	// It takes that back by cosigning, which it does if what it had is the beginning of this log.
	d.mu.Lock()
	d.history = ""
	d.mu.Unlock()
	if _, err := cosign(t, c, 32); err != nil && !isAhead(err) {
		t.Error(err)
	}
	eventually(t, "d cosigns", func() bool { return d.cosigned() == 32 && !busy(c) })
	if _, err := cosign(t, c, 33); err != nil {
		t.Error(err)
	}
}

func isAhead(err error) bool { _, ok := errors.AsType[*AheadError](err); return ok }

func busy(c *Collector) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, e := range c.endpoints {
		if e.busy {
			return true
		}
	}
	return false
}

// TestAheadLate has a witness that says so after the quorum was reached without it: the next round
// must not succeed.
func TestAheadLate(t *testing.T) {
	a, d := newFake(t, "a"), newFake(t, "d")
	d.size = 30
	held := make(chan struct{})
	d.lie = func(http.ResponseWriter, *http.Request, asked) bool { <-held; return false }
	c := newCollector(t, long, policyFor(t, "any", a, d))
	if _, err := cosign(t, c, 20); err != nil {
		t.Fatal(err)
	}
	close(held)
	eventually(t, "d has answered", func() bool { return !busy(c) })
	if _, err := cosign(t, c, 21); !isAhead(err) {
		t.Error(err)
	}
}

// TestAheadOnSecondAnswer has a witness that cosigns more between two requests.
func TestAheadOnSecondAnswer(t *testing.T) {
	a := newFake(t, "a")
	a.lie = func(w http.ResponseWriter, _ *http.Request, q asked) bool {
		conflict(w, map[bool]uint64{true: 4, false: 10}[q.old == 0])
		return true
	}
	if _, err := cosign(t, newCollector(t, long, policyFor(t, "any", a)), 9); !isAhead(err) {
		t.Error(err)
	}
}

func TestRetryAfter(t *testing.T) {
	a := newFake(t, "a")
	a.lie = func(w http.ResponseWriter, _ *http.Request, q asked) bool {
		w.Header().Set("Retry-After", "3600")
		http.Error(w, "busy", http.StatusTooManyRequests)
		return true
	}
	c := newCollector(t, long, policyFor(t, "any", a))
	for range 3 {
		if _, err := cosign(t, c, 9); err == nil || !strings.Contains(err.Error(), "a: it answered 429") {
			t.Error(err)
		}
	}
	if len(a.heard()) != 1 {
		t.Errorf("asked %d times", len(a.heard()))
	}
	if until := time.Until(c.endpoints[0].until); until > maxPause {
		t.Errorf("is not asked for %s", until)
	}
}

func TestNoProof(t *testing.T) {
	a := newFake(t, "a")
	a.size = 4
	c := newCollector(t, long, policyFor(t, "any", a))
	_, err := c.Cosign(t.Context(), checkpointOf(9), func(uint64) ([]storage.Hash, error) { return nil, errors.New("disk is gone") })
	if err == nil || !strings.Contains(err.Error(), "a: it has cosigned size 4, and we have no proof from there: disk is gone") {
		t.Error(err)
	}
	_, err = c.Cosign(t.Context(), checkpointOf(9), func(uint64) ([]storage.Hash, error) { return make([]storage.Hash, 64), nil })
	if err == nil || !strings.Contains(err.Error(), "64 hashes") {
		t.Error(err)
	}
}

func TestCosignRefuses(t *testing.T) {
	a := newFake(t, "a")
	c := newCollector(t, long, policyFor(t, "any", a))
	for name, edit := range map[string]func(*storage.Checkpoint){
		"no note":      func(c *storage.Checkpoint) { c.Raw = []byte("x") },
		"no raw":       func(c *storage.Checkpoint) { c.Raw = nil },
		"another size": func(c *storage.Checkpoint) { c.Size++ },
		"another root": func(c *storage.Checkpoint) { c.Root[0]++ },
	} {
		cp := checkpointOf(9)
		edit(&cp)
		if _, err := c.Cosign(t.Context(), cp, proveTo(9)); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	if len(a.heard()) != 0 {
		t.Error("the witness was asked all the same")
	}
	if _, err := cosign(t, c, 9); err != nil {
		t.Fatal(err)
	}
	if _, err := cosign(t, c, 8); err == nil || !strings.Contains(err.Error(), "older than one of size 9") {
		t.Error(err)
	}
}

func TestNone(t *testing.T) {
	a := newFake(t, "a")
	c := newCollector(t, long, policyFor(t, none, a))
	lines, err := cosign(t, c, 9)
	if err != nil || len(lines) != 0 {
		t.Error(lines, err)
	}
	eventually(t, "it is asked all the same", func() bool { return a.cosigned() == 9 })
	empty := newCollector(t, long, must(ParsePolicy([]byte("quorum none\n"))))
	if lines, err := cosign(t, empty, 9); err != nil || lines != nil {
		t.Error(lines, err)
	}
}

func TestClose(t *testing.T) {
	a, b := newFake(t, "a"), newFake(t, "b")
	gone := make(chan struct{})
	b.lie = func(_ http.ResponseWriter, r *http.Request, _ asked) bool {
		<-r.Context().Done()
		close(gone)
		return true
	}
	c := newCollector(t, long, policyFor(t, "all", a, b))
	done := make(chan error)
	go func() { _, err := cosign(t, c, 9); done <- err }()
	eventually(t, "both are asked", func() bool { return a.cosigned() == 9 && len(b.heard()) == 1 })
	began := time.Now()
	c.Close()
	<-gone
	if err := <-done; !errors.Is(err, ErrClosed) {
		t.Error(err)
	}
	if time.Since(began) > long/2 {
		t.Error("Close waited for the time-out")
	}
	if s := c.Statuses()[1]; s.Failure != "" {
		t.Errorf("our hanging up is its failure: %+v", s)
	}
	if _, err := cosign(t, c, 10); !errors.Is(err, ErrClosed) {
		t.Error(err)
	}
	c.Close()
}

// TestCloseWithNext has somebody wait for a busy endpoint when it is closed.
func TestCloseWithNext(t *testing.T) {
	a := newFake(t, "a")
	a.lie = func(_ http.ResponseWriter, r *http.Request, _ asked) bool { <-r.Context().Done(); return true }
	c := newCollector(t, long, policyFor(t, "all", a))
	done := make(chan error, 2)
	for size := uint64(9); size < 11; size++ {
		go func() { _, err := cosign(t, c, size); done <- err }()
		eventually(t, "it is asked", func() bool {
			c.mu.Lock()
			defer c.mu.Unlock()
			return len(c.endpoints) == 1 && c.shown == size
		})
	}
	c.Close()
	for range 2 {
		if err := <-done; !errors.Is(err, ErrClosed) {
			t.Error(err)
		}
	}
	if len(a.heard()) > 1 {
		t.Errorf("asked %d times", len(a.heard()))
	}
}

// TestCancel ends a round, and not what it began.
func TestCancel(t *testing.T) {
	a, b := newFake(t, "a"), newFake(t, "b")
	wake := make(chan struct{})
	b.lie = func(http.ResponseWriter, *http.Request, asked) bool { <-wake; return false }
	c := newCollector(t, long, policyFor(t, "all", a, b))
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		for a.cosigned() != 9 || len(b.heard()) != 1 || c.Statuses()[0].Size != 9 {
			time.Sleep(time.Millisecond)
		}
		cancel()
	}()
	lines, err := c.Cosign(ctx, checkpointOf(9), proveTo(9))
	if !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	verify(t, lines, 9, a.signer)
	close(wake)
	eventually(t, "b is heard to the end", func() bool { return c.Statuses()[1].Size == 9 })
}

func TestNew(t *testing.T) {
	a, b := cosi("a.example"), cosi("b.example")
	for _, tc := range []struct{ name, policy, want string }{
		{"https", "witness a " + a + " https://a.example/w\nquorum a\n", ""},
		{"needed without a url", "witness a " + a + "\nwitness b " + b + " https://b\ngroup g all a b\nquorum g\n", "can never be reached: a without a url"},
		{"without a url, not needed", "witness a " + a + "\nwitness b " + b + " https://b\ngroup g any a b\nquorum g\n", ""},
		{"file", "witness a " + a + " file:///a\nquorum a\n", "of the witness a: want the submission prefix"},
		{"no scheme", "witness a " + a + " a.example/w\nquorum a\n", "want the submission prefix"},
		{"no host", "witness a " + a + " https:///w\nquorum a\n", "want the submission prefix"},
		{"ftp, not needed", "witness a " + a + " ftp://a/\nquorum none\n", "want the submission prefix"},
		{"query", "witness a " + a + " https://a/w?x=y\nquorum a\n", "no question mark"},
		{"empty query", "witness a " + a + " https://a/w?\nquorum a\n", "no question mark"},
		{"fragment", "witness a " + a + " https://a/w#x\nquorum a\n", "no fragment"},
		{"empty fragment", "witness a " + a + " https://a/w#\nquorum a\n", "no fragment"},
		{"password", "witness a " + a + " https://u:p@a/w\nquorum a\n", "no password"},
	} {
		c, err := New(Config{Policy: must(ParsePolicy([]byte(tc.policy)))})
		if tc.want == "" && err != nil || tc.want != "" && (err == nil || !strings.Contains(err.Error(), tc.want)) {
			t.Errorf("%s: got %v, want %q", tc.name, err, tc.want)
		}
		if err == nil {
			c.Close()
		}
	}
	if _, err := New(Config{Policy: &Policy{}, Timeout: -1}); err == nil {
		t.Error("a negative time-out was accepted")
	}
	c := must(New(Config{Policy: must(ParsePolicy([]byte("witness \xff " + a + "\nquorum none\n")))})) // no panic of Prometheus
	if s := c.Statuses(); len(s) != 1 || !strings.Contains(s[0].Failure, "no url") || c.timeout != defaultTimeout {
		t.Errorf("%+v", s)
	}
}

// TestKeepAlive holds that connections are used again, also after a failure.
func TestKeepAlive(t *testing.T) {
	a := newFake(t, "a")
	var remotes atomic.Pointer[string]
	a.lie = func(w http.ResponseWriter, r *http.Request, q asked) bool {
		if last := remotes.Swap(&r.RemoteAddr); last != nil && *last != r.RemoteAddr {
			t.Errorf("another connection: %s after %s", r.RemoteAddr, *last)
		}
		if q.size == 3 {
			http.Error(w, "away", 500)
		}
		return q.size == 3
	}
	c := newCollector(t, long, policyFor(t, "any", a))
	for size := range uint64(6) {
		if _, err := cosign(t, c, size); (err != nil) != (size == 3) {
			t.Fatal(err)
		}
	}
}

// TestStaleConnection has a connection die while it is idle: that is no failure of the witness.
func TestStaleConnection(t *testing.T) {
	a := newFake(t, "a")
	var once atomic.Bool
	a.lie = func(_ http.ResponseWriter, _ *http.Request, q asked) bool {
		if q.size == 2 && once.CompareAndSwap(false, true) {
			panic(http.ErrAbortHandler)
		}
		return false
	}
	c := newCollector(t, long, policyFor(t, "any", a))
	for size := range uint64(4) {
		if _, err := cosign(t, c, size); err != nil {
			t.Fatal(err)
		}
	}
	if !once.Load() {
		t.Error("the test is broken")
	}
}

// TestEndless holds that an answer without an end is not read to where it ends.
func TestEndless(t *testing.T) {
	a := newFake(t, "a")
	read := make(chan bool, 1)
	a.lie = func(w http.ResponseWriter, _ *http.Request, _ asked) bool {
		chunk := strings.Repeat("—", 30<<10)
		for range 400 { // more than all buffers on the way hold
			if _, err := io.WriteString(w, chunk); err != nil {
				read <- false
				return true
			}
		}
		read <- true
		return true
	}
	c := newCollector(t, long, policyFor(t, "any", a))
	if _, err := cosign(t, c, 9); err == nil || !strings.Contains(err.Error(), "more than 65536 bytes") {
		t.Error(err)
	}
	if <-read {
		t.Error("it was read to its end")
	}
}
