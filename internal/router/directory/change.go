package directory

import (
	"cmp"
	"context"
	"maps"
	"reflect"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/proxima-discovery/proxima/pkg/events"
)

// Kind is what happened to an instance.
type Kind string

// The kinds of changes.
const (
	Listed       Kind = "listed"              // it was listed when the watch began
	Registered   Kind = "registered"          // it is new, or has a new incarnation
	Updated      Kind = "updated"             // it changed otherwise: see [Change.Fields]
	Draining          = Kind(events.Draining) // it is about to leave
	NotReady          = Kind(events.NotReady) // its own check fails
	Suspect      Kind = "suspect"             // its lease ended together with many others
	Deregistered Kind = events.ReasonDeregistered
	Expired      Kind = events.ReasonExpired
	Removed      Kind = "removed" // it is gone for an unknown reason
)

// Change is what happened to one instance.
type Change struct {
	Time     time.Time        `json:"time"` // when the directory noticed
	Kind     Kind             `json:"kind"`
	Service  string           `json:"service"`
	Instance *events.Instance `json:"instance"` // as it is now, or was last
	// Fields that changed, by their names in JSON. Two of them are no fields of
	// the instance: Suspect and Evacuated have their values.
	Fields    []string `json:"fields,omitempty"`
	Suspect   bool     `json:"-"`
	Evacuated bool     `json:"-"`
}

// Follow calls emit for every instance of a service, or of all services if it is
// empty, and then for every change, until ctx ends or emit returns an error.
func Follow(ctx context.Context, registry Lister, service string, emit func(Change) error) error {
	d := New(registry, service)
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return d.Run(ctx) })
	g.Go(func() error { return d.Changes(ctx, service, emit) })
	return g.Wait()
}

// Changes is [Follow] for a directory that runs.
func (d *Directory) Changes(ctx context.Context, service string, emit func(Change) error) error {
	known := map[string][]events.Entry{}
	appeared := Listed
	return d.follow(ctx, service, func(batch []events.Snapshot) error {
		for _, s := range batch {
			for _, c := range differences(known[s.Service], s, appeared) {
				if err := emit(c); err != nil {
					return err
				}
			}
			known[s.Service] = s.Entries
			if len(s.Entries) == 0 {
				delete(known, s.Service)
			}
		}
		appeared = Registered
		return nil
	})
}

// differences returns the changes from the entries before to a snapshot. New
// entries are of the kind appeared.
func differences(before []events.Entry, after events.Snapshot, appeared Kind) []Change {
	now := time.Now()
	var all []Change
	compare(before, after.Entries, func(b, a *events.Entry) {
		c := Change{Time: now}
		switch {
		case b == nil:
			c.Kind, c.Instance = appeared, a.Instance
		case a == nil:
			c.Kind, c.Instance = departure(b, after.Left), b.Instance
		default:
			c.Instance, c.Fields, c.Suspect, c.Evacuated = a.Instance, fields(b, a), a.Suspect, a.Evacuated
			if len(c.Fields) == 0 {
				return // the same record was written again
			}
			c.Kind = kindOf(b, a)
		}
		c.Service = c.Instance.Service
		all = append(all, c)
	})
	return all
}

// departure returns why an instance left.
func departure(e *events.Entry, left []events.Departure) Kind {
	key := e.Key()
	for _, l := range slices.Backward(left) {
		if l.Key == key && l.Incarnation == e.Incarnation {
			return cmp.Or(Kind(l.Reason), Removed)
		}
	}
	return Removed
}

func kindOf(before, after *events.Entry) Kind {
	switch {
	case before.Incarnation != after.Incarnation:
		return Registered
	case after.Suspect && !before.Suspect:
		return Suspect
	case before.Status == after.Status:
		return Updated
	case after.Status == events.Draining:
		return Draining
	case after.Status == events.NotReady:
		return NotReady
	}
	return Updated
}

// fields returns the names of what differs.
func fields(before, after *events.Entry) []string {
	var names []string
	for _, f := range []struct {
		name string
		same bool
	}{
		{"incarnation", before.Incarnation == after.Incarnation},
		{"endpoints", maps.Equal(before.Endpoints, after.Endpoints)},
		{"location", before.Location == after.Location},
		{"status", before.Status == after.Status},
		{"version", before.Version == after.Version},
		{"weight", before.Weight == after.Weight},
		{"metadata", maps.Equal(before.Metadata, after.Metadata)},
		{"coordinate", reflect.DeepEqual(before.Coordinate, after.Coordinate)},
		{"started", before.Started.Equal(after.Started)},
		{"ttl", before.TTL == after.TTL},
		{"suspect", before.Suspect == after.Suspect},
		{"evacuated", before.Evacuated == after.Evacuated},
	} {
		if !f.same {
			names = append(names, f.name)
		}
	}
	return names
}
