package table

import (
	"math"
	"math/rand/v2"
	"slices"
	"time"
)

// initialShare is the part of its weight that a new instance begins with.
const initialShare = 0.1

// ramp is the part of its weight that an instance of that age has.
func (r *Rules) ramp(born, now time.Duration) float32 {
	if born == LongAgo || now-born >= r.RampUp {
		return 1
	}
	return initialShare + (1-initialShare)*float32(now-born)/float32(r.RampUp)
}

// admission turns the ramps of a near set into the probabilities that a node which
// was drawn is taken. They are relative to the oldest node, so that all are taken where
// all are new. It is nil if all are taken.
func admission(ramps []float32) []uint32 {
	oldest, youngest := float32(0), float32(1)
	for _, r := range ramps {
		oldest, youngest = max(oldest, r), min(youngest, r)
	}
	if youngest > 0.995*oldest {
		return nil
	}
	take := make([]uint32, len(ramps))
	for i, r := range ramps {
		take[i] = uint32(min(float64(r/oldest)*math.MaxUint32, math.MaxUint32))
	}
	return take
}

// admits reports whether a node is taken when it is its turn.
func (c *Circle) admits(i uint32) bool { return c.admit == nil || uint32(rand.Uint64()) <= c.admit[i] }

// sums returns the sums of the weights up to each node of a near set, with the
// admission of its new nodes.
func sums(near []*Node, admit []uint32) []float64 {
	upTo := make([]float64, len(near))
	sum := 0.0
	for i, n := range near {
		w := float64(weightOf(n.Instance.Load()))
		if admit != nil {
			w *= float64(admit[i]) / math.MaxUint32
		}
		sum += w
		upTo[i] = sum
	}
	return upTo
}

// draw returns the index of a random node of a near set, by weight.
func (c *Circle) draw() int {
	i, _ := slices.BinarySearch(c.upTo, rand.Float64()*c.upTo[len(c.upTo)-1])
	return min(i, len(c.upTo)-1)
}

// weightOf is the weight of a node of a near set, as it ramps up.
func (c *Circle) weightOf(i int) float32 {
	if i == 0 {
		return float32(c.upTo[0])
	}
	return float32(c.upTo[i] - c.upTo[i-1])
}
