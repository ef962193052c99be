package selector

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/cespare/xxhash/v2"

	"github.com/proxima-discovery/proxima/pkg/breaker"
	"github.com/proxima-discovery/proxima/pkg/events"
)

// Pick is the instance that was picked for one call. Its end must be told with
// Done or DoneAfter, once; further calls on the same variable do nothing.
type Pick struct {
	// Instance to call. It is shared: do not change it.
	*events.Instance

	node  *node
	pass  breaker.Pass // zero: its breaker was not asked, there was nothing better
	start time.Duration
	index uint8 // of the circle
	flags uint8
}

// Flags of a pick. They say what there is to do at its end.
const (
	pickLive   uint8 = 1 << iota // it has not ended
	pickLearns                   // the strategy needs the durations of calls
	pickCounts                   // the strategy needs the calls in flight to all instances
)

// Circle is the circle that it was picked from: zone, region … or elsewhere.
func (p *Pick) Circle() string {
	if p.node == nil {
		return ""
	}
	return p.node.svc.sel.opts.Levels.Name(int(p.index))
}

// Alone says that the service lists no other instance: there is nobody else to
// turn to.
func (p *Pick) Alone() bool { return p.node != nil && p.node.svc.total.Load() <= 1 }

// Done tells how the call ended. Nil is a success, [context.Canceled] nobody's
// failure, an error marked [Permanent] an answer. The time since the pick is
// what balancing learns.
func (p *Pick) Done(err error) {
	flags := p.flags
	if flags == 0 {
		return
	}
	p.node.calls.Add(^uint64(0))
	p.flags = 0
	if flags&pickLearns != 0 {
		now := p.node.svc.sel.now()
		p.node.learn(now-p.start, err, ticks(now))
	}
	if err == nil && flags&pickCounts == 0 {
		p.pass.Done(nil)
		return
	}
	p.finish(flags, err)
}

// DoneAfter is Done for calls that outlast the answer, such as a response
// whose body is streamed: latency is the time until the instance had answered.
func (p *Pick) DoneAfter(err error, latency time.Duration) {
	flags := p.flags
	if flags == 0 {
		return
	}
	p.flags = 0
	p.node.calls.Add(^uint64(0))
	if flags&pickLearns != 0 {
		p.node.learn(latency, err, ticks(p.node.svc.sel.now()))
	}
	p.finish(flags, err)
}

func (p *Pick) finish(flags uint8, err error) {
	if flags&pickCounts != 0 {
		p.node.svc.inFlight.Add(-1)
	}
	p.pass.Done(fault(err))
}

// Observe adds a sample of the round trip to the instance, taken by the way, for
// instance from the connection of the call; a failure is no sample. It may be
// called before or after the end of the pick.
func (p *Pick) Observe(rtt time.Duration) {
	if p.node != nil {
		p.node.path.Observe(rtt)
	}
}

// Pick returns the nearest working instance of a service. The first pick of a
// service waits for its list, bounded by ctx and [Options.FirstSnapshot];
// after that Pick never waits and ctx is not looked at. The error is
// [ErrUnknownService], [ErrNoSnapshot], [ErrClosed], a *[NoInstanceError], or
// an [events.FieldError] about the name.
func (s *Selector) Pick(ctx context.Context, service string) (Pick, error) {
	svc := s.slot(service).Load()
	if svc == nil || svc.name != service {
		svc = (*s.services.Load())[service]
	}
	if svc != nil && svc.plain {
		v := svc.home
		if t := v.table.Load(); t != nil && t.first != nil {
			var start time.Duration
			if v.ending&pickLearns != 0 {
				start = s.now()
			}
			var n *node
			if t.spill == nil {
				n = v.choose(t.first, ticks(start))
			} else {
				n = v.anyWay(t.spill, ticks(start))
			}
			pass, ok := n.breaker.AllowClosed()
			if !ok { // a trial, perhaps, or it has to fill in
				pass, ok = t.allow(n)
			}
			if ok {
				svc.seen()
				in, index, flags := n.instance.Load(), n.home, v.ending
				n.calls.Add(onePick)
				return Pick{in, n, pass, start, index, flags}, nil
			}
		}
	}
	return s.PickFor(ctx, Request{Service: service})
}

// PickFor is Pick with all that can be asked for.
func (s *Selector) PickFor(ctx context.Context, r Request) (Pick, error) {
	svc, err := s.service(r.Service)
	if err != nil {
		return Pick{}, err
	}
	v := svc.view(&r)
	t := v.current()
	if t == nil {
		if v, t, err = s.await(ctx, svc, &r); err != nil {
			return Pick{}, err
		}
	}
	svc.seen()
	p, ok := v.pick(t, &r)
	if !ok {
		return Pick{}, v.nothing(t)
	}
	if s.opts.OnPick != nil {
		told := p
		told.flags = 0
		s.opts.OnPick(told)
	}
	return p, nil
}

// await waits for the first snapshot of a service.
func (s *Selector) await(ctx context.Context, svc *service, r *Request) (*view, *table, error) {
	ctx, cancel := context.WithTimeout(ctx, s.opts.FirstSnapshot)
	defer cancel()
	for {
		if err := svc.await(ctx); err != nil {
			return nil, nil, err
		}
		v := svc.view(r)
		if t := v.current(); t != nil {
			return v, t, nil
		}
		// Forgotten in favour of others, if not for good.
		var err error
		if svc, err = s.service(svc.name); err != nil {
			return nil, nil, err
		}
	}
}

// await waits for the first snapshot, or until the service is forgotten.
func (svc *service) await(ctx context.Context) error {
	svc.waiting.Add(1)
	defer svc.waiting.Add(-1)
	svc.asked.Store(int64(svc.sel.now()))
	select {
	case <-svc.ready:
	case <-svc.run.Done():
	case <-ctx.Done():
		return fmt.Errorf("%w, nothing is known of service %q: %w", ErrNoSnapshot, svc.name, ctx.Err())
	}
	return nil
}

// seen notes that there are calls.
func (svc *service) seen() {
	if !svc.active.Load() {
		svc.active.Store(true)
	}
}

// nothing is the error when a table had nothing to pick.
func (v *view) nothing(t *table) error {
	if t.total > 0 {
		return v.noInstance(t)
	}
	v.svc.asked.Store(int64(v.svc.sel.now()))
	return fmt.Errorf("%w %q", ErrUnknownService, v.svc.name)
}

// attempt is the search for one pick.
type attempt struct {
	*view
	t       *table
	request *Request
	start   time.Duration
	force   bool // an instance whose breaker does not allow it will do
}

// pick goes through the circles in their order: those of usable instances
// first. It is false when the request avoids all that there is.
func (v *view) pick(t *table, r *Request) (Pick, bool) {
	if t.first == nil {
		return Pick{}, false
	}
	a := attempt{view: v, t: t, request: r}
	if v.ending&pickLearns != 0 {
		a.start = v.svc.sel.now()
	}
	begin := 0
	if len(r.tried) >= 2 {
		// Two instances failed: perhaps it is their circle. Begin with the next.
		begin = int(t.rank[t.first.index]) + 1
	} else if t.spill != nil {
		if p, ok := a.away(t.spill); ok {
			return p, true
		}
	}
	for _, a.force = range [...]bool{false, true} {
		for what := t.best; what < notReady; what++ {
			if what >= open && !a.force {
				break // their breakers allow nothing
			}
			for i := range t.levels {
				if what == t.best {
					i = (begin + i) % t.levels
				}
				if p, ok := a.from(&t.circles[int(what)*t.levels+i]); ok {
					return p, true
				}
			}
		}
	}
	return Pick{}, false
}

// away takes an instance where the spill says.
func (a *attempt) away(s *spill) (Pick, bool) {
	random := rand.Uint32()
	if a.kind == kindHash {
		random = uint32(scramble(xxhash.Sum64String(a.request.Key))) // the same key goes the same way
	}
	w := s.way(random)
	if w.over != nil && a.kind.weighsUp() {
		if p, ok := a.take(a.along(w, ticks(a.start)), w.to); ok {
			return p, true
		}
	}
	return a.from(w.to)
}

// from takes an instance of a circle: the strategy's choice, else any of the
// near set, else the nearest of the others.
func (a *attempt) from(c *circle) (p Pick, ok bool) {
	if len(c.near) == 0 {
		return Pick{}, false
	}
	switch a.kind {
	case kindHash:
		ok = a.ringOf(c).pick(a.request.Key, a.svc.inFlight.Load(), func(n *node) bool {
			p, ok = a.take(n, c)
			return ok
		})
	default:
		if p, ok = a.take(a.choose(c, ticks(a.start)), c); !ok && a.kind != kindNearest {
			p, ok = a.one(c.near, c)
		}
	}
	if ok || len(c.space) == len(c.near) && a.kind != kindNearest {
		return p, ok
	}
	for _, band := range a.farther(c) {
		if p, ok = a.one(band, c); ok {
			return p, true
		}
	}
	return Pick{}, false
}

// one takes the first of a set that may be had, from a random start.
func (a *attempt) one(set []*node, c *circle) (Pick, bool) {
	from := rand.N(len(set))
	for i := range set {
		if p, ok := a.take(set[(from+i)%len(set)], c); ok {
			return p, true
		}
	}
	return Pick{}, false
}

// allow asks the breaker of an instance. Who fills in needs no permission, and
// what becomes of the call says nothing to an open breaker.
func (t *table) allow(n *node) (breaker.Pass, bool) {
	pass, err := n.breaker.Allow()
	if err != nil && t.filled != nil {
		_, ok := t.filled[n]
		return pass, ok
	}
	return pass, err == nil
}

// take takes n if it is wanted and its breaker allows, or need not.
func (a *attempt) take(n *node, c *circle) (Pick, bool) {
	in := n.instance.Load()
	if slices.Contains(a.request.tried, n) || slices.Contains(a.request.Avoid, in.ID) {
		return Pick{}, false
	}
	pass, ok := a.t.allow(n)
	if !ok && !a.force {
		return Pick{}, false
	}
	n.calls.Add(onePick)
	if a.ending&pickCounts != 0 {
		a.svc.inFlight.Add(1)
	}
	index := c.index
	if a.home { // it may be from another circle than c
		index = n.home
	}
	return Pick{in, n, pass, a.start, index, a.ending}, true
}
