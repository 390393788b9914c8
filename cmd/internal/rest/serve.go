package rest

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"
)

// readTime is how long a client may take to send a request; a large body has as much again,
// from when there is room for it.
const readTime = 30 * time.Second

// stopTime is how long requests under way may take to end when the server stops.
const stopTime = 4 * time.Second

// Serve answers requests on l until ctx ends; then it takes no new ones, waits up
// to four seconds for those under way, cuts off the rest, and returns nil once no
// handler runs any more. It closes l. answerTime bounds one answer; 0 is unbounded.
func Serve(ctx context.Context, l net.Listener, h http.Handler, answerTime time.Duration, logger *slog.Logger) error {
	return serve(ctx, l, h, answerTime, nil, nil, logger)
}

// ServeLog is Serve for an address of the private log: with TLS, unless secure is nil, and HTTP/2 also
// without it, for gRPC.
func ServeLog(ctx context.Context, l net.Listener, h http.Handler, secure *tls.Config, logger *slog.Logger) error {
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	protocols.SetHTTP2(secure != nil)
	protocols.SetUnencryptedHTTP2(secure == nil)
	return serve(ctx, l, h, time.Minute, secure, protocols, logger)
}

func serve(ctx context.Context, l net.Listener, h http.Handler, answerTime time.Duration, secure *tls.Config, protocols *http.Protocols, logger *slog.Logger) error {
	var running sync.RWMutex // held for reading by every handler
	server := &http.Server{
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if !running.TryRLock() {
				refuse(w, http.StatusServiceUnavailable, "stopping")
				return
			}
			defer running.RUnlock()
			h.ServeHTTP(w, r)
		}),
		ReadHeaderTimeout: 10 * time.Second,
		ReadTimeout:       readTime,
		WriteTimeout:      answerTime,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    16 << 10,
		TLSConfig:         secure,
		Protocols:         protocols,
		ErrorLog:          slog.NewLogLogger(logger.Handler(), slog.LevelDebug),
	}
	failed := make(chan error, 1)
	go func() {
		if secure != nil {
			failed <- server.ServeTLS(l, "", "")
			return
		}
		failed <- server.Serve(l)
	}()
	select {
	case err := <-failed:
		return fmt.Errorf("serve HTTP on %s: %w", l.Addr(), err)
	case <-ctx.Done():
	}
	timeout, cancel := context.WithTimeout(context.Background(), stopTime)
	defer cancel()
	err := server.Shutdown(timeout)
	if errors.Is(err, context.DeadlineExceeded) {
		err = server.Close()
	}
	running.Lock() // for good: no handler runs after this
	<-failed
	return err
}
