package selector

import (
	"math/rand/v2"
	"sync/atomic"
	"time"

	"github.com/proxima-discovery/proxima/pkg/topology"
)

// shared is what all tables and nodes of one service have in common. All but
// the counters is fixed.
type shared struct {
	kind    kind
	levels  topology.Levels
	origin  topology.Place  // the selector's own
	assumed []time.Duration // distances by circle
	epoch   time.Time       // what the clock of costs counts from
	offset  uint64          // where this caller begins when it takes some of many

	nearSlack         time.Duration
	nearFactor        float64
	loadHigh, loadLow float64
	rampUp            time.Duration
	spills            bool // load may make picks leave a circle

	inFlightOfAll atomic.Int64 // calls, if the strategy needs that
	total         atomic.Int64 // instances listed

	verdicts []verdict // memory for making a table, guarded by the service
}

// now is the clock of costs, in nanoseconds: the monotonic clock alone, which
// takes half the time of time.Now.
func (s *shared) now() time.Duration { return time.Since(s.epoch) }

// tick is the unit of times that are kept in few bits: about a millisecond, and
// a power of two, for dividing takes long.
const tick = 1 << 20 * time.Nanosecond

func ticks(d time.Duration) uint32 { return uint32(uint64(d) / uint64(tick)) }

func (s *shared) name(circle uint8) string { return s.levels.Name(int(circle)) }

func (s *shared) nearLimit(best time.Duration) time.Duration {
	return max(best+s.nearSlack, time.Duration(float64(best)*s.nearFactor))
}

// lens is what a table is made for: the place that is to be near, and the
// protocol that instances must have an endpoint of.
type lens struct {
	*shared
	home      bool // from the selector's own place
	near      bool // near enough to it that distances measured here count
	protocols protocols
	place     topology.Place
	turn      turn
	rings     []atomic.Pointer[ring] // the last of each circle, for ConsistentHash
}

// builder makes the tables of one lens, and keeps what outlives them. It is not
// safe for concurrent use; the tables that it made are.
type builder struct {
	lens
	order order
	loads []float64 // of circles: calls in flight per instance, on average over a second
	reach int       // how many circles were added to the first for its load
}

// newBuilder is for the selector's own place if from is nil.
func newBuilder(s *shared, from *topology.Location, p protocols) *builder {
	b := &builder{
		lens:  lens{shared: s, home: from == nil, near: true, protocols: p, place: s.origin},
		order: newOrder(len(s.assumed)), loads: make([]float64, len(s.assumed)),
	}
	if from != nil {
		b.place = topology.Place{Location: *from}
		b.near = s.levels.Circle(s.origin, b.place) == 0
	}
	if s.kind == kindHash {
		b.rings = make([]atomic.Pointer[ring], len(s.assumed))
	}
	b.turn.n.Store(rand.Uint64N(1 << 32)) // callers do not all begin with the same instance
	return b
}
