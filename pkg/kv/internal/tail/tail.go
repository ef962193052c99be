package tail

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/proxima-discovery/proxima/pkg/events"
	"github.com/proxima-discovery/proxima/pkg/kv/internal/disk"
	"github.com/proxima-discovery/proxima/pkg/kv/internal/documents"
	"github.com/proxima-discovery/proxima/pkg/kv/internal/view"
	"github.com/proxima-discovery/proxima/pkg/kv/internal/wire"
)

const liveBuffer = 2048 // messages; more unread ones cost a read

// Group is what the tails of one registry share. It is safe for concurrent use.
type Group struct {
	Link *wire.Link
	// Heal makes the bucket if it is gone, and reports whether it did. Nil: it may not
	// be made.
	Heal func(context.Context) (made bool, err error)
	// NoSuspects is the option of the views, see [view.Options].
	NoSuspects bool

	leases    leaseAge
	elections elections
	watching  atomic.Int64  // tails, now
	stale     atomic.Int64  // those that have logged that their view is stale
	suspected wire.Throttle // log lines of instances that become suspects
}

// Source is what a tail reads.
type Source struct {
	Bucket *wire.Bucket
	// Store has the snapshots on disk. Nil: there are none.
	Store *disk.Store
	// Service that is watched. Empty: all.
	Service string
	// Evacuated knows the places that are evacuated.
	Evacuated *documents.Follower[events.Evacuation]
}

// Watch calls apply with a snapshot of every service that has changed, one call
// at a time, until ctx ends.
func (g *Group) Watch(ctx context.Context, from Source, apply func(events.Snapshot)) error {
	t, err := g.open(from)
	if err != nil {
		return err
	}
	defer t.close()
	g.watching.Add(1)
	defer g.watching.Add(-1)
	return t.run(ctx, apply)
}

// Snapshot reads what is listed now: one snapshot for each service.
func (g *Group) Snapshot(ctx context.Context, from Source) ([]events.Snapshot, error) {
	t, err := g.open(from)
	if err != nil {
		return nil, err
	}
	defer t.close()
	t.once, t.staleness.silent = true, true
	var all []events.Snapshot
	err = t.run(ctx, func(s events.Snapshot) {
		if len(s.Entries) > 0 {
			all = append(all, s)
		}
	})
	if err != nil {
		if t.staleness.err != nil {
			err = t.staleness.err
		}
		return nil, fmt.Errorf("kv: read the registry: %w", err)
	}
	return all, nil
}

// Watching reports whether any tail runs.
func (g *Group) Watching() bool { return g.watching.Load() > 0 }

// relaxed returns the interval between checks of a tail. It is every for up to
// manyWatches tails, then grows with their number, so a process sends about one
// request a second. Changes are received at once regardless.
func (g *Group) relaxed(every time.Duration) time.Duration {
	return every * time.Duration(max(manyWatches, g.watching.Load())) / manyWatches
}

// tail is one watch: a subscription, and reads to fill its gaps, merged in a view
// by one goroutine.
type tail struct {
	group     *Group
	from      Source
	view      *view.View
	reader    *reader
	staleness *staleness

	once    bool // it ends with the first complete view
	live    chan *nats.Msg
	elected chan struct{} // the stream has a leader again
	leave   func()        // unsubscribes from elections
	status  chan nats.Status
	subs    []*nats.Subscription
	dropped int
	rest    time.Time   // no snapshot is delivered before
	rested  *time.Timer // fires at rest
	grace   *time.Timer // of the view's pending expiries
	places  *documents.Watch[events.Evacuation]
	placed  bool // it is known which places are evacuated
}

func (g *Group) open(from Source) (*tail, error) {
	which := ">"
	if from.Service != "" {
		if err := events.ValidateService(from.Service); err != nil {
			return nil, err
		}
		which = from.Service + ".>"
	}
	v := view.New(view.Options{Service: from.Service, Sourced: from.Bucket.Sourced(), NoSuspects: g.NoSuspects, Notes: notes{g, from.Bucket}})
	t := &tail{
		group: g, from: from, view: v,
		staleness: &staleness{group: g, from: &from, view: v},
		live:      make(chan *nats.Msg, liveBuffer),
		status:    g.Link.Conn.StatusChanged(),
		rested:    time.NewTimer(time.Hour),
		grace:     time.NewTimer(time.Hour),
	}
	t.reader = newReader(g, from, v, t.staleness, which)
	t.places = from.Evacuated.Join()
	for subject, ch := range map[string]chan *nats.Msg{
		from.Bucket.Live + "inst." + which: t.live, t.reader.inbox + "*": t.reader.replies,
	} {
		sub, err := g.Link.Conn.ChanSubscribe(subject, ch)
		if err != nil {
			t.close()
			return nil, fmt.Errorf("kv: watch %s: %w", which, err)
		}
		t.subs = append(t.subs, sub)
	}
	var err error
	if t.elected, t.leave, err = g.elections.join(g.Link.Conn, from.Bucket.Stream); err != nil {
		t.close()
		return nil, fmt.Errorf("kv: watch %s: %w", which, err)
	}
	return t, nil
}

func (t *tail) close() {
	t.staleness.close()
	for _, sub := range t.subs {
		_ = sub.Unsubscribe() // fails only if the connection is closed
	}
	if t.leave != nil {
		t.leave()
	}
	t.places.Leave()
	t.group.Link.Conn.RemoveStatusListener(t.status)
	t.reader.close()
	t.grace.Stop()
	t.rested.Stop()
}

func (t *tail) run(ctx context.Context, apply func(events.Snapshot)) error {
	t.reader.ctx = ctx
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case msg := <-t.live:
			t.staleness.alive = time.Now()
			t.listen(msg)
		case msg := <-t.reader.replies:
			t.staleness.alive = time.Now()
			t.listen(nil) // so that what a read lists is news only if it was missed
			t.reader.answer(msg)
			for range len(t.reader.replies) {
				t.reader.answer(<-t.reader.replies)
			}
		case <-t.elected:
			// No lease could be renewed since the last leader was lost, also if
			// the connection to our server was well.
			t.view.Outage(time.Now())
		case <-t.status:
			t.connection()
		case <-t.places.C:
			t.placed = true
			if orders, known := t.places.Now(); known {
				t.view.Evacuate(documents.Places(orders))
			}
		case <-t.reader.due.C:
			t.reader.next()
		case <-t.grace.C:
			t.view.EndGrace(time.Now())
		case <-t.rested.C:
		case <-t.reader.timeout.C:
			t.reader.silence()
		}
		if at := t.view.GraceAt(); !at.IsZero() {
			t.grace.Reset(time.Until(at))
		}
		if !t.view.Ready() || !t.placed {
			continue
		}
		if t.view.Changed() && !t.resting() {
			t.deliver(apply)
		}
		if t.once {
			return nil
		}
	}
}

// deliver hands out the snapshots of what has changed, and then rests.
func (t *tail) deliver(apply func(events.Snapshot)) {
	began := time.Now()
	stale, store := t.staleness.stale, t.from.Store
	t.view.Publish(stale, t.staleness.since, func(s events.Snapshot) {
		if store != nil && !stale {
			store.Save(s)
		}
		apply(s)
	})
	// It was apply that took this time, not the registry.
	t.reader.extend(time.Since(began))
	t.rest = time.Now().Add(min(restFactor*max(0, time.Since(began)-cheap), maxRest))
}

// resting reports whether a snapshot shall wait for more changes. A snapshot lists a
// whole service, so with many instances and many changes the caller would do nothing
// but make snapshots; this way they take a twentieth of its time. The first change
// after a pause never waits.
func (t *tail) resting() bool {
	left := time.Until(t.rest)
	if left <= 0 || t.once {
		return false
	}
	t.rested.Reset(left)
	return true
}

// listen takes in a change as it happens, and all that are waiting: a burst is
// one change.
func (t *tail) listen(msg *nats.Msg) {
	found, before := view.Fine, t.view.Newest()
	if msg != nil {
		found = t.hear(msg)
		t.reader.retryNow()
	}
	for range len(t.live) {
		found = max(found, t.hear(<-t.live))
	}
	if t.overrun() {
		found = max(found, view.Missed)
	}
	if found != view.Fine {
		t.group.Link.Counts.Gaps.Add(1)
		t.reader.readSoon(found)
	} else if t.view.Newest() != before {
		t.reader.confirmSoon()
	}
	if t.staleness.cutOff && t.view.Newest() != before {
		t.reader.rejoined()
	}
}

// hear merges a change, and returns what it tells of others.
func (t *tail) hear(msg *nats.Msg) view.Finding {
	link := t.group.Link
	c, err := t.from.Bucket.ParseHeard(msg)
	if err != nil {
		link.Invalid(msg.Subject, err)
		return view.Fine
	}
	if c.Err == nil {
		link.Clock.Hear(c.At)
	}
	return t.view.Hear(&c, time.Now())
}

// overrun notices that nats.go had to throw changes away.
func (t *tail) overrun() bool {
	dropped := 0
	for _, sub := range t.subs {
		if n, err := sub.Dropped(); err == nil {
			dropped += n
		}
	}
	if dropped <= t.dropped {
		return false
	}
	t.group.Link.Log.Warn("changes arrived faster than they were processed, reading a snapshot", "service", t.from.Service, "dropped", dropped-t.dropped)
	t.dropped = dropped
	return true
}

// connection handles a change of the connection. It reads the present status, because
// nats.go drops notices when their listener is slow.
func (t *tail) connection() {
	t.view.Outage(time.Now())
	for len(t.status) > 0 {
		<-t.status
	}
	if err := t.group.Link.Connected(); err != nil {
		t.staleness.markStale(err)
		return
	}
	t.reader.reconnected()
}

// notes counts and logs what a view notices.
type notes struct {
	group  *Group
	bucket *wire.Bucket
}

// Invalid implements [view.Notes].
func (n notes) Invalid(key events.Key, err error) {
	n.group.Link.Invalid(n.bucket.Live+key.Inst(), err)
}

// Suspect implements [view.Notes]: of many, one is logged as a warning.
func (n notes) Suspect(why string, in *events.Instance, args ...any) {
	link := n.group.Link
	log := link.Log.Debug
	if n.group.suspected.Allows(link.Clock) {
		log = link.Log.Warn
		args = append(args, "others", "are only logged for debugging, for a minute")
	}
	log(why, append([]any{"service", in.Service, "instance", in.ID}, args...)...)
}

// Unconfirmed implements [view.Notes].
func (n notes) Unconfirmed(in *events.Instance, instances int, madeUp bool) {
	n.group.Link.Log.Warn("changes were published that the registry has not stored: another client publishes on its subjects, or a write was lost", "service", in.Service, "instance", in.ID, "instances", instances, "made_up", madeUp)
}

// Forged implements [view.Notes].
func (n notes) Forged() { n.group.Link.Counts.Forged.Add(1) }
