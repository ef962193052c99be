package kv

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/proxima-discovery/proxima/pkg/events"
	"github.com/proxima-discovery/proxima/pkg/kv/internal/disk"
	"github.com/proxima-discovery/proxima/pkg/kv/internal/tail"
	"github.com/proxima-discovery/proxima/pkg/kv/internal/wire"
)

var (
	// ErrFenced is returned when the record of an instance is not the one
	// that the caller knows: it was removed, or replaced by another incarnation.
	ErrFenced = wire.ErrFenced
	// ErrNotFound is returned when no such instance is listed.
	ErrNotFound = wire.ErrNotFound
	// ErrUnavailable is returned when the registry does not answer.
	ErrUnavailable = wire.ErrUnavailable
)

// DefaultBucket is the bucket's name unless [Options] says otherwise.
const DefaultBucket = "proxima"

// markerTTL is how long a removal stays readable: whoever reads a snapshot
// within that time learns of it.
const markerTTL = time.Hour

// Options configure [Open]. The zero value is ready to use.
type Options struct {
	// Bucket is the name of the bucket. Default [DefaultBucket].
	Bucket string
	// Domain is the JetStream domain of the bucket. Default: the server's.
	Domain string
	// Regions that have a registry of their own each, in a JetStream domain
	// that is named as the region. Domain is then the one of this region, and
	// may be in the list. What is announced goes to the registry of this
	// region, and only instances that are in it, or do not know where they are,
	// can be; watches see those of all regions. Open makes what the regions read
	// each other with, <bucket>_<domain> in each, unless NoCreate is set; give
	// all who may create a bucket the same list. While such a registry is
	// watched it also looks after that, so that regions agree soon after they
	// were cut off from each other. Default: no others.
	Regions []string
	// Replicas of the bucket, when Open creates it. Default: 3 in a cluster
	// (1 if it has fewer servers), else 1.
	Replicas int
	// Memory keeps the bucket in memory instead of on disk, when Open creates it.
	Memory bool
	// NoCreate never creates the bucket, for users that may not.
	NoCreate bool
	// NoSuspects removes whoever expires at once. Without it, instances of a
	// service that expire together, or just after an outage, are kept as
	// suspects: see [events.Entry].
	NoSuspects bool
	// SnapshotDir is a directory in which the last snapshot of each service
	// that is watched is kept, a few seconds behind, in <bucket>/<service>.json.
	// A watch that cannot reach the registry at its start begins with that,
	// marked stale, unless it is more than a day old. Processes may share one.
	// Default: none.
	SnapshotDir string
	// OpTimeout bounds each exchange with the server. Default 2s.
	OpTimeout time.Duration
	// Logger for what the registry notices by itself. Default [slog.Default].
	Logger *slog.Logger
}

// Registry is an open bucket. It is safe for concurrent use and holds nothing
// that must be closed: watches end with their contexts, announcements with
// [Announcement.Leave]. The connection stays the caller's.
type Registry struct {
	link   *wire.Link
	others *wire.Bucket                 // what the other regions have written; nil: there are none
	stores map[*wire.Bucket]*disk.Store // of the last snapshots; empty: nothing is saved

	opts Options

	regions    []string    // the other ones
	incomplete atomic.Bool // some of them are not sourced yet

	evacuations follower
	tails       tail.Group

	ensuring chan struct{} // full while somebody asks for the bucket, or makes it
	ensured  atomic.Bool   // it has been seen
}

// Counts are totals since [Open].
type Counts struct {
	Invalid   uint64 // messages skipped because they are malformed
	Forged    uint64 // messages ignored because a schedule wrote what it may not, and instances that were heard of and never stored
	Gaps      uint64 // changes that were missed and noticed
	Snapshots uint64 // snapshots read
}

// Open opens the bucket, and creates it when it is not there and may be
// created. ctx bounds the opening only. The error means that something must be
// changed: an option, the server's configuration, an incompatible bucket. A
// server that does not answer is no error: whatever needs the bucket tries
// again until it does.
func Open(ctx context.Context, nc *nats.Conn, o Options) (*Registry, error) {
	if nc == nil {
		return nil, errors.New("kv: open: no NATS connection was given")
	}
	if o.Bucket == "" {
		o.Bucket = DefaultBucket
	}
	if err := events.ValidateName("bucket", o.Bucket); err != nil {
		return nil, fmt.Errorf("kv: open: %w", err)
	}
	if o.OpTimeout <= 0 {
		o.OpTimeout = 2 * time.Second
	}
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	link := &wire.Link{Conn: nc, OpTimeout: o.OpTimeout, Log: o.Logger, Clock: wire.NewClock()}
	r := &Registry{link: link, opts: o, ensuring: make(chan struct{}, 1)}
	api := "$JS.API."
	var err error
	if o.Domain != "" {
		if err := events.ValidateName("domain", o.Domain); err != nil {
			return nil, fmt.Errorf("kv: open: %w", err)
		}
		api = "$JS." + o.Domain + ".API."
		r.link.JS, err = jetstream.NewWithDomain(nc, o.Domain)
	} else {
		r.link.JS, err = jetstream.New(nc)
	}
	if err != nil {
		return nil, fmt.Errorf("kv: open: %w", err)
	}
	r.link.API = api
	r.evacuations.r = r
	r.tails.Link, r.tails.NoSuspects = link, o.NoSuspects
	if !o.NoCreate {
		r.tails.Heal = func(ctx context.Context) error {
			_, err := r.heal(ctx)
			return err
		}
	}
	link.Bucket = wire.NewBucket(o.Bucket, o.Bucket, api)
	if err := r.openOthers(); err != nil {
		return nil, err
	}
	if o.SnapshotDir != "" {
		r.stores = map[*wire.Bucket]*disk.Store{}
		for _, b := range r.buckets() {
			if r.stores[b], err = disk.Open(o.SnapshotDir, b.Name, o.Logger); err != nil {
				return nil, err
			}
		}
	}
	if !nc.Opts.AllowReconnect || nc.Opts.MaxReconnect >= 0 {
		r.link.Log.Warn("the NATS connection gives up after a number of reconnects, use nats.MaxReconnects(-1) for discovery that heals by itself",
			"reconnects", nc.Opts.AllowReconnect, "max_reconnects", nc.Opts.MaxReconnect)
	}
	if err := r.open(ctx); err != nil && !wire.Transient(err) {
		return nil, err
	}
	return r, nil
}

// open makes the bucket unless it is there. A server of a cluster that has
// just started may not know yet where JetStream is, so that is asked again. Only
// leaders tell about the stream: if a copy of it answers and they do not, whoever
// opens the bucket has better things to do than to wait for an election.
func (r *Registry) open(ctx context.Context) error {
	look, done := context.WithTimeout(ctx, r.link.OpTimeout/2)
	_, err := r.link.LastMsg(look, r.link.Prefix+"none")
	done()
	if err == nil || errors.Is(err, ErrNotFound) {
		short, cancel := context.WithTimeout(ctx, r.link.OpTimeout/4)
		defer cancel()
		ctx = short
	}
	for end := time.Now().Add(r.link.OpTimeout); ; {
		err := r.ensure(ctx)
		if !errors.Is(err, nats.ErrNoResponders) || time.Now().After(end) {
			return err
		}
		select {
		case <-time.After(r.link.OpTimeout / 8):
		case <-ctx.Done():
			return err
		}
	}
}

// Conn is the connection that [Open] was given.
func (r *Registry) Conn() *nats.Conn { return r.link.Conn }

// Now is the time by the server's clock, as far as changes have told it, and by
// ours as it was when the registry was opened until then. What instances say of
// themselves, as [events.Instance].Started, is to be compared with that: our own
// clock may be wrong, and it may jump.
func (r *Registry) Now() time.Time { return r.link.Clock.Now() }

// buckets are all that are read.
func (r *Registry) buckets() []*wire.Bucket {
	if r.others == nil {
		return []*wire.Bucket{&r.link.Bucket}
	}
	return []*wire.Bucket{&r.link.Bucket, r.others}
}

// Buckets are the names of the buckets that are read: the registry's own first,
// and, with [Options.Regions], the one of the other regions. Changes in a bucket are
// republished on <name>.inst.<service>.<region>.<zone>.<id>.
func (r *Registry) Buckets() []string {
	var names []string
	for _, b := range r.buckets() {
		names = append(names, b.Name)
	}
	return names
}

// Counts returns the totals since Open.
func (r *Registry) Counts() Counts {
	return Counts{r.link.Counts.Invalid.Load(), r.link.Counts.Forged.Load(), r.link.Counts.Gaps.Load(), r.link.Counts.Snapshots.Load()}
}

// config is the stream under the bucket. It is not made by CreateKeyValue,
// whose discard policy refuses schedules, yet it is an ordinary bucket to read.
func (r *Registry) config(replicas int) jetstream.StreamConfig {
	storage := jetstream.FileStorage
	if r.opts.Memory {
		storage = jetstream.MemoryStorage
	}
	return jetstream.StreamConfig{
		Name:                   r.link.Stream,
		FirstSeq:               r.firstSequence(),
		Description:            "Proxima's instances and their leases",
		Subjects:               []string{r.link.Prefix + ">"},
		Storage:                storage,
		Replicas:               replicas,
		MaxMsgsPerSubject:      1,
		MaxMsgSize:             events.MaxSize + 4096,
		Discard:                jetstream.DiscardOld,
		AllowMsgTTL:            true,
		SubjectDeleteMarkerTTL: markerTTL,
		AllowMsgSchedules:      true,
		AllowRollup:            true,
		AllowDirect:            true,
		DenyDelete:             true,
		RePublish: &jetstream.RePublish{
			Source:      r.link.Prefix + "inst.>",
			Destination: r.link.Live + "inst.>",
		},
	}
}

// heal makes the bucket, when it was there and nobody keeps it any more. It does
// not take long: a stream that just has no leader looks the same, and whoever
// asks has a lease to renew. It leaves it to somebody who is at it already.
func (r *Registry) heal(ctx context.Context) (made bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, r.link.OpTimeout/4)
	defer cancel()
	select {
	case r.ensuring <- struct{}{}:
		defer func() { <-r.ensuring }()
		return r.ensureLocked(ctx)
	default:
		return false, fmt.Errorf("%w: its bucket is being looked for", ErrUnavailable)
	}
}

// ensure makes the bucket unless it is there. One caller at a time asks.
func (r *Registry) ensure(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 2*r.link.OpTimeout)
	defer cancel()
	select {
	case r.ensuring <- struct{}{}:
		defer func() { <-r.ensuring }()
		_, err := r.ensureLocked(ctx)
		return err
	case <-ctx.Done():
		return fmt.Errorf("%w: %w", ErrUnavailable, ctx.Err())
	}
}

// ensureLocked makes the bucket unless it is there, and says whether it did.
func (r *Registry) ensureLocked(ctx context.Context) (made bool, err error) {
	if !r.link.Conn.IsConnected() {
		return false, fmt.Errorf("%w: not connected", ErrUnavailable)
	}
	s, err := r.link.JS.Stream(ctx, r.link.Stream)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		if r.opts.NoCreate {
			return false, fmt.Errorf("%w: there is no bucket %q and this user does not create it", ErrUnavailable, r.opts.Bucket)
		}
		if s, err = r.absent(ctx, r.link.Stream); errors.Is(err, jetstream.ErrStreamNotFound) {
			s, err = r.create(ctx)
			made = err == nil
		}
	}
	if err == nil && r.others != nil && !r.opts.NoCreate && r.incompatible(s.CachedInfo().Config) == "" {
		if err = r.ensureRegions(ctx, s); err != nil {
			r.incomplete.Store(true)
		}
	}
	switch {
	case err == nil:
	case r.ensured.Load(), errors.Is(err, nats.ErrNoResponders) && r.opts.Domain != "":
		return made, fmt.Errorf("%w: %w", ErrUnavailable, err)
	case errors.Is(err, nats.ErrNoResponders), errors.Is(err, jetstream.ErrJetStreamNotEnabled), errors.Is(err, jetstream.ErrJetStreamNotEnabledForAccount):
		return false, fmt.Errorf("%w (%w)", wire.ErrNoJetStream, err)
	case wire.Transient(err):
		// Some users may read the bucket and not ask about the stream:
		// to them this is a request without an answer.
		return false, fmt.Errorf("%w: %w", ErrUnavailable, err)
	default:
		return false, fmt.Errorf("kv: open bucket %q: %w", r.opts.Bucket, err)
	}
	if missing := r.incompatible(s.CachedInfo().Config); missing != "" {
		return false, fmt.Errorf("kv: bucket %q was not made by Proxima: %s; remove it or choose another name", r.opts.Bucket, missing)
	}
	r.ensured.Store(true)
	return made, nil
}

// removal is how long a server may take to remove the files of a stream.
const removal = 200 * time.Millisecond

// absent makes sure that a stream is not there. If it has just been deleted its
// server may still be removing its files, and one of that name that is made
// meanwhile loses its own: it then takes no message until the server is started
// again (nats-server 2.15.2, on disk).
func (r *Registry) absent(ctx context.Context, stream string) (jetstream.Stream, error) {
	if !r.ensured.Load() {
		return nil, jetstream.ErrStreamNotFound // it was not deleted under our eyes
	}
	select {
	case <-time.After(removal):
		return r.link.JS.Stream(ctx, stream)
	case <-ctx.Done():
		return nil, fmt.Errorf("%w: %w", ErrUnavailable, ctx.Err())
	}
}

func (r *Registry) create(ctx context.Context) (jetstream.Stream, error) {
	replicas := r.opts.Replicas
	if replicas == 0 {
		replicas = 1
		if r.link.Conn.ConnectedClusterName() != "" {
			replicas = 3
		}
	}
	s, err := r.link.JS.CreateStream(ctx, r.config(replicas))
	if r.opts.Replicas == 0 && replicas > 1 && err != nil && !wire.Transient(err) {
		s, err = r.link.JS.CreateStream(ctx, r.config(1)) // a cluster of fewer servers
	}
	if errors.Is(err, jetstream.ErrStreamNameAlreadyInUse) { // somebody else was faster
		return r.link.JS.Stream(ctx, r.link.Stream)
	}
	if err == nil {
		r.link.Log.Info("made the registry's bucket", "bucket", r.opts.Bucket, "replicas", s.CachedInfo().Config.Replicas)
	}
	return s, err
}

// incompatible says what a stream lacks to be a registry.
func (r *Registry) incompatible(c jetstream.StreamConfig) string {
	want := r.config(1)
	var missing []string
	for _, x := range []struct {
		what string
		ok   bool
	}{
		{"message TTLs", c.AllowMsgTTL},
		{"message schedules", c.AllowMsgSchedules},
		{"direct gets", c.AllowDirect},
		{"one message per subject", c.MaxMsgsPerSubject == 1},
		{"changes republished on " + want.RePublish.Destination, c.RePublish != nil && *c.RePublish == *want.RePublish},
	} {
		if !x.ok {
			missing = append(missing, x.what)
		}
	}
	if len(missing) == 0 {
		return ""
	}
	return "it lacks " + strings.Join(missing, ", ")
}
