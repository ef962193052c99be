package main

import (
	"context"
	"fmt"
	"time"

	"github.com/proxima-discovery/proxima/internal/daemon"
	"github.com/proxima-discovery/proxima/pkg/events"
)

type evacuateCommand struct {
	Place string `arg:"" optional:"" placeholder:"REGION[/ZONE]" help:"Region, or zone of a region. Default: list what is evacuated."`
	Undo  bool   `help:"Use its instances again as all others."`

	operatorFlags
}

// Help is shown by -h.
func (c *evacuateCommand) Help() string {
	return `Every caller hears of it within a second and picks instances there only when there is nothing else that works. It holds until it is undone, also for callers that start later and when NATS restarts. Nothing is sent to the place itself, so it may be out of reach.

With --nats-regions all regions hear of it that can be reached, the others when they can; it may be undone from another region than it was ordered from. Of orders that do not know of each other, as their regions are cut off from each other, the later one holds.`
}

// place is one line of the list, and the answer to an order.
type place struct {
	Region    string    `json:"region"`
	Zone      string    `json:"zone,omitempty"`
	Evacuated bool      `json:"evacuated"`
	Since     time.Time `json:"since"` // when it was ordered
	// Instances that are listed there now.
	Instances int `json:"instances"`
}

// Run orders an evacuation, undoes it, or lists all.
func (c *evacuateCommand) Run(ctx context.Context, p *daemon.Process) error {
	if c.Place == "" && c.Undo {
		return daemon.Usagef("--undo: want a region, or region/zone")
	}
	order := events.Evacuation{Evacuated: !c.Undo}
	if c.Place != "" {
		var err error
		if order.Region, order.Zone, err = events.ParsePlace(c.Place); err != nil {
			return daemon.Usagef("%s: want region or region/zone: %w", c.Place, err)
		}
	}
	s, err := c.open(ctx, p)
	if err != nil {
		return err
	}
	defer s.close()
	ctx, cancel := context.WithTimeout(ctx, answerWait)
	defer cancel()
	if c.Place == "" {
		return c.list(ctx, p, s)
	}
	if order, err = s.registry.Evacuate(ctx, order); err != nil {
		return err
	}
	return c.show(ctx, p, s, order)
}

// list prints what is evacuated.
func (c *evacuateCommand) list(ctx context.Context, p *daemon.Process, s *session) error {
	orders, err := s.registry.Evacuations(ctx)
	if err != nil {
		return err
	}
	listed, err := s.registry.Snapshot(ctx, "")
	if err != nil {
		return err
	}
	places := make([]place, 0, len(orders))
	for _, e := range orders {
		places = append(places, placeOf(e, listed))
	}
	if c.JSON {
		return printJSON(p.Stdout, struct {
			Evacuated []place `json:"evacuated"`
		}{places})
	}
	t := newTable(p.Stdout, "PLACE", "SINCE", "INSTANCES")
	for i, e := range orders {
		t.row(e.Place(), e.At.Format(time.RFC3339), places[i].Instances)
	}
	return t.end()
}

// show prints what an order means.
func (c *evacuateCommand) show(ctx context.Context, p *daemon.Process, s *session, e events.Evacuation) error {
	listed, err := s.registry.Snapshot(ctx, "")
	if err != nil {
		return fmt.Errorf("it is ordered, but what that means cannot be read: %w", err)
	}
	of := placeOf(e, listed)
	if c.JSON {
		return printJSON(p.Stdout, of)
	}
	what := "is evacuated: they are picked only when there is nothing else"
	if !e.Evacuated {
		what = "is not evacuated any more: they are picked as all others"
	}
	with := fmt.Sprintf("%d instances now", of.Instances)
	switch of.Instances {
	case 0:
		with += " (is that its name?)"
	case 1:
		with = "1 instance now"
	}
	_, err = fmt.Fprintf(p.Stdout, "%s, with %s, %s\n", e.Place(), with, what)
	return err
}

func placeOf(e events.Evacuation, listed []events.Snapshot) place {
	of := place{Region: e.Region, Zone: e.Zone, Evacuated: e.Evacuated, Since: e.At}
	for _, s := range listed {
		for _, in := range s.Entries {
			if e.Covers(in.Location) {
				of.Instances++
			}
		}
	}
	return of
}
