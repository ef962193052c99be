package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"syscall"

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
// [UsageError]. A socket that systemd has passed for the flag takes its place: the only
// one, or one with the name of the flag (FileDescriptorName=http for --http). With
// neither it returns nil.
func Listen(flag, address string) (net.Listener, error) {
	if l, err := sockets().take(flag); l != nil || err != nil || address == "" {
		return l, err
	}
	l, err := net.Listen("tcp", address)
	if err == nil {
		return l, nil
	}
	op, ok := errors.AsType[*net.OpError](err)
	switch {
	case ok && op.Addr == nil:
		return nil, Usagef("%s %s: want host:port: %w", flag, address, op.Err)
	case ok && errors.Is(err, syscall.EADDRINUSE):
		return nil, fmt.Errorf("%s %s: %w: end the program that listens there, or choose another port", flag, address, op.Err)
	}
	return nil, fmt.Errorf("%s %s: %w", flag, address, err)
}

// Serve serves l until closing ends. Then it accepts no more connections, waits until
// those that are there have had an answer to their request, and closes idle ones.
// What is left when cutting ends it closes too. See [End.Phases].
func Serve(closing, cutting context.Context, srv *http.Server, l net.Listener) error {
	busy := &busyConns{conns: map[net.Conn]struct{}{}, changed: make(chan struct{}, 1)}
	srv.ConnState = busy.note
	var g errgroup.Group
	served := make(chan struct{})
	g.Go(func() error {
		defer close(served)
		err := srv.Serve(l)
		if closing.Err() != nil && errors.Is(err, net.ErrClosed) {
			return nil
		}
		return errors.Join(fmt.Errorf("serving %s: %w", l.Addr(), err), srv.Close())
	})
	g.Go(func() error {
		select {
		case <-closing.Done():
		case <-served:
			return nil
		}
		_ = l.Close() // Shutdown would not answer a connection that it finds without a request
		<-served
		busy.wait(cutting)
		if srv.Shutdown(cutting) != nil {
			return srv.Close()
		}
		return nil
	})
	return g.Wait()
}

// busyConns are the connections of a server that have a request, or are new and will
// have one soon, or be closed by the server.
type busyConns struct {
	mu      sync.Mutex
	conns   map[net.Conn]struct{}
	changed chan struct{} // holds one
}

func (b *busyConns) note(c net.Conn, s http.ConnState) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if s == http.StateNew || s == http.StateActive {
		b.conns[c] = struct{}{}
		return
	}
	delete(b.conns, c)
	select {
	case b.changed <- struct{}{}:
	default:
	}
}

// wait waits until there are none, or ctx ends.
func (b *busyConns) wait(ctx context.Context) {
	for {
		b.mu.Lock()
		left := len(b.conns)
		b.mu.Unlock()
		if left == 0 {
			return
		}
		select {
		case <-b.changed:
		case <-ctx.Done():
			return
		}
	}
}
