// Package directory is the one list of all services that a router reads.
package directory

import (
	"context"
	"errors"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/proxima-discovery/proxima/pkg/events"
)

// ErrIncomplete says that the first view is not complete.
var ErrIncomplete = errors.New("router: the registry has not been read yet")

// Lister lists services. *kv.Registry is one.
type Lister interface {
	Watch(ctx context.Context, service string, apply func(events.Snapshot)) error
	Snapshot(ctx context.Context, service string) ([]events.Snapshot, error)
}

// Directory is the last known list of every service, from one watch. All that
// the router knows of the registry is read here, so a router costs NATS the
// same whatever it is asked for.
type Directory struct {
	registry Lister
	filter   string        // the one service that is followed; empty: all
	buckets  []string      // whose changes say why instances leave
	whole    chan struct{} // closed when the first view is complete

	mu       sync.Mutex // guards what follows
	services map[string]*listed
	seen     map[string]struct{} // services heard of until the view is whole
	complete bool
	stale    bool
	watchers map[*watcher]struct{}
}

// listed is one service.
type listed struct {
	events.Snapshot
	byID      map[string][]Lease // ids are unique, except while somebody errs
	protocols map[string]int     // how many instances have an endpoint of it
}

// Lease is an instance with what is known of its record's age.
type Lease struct {
	events.Entry
	Rewrite time.Time // when the record should be written again
}

// recordLife is how long the registry keeps a record that nobody writes again,
// however often the lease is renewed.
func recordLife(ttl time.Duration) time.Duration { return max(10*time.Minute, 10*ttl) }

// New makes a directory of one service, or of all. Bucket is the registry's.
func New(registry Lister, bucket, service string) *Directory {
	return &Directory{
		registry: registry, filter: service, buckets: bucketsOf(registry, bucket), whole: make(chan struct{}),
		services: map[string]*listed{}, seen: map[string]struct{}{}, watchers: map[*watcher]struct{}{},
	}
}

// Run follows the registry until ctx ends.
func (d *Directory) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return d.registry.Watch(ctx, d.filter, d.apply) })
	g.Go(func() error { return d.confirm(ctx) })
	return g.Wait()
}

// confirm finds out when the first view is whole. A watch of all services says
// nothing when none is listed, and does not say which was the last. So the
// registry is read once besides: when the watch has told of every service in
// it, the view is whole.
func (d *Directory) confirm(ctx context.Context) error {
	for {
		snapshots, err := d.registry.Snapshot(ctx, d.filter)
		if err == nil && d.knows(snapshots) {
			return nil
		}
		select {
		case <-time.After(50*time.Millisecond + rand.N(50*time.Millisecond)):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (d *Directory) knows(snapshots []events.Snapshot) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, s := range snapshots {
		if _, ok := d.seen[s.Service]; !ok {
			return false
		}
	}
	d.complete, d.seen = true, nil
	close(d.whole)
	return true
}

// apply takes in a snapshot of one service.
func (d *Directory) apply(s events.Snapshot) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.stale = s.Stale
	if !d.complete {
		d.seen[s.Service] = struct{}{}
	}
	svc := d.services[s.Service]
	if svc == nil {
		svc = &listed{byID: map[string][]Lease{}, protocols: map[string]int{}}
		d.services[s.Service] = svc
	}
	compare(svc.Entries, s.Entries, func(before, after *events.Entry) {
		if before != nil {
			svc.remove(before)
		}
		if after != nil {
			svc.add(after, d.complete)
		}
	})
	svc.Snapshot = s
	if len(s.Entries) == 0 {
		delete(d.services, s.Service)
	}
	for w := range d.watchers {
		w.touch(s.Service)
	}
}

// add notes when the record is to be written again. Those that were there when
// the router began are of unknown age: no more than half of their life, and a
// lease, as long as somebody has written them in time.
func (svc *listed) add(e *events.Entry, fresh bool) {
	half := recordLife(e.TTL) / 2
	wait := half - rand.N(half/10)
	if !fresh {
		wait = rand.N(half / 2)
	}
	svc.byID[e.ID] = append(svc.byID[e.ID], Lease{*e, time.Now().Add(wait)})
	for protocol := range e.Endpoints {
		svc.protocols[protocol]++
	}
}

func (svc *listed) remove(e *events.Entry) {
	for protocol := range e.Endpoints {
		svc.protocols[protocol]--
	}
	key := e.Key()
	left := slices.DeleteFunc(svc.byID[e.ID], func(l Lease) bool { return l.Key() == key })
	if len(left) == 0 {
		delete(svc.byID, e.ID)
		return
	}
	svc.byID[e.ID] = left
}

// Find returns the instances of that id, most often one or none.
func (d *Directory) Find(service, id string) []Lease {
	d.mu.Lock()
	defer d.mu.Unlock()
	if svc := d.services[service]; svc != nil {
		return slices.Clone(svc.byID[id])
	}
	return nil
}

// Protocols returns those of wanted that instances of the service have, in
// that order. Known says whether the service is listed at all.
func (d *Directory) Protocols(service string, wanted ...string) (have []string, known bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	svc := d.services[service]
	if svc == nil {
		return nil, false
	}
	for _, p := range wanted {
		if svc.protocols[p] > 0 {
			have = append(have, p)
		}
	}
	return have, true
}

// All are the last known lists, ordered by name.
func (d *Directory) All() []events.Snapshot {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.namedLocked(slices.Sorted(maps.Keys(d.services)))
}

func (d *Directory) namedLocked(names []string) []events.Snapshot {
	all := make([]events.Snapshot, 0, len(names))
	for _, name := range names {
		if svc := d.services[name]; svc != nil {
			all = append(all, svc.Snapshot)
		} else {
			all = append(all, events.Snapshot{Service: name, Stale: d.stale})
		}
	}
	return all
}

// Whole is closed when the first view is complete.
func (d *Directory) Whole() <-chan struct{} { return d.whole }

// IsWhole says whether the first view is complete.
func (d *Directory) IsWhole() bool {
	select {
	case <-d.whole:
		return true
	default:
		return false
	}
}

// IsStale says whether the registry could not be reached when it last should.
func (d *Directory) IsStale() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.stale
}

// compare walks two lists of entries, both ordered by key, and calls changed
// for every entry that is not the same in both; nil stands for none.
func compare(before, after []events.Entry, changed func(before, after *events.Entry)) {
	for len(before) > 0 || len(after) > 0 {
		order := 0
		switch {
		case len(before) == 0:
			order = 1
		case len(after) == 0:
			order = -1
		case before[0].Instance != after[0].Instance:
			order = before[0].Compare(after[0].Instance)
		}
		switch {
		case order < 0:
			changed(&before[0], nil)
			before = before[1:]
		case order > 0:
			changed(nil, &after[0])
			after = after[1:]
		default:
			if before[0] != after[0] {
				changed(&before[0], &after[0])
			}
			before, after = before[1:], after[1:]
		}
	}
}
