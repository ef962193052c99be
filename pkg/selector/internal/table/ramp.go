package table

import (
	"math"
	"math/rand/v2"
	"time"
)

// initialShare is the part of its weight that a new instance begins with.
const initialShare = 0.1

// ramp is the part of its weight that an instance of that age has.
func (s *Shared) ramp(born, now time.Duration) float32 {
	if born == LongAgo || now-born >= s.RampUp {
		return 1
	}
	return initialShare + (1-initialShare)*float32(now-born)/float32(s.RampUp)
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

// draw returns a random node of a near set in which some are new. (It ends: the oldest
// is always taken when it is drawn.)
func (c *Circle) draw() *Node {
	for {
		r := rand.Uint64()
		if i := (r >> 32) * uint64(len(c.near)) >> 32; uint32(r) <= c.admit[i] {
			return c.near[i]
		}
	}
}

// orLessLoaded returns another random node if that has fewer calls in flight than n,
// else n. Where some are new most draws are of the same few nodes, and one of those
// that stopped answering must not get nearly all calls. A new node counts with the
// weight that it has now, so this gives it no more than its share otherwise.
func (c *Circle) orLessLoaded(n *Node) *Node {
	i := rand.N(len(c.near))
	if c.near[i] == n {
		i = (i + 1) % len(c.near)
	}
	ramp := float32(c.admit[i]) / math.MaxUint32
	if other := c.near[i]; other.queue() < n.queue()*ramp {
		return other
	}
	return n
}

// admits reports whether a node is taken when it is its turn.
func (c *Circle) admits(i uint32) bool { return c.admit == nil || uint32(rand.Uint64()) <= c.admit[i] }
