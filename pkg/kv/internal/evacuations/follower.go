package evacuations

import (
	"context"
	"errors"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/proxima-discovery/proxima/pkg/events"
	"github.com/proxima-discovery/proxima/pkg/kv/internal/refcount"
	"github.com/proxima-discovery/proxima/pkg/kv/internal/wire"
)

// Follower knows which places are evacuated, for all watches of a registry. It
// runs while there is one. It is safe for concurrent use.
type Follower struct {
	*Orders
	running refcount.Run

	mu       sync.Mutex // guards what follows
	watching map[chan struct{}]struct{}
	left     []events.Evacuation // the places to leave; replaced, never changed
	asked    bool                // a read was attempted
	known    bool                // a read succeeded or an order was heard
}

// Join begins to follow. The channel is written to when [Follower.Now] has something
// new, if only that the registry does not answer.
func (f *Follower) Join() chan struct{} {
	f.mu.Lock()
	defer f.mu.Unlock()
	c := make(chan struct{}, 1)
	if f.watching == nil {
		f.watching = map[chan struct{}]struct{}{}
	}
	f.watching[c] = struct{}{}
	if f.asked {
		c <- struct{}{}
	}
	f.running.Join(func(ctx context.Context) { newFollowing(f).run(ctx) })
	return c
}

// Leave ends what Join began, and waits for it.
func (f *Follower) Leave(c chan struct{}) {
	f.mu.Lock()
	if delete(f.watching, c); len(f.watching) == 0 {
		f.left, f.asked, f.known = nil, false, false
	}
	wait := f.running.Leave()
	f.mu.Unlock()
	wait()
}

// Now returns the places to leave, not to be changed, and whether they are known.
func (f *Follower) Now() ([]events.Evacuation, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.left, f.known
}

// set tells the watches, unless there is nothing new.
func (f *Follower) set(ctx context.Context, left []events.Evacuation, known bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if ctx.Err() != nil || f.asked && f.known == known && samePlaces(f.left, left) {
		return
	}
	f.left, f.asked, f.known = left, true, known
	for c := range f.watching {
		select {
		case c <- struct{}{}:
		default: // it will see this, too
		}
	}
}

func samePlaces(a, b []events.Evacuation) bool {
	return slices.EqualFunc(a, b, func(a, b events.Evacuation) bool { return a.Place() == b.Place() })
}

// following is the goroutine of a follower.
type following struct {
	*Follower
	live   chan *nats.Msg
	result chan readResult
	asking sync.WaitGroup
	due    *time.Timer

	kept   orders          // what the buckets keep, or kept until they lost it
	lost   map[string]bool // what they have lost, by the last two looks if true
	heard  orders          // what they are about to keep
	again  bool            // look once more, there was news
	soon   bool            // it is due for that
	looked time.Time       // last
	busy   bool
	asked  bool // there was an answer, if only that there is none
	known  bool // and one that says what there is
	fails  int  // questions in a row without one
}

type readResult struct {
	orders orders
	err    error
}

func newFollowing(f *Follower) *following {
	return &following{
		Follower: f, live: make(chan *nats.Msg, liveBuffer), result: make(chan readResult, 1), due: time.NewTimer(0),
		kept: orders{}, lost: map[string]bool{}, heard: orders{},
	}
}

func (f *following) run(ctx context.Context) {
	status := f.link.Conn.StatusChanged(nats.CONNECTED)
	defer func() {
		f.link.Conn.RemoveStatusListener(status)
		f.due.Stop()
		f.asking.Wait()
	}()
	for _, b := range f.buckets {
		sub, err := f.link.Conn.ChanSubscribe(b.Live+wire.EvacuateFamily+">", f.live)
		if err != nil {
			continue // the connection is closed: nothing will be heard again
		}
		defer func() { _ = sub.Unsubscribe() }() // fails as above
	}
	for {
		select {
		case <-ctx.Done():
			return
		case msg := <-f.live:
			f.hear(msg)
			f.lookSoon()
		case <-status:
			f.lookSoon()
		case <-f.due.C:
			f.look(ctx)
		case res := <-f.result:
			f.busy, f.asked = false, true
			f.take(res)
		}
		if f.asked {
			f.set(ctx, f.places(), f.known || len(f.heard) > 0)
		}
	}
}

// places are those to leave by all that is known.
func (f *following) places() []events.Evacuation {
	all := maps.Clone(f.kept)
	for key, h := range f.heard {
		all.add(key, h)
	}
	return all.evacuated()
}

// hear takes in an order as it is given.
func (f *following) hear(msg *nats.Msg) {
	for _, b := range f.buckets {
		key, ok := strings.CutPrefix(msg.Subject, b.Live)
		if !ok {
			continue
		}
		if key, ok = orderKey(b, key); !ok || msg.Header.Get(wire.HdrOperation) != "" || msg.Header.Get(wire.HdrMarker) != "" {
			return // a removal: the next look tells
		}
		e, err := events.DecodeEvacuation(key, msg.Data)
		if err != nil {
			f.link.Invalid(msg.Subject, err)
			return
		}
		if h, ok := f.heard[key]; (ok || len(f.heard) < ordersPage) && (!ok || e.Overrides(h.Evacuation)) {
			f.heard[key] = order{Evacuation: e, until: time.Now().Add(unconfirmed)}
		}
		return
	}
}

// lookSoon looks at the buckets after a moment in which more may be heard. Callers do
// not all look at once, and no more than every second.
func (f *following) lookSoon() {
	f.again = true
	if !f.busy && !f.soon {
		f.soon = true
		f.due.Reset(max(lookDelay+rand.N(4*lookDelay), unconfirmed/2-time.Since(f.looked)))
	}
}

// look reads the buckets. An order that a bucket has lost is written again by the
// first registry that may: orders outlive the loss of the bucket, as announcements
// do.
func (f *following) look(ctx context.Context) {
	if f.busy {
		return
	}
	f.busy, f.again, f.soon, f.looked = true, false, false, time.Now()
	var lost []events.Evacuation
	if f.mayMend {
		for key, twice := range f.lost {
			if twice {
				lost = append(lost, f.kept[key].Evacuation)
			}
		}
	}
	// An overloaded server answers all callers late.
	patience := f.link.OpTimeout << min(f.fails, 3)
	f.asking.Go(func() { f.ask(ctx, patience, lost) })
}

// ask writes what was lost, and reads what there is.
func (f *following) ask(ctx context.Context, patience time.Duration, lost []events.Evacuation) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for _, e := range lost {
		if err := f.put(ctx, e); err != nil && !errors.Is(err, wire.ErrFenced) {
			f.link.Log.Debug("an evacuation that the registry lost is not written again", "place", e.Place(), "error", err)
		}
	}
	all, err := f.read(ctx)
	f.result <- readResult{all, err}
}

// take takes in what the buckets keep.
func (f *following) take(res readResult) {
	next := wire.Jitter(lookEvery)
	if res.err == nil {
		f.known, f.fails = true, 0
		f.merge(res.orders)
	} else {
		f.link.Log.Debug("evacuations cannot be read", "error", res.err)
		next = wire.Jitter(min(retryEvery<<min(f.fails, 2), lookEvery))
		f.fails++
	}
	now := time.Now()
	for key, h := range f.heard {
		if kept, ok := f.kept[key]; ok && !h.Overrides(kept.Evacuation) || now.After(h.until) && res.err == nil {
			delete(f.heard, key)
		}
	}
	if len(f.heard) > 0 || len(f.lost) > 0 || f.again {
		next = min(next, unconfirmed/2+rand.N(unconfirmed))
	}
	f.due.Reset(next)
}

func (f *following) merge(read orders) {
	lost := map[string]bool{}
	for key, o := range f.kept {
		if _, ok := read[key]; !ok && !o.removed {
			read[key] = o
			_, before := f.lost[key]
			lost[key] = before
		}
	}
	f.kept, f.lost = read, lost
}
