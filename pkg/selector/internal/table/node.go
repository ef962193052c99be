package table

import (
	"math"
	"sync/atomic"
	"time"

	"github.com/proxima-discovery/proxima/pkg/breaker"
	"github.com/proxima-discovery/proxima/pkg/events"
	"github.com/proxima-discovery/proxima/pkg/latency"
)

// node is all that this caller has learned about one incarnation of an
// instance. It lives as long as that is listed. It is one cache line.
type Node struct {
	// calls counts in its low bits the calls in flight and above them all
	// picks ever: one atomic operation for both.
	calls atomic.Uint64
	// cost is the moving average of the durations of calls, negative if the
	// last one failed, and the time of its last change, see [packCost].
	cost     atomic.Uint64
	Breaker  *breaker.Breaker
	Instance atomic.Pointer[events.Instance]
	scale    atomic.Uint32 // a float32: DefaultWeight / weight
	Home     uint8         // circle seen from the selector's own place
	beat     atomic.Uint64 // its score by its last beat and when that was heard, see [packCost]; for LoadAware

	*Shared
	Path *latency.Path
}

// Close gives back what the node holds. No lock is held: hooks may run.
func (n *Node) Close() {
	n.Breaker.Close()
	n.Path.Close()
}

const (
	inFlightBits = 20 // a million calls at once
	inFlightMask = 1<<inFlightBits - 1
	onePick      = 1<<inFlightBits | 1
)

// queue is what one more call would find: the calls in flight, by weight.
func (n *Node) queue() float32 {
	return float32(n.InFlight()+1) * math.Float32frombits(n.scale.Load())
}

func (n *Node) setWeight(weight int) {
	n.scale.Store(math.Float32bits(events.DefaultWeight / float32(max(1, weight))))
}

// Begin notes that a call of it begins, and End that one has ended.
func (n *Node) Begin() { n.calls.Add(onePick) }

// End is the end of what Begin began.
func (n *Node) End() { n.calls.Add(^uint64(0)) }

func (n *Node) InFlight() uint64 { return n.calls.Load() & inFlightMask }
func (n *Node) Picks() uint64    { return n.calls.Load() >> inFlightBits }

// distance from the selector's own place, as far as it is known.
func (n *Node) distance() latency.Estimate { return n.Path.Estimate(n.Assumed[n.Home]) }

// The average of durations follows each sample by at least minWeight, so that
// a busy instance is known after some 30 calls, and by as much as has faded of
// it since the last sample, so that a quiet one is not judged by the past. A
// cost that is not renewed fades by a factor of e every decay, so an instance
// that was slow is tried again: after 7 s if it was twice as slow, after 46 s
// if a hundred times. (Finagle's and Linkerd's balancers keep a like average
// with the same decay, for the same reasons.)
//
// That is too long where calls are many: one slow call, the first perhaps, must
// not keep an instance from its share. So whoever has not been called for a moment,
// while others are all the time, is called once, and what that takes replaces what
// was known. A failure, which says little about how long calls take, is believed
// for that moment in any case: one that hung is called again seconds after it is
// back, though its last calls took very long.
const (
	decay        = 10 * time.Second
	fadeAfter    = int32(decay / tick / 16) // busy instances are spared the computation
	minWeight    = 1.0 / 32
	failWeight   = 1.0 / 4
	failPenalty  = 4 // a failure counts as a call that took this many times longer
	leastPenalty = float32(10 * time.Millisecond)
	mostPenalty  = float32(5 * time.Second)
	believed     = int32(3 * time.Second / tick)  // what an instance did, where calls are many
	many         = int32(time.Second / 10 / tick) // between two of them, at most
)

// packCost packs a duration in nanoseconds, as a float32, with the time of its
// last change in ticks of the selector's clock, which may wrap.
func packCost(ns float32, at uint32) uint64 {
	return uint64(math.Float32bits(ns))<<32 | uint64(at)
}

func unpackCost(c uint64) (ns float32, at uint32) {
	return math.Float32frombits(uint32(c >> 32)), uint32(c)
}

// durations are what a call of each of two may be expected to take, in
// nanoseconds. They are 0 when they say nothing: a call of one has never ended,
// the last one failed and is long ago, or it is old though the other is called
// all the time.
func durations(a, b *Node, now uint32) (da, db float32) {
	ca, cb := a.cost.Load(), b.cost.Load()
	da, ata := unpackCost(ca)
	db, atb := unpackCost(cb)
	if da > 0 && db > 0 && now-ata <= uint32(fadeAfter) && now-atb <= uint32(fadeAfter) {
		return da, db // nearly always
	}
	ia, ib := int32(now-ata), int32(now-atb)
	if max(ia, ib) > believed && min(ia, ib) <= many {
		return 0, 0
	}
	if da, db = expected(da, ia), expected(db, ib); da == 0 || db == 0 {
		return 0, 0
	}
	return da, db
}

// expected is the duration of a cost that has not changed for that many ticks.
func expected(ns float32, idle int32) float32 {
	if ns < 0 {
		if idle > believed {
			return 0
		}
		ns = -ns
	}
	if idle > fadeAfter {
		ns *= faded(idle)
	}
	return ns
}

// average is the moving average of the durations of calls.
func (n *Node) Average() time.Duration {
	ns, _ := unpackCost(n.cost.Load())
	return time.Duration(math.Abs(float64(ns)))
}

// faded is what is left of a cost after so many ticks.
func faded(idle int32) float32 { return float32(math.Exp(-float64(idle) / float64(decay/tick))) }

// Learn takes in the duration of a call. Two calls that end at the same
// instant may lose one of the samples, never more.
func (n *Node) Learn(took time.Duration, failed bool, now uint32) {
	ns, at := unpackCost(n.cost.Load())
	idle := int32(now - at)
	if ns < 0 {
		ns = -ns
	}
	sample := float32(max(took, 1))
	weight := float32(minWeight)
	sign := float32(1)
	if failed {
		// A fast failure must not look like a fast instance.
		sample = max(sample, min(max(failPenalty*ns, leastPenalty), mostPenalty))
		weight, sign = failWeight, -1
	}
	switch {
	case ns == 0, sign > 0 && idle > believed:
		weight = 1
	case idle > fadeAfter/2: // before, it is less than minWeight
		weight = max(weight, 1-faded(idle))
	}
	n.cost.Store(packCost(sign*(ns+(sample-ns)*weight), now))
}
