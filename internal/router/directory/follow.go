package directory

import (
	"cmp"
	"context"
	"maps"
	"slices"

	"github.com/proxima-discovery/proxima/pkg/events"
)

// follower is notified of services that changed. A slow one skips states, but
// never the latest.
type follower struct {
	service string // empty: all
	wake    chan struct{}
	changed map[string]events.Snapshot // by service; guarded by the directory
}

// notify needs the directory's lock.
func (f *follower) notify(s events.Snapshot) {
	if f.service != "" && f.service != s.Service {
		return
	}
	f.changed[s.Service] = s
	select {
	case f.wake <- struct{}{}:
	default:
	}
}

// Watch is [kv.Registry.Watch] from what the directory knows: it makes the
// directory a source of a selector.
func (d *Directory) Watch(ctx context.Context, service string, apply func(events.Snapshot)) error {
	return d.follow(ctx, service, func(batch []events.Snapshot) error {
		for _, s := range batch {
			apply(s)
		}
		return nil
	})
}

// Await waits until done returns true for the list of a service, or ctx ends.
func (d *Directory) Await(ctx context.Context, service string, done func(events.Snapshot) bool) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	_ = d.Watch(ctx, service, func(s events.Snapshot) { // ends with ctx
		if done(s) {
			cancel()
		}
	})
}

// follow calls apply with the list of one service, or of all, once the first
// view is complete, and then with every list that changed, ordered by name. It
// ends with ctx, or with the first error of apply.
func (d *Directory) follow(ctx context.Context, service string, apply func([]events.Snapshot) error) error {
	select {
	case <-d.complete:
	case <-ctx.Done():
		return ctx.Err()
	}
	f := &follower{service: service, wake: make(chan struct{}, 1), changed: map[string]events.Snapshot{}}
	first := d.join(f)
	defer d.leave(f)
	for err := apply(first); ; err = apply(d.take(f)) {
		if err != nil {
			return err
		}
		select {
		case <-f.wake:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// join begins to notify f, and returns the present lists.
func (d *Directory) join(f *follower) []events.Snapshot {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.followers[f] = struct{}{}
	if f.service == "" {
		return d.allLocked()
	}
	if svc := d.services[f.service]; svc != nil {
		return []events.Snapshot{svc.Snapshot}
	}
	return []events.Snapshot{{Service: f.service, Stale: d.stale}}
}

func (d *Directory) leave(f *follower) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.followers, f)
}

// take returns the lists that changed since the last take.
func (d *Directory) take(f *follower) []events.Snapshot {
	d.mu.Lock()
	defer d.mu.Unlock()
	changed := slices.SortedFunc(maps.Values(f.changed), func(a, b events.Snapshot) int { return cmp.Compare(a.Service, b.Service) })
	clear(f.changed)
	return changed
}
