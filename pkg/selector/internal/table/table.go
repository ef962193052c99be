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

import "time"

// table is what picks read: the instances of one service as one place sees
// them. It is replaced, never changed.
type Table struct {
	*lens
	Kind  Kind    // the strategy's
	First *Circle // where picks begin; nil: there is nothing to pick
	Spill *Spill  // where they begin when not all do so with first, else nil
	best  State   // of the instances in it
	// circles are first those of usable instances, nearest first (or as the
	// view's order says), then those of suspect ones, and so on through the
	// conditions before notReady: the order in which instances are tried.
	circles []Circle
	stages  []*Circle          // those of best that are not empty, if it is usable or suspect
	filled  map[*Node]struct{} // whose breakers are open and who are used all the same
	Panics  bool               // fewer than half are usable
	sizes   []uint32           // instances, in the same order, through all conditions
	weights []int              // and the sums of their weights
	counts  []uint32           // as sizes, of those that fill in by what they are
	rank    []uint8            // the place of each circle in the order
	levels  int                // circles of each condition
	Size    int                // instances, whatever they are good for
	ramps   bool               // some are new
	at      time.Duration      // when it was made, on the selector's clock
	young   time.Duration      // who was born after that is new
	Due     time.Duration      // when time alone makes another one

	Generation uint64
}

func (t *Table) index(what State, circle uint8) int {
	return int(what)*t.levels + int(t.rank[circle])
}

// Pickable is how many instances may be picked, if only as the last resort.
func (t *Table) Pickable() int {
	n := 0
	for _, size := range t.sizes[:len(t.circles)] {
		n += int(size)
	}
	return n
}

// Count is how many members of a circle are in one of these conditions.
func (t *Table) Count(circle uint8, conditions ...State) (n int) {
	for _, what := range conditions {
		n += int(t.counts[t.index(what, circle)])
	}
	return n
}

// Instances is how many members a circle has, whatever they are good for.
func (t *Table) Instances(circle uint8) (n int) {
	for what := range conditions {
		n += t.Count(circle, what)
	}
	return n
}

// Demoted says whether a circle stands behind one that its labels put after it.
func (t *Table) Demoted(circle uint8) bool { return t.ahead(circle) != nil }

// ahead is the first circle that stands before a demoted one for its distance.
func (t *Table) ahead(circle uint8) *Circle {
	for _, c := range t.stages {
		if c.index > circle && t.rank[c.index] < t.rank[circle] {
			return c
		}
	}
	return nil
}
