package kv

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/proxima-discovery/proxima/pkg/events"
)

// Headers of the server, and of the KV convention.
const (
	hdrOperation    = "KV-Operation"
	hdrMarker       = "Nats-Marker-Reason"
	hdrScheduler    = "Nats-Scheduler"
	hdrScheduleNext = "Nats-Schedule-Next"
	hdrSubject      = "Nats-Subject"
	hdrSequence     = "Nats-Sequence"
	hdrLastSequence = "Nats-Last-Sequence"
	hdrTimestamp    = "Nats-Time-Stamp"
	hdrStream       = "Nats-Stream"
	hdrPending      = "Nats-Num-Pending"
	hdrStatus       = "Status"
	hdrDescription  = "Description"

	purge = "PURGE"
)

// The bodies of removals say why.
var (
	bodyExpired      = []byte(`{"reason":"expired"}`)
	bodyDeregistered = []byte(`{"reason":"deregistered"}`)
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
	if err := r.belongs(in.Location.Region); err != nil {
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
	case last.instance != nil:
		return 0, fmt.Errorf("%w: %s is listed already", ErrFenced, in.Key())
	}
	return r.list(ctx, &in, data, last.seq) // over the mark that a removal left
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
	ack, err := r.publish(ctx, &nats.Msg{Subject: r.prefix + in.Key().Inst(), Data: data},
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
	if err := r.belongs(k.Region); err != nil {
		return err
	}
	msg := &nats.Msg{Subject: r.prefix + k.Lease(), Data: bodyExpired, Header: nats.Header{hdrOperation: {purge}}}
	_, err := r.publish(ctx, msg,
		jetstream.WithScheduleEvery(ttl(in)),
		jetstream.WithScheduleTarget(r.prefix+k.Inst()),
		jetstream.WithScheduleTTL(markerTTL),
		jetstream.WithMsgTTL(recordTTL(ttl(in))+2*ttl(in)),
		jetstream.WithExpectLastSequenceForSubject(revision, r.prefix+k.Inst()))
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
	msg := &nats.Msg{Subject: r.prefix + k.Inst(), Data: bodyDeregistered, Header: nats.Header{
		hdrOperation:    {purge},
		hdrScheduleNext: {"purge"},
		hdrScheduler:    {r.prefix + k.Lease()},
	}}
	_, err := r.publish(ctx, msg,
		jetstream.WithExpectLastSequencePerSubject(revision),
		jetstream.WithMsgTTL(markerTTL))
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
	if last.instance == nil {
		return events.Entry{}, fmt.Errorf("%w: %s", ErrNotFound, k)
	}
	return events.Entry{Instance: last.instance, Revision: last.seq}, nil
}

// last is the newest message about k: a record or the mark of a removal.
func (r *Registry) last(ctx context.Context, k events.Key) (change, error) {
	msg, err := r.lastMsg(ctx, r.prefix+k.Inst())
	if err != nil {
		return change{}, err
	}
	c, err := r.parse(msg)
	if errors.Is(err, errForged) || errors.Is(err, errRecord) {
		// Whatever it is, it holds no instance, and its sequence is the one
		// to replace.
		return change{key: k, seq: c.seq, at: c.at}, nil
	}
	return c, err
}

// lastMsg is the newest message on a subject of the stream, from whichever
// server has a copy. The servers choose one at random, also one that has just
// stopped to answer: so it is asked again, sooner than that one is given up.
func (r *Registry) lastMsg(ctx context.Context, subject string) (*nats.Msg, error) {
	ctx, cancel := context.WithTimeout(ctx, r.opts.OpTimeout)
	defer cancel()
	if !r.nc.IsConnected() {
		return nil, fmt.Errorf("%w: not connected", ErrUnavailable)
	}
	req, err := json.Marshal(getRequest{LastFor: subject})
	if err != nil {
		return nil, fmt.Errorf("kv: read %s: %w", subject, err)
	}
	var msg *nats.Msg
	for _, part := range []time.Duration{8, 4, 1} {
		once, end := context.WithTimeout(ctx, r.opts.OpTimeout/part)
		msg, err = r.nc.RequestWithContext(once, r.direct, req)
		end()
		if !errors.Is(err, context.DeadlineExceeded) || ctx.Err() != nil {
			break
		}
	}
	if err != nil {
		return nil, fmt.Errorf("%w: read %s: %w", ErrUnavailable, subject, err)
	}
	switch {
	case stored(msg):
		return msg, nil
	case msg.Header.Get(hdrStatus) == "404":
		return nil, ErrNotFound
	default:
		return nil, fmt.Errorf("%w: read %s: %s", ErrUnavailable, subject, status(msg))
	}
}

// publish writes one message and waits for its acknowledgement.
func (r *Registry) publish(ctx context.Context, msg *nats.Msg, opts ...jetstream.PublishOpt) (*jetstream.PubAck, error) {
	// nats.go would keep the message and send it after a reconnect, when it
	// may no longer be true.
	if !r.nc.IsConnected() {
		return nil, fmt.Errorf("%w: not connected", ErrUnavailable)
	}
	ctx, cancel := context.WithTimeout(ctx, r.opts.OpTimeout)
	defer cancel()
	ack, err := r.js.PublishMsg(ctx, msg, append(opts, jetstream.WithRetryAttempts(0))...)
	if err == nil {
		return ack, nil
	}
	if e, ok := errors.AsType[*jetstream.APIError](err); ok {
		switch e.ErrorCode {
		case jetstream.JSErrCodeStreamWrongLastSequence, jetstream.JSErrCodeStreamWrongLastSequenceConstant:
			return nil, ErrFenced
		}
	}
	if !transient(err) {
		return nil, err
	}
	return nil, fmt.Errorf("%w: %w", ErrUnavailable, err)
}

// nobody says that no server keeps the bucket now.
func nobody(err error) bool {
	return errors.Is(err, jetstream.ErrNoStreamResponse) || errors.Is(err, nats.ErrNoResponders)
}

// getRequest asks for messages of the stream directly, from any copy of it.
type getRequest struct {
	Seq     uint64 `json:"seq,omitempty"`
	NextFor string `json:"next_by_subj,omitempty"`
	LastFor string `json:"last_by_subj,omitempty"`
	Batch   int    `json:"batch,omitempty"`

	MultiLast []string `json:"multi_last,omitempty"`
}

// status says what a message that is none of the stream's says.
func status(msg *nats.Msg) string {
	return strings.TrimSpace("status " + msg.Header.Get(hdrStatus) + " " + msg.Header.Get(hdrDescription))
}
