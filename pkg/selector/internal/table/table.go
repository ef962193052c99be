package table

import (
	"cmp"
	"slices"
	"sync"
	"time"
)

// table is what picks read: the instances of one service as one place sees
// them. It is replaced, never changed.
type Table struct {
	*lens
	Kind  Kind    // the strategy's
	First *Circle // where picks begin; nil: there is nothing to pick
	Spill *Spill  // where they begin when not all do so with first, else nil
	best  State   // of the instances in it
	// circles are first those of usable instances, nearest first (or as the
	// view's order says), then those of suspect ones, and so on through the
	// conditions before notReady: the order in which instances are tried.
	circles []Circle
	stages  []*Circle          // those of best that are not empty, if it is usable or suspect
	filled  map[*Node]struct{} // whose breakers are open and who are used all the same
	Panics  bool               // fewer than half are usable
	sizes   []uint32           // instances, in the same order, through all conditions
	weights []int              // and the sums of their weights
	counts  []uint32           // as sizes, of those that fill in by what they are
	rank    []uint8            // the place of each circle in the order
	levels  int                // circles of each condition
	Size    int                // instances, whatever they are good for
	ramps   bool               // some are new
	at      time.Duration      // when it was made, on the selector's clock
	young   time.Duration      // who was born after that is new
	Due     time.Duration      // when time alone makes another one

	Generation uint64
}

// Circle is the instances at one proximity that are in one condition.
type Circle struct {
	index    uint8
	trials   bool          // some of near were half-open when the table was made
	ramps    bool          // some are new
	known    bool          // best is of a distance that is more than assumed
	nearest  uint32        // member with the least distance
	best     time.Duration // its distance
	measured time.Duration // the least distance that was measured; 0: none was
	limit    time.Duration // the greatest of the near set
	near     []*Node       // about equally near; for Nearest, the nearest first
	thin     []uint32      // how probable it is that one of near is taken, of 1<<32; nil: all are
	rest     []*Node       // farther than the near set
	space    []*Node       // the memory of near and, from its end, rest
	weight   int           // of near

	stride stride // of near, for WeightedRoundRobin

	hashed sync.Once // guards the making of ring
	ring   *ring     // of near, for ConsistentHash

	sorted sync.Once // guards the making of bands
	bands  [][]*Node
}

// assemble makes a table: two passes over the list, no sorting, so that one change
// among thousands costs little.
func (b *Builder) assemble(members []Member, now time.Duration, generation uint64) *Table {
	levels := len(b.Assumed)
	t := &Table{
		lens: &b.lens, Kind: b.Kind, circles: make([]Circle, levels*int(NotReady)), sizes: make([]uint32, levels*int(conditions)), weights: make([]int, levels*int(conditions)),
		rank: b.order.rank, levels: levels, Size: len(members), at: now, Due: Never, Generation: generation,
	}

	// First pass: what each is, and the nearest of each circle.
	verdicts := slices.Grow(b.verdicts[:0], len(members))[:len(members)]
	b.verdicts = verdicts
	t.young = t.at - b.RampUp
	for i := range members {
		b.judge(&verdicts[i], &members[i])
		t.put(i, &verdicts[i], &members[i])
	}
	t.counts = t.sizes
	if t.fill(members, verdicts) {
		t.sizes, t.weights = make([]uint32, len(t.sizes)), make([]int, len(t.weights))
		for i := range members {
			t.put(i, &verdicts[i], &members[i])
		}
	}

	space := make([]*Node, t.Pickable())
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
		if what := State(i / levels); t.First == nil {
			t.First, t.best = c, what
		}
		if what := State(i / levels); what == t.best && what <= Suspect {
			t.stages = append(t.stages, c)
		}
	}
	t.cut(members, verdicts)
	t.Spill = b.divide(t)
	return t
}

// Build makes the table that picks read from now on.
func (b *Builder) Build(members []Member, now time.Duration, generation uint64) *Table {
	t := b.assemble(members, now, generation)
	if b.Home {
		for b.order.demote(t) {
			t = b.assemble(members, now, generation)
		}
		if t.ramps {
			t.Due = min(t.Due, t.at+rampStep)
		}
	}
	if b.Kind == KindHash && t.First != nil {
		b.ringOf(t.First) // now rather than by a pick
		for _, c := range t.stages {
			if t.Spill != nil {
				b.ringOf(c)
			}
		}
	}
	return t
}

// put puts a member into its circle: it may be the nearest of it.
func (t *Table) put(i int, vd *verdict, m *Member) {
	k := t.index(vd.as, vd.circle)
	vd.at = uint16(k)
	if vd.as < NotReady {
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
		if m.Born > t.young {
			c.ramps, t.ramps = true, true
		}
	}
	t.sizes[k]++
	t.weights[k] += int(m.weight)
}

// cut makes the near sets: the second pass.
func (t *Table) cut(members []Member, verdicts []verdict) {
	nearestFirst := t.Kind == KindNearest
	var ramps [][]float32 // of near sets
	if t.ramps && t.Kind.ramps() {
		ramps = make([][]float32, len(t.circles))
	}
	for i := range verdicts {
		vd := &verdicts[i]
		if vd.as >= NotReady {
			continue
		}
		c := &t.circles[vd.at]
		if vd.from(c) > c.limit {
			c.rest = c.space[len(c.space)-len(c.rest)-1:]
			c.rest[0] = members[i].Node
			c.weight -= int(members[i].weight)
			continue
		}
		c.near = append(c.near, members[i].Node)
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
			*of = append(*of, t.ramp(members[i].Born, t.at))
		}
	}
	for i := range t.circles {
		c := &t.circles[i]
		if ramps != nil {
			c.thin = thin(ramps[i])
		}
		if t.Kind == KindWeighted && len(c.near) > 0 {
			c.stride = newStride(c.near, c.thin)
		}
	}
}

func (t *Table) index(what State, circle uint8) int {
	return int(what)*t.levels + int(t.rank[circle])
}

// Pickable is how many instances may be picked, if only as the last resort.
func (t *Table) Pickable() int {
	n := 0
	for _, size := range t.sizes[:len(t.circles)] {
		n += int(size)
	}
	return n
}

// Count is how many members of a circle are in one of these conditions.
func (t *Table) Count(circle uint8, conditions ...State) (n int) {
	for _, what := range conditions {
		n += int(t.counts[t.index(what, circle)])
	}
	return n
}

// Instances is how many members a circle has, whatever they are good for.
func (t *Table) Instances(circle uint8) (n int) {
	for what := range conditions {
		n += t.Count(circle, what)
	}
	return n
}

// verdict is what a table makes of one member.
type verdict struct {
	distance time.Duration
	known    certainty
	circle   uint8
	State    State  // what it is
	at       uint16 // in the circles of the table
	as       State  // among whom it is used: not always those of its condition, see [table.fill]
}

// nearer compares with the nearest so far. What is known goes before what is
// assumed: nobody is the nearest for not having been measured.
func (vd *verdict) nearer(c *Circle) bool {
	if known := vd.known != assumed; known != c.known {
		return known
	}
	return vd.distance < c.best
}

// from is the distance that counts in a circle: one that is assumed is at least
// that of the nearest that is known.
func (vd *verdict) from(c *Circle) time.Duration {
	if vd.known == assumed {
		return max(vd.distance, c.best)
	}
	return vd.distance
}

func (l *lens) judge(vd *verdict, m *Member) {
	*vd = verdict{distance: m.distance, known: m.known, circle: m.Circle, State: m.State, as: m.State}
	if !l.Home {
		vd.circle = uint8(l.Levels.Circle(l.Place, m.In.Place()))
		if !l.near { // what we measured is not the distance from over there
			vd.distance, vd.known = l.Assumed[vd.circle], assumed
		}
	}
	if l.Protocols != 0 && m.Protocols&l.Protocols == 0 {
		vd.State, vd.as = Foreign, Foreign
	}
}

// farther are the nodes behind the near set, in bands of about equal distance,
// nearest first; for Nearest all nodes, each a band. They are needed when the
// near set has nothing to give, so they are sorted only then.
func (t *Table) farther(c *Circle) [][]*Node {
	c.sorted.Do(func() {
		one := t.Kind == KindNearest
		nodes := slices.Clone(c.rest)
		if one {
			nodes = slices.Clone(c.space)
		}
		distances := make(map[*Node]time.Duration, len(nodes))
		for _, n := range nodes {
			if d := n.distance(); t.near {
				distances[n] = (&verdict{distance: d.Distance, known: certaintyOf(d)}).from(c)
			}
		}
		slices.SortStableFunc(nodes, func(a, b *Node) int { return cmp.Compare(distances[a], distances[b]) })
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
