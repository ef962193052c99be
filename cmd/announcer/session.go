package main

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/proxima-discovery/proxima/internal/announcing"
	"github.com/proxima-discovery/proxima/internal/daemon"
	"github.com/proxima-discovery/proxima/pkg/kv"
	"github.com/proxima-discovery/proxima/pkg/telemetry"
	"github.com/proxima-discovery/proxima/pkg/topology"
)

const (
	reopenEvery = 5 * time.Second // a registry that something is wrong with
	adminGrace  = time.Second
)

// session is what every subcommand works with.
type session struct {
	app       *cli
	log       *slog.Logger
	where     topology.Detection
	announcer *announcing.Announcer

	sdk       *daemon.Telemetry
	metrics   *telemetry.Metrics
	admin     string // where it is served, "" for nowhere
	stopAdmin context.CancelFunc
	serving   sync.WaitGroup
}

// prepare checks the flags that all subcommands share. It leaves nothing that
// must be ended.
func (app *cli) prepare(ctx context.Context, p *daemon.Process) (*session, error) {
	log := app.Log.Logger(p.Stderr)
	if err := app.NATS.Validate(); err != nil {
		return nil, err
	}
	if err := app.Registry.Validate(); err != nil {
		return nil, err
	}
	if app.CheckInterval <= 0 {
		return nil, daemon.Usagef("--check-interval %s: want more than 0", app.CheckInterval)
	}
	where, err := app.Location.Detect(ctx, p.Getenv, log)
	if err != nil {
		return nil, err
	}
	a := &announcing.Announcer{Board: announcing.NewBoard(log), CheckInterval: app.CheckInterval, Logger: log}
	return &session{app: app, log: log, where: where, announcer: a}, nil
}

// start begins to measure, and to show it when --admin says where.
func (s *session) start(ctx context.Context, getenv func(string) string) error {
	// A log that nobody reads any more is no reason to end: caught, the
	// signal makes a failed write of it.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE)
	var admin net.Listener
	var err error
	if s.app.Admin != "" {
		if admin, err = daemon.Listen("--admin", s.app.Admin); err != nil {
			return err
		}
	}
	s.sdk, err = daemon.NewTelemetry(ctx, "announcer", getenv, s.log)
	if err == nil {
		s.metrics, err = telemetry.New(s.sdk.Meter("announcer"))
	}
	if err != nil {
		if admin != nil {
			err = errors.Join(err, admin.Close())
		}
		return err
	}
	s.announcer.OnState = s.metrics.OnState
	if admin != nil {
		s.serve(ctx, admin)
	}
	return nil
}

// serve answers /healthz, /readyz and /metrics until end, also while the
// instances leave.
func (s *session) serve(ctx context.Context, l net.Listener) {
	mux := http.NewServeMux()
	daemon.HandleHealth(mux, s.announcer.Board.Ready, s.sdk.Handler())
	ctx, s.stopAdmin = context.WithCancel(context.WithoutCancel(ctx))
	s.serving.Go(func() {
		if err := daemon.Serve(ctx, daemon.NewHTTPServer(mux, s.log), l, adminGrace); err != nil {
			s.log.Error("health and metrics are not served any more", "error", err)
		}
	})
	s.admin = l.Addr().String()
}

// begun logs what is known before anything is announced.
func (s *session) begun() {
	if s.admin != "" {
		s.log.Info("serving health and metrics", "address", s.admin)
	}
	if s.where.Location.Zone == "" {
		s.log.Warn("the zone is unknown: nobody can tell that this is near (set --zone)")
	}
}

// end undoes what start did.
func (s *session) end(ctx context.Context) {
	if s.stopAdmin != nil {
		s.stopAdmin()
	}
	s.serving.Wait()
	if err := errors.Join(s.metrics.Close(), s.sdk.Shutdown(ctx)); err != nil {
		s.log.Warn("the last measurements were not sent", "error", err)
	}
}

// connect waits for NATS, and opens the registry. Errors are those that only
// a person can mend. The connection is to be closed.
func (s *session) connect(ctx context.Context) (*nats.Conn, *kv.Registry, error) {
	conn, err := s.app.NATS.Connect(ctx, "announcer", s.log)
	if err != nil {
		return nil, nil, err
	}
	registry, err := s.open(ctx, conn)
	if err != nil {
		conn.Close()
		return nil, nil, err
	}
	return conn, registry, nil
}

// connectAtLast is connect for those who go on without the registry: it tries
// until ctx ends.
func (s *session) connectAtLast(ctx context.Context) (*nats.Conn, *kv.Registry, error) {
	conn, err := s.app.NATS.Keep("announcer", s.log)
	if err != nil {
		return nil, nil, err
	}
	for {
		registry, err := s.open(ctx, conn)
		s.announcer.Board.Fail(err)
		if err == nil {
			return conn, registry, nil
		}
		s.log.Error("cannot announce, trying on", "error", err)
		select {
		case <-ctx.Done():
			conn.Close()
			return nil, nil, ctx.Err()
		case <-time.After(reopenEvery):
		}
	}
}

func (s *session) open(ctx context.Context, conn *nats.Conn) (*kv.Registry, error) {
	return kv.Open(ctx, conn, s.app.Registry.Options(s.log))
}
