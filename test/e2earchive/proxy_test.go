package e2earchive

import (
	"net"
	"sync"
	"testing"
)

// trap says when a proxy's victim is killed: once so many bytes of one connection went up,
// and, with answer, one byte came down after that.
type trap struct {
	up     int
	answer bool
}

// proxy passes connections on until its trap is sprung, and none thereafter.
type proxy struct {
	addr   string
	target string
	trap   trap
	kill   func()
	once   sync.Once
	closed chan struct{} // when the trap was sprung
}

func startProxy(t *testing.T, target string, at trap, kill func()) *proxy {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{addr: listener.Addr().String(), target: target, trap: at, kill: kill, closed: make(chan struct{})}
	var connections sync.WaitGroup
	connections.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			connections.Go(func() { p.serve(conn) })
		}
	})
	t.Cleanup(func() { listener.Close(); p.spring(); connections.Wait() })
	return p
}

func (p *proxy) spring() {
	p.once.Do(func() { p.kill(); close(p.closed) })
}

func (p *proxy) sprung() bool {
	select {
	case <-p.closed:
		return true
	default:
		return false
	}
}

func (p *proxy) serve(down net.Conn) {
	defer down.Close()
	if p.sprung() {
		return
	}
	up, err := net.Dial("tcp", p.target)
	if err != nil {
		return
	}
	var mu sync.Mutex
	sent := 0
	var both sync.WaitGroup
	done := make(chan struct{})
	both.Go(func() {
		select {
		case <-p.closed:
		case <-done:
		}
		up.Close()
		down.Close()
	})
	both.Go(func() {
		defer close(done)
		buffer := make([]byte, 4096)
		for {
			n, err := down.Read(buffer)
			if n > 0 {
				up.Write(buffer[:n]) // what fails is seen by the reader below
				mu.Lock()
				sent += n
				full := sent >= p.trap.up
				mu.Unlock()
				if full && !p.trap.answer {
					p.spring()
				}
			}
			if err != nil {
				return
			}
		}
	})
	buffer := make([]byte, 4096)
	for {
		n, err := up.Read(buffer)
		mu.Lock()
		full := sent >= p.trap.up
		mu.Unlock()
		if n > 0 && full {
			p.spring()
		}
		if n > 0 && !full {
			down.Write(buffer[:n])
		}
		if err != nil {
			break
		}
	}
	down.Close()
	both.Wait()
}
