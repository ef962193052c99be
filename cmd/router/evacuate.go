package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/proxima-discovery/proxima/internal/daemon"
	"github.com/proxima-discovery/proxima/pkg/events"
)

type evacuateCommand struct {
	Place string `arg:"" optional:"" placeholder:"REGION[/ZONE]" help:"Region, or zone of a region. Default: list what is evacuated."`
	Undo  bool   `help:"Use its instances again like all others."`

	operatorFlags
}

// Help is shown by -h.
func (c *evacuateCommand) Help() string {
	return `Callers follow the order within a second: they pick instances in that region or zone only when no other instance works. The order holds until it is undone, also for callers that start later and after NATS restarts. Nothing is sent to the region or zone itself, which may be unreachable.

With --nats-regions the order goes to every region: at once to those that can be reached, later to the others. It can be undone from any region. If regions that cannot reach each other get different orders, the later one holds.`
}

// evacuation is one row of the list, and the answer to an order.
type evacuation struct {
	Region    string    `json:"region"`
	Zone      string    `json:"zone,omitempty"`
	Evacuated bool      `json:"evacuated"`
	Since     time.Time `json:"since"`     // when it was ordered
	Instances int       `json:"instances"` // listed there now
}

// Run orders an evacuation, undoes one, or lists all.
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
	rows := make([]evacuation, 0, len(orders))
	for _, e := range orders {
		rows = append(rows, evacuationOf(e, listed))
	}
	if c.JSON {
		return printJSON(p.Stdout, struct {
			Evacuated []evacuation `json:"evacuated"`
		}{rows})
	}
	t := newTable(p.Stdout, "PLACE", "SINCE", "INSTANCES")
	for i, e := range orders {
		t.row(e.Place(), e.At.Format(time.RFC3339), rows[i].Instances)
	}
	return t.end()
}

// show prints the effect of an order.
func (c *evacuateCommand) show(ctx context.Context, p *daemon.Process, s *session, e events.Evacuation) error {
	listed, err := s.registry.Snapshot(ctx, "")
	if err != nil {
		return fmt.Errorf("the order was given, but the registry cannot be read to show its effect: %w", err)
	}
	of := evacuationOf(e, listed)
	if c.JSON {
		return printJSON(p.Stdout, of)
	}
	order, effect := "evacuated", "picked only when no other instance can be"
	if !e.Evacuated {
		order, effect = "no longer evacuated", "picked like all others"
	}
	if !e.Evacuated {
		still, err := s.registry.Evacuations(ctx)
		if err != nil {
			return fmt.Errorf("the order was given, but the registry cannot be read to show its effect: %w", err)
		}
		if places := overlapping(e, still); len(places) > 0 {
			_, err = fmt.Fprintf(p.Stdout, "%s is %s, but %s still is\n", e.Place(), order, strings.Join(places, ", "))
			return err
		}
	}
	instances := fmt.Sprintf("its %d instances are %s", of.Instances, effect)
	switch of.Instances {
	case 0:
		instances = "no instance is there now, check the name of the place"
	case 1:
		instances = "its instance is " + effect
	}
	_, err = fmt.Fprintf(p.Stdout, "%s is %s: %s\n", e.Place(), order, instances)
	return err
}

// overlapping are the places of orders that hold for instances of the place of e too.
func overlapping(e events.Evacuation, orders []events.Evacuation) (places []string) {
	for _, o := range orders {
		if o.Region == e.Region && (o.Zone == "" || e.Zone == "") && o.Zone != e.Zone {
			places = append(places, o.Place())
		}
	}
	return places
}

func evacuationOf(e events.Evacuation, listed []events.Snapshot) evacuation {
	of := evacuation{Region: e.Region, Zone: e.Zone, Evacuated: e.Evacuated, Since: e.At}
	for _, s := range listed {
		for _, in := range s.Entries {
			if e.Covers(in.Location) {
				of.Instances++
			}
		}
	}
	return of
}
