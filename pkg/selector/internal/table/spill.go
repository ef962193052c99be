package table

import (
	"math"
	"math/rand/v2"
	"slices"
)

// spareOf says how much of a circle may be missing before picks leave it: the
// rest takes what all would have taken while it is at least 1/spareOf of them.
const spareOf = 1.4

// Spill is how picks divide among circles when not all begin with the first. It
// is part of a table, and so never changed.
type Spill struct {
	ways []way
	upTo []uint64 // the sum of the shares until then, of 1<<32
}

// way is where a pick may begin.
type way struct {
	to   *Circle
	over *Circle // whose load is too high, so that this way was taken; or nil
}

// way is the one for a random number.
func (s *Spill) way(random uint32) way {
	for i, upTo := range s.upTo {
		if uint64(random) < upTo {
			return s.ways[i]
		}
	}
	return s.ways[len(s.ways)-1]
}

// healthy are the shares of the stages by health, 1 in all: each takes of what
// is left as much as its pickable weight allows, and leaves the rest to the
// next. If all together cannot take it, they do in proportion.
func (t *Table) healthy() []float64 {
	shares := make([]float64, len(t.stages))
	left := 1.0
	for i, c := range t.stages {
		can := 1.0
		if whole := t.weighs(c.index); whole > 0 {
			can = min(1, spareOf*float64(t.weights[t.index(t.best, c.index)])/float64(whole))
		}
		shares[i] = left * can
		left -= shares[i]
	}
	for i := range shares {
		shares[i] /= 1 - left
	}
	return shares
}

// weighs is the weight of a circle with all of its instances well: those that
// do not leave and have the protocol.
func (t *Table) weighs(circle uint8) (sum int) {
	for _, what := range [...]State{Usable, Suspect, Open, NotReady} {
		sum += t.weights[t.index(what, circle)]
	}
	return sum
}

// divide is the spill of a table, nil when all picks begin with the first
// circle. Of what begins in a circle with too high a load a part goes on to the
// next, as long as that has been added.
func (b *Builder) divide(t *Table) *Spill {
	if len(t.stages) < 2 {
		return nil
	}
	s := &Spill{}
	sum := 0.0
	for i, share := range t.healthy() {
		from := t.stages[i]
		for k, over := i, (*Circle)(nil); share > 0; k++ {
			flows := 0.0
			if k < b.reach && k+1 < len(t.stages) {
				flows = b.overflow(t.stages[k].index)
			}
			if stays := share * (1 - flows); stays > 1e-6 {
				sum += stays
				s.ways = append(s.ways, way{t.stages[k], over})
				s.upTo = append(s.upTo, uint64(math.Round(min(1, sum)*(1<<32))))
			}
			share, over = share*flows, from
		}
	}
	if len(s.ways) == 1 {
		return nil
	}
	s.upTo[len(s.upTo)-1] = 1 << 32
	return s
}

// like says whether another spill of the same table is hardly different.
func (s *Spill) like(other *Spill) bool {
	if s == nil || other == nil {
		return s == other
	}
	if !slices.Equal(s.ways, other.ways) {
		return false
	}
	for i := range s.upTo {
		if max(s.upTo[i], other.upTo[i])-min(s.upTo[i], other.upTo[i]) > 1<<32/100 {
			return false
		}
	}
	return true
}

// Share is how much of the picks begin with a circle. (Of those that come over
// from another the strategy may leave some there, see [table.along].)
func (t *Table) Share(circle uint8) (share float64) {
	if t.Spill == nil {
		if t.First != nil && t.First.index == circle {
			return 1
		}
		return 0
	}
	before := uint64(0)
	for i, w := range t.Spill.ways {
		if w.to.index == circle {
			share += float64(t.Spill.upTo[i]-before) / (1 << 32)
		}
		before = t.Spill.upTo[i]
	}
	return share
}

// wayTo is how picks come to begin with a circle, false if they do not.
func (t *Table) wayTo(c *Circle) (way, bool) {
	if t.Spill == nil {
		return way{to: c}, c == t.First
	}
	for _, w := range t.Spill.ways {
		if w.to == c {
			return w, true
		}
	}
	return way{}, false
}

// weighsUp says whether a strategy judges instances by what a call would cost,
// so that it can compare across circles.
func (k Kind) weighsUp() bool { return k == KindP2C || k == KindLeastRequest || k == KindLoadAware }

// along chooses on a way that leads to a circle that is not empty. One that was
// taken for load is only gone to the end if it is worth it: a strategy that
// knows what is better compares the best it finds on both ends, and stays with
// the nearer when they are alike.
func (t *Table) along(w way, now uint32) *Node {
	if w.over == nil || !t.Kind.weighsUp() {
		return t.Choose(w.to, now)
	}
	near, far := t.Choose(w.over, now), t.Choose(w.to, now)
	switch {
	case t.Kind == KindLeastRequest && far.queue() < near.queue(),
		t.Kind == KindP2C && lighter(near, far, now) == far,
		t.Kind == KindLoadAware && far.queue() < near.queue() && fitter(near, far, now) == far:
		return far
	}
	return near
}

// AnyWay draws where a pick begins.
func (t *Table) AnyWay(s *Spill, now uint32) *Node { return t.along(s.way(rand.Uint32()), now) }

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
