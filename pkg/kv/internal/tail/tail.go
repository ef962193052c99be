package kv

import (
	"context"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/proxima-discovery/proxima/pkg/events"
	"github.com/proxima-discovery/proxima/pkg/kv/internal/wire"
)

const (
	snapshotEvery = 5 * time.Minute  // even if nothing seems wrong
	checkEvery    = 20 * time.Second // asks whether the stream is ahead
	confirmEvery  = 3 * time.Second  // and, after a change was heard, whether it has it
	settle        = 100 * time.Millisecond
	maxRetry      = 5 * time.Second
	liveBuffer    = 2048                   // messages; more unread ones cost a read
	restFactor    = 20                     // after a snapshot was given out: so many times as long as that took
	cheap         = 100 * time.Microsecond // that is as of a thousand instances, and needs no rest
	maxRest       = 100 * time.Millisecond
	manyWatches   = 20 // of one Registry; those of more are looked after less often

	electedPrefix = "$JS.EVENT.ADVISORY.STREAM.LEADER_ELECTED."
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
	w, err := r.newWatcher(from, service)
	if err != nil {
		return err
	}
	defer w.close()
	r.watching.Add(1)
	defer r.watching.Add(-1)
	return w.run(ctx, apply)
}

// relaxed is how often a watch is looked after, of which every is the usual
// time: a process asks the server no more than about once a second, however
// many services it watches. What is heard of changes does not depend on it.
func (r *Registry) relaxed(every time.Duration) time.Duration {
	return every * time.Duration(max(manyWatches, r.watching.Load())) / manyWatches
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
	w, err := r.newWatcher(from, service)
	if err != nil {
		return nil, err
	}
	defer w.close()
	w.once = true
	var all []events.Snapshot
	err = w.run(ctx, func(s events.Snapshot) {
		if len(s.Entries) > 0 {
			all = append(all, s)
		}
	})
	if err != nil {
		if w.err != nil {
			err = w.err
		}
		return nil, fmt.Errorf("kv: read the registry: %w", err)
	}
	return all, nil
}

// watcher is one watch: a subscription, and reads to fill its gaps, merged in
// a view by one goroutine.
type watcher struct {
	*view
	reader

	ctx     context.Context // of Watch
	once    bool
	live    chan *nats.Msg
	elected chan *nats.Msg // says that the stream has a leader again
	status  chan nats.Status
	rest    time.Time   // until when nothing is given out
	rested  *time.Timer // that is over
	subs    []*nats.Subscription
	dropped int
	orders  chan struct{} // says that places were evacuated, or are not any more
	ordered bool          // it is known which
	alive   time.Time     // when the registry last said anything
	err     error         // why the view is stale
	tells   bool          // it was logged that it is
}

func (r *Registry) newWatcher(from *wire.Bucket, service string) (*watcher, error) {
	which := ">"
	if service != "" {
		if err := events.ValidateService(service); err != nil {
			return nil, err
		}
		which = service + ".>"
	}
	w := &watcher{
		view:    newView(r, service),
		reader:  newReader(r, from, which),
		live:    make(chan *nats.Msg, liveBuffer),
		elected: make(chan *nats.Msg, 64),
		status:  r.link.Conn.StatusChanged(),
		rested:  time.NewTimer(time.Hour),
	}
	w.from, w.orders = from, r.evacuations.join()
	for subject, ch := range map[string]chan *nats.Msg{
		from.Live + "inst." + which: w.live, w.inbox + "*": w.replies, electedPrefix + from.Stream: w.elected,
	} {
		sub, err := r.link.Conn.ChanSubscribe(subject, ch)
		if err != nil {
			w.close()
			return nil, fmt.Errorf("kv: watch %s: %w", which, err)
		}
		w.subs = append(w.subs, sub)
	}
	return w, nil
}

func (w *watcher) close() {
	if w.tells {
		w.r.stale.Add(-1)
	}
	for _, sub := range w.subs {
		_ = sub.Unsubscribe() // fails only if the connection is closed
	}
	w.r.evacuations.leave(w.orders)
	w.r.link.Conn.RemoveStatusListener(w.status)
	w.due.Stop()
	w.timeout.Stop()
	w.vigil.Stop()
	w.rested.Stop()
}

func (w *watcher) run(ctx context.Context, apply func(events.Snapshot)) error {
	w.ctx = ctx
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case msg := <-w.live:
			w.alive = time.Now()
			w.listen(msg)
		case msg := <-w.replies:
			w.alive = time.Now()
			w.listen(nil) // so that what a read tells is news only if it was missed
			w.answer(msg)
			for range len(w.replies) {
				w.answer(<-w.replies)
			}
		case <-w.elected:
			// Nobody could renew a lease since the last one was lost, also if
			// nothing was amiss between us and our server.
			w.outage = time.Now()
		case <-w.status:
			w.connection()
		case <-w.orders:
			w.ordered = true
			if left, known := w.r.evacuations.now(); known {
				w.left = left
				w.touchAll()
			}
		case <-w.due.C:
			w.next()
		case <-w.vigil.C:
			w.endVigils()
		case <-w.rested.C:
		case <-w.timeout.C:
			w.silence()
		}
		if w.ready && w.ordered && len(w.changed) > 0 && !w.resting() {
			w.give(apply)
		}
		if w.ready && w.ordered && w.once {
			return nil
		}
	}
}

// give gives out the snapshots of what has changed, and then rests.
func (w *watcher) give(apply func(events.Snapshot)) {
	began := time.Now()
	w.publish(apply)
	if w.asked != 0 {
		// It was apply that took this time, not the registry. More than that
		// would keep a question for ever while changes are heard.
		w.wait(time.Until(w.until) + time.Since(began))
	}
	w.rest = time.Now().Add(min(restFactor*max(0, time.Since(began)-cheap), maxRest))
}

// resting says whether what has changed shall wait for more. A snapshot is of a
// whole service, so with many instances and many changes all the time would go
// into snapshots that are out of date at once; this way a twentieth does. The
// first change after a pause never waits.
func (w *watcher) resting() bool {
	left := time.Until(w.rest)
	if left <= 0 || w.once {
		return false
	}
	w.rested.Reset(left)
	return true
}

// listen takes in a change as it happens, and all that are waiting: a burst is
// one change.
func (w *watcher) listen(msg *nats.Msg) {
	found, before := fine, w.newest
	if msg != nil {
		found = w.hear(msg)
		w.hope()
	}
	for range len(w.live) {
		found = max(found, w.hear(<-w.live))
	}
	if w.overrun() {
		found = max(found, missed)
	}
	if found != fine {
		w.r.link.Counts.Gaps.Add(1)
		w.readSoon(found)
	} else if w.newest != before {
		w.confirmSoon()
	}
	if w.frozen && w.newest != before {
		w.thaw()
	}
}

// overrun notices that nats.go had to throw changes away.
func (w *watcher) overrun() bool {
	dropped := 0
	for _, sub := range w.subs {
		if n, err := sub.Dropped(); err == nil {
			dropped += n
		}
	}
	if dropped <= w.dropped {
		return false
	}
	w.r.link.Log.Warn("changes came faster than they were taken, reading them again", "service", w.service, "dropped", dropped-w.dropped)
	w.dropped = dropped
	return true
}

// connection takes note of a change of the connection. What it is now counts,
// and not what it was: nats.go drops what it has to say when nobody listens.
func (w *watcher) connection() {
	w.outage = time.Now()
	for len(w.status) > 0 {
		<-w.status
	}
	if !w.r.link.Conn.IsConnected() {
		w.setStale(fmt.Errorf("%w: the connection is %s", ErrUnavailable, w.r.link.Conn.Status()))
		return
	}
	w.reconnected()
}

func (w *watcher) setStale(err error) {
	w.err = err
	if w.stale {
		return
	}
	w.stale, w.since = true, w.alive
	restored := w.restore()
	if !w.ready {
		return
	}
	w.touchAll()
	if w.once {
		return // who asked is told
	}
	w.tells = true
	log, how := w.r.link.Log.Debug, "keeping the last view"
	if w.r.stale.Add(1) == 1 { // one of all watches says it aloud
		log = w.r.link.Log.Warn
	}
	if restored {
		how = "starting with the view on disk"
	}
	log("the registry cannot be reached", "then", how, "service", w.service, "since", w.since, "error", err)
}

// well notes that the registry has answered.
func (w *watcher) well() {
	w.err, w.retries = nil, 0
	if w.stale {
		w.stale, w.since, w.outage = false, time.Time{}, time.Now()
		if w.ready {
			w.touchAll()
		}
		w.outageEnds()
	}
}

// outageEnds says so, if it was said that it began.
func (w *watcher) outageEnds() {
	if !w.tells {
		return
	}
	w.tells = false
	log := w.r.link.Log.Debug
	if w.r.stale.Add(-1) == 0 {
		log = w.r.link.Log.Info
	}
	log("the registry is back", "service", w.service)
}

// jitter is d, give or take a tenth.
func jitter(d time.Duration) time.Duration {
	return d - d/10 + rand.N(d/5+1)
}
