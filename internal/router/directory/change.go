package directory

import (
	"context"
	"maps"
	"reflect"
	"time"

	"github.com/nats-io/nats.go"
	"golang.org/x/sync/errgroup"

	"github.com/proxima-discovery/proxima/pkg/events"
)

// Kind says what happened to an instance.
type Kind string

// The kinds of changes.
const (
	Listed       Kind = "listed"       // it was there when the watch began
	Registered   Kind = "registered"   // it came, or began a new life
	Updated      Kind = "updated"      // it says something else of itself, see [Change.Fields]
	Draining     Kind = "draining"     // it is about to leave
	NotReady     Kind = "not_ready"    // its own check fails
	Suspect      Kind = "suspect"      // it vanished without a word
	Deregistered Kind = "deregistered" // it left
	Expired      Kind = "expired"      // it did not renew its lease
	Removed      Kind = "removed"      // it is gone, and nobody heard why
)

// Change is what happened to one instance.
type Change struct {
	Time     time.Time        `json:"time"` // when it was heard of
	Kind     Kind             `json:"kind"`
	Service  string           `json:"service"`
	Instance *events.Instance `json:"instance"` // as it is now, or was last
	// Fields that have changed, by their names in JSON. Suspect and evacuated
	// are no fields of the instance: their values are below.
	Fields    []string `json:"fields,omitempty"`
	Suspect   bool     `json:"-"`
	Evacuated bool     `json:"-"`
}

// Follow calls emit for every instance that is listed, and then for
// every change, until ctx ends or emit returns an error. An empty service is
// all of them. Bucket is the registry's, on whose subjects is said why an
// instance left.
func Follow(ctx context.Context, nc *nats.Conn, registry Lister, bucket, service string, emit func(Change) error) error {
	d := New(registry, bucket, service)
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return d.Run(ctx) })
	g.Go(func() error { return d.Changes(ctx, nc, service, emit) })
	return g.Wait()
}

// Changes is [Follow] for a directory that runs.
func (d *Directory) Changes(ctx context.Context, nc *nats.Conn, service string, emit func(Change) error) error {
	why, err := listen(nc, d.buckets, service)
	if err != nil {
		return err
	}
	defer why.close()
	known := map[string][]events.Entry{}
	began := Listed
	return d.follow(ctx, service, func(batch []events.Snapshot) error {
		for _, s := range batch {
			for _, c := range differences(known[s.Service], s.Entries, began) {
				if c.Kind == Removed {
					c.Kind = why.left(ctx, c.Instance.Key())
				}
				if err := emit(c); err != nil {
					return err
				}
			}
			known[s.Service] = s.Entries
			if len(s.Entries) == 0 {
				delete(known, s.Service)
			}
		}
		began = Registered
		return nil
	})
}

// differences are the changes between two lists of a service. What is new is
// of the kind that came says.
func differences(before, after []events.Entry, came Kind) []Change {
	now := time.Now()
	var all []Change
	compare(before, after, func(b, a *events.Entry) {
		c := Change{Time: now, Kind: Updated}
		switch {
		case b == nil:
			c.Kind, c.Instance = came, a.Instance
		case a == nil:
			c.Kind, c.Instance = Removed, b.Instance
		default:
			c.Instance, c.Fields, c.Suspect, c.Evacuated = a.Instance, fields(b, a), a.Suspect, a.Evacuated
			if len(c.Fields) == 0 {
				return // written again, and the same
			}
			c.Kind = kindOf(b, a)
		}
		c.Service = c.Instance.Service
		all = append(all, c)
	})
	return all
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

// fields are the names of what is different.
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
