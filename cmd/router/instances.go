package main

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/proxima-discovery/proxima/internal/daemon"
	"github.com/proxima-discovery/proxima/internal/router"
	"github.com/proxima-discovery/proxima/pkg/events"
)

type servicesCommand struct{ operatorFlags }

// Run prints all services.
func (c *servicesCommand) Run(ctx context.Context, p *daemon.Process) error {
	snapshots, err := c.read(ctx, p, "")
	if err != nil {
		return err
	}
	list := router.Summarize(snapshots)
	if c.JSON {
		return printJSON(p.Stdout, list)
	}
	t := newTable(p.Stdout, "SERVICE", "INSTANCES", "UP")
	for _, s := range list.Services {
		t.row(s.Name, s.Instances, s.Up)
	}
	return t.end()
}

// read reads the registry once.
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

type instancesCommand struct {
	Service string `arg:"" help:"Service whose instances are listed."`

	operatorFlags
}

// Run prints the instances of one service.
func (c *instancesCommand) Run(ctx context.Context, p *daemon.Process) error {
	if err := events.ValidateService(c.Service); err != nil {
		return &daemon.UsageError{Err: err}
	}
	snapshots, err := c.read(ctx, p, c.Service)
	if err != nil {
		return err
	}
	if len(snapshots) == 0 {
		return unknownService(c.Service)
	}
	entries := snapshots[0].Entries
	if c.JSON {
		return printJSON(p.Stdout, router.NewListing(snapshots[0]))
	}
	t := newTable(p.Stdout, "INSTANCE", "STATUS", "LOCATION", "ENDPOINTS", "VERSION", "WEIGHT", "AGE", "TTL")
	for _, e := range entries {
		t.row(e.ID, state(e), where(e.Location), endpoints(e.Instance), e.Version, e.Weight, age(e.Started), e.TTL)
	}
	return t.end()
}

// state is the status of an instance, and what the registry says beside it.
func state(e events.Entry) string {
	s := string(e.Status)
	if e.Suspect {
		s += ", suspect"
	}
	if e.Evacuated {
		s += ", evacuated"
	}
	return s
}

func unknownService(service string) error {
	return fmt.Errorf("no instance of service %q is listed", service)
}

func endpoints(in *events.Instance) string {
	var all []string
	for _, protocol := range slices.Sorted(maps.Keys(in.Endpoints)) {
		all = append(all, protocol+"="+in.Endpoints[protocol])
	}
	return strings.Join(all, ",")
}
