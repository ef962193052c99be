package main

import (
	"context"

	"github.com/proxima-discovery/proxima/internal/daemon"
	"github.com/proxima-discovery/proxima/pkg/events"
)

type instancesCommand struct {
	Service string `arg:"" help:"Service whose instances are listed."`

	operatorFlags
}

// Run prints the instances of one service.
func (c *instancesCommand) Run(ctx context.Context, p *daemon.Process) error {
	if err := validService(c.Service); err != nil {
		return err
	}
	snapshots, err := c.read(ctx, p, c.Service)
	if err != nil {
		return err
	}
	if len(snapshots) == 0 {
		return unknownService(c.Service)
	}
	entries := snapshots[0].Entries // ordered by location and id
	if c.JSON {
		all := make([]listedInstance, len(entries))
		for i, e := range entries {
			all[i] = listedInstance{e}
		}
		return printJSON(p.Stdout, struct {
			Service   string           `json:"service"`
			Instances []listedInstance `json:"instances"`
		}{c.Service, all})
	}
	t := newTable(p.Stdout, "INSTANCE", "STATUS", "LOCATION", "ENDPOINTS", "VERSION", "WEIGHT", "AGE", "TTL", "METADATA")
	for _, e := range entries {
		t.row(e.ID, status(string(e.Status), e.Suspect, e.Evacuated), place(e.Location), pairs(e.Endpoints),
			e.Version, max(0, e.Weight), age(e.Started), e.TTL, pairs(e.Metadata))
	}
	return t.end()
}

// listedInstance is an entry of a snapshot as JSON.
type listedInstance struct{ events.Entry }

// MarshalJSON writes the marks of the entry after the fields of the instance.
func (l listedInstance) MarshalJSON() ([]byte, error) {
	return l.MarshalWith(struct {
		Suspect   bool `json:"suspect"`
		Evacuated bool `json:"evacuated"`
	}{l.Suspect, l.Evacuated})
}
