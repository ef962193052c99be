package kv

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/proxima-discovery/proxima/pkg/events"
	"github.com/proxima-discovery/proxima/pkg/kv/internal/disk"
	"github.com/proxima-discovery/proxima/pkg/kv/internal/documents"
	"github.com/proxima-discovery/proxima/pkg/kv/internal/refcount"
	"github.com/proxima-discovery/proxima/pkg/kv/internal/regions"
	"github.com/proxima-discovery/proxima/pkg/kv/internal/server"
	"github.com/proxima-discovery/proxima/pkg/kv/internal/tail"
	"github.com/proxima-discovery/proxima/pkg/kv/internal/wire"
	"github.com/proxima-discovery/proxima/pkg/policy"
)

var (
	// ErrFenced is returned when the record of an instance is not the one
	// that the caller knows: it was removed, or replaced by another incarnation.
	ErrFenced = wire.ErrFenced
	// ErrNotFound is returned when no such instance is listed.
	ErrNotFound = wire.ErrNotFound
	// ErrUnavailable is returned when the registry does not answer.
	ErrUnavailable = wire.ErrUnavailable
	// ErrTooOld is returned when the NATS server is older than the first version that
	// supports leases.
	ErrTooOld = server.ErrTooOld
	// ErrDomain is returned when another JetStream domain than [Options].Domain stores what
	// is written.
	ErrDomain = wire.ErrDomain
)

// DefaultBucket is the bucket's name unless [Options] says otherwise.
const DefaultBucket = "proxima"

// Options configure [Open]. The zero value is ready to use.
type Options struct {
	// Bucket is the name of the bucket. Default [DefaultBucket].
	Bucket string
	// Domain is the JetStream domain of the bucket. Default: the server's.
	Domain string
	// Regions that have a registry of their own each, in a JetStream domain with the
	// name of the region. Domain must then be the one of this region; it may be in
	// the list. Instances are announced in the registry of this region, and must be
	// in this region or have no location; watches see the instances of all regions.
	// Open makes what the regions read each other with, the stream
	// KV_<bucket>_<domain> in each, unless NoCreate is set or it is there. Give the
	// same list to all programs that may create a bucket. See
	// [Registry.KeepSources]. Default: no others.
	Regions []string
	// Replicas of the bucket, when Open creates it. Default: 3 in a cluster
	// (1 if it has fewer servers), else 1.
	Replicas int
	// Memory keeps the bucket in memory instead of on disk, when Open creates it.
	Memory bool
	// NoCreate never creates a stream and never changes one, for users without the
	// right to. The registry then waits until another program has created the
	// bucket. Default: Open creates it, and it is made again when it is lost.
	NoCreate bool
	// NoSuspects removes an instance as soon as its lease ends, even when many
	// leases end together. By default, instances of a service that expire together,
	// or just after an outage, and the last one of a service, are kept as suspects:
	// see [events.Entry].
	NoSuspects bool
	// SnapshotDir is a directory for the last snapshot of each service that is
	// watched, a few seconds behind, in <bucket>/<service>.json. A watch that cannot
	// reach the registry at its start begins with that file, marked stale, unless it
	// is more than a day old. The last policies that are used are kept there, too, in
	// <bucket>/documents. Processes may share a directory. Default: none.
	SnapshotDir string
	// OpTimeout bounds each exchange with the server. Default 2s.
	OpTimeout time.Duration
	// Logger for what the registry notices outside of calls. Default [slog.Default].
	Logger *slog.Logger
}

// Registry is an open bucket. [Registry.Announce] keeps an instance listed,
// [Registry.Watch] and [Registry.Snapshot] list the instances of services, and
// [Registry.Evacuate] is for operators. It is safe for concurrent use and holds
// nothing that must be closed: watches end with their contexts, announcements with
// [Announcement.Leave]. The connection stays the caller's.
type Registry struct {
	Leases // primitives for gateways, see there: most programs want Announce

	opts    Options
	bucket  *bucket
	keeping refcount.Run                 // looks after the sources
	stores  map[*wire.Bucket]*disk.Store // of the last snapshots; empty: nothing is saved
	tails   tail.Group

	evacuations *documents.Follower[events.Evacuation]
	policies    *documents.Follower[*policy.Policy]

	warned struct{ region, loopback sync.Once } // what Announce has warned of
}

// Counts are totals since [Open].
type Counts struct {
	Invalid   uint64 // messages skipped because they are malformed
	Forged    uint64 // messages ignored: a schedule wrote more than the purge of its own instance, or the stream never stored the change
	Gaps      uint64 // missed changes, each repaired by reading a snapshot
	Snapshots uint64 // snapshots read
}

// Open opens the bucket, and creates it when it is not there, unless
// [Options].NoCreate is set. ctx bounds the opening only. The error means that
// something must be changed: an option, the server's configuration, an incompatible
// bucket. A server that does not answer is no error: announcements and watches try
// again until it does.
func Open(ctx context.Context, nc *nats.Conn, o Options) (*Registry, error) {
	r, err := newRegistry(nc, o)
	if err != nil {
		return nil, err
	}
	if lacks := server.Ends(&nc.Opts); len(lacks) > 0 {
		r.link.Log.Warn("this NATS connection closes for good in an outage or while credentials are changed: connect with kv.Connect, or add the options that it lacks",
			"lacks", strings.Join(lacks, ", "))
	}
	if err := r.link.Connected(); err != nil {
		r.link.Log.Warn("NATS cannot be reached yet, trying again until it can", "error", err)
	}
	if err := r.bucket.open(ctx); err != nil && !wire.Transient(err) {
		return nil, err
	}
	return r, nil
}

// newRegistry is Open without any exchange with the server.
func newRegistry(nc *nats.Conn, o Options) (*Registry, error) {
	if nc == nil {
		return nil, errors.New("kv: open: no NATS connection was given")
	}
	o.Bucket, o.Logger = cmp.Or(o.Bucket, DefaultBucket), cmp.Or(o.Logger, slog.Default())
	if err := events.ValidateName("bucket", o.Bucket); err != nil {
		return nil, fmt.Errorf("kv: open: %w", err)
	}
	if o.OpTimeout <= 0 {
		o.OpTimeout = opTimeout
	}

	link := &wire.Link{Conn: nc, API: "$JS.API.", Domain: o.Domain, OpTimeout: o.OpTimeout, Log: o.Logger, Clock: wire.NewClock()}
	var err error
	if o.Domain != "" {
		if err := events.ValidateName("domain", o.Domain); err != nil {
			return nil, fmt.Errorf("kv: open: %w", err)
		}
		link.API = "$JS." + o.Domain + ".API."
		link.JS, err = jetstream.NewWithDomain(nc, o.Domain)
	} else {
		link.JS, err = jetstream.New(nc)
	}
	if err != nil {
		return nil, fmt.Errorf("kv: open: %w", err)
	}
	link.Bucket = wire.NewBucket(o.Bucket, o.Bucket, link.API)
	r := &Registry{Leases: Leases{link: link, guess: o.Domain == ""}, opts: o}
	if r.sources, err = regions.New(link, o.Domain, o.Regions); err != nil {
		return nil, fmt.Errorf("kv: open: %w", err)
	}
	r.bucket = &bucket{link: link, opts: o, sources: r.sources, ensuring: make(chan struct{}, 1)}
	r.tails.Link, r.tails.NoSuspects = link, o.NoSuspects
	if !o.NoCreate {
		r.tails.Heal = r.bucket.heal
	}
	if o.SnapshotDir != "" {
		r.stores = map[*wire.Bucket]*disk.Store{}
		for _, b := range r.buckets() {
			if r.stores[b], err = disk.Open(o.SnapshotDir, b.Name, o.Logger); err != nil {
				return nil, err
			}
		}
	}
	r.evacuations = documents.NewFollower(documents.NewCollection(documents.Evacuations, link, r.buckets(), !o.NoCreate), nil)
	r.policies = r.newPolicies()
	return r, nil
}

// Now is the time by the server's clock, taken from the changes that arrived. Before the
// first change it is the clock of this process, as it was when the registry was opened.
// Compare it with what instances announce, such as [events.Instance].Started: the clock
// of this process may be wrong, and may jump.
func (r *Registry) Now() time.Time { return r.link.Clock.Now() }

// buckets are all that are read.
func (r *Registry) buckets() []*wire.Bucket {
	if r.sources == nil {
		return []*wire.Bucket{&r.link.Bucket}
	}
	return []*wire.Bucket{&r.link.Bucket, r.sources.Bucket}
}

// Counts returns the totals since Open.
func (r *Registry) Counts() Counts {
	return Counts{r.link.Counts.Invalid.Load(), r.link.Counts.Forged.Load(), r.link.Counts.Gaps.Load(), r.link.Counts.Snapshots.Load()}
}

// Conn is the connection that [Open] was given.
func (r *Registry) Conn() *nats.Conn { return r.link.Conn }

// KeepSources maintains the stream with which this region reads the others
// ([Options].Regions), so that regions agree soon after they were cut off from each
// other. It blocks until ctx ends and returns its error. One process in each region is
// enough; several share the work. Announcements and `router serve` do it by themselves. A
// program that only watches need not. It needs the right to update that stream, and to
// inspect and reset the consumers in other regions: see docs/decisions/0019. Without
// regions, or with NoCreate, it does nothing.
func (r *Registry) KeepSources(ctx context.Context) error {
	leave := r.keepSources()
	<-ctx.Done()
	leave()
	return ctx.Err()
}

// keepSources is KeepSources until the caller leaves.
func (r *Registry) keepSources() (leave func()) {
	if r.sources == nil || r.opts.NoCreate {
		return func() {}
	}
	r.keeping.Join(func(ctx context.Context) { r.sources.Keep(ctx, r.bucket.ensure) })
	return func() { r.keeping.Leave()() }
}

// Evacuate orders that the instances of a place are used only when no other instance can
// be; with Evacuated false it ends such an order. The order is written in this region.
// Other regions receive it at once, or as soon as they can be reached. Evacuate fills in
// the time of the order and returns it as it is stored.
func (r *Registry) Evacuate(ctx context.Context, e events.Evacuation) (events.Evacuation, error) {
	body := func(at time.Time) ([]byte, error) {
		e.At = at
		return events.EncodeEvacuation(e)
	}
	if _, err := r.evacuations.Write(ctx, e.Key(), documents.Write{Body: body}); err != nil {
		return events.Evacuation{}, fmt.Errorf("kv: evacuate %s: %w", e.Place(), err)
	}
	return e, nil
}

// Evacuations returns the places that are evacuated now, in order.
func (r *Registry) Evacuations(ctx context.Context) ([]events.Evacuation, error) {
	all, err := r.evacuations.All(ctx)
	if err != nil {
		return nil, fmt.Errorf("kv: read the evacuations: %w", err)
	}
	var places []events.Evacuation
	for _, d := range all {
		if d.Good && d.Value.Evacuated {
			places = append(places, d.Value)
		}
	}
	return places, nil
}

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
	return tail.Source{Bucket: from, Store: r.stores[from], Service: service, Evacuated: r.evacuations}
}

// Bus returns the bus of this registry. Its subjects begin with the bucket's
// name, which is not part of what is passed to its methods.
func (r *Registry) Bus() *Bus { return &Bus{r.link, r.opts.NoCreate} }
