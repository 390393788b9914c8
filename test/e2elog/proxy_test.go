package e2elog

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"sync"
	"sync/atomic"
)

// nowhere is an address at which nobody listens.
const nowhere = "127.0.0.1:1"

// proxy leads from host names to addresses on loopback: a verifier takes the name of a Rekor v2 log
// from its host, and clients do not resolve what they ask a proxy for. What nobody listens at is a
// 502, as in outages of the public log.
type proxy struct {
	*httptest.Server
	made  atomic.Int64
	mu    sync.Mutex
	hosts map[string]string // host without a port -> address
}

func newProxy() *proxy {
	p := &proxy{hosts: make(map[string]string)}
	forward := &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.Out.URL.Host = p.lookup(r.In.URL.Hostname())
			r.Out.Host = r.In.Host
		},
		Transport: &http.Transport{MaxIdleConnsPerHost: 64},
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, err error) {
			http.Error(w, err.Error(), http.StatusBadGateway)
		},
	}
	p.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodConnect {
			p.tunnel(w, r)
			return
		}
		forward.ServeHTTP(w, r)
	}))
	return p
}

// name returns a host name of its own for an address.
func (p *proxy) name(kind, addr string) string {
	host := fmt.Sprintf("%s-%d.us.test", kind, p.made.Add(1))
	p.lead(host, addr)
	return host
}

// lead leads a host to an address.
func (p *proxy) lead(host, addr string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.hosts[host] = addr
}

func (p *proxy) lookup(host string) string {
	p.mu.Lock()
	defer p.mu.Unlock()
	if addr, ok := p.hosts[host]; ok {
		return addr
	}
	return nowhere // there is no internet here
}

// tunnel passes a TLS connection on.
func (p *proxy) tunnel(w http.ResponseWriter, r *http.Request) {
	host := (&url.URL{Host: r.Host}).Hostname()
	up, err := net.Dial("tcp", p.lookup(host))
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadGateway)
		return
	}
	defer up.Close()
	down, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	defer down.Close()
	if _, err := io.WriteString(down, "HTTP/1.1 200 OK\r\n\r\n"); err != nil {
		return
	}
	var both sync.WaitGroup
	both.Go(func() {
		io.Copy(up, buffered) // until one of them hangs up
		up.Close()
	})
	io.Copy(down, up)
	down.Close()
	both.Wait()
}
