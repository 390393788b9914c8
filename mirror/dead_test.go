package mirror

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"
)

// TestDeadConnection: a connection that something on the way has forgotten is given up soon, and not used until
// the system gives it up after a quarter of an hour.
func TestDeadConnection(t *testing.T) {
	if testing.Short() {
		t.Skip("takes seconds")
	}
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, r.Proto) }))
	server.EnableHTTP2 = true
	server.StartTLS()
	defer server.Close()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	var dead, taken atomic.Int32 // connections up to the number dead are silent
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			n := taken.Add(1)
			s, err := net.Dial("tcp", server.Listener.Addr().String())
			if err != nil {
				return
			}
			pass := func(to, from net.Conn) {
				buf := make([]byte, 4096)
				for {
					k, err := from.Read(buf)
					if err != nil {
						to.Close()
						return
					}
					if n > dead.Load() {
						_, _ = to.Write(buf[:k])
					}
				}
			}
			go pass(s, c)
			go pass(c, s)
		}
	}()
	pool := x509.NewCertPool()
	pool.AddCert(server.Certificate())
	transport := newTransport()
	transport.TLSClientConfig = &tls.Config{RootCAs: pool, ServerName: "example.com", NextProtos: []string{"h2"}}
	transport.ForceAttemptHTTP2 = true
	client := &http.Client{Transport: transport}
	ask := func() error {
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		defer cancel()
		r, _ := http.NewRequestWithContext(ctx, "GET", "https://"+l.Addr().String()+"/", nil)
		answer, err := client.Do(r)
		if err != nil {
			return err
		}
		defer answer.Body.Close()
		raw, err := io.ReadAll(answer.Body)
		if err == nil && string(raw) != "HTTP/2.0" {
			t.Fatalf("%s", raw)
		}
		return err
	}
	if err := ask(); err != nil {
		t.Fatal(err)
	}
	dead.Store(taken.Load())
	began := time.Now()
	for ask() != nil {
		if time.Since(began) > 20*time.Second {
			t.Fatalf("upstream takes new connections, and is asked on a dead one for %s", time.Since(began))
		}
		time.Sleep(200 * time.Millisecond)
	}
	t.Logf("a new connection after %s", time.Since(began))
}
