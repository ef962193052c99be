package table

import (
	"math"
	"math/rand/v2"
	"time"

	"github.com/proxima-discovery/proxima/pkg/events"
)

const (
	leastRamp = 0.1           // of its weight: what a new instance begins with
	rampStep  = time.Second   // between tables while an instance ramps up
	LongAgo   = -1 << 62      // born then: as old as can be
	Never     = math.MaxInt64 // when nothing is due
)

// ramp is the share of its weight that an instance gets for its age.
func (s *Shared) ramp(Born, now time.Duration) float32 {
	if Born == LongAgo || now-Born >= s.RampUp {
		return 1
	}
	return leastRamp + (1-leastRamp)*float32(now-Born)/float32(s.RampUp)
}

func weightOf(in *events.Instance) uint16 { return uint16(min(max(1, in.Weight), math.MaxUint16)) }

// thin makes of the ramps of a near set how probable it is that one that was
// drawn is taken: next to the oldest, so that nobody is thinned out where all
// are new. It is nil when all are taken.
func thin(ramps []float32) []uint32 {
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

// draw draws one of a near set in which some are new. (At least one is always
// taken when it is drawn, and all are with leastRamp.)
func (c *Circle) draw() *Node {
	for {
		r := rand.Uint64()
		if i := (r >> 32) * uint64(len(c.near)) >> 32; uint32(r) <= c.thin[i] {
			return c.near[i]
		}
	}
}

// relieved is n, or another one if n has more calls in flight than that: where
// some are new most draws are of the same few, and one of those that does not
// answer any more must not get nearly all calls. A new one counts with the
// weight that it has by now, so this gives it no more than its share otherwise.
func (c *Circle) relieved(n *Node) *Node {
	i := rand.N(len(c.near))
	if c.near[i] == n {
		i = (i + 1) % len(c.near)
	}
	ramp := float32(c.thin[i]) / math.MaxUint32
	if other := c.near[i]; other.queue() < n.queue()*ramp {
		return other
	}
	return n
}

// keep says whether one that has its turn is taken.
func (c *Circle) keep(i uint32) bool { return c.thin == nil || uint32(rand.Uint64()) <= c.thin[i] }
