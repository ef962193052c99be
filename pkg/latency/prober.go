package latency

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cespare/xxhash/v2"
)

// Prober keeps the distances of paths up to date. Make one with [New] and end
// it with [Prober.Close]. All methods are safe for concurrent use.
type Prober struct {
	c       Caller
	o       Options
	hash    uint64        // of the reporter's name
	start   time.Time     // zero of the prober's clock
	epoch   time.Duration // the wall clock at start, which slots are counted on
	stop    context.CancelFunc
	running sync.WaitGroup // all goroutines

	// The goroutines wait for their next time, or for these.
	wakeSchedule chan struct{} // schedule: probes and expiries
	wakeNotifier chan struct{} // notify: onChange
	wakeLoop     chan struct{} // loop: all else

	probes   atomic.Uint64
	rejected atomic.Uint64

	mu               sync.Mutex
	closed           bool
	groups           map[*Group]bool
	sharing          map[string]*Group // groups that share, by service
	closing          []*Group          // closed groups that loop has not ended yet
	dirty            []*Group          // for which onChange is due
	proven           queue             // next probes of paths that answered last time
	unproven         queue             // next probes of the others
	expiries         queue             // when the oldest sample or vote of each path expires
	total            total
	inFlight         int // probes in flight
	inFlightUnproven int // probes of unproven paths in flight
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
	p.total = newTotal(&p.o)
	p.hash = xxhash.Sum64String(p.c.Reporter)
	p.running.Go(func() { repeat(ctx, p.wakeSchedule, p.schedule) })
	p.running.Go(func() { repeat(ctx, p.wakeLoop, p.loop) })
	p.running.Go(func() { repeat(ctx, p.wakeNotifier, p.notify) })
	return p
}

// Group makes the group of a service, without members. Two groups of one service
// are independent of each other.
//
// Unless nil, onChange is called after a change that may put the group's
// instances into another order:
//
//   - the estimate of a path has another source, or moved by more than 10 % and
//     0.2 ms;
//   - another path is the nearest of its circle, by more than 2 %;
//   - a probe failed, or succeeded after a failure.
//
// The first change is reported at once, further ones of the next 100 ms together.
// The prober makes one call at a time, and holds no lock. The call may use the
// prober, but not close it. One more call may come after the group was closed.
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

// Path makes the path to a target. It is not probed until it is in a group, and it
// is in one group at a time. Two paths to one target are independent of each other.
func (p *Prober) Path(t Target) *Path {
	name := t.Key.String() + "/" + t.Incarnation
	if t.Key.ID == "" {
		name = t.Address // targets without a name are not probed in step, either
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
	Probes   uint64 // begun
	Rejected uint64 // invalid batches and samples of other reporters
}

// Counts returns the totals since New.
func (p *Prober) Counts() Counts { return Counts{p.probes.Load(), p.rejected.Load()} }

// Close ends all probes and waits for them, and for a call of onChange: do not
// hold a lock that onChange takes. Afterwards nothing is measured, and the other
// reporters learn that this one has left. It always returns nil.
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

// wake makes the goroutine that reads c look again.
func wake(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// shares reports whether measurements are shared.
func (p *Prober) shares() bool {
	return p.c.Bus != nil && !p.o.NoShare && p.c.Location.Zone != ""
}
