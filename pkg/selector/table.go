package selector

import (
	"cmp"
	"slices"
	"sync"
	"time"
)

// table is what picks read: the instances of one service as one place sees
// them. It is replaced, never changed.
type table struct {
	*lens
	kind  kind      // the strategy's
	first *circle   // where picks begin; nil: there is nothing to pick
	spill *spill    // where they begin when not all do so with first, else nil
	best  condition // of the instances in it
	// circles are first those of usable instances, nearest first (or as the
	// view's order says), then those of suspect ones, and so on through the
	// conditions before notReady: the order in which instances are tried.
	circles []circle
	stages  []*circle          // those of best that are not empty, if it is usable or suspect
	filled  map[*node]struct{} // whose breakers are open and who are used all the same
	panics  bool               // fewer than half are usable
	sizes   []uint32           // instances, in the same order, through all conditions
	weights []int              // and the sums of their weights
	counts  []uint32           // as sizes, of those that fill in by what they are
	rank    []uint8            // the place of each circle in the order
	levels  int                // circles of each condition
	total   int                // instances, whatever they are good for
	ramps   bool               // some are new
	at      time.Duration      // when it was made, on the selector's clock
	young   time.Duration      // who was born after that is new
	due     time.Duration      // when time alone makes another one

	generation uint64
}

// circle is the instances at one proximity that are in one condition.
type circle struct {
	index    uint8
	trials   bool          // some of near were half-open when the table was made
	ramps    bool          // some are new
	known    bool          // best is of a distance that is more than assumed
	nearest  uint32        // member with the least distance
	best     time.Duration // its distance
	measured time.Duration // the least distance that was measured; 0: none was
	limit    time.Duration // the greatest of the near set
	near     []*node       // about equally near; for Nearest, the nearest first
	thin     []uint32      // how probable it is that one of near is taken, of 1<<32; nil: all are
	rest     []*node       // farther than the near set
	space    []*node       // the memory of near and, from its end, rest
	weight   int           // of near

	stride stride // of near, for WeightedRoundRobin

	hashed sync.Once // guards the making of ring
	ring   *ring     // of near, for ConsistentHash

	sorted sync.Once // guards the making of bands
	bands  [][]*node
}

// build makes a table: two passes over the list, no sorting, so that one change
// among thousands costs little.
func (b *builder) build(members []member, now time.Duration, generation uint64) *table {
	levels := len(b.assumed)
	t := &table{
		lens: &b.lens, kind: b.kind, circles: make([]circle, levels*int(notReady)), sizes: make([]uint32, levels*int(conditions)), weights: make([]int, levels*int(conditions)),
		rank: b.order.rank, levels: levels, total: len(members), at: now, due: never, generation: generation,
	}

	// First pass: what each is, and the nearest of each circle.
	verdicts := slices.Grow(b.verdicts[:0], len(members))[:len(members)]
	b.verdicts = verdicts
	t.young = t.at - b.rampUp
	for i := range members {
		b.judge(&verdicts[i], &members[i])
		t.count(i, &verdicts[i], &members[i])
	}
	t.counts = t.sizes
	if t.fill(members, verdicts) {
		t.sizes, t.weights = make([]uint32, len(t.sizes)), make([]int, len(t.weights))
		for i := range members {
			t.count(i, &verdicts[i], &members[i])
		}
	}

	space := make([]*node, t.pickable())
	for i := range t.circles {
		c, size := &t.circles[i], t.sizes[i]
		c.index = b.order.circles[i%levels]
		c.limit = b.nearLimit(c.best)
		c.space, space = space[:size:size], space[size:]
		c.near, c.rest = c.space[:0], c.space[size:]
		c.weight = t.weights[i]
		if size == 0 {
			continue
		}
		if what := condition(i / levels); t.first == nil {
			t.first, t.best = c, what
		}
		if what := condition(i / levels); what == t.best && what <= suspect {
			t.stages = append(t.stages, c)
		}
	}
	t.cut(members, verdicts)
	t.spill = b.divide(t)
	return t
}

// next makes the table that picks read from now on.
func (b *builder) next(members []member, now time.Duration, generation uint64) *table {
	t := b.build(members, now, generation)
	if b.home {
		for b.order.demote(t) {
			t = b.build(members, now, generation)
		}
		if t.ramps {
			t.due = min(t.due, t.at+rampStep)
		}
	}
	if b.kind == kindHash && t.first != nil {
		b.ringOf(t.first) // now rather than by a pick
		for _, c := range t.stages {
			if t.spill != nil {
				b.ringOf(c)
			}
		}
	}
	return t
}

// count puts a member into its circle: it may be the nearest of it.
func (t *table) count(i int, vd *verdict, m *member) {
	k := t.index(vd.as, vd.circle)
	vd.at = uint16(k)
	if vd.as < notReady {
		c := &t.circles[k]
		first := t.sizes[k] == 0
		if first || vd.nearer(c) {
			c.best, c.nearest, c.known = vd.distance, uint32(i), vd.known != assumed
		}
		if first {
			c.measured = 0
		}
		if vd.known == measured && (c.measured == 0 || vd.distance < c.measured) {
			c.measured = vd.distance
		}
		if m.born > t.young {
			c.ramps, t.ramps = true, true
		}
	}
	t.sizes[k]++
	t.weights[k] += int(m.weight)
}

// cut makes the near sets: the second pass.
func (t *table) cut(members []member, verdicts []verdict) {
	nearestFirst := t.kind == kindNearest
	var ramps [][]float32 // of near sets
	if t.ramps && t.kind.ramps() {
		ramps = make([][]float32, len(t.circles))
	}
	for i := range verdicts {
		vd := &verdicts[i]
		if vd.as >= notReady {
			continue
		}
		c := &t.circles[vd.at]
		if vd.from(c) > c.limit {
			c.rest = c.space[len(c.space)-len(c.rest)-1:]
			c.rest[0] = members[i].node
			c.weight -= int(members[i].weight)
			continue
		}
		c.near = append(c.near, members[i].node)
		c.trials = c.trials || members[i].trial
		if nearestFirst && c.nearest == uint32(i) {
			first, last := &c.near[0], &c.near[len(c.near)-1]
			*first, *last = *last, *first
		}
		if ramps != nil && c.ramps {
			of := &ramps[vd.at]
			if *of == nil {
				*of = make([]float32, 0, len(c.space))
			}
			*of = append(*of, t.ramp(members[i].born, t.at))
		}
	}
	for i := range t.circles {
		c := &t.circles[i]
		if ramps != nil {
			c.thin = thin(ramps[i])
		}
		if t.kind == kindWeighted && len(c.near) > 0 {
			c.stride = newStride(c.near, c.thin)
		}
	}
}

func (t *table) index(what condition, circle uint8) int {
	return int(what)*t.levels + int(t.rank[circle])
}

// pickable is how many instances may be picked, if only as the last resort.
func (t *table) pickable() int {
	n := 0
	for _, size := range t.sizes[:len(t.circles)] {
		n += int(size)
	}
	return n
}

// of is how many members of a circle are in one of these conditions.
func (t *table) of(circle uint8, conditions ...condition) (n int) {
	for _, what := range conditions {
		n += int(t.counts[t.index(what, circle)])
	}
	return n
}

// has is how many members a circle has, whatever they are good for.
func (t *table) has(circle uint8) (n int) {
	for what := range conditions {
		n += t.of(circle, what)
	}
	return n
}

// verdict is what a table makes of one member.
type verdict struct {
	distance  time.Duration
	known     certainty
	circle    uint8
	condition condition // what it is
	at        uint16    // in the circles of the table
	as        condition // among whom it is used: not always those of its condition, see [table.fill]
}

// nearer compares with the nearest so far. What is known goes before what is
// assumed: nobody is the nearest for not having been measured.
func (vd *verdict) nearer(c *circle) bool {
	if known := vd.known != assumed; known != c.known {
		return known
	}
	return vd.distance < c.best
}

// from is the distance that counts in a circle: one that is assumed is at least
// that of the nearest that is known.
func (vd *verdict) from(c *circle) time.Duration {
	if vd.known == assumed {
		return max(vd.distance, c.best)
	}
	return vd.distance
}

func (l *lens) judge(vd *verdict, m *member) {
	*vd = verdict{distance: m.distance, known: m.known, circle: m.circle, condition: m.condition, as: m.condition}
	if !l.home {
		vd.circle = uint8(l.levels.Circle(l.place, m.in.Place()))
		if !l.near { // what we measured is not the distance from over there
			vd.distance, vd.known = l.assumed[vd.circle], assumed
		}
	}
	if l.protocols != 0 && m.protocols&l.protocols == 0 {
		vd.condition, vd.as = foreign, foreign
	}
}

// farther are the nodes behind the near set, in bands of about equal distance,
// nearest first; for Nearest all nodes, each a band. They are needed when the
// near set has nothing to give, so they are sorted only then.
func (t *table) farther(c *circle) [][]*node {
	c.sorted.Do(func() {
		one := t.kind == kindNearest
		nodes := slices.Clone(c.rest)
		if one {
			nodes = slices.Clone(c.space)
		}
		distances := make(map[*node]time.Duration, len(nodes))
		for _, n := range nodes {
			if d := n.distance(); t.near {
				distances[n] = (&verdict{distance: d.Distance, known: certaintyOf(d)}).from(c)
			}
		}
		slices.SortStableFunc(nodes, func(a, b *node) int { return cmp.Compare(distances[a], distances[b]) })
		for len(nodes) > 0 {
			end := 1
			for limit := t.nearLimit(distances[nodes[0]]); !one && end < len(nodes) && distances[nodes[end]] <= limit; {
				end++
			}
			c.bands = append(c.bands, nodes[:end])
			nodes = nodes[end:]
		}
	})
	return c.bands
}
