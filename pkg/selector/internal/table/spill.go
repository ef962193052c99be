package table

import (
	"math"
	"math/rand/v2"
	"slices"
)

// overprovision is by how much the weight of a circle exceeds what it needs: calls stay
// while 1/overprovision of its weight (71 %) can be picked.
const overprovision = 1.4

// Spill is how picks divide among circles when not all begin with the first one. Like
// its table it is never changed.
type Spill struct {
	starts []start
	sums   []uint64 // of the shares up to each, of 1<<32
}

// start is where a pick may begin.
type start struct {
	to           *Circle
	overflowFrom *Circle // the circle whose load is too high for the pick, or nil
}

// start is the one for a random number.
func (s *Spill) start(random uint32) start {
	for i, upTo := range s.sums {
		if uint64(random) < upTo {
			return s.starts[i]
		}
	}
	return s.starts[len(s.starts)-1]
}

// healthShares are the shares of the preferred circles by health, 1 in all: each takes
// of what is left as much as its pickable weight allows, and the next one gets the
// rest. If all of them together cannot take it, each gets a proportional share.
func (t *Table) healthShares() []float64 {
	shares := make([]float64, len(t.preferred))
	left := 1.0
	for i, c := range t.preferred {
		can := 1.0
		if whole := t.fullWeight(c.index); whole > 0 {
			can = min(1, overprovision*float64(t.weights[t.index(t.best, c.index)])/float64(whole))
		}
		shares[i] = left * can
		left -= shares[i]
	}
	for i := range shares {
		shares[i] /= 1 - left
	}
	return shares
}

// fullWeight is the weight of a circle if all of its instances were usable. Instances
// that leave, or have not the requested protocol, do not count.
func (t *Table) fullWeight(circle uint8) (sum int) {
	for _, what := range [...]State{Usable, Suspect, Open, NotReady} {
		sum += t.weights[t.index(what, circle)]
	}
	return sum
}

// newSpill returns the spill of a table, nil if all picks begin with the first circle.
// Part of the share of an overloaded circle goes on to the next one, within reach.
func (b *Builder) newSpill(t *Table) *Spill {
	if len(t.preferred) < 2 {
		return nil
	}
	s := &Spill{}
	sum := 0.0
	for i, share := range t.healthShares() {
		from := t.preferred[i]
		for k, overflowFrom := i, (*Circle)(nil); share > 0; k++ {
			flows := 0.0
			if k < b.reach && k+1 < len(t.preferred) {
				flows = b.overflow(t.preferred[k].index)
			}
			if stays := share * (1 - flows); stays > 1e-6 {
				sum += stays
				s.starts = append(s.starts, start{t.preferred[k], overflowFrom})
				s.sums = append(s.sums, uint64(math.Round(min(1, sum)*(1<<32))))
			}
			share, overflowFrom = share*flows, from
		}
	}
	if len(s.starts) == 1 {
		return nil
	}
	s.sums[len(s.sums)-1] = 1 << 32
	return s
}

// similar reports whether another spill of the same table differs by at most 1 %.
func (s *Spill) similar(other *Spill) bool {
	if s == nil || other == nil {
		return s == other
	}
	if !slices.Equal(s.starts, other.starts) {
		return false
	}
	for i := range s.sums {
		if max(s.sums[i], other.sums[i])-min(s.sums[i], other.sums[i]) > 1<<32/100 {
			return false
		}
	}
	return true
}

// Share is the part of the picks that begin with a circle. (Of the picks that come from
// an overloaded circle some stay there, see [Table.ChooseSpilled].)
func (t *Table) Share(circle uint8) (share float64) {
	if t.Spill == nil {
		if t.First != nil && t.First.index == circle {
			return 1
		}
		return 0
	}
	before := uint64(0)
	for i, w := range t.Spill.starts {
		if w.to.index == circle {
			share += float64(t.Spill.sums[i]-before) / (1 << 32)
		}
		before = t.Spill.sums[i]
	}
	return share
}

// startAt returns how picks come to begin with a circle, false if they do not.
func (t *Table) startAt(c *Circle) (start, bool) {
	if t.Spill == nil {
		return start{to: c}, c == t.First
	}
	for _, w := range t.Spill.starts {
		if w.to == c {
			return w, true
		}
	}
	return start{}, false
}

// comparesLoad reports whether a strategy judges instances by what a call would cost,
// so that it can compare across circles.
func (k Kind) comparesLoad() bool { return k == KindP2C || k == KindLeastRequest || k == KindLoadAware }

// chooseFrom chooses a node for a pick that begins there. If it comes from an overloaded
// circle, a strategy that compares load chooses one node of each circle, and takes the
// farther one only if that is better.
func (t *Table) chooseFrom(w start, now uint32) *Node {
	if w.overflowFrom == nil || !t.Kind.comparesLoad() {
		return t.Choose(w.to, now)
	}
	near, far := t.Choose(w.overflowFrom, now), t.Choose(w.to, now)
	switch {
	case t.Kind == KindLeastRequest && far.queue() < near.queue(),
		t.Kind == KindP2C && lessLoaded(near, far, now) == far,
		t.Kind == KindLoadAware && far.queue() < near.queue() && moreSpare(near, far, now) == far:
		return far
	}
	return near
}

// ChooseSpilled draws where a pick begins, and chooses a node.
func (t *Table) ChooseSpilled(s *Spill, now uint32) *Node {
	return t.chooseFrom(s.start(rand.Uint32()), now)
}

const (
	// loadWeight is the weight of each look in the average of a load. There are five
	// looks a second, so it is an average over about one second.
	loadWeight = 0.18
	// LowOfHigh is the low mark that goes with a high one.
	LowOfHigh = 0.4
	// noLoad is the load below which a circle counts as idle.
	noLoad = 0.005
)

// Weigh updates the loads of the circles of a table. It extends the reach to the next
// circle if the load of the last one within reach is above the high mark, and shortens
// it if the load of the one before is below the low mark. It returns the table with the
// spill that follows, which is t itself if little has changed, and whether there is any
// load. It is meant to be called five times a second.
func (b *Builder) Weigh(t *Table) (next *Table, loaded bool) {
	old := slices.Clone(b.loads)
	clear(b.loads)
	for _, c := range t.preferred {
		load := old[c.index] + loadWeight*(c.load()-old[c.index])
		if load < noLoad {
			load = 0
		}
		b.loads[c.index] = load
		loaded = loaded || load > 0
	}
	before := b.reach
	b.reach = max(0, min(b.reach, len(t.preferred)-1))
	switch {
	case b.reach+1 < len(t.preferred) && b.loads[t.preferred[b.reach].index] > b.LoadHigh:
		b.reach++
	case b.reach > 0 && b.loads[t.preferred[b.reach-1].index] < b.LoadLow:
		b.reach--
	}
	next = t
	if b.reach > 0 || before > 0 {
		if s := b.newSpill(t); !s.similar(t.Spill) {
			changed := *t
			changed.Spill = s
			next = &changed
		}
	}
	return next, loaded || b.reach > 0
}

// overflow is the part of the picks of a circle that go on to the next one within
// reach: what is above the high mark. For a strategy that compares load it is what is
// above the low mark, because that strategy takes the next circle only where it is
// better. Neither brings the load of the circle below the mark, so leaving a circle does
// not undo its own cause.
func (b *Builder) overflow(circle uint8) float64 {
	mark := b.LoadHigh
	if b.Kind.comparesLoad() {
		mark = b.LoadLow
	}
	return max(0, 1-mark/max(mark, b.loads[circle]))
}
