package selector

import (
	"context"
	"time"

	"github.com/proxima-discovery/proxima/pkg/breaker"
	"github.com/proxima-discovery/proxima/pkg/events"
	"github.com/proxima-discovery/proxima/pkg/selector/internal/table"
)

// Pick is the instance that was picked for one call. When the call has ended, Done or
// DoneAfter must be called once; further calls on the same variable do nothing.
type Pick struct {
	// Instance to call. It is shared: do not change it.
	*events.Instance

	node  *table.Node
	pass  breaker.Pass // zero: taken without permission of its breaker
	start time.Duration
	index uint8 // of the circle
	flags uint8
}

// Flags of a pick: what is to be done at its end.
const (
	pickLive   uint8 = 1 << iota // it has not ended
	pickLearns                   // the strategy needs the durations of calls
	pickCounts                   // the strategy needs the calls in flight to all instances
)

// Circle is the name of the circle that the instance is in: zone, region … or elsewhere.
func (p *Pick) Circle() string {
	if p.node == nil {
		return ""
	}
	return p.node.Name(p.index)
}

// Alone reports whether the service lists no other instance.
func (p *Pick) Alone() bool { return p.node != nil && p.node.Listed.Load() <= 1 }

// Done ends the pick with the error of its call:
//
//   - nil, and an error marked [Permanent], are successes: the instance answered.
//   - [context.Canceled], also wrapped, is no outcome: breaker and balancing ignore it.
//   - Any other error is a failure of the instance, also [context.DeadlineExceeded] when
//     the deadline is that of the caller's own context: a hung instance looks like that.
//
// The time since the pick is the duration that balancing learns.
func (p *Pick) Done(err error) {
	flags := p.flags
	if flags == 0 {
		return
	}
	p.node.End()
	p.flags = 0
	if flags&pickLearns != 0 {
		now := p.node.Now()
		p.learn(now-p.start, err, now)
	}
	if err == nil && flags&pickCounts == 0 {
		p.pass.Done(nil)
		return
	}
	p.finish(flags, err)
}

// DoneAfter is Done for a call that goes on after the answer, such as a response whose
// body is streamed: latency is the time until the instance had answered.
func (p *Pick) DoneAfter(err error, latency time.Duration) {
	flags := p.flags
	if flags == 0 {
		return
	}
	p.flags = 0
	p.node.End()
	if flags&pickLearns != 0 {
		p.learn(latency, err, p.node.Now())
	}
	p.finish(flags, err)
}

// learn adds the duration of a call to the average of its node, unless the call was
// canceled: how long it would have taken is not known then.
func (p *Pick) learn(took time.Duration, err error, now time.Duration) {
	if err == nil || !isCanceled(err) {
		p.node.Learn(took, fault(err) != nil, table.Ticks(now))
	}
}

func (p *Pick) finish(flags uint8, err error) {
	if flags&pickCounts != 0 {
		p.node.AllInFlight.Add(-1)
	}
	p.pass.Done(fault(err))
}

// Keep returns the pick for its end to be reported later than [Selector.DoFor]'s
// call returns, for instance when the body of a response has been read. From then on
// the returned Pick must be ended, and p no longer counts.
func (p *Pick) Keep() Pick {
	kept := *p
	p.flags = 0
	return kept
}

// Observe adds a sample of the round trip to the instance that the caller happened to
// take, for example from the connection of the call. A failure is no sample. It may be
// called before or after the end of the pick.
func (p *Pick) Observe(rtt time.Duration) {
	if p.node != nil {
		p.node.Path.Observe(rtt)
	}
}

// Pick returns the nearest working instance of a service. The first pick of a service
// waits for its list, bounded by ctx and [Options.FirstSnapshot]; after that Pick never
// waits and ignores ctx. The error is [ErrUnknownService], [ErrNoSnapshot], [ErrClosed],
// a *[NoInstanceError], or an [events.FieldError] about the name.
func (s *Selector) Pick(ctx context.Context, service string) (Pick, error) {
	svc := s.slot(service).Load()
	if svc == nil || svc.name != service {
		svc = (*s.services.Load())[service]
	}
	if svc != nil && svc.fastPath {
		v := svc.home
		if t := v.table.Load(); t != nil && t.First != nil {
			var start time.Duration
			if v.pickFlags&pickLearns != 0 {
				start = s.now()
			}
			var n *table.Node
			if t.Spill == nil {
				n = t.Choose(t.First, table.Ticks(start))
			} else {
				n = t.ChooseSpilled(t.Spill, table.Ticks(start))
			}
			pass, ok := n.Breaker.AllowClosed()
			if !ok { // it is not closed: perhaps it allows a trial, or the node fills in
				pass, ok = t.Allow(n)
			}
			if ok {
				svc.markActive()
				in, index, flags := n.Instance.Load(), n.Home, v.pickFlags
				n.Begin()
				return Pick{in, n, pass, start, index, flags}, nil
			}
		}
	}
	return s.PickFor(ctx, Request{Service: service})
}

// PickFor is Pick for a [Request].
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
	svc.markActive()
	p, ok := v.pick(t, &r)
	if !ok {
		return Pick{}, v.noInstance(t, &r)
	}
	if s.opts.OnPick != nil {
		shown := p
		shown.flags = 0
		s.opts.OnPick(shown)
	}
	return p, nil
}

// await waits for the first snapshot of a service.
func (s *Selector) await(ctx context.Context, svc *service, r *Request) (*view, *table.Table, error) {
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
		// The service was evicted in favour of others. Watch it again.
		var err error
		if svc, err = s.service(svc.name); err != nil {
			return nil, nil, err
		}
	}
}

// pick takes an instance of a table. It returns false if the request excludes all.
func (v *view) pick(t *table.Table, r *Request) (Pick, bool) {
	var start time.Duration
	if v.pickFlags&pickLearns != 0 {
		start = v.svc.Now()
	}
	f, ok := t.Search(&table.Query{Key: r.Key, Avoid: r.Avoid, Tried: r.tried}, table.Ticks(start))
	if !ok {
		return Pick{}, false
	}
	f.Node.Begin()
	if v.pickFlags&pickCounts != 0 {
		v.svc.AllInFlight.Add(1)
	}
	return Pick{f.Instance, f.Node, f.Pass, start, f.Index, v.pickFlags}, true
}
