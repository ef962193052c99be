package latency

import (
	"time"

	"github.com/proxima-discovery/proxima/pkg/events"
)

// Rank ranks a group at once.
func (p *Prober) Rank(name string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.rankLocked(p.groups[name], p.now())
}

// Fitter returns what fits c once to neighbours at those places and distances.
func Fitter(c events.Coordinate, at []events.Coordinate, rtts []time.Duration) func() events.Coordinate {
	var neighbours []neighbour
	for i := range at {
		neighbours = append(neighbours, neighbour{at: at[i], rtt: rtts[i].Seconds()})
	}
	return func() events.Coordinate {
		fit(&c, neighbours)
		return c
	}
}
