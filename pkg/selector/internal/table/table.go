// Package table decides which instances of a service are near, and chooses among
// them.
//
// A [Builder] takes the list of [Member]s, what is known of their loads, and the
// time, and returns a [Table]: circles by proximity and [State], and in each the near
// set, the members about as near as the nearest. A table is never changed, so any
// number of goroutines may choose from it. There is no connection, goroutine or
// mutex in this package; calls in flight, durations and the last beat of a [Node]
// are atomic words.
package table

import (
	"slices"
	"time"
)

// Table is what picks read: the instances of one service as one place sees them. It
// is replaced, never changed.
type Table struct {
	*lens
	Kind  Kind    // of the strategy
	First *Circle // where picks begin; nil: there is nothing to pick
	Spill *Spill  // where picks begin if not all begin with First, else nil
	best  State   // of the instances in First
	// circles are first those of usable instances, nearest first (or in the order of
	// the builder), then those of suspects, and so on through the states before
	// NotReady: the order in which instances are tried.
	circles    []Circle
	preferred  []*Circle          // those of best that are not empty, if best is Usable or Suspect
	fillIns    map[*Node]struct{} // nodes that are used although their breakers are open
	Panicking  bool               // fewer than half, or the share that the rules state, are usable
	sizes      []uint32           // of circles, in the same order, through all states
	weights    []int              // the sums of their weights
	counts     []uint32           // as sizes, with those that fill in under their own state
	rank       []uint8            // the place of each circle in the order
	levels     int                // circles of each state
	Size       int                // instances, in any state
	rampingUp  bool               // some are new
	somePlaced bool               // of some more is known than the region
	at         time.Duration      // when it was built, on the selector's clock
	newSince   time.Duration      // instances that started after that are new
	Due        time.Duration      // when the next one must be built though nothing else changes

	Generation uint64
}

// index is the place in circles of those in a state at one proximity.
func (t *Table) index(what State, circle uint8) int {
	return int(what)*t.levels + int(t.rank[circle])
}

// HasUsable reports whether an instance is usable.
func (t *Table) HasUsable() bool { return t.First != nil && t.best == Usable }

// Usable is the number of usable instances.
func (t *Table) Usable() (n int) {
	for i := range t.levels {
		n += int(t.counts[int(Usable)*t.levels+i])
	}
	return n
}

// Pickable is the number of instances that may be picked, if only as the last resort.
func (t *Table) Pickable() int {
	n := 0
	for _, size := range t.sizes[:len(t.circles)] {
		n += int(size)
	}
	return n
}

// Count is the number of members of a circle that are in one of these states.
func (t *Table) Count(circle uint8, states ...State) (n int) {
	for _, what := range states {
		n += int(t.counts[t.index(what, circle)])
	}
	return n
}

// Instances is the number of members of a circle, in any state.
func (t *Table) Instances(circle uint8) (n int) {
	for what := range numStates {
		n += t.Count(circle, what)
	}
	return n
}

// Demoted reports whether a circle is tried after one that the labels put farther
// away.
func (t *Table) Demoted(circle uint8) bool { return t.ahead(circle) != nil }

// ahead returns the first circle that is tried before a demoted one because it is
// nearer, nil if the circle is not demoted.
func (t *Table) ahead(circle uint8) *Circle {
	for _, c := range t.preferred {
		if c.index > circle && t.rank[c.index] < t.rank[circle] {
			return c
		}
	}
	return nil
}

// fullWeight is the weight of a circle if all of its instances were usable. Instances
// that leave, or lack an endpoint of the requested protocol, do not count.
func (t *Table) fullWeight(circle uint8) (sum int) {
	for _, what := range [...]State{Usable, Suspect, Open, NotReady} {
		sum += t.weights[t.index(what, circle)]
	}
	return sum
}

// nearLimit is the greatest distance of a near set whose nearest is at best. For
// ConsistentHash it is the whole circle, which all callers of a zone see alike: an
// instance near the edge would be near to some of them and not to others, and their keys
// would not agree.
func (t *Table) nearLimit(best time.Duration) time.Duration {
	if t.Kind == KindHash && t.NearSlack == 0 {
		return Never
	}
	limit := best + t.slack()
	if limit < best { // the slack is as long as can be
		return Never
	}
	if by := float64(best) * t.NearFactor; by < float64(Never) {
		return max(limit, time.Duration(by))
	}
	return Never
}

// slack is by how much an instance of a near set may be farther than the nearest. Zones
// differ by a millisecond or less, so it is less where only distances tell them apart.
func (t *Table) slack() time.Duration {
	switch {
	case t.NearSlack > 0:
		return t.NearSlack
	case t.placed && t.somePlaced:
		return nearSlack
	}
	return blindSlack
}

// Share is the part of the picks that begin with a circle.
func (t *Table) Share(circle uint8) float64 {
	if t.Spill == nil {
		if t.First != nil && t.First.index == circle {
			return 1
		}
		return 0
	}
	before := uint64(0)
	for i, c := range t.Spill.to {
		if c.index == circle {
			return float64(t.Spill.sums[i]-before) / (1 << 32)
		}
		before = t.Spill.sums[i]
	}
	return 0
}

// begins reports whether picks begin with a circle.
func (t *Table) begins(c *Circle) bool {
	if t.Spill == nil {
		return c == t.First
	}
	return slices.Contains(t.Spill.to, c)
}
