package latency

import (
	"context"
	"sync"
	"time"
)

// Prober keeps the distances of paths up to date. Make one with [New] and end
// it with [Prober.Close]. All methods are safe for concurrent use.
type Prober struct {
	o     Options
	start time.Time // its clock is the time since then
	stop  context.CancelFunc
	work  sync.WaitGroup // everything that runs

	// due and news tell the two goroutines that their next time may have
	// come nearer.
	due  chan struct{} // schedule
	news chan struct{} // tell

	mu       sync.Mutex
	closed   bool
	groups   map[string]*group
	dirty    []*group // for which OnChange is due
	proven   queue    // next probes of paths that answered last time
	unproven queue    // next probes of the others
	expiries queue    // when the oldest sample of each path gets too old
	running  int      // probes in flight
	trying   int      // those of them that are of unproven paths
}

// New starts a prober. It probes nothing before the first [Prober.Probe].
func New(o Options) *Prober {
	ctx, stop := context.WithCancel(context.Background())
	p := &Prober{
		o:      o.withDefaults(),
		start:  time.Now(),
		stop:   stop,
		due:    make(chan struct{}, 1),
		news:   make(chan struct{}, 1),
		groups: make(map[string]*group),
	}
	p.work.Go(func() { p.schedule(ctx) })
	if p.o.OnChange != nil {
		p.work.Go(func() { p.tell(ctx) })
	}
	return p
}

// Path makes the path to an address (host:port). It is not probed until it is
// in a group, and never when address is "": then it knows only what is
// observed. Two paths to one address know nothing of each other.
func (p *Prober) Path(address string) *Path {
	pa := &Path{prober: p, address: address}
	pa.probe.path, pa.expiry.path = pa, pa
	return pa
}

// Close ends all probes and waits for them, and for an OnChange that is being
// called: hold no lock that OnChange takes. Afterwards nothing is measured any
// more. It always returns nil.
func (p *Prober) Close() error {
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	p.stop()
	p.work.Wait()

	p.mu.Lock()
	defer p.mu.Unlock()
	for _, e := range p.expiries {
		e.path.measured.Store(0)
	}
	return nil
}

func (p *Prober) now() time.Duration { return time.Since(p.start) }

// queueLocked puts e into q, and wakes the schedule if it is the first there.
func (p *Prober) queueLocked(q *queue, e *entry, due time.Duration) {
	q.set(e, due)
	if q.head() == e {
		wake(p.due)
	}
}

// wake makes the reader of c look again, now or when it next does.
func wake(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
