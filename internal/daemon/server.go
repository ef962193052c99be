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

// NewHTTPServer returns an HTTP server with limits for the head of requests and for
// idle connections. It logs its own errors at debug level.
func NewHTTPServer(handler http.Handler, logger *slog.Logger) *http.Server {
	return &http.Server{
		Handler:           handler,
		ReadHeaderTimeout: readHeaderTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeaderBytes,
		ErrorLog:          slog.NewLogLogger(logger.Handler(), slog.LevelDebug),
	}
}

// Listen listens on the TCP address of a flag. A malformed address is a
// [UsageError].
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

// Serve serves l until ctx ends. Then it accepts no more connections, waits up to
// grace for the requests under way, and closes what is left.
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
