// Package directory is the one list of all services that a router reads.
//
// A [Directory] watches the registry once, so that a router costs NATS the same
// however many callers it has. The list can be read ([Directory.All],
// [Directory.Find]), followed as snapshots ([Directory.Watch], which makes it a
// source of a selector) and followed as changes of single instances
// ([Directory.Changes]).
package directory

import (
	"context"
	"errors"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/proxima-discovery/proxima/pkg/events"
)

// ErrIncomplete is the error while the registry has not been read completely.
var ErrIncomplete = errors.New("router: the registry has not been read yet")

// Lister lists services. *kv.Registry is one.
type Lister interface {
	Watch(ctx context.Context, service string, apply func(events.Snapshot)) error
	Snapshot(ctx context.Context, service string) ([]events.Snapshot, error)
}

// Directory holds the last known list of every service. It is safe for
// concurrent use.
type Directory struct {
	registry Lister
	filter   string        // the one service that is followed; empty: all
	complete chan struct{} // closed when the first view is complete

	mu        sync.Mutex // guards what follows
	services  map[string]*service
	spellings spellings
	heard     map[string]struct{} // names of services, until the view is complete
	stale     bool
	followers map[*follower]struct{}
}

// Record is an entry of the registry with its age, as far as it is known.
type Record struct {
	events.Entry
	Since time.Time // when the directory first had this revision
	// Old is set if that was in the first view: the record may be older.
	Old bool
}

// service is the list of one service, and what is looked up in it.
type service struct {
	events.Snapshot
	byID      map[string][]Record // more than one if two zones use the same id
	endpoints map[string]int      // how many instances have it
}

// New returns a directory of the service filter, or of all services if that is
// empty. [Directory.Run] fills it.
func New(registry Lister, filter string) *Directory {
	return &Directory{
		registry: registry, filter: filter, complete: make(chan struct{}),
		services: map[string]*service{}, spellings: spellings{}, heard: map[string]struct{}{}, followers: map[*follower]struct{}{},
	}
}

// Run follows the registry until ctx ends.
func (d *Directory) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return d.registry.Watch(ctx, d.filter, d.apply) })
	g.Go(func() error { return d.awaitFirstView(ctx) })
	return g.Wait()
}

// awaitFirstView waits until the first view is complete. A watch of all
// services reports nothing when none is listed, and does not mark the last one.
// So the registry is also read once: the view is complete when the watch has
// reported every service of that read.
func (d *Directory) awaitFirstView(ctx context.Context) error {
	for {
		snapshots, err := d.registry.Snapshot(ctx, d.filter)
		if err == nil && d.hasHeardOf(snapshots) {
			return nil
		}
		select {
		case <-time.After(50*time.Millisecond + rand.N(50*time.Millisecond)):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (d *Directory) hasHeardOf(snapshots []events.Snapshot) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, s := range snapshots {
		if _, ok := d.heard[s.Service]; !ok {
			return false
		}
	}
	d.heard = nil
	close(d.complete)
	return true
}

// apply takes in a snapshot of one service.
func (d *Directory) apply(s events.Snapshot) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.stale = s.Stale
	first := d.heard != nil
	if first {
		d.heard[s.Service] = struct{}{}
	}
	svc := d.services[s.Service]
	if svc == nil {
		svc = &service{byID: map[string][]Record{}, endpoints: map[string]int{}}
		d.services[s.Service] = svc
		d.spellings.add(s.Service)
	}
	compare(svc.Entries, s.Entries, func(before, after *events.Entry) {
		svc.replace(before, after, first)
	})
	svc.Snapshot = s
	if len(s.Entries) == 0 {
		delete(d.services, s.Service)
		d.spellings.remove(s.Service)
	}
	for f := range d.followers {
		f.notify(s)
	}
}

// replace puts after in the place of before; nil stands for none.
func (s *service) replace(before, after *events.Entry, old bool) {
	since := time.Now()
	if before != nil {
		r := s.remove(before)
		if after != nil && after.Revision == before.Revision { // the same record, with other marks
			since, old = r.Since, r.Old
		}
	}
	if after != nil {
		s.add(Record{*after, since, old})
	}
}

func (s *service) add(r Record) {
	s.byID[r.ID] = append(s.byID[r.ID], r)
	for endpoint := range r.Endpoints {
		s.endpoints[endpoint]++
	}
}

func (s *service) remove(e *events.Entry) Record {
	for endpoint := range e.Endpoints {
		if s.endpoints[endpoint]--; s.endpoints[endpoint] == 0 {
			delete(s.endpoints, endpoint)
		}
	}
	key := e.Key()
	var removed Record
	left := slices.DeleteFunc(s.byID[e.ID], func(r Record) bool {
		if r.Key() != key {
			return false
		}
		removed = r
		return true
	})
	if len(left) == 0 {
		delete(s.byID, e.ID)
	} else {
		s.byID[e.ID] = left
	}
	return removed
}

// Find returns the instances of a service with that id: usually one or none.
func (d *Directory) Find(service, id string) []Record {
	d.mu.Lock()
	defer d.mu.Unlock()
	if svc := d.services[service]; svc != nil {
		return slices.Clone(svc.byID[id])
	}
	return nil
}

// Endpoints returns which of wanted the instances of a service have, in the
// order of wanted. Known reports whether the service is listed at all.
func (d *Directory) Endpoints(service string, wanted ...string) (have []string, known bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	svc := d.services[service]
	if svc == nil {
		return nil, false
	}
	for _, p := range wanted {
		if svc.endpoints[p] > 0 {
			have = append(have, p)
		}
	}
	return have, true
}

// Named returns the services that a host may mean: the one of exactly that name, or else
// all that differ from it in case only, in order.
func (d *Directory) Named(host string) []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.services[host] != nil {
		return []string{host}
	}
	return slices.Clone(d.spellings[strings.ToLower(host)])
}

// spellings are the names of services, by their lower-case form.
type spellings map[string][]string

func (s spellings) add(service string) {
	folded := strings.ToLower(service)
	s[folded] = append(s[folded], service)
	slices.Sort(s[folded])
}

func (s spellings) remove(service string) {
	folded := strings.ToLower(service)
	if i := slices.Index(s[folded], service); i >= 0 {
		s[folded] = slices.Delete(s[folded], i, i+1)
	}
	if len(s[folded]) == 0 {
		delete(s, folded)
	}
}

// All returns the last known lists, ordered by name.
func (d *Directory) All() []events.Snapshot {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.allLocked()
}

func (d *Directory) allLocked() []events.Snapshot {
	all := make([]events.Snapshot, 0, len(d.services))
	for _, name := range slices.Sorted(maps.Keys(d.services)) {
		all = append(all, d.services[name].Snapshot)
	}
	return all
}

// Complete is closed when the first view is complete.
func (d *Directory) Complete() <-chan struct{} { return d.complete }

// IsComplete reports whether the first view is complete.
func (d *Directory) IsComplete() bool {
	select {
	case <-d.complete:
		return true
	default:
		return false
	}
}

// IsStale reports whether the registry is out of reach.
func (d *Directory) IsStale() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.stale
}

// compare walks two lists of entries, both ordered by key, and calls changed
// for every entry that differs; nil stands for none.
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
