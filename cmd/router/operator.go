package main

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/proxima-discovery/proxima/internal/daemon"
	"github.com/proxima-discovery/proxima/pkg/events"
	"github.com/proxima-discovery/proxima/pkg/kv"
)

// answerWait bounds how long an operator's command waits for the registry.
const answerWait = 3 * time.Second

// operatorFlags are the flags of every operator's command.
type operatorFlags struct {
	NATS     daemon.NATSFlags     `embed:"" group:"NATS:"`
	Registry daemon.RegistryFlags `embed:"" group:"NATS:"`
	JSON     bool                 `name:"json" help:"Print JSON."`
}

// session is an operator's connection to a registry.
type session struct {
	nc       *nats.Conn
	registry *kv.Registry
	log      *slog.Logger
}

// open connects to NATS and opens the registry. It never creates a bucket.
func (f *operatorFlags) open(ctx context.Context, p *daemon.Process) (*session, error) {
	if err := f.Registry.Validate(); err != nil {
		return nil, err
	}
	log := slog.New(slog.NewTextHandler(p.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
	nc, err := f.NATS.Connect(ctx, "proxima-operator", log)
	if err != nil {
		return nil, err
	}
	o := f.Registry.Options(slog.New(slog.NewTextHandler(p.Stderr, nil))) // it also says when the registry is back
	o.NoCreate = true
	registry, err := kv.Open(ctx, nc, o)
	if err != nil {
		nc.Close()
		return nil, err
	}
	return &session{nc, registry, log}, nil
}

func (s *session) close() { s.nc.Close() }

// read connects, reads one service or all of them, and disconnects.
func (f *operatorFlags) read(ctx context.Context, p *daemon.Process, service string) ([]events.Snapshot, error) {
	s, err := f.open(ctx, p)
	if err != nil {
		return nil, err
	}
	defer s.close()
	ctx, cancel := context.WithTimeout(ctx, answerWait)
	defer cancel()
	return s.registry.Snapshot(ctx, service)
}

// validService reports a service name that cannot exist as a usage error.
func validService(name string) error {
	if err := events.ValidateService(name); err != nil {
		return &daemon.UsageError{Err: err}
	}
	return nil
}

func unknownService(service string) error {
	return fmt.Errorf("no instance of service %q is listed", service)
}
