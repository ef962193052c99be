package selector

import (
	"context"
	"time"

	"github.com/proxima-discovery/proxima/pkg/breaker"
	"github.com/proxima-discovery/proxima/pkg/events"
	"github.com/proxima-discovery/proxima/pkg/selector/internal/table"
)

// Pick is the instance that was picked for one call. Its end must be told with
// Done or DoneAfter, once; further calls on the same variable do nothing.
type Pick struct {
	// Instance to call. It is shared: do not change it.
	*events.Instance

	node  *table.Node
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
	return p.node.Name(p.index)
}

// Alone says that the service lists no other instance: there is nobody else to
// turn to.
func (p *Pick) Alone() bool { return p.node != nil && p.node.Listed.Load() <= 1 }

// Done tells how the call ended. Nil is a success, [context.Canceled] nobody's
// failure, an error marked [Permanent] an answer. The time since the pick is
// what balancing learns.
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

// DoneAfter is Done for calls that outlast the answer, such as a response
// whose body is streamed: latency is the time until the instance had answered.
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

// learn takes in how long a call took, unless it was canceled: how long it would
// have taken is not known then.
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

// Observe adds a sample of the round trip to the instance, taken by the way, for
// instance from the connection of the call; a failure is no sample. It may be
// called before or after the end of the pick.
func (p *Pick) Observe(rtt time.Duration) {
	if p.node != nil {
		p.node.Path.Observe(rtt)
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
		if t := v.table.Load(); t != nil && t.First != nil {
			var start time.Duration
			if v.ending&pickLearns != 0 {
				start = s.now()
			}
			var n *table.Node
			if t.Spill == nil {
				n = t.Choose(t.First, table.Ticks(start))
			} else {
				n = t.ChooseSpilled(t.Spill, table.Ticks(start))
			}
			pass, ok := n.Breaker.AllowClosed()
			if !ok { // a trial, perhaps, or it has to fill in
				pass, ok = t.Allow(n)
			}
			if ok {
				svc.seen()
				in, index, flags := n.Instance.Load(), n.Home, v.ending
				n.Begin()
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
		return Pick{}, v.nothing(t, &r)
	}
	if s.opts.OnPick != nil {
		told := p
		told.flags = 0
		s.opts.OnPick(told)
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
		// Forgotten in favour of others, if not for good.
		var err error
		if svc, err = s.service(svc.name); err != nil {
			return nil, nil, err
		}
	}
}

// pick takes an instance of a table. It is false when the request avoids all
// that there is.
func (v *view) pick(t *table.Table, r *Request) (Pick, bool) {
	var start time.Duration
	if v.ending&pickLearns != 0 {
		start = v.svc.Now()
	}
	f, ok := t.Search(&table.Query{Key: r.Key, Avoid: r.Avoid, Tried: r.tried}, table.Ticks(start))
	if !ok {
		return Pick{}, false
	}
	f.Node.Begin()
	if v.ending&pickCounts != 0 {
		v.svc.AllInFlight.Add(1)
	}
	return Pick{f.Instance, f.Node, f.Pass, start, f.Index, v.ending}, true
}
