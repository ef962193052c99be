package kv

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/proxima-discovery/proxima/pkg/events"
	"github.com/proxima-discovery/proxima/pkg/kv/internal/wire"
)

// recordTTL is how long the server keeps a record that nobody writes again.
// Announcers write it again every half of that. It only matters after outages
// so long that the lease itself was lost.
func recordTTL(ttl time.Duration) time.Duration { return max(10*time.Minute, 10*ttl) }

// Register lists in and returns the revision of its record. With revision 0
// the key must be free; else the record of exactly that revision is replaced.
// Otherwise the error is [ErrFenced]. The lease is written first: a crash
// between the two leaves nothing that lasts.
func (r *Registry) Register(ctx context.Context, in events.Instance, revision uint64) (uint64, error) {
	data, err := events.Encode(in)
	if err != nil {
		return 0, err
	}
	if err := r.sources.Belongs(in.Location.Region); err != nil {
		return 0, err
	}
	if revision != 0 || r.guess() {
		rev, err := r.list(ctx, &in, data, revision)
		if revision != 0 || !errors.Is(err, ErrFenced) {
			return rev, err
		}
	}
	last, err := r.last(ctx, in.Key())
	switch {
	case errors.Is(err, ErrNotFound):
	case err != nil:
		return 0, err
	case last.Instance != nil:
		return 0, fmt.Errorf("%w: %s is listed already", ErrFenced, in.Key())
	}
	return r.list(ctx, &in, data, last.Seq) // over the mark that a removal left
}

// guess says whether a key may be taken for free without a look: most often
// there is no message about it, and if there is the server refuses to write. A
// bucket of another domain must be looked at first: writes go to whichever
// bucket of this name is near.
func (r *Registry) guess() bool { return r.opts.Domain == "" }

// list writes the lease and then the record, over exactly that revision.
func (r *Registry) list(ctx context.Context, in *events.Instance, data []byte, revision uint64) (uint64, error) {
	if err := r.Renew(ctx, in, revision); err != nil {
		return 0, err
	}
	return r.put(ctx, in, data, revision)
}

// put writes the record, over exactly that revision.
func (r *Registry) put(ctx context.Context, in *events.Instance, data []byte, revision uint64) (uint64, error) {
	ack, err := r.link.Publish(ctx, &nats.Msg{Subject: r.link.Prefix + in.Key().Inst(), Data: data},
		jetstream.WithExpectLastSequencePerSubject(revision),
		jetstream.WithMsgTTL(recordTTL(ttl(in))))
	if err != nil {
		return 0, fmt.Errorf("kv: register %s: %w", in.Key(), err)
	}
	return ack.Sequence, nil
}

// Renew is a heartbeat: it puts off the end of the lease by the ttl. The error
// is [ErrFenced] when the record of that revision is no longer there. Nobody
// who watches the registry hears it.
func (r *Registry) Renew(ctx context.Context, in *events.Instance, revision uint64) error {
	k := in.Key()
	if err := k.Validate(); err != nil {
		return err
	}
	if err := r.sources.Belongs(k.Region); err != nil {
		return err
	}
	msg := &nats.Msg{Subject: r.link.Prefix + k.Lease(), Data: wire.BodyExpired, Header: nats.Header{wire.HdrOperation: {wire.Purge}}}
	_, err := r.link.Publish(ctx, msg,
		jetstream.WithScheduleEvery(ttl(in)),
		jetstream.WithScheduleTarget(r.link.Prefix+k.Inst()),
		jetstream.WithScheduleTTL(wire.MarkerTTL),
		jetstream.WithMsgTTL(recordTTL(ttl(in))+2*ttl(in)),
		jetstream.WithExpectLastSequenceForSubject(revision, r.link.Prefix+k.Inst()))
	if err != nil {
		return fmt.Errorf("kv: renew %s: %w", k, err)
	}
	return nil
}

// Deregister removes the record of that revision, and its lease with it, in
// one message. The error is [ErrFenced] when it is gone already or somebody
// else's.
func (r *Registry) Deregister(ctx context.Context, in *events.Instance, revision uint64) error {
	k := in.Key()
	if err := k.Validate(); err != nil {
		return err
	}
	msg := &nats.Msg{Subject: r.link.Prefix + k.Inst(), Data: wire.BodyDeregistered, Header: nats.Header{
		wire.HdrOperation:    {wire.Purge},
		wire.HdrScheduleNext: {"purge"},
		wire.HdrScheduler:    {r.link.Prefix + k.Lease()},
	}}
	_, err := r.link.Publish(ctx, msg,
		jetstream.WithExpectLastSequencePerSubject(revision),
		jetstream.WithMsgTTL(wire.MarkerTTL))
	if err != nil {
		return fmt.Errorf("kv: deregister %s: %w", k, err)
	}
	return nil
}

func ttl(in *events.Instance) time.Duration {
	if in.TTL == 0 {
		return events.DefaultTTL
	}
	return in.TTL
}

// Lookup returns the instance listed under k, or [ErrNotFound].
func (r *Registry) Lookup(ctx context.Context, k events.Key) (events.Entry, error) {
	if err := k.Validate(); err != nil {
		return events.Entry{}, err
	}
	last, err := r.last(ctx, k)
	if err != nil {
		return events.Entry{}, err
	}
	if last.Instance == nil {
		return events.Entry{}, fmt.Errorf("%w: %s", ErrNotFound, k)
	}
	return events.Entry{Instance: last.Instance, Revision: last.Seq}, nil
}

// last is the newest message about k: a record or the mark of a removal.
func (r *Registry) last(ctx context.Context, k events.Key) (wire.Change, error) {
	msg, err := r.link.LastMsg(ctx, r.link.Prefix+k.Inst())
	if err != nil {
		return wire.Change{}, err
	}
	return r.link.Parse(msg) // what is not valid holds no instance, and its sequence is the one to replace
}
