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
	"github.com/proxima-discovery/proxima/pkg/events"
	"github.com/proxima-discovery/proxima/pkg/kv"
	"github.com/proxima-discovery/proxima/pkg/telemetry"
	"github.com/proxima-discovery/proxima/pkg/topology"
)

const (
	reopenEvery = 5 * time.Second // when the registry cannot be opened
	adminGrace  = time.Second     // for requests under way at the end
)

// session is what all subcommands share.
type session struct {
	app       *cli
	log       *slog.Logger
	manager   *daemon.Manager
	where     topology.Detection
	announcer *announcing.Announcer

	sdk       *daemon.Telemetry
	metrics   *telemetry.Metrics
	admin     string // the address of --admin, "" without
	stopAdmin context.CancelFunc
	serving   sync.WaitGroup

	mu     sync.Mutex // guards what follows
	source *announcing.SourceState
}

// prepare checks the flags that all subcommands share. It starts nothing.
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
	return &session{app: app, log: log, manager: p.Manager(log), where: where, announcer: a}, nil
}

// reachable refuses an endpoint that only callers on this machine can reach, while NATS
// serves other machines too.
func (s *session) reachable(in *events.Instance) error {
	protocol, address, found := in.LoopbackEndpoint()
	if !found || s.app.AllowLoopback || !s.app.NATS.Elsewhere() {
		return nil
	}
	return &events.FieldError{
		Field: "endpoints." + protocol, Value: address,
		Rule: "callers on other machines cannot reach it, and --nats-url names another machine: want an address of this machine, or --allow-loopback if all callers run here",
	}
}

// start starts the telemetry, and serves it when there is an --admin.
func (s *session) start(ctx context.Context, p *daemon.Process) error {
	// When the reader of the log has gone, SIGPIPE would end the program. Caught,
	// it only makes the write fail.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE)
	admin, err := daemon.Listen("--admin", s.app.Admin)
	if err != nil {
		return err
	}
	s.sdk, err = daemon.NewTelemetry(ctx, "announcer", p.Getenv, s.log)
	if err == nil {
		var m *telemetry.Metrics
		m, err = telemetry.New(s.sdk.Meter("announcer"))
		s.mu.Lock()
		s.metrics = m
		s.mu.Unlock()
	}
	if err != nil {
		if admin != nil {
			err = errors.Join(err, admin.Close())
		}
		return err
	}
	s.announcer.OnState = s.metrics.OnState
	if s.source != nil {
		s.onSource(*s.source) // it was read before there were metrics
	}
	if admin != nil {
		s.serve(ctx, admin)
	}
	return nil
}

// serve serves /healthz, /readyz and /metrics until end is called, also while the
// instances leave.
func (s *session) serve(ctx context.Context, l net.Listener) {
	mux := http.NewServeMux()
	daemon.HandleHealth(mux, func() error { return s.ready(ctx) }, s.details, s.sdk.Handler())
	srv := daemon.NewHTTPServer(daemon.LastAnswers(ctx.Done(), mux), s.log)
	var until context.Context
	until, s.stopAdmin = context.WithCancel(context.WithoutCancel(ctx))
	s.serving.Go(func() {
		closing, cutting, release := daemon.End{Grace: adminGrace}.Phases(until)
		defer release()
		if err := daemon.Serve(closing, cutting, srv, l); err != nil {
			s.log.Error("health and metrics are not served any more", "error", err)
		}
	})
	s.admin = l.Addr().String()
}

// ready returns why not all instances are listed, or that they are about to leave.
func (s *session) ready(ctx context.Context) error {
	if ctx.Err() != nil {
		return errors.New("the announcer is stopping")
	}
	return s.announcer.Board.Ready()
}

// onSource notes the state of the source.
func (s *session) onSource(state announcing.SourceState) {
	s.mu.Lock()
	s.source = &state
	metrics := s.metrics
	s.mu.Unlock()
	if metrics != nil {
		metrics.OnSource(telemetry.SourceState{
			Source: state.Source, At: state.At, Instances: state.Instances, Held: state.Held, Refused: state.Refused,
		})
	}
}

// sourceDetails are the part of the source in the answer of /readyz.
type sourceDetails struct {
	Kind       string  `json:"kind"`
	Instances  int     `json:"instances"`
	Held       int     `json:"held"`
	Refused    uint64  `json:"refused"`
	AgeSeconds float64 `json:"age_seconds"` // since it was last read and valid
	Error      string  `json:"error,omitempty"`
}

// details are what /readyz says besides.
func (s *session) details() map[string]any {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.source == nil {
		return nil
	}
	d := sourceDetails{s.source.Source, s.source.Instances, s.source.Held, s.source.Refused, time.Since(s.source.At).Round(time.Millisecond).Seconds(), ""}
	if s.source.Err != nil {
		d.Error = s.source.Err.Error()
	}
	return map[string]any{"source": d}
}

// begun logs what is known before the first instance is announced, and from then on
// tells systemd how the announcer is: it is of use before all instances are registered.
// The function that it returns ends that.
func (s *session) begun(ctx context.Context) (end func()) {
	if s.admin != "" {
		s.log.Info("serving health and metrics", "address", s.admin)
	}
	if s.where.Location.Zone == "" {
		s.log.Warn("the zone is unknown: callers cannot tell that the instance is near (set --zone)")
	}
	s.manager.Ready()
	stopped := context.AfterFunc(ctx, func() { s.log.Info("stopping: not ready any more") })
	watched := s.manager.Watch(ctx, func() error { return s.ready(ctx) })
	return func() {
		stopped()
		watched()
		if ctx.Err() != nil {
			s.log.Info("stopped")
		}
	}
}

// end stops what start has started.
func (s *session) end(ctx context.Context) {
	if s.stopAdmin != nil {
		s.stopAdmin()
	}
	s.serving.Wait()
	if err := errors.Join(s.metrics.Close(), s.sdk.Shutdown(ctx)); err != nil {
		s.log.Warn("the last measurements were not sent", "error", err)
	}
}

// connect waits for NATS and opens the registry. It returns an error when that
// cannot work without a change of the flags or of the server. The caller closes
// the connection.
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

// connectInBackground is connect that retries until ctx ends.
func (s *session) connectInBackground(ctx context.Context) (*nats.Conn, *kv.Registry, error) {
	conn, err := s.app.NATS.ConnectInBackground("announcer", s.log)
	if err != nil {
		return nil, nil, err
	}
	for {
		registry, err := s.open(ctx, conn)
		s.announcer.Board.Fail(err)
		if err == nil {
			return conn, registry, nil
		}
		s.log.Error("cannot announce, retrying", "error", err)
		select {
		case <-ctx.Done():
			conn.Close()
			return nil, nil, ctx.Err()
		case <-time.After(reopenEvery):
		}
	}
}

func (s *session) open(ctx context.Context, conn *nats.Conn) (*kv.Registry, error) {
	registry, err := kv.Open(ctx, conn, s.app.Registry.Options(s.log))
	if err == nil {
		s.metrics.Registry(registry) // until end
	}
	return registry, err
}
