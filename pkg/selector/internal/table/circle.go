package table

import (
	"cmp"
	"slices"
	"sync"
	"time"
)

// Circle is the instances at one proximity that are in one state.
type Circle struct {
	index     uint8
	halfOpen  bool          // some of near had a half-open breaker when the table was built
	rampingUp bool          // some are new
	known     bool          // best is more than assumed
	nearest   uint32        // index of the member with the least distance
	best      time.Duration // its distance
	measured  time.Duration // the least distance that was measured; 0: none was
	limit     time.Duration // the greatest distance of the near set
	near      []*Node       // about equally near; for Nearest, the nearest first
	admit     []uint32      // the probability that one of near is taken when it is its turn, of 1<<32; nil: all are 1
	upTo      []float64     // the sums of the weights of near up to each, as they ramp up; nil: all are equal
	uneven    bool          // the weights of near differ
	rest      []*Node       // farther than the near set
	backing   []*Node       // the memory of near and, from its end, rest
	oldest    float32       // the part of its weight that the oldest of near has, if rampingUp
	counts    counts        // when they were last collected, by the builder

	stride stride // of near, for WeightedRoundRobin

	ringOnce sync.Once // guards the making of ring
	ring     *ring     // of near, for ConsistentHash

	bandsOnce sync.Once // guards the making of bands
	bands     [][]*Node
}

// Index is the circle's.
func (c *Circle) Index() uint8 { return c.index }

// demotedFor is the distance that a circle is demoted for.
func (c *Circle) demotedFor() time.Duration { return cmp.Or(c.measured, c.best) }

// farther returns the nodes behind the near set in bands of about equal distance,
// nearest first; for Nearest all nodes, each a band. They are needed when no node of
// the near set is available, so they are sorted only then.
func (c *Circle) farther(l *Table) [][]*Node {
	c.bandsOnce.Do(func() {
		one := l.Kind == KindNearest
		nodes := slices.Clone(c.rest)
		if one {
			nodes = slices.Clone(c.backing)
		}
		distances := make(map[*Node]time.Duration, len(nodes))
		for _, n := range nodes {
			if d := n.distance(); l.near {
				distances[n] = (&verdict{distance: d.Distance, known: certaintyOf(d)}).distanceIn(c)
			}
		}
		slices.SortStableFunc(nodes, func(a, b *Node) int { return cmp.Compare(distances[a], distances[b]) })
		for len(nodes) > 0 {
			end := 1
			for limit := l.nearLimit(distances[nodes[0]]); !one && end < len(nodes) && distances[nodes[end]] <= limit; {
				end++
			}
			c.bands = append(c.bands, nodes[:end])
			nodes = nodes[end:]
		}
	})
	return c.bands
}
