package latency

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"
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
		p.launchLocked(ctx, next.path)
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
	if p.running >= p.o.Concurrency {
		return nil
	}
	next := p.proven.head()
	if e := p.unproven.head(); e != nil && p.trying < p.o.maxUnproven() && (next == nil || e.due < next.due) {
		next = e
	}
	return next
}

// queueProbeLocked puts pa where its next probe belongs.
func (p *Prober) queueProbeLocked(pa *Path) {
	q := &p.unproven
	if pa.proven {
		q = &p.proven
	}
	p.queueLocked(q, &pa.probe, pa.next)
}

func (p *Prober) launchLocked(ctx context.Context, pa *Path) {
	pa.probe.remove()
	p.running++
	timeout := p.o.Timeout
	if pa.proven {
		d, _ := pa.Measured()
		timeout = p.o.timeout(d)
	} else {
		p.trying++
	}
	ctx, pa.cancel = context.WithTimeout(ctx, timeout)
	p.work.Go(func() {
		rtt, err := p.o.connect(ctx, pa.address)
		// Cancelled, other than timed out: nobody wants to know any more.
		dropped := errors.Is(ctx.Err(), context.Canceled)
		p.finish(pa, rtt, err, dropped)
	})
}

// finish records how a probe ended, and when the next is due.
func (p *Prober) finish(pa *Path, rtt time.Duration, err error, dropped bool) {
	p.mu.Lock()
	pa.cancel()
	pa.cancel = nil
	p.running--
	if !pa.proven {
		p.trying--
	}

	failures, service := pa.Failures(), ""
	if len(pa.groups) > 0 {
		service = pa.groups[0].group.name
	}
	pause := p.o.Interval
	switch {
	case err == nil:
		if m, _ := pa.Measured(); doubtful(rtt, m) {
			pause = min(soon, pause)
		}
		pa.proven = true
		pa.failures.Store(0)
		if failures > 0 {
			p.changedLocked(pa)
		}
		if !p.closed {
			pa.addLocked(rtt, p.now())
		}
	case dropped:
		pause = min(soon, pause)
	default:
		pa.proven = false
		pause = p.o.retry(failures + 1)
		pa.failures.Store(int64(failures + 1))
		if failures == 0 {
			p.changedLocked(pa)
		}
	}
	pa.next = p.now() + jitter(pause)
	if pa.slots > 0 && !p.closed {
		p.queueProbeLocked(pa)
	}
	wake(p.due) // a slot is free
	p.mu.Unlock()

	switch {
	case err == nil && failures > 0:
		p.o.Logger.Debug("probe succeeds again", "service", service, "address", pa.address, "failures", failures)
	case err != nil && !dropped && failures == 0:
		p.o.Logger.Debug("probe failed", "service", service, "address", pa.address, "error", err)
	}
}

// jitter is d ±20 %.
func jitter(d time.Duration) time.Duration {
	return d - d/5 + rand.N(2*d/5+1)
}
