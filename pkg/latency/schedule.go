package latency

import (
	"container/heap"
	"context"
	"errors"
	"math"
	"slices"
	"time"

	"github.com/proxima-discovery/proxima/pkg/probe"
)

// schedule starts probes and expires samples that are due, and returns the time
// until something is due again; not ok: nothing is before a wake-up.
func (p *Prober) schedule(ctx context.Context) (wait time.Duration, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := p.now()
	for e := p.expiries.head(); e != nil && e.due <= now; e = p.expiries.head() {
		e.path.refreshLocked(now)
	}
	next, hold := p.nextLocked(), time.Duration(0)
	for ; next != nil && next.due <= now; next = p.nextLocked() {
		if hold = p.total.wait(now); hold > 0 {
			break
		}
		p.beginLocked(ctx, next.path, now)
	}

	if e := p.expiries.head(); e != nil {
		wait, ok = e.due-now, true
	}
	if next != nil && (!ok || max(next.due-now, hold) < wait) {
		wait, ok = max(next.due-now, hold), true
	}
	return wait, ok
}

// nextLocked is the probe to start next, nil while none may start.
func (p *Prober) nextLocked() *entry {
	if p.inFlight >= p.o.Concurrency {
		return nil
	}
	next := p.proven.head()
	if e := p.unproven.head(); e != nil && p.inFlightUnproven < p.o.maxUnproven() && (next == nil || e.due < next.due) {
		next = e
	}
	return next
}

// queueProbeLocked queues the next probe of a path. While one is in flight, finish
// does.
func (p *Prober) queueProbeLocked(pa *Path) {
	if pa.cancel != nil || pa.group != nil && pa.group.pace == asleep {
		return
	}
	q := &p.unproven
	if pa.proven {
		q = &p.proven
	}
	p.queueLocked(q, &pa.probe, pa.next)
}

// beginLocked starts the probe of a path that is due, or puts it off: its slot may
// have another owner by now, or the budget may be spent.
func (p *Prober) beginLocked(ctx context.Context, pa *Path, now time.Duration) {
	pa.probe.remove()
	g := pa.group
	if g == nil {
		return
	}
	if !pa.urgent && g.pace != awake {
		if every := pa.period / time.Duration(p.o.PerInterval); now-pa.newestLocked(now-every) < every*7/10 {
			g.planLocked(pa, now) // another caller has measured it
			return
		}
	} else if !pa.urgent {
		// The slot may have another owner than when it was planned.
		if at, ours := g.slotAfterLocked(pa, pa.next-1); !ours || at > now {
			g.planLocked(pa, now)
			return
		}
	}
	if wait := g.takeTokenLocked(pa, now); wait > 0 {
		if pa.urgent {
			pa.next = now + wait + time.Duration(pa.rank) // the best first
			p.queueProbeLocked(pa)
		} else {
			g.planLocked(pa, now) // the next slot will do
		}
		return
	}
	p.launchLocked(ctx, pa)
}

func (p *Prober) launchLocked(ctx context.Context, pa *Path) {
	p.probes.Add(1)
	p.total.take()
	p.inFlight++
	pa.probedAt = max(p.now(), 1)
	timeout := p.o.Timeout
	if pa.proven {
		d, _ := pa.Measured()
		timeout = p.o.timeout(d)
	} else {
		p.inFlightUnproven++
	}
	ctx, pa.cancel = context.WithTimeout(ctx, timeout)
	p.running.Go(func() {
		rtt, err := p.probe(ctx, pa)
		// Cancelled, not timed out: the path has left, or the prober is closed.
		dropped := errors.Is(ctx.Err(), context.Canceled)
		p.finish(pa, rtt, err, dropped)
	})
}

func (p *Prober) probe(ctx context.Context, pa *Path) (time.Duration, error) {
	if pa.target.Probe != nil {
		return pa.target.Probe(ctx)
	}
	return probe.Connect(p.o.Dial, pa.target.Address)(ctx)
}

// finish records how a probe ended, and when the next is due.
func (p *Prober) finish(pa *Path, rtt time.Duration, err error, dropped bool) {
	p.mu.Lock()
	pa.cancel()
	pa.cancel = nil
	p.inFlight--
	if !pa.proven {
		p.inFlightUnproven--
	}

	now, g := p.now(), pa.group
	failures, service := pa.Failures(), ""
	if g != nil {
		service = g.service
	}
	retry := time.Duration(-1) // the pause before an urgent probe; negative: the next slot will do
	switch {
	case err == nil:
		e, _ := unpackEstimate(pa.estimate.Load())
		if e.Measured() && (pa.contends || rtt < e.Distance) && doubtful(rtt, e.Distance) {
			retry = min(retryPause, p.o.Interval)
		}
		pa.proven = true
		pa.failures.Store(0)
		if failures > 0 {
			p.dirtyLocked(g)
		}
		if !p.closed {
			pa.addLocked(rtt, now)
		}
	case dropped:
		retry = min(retryPause, p.o.Interval)
	case errors.Is(err, probe.ErrNotProbed): // the next slot will do
	default:
		pa.proven = false
		retry = p.o.retry(failures + 1)
		pa.failures.Store(int64(failures + 1))
		p.dirtyLocked(g)
		if g != nil && g.leavesToZoneLocked(pa, now) {
			retry = -1
		}
	}
	if g != nil && !p.closed {
		pa.urgent = retry >= 0
		if pa.urgent {
			pa.next = now + jitter(retry)
			p.queueProbeLocked(pa)
		} else {
			g.planLocked(pa, now)
		}
	}
	wake(p.wakeSchedule) // fewer probes are in flight
	p.mu.Unlock()

	switch {
	case err == nil && failures > 0:
		p.c.Logger.Debug("probe succeeds again", "service", service, "address", pa.target.Address, "failures", failures)
	case err != nil && !dropped && failures == 0 && !errors.Is(err, probe.ErrNotProbed):
		p.c.Logger.Debug("probe failed", "service", service, "address", pa.target.Address, "error", err)
	}
}

// entry is a path in a [queue]. A path has one for its next probe and one for the
// expiry of its samples.
type entry struct {
	path  *Path
	due   time.Duration // on the prober's clock
	in    *queue        // nil while not queued
	index int           // in the queue
}

// queue is a heap of entries, the first due in front.
type queue []*entry

// set puts e into q at due, or moves it there.
func (q *queue) set(e *entry, due time.Duration) {
	if e.in != nil && e.in != q {
		e.remove()
	}
	e.due = due
	if e.in == q {
		heap.Fix(q, e.index)
		return
	}
	heap.Push(q, e)
}

// head is the entry that is due first, or nil.
func (q queue) head() *entry {
	if len(q) == 0 {
		return nil
	}
	return q[0]
}

// remove takes e out of the queue it is in, if any.
func (e *entry) remove() {
	if e.in != nil {
		heap.Remove(e.in, e.index)
	}
}

// Len, Less, Swap, Push and Pop are for container/heap.

func (q queue) Len() int           { return len(q) }
func (q queue) Less(i, j int) bool { return q[i].due < q[j].due }

func (q queue) Swap(i, j int) {
	q[i], q[j] = q[j], q[i]
	q[i].index, q[j].index = i, j
}

func (q *queue) Push(x any) {
	e := x.(*entry)
	e.in, e.index = q, len(*q)
	*q = append(*q, e)
}

func (q *queue) Pop() any {
	last := len(*q) - 1
	e := (*q)[last]
	(*q)[last] = nil
	*q = (*q)[:last]
	e.in = nil
	return e
}

// total is the budget of all groups together: tokens for probes, of which so many come in
// a second, and the most that one group gets of them.
type total struct {
	rate, burst float64 // a rate of 0 is no bound
	tokens      float64
	filledAt    time.Duration
	limit       float64 // of one group, in probes a second; 0: all get what they want
}

// plannedShare is the part of the total budget that slots may take. The rest is for first
// probes and confirmations.
const plannedShare = 0.9

func newTotal(o *Options) total {
	t := total{rate: max(o.TotalBudget/60, 0), burst: max(o.TotalBudget/12, 1)}
	t.tokens = t.burst
	return t
}

// wait is the time until there is a token.
func (t *total) wait(now time.Duration) time.Duration {
	if t.rate <= 0 {
		return 0
	}
	t.tokens = min(t.tokens+t.rate*(now-t.filledAt).Seconds(), t.burst)
	t.filledAt = now
	if t.tokens >= 1 {
		return 0
	}
	return time.Duration((1-t.tokens)/t.rate*float64(time.Second)) + time.Millisecond
}

// take takes a token.
func (t *total) take() { t.tokens-- }

// divideLocked divides the total budget: a group that wants less than the others gets
// that, and those that want more get equal parts of the rest.
func (p *Prober) divideLocked() {
	if p.total.rate <= 0 {
		return
	}
	demands := make([]float64, 0, len(p.groups))
	for g := range p.groups {
		if g.pace != asleep && g.demand > 0 {
			demands = append(demands, g.demand)
		}
	}
	slices.Sort(demands)
	limit, left := 0.0, plannedShare*p.total.rate
	for i, d := range demands {
		if part := left / float64(len(demands)-i); d > part {
			limit = part
			break
		}
		left -= d
	}
	if math.Abs(limit-p.total.limit) <= 0.05*p.total.limit {
		return // periods do not follow every change
	}
	p.total.limit = limit
	for g := range p.groups {
		g.unranked = true
	}
}
