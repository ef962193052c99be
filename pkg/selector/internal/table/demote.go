package table

import (
	"slices"
	"time"
)

// A circle is demoted behind the next one when its least measured distance has been
// more than demoteAbove times that of the next plus demoteSlack for demoteAfter. It
// comes back when it has been less than restoreBelow times plus demoteSlack for as long.
const (
	demoteAbove  = 2
	restoreBelow = 1.5
)

// order is the order in which circles are tried.
type order struct {
	fixed   uint8         // the first circle whose place never changes
	circles []uint8       // in that order
	rank    []uint8       // the place of each circle in it; replaced, never changed
	pending []pendingSwap // pairs that change places if nothing else happens
}

// pendingSwap is two neighbors in the order that should stand the other way round.
type pendingSwap struct {
	first, second uint8
	since         time.Duration
}

func newOrder(levels, fixed int) order {
	o := order{fixed: uint8(fixed), circles: make([]uint8, levels), rank: make([]uint8, levels)}
	for i := range o.circles {
		o.circles[i], o.rank[i] = uint8(i), uint8(i)
	}
	return o
}

// demote compares each circle of a table with the next one. It reports whether two
// have changed places, so that the table must be built again.
//
// A predicted or assumed distance demotes no circle. A demoted circle comes back when
// nothing in it, or nothing in the other one, is measured any more.
func (o *order) demote(t *Table) bool {
	old := o.pending
	o.pending = nil
	for i := range max(0, len(t.preferred)-1) {
		first, second := t.preferred[i], t.preferred[i+1]
		if first.index >= o.fixed && second.index >= o.fixed {
			continue // in the order that the options state
		}
		known := first.measured > 0 && second.measured > 0
		var wrong bool
		if first.index < second.index {
			wrong = known && first.measured > demoteAbove*second.measured+demoteSlack
		} else {
			wrong = !known || float64(second.measured) < restoreBelow*float64(first.measured)+float64(demoteSlack)
		}
		if !wrong {
			continue
		}
		d := pendingSwap{first.index, second.index, t.at}
		if k := slices.IndexFunc(old, func(b pendingSwap) bool { return b.first == d.first && b.second == d.second }); k >= 0 {
			d.since = old[k].since
		}
		if t.at-d.since >= demoteAfter {
			o.moveBehind(d.first, d.second)
			o.pending = slices.DeleteFunc(old, func(b pendingSwap) bool { return b == d })
			return true
		}
		o.pending = append(o.pending, d)
		t.Due = min(t.Due, d.since+demoteAfter)
	}
	return false
}

// moveBehind puts a circle just behind another.
func (o *order) moveBehind(circle, other uint8) {
	o.circles = slices.DeleteFunc(slices.Clone(o.circles), func(c uint8) bool { return c == circle })
	o.circles = slices.Insert(o.circles, slices.Index(o.circles, other)+1, circle)
	o.rank = make([]uint8, len(o.circles))
	for i, c := range o.circles {
		o.rank[c] = uint8(i)
	}
}
