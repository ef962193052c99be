package table

import (
	"math/rand/v2"
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
