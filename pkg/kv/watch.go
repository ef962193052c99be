package kv

import (
	"context"

	"github.com/proxima-discovery/proxima/pkg/events"
	"github.com/proxima-discovery/proxima/pkg/kv/internal/regions"
	"github.com/proxima-discovery/proxima/pkg/kv/internal/tail"
	"github.com/proxima-discovery/proxima/pkg/kv/internal/wire"
)

// Watch calls apply with the complete snapshot of service whenever something
// has changed, one call at a time, first when it is known. It blocks until ctx
// ends. An empty service watches all: apply is then called for each service
// that changed, with an empty snapshot for one whose last instance left.
//
// While the registry cannot be reached the last snapshot stays: apply is called once with
// Stale set, and again when the registry can be read. A watch that starts while the
// registry cannot be reached begins with the snapshot on disk, see [Options.SnapshotDir].
// The error is ctx's, or about service; nothing else ends a watch.
func (r *Registry) Watch(ctx context.Context, service string, apply func(events.Snapshot)) error {
	if r.sources == nil {
		return r.tails.Watch(ctx, r.from(&r.link.Bucket, service), apply)
	}
	var both [2]regions.Watch
	for i, b := range r.buckets() {
		both[i] = func(ctx context.Context, apply func(events.Snapshot)) error {
			return r.tails.Watch(ctx, r.from(b, service), apply)
		}
	}
	return regions.Combine(ctx, r.opts.Domain, service, both, apply)
}

// Snapshot reads what is listed now: one snapshot for each service, ordered by name. An
// empty service reads all. A service that is not listed has none. While the registry
// cannot be reached, Snapshot returns the snapshots on disk, marked Stale; without any it
// tries until ctx ends.
func (r *Registry) Snapshot(ctx context.Context, service string) ([]events.Snapshot, error) {
	if r.sources == nil {
		return r.tails.Snapshot(ctx, r.from(&r.link.Bucket, service))
	}
	var both [2][]events.Snapshot
	for i, b := range r.buckets() {
		var err error
		if both[i], err = r.tails.Snapshot(ctx, r.from(b, service)); err != nil {
			return nil, err
		}
	}
	return regions.Merge(r.opts.Domain, both), nil
}

// from is what a watch of one bucket reads.
func (r *Registry) from(from *wire.Bucket, service string) tail.Source {
	return tail.Source{Bucket: from, Store: r.stores[from], Service: service, Evacuated: &r.evacuations}
}
