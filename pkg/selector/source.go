package selector

import (
	"cmp"
	"context"
	"slices"
	"time"

	"github.com/proxima-discovery/proxima/pkg/events"
)

// Source lists the instances of services. *kv.Registry is one, [Static] makes
// another.
type Source interface {
	// Watch calls apply with a complete snapshot of a service at first and after
	// every change, one call at a time, until ctx ends.
	Watch(ctx context.Context, service string, apply func(events.Snapshot)) error
}

// Static is a Source that lists these instances and never changes, for tests
// without NATS. An instance needs a Service and an ID; its Status is up and its
// Weight the default if they are not set.
func Static(instances ...events.Instance) Source {
	s := static{}
	for _, in := range instances {
		in.Status = cmp.Or(in.Status, events.Up)
		in.Weight = cmp.Or(in.Weight, events.DefaultWeight)
		s[in.Service] = append(s[in.Service], events.Entry{Instance: &in})
	}
	for _, entries := range s {
		slices.SortFunc(entries, func(a, b events.Entry) int { return a.Compare(b.Instance) })
	}
	return s
}

type static map[string][]events.Entry

func (s static) Watch(ctx context.Context, service string, apply func(events.Snapshot)) error {
	apply(events.Snapshot{Service: service, Entries: s[service]})
	<-ctx.Done()
	return nil
}

// sinceStart returns a clock that starts at start and that later jumps of this
// process's wall clock do not move.
func sinceStart(start time.Time) func() time.Time {
	return func() time.Time { return start.Add(time.Since(start)) }
}
