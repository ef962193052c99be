package kv

import (
	"context"

	"github.com/proxima-discovery/proxima/pkg/events"
	"github.com/proxima-discovery/proxima/pkg/kv/internal/tail"
	"github.com/proxima-discovery/proxima/pkg/kv/internal/wire"
)

// Watch calls apply with the complete snapshot of service whenever something
// has changed, one call at a time, first when it is known. It blocks until ctx
// ends. An empty service watches all: apply is then called for each service
// that changed, with an empty snapshot for one whose last instance left.
//
// While the registry cannot be reached the last snapshot stays: apply is
// called once with Stale set, and again when all is well. If that is so at the
// start, the last snapshot is the one on disk, see [Options.SnapshotDir]. The error is ctx's,
// or about service; nothing else ends a watch.
func (r *Registry) Watch(ctx context.Context, service string, apply func(events.Snapshot)) error {
	if r.others != nil {
		return r.watchRegions(ctx, service, apply)
	}
	return r.watch(ctx, &r.link.Bucket, service, apply)
}

// watch is Watch of one bucket.
func (r *Registry) watch(ctx context.Context, from *wire.Bucket, service string, apply func(events.Snapshot)) error {
	return r.tails.Watch(ctx, r.from(from, service), apply)
}

// Snapshot reads what is listed now: one snapshot for each service, ordered by
// name. An empty service reads all. A service that is not listed has none. It
// tries until ctx ends, unless there are snapshots on disk: if the registry
// cannot be reached they are the answer, and Stale.
func (r *Registry) Snapshot(ctx context.Context, service string) ([]events.Snapshot, error) {
	if r.others != nil {
		return r.snapshotRegions(ctx, service)
	}
	return r.snapshot(ctx, &r.link.Bucket, service)
}

// snapshot is Snapshot of one bucket.
func (r *Registry) snapshot(ctx context.Context, from *wire.Bucket, service string) ([]events.Snapshot, error) {
	return r.tails.Snapshot(ctx, r.from(from, service))
}

// from is what a watch of one bucket reads.
func (r *Registry) from(from *wire.Bucket, service string) tail.Source {
	return tail.Source{Bucket: from, Store: r.stores[from], Service: service, Evacuated: &r.evacuations}
}
