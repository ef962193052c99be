package latency

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"

	"github.com/proxima-discovery/proxima/pkg/probe"
)

// schedule starts probes and expires samples when they are due, until ctx
// ends.
func (p *Prober) schedule(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-p.due:
		case <-timer.C:
		}
		p.mu.Lock()
		wait, ok := p.advanceLocked(ctx)
		p.mu.Unlock()
		if ok {
			timer.Reset(wait)
		} else {
			timer.Stop()
		}
	}
}

// advanceLocked does what is due and returns how long nothing will be; not ok
// when nothing will be without a wake-up.
func (p *Prober) advanceLocked(ctx context.Context) (wait time.Duration, ok bool) {
	now := p.now()
	for e := p.expiries.head(); e != nil && e.due <= now; e = p.expiries.head() {
		e.path.refreshLocked(now)
	}
	next := p.nextLocked()
	for ; next != nil && next.due <= now; next = p.nextLocked() {
		p.beginLocked(ctx, next.path, now)
	}

	if e := p.expiries.head(); e != nil {
		wait, ok = e.due-now, true
	}
	if next != nil && (!ok || next.due-now < wait) {
		wait, ok = next.due-now, true
	}
	return wait, ok
}

// nextLocked is the probe to start next, nil while there is none that may.
func (p *Prober) nextLocked() *entry {
	if p.flying >= p.o.Concurrency {
		return nil
	}
	next := p.proven.head()
	if e := p.unproven.head(); e != nil && p.trying < p.o.maxUnproven() && (next == nil || e.due < next.due) {
		next = e
	}
	return next
}

// queueProbeLocked puts pa where its next probe belongs. While one is under way
// that is left to its end, see finish.
func (p *Prober) queueProbeLocked(pa *Path) {
	if pa.cancel != nil {
		return
	}
	q := &p.unproven
	if pa.proven {
		q = &p.proven
	}
	p.queueLocked(q, &pa.probe, pa.next)
}

// beginLocked starts the probe that is due, unless it need not be made, or not
// yet.
func (p *Prober) beginLocked(ctx context.Context, pa *Path, now time.Duration) {
	pa.probe.remove()
	if len(pa.groups) == 0 {
		return
	}
	g := pa.groups[0].group
	if !pa.urgent {
		// Whose slot this is may have changed since it was planned.
		if at, ours := g.slotAfterLocked(pa, now-p.lateness(pa, now)); !ours || at > now {
			g.planLocked(pa, now)
			return
		}
	}
	if wait := g.affordLocked(pa, now); wait > 0 {
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

// lateness is how long ago the probe that is due now was planned for, and a
// little.
func (p *Prober) lateness(pa *Path, now time.Duration) time.Duration { return now - pa.next + 1 }

func (p *Prober) launchLocked(ctx context.Context, pa *Path) {
	p.probes.Add(1)
	p.flying++
	pa.began = max(p.now(), 1)
	timeout := p.o.Timeout
	if pa.proven {
		d, _ := pa.Measured()
		timeout = p.o.timeout(d)
	} else {
		p.trying++
	}
	ctx, pa.cancel = context.WithTimeout(ctx, timeout)
	p.running.Go(func() {
		rtt, err := p.probe(ctx, pa)
		// Cancelled, other than timed out: nobody wants to know any more.
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
	p.flying--
	if !pa.proven {
		p.trying--
	}

	now := p.now()
	failures, service := pa.Failures(), ""
	if len(pa.groups) > 0 {
		service = pa.groups[0].group.name
	}
	hurry := time.Duration(-1) // no slot of the zone's, but after that pause
	switch {
	case err == nil:
		e, _ := unpackEstimate(pa.estimate.Load())
		if e.Measured() && (pa.contends || rtt < e.Distance) && doubtful(rtt, e.Distance) {
			hurry = min(soon, p.o.Interval)
		}
		pa.proven = true
		pa.failures.Store(0)
		if failures > 0 {
			p.changedLocked(pa)
		}
		if !p.closed {
			pa.addLocked(rtt, now)
		}
	case dropped:
		hurry = min(soon, p.o.Interval)
	case errors.Is(err, probe.ErrNotProbed): // the next slot will do
	default:
		pa.proven = false
		hurry = p.o.retry(failures + 1)
		pa.failures.Store(int64(failures + 1))
		p.changedLocked(pa)
		if len(pa.groups) > 0 && pa.groups[0].group.givesUpLocked(pa, now) {
			hurry = -1 // the zone's slots will do
		}
	}
	if len(pa.groups) > 0 && !p.closed {
		pa.urgent = hurry >= 0
		if pa.urgent {
			pa.next = now + jitter(hurry)
			p.queueProbeLocked(pa)
		} else {
			pa.groups[0].group.planLocked(pa, now)
		}
	}
	wake(p.due) // a place is free
	p.mu.Unlock()

	switch {
	case err == nil && failures > 0:
		p.o.Logger.Debug("probe succeeds again", "service", service, "address", pa.target.Address, "failures", failures)
	case err != nil && !dropped && failures == 0 && !errors.Is(err, probe.ErrNotProbed):
		p.o.Logger.Debug("probe failed", "service", service, "address", pa.target.Address, "error", err)
	}
}

// hurryLocked makes a probe due soon.
func (g *group) hurryLocked(pa *Path, now time.Duration) {
	if pa.cancel != nil || pa.urgent || !pa.probed() {
		return
	}
	pa.urgent, pa.next = true, now+rand.N(min(soon, g.prober.o.Interval))
	g.prober.queueProbeLocked(pa)
}

// jitter is d ±20 %.
func jitter(d time.Duration) time.Duration {
	return d - d/5 + rand.N(2*d/5+1)
}
