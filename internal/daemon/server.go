package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strings"
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
// [UsageError]. A socket that systemd has opened for the flag takes its place: one with the
// name of the flag (FileDescriptorName=http), or for --http the only one.
func Listen(flag, address string) (net.Listener, error) {
	if l, err := inherited(strings.TrimLeft(flag, "-")); l != nil || err != nil {
		return l, err
	}
	l, err := net.Listen("tcp", address)
	if err != nil {
		if op, ok := errors.AsType[*net.OpError](err); ok && op.Addr == nil {
			return nil, Usagef("%s %s: want host:port: %w", flag, address, op.Err)
		}
		return nil, fmt.Errorf("%s %s: %w", flag, address, err)
	}
	return l, nil
}

// Ending is how a server ends.
type Ending struct {
	Grace   time.Duration   // for the requests under way
	Hurried context.Context // its end ends that; nil: nothing does
	Closing func()          // called before it waits; nil: not
	Cutting func()          // called before it closes what has not ended; nil: not
}

// Serve serves l until ctx ends. Then it accepts no more connections, waits for the
// requests under way, and closes what is left.
func Serve(ctx context.Context, srv *http.Server, l net.Listener, e Ending) error {
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
			if e.Closing != nil {
				e.Closing()
			}
		case <-served:
		}
		stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), e.Grace)
		defer cancel()
		if e.Hurried != nil {
			defer context.AfterFunc(e.Hurried, cancel)()
		}
		if srv.Shutdown(stop) != nil {
			if e.Cutting != nil {
				e.Cutting()
			}
			return srv.Close()
		}
		return nil
	})
	return g.Wait()
}
