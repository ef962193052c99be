package latency

// Rank ranks the group at once.
func (g *Group) Rank() {
	p := g.prober
	p.mu.Lock()
	defer p.mu.Unlock()
	g.rankLocked(p.now())
}
