package directory

import (
	"context"
	"maps"
	"slices"

	"github.com/proxima-discovery/proxima/pkg/events"
)

// watcher is told which services have changed. It skips states that it is too
// slow for, but never the latest.
type watcher struct {
	service string // empty: all
	wake    chan struct{}
	changed map[string]struct{} // guarded by the directory
}

// touch needs the Directory's lock.
func (w *watcher) touch(service string) {
	if w.service != "" && w.service != service {
		return
	}
	w.changed[service] = struct{}{}
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// Watch is [kv.Registry.Watch] from what the directory knows: it makes the
// directory the source of a selector.
func (d *Directory) Watch(ctx context.Context, service string, apply func(events.Snapshot)) error {
	return d.follow(ctx, service, func(batch []events.Snapshot) error {
		for _, s := range batch {
			apply(s)
		}
		return nil
	})
}

// follow calls apply with the lists of the services that changed, ordered by
// name: first, once the view is whole, with all that are followed. It ends
// with ctx, or with the first error of apply.
func (d *Directory) follow(ctx context.Context, service string, apply func([]events.Snapshot) error) error {
	select {
	case <-d.whole:
	case <-ctx.Done():
		return ctx.Err()
	}
	w := &watcher{service: service, wake: make(chan struct{}, 1), changed: map[string]struct{}{}}
	first := d.join(w)
	defer d.leave(w)
	for err := apply(first); ; err = apply(d.take(w)) {
		if err != nil {
			return err
		}
		select {
		case <-w.wake:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// join begins to tell w, and returns what there is now.
func (d *Directory) join(w *watcher) []events.Snapshot {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.watchers[w] = struct{}{}
	if w.service != "" {
		return d.namedLocked([]string{w.service})
	}
	return d.namedLocked(slices.Sorted(maps.Keys(d.services)))
}

func (d *Directory) leave(w *watcher) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.watchers, w)
}

func (d *Directory) take(w *watcher) []events.Snapshot {
	d.mu.Lock()
	defer d.mu.Unlock()
	names := slices.Sorted(maps.Keys(w.changed))
	clear(w.changed)
	return d.namedLocked(names)
}

// Await waits until the list of a service is as told, or ctx ends.
func (d *Directory) Await(ctx context.Context, service string, told func(events.Snapshot) bool) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	_ = d.Watch(ctx, service, func(s events.Snapshot) { // ends with ctx
		if told(s) {
			cancel()
		}
	})
}
