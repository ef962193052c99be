package main

import (
	"context"

	"github.com/proxima-discovery/proxima/internal/daemon"
	"github.com/proxima-discovery/proxima/internal/router"
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
