package daemon

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"

	"golang.org/x/sync/errgroup"
)

// HandleHealth adds the three paths that tell how a program is:
//
//   - /healthz says that it lives;
//   - /readyz says whether it does its work, with the reason when not:
//     ready returns that reason, or nil;
//   - /metrics is metrics.
func HandleHealth(mux *http.ServeMux, ready func() error, metrics http.Handler) {
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		answer(w, http.StatusOK, health{OK: true})
	})
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		if err := ready(); err != nil {
			answer(w, http.StatusServiceUnavailable, readiness{Reason: err.Error()})
			return
		}
		answer(w, http.StatusOK, readiness{Ready: true})
	})
	mux.Handle("GET /metrics", metrics)
}

type health struct {
	OK bool `json:"ok"`
}

type readiness struct {
	Ready  bool   `json:"ready"`
	Reason string `json:"reason,omitempty"`
}

func answer(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body) // fails only when the asker has gone
}

// Limits of the servers of a daemon. Bodies and answers of proxied calls take
// as long as they take.
const (
	readHeaderTimeout = 5 * time.Second
	idleTimeout       = 2 * time.Minute
	maxHeaderBytes    = 64 << 10
)

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
