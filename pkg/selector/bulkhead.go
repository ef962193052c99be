package selector

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/proxima-discovery/proxima/pkg/policy"
	"github.com/proxima-discovery/proxima/pkg/selector/internal/bulkhead"
	"github.com/proxima-discovery/proxima/pkg/selector/internal/table"
)

// Bulkhead bounds the calls of this selector that are in flight, per service. A full instance
// is passed over: the call goes to the next one of the near set, then of the circle, then of
// the next circle, unless calls must not leave. That an instance is full is no failure. When
// all are full the call waits for a place, in order, or ends with a *[FullError]. A call has
// its place until the instance has answered: what follows, such as a stream, needs none.
// Retries, hedges and copies ([Selector.Mirror]) take places too; hedges and copies do not
// wait for one.
type Bulkhead struct {
	// PerInstance is how many calls may be in flight to one instance. Default: any number.
	PerInstance int
	// Adaptive makes the limit of each instance follow how much longer its calls take than
	// without load: it grows while the instance is full and fast, and falls when calls
	// take more than 1.5 times as long, and a millisecond. It is at least 4 and at most
	// PerInstance, or 1000 if that is not set.
	Adaptive bool
	// PerService is how many calls may be in flight to all instances together. Default: any
	// number.
	PerService int
	// Queue is how many calls of the service may wait at a time. Default: none waits.
	Queue int
	// QueueTimeout is how long a call waits at most, if its context does not end before.
	// Default 100ms.
	QueueTimeout time.Duration
}

const mostInFlight = 1_000_000 // that a node can count

func (b *Bulkhead) validate() error {
	for _, of := range []struct {
		n    int
		what string
	}{{b.PerInstance, "calls per instance"}, {b.PerService, "calls per service"}, {b.Queue, "calls that wait"}} {
		if of.n < 0 || of.n > mostInFlight {
			return fmt.Errorf("selector: bulkhead: %d %s, want 0 to %d", of.n, of.what, mostInFlight)
		}
	}
	if b.QueueTimeout < 0 {
		return fmt.Errorf("selector: bulkhead: queue timeout %v, want at least 0s", b.QueueTimeout)
	}
	return nil
}

// bulkheadOf is what the code states, and the policy; nil if calls in flight are not bounded.
func bulkheadOf(set Bulkhead, p *policy.Bulkhead, overCode bool) *Bulkhead {
	if p != nil {
		set.PerInstance = prefer(overCode, set.PerInstance, p.PerInstance, 0)
		set.PerService = prefer(overCode, set.PerService, p.PerService, 0)
		set.Queue = prefer(overCode, set.Queue, p.Queue, 0)
		set.QueueTimeout = prefer(overCode, set.QueueTimeout, nothing(p.QueueTimeout, 0), 0)
		if p.Adaptive != nil && (overCode || !set.Adaptive) {
			set.Adaptive = *p.Adaptive
		}
	}
	setDefault(&set.QueueTimeout, queueFor)
	if set.PerInstance == 0 && set.PerService == 0 && !set.Adaptive {
		return nil
	}
	return &set
}

// most is how many calls may be in flight to the service; 0: any number.
func (b *Bulkhead) most() uint32 {
	if b == nil {
		return 0
	}
	return uint32(b.PerService)
}

// mostOf is the greatest limit of an instance; 0: any number.
func (b *Bulkhead) mostOf() int {
	switch {
	case b == nil:
		return 0
	case b.Adaptive && b.PerInstance == 0:
		return bulkhead.Most
	}
	return b.PerInstance
}

// first is the limit of an instance of which nothing is known but its calls in flight.
func (b *Bulkhead) first(inFlight int) uint32 {
	most := b.mostOf()
	if most > 0 && b.Adaptive {
		most = min(most, max(bulkhead.First, inFlight))
	}
	return uint32(most)
}

// places are the calls in flight of a service, where they are bounded.
type places struct {
	svc          *service
	whole        table.Node     // counts them, as if all instances were one
	queue        bulkhead.Queue // of calls that wait for a place
	queued, shed atomic.Uint64  // calls that waited, and those that were refused

	limits map[*table.Node]*limited // of instances, while they adapt; guarded by the service
}

// limited is an instance whose limit adapts.
type limited struct {
	*bulkhead.Limit
	ended, rejects, measured uint64 // that it had at the last look
	used                     bool   // since then
}

// boundLocked sets the limits of all instances by other rules.
func (ps *places) boundLocked(r *rules) {
	if r.bulkhead == nil || !r.bulkhead.Adaptive {
		ps.limits = nil
	}
	for i := range ps.svc.members.list {
		n := ps.svc.members.list[i].Node
		if l := ps.limits[n]; l != nil {
			n.SetLimit(uint32(l.Look(bulkhead.Sample{}, 0, 0, r.bulkhead.mostOf())))
			continue
		}
		n.SetLimit(r.bulkhead.first(int(n.InFlight())))
	}
}

// limitLocked lets the limits of instances follow what became of calls since the last look.
func (ps *places) limitLocked() {
	b := ps.svc.rules.Load().bulkhead
	if b == nil || !b.Adaptive {
		return
	}
	unloaded := make([]time.Duration, len(ps.svc.Layout().Assumed))
	ps.svc.eachVantage(func(v *vantage) {
		for i := range unloaded {
			if d := v.builder.Base(uint8(i)); v.home && d > 0 && (unloaded[i] == 0 || d < unloaded[i]) {
				unloaded[i] = d
			}
		}
	})
	if ps.limits == nil {
		ps.limits = make(map[*table.Node]*limited)
	}
	for i := range ps.svc.members.list {
		m := &ps.svc.members.list[i]
		ps.limit(m.Node, unloaded[m.Circle], b.mostOf())
	}
	for n, l := range ps.limits {
		if !l.used {
			delete(ps.limits, n) // it is listed no more
		}
		l.used = false
	}
}

func (ps *places) limit(n *table.Node, unloaded time.Duration, most int) {
	ended := n.Ended()
	_, rejects := n.Answers()
	l := ps.limits[n]
	if l == nil {
		l = &limited{Limit: bulkhead.NewLimit(int(n.Limit())), ended: ended, rejects: uint64(rejects)}
		l.measured, _, _ = n.MeasuredSince(0)
		ps.limits[n] = l
	}
	s := bulkhead.Sample{Ended: ended - min(ended, l.ended), Rejects: uint64(uint32(uint64(rejects) - l.rejects)), InFlight: int(n.InFlight())}
	l.measured, s.Measured, s.Busy = n.MeasuredSince(l.measured)
	l.ended, l.rejects, l.used = ended, uint64(rejects), true
	before := n.Limit()
	s.Full = n.SetLimit(before)
	if now := uint32(l.Look(s, unloaded, n.Way(), most)); now != before {
		n.SetLimit(now)
	}
}

// freed is called when a call that has a place has ended.
func (ps *places) freed(start time.Duration) {
	ps.whole.End(start)
	ps.queue.Wake()
}

// full is the error of a call for which there is no place.
func (ps *places) full(b *Bulkhead, ended error) *FullError {
	e := &FullError{Service: ps.svc.name, InFlight: int(ps.whole.InFlight()), Queued: ps.queue.Waiting(), RetryAfter: queueFor, Err: ended}
	if b != nil {
		e.RetryAfter = max(b.QueueTimeout, ps.usual())
	}
	return e
}

// usual is how long successes usually take in the nearest circle of which that is known.
func (ps *places) usual() time.Duration {
	typical := ps.svc.Layout().Typical
	for i := range typical {
		if d := typical[i].Load(); d > 0 {
			return time.Duration(d)
		}
	}
	return 0
}

// pick picks where calls in flight are bounded. v is where the call goes: calls of one
// vantage choose among the same instances, so they wait for each other.
func (ps *places) pick(ctx context.Context, s *Selector, v *vantage, r *Request) (Pick, error) {
	if !ps.queue.Waits(v) {
		p, err := ps.take(ctx, s, r)
		if !errors.Is(err, ErrFull) {
			return p, err
		}
	}
	b := ps.svc.rules.Load().bulkhead
	if b == nil || b.Queue == 0 || r.hurry || ctx.Err() != nil {
		return Pick{}, ps.refuse(ctx, b)
	}
	w, first := ps.queue.Join(v, len(r.tried)+len(r.Avoid) > 0, b.Queue)
	if w == nil {
		return Pick{}, ps.refuse(ctx, b)
	}
	ps.queued.Add(1)
	return ps.await(ctx, s, w, first, r)
}

// await waits in the queue.
func (ps *places) await(ctx context.Context, s *Selector, w *bulkhead.Waiter, try bool, r *Request) (Pick, error) {
	took := false
	defer func() { ps.queue.Leave(w, took) }()
	b := ps.svc.rules.Load().bulkhead
	late := time.NewTimer(b.wait())
	defer late.Stop()
	for {
		if try {
			p, err := ps.take(ctx, s, r)
			if took = err == nil; took || !errors.Is(err, ErrFull) {
				return p, err
			}
			ps.queue.Pass(w)
		}
		try = true
		select {
		case <-w.Ready:
		case <-late.C:
			return Pick{}, ps.refuse(ctx, b)
		case <-ctx.Done():
			return Pick{}, ps.refuse(ctx, b)
		case <-ps.svc.run.Done():
			return Pick{}, ErrClosed
		case <-s.live.Done():
			return Pick{}, ErrClosed
		}
	}
}

// wait is how long a call waits.
func (b *Bulkhead) wait() time.Duration {
	if b == nil {
		return queueFor
	}
	return b.QueueTimeout
}

// refuse counts a call that is refused. The error has that of ctx if ctx has ended.
func (ps *places) refuse(ctx context.Context, b *Bulkhead) error {
	ps.shed.Add(1)
	return ps.full(b, context.Cause(ctx))
}

// take picks an instance that has a place, by the rules that hold now.
func (ps *places) take(ctx context.Context, s *Selector, r *Request) (Pick, error) {
	ru := ps.svc.rules.Load()
	v, t, err := s.see(ctx, ru, r, r.to)
	if err != nil {
		return Pick{}, err
	}
	if ru.bulkhead == nil {
		return s.take(ctx, v, t, r)
	}
	if !ps.whole.BeginWithin(ru.bulkhead.most()) {
		return Pick{}, errFullNow
	}
	p, err := s.take(ctx, v, t, r)
	if err != nil {
		ps.whole.TakeBack()
		return Pick{}, err
	}
	p.flags |= pickBounded
	return p, nil
}

// errFullNow is the error of a try that finds no place.
var errFullNow = &FullError{}
