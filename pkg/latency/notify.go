package latency

import (
	"context"
	"slices"
	"time"
)

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
