package latency

import (
	"context"
	"slices"
	"time"

	"github.com/proxima-discovery/proxima/pkg/latency/internal/wire"
)

// message is a batch and its subject.
type message struct {
	subject string
	batch   wire.Batch
}

// repeat calls do at once, and again when it is due or woken, until ctx ends. Do
// returns when it is due; not ok: not before it is woken.
func repeat(ctx context.Context, woken <-chan struct{}, do func(context.Context) (wait time.Duration, ok bool)) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-woken:
		case <-timer.C:
		}
		if wait, ok := do(ctx); ok {
			timer.Reset(wait)
		} else {
			timer.Stop()
		}
	}
}

// loop is a round of the prober's main loop: it ranks groups, publishes batches,
// fits the caller's coordinate and exchanges it with instances. It returns when the
// next round is due; not ok: there are no groups.
func (p *Prober) loop(ctx context.Context) (wait time.Duration, ok bool) {
	p.mu.Lock()
	now := p.now()
	for g := range p.groups {
		if g.changed {
			p.rankSoonLocked(g, now)
		}
	}
	if now >= p.nextTick {
		p.tickLocked(ctx, now)
	}
	out, stops := p.outgoingLocked(now)
	wait, ok = p.idleLocked(p.now())
	p.mu.Unlock()

	for _, stop := range stops {
		stop()
	}
	p.send(out)
	return wait, ok
}

// tickLocked does what is due once a second while there are groups.
func (p *Prober) tickLocked(ctx context.Context, now time.Duration) {
	p.nextTick = now + rankInterval
	for g := range p.groups {
		g.slowDownLocked(now)
		switch {
		case g.report.Service == "":
		case g.pace == awake:
			g.chooseRoleLocked(now)
		default:
			g.countLocked(now)
		}
		if g.unranked {
			p.rankSoonLocked(g, now)
		}
	}
	p.divideLocked()
	p.position.fitLocked(now)
	for _, pa := range p.position.exchangesLocked(now) {
		p.running.Go(func() { p.position.exchange(ctx, pa) })
	}
}

// rankSoonLocked ranks a group, unless it is long and was ranked just now: for
// each 2,000 members a ranking is a second later.
func (p *Prober) rankSoonLocked(g *Group, now time.Duration) {
	if g.rankedAt == 0 || now-g.rankedAt >= rankInterval*time.Duration(len(g.members)/2000) {
		g.rankLocked(now)
	}
}

// outgoingLocked returns the messages to publish now, and what ends the
// subscriptions of closed groups.
func (p *Prober) outgoingLocked(now time.Duration) (out []message, stops []func()) {
	for g := range p.groups {
		if !g.publishesLocked() || now < g.publish {
			continue
		}
		if g.pace != awake {
			out = append(out, g.dozingLocked(now))
			continue
		}
		if g.chooseRoleLocked(now); !g.listening { // there may be enough reporters by now
			out = append(out, message{g.report.Subject(), g.batchLocked(now)})
		}
	}
	for _, g := range p.closing {
		if g.stop != nil {
			stops = append(stops, g.stop)
			g.stop = nil
		}
		if g.published {
			out = append(out, g.leavingLocked())
		}
	}
	p.closing = nil
	return out, stops
}

// send publishes messages. The next batch repeats what could not be sent.
func (p *Prober) send(out []message) {
	for _, m := range out {
		if data, err := wire.EncodeBatch(m.batch); err == nil {
			_ = p.c.Bus.Publish(m.subject, data)
		}
	}
}

// idleLocked returns when the loop has work again; not ok: not before it is
// woken, for there are no groups.
func (p *Prober) idleLocked(now time.Duration) (wait time.Duration, ok bool) {
	if len(p.groups) == 0 {
		return 0, false
	}
	next := p.nextTick
	for g := range p.groups {
		if g.publishesLocked() {
			next = min(next, g.publish)
		}
	}
	return max(next-now, 0), true
}

// dirtyLocked makes onChange due for g, if there is one.
func (p *Prober) dirtyLocked(g *Group) {
	if g == nil || g.dirty || g.onChange == nil {
		return
	}
	g.dirty = true
	p.dirty = append(p.dirty, g)
	wake(p.wakeNotifier)
}

// notify calls each group's onChange that is due, and returns the time until another
// is; not ok: none is. It has a goroutine of its own, so that a slow onChange delays
// no probe.
func (p *Prober) notify(ctx context.Context) (wait time.Duration, ok bool) {
	g, wait := p.nextDirty()
	for ; g != nil && ctx.Err() == nil; g, wait = p.nextDirty() {
		g.onChange()
		p.mu.Lock()
		g.notifyAfter = p.now() + notifyPause
		p.mu.Unlock()
	}
	return wait, wait > 0
}

// nextDirty removes a group from dirty for which onChange may be called now.
// Without one it returns nil and the time until there is one, 0 if none is due.
func (p *Prober) nextDirty() (next *Group, wait time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := p.now()
	for i, g := range p.dirty {
		rest := g.notifyAfter - now
		if rest <= 0 {
			// Removed before the call: a change during it makes another due.
			p.dirty = slices.Delete(p.dirty, i, i+1)
			g.dirty = false
			return g, 0
		}
		if wait == 0 || rest < wait {
			wait = rest
		}
	}
	return nil, wait
}
