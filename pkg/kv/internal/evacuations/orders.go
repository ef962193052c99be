package evacuations

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/proxima-discovery/proxima/pkg/events"
	"github.com/proxima-discovery/proxima/pkg/kv/internal/wire"
)

const (
	ordersPage = 512 // orders asked for at a time
	maxOrders  = 8   // pages
)

// Orders are the orders to evacuate that the buckets of a registry keep. It is safe
// for concurrent use.
type Orders struct {
	link    *wire.Link
	buckets []*wire.Bucket // where they are read: written is only the link's
	mayMend bool           // what a bucket lost is written again
}

// New returns the orders of these buckets. MayMend says that what a bucket lost is
// written again.
func New(link *wire.Link, buckets []*wire.Bucket, mayMend bool) *Orders {
	return &Orders{link: link, buckets: buckets, mayMend: mayMend}
}

// order is an order as it is kept, or the mark of its removal.
type order struct {
	events.Evacuation
	removed bool
	until   time.Time // of one that was only heard: when it is no longer believed
}

// orders are those that hold, by key. Regions that know of different orders agree
// as soon as each has heard of the other's: the later one about a place holds.
type orders map[string]order

// add takes in an order. Where one bucket keeps a mark and another an order, the
// order holds.
func (o orders) add(key string, n order) {
	was, known := o[key]
	if !known || was.removed || !n.removed && n.Overrides(was.Evacuation) {
		o[key] = n
	}
}

// evacuated are the places to leave, in order.
func (o orders) evacuated() []events.Evacuation {
	var all []events.Evacuation
	for _, e := range o {
		if !e.removed && e.Evacuated {
			all = append(all, e.Evacuation)
		}
	}
	slices.SortFunc(all, func(a, b events.Evacuation) int { return strings.Compare(a.Place(), b.Place()) })
	return all
}

// Give writes an order in the place of those that are known, with a later time, and
// returns it as it is kept.
func (o *Orders) Give(ctx context.Context, e events.Evacuation) (events.Evacuation, error) {
	ctx, cancel := context.WithTimeout(ctx, 3*o.link.OpTimeout)
	defer cancel()
	for range 3 {
		known, err := o.read(ctx)
		if err != nil {
			return events.Evacuation{}, fmt.Errorf("kv: evacuate %s: %w", e.Place(), err)
		}
		e.At = time.Now().UTC().Truncate(time.Millisecond)
		if last, ok := known[e.Key()]; ok && !last.removed && !e.At.After(last.At) {
			e.At = last.At.Add(time.Millisecond) // clocks differ; what we know of came before
		}
		err = o.put(ctx, e)
		if err == nil {
			return e, nil
		}
		if !errors.Is(err, wire.ErrFenced) {
			return events.Evacuation{}, err
		}
	}
	return events.Evacuation{}, fmt.Errorf("kv: evacuate %s: %w: it is being ordered by others, too", e.Place(), wire.ErrUnavailable)
}

// put writes an order in the place of the one that it overrides, and publishes it
// for all watches.
func (o *Orders) put(ctx context.Context, e events.Evacuation) error {
	data, err := events.EncodeEvacuation(e)
	if err != nil {
		return err
	}
	var revision uint64
	msg, err := o.link.LastMsg(ctx, o.link.Prefix+e.Key())
	switch {
	case err == nil:
		if last, err := parse(&o.link.Bucket, msg); err == nil && !last.removed && !e.Overrides(last.Evacuation) {
			return fmt.Errorf("kv: evacuate %s: %w", e.Place(), wire.ErrFenced)
		}
		revision, _ = wire.StampUint(msg.Header, wire.HdrSequence)
	case !errors.Is(err, wire.ErrNotFound):
		return fmt.Errorf("kv: evacuate %s: %w", e.Place(), err)
	}
	_, err = o.link.Publish(ctx, &nats.Msg{Subject: o.link.Prefix + e.Key(), Data: data}, jetstream.WithExpectLastSequencePerSubject(revision))
	if err != nil {
		return fmt.Errorf("kv: evacuate %s: %w", e.Place(), err)
	}
	// The bucket republishes instances only. A watch that does not hear this finds
	// the order with its next look.
	if err := o.link.Conn.Publish(o.link.Live+e.Key(), data); err == nil {
		_ = o.link.Conn.FlushWithContext(ctx)
	}
	return nil
}

// Places returns the places that are evacuated now, in order.
func (o *Orders) Places(ctx context.Context) ([]events.Evacuation, error) {
	ctx, cancel := context.WithTimeout(ctx, o.link.OpTimeout)
	defer cancel()
	all, err := o.read(ctx)
	if err != nil {
		return nil, fmt.Errorf("kv: read the evacuations: %w", err)
	}
	return all.evacuated(), nil
}

// read reads all orders, of every region.
func (o *Orders) read(ctx context.Context) (orders, error) {
	all := orders{}
	for _, b := range o.buckets {
		take := func(msg *nats.Msg) {
			if e, err := parse(b, msg); err != nil {
				o.link.Invalid(msg.Subject, err)
			} else {
				all.add(e.Key(), e)
			}
		}
		subjects := b.Prefix + wire.EvacuateFamily + ">"
		err := o.link.Read(ctx, b.Direct, wire.Get{Seq: 1, MultiLast: []string{subjects}}, 1, take)
		if errors.Is(err, wire.ErrTooMany) { // the bucket was filled with orders: go through it
			err = o.link.Read(ctx, b.Direct, wire.Get{Seq: 1, NextFor: subjects, Batch: ordersPage}, maxOrders, take)
		}
		if errors.Is(err, nats.ErrNoResponders) {
			return nil, fmt.Errorf("%w: no server has bucket %q", wire.ErrUnavailable, b.Name)
		}
		if err != nil {
			return nil, fmt.Errorf("bucket %s: %w", b.Name, err)
		}
	}
	return all, nil
}

// parse reads what a bucket keeps under a key of an order, or republishes.
func parse(b *wire.Bucket, msg *nats.Msg) (order, error) {
	key, ok := orderKey(b, strings.TrimPrefix(wire.Stamp(msg.Header, wire.HdrSubject), b.Prefix))
	if !ok || wire.Stamp(msg.Header, wire.HdrStream) != b.Stream {
		return order{}, fmt.Errorf("%w: subject %.80q of stream %.80q", wire.ErrFrame, wire.Stamp(msg.Header, wire.HdrSubject), wire.Stamp(msg.Header, wire.HdrStream))
	}
	if msg.Header.Get(wire.HdrOperation) != "" || msg.Header.Get(wire.HdrMarker) != "" {
		e, err := events.ParseEvacuationKey(key)
		return order{Evacuation: e, removed: true}, err
	}
	if msg.Header.Get(wire.HdrScheduler) != "" { // no order has a schedule
		return order{}, wire.ErrForged
	}
	e, err := events.DecodeEvacuation(key, msg.Data)
	return order{Evacuation: e}, err
}

// orderKey is the key of an order in the bucket that it was written to. Where
// the orders of several are read, the name of the region comes before the place.
func orderKey(b *wire.Bucket, key string) (string, bool) {
	place, ok := strings.CutPrefix(key, wire.EvacuateFamily)
	if ok && b.Sourced() {
		_, place, ok = strings.Cut(place, ".")
	}
	return wire.EvacuateFamily + place, ok
}
