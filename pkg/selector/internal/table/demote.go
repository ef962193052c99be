package table

import (
	"slices"
	"time"
)

// A circle goes behind the next one when its best measured distance has been over
// demoteAbove times that of the next and demoteSlack for demoteAfter, and comes
// back when it has been under restoreBelow times and demoteSlack for as long.
const (
	demoteAbove  = 2
	restoreBelow = 1.5
	demoteSlack  = 2 * time.Millisecond
	demoteAfter  = 10 * time.Second
)

// order is in which order a view goes through the circles.
type order struct {
	circles []uint8 // in that order
	rank    []uint8 // the reverse: the place of each circle. Replaced, never changed
	doubts  []doubt // pairs that are about to change places
}

// doubt is two circles, one after the other, that should stand the other way
// round.
type doubt struct {
	first, second uint8
	since         time.Duration
}

func newOrder(levels int) order {
	o := order{circles: make([]uint8, levels), rank: make([]uint8, levels)}
	for i := range o.circles {
		o.circles[i], o.rank[i] = uint8(i), uint8(i)
	}
	return o
}

// demote compares the circles of a table with those after them. It reports
// whether two have changed places, so that the table has to be made anew.
//
// A distance that is only predicted or assumed is nothing to go by: it takes no
// circle out of the order that the labels give. One that is out of it comes back
// when nothing in it, or in the other, is measured any more.
func (o *order) demote(t *Table) bool {
	old := o.doubts
	o.doubts = nil
	for i := range max(0, len(t.stages)-1) {
		first, second := t.stages[i], t.stages[i+1]
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
		d := doubt{first.index, second.index, t.at}
		if k := slices.IndexFunc(old, func(b doubt) bool { return b.first == d.first && b.second == d.second }); k >= 0 {
			d.since = old[k].since
		}
		if t.at-d.since >= demoteAfter {
			o.behind(d.first, d.second)
			o.doubts = slices.DeleteFunc(old, func(b doubt) bool { return b == d })
			return true
		}
		o.doubts = append(o.doubts, d)
		t.Due = min(t.Due, d.since+demoteAfter)
	}
	return false
}

// behind puts a circle just behind another.
func (o *order) behind(circle, other uint8) {
	o.circles = slices.DeleteFunc(slices.Clone(o.circles), func(c uint8) bool { return c == circle })
	o.circles = slices.Insert(o.circles, slices.Index(o.circles, other)+1, circle)
	o.rank = make([]uint8, len(o.circles))
	for i, c := range o.circles {
		o.rank[c] = uint8(i)
	}
}
