package selector

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/proxima-discovery/proxima/pkg/breaker"
	"github.com/proxima-discovery/proxima/pkg/events"
	"github.com/proxima-discovery/proxima/pkg/selector/internal/table"
)

// Pick is the instance that was picked for one call. When the call has ended, Done or
// DoneAfter must be called once. Further calls on the same variable are ignored; a call
// on a copy counts the end a second time. A pick that is never ended counts as load for
// 10 to 20 minutes; then the selector logs it. A Pick is for one goroutine at a time.
type Pick struct {
	// Instance to call. It is shared: do not change it.
	*events.Instance

	node   *table.Node
	pass   breaker.Pass // zero: taken without permission of its breaker
	start  time.Duration
	index  uint8 // of the circle
	flags  uint8
	subset uint8 // its number; 0: all instances
}

// Flags of a pick: what is to be done at its end.
const (
	pickLive    uint8 = 1 << iota // it has not ended
	pickBusy                      // it counts as a call in flight
	pickTimed                     // its start is exact, and its duration is to be learned
	pickCounts                    // the strategy needs the calls in flight to all instances
	pickLast                      // no other attempt of the call follows
	pickMirror                    // it counts for the breaker alone
	pickBounded                   // it has a place of those that calls in flight are bounded to
)

// Circle is the name of the circle that the instance is in: zone, region … or elsewhere.
func (p *Pick) Circle() string {
	if p.node == nil {
		return ""
	}
	return p.node.Layout().Name(p.index)
}

// Done ends the pick with the error of its call, which [Retry.Classify] makes an
// [Outcome]. Balancing learns the time since the pick. [context.Canceled] and
// [context.DeadlineExceeded] count against the instance only if the call took far longer
// than usual.
func (p *Pick) Done(err error) {
	flags := p.flags
	if err != nil || flags&(pickBusy|pickCounts|pickBounded) != pickBusy {
		p.end(err, -1)
		return
	}
	p.flags = 0
	p.node.End(p.start)
	if flags&pickTimed != 0 {
		now := p.node.Now()
		took := now - p.start
		p.node.Succeeded(took, table.Ticks(now))
		if p.node.Slow(took) {
			p.pass.Done(breaker.ErrSlow)
			return
		}
	}
	p.pass.Done(nil)
}

// DoneAfter is Done for a call that went on after its answer, such as a streamed
// response: balancing learns latency, the time until the answer, instead of the time
// since the pick.
func (p *Pick) DoneAfter(err error, latency time.Duration) { p.end(err, max(0, latency)) }

// Answered reports that the instance has answered, for a call that goes on after its
// answer, such as a stream or a response with a long body. From then on the call does not
// count as load. latency is the time until the answer. Done must still be called, with
// the outcome.
func (p *Pick) Answered(latency time.Duration) {
	if p.flags&pickBusy == 0 {
		return
	}
	p.idle()
	if p.flags&pickTimed != 0 {
		p.flags &^= pickTimed
		p.node.Learn(table.Success, latency, table.Ticks(p.node.Now()))
	}
}

// idle ends the load that the pick is.
func (p *Pick) idle() {
	if p.node.End(p.start) && p.flags&pickCounts != 0 {
		p.countAll(-1)
	}
	p.flags &^= pickBusy
	if p.flags&pickBounded != 0 {
		p.node.Freed(p.start)
	}
}

// countAll counts a call in flight, for ConsistentHash.
func (p *Pick) countAll(by int64) {
	p.node.AllInFlight[0].Add(by)
	if p.subset > 0 {
		p.node.AllInFlight[p.subset].Add(by)
	}
}

// end ends the pick after a time, a negative one if that is the time since its start.
func (p *Pick) end(err error, took time.Duration) {
	if p.flags == 0 {
		return
	}
	if p.flags&pickMirror != 0 {
		if p.flags&pickBusy != 0 {
			p.idle()
		}
		p.flags = 0
		p.tellBreaker(p.classify(err), err, false)
		return
	}
	o := p.classify(err)
	busy := p.flags&pickBusy != 0
	if busy {
		if o >= table.Fault {
			p.node.Silent()
		}
		p.idle()
	} else {
		took = 0 // of what came after the answer nothing is usual
	}
	flags := p.flags
	p.flags = 0
	late := false
	if busy && (flags&pickTimed != 0 || o != table.Success) || o == table.Fault {
		now := p.node.Now()
		if took < 0 {
			took = now - p.start
			if flags&pickTimed == 0 { // the start may be earlier than it was
				took = max(0, took-maintainEvery)
			}
		}
		if o == table.Fault && errors.Is(err, context.DeadlineExceeded) && p.node.Early(took) {
			o = table.Canceled // the caller's time is less than calls take
		}
		late = p.node.Learn(o, took, table.Ticks(now))
	}
	if o != table.Success {
		p.count(o, err, busy)
	}
	if o == table.Success && p.node.Slow(took) {
		p.pass.Done(breaker.ErrSlow)
		return
	}
	p.tellBreaker(o, err, late)
}

func (p *Pick) classify(err error) table.Outcome {
	if err == nil {
		return table.Success
	}
	return table.Outcome(p.node.Classify(err))
}

// tellBreaker reports an outcome to the breaker.
func (p *Pick) tellBreaker(o table.Outcome, err error, late bool) {
	switch o {
	case table.Success, table.Answer:
		p.pass.Done(nil)
	case table.Fault:
		p.pass.Done(fault(err))
	case table.Backpressure:
		p.pass.Reject(retryAfter(err))
	default:
		if late {
			p.pass.Done(errLate)
		} else {
			p.pass.Done(context.Canceled) // not counted
		}
	}
}

// count counts the end of a pick that is no success. Of one that had answered it counts
// only that the instance failed after that.
func (p *Pick) count(o table.Outcome, err error, busy bool) {
	switch {
	case busy:
		p.node.Count(o, 1)
		if errors.Is(err, ErrSlow) {
			p.node.Shared.Slow.Add(1)
		}
	case o == table.Fault:
		p.node.Count(table.Broken, 1)
	}
}

// errLate is how a breaker gets a call that the caller gave up after far more than the
// usual time.
var errLate = errors.New("given up late")

// Keep returns the pick for its end to be reported later than [Selector.DoFor]'s
// call returns, for instance when the body of a response has been read. From then on
// the returned Pick must be ended, and p no longer counts. If the call has a time limit, by
// [Request.Timeout] or the policy of the service, its context ends when DoFor returns:
// callers that go on after that limit the time themselves, see [Selector.Limits].
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
// waits and ignores ctx, unless calls in flight are bounded and may wait for a place, see
// [Bulkhead]. The error is [ErrUnknownService], [ErrNoSnapshot], [ErrClosed],
// a *[NoInstanceError], a *[FullError], or an [events.FieldError] about the name.
func (s *Selector) Pick(ctx context.Context, service string) (Pick, error) {
	if s.detour.Load() {
		return s.PickFor(ctx, Request{Service: service})
	}
	svc := s.slot(service).Load()
	if svc == nil || svc.name != service {
		svc = (*s.services.Load())[service]
	}
	if svc != nil {
		v := svc.fast.Load()
		if v == nil {
			return s.PickFor(ctx, Request{Service: service})
		}
		if t := v.table.Load(); t != nil && t.First != nil {
			var start time.Duration
			if v.pickFlags&pickTimed != 0 {
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
				in, index, flags := n.Instance.Load(), n.Home(), v.pickFlags
				n.Begin()
				if flags&pickTimed == 0 {
					start, flags = svc.timed(n, flags)
				}
				return Pick{in, n, pass, start, index, flags, 0}, nil
			}
		}
	}
	return s.PickFor(ctx, Request{Service: service})
}

// PickFor is Pick for a [Request]. The error is a *[topology.FieldError] if no instance
// can announce the names in [Request.From], and a *[subset.Error] if [Request.Where] cannot
// be read.
func (s *Selector) PickFor(ctx context.Context, r Request) (Pick, error) {
	p, err := s.pickFor(ctx, &r)
	for r.Wait && len(r.tried) == 0 && (errors.Is(err, ErrUnknownService) || errors.Is(err, ErrNoInstance)) {
		if ended := sleep(ctx, waitEvery); ended != nil {
			return Pick{}, fmt.Errorf("%w: %w", err, ended)
		}
		p, err = s.pickFor(ctx, &r)
	}
	if err != nil {
		return Pick{}, err
	}
	if s.onPick != nil {
		s.show(p)
	}
	return p, nil
}

// show calls OnPick. If that panics, the pick is no load.
func (s *Selector) show(p Pick) {
	shown := p
	shown.flags = 0
	ended := false
	defer func() {
		if !ended {
			p.Done(context.Canceled)
		}
	}()
	s.onPick(shown)
	ended = true
}

// sleep returns why ctx ended if it did before.
func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (s *Selector) pickFor(ctx context.Context, r *Request) (Pick, error) {
	if err := r.checkFrom(); err != nil {
		return Pick{}, err
	}
	svc, err := s.known(ctx, r.Service)
	if err != nil {
		return Pick{}, err
	}
	ru := svc.rules.Load()
	s.state(ru, r)
	if err := ru.decide(r); err != nil {
		return Pick{}, err
	}
	v, t, err := s.see(ctx, ru, r, r.to)
	if err != nil {
		return Pick{}, err
	}
	svc.markActive()
	if ru.bulkhead == nil {
		if p, err := s.take(ctx, v, t, r); !r.full {
			return p, err
		} // the rules have changed meanwhile
	}
	return svc.places.pick(ctx, s, v, r)
}

// take takes an instance of a table, or of what is used in its place.
func (s *Selector) take(ctx context.Context, v *vantage, t *table.Table, r *Request) (Pick, error) {
	or := r.to != nil && r.to.next != nil
	r.full = false
	p, ok := v.pick(t, r, or)
	if ok {
		return p, nil
	}
	if or {
		var err error
		if p, ok, err = s.fallBack(ctx, v, t, r); ok || err != nil {
			r.full = false
			return p, err
		}
	}
	if r.full {
		return Pick{}, errFullNow
	}
	return Pick{}, v.noInstance(t, r)
}

// state makes the strategy of this selector that of a request without one, where the
// selector that it shares services with has another.
func (s *Selector) state(ru *rules, r *Request) {
	if s.apart && r.Strategy == "" {
		r.Strategy = ru.strategyFor(s.strategy)
	}
}

// known returns a service whose first snapshot has come, so that its policy has too, if it
// can be reached.
func (s *Selector) known(ctx context.Context, name string) (*service, error) {
	if s.shut.Load() {
		return nil, ErrClosed
	}
	svc := s.slot(name).Load()
	if svc == nil || svc.name != name {
		var err error
		if svc, err = s.service(name); err != nil {
			return nil, err
		}
	}
	if svc.listed.Load() {
		return svc, nil
	}
	late := time.NewTimer(s.opts.FirstSnapshot)
	defer late.Stop()
	for {
		if err := svc.await(ctx, s.live.Done(), late.C); err != nil {
			return nil, err
		}
		if svc.listed.Load() {
			return svc, nil
		}
		// The service was evicted in favour of others. Watch it again.
		var err error
		if svc, err = s.service(svc.name); err != nil {
			return nil, err
		}
	}
}

// see returns the vantage for a request, and its table. to is where the request goes.
func (s *Selector) see(ctx context.Context, ru *rules, r *Request, to *target) (*vantage, *table.Table, error) {
	for range mostSeen {
		v, err := ru.vantage(r, to)
		if err != nil {
			return nil, nil, err
		}
		if t := v.current(); t != nil {
			return v, t, nil
		}
		// The service was evicted, or the subset was, just now.
		svc, err := s.known(ctx, r.Service)
		if err != nil {
			return nil, nil, err
		}
		ru = svc.rules.Load()
		if to != nil {
			to = to.in(svc)
		}
	}
	return nil, nil, ErrNoSnapshot
}

// mostSeen is how often a pick begins again because what it was for was evicted meanwhile.
const mostSeen = 8

// fallBack takes another instance, when none of a subset is usable. If there is no usable
// one, the best of the subset is better.
func (s *Selector) fallBack(ctx context.Context, v *vantage, t *table.Table, r *Request) (Pick, bool, error) {
	type try struct {
		of    *vantage
		table *table.Table
	}
	tries := make([]try, 1, 3)
	tries[0] = try{v, t}
	for to := r.to.next; to != nil; to = to.next {
		other, seen, err := s.see(ctx, v.rules, r, to)
		if err != nil {
			return Pick{}, false, err
		}
		tries = append(tries, try{other, seen})
	}
	for _, only := range [...]bool{true, false} {
		for i, at := range tries {
			p, ok := at.of.pick(at.table, r, only)
			if !ok {
				continue
			}
			if i > 0 && len(r.tried) == 0 {
				r.to.fellBack.Add(1)
			}
			return p, true, nil
		}
		if r.full {
			break // in time there is a place
		}
	}
	return Pick{}, false, nil
}

// pick takes an instance of a table. It returns false if the request excludes all, or if
// only is set and none is usable.
func (v *vantage) pick(t *table.Table, r *Request, only bool) (Pick, bool) {
	if v.kind != table.KindHash && !t.Bounded && len(r.tried) == 0 && len(r.Avoid) == 0 && (!only || t.HasUsable()) {
		if p, ok := v.quick(t); ok {
			return p, true
		}
	}
	svc := v.rules.svc
	start := time.Duration(svc.sel.clock.Load())
	if v.pickFlags&pickTimed != 0 {
		start = svc.Now()
	}
	f, ok := t.Search(&table.Query{Key: r.Key, Avoid: r.Avoid, Tried: r.tried, Only: only}, table.Ticks(start))
	if !ok {
		r.full = r.full || f.Full
		return Pick{}, false
	}
	flags := v.pickFlags
	if !t.Bounded {
		f.Node.Begin()
	}
	if flags&pickTimed == 0 {
		start, flags = svc.timed(f.Node, flags)
	}
	p := Pick{f.Instance, f.Node, f.Pass, start, f.Index, flags, v.number}
	if flags&pickCounts != 0 {
		p.countAll(1)
	}
	return p, true
}

// quick is pick where the first choice does, which is nearly always.
func (v *vantage) quick(t *table.Table) (Pick, bool) {
	if t.First == nil {
		return Pick{}, false
	}
	svc := v.rules.svc
	var start time.Duration
	if v.pickFlags&pickTimed != 0 {
		start = svc.Now()
	}
	c := t.Start()
	n := t.Choose(c, table.Ticks(start))
	pass, ok := n.Breaker.AllowClosed()
	if !ok {
		if pass, ok = t.Allow(n); !ok {
			return Pick{}, false
		}
	}
	in, flags := n.Instance.Load(), v.pickFlags
	n.Begin()
	if flags&pickTimed == 0 {
		start, flags = svc.timed(n, flags)
	}
	return Pick{in, n, pass, start, c.Index(), flags, v.number}, true
}
