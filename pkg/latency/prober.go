package latency

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cespare/xxhash/v2"

	"github.com/proxima-discovery/proxima/pkg/events"
)

// Prober keeps the distances of paths up to date. Make one with [New] and end
// it with [Prober.Close]. All methods are safe for concurrent use.
type Prober struct {
	c       Caller
	o       Options
	hash    uint64    // of the reporter's name
	start   time.Time // its clock is the time since then
	epoch   time.Duration
	stop    context.CancelFunc
	running sync.WaitGroup // everything that runs

	// due, news and chores tell the three goroutines that their next time
	// may have come nearer.
	wakeSchedule chan struct{} // schedule
	wakeNotifier chan struct{} // tell
	wakeLoop     chan struct{} // loop

	probes   atomic.Uint64
	rejected atomic.Uint64

	mu               sync.Mutex
	closed           bool
	groups           map[*Group]bool
	sharing          map[string]*Group // those that share, by service
	closing          []*Group          // whose subscriptions are to be ended
	dirty            []*Group          // for which onChange is due
	proven           queue             // next probes of paths that answered last time
	unproven         queue             // next probes of the others
	expiries         queue             // when the oldest sample of each path gets too old
	inFlight         int               // probes in flight
	inFlightUnproven int               // those of them that are of unproven paths
	nextTick         time.Duration
	position         position
}

// New starts a prober. It probes nothing before the first [Group.Set].
func New(c Caller, o Options) *Prober {
	ctx, stop := context.WithCancel(context.Background())
	start := time.Now()
	p := &Prober{
		c:            c.withDefaults(),
		o:            o.withDefaults(),
		start:        start,
		epoch:        time.Duration(start.UnixNano()),
		stop:         stop,
		wakeSchedule: make(chan struct{}, 1),
		wakeNotifier: make(chan struct{}, 1),
		wakeLoop:     make(chan struct{}, 1),
		groups:       make(map[*Group]bool), sharing: make(map[string]*Group),
	}
	p.position.prober = p
	p.hash = xxhash.Sum64String(p.c.Reporter)
	p.running.Go(func() { p.schedule(ctx) })
	p.running.Go(func() { p.loop(ctx) })
	p.running.Go(func() { p.notify(ctx) })
	return p
}

// Group makes the group of a service, without paths. Two groups of one service
// know nothing of each other.
//
// Unless nil, onChange is called after something about a path of the group
// changed that may change the order of its instances: the estimate has another
// source, or moved by more than 10 % and 0.2 ms, another path is the nearest of
// its circle by more than 2 %, or a probe of the path failed, or succeeded
// again. The first change is reported at once, those of the next 100 ms
// together. Calls come one at a time for the whole prober, with no lock held.
// They may use the prober, but not close it. One more may come after the group
// was closed.
func (p *Prober) Group(service string, onChange func()) *Group {
	g := &Group{prober: p, service: service, onChange: onChange, tokens: p.o.burst(), filledAt: p.now()}
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.closed {
		p.groups[g] = true
		wake(p.wakeLoop)
	}
	return g
}

// Path makes the path to a target. It is not probed until it is in a group.
// Two paths to one target know nothing of each other.
func (p *Prober) Path(t Target) *Path {
	name := t.Key.String() + "/" + t.Incarnation
	if t.Key.ID == "" {
		name = t.Address // those without a name are not in step either
	}
	pa := &Path{prober: p, target: t, hash: xxhash.Sum64String(name)}
	pa.probe.path, pa.expiry.path = pa, pa
	if t.Coordinate != nil && t.Coordinate.Validate() == nil {
		pa.coordinate = t.Coordinate
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if g := p.sharing[t.Key.Service]; g != nil && t.Key.ID != "" {
		g.indexLocked(pa)
	}
	pa.refreshLocked(p.now())
	return pa
}

// Counts are totals since [New].
type Counts struct {
	Probes   uint64 // that were begun
	Rejected uint64 // batches and samples of others that were not believed
}

// Counts returns the totals since New.
func (p *Prober) Counts() Counts { return Counts{p.probes.Load(), p.rejected.Load()} }

// Coordinate is where this process is among the coordinates, false while that
// is not known.
func (p *Prober) Coordinate() (events.Coordinate, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.position.own, p.position.known
}

// Close ends all probes and waits for them, and for a call of a group's onChange:
// hold no lock that onChange takes. Afterwards nothing is measured any
// more, and other reporters know that we are gone. It always returns nil.
func (p *Prober) Close() error {
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	p.stop()
	p.running.Wait()

	p.mu.Lock()
	for g := range p.groups {
		p.closing = append(p.closing, g)
	}
	clear(p.groups)
	out, stops := p.outgoingLocked(p.now())
	for _, e := range p.expiries {
		e.path.estimate.Store(0)
	}
	p.mu.Unlock()
	for _, stop := range stops {
		stop()
	}
	p.send(out)
	return nil
}

func (p *Prober) now() time.Duration { return time.Since(p.start) }

// queueLocked puts e into q, and wakes the schedule if it is the first there.
func (p *Prober) queueLocked(q *queue, e *entry, due time.Duration) {
	q.set(e, due)
	if q.head() == e {
		wake(p.wakeSchedule)
	}
}

// wake makes the reader of c look again, now or when it next does.
func wake(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// owns reports whether pa is one of p's paths. Others are ignored.
func (p *Prober) owns(pa *Path) bool { return pa != nil && pa.prober == p }

// shares reports whether measurements are shared.
func (p *Prober) shares() bool {
	return p.c.Bus != nil && !p.o.NoShare && p.c.Location.Zone != ""
}
