package table

import (
	"slices"
	"sync/atomic"
	"time"

	"github.com/proxima-discovery/proxima/pkg/latency"
	"github.com/proxima-discovery/proxima/pkg/topology"
)

// Layout is the circles that a service is cut into, and what is counted by circle. The
// circles are fixed; a service whose policy names other regions gets another layout.
type Layout struct {
	Levels  topology.Levels
	Regions []string        // outside of Levels, in the order in which they are tried
	Assumed []time.Duration // distances by circle, where nothing else is known

	Typical []atomic.Int64  // by home circle: the mean duration of successes lately, in nanoseconds; 0: not known
	Counts  []atomic.Uint64 // by home circle, NumCounts each: how calls ended, see [Node.Count]

	Durations []Histogram // by home circle: successes whose duration is known
}

// NewLayout returns a layout in which nothing was counted.
func NewLayout(levels topology.Levels, regions []string) *Layout {
	circles := len(levels) + 1 + len(regions)
	l := &Layout{
		Levels: levels, Regions: regions, Assumed: make([]time.Duration, circles),
		Typical: make([]atomic.Int64, circles), Counts: make([]atomic.Uint64, circles*int(NumCounts)), Durations: make([]Histogram, circles),
	}
	for i := range l.Assumed {
		l.Assumed[i] = latency.Assumed(min(i, len(levels)), len(levels)+1)
	}
	return l
}

// Layout is the circles of the service now.
func (s *Shared) Layout() *Layout { return s.layout.Load() }

// SetLayout replaces the layout, and keeps what was counted: by the names of the circles,
// and of those that are no more in the outermost one. Home circles of nodes must be set
// anew after that.
func (s *Shared) SetLayout(l *Layout) {
	old := s.layout.Load()
	if old != nil {
		for i := range old.Assumed {
			to := l.Index(old.Name(uint8(i)))
			if t := old.Typical[i].Load(); t > 0 {
				l.Typical[to].Store(t)
			}
			l.Durations[to].addAll(&old.Durations[i])
			for c := range int(NumCounts) {
				l.Counts[to*int(NumCounts)+c].Add(old.Counts[i*int(NumCounts)+c].Load())
			}
		}
	}
	s.layout.Store(l)
}

// Index is the circle of a name, the outermost one if there is none.
func (l *Layout) Index(name string) int {
	for i := range l.Assumed {
		if l.Name(uint8(i)) == name {
			return i
		}
	}
	return len(l.Assumed) - 1
}

// Name is the name of a circle: zone, region … or elsewhere.
func (l *Layout) Name(circle uint8) string {
	if i := int(circle) - len(l.Levels); i >= 0 && i < len(l.Regions) {
		return l.Regions[i]
	}
	return l.Levels.Name(min(int(circle), len(l.Levels)))
}

// Circle is the circle of a place seen from another one.
func (l *Layout) Circle(from, to topology.Place) uint8 {
	circle := l.Levels.Circle(from, to)
	if circle == len(l.Levels) && len(l.Regions) > 0 {
		if i := slices.Index(l.Regions, to.Region); i >= 0 {
			return uint8(circle + i)
		}
		circle += len(l.Regions)
	}
	return uint8(circle)
}

// placed reports whether anything is known of a place that is narrower than a region.
func (l *Layout) placed(p topology.Place) bool {
	for _, level := range l.Levels {
		known := p.Labels[string(level)]
		switch level {
		case topology.Region:
			known = ""
		case topology.Zone:
			known = p.Zone
		case topology.Rack:
			known = p.Rack
		case topology.Host:
			known = p.Host
		}
		if known != "" {
			return true
		}
	}
	return false
}
