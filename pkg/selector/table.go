package selector

import (
	"cmp"
	"slices"
	"sync"
	"time"

	"github.com/proxima-discovery/proxima/pkg/latency"
)

// table is what picks read: the instances of one service as one place sees
// them. It is replaced, never changed.
type table struct {
	first *circle   // where picks begin; nil: there is nothing to pick
	best  condition // of the instances in it
	// circles are first those of usable instances, nearest first, then those
	// of suspect ones, and so on through the conditions before notReady: the
	// order in which instances are tried.
	circles    []circle
	sizes      []uint32 // instances, in the same order, through all conditions
	levels     int      // circles of each condition
	total      int      // instances, whatever they are good for
	generation uint64
}

// circle is the instances at one proximity that are in one condition.
type circle struct {
	index   uint8
	trials  bool          // some of near were half-open when the table was made
	known   bool          // best is of a distance that is more than assumed
	nearest uint32        // member with the least distance
	best    time.Duration // its distance
	limit   time.Duration // the greatest of the near set
	near    []*node       // about equally near; for Nearest, the nearest first
	rest    []*node       // farther than the near set
	space   []*node       // the memory of near and, from its end, rest

	stride stride // of near, for WeightedRoundRobin

	hashed sync.Once // guards the making of ring
	ring   *ring     // of near, for ConsistentHash

	sorted sync.Once // guards the making of bands
	bands  [][]*node
}

// build makes the table of a view: two passes over the list, no sorting, so
// that one change among thousands costs little. The service is locked.
func (v *view) build(members []member, generation uint64) *table {
	levels := len(v.svc.sel.assumed)
	t := &table{
		circles: make([]circle, levels*int(notReady)), sizes: make([]uint32, levels*int(conditions)), levels: levels,
		total: len(members), generation: generation,
	}

	// First pass: what each is, and the nearest of each circle.
	verdicts := slices.Grow(v.svc.verdicts[:0], len(members))[:len(members)]
	v.svc.verdicts = verdicts
	for i := range members {
		vd := v.judge(&members[i])
		verdicts[i] = vd
		k := t.index(vd.condition, vd.circle)
		if vd.condition < notReady {
			if c := &t.circles[k]; t.sizes[k] == 0 || vd.nearer(c) {
				c.best, c.nearest, c.known = vd.distance, uint32(i), !vd.assumed
			}
		}
		t.sizes[k]++
	}

	space := make([]*node, t.pickable())
	for i := range t.circles {
		c, size := &t.circles[i], t.sizes[i]
		c.index = uint8(i % levels)
		c.limit = v.nearLimit(c.best)
		c.space, space = space[:size:size], space[size:]
		c.near, c.rest = c.space[:0], c.space[size:]
		if size > 0 && t.first == nil {
			t.first, t.best = c, condition(i/levels)
		}
	}

	// Second pass: near sets.
	nearestFirst := v.svc.kind == kindNearest
	for i := range verdicts {
		vd := &verdicts[i]
		if vd.condition >= notReady {
			continue
		}
		c := &t.circles[t.index(vd.condition, vd.circle)]
		if vd.from(c) > c.limit {
			c.rest = c.space[len(c.space)-len(c.rest)-1:]
			c.rest[0] = members[i].node
			continue
		}
		c.near = append(c.near, members[i].node)
		c.trials = c.trials || members[i].trial
		if nearestFirst && c.nearest == uint32(i) {
			first, last := &c.near[0], &c.near[len(c.near)-1]
			*first, *last = *last, *first
		}
	}
	if v.svc.kind == kindWeighted {
		for i := range t.circles {
			if c := &t.circles[i]; len(c.near) > 0 {
				c.stride = newStride(c.near)
			}
		}
	}
	return t
}

func (t *table) index(what condition, circle uint8) int { return int(what)*t.levels + int(circle) }

// pickable is how many instances may be picked, if only as the last resort.
func (t *table) pickable() int {
	n := 0
	for _, size := range t.sizes[:len(t.circles)] {
		n += int(size)
	}
	return n
}

// count says what the instances at one proximity are.
func (t *table) count(circle uint8, name string) CircleCount {
	of := func(what condition) int { return int(t.sizes[t.index(what, circle)]) }
	c := CircleCount{
		Circle: name, Usable: of(usable), Open: of(open), Draining: of(draining) + of(leaving),
		NotReady: of(notReady), Suspect: of(suspect), Other: of(foreign),
	}
	c.Total = c.Usable + c.Open + c.Draining + c.NotReady + c.Suspect + c.Other
	return c
}

// noInstance is the error of a table that has nothing for a request.
func (v *view) noInstance(t *table) error {
	// What can be picked and was not: that is what the request avoids.
	e := &NoInstanceError{Service: v.svc.name, Avoided: t.pickable()}
	for i := range uint8(t.levels) {
		if c := t.count(i, v.svc.sel.opts.Levels.Name(int(i))); c.Total > 0 {
			e.Circles = append(e.Circles, c)
		}
	}
	return e
}

// verdict is what a table makes of one member.
type verdict struct {
	distance  time.Duration
	assumed   bool
	circle    uint8
	condition condition
}

// nearer compares with the nearest so far. What is known goes before what is
// assumed: nobody is the nearest for not having been measured.
func (vd *verdict) nearer(c *circle) bool {
	if vd.assumed == c.known {
		return !vd.assumed
	}
	return vd.distance < c.best
}

// from is the distance that counts in a circle: one that is assumed is at least
// that of the nearest that is known.
func (vd *verdict) from(c *circle) time.Duration {
	if vd.assumed {
		return max(vd.distance, c.best)
	}
	return vd.distance
}

func (v *view) judge(m *member) verdict {
	vd := verdict{m.distance, m.assumed, m.circle, m.condition}
	if !v.home {
		vd.circle = uint8(v.svc.sel.opts.Levels.Circle(v.place, m.in.Place()))
		if !v.near { // what we measured is not the distance from over there
			vd.distance, vd.assumed = v.svc.sel.assumed[vd.circle], true
		}
	}
	if v.protocols != 0 && m.protocols&v.protocols == 0 {
		vd.condition = foreign
	}
	return vd
}

func (v *view) nearLimit(best time.Duration) time.Duration {
	o := &v.svc.sel.opts
	return max(best+o.NearSlack, time.Duration(float64(best)*o.NearFactor))
}

// farther are the nodes behind the near set, in bands of about equal distance,
// nearest first; for Nearest all nodes, each a band. They are needed when the
// near set has nothing to give, so they are sorted only then.
func (v *view) farther(c *circle) [][]*node {
	c.sorted.Do(func() {
		one := v.svc.kind == kindNearest
		nodes := slices.Clone(c.rest)
		if one {
			nodes = slices.Clone(c.space)
		}
		distances := make(map[*node]time.Duration, len(nodes))
		for _, n := range nodes {
			if d := n.distance(); v.near {
				distances[n] = (&verdict{distance: d.Distance, assumed: d.Source == latency.SourceAssumed}).from(c)
			}
		}
		slices.SortStableFunc(nodes, func(a, b *node) int { return cmp.Compare(distances[a], distances[b]) })
		for len(nodes) > 0 {
			end := 1
			for limit := v.nearLimit(distances[nodes[0]]); !one && end < len(nodes) && distances[nodes[end]] <= limit; {
				end++
			}
			c.bands = append(c.bands, nodes[:end])
			nodes = nodes[end:]
		}
	})
	return c.bands
}
