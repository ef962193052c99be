package kv

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/proxima-discovery/proxima/pkg/events"
	"github.com/proxima-discovery/proxima/pkg/kv/internal/regions"
	"github.com/proxima-discovery/proxima/pkg/kv/internal/server"
	"github.com/proxima-discovery/proxima/pkg/kv/internal/wire"
)

// bucket is the stream of a registry, which it makes when it is not there, and with
// it what the regions read each other with.
type bucket struct {
	link    *wire.Link
	opts    Options
	sources *regions.Sources // nil: there are no other regions
	ensured atomic.Bool      // it has been seen
	missing atomic.Int64     // copies that it should have and has not

	// ensuring is full while the bucket is asked for, or made: a channel, because that
	// waits for the server, and another goroutine must not wait beyond its context.
	// It guards what follows.
	ensuring chan struct{}
	counted  time.Time // when the copies were last counted
	refused  time.Time // since when the servers refuse three replicas; zero: they do not
}

// replicas of the bucket in a cluster, by default.
const replicas = 3

// notClustered is the server's error for more than one replica without a cluster. A
// server that has leaf nodes has the name of a cluster, and may be in none.
const notClustered jetstream.ErrorCode = 10074

// open makes the bucket unless it is there. A server of a cluster that has just
// started may not know yet where JetStream is, so it is asked again. Only a leader
// answers questions about the stream. If a copy of the stream answers and its leader
// does not, open does not wait for an election: reads work without a leader.
func (b *bucket) open(ctx context.Context) error {
	if err := server.CheckConnected(b.link.Conn); err != nil {
		return err
	}
	look, done := context.WithTimeout(ctx, b.link.OpTimeout/2)
	_, err := b.link.LastMsg(look, b.link.Prefix+"none")
	done()
	if err == nil || errors.Is(err, ErrNotFound) {
		short, cancel := context.WithTimeout(ctx, b.link.OpTimeout/4)
		defer cancel()
		ctx = short
	}
	for end := time.Now().Add(b.link.OpTimeout); ; {
		err := b.ensure(ctx)
		if !errors.Is(err, nats.ErrNoResponders) || time.Now().After(end) {
			return err
		}
		select {
		case <-time.After(b.link.OpTimeout / 8):
		case <-ctx.Done():
			return err
		}
	}
}

// config is the stream under the bucket. It is not made by CreateKeyValue,
// whose discard policy refuses schedules, yet it is an ordinary bucket to read.
func (b *bucket) config(copies int) jetstream.StreamConfig {
	storage := jetstream.FileStorage
	if b.opts.Memory {
		storage = jetstream.MemoryStorage
	}
	return jetstream.StreamConfig{
		Name:                   b.link.Stream,
		FirstSeq:               b.firstSequence(),
		Description:            "Proxima's instances and their leases",
		Subjects:               []string{b.link.Prefix + ">"},
		Storage:                storage,
		Replicas:               copies,
		MaxMsgsPerSubject:      1,
		MaxMsgSize:             events.MaxSize + 4096,
		Discard:                jetstream.DiscardOld,
		AllowMsgTTL:            true,
		SubjectDeleteMarkerTTL: wire.MarkerTTL,
		AllowMsgSchedules:      true,
		AllowRollup:            true,
		AllowDirect:            true,
		DenyDelete:             true,
		RePublish: &jetstream.RePublish{
			Source:      b.link.Prefix + "inst.>",
			Destination: b.link.Live + "inst.>",
		},
	}
}

// firstSequence is where the sequences of a bucket begin. If other regions read it,
// they begin after those of a bucket that was there before and was lost: the
// readers would take lower ones for known. 0: they begin at 1, as usual.
func (b *bucket) firstSequence() uint64 {
	if b.sources == nil {
		return 0
	}
	return uint64(time.Now().UnixMicro())
}

// heal makes the bucket again when no server keeps it any more. It gives up soon: a
// stream without a leader looks the same, and the caller has a lease to renew. It
// returns at once if another goroutine is at it already.
func (b *bucket) heal(ctx context.Context) (made bool, err error) {
	select {
	case b.ensuring <- struct{}{}:
		defer func() { <-b.ensuring }()
	default:
		return false, wire.ErrBusy
	}
	ctx, cancel := context.WithTimeout(ctx, b.link.OpTimeout/4)
	defer cancel()
	return b.ensureLocked(ctx)
}

// ensure makes the bucket unless it is there. One caller at a time does so.
func (b *bucket) ensure(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 2*b.link.OpTimeout)
	defer cancel()
	select {
	case b.ensuring <- struct{}{}:
		defer func() { <-b.ensuring }()
	case <-ctx.Done():
		return fmt.Errorf("%w: %w", ErrUnavailable, ctx.Err())
	}
	_, err := b.ensureLocked(ctx)
	return err
}

// ensureLocked makes the bucket unless it is there, and reports whether it did.
func (b *bucket) ensureLocked(ctx context.Context) (made bool, err error) {
	if err := b.link.Connected(); err != nil {
		return false, err
	}
	if err := server.CheckConnected(b.link.Conn); err != nil {
		return false, err // before anything is made that this server, or a later one, cannot use
	}
	s, err := b.link.FindStream(ctx, b.link.Stream, b.ensured.Load() && !b.opts.NoCreate)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		if b.opts.NoCreate {
			return false, fmt.Errorf("%w: there is no bucket %q and this user does not create it", ErrUnavailable, b.opts.Bucket)
		}
		s, err = b.create(ctx)
		made = err == nil
	}
	if err == nil && b.sources != nil && !b.opts.NoCreate && b.incompatible(s.CachedInfo().Config) == "" {
		err = b.sources.Make(ctx, s, b.ensured.Load())
	}
	switch {
	case err == nil:
	case b.ensured.Load(), errors.Is(err, nats.ErrNoResponders) && b.opts.Domain != "":
		return made, fmt.Errorf("%w: %w", ErrUnavailable, err)
	case errors.Is(err, nats.ErrNoResponders), errors.Is(err, jetstream.ErrJetStreamNotEnabled), errors.Is(err, jetstream.ErrJetStreamNotEnabledForAccount):
		return false, fmt.Errorf("%w (%w)", wire.ErrNoJetStream, err)
	case wire.Transient(err):
		// A user may have the right to read the bucket and not to ask about the
		// stream: then this is a request without an answer.
		return false, fmt.Errorf("%w: %w", ErrUnavailable, err)
	default:
		return false, fmt.Errorf("kv: open bucket %q: %w", b.opts.Bucket, err)
	}
	if missing := b.incompatible(s.CachedInfo().Config); missing != "" {
		return false, fmt.Errorf("kv: bucket %q was not made by Proxima: %s; remove it or choose another name", b.opts.Bucket, missing)
	}
	if !b.ensured.Swap(true) {
		b.countReplicas(ctx, s.CachedInfo())
	}
	return made, nil
}

// recount counts the copies from time to time, unless another goroutine is at the bucket.
func (b *bucket) recount(ctx context.Context) {
	select {
	case b.ensuring <- struct{}{}:
		defer func() { <-b.ensuring }()
	default:
		return
	}
	if time.Since(b.counted) < recountEvery || b.link.Conn.ConnectedClusterName() == "" {
		return
	}
	if s, err := b.link.JS.Stream(ctx, b.link.Stream); err == nil {
		b.countReplicas(ctx, s.CachedInfo())
	}
}

// countReplicas finds out how many copies of the bucket are missing: there should be as
// many as were asked for, three by default, or one on each server if there are fewer. It
// warns if that is news. It does nothing if the servers do not tell how many they are.
func (b *bucket) countReplicas(ctx context.Context, info *jetstream.StreamInfo) {
	b.counted = time.Now()
	want, have := cmp.Or(b.opts.Replicas, replicas), max(info.Config.Replicas, 1)
	if have >= want || b.link.Conn.ConnectedClusterName() == "" {
		b.missing.Store(0)
		return
	}
	servers, err := server.All(ctx, b.link.Conn)
	if err != nil || info.Cluster == nil {
		return
	}
	n := server.Keeping(servers, info.Cluster.Name, b.link.Domain)
	missing := max(min(want, n)-have, 0)
	if was := b.missing.Swap(int64(missing)); missing > 0 && was != int64(missing) {
		b.link.Log.Warn("the registry has too few copies: it is lost for as long as a server is, raise it with: router doctor --fix",
			"bucket", b.opts.Bucket, "replicas", have, "wanted", have+missing, "servers", n)
	}
}

// create makes the bucket. The default of three replicas is tried for a while, in
// several calls if need be, if the servers refuse: a cluster that has just started does
// not know all of its servers.
func (b *bucket) create(ctx context.Context) (jetstream.Stream, error) {
	copies := b.opts.Replicas
	if copies == 0 {
		copies = 1
		if b.link.Conn.ConnectedClusterName() != "" {
			copies = replicas
		}
	}
	s, err := b.link.JS.CreateStream(ctx, b.config(copies))
	for b.opts.Replicas == 0 && copies > 1 && err != nil && !wire.Transient(err) && !errors.Is(err, jetstream.ErrStreamNameAlreadyInUse) {
		if b.refused.IsZero() {
			b.refused = time.Now()
		}
		if e, ok := errors.AsType[*jetstream.APIError](err); ok && e.ErrorCode == notClustered || time.Since(b.refused) > clusterForms {
			copies = 1 // no cluster, or one of fewer servers
		} else {
			select {
			case <-time.After(clusterForms / 10):
			case <-ctx.Done():
				return nil, ctx.Err()
			}
		}
		s, err = b.link.JS.CreateStream(ctx, b.config(copies))
	}
	if errors.Is(err, jetstream.ErrStreamNameAlreadyInUse) { // another process was faster
		return b.link.JS.Stream(ctx, b.link.Stream)
	}
	if err == nil {
		b.refused = time.Time{}
		b.link.Log.Info("made the registry's bucket", "bucket", b.opts.Bucket, "replicas", s.CachedInfo().Config.Replicas)
	}
	return s, err
}

// incompatible returns what a stream lacks to be a registry.
func (b *bucket) incompatible(c jetstream.StreamConfig) string {
	want := b.config(1)
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
