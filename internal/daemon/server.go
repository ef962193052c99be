package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"

	"golang.org/x/sync/errgroup"
)

// maxHeaderBytes bounds the head of a request.
const maxHeaderBytes = 64 << 10

// NewHTTPServer is an HTTP server with the limits of a daemon.
func NewHTTPServer(handler http.Handler, logger *slog.Logger) *http.Server {
	return &http.Server{
		Handler:           handler,
		ReadHeaderTimeout: readHeaderTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeaderBytes,
		ErrorLog:          slog.NewLogLogger(logger.Handler(), slog.LevelDebug),
	}
}

// Listen opens the TCP address of a flag. What is wrong with it is in one line.
func Listen(flag, address string) (net.Listener, error) {
	l, err := net.Listen("tcp", address)
	if err != nil {
		if op, ok := errors.AsType[*net.OpError](err); ok && op.Addr == nil {
			return nil, Usagef("%s %s: want host:port: %w", flag, address, op.Err)
		}
		return nil, fmt.Errorf("%s %s: %w", flag, address, err)
	}
	return l, nil
}

// Serve runs srv on l until ctx ends, then lets requests end for grace before
// it closes their connections.
func Serve(ctx context.Context, srv *http.Server, l net.Listener, grace time.Duration) error {
	var g errgroup.Group
	served := make(chan struct{})
	g.Go(func() error {
		defer close(served)
		if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			return fmt.Errorf("serving %s: %w", l.Addr(), err)
		}
		return nil
	})
	g.Go(func() error {
		select {
		case <-ctx.Done():
		case <-served:
		}
		stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), grace)
		defer cancel()
		if srv.Shutdown(stop) != nil {
			return srv.Close()
		}
		return nil
	})
	return g.Wait()
}
