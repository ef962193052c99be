package table

import (
	"context"
	"math/rand/v2"
	"slices"
	"sync/atomic"
	"time"

	"github.com/proxima-discovery/proxima/pkg/events"
	"github.com/proxima-discovery/proxima/pkg/selector/internal/spill"
	"github.com/proxima-discovery/proxima/pkg/topology"
)

// MaxSubsets is how many subsets of a service can have tables at a time: each is a bit of
// its members.
const MaxSubsets = 64

// Shared is what all tables and nodes of one service have in common. What is not a counter
// is fixed, but for the layout.
type Shared struct {
	Origin topology.Place // of the selector
	Epoch  time.Time      // when the selector's clock was 0

	PeriodStart atomic.Int64 // when the last period began, see [Node.GiveUp]; beside what every pick reads

	Offset uint64 // differs between callers, so that they do not all fill in the same instances

	Classify func(error) uint8                            // an [Outcome]
	Lives    func(context.Context, *events.Instance) bool // asks an instance
	Freed    func(start time.Duration)                    // is called when a bounded call that began then has ended

	AllInFlight [MaxSubsets + 1]atomic.Int64 // calls to all instances, and those to each subset, for ConsistentHash
	AllHeld     atomic.Uint64                // calls that are held against an instance, see [Node.hold]
	Hashes      atomic.Bool                  // there is a table for ConsistentHash
	Others      atomic.Bool                  // there is one for another strategy, whose calls AllInFlight does not count
	Slowest     atomic.Int64                 // the longest success lately, in nanoseconds, if it took more than leastSlowest
	Listed      atomic.Int64                 // instances listed
	Slow        atomic.Uint64                // attempts that were given up because the instance seemed to hang
	P95         atomic.Int64                 // in which 95 % of the successes end, in nanoseconds; 0: not known

	Sockets   string // the directory whose sockets may be used; empty: none
	endpoints endpoints

	layout   atomic.Pointer[Layout]
	verdicts []verdict // memory for building a table
}

// Rules are the settings by which tables are built. They are replaced, never changed.
type Rules struct {
	NearSlack  time.Duration // 0: by what the levels know, see [Table.slack]
	NearFactor float64
	RampUp     time.Duration
	Panic      float64 // the share of the instances below which others fill in
	Outermost  uint8   // circle that calls may be made to
	Leave      spill.Options
	Bounded    bool // calls in flight are: picks take their place, see [Node.BeginWithin]
}

// Now is the selector's clock, in nanoseconds: the monotonic clock alone, which takes
// half the time of time.Now.
func (s *Shared) Now() time.Duration { return time.Since(s.Epoch) }

// Lens says what a table is built for.
type Lens struct {
	From      *topology.Location // the place that is to be near; nil: the selector's own
	Protocols Protocols          // instances must have an endpoint of it; empty: of any
	Subset    uint8              // its number, from 1 to MaxSubsets; 0: all instances
	Kind      Kind               // of the strategy
}

// lens is what a table is built for, and by which rules.
type lens struct {
	*Shared
	*Rules
	*Layout
	Kind      Kind
	Subset    uint8
	Home      bool // Place is the selector's own
	placed    bool // something narrower than the region of Place is known
	near      bool // Place is in its innermost circle, so that distances measured here count
	Protocols Protocols
	endpoint  string // with a name, that Protocols stands for; empty: none
	Place     topology.Place
	turn      turn
	rings     []atomic.Pointer[ring] // the last one of each circle, for ConsistentHash
}

// Builder builds the tables of one lens, and keeps what outlives a table. It is not
// safe for concurrent use; the tables are. Builders of one Shared exclude each other.
type Builder struct {
	lens
	order   order
	rule    *spill.Rule
	counted []spill.Seen // by circle; only what is counted
	taken   []spill.Seen // of that, what is in Typical
	seen    []spill.Seen // at the last look

	rejecting map[*Node]*rejecting // of those that ever rejected a call
	shares    []float64            // that it gave
	looked    time.Duration
	last      *Table
}

// NewBuilder returns a Builder for a lens, and the layout that s has now.
func NewBuilder(s *Shared, r *Rules, of Lens) *Builder {
	l := s.Layout()
	circles := len(l.Assumed)
	b := &Builder{
		lens:  lens{Shared: s, Rules: r, Layout: l, Kind: of.Kind, Subset: of.Subset, Home: of.From == nil, near: true, Protocols: of.Protocols, Place: s.Origin},
		order: newOrder(circles, len(l.Levels)), rule: spill.New(r.Leave, circles),
		counted: make([]spill.Seen, circles), taken: make([]spill.Seen, circles), looked: -lookLasts,
		rejecting: make(map[*Node]*rejecting),
	}
	if of.From != nil {
		b.Place = topology.Place{Location: *of.From}
		b.near = l.Levels.Circle(s.Origin, b.Place) == 0
	}
	b.placed, b.endpoint = l.placed(b.Place), s.endpointOf(of.Protocols)
	if of.Kind == KindHash {
		b.rings = make([]atomic.Pointer[ring], circles)
		s.Hashes.Store(true)
	} else {
		s.Others.Store(true)
	}
	b.turn.n.Store(rand.Uint64N(1 << 32)) // callers do not all begin with the same instance
	return b
}

// Inherit takes over what another builder of the same place, protocol and subset has
// learned, which must not be used any more: the order of circles, and which calls leave
// them. It does nothing if the rules about that are others now.
func (b *Builder) Inherit(old *Builder) {
	if b.Layout != old.Layout || old.Leave.Off != b.Leave.Off || !slices.Equal(old.Leave.Price, b.Leave.Price) {
		return
	}
	b.order, b.rule, b.counted, b.taken, b.seen, b.shares = old.order, old.rule, old.counted, old.taken, old.seen, old.shares
	b.rejecting, b.looked, b.last = old.rejecting, old.looked, old.last
}

// Roster is a list of members, or some of those in it.
type Roster struct {
	Members []Member
	Of      []int32 // the places of those that count; nil: all of them
}

func (r *Roster) size() int {
	if r.Of != nil {
		return len(r.Of)
	}
	return len(r.Members)
}

func (r *Roster) at(i int) *Member {
	if r.Of != nil {
		return &r.Members[r.Of[i]]
	}
	return &r.Members[i]
}

// Build returns the table that picks read from now on. The roster is ordered as the
// caller likes and not kept. generation is for the caller: it names the list that a table
// is of.
func (b *Builder) Build(members Roster, now time.Duration, generation uint64) *Table {
	looks := now-b.looked < lookLasts
	if b.last != nil && looks {
		b.collect(b.last)
	}
	t := b.assemble(members, now, generation)
	if b.Home {
		for b.Kind != KindHash && b.order.demote(t) { // callers of a zone would differ about keys
			t = b.assemble(members, now, generation)
		}
		if t.rampingUp {
			t.Due = min(t.Due, t.at+rampEvery)
		}
	}
	if b.last = t; looks {
		for _, c := range t.preferred {
			c.counts = c.count()
		}
	}
	if b.Kind == KindHash && t.First != nil {
		b.ringOf(t.First) // rather than in a pick
		for _, c := range t.preferred {
			if t.Spill != nil {
				b.ringOf(c)
			}
		}
	}
	return t
}

// assemble builds a table in two passes over the list, without sorting, so that one
// change among thousands costs little. It does not change the order of circles.
func (b *Builder) assemble(members Roster, now time.Duration, generation uint64) *Table {
	levels, size := len(b.Assumed), members.size()
	t := &Table{
		lens: &b.lens, Kind: b.Kind, circles: make([]Circle, levels*int(NotReady)), sizes: make([]uint32, levels*int(numStates)), weights: make([]int, levels*int(numStates)),
		rank: b.order.rank, levels: levels, Size: size, at: now, Due: Never, Generation: generation,
	}

	// First pass: the state of each, and the nearest of each circle.
	b.verdicts = slices.Grow(b.verdicts[:0], size)[:size]
	d := draft{t, members, b.verdicts}
	t.newSince = t.at - b.RampUp
	gone := allGone(&members)
	for i := range size {
		m := members.at(i)
		d.judge(&d.verdicts[i], m)
		if vd := &d.verdicts[i]; gone && vd.State == Dead {
			vd.State, vd.usedAs = Gone, Gone
		}
		d.put(i, &d.verdicts[i], m)
		t.somePlaced = t.somePlaced || m.placed
	}
	t.counts = t.sizes
	if d.fill() {
		t.sizes, t.weights = make([]uint32, len(t.sizes)), make([]int, len(t.weights))
		for i := range size {
			d.put(i, &d.verdicts[i], members.at(i))
		}
	}

	space := make([]*Node, t.Pickable())
	for i := range t.circles {
		c, size := &t.circles[i], t.sizes[i]
		c.index = b.order.circles[i%levels]
		c.limit = t.nearLimit(c.best)
		c.backing, space = space[:size:size], space[size:]
		c.near, c.rest = c.backing[:0], c.backing[size:]
		if size == 0 {
			continue
		}
		if what := State(i / levels); t.First == nil {
			t.First, t.best = c, what
		}
		if what := State(i / levels); what == t.best && what <= Suspect {
			t.preferred = append(t.preferred, c)
		}
	}
	d.cut()
	t.Spill = newSpill(t, b.carry(t))
	return t
}

// draft is a table that is being built.
type draft struct {
	*Table
	members  Roster
	verdicts []verdict
}

// put adds a member to the counts of its circle, and remembers it if it is the nearest.
func (d *draft) put(i int, vd *verdict, m *Member) {
	t := d.Table
	k := t.index(vd.usedAs, vd.circle)
	vd.slot = uint16(k)
	if vd.usedAs < NotReady {
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
		if m.Born > t.newSince {
			c.rampingUp, t.rampingUp = true, true
		}
	}
	t.sizes[k]++
	t.weights[k] += int(m.weight)
}

// cut is the second pass: it divides each circle into near set and rest.
func (d *draft) cut() {
	t, members, verdicts := d.Table, &d.members, d.verdicts
	nearestFirst := t.Kind == KindNearest
	var ramps [][]float32 // of near sets
	if t.rampingUp && t.Kind.ramps() {
		ramps = make([][]float32, len(t.circles))
	}
	for i := range verdicts {
		vd := &verdicts[i]
		if vd.usedAs >= NotReady {
			continue
		}
		c, m := &t.circles[vd.slot], members.at(i)
		if vd.distanceIn(c) > c.limit {
			c.rest = c.backing[len(c.backing)-len(c.rest)-1:]
			c.rest[0] = m.Node
			continue
		}
		c.near = append(c.near, m.Node)
		c.uneven = c.uneven || m.weight != members.at(int(c.nearest)).weight
		c.halfOpen = c.halfOpen || m.halfOpen
		if nearestFirst && c.nearest == uint32(i) {
			first, last := &c.near[0], &c.near[len(c.near)-1]
			*first, *last = *last, *first
		}
		if !c.rampingUp {
			continue
		}
		ramp := t.ramp(m.Born, t.at)
		c.oldest = max(c.oldest, ramp)
		if ramps != nil {
			of := &ramps[vd.slot]
			if *of == nil {
				*of = make([]float32, 0, len(c.backing))
			}
			*of = append(*of, ramp)
		}
	}
	for i := range t.circles {
		c := &t.circles[i]
		if ramps != nil {
			c.admit = admission(ramps[i])
		}
		if len(c.near) > 1 {
			switch t.Kind {
			case KindWeighted:
				c.stride = newStride(c.near, c.admit)
			case KindRandom, KindP2C, KindLeastRequest, KindLoadAware:
				if c.uneven || c.admit != nil {
					c.upTo = sums(c.near, c.admit)
				}
			}
		}
	}
}

// verdict is how a table uses one member.
type verdict struct {
	distance time.Duration
	known    certainty
	circle   uint8
	State    State  // what it is
	slot     uint16 // its circle, in the circles of the table
	usedAs   State  // the state among which it is used: not State if it fills in, see [draft.fill]
}

// nearer reports whether the member is nearer than the nearest so far. A distance that
// is known goes before an assumed one: an instance is not the nearest because it was
// never measured.
func (vd *verdict) nearer(c *Circle) bool {
	if known := vd.known != assumed; known != c.known {
		return known
	}
	return vd.distance < c.best
}

// distanceIn is the distance that counts in a circle: an assumed one is at least that
// of the nearest that is known.
func (vd *verdict) distanceIn(c *Circle) time.Duration {
	if vd.known == assumed {
		return max(vd.distance, c.best)
	}
	return vd.distance
}

// judge makes the verdict on a member, regardless of the others.
func (l *lens) judge(vd *verdict, m *Member) {
	*vd = verdict{distance: m.distance, known: m.known, circle: m.Circle, State: m.State, usedAs: m.State}
	if !l.Home {
		vd.circle = l.Circle(l.Place, m.In.Place())
		// What was measured here is not the distance from there. An assumed distance is that of
		// the circle, which may be another one also from nearby: from r/a, and from an a whose
		// region is unknown.
		if !l.near || vd.known == assumed {
			vd.distance, vd.known = l.Assumed[vd.circle], assumed
		}
	}
	if vd.circle > l.Outermost {
		vd.State, vd.usedAs = Outside, Outside
		return
	}
	if !l.offers(m) {
		vd.State, vd.usedAs = OtherProtocol, OtherProtocol
	}
}
