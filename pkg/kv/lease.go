package kv

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/proxima-discovery/proxima/pkg/events"
	"github.com/proxima-discovery/proxima/pkg/kv/internal/regions"
	"github.com/proxima-discovery/proxima/pkg/kv/internal/wire"
)

// Leases are the primitives under an announcement: one exchange with the server
// each, fenced by the revision of a record. A program that keeps an instance listed
// wants [Registry.Announce]. These are for gateways that register instances for
// clients, and have no timers of their own: they call Renew every [RenewEvery], and
// Register with the revision, instead, when [RewriteAfter] has passed since the
// record was written. Safe for concurrent use; every [Registry] has them.
type Leases struct {
	link    *wire.Link
	sources *regions.Sources // nil: instances of every region are taken
	// guess is to write first without reading the key: most often there is no message
	// about it, and if there is the server refuses to write. In a bucket of another
	// domain the key must be read first: writes go to the nearest bucket of this name.
	guess bool
}

// RenewEvery is how often a lease of that ttl is to be renewed: a third of it.
func RenewEvery(ttl time.Duration) time.Duration { return orDefault(ttl) / 3 }

// RewriteAfter is how long after it was written a record must be written again,
// however often its lease is renewed: half of the time that the server keeps it.
// That only matters after outages so long that the lease itself was lost.
func RewriteAfter(ttl time.Duration) time.Duration { return recordTTL(orDefault(ttl)) / 2 }

// recordTTL is how long the server keeps a record that is not written again.
func recordTTL(ttl time.Duration) time.Duration { return max(minRecord, 10*ttl) }

func orDefault(ttl time.Duration) time.Duration { return cmp.Or(ttl, events.DefaultTTL) }

// Register lists in and returns the revision of its record. With revision 0
// the key must be free; with another the record must have exactly that revision,
// and is replaced. Otherwise the error is [ErrFenced]. The lease is written first:
// a crash between the two leaves nothing that lasts.
func (l *Leases) Register(ctx context.Context, in events.Instance, revision uint64) (uint64, error) {
	data, err := events.Encode(in)
	if err != nil {
		return 0, err
	}
	if err := l.sources.Belongs(in.Location.Region); err != nil {
		return 0, err
	}
	if revision != 0 || l.guess {
		rev, err := l.list(ctx, &in, data, revision)
		if revision != 0 || !errors.Is(err, ErrFenced) {
			return rev, err
		}
	}
	last, err := l.last(ctx, in.Key())
	switch {
	case errors.Is(err, ErrNotFound):
	case err != nil:
		return 0, err
	case last.Instance != nil:
		return 0, fmt.Errorf("%w: %s is listed already", ErrFenced, in.Key())
	}
	return l.list(ctx, &in, data, last.Seq) // over the mark that a removal left
}

// list writes the lease and then the record, over exactly that revision.
func (l *Leases) list(ctx context.Context, in *events.Instance, data []byte, revision uint64) (uint64, error) {
	if err := l.Renew(ctx, in, revision); err != nil {
		return 0, err
	}
	return l.put(ctx, in, data, revision)
}

// put writes the record, over exactly that revision.
func (l *Leases) put(ctx context.Context, in *events.Instance, data []byte, revision uint64) (uint64, error) {
	ack, err := l.link.Publish(ctx, &nats.Msg{Subject: l.link.Prefix + in.Key().Inst(), Data: data},
		jetstream.WithExpectLastSequencePerSubject(revision),
		jetstream.WithMsgTTL(recordTTL(orDefault(in.TTL))))
	if err != nil {
		return 0, fmt.Errorf("kv: register %s: %w", in.Key(), err)
	}
	return ack.Sequence, nil
}

// Renew is a heartbeat: it puts off the end of the lease by the ttl. The error
// is [ErrFenced] when the record of that revision is no longer there. Watches do
// not hear it.
func (l *Leases) Renew(ctx context.Context, in *events.Instance, revision uint64) error {
	k := in.Key()
	if err := k.Validate(); err != nil {
		return err
	}
	if err := l.sources.Belongs(k.Region); err != nil {
		return err
	}
	msg := &nats.Msg{Subject: l.link.Prefix + k.Lease(), Data: wire.BodyExpired, Header: nats.Header{wire.HdrOperation: {wire.Purge}}}
	_, err := l.link.Publish(ctx, msg,
		jetstream.WithScheduleEvery(orDefault(in.TTL)),
		jetstream.WithScheduleTarget(l.link.Prefix+k.Inst()),
		jetstream.WithScheduleTTL(wire.MarkerTTL),
		jetstream.WithMsgTTL(recordTTL(orDefault(in.TTL))+2*orDefault(in.TTL)),
		jetstream.WithExpectLastSequenceForSubject(revision, l.link.Prefix+k.Inst()))
	if err != nil {
		return fmt.Errorf("kv: renew %s: %w", k, err)
	}
	return nil
}

// Deregister removes the record of that revision, and its lease with it, in
// one message. The error is [ErrFenced] when the record is gone already or another
// instance has replaced it.
func (l *Leases) Deregister(ctx context.Context, in *events.Instance, revision uint64) error {
	k := in.Key()
	if err := k.Validate(); err != nil {
		return err
	}
	msg := &nats.Msg{Subject: l.link.Prefix + k.Inst(), Data: wire.BodyDeregistered, Header: nats.Header{
		wire.HdrOperation:    {wire.Purge},
		wire.HdrScheduleNext: {"purge"},
		wire.HdrScheduler:    {l.link.Prefix + k.Lease()},
	}}
	_, err := l.link.Publish(ctx, msg,
		jetstream.WithExpectLastSequencePerSubject(revision),
		jetstream.WithMsgTTL(wire.MarkerTTL))
	if err != nil {
		return fmt.Errorf("kv: deregister %s: %w", k, err)
	}
	return nil
}

// Lookup returns the instance listed under k, or [ErrNotFound].
func (l *Leases) Lookup(ctx context.Context, k events.Key) (events.Entry, error) {
	if err := k.Validate(); err != nil {
		return events.Entry{}, err
	}
	last, err := l.last(ctx, k)
	if err != nil {
		return events.Entry{}, err
	}
	if last.Instance == nil {
		return events.Entry{}, fmt.Errorf("%w: %s", ErrNotFound, k)
	}
	return events.Entry{Instance: last.Instance, Revision: last.Seq}, nil
}

// last is the newest message about k: a record or the mark of a removal.
func (l *Leases) last(ctx context.Context, k events.Key) (wire.Change, error) {
	msg, err := l.link.LastMsg(ctx, l.link.Prefix+k.Inst())
	if err != nil {
		return wire.Change{}, err
	}
	return l.link.Parse(msg) // a record that is not valid has no instance, and its sequence is the one to replace
}
