package latency

import "github.com/proxima-discovery/proxima/pkg/events"

// Rank ranks the group at once.
func (g *Group) Rank() {
	p := g.prober
	p.mu.Lock()
	defer p.mu.Unlock()
	g.rankLocked(p.now())
}

// Coordinate is this process' network coordinate, false while it is unknown.
func (p *Prober) Coordinate() (events.Coordinate, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.position.own, p.position.known
}
