package table

import (
	"math/rand/v2"
	"slices"
	"sync/atomic"
	"time"

	"github.com/proxima-discovery/proxima/pkg/topology"
)

// shared is what all tables and nodes of one service have in common. All but
// the counters is fixed.
type Shared struct {
	Kind    Kind
	Levels  topology.Levels
	Origin  topology.Place  // the selector's own
	Assumed []time.Duration // distances by circle
	Epoch   time.Time       // what the clock of costs counts from
	Offset  uint64          // where this caller begins when it takes some of many

	NearSlack         time.Duration
	NearFactor        float64
	LoadHigh, LoadLow float64
	RampUp            time.Duration
	Spills            bool // load may make picks leave a circle

	AllInFlight atomic.Int64 // calls, if the strategy needs that
	Listed      atomic.Int64 // instances listed

	verdicts []verdict // memory for making a table, guarded by the service
}

// Now is the clock of costs, in nanoseconds: the monotonic clock alone, which
// takes half the time of time.Now.
func (s *Shared) Now() time.Duration { return time.Since(s.Epoch) }

// tick is the unit of times that are kept in few bits: about a millisecond, and
// a power of two, for dividing takes long.
const tick = 1 << 20 * time.Nanosecond

func Ticks(d time.Duration) uint32 { return uint32(uint64(d) / uint64(tick)) }

func (s *Shared) Name(circle uint8) string { return s.Levels.Name(int(circle)) }

func (s *Shared) nearLimit(best time.Duration) time.Duration {
	return max(best+s.NearSlack, time.Duration(float64(best)*s.NearFactor))
}

// lens is what a table is made for: the place that is to be near, and the
// protocol that instances must have an endpoint of.
type lens struct {
	*Shared
	Home      bool // from the selector's own place
	near      bool // near enough to it that distances measured here count
	Protocols Protocols
	Place     topology.Place
	turn      turn
	rings     []atomic.Pointer[ring] // the last of each circle, for ConsistentHash
}

// builder makes the tables of one lens, and keeps what outlives them. It is not
// safe for concurrent use; the tables that it made are.
type Builder struct {
	lens
	order order
	loads []float64 // of circles: calls in flight per instance, on average over a second
	reach int       // how many circles were added to the first for its load
}

// newBuilder is for the selector's own place if from is nil.
func NewBuilder(s *Shared, from *topology.Location, p Protocols) *Builder {
	b := &Builder{
		lens:  lens{Shared: s, Home: from == nil, near: true, Protocols: p, Place: s.Origin},
		order: newOrder(len(s.Assumed)), loads: make([]float64, len(s.Assumed)),
	}
	if from != nil {
		b.Place = topology.Place{Location: *from}
		b.near = s.Levels.Circle(s.Origin, b.Place) == 0
	}
	if s.Kind == KindHash {
		b.rings = make([]atomic.Pointer[ring], len(s.Assumed))
	}
	b.turn.n.Store(rand.Uint64N(1 << 32)) // callers do not all begin with the same instance
	return b
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

// assemble makes a table: two passes over the list, no sorting, so that one change
// among thousands costs little.
func (b *Builder) assemble(members []Member, now time.Duration, generation uint64) *Table {
	levels := len(b.Assumed)
	t := &Table{
		lens: &b.lens, Kind: b.Kind, circles: make([]Circle, levels*int(NotReady)), sizes: make([]uint32, levels*int(conditions)), weights: make([]int, levels*int(conditions)),
		rank: b.order.rank, levels: levels, Size: len(members), at: now, Due: Never, Generation: generation,
	}

	// First pass: what each is, and the nearest of each circle.
	b.verdicts = slices.Grow(b.verdicts[:0], len(members))[:len(members)]
	d := draft{t, members, b.verdicts}
	t.young = t.at - b.RampUp
	for i := range members {
		d.judge(&d.verdicts[i], &members[i])
		d.put(i, &d.verdicts[i], &members[i])
	}
	t.counts = t.sizes
	if d.fill() {
		t.sizes, t.weights = make([]uint32, len(t.sizes)), make([]int, len(t.weights))
		for i := range members {
			d.put(i, &d.verdicts[i], &members[i])
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
	d.cut()
	t.Spill = b.divide(t)
	return t
}

// draft is a table that is being made.
type draft struct {
	*Table
	members  []Member
	verdicts []verdict
}

// put puts a member into its circle: it may be the nearest of it.
func (d *draft) put(i int, vd *verdict, m *Member) {
	t := d.Table
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
func (d *draft) cut() {
	t, members, verdicts := d.Table, d.members, d.verdicts
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

// verdict is what a table makes of one member.
type verdict struct {
	distance time.Duration
	known    certainty
	circle   uint8
	State    State  // what it is
	at       uint16 // in the circles of the table
	as       State  // among whom it is used: not always those of its condition, see [draft.fill]
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

// judge says what a table makes of a member, before others are looked at.
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
