package table

import (
	"slices"

	"github.com/proxima-discovery/proxima/pkg/events"
)

const (
	// follow is how much of the difference a load takes in with each look, so
	// that it is an average over about a second.
	follow = 0.18
	// lowOfHigh is the low mark that goes with a high one.
	LowOfHigh = 0.4
	// idle is a load that is none.
	idle = 0.005
)

// Weigh takes in the loads of the circles of a table, adds the next when the last
// that picks begin with has more than it should, and leaves it alone again when the
// one before has room enough. It returns the table with what picks are divided by
// now, the same one if that is hardly different, and whether there is any load.
func (b *Builder) Weigh(t *Table) (next *Table, loaded bool) {
	old := slices.Clone(b.loads)
	clear(b.loads)
	for _, c := range t.stages {
		load := old[c.index] + follow*(c.load()-old[c.index])
		if load < idle {
			load = 0
		}
		b.loads[c.index] = load
		loaded = loaded || load > 0
	}
	before := b.reach
	b.reach = max(0, min(b.reach, len(t.stages)-1))
	switch {
	case b.reach+1 < len(t.stages) && b.loads[t.stages[b.reach].index] > b.LoadHigh:
		b.reach++
	case b.reach > 0 && b.loads[t.stages[b.reach-1].index] < b.LoadLow:
		b.reach--
	}
	next = t
	if b.reach > 0 || before > 0 {
		if s := b.divide(t); !s.like(t.Spill) {
			changed := *t
			changed.Spill = s
			next = &changed
		}
	}
	return next, loaded || b.reach > 0
}

// load is the calls in flight per instance of the near set, by weight.
func (c *Circle) load() float64 {
	sum := uint64(0)
	for _, n := range c.near {
		sum += n.InFlight()
	}
	return float64(sum) * events.DefaultWeight / float64(max(1, c.weight))
}

// overflow is the part of what a circle should take that goes on to the next,
// once that has been added: what is above the high mark. A strategy that weighs
// up asks in time whether to go, so it gets to ask from the low mark on. Neither
// brings the load below its mark, so a circle that was added does not make
// itself superfluous.
func (b *Builder) overflow(circle uint8) float64 {
	mark := b.LoadHigh
	if b.Kind.weighsUp() {
		mark = b.LoadLow
	}
	return max(0, 1-mark/max(mark, b.loads[circle]))
}
